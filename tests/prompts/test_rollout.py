"""Releases: who decides what, what the database refuses, and what the log says."""

from datetime import timedelta

import pytest
from django.db import Error, connection, transaction
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from accounts.access import Denied, System
from audit.models import Entry
from audit.trail import acting_as
from conversations.models import Conversation
from prompts import publishing
from prompts.models import PromptTemplate, PromptVersion, Release, ReleaseDecision
from prompts.publishing import NotPossible, Terms
from prompts.release import rollout
from prompts.release.rollout import Plan, Step

pytestmark = pytest.mark.django_db

QUICK = Plan(steps=(Step(1_000), Step(5_000)))


@pytest.fixture
def iris(make_user):
    """An editor."""
    return make_user("iris", "prompt_editor")


@pytest.fixture
def mei(make_user):
    """A publisher."""
    return make_user("mei", "prompt_publisher")


@pytest.fixture
def both(make_user):
    """Somebody who writes and releases."""
    return make_user("both", "prompt_editor", "prompt_publisher")


@pytest.fixture
def template():
    return PromptTemplate.objects.get(slug="summariser")


def written(template, by, content="Be brief.") -> PromptVersion:
    with acting_as(by):
        return publishing.begin_draft(template, Terms(content), by=by)


@pytest.fixture
def version(template, iris, mei) -> PromptVersion:
    draft = written(template, iris)
    read = draft.content_hash
    return publishing.publish(draft, content_hash=read, note="Agreed", by=mei, for_release=True)


@pytest.fixture
def release(version, mei) -> Release:
    return rollout.begin(version, QUICK, note="First look", by=mei)


def entries(event: str) -> list[Entry]:
    return list(Entry.objects.filter(event=event).order_by("pk"))


def stored(release: Release) -> Release:
    return Release.objects.get(pk=release.pk)


def live(template) -> int:
    template.refresh_from_db()
    return template.live_version.number


# --- publishing for a release ------------------------------------------------------------------


def test_what_is_published_for_a_release_is_not_live(version, template):
    assert live(template) == 1
    (entry,) = entries("prompt.published")
    assert (entry.payload["live"], entry.payload["number"]) == (False, 2)


def test_the_first_version_is_for_everybody_at_once(iris, mei):
    (bare,) = PromptTemplate.objects.bulk_create([PromptTemplate(slug="bare", name="Bare")])
    draft = written(bare, iris)
    read = draft.content_hash
    with pytest.raises(NotPossible, match="first version is for everybody"):
        publishing.publish(draft, content_hash=read, note="Go", by=mei, for_release=True)
    draft.refresh_from_db()
    assert draft.is_draft


def test_what_was_never_live_is_not_restored(version, mei):
    with pytest.raises(NotPossible, match="never live"):
        publishing.restore(version, note="Now", by=mei)


def test_nothing_else_becomes_live_during_a_release(release, template, iris, mei):
    draft = written(template, iris, "Other.")
    read = draft.content_hash
    with pytest.raises(NotPossible, match="v2 is being released"), transaction.atomic():
        publishing.publish(draft, content_hash=read, note="Go", by=mei)
    assert PromptVersion.objects.get(pk=draft.pk).is_draft
    other = publishing.publish(draft, content_hash=read, note="Go", by=mei, for_release=True)
    with pytest.raises(NotPossible, match="v2 is being released"):
        rollout.begin(other, QUICK, note="Too", by=mei)


# --- beginning ---------------------------------------------------------------------------------


def test_a_release_begins_with_its_group_or_with_its_first_share(version, mei, olive):
    begun = rollout.begin(version, QUICK, note="Go", by=mei)
    assert (begun.state, begun.share, begun.replaces.number) == ("canary", 1_000, 1)
    rollout.roll_back(begun, note="Again, with a group", by=mei)
    plan = Plan(QUICK.steps, early_role="operator", early_people=[olive.pk], early=Step(0, 1, 2, 3))
    early = rollout.begin(version, plan, note="Go", by=mei)
    assert (early.state, early.share, early.steps[0]["turns"]) == ("early_access", 0, 2)
    assert stored(early).salt != stored(begun).salt


