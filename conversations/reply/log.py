"""The log of a conversation: numbered frames that any process can append, follow and resume.

Frames live in one Redis Stream per conversation. A frame's cursor is `fence:number`: the fence is
the run of a reply (it only grows), the number counts the run's frames from 0. The cursor *is* the
stream's entry id (`fence-number`), so Redis itself refuses a frame of a run that was overtaken, and
a reader that names the last cursor it has gets exactly what follows. Frames are sealed like all
that people say.

`Hub` reads on behalf of all readers of a process: one blocking XREAD for all logs that are followed
here, however many sockets follow them. What Redis loses (a restart without its last second, an
expired log) shows as a gap in the numbers and raises `Gap`; the reader then starts over from the
database, which holds the truth.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import redis.asyncio as aioredis
import structlog
from django.conf import settings
from redis.exceptions import RedisError, ResponseError

from conversations.cancelling import cancelled
from conversations.encryption import SealKey, open_sealed, seal
from conversations.keyring import Unreadable

logger = structlog.get_logger(__name__)

KEPT_SECONDS = 3600
KEPT_WHILE_WRITTEN_SECONDS = 24 * 3600
MOST_FRAMES = 20_000
COALESCE_SECONDS = 0.012
RETRY_SECONDS = 0.3
BLOCK_MS = 5000
BUSY_SECONDS = 10.0

REDIS_FAULTS = (RedisError, OSError)


@dataclass(frozen=True, order=True, slots=True)
class Cursor:
    """A place in a conversation's log."""

    fence: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `fence:number`. Raises ValueError."""
        fence, _, number = text.partition(":")
        if not (fence.isascii() and fence.isdigit() and number.isascii() and number.isdigit()):
            raise ValueError(f"not a cursor: {text[:40]!r}")
        if len(fence) > 18 or len(number) > 18:
            raise ValueError("not a cursor: too long")
        return cls(int(fence), int(number))

    def __str__(self) -> str:
        return f"{self.fence}:{self.number}"

    @property
    def entry_id(self) -> str:
        return f"{self.fence}-{self.number}"

    @classmethod
    def of_entry(cls, entry_id: bytes) -> Self:
        fence, _, number = entry_id.partition(b"-")
        return cls(int(fence), int(number))

    def next(self) -> "Cursor":
        return Cursor(self.fence, self.number + 1)

    def follows(self, earlier: "Cursor") -> bool:
        """Whether no frame can lie between the two: the next number, or the start of a run."""
        return self == earlier.next() or (self.fence > earlier.fence and self.number == 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """A numbered piece of HTML for the page."""

    cursor: Cursor
    html: str


class FencedOut(Exception):
    """Another run has taken over; nothing of this one may be appended any more."""


class Gap(Exception):
    """Frames between the reader's cursor and what the log holds are missing."""


def connect(*, blocking: bool = False) -> "aioredis.Redis":
    """Open a client. redis-py would time out a blocking read after 5 s, and refuse connections
    beyond 100 instead of waiting; both are set right here. A peer that fell silent is given up."""
    pool = aioredis.BlockingConnectionPool.from_url(
        settings.REDIS_URL,
        max_connections=2 if blocking else 16,
        timeout=None,
        socket_timeout=BLOCK_MS / 1000 + 5 if blocking else 5,
        socket_connect_timeout=2,
    )
    return aioredis.Redis.from_pool(pool)


def key_of(conversation_id: object) -> str:
    return f"{settings.REDIS_PREFIX}log:{conversation_id}"


def _place(key: str, cursor: Cursor) -> str:
    return f"{key}/{cursor}"


@dataclass(frozen=True, slots=True)
class _Addition:
    """A frame on its way to its log."""

    key: str
    cursor: Cursor
    sealed: bytes
    is_last: bool
    done: "asyncio.Future[None]"


