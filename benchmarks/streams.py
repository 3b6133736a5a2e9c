"""Many replies at once, read over websockets by a client that counts every byte and every token.

The floor is the provider asked directly, in the same run by the same client. "Added" to the first
token is what stands between: from the question's POST to the first text on the page, less the
floor. Token latency runs from the moment the simulator wrote a token to the moment the page had the
text up to its end; it includes the pause that makes frames. A stream is sustained when all of its
text came at 97 % of the provider's rate and ended within half a second of the provider.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import uvloop

from benchmarks.accounting import (
    ReadReply,
    delays,
    is_sustained,
    median,
    percentile,
    read_reply,
    token_ends,
)
from benchmarks.installation import Installation, installation
from benchmarks.people import Person, make_conversation, make_people, use_installation
from benchmarks.processes import cpu_seconds, family_cpu_seconds, memory, waited_seconds
from benchmarks.provider_simulator import forget_requests, recorded_requests, sample, sim
from benchmarks.reader import DirectReply, Reader
from benchmarks.report import Table, number
from chatbot.local.completions import pieces
from chatbot.local.environment import ROOT

RATE = 50
PATIENCE_SECONDS = 90.0

Control = dict[str, Any]
"""Fields of `provider_simulator.Control`."""


@dataclass(frozen=True)
class Plan:
    """How much is measured. `ramp` is prompts a second; a burst's prompts come within one."""

    levels: Sequence[int] = (1, 20, 50, 100, 150, 200, 300)
    bursts: Sequence[int] = (50, 100)
    tokens: int = 600
    ramp: float = 25.0
    single_prompts: int = 30
    message_prompts: int = 60
    long_tokens: int = 8000
    markdown_streams: int = 50

    @property
    def readers(self) -> int:
        """How many people with an open page it takes."""
        return max(*self.levels, *self.bursts, self.markdown_streams)


FULL = Plan()
QUICK = Plan(
    levels=(1, 50),
    bursts=(),
    tokens=250,
    single_prompts=10,
    message_prompts=20,
    long_tokens=2000,
    markdown_streams=20,
)


