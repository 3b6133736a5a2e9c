"""What people do to their own conversations: delete one or all, undo it, and what becomes of them.

    delete(conversation_id, by=user)      hides it at once; none of it can be read any more
    delete_all(by=user)                   the same for all of them
    undo(conversation_id, by=user)        brings back it and what was deleted together with it
    deletions(user)                       what can still be undone
    destroy_due(now)                      destroys what can't

What is under a hold stays hidden and is destroyed when the hold has ended; for its owner both look
the same. A reply that is being written is asked to stop; it is destroyed once it has.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import structlog
from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.utils import timezone

from accounts.access import System
from accounts.models import User
from audit.trail import record
from conversations.models import Conversation, ConversationQuerySet, Message
from conversations.retention.deletion import delete_conversations
from conversations.retention.holds import without_held

BY = System("rights")
DESTROYED_AT_ONCE = 100

Lifecycle = Conversation.Lifecycle

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted in one act, and until when that can be undone. `title` is that of a single
    conversation; `conversation_id` is one of them, by which `undo` knows the others."""

    conversation_id: uuid.UUID
    count: int
    title: str
    until: datetime

    @property
    def minutes_left(self) -> int:
        """Return in how many minutes it is destroyed, at least 1."""
        left = self.until - timezone.now()
        return max(1, round(left.total_seconds() / 60))


def undo_time() -> timedelta:
    """Return for how long a deletion can be undone."""
    return timedelta(minutes=settings.DELETION_UNDO_MINUTES)


def delete(conversation_id: uuid.UUID, *, by: User) -> Sequence[Message]:
    """Delete one's own conversation; return the replies that are to stop, if one is open.

    Raises Conversation.DoesNotExist.
    """
    with transaction.atomic():
        mine = Conversation.objects.visible_to(by).select_for_update()
        conversation = mine.get(pk=conversation_id)
        _hide(Conversation.objects.filter(pk=conversation.pk), timezone.now())
        record(by, "conversation.deleted", conversation)
    return stop_open_replies([conversation.pk])


def delete_all(*, by: User) -> Sequence[Message]:
    """Delete all of one's conversations; return the replies that are to stop."""
    with transaction.atomic():
        ids = hide_all(by, timezone.now())
        if ids:
            record(by, "rights.all_deleted", by, conversations=len(ids))
    return stop_open_replies(ids)


def hide_all(user: User, deleted_at: datetime) -> list[uuid.UUID]:
    """Hide all of somebody's conversations as deleted then; return which. In a transaction.

    What a hold keeps where all is purged is deleted as well, without a word.
    """
    mine = Conversation.objects.filter(owner=user, lifecycle__in=[*_LIVING, Lifecycle.PURGED])
    rows = mine.order_by("pk").select_for_update().values_list("pk", "lifecycle")
    found = list(rows)
    _hide(Conversation.objects.filter(pk__in=[pk for pk, _ in found]), deleted_at)
    return [pk for pk, lifecycle in found if lifecycle in _LIVING]


def hurry(user: User) -> None:
    """Let nothing that somebody deleted wait for an undo that can't come."""
    _undoable(user).update(deleted_at=timezone.now() - undo_time())


_LIVING = (Lifecycle.ACTIVE, Lifecycle.ARCHIVED)


def _hide(conversations: QuerySet[Conversation], deleted_at: datetime) -> None:
    conversations.update(
        deleted_from=F("lifecycle"), lifecycle=Lifecycle.DELETED, deleted_at=deleted_at
    )


def stop_open_replies(ids: Sequence[uuid.UUID]) -> Sequence[Message]:
    """Ask the open replies of hidden conversations to stop, and return them.

    Nothing new begins in these. Their processes find the wish within seconds; who holds the running
    loop may tell them at once.
    """
    opened = Message.objects.filter(conversation__in=ids, state=Message.State.STREAMING)
    opened.filter(stop_requested_at=None).update(stop_requested_at=timezone.now())
    return list(opened)


