"""Whatever was said, branched and aged: a purge leaves exactly what is not due, and says the truth.

Real PostgreSQL; each history in a transaction that is undone.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import User
from audit.verify import CompactRange, leaf_hash
from conversations.models import Conversation, Feedback, Message, PurgeRun
from conversations.retention.purge import purge

NOW = datetime(2026, 11, 22, 13, tzinfo=UTC)
PERIODS = {1: 720, 2: 24}


@dataclass(frozen=True)
class Said:
    """A message: so many hours old, behind an earlier one of its conversation or none."""

    hours: int
    behind: int | None
    is_rated: bool


@dataclass(frozen=True)
class Told:
    """A conversation; `leaf` is one of its messages."""

    retention_class: int
    said: list[Said]
    leaf: int
    is_open: bool


@st.composite
def told(draw: st.DrawFn) -> Told:
    ages = sorted(draw(st.lists(st.integers(0, 1500), min_size=1, max_size=9)), reverse=True)
    said = [
        Said(
            hours,
            draw(st.one_of(st.none(), st.integers(0, at - 1))) if at else None,
            draw(st.booleans()),
        )
        for at, hours in enumerate(ages)
    ]
    is_open = len(said) > 1 and said[-1].behind is not None and draw(st.booleans())
    leaf = len(said) - 1 if is_open else draw(st.integers(0, len(said) - 1))
    return Told(draw(st.sampled_from([1, 2])), said, leaf, is_open)


class Undone(Exception):
    """Ends a transaction that is not to be kept."""


@contextmanager
def undone() -> Iterator[None]:
    try:
        with transaction.atomic():
            yield
            raise Undone
    except Undone:
        pass


@dataclass
class World:
    """What there is, and what a purge at NOW has to leave."""

    ids: list[list[uuid.UUID]] = field(default_factory=list)
    gone: set[uuid.UUID] = field(default_factory=set)

    def store(self, conversation: Told, owner: User) -> None:
        row = Conversation.objects.create(
            owner=owner,
            retention_class=conversation.retention_class,
            fence=9,
            key_day=(NOW - timedelta(hours=conversation.said[0].hours)).date(),
        )
        rows: list[Message] = []
        for at, said in enumerate(conversation.said):
            open_now = conversation.is_open and at == len(conversation.said) - 1
            rows.append(
                Message(
                    conversation=row,
                    parent=None if said.behind is None else rows[said.behind],
                    role="assistant",
                    state="streaming" if open_now else "completed",
                    # One of the same hour comes after the other.
                    created_at=NOW - timedelta(hours=said.hours) + timedelta(seconds=at),
                )
            )
        Message.objects.bulk_create(rows)
        Feedback.objects.bulk_create(
            Feedback(reply=one, rating="up")
            for one, said in zip(rows, conversation.said, strict=True)
            if said.is_rated
        )
        Conversation.objects.filter(pk=row.pk).update(leaf=rows[conversation.leaf])
        self.ids.append([one.pk for one in rows])
        self._expect(conversation, rows)

    def _expect(self, conversation: Told, rows: list[Message]) -> None:
        cutoff = NOW - timedelta(hours=PERIODS[conversation.retention_class])
        kept = set()
        if conversation.is_open:
            kept = {rows[-1].pk, rows[-1].parent_id}
        self.gone |= {one.pk for one in rows if one.created_at < cutoff and one.pk not in kept}


@pytest.mark.django_db
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(histories=st.lists(told(), max_size=5), chunk=st.integers(1, 12), data=st.data())
def test_exactly_what_is_not_due_is_left(histories, chunk, data, olive) -> None:
    with undone():
        world = World()
        for history in histories:
            world.store(history, olive)
        before = {one.pk: one for one in Message.objects.all()}
        leaves = dict(Conversation.objects.values_list("pk", "leaf_id"))
        ordered = [
            one.pk
            for one in sorted(
                before.values(),
                key=lambda one: (one.conversation.retention_class, one.conversation_id.int,
                                 one.created_at, one.pk.int),
            )
            if one.pk in world.gone
        ]  # fmt: skip
        rated = Feedback.objects.filter(reply__in=world.gone).count()
        run = purge(NOW, chunk=chunk)
        assert run is not None
        left = {one.pk: one for one in Message.objects.all()}
        assert set(left) == set(before) - world.gone
        _check_tree(left, before, world.gone)
        _check_conversations(left, leaves, world.gone)
        _check_evidence(run, ordered, rated, len(leaves) - Conversation.objects.count())
        again = purge(NOW, chunk=data.draw(st.integers(1, 12)))
        assert again is not None
        assert set(again.counts.values()) == {0}


def _check_tree(left, before, gone) -> None:
    for pk, one in left.items():
        parent = before[pk].parent_id
        assert one.parent_id == (None if parent in gone else parent)


def _check_conversations(left, leaves, gone) -> None:
    living = {one.pk: one for one in Conversation.objects.all()}
    assert set(living) == {one.conversation_id for one in left.values()}
    for pk, conversation in living.items():
        own = [one for one in left.values() if one.conversation_id == pk]
        newest = max(own, key=lambda one: (one.created_at, one.pk.int))
        assert conversation.leaf_id == (newest.pk if leaves[pk] in gone else leaves[pk])
        assert conversation.fence == 9
        assert conversation.key_day <= min(one.created_at for one in own).date()
    touched = {pk for pk in living if living[pk].purged_before}
    assert all(living[pk].purged_before < NOW for pk in touched)


def _check_evidence(run: PurgeRun, ordered, rated: int, emptied: int) -> None:
    tree = CompactRange()
    for pk in ordered:
        tree.append(leaf_hash(pk.bytes))
    assert bytes(run.root) == tree.root()
    assert run.counts["messages"] == len(ordered)
    assert run.counts["conversations"] == emptied
    assert run.counts["feedback"] == rated
