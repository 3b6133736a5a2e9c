"""The sets that come with Parley: what they ask for is sensible, discriminates, and is kept."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from audit.trail import acting_as
from prompts import builtin, publishing
from prompts.builtin import BUILT_IN, BuiltIn, seed, seed_sets
from prompts.evaluation.cases import Case, read
from prompts.evaluation.checks import Check, Reply, decided
from prompts.evaluation.sets import store_version
from prompts.models import EvaluationSet, PromptTemplate
from prompts.publishing import Terms
from prompts.rendering import compiled, declared
from prompts.serving import known_now

ANSWERS = Path(__file__).parent / "built_in_answers"
LEAST_CASES, LEAST_REFUSALS = 28, 5
ONE_CASE = json.dumps(
    {
        "id": "ours",
        "turns": [{"role": "user", "content": "Hello?"}],
        "checks": [{"type": "contains", "text": "hello"}],
    }
)

each_template = pytest.mark.parametrize("built_in", BUILT_IN, ids=lambda one: one.slug)


def _cases(built_in: BuiltIn) -> tuple[Case, ...]:
    return read(built_in.cases).cases


def _answers(built_in: BuiltIn) -> dict[str, dict[str, list[str]]]:
    """Return good and bad answers to each case, by its id, as a person wrote them."""
    lines = (ANSWERS / f"{built_in.slug}.jsonl").read_text().splitlines()
    return {answer["id"]: answer for answer in map(json.loads, lines)}


def _decided_here(case: Case) -> list[Check]:
    return [check for check in case.checks if check.kind != "judge"]


def _passes(case: Case, text: str) -> bool:
    reply = Reply(text, tokens=len(text) // 3, seconds=1.0, cost_usd=Decimal("0.001"))
    return all(decided(check, reply).passed for check in _decided_here(case))


# --- the cases ---------------------------------------------------------------------------------


@each_template
def test_each_set_has_enough_cases_and_refusals_among_them(built_in):
    cases = _cases(built_in)
    assert len(cases) >= LEAST_CASES
    assert sum("refusal" in case.tags for case in cases) >= LEAST_REFUSALS
    assert sum(len(case.turns) > 1 for case in cases) >= 2


@each_template
def test_each_case_fits_its_template(built_in):
    names = {variable["name"] for variable in built_in.variables}
    template = compiled(built_in.content, declared(built_in.variables))
    for case in _cases(built_in):
        assert case.variables.keys() <= names, case.id
        assert template.render({**known_now(), **case.variables})


@each_template
def test_each_case_has_checks_that_decide_without_a_judge(built_in):
    assert [case.id for case in _cases(built_in) if not _decided_here(case)] == []


@each_template
def test_good_answers_pass(built_in):
    answers = _answers(built_in)
    failed = [
        (case.id, text)
        for case in _cases(built_in)
        for text in answers[case.id]["good"]
        if not _passes(case, text)
    ]
    assert failed == []


@each_template
def test_bad_answers_fail(built_in):
    answers = _answers(built_in)
    passed = [
        (case.id, text)
        for case in _cases(built_in)
        for text in answers[case.id]["bad"]
        if _passes(case, text)
    ]
    assert passed == []


@each_template
def test_one_answer_to_all_questions_passes_few(built_in):
    cases = _cases(built_in)
    for text in ("I am sorry, I can't help with that.", "Yes.", "A colleague will check it."):
        assert sum(_passes(case, text) for case in cases) <= len(cases) / 3


# --- how they are stored -----------------------------------------------------------------------


@pytest.fixture
def ours() -> EvaluationSet:
    return EvaluationSet.objects.get(slug="summariser")


@pytest.fixture
def shipped(monkeypatch):
    """Let Parley come with other cases for the summariser."""

    def ship(*lines: str) -> None:
        text = "\n".join(lines).encode()
        real = BuiltIn.cases.fget
        monkeypatch.setattr(
            BuiltIn,
            "cases",
            property(lambda one: text if one.slug == "summariser" else real(one)),
        )

    return ship


@pytest.mark.django_db
def test_the_sets_are_there_from_the_first_start(ours):
    assert {one.slug for one in EvaluationSet.objects.all()} == {one.slug for one in BUILT_IN}
    (version,) = ours.versions.all()
    assert (version.number, version.created_by_id) == (1, None)
    assert version.case_count == len(read(version.lines).cases)


@pytest.mark.django_db
def test_starting_again_stores_nothing(ours):
    seed()
    assert ours.versions.count() == 1


@pytest.mark.django_db
def test_what_is_shipped_later_is_a_version_of_its_own(ours, shipped):
    first = ours.versions.get()
    shipped(ONE_CASE)
    seed_sets()
    newest, oldest = ours.versions.all()
    assert (newest.number, newest.lines) == (2, f"{ONE_CASE}\n")
    assert oldest == first
    entry = Entry.objects.filter(event="evaluation_set.published").latest("pk")
    assert entry.payload["number"] == 2


@pytest.mark.django_db
def test_an_older_parley_does_not_put_its_cases_on_top(ours, shipped, monkeypatch):
    shipped(ONE_CASE)
    seed_sets()
    monkeypatch.undo()
    seed_sets()
    assert [version.number for version in ours.versions.all()] == [2, 1]


@pytest.mark.django_db
def test_a_set_that_people_changed_stays_theirs(ours, shipped, make_user):
    iris = make_user("iris", "prompt_editor")
    mine = store_version(ours, ONE_CASE, note="Ours", by=iris)
    shipped(ONE_CASE.replace("hello", "good morning"))
    seed_sets()
    assert ours.versions.first() == mine


@pytest.mark.django_db
def test_a_template_that_is_new_has_to_pass_its_set(ours):
    PromptTemplate.objects.filter(slug="summariser").update(slug="an-old-one")
    seed()
    template = PromptTemplate.objects.get(slug="summariser")
    assert (template.required_set, template.required_score) == (ours, builtin.REQUIRED_SCORE)


@pytest.mark.django_db
def test_a_template_that_was_there_keeps_the_gate_that_it_has():
    seed()
    assert not PromptTemplate.objects.exclude(required_set=None).exists()


@pytest.mark.django_db
def test_whoever_may_not_publish_yet_reads_why_and_what_to_do(ours, make_user, settings):
    settings.PROVIDER_IS_DEMO = True
    PromptTemplate.objects.filter(slug="summariser").update(required_set=ours)
    template = PromptTemplate.objects.get(slug="summariser")
    iris, mei = make_user("iris", "prompt_editor"), make_user("mei", "prompt_publisher")
    with acting_as(iris):
        draft = publishing.begin_draft(template, Terms("Be brief."), by=iris)
    client = Client()
    client.force_login(mei)
    page = reverse("admin:prompts_promptversion_publish", args=[draft.pk])
    told = client.get(page).content.decode()
    assert "has to pass Summariser basics with 90" in told
    assert "Evaluate…" in told
    assert "No AI is connected" in told
    assert reverse("admin:prompts_prompttemplate_gate", args=[template.pk]) in told
    with acting_as(mei):
        lifted = publishing.require_evaluation(
            template, None, template.required_score, note="No AI here", by=mei
        )
        publishing.publish(draft, content_hash=draft.content_hash, note="Trial", by=mei)
    assert PromptTemplate.objects.get(pk=lifted.pk).live_version == draft