BAD_PLANS = [
    (Plan(steps=(Step(12_000),)), "at most 100 %: 120\N{NO-BREAK SPACE}% is more"),
    (Plan(steps=(Step(500), Step(100))), "1\N{NO-BREAK SPACE}% can't follow 5\N{NO-BREAK SPACE}%"),
    (Plan(steps=(Step(500), Step(500))), "can't follow"),
    (Plan(steps=(Step(0),)), "more than 0"),
    (Plan(steps=(Step(-5),)), "more than 0"),
    (Plan(steps=()), "1 to 20 steps"),
    (Plan(steps=tuple(Step(n) for n in range(1, 30))), "1 to 20 steps"),
    (Plan(steps=(Step(100, people=-1),)), "0 or more"),
    (Plan(steps=(Step(100, minutes=10**7),)), "at most"),
    (Plan(early_role="wizard"), "no role wizard"),
    (Plan(early_people=["00000000-0000-0000-0000-000000000000"]), "no account"),
    (Plan(early=Step(100), early_role="operator"), "no share"),
]


@pytest.mark.parametrize(("plan", "says"), BAD_PLANS)
def test_a_plan_that_can_not_be_is_refused_in_a_sentence(version, mei, plan, says):
    with pytest.raises(NotPossible, match=says):
        rollout.begin(version, plan, note="Go", by=mei)
    assert not Release.objects.exists()


def test_drafts_the_live_version_and_paused_templates_are_not_released(template, iris, mei):
    draft = written(template, iris)
    with pytest.raises(NotPossible, match="v2 is a draft"):
        rollout.begin(draft, QUICK, note="Go", by=mei)
    with pytest.raises(NotPossible, match="live already"):
        rollout.begin(template.live_version, QUICK, note="Go", by=mei)
    publishing.publish(draft, content_hash=draft.content_hash, note="Go", by=mei, for_release=True)
    publishing.set_paused(template, True, note="Rest", by=mei)
    draft.refresh_from_db()
    with pytest.raises(NotPossible, match="is paused"):
        rollout.begin(draft, QUICK, note="Go", by=mei)
    assert not Release.objects.exists()


def test_who_wrote_it_neither_begins_nor_advances_nor_finishes_it(template, both, mei, olive):
    draft = written(template, both)
    publishing.publish(draft, content_hash=draft.content_hash, note="Go", by=mei, for_release=True)
    for person in (both, olive):
        with pytest.raises(Denied):
            rollout.begin(draft, QUICK, note="Go", by=person)
    release = rollout.begin(draft, QUICK, note="Go", by=mei)
    rollout.pause(release, note="Hm", by=both)
    for verb in (rollout.advance, rollout.resume, rollout.finish):
        with pytest.raises(Denied):
            verb(release, note="Go", by=both)
    with pytest.raises(Denied):
        rollout.roll_back(release, note="No", by=olive)


# --- going on ----------------------------------------------------------------------------------


def test_from_share_to_share_to_production(release, template, mei):
    release = rollout.advance(release, note="Fine", by=mei)
    assert (release.state, release.share, live(template)) == ("canary", 5_000, 1)
    with pytest.raises(NotPossible, match="last step"):
        rollout.advance(release, note="On", by=mei)
    release = rollout.finish(release, note="For all", by=mei)
    assert (release.state, live(template)) == ("finished", 2)
    told = [(one.verb, one.share, one.by) for one in release.decisions.all()]
    assert told == [("began", 1_000, mei), ("advanced", 5_000, mei), ("finished", 10_000, mei)]
    (entry,) = entries("release.advanced")
    assert entry.payload["numbers"] == {"people": 0, "turns": 0, "minutes": 0}
    assert (entry.target_id, entry.payload["share"]) == (str(template.pk), 5_000)


def test_from_the_early_access_to_the_first_share(version, mei, olive):
    plan = Plan(QUICK.steps, early_people=[olive.pk], early=Step(0, people=1))
    release = rollout.begin(version, plan, note="Go", by=mei)
    with pytest.raises(NotPossible, match="waits for 1 more person"):
        rollout.advance(release, note="On", by=mei)
    conversation = Conversation.objects.create(owner=olive, release=release, arm="early")
    conversation.messages.create(role="assistant", state="completed", release=release, arm="early")
    release = rollout.advance(release, note="Olive likes it", by=mei)
    assert (release.state, release.share) == ("canary", 1_000)
    assert rollout.progress_of(release).people == 0


@pytest.mark.parametrize("verb", ["advance", "finish"])
def test_nobody_goes_on_from_a_step_that_they_did_not_see(release, mei, verb):
    rollout.advance(release, note="Fine", by=mei)
    with pytest.raises(NotPossible, match="went on meanwhile: Canary 50"):
        getattr(rollout, verb)(release, note="Fine", by=mei)
    assert (stored(release).step, stored(release).state) == (1, "canary")


