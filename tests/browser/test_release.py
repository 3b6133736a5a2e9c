"""A prompt from the first word to everybody and back, as editor, publisher and people see it."""

import re
from collections.abc import Callable, Sequence

import pytest
from django.urls import reverse
from playwright.sync_api import Locator, Page, expect

from accounts.models import User
from audit.models import Entry
from conversations.models import Message
from prompts.models import Release
from prompts.release.arms import is_drawn
from prompts.tasks import watch_releases
from tests.browser.chat import Chat, last_reply
from tests.browser.workplace import play
from tests.conftest import LiveServer

pytestmark = pytest.mark.browser

TENTH, HALF = 1_000, 5_000
LIST = "admin:prompts_prompttemplate_changelist"


@pytest.fixture
def members(live: LiveServer, make_user) -> list[User]:
    """So many that a tenth of them is somebody."""
    return [make_user(f"person{number}", "member") for number in range(60)]


def drawn(people: Sequence[User], share: int) -> list[User]:
    """Those of the people whom the release has drawn at this share."""
    release = Release.objects.get()
    return [one for one in people if is_drawn(bytes(release.salt), one.pk, share)]


@pytest.fixture
def asks(chat_of) -> Callable[[User], Message]:
    """Let somebody begin a conversation with the summariser; return the reply."""

    def ask(person: User) -> Message:
        chat: Chat = chat_of(person)
        chat.page.get_by_label("What it is for").select_option("Summariser")
        chat.ask("Sum this up.")
        chat.expect_finished()
        chat.page.close()
        return last_reply()

    return ask


@pytest.fixture
def publisher_page(new_context, publisher: User) -> Page:
    return new_context(publisher).new_page()


def write(page: Page, content: str, note: str) -> None:
    page.goto(reverse(LIST))
    page.get_by_role("link", name="Summariser").click()
    page.get_by_role("button", name="New version from v1").click()
    page.get_by_label("What the AI is told").fill(content)
    play(page, "Hello")
    columns = page.locator(".trial-reply")
    expect(columns.locator(".said")).to_have_text(["A simulated reply."] * 2)
    measured = re.compile(r"Tokens.*in .*out.*first word after.*in all.*Cost.*\$\d", re.DOTALL)
    expect(columns.locator(".evidence")).to_have_text([measured] * 2)
    page.get_by_label("What changes, and why").fill(note)
    page.get_by_role("button", name="Save the draft").click()
    expect(page.get_by_text("The draft is saved.")).to_be_visible()
    expect(page.get_by_role("link", name="Publish…")).to_have_count(0)


def publish_for_release(page: Page) -> None:
    page.goto(reverse(LIST))
    page.get_by_role("link", name="Summariser").click()
    page.get_by_role("link", name="v2", exact=True).click()
    page.get_by_role("link", name="Publish…").click()
    expect(page.locator(".diff")).to_contain_text("Three sentences at most.")
    expect(page.get_by_label("Nobody yet")).to_be_checked()
    page.get_by_label("Why").fill("Agreed")
    page.get_by_role("button", name="Publish v2").click()
    expect(page.get_by_text("Waits for its release")).to_be_visible()


def begin(page: Page, steps: Sequence[tuple[str, str, str]]) -> None:
    """Begin a release by steps of a share, people and turns."""
    page.get_by_role("link", name="v2", exact=True).click()
    page.get_by_role("link", name="Release step by step…").click()
    rows = page.locator("#release tbody tr")
    for number in range(rows.count()):
        share, people, turns = steps[number] if number < len(steps) else ("", "0", "0")
        fields = rows.nth(number).locator("input:not([type=hidden])")
        for at, value in enumerate((share, people, turns, "0")):
            fields.nth(at).fill(value)
    page.get_by_label("Why").fill("First look")
    page.get_by_role("button", name="Begin the release of v2").click()
    expect(page.get_by_text("Canary 10\N{NO-BREAK SPACE}%")).to_be_visible()


