"""Holds against the purge: whatever happens in whatever order, held words stay and due ones go."""

import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.db.models import Value
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from accounts.models import User
from conversations import encryption, keyring
from conversations.encryption import day_of, open_sealed
from conversations.keyring import KeyGone, Unreadable
from conversations.models import (
    BreakGlassGrant,
    Conversation,
    HeldKey,
    Hold,
    Message,
    RetentionPolicy,
    conversation,
)
from conversations.retention import holds
from conversations.retention.deletion import delete_conversations
from conversations.retention.policies import PeriodRefused, set_period
from conversations.retention.purge import cutoffs, purge

pytestmark = pytest.mark.django_db
EVENTS = st.sampled_from(
    [
        *("somebody_says", "somebody_says", "somebody_says", "a_title_is_given"),
        *("a_person_is_held", "a_conversation_is_held", "a_hold_is_lifted", "a_hold_is_lifted"),
        *("somebody_deletes", "the_policy_becomes"),
    ]
)
HOURS = st.sampled_from([24 * 5, 24, 7, 0])
TASKS = st.sampled_from(
    [("holds_end", "the_purge_runs"), ("the_purge_runs", "holds_end"), ("the_purge_runs",), ()]
)
BEGINNING = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)


class Clock(datetime):
    """Stands in for `datetime` where the code asks for the time."""

    moment = BEGINNING

    @classmethod
    def now(cls, tz=None):
        return cls.moment


@dataclass
class Said:
    """What the machine knows of a message."""

    talk: uuid.UUID
    text: str
    at: datetime
    sealed: bytes
    is_lost: bool = False  # its hold ended when its day's key was gone: it waits for the purge


@dataclass
class Talk:
    """What the machine knows of a conversation."""

    owner: User
    title: str = ""
    hidden_title: str = ""
    hidden_before: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    messages: list[uuid.UUID] = field(default_factory=list)


