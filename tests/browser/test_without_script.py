"""The same pages where JavaScript is off: forms, and the reply on the page that comes back."""

import pytest
from playwright.sync_api import expect

from accounts.models import User
from benchmarks.provider_simulator import sim
from conversations.models import Message
from tests.browser.chat import Chat
from tests.conftest import PASSWORD

pytestmark = pytest.mark.browser


@pytest.fixture
def plain(chat_of, olive: User) -> Chat:
    """Olive's first screen in a browser without JavaScript."""
    return chat_of(olive, java_script_enabled=False)


def send(chat: Chat, text: str) -> None:
    chat.field.fill(text)
    chat.page.get_by_role("button", name="Send").click()


def test_somebody_signs_in_asks_and_goes_on(new_context, olive: User):
    chat = Chat(new_context(java_script_enabled=False).new_page()).open()
    chat.page.get_by_label("Email").fill(olive.email)
    chat.page.get_by_label("Password").fill(PASSWORD)
    chat.page.get_by_role("button", name="Sign in").click()
    send(chat, "Hello")
    expect(chat.prose).to_have_text("A simulated reply.")
    send(chat, "And again")
    chat.expect_finished(replies=2)
    expect(chat.field).to_have_value("")
    expect(chat.questions).to_have_text(["Hello", "And again"])


def test_a_refusal_comes_with_the_text_that_was_not_sent(plain: Chat):
    send(plain, "é" * 40_000)
    expect(plain.refusal).to_contain_text("The message is too long.")
    expect(plain.field).to_have_value("é" * 40_000)
    assert not Message.objects.exists()


def test_a_failed_reply_is_tried_again(plain: Chat):
    send(plain, sim(status=500, times=1, then={"text": "All is well without a script."}))
    expect(plain.notice).to_contain_text("The provider reported an error of its own.")
    plain.page.get_by_role("button", name="Try again").click()
    expect(plain.prose).to_have_text("All is well without a script.")


def test_a_reply_is_stopped(chat: Chat, chat_of, olive: User):
    chat.ask(sim(text=None, tokens=100_000, tokens_per_second=40))
    chat.expect_writing()
    plain = chat_of(olive, chat.page.evaluate("location.pathname"), java_script_enabled=False)
    plain.stop()
    expect(plain.notice).to_contain_text("Stopped.")
    chat.expect_finished()


def test_the_sidebar_and_thinking_open(chat_of, olive: User):
    narrow = {"width": 390, "height": 800}
    plain = chat_of(olive, java_script_enabled=False, viewport=narrow)
    send(plain, sim(reasoning=20))
    plain.page.get_by_text("Thinking", exact=True).click()
    expect(plain.page.get_by_role("group", name="Thinking")).to_be_visible()
    plain.page.get_by_role("button", name="Conversations").click()
    expect(plain.page.get_by_role("link", name="New conversation").first).to_be_visible()