class Log:
    """Appends frames to the logs of conversations.

    What comes while an answer of Redis is awaited goes out together, in one trip.
    """

    def __init__(self, client: "aioredis.Redis") -> None:
        self._redis = client
        self._waiting: list[_Addition] = []
        self._sending: asyncio.Task[None] | None = None

    async def append(self, sealed_by: SealKey, frame: Frame, *, last: bool = False) -> None:
        """Append one frame to the log of the key's conversation. Safe to repeat.

        Raises FencedOut, or Redis' errors.
        """
        key, cursor = key_of(sealed_by.conversation_id), frame.cursor
        sealed = seal(frame.html.encode(), _place(key, cursor), sealed_by)
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Addition(key, cursor, sealed, last, done))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_waiting())
        try:
            await done
        except ResponseError as error:
            if "equal or smaller" not in str(error):
                raise
            await self._accept_if_there(key, cursor)

    async def _send_waiting(self) -> None:
        while self._waiting:
            additions, self._waiting = self._waiting, []
            try:
                answers = await self._send(additions)
            except REDIS_FAULTS as error:
                answers = [error] * len(additions)
            for addition, answer in zip(additions, answers, strict=True):
                if addition.done.done():  # its reply was interrupted meanwhile
                    continue
                if isinstance(answer, Exception):
                    addition.done.set_exception(answer)
                else:
                    addition.done.set_result(None)

    async def _send(self, additions: list[_Addition]) -> list[Any]:
        """Send all in one trip and return Redis' answer to each frame."""
        # As a transaction, so that who waits for frames is woken once, and gets all of them.
        async with self._redis.pipeline(transaction=len(additions) > 1) as together:
            for one in additions:
                together.xadd(
                    one.key,
                    {b"f": one.sealed},
                    id=one.cursor.entry_id,
                    maxlen=MOST_FRAMES,
                    approximate=True,
                )
            for one in additions:
                if one.cursor.number == 0:
                    # The run before stays for readers who are a little behind.
                    together.xtrim(one.key, minid=f"{one.cursor.fence - 1}-0")
                if one.is_last or one.cursor.number == 0:
                    kept = KEPT_SECONDS if one.is_last else KEPT_WHILE_WRITTEN_SECONDS
                    together.expire(one.key, kept)
            answers = await together.execute(raise_on_error=False)
        return answers[: len(additions)]

    async def _accept_if_there(self, key: str, cursor: Cursor) -> None:
        """A lost answer makes us append twice: fine if the frame is in. Raises FencedOut."""
        if not await self._redis.xrange(key, cursor.entry_id, cursor.entry_id):
            raise FencedOut(str(cursor))


