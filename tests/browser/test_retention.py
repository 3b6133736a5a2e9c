"""How long things are kept, as people meet it: a policy is changed, a chat is temporary."""

from datetime import timedelta

import pytest
from django.db.models import F
from playwright.sync_api import expect

from accounts.models import User
from conversations.models import Conversation, RetentionPolicy
from tests.browser.chat import Chat

pytestmark = pytest.mark.browser


def test_officer_previews_a_shorter_period_and_saves_it(
    new_context, ravi: User, everything: Conversation
):
    everything.messages.update(created_at=F("created_at") - timedelta(days=12))
    page = new_context(ravi).new_page()
    page.goto("/admin/conversations/retentionpolicy/")
    page.get_by_role("link", name="Standard").click()
    page.get_by_label("Keep messages for").fill("10")
    page.get_by_label("Why").fill("We need less.")
    page.get_by_role("button", name="Preview the change").click()
    expect(page.get_by_text("6 messages would be deleted sooner")).to_be_visible()
    assert RetentionPolicy.objects.get(pk=1).versions.count() == 1
    page.get_by_label("Keep messages for").fill("20")
    page.get_by_role("button", name="Preview again").click()
    expect(page.get_by_text("0 messages would be deleted sooner")).to_be_visible()
    page.get_by_role("button", name="Save: keep 20 days").click()
    expect(page.get_by_text("Standard: 20 days. It takes effect on")).to_be_visible()
    assert RetentionPolicy.objects.get(pk=1).versions.latest("number").hours == 480
    page.goto("/admin/conversations/purgerun/")
    plot = page.locator("figure.plot img")
    expect(plot).to_be_visible()
    assert plot.evaluate("image => image.naturalWidth") > 0


def test_temporary_chat_is_answered_and_in_no_list(chat: Chat):
    chat.page.get_by_role("link", name="Temporary chat").click()
    expect(chat.page.get_by_text("A temporary chat.")).to_be_visible()
    chat.ask("A secret plan?")
    chat.expect_finished()
    assert Conversation.objects.get().is_temporary
    chat.page.reload()
    expect(chat.page.get_by_text("this chat is in no list")).to_be_visible()
    expect(chat.page.locator("#sidebar .items a")).to_have_count(0)


def test_temporary_chat_needs_no_script(new_context, olive: User):
    page = new_context(olive, java_script_enabled=False).new_page()
    page.goto("/")
    page.get_by_role("link", name="Temporary chat").click()
    page.get_by_label("Your message").fill("A secret plan?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("A simulated reply.")).to_be_visible()
    assert Conversation.objects.get().is_temporary
    expect(page.locator("#sidebar .items a")).to_have_count(0)
