"""Every page: no finding of axe-core, no sideways scrolling, little weight, usable by keys."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import BrowserContext, Page, expect

from accounts.models import User
from accounts.tokens import make_token
from audit.models import Export
from benchmarks.provider_simulator import sim
from conversations.break_glass.grants import Asked, ask, end
from conversations.models import Conversation, Erasure, PersonExport, PurgeRun
from conversations.retention import holds
from prompts.figures.rollups import count_rating
from prompts.models import PromptVersion, Release
from prompts.serving import live_version
from tests.browser.accessibility import findings
from tests.browser.chat import Chat
from tests.browser.conftest import session_cookie
from tests.browser.workplace import play
from tests.conftest import LiveServer

pytestmark = pytest.mark.browser

PARTS = 7
"""Into so many tests the pages are divided: each ends within the time limit, also under load."""
MOST_BYTES = 120 * 1024
MOST_REQUESTS = 12
# So high that nothing is scrolled: a link half below the bar would be too small a target.
NARROW, WIDE = (390, 6000), (1280, 6000)
NARROWEST = (320, 640)
Visits = Callable[..., Iterator[tuple[str, Page]]]


@pytest.fixture
def visits(
    new_context: Callable[..., BrowserContext],
    olive: User,
    ada: User,
    ravi: User,
    sam: User,
    everything: Conversation,
    sealed_log: list[int],
    exports: list[Export],
    purges: list[PurgeRun],
    prompt_draft: PromptVersion,
    publisher: User,
    releases: list[Release],
    live: LiveServer,
    settings,
) -> Visits:
    """Go through all kinds of pages, each as somebody who sees it."""
    settings.PROVIDER_IS_DEMO = True
    deleted = Conversation.objects.create(
        owner=olive, lifecycle="deleted", deleted_at=timezone.now()
    )
    PersonExport.objects.create(person=olive, state="writing", messages=4000, done=1000)
    Erasure.objects.create(person=sam, former_email="sam@parley.example")
    asked = Asked("2026-114", "The regulator asked for it.", person=olive)
    grant = ask(by=ravi, asked=asked)
    ended = end(ask(by=ravi, asked=asked).pk, by=ravi)
    soon = timezone.now() + timedelta(days=30)
    hold = holds.place(olive, matter="A v. B", reason="Litigation", review_on=soon.date(), by=ravi)
    for state in ("writing", "ready", "failed"):
        grant.exports.create(
            hold=hold, state=state, requested_at=soon, finished_at=soon, size=9_000, messages=9
        )
    make_token(olive, name="reports", scopes=["chat", "read"], lasts=None, by=olive)
    told = live_version(prompt_draft.template.slug)
    count_rating(told.pk, "production", None, datetime.now(UTC).date(), up=2, down=1)
    admin = "admin:{}_changelist".format
    pages = {
        None: [
            *(reverse("account_login"), reverse("account_reset_password")),
            *(reverse("problems"), reverse("problem", args=["too_many"])),
        ],
        olive: [
            *("/", "/?temporary", everything.get_absolute_url(), "/nowhere"),
            *(reverse("account"), reverse("tokens"), f"/?deleted={deleted.pk}"),
            *(reverse("your_data"), reverse("erase_account")),
        ],
        ada: [
            *(reverse("admin:index"), reverse(admin("accounts_user"))),
            reverse("admin:accounts_user_change", args=[olive.pk]),
            *(reverse("admin:accounts_user_add"), reverse(admin("accounts_apitoken"))),
            *(reverse("admin:conversations_erasure_add"), reverse(admin("conversations_erasure"))),
        ],
        prompt_draft.author: [
            reverse(admin("prompts_prompttemplate")),
            reverse("admin:prompts_prompttemplate_add"),
            reverse("admin:prompts_prompttemplate_change", args=[prompt_draft.template_id]),
            reverse("admin:prompts_prompttemplate_settings", args=[prompt_draft.template_id]),
            reverse("admin:prompts_promptversion_change", args=[prompt_draft.pk]),
        ],
        publisher: [
            reverse("admin:prompts_prompttemplate_change", args=[prompt_draft.template_id]),
            reverse("admin:prompts_prompttemplate_pause", args=[prompt_draft.template_id]),
            reverse("admin:prompts_promptversion_publish", args=[prompt_draft.pk]),
            reverse("admin:prompts_promptversion_restore", args=[live_version("support-agent").pk]),
            reverse("admin:prompts_figures", args=[prompt_draft.template_id]),
            reverse("admin:prompts_prompttemplate_change", args=[releases[0].template_id]),
            reverse("admin:prompts_promptversion_change", args=[releases[0].version_id]),
            reverse("admin:prompts_release_begin", args=[releases[0].version_id]),
            *(reverse("admin:prompts_release_change", args=[one.pk]) for one in releases),
        ],
        ravi: [
            *(reverse("admin:index"), reverse(admin("audit_entry"))),
            f"{reverse(admin('audit_entry'))}?group=Sign-in&actor_kind=user&role=member&target=x",
            f"{reverse(admin('audit_entry'))}?from=yesterday",
            *(reverse("admin:audit_entry_change", args=[entry]) for entry in sealed_log),
            reverse("admin:audit_entry_timeline", args=["account", ravi.pk]),
            reverse(admin("audit_checkpoint")),
            reverse("admin:audit_checkpoint_change", args=[1]),
            reverse(admin("audit_inspectionrun")),
            *(reverse("admin:audit_export_add"), reverse(admin("audit_export"))),
            reverse(admin("conversations_conversation")),
            reverse("admin:conversations_conversation_change", args=[everything.pk]),
            reverse(admin("conversations_breakglassgrant")),
            reverse("admin:conversations_breakglassgrant_add"),
            reverse("break_glass", args=[grant.pk]),
            reverse("break_glass_conversation", args=[grant.pk, everything.pk]),
            reverse("counsel_export", args=[grant.pk]),
            reverse("break_glass", args=[ended.pk]),
            reverse("admin:conversations_breakglassgrant_change", args=[grant.pk]),
            *(
                reverse(admin("conversations_retentionpolicy")),
                reverse(admin("conversations_purgerun")),
            ),
            reverse("admin:conversations_retentionpolicy_add"),
            reverse("admin:conversations_retentionpolicy_change", args=[1]),
            *(reverse("admin:conversations_purgerun_change", args=[run.pk]) for run in purges),
            reverse(admin("prompts_prompttemplate")),
            reverse("admin:prompts_prompttemplate_change", args=[prompt_draft.template_id]),
            reverse("admin:prompts_promptversion_change", args=[prompt_draft.pk]),
            reverse(admin("prompts_release")),
            reverse("admin:prompts_release_change", args=[releases[-1].pk]),
        ],
    }

    def visit(part: int) -> Iterator[tuple[str, Page]]:
        # One page for all: a new context costs more than most visits.
        page = new_context().new_page()
        for person, paths in pages.items():
            page.context.clear_cookies()
            if person:
                page.context.add_cookies([{"url": live.url, **session_cookie(person)}])
            for path in paths[part::PARTS]:
                page.goto(path)
                yield f"{person.name if person else 'nobody'} at {path}", page

    return visit


@pytest.mark.parametrize("part", range(PARTS))
def test_axe_finds_nothing_and_nothing_scrolls_sideways_on_any_page(visits: Visits, part: int):
    objections: dict[str, list[str]] = {}
    for name, page in visits(part):
        _show(page, "light", NARROW)
        found = findings(page)
        _show(page, "dark", WIDE)
        found += findings(page)
        _show(page, "light", NARROWEST)
        if (width := page.evaluate("document.scrollingElement.scrollWidth")) > NARROWEST[0]:
            found.append(f"It is {width} px wide.")
        if found:
            objections[name] = found
    assert objections == {}


def _show(page: Page, scheme: Literal["light", "dark"], size: tuple[int, int]) -> None:
    """Show the page anew: to load it for each look would take most of the time."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": size[0], "height": size[1]})


