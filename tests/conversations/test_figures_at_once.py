"""Turns that end, ratings and continuations at the same moment, on connections of their own."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import Sum
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from conversations.feedback import Opinion, rate, unrate
from conversations.models import Message, Rating, Runner
from conversations.turn import (
    Progress,
    TurnEnded,
    close_abandoned,
    close_reply,
    continue_turn,
    counting,
    request_stop,
)
from prompts.figures import rollups
from prompts.models import Arm, ArmTally, PromptTemplate, PromptVersion, Release, VersionFigures
from prompts.provider import Usage

pytestmark = pytest.mark.django_db(transaction=True)
State = Message.State
PATIENCE_SECONDS = 20


@pytest.fixture
def release() -> Release:
    """A release whose first share is drawn; tests say who got it."""
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
    step = {"share": 5000, "people": 0, "turns": 0, "minutes": 0}
    return Release.objects.create(
        template=template,
        version=version,
        replaces=template.live_version,
        steps=[step],
        share=5000,
        state="canary",
        step_began_at=timezone.now() - timedelta(hours=1),
    )


@pytest.fixture
def beside():
    """Run something in a thread with a connection of its own."""
    with ThreadPoolExecutor(12) as threads:

        def run(work, *args, **kwargs):
            def alone():
                try:
                    return work(*args, **kwargs)
                finally:
                    connection.close()

            return threads.submit(alone)

        yield run


def put_on(release: Release, reply: Message, arm: str, **columns) -> None:
    """Let a reply stand on an arm; on the canary without a fallback, its version serves."""
    told = release.version_id if arm == Arm.CANARY else release.replaces_id
    names = {"release_id": release.pk, "arm": arm, "prompt_version_id": told, **columns}
    Message.objects.filter(pk=reply.pk).update(**names)
    for name, value in names.items():
        setattr(reply, name, value)


def close(reply: Message, state: str = "completed", words: str = "Some text.") -> None:
    usage = Usage(20, 0, 5)
    ended = TurnEnded(State(state), usage=usage, first_token_ms=300, duration_ms=1200)
    close_reply(reply, Progress(words, "", 3), ended)


def wait_until_somebody_waits_for_a_lock() -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError("Nobody waits for a lock.")


def figures_are_free() -> bool:
    """Whether nobody holds a row of figures. Raises OperationalError where somebody does."""
    return len(VersionFigures.objects.select_for_update(nowait=True)) > 0


def test_a_reply_that_goes_on_waits_for_its_rating_before_it_locks_figures(
    begin, olive, runner_row, beside
):
    turn = begin()
    close(turn.reply, "stopped")
    with transaction.atomic():  # as a rating begins
        Message.objects.select_for_update().get(pk=turn.reply.pk)
        where = {"by": olive, "runner_id": runner_row.pk}
        going_on = beside(continue_turn, turn.conversation.pk, turn.reply.pk, **where)
        wait_until_somebody_waits_for_a_lock()
        assert figures_are_free()
    assert going_on.result(PATIENCE_SECONDS).reply.is_open


def test_a_turn_that_waits_for_guards_holds_up_no_other_turn(begin, release, beside, monkeypatch):
    monkeypatch.setattr(rollups, "SHARDS", 1)
    first, second = begin(), begin()
    for turn in (first, second):
        put_on(release, turn.reply, Arm.CANARY)
    close(first.reply)
    ArmTally.objects.update(window=3)  # with room for the next one
    with transaction.atomic():  # as guards compare
        assert ArmTally.objects.select_for_update(no_key=True).get()
        closing = beside(close, second.reply)
        wait_until_somebody_waits_for_a_lock()
        assert figures_are_free()
    closing.result(PATIENCE_SECONDS)
    assert VersionFigures.objects.aggregate(Sum("turns"))["turns__sum"] == 2


def test_two_processes_that_clear_up_write_tallies_of_a_person_in_one_order(
    begin, release, monkeypatch
):
    replies = [begin().reply for _ in range(4)]
    for reply, arm in zip(replies, [Arm.CANARY, Arm.PRODUCTION] * 2, strict=True):
        put_on(release, reply, arm)
    written: list[str] = []
    monkeypatch.setattr(counting, "tally", lambda reply, *_, **__: written.append(reply.arm))
    counting.count_abandoned(replies[:2])
    counting.count_abandoned(replies[:1:-1])
    assert written[:2] == written[2:]
    assert len(set(written)) == 2


def test_whoever_ends_continues_stops_and_rates_at_once_comes_through_and_is_counted(
    begin, olive, sam, release, runner_row, beside, monkeypatch
):
    """Of what is done at once, nothing fails; and then the sums are those of the replies."""
    monkeypatch.setattr(rollups, "SHARDS", 2)  # everybody meets
    dead = Runner.objects.create(host="gone", pid=2, beat_at=Now() - timedelta(minutes=1))
    people = [User.objects.with_roles().get(pk=person.pk) for person in (olive, sam)]

    def live(number: int, owner: User, reply: Message) -> None:
        where = reply.conversation_id, reply.pk
        for run in range(3):
            if number % 4 == run:
                Message.objects.filter(pk=reply.pk).update(runner=dead)
                request_stop(reply.conversation_id, by=owner)
                close_abandoned()
            close(reply, ["stopped", "failed", "stopped"][run])
            reply = continue_turn(*where, by=owner, runner_id=runner_row.pk).reply
        close(reply)

    def judge(number: int, owner: User, reply: Message) -> None:
        where = reply.conversation_id, reply.pk
        for each in range(6):
            rate(owner, *where, Opinion(Rating.DOWN if each % 2 else Rating.UP))
            if (number + each) % 5 == 0:
                unrate(owner, *where)

    under_way = []
    for number in range(16):
        owner = people[number % 2]
        reply = begin(by=owner).reply
        arm = Arm.CANARY if number % 4 < 2 else Arm.PRODUCTION
        fallback = arm == Arm.CANARY and number % 3 == 0
        told = {"prompt_version_id": release.replaces_id} if fallback else {}
        put_on(release, reply, arm, is_fallback=fallback, **told)
        under_way += [beside(work, number, owner, reply) for work in (live, judge)]
    for one in under_way:
        one.result(PATIENCE_SECONDS)
    assert counted() == expected()


def counted() -> Counter:
    found: Counter = Counter()
    for row in VersionFigures.objects.all():
        for name in ("turns", "errors", "missed", "fallbacks", "thumbs_up", "thumbs_down"):
            found[row.version_id, row.arm, name] += getattr(row, name)
        for name in ("first_token", "duration"):
            found[row.version_id, row.arm, name] += sum(getattr(row, name).values())
    return +found


def expected() -> Counter:
    found: Counter = Counter()
    for reply in Message.objects.filter(role="assistant").select_related("feedback", "release"):
        at = reply.prompt_version_id, reply.arm
        found[*at, "turns"] += 1
        found[*at, "errors"] += reply.state in {State.FAILED, State.INTERRUPTED}
        found[*at, "fallbacks"] += reply.is_fallback
        found[reply.release.version_id, reply.arm, "missed"] += reply.is_fallback
        found[*at, "first_token"] += reply.first_token_ms is not None
        found[*at, "duration"] += reply.state == State.COMPLETED
        if rating := getattr(reply, "feedback", None):
            found[*at, f"thumbs_{rating.rating}"] += 1
    return +found
