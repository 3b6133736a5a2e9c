"""Chromium, the people in it, and what no page may ever do.

A browser for the session, a context for each page of a person. People are signed in by their
session's cookie; only the first run goes through the form. Whatever a test does, at its end no page
may have violated the Content Security Policy, opened a dialog or thrown an error.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from accounts.models import User
from audit.inspection_runs import run
from audit.models import Export, InspectionRun
from audit.sealing import seal
from audit.trail import acting_as, record
from conversations.models import Conversation, Message, PurgeRun
from conversations.retention import purge
from prompts.models import PromptVersion, Release
from prompts.publishing import Terms, begin_draft, publish
from prompts.release import rollout
from prompts.release.rollout import Plan, Step
from prompts.rendering import Kind, Variable
from prompts.serving import live_version
from tests.audit.conftest import SEED, behind_the_triggers
from tests.browser.chat import Chat
from tests.conftest import LiveServer, chromium_path

PATIENCE_MS = 15_000
expect.set_options(timeout=PATIENCE_MS)

LONG_WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
SAID = [
    ("Show me code.", "Some `code` first:\n\n```python\n" + "print('a line') # " * 12 + "\n```\n"),
    (
        f"{LONG_WORD}\n\nA table, please.",
        f"## A heading\n\n| {' | '.join('abcdefgh')} |\n|{' --- |' * 7} ---: |\n"
        + f"| {' | '.join(['some words'] * 7)} | 1,234 |\n" * 3
        + f"\n> Quoted\n\n1. One\n   - {LONG_WORD}\n2. Two\n\n[A link](https://example.org/)\n\n---\n",
    ),
    ("And the rest?", "This one broke"),
]  # fmt: skip
# Each window has an address bar, shown or not, whose menus are two pages of their own: they cost
# twice as much as the page under test. The last list of features counts, so it also has those that
# Playwright switches off.
FEATURES_OFF = [
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "AimEnabled", "OptimizationHints"),
    *("AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades"),
    *("HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding"),
    *("ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect"),
    *("NetworkTimeServiceQuerying", "PreconnectToSearch"),
]
REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  const { violatedDirective, blockedURI, sample } = event;
  if (!window.isExamined) reportTrouble(`CSP: ${violatedDirective} ${blockedURI} ${sample}`);
});
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    arguments = [
        *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        f"--disable-features={','.join(FEATURES_OFF)}",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def new_context(browser: Browser, live: LiveServer) -> Iterator[Callable[..., BrowserContext]]:
    """Make contexts, with somebody signed in or nobody; at the end none may have had trouble."""
    trouble: list[str] = []
    contexts: list[BrowserContext] = []

    def make(user: User | None = None, **options: Any) -> BrowserContext:
        context = browser.new_context(base_url=live.url, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        _watch(context, trouble)
        if user:
            context.add_cookies([{"url": live.url, **session_cookie(user)}])
        return context

    yield make
    for context in contexts:
        context.close()
    assert not trouble


def _watch(context: BrowserContext, trouble: list[str]) -> None:
    def report(text: str) -> None:
        trouble.append(text)

    context.expose_function("reportTrouble", report)
    context.add_init_script(REPORT_VIOLATIONS)
    context.on("weberror", lambda error: report(str(error.error)))
    context.on("dialog", lambda dialog: (report(f"dialog: {dialog.message}"), dialog.dismiss()))


def session_cookie(user: User) -> dict[str, str]:
    """A session of this person, as the cookie that holds it."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value}


@pytest.fixture
def chat_of(new_context: Callable[..., BrowserContext]) -> Callable[..., Chat]:
    """Open the first screen, or the page given, in a browser of this person's own."""

    def chat(user: User, at: str | Conversation = "/", **options: Any) -> Chat:
        return Chat(new_context(user, **options).new_page()).open(at)

    return chat


@pytest.fixture
def chat(chat_of: Callable[..., Chat], olive: User) -> Chat:
    """Olive's first screen."""
    return chat_of(olive)


@pytest.fixture
def second_tab(chat: Chat) -> Callable[[], Chat]:
    """Open another tab of Olive's browser, at the address of the first."""

    def tab() -> Chat:
        address = chat.page.evaluate("location.pathname")
        return Chat(chat.page.context.new_page()).open(address)

    return tab


@pytest.fixture
def everything(olive: User) -> Conversation:
    """A conversation that shows all a thread can hold; its last reply broke off."""
    conversation = Conversation.objects.create(owner=olive)
    conversation.title = "A title that is long enough to be cut where there is little room for it"
    parent = None
    for number, (question, reply) in enumerate(SAID, start=1):
        asked = Message(conversation=conversation, parent=parent, role="user", state="said")
        asked.content = question
        told = Message(
            conversation=conversation, parent=asked, role="assistant", state="completed",
            prompt_version=live_version(), model="simulated", fence=number,
            tokens_in=1_234_567, tokens_out=42, duration_ms=3210,
        )  # fmt: skip
        told.content = reply
        asked.save()
        told.save()
        parent = told
    told.thinking, told.state, told.fault = "First this, then that. " * 9, "failed", "cut"
    told.save()
    conversation.leaf, conversation.fence = told, told.fence
    conversation.save()
    return conversation


