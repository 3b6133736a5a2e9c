"""The end of a turn: one guarded step from `streaming` to an outcome, whoever comes first.

A run that lost its fence (another process took the reply for dead) changes nothing here.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from audit.trail import System, record
from conversations.encryption import content_digest
from conversations.models import Conversation, Message, PolicyRuleVersion, Runner
from conversations.turn.budget import (
    Charge,
    FenceLost,
    charge_for,
    claim,
    claim_abandoned,
    exchange,
    settle_titles,
    warning_after,
)
from conversations.turn.counting import count_abandoned, ended_turn, tally
from conversations.turn.events import TurnEnded
from conversations.turn.policy import record_hits
from conversations.turn.tokens import estimated_tokens
from prompts.figures.rollups import COUNT, EndedTurn, turn_values
from prompts.provider import Usage

RUNNER_DEAD_AFTER = timedelta(seconds=6)
UNCLAIMED_AFTER = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reply got: its text and thinking, and the number of the frame that says so."""

    text: str
    thinking: str
    cursor: int


def _columns(reply: Message, progress: Progress) -> dict[str, Any]:
    return {
        "content_sealed": Message.content.sealed(reply, progress.text),
        "thinking_sealed": Message.thinking.sealed(reply, progress.thinking),
        "cursor": progress.cursor,
    }


# Django's update() can't return columns, and this runs all the time.
_SAVE = """
    UPDATE conversations_message
    SET content_sealed = %(content_sealed)s, thinking_sealed = %(thinking_sealed)s,
        cursor = %(cursor)s
    WHERE id = %(id)s AND fence = %(fence)s AND state = 'streaming'
    RETURNING stop_requested_at IS NOT NULL
"""


def save_progress(reply: Message, progress: Progress) -> "SaveResult":
    """Store a snapshot under the reply's fence; tells when the run is over or was asked to stop."""
    with connection.cursor() as cursor:
        cursor.execute(_SAVE, {"id": reply.pk, "fence": reply.fence, **_columns(reply, progress)})
        saved = cursor.fetchone()
    return SaveResult(owned=saved is not None, stop_requested=bool(saved and saved[0]))


@dataclass(frozen=True, slots=True)
class SaveResult:
    owned: bool
    stop_requested: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """That a reply is closed. `warning` is a sentence when a budget is nearly spent, or empty."""

    warning: str


def close_reply(reply: Message, progress: Progress, ended: TurnEnded) -> Closed | None:
    """Write the outcome, to the row and to `reply`, learn the conversation's title, and settle.

    Returns None, and changes nothing, when the run lost its fence. Four queries, one for each
    hit of a rule, one for the rule that ended the reply, and one while a version is released. What
    it raises leaves row and object as they were, so that it may be tried again.
    """
    try:
        with transaction.atomic():
            changes, title, closed = _close(reply, progress, ended)
    except FenceLost:
        return None
    for name, value in changes.items():
        setattr(reply, name, value)
    reply.conversation.title_sealed = title
    return closed


def _close(
    reply: Message, progress: Progress, ended: TurnEnded
) -> tuple[dict[str, Any], bytes, Closed]:
    """Return the reply's new columns, the title and what to tell. Raises FenceLost."""
    now = datetime.now(UTC)
    held = claim(reply, now=now)
    charged = held and charge_for(
        held,
        ended.usage,
        written=estimated_tokens(progress.text) + estimated_tokens(progress.thinking),
        fault=ended.fault,
        price=ended.offer.price if ended.offer else None,
    )
    refused_by = _refusing_version(ended)
    is_other_model = ended.offer and ended.offer.remote_name != reply.model
    changes = {
        **_columns(reply, progress),
        **_figures(reply, ended.usage, charged),
        "state": ended.outcome,
        "fault": ended.fault,
        "finish_reason": ended.finish_reason,
        "first_token_ms": ended.first_token_ms,
        "duration_ms": (reply.duration_ms or 0) + ended.duration_ms,
        "ended_at": now,
        "runner_id": None,
        "model": ended.model or reply.model,
        "asked_model": reply.model if is_other_model else reply.asked_model,
        "refused_by": refused_by,
    }
    columns = {**changes, "state": ended.outcome.value, "id": reply.pk}
    columns["refused_by_id"] = refused_by and refused_by.pk
    if reply.release_id:
        tally(
            reply,
            ended.outcome,
            duration_ms=changes["duration_ms"],
            cost_usd=changes["cost_usd"],
        )
    title = _end(columns, ended_turn(reply, changes, **_hits(ended)))
    _record_end(reply, progress.text, ended.outcome, ended.fault, ended.duration_ms)
    record_hits(ended.hits, reply.conversation, by=System("turn"), turn=reply.pk)
    windows = exchange([(held, charged)]) if held and charged else []
    warning = warning_after(reply.conversation.owner, windows, now=now)
    return changes, title, Closed(warning)


def _refusing_version(ended: TurnEnded) -> PolicyRuleVersion | None:
    rule = ended.refused_by
    if rule is None:
        return None
    return PolicyRuleVersion.objects.filter(rule_id=uuid.UUID(rule.id), number=rule.version).first()


