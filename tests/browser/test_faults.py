"""What a person reads when the provider fails, and what helps."""

import socket

import pytest
from playwright.sync_api import expect

from benchmarks.provider_simulator import sim
from tests.browser.chat import Chat, last_reply

pytestmark = pytest.mark.browser

WELL = "All is well again."
BEFORE = {
    "error": ({"status": 500}, "The provider reported an error of its own."),
    "busy": ({"status": 429, "retry_after": 1}, "The provider is busy."),
    "garbage": ({"garbage_after": 0}, "The provider sent something unreadable."),
    "empty": ({"empty": True}, "The provider sent an empty reply."),
    "no answer": ({"reset_after": -1}, "The provider does not answer."),
}
IN_THE_MIDDLE = {
    "reset": ({"reset_after": 8}, "The connection to the provider broke."),
    "stall": ({"stall_after": 8}, "The provider fell silent."),
    "garbage": ({"garbage_after": 8}, "The provider sent something unreadable."),
}


@pytest.mark.parametrize(("fault", "sentence"), BEFORE.values(), ids=BEFORE)
def test_a_failure_before_the_first_word_is_told_and_tried_again(chat: Chat, fault, sentence):
    question = "Are you there?\n" + sim(**fault, times=1, then={"text": WELL})
    chat.ask(question)
    expect(chat.notice).to_contain_text(sentence)
    expect(chat.notice).to_contain_text("Your question is saved.")
    expect(chat.status).to_have_text(sentence)
    expect(chat.questions).to_contain_text("Are you there?")
    chat.notice.get_by_role("button", name="Try again").click()
    expect(chat.prose).to_have_text(WELL)
    chat.expect_finished()
    expect(chat.notice).to_have_count(0)


@pytest.mark.parametrize(("fault", "sentence"), IN_THE_MIDDLE.values(), ids=IN_THE_MIDDLE)
def test_a_failure_in_the_middle_keeps_the_text_and_continues(
    chat: Chat, settings, fault, sentence
):
    settings.PROVIDER_BETWEEN_TOKENS_SECONDS = 0.4
    chat.ask(sim(text="One two three four five six seven eight nine ten.", **fault))
    expect(chat.notice).to_contain_text(sentence)
    expect(chat.prose).to_contain_text("One two three")
    kept = last_reply().content
    chat.notice.get_by_role("button", name="Continue").click()
    expect(chat.prose).to_contain_text("A simulated reply.")
    chat.expect_finished()
    expect(chat.notice).to_have_count(0)
    assert last_reply().content == kept + "A simulated reply."


def test_a_provider_that_is_away_is_told_and_reached_when_it_is_back(
    chat: Chat, simulator: str, settings
):
    settings.OPENAI_BASE_URL = f"http://127.0.0.1:{_closed_port()}/v1"
    chat.ask("Are you there?")
    expect(chat.notice).to_contain_text("The provider does not answer.")
    settings.OPENAI_BASE_URL = simulator
    chat.page.reload()
    chat.notice.get_by_role("button", name="Try again").click()
    expect(chat.prose).to_have_text("A simulated reply.")
    chat.expect_finished()


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_reply_cut_by_its_length_offers_to_continue(chat: Chat):
    chat.ask(sim(text="The first half and", finish_reason="length"))
    expect(chat.notice).to_contain_text("The reply reached its length limit.")
    expect(chat.status).to_have_text("Reply finished.")
    chat.notice.get_by_role("button", name="Continue").click()
    expect(chat.prose).to_have_text("The first half andA simulated reply.")
    chat.expect_finished()


def test_a_reply_ended_by_the_content_filter_says_so(chat: Chat):
    chat.ask(sim(text="I would rather", finish_reason="content_filter"))
    expect(chat.notice).to_contain_text("The provider's content filter ended this reply.")
    expect(chat.notice.get_by_role("button")).to_have_count(0)
    expect(chat.prose).to_have_text("I would rather")


def test_after_a_failure_the_conversation_goes_on(chat: Chat):
    chat.ask(sim(status=500))
    expect(chat.notice.get_by_role("button", name="Try again")).to_be_visible()
    chat.ask("Something else.")
    chat.expect_finished(replies=2)
    expect(chat.prose).to_have_text("A simulated reply.")
