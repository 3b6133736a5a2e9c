"""The pages of evaluations: who sees what, what can be done there, and what they say."""

from decimal import Decimal

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from accounts.access import System
from prompts.evaluation import runs, sets
from prompts.models import EvaluationResult, EvaluationRun, EvaluationSet, PromptTemplate
from tests.prompts.evaluations import case, lines

pytestmark = pytest.mark.django_db

SETS, RUNS = "/admin/prompts/evaluationset/", "/admin/prompts/evaluationrun/"
BY = System("test")


@pytest.fixture
def person(make_user):
    def signed_in(name: str, *roles: str) -> Client:
        browser = Client()
        browser.force_login(make_user(name, *roles))
        return browser

    return signed_in


@pytest.fixture
def editor(person):
    return person("iris", "prompt_editor")


@pytest.fixture
def publisher(person):
    return person("mei", "prompt_publisher")


@pytest.fixture
def reader(person):
    return person("ravi", "compliance_officer")


@pytest.fixture
def template():
    return PromptTemplate.objects.select_related("live_version").get(slug="summariser")


@pytest.fixture
def stored():
    return sets.make_set(
        EvaluationSet(slug="tests", name="Tests"), lines(case("a"), case("b")), note="", by=BY
    )


def upload(*cases, content: bytes = b"") -> SimpleUploadedFile:
    return SimpleUploadedFile("cases.jsonl", content or lines(*cases).encode())


def run_of(template, stored, **ended) -> EvaluationRun:
    """A run as it would be stored, without a call."""
    run = runs.begin(template.live_version, stored, by=BY, here=True)
    for position, (state, reply) in enumerate(ended.pop("results", [])):
        outcome = "passed" if state == "passed" else "failed"
        run.results.filter(position=position).update(
            state=state,
            reply=reply,
            verdicts=[{"kind": "contains", "outcome": outcome, "reason": f"Because {reply}"}],
        )
    EvaluationRun.objects.filter(pk=run.pk).update(**ended)
    run.refresh_from_db()
    return run


def finished(template, stored, *results: tuple[str, str]) -> EvaluationRun:
    passed = sum(state == "passed" for state, _ in results)
    return run_of(
        template,
        stored,
        results=results,
        state="finished",
        passed=passed,
        failed=len(results) - passed,
    )


def page(client: Client, url: str, status: int = 200) -> str:
    answer = client.get(url)
    assert answer.status_code == status
    return answer.content.decode()


def test_a_list_is_called_what_the_menu_calls_it_and_says_that_it_is_empty(editor, stored):
    empty = page(editor, RUNS)
    assert "<h1>Evaluation runs</h1>" in empty
    assert "Nothing yet." in empty
    assert "Nothing fits this selection." in page(editor, f"{RUNS}?state__exact=running")
    assert "Nothing yet." not in page(editor, SETS)


def test_an_editor_stores_a_set_uploads_a_version_and_gets_the_same_lines_back(editor):
    first = {"name": "Refunds", "slug": "refunds", "file": upload(case("a"))}
    assert editor.post(f"{SETS}add/", first).status_code == 302
    which = EvaluationSet.objects.get(slug="refunds")
    text = lines(case("a"), case("b", {"type": "regex", "pattern": "x+"}))
    again = {"file": SimpleUploadedFile("x", text.encode()), "note": "More"}
    assert editor.post(f"{SETS}{which.pk}/change/", again).status_code == 302
    newest = which.versions.first()
    assert (newest.number, newest.case_count, newest.note) == (2, 2, "More")
    got = editor.get(f"{SETS}versions/{newest.pk}/download/")
    assert got.content.decode() == text
    assert got["Content-Disposition"] == 'attachment; filename="refunds-v2.jsonl"'
    html = page(editor, f"{SETS}{which.pk}/change/")
    assert "matches x+" in html
    assert "Question b" in html
    assert "Question b" not in page(editor, f"{SETS}{which.pk}/change/?version=1")
    assert "Refunds" in page(editor, SETS)


def test_a_bad_file_is_refused_with_its_line_and_nothing_is_stored(editor, stored):
    bad = lines(case("a")).encode() + b'{"id": "b"}\n'
    answer = editor.post(f"{SETS}{stored.set_id}/change/", {"file": upload(content=bad)})
    assert answer.status_code == 422
    assert "Line 2: The case has no turns" in answer.content.decode()
    assert stored.set.versions.count() == 1
    answer = editor.post(
        f"{SETS}add/", {"name": "X", "slug": "x", "file": upload(content=b"\xff\xfe")}
    )
    assert "Line 1: This is not UTF-8" in answer.content.decode()
    assert not EvaluationSet.objects.filter(slug="x").exists()