def test_a_step_waits_for_its_sample_and_its_time(version, mei):
    plan = Plan(steps=(Step(1_000, people=1, turns=2, minutes=300), Step(5_000)))
    release = rollout.begin(version, plan, note="Go", by=mei)
    sentence = "waits for 1 more person, 2 more turns and 5 more hours"
    with pytest.raises(NotPossible, match=sentence):
        rollout.advance(release, note="On", by=mei)
    with pytest.raises(NotPossible, match=sentence):
        rollout.finish(release, note="On", by=mei)
    assert stored(release).step == 0


def test_only_the_last_step_leads_into_production(release, mei):
    with pytest.raises(NotPossible, match="steps left"):
        rollout.finish(release, note="On", by=mei)


def test_the_time_of_a_pause_does_not_count(version, mei):
    plan = Plan(steps=(Step(1_000, minutes=60), Step(5_000)))
    release = rollout.begin(version, plan, note="Go", by=mei)
    rollout.pause(release, note="Hm", by=mei)
    with pytest.raises(NotPossible, match="paused already"):
        rollout.pause(release, note="Hm", by=mei)
    with pytest.raises(NotPossible, match="Let it go on"):
        rollout.advance(release, note="On", by=mei)
    earlier = timedelta(minutes=90)
    Release.objects.filter(pk=release.pk).update(
        step_began_at=F("step_began_at") - earlier, paused_at=F("paused_at") - earlier / 2
    )
    release = rollout.resume(release, note="Fine", by=mei)
    assert rollout.progress_of(release).minutes == 45
    with pytest.raises(NotPossible, match="15 more minutes"):
        rollout.advance(release, note="On", by=mei)
    with pytest.raises(NotPossible, match="not paused"):
        rollout.resume(release, note="Fine", by=mei)


@pytest.mark.parametrize("first", ["advance", "pause"])
def test_a_release_that_is_over_stays_over(release, template, mei, first):
    getattr(rollout, first)(release, note="Hm", by=mei)
    rollout.roll_back(release, note="Too many errors", by=mei)
    for verb in (rollout.advance, rollout.pause, rollout.resume, rollout.roll_back, rollout.finish):
        with pytest.raises(NotPossible, match="v2 is over: it is rolled back"):
            verb(release, note="On", by=mei)
    assert live(template) == 1


def test_a_rollback_is_one_persons_act_and_flagged_where_that_is_an_author(template, both, mei):
    draft = written(template, both)
    publishing.publish(draft, content_hash=draft.content_hash, note="Go", by=mei, for_release=True)
    rollout.roll_back(rollout.begin(draft, QUICK, note="Go", by=mei), note="Bad", by=mei)
    rollout.roll_back(rollout.begin(draft, QUICK, note="Go", by=mei), note="Bad", by=both)
    flags = [entry.payload["emergency"] for entry in entries("release.rolled_back")]
    assert flags == [False, True]
    decisions = ReleaseDecision.objects.filter(verb="rolled_back")
    assert [one.is_emergency for one in decisions] == flags


def test_a_part_of_parley_rolls_back_with_its_numbers(release):
    rollout.roll_back(release, note="Errors", by=System("guards"), numbers={"errors": 0.2})
    (entry,) = entries("release.rolled_back")
    assert (entry.actor_id, entry.payload["numbers"]) == ("guards", {"errors": 0.2})
    decision = release.decisions.last()
    assert (decision.by, decision.part, decision.numbers) == (None, "guards", {"errors": 0.2})


@pytest.mark.parametrize("verb", ["advance", "pause", "roll_back"])
def test_every_act_needs_a_note(release, mei, verb):
    with pytest.raises(NotPossible, match="Say why"):
        getattr(rollout, verb)(release, note="  ", by=mei)
    assert release.decisions.count() == 1


ACTS = ("advance", "pause", "resume", "roll_back", "finish")