def test_refusals_and_a_reply_in_the_making_are_as_accessible(chat: Chat):
    chat.ask(sim(text=None, kind="markdown", tokens=100_000, reasoning=40, tokens_per_second=300))
    chat.expect_writing(characters=1_000)
    chat.page.evaluate("ask.value = 'é'.repeat(40000)")
    chat.field.press("Enter")
    expect(chat.refusal).to_contain_text("The message is too long.")
    chat.stop()
    chat.expect_finished()
    assert findings(chat.page) == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_replies_in_the_playground_are_as_accessible(
    new_context, prompt_draft: PromptVersion, scheme: str, width: int
):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 6000}}
    page = new_context(prompt_draft.author, **options).new_page()
    page.goto(reverse("admin:prompts_promptversion_change", args=[prompt_draft.pk]))
    for question in ("Hello", sim(text="One two three.", reset_after=2)):
        play(page, question)
        expect(page.locator(".trial-reply .evidence")).to_have_count(2)
        assert findings(page) == []


def test_a_cold_chat_page_is_light(new_context, olive: User, everything: Conversation):
    for path in ("/", everything.get_absolute_url()):
        page = new_context(olive).new_page()
        asked, sizes = _count_traffic(page)
        page.goto(path)
        expect(page.locator("#ask")).to_be_focused()
        page.wait_for_load_state("networkidle")
        assert len(asked) <= MOST_REQUESTS, asked
        assert sum(sizes) <= MOST_BYTES
        assert len(sizes) == len(asked)