class HoldsAgainstPurge(RuleBasedStateMachine):
    """The house by a simple model, beside the real one."""

    folder, ravi, people = None, None, ()

    def __init__(self):
        super().__init__()
        self.alone = transaction.atomic()
        self.alone._from_testcase = True  # what must not run in a transaction runs in this one
        self.alone.__enter__()
        django_settings.KEYRING = f"{self.folder}/{uuid.uuid4()}"
        holds.forget_held_keys()
        Clock.moment = BEGINNING
        self.said: dict[uuid.UUID, Said] = {}
        self.talks: dict[uuid.UUID, Talk] = {}
        self.gone: list[tuple[uuid.UUID, Said]] = []
        self.count = 0

    def teardown(self):
        transaction.set_rollback(True)
        self.alone.__exit__(None, None, None)

    # --- what happens

    def wait(self, hours, tasks):
        """Let time pass; mostly the tasks of each hour run then, in either order."""
        Clock.moment += timedelta(hours=hours)
        for task in tasks if hours else ():
            getattr(self, task)()

    @initialize()
    def something_was_said(self):
        self.the_policy_becomes(2)
        Clock.moment += timedelta(days=2)
        self.somebody_says(0)

    # One rule for all: hypothesis leaves rules out of most runs, and few things happen to many.
    @rule(what=EVENTS, which=st.integers(0, 5), hours=HOURS, tasks=TASKS)
    def something_happens(self, what, which, hours, tasks):
        """Time passes, mostly the tasks of each hour run, in either order; then an event."""
        Clock.moment += timedelta(hours=hours)
        for task in tasks if hours else ():
            getattr(self, task)()
        getattr(self, what)(which)

    def somebody_says(self, which):
        owner = self.people[which == 1]
        own = sorted(Conversation.objects.visible_to(owner).values_list("pk", flat=True))
        if which in {0, 1} or not own:
            talk = Conversation.objects.create(owner=owner, key_day=Clock.moment.date())
            self.talks[talk.pk] = Talk(owner)
        else:
            talk = Conversation.objects.get(pk=own[which % len(own)])
        self.count += 1
        text = f"words {self.count}"
        message = Message(conversation=talk, role="user", state="said", created_at=Clock.moment)
        message.content = text
        message.save()
        Conversation.objects.filter(pk=talk.pk).update(leaf=message)
        self.said[message.pk] = Said(talk.pk, text, Clock.moment, bytes(message.content_sealed))
        self.talks[talk.pk].messages.append(message.pk)

    def a_title_is_given(self, which):
        if pk := self._one_of_talks(which):
            self.count += 1
            talk = Conversation.objects.get(pk=pk)
            talk.title = self.talks[pk].title = f"title {self.count}"
            talk.save(update_fields=["title_sealed"])

    def a_person_is_held(self, which):
        self._place(self.people[which % 2])

    def a_conversation_is_held(self, which):
        if pk := self._one_of_talks(which):
            self._place(Conversation.objects.get(pk=pk))

    def _place(self, on):
        review = Clock.moment.date() + timedelta(days=90)
        holds.place(on, matter="Case 7", reason="A claim.", review_on=review, by=self.ravi)

    def a_hold_is_lifted(self, which):
        standing = list(Hold.objects.filter(lifted_at=None).order_by("pk"))
        if standing:
            holds.lift(standing[which % len(standing)], reason="Settled.", by=self.ravi)

    def holds_end(self):
        before = self._held()
        holds.end_due(Clock.moment)
        days = set(keyring.keyring().days())
        freed = before - self._held()
        for one in self.said.values():
            if one.talk in freed and day_of(one.sealed) not in days:
                one.is_lost = True
        for pk in freed:
            # May be lost with their days, and are asked for no more.
            self.talks[pk].title = self.talks[pk].hidden_title = ""

    def somebody_deletes(self, which):
        if pk := self._one_of_talks(which):
            is_held = pk in self._held()
            with transaction.atomic():
                deleted = delete_conversations([pk])
            assert (pk in deleted.held) is is_held
            if not is_held:
                self._went(pk, self.talks[pk].messages)

    def the_policy_becomes(self, which):
        policy, hours = RetentionPolicy.objects.get(pk=1), [1, 24, 24 * 7][which % 3]
        with suppress(PeriodRefused):  # it is so long already
            set_period(policy, hours, by=self.ravi, now=Clock.moment)

    def the_purge_runs(self):
        held = self._held()
        run = purge(Clock.moment)
        assert (run.state, run.skipped) == ("finished", 0)
        [before] = [each.before for each in cutoffs(Clock.moment) if each.retention_class == 1]
        for pk, talk in list(self.talks.items()):
            if pk not in held:
                self._went(pk, [each for each in talk.messages if self.said[each].at < before])
        stored = Conversation.objects.in_bulk(self.talks)
        for pk, talk in self.talks.items():
            if pk in held and any(self.said[each].at < before for each in talk.messages):
                talk.hidden_before = max(talk.hidden_before, before)
            if not stored[pk].title_sealed:  # older than what is left
                talk.hidden_title = talk.hidden_title or talk.title if pk in held else ""
                talk.title = ""
        days = [day for day in keyring.keyring().days() if day.retention_class == 1]
        assert all(day.day >= before.date() for day in days)

    def _went(self, pk, messages):
        for each in list(messages):
            self.talks[pk].messages.remove(each)
            self.gone.append((each, self.said.pop(each)))
        if not self.talks[pk].messages:
            del self.talks[pk]

    # --- what must hold

    @invariant()
    def what_should_be_there_is_there_and_nothing_else(self):
        assert set(Message.objects.values_list("pk", flat=True)) == set(self.said)
        assert set(Conversation.objects.values_list("pk", flat=True)) == set(self.talks)

    @invariant()
    def what_is_there_can_be_read(self):
        holds.forget_held_keys()
        for message in Message.objects.select_related("conversation"):
            known = self.said[message.pk]
            if known.is_lost:
                with pytest.raises(KeyGone):
                    _ = message.content
            else:
                assert message.content == known.text

    @invariant()
    def the_owner_sees_nothing_that_is_over_and_all_that_is_not(self):
        for person in self.people:
            own = Conversation.objects.visible_to(person)
            seen = {message.pk for one in own for message in one.shown_messages()}
            assert seen == set(
                Message.objects.shown()
                .filter(conversation__owner=person)
                .values_list("pk", flat=True)
            )
            assert seen == {
                pk
                for pk, one in self.said.items()
                if self.talks[one.talk].owner == person
                and one.at >= self.talks[one.talk].hidden_before
            }
            listed = {self.said[pk].talk for pk in seen}
            assert listed == set(own.values_list("pk", flat=True))

    @invariant()
    def counsel_sees_all_that_is_held(self):
        for person in self.people:
            scope = Conversation.objects.within(BreakGlassGrant(person=person))
            for one in scope:
                assert {each.pk for each in one.shown_messages()} == set(
                    self.talks[one.pk].messages
                )

    @invariant()
    def titles_can_be_read(self):
        for talk in Conversation.objects.annotate(is_whole=Value(True)):
            known = self.talks[talk.pk]
            if known.title:
                assert talk.title == known.title
            elif known.hidden_title:
                assert talk.known_title == known.hidden_title

    @invariant()
    def what_went_opens_only_while_its_key_is_needed(self):
        days = set(keyring.keyring().days())
        kept = set(HeldKey.objects.values_list("conversation_id", "retention_class", "day"))
        for pk, one in self.gone:
            day = day_of(one.sealed)
            if day in days or (one.talk, day.retention_class, day.day) in kept:
                continue
            with pytest.raises(Unreadable):
                open_sealed(one.sealed, f"conversations_message/{pk}/content_sealed", one.talk)

    @invariant()
    def what_is_held_is_told(self):
        assert holds.held(self.talks) == self._held()

    def _held(self):
        standing = Hold.objects.filter(ended_at=None)
        people = {hold.user_id for hold in standing}
        single = {hold.conversation_id for hold in standing}
        return {pk for pk, talk in self.talks.items() if pk in single or talk.owner.pk in people}

    def _one_of_talks(self, which):
        return list(self.talks)[which % len(self.talks)] if self.talks else None


def test_held_words_stay_and_due_ones_go(olive, sam, ravi, settings, tmp_path, monkeypatch):
    for module in (keyring, encryption, conversation, holds):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(timezone, "now", Clock.now)
    settings.HOLD_DELAY_DAYS = 5
    machine = type(
        "Machine", (HoldsAgainstPurge,), {"folder": tmp_path, "ravi": ravi, "people": (olive, sam)}
    )
    run_state_machine_as_test(machine, settings=QUICK)


QUICK = settings(
    max_examples=8,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
