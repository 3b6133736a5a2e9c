"""The way of a person who has never been here: from the address to the first reply."""

import re

import pytest
from playwright.sync_api import expect

from accounts.models import User
from benchmarks.provider_simulator import TITLE, sim
from conversations.models import Conversation
from tests.browser.chat import Chat
from tests.conftest import PASSWORD

pytestmark = pytest.mark.browser


def test_somebody_signs_in_asks_and_a_reply_streams_in(new_context, olive: User):
    chat = Chat(new_context().new_page()).open()
    page = chat.page
    page.get_by_label("Email").fill(olive.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()

    chat.ask("Tell me something.\n" + sim(text=None, tokens=150, tokens_per_second=60))
    expect(chat.questions).to_contain_text("Tell me something.")
    chat.expect_writing()
    chat.expect_finished()

    conversation = Conversation.objects.get(owner=olive)
    expect(chat.prose).to_contain_text("no mistakes of its own")
    expect(chat.title).to_have_text(TITLE)
    expect(page).to_have_title(f"{TITLE} · Parley")
    expect(page).to_have_url(re.compile(re.escape(conversation.get_absolute_url())))
    listed = page.locator(f"#item-{conversation.pk}")
    expect(listed).to_have_text(TITLE)
    expect(listed.locator("a")).to_have_attribute("aria-current", "page")


def test_the_conversation_goes_on_and_back_leads_to_the_first_screen(chat: Chat):
    chat.ask("One")
    chat.expect_finished()
    chat.ask("Two")
    chat.expect_finished(replies=2)
    expect(chat.questions).to_have_text(["One", "Two"])
    chat.page.go_back()
    expect(chat.page.get_by_text("What are you working on?")).to_be_visible()
    chat.page.go_forward()
    expect(chat.questions).to_have_text(["One", "Two"])
    chat.ask("Three")
    chat.expect_finished(replies=3)


def test_demo_replies_are_labelled_and_a_starter_fills_the_field(chat_of, olive, settings):
    settings.PROVIDER_IS_DEMO = True
    chat = chat_of(olive)
    expect(chat.page.get_by_text("Demo replies: no AI is connected.")).to_be_visible()
    expect(chat.page.get_by_text("Replies come from an AI and can be wrong")).to_be_visible()
    chat.page.get_by_role("link", name="Show me code").click()
    expect(chat.field).to_have_value("Show me code")
    expect(chat.field).to_be_focused()


def test_a_real_provider_is_not_labelled_as_a_demo(chat: Chat):
    expect(chat.page.get_by_text("What are you working on?")).to_be_visible()
    expect(chat.page.get_by_text("Demo replies")).to_have_count(0)