def _figures(reply: Message, usage: Usage | None, charged: Charge | None) -> dict[str, Any]:
    """Return the columns that add this run's tokens and cost to those of earlier runs."""
    cost, is_estimated = reply.cost_usd, reply.usage_estimated
    cached = reply.tokens_cached
    if charged:
        usage, cost = charged.usage, (cost or 0) + charged.usd
        is_estimated = is_estimated or charged.is_estimated
    if usage and not (charged and charged.is_estimated):
        cached = (cached or 0) + usage.tokens_cached
    return {
        "tokens_in": (reply.tokens_in or 0) + usage.tokens_in if usage else reply.tokens_in,
        "tokens_cached": cached,
        "tokens_out": (reply.tokens_out or 0) + usage.tokens_out if usage else reply.tokens_out,
        "cost_usd": cost,
        "usage_estimated": is_estimated,
    }


_ENDING = (
    *("content_sealed", "thinking_sealed", "cursor", "state", "fault", "finish_reason"),
    *("first_token_ms", "duration_ms", "ended_at", "runner_id", "model", "asked_model"),
    *("tokens_in", "tokens_cached", "tokens_out", "cost_usd", "usage_estimated", "refused_by_id"),
)
# The row is locked by `claim`.
_END = f"""
    UPDATE conversations_message AS message
    SET {", ".join(f"{name} = %({name})s" for name in _ENDING)}
    FROM conversations_conversation AS conversation
    WHERE message.id = %(id)s AND conversation.id = message.conversation_id
    RETURNING conversation.title_sealed
"""  # noqa: S608 - our own names
_END_AND_COUNT = f"WITH counted AS ({COUNT}) {_END}"


def _end(columns: dict[str, Any], counted: EndedTurn | None) -> bytes:
    """Close the row, count the turn, and return the conversation's title. One statement."""
    statement, values = _END, columns
    if counted:
        statement, values = _END_AND_COUNT, {**columns, **turn_values([counted])}
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        (title,) = cursor.fetchone()
    return bytes(title)


def _hits(ended: TurnEnded) -> dict[str, int]:
    question = ended.question
    return {
        "policy_hits": len(ended.hits) + question.policy_hits,
        "personal_data_hits": question.personal_data,
    }


@transaction.atomic
def close_abandoned(*, limit: int = 100) -> list[Message]:
    """Mark replies whose process died as interrupted, each under a new fence; return them."""
    now = Now()
    dead = Q(runner__beat_at__lt=now - RUNNER_DEAD_AFTER) | Q(
        runner=None, conversation__last_message_at__lt=now - UNCLAIMED_AFTER
    )
    abandoned = list(
        Message.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("conversation")
        .filter(dead, state=Message.State.STREAMING)
        .order_by("pk")[:limit]
    )
    for reply in abandoned:
        # A new fence, so that the frames of a process that was only paused are refused.
        Conversation.objects.filter(pk=reply.conversation_id).update(fence=F("fence") + 1)
        reply.fence = Conversation.objects.values_list("fence", flat=True).get(
            pk=reply.conversation_id
        )
        reply.state, reply.fault = Message.State.INTERRUPTED, "process_died"
        reply.cursor, reply.runner, reply.ended_at = 0, None, datetime.now(UTC)
        reply.save(update_fields=["fence", "state", "fault", "cursor", "runner", "ended_at"])
        _record_end(reply, reply.shown_content or "", reply.state, reply.fault, 0)
    charged = claim_abandoned(abandoned, now=datetime.now(UTC))
    count_abandoned(abandoned)
    exchange(charged)
    return abandoned


@transaction.atomic
def settle_abandoned_titles(*, limit: int = 100) -> None:
    """Settle what processes that died had reserved for titles: their replies were closed before."""
    abandoned = list(
        Message.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(runner__beat_at__lt=Now() - RUNNER_DEAD_AFTER)
        .exclude(state=Message.State.STREAMING)
        .order_by("pk")[:limit]
    )
    if abandoned:
        Message.objects.filter(pk__in=[reply.pk for reply in abandoned]).update(runner=None)
        settle_titles(abandoned, now=datetime.now(UTC))


def beat(runner: Runner) -> None:
    """Say that this process lives, by the database's clock."""
    Runner.objects.bulk_create(
        [Runner(pk=runner.pk, host=runner.host, pid=runner.pid, beat_at=Now())],
        update_conflicts=True,
        update_fields=["beat_at"],
        unique_fields=["id"],
    )


def forget_dead_runners() -> None:
    """Drop the rows of processes that ended long ago and own nothing any more."""
    Runner.objects.filter(beat_at__lt=Now() - timedelta(hours=1), replies=None).delete()


def _record_end(reply: Message, text: str, outcome: str, fault: str, duration_ms: int) -> None:
    record(
        System("turn"),
        "turn.ended",
        Conversation(pk=reply.conversation_id),
        outcome="succeeded" if outcome == Message.State.COMPLETED else "failed",
        reason=fault or outcome,
        turn=reply.pk,
        reply=str(reply.pk),
        state=str(outcome),
        duration_ms=duration_ms,
        reply_digest=content_digest(text, reply.seal_key()),
    )
