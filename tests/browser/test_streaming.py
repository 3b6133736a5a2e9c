"""A reply on its way to its readers: reloaded, hidden, in two tabs, without a line, stopped."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from benchmarks.provider_simulator import forget_requests, recorded_requests, sample, sim
from conversations.reply.markdown import render
from tests.browser.chat import Chat, last_reply

pytestmark = pytest.mark.browser

TOKENS = 420
MARKDOWN = sim(text=None, kind="markdown", tokens=TOKENS, tokens_per_second=140)
ENDLESS = sim(text=None, tokens=100_000, tokens_per_second=40)

# A tab that says it is hidden, as browsers do when another one comes to the front.
HIDEABLE = """
let away = false;
Object.defineProperty(document, "hidden", { get: () => away });
Object.defineProperty(document, "visibilityState", { get: () => away ? "hidden" : "visible" });
window.setHidden = (hidden) => {
  away = hidden;
  document.dispatchEvent(new Event("visibilitychange"));
};
"""
# Where things stand, at every painted frame.
WATCH_LAYOUT = """
() => {
  window.layouts = [];
  const look = () => {
    const said = document.querySelector(".turn.reply:last-of-type .said");
    const blocks = said ? [...said.querySelectorAll(".prose > *, .prose > .open > *")] : [];
    const evidence = said && said.querySelector(".evidence").getBoundingClientRect();
    if (blocks.length) layouts.push({
      busy: said.hasAttribute("aria-busy"),
      text: said.querySelector(".prose").textContent.trimEnd(),
      places: [document.documentElement.scrollHeight, scrollY, evidence.top, evidence.height,
        ...blocks.filter((b) => b.offsetHeight).map((b) => b.getBoundingClientRect().bottom)],
    });
    requestAnimationFrame(look);
  };
  look();
}
"""


def expect_whole_and_exact(chat: Chat, source: str) -> None:
    """What was streamed is what the provider sent, what a fresh page shows, and what is stored."""
    streamed = chat.prose.inner_html()
    fresh = Chat(chat.page.context.new_page()).open(chat.page.evaluate("location.pathname"))
    stored = last_reply().content
    assert stored == source
    assert streamed == fresh.prose.inner_html() == chat.as_parsed(render(stored))


@pytest.mark.parametrize("kind", ["markdown", "unicode"])
def test_what_was_streamed_is_what_a_fresh_page_shows(chat: Chat, kind: str):
    control = sim(text=None, kind=kind, tokens=240, tokens_per_second=240, split=7)
    chat.ask(control)
    chat.expect_writing()
    chat.expect_finished()
    expect_whole_and_exact(chat, "".join(sample(kind, 240)))


def test_the_line_opens_although_a_script_comes_late(new_context, olive):
    page = new_context(olive).new_page()

    def deliver_late(route: Route) -> None:
        page.evaluate("new Promise((done) => setTimeout(done, 100))")
        route.continue_()

    page.route("**/hx-ws.*", deliver_late)
    chat = Chat(page).open()
    chat.ask("Hello")
    chat.expect_finished()


def test_a_reload_in_mid_reply_goes_on_at_the_exact_character(chat: Chat):
    tokens = 1500  # long enough for three reloads on a busy machine
    chat.ask(sim(text=None, kind="markdown", tokens=tokens, tokens_per_second=140))
    for _ in range(3):
        chat.expect_writing()
        chat.page.reload()
    chat.expect_writing()
    chat.expect_finished()
    expect_whole_and_exact(chat, "".join(sample("markdown", tokens)))


def test_a_hidden_tab_catches_up_when_it_comes_back(new_context, olive):
    context = new_context(olive)
    context.add_init_script(HIDEABLE)
    chat = Chat(context.new_page())
    with chat.page.expect_websocket() as opened:
        chat.open()
    chat.ask(MARKDOWN)
    chat.expect_writing()
    with opened.value.expect_event("close"):
        chat.page.evaluate("setHidden(true)")
    seen_before = len(chat.prose.inner_text())
    elsewhere = Chat(context.new_page()).open(chat.page.evaluate("location.pathname"))
    elsewhere.expect_writing(characters=seen_before + 200)
    expect(chat.line).to_have_count(0)
    with chat.page.expect_websocket():
        chat.page.evaluate("setHidden(false)")
    chat.expect_finished()
    expect_whole_and_exact(chat, "".join(sample("markdown", TOKENS)))


def test_a_lost_line_is_told_and_nothing_is_lost(chat: Chat):
    sockets = []
    chat.page.route_web_socket("**/ws/**", lambda ws: (sockets.append(ws), ws.connect_to_server()))
    chat.open()
    chat.ask(MARKDOWN)
    chat.expect_writing()
    chat.page.context.set_offline(True)
    sockets[-1].close(code=1012)
    expect(chat.line).to_contain_text("The line is interrupted.")
    expect(chat.line).to_contain_text("nothing is lost")
    chat.page.context.set_offline(False)
    expect(chat.line).to_have_count(0)
    chat.expect_finished()
    expect_whole_and_exact(chat, "".join(sample("markdown", TOKENS)))


def test_a_turn_begun_in_one_tab_appears_in_the_other_and_is_stopped_there(
    chat: Chat, second_tab: Callable[[], Chat]
):
    chat.ask("First")
    chat.expect_finished()
    other = second_tab()
    chat.ask("Go on for ever.\n" + ENDLESS)
    expect(other.questions.last).to_contain_text("Go on for ever.")
    other.expect_writing()
    other.stop()
    for tab in (chat, other):
        tab.expect_finished(replies=2)
        expect(tab.notice).to_contain_text("Stopped.")
    assert chat.prose.inner_html() == other.prose.inner_html()


def test_stop_stops_the_provider_and_continue_goes_on_behind_the_text(chat: Chat, simulator: str):
    forget_requests(simulator)
    chat.ask(ENDLESS)
    chat.expect_writing()
    chat.stop()
    chat.expect_finished()
    expect(chat.status).to_have_text("Stopped.")
    (asked,) = recorded_requests(simulator)
    assert asked["outcome"] == "cancelled"
    kept = last_reply().content
    assert kept == "".join(sample("prose", TOKENS * 10))[: len(kept)]

    chat.page.get_by_role("button", name="Continue").click()
    expect(chat.prose).to_contain_text("A simulated reply.")
    chat.expect_finished()
    assert last_reply().content == kept + "A simulated reply."
    assert recorded_requests(simulator)[1]["messages"][-2]["content"] == kept


def test_thinking_is_closed_until_somebody_opens_it_and_stays_as_it_was_left(chat: Chat):
    chat.ask(sim(text=None, reasoning=60, tokens=60, tokens_per_second=60))
    thinking = chat.reply.locator("details.thinking")
    expect(thinking).to_be_visible()
    assert thinking.get_attribute("open") is None
    expect(chat.prose).to_be_empty()
    thinking.locator("summary").click()
    expect(thinking.get_by_role("group", name="Thinking")).to_contain_text("no opinion")
    chat.expect_finished()
    assert thinking.get_attribute("open") is not None
    expect(thinking.get_by_role("group")).to_have_text("".join(sample("prose", 60)).strip())
    chat.page.reload()
    assert thinking.get_attribute("open") is None


@pytest.mark.parametrize("width", [1280, 390])
def test_the_end_of_a_reply_moves_nothing(chat_of, olive, width: int):
    chat = chat_of(olive, viewport={"width": width, "height": 800})
    chat.page.evaluate(WATCH_LAYOUT)
    # The last tokens stand there for a while before the reply ends.
    chat.ask(sim(text=None, kind="markdown", tokens=330, tokens_per_second=300, chunk=165))
    chat.expect_finished()
    assert _moved_at_the_end(chat.page) == []


def _moved_at_the_end(page: Page) -> list[tuple[float, float]]:
    """What stood elsewhere in the first frame after the end than in the last one before."""
    layouts = page.evaluate("new Promise(r => requestAnimationFrame(() => r(layouts)))")
    end = next(i for i, layout in enumerate(layouts) if not layout["busy"])
    before, after = layouts[end - 1], layouts[-1]
    assert before["busy"]
    assert before["text"] == after["text"], "the end brought text, so this shows nothing"
    pairs = zip(before["places"], after["places"], strict=True)
    return [(a, b) for a, b in pairs if abs(a - b) > 0.5]


def test_the_page_follows_only_a_reader_who_is_at_the_end(chat: Chat):
    chat.ask(sim(text=None, kind="markdown", tokens=100_000, tokens_per_second=300))
    latest = chat.page.get_by_role("link", name="Jump to latest")
    chat.expect_writing(characters=2_000)
    expect(latest).to_be_hidden()
    chat.page.mouse.move(600, 300)
    chat.page.mouse.wheel(0, -600)
    expect(latest).to_be_visible()
    left_at = chat.page.evaluate("scrollY")
    chat.expect_writing(characters=len(chat.prose.inner_text()) + 500)
    assert chat.page.evaluate("scrollY") == left_at
    latest.click()
    expect(latest).to_be_hidden()
    chat.stop()
    chat.expect_finished()
