"""The one place that deletes what was said.

    delete_conversations(ids)    whole conversations, with all that hangs on them
    delete_messages(ids)         a chunk of messages; conversations that are empty then go whole
    hide_held(ids)               what holds keep of conversations, from their owners
    let_go_of_days(ids, last)    what conversations as a whole have of days that are over
    delete_windows(now)          what people spent long ago

All are for a short transaction of the caller's. They lock the conversations in the order of their
ids and never wait for one that somebody works on; what is under a hold, or being written, stays and
is told. With a message go its feedback and reservation; what follows it loses its parent and
stays. With a conversation go the budgets of its sessions and its score. What Redis holds goes once
the transaction is committed; where Redis is away it ends by itself within a day.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

import redis
import structlog
from django.conf import settings
from django.db import connection, transaction
from redis.exceptions import RedisError

from conversations.reply.log import key_of
from conversations.retention.holds import held
from conversations.turn import working_context

logger = structlog.get_logger(__name__)

Ids = frozenset[uuid.UUID]
_NONE: Ids = frozenset()

WINDOWS_KEPT = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many rows went, by kind; and which conversations stay as a whole, and why.

    `messages` counts those of deleted conversations as well.
    """

    messages: int = 0
    conversations: int = 0
    feedback: int = 0
    reservations: int = 0
    # Under a hold; somebody works on it, or (deleting it whole) a reply is being written.
    held: Ids = field(default=_NONE)
    busy: Ids = field(default=_NONE)

    def counts(self) -> dict[str, int]:
        """Return the figures by kind."""
        return {each.name: getattr(self, each.name) for each in fields(self)[:4]}


@dataclass(frozen=True, slots=True)
class Chunk:
    """What became of a chunk of messages. `gone` are those deleted, in the order given."""

    deleted: Deleted
    gone: Sequence[uuid.UUID]


def delete_conversations(ids: Iterable[uuid.UUID]) -> Deleted:
    """Delete whole conversations; ids that are not there are left out without a word.

    Runs inside the caller's transaction. Raises DatabaseError, and then nothing is deleted.
    """
    locked = _locked(ids)
    writing = {owner for owner, _, _ in _being_written(locked.free)}
    free = sorted(locked.free - writing)
    messages = _ids("SELECT id FROM conversations_message WHERE conversation_id = ANY(%s)", free)
    counts = _without_messages(messages).counts
    gone = _delete_emptied(free)
    transaction.on_commit(lambda: _forget_live(gone, {}))
    transaction.on_commit(lambda: working_context.forget(gone))
    return Deleted(**counts, conversations=len(gone), held=locked.held, busy=locked.busy | writing)


def let_go_of_days(ids: Iterable[uuid.UUID], last: date) -> Deleted:
    """Let conversations need no key of a day up to `last`: for titles, and for their own day.

    Titles that were given until then go, and so do conversations in which nothing is said any more.
    Runs inside the caller's transaction.
    """
    locked = _locked(ids)
    emptied = _delete_emptied(sorted(locked.free))
    _mend(sorted(locked.free - set(emptied)), titles_until=last)
    transaction.on_commit(lambda: _forget_live(emptied, {}))
    return Deleted(conversations=len(emptied), held=locked.held, busy=locked.busy)


def delete_windows(now: datetime) -> int:
    """Delete what was spent in windows that ended WINDOWS_KEPT ago and that no reply names."""
    return _done(
        "DELETE FROM conversations_budgetwindow AS spent WHERE ends_at < %s"
        " AND NOT EXISTS (SELECT FROM conversations_reservation WHERE day_id = spent.id)"
        " AND NOT EXISTS (SELECT FROM conversations_reservation WHERE month_id = spent.id)"
        " AND NOT EXISTS (SELECT FROM conversations_reservation WHERE session_id = spent.id)",
        now - WINDOWS_KEPT,
    )


def delete_messages(
    messages: Sequence[tuple[uuid.UUID, uuid.UUID]], *, purged_before: datetime
) -> Chunk:
    """Delete messages, given as (conversation, message); conversations that are empty then too.

    A living conversation gets an end that lives, the day of its oldest message for its key, and
    `purged_before` for its page; its title goes when it is no younger. A reply that is being
    written stays, and so does its question. Runs inside the caller's transaction. Raises
    DatabaseError, and then nothing is deleted.
    """
    owners = {owner for owner, _ in messages}
    locked = _locked(owners)
    open_ones = _being_written(locked.free)
    kept = {each for _, reply, question in open_ones for each in (reply, question)}
    if kept or len(locked.free) < len(owners):
        messages = [each for each in messages if each[0] in locked.free and each[1] not in kept]
    ids = [pk for _, pk in messages]
    deleted = _without_messages(ids)
    touched = sorted(deleted.fences)
    emptied = _delete_emptied(touched)
    living = sorted(set(touched) - set(emptied))
    _end_at_the_living(living, ids)
    _mend(living, purged_before, titles_until=purged_before.astimezone(UTC).date())
    transaction.on_commit(lambda: _forget_live(emptied, deleted.fences))
    transaction.on_commit(lambda: working_context.forget(touched))
    return Chunk(
        Deleted(**deleted.counts, conversations=len(emptied), held=locked.held, busy=locked.busy),
        ids,
    )


