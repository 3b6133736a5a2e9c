"""The session store: a warm one spares the query for the history, a stale one is never used."""

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import redis as redis_client
from django.conf import settings as configured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import User
from chatbot import telemetry
from conversations.keyring import KeyDay, keyring
from conversations.models import Conversation, Message
from conversations.reply.log import connect
from conversations.retention.deletion import delete_messages
from conversations.turn import (
    Progress,
    TurnEnded,
    close_abandoned,
    close_reply,
    continue_turn,
    start_turn,
    working_context,
)
from conversations.turn.context import told_for
from conversations.turn.guard import Guard
from conversations.turn.policy import Policy
from conversations.turn.privacy import Mode
from conversations.turn.working_context import forget, keep, key_of, recalled
from prompts.catalogue import Offer

OFFER = Offer("small", "Small", "", "", "small-1", 100_000, 1_000, None)
State = Message.State


@pytest.fixture(autouse=True)
def _nothing_is_read_anew_while_queries_are_counted(monkeypatch):
    monkeypatch.setattr("chatbot.kept.KEPT_SECONDS", 600)


@pytest.fixture(autouse=True)
def _redis_is_there():
    working_context._away.forget()
    yield
    working_context._away.forget()


@pytest.fixture
def store():
    with redis_client.Redis.from_url(configured.REDIS_URL) as client:
        yield client


def kept(turn) -> None:
    """Keep the branch of a turn whose reply is closed, as the runner does."""

    async def write() -> None:
        client = connect()
        await keep(client, turn.call.earlier, turn.question, turn.reply)
        await client.aclose()

    asyncio.run(write())


@pytest.fixture
def warm(finished):
    """A turn that has ended and whose branch is kept."""

    def make(*args, **given):
        turn = finished(*args, **given)
        kept(turn)
        turn.conversation.refresh_from_db()
        return turn

    return make


def count_of(outcome: str) -> float:
    return telemetry.session_store.labels(outcome)._value.get()


def said_to_model(turn) -> list[str]:
    return [message["content"] for message in turn.call.messages[1:]]


def test_a_warm_store_spares_the_query_for_the_history(
    warm, begin, olive, django_assert_num_queries
):
    conversation = warm("One?", "1").conversation
    olive = User.objects.with_roles().get(pk=olive.pk)
    savepoint = 2  # of the test alone
    with django_assert_num_queries(7 + savepoint):
        turn = begin("Two?", conversation, by=olive)
    assert said_to_model(turn) == ["One?", "1", "Two?"]


def test_what_is_kept_grows_with_the_conversation(warm, begin, django_assert_num_queries):
    turn = warm("One?", "1")
    for number in range(3):
        turn = warm(f"More {number}?", f"m{number}", conversation=turn.conversation)
    before = count_of("used")
    last = begin("Last?", turn.conversation)
    expected = ["One?", "1", "More 0?", "m0", "More 1?", "m1", "More 2?", "m2", "Last?"]
    assert (said_to_model(last), count_of("used") - before) == (expected, 1)


def test_a_reply_that_went_on_makes_it_stale(warm, finished, begin, olive, runner_row):
    turn = warm("One?", "1")
    Message.objects.filter(pk=turn.reply.pk).update(state=State.STOPPED)
    again = continue_turn(turn.conversation.pk, turn.reply.pk, by=olive, runner_id=runner_row.pk)
    assert close_reply(again.reply, Progress("1 and more", "", 0), TurnEnded(State.COMPLETED))
    before = count_of("stale")
    last = begin("Two?", turn.conversation)
    assert said_to_model(last) == ["One?", "1 and more", "Two?"]
    assert count_of("stale") == before + 1


def test_an_older_branch_that_is_written_late_is_not_used(warm, finished, begin):
    first = warm("One?", "1")
    second = finished("Two?", "2", conversation=first.conversation)
    kept(first)
    assert said_to_model(begin("Three?", second.conversation)) == [
        "One?",
        "1",
        "Two?",
        "2",
        "Three?",
    ]


def test_another_branch_is_not_used(warm, finished, begin):
    first = warm("One?", "1")
    second = warm("Two?", "2", conversation=first.conversation)
    other = finished("Other?", "o", conversation=first.conversation)
    kept(second)
    Conversation.objects.filter(pk=second.conversation.pk).update(leaf=other.reply)
    last = begin("Three?", second.conversation)
    assert said_to_model(last)[-3:] == ["Other?", "o", "Three?"]


