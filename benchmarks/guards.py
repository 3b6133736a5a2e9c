"""What the guards cost: the same questions with all of them on, and with all off that can be off.

On: limits that are counted and never reached, personal data pseudonymised, three rules in force.
Off: no limits, no search for personal data, no rule. Budgets can't be off: both sides reserve and
settle. One installation, whose web process is exchanged; the sides take turns, so that what else
the machine does meets both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import aiohttp
import uvloop

from benchmarks.accounting import median, percentile
from benchmarks.installation import COUNTED, Installation, installation
from benchmarks.people import (
    Person,
    make_people,
    put_rules_into_force,
    put_rules_out_of_force,
    use_installation,
)
from benchmarks.reader import Reader
from benchmarks.report import Table, number
from benchmarks.streams import FULL, PATIENCE_SECONDS, QUICK, Bench, Plan, prose, say

STREAMS = 50
ON = {**COUNTED, "PII_MODE": "pseudonymise"}
OFF = {"RATE_LIMITS": "", "PII_MODE": "off"}


@dataclass(slots=True)
class Side:
    """What was measured with the guards on, or off. Times are seconds."""

    first_text: list[float] = field(default_factory=list)
    message_cpu: list[float] = field(default_factory=list)
    thousand_cpu: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)


class _GuardBench(Bench):
    async def measure_side(self, side: Side) -> None:
        """Measure once, on pages that are opened for it."""
        patience = aiohttp.ClientTimeout(PATIENCE_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as self._http:
            self._readers = [
                Reader(self._running.url, person, conversation, self._http)
                for person, conversation in zip(self._people, self._conversations, strict=True)
            ]
            await self._open_pages()
            floor = median(await self._direct(1, self._plan.single_prompts))
            side.first_text += [seconds - floor for seconds in await self._singles()]
            message_cpu, _ = await self._messages()
            side.message_cpu.append(message_cpu)
            level = await self._prose_level(STREAMS, self._plan.ramp)
            side.thousand_cpu.append(level.used.web / (level.streams * level.tokens) * 1000)
            side.delays += level.delays
            for reader in self._readers:
                await reader.close()


def measure(quick: bool) -> list[Table]:
    """Measure both sides in turns, on an installation of their own."""
    plan = replace(QUICK if quick else FULL, levels=(STREAMS,), bursts=(STREAMS,))
    with installation("".join(prose(plan.tokens))) as running:
        use_installation(running.env)
        people = make_people(STREAMS)
        on, off = Side(), Side()
        for turn in range(1 if quick else 3):
            # Whoever comes second finds longer conversations: they take turns in that too.
            sides = [(on, True), (off, False)]
            for side, guarded in sides if turn % 2 == 0 else reversed(sides):
                _measure_side(running, people, plan, side, guarded=guarded)
    return [_table(on, off)]


def _measure_side(
    running: Installation, people: Sequence[Person], plan: Plan, side: Side, *, guarded: bool
) -> None:
    say(f"guards {'on' if guarded else 'off'}")
    put_rules_out_of_force()
    if guarded:
        put_rules_into_force()
    running.restart_web(ON if guarded else OFF)
    uvloop.run(_GuardBench(running, people, plan).measure_side(side))


def _table(on: Side, off: Side) -> Table:
    rows = [
        _row("CPU for a message with a reply of one token (ms)", on, off, _message_ms),
        _row("first token added, p50 (ms)", on, off, lambda s: _ms(s.first_text, 0.5)),
        _row("first token added, p95 (ms)", on, off, lambda s: _ms(s.first_text, 0.95)),
        _row(f"CPU for 1,000 tokens, {STREAMS} streams (s)", on, off, _thousand, digits=3),
        _row(f"latency p50, {STREAMS} streams (ms)", on, off, lambda s: _ms(s.delays, 0.5)),
        _row(f"latency p95, {STREAMS} streams (ms)", on, off, lambda s: _ms(s.delays, 0.95)),
    ]
    note = (
        "On: limits counted (two for a person, one for the site) and never reached, personal data"
        " pseudonymised, three rules in force for questions and replies. Off: none of these."
        " Budgets can't be switched off and are kept on both sides."
        f" {len(on.message_cpu)} rounds, the sides in turns; of CPU the median round."
    )
    return Table("Guards on and off", ["", "on", "off", "on / off"], rows, note)


def _row(
    name: str, on: Side, off: Side, figure: Callable[[Side], float], *, digits: int = 1
) -> list[str]:
    with_guards, without = figure(on), figure(off)
    share = number(with_guards / without, 2)
    return [name, number(with_guards, digits), number(without, digits), share]


def _message_ms(side: Side) -> float:
    return median(side.message_cpu) * 1000


def _thousand(side: Side) -> float:
    return median(side.thousand_cpu)


def _ms(seconds: Sequence[float], share: float) -> float:
    return percentile(seconds, share) * 1000
