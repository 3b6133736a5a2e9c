"""The pages of evaluations in a browser: for everybody, on any screen, live while a run goes."""

import threading
from collections.abc import Callable

import pytest
from django.urls import reverse
from playwright.sync_api import BrowserContext, expect

from accounts.models import User
from prompts.evaluation import engine, runs, sets
from prompts.models import EvaluationRun, EvaluationSet, PromptVersion
from tests.browser.accessibility import findings
from tests.prompts.evaluations import case, lines

pytestmark = pytest.mark.browser


@pytest.fixture
def run(prompt_draft: PromptVersion) -> EvaluationRun:
    """A run that waits, of cases that pass, fail and have no answer."""
    none = {"type": "contains", "text": "nowhere at all in the reply"}
    cases = [case("passes"), case("fails", none), case("down", status=500)]
    which = EvaluationSet(slug="tests", name="Tests", purpose="To look at")
    by = prompt_draft.author
    stored = sets.make_set(which, lines(*cases), note="", by=by)
    return runs.begin(prompt_draft, stored, by=by, here=True)


def at_work(run: EvaluationRun) -> threading.Thread:
    """Go through a run in a thread of its own: Playwright's loop runs in this one."""
    worker = threading.Thread(target=engine.work, args=(run.pk,))
    worker.start()
    return worker


def test_a_run_is_followed_without_loading_the_page_again(
    new_context: Callable[..., BrowserContext], run: EvaluationRun
):
    page = new_context(run.version.author).new_page()
    page.goto(reverse("admin:prompts_evaluationrun_change", args=[run.pk]))
    page.evaluate("window.isSame = true")
    expect(page.locator("#run")).to_contain_text("Waits for a worker")
    worker = at_work(run)
    expect(page.locator("#run")).to_contain_text("It has no score", timeout=30_000)
    worker.join()
    expect(page.locator("#result_list tbody tr")).to_have_count(3)
    expect(page.locator("#run[hx-get]")).to_have_count(0)
    assert page.evaluate("window.isSame")


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1280)])
def test_everybody_can_use_the_pages_of_evaluations(
    new_context: Callable[..., BrowserContext],
    run: EvaluationRun,
    publisher: User,
    scheme: str,
    width: int,
):
    at_work(run).join()
    other = runs.begin(run.version, run.set_version, by=publisher, here=True)
    editor = run.version.author
    pages = {
        editor: [
            reverse("admin:prompts_evaluationset_changelist"),
            reverse("admin:prompts_evaluationset_add"),
            reverse("admin:prompts_evaluationset_change", args=[run.set_version.set_id]),
            reverse("admin:prompts_evaluationrun_changelist"),
            reverse("admin:prompts_evaluationrun_begin", args=[run.version_id]),
            reverse("admin:prompts_evaluationrun_change", args=[run.pk]),
            reverse("admin:prompts_evaluationrun_compare", args=[other.pk, run.pk]),
        ],
        publisher: [
            reverse("admin:prompts_prompttemplate_gate", args=[run.template_id]),
            reverse("admin:prompts_prompttemplate_change", args=[run.template_id]),
        ],
    }
    found = {}
    for person, paths in pages.items():
        options = {"color_scheme": scheme, "viewport": {"width": width, "height": 6000}}
        page = new_context(person, **options).new_page()
        for path in paths:
            page.goto(path)
            too_wide = page.evaluate("document.scrollingElement.scrollWidth") > width
            found[path] = [*findings(page), *(["scrolls sideways"] if too_wide else [])]
    assert {path: trouble for path, trouble in found.items() if trouble} == {}