def prose(tokens: int) -> list[str]:
    """Return so many tokens of real English that does not repeat itself: the project's licence."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8").partition("1. Definitions.")[2]
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    plain = [re.sub(r"^(?:\d+\.|\([a-z]\)) ", "", paragraph) for paragraph in paragraphs]
    return pieces("\n\n".join(filter(None, plain)))[:tokens]


@dataclass(slots=True)
class Used:
    """CPU seconds of the three servers, and how long the web process waited for its core."""

    web: float
    redis: float
    postgres: float
    waited: float
    at: float

    @classmethod
    def now(cls, running: Installation) -> "Used":
        return cls(
            cpu_seconds(running.web.pid),
            cpu_seconds(running.redis_pid),
            family_cpu_seconds(running.postgres_pid),
            waited_seconds(running.web.pid),
            time.monotonic(),
        )

    def since(self, earlier: "Used") -> "Used":
        return Used(
            self.web - earlier.web,
            self.redis - earlier.redis,
            self.postgres - earlier.postgres,
            self.waited - earlier.waited,
            self.at - earlier.at,
        )


@dataclass(slots=True)
class Level:
    """What one number of streams at once came to. Times are seconds."""

    streams: int
    tokens: int
    used: Used
    sockets_mib: float = 0.0
    first_text: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    last_delays: list[float] = field(default_factory=list)
    refused: int = 0
    sustained: int = 0
    sustained_tightly: int = 0
    replies: list[ReadReply] = field(default_factory=list)

    def total(self, name: str) -> int:
        return sum(getattr(reply, name) for reply in self.replies)


class Bench:
    """A client with open pages, and all that it measures."""

    def __init__(self, running: Installation, people: Sequence[Person], plan: Plan) -> None:
        self._running, self._plan = running, plan
        self._people = people
        self._conversations = [make_conversation(person.user_id) for person in people]
        self._prose = prose(plan.tokens)
        self._number = 0

    async def measure(self) -> list[Table]:
        """Measure everything; prints what it is doing."""
        connector = aiohttp.TCPConnector(limit=0)
        patience = aiohttp.ClientTimeout(PATIENCE_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as http:
            self._http = http
            await asyncio.sleep(2)
            idle = memory(self._running.web.pid)
            self._readers = [
                Reader(self._running.url, person, conversation, http)
                for person, conversation in zip(self._people, self._conversations, strict=True)
            ]
            await self._open_pages()
            crowded = memory(self._running.web.pid)
            floor = await self._direct(1, self._plan.single_prompts)
            singles = await self._singles()
            message_cpu, idle_cpu = await self._messages()
            levels = [await self._prose_level(n, self._plan.ramp) for n in self._plan.levels]
            bursts = [await self._prose_level(n, n) for n in self._plan.bursts]
            markdown = await self._markdown()
            direct = await self._direct_level(max(self._plan.levels))
            long_rows = [await self._long(kind) for kind in ("markdown", "code", "prose")]
            busy = memory(self._running.web.pid)
            for reader in self._readers:
                await reader.close()
        base = median(floor)
        return [
            self._first_token_table(floor, singles),
            self._level_table("Streams of 50 tokens/s, one web process on one core", levels, base),
            self._level_table("The same, all prompts within one second", bursts, base),
            self._level_table("The same in Markdown", [markdown], base),
            _floor_table(direct),
            _long_table(long_rows),
            _cost_table(message_cpu, idle_cpu, len(self._readers), (idle, crowded, busy)),
        ]

    # --- steps -------------------------------------------------------------------------------

    async def _open_pages(self) -> None:
        """Connect all sockets, and let every conversation have had one short reply."""
        say(f"{len(self._readers)} people open their pages")
        for reader in self._readers:
            await reader.open()
        await self._ask_all(len(self._readers), self._plan.ramp, _short(1))

    async def _ask_all(
        self, streams: int, ramp: float, control: Control | None = None
    ) -> dict[str, Reader]:
        """Ask on so many pages, `ramp` prompts a second; return them by label when all ended."""
        asked = {}
        line = sim(**(control or {}))
        tasks = []
        for at, reader in enumerate(self._readers[:streams]):
            self._number += 1
            label = f"Question {self._number}."
            reader.forget()
            asked[label] = reader
            tasks.append(asyncio.create_task(_later(at / ramp, reader, f"{label}\n{line}")))
        sent_at = await asyncio.gather(*tasks)
        self._sent_at: dict[str, float | None] = dict(zip(asked, sent_at, strict=True))
        taken = [
            asyncio.create_task(reader.ended.wait())
            for label, reader in asked.items()
            if self._sent_at[label] is not None
        ]
        if taken:
            # One that has not ended by then is counted as not sustained.
            _, late = await asyncio.wait(taken, timeout=PATIENCE_SECONDS)
            for task in late:
                task.cancel()
        return asked

    async def _level(
        self, streams: int, ramp: float, tokens: Sequence[str], control: Control | None = None
    ) -> Level:
        forget_requests(self._running.provider)
        before = {reader: reader.wire_bytes for reader in self._readers}
        used = Used.now(self._running)
        asked = await self._ask_all(streams, ramp, control)
        level = Level(streams, len(tokens), Used.now(self._running).since(used))
        ends = token_ends(tokens)
        records = recorded_requests(self._running.provider, token_times=True)
        sent = {_label(record): record["token_times"] for record in records}
        for label, reader in asked.items():
            asked_at = self._sent_at[label]
            if asked_at is None:
                level.refused += 1
                continue
            reply = read_reply(reader.received, before[reader])
            _account(level, reply, asked_at, sent.get(label, []), ends)
        return level

    async def _prose_level(self, streams: int, ramp: float) -> Level:
        say(f"{streams} streams of prose, {ramp:g} prompts/s")
        level = await self._level(streams, ramp, self._prose)
        await asyncio.sleep(1)
        return level

    async def _markdown(self) -> Level:
        streams, tokens = self._plan.markdown_streams, self._plan.tokens
        say(f"{streams} streams of Markdown")
        control = {"text": None, "kind": "markdown", "tokens": tokens}
        level = await self._level(streams, self._plan.ramp, ["x"] * tokens, control)
        # Its letters are not the page's: what is seen of a token is not known.
        return replace(level, delays=[], sustained=-1)

    async def _direct(self, streams: int, times: int) -> list[float]:
        """Return the provider's own time to the first token, as this client sees it."""
        say("the provider asked directly")
        found = []
        for _ in range(times):
            reply = DirectReply()
            question = f"Directly.\n{sim(**_short(5))}"
            await reply.ask(self._running.provider, question, self._http)
            found.append(reply.token_times[0] - reply.sent_at)
        return found

    async def _direct_level(self, streams: int) -> Level:
        say(f"{streams} streams from the provider directly")
        forget_requests(self._running.provider)
        replies = [DirectReply() for _ in range(streams)]
        used = Used.now(self._running)
        async with asyncio.TaskGroup() as group:
            for at, reply in enumerate(replies):
                group.create_task(self._ask_directly(at, reply))
        level = Level(streams, self._plan.tokens, Used.now(self._running).since(used))
        records = recorded_requests(self._running.provider, token_times=True)
        sent = {_label(record): record["token_times"] for record in records}
        for at, reply in enumerate(replies):
            emitted = sent[f"Directly {at}."]
            level.first_text.append(reply.token_times[0] - reply.sent_at)
            level.delays += [b - a for a, b in zip(emitted, reply.token_times, strict=False)]
            level.sustained += is_sustained(emitted, reply.token_times)
            level.sustained_tightly += is_sustained(emitted, reply.token_times, lag=0.1)
        return level

    async def _ask_directly(self, at: int, reply: DirectReply) -> None:
        await asyncio.sleep(at / self._plan.ramp)
        await reply.ask(self._running.provider, f"Directly {at}.", self._http)

    async def _singles(self) -> list[float]:
        """Return the time to the first text for one person, each question by itself."""
        say("one person, one question after another")
        found = []
        for _ in range(self._plan.single_prompts):
            level = await self._level(1, 1, ["x"], _short(5))
            found += level.first_text
            await asyncio.sleep(0.15)
        return found

    async def _messages(self) -> tuple[float, float]:
        """Return the web process' CPU seconds for a message with a reply of one token, and those
        of a second in which nothing happens."""
        say("messages alone")
        used = Used.now(self._running)
        await asyncio.sleep(6)
        idle = Used.now(self._running).since(used)
        idle_share = idle.web / idle.at
        used = Used.now(self._running)
        number = 0
        while number < self._plan.message_prompts:
            together = min(20, len(self._readers))
            await self._ask_all(together, 10, _short(1))
            number += together
        spent = Used.now(self._running).since(used)
        return (spent.web - idle_share * spent.at) / number, idle_share

    async def _long(self, kind: str) -> list[str]:
        """One fast reply: what it costs at its beginning and at its end."""
        tokens, rate = self._plan.long_tokens, 400
        say(f"one reply of {tokens} tokens of {kind}")
        watcher = asyncio.create_task(self._watch_cpu())
        control = {"text": None, "kind": kind, "tokens": tokens, "tokens_per_second": rate}
        asked = await self._ask_all(1, 1, control)
        watcher.cancel()
        records = recorded_requests(self._running.provider, token_times=True)
        times = {_label(record): record["token_times"] for record in records}
        ((label, reader),) = asked.items()
        sent = times[label]
        early, late = (100, 900), (tokens - 900, tokens - 100)
        row = [f"{kind}, {tokens:,} tokens"]
        for first, last in (early, late):
            row.append(number(self._cpu_between(sent[first], sent[last]) / (last - first) * 1e6, 0))
            raw = [m for m in reader.received if sent[first] <= m.at < sent[last]]
            row.append(number(sum(len(m.text.encode()) for m in raw) / (last - first), 0))
        if kind == "prose":
            ends = token_ends(sample(kind, tokens))
            seen = delays(sent, ends, read_reply(reader.received, 0).samples)
            row += [number(percentile(seen[a:b], 0.95) * 1000, 0) for a, b in (early, late)]
        else:
            row += ["–", "–"]
        return row

    async def _watch_cpu(self) -> None:
        self._cpu: list[tuple[float, float]] = []
        while True:
            self._cpu.append((time.monotonic(), cpu_seconds(self._running.web.pid)))
            await asyncio.sleep(0.02)

    def _cpu_between(self, first: float, last: float) -> float:
        spent = [cpu for at, cpu in self._cpu if first <= at <= last]
        return spent[-1] - spent[0]

    # --- tables ------------------------------------------------------------------------------

    def _first_token_table(self, floor: list[float], singles: list[float]) -> Table:
        base = median(floor)
        rows = [
            ["provider directly", *_ms(floor, 0), "–"],
            ["through Parley", *_ms(singles, 0), number((median(singles) - base) * 1000)],
        ]
        note = f"{len(singles)} questions each, milliseconds."
        return Table("Time to first token, one person", ["", "p50", "p95", "added"], rows, note)

    def _level_table(self, title: str, levels: list[Level], floor: float) -> Table:
        columns = [
            *("streams", "first token +p50", "+p95", "latency p50", "p95", "p99"),
            *("refused", "sustained", "in 100 ms", "CPU web", "Redis", "PG", "core", "waited"),
            *("frames/s", "resent", "B/token raw", "packed", "text raw", "packed"),
        ]
        note = f"{self._plan.tokens} tokens a reply. {_LEVEL_NOTE}"
        return Table(title, columns, [_level_row(level, floor) for level in levels], note)