def test_readers_see_everything_and_change_nothing(reader, stored, template):
    run = finished(template, stored, ("passed", "Yes."), ("failed", "No."))
    html = page(reader, f"{SETS}{stored.set_id}/change/")
    assert "Upload a new version" not in html
    html = page(reader, f"{RUNS}{run.pk}/change/")
    assert "1 of 2 passed" in html
    assert "Because No." in html
    page(reader, SETS)
    page(reader, RUNS)
    page(reader, f"{SETS}add/", 403)
    page(reader, f"{RUNS}begin/{template.live_version_id}/", 403)
    page(reader, f"{SETS}gate/{template.pk}/", 403)
    answer = reader.post(f"{SETS}{stored.set_id}/change/", {"file": upload(case("c"))})
    assert answer.status_code == 403
    assert reader.post(f"{RUNS}{run.pk}/change/", {"act": "cancel"}).status_code == 409


def test_members_see_nothing(olive_client, stored):
    assert olive_client.get(SETS).status_code == 302, "to where nobody without a section gets in"
    assert olive_client.get(f"{SETS}{stored.set_id}/change/").status_code == 302
    assert olive_client.get(f"{SETS}versions/{stored.pk}/download/").status_code == 302


def test_an_evaluation_begins_on_the_page_of_a_version(publisher, stored, template):
    version = template.live_version
    assert "Evaluate…" in page(publisher, f"/admin/prompts/prompttemplate/versions/{version.pk}/")
    begin = f"{RUNS}begin/{version.pk}/"
    assert "real calls" in page(publisher, begin)
    answer = publisher.post(begin, {"set": str(stored.set_id), "judge": "", "limit_usd": "0"})
    assert answer.status_code == 422
    answer = publisher.post(begin, {"set": str(stored.set_id), "judge": "", "limit_usd": "2.5"})
    run = EvaluationRun.objects.get()
    assert answer["Location"] == f"{RUNS}{run.pk}/change/"
    assert run.limit_usd == Decimal("2.5")
    html = page(publisher, answer["Location"])
    assert "Waits for a worker" in html
    assert f'hx-get="{RUNS}{run.pk}/progress/"' in html
    answer = publisher.post(begin, {"set": str(stored.set_id), "judge": "", "limit_usd": "2.5"})
    assert "being evaluated already" in answer.content.decode()


def test_a_run_is_cancelled_and_goes_on_with_a_new_limit(editor, stored, template):
    run = run_of(template, stored)
    there = f"{RUNS}{run.pk}/change/"
    assert editor.post(there, {"act": "cancel"}).status_code == 302
    assert "Go on" in page(editor, there)
    assert editor.post(there, {"act": "resume", "limit_usd": "7"}).status_code == 302
    run.refresh_from_db()
    assert (run.state, run.limit_usd) == ("waiting", 7)
    assert "hx-get" in page(editor, f"{RUNS}{run.pk}/progress/")


def test_what_may_have_been_paid_is_asked_again_only_by_a_button_that_says_so(
    editor, stored, template
):
    run = run_of(template, stored, state="interrupted", why="uncertain", uncertain=2)
    run.results.update(state=EvaluationResult.State.UNCERTAIN)
    there = f"{RUNS}{run.pk}/change/"
    assert "ask those 2 again (may be paid twice)" in page(editor, there)
    answer = editor.post(there, {"act": "resume", "limit_usd": "5"})
    assert answer.status_code == 409
    assert "nobody knows whether they were asked" in answer.content.decode()
    assert editor.post(there, {"act": "ask_again", "limit_usd": "5"}).status_code == 302
    assert set(run.results.values_list("state", flat=True)) == {"waiting"}


def test_two_runs_are_compared_with_what_fails_newly_first(editor, stored, template):
    before = finished(template, stored, ("failed", "Old a."), ("passed", "Old b."))
    after = finished(template, stored, ("passed", "New a."), ("failed", "New b."))
    html = page(editor, f"{RUNS}{after.pk}/compare/{before.pk}/")
    assert html.index("Newly failing: b") < html.index("Newly passing: a")
    for said in ("Old a.", "New a.", "Because New b."):
        assert said in html
    assert f"{RUNS}{after.pk}/compare/{before.pk}/" in page(editor, f"{RUNS}{after.pk}/change/")
    other = sets.make_set(EvaluationSet(slug="o", name="O"), lines(case("a")), note="", by=BY)
    alone = finished(template, other, ("passed", "Yes."))
    page(editor, f"{RUNS}{after.pk}/compare/{alone.pk}/", 404)


