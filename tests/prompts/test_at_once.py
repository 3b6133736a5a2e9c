"""Two people who press at the same moment: one act is done, the other is told why not."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from audit.models import Entry
from audit.trail import acting_as
from prompts import publishing
from prompts.models import PromptTemplate, PromptVersion, Release
from prompts.publishing import NotPossible, Terms
from prompts.release import rollout
from prompts.release.rollout import Plan, Step
from tests.faults.page import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

PLAN = Plan(steps=(Step(100), Step(500), Step(2_500)))


@pytest.fixture
def mei(make_user):
    return make_user("mei", "prompt_publisher")


@pytest.fixture
def max_(make_user):
    return make_user("max", "prompt_publisher")


@pytest.fixture
def template() -> PromptTemplate:
    return PromptTemplate.objects.get(slug="summariser")


@pytest.fixture
def write(template, make_user) -> Callable[[str], PromptVersion]:
    iris = make_user("iris", "prompt_editor")

    def draft(content: str) -> PromptVersion:
        with acting_as(iris):
            return publishing.begin_draft(template, Terms(content), by=iris)

    return draft


def publish(draft: PromptVersion, by) -> PromptVersion:
    read = draft.content_hash
    return publishing.publish(draft, content_hash=read, note="Agreed", by=by, for_release=True)


@pytest.fixture
def version(write, mei) -> PromptVersion:
    return publish(write("Be brief."), mei)


def at_once(template: PromptTemplate, *acts: Callable[[], object]) -> list[str]:
    """Let all acts meet at the template's lock; return what those were told that were refused."""

    def told(act: Callable[[], object]) -> str:
        try:
            act()
        except NotPossible as refusal:
            return str(refusal)
        finally:
            connection.close()
        return ""

    with ThreadPoolExecutor(len(acts)) as pool:
        with transaction.atomic():
            publishing.locked(template)
            answers = [pool.submit(told, act) for act in acts]
            wait_until(lambda: _waiting() == len(acts), "both wait")
        return [answer.result(20) for answer in answers]


def _waiting() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # else a transaction sees the first one
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return cursor.fetchone()[0]


def test_of_two_who_raise_the_share_one_does(template, version, mei, max_):
    release = rollout.begin(version, PLAN, note="Go", by=mei)
    told = at_once(
        template,
        lambda: rollout.advance(release, note="Fine", by=mei),
        lambda: rollout.advance(release, note="Fine, too", by=max_),
    )
    assert sorted(bool(refusal) for refusal in told) == [False, True]
    assert "Somebody went on meanwhile: Canary 5" in "".join(told)
    release.refresh_from_db()
    assert (release.step, release.share) == (1, 500)
    assert Entry.objects.filter(event="release.advanced").count() == 1


def test_of_two_who_roll_back_one_does_and_the_other_reads_that_it_is_done(
    template, version, mei, max_
):
    release = rollout.begin(version, PLAN, note="Go", by=mei)
    told = at_once(
        template,
        lambda: rollout.roll_back(release, note="Bad", by=mei),
        lambda: rollout.roll_back(release, note="Bad", by=max_),
    )
    assert sorted(told) == ["", "The release of v2 is over: it is rolled back."]
    assert release.decisions.filter(verb="rolled_back").count() == 1


def test_a_rollback_holds_whoever_raises_the_share_meanwhile(template, version, mei, max_):
    release = rollout.begin(version, PLAN, note="Go", by=mei)
    raised, rolled_back = at_once(
        template,
        lambda: rollout.advance(release, note="Fine", by=mei),
        lambda: rollout.roll_back(release, note="Bad", by=max_),
    )
    assert raised in {"", "The release of v2 is over: it is rolled back."}
    assert not rolled_back
    release.refresh_from_db()
    assert release.state == "rolled_back"


def test_of_two_who_release_one_template_one_does(template, version, write, mei, max_):
    other = publish(write("Be very brief."), mei)
    told = at_once(
        template,
        lambda: rollout.begin(version, PLAN, note="Go", by=mei),
        lambda: rollout.begin(other, PLAN, note="Go", by=max_),
    )
    (refusal,) = filter(None, told)
    assert "is being released" in refusal
    assert Release.objects.count() == 1


def test_of_two_who_publish_a_draft_one_does(template, write, mei, max_):
    draft = write("Be brief.")
    told = at_once(template, lambda: publish(draft, mei), lambda: publish(draft, max_))
    assert sorted(told) == ["", "v2 is published already."]
    assert Entry.objects.filter(event="prompt.published").count() == 1


def test_of_two_drafts_that_are_begun_each_has_its_number(template, make_user):
    authors = [make_user(name, "prompt_editor") for name in ("iris", "otto")]

    def begin(by) -> None:
        with acting_as(by):
            publishing.begin_draft(template, Terms("Be brief."), by=by)

    assert at_once(template, *(lambda by=by: begin(by) for by in authors)) == ["", ""]
    assert set(template.versions.values_list("number", flat=True)) == {1, 2, 3}