@transaction.atomic
def undo(conversation_id: uuid.UUID, *, by: User) -> int:
    """Bring back a conversation and what was deleted with it; return how many, 0 if it is too late.

    One that was archived is archived again.
    """
    deleted = _undoable(by).filter(pk=conversation_id).first()
    if deleted is None:
        return 0
    together = _undoable(by).filter(deleted_at=deleted.deleted_at)
    archived = When(deleted_from=Lifecycle.ARCHIVED, then=Value(Lifecycle.ARCHIVED))
    was = Case(archived, default=Value(Lifecycle.ACTIVE))
    count = together.update(lifecycle=was, deleted_at=None, deleted_from="")
    if count == 1:
        record(by, "conversation.restored", deleted)
    else:
        record(by, "rights.all_restored", by, conversations=count)
    return count


def deletions(user: User) -> list[Deletion]:
    """Return what somebody can still undo, newest first. One query."""
    found = _undoable(user).order_by("-deleted_at", "pk")
    rows = found.only("deleted_at", "title_sealed", "retention_class", "key_day")
    return list(_by_act(rows))


def deletion_of(user: User, conversation_id: uuid.UUID) -> Deletion | None:
    """Return the act by which this was deleted, while it can be undone."""
    row = _undoable(user).filter(pk=conversation_id).first()
    if row is None:
        return None
    together = _undoable(user).filter(deleted_at=row.deleted_at)
    return next(_by_act([row] if together.count() == 1 else together.order_by("pk")), None)


def _by_act(rows: "Sequence[Conversation] | QuerySet[Conversation]") -> Iterator[Deletion]:
    for deleted_at, group in groupby(rows, key=lambda row: row.deleted_at):
        together = list(group)
        assert deleted_at is not None, "what is deleted was deleted at some time"
        title = together[0].shown_title if len(together) == 1 else ""
        yield Deletion(together[0].pk, len(together), title, deleted_at + undo_time())


def _undoable(user: User) -> ConversationQuerySet:
    """What can be undone: not where all is purged since, though a hold keeps it."""
    since = timezone.now() - undo_time()
    left = Message.objects.shown().filter(conversation=OuterRef("pk"))
    return Conversation.objects.filter(
        Q(purged_before=None) | Exists(left),
        owner=user,
        lifecycle=Lifecycle.DELETED,
        deleted_at__gt=since,
    )


# --- what becomes of them ---------------------------------------------------------------------


def destroy_due(now: datetime) -> int:
    """Destroy what was deleted and can't be undone any more; return how many conversations went.

    What is held, or still being written, stays for a later run. One that can't be destroyed is
    logged and keeps no other.
    """
    destroyed, last = 0, uuid.UUID(int=0)
    while chunk := _due(now).filter(pk__gt=last).order_by("pk")[:DESTROYED_AT_ONCE]:
        ids = [conversation.pk for conversation in chunk]
        destroyed += _destroyed(ids, now)
        last = ids[-1]
    return destroyed


def _due(now: datetime) -> QuerySet[Conversation]:
    being_written = Message.objects.filter(
        conversation=OuterRef("pk"), state=Message.State.STREAMING
    )
    deleted = Conversation.objects.filter(
        ~Exists(being_written), lifecycle=Lifecycle.DELETED, deleted_at__lte=now - undo_time()
    )
    return without_held(deleted).only("pk")


def _destroyed(ids: Sequence[uuid.UUID], now: datetime) -> int:
    try:
        return _destroy(ids, now)
    except DatabaseError as error:
        if len(ids) == 1:
            log.error("not_destroyed", conversation=str(ids[0]), error=type(error).__name__)
            return 0
    return sum(_destroyed([pk], now) for pk in ids)


@transaction.atomic
def _destroy(ids: Sequence[uuid.UUID], now: datetime) -> int:
    # Looked at again behind the lock: an undo may have come first.
    still = Conversation.objects.filter(
        pk__in=ids, lifecycle=Lifecycle.DELETED, deleted_at__lte=now - undo_time()
    ).order_by("pk")
    locked = list(still.select_for_update(skip_locked=True).values_list("pk", flat=True))
    deleted = delete_conversations(locked)
    gone = [pk for pk in locked if pk not in deleted.held | deleted.busy]
    for pk in gone:
        record(BY, "conversation.destroyed", ("conversations.conversation", str(pk)))
    return len(gone)