_LEVEL_NOTE = (
    "First token (added) and latency in ms; refused: prompts that were not taken; CPU in seconds"
    " for 1,000 tokens, questions included; core: share of its core that the web process used;"
    " waited: time its threads waited for that core, also for one another, by time of the run;"
    " frames/s of one stream; resent: threads that had to be sent again as a whole; bytes on the"
    " socket for a token, as sent and compressed, first for everything, then for the frames of"
    " text alone."
)


def say(line: str) -> None:
    """Tell what is being done."""
    print(f"  … {line}", flush=True)


def _short(tokens: int) -> Control:
    return {"text": None, "tokens": tokens}


async def _later(seconds: float, reader: Reader, text: str) -> float | None:
    """Ask after so many seconds; return when it was sent, or None if it was not taken."""
    await asyncio.sleep(seconds)
    try:
        return await reader.ask(text)
    except (aiohttp.ClientError, TimeoutError):
        return None


def _label(record: dict[str, Any]) -> str:
    """The first line of the question; a title's request quotes it and is told apart."""
    if record["title"]:
        return "title"
    return str(record["messages"][-1]["content"]).partition("\n")[0]


def _account(
    level: Level, reply: ReadReply, asked_at: float, sent: list[float], ends: list[int]
) -> None:
    seen = delays(sent, ends, reply.samples)
    arrived = [at + delay for at, delay in zip(sent, seen, strict=False)]
    level.replies.append(reply)
    level.first_text.append(reply.first_text_at - asked_at)
    level.delays += seen
    level.last_delays += seen[-1:]
    level.sustained += bool(sent) and is_sustained(sent, arrived)
    level.sustained_tightly += bool(sent) and is_sustained(sent, arrived, lag=0.1)


