"""What a turn is told while a version is released: drawn once, pinned, overridden by a rollback."""

import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import User
from audit.models import Entry
from audit.trail import acting_as
from conversations.feedback import Opinion, rate
from conversations.models import Conversation, Message, Rating, Satisfaction
from conversations.satisfaction import give
from conversations.turn import continue_turn, start_turn
from conversations.turn.opening import Program
from prompts import publishing
from prompts.models import Arm, PromptTemplate, PromptVersion, Release, VersionFigures
from prompts.publishing import Terms
from prompts.release import rollout
from prompts.release.rollout import Plan, Step
from tests.conversations.doors import program_of, replies, slow, streamed

pytestmark = pytest.mark.django_db

EVERYBODY = Plan(steps=(Step(10_000),))
NOBODY_YET = Plan(steps=(Step(1), Step(10_000)))
LIVE, NEW = "Be as before.", "Be brief."


@dataclass
class Rollout:
    """The summariser, v2 live and v3 published to be released, and who may decide about it."""

    template: PromptTemplate
    version: PromptVersion
    mei: User

    def begin(self, plan: Plan = EVERYBODY) -> Release:
        return rollout.begin(self.version, plan, note="Go", by=self.mei)


@pytest.fixture
def released(make_user) -> Rollout:
    iris, mei = make_user("iris", "prompt_editor"), make_user("mei", "prompt_publisher")
    template = PromptTemplate.objects.get(slug="summariser")
    for content, later in ((LIVE, False), (NEW, True)):
        with acting_as(iris):
            draft = publishing.begin_draft(template, Terms(content), by=iris)
        with acting_as(mei):
            version = publishing.publish(
                draft, content_hash=draft.content_hash, note="Agreed", by=mei, for_release=later
            )
    return Rollout(template, version, mei)


@pytest.fixture
def ask(olive, runner_row):
    def start(conversation=None, by=None):
        return start_turn(
            conversation.pk if conversation else uuid.uuid4(),
            by=by or olive,
            text="Hello?",
            key=uuid.uuid4().hex,
            runner_id=runner_row.pk,
            template="summariser",
        )

    return start


def told(turn) -> str:
    (system, *_) = turn.call.messages
    return system["content"]


def ended(turn) -> Conversation:
    Message.objects.filter(pk=turn.reply.pk).update(state="completed")
    return turn.conversation


def stored(turn) -> Message:
    return Message.objects.select_related("prompt_version").get(pk=turn.reply.pk)


def unlucky(begun: Release, *people: User) -> User:
    """Somebody whom the first share does not draw."""
    from prompts.release.arms import is_drawn

    return next(one for one in people if not is_drawn(begun.salt, one.pk, begun.share))


def test_whom_the_share_draws_gets_the_new_version_and_the_reply_says_so(ask, released):
    release = released.begin()
    turn = ask()
    reply = stored(turn)
    assert told(turn) == NEW
    assert (reply.prompt_version, reply.release, reply.arm) == (
        released.version,
        release,
        Arm.CANARY,
    )
    assert (reply.is_fallback, reply.model) == (False, "gpt-4o-mini")
    assert reply.prompt_version.content_hash == released.version.content_hash
    conversation = Conversation.objects.get(pk=turn.conversation.pk)
    assert (conversation.release, conversation.arm) == (release, Arm.CANARY)


def test_the_numbers_that_a_program_asks_for_stay_with_the_reply(olive, runner_row):
    asked = {"temperature": 0.5, "max_tokens": 99, "stop": ["What I said"]}
    turn = start_turn(
        uuid.uuid4(),
        by=olive,
        text="Hello?",
        key="k",
        runner_id=runner_row.pk,
        program=Program(uuid.uuid4(), parameters=asked),
    )
    assert turn.call.parameters == {"temperature": 0.5, "stop": ["What I said"]}
    assert stored(turn).asked_parameters == {"temperature": 0.5, "max_tokens": 99}
    Message.objects.filter(pk=turn.reply.pk).update(state="failed", fault="cut")
    again = continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    assert (again.call.parameters, again.call.max_tokens) == ({"temperature": 0.5}, 99)


def test_the_others_get_the_live_one_and_are_counted_beside(ask, released, olive):
    release = released.begin(NOBODY_YET)
    turn = ask(by=unlucky(release, olive, released.mei))
    assert told(turn) == LIVE
    assert (stored(turn).release, stored(turn).arm) == (release, Arm.PRODUCTION)


