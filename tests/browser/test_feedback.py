"""Rating a reply and saying how a conversation went, as people do it."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Locator, expect

from accounts.models import User
from benchmarks.provider_simulator import sim
from conversations.models import Conversation, Feedback, Satisfaction
from conversations.satisfaction import QUIET
from tests.browser.accessibility import findings
from tests.browser.chat import Chat

pytestmark = pytest.mark.browser

WORDS = "It says roses where I asked for tulips."


def thumb(chat: Chat, name: str) -> Locator:
    return chat.reply.get_by_role("button", name=f"{name} reply")


def pressed(chat: Chat, good: bool, bad: bool) -> None:
    for name, is_pressed in (("Good", good), ("Bad", bad)):
        expect(thumb(chat, name)).to_have_attribute("aria-pressed", str(is_pressed).lower())


def reasons(chat: Chat) -> Locator:
    return chat.reply.locator(".reasons")


def test_a_reply_is_rated_with_reason_and_words_changed_and_taken_back(chat: Chat):
    chat.ask("Hello")
    chat.expect_finished()
    thumb(chat, "Bad").click()
    pressed(chat, good=False, bad=True)
    expect(thumb(chat, "Bad")).to_be_focused()
    expect(chat.status).to_have_text("Rated as bad. You can say why below.")
    form = reasons(chat).get_by_role("form", name="Your feedback")
    expect(form.get_by_role("button", name="Send feedback")).to_be_in_viewport()
    form.get_by_label("Not correct").check()
    form.get_by_label("In your words").fill(WORDS)
    form.get_by_role("button", name="Send feedback").click()
    summary = chat.reply.locator("summary")
    expect(summary).to_have_text(re.compile("Your feedback: Not correct"))
    expect(summary).to_be_focused()
    expect(chat.status).to_have_text("Thank you. Your feedback is kept.")
    expect(form).to_be_hidden()
    chat.page.reload()
    pressed(chat, good=False, bad=True)
    chat.reply.locator("summary").click()
    expect(chat.reply.get_by_label("In your words")).to_have_value(WORDS)
    thumb(chat, "Good").click()
    pressed(chat, good=True, bad=False)
    expect(chat.reply.get_by_label("Well written")).to_be_visible()
    expect(chat.reply.get_by_label("Not correct")).to_have_count(0)
    thumb(chat, "Good").click()
    pressed(chat, good=False, bad=False)
    expect(reasons(chat)).to_have_count(0)
    expect(chat.status).to_have_text("Your rating is taken back.")
    chat.page.reload()
    pressed(chat, good=False, bad=False)
    assert not Feedback.objects.exists()


def test_it_works_by_keyboard_and_not_now_folds_it(chat: Chat):
    chat.ask("Hello")
    chat.expect_finished()
    thumb(chat, "Good").focus()
    chat.page.keyboard.press("Space")
    pressed(chat, good=True, bad=False)
    expect(reasons(chat)).to_have_attribute("open", "")
    chat.page.keyboard.press("Tab")
    expect(thumb(chat, "Bad")).to_be_focused()
    chat.page.keyboard.press("Tab")
    expect(chat.reply.locator("summary")).to_be_focused()
    chat.reply.get_by_role("link", name="Not now").press("Enter")
    expect(chat.reply.locator("summary")).to_be_focused()
    expect(reasons(chat)).not_to_have_attribute("open", "")
    assert Feedback.objects.get().rating == "up"


def test_a_thumb_among_earlier_replies_stays_under_the_pointer(chat: Chat):
    for number in range(1, 4):
        chat.ask(sim(text="A line.\n\n" * 6))
        chat.expect_finished(replies=number)
    bad = chat.replies.nth(1).get_by_role("button", name="Bad reply")
    chat.page.wait_for_timeout(100)  # for the page to stand still at its end
    bad.scroll_into_view_if_needed()
    box = bad.bounding_box()
    assert box
    bad.click()
    form = chat.replies.nth(1).get_by_role("form", name="Your feedback")
    expect(form.get_by_role("button", name="Send feedback")).to_be_in_viewport()
    chat.page.evaluate("new Promise(requestAnimationFrame)")
    now = bad.bounding_box()
    assert now
    assert abs(now["y"] - box["y"]) < 32


def test_the_next_question_goes_on_with_unsent_reasons_above(chat: Chat):
    chat.ask("Hello")
    chat.expect_finished()
    thumb(chat, "Bad").click()
    chat.reply.get_by_label("In your words").fill(WORDS)
    chat.ask("And then?")
    chat.expect_finished(replies=2)
    expect(chat.replies.first.get_by_label("In your words")).to_have_value(WORDS)


def test_a_rating_that_can_not_be_kept_says_so(chat: Chat):
    chat.ask("Hello")
    chat.expect_finished()
    chat.page.route("**/feedback", lambda route: route.abort())
    thumb(chat, "Bad").click()
    expect(chat.refusal).to_contain_text("Not kept: the server can’t be reached.")
    pressed(chat, good=False, bad=False)
    chat.page.unroute("**/feedback")
    chat.page.route("**/feedback", lambda route: route.fulfill(status=500, body="no"))
    thumb(chat, "Bad").click()
    expect(chat.refusal).to_contain_text("Your rating was not kept.")
    assert not Feedback.objects.exists()


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1280)])
def test_axe_finds_nothing_in_open_feedback(
    chat_of, olive: User, ended: Conversation, scheme: str, width: int
):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 3000}}
    chat = chat_of(olive, ended, **options)
    for name in ("Good", "Bad"):
        thumb(chat, name).click()
        expect(reasons(chat)).to_be_visible()
        expect(chat.page.locator("#satisfaction")).to_be_visible()
        assert findings(chat.page) == []
    assert chat.page.evaluate("document.scrollingElement.scrollWidth") <= width


# --- how a conversation went ------------------------------------------------------------------


@pytest.fixture
def ended(live, everything: Conversation) -> Conversation:
    """A session of three replies that ended a while ago."""
    everything.messages.filter(role="assistant").update(state="completed", fault="")
    everything.last_message_at = timezone.now() - QUIET - timedelta(minutes=1)
    everything.save()
    return everything


def card(chat: Chat) -> Locator:
    return chat.page.locator("form.satisfaction")


def test_the_first_screen_asks_once_takes_no_focus_and_is_answered(chat_of, olive: User, ended):
    chat = chat_of(olive)
    expect(card(chat)).to_contain_text(ended.title)
    expect(chat.field).to_be_focused()
    card(chat).get_by_role("button", name="4").click()
    expect(chat.page.locator("#satisfaction")).to_have_text("Thank you.")
    expect(chat.page.locator("#satisfaction")).to_be_focused()
    assert Satisfaction.objects.get().score == 4
    for page in ("/", ended):
        chat.open(page)
        expect(chat.field).to_be_visible()
        expect(card(chat)).to_have_count(0)


def test_what_is_asked_is_seen_on_a_phone(chat_of, olive: User, ended, settings):
    settings.PROVIDER_IS_DEMO = True  # the longest first screen
    chat = chat_of(olive, viewport={"width": 390, "height": 800})
    expect(chat.page.get_by_text("Show me a table")).to_be_attached()
    expect(chat.field).to_be_focused()
    expect(card(chat).get_by_role("button", name="5, well")).to_be_in_viewport(ratio=1)
    card(chat).get_by_role("button", name="No thanks").click()
    expect(chat.page.locator("#satisfaction")).to_have_text("You won’t be asked again for a month.")
    expect(chat.page.locator("#satisfaction")).to_be_in_viewport()
    chat.page.evaluate("new Promise(requestAnimationFrame)")
    expect(chat.page.get_by_text("Jump to latest")).to_be_hidden()


def test_what_is_asked_stands_in_line_with_the_first_screen(chat_of, olive: User, ended):
    chat = chat_of(olive, viewport={"width": 1280, "height": 800})
    asked = card(chat).bounding_box()
    title = chat.page.get_by_role("heading", name="What are you working on?").bounding_box()
    assert asked
    assert title
    assert asked["x"] == title["x"]


def test_its_page_asks_and_the_next_question_takes_the_place_of_the_card(
    chat_of, olive: User, ended
):
    chat = chat_of(olive, ended)
    expect(card(chat)).to_contain_text("How did this conversation go?")
    chat.ask(sim(text=None, tokens=200, tokens_per_second=100))
    chat.expect_writing(characters=5)
    expect(card(chat)).to_have_count(0)
    chat.stop()


def test_no_thanks_is_one_press_of_a_key(chat_of, olive: User, ended):
    chat = chat_of(olive)
    card(chat).get_by_role("button", name="5, well").focus()
    chat.page.keyboard.press("Tab")
    chat.page.keyboard.press("Enter")
    expect(chat.page.locator("#satisfaction")).to_have_text("You won’t be asked again for a month.")
    assert Satisfaction.objects.get().score is None


# --- without a script -------------------------------------------------------------------------


def test_all_of_it_works_without_javascript(chat_of, olive: User, ended):
    chat = chat_of(olive, ended, java_script_enabled=False)
    card(chat).get_by_role("button", name="5, well").click()
    expect(card(chat)).to_have_count(0)
    first = chat.replies.first
    first.get_by_role("button", name="Bad reply").click()
    expect(first.locator(".tools")).to_be_in_viewport()
    first.get_by_label("Too long").check()
    first.get_by_label("In your words").fill(WORDS)
    first.get_by_role("button", name="Send feedback").click()
    expect(first.locator("summary")).to_have_text(re.compile("Your feedback: Too long"))
    expect(first.locator("summary")).to_be_in_viewport()
    expect(first.get_by_label("In your words")).to_be_hidden()
    assert Feedback.objects.get().comment == WORDS
    first.get_by_role("button", name="Bad reply").click()
    expect(first.locator(".reasons")).to_have_count(0)
    assert not Feedback.objects.exists()
    assert Satisfaction.objects.get().score == 5
