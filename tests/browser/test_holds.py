"""A compliance officer places a hold, finds it again and lifts it."""

from collections.abc import Callable

import pytest
from django.urls import reverse
from playwright.sync_api import BrowserContext, Page, expect

from accounts.models import User
from conversations.models import Hold

pytestmark = pytest.mark.browser


@pytest.fixture
def page(new_context: Callable[..., BrowserContext], ravi: User) -> Page:
    return new_context(ravi).new_page()


def test_an_officer_places_a_hold_and_lifts_it(page: Page, olive: User):
    page.goto(reverse("admin:index"))
    page.get_by_role("link", name="Legal holds").first.click()
    page.get_by_role("link", name="Place a hold").click()
    page.get_by_label("Person").fill(olive.email)
    page.get_by_label("Matter").fill("Case 7")
    page.get_by_label("Reason").fill("A claim was announced.")
    page.get_by_role("button", name="Place the hold").click()
    page.get_by_role("link", name=olive.email).click()
    expect(page.get_by_text("A claim was announced.")).to_be_visible()
    page.get_by_role("link", name="Lift this hold").click()
    expect(page.get_by_text("It goes on for 30 days")).to_be_visible()
    page.get_by_label("Reason").fill("The claim was withdrawn.")
    page.get_by_role("button", name="Lift the hold").click()
    expect(page.get_by_text("The hold was lifted.")).to_be_visible()
    expect(page.get_by_text("The claim was withdrawn.")).to_be_visible()
    expect(page.get_by_role("link", name="Lift this hold")).to_have_count(0)
    assert Hold.objects.get().lifted_at