def test_what_the_purge_took_is_told_no_more_though_redis_still_has_it(warm, begin):
    first = warm("One?", "1")
    second = warm("Two?", "2", conversation=first.conversation)
    gone = [(second.conversation.pk, each.pk) for each in (first.question, first.reply)]
    # Redis is told once this is committed, which is never in this test.
    delete_messages(gone, purged_before=second.question.created_at)
    assert recalled(second.conversation.pk) is not None
    assert said_to_model(begin("Three?", second.conversation)) == ["Two?", "2", "Three?"]


def test_redis_holds_no_words_and_forgets_in_time(warm, store, settings):
    settings.SESSION_STORE_SECONDS = 1800
    turn = warm("planted sentence of a question", "planted sentence of a reply")
    value = store.get(key_of(turn.conversation.pk))
    assert b"planted" not in value
    assert b"planted" not in keyring_opened(value, turn)  # each text is sealed for itself as well
    assert 1790 < store.ttl(key_of(turn.conversation.pk)) <= 1800


def keyring_opened(value: bytes, turn) -> bytes:
    return working_context.open_sealed(value, key_of(turn.conversation.pk), turn.conversation.pk)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: b"",
        lambda value: b"not sealed at all",
        lambda value: value[:-1],
        lambda value: value[:20] + bytes([value[20] ^ 1]) + value[21:],
    ],
    ids=["empty", "foreign", "cut", "changed"],
)
def test_a_corrupt_value_costs_only_the_query(warm, begin, store, damage):
    turn = warm("One?", "1")
    key = key_of(turn.conversation.pk)
    store.set(key, damage(store.get(key)))
    before = count_of("unreadable")
    assert said_to_model(begin("Two?", turn.conversation)) == ["One?", "1", "Two?"]
    assert count_of("unreadable") == before + 1


def test_a_value_of_another_conversation_does_not_open(warm, begin, store):
    mine, other = warm("One?", "1"), warm("Secret?", "s")
    store.set(key_of(mine.conversation.pk), store.get(key_of(other.conversation.pk)))
    assert said_to_model(begin("Two?", mine.conversation)) == ["One?", "1", "Two?"]


def test_a_destroyed_day_takes_it_along(warm, store):
    turn = warm("One?", "1")
    day = turn.reply.seal_key().day
    assert isinstance(day, KeyDay)
    keyring().destroy(day)
    assert recalled(turn.conversation.pk) is None


def test_redis_away_costs_only_the_query_and_is_asked_again_later(
    warm, begin, settings, monkeypatch
):
    turn = warm("One?", "1")
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    before = count_of("away")
    assert said_to_model(begin("Two?", turn.conversation)) == ["One?", "1", "Two?"]
    assert working_context._away.is_now()
    settings.REDIS_URL = configured.REDIS_URL  # still not asked
    assert recalled(turn.conversation.pk) is None
    assert count_of("away") == before + 2


async def test_keeping_never_raises(finished_turn):
    client = connect()
    client.set = _refusing
    before = count_of("not_kept")
    await keep(client, [], finished_turn.question, finished_turn.reply)
    assert count_of("not_kept") == before + 1
    await client.aclose()


async def _refusing(*_args, **_given):
    raise redis_client.ConnectionError("away")


@pytest.fixture
def finished_turn(finished):
    return finished()


def test_a_long_conversation_is_not_kept(finished, store):
    turn = finished("One?", "long " * 30_000)
    kept(turn)
    assert store.get(key_of(turn.conversation.pk)) is None


def test_what_is_forgotten_is_gone(warm, store):
    turns = [warm(), warm(), warm()]
    forget([turn.conversation.pk for turn in turns[:2]])
    left = [store.exists(key_of(turn.conversation.pk)) for turn in turns]
    assert left == [0, 0, 1]
    forget([])


def test_forgetting_while_redis_is_away_raises_nothing(warm, settings):
    turn = warm()
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    forget([turn.conversation.pk])


# --- with the store as without ------------------------------------------------------------------

