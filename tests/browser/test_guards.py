"""Limits and budgets as the person meets them."""

from decimal import Decimal

import pytest
from playwright.sync_api import expect

from conversations.models import BudgetPlan, Message
from tests.browser.chat import Chat

pytestmark = pytest.mark.browser


def test_who_asks_too_often_is_told_when_to_go_on_and_keeps_the_text(chat: Chat, settings):
    settings.RATE_LIMITS = "user=1/minute"
    chat.ask("One")
    chat.expect_finished()
    chat.ask("Two")
    expect(chat.refusal).to_contain_text("Too many messages in a short time.")
    countdown = chat.refusal.locator("[data-until]")
    expect(countdown).to_have_text("· 57 s", timeout=15_000)
    expect(chat.field).to_have_value("Two")
    assert Message.objects.filter(role="user").count() == 1


def test_who_has_spent_the_budget_is_told_so_and_keeps_the_text(chat: Chat):
    BudgetPlan.objects.update_or_create(role=None, defaults={"session_usd": Decimal("0.00001")})
    chat.ask("One")
    expect(chat.refusal).to_contain_text("budget")
    expect(chat.field).to_have_value("One")