def decide(page: Page, name: str | re.Pattern[str], note: str) -> None:
    page.get_by_label("Why").fill(note)
    page.get_by_role("button", name=name).click()


def guard(page: Page, metric: str) -> Locator:
    return page.get_by_role("region", name="Table of guards").get_by_role("row", name=metric)


def test_a_release_from_the_first_word_to_everybody_and_back(
    new_context, make_user, members, publisher_page: Page, asks
):
    iris = make_user("iris", "prompt_editor")
    write(new_context(iris).new_page(), "Sum it up. Three sentences at most.", "Shorter")
    page = publisher_page
    publish_for_release(page)

    begin(page, [("10", "1", "1"), ("50", "0", "0")])
    expect(page.get_by_role("button", name="Raise to 50")).to_be_disabled()
    expect(page.locator("#decide")).to_contain_text("opens after 1 more person and 1 more turn")
    inside = drawn(members, TENTH)
    outside = [one for one in members if one not in inside]
    joins = drawn(outside, HALF)[0]
    stays = next(one for one in outside if one not in drawn(outside, HALF))
    seen = [(reply.prompt_version.number, reply.arm) for reply in map(asks, (inside[0], stays))]
    assert seen == [(2, "canary"), (1, "production")]
    watch_releases()

    page.reload()
    beside = page.get_by_role("region", name="Canary beside production", exact=True).last
    expect(beside.get_by_role("columnheader")).to_have_text(
        ["Per turn", "v1, production", "v2, canary", re.compile("Difference")]
    )
    expect(page.get_by_text("Canary: 1 turns of 1 person. Production: 1 turns")).to_be_visible()
    expect(guard(page, "Turns that failed")).to_contain_text("waiting")
    expect(page.get_by_role("row", name="10\N{NO-BREAK SPACE}% now")).to_contain_text("1 of 1")
    decide(page, "Raise to 50", "As good, and shorter")
    expect(page.get_by_text("The release went on to 50\N{NO-BREAK SPACE}%.")).to_be_visible()
    seen = [(reply.prompt_version.number, reply.arm) for reply in map(asks, (joins, stays))]
    assert seen == [(2, "canary"), (1, "production")]

    decide(page, "Put v2 into production", "For all")
    expect(page.get_by_text("In production: v2 answers everybody.")).to_be_visible()
    assert asks(stays).prompt_version.number == 2

    page.goto(reverse(LIST))
    page.get_by_role("link", name="Summariser").click()
    page.get_by_role("link", name="v1", exact=True).click()
    page.get_by_role("link", name="Make live again…").click()
    decide(page, "Restore v1", "Customers miss the details")
    expect(page.get_by_text("Done: Restore v1.")).to_be_visible()
    assert asks(joins).prompt_version.number == 1
    events = Entry.objects.order_by("pk").values_list("event", flat=True)
    decided = re.compile(r"release\..*|prompt\.(published|restored)")
    assert [event for event in events if decided.fullmatch(event)] == [
        "prompt.published",
        *("release.began", "release.step_offered", "release.advanced"),
        *("release.finished", "prompt.restored"),
    ]


def test_a_rollback_is_one_click_for_the_people_who_have_it(
    new_context, make_user, members, publisher_page: Page, chat_of
):
    iris = make_user("iris", "prompt_editor")
    write(new_context(iris).new_page(), "Sum it up. Three sentences at most.", "Shorter")
    page = publisher_page
    publish_for_release(page)
    begin(page, [("10", "0", "0")])
    chat: Chat = chat_of(drawn(members, TENTH)[0])
    chat.page.get_by_label("What it is for").select_option("Summariser")
    chat.ask("Sum this up.")
    chat.expect_finished()
    assert last_reply().prompt_version.number == 2

    decide(page, "Roll back to v1", "Too short")
    expect(page.get_by_text("Rolled back: v1 answers everybody again.")).to_be_visible()
    chat.ask("And this?")
    chat.expect_finished(replies=2)
    assert (last_reply().prompt_version.number, last_reply().arm) == (1, "production")