def test_without_a_release_a_reply_is_of_production_and_of_no_release(ask, released):
    reply = stored(ask())
    assert (reply.release, reply.arm, reply.is_fallback) == (None, Arm.PRODUCTION, False)
    assert Conversation.objects.get(pk=reply.conversation_id).arm == ""


def test_the_early_access_is_for_the_group(ask, released, olive, make_user):
    otto = make_user("otto", "operator")
    plan = Plan(EVERYBODY.steps, early_role="operator", early_people=[released.mei.pk])
    released.begin(plan)
    assert [told(ask(by=one)) for one in (otto, released.mei, olive)] == [NEW, NEW, LIVE]
    arms = Message.objects.exclude(arm="").order_by("created_at").values_list("arm", flat=True)
    assert list(arms) == [Arm.EARLY, Arm.EARLY, Arm.PRODUCTION]


def test_a_conversation_stays_where_it_began_when_the_share_grows(ask, released, olive):
    before = ended(ask())
    release = released.begin(NOBODY_YET)
    person = unlucky(release, olive, released.mei)
    beside = ended(ask(by=person))
    rollout.advance(release, note="On", by=released.mei)
    assert told(ask(beside, by=person)) == LIVE
    assert told(ask(before)) == LIVE
    assert told(ask(by=person)) == NEW


def test_a_pause_lets_nobody_join_and_keeps_those_who_did(ask, released):
    release = released.begin()
    inside = ended(ask())
    rollout.pause(release, note="Hm", by=released.mei)
    assert told(ask(inside)) == NEW
    outside = ask()
    assert (told(outside), stored(outside).release) == (LIVE, None)


def test_a_rollback_holds_for_the_next_turn_of_a_conversation_that_was_pinned(ask, released):
    release = released.begin()
    inside = ended(ask())
    rollout.roll_back(release, note="Bad", by=released.mei)
    turn = ask(inside)
    assert told(turn) == LIVE
    assert (stored(turn).release, stored(turn).arm) == (None, Arm.PRODUCTION)


def test_a_rolled_back_version_never_serves_as_the_last_good_one(ask, released):
    rollout.roll_back(released.begin(), note="Bad", by=released.mei)
    PromptTemplate.objects.filter(pk=released.template.pk).update(live_version=None)
    conversation = Conversation.objects.create(owner=released.mei, template=released.template)
    turn = ask(conversation, by=released.mei)
    assert (told(turn), stored(turn).is_fallback) == (LIVE, True)


def test_finishing_makes_it_everybodys(ask, released):
    before = ended(ask())
    release = released.begin()
    rollout.finish(release, note="For all", by=released.mei)
    turn = ask(before)
    assert (told(turn), stored(turn).release, stored(turn).arm) == (NEW, None, Arm.PRODUCTION)


def test_the_next_release_draws_anew_and_holds_no_old_pins(ask, released):
    release = released.begin()
    inside = ended(ask())
    rollout.roll_back(release, note="Bad", by=released.mei)
    released.begin()
    assert told(ask(inside)) == LIVE
    assert told(ask()) == NEW


def test_a_reply_that_goes_on_keeps_what_it_began_with(ask, released, olive, runner_row):
    release = released.begin()
    turn = ask()
    Message.objects.filter(pk=turn.reply.pk).update(state="failed", fault="cut")
    rollout.roll_back(release, note="Bad", by=released.mei)
    again = continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    reply = stored(again)
    assert told(again) == NEW
    assert (reply.prompt_version, reply.release, reply.arm) == (
        released.version,
        release,
        Arm.CANARY,
    )


def broken(template: PromptTemplate) -> PromptVersion:
    """A published version that no turn can be told: as a restored backup might hold it."""
    version = PromptVersion(
        template=template,
        number=9,
        content="{{ who }}",
        published_at=timezone.now(),
        is_for_release=True,
    )
    return PromptVersion.objects.bulk_create([version])[0]


def test_a_canary_that_can_not_be_told_gives_way_to_the_live_version(ask, released):
    released.version = broken(released.template)
    release = released.begin()
    turn = ask()
    reply = stored(turn)
    assert told(turn) == LIVE
    assert (reply.release, reply.arm, reply.is_fallback) == (release, Arm.CANARY, True)
    (entry,) = Entry.objects.filter(event="prompt.unavailable")
    assert entry.outcome == "failed"


def test_a_reply_that_goes_on_by_another_version_says_so(ask, released, olive, runner_row):
    turn = ask()
    Message.objects.filter(pk=turn.reply.pk).update(
        state="failed", fault="cut", prompt_version=broken(released.template)
    )
    again = continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    reply = stored(again)
    assert (told(again), reply.prompt_version.content, reply.is_fallback) == (LIVE, LIVE, True)