def hide_held(ids: Iterable[uuid.UUID], *, purged_before: datetime) -> Ids:
    """Hide from their owners what was said before a moment; of what is held, nothing is deleted.

    For its owner a held conversation becomes what the purge would have left of it: with another
    title if it goes on, or none of it. Those of which a reply is being written, or that somebody
    works on, stay for a later run, and so do those that no hold keeps any more. Returns which were
    hidden. Runs inside the caller's transaction. Raises DatabaseError, and then nothing is hidden.
    """
    under_hold = _locked(ids).held
    hidden = under_hold - {owner for owner, _, _ in _being_written(under_hold)}
    values: dict[str, Any] = {
        "ids": sorted(hidden),
        "before": purged_before,
        "titles_until": purged_before.astimezone(UTC).date(),
    }
    runs = _rows(
        "SELECT conversation_id, max(fence) FROM conversations_message"
        " WHERE conversation_id = ANY(%s) AND created_at < %s GROUP BY conversation_id",
        values["ids"],
        purged_before,
    )
    with connection.cursor() as cursor:
        cursor.execute(_HIDE, values)
    transaction.on_commit(lambda: _forget_live((), dict(runs)))
    transaction.on_commit(lambda: working_context.forget(hidden))
    return hidden


# --- locks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Locked:
    free: Ids
    held: Ids
    busy: Ids


def _locked(ids: Iterable[uuid.UUID]) -> _Locked:
    """Lock those that nobody has locked. Holds are asked for behind the lock that placing takes."""
    wanted = sorted(set(ids))
    got = frozenset(
        _ids(
            "SELECT id FROM conversations_conversation WHERE id = ANY(%s) ORDER BY id"
            " FOR UPDATE SKIP LOCKED",
            wanted,
        )
    )
    missing = [pk for pk in wanted if pk not in got]
    busy = frozenset(_ids("SELECT id FROM conversations_conversation WHERE id = ANY(%s)", missing))
    under_hold = frozenset(held(got))
    return _Locked(free=got - under_hold, held=under_hold, busy=busy)


def _being_written(ids: Ids) -> list[tuple[uuid.UUID, uuid.UUID, uuid.UUID | None]]:
    """Return open replies as (conversation, reply, question)."""
    return _rows(
        "SELECT conversation_id, id, parent_id FROM conversations_message"
        " WHERE conversation_id = ANY(%s) AND state = 'streaming'",
        list(ids),
    )


# --- rows -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Gone:
    """How many rows went, by kind, and the newest run of each conversation among them; 0 for none.

    All conversations that lost a message are in `fences`.
    """

    counts: dict[str, int]
    fences: dict[uuid.UUID, int]


# The ids come once, and an array that the planner does not know lets it always use the indexes.
_DELETE = """
    WITH given AS MATERIALIZED (SELECT unnest(%s::uuid[]) AS id),
    feedback AS (
        DELETE FROM conversations_feedback WHERE reply_id = ANY(ARRAY(SELECT id FROM given))
        RETURNING id),
    reservations AS (
        DELETE FROM conversations_reservation WHERE reply_id = ANY(ARRAY(SELECT id FROM given))
        RETURNING reply_id),
    gone AS (
        DELETE FROM conversations_message WHERE id = ANY(ARRAY(SELECT id FROM given))
        RETURNING conversation_id, fence)
    SELECT (SELECT count(*) FROM feedback), (SELECT count(*) FROM reservations),
        conversation_id, count(*), max(fence)
    FROM gone GROUP BY conversation_id
"""


def _without_messages(ids: Sequence[uuid.UUID]) -> _Gone:
    """Delete these messages and what hangs on them.

    Until it is deleted or mended, in the same transaction, a conversation may end in one of them,
    and what followed one may still name it.
    """
    rows = _rows(_DELETE, _array(ids))
    feedback, reservations = rows[0][:2] if rows else (0, 0)
    counts = {
        "feedback": feedback,
        "reservations": reservations,
        "messages": sum(many for *_, many, _ in rows),
    }
    return _Gone(counts, {owner: fence for _, _, owner, _, fence in rows})


def _end_at_the_living(living: Sequence[uuid.UUID], gone: Sequence[uuid.UUID]) -> None:
    """Let no message of these conversations name a parent that is gone."""
    if living:
        _done(
            "UPDATE conversations_message SET parent_id = NULL"
            " WHERE conversation_id = ANY(%s) AND parent_id = ANY(%s::uuid[])",
            list(living),
            _array(gone),
        )


def _array(ids: Iterable[uuid.UUID]) -> str:
    """Return ids as PostgreSQL reads an array: written at once, not each by an adapter."""
    return f"{{{','.join([pk.hex for pk in ids])}}}"


