"""Writing and sending: nothing goes twice, nothing that was written is ever lost."""

from collections.abc import Callable

import pytest
from django.conf import settings
from django.contrib.sessions.backends.cached_db import SessionStore
from playwright.sync_api import Route, expect

from benchmarks.provider_simulator import sim
from conversations.models import Message
from tests.browser.chat import Chat
from tests.conftest import PASSWORD

pytestmark = pytest.mark.browser

SLOW = sim(text=None, tokens=100_000, tokens_per_second=20)


def questions() -> list[str]:
    found = Message.objects.filter(role=Message.Role.USER).order_by("created_at")
    return [question.content for question in found]


def test_enter_sends_and_shift_enter_makes_a_line(chat: Chat):
    expect(chat.field).to_be_focused()
    chat.field.press_sequentially("One")
    chat.field.press("Shift+Enter")
    chat.field.press_sequentially("Two")
    chat.field.press("Enter")
    chat.expect_finished()
    expect(chat.field).to_have_value("")
    expect(chat.field).to_be_focused()
    assert questions() == ["One\nTwo"]


def test_an_empty_message_is_not_sent(chat: Chat):
    chat.ask("  \n ")
    chat.act.click()
    chat.ask("Something")
    chat.expect_finished()
    assert questions() == ["Something"]


def test_a_double_click_sends_once_and_stops_nothing(chat: Chat):
    question = "Only once\n" + sim(text=None, tokens=60, tokens_per_second=60)
    chat.field.fill(question)
    place = chat.act.bounding_box()
    middle = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    chat.page.mouse.click(*middle)
    expect(chat.act).to_have_accessible_name("Stop the reply")
    # Send and Stop share one place, so the second half of a slow double click meets Stop.
    chat.page.mouse.move(*middle)
    chat.page.mouse.down(click_count=2)
    chat.page.mouse.up(click_count=2)
    chat.expect_finished()
    expect(chat.notice).to_have_count(0)
    assert questions() == [question]


def test_the_draft_survives_a_reload_and_goes_when_it_was_sent(chat: Chat):
    chat.field.fill("Half a thought")
    chat.page.reload()
    expect(chat.field).to_have_value("Half a thought")
    chat.act.click()
    chat.expect_finished()
    chat.page.reload()
    expect(chat.field).to_have_value("")
    chat.open()
    expect(chat.field).to_have_value("")


def test_a_question_that_could_not_be_sent_stays_and_is_sent_again(chat: Chat):
    chat.page.route("**/messages", lambda route: route.abort())
    chat.ask("Important words")
    expect(chat.refusal).to_contain_text("Not sent: the server can’t be reached.")
    expect(chat.field).to_have_value("Important words")
    chat.page.unroute_all()
    chat.field.press("Enter")
    chat.expect_finished()
    expect(chat.refusal).to_be_empty()
    assert questions() == ["Important words"]


def test_a_question_whose_answer_got_lost_is_not_asked_twice(chat: Chat):
    def deliver_but_lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    chat.page.route("**/messages", deliver_but_lose_the_answer, times=1)
    chat.ask("Important words")
    expect(chat.refusal).to_contain_text("Sending it again is safe.")
    chat.expect_finished()  # it had arrived, and the log brought the reply
    chat.field.press("Enter")
    expect(chat.field).to_have_value("")
    expect(chat.refusal).to_be_empty()
    assert questions() == ["Important words"]


def test_a_server_that_fails_keeps_the_text(chat: Chat):
    chat.page.route("**/messages", lambda route: route.fulfill(status=502, body="<h1>Bad</h1>"))
    chat.ask("Important words")
    expect(chat.refusal).to_contain_text("The server could not take your message.")
    expect(chat.field).to_have_value("Important words")


def test_two_tabs_posting_at_once_and_the_second_is_told(
    chat: Chat, second_tab: Callable[[], Chat]
):
    chat.ask("First")
    chat.expect_finished()
    other = second_tab()
    chat.field.fill("From the one\n" + SLOW)
    other.field.fill("From the other\n" + SLOW)
    chat.field.press("Enter")
    other.field.press("Enter")
    expect(chat.replies).to_have_count(2)
    expect(other.replies).to_have_count(2)
    refused = next((tab for tab in (chat, other) if tab.field.input_value()), None)
    assert refused
    expect(refused.refusal).to_contain_text("A reply is still being written.")
    assert len(questions()) == 2


def test_a_message_beyond_the_limit_is_refused_and_kept(chat: Chat):
    words = "é" * 40_000  # 80 KB in UTF-8, though fewer characters than the field allows
    chat.ask(words)
    expect(chat.refusal).to_contain_text("The message is too long.")
    expect(chat.refusal).to_contain_text("It has 79 KB; 64 KB is the most.")
    expect(chat.field).to_have_value(words)
    assert questions() == []


def test_a_message_just_within_the_limit_arrives(chat: Chat):
    words = "word " * 13_000
    chat.ask(words)
    chat.expect_finished()
    assert questions() == [words.strip()]


def test_when_the_session_ends_the_page_says_so_and_the_draft_is_there_after_sign_in(
    chat: Chat, olive
):
    chat.ask("First")
    chat.expect_finished()
    chat.field.fill("A thought in the making")
    cookies = {cookie["name"]: cookie["value"] for cookie in chat.page.context.cookies()}
    SessionStore(cookies[settings.SESSION_COOKIE_NAME]).delete()
    expect(chat.line).to_contain_text("You are signed out.")
    expect(chat.field).to_have_value("A thought in the making")
    chat.line.get_by_role("link", name="Sign in").click()
    chat.page.get_by_label("Email").fill(olive.email)
    chat.page.get_by_label("Password").fill(PASSWORD)
    chat.page.get_by_role("button", name="Sign in").click()
    expect(chat.questions).to_have_text(["First"])
    expect(chat.field).to_have_value("A thought in the making")