def _ms(seconds: Sequence[float], floor: float) -> list[str]:
    return [number((percentile(seconds, share) - floor) * 1000) for share in (0.5, 0.95)]


def _level_row(level: Level, floor: float) -> list[str]:
    tokens, used = level.streams * level.tokens, level.used
    frames = level.total("frames") / level.streams / (level.tokens / RATE)
    per_token = [
        number(level.total(name) / tokens)
        for name in ("raw_bytes", "wire_bytes", "text_raw_bytes", "text_wire_bytes")
    ]
    known = level.sustained >= 0
    return [
        str(level.streams),
        *_ms(level.first_text, floor),
        *(number(percentile(level.delays, share) * 1000, 0) for share in (0.5, 0.95, 0.99)),
        str(level.refused),
        f"{level.sustained}/{level.streams}" if known else "–",
        f"{level.sustained_tightly}/{level.streams}" if known else "–",
        *(number(cpu / tokens * 1000, 3) for cpu in (used.web, used.redis, used.postgres)),
        f"{used.web / used.at:.0%}",
        f"{used.waited / used.at:.0%}",
        number(frames),
        str(level.total("snapshots")),
        *per_token,
    ]


def _floor_table(level: Level) -> Table:
    row = [
        str(level.streams),
        *_ms(level.first_text, 0),
        *(number(percentile(level.delays, share) * 1000) for share in (0.5, 0.95, 0.99)),
        f"{level.sustained}/{level.streams}",
        f"{level.sustained_tightly}/{level.streams}",
    ]
    columns = ["streams", "first token p50", "p95", "latency p50", "p95", "p99", "sustained"]
    return Table(
        "The floor: the provider asked directly",
        [*columns, "in 100 ms"],
        [row],
        "The same client, simulator and ramp without Parley: what the harness itself can do.",
    )


def _long_table(rows: list[list[str]]) -> Table:
    columns = [
        *("one reply at 400 tokens/s", "CPU µs/token, early", "B/token raw, early"),
        *("CPU µs/token, late", "B/token raw, late", "latency p95, early", "late"),
    ]
    note = (
        "Early is token 100 to 900, late the same number shortly before the end. Prose is one"
        " paragraph and code one fence of that length; Markdown is many blocks."
    )
    return Table("Is a long reply linear?", columns, rows, note)


def _cost_table(
    message_cpu: float, idle_cpu: float, sockets: int, memories: Sequence[Any]
) -> Table:
    idle, crowded, busy = memories
    rows = [
        ["CPU for a message with a reply of one token (ms)", number(message_cpu * 1000)],
        [f"CPU while {sockets} pages are open and nothing happens", f"{idle_cpu:.1%}"],
        ["memory of the idle web process, RSS / PSS (MiB)", _pair(idle)],
        [f"with {sockets} open pages that had a short reply", _pair(crowded)],
        ["after all streams of this run", _pair(busy)],
    ]
    return Table("Cost", ["", "web process"], rows)


def _pair(used: Any) -> str:
    return f"{used.rss:.0f} / {used.pss:.0f}"


def measure(quick: bool) -> list[Table]:
    """Measure many streams at once, on an installation of their own."""
    plan = QUICK if quick else FULL
    with installation("".join(prose(plan.tokens))) as running:
        use_installation(running.env)
        bench = Bench(running, make_people(plan.readers), plan)
        return uvloop.run(bench.measure())