def _count_traffic(page: Page) -> tuple[list[str], list[int]]:
    """What the page asks for, and the bytes of each answer as they travel, headers included."""
    asked: list[str] = []
    sizes: list[int] = []
    devtools = page.context.new_cdp_session(page)
    devtools.send("Network.enable")
    devtools.on("Network.requestWillBeSent", lambda e: asked.append(e["request"]["url"]))
    devtools.on("Network.loadingFinished", lambda e: sizes.append(int(e["encodedDataLength"])))
    return asked, sizes


def test_somebody_elses_conversation_is_not_there(chat_of, sam: User, everything: Conversation):
    chat = chat_of(sam, everything)
    expect(chat.page.get_by_role("heading", name="Nothing stands here")).to_be_visible()
    chat.page.get_by_role("link", name="Go to your conversations").click()
    expect(chat.field).to_be_visible()


def test_the_tab_key_leads_through_the_page_in_order_and_shows_where_it_is(chat: Chat):
    chat.ask("Hello")
    chat.expect_finished()
    expect(chat.page.get_by_role("link", name="Simulated conversation")).to_be_visible()
    _focus_first(chat.page)
    order = [_focused(chat.page)]
    for _ in range(10):
        chat.page.keyboard.press("Tab")
        order.append(_focused(chat.page))
    assert order == [
        *("Skip to your message", "Parley", "New conversation"),
        "Simulated conversation",
        *("Olive", "API", "Delete this conversation"),
        *(each.get_attribute("aria-label") for each in chat.reply.get_by_role("button").all()),
        "Your message",
    ]


def _focus_first(page: Page) -> None:
    """Go where the Tab key leads on a page that was just opened."""
    page.evaluate("document.querySelector('a, button, input, [tabindex=\"0\"]').focus()")


def _focused(page: Page) -> str:
    """The name of what has the focus, which must show it."""
    name, has_ring = page.evaluate(
        """() => {
          const at = document.activeElement, box = at.closest(".sheet") || at;
          const rings = [at, box].map((e) => getComputedStyle(e))
            .filter((s) => s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2);
          const label = at.labels && at.labels[0] || at;
          return [at.getAttribute("aria-label") || label.textContent.trim(), rings.length > 0];
        }"""
    )
    assert has_ring, f"no focus ring on {name}"
    return name


def test_the_skip_link_leads_to_the_message(chat: Chat):
    _focus_first(chat.page)
    chat.page.keyboard.press("Enter")
    expect(chat.field).to_be_focused()


def test_the_status_region_says_when_a_reply_begins_and_ends(chat: Chat):
    expect(chat.page.get_by_role("status")).to_have_count(1)
    chat.ask(sim(text=None, tokens=60, tokens_per_second=60))
    expect(chat.status).to_have_text("Reply is being written.")
    expect(chat.status).to_have_text("Reply finished.")


def test_on_a_phone_the_conversations_open_and_close(chat_of, olive, everything: Conversation):
    chat = chat_of(olive, viewport={"width": 390, "height": 800})
    sidebar = chat.page.locator("#sidebar")
    expect(sidebar).to_be_hidden()
    chat.page.get_by_role("button", name="Conversations").click()
    expect(sidebar).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(sidebar).to_be_hidden()
    chat.page.get_by_role("button", name="Conversations").click()
    sidebar.get_by_role("link", name=everything.title).click()
    expect(chat.questions).to_have_count(3)
    expect(sidebar).to_be_hidden()


def test_the_theme_that_somebody_chose_stays(chat_of, olive: User):
    chat = chat_of(olive, reverse("account"))
    chat.page.get_by_role("radio", name="Dark").check()
    chat.page.get_by_role("button", name="Use this").click()
    chat.open()
    assert chat.page.evaluate("document.documentElement.dataset.theme") == "dark"
    ground = chat.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "oklch(0.205 0.008 168)"