def test_the_versions_of_a_template_show_what_they_passed(
    editor, stored, template, django_assert_max_num_queries
):
    finished(template, stored, ("passed", "Yes."), ("failed", "No."))
    there = f"/admin/prompts/prompttemplate/{template.pk}/change/"
    page(editor, there)
    with django_assert_max_num_queries(12):
        assert ">1 of 2</a>" in page(editor, there)


def test_a_publisher_requires_an_evaluation_and_an_editor_reads_what_is_missing(
    editor, publisher, stored, template
):
    there = f"{SETS}gate/{template.pk}/"
    page(editor, there, 403)
    given = {"set": str(stored.set_id), "score": "0.9", "note": ""}
    assert publisher.post(there, given).status_code == 422
    assert publisher.post(there, given | {"note": "Agreed"}).status_code == 302
    template.refresh_from_db()
    assert (template.required_set_id, template.required_score) == (stored.set_id, Decimal("0.9"))
    workplace = "/admin/prompts/prompttemplate/"
    assert "with 90\N{NO-BREAK SPACE}% or more" in page(editor, f"{workplace}{template.pk}/change/")
    editor.post(f"{workplace}{template.pk}/draft/", {"from": str(template.live_version_id)})
    draft = template.versions.get(published_at=None)
    editor.post(
        f"{workplace}versions/{draft.pk}/",
        {"content": "Be brief.", "revision": "1", "variables-TOTAL_FORMS": "0"}
        | {"variables-INITIAL_FORMS": "0"},
    )
    html = page(editor, f"{workplace}versions/{draft.pk}/")
    assert "It can’t be published yet." in html
    assert "Press “Evaluate…”" in html
    html = page(publisher, f"{workplace}versions/{draft.pk}/publish/")
    assert "has to pass Tests with 90" in html
    assert f"{RUNS}begin/{draft.pk}/" in html


def test_pages_of_nothing_are_not_found(editor, stored):
    for url in (f"{SETS}none/change/", f"{RUNS}{stored.pk}/change/", f"{RUNS}none/change/"):
        page(editor, url, 404)


def test_lists_and_the_page_that_asks_each_second_load_no_texts_of_sets_and_prompts(
    editor, stored, template, django_assert_max_num_queries
):
    finished(template, stored, ("passed", "A"), ("passed", "B"))
    run = run_of(template, stored)
    texts = ('"lines"', '"terms"', '"prompts_promptversion"."content"')
    for shown in (RUNS, f"{RUNS}{run.pk}/progress/", f"{RUNS}{run.pk}/change/"):
        with django_assert_max_num_queries(20) as asked:
            page(editor, shown)
        assert not [q["sql"] for q in asked if any(text in q["sql"] for text in texts)]


def test_beginning_a_run_loads_the_newest_version_of_its_set_alone(
    publisher, stored, template, django_assert_max_num_queries
):
    newer = sets.store_version(stored.set, lines(case("c")), note="", by=BY)
    given = {"set": stored.set_id, "judge": "", "limit_usd": "1"}
    with django_assert_max_num_queries(60) as asked:
        begin = f"{RUNS}begin/{template.live_version.pk}/"
        assert publisher.post(begin, given).status_code == 302
    assert EvaluationRun.objects.get().set_version == newer
    loaded = [q["sql"] for q in asked if '"lines"' in q["sql"]]
    assert len(loaded) == 1
    assert "LIMIT 1" in loaded[0]


def test_of_a_long_run_the_worst_come_first_and_replies_are_loaded_of_one_page(
    editor, template, django_assert_max_num_queries
):
    many = [case(f"c{number}") for number in range(60)]
    long = sets.make_set(EvaluationSet(slug="l", name="L"), lines(*many), note="", by=BY)
    results = [("passed", f"Reply {number}.") for number in range(59)] + [("failed", "Reply 59.")]
    before, after = (finished(template, long, *results) for _ in range(2))
    html = page(editor, f"{RUNS}{after.pk}/change/")
    assert html.index("Reply 59.") < html.index("Reply 0.")
    assert "Reply 49." not in html
    assert "Reply 49." in page(editor, f"{RUNS}{after.pk}/change/?page=2")
    with django_assert_max_num_queries(20) as asked:
        html = page(editor, f"{RUNS}{after.pk}/compare/{before.pk}/")
    assert ("Reply 59." in html, "Reply 49." in html) == (True, False)
    whole = [q["sql"] for q in asked if 'evaluationresult"."reply"' in q["sql"]]
    assert len(whole) == 1
    assert '"id" IN (' in whole[0]