def test_a_release_costs_a_turn_no_statement(ask, released, olive, django_assert_num_queries):
    olive = User.objects.with_roles().get(pk=olive.pk)
    before = ended(ask(by=olive))
    savepoint = 2  # of the test alone, in whose transaction everything happens
    with django_assert_num_queries(8 + savepoint):
        ask(before, by=olive)
    released.begin(Plan(EVERYBODY.steps, early_role="member"))
    inside = ended(ask(by=olive))
    with django_assert_num_queries(8 + savepoint):
        turn = ask(inside, by=olive)
    with django_assert_num_queries(11 + savepoint):
        ask(by=olive)
    assert told(turn) == NEW


def test_what_people_think_counts_for_the_release_and_its_arm(ask, released, olive):
    release = released.begin()
    turn = ask()
    reply, conversation = stored(turn), ended(turn)
    rate(olive, conversation.pk, reply.pk, Opinion(Rating.DOWN))
    rate(olive, conversation.pk, reply.pk, Opinion(Rating.UP))
    Satisfaction.objects.create(conversation=conversation, asked_at=timezone.now())
    give(olive, conversation.pk, 4)
    counted = VersionFigures.objects.exclude(thumbs_up=0, satisfaction_count=0)
    assert set(counted.values_list("version", "release", "arm")) == {
        (released.version.pk, release.pk, Arm.CANARY)
    }
    kept = Satisfaction.objects.get()
    assert (kept.prompt_version, kept.release, kept.arm) == (released.version, release, "canary")
    assert release.tallies.get(kind="ratings").thumbs_down == 1  # the first one alone


def test_the_sample_of_a_step_counts_people_and_turns_of_the_canary(ask, released, olive):
    release = released.begin(Plan(steps=(Step(10_000, people=2, turns=3),)))
    conversation = ended(ask())
    ended(ask(conversation))
    ask(by=released.mei)  # still being written
    progress = rollout.progress_of(release)
    assert (progress.people, progress.turns) == (1, 2)
    assert progress.lacking == "1 more person and 1 more turn"


@pytest.mark.django_db(transaction=True)
def test_a_reply_that_is_being_written_ends_on_what_it_began_with(live, olive, released):
    release = released.begin()
    conversation = Conversation.objects.create(
        owner=olive, template=released.template, release=release, arm=Arm.CANARY
    )
    asked = {"session_id": str(conversation.pk)}
    with program_of(live.url, olive) as program:
        body = {**asked, "user_message": slow(words=40, per_second=40)}
        with streamed(program, "/chat", body) as events:
            next(piece for name, piece in events if name == "text.delta")
            rollout.roll_back(release, note="Bad", by=released.mei)
            assert replies()[0].state == "streaming"
            list(events)
        assert program.post("/chat", json={**asked, "user_message": "And now?"}).is_success
    running, following = replies()
    assert (running.state, running.content.split()) == ("completed", ["word"] * 40)
    assert (running.prompt_version, running.release, running.arm) == (
        released.version,
        release,
        Arm.CANARY,
    )
    assert (following.prompt_version.content, following.arm) == (LIVE, Arm.PRODUCTION)


ELSEWHERE = """
import sys, uuid
import django
django.setup()
from prompts.release.arms import Pin
from prompts.serving import chosen_before, wording_for
template, release = map(uuid.UUID, sys.argv[1:])
for line in sys.stdin:
    wording = wording_for(chosen_before(template), Pin(release, "canary"))
    print(wording.text, flush=True)
"""


@pytest.mark.django_db(transaction=True)
def test_a_rollback_holds_for_the_next_turn_of_every_process(released):
    release = released.begin()
    arguments = [sys.executable, "-c", ELSEWHERE, str(released.template.pk), str(release.pk)]
    env = {**os.environ, "DATABASE_URL": _url_of_this_database()}
    processes = [
        subprocess.Popen(
            arguments,
            env=env,
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    def next_turns() -> list[str]:
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return [process.stdout.readline().strip() for process in processes]

    try:
        assert next_turns() == [NEW, NEW]
        assert next_turns() == [NEW, NEW]  # from what they keep in memory
        rollout.roll_back(release, note="Bad", by=released.mei)
        assert next_turns() == [LIVE, LIVE]
    finally:
        for process in processes:
            process.communicate(timeout=30)


def _url_of_this_database() -> str:
    base, _, query = os.environ["DATABASE_URL"].partition("?")
    name = connection.settings_dict["NAME"]
    return f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
