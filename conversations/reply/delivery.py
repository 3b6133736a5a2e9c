"""From turn events to numbered frames in the log, paced, with snapshots in the database.

Text is gathered without waiting; a pump cuts it into frames. The first frame goes out at once. Then
whoever publishes asks `pause` when more can be of use: every `BASE_INTERVAL_SECONDS` at most, more
rarely the more replies this process writes, and for all of them at the same moment.
While Redis is away frames wait here in order; while PostgreSQL is away snapshots are tried again.
Neither stops the reply.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog

from chatbot.database import DATABASE_FAULTS, db
from conversations.cancelling import cancelled
from conversations.models import Message
from conversations.reply import fragments
from conversations.reply.log import REDIS_FAULTS, Cursor, FencedOut, Frame, Log
from conversations.reply.markdown import BlockStream, Final
from conversations.turn import Progress, TextArrived, ThinkingArrived, TurnEvent, save_progress

logger = structlog.get_logger(__name__)

BASE_INTERVAL_SECONDS = 0.04
INTERVAL_PER_REPLY_SECONDS = 0.0008
PAUSE_SECONDS = 0.15
FIRST_SNAPSHOT_SECONDS = 0.5
SNAPSHOT_SECONDS = 2.0
SNAPSHOT_CHARACTERS_PER_SECOND = 40_000
REDIS_RETRY_SECONDS = 0.2
LONG_TEXT_CHARACTERS = 10_000


class Delivery:
    """Delivers one run of a reply to its readers."""

    def __init__(
        self,
        reply: Message,
        log: Log,
        *,
        active: Callable[[], int],
        on_lost: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._reply, self._log, self._active = reply, log, active
        self._on_lost, self._on_stop = on_lost, on_stop
        self._sealed_by = reply.seal_key()
        self._text, self._thinking = reply.content, reply.thinking
        self._blocks = BlockStream.resume(self._text)[0]
        self._new_text: list[str] = []
        self._new_thinking: list[str] = []
        self._cursor = Cursor(reply.fence, 0)
        self._outbox: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        self._saved: Progress | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: set[asyncio.Queue[TurnEvent | None]] = set()
        self._is_told = False

    def start(self, opening: str) -> None:
        """Begin with `opening`, the HTML that shows the question and the empty reply."""
        self._outbox.append(Frame(self._cursor, opening))
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._snapshots())]

    def publish(self, event: TurnEvent) -> None:
        """Take note of what arrived; never waits."""
        if isinstance(event, TextArrived):
            self._new_text.append(event.text)
        elif isinstance(event, ThinkingArrived):
            self._new_thinking.append(event.text)
        for queue in self._listeners:
            queue.put_nowait(event)
        self._arrived.set()

    def listen(self) -> "asyncio.Queue[TurnEvent | None]":
        """Return a queue of what arrives, from the reply's beginning; None is its end.

        For doors of this process that tell text instead of HTML; give it back to `leave`.
        """
        queue: asyncio.Queue[TurnEvent | None] = asyncio.Queue()
        if thinking := self._thinking + "".join(self._new_thinking):
            queue.put_nowait(ThinkingArrived(thinking))
        if text := self._text + "".join(self._new_text):
            queue.put_nowait(TextArrived(text))
        if self._is_told:
            queue.put_nowait(None)
        self._listeners.add(queue)
        return queue

    def leave(self, queue: "asyncio.Queue[TurnEvent | None]") -> None:
        """Stop filling a queue of `listen`."""
        self._listeners.discard(queue)

    def tell_end(self) -> None:
        """Let those who listen know that the row is closed, or not ours any more."""
        if not self._is_told:
            self._is_told = True
            for queue in self._listeners:
                queue.put_nowait(None)

    async def pause(self) -> None:
        """Wait until the next frame may go out."""
        await asyncio.sleep(self._until_next_frame())

    async def finish(self) -> Progress:
        """Stop pumping and cut what is left; the last frame follows by `send_last`."""
        await self._stop_pumping()
        self._cut(flush=True)
        # The number of the last frame is part of what is stored, so it is decided now.
        self._cursor = self._cursor.next()
        return self._progress()

    async def send_last(self, warning: str = "", *, patience_seconds: float = 30.0) -> None:
        """Send what is left and the frame that ends the reply, whose row is closed by now.

        `warning` says that a budget is nearly spent.
        """
        final = await self._final()
        html = fragments.turn_ended(self._reply, final, warning)
        self._outbox.append(Frame(self._cursor, html))
        # Otherwise readers learn of the end from the database.
        with suppress(TimeoutError, FencedOut):
            async with asyncio.timeout(patience_seconds):
                await self._send_outbox(last=True)

    async def salvage(self) -> Progress:
        """Stop pumping after a crash of ours; return the text so far, without rendering it."""
        await self._stop_pumping()
        self._text += "".join(self._new_text)
        self._cursor = self._cursor.next()
        return self._progress()

    async def _stop_pumping(self) -> None:
        await cancelled(self._tasks)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()):
                logger.error("delivery_crashed", exc_info=error)

    async def _final(self) -> Final:
        """Compare with the whole text; a long one would hold up the other replies."""
        if len(self._text) < LONG_TEXT_CHARACTERS:
            return self._blocks.finish()
        return await asyncio.to_thread(self._blocks.finish)

    def _progress(self) -> Progress:
        return Progress(self._text, self._thinking, self._cursor.number)

    def _cut(self, *, flush: bool = False) -> None:
        """Make a frame of what arrived, if there is something to show."""
        thinking, text = "".join(self._new_thinking), "".join(self._new_text)
        self._new_thinking.clear()
        self._new_text.clear()
        html = ""
        if thinking:
            html = fragments.thinking_arrived(self._reply, thinking, is_first=not self._thinking)
            self._thinking += thinking
        if text or flush:
            self._text += text
            delta = self._blocks.feed(text, flush=flush)
            html += fragments.text_arrived(self._reply.fence, delta)
        if html:
            self._cursor = self._cursor.next()
            self._outbox.append(Frame(self._cursor, html))

    async def _pump(self) -> None:
        try:
            # No pause behind the opening: the first words go out as soon as they come.
            await self._send_outbox()
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                self._cut()
                await self._send_outbox()
                if self._blocks.holds_back and not self._arrived.is_set():
                    await self._flush_after_pause()
        except FencedOut:
            self._on_lost()

    async def _flush_after_pause(self) -> None:
        """Show what was held back until it would grow, when nothing more comes for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_SECONDS):
                await self._arrived.wait()
                return
        self._cut(flush=True)
        await self._send_outbox()

    def _until_next_frame(self) -> float:
        """Seconds until all replies of this process may send again: what they send at the same
        moment costs one trip to Redis and one back."""
        interval = max(BASE_INTERVAL_SECONDS, self._active() * INTERVAL_PER_REPLY_SECONDS)
        # A timer may go off a little early; that is not worth a frame of its own.
        return interval - (time.monotonic() + interval / 8) % interval + interval / 8

    async def _send_outbox(self, *, last: bool = False) -> None:
        while self._outbox:
            frame = self._outbox[0]
            try:
                await self._log.append(self._sealed_by, frame, last=last and len(self._outbox) == 1)
            except REDIS_FAULTS as error:
                logger.warning("frame_waits", error=type(error).__name__, waiting=len(self._outbox))
                await asyncio.sleep(REDIS_RETRY_SECONDS)
                continue
            self._outbox.popleft()

    async def _snapshots(self) -> None:
        pause = FIRST_SNAPSHOT_SECONDS
        while True:
            # A longer text is stored less often, so that the sum of all writes stays in proportion.
            await asyncio.sleep(pause + len(self._text) / SNAPSHOT_CHARACTERS_PER_SECOND)
            pause = SNAPSHOT_SECONDS
            self._cut(flush=True)
            progress = self._progress()
            self._arrived.set()
            try:
                saved = await db(save_progress)(self._reply, progress)
            except DATABASE_FAULTS as error:
                logger.warning("snapshot_failed", error=type(error).__name__)
                continue
            if not saved.owned:
                self._on_lost()
                return
            if saved.stop_requested:
                self._on_stop()
