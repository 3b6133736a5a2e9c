"""Replies as tasks of the process: started, stopped, drained, and reaped when a process dies.

A reply belongs to the process that writes it, never to a socket. Each process says every two
seconds, by the database's clock, that it lives; any other takes its open replies for interrupted
once it was silent for six. A process that has not been able to say so itself takes nobody for dead
until it could again for a while: after an outage of the database all of them look silent.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from django.conf import settings
from uuid_utils.compat import uuid7

from chatbot import telemetry
from chatbot.database import DATABASE_FAULTS, db, db_patiently
from conversations.cancelling import cancelled
from conversations.models import Message, Runner
from conversations.reply import fragments
from conversations.reply.delivery import Delivery
from conversations.reply.log import (
    REDIS_FAULTS,
    Cursor,
    FencedOut,
    Frame,
    Hub,
    Log,
    connect,
)
from conversations.turn import (
    Progress,
    Turn,
    TurnEnded,
    TurnEvent,
    close_abandoned,
    close_reply,
    run_turn,
)
from conversations.turn.closing import beat, settle_abandoned_titles
from conversations.turn.limits import close_limiters
from conversations.turn.titles import title_if_first
from conversations.turn.working_context import keep
from prompts import routing
from prompts.provider import configured_provider

logger = structlog.get_logger(__name__)

BEAT_SECONDS = 2.0
SETTLED_AFTER_SECONDS = 4.0
LONGEST_SETTLING_SECONDS = 60.0
DRAIN_SECONDS = 20.0

Ending = tuple[Message.State, str]
STOPPED: Ending = (Message.State.STOPPED, "")
DRAINED: Ending = (Message.State.INTERRUPTED, "restarted")
LOST: Ending = (Message.State.INTERRUPTED, "lost")


@dataclass(slots=True)
class _Run:
    task: asyncio.Task[None]
    ending: asyncio.Future[Ending]
    delivery: Delivery


def _end(ending: "asyncio.Future[Ending]", how: Ending) -> None:
    """Decide how a run ends, unless that is decided."""
    if not ending.done():
        ending.set_result(how)


class ReplyRunner:
    """Writes replies in this process. One for each event loop; see `runner()`."""

    def __init__(self) -> None:
        self.row = Runner(pk=uuid7(), host=socket.gethostname(), pid=os.getpid())
        self._redis, self._blocking = connect(), connect(blocking=True)
        self.log = Log(self._redis)
        self.hub = Hub(self._redis, self._blocking)
        self._runs: dict[Any, _Run] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._afterwards: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Task[None] | None = None
        self._draining = False

    # --- life of the process -----------------------------------------------------------------

    async def ready(self) -> None:
        """Announce this process, once; returns when it may own replies."""
        if self._ready is None:
            self._ready = asyncio.create_task(db(beat)(self.row))
            self._keep(self._beat_and_reap())
            self._keep(self._listen_for_stops())
        await asyncio.shield(self._ready)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """End everything: replies get `seconds`, then they are interrupted and say so."""
        self._draining = True
        await self.finish_replies(seconds)
        await cancelled(self._background)
        await routing.close()
        await close_limiters()
        await self.hub.close()
        await self._redis.aclose()
        await self._blocking.aclose()

    async def finish_replies(self, seconds: float) -> None:
        """Let running replies end within `seconds`; interrupt the rest."""
        await self._wait_for_runs(seconds)
        for run in self._runs.values():
            _end(run.ending, DRAINED)
        await self._wait_for_runs(5.0)
        if self._afterwards:  # what was begun for a title is paid for
            await asyncio.wait(self._afterwards, timeout=5.0)
        await cancelled(self._afterwards)

    async def _wait_for_runs(self, seconds: float) -> None:
        if tasks := [run.task for run in self._runs.values()]:
            await asyncio.wait(tasks, timeout=seconds)

    def _keep(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` beside everything else, holding the reference that asyncio does not.

        It inherits nothing: what it records is not of the request that happened to come first.
        """
        task = asyncio.create_task(work, context=Context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- one reply ---------------------------------------------------------------------------

    def launch(self, turn: Turn, opening: str) -> None:
        """Write the reply of `turn`; `opening` is the first frame's HTML."""
        ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        delivery = Delivery(
            turn.reply,
            self.log,
            active=lambda: len(self._runs),
            on_lost=lambda: _end(ending, LOST),
            on_stop=lambda: _end(ending, STOPPED),
        )
        task = asyncio.create_task(self._write(delivery, turn, opening, ending))
        self._runs[turn.reply.pk] = _Run(task, ending, delivery)
        telemetry.active_replies.inc()
        task.add_done_callback(lambda _: self._ended(turn.reply.pk))

    def _ended(self, reply_id: Any) -> None:
        del self._runs[reply_id]
        telemetry.active_replies.dec()

    async def _write(
        self, delivery: Delivery, turn: Turn, opening: str, ending: "asyncio.Future[Ending]"
    ) -> None:
        telemetry.bind(turn_id=str(turn.reply.pk))
        delivery.start(opening)
        try:
            await self._write_to(delivery, turn, ending)
        except Exception:
            # Whatever went wrong in our own code: the row must not stay open, and we must know.
            logger.exception("reply_crashed")
            await self._close_crashed(turn.reply, await delivery.salvage())
        finally:
            delivery.tell_end()

    async def _write_to(
        self, delivery: Delivery, turn: Turn, ending: "asyncio.Future[Ending]"
    ) -> None:
        assert turn.call is not None, "a turn that was there already is not launched"
        stream = routing.stream(
            turn.call.offer,
            turn.call.messages,
            max_tokens=turn.call.max_tokens,
            **turn.call.parameters,
        )
        ended = await run_turn(
            stream,
            turn.call.guard,
            moderator=configured_provider(),
            listener=delivery,
            until=ending,
        )
        progress = await delivery.finish()
        closed = await db_patiently(close_reply)(turn.reply, progress, ended)
        if not closed:
            logger.warning("reply_lost_to_another_process")
            return
        delivery.tell_end()
        await delivery.send_last(closed.warning)
        _count(ended)
        if not self._draining:
            cursor = Cursor(turn.reply.fence, progress.cursor)
            by_model = ended.outcome == Message.State.COMPLETED
            task = asyncio.create_task(self._go_on(turn, cursor, by_model=by_model))
            self._afterwards.add(task)
            task.add_done_callback(self._afterwards.discard)

    async def _close_crashed(self, reply: Message, progress: Progress) -> None:
        ended = TurnEnded(Message.State.FAILED, fault="internal")
        if await db_patiently(close_reply)(reply, progress, ended):
            _count(ended)
            cursor = Cursor(reply.fence, progress.cursor)
            await self._show_as_stored(reply, cursor)

    async def _show_as_stored(self, reply: Message, cursor: Cursor) -> None:
        html = await db(fragments.reply_replaced)(reply)
        with suppress(*REDIS_FAULTS, FencedOut):  # readers then learn of it from the database
            await self.log.append(reply.seal_key(), Frame(cursor, html), last=True)

    async def _go_on(self, turn: Turn, cursor: Cursor, *, by_model: bool) -> None:
        """Do what nobody waits for any more: the next turn's context, and a title."""
        assert turn.call is not None, "a turn that was there already is not launched"
        await keep(self._redis, turn.call.earlier, turn.question, turn.reply)
        await self._give_title(turn, cursor, by_model=by_model)

    async def _give_title(self, turn: Turn, cursor: Cursor, *, by_model: bool) -> None:
        conversation = await title_if_first(turn, self.row.pk, by_model=by_model)
        if conversation:
            with suppress(*REDIS_FAULTS, FencedOut):  # the next page load shows it
                html = fragments.title_changed(conversation)
                frame = Frame(cursor.next(), html)
                await self.log.append(conversation.seal_key(), frame, last=True)

    async def wait_for(self, reply_id: Any, *, seconds: float) -> None:
        """Return when the reply has ended, or after `seconds`; for doors without a stream."""
        if run := self._runs.get(reply_id):
            await asyncio.wait({run.task}, timeout=seconds)

    async def listen(self, reply_id: Any) -> AsyncGenerator[TurnEvent, None]:
        """Yield what arrives in a reply, from its beginning, exactly as pages are shown it.

        Ends as soon as the row is closed; at once for a reply that is not written here.
        """
        run = self._runs.get(reply_id)
        if run is None:
            return
        queue = run.delivery.listen()
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            run.delivery.leave(queue)

    # --- stop --------------------------------------------------------------------------------

    async def stop(self, reply: Message) -> None:
        """Stop a reply, wherever it is written. The row already says that it is to stop."""
        if run := self._runs.get(reply.pk):
            _end(run.ending, STOPPED)
        elif reply.runner_id:
            with suppress(*REDIS_FAULTS):  # its runner finds the request in the row within 2 s
                key = _stops_key(reply.runner_id)
                await self._redis.xadd(key, {b"r": str(reply.pk)}, maxlen=1000)
                await self._redis.expire(key, 60)

    async def _listen_for_stops(self) -> None:
        key, position, client = _stops_key(self.row.pk), b"0-0", connect(blocking=True)
        try:
            while True:
                try:
                    answer = await client.xread({key: position}, block=5000)
                except REDIS_FAULTS:
                    await asyncio.sleep(0.5)
                    continue
                for entry_id, fields in _entries(answer):
                    position = entry_id
                    self._stop_here(fields[b"r"].decode())
        finally:
            await client.aclose()

    def _stop_here(self, reply_id: str) -> None:
        for running_id, run in self._runs.items():
            if str(running_id) == reply_id:
                _end(run.ending, STOPPED)

    # --- heartbeat and reaper ----------------------------------------------------------------

    async def _beat_and_reap(self) -> None:
        last_beat = time.monotonic()
        settled_at = last_beat + SETTLED_AFTER_SECONDS
        while True:
            try:
                await db(beat)(self.row)
                now = time.monotonic()
                if (silent := now - last_beat) > SETTLED_AFTER_SECONDS:
                    # Pauses between tries to connect double: others may need as long again.
                    settled_at = now + min(silent, LONGEST_SETTLING_SECONDS)
                last_beat = now
                if now >= settled_at:
                    await self._reap()
            except DATABASE_FAULTS as error:
                logger.warning("heartbeat_failed", error=type(error).__name__)
            except Exception:
                # One row that can't be shown must not stop the heart of all the others.
                logger.exception("reaping_failed")
            await asyncio.sleep(BEAT_SECONDS)

    async def _reap(self) -> None:
        for reply in await db(close_abandoned)():
            logger.warning("reply_abandoned", reply=str(reply.pk))
            telemetry.turns_ended.labels(reply.state).inc()
            await self._show_as_stored(reply, Cursor(reply.fence, 0))
        await db(settle_abandoned_titles)()


def _count(ended: TurnEnded) -> None:
    telemetry.turns_ended.labels(ended.outcome).inc()
    telemetry.turn_duration.observe(ended.duration_ms / 1000)
    if ended.first_token_ms is not None:
        telemetry.first_token.observe(ended.first_token_ms / 1000)


def _stops_key(runner_id: object) -> str:
    return f"{settings.REDIS_PREFIX}stops:{runner_id}"


def _entries(answer: Any) -> list[Any]:
    if isinstance(answer, dict):
        return [entry for lists in answer.values() for entry in lists[0]]
    return [entry for _, entries in answer or [] for entry in entries]


_runners: "WeakKeyDictionary[asyncio.AbstractEventLoop, ReplyRunner]" = WeakKeyDictionary()


def runner() -> ReplyRunner:
    """Return this process' runner, which belongs to the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _runners:
        _runners[loop] = ReplyRunner()
    return _runners[loop]