class Hub:
    """Follows logs for all readers of this process.

    Most open pages are only looked at. Their logs wait together in one read that is rarely asked
    anew; the few that had frames lately are read by another, so that the price of a frame does not
    grow with the pages that are open.
    """

    def __init__(self, client: "aioredis.Redis", blocking: "aioredis.Redis") -> None:
        self._redis, self._blocking = client, blocking
        self._readers: dict[bytes, set[asyncio.Queue[list[Frame]]]] = {}
        self._positions: dict[bytes, bytes] = {}
        self._busy: dict[bytes, float] = {}  # when the last frame came (CLOCK_MONOTONIC)
        name = f"{settings.REDIS_PREFIX}wake:{uuid.uuid4().hex}"
        self._wake_quiet, self._wake_busy = f"{name}:quiet".encode(), f"{name}:busy".encode()
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(
        self, conversation_id: object, after: Cursor, *, known: Cursor
    ) -> AsyncGenerator[list[Frame], None]:
        """Yield what follows `after`, in order, several frames at a time, without end.

        `known` is how far the database is. Raises Gap when frames are missing: `after` lies behind
        the log's end, or what would come next is gone.
        """
        key = key_of(conversation_id).encode()
        queue: asyncio.Queue[list[Frame]] = asyncio.Queue()
        self._readers.setdefault(key, set()).add(queue)
        try:
            # A cursor that leads nowhere must not become the place where the loop reads for all.
            await self._attach(key, min(after, known))
            frames = await self._past(key, after) or await self._nothing_missed(key, after, known)
            while True:
                if fresh := _contiguous(frames, after):
                    after = fresh[-1].cursor
                    yield fresh
                frames = await queue.get()
                while not queue.empty():
                    frames = frames + queue.get_nowait()
        finally:
            self._detach(key, queue)

    async def close(self) -> None:
        """Stop reading."""
        await cancelled(self._tasks)

    async def _attach(self, key: bytes, after: Cursor) -> None:
        """Let the reading loops include this log from here on."""
        if not self._tasks:
            loops = (self._quiet_keys, self._wake_quiet), (self._busy_keys, self._wake_busy)
            self._tasks = {asyncio.create_task(self._read_forever(*loop)) for loop in loops}
        if key not in self._positions:
            self._positions[key] = after.entry_id.encode()
            await self._wake(self._wake_quiet)

    async def _wake(self, wake_key: bytes) -> None:
        """Let a loop ask anew, because its logs are others now."""
        with suppress(*REDIS_FAULTS):  # it does within BLOCK_MS anyway
            async with self._redis.pipeline(transaction=False) as together:
                together.xadd(wake_key, {b"w": b"1"}, maxlen=4)
                together.expire(wake_key, KEPT_SECONDS)
                await together.execute()

    def _quiet_keys(self) -> list[bytes]:
        return [key for key in self._positions if key not in self._busy]

    def _busy_keys(self) -> list[bytes]:
        return [key for key in self._busy if key in self._positions]

    async def _past(self, key: bytes, after: Cursor) -> list[Frame]:
        """Return what the log holds behind `after` already."""
        entries: list[Any] = await self._redis.xrange(key, f"({after.entry_id}", "+") or []
        return _frames(key, entries)

    async def _nothing_missed(self, key: bytes, after: Cursor, known: Cursor) -> list[Frame]:
        """Make sure that `after` is how far things are; return what came in this moment.

        Raises Gap when it is not: the log or the database is further, or behind it.
        """
        newest: Any = await self._redis.xrevrange(key, count=1)
        top = Cursor.of_entry(newest[0][0]) if newest else None
        if top and top > after:  # written since we looked; what is missing shows in the numbers
            return await self._past(key, after)
        if max(known, top or known) != after:
            raise Gap
        return []

    def _detach(self, key: bytes, queue: "asyncio.Queue[list[Frame]]") -> None:
        readers = self._readers[key]
        readers.discard(queue)
        if not readers:
            del self._readers[key]
            self._positions.pop(key, None)
            self._busy.pop(key, None)

    async def _read_forever(self, keys: Callable[[], list[bytes]], wake_key: bytes) -> None:
        wake_position = b"0-0"
        while True:
            asked_at = time.monotonic()
            try:
                streams: dict[Any, Any] = {key: self._positions[key] for key in keys()}
                streams[wake_key] = wake_position
                answer = await self._blocking.xread(streams, count=500, block=BLOCK_MS)
            except REDIS_FAULTS as error:
                logger.warning("log_unreadable", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for key, entries in _by_key(answer):
                if key == wake_key:
                    wake_position = entries[-1][0]
                elif key in self._readers:
                    self._positions[key] = entries[-1][0]
                    self._deliver(key, _frames(key, entries))
            await self._sort_anew([key for key, _ in _by_key(answer) if key in self._positions])
            # When frames come thick and fast, a short pause makes one delivery of what several
            # replies wrote. A frame that comes after a while is never kept waiting.
            if time.monotonic() - asked_at < COALESCE_SECONDS:
                await asyncio.sleep(COALESCE_SECONDS)

    async def _sort_anew(self, written: list[bytes]) -> None:
        """Move the logs that were `written` to the busy ones, and out of them what became quiet."""
        now = time.monotonic()
        has_more = not self._busy.keys() >= set(written)
        self._busy.update(dict.fromkeys(written, now))
        quiet = [key for key, at in self._busy.items() if now - at > BUSY_SECONDS]
        for key in quiet:
            del self._busy[key]
        if has_more:
            await self._wake(self._wake_busy)
        if quiet:
            await self._wake(self._wake_quiet)

    def _deliver(self, key: bytes, frames: list[Frame]) -> None:
        for queue in self._readers.get(key, ()):
            queue.put_nowait(frames)


def _by_key(answer: Any) -> Iterable[tuple[bytes, list[Any]]]:
    """XREAD answers with a list of pairs (RESP2) or a map to lists of lists (RESP3)."""
    if isinstance(answer, dict):
        return [(key, entries[0]) for key, entries in answer.items()]
    return answer or []


def _frames(key: bytes, entries: list[Any]) -> list[Frame]:
    name = key.decode()
    conversation_id = uuid.UUID(name.rpartition(":")[2])
    found = []
    for entry_id, fields in entries:
        cursor = Cursor.of_entry(entry_id)
        try:
            html = open_sealed(fields[b"f"], _place(name, cursor), conversation_id).decode()
        except Unreadable as error:
            # Its absence shows as a gap, and the reader starts over from the database.
            logger.error("frame_unreadable", cursor=str(cursor), reason=type(error).__name__)
            continue
        found.append(Frame(cursor, html))
    return found


def _contiguous(frames: list[Frame], after: Cursor) -> list[Frame]:
    """Return the frames behind `after`, each following the one before. Raises Gap."""
    fresh = []
    for frame in frames:
        if frame.cursor <= after:
            continue
        if not frame.cursor.follows(after):
            raise Gap
        after = frame.cursor
        fresh.append(frame)
    return fresh