@how(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(acts=st.lists(st.sampled_from(ACTS), max_size=8))
def test_whatever_is_tried_the_share_only_grows_and_an_end_is_an_end(version, mei, acts):
    with transaction.atomic():
        release = rollout.begin(version, QUICK, note="Go", by=mei)
        seen = [(release.state, release.share)]
        for act in acts:
            try:
                release = getattr(rollout, act)(release, note="Go", by=mei)
            except NotPossible:
                continue
            seen.append((release.state, release.share))
        states, shares = zip(*seen, strict=True)
        assert list(shares) == sorted(shares)
        assert not {"finished", "rolled_back"} & set(states[:-1])
        assert stored(release).decisions.count() == len(seen)
        transaction.set_rollback(True)


# --- what the database refuses -----------------------------------------------------------------

STAYS = [
    "UPDATE prompts_release SET salt = 'another'",
    "UPDATE prompts_release SET version_id = replaces_id",
    "UPDATE prompts_release SET steps = steps - 1",
    "UPDATE prompts_release SET step = 0, share = 1000",
    "UPDATE prompts_release SET began_by_id = NULL",
    "DELETE FROM prompts_release",
    "TRUNCATE prompts_release CASCADE",
    "UPDATE prompts_releasedecision SET note = 'as agreed'",
    "DELETE FROM prompts_releasedecision",
    "TRUNCATE prompts_releasedecision",
]


def refuses(statement: str, why: str) -> None:
    with pytest.raises(Error, match=why), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize("statement", STAYS)
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_sql_changes_nothing_of_what_was_decided(release, mei, statement, role):
    rollout.advance(release, note="Fine", by=mei)
    # A table with triggers that still wait for the commit can't be emptied anyway.
    first = f"SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL session_replication_role = {role}"
    refuses(f"{first}; {statement}", "never|stays|leads")


@pytest.mark.parametrize("change", ["state = 'canary'", "share = 1", "ended_at = NULL"])
def test_sql_opens_no_release_that_is_over(release, mei, change):
    rollout.roll_back(release, note="Bad", by=mei)
    refuses(f"UPDATE prompts_release SET {change}", "over is never changed")


def steps(*shares: object) -> list[dict]:
    return [{"share": share, "people": 0, "turns": 0, "minutes": 0} for share in shares]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"steps": steps(1_000, 12_000)}, "release_(steps_rise|has_the_share)"),
        ({"steps": steps(1_000, 1_000)}, "release_(steps_rise|has_the_share)"),
        ({"steps": steps(1_000, 500)}, "release_(steps_rise|has_the_share)"),
        ({"steps": steps(-1, 1_000)}, "release_(steps_rise|has_the_share)"),
        ({"steps": steps(None)}, "release_(steps_rise|has_the_share)"),
        (
            {"steps": steps(0), "share": 0, "state": "early_access"},
            "release_(steps_rise|has_the_share)",
        ),
        ({"steps": []}, "release_(steps_rise|has_the_share)"),
        ({"steps": {"share": 1_000}}, "release_(steps_rise|has_the_share)"),
        ({"steps": [{"share": 1_000}]}, "release_(steps_rise|has_the_share)"),
        ({"share": 2_000}, "share_of_its_step"),
        ({"step": 7}, "share_of_its_step"),
        ({"state": "early_access"}, "early_access_is_without_share"),
        ({"state": "somewhere"}, "release_state_known"),
        ({"state": "paused"}, "paused_release_says_since_when"),
    ],
)
def test_sql_takes_no_release_that_can_not_be(version, template, wrong, why):
    usual = {"steps": steps(1_000), "share": 1_000, "state": "canary"}
    release = Release(
        template=template, version=version, replaces=template.live_version, **{**usual, **wrong}
    )
    with pytest.raises(Error, match=why), transaction.atomic():
        Release.objects.bulk_create([release])


def test_sql_releases_no_draft_nothing_of_another_template_and_no_two_at_once(
    release, template, iris, version
):
    draft = written(template, iris, "Unfinished.")
    foreign = PromptTemplate.objects.get(slug="support-agent").live_version
    for wrong, why in [
        ({"version": draft}, "leads from one published"),
        ({"version": foreign}, "leads from one published"),
        ({"replaces": foreign}, "leads from one published"),
        ({"version": template.live_version}, "leads from one published"),
        ({}, "one_release_under_way"),
    ]:
        given_ = {"version": version, "replaces": template.live_version, **wrong}
        other = Release(
            template=template, steps=steps(1_000), share=1_000, state="canary", **given_
        )
        with pytest.raises(Error, match=why), transaction.atomic():
            Release.objects.bulk_create([other])


def test_progress_is_one_query(release, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert rollout.progress_of(release, now=timezone.now()).lacking == ""