@pytest.fixture
def publisher(live: LiveServer, make_user) -> User:
    return make_user("mei", "prompt_publisher")


@pytest.fixture
def prompt_draft(live: LiveServer, make_user) -> PromptVersion:
    """What an editor is writing: words changed, lines gone and new, a variable, a parameter."""
    iris = make_user("iris", "prompt_editor")
    first = live_version("support-agent")
    content = first.content.replace("politely and briefly", "kindly, in short sentences")
    lines = [line for line in content.split("\n") if "password" not in line]
    variables = (*Terms.of(first).variables, Variable("formal", Kind.FLAG, False, True))
    terms = Terms("\n".join([*lines, "Sign as the team.", ""]), variables, "", {"temperature": 0.2})
    with acting_as(iris):
        return begin_draft(first.template, terms, by=iris)


@pytest.fixture
def releases(prompt_draft: PromptVersion, publisher: User) -> list[Release]:
    """One of the summariser that is under way, one that was rolled back."""
    iris, mei = prompt_draft.author, publisher
    template = live_version("summariser").template
    with acting_as(iris):
        draft = begin_draft(template, Terms("Three sentences at most."), by=iris)
    version = publish(
        draft, content_hash=draft.content_hash, note="Agreed", by=mei, for_release=True
    )
    first = rollout.begin(version, Plan(), note="First look", by=mei)
    rollout.roll_back(first, note="Too short for minutes of meetings", by=mei)
    plan = Plan(early_role="operator", early_people=[iris.pk], early=Step(0))
    second = rollout.begin(version, plan, note="Again, with the operators first", by=mei)
    return [first, rollout.advance(second, note="They like it", by=mei)]


@pytest.fixture
def exports(live: LiveServer, ravi: User) -> list[Export]:
    """One of each state, as the list of exports shows them."""
    soon = timezone.now() + timedelta(days=7)
    common = {"requested_by": ravi, "seen_entry": 1, "start": 0, "stop": 297_265}
    made = {"done": 297_265, "written": 184_302, "size": 9_000_000, "expires_at": soon}
    spoiled = "Not all of it is as it was sealed: 1 entries were changed, the first at leaf 4."
    return Export.objects.bulk_create(
        [
            Export(state="writing", done=184_302, written=900, started_at=soon, **common),
            Export(state="ready", number=1, **common, **made),
            Export(state="ready", number=2, reason=spoiled, **common, **made),
            Export(state="failed", reason="AUDIT_SIGNING_KEY is not set. Give it.", **common),
            Export(state="cancelled", selection={"event": "auth.logged_out"}, **common),
        ]
    )


@pytest.fixture
def purges(sealed_log: list[int]) -> list[PurgeRun]:
    """One that has a certificate, one that left something, and one that asks."""
    now = timezone.now()
    cutoffs = [each.as_json() for each in purge.cutoffs(now)]
    counts = dict.fromkeys(purge.KINDS, 2_318)
    common = {"started_at": now, "cutoffs": cutoffs, "counts": counts, "seconds": 1.9}
    ended = {"state": "finished", "finished_at": now, "root": bytes(range(32)), "held": 38}
    days = ["1/2026-10-22", "2/2026-11-20"]
    made = [
        PurgeRun.objects.create(**common, **ended, key_days=days),
        PurgeRun.objects.create(**common, **ended, skipped=3),
        PurgeRun.objects.create(**common, state="asking", due=184_302),
    ]
    purge.certify()
    return made


@pytest.fixture
def sealed_log(live: LiveServer, ravi: User, settings, tmp_path, monkeypatch) -> list[int]:
    """Entries that are sealed, verified, changed behind the log's back, and not sealed yet."""
    settings.AUDIT_FOLDER = tmp_path / "audit"
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    changes = {"name": ["A", "B"], "content": ["Be kind.\nBe short.", "Be kind.\nBe exact."]}
    whole = record(ravi, "record.changed", ("a.thing", "1"), action="update", changes=changes)
    broken = record(ravi, "auth.login_succeeded", ravi)
    seal()
    behind_the_triggers("UPDATE audit_entry SET reason = 'no' WHERE id = %s", [broken])
    asked = InspectionRun.objects.create(asked_by=ravi, is_whole=True)
    with acting_as(ravi):
        run(asked.pk)
    return [whole, broken, record(ravi, "auth.logged_out")]
