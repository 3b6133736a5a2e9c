"""The session store: the branch that the next question follows, kept in Redis for a while.

It spares a turn the query for its history. A branch is written when its reply is closed and read
before the next turn's transaction begins. PostgreSQL stays the truth: a stored branch counts only
when the conversation's fence, read under its lock, is still the one that the branch was written
under (each run of a reply raises it, so no text of the branch can have changed since), when the
purge has taken nothing of it, and when it leads to the message that the question follows.
Otherwise, and whenever Redis is away, the query is made: losing what is kept here costs speed and
nothing else.

Each text rests under the key of its own day, as in its row, so that it dies with that day. The
whole is sealed once more under the key of the reply's day, bound to the conversation: somebody who
writes to Redis can change neither order nor speakers.
"""

import struct
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import redis
import redis.asyncio as aioredis
import structlog
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from chatbot import telemetry
from chatbot.away import Away
from conversations.encryption import open_sealed, seal
from conversations.keyring import Unreadable
from conversations.models import Conversation, Message

logger = structlog.get_logger(__name__)

MOST_BYTES = 128 * 1024
"""A branch whose sealed texts are longer is not kept: what Redis holds stays bounded."""
ANSWER_SECONDS = 0.25

_FAULTS = (RedisError, OSError)
_FORMAT = 1
_HEAD = struct.Struct(">BQ")  # format, fence
_MESSAGE = struct.Struct(">16sBQI")  # id, role, microseconds since 1970, length of the text
_ROLES = [Message.Role.USER, Message.Role.ASSISTANT, Message.Role.SYSTEM]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = ("id", "conversation_id", "parent_id", "role", "content_sealed", "created_at")
"""What a turn needs of the messages before its question, in the model's order."""


@dataclass(frozen=True, slots=True)
class WorkingContext:
    """A branch as it was when a reply was closed, oldest message first.

    `fence` is that of the run which ended then.
    """

    fence: int
    branch: Sequence[Message]

    def leading_to(
        self, message_id: uuid.UUID, conversation: Conversation
    ) -> Sequence[Message] | None:
        """Return the branch up to a message of the conversation, whose row is locked.

        None when it went on since, or goes on elsewhere, or lost its beginning to the purge.
        """
        is_purged = bool(
            conversation.purged_before and self.branch[0].created_at < conversation.purged_before
        )
        if conversation.fence == self.fence and not is_purged:
            for at, message in enumerate(self.branch, 1):
                if message.pk == message_id:
                    _count("used")
                    return self.branch[:at]
        _count("stale")
        return None


def recalled(conversation_id: uuid.UUID) -> WorkingContext | None:
    """Return what is kept for a conversation, perhaps stale; None without it. Never raises.

    One trip to Redis, of ANSWER_SECONDS at most. Call it where no transaction is open: nothing
    should be locked meanwhile.
    """
    outcome, found = _looked_up(conversation_id)
    if found is None:
        _count(outcome)
    return found


def _looked_up(conversation_id: uuid.UUID) -> tuple[str, WorkingContext | None]:
    key = key_of(conversation_id)
    if _away.is_now():
        return "away", None
    try:
        sealed = _client(settings.REDIS_URL).get(key)
    except _FAULTS as error:
        _away.notice()
        logger.warning("session_store_away", error=type(error).__name__)
        return "away", None
    if not isinstance(sealed, bytes):
        return "missing", None
    try:
        return "found", _unpacked(open_sealed(sealed, key, conversation_id), conversation_id)
    except (Unreadable, ValueError, struct.error) as error:
        logger.warning("session_unreadable", reason=type(error).__name__)
        return "unreadable", None


async def keep(
    client: "aioredis.Redis", earlier: Sequence[Message], question: Message, reply: Message
) -> None:
    """Keep the branch that ends in `reply`, which was just closed. Never raises.

    Waits for nothing but Redis: the key of the reply's day is at hand, it sealed the frames.
    """
    branch = [*earlier, question, reply]
    if sum(len(message.content_sealed) for message in branch) > MOST_BYTES:
        _count("too_long")
        return
    key = key_of(reply.conversation_id)
    try:
        sealed = seal(_packed(reply.fence, branch), key, reply.seal_key())
        await client.set(key, sealed, ex=settings.SESSION_STORE_SECONDS)
    except (*_FAULTS, Unreadable) as error:
        _count("not_kept")
        logger.warning("session_not_kept", error=type(error).__name__)


def forget(conversation_ids: Iterable[uuid.UUID]) -> None:
    """Drop what is kept for these conversations. Call it when their change is committed.

    While Redis is away it stays there until its time is over, at most SESSION_STORE_SECONDS; no
    turn can use it.
    """
    if not (keys := [key_of(conversation_id) for conversation_id in conversation_ids]):
        return
    try:
        _client(settings.REDIS_URL).unlink(*keys)
    except _FAULTS as error:
        logger.warning("sessions_not_forgotten", count=len(keys), error=type(error).__name__)


def key_of(conversation_id: uuid.UUID) -> str:
    """Return the name in Redis, which is also the place that the value is bound to."""
    return f"{settings.REDIS_PREFIX}session:{conversation_id}"


# --- bytes ------------------------------------------------------------------------------------


def _packed(fence: int, branch: Iterable[Message]) -> bytes:
    parts = [_HEAD.pack(_FORMAT, fence)]
    for message in branch:
        text = bytes(message.content_sealed)
        age = (message.created_at - _EPOCH) // timedelta(microseconds=1)
        role = _ROLES.index(Message.Role(message.role))
        parts += [_MESSAGE.pack(message.pk.bytes, role, age, len(text)), text]
    return b"".join(parts)


def _unpacked(packed: bytes, conversation_id: uuid.UUID) -> WorkingContext:
    """Read what `_packed` wrote. Raises ValueError and struct.error for another format."""
    written_as, fence = _HEAD.unpack_from(packed)
    if written_as != _FORMAT:
        raise ValueError("Another version of the program wrote it.")
    branch: list[Message] = []
    at, parent_id = _HEAD.size, None
    while at < len(packed):
        raw_id, role, age, length = _MESSAGE.unpack_from(packed, at)
        at += _MESSAGE.size
        message_id, begun = uuid.UUID(bytes=raw_id), _EPOCH + timedelta(microseconds=age)
        text = packed[at : at + length]
        at += length
        row = (message_id, conversation_id, parent_id, _ROLES[role].value, text, begun)
        branch.append(Message.from_db(DEFAULT_DB_ALIAS, COLUMNS, row))
        parent_id = message_id
    return WorkingContext(fence, branch)


# --- Redis ------------------------------------------------------------------------------------


_away = Away()


@lru_cache(maxsize=2)
def _client(url: str) -> "redis.Redis":
    # One try: the query is quicker than a second one.
    return redis.Redis.from_url(
        url,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def _count(outcome: str) -> None:
    telemetry.session_store.labels(outcome).inc()
