"""What a turn counts as in the figures of its version, from its end to that of a continuation."""

from collections import Counter
from datetime import UTC, timedelta
from decimal import Decimal

import pytest
from django.db.models.functions import Now
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from audit.models import Entry
from conversations.models import Message, Runner
from conversations.retention.deletion import delete_conversations
from conversations.turn import (
    Progress,
    TurnEnded,
    can_continue,
    close_abandoned,
    close_reply,
    continue_turn,
)
from conversations.turn.closing import beat
from conversations.turn.guard import Found
from conversations.turn.trial import start_trial
from prompts.figures.rollups import bucket_of
from prompts.models import Arm, ArmTally, PromptTemplate, PromptVersion, Release, VersionFigures
from prompts.provider import Usage
from prompts.serving import Wording

pytestmark = pytest.mark.django_db
State = Message.State

SUMS = ("turns", "errors", "refusals", "fallbacks", "missed", "tokens_in", "tokens_out", "cost_usd")
ENDS = (State.COMPLETED, State.STOPPED, State.FAILED, State.REFUSED, State.INTERRUPTED)


@pytest.fixture
def release() -> Release:
    """A release of the general assistant that draws nobody by itself: tests say who got it."""
    template = PromptTemplate.objects.get(slug="general-assistant")
    version = PromptVersion(
        template=template,
        number=9,
        content="Be brief.",
        content_hash="",
        published_at=timezone.now(),
        is_for_release=True,
    )
    PromptVersion.objects.bulk_create([version])
    step = {"people": 0, "turns": 0, "minutes": 0}
    return Release.objects.create(
        template=template,
        version=version,
        replaces=template.live_version,
        steps=[{"share": 0, **step}, {"share": 5000, **step}],
        share=0,
        state="early_access",
        step_began_at=timezone.now() - timedelta(hours=1),
    )


def counted() -> dict[tuple, dict]:
    """Return the sums of the rows by version, release, arm and day."""
    found: dict[tuple, dict] = {}
    for row in VersionFigures.objects.all():
        sums = found.setdefault(
            (row.version_id, row.release_id, row.arm, row.day),
            dict.fromkeys(SUMS, 0) | {"first_token": Counter(), "duration": Counter()},
        )
        for name in SUMS:
            sums[name] += getattr(row, name)
        for name in ("first_token", "duration"):
            sums[name].update({int(bucket): n for bucket, n in getattr(row, name).items()})
    return {
        place: cleaned for place, sums in found.items() if any((cleaned := clean(sums)).values())
    }


def clean(sums: dict) -> dict:
    return {
        name: +value if isinstance(value, Counter) else Decimal(value)
        for name, value in sums.items()
    }


def computed() -> dict[tuple, dict]:
    """Return the same from the replies themselves."""
    found: dict[tuple, dict] = {}

    def sums_of(version_id, reply):
        day = reply.created_at.astimezone(UTC).date()
        return found.setdefault(
            (version_id, reply.release_id, reply.arm, day),
            dict.fromkeys(SUMS, 0) | {"first_token": Counter(), "duration": Counter()},
        )

    replies = Message.objects.filter(role="assistant", conversation__is_trial=False)
    for reply in replies.exclude(state=State.STREAMING).select_related("release"):
        sums = sums_of(reply.prompt_version_id, reply)
        sums["turns"] += 1
        sums["errors"] += reply.state in {State.FAILED, State.INTERRUPTED}
        sums["refusals"] += reply.state == State.REFUSED
        sums["fallbacks"] += reply.is_fallback
        for name in ("tokens_in", "tokens_out", "cost_usd"):
            sums[name] += getattr(reply, name) or 0
        if reply.first_token_ms is not None:
            sums["first_token"][bucket_of(reply.first_token_ms)] += 1
        if reply.state == State.COMPLETED:
            sums["duration"][bucket_of(reply.duration_ms)] += 1
        if reply.is_fallback and reply.arm == Arm.CANARY:
            sums_of(reply.release.version_id, reply)["missed"] += 1
    return {place: clean(sums) for place, sums in found.items()}


def ended(state: str, **facts) -> TurnEnded:
    return TurnEnded(State(state), **facts)


@pytest.fixture
def close():
    """End a turn, as a canary that serves, as one that can't, or outside of a release."""

    def close(turn, ending: TurnEnded, release=None, arm=Arm.PRODUCTION, fallback=False) -> Message:
        columns = {"release_id": release and release.pk, "arm": arm, "is_fallback": fallback}
        for name, value in columns.items():
            setattr(turn.reply, name, value)
        Message.objects.filter(pk=turn.reply.pk).update(**columns)
        assert close_reply(turn.reply, Progress("Some text.", "", 3), ending)
        return turn.reply

    return close


