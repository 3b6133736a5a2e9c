"""What goes in and out at the doors for programs, as the OpenAPI document tells it."""

import uuid
from datetime import date, datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from conversations.feedback import MAX_COMMENT_CHARACTERS
from conversations.models import Conversation, Feedback, Message, Rating
from conversations.turn.faults import refusal_of
from conversations.turn.screening import MAX_BYTES
from prompts.models import PromptVersion

State = Literal["said", "streaming", "completed", "stopped", "failed", "refused", "interrupted"]
Outcome = Literal["streaming", "completed", "stopped", "failed", "refused", "interrupted"]
Text = Annotated[
    str,
    # Checked by the turn itself, in bytes and without what it takes away.
    Field(
        json_schema_extra={
            "minLength": 1,
            "maxLength": MAX_BYTES,
            "pattern": "[^\\s\\x00-\\x1f]",
        },
    ),
]


class Strict(Schema):
    """A body in which an unknown member is an error and not a surprise."""

    model_config = ConfigDict(extra="forbid")


class AskIn(Strict):
    user_message: Text
    session_id: uuid.UUID | None = Field(None, description="Absent: a new session begins.")


class FeedbackIn(Strict):
    """A thumb, and reasons that fit it. What is left out is empty."""

    model_config = ConfigDict(
        extra="forbid",
        # Checked by the verb itself, which says it in a sentence.
        json_schema_extra={
            "anyOf": [
                {
                    "properties": {
                        "rating": {"const": str(rating)},
                        "reasons": {"items": {"enum": [str(each) for each in rating.reasons]}},
                    }
                }
                for rating in Rating
            ]
        },
    )

    rating: Rating
    reasons: list[str] = Field([], description="Each one counts once.")
    comment: Annotated[str, Field(max_length=MAX_COMMENT_CHARACTERS, pattern="^[^\\x00]*$")] = ""


class PromptOut(Schema):
    """The version that a reply was told. `arm`: `canary` or `early` while it is being released.

    `release` is the release under way that the reply took part in; `fallback` says that another
    version was to serve and could not.
    """

    slug: str
    version: int
    content_hash: str
    release: uuid.UUID | None
    arm: str
    fallback: bool


class UsageOut(Schema):
    """Tokens, as the provider counted them or, where it did not, as we estimate."""

    tokens_in: int
    tokens_cached: int
    tokens_out: int
    estimated: bool


class FeedbackOut(Schema):
    rating: Rating
    reasons: list[str]
    comment: str


class ReplyOut(Schema):
    """A reply as `POST /chat` tells it. `cost_usd` is null where no price is known."""

    session_id: uuid.UUID
    message_id: uuid.UUID
    reply: str
    state: Outcome
    finish_reason: str
    fault: str
    refusal: str | None = Field(description="Why a filter or a rule ended it; else null.")
    model: str
    prompt: PromptOut | None
    usage: UsageOut | None
    cost_usd: str | None = Field(description="US dollars, as a decimal.")
    first_token_ms: int | None
    duration_ms: int | None


class MessageOut(Schema):
    """A question, a reply or a system message. What only replies have is null elsewhere."""

    id: uuid.UUID
    session_id: uuid.UUID
    parent_id: uuid.UUID | None
    role: Literal["user", "assistant", "system"]
    state: State
    content: str
    thinking: str
    readable: bool = Field(description="False: what was said can't be opened any more.")
    created_at: datetime
    ended_at: datetime | None
    finish_reason: str
    fault: str
    refusal: str | None = Field(description="Why a filter or a rule ended it; else null.")
    model: str
    prompt: PromptOut | None
    usage: UsageOut | None
    cost_usd: str | None = Field(description="US dollars, as a decimal.")
    feedback: FeedbackOut | None


class MessagesOut(Schema):
    """Messages of the session's branch, oldest first."""

    items: list[MessageOut]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


class SessionOut(Schema):
    id: uuid.UUID
    title: str
    state: Literal["active", "archived"]
    created_at: datetime
    last_message_at: datetime


class SessionsOut(Schema):
    """Sessions, the newest message first."""

    items: list[SessionOut]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last.")


class StoppedOut(Schema):
    message_id: uuid.UUID | None = Field(description="The reply that stops; null: none was open.")


class DayOut(Schema):
    day: date
    replies: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    cost_usd: str = Field(description="US dollars, as a decimal.")


class SpentOut(Schema):
    """Tokens and cost by day (UTC), newest first; days without a reply are left out."""

    days: list[DayOut]


class InvalidAt(Schema):
    at: str
    message: str


class ProblemOut(Schema):
    """Problem details, RFC 9457. Programs decide by `type`; its page explains it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[InvalidAt] | None = None
    scope: str | None = None
    session_id: uuid.UUID | None = None
    message_id: uuid.UUID | None = None
    reply: str | None = None


def session_out(conversation: Conversation) -> dict[str, Any]:
    """Return the members of SessionOut."""
    return {
        "id": conversation.pk,
        "title": conversation.shown_title,
        "state": conversation.lifecycle,
        "created_at": conversation.created_at,
        "last_message_at": conversation.last_message_at,
    }


def reply_out(reply: Message) -> dict[str, Any]:
    """Return the members of ReplyOut."""
    return {
        "session_id": reply.conversation_id,
        "message_id": reply.pk,
        "reply": reply.shown_content or "",
        **_ending(reply),
        "first_token_ms": reply.first_token_ms,
        "duration_ms": reply.duration_ms,
    }


def message_out(message: Message) -> dict[str, Any]:
    """Return the members of MessageOut. Wants prompt version and feedback loaded."""
    feedback = getattr(message, "feedback", None)
    content = message.shown_content
    return {
        "id": message.pk,
        "session_id": message.conversation_id,
        "parent_id": message.follows,
        "role": message.role,
        "content": content or "",
        "thinking": message.shown_thinking,
        "readable": content is not None,
        "created_at": message.created_at,
        "ended_at": message.ended_at,
        **_ending(message),
        "feedback": feedback_out(feedback) if feedback else None,
    }


def feedback_out(feedback: Feedback) -> dict[str, Any]:
    """Return the members of FeedbackOut."""
    return {
        "rating": str(feedback.rating),
        "reasons": feedback.reasons,
        "comment": feedback.shown_comment or "",
    }


def _ending(message: Message) -> dict[str, Any]:
    version = message.prompt_version
    return {
        "state": str(message.state),
        "finish_reason": message.finish_reason,
        "fault": message.fault,
        "refusal": refusal_of(message),
        "model": message.model,
        "prompt": _prompt_out(message, version) if version else None,
        "usage": usage_out(message),
        "cost_usd": None if message.cost_usd is None else f"{message.cost_usd:f}",
    }


def _prompt_out(message: Message, version: PromptVersion) -> dict[str, Any]:
    """Return the members of PromptOut."""
    return {
        "slug": version.template.slug,
        "version": version.number,
        "content_hash": version.content_hash,
        "release": message.release_id,
        "arm": str(message.arm),
        "fallback": message.is_fallback,
    }


def usage_out(message: Message) -> dict[str, Any] | None:
    """Return the members of UsageOut; None where nothing was counted."""
    if message.tokens_in is None and message.tokens_out is None:
        return None
    return {
        "tokens_in": message.tokens_in or 0,
        "tokens_cached": message.tokens_cached or 0,
        "tokens_out": message.tokens_out or 0,
        "estimated": message.usage_estimated,
    }