EVENTS = ["ask", "ask", "ask", "go on", "switch", "edit", "retry", "die", "lose", "old", "refuse"]
EVENTS += ["purge"]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(st.sampled_from(EVENTS), min_size=4, max_size=14), seed=st.integers(0, 999))
def test_whatever_happens_the_model_is_told_the_same_as_without_the_store(
    events, seed, olive, runner_row, store
):
    life = _Life(olive, runner_row, store, random.Random(seed))
    for event in events:
        life.happens(event)
        life.is_told_the_same()


class _Life:
    """A conversation to which things happen."""

    def __init__(self, owner, runner_row, store, chance) -> None:
        self.owner, self.runner_row, self.store, self.chance = owner, runner_row, store, chance
        self.id, self.values = uuid.uuid4(), []
        self.happens("ask")

    @property
    def conversation(self) -> Conversation:
        return Conversation.objects.select_related("leaf").get(pk=self.id)

    def happens(self, event: str) -> None:
        getattr(self, f"_{event.replace(' ', '_')}")()
        if value := self.store.get(key_of(self.id)):
            self.values.append(value)

    def _ask(self, ending: str = State.COMPLETED) -> None:
        text, key = f"Question {self.chance.random()}", uuid.uuid4().hex
        turn = start_turn(self.id, by=self.owner, text=text, key=key, runner_id=self.runner_row.pk)
        self._close(turn, f"Reply {self.chance.random()}", ending)

    def _close(self, turn, text: str, ending: str) -> None:
        assert close_reply(turn.reply, Progress(text, "", 0), TurnEnded(State(ending)))
        if self.chance.random() < 0.8:  # else its process died in this moment
            kept(turn)

    def _go_on(self) -> None:
        leaf = self.conversation.leaf
        if leaf.is_reply and leaf.parent_id:
            Message.objects.filter(pk=leaf.pk).update(state=State.STOPPED)
            turn = continue_turn(self.id, leaf.pk, by=self.owner, runner_id=self.runner_row.pk)
            self._close(turn, turn.reply.content + " and more", State.STOPPED)

    def _refuse(self) -> None:
        self._ask(State.REFUSED)

    def _die(self) -> None:
        key = uuid.uuid4().hex
        turn = start_turn(self.id, by=self.owner, text="?", key=key, runner_id=self.runner_row.pk)
        Message.objects.filter(pk=turn.reply.pk).update(runner=None)
        long_ago = datetime.now(UTC) - timedelta(minutes=5)
        Conversation.objects.filter(pk=self.id).update(last_message_at=long_ago)
        assert close_abandoned()

    def _leaf_becomes(self, role: str) -> None:
        ends = list(Message.objects.filter(conversation=self.id, role=role).order_by("created_at"))
        if ends:
            Conversation.objects.filter(pk=self.id).update(leaf=self.chance.choice(ends))

    def _switch(self) -> None:
        self._leaf_becomes("assistant")

    def _edit(self) -> None:
        self._leaf_becomes("assistant")
        self._ask()

    def _retry(self) -> None:
        self._leaf_becomes("user")
        self._ask()

    def _purge(self) -> None:
        """Delete the oldest message, as the purge does; its context stays behind in Redis."""
        oldest = list(Message.objects.filter(conversation=self.id).order_by("created_at", "pk")[:2])
        if len(oldest) == 2 and not oldest[1].is_open:
            gone = [(self.id, oldest[0].pk)]
            delete_messages(gone, purged_before=oldest[1].created_at)

    def _lose(self) -> None:
        self.store.delete(key_of(self.id))

    def _old(self) -> None:
        if self.values:
            self.store.set(key_of(self.id), self.chance.choice(self.values))

    def is_told_the_same(self) -> None:
        conversation = self.conversation
        question = Message(conversation=conversation, parent=conversation.leaf, role="user")
        question.content = "And now?"
        reply = Message(conversation=conversation, parent=question, role="assistant")
        reply.prompt_version = Message.objects.exclude(prompt_version=None)[0].prompt_version
        guard = Guard(conversation, Policy([]), Mode.OFF)
        told = [
            told_for("", reply, question, OFFER, guard, given)
            for given in (None, recalled(self.id))
        ]
        assert told[0].messages == told[1].messages
        assert told[0].turns_left_out == told[1].turns_left_out
