"""What a program may read: its person's sessions, messages and usage.

One function = one transaction; each wants the person and gives plain data.
"""

import base64
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Count, Q, Sum
from django.db.models.functions import Coalesce, TruncDate
from django.utils import timezone

from accounts.models import User
from conversations.doors.problems import Problem
from conversations.doors.schemas import message_out, session_out
from conversations.models import Conversation, Message
from conversations.turn.context import branch

_LOADED = ("prompt_version__template", "refused_by", "feedback")


def sessions(user: User, cursor: str | None, limit: int) -> dict[str, Any]:
    """Return a page of the person's lasting sessions, newest message first. One query."""
    found = Conversation.objects.visible_to(user).listed().order_by("-last_message_at", "-pk")
    if cursor:
        moment, pk = _read_cursor(cursor)
        older = Q(last_message_at__lt=moment) | Q(last_message_at=moment, pk__lt=pk)
        found = found.filter(older)
    rows = list(found[: limit + 1])
    has_more = len(rows) > limit
    return {
        "items": [session_out(row) for row in rows[:limit]],
        "next_cursor": _cursor(rows[limit - 1]) if has_more else None,
    }


def session(user: User, session_id: uuid.UUID) -> dict[str, Any]:
    """Return one session. Raises Conversation.DoesNotExist."""
    return session_out(_mine(user, session_id))


def messages(user: User, session_id: uuid.UUID, cursor: uuid.UUID | None, limit: int) -> Any:
    """Return a page of the session's branch, oldest first: what follows the message `cursor`.

    Three queries. Raises Conversation.DoesNotExist.
    """
    conversation = _mine(user, session_id)
    said = conversation.shown_messages()
    tree = said.only("id", "parent_id", "conversation_id")
    path = [message.pk for message in branch(tree, conversation.leaf_id)]
    if cursor and cursor not in path:
        raise _bad_cursor()
    start = path.index(cursor) + 1 if cursor else 0
    shown = path[start : start + limit]
    found = said.linked().select_related(*_LOADED).in_bulk(shown)
    rows: Sequence[Message] = [found[pk] for pk in shown if pk in found]
    return {
        "items": [message_out(row) for row in rows],
        "next_cursor": str(shown[-1]) if start + limit < len(path) else None,
    }


def message(user: User, session_id: uuid.UUID, message_id: uuid.UUID) -> dict[str, Any]:
    """Return one message. Raises DoesNotExist of a session or message."""
    said = _mine(user, session_id).shown_messages().linked().select_related(*_LOADED)
    return message_out(said.get(pk=message_id))


def usage(user: User, days: int) -> dict[str, Any]:
    """Return tokens and cost of the person's replies by day (UTC), without deleted sessions.

    One query.
    """
    today = timezone.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    replies = (
        Message.objects.shown()
        .filter(
            conversation__in=Conversation.objects.visible_to(user),
            role=Message.Role.ASSISTANT,
            created_at__gte=today - timedelta(days=days - 1),
        )
        .exclude(prompt_version=None)
    )
    by_day = replies.values(day=TruncDate("created_at", tzinfo=UTC)).annotate(
        replies=Count("pk"),
        sum_in=Coalesce(Sum("tokens_in"), 0),
        sum_cached=Coalesce(Sum("tokens_cached"), 0),
        sum_out=Coalesce(Sum("tokens_out"), 0),
        cost=Sum("cost_usd"),
    )
    return {
        "days": [
            {
                "day": row["day"],
                "replies": row["replies"],
                "tokens_in": row["sum_in"],
                "tokens_cached": row["sum_cached"],
                "tokens_out": row["sum_out"],
                "cost_usd": f"{row['cost'] or 0:f}",
            }
            for row in by_day.order_by("-day")
        ]
    }


def _mine(user: User, session_id: uuid.UUID) -> Conversation:
    return Conversation.objects.visible_to(user).get(pk=session_id)


def _cursor(row: Conversation) -> str:
    plain = f"{row.last_message_at.isoformat()}/{row.pk}"
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, uuid.UUID]:
    """Raises Problem for what is no cursor of ours."""
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        moment, _, pk = plain.partition("/")
        parsed, known = datetime.fromisoformat(moment), uuid.UUID(pk)
    except ValueError as error:
        raise _bad_cursor() from error
    if parsed.tzinfo is None:
        raise _bad_cursor()
    return parsed, known


def _bad_cursor() -> Problem:
    return Problem(
        "invalid",
        errors=[{"at": "query.cursor", "message": "Not a `next_cursor` of this list."}],
    )