def _delete_emptied(ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Delete those of these conversations in which nothing is said any more; return which.

    How satisfied people were with them goes in the same transaction, before its constraints are
    looked at.
    """
    emptied = _ids(
        "DELETE FROM conversations_conversation AS conversation WHERE id = ANY(%s) AND NOT EXISTS"
        " (SELECT FROM conversations_message WHERE conversation_id = conversation.id)"
        " RETURNING id",
        list(ids),
    )
    _done("DELETE FROM conversations_satisfaction WHERE conversation_id = ANY(%s)", emptied)
    _done(
        "DELETE FROM conversations_budgetwindow WHERE scope = 'session' AND subject = ANY(%s)",
        emptied,
    )
    return emptied


# The third and fourth byte of a sealed value are its day (`conversations.encryption`).
_TITLE_IS_OVER = """
    length(title_sealed) > 3 AND date '1970-01-01' + get_byte(title_sealed, 2) * 256
        + get_byte(title_sealed, 3) <= %(titles_until)s
"""
# What is being written stays, and is shown: nothing from there on counts as purged. (`least` and
# `greatest` leave out NULL.)
_MEND = f"""
    UPDATE conversations_conversation AS conversation
    SET purged_before = CASE WHEN %(before)s::timestamptz IS NULL THEN purged_before
            ELSE greatest(purged_before, least(%(before)s::timestamptz,
                (SELECT least(reply.created_at, question.created_at)
                FROM conversations_message AS reply
                LEFT JOIN conversations_message AS question ON question.id = reply.parent_id
                WHERE reply.conversation_id = living.id AND reply.state = 'streaming'))) END,
        key_day = (oldest.created_at AT TIME ZONE 'UTC')::date,
        leaf_id = coalesce(
            (SELECT id FROM conversations_message WHERE id = conversation.leaf_id), newest.id),
        title_sealed = CASE WHEN {_TITLE_IS_OVER} THEN ''::bytea ELSE title_sealed END,
        hidden_title_sealed = ''::bytea
    FROM unnest(%(ids)s) AS living (id),
        LATERAL (SELECT created_at FROM conversations_message
            WHERE conversation_id = living.id ORDER BY created_at LIMIT 1) AS oldest,
        LATERAL (SELECT id FROM conversations_message
            WHERE conversation_id = living.id ORDER BY created_at DESC, id DESC LIMIT 1) AS newest
    WHERE conversation.id = living.id
"""  # noqa: S608 - of constants

# The end gives way only to a younger one: of what is hidden as a whole, it is what counsel reads.
_HIDE = f"""
    UPDATE conversations_conversation AS conversation
    SET purged_before = greatest(purged_before, %(before)s),
        leaf_id = CASE WHEN (SELECT created_at FROM conversations_message
                WHERE id = conversation.leaf_id) < %(before)s
            THEN coalesce(newest.id, leaf_id) ELSE leaf_id END,
        title_sealed = CASE WHEN {_TITLE_IS_OVER} THEN ''::bytea ELSE title_sealed END,
        hidden_title_sealed = CASE WHEN hidden_title_sealed = '' AND {_TITLE_IS_OVER}
            THEN title_sealed ELSE hidden_title_sealed END,
        lifecycle = CASE WHEN newest.id IS NULL AND lifecycle IN ('active', 'archived')
            THEN 'purged' ELSE lifecycle END
    FROM unnest(%(ids)s::uuid[]) AS held (id) LEFT JOIN LATERAL
        (SELECT id FROM conversations_message
            WHERE conversation_id = held.id AND created_at >= %(before)s
            ORDER BY created_at DESC, id DESC LIMIT 1) AS newest ON true
    WHERE conversation.id = held.id
"""  # noqa: S608 - of constants


def _mend(
    ids: Sequence[uuid.UUID], purged_before: datetime | None = None, *, titles_until: date
) -> None:
    """Let living conversations end in a living message, and need no day older than their oldest."""
    values = {"ids": list(ids), "before": purged_before, "titles_until": titles_until}
    if ids:
        with connection.cursor() as cursor:
            cursor.execute(_MEND, values)


def _rows(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


def _ids(statement: str, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    return [pk for (pk,) in _rows(statement, list(ids))]


def _done(statement: str, *values: Any) -> int:
    """Execute a statement and return how many rows it changed."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return int(cursor.rowcount)


# --- Redis ------------------------------------------------------------------------------------


def _forget_live(whole: Sequence[uuid.UUID], up_to: dict[uuid.UUID, int]) -> None:
    """Drop the logs of conversations that are gone, and what others' logs hold of deleted runs."""
    deleted = set(whole)
    trimmed = {pk: fence for pk, fence in up_to.items() if fence and pk not in deleted}
    if not whole and not trimmed:
        return
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5) as client:
            pipe = client.pipeline(transaction=False)
            if whole:
                pipe.unlink(*(key_of(pk) for pk in whole))
            for pk, fence in trimmed.items():
                pipe.xtrim(key_of(pk), minid=f"{fence + 1}-0", approximate=False)
            pipe.execute()
    except (RedisError, OSError) as error:
        logger.warning("live_session_not_dropped", error=type(error).__name__, many=len(whole))