runs = st.builds(
    ended,
    st.sampled_from(ENDS),
    fault=st.sampled_from(["", "cut", "unreachable"]),
    usage=st.none() | st.builds(Usage, st.integers(5, 900), st.just(2), st.integers(0, 900)),
    first_token_ms=st.none() | st.integers(0, 60_000),
    duration_ms=st.integers(0, 600_000),
)
stands = st.sampled_from([(False, Arm.PRODUCTION), (True, Arm.PRODUCTION), (True, Arm.CANARY)])
turns = st.tuples(st.lists(runs, min_size=0, max_size=3), stands, st.booleans())


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(turns, min_size=1, max_size=3))
@example([([ended("failed", usage=Usage(9, 0, 9)), ended("completed")], (True, Arm.CANARY), True)])
def test_the_rows_say_what_the_replies_say(begin, close, release, olive, runner_row, histories):
    for ends, (in_release, arm), fallback in histories:
        turn = begin()
        is_fallback = fallback and arm == Arm.CANARY
        where = {"release": release if in_release else None, "arm": arm, "fallback": is_fallback}
        if not ends:
            Message.objects.filter(pk=turn.reply.pk).update(
                release=where["release"], arm=arm, is_fallback=is_fallback
            )
            Runner.objects.update(beat_at=Now() - timedelta(minutes=1))
            assert close_abandoned()
            beat(runner_row)
        for number, ending in enumerate(ends):
            if number:
                reply = Message.objects.get(pk=turn.reply.pk)
                if not can_continue(Message.objects.linked().get(pk=reply.pk)):
                    break
                turn = continue_turn(
                    turn.conversation.pk, reply.pk, by=olive, runner_id=runner_row.pk
                )
            close(turn, ending, **where)
    assert counted() == computed()


def figures() -> VersionFigures:
    return VersionFigures.objects.get()


def test_a_reply_that_is_written_or_goes_on_counts_as_no_turn(begin, close, olive, runner_row):
    turn = begin()
    assert not VersionFigures.objects.exists()
    close(turn, ended("failed", fault="cut"))
    assert (figures().turns, figures().errors) == (1, 1)
    continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    assert (figures().turns, figures().errors) == (0, 0)


def test_a_canary_that_can_not_serve_shows_on_its_own_figures(begin, close, release):
    close(begin(), ended("completed"), release, Arm.CANARY, fallback=True)
    served = VersionFigures.objects.get(version=release.replaces)
    missed = VersionFigures.objects.get(version=release.version)
    assert (served.turns, served.fallbacks, served.missed) == (1, 1, 0)
    assert (missed.turns, missed.fallbacks, missed.missed) == (0, 0, 1)
    assert {served.arm, missed.arm} == {"canary"}


def test_outside_of_a_release_the_live_version_missed_it(begin, close, release):
    turn = begin()
    turn.reply.prompt_version = release.version
    close(turn, ended("completed"), fallback=True)
    assert VersionFigures.objects.get(missed=1).version == release.replaces


def test_what_was_found_in_question_and_reply_is_counted(begin, close, rule):
    rule(words="tulip", action="flag", direction="both")
    turn = begin("A tulip?")
    found = turn.call.guard.found
    close(turn, ended("completed", question=found))
    assert (found, figures().policy_hits) == (Found(policy_hits=1), 1)
    assert Entry.objects.filter(event="policy.hit").count() == 1


@pytest.mark.parametrize(("mode", "hits"), [("pseudonymise", 2), ("mask", 2), ("off", 0)])
def test_personal_data_of_the_question_is_counted_where_it_is_hidden(begin, settings, mode, hits):
    settings.PII_MODE = mode
    turn = begin("Write to olive@example.org and sam@example.org")
    assert turn.call.guard.found.personal_data == hits


def test_a_question_is_counted_once_however_often_its_reply_goes_on(
    begin, close, olive, runner_row, settings
):
    settings.PII_MODE = "mask"
    turn = begin("Write to olive@example.org")
    close(turn, ended("failed", fault="cut", question=turn.call.guard.found))
    again = continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    assert again.call.guard.found == Found()
    close(again, ended("completed", question=again.call.guard.found))
    assert figures().personal_data_hits == 1


def test_trials_do_not_count(olive, runner_row):
    version = PromptTemplate.objects.get(slug="summariser").live_version
    turn = start_trial(
        Wording(version.content, version), "Hello?", by=olive, runner_id=runner_row.pk
    )
    assert turn.reply.prompt_version_id == version.pk
    assert close_reply(turn.reply, Progress("Hi.", "", 1), ended("completed"))
    assert not VersionFigures.objects.exists()


def test_a_dead_process_is_an_error_of_its_arm_for_the_guards_too(begin, release):
    turn = begin()
    Message.objects.filter(pk=turn.reply.pk).update(release=release, arm=Arm.CANARY)
    Runner.objects.update(beat_at=Now() - timedelta(minutes=1))
    (reply,) = close_abandoned()
    row = figures()
    assert (row.release, row.arm, row.turns, row.errors) == (release, "canary", 1, 1)
    assert row.cost_usd == reply.cost_usd > 0
    tally = ArmTally.objects.get()
    assert (tally.arm, tally.count, tally.errors) == ("canary", 1, 1)


def test_figures_stay_when_the_conversation_is_gone(finished):
    turn = finished()
    delete_conversations([turn.conversation.pk])
    assert not Message.objects.filter(pk=turn.reply.pk).exists()
    assert figures().turns == 1


def test_turns_that_end_at_once_mostly_meet_in_different_rows(finished):
    replies = [finished().reply for _ in range(6)]
    shards = {reply.pk.int % 8 for reply in replies}
    assert VersionFigures.objects.count() == len(shards)
    assert len({uuid7().int % 8 for _ in range(200)}) == 8
