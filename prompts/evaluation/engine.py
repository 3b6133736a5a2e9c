"""Makes the calls of a run, a few at once, and stores what came of each as soon as it is there.

    work(run_id)        blocks until the run has ended or is another process'; raises nothing for
                        what the ledger can tell

The order for each call: prepare it (which shows what it may cost), claim it, make it, settle it
(`runs`). A case whose reply is stored goes on with what a model has to judge. When FAULTS_IN_A_ROW
calls have ended with a fault of the provider, each after all attempts of `routing`, the run stops:
what waits keeps waiting until somebody resumes it.
"""

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import structlog

from chatbot.database import db, db_patiently
from prompts import routing
from prompts.calling import Answered, NotTried, Prepared, guarded
from prompts.evaluation import runs
from prompts.evaluation.cases import Case, cases_of, judged_checks
from prompts.evaluation.checks import Reply, Verdict, decided, storable
from prompts.evaluation.judging import MOST_TOKENS, question_for, verdict_on
from prompts.evaluation.runs import Claim, Lost, Settled, wording_of
from prompts.models import EvaluationResult, EvaluationRun
from prompts.rendering import Refused

logger = structlog.get_logger(__name__)

AT_ONCE = 4
FAULTS_IN_A_ROW = 5
BEAT_SECONDS = 5.0
MOST_REPLY_TOKENS = 4_096
"""So that one reply that never ends can't use up the limit."""

MAX_TROUBLE_CHARACTERS = 300

Result = EvaluationResult.State
Why = EvaluationRun.Why

stopping = threading.Event()
"""This process ends: runs that it has take no new call, and wait for another process."""


def work(run_id: uuid.UUID, progress: Callable[[], None] | None = None) -> None:
    """Take a run that waits and go through it; return at once when it does not wait.

    `progress` is called in the event loop after each case, and must not wait.
    """
    asyncio.run(_work(run_id, progress or (lambda: None)))


async def _work(run_id: uuid.UUID, progress: Callable[[], None]) -> None:
    run = await db(runs.take)(run_id)
    if run is None:
        return
    try:
        with suppress(Lost):
            await _Work(run, progress).done()
    finally:
        await routing.close()


class _Over(Exception):
    """No further call of this run is made by this process, for this reason if there is one."""

    def __init__(self, why: EvaluationRun.Why | None = None) -> None:
        super().__init__(why)
        self.why = why


class _Work:
    """One run in this process, from taking it to its end."""

    def __init__(self, run: EvaluationRun, progress: Callable[[], None]) -> None:
        self._run, self._progress = run, progress
        self._cases = cases_of(run.set_version.lines)
        self._waiting: deque[EvaluationResult] = deque()
        self._over: _Over | None = None
        self._faults = 0
        self._claimed = 0  # calls that hold money and are not settled
        self._settled = asyncio.Condition()
        self._settlements = 0

    async def done(self) -> None:
        """Go through all that waits, then end the run. Raises Lost."""
        beating = asyncio.create_task(self._beat())
        try:
            while self._over is None and await self._load():
                # What was claimed is brought to its end, whatever becomes of the others.
                each = (self._take_cases() for _ in range(AT_ONCE))
                for ended in await asyncio.gather(*each, return_exceptions=True):
                    if ended is not None:
                        raise ended
        finally:
            beating.cancel()
        await self._end()

    async def _end(self) -> None:
        place = self._run.pk, self._run.fence
        if self._over is None:
            await db_patiently(runs.finish)(*place)
        elif self._over.why is None:
            await db_patiently(runs.let_go)(*place)
        else:
            await db_patiently(runs.interrupt)(*place, self._over.why)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await db_patiently(runs.beat)(self._run.pk, self._run.fence)
            except Lost:
                self._over = self._over or _Over()
                return

    async def _load(self) -> bool:
        """Fetch what waits; whether there is any."""
        self._waiting.extend(await db_patiently(self._rows)())
        return bool(self._waiting)

    def _rows(self) -> list[EvaluationResult]:
        waiting = EvaluationResult.objects.filter(run=self._run, state=Result.WAITING)
        return list(waiting.order_by("position"))

    # --- cases -----------------------------------------------------------------------------------

    async def _take_cases(self) -> None:
        while self._waiting and self._over is None:
            try:
                await self._one(self._waiting.popleft())
            except _Over as over:
                self._over = self._over or over
            except Lost:
                self._over = self._over or _Over()
            except runs.Decided:
                continue
            except BaseException:
                self._over = self._over or _Over()
                raise
            self._progress()

    async def _one(self, row: EvaluationResult) -> None:
        """Make the calls of a case that are left. Raises _Over, Lost and Decided."""
        case = self._cases[row.position]
        while row.state == Result.WAITING:
            if stopping.is_set():
                raise _Over
            if self._over:
                return
            await self._step(row, case)

    async def _step(self, row: EvaluationResult, case: Case) -> None:
        """Make the next call of a case, and store what came of it."""
        try:
            call = await self._prepared(row, case)
        except NotTried as refusal:
            if not refusal.is_about_the_text:
                raise _Over(Why.REFUSED) from refusal
            call, trouble = None, f"{refusal.headline} {refusal.sentence}"
        claimed = Claim(self._run.pk, row.pk, row.step, uuid.uuid4())
        await self._claim(claimed, call.worst_usd if call else Decimal(0))
        try:
            if call is None:
                settled = _unasked(row, case, trouble)
            else:
                answered = await self._ask(call)
                settled = await asyncio.to_thread(_settled, row, case, call, answered)
            await db_patiently(runs.settle)(claimed, settled)
        finally:
            await self._tell()
        row.state = settled.state
        for name, value in settled.changes.items():
            setattr(row, name, value)

    async def _prepared(self, row: EvaluationResult, case: Case) -> Prepared:
        about = self._run.template
        if row.step == 0:
            try:
                wording = wording_of(self._run.terms, case)
            except Refused as refused:  # today's date made it too long, say
                raise NotTried("It can't be rendered.", str(refused), is_about_the_text=True) from (
                    refused
                )
            turns, most = list(case.turns), MOST_REPLY_TOKENS
        else:
            rubric = case.checks[judged_checks(case)[row.step - 1]].terms["rubric"]
            wording, turns = question_for(rubric, case.turns, row.reply, model=self._run.judge)
            most = MOST_TOKENS
        return await guarded().prepare(wording, turns, most_tokens=most, about=about)

    async def _claim(self, claimed: Claim, worst_usd: Decimal) -> None:
        """Claim a call; where the limit has no room, wait for what others don't use of theirs."""
        while True:
            seen = self._settlements
            if await db_patiently(runs.claim)(claimed, self._run.fence, worst_usd):
                self._claimed += 1
                return
            if not self._claimed and seen == self._settlements:
                raise _Over(Why.LIMIT)
            await self._another_is_settled(seen)
            if self._over:
                raise self._over

    async def _another_is_settled(self, seen: int) -> None:
        async with self._settled:
            await self._settled.wait_for(lambda: self._settlements != seen)

    async def _tell(self) -> None:
        """Let those go on who wait for money."""
        async with self._settled:
            self._claimed -= 1
            self._settlements += 1
            self._settled.notify_all()

    async def _ask(self, call: Prepared) -> Answered:
        answered = await call.ask()
        self._faults = self._faults + 1 if answered.fault else 0
        if self._faults >= FAULTS_IN_A_ROW:
            self._over = self._over or _Over(Why.PROVIDER)
        return answered


# --- what a call comes to ------------------------------------------------------------------------


def _settled(row: EvaluationResult, case: Case, call: Prepared, answered: Answered) -> Settled:
    """Return what an answer means for its case."""
    if answered.fault:
        return _of(answered, Result.ERROR, {"trouble": answered.trouble[:MAX_TROUBLE_CHARACTERS]})
    if row.step == 0:
        return _replied(case, answered)
    return _judged(row, case, call, answered)


def _replied(case: Case, answered: Answered) -> Settled:
    changes = {
        "reply": storable(answered.text),
        "model": answered.model,
        "reply_tokens": answered.tokens_out,
        "reply_ms": answered.duration_ms,
        "reply_usd": answered.cost_usd,
    }
    if answered.refused:
        verdicts = _without_reply(case)
        changes |= {"trouble": answered.refused, "verdicts": verdicts}
        return _of(answered, Result.FAILED, changes)
    reply = Reply(
        answered.text, answered.tokens_out, answered.duration_ms / 1000, answered.cost_usd
    )
    found: list[object] = [
        None if c.kind == "judge" else decided(c, reply).as_dict() for c in case.checks
    ]
    return _of(answered, *_next(case, 0, found, changes))


def _judged(row: EvaluationResult, case: Case, call: Prepared, answered: Answered) -> Settled:
    at = judged_checks(case)[row.step - 1]
    # Without its whole answer a judge has not judged.
    said = "" if answered.refused else answered.text
    verdict = verdict_on(case.checks[at], said, judge=answered.model, prices=call.prices)
    return _of(answered, *_next(case, row.step, _with(row.verdicts, at, verdict), {}))


def _unasked(row: EvaluationResult, case: Case, trouble: str) -> Settled:
    """Return what it means that a text may not go to a model."""
    trouble = trouble[:MAX_TROUBLE_CHARACTERS]
    if row.step == 0:
        state = Result.FAILED
        changes: dict[str, object] = {"trouble": trouble, "verdicts": _without_reply(case)}
    else:
        at = judged_checks(case)[row.step - 1]
        verdict = Verdict("judge", "unparsable", f"It could not be judged. {trouble}")
        state, changes = _next(case, row.step, _with(row.verdicts, at, verdict), {})
    return Settled(state, Decimal(0), 0, 0, is_estimated=False, changes=changes)


def _without_reply(case: Case) -> list[dict[str, object]]:
    return [Verdict(c.kind, "failed", "There is no whole reply.").as_dict() for c in case.checks]


def _with(verdicts: list[object], at: int, verdict: Verdict) -> list[object]:
    return [*verdicts[:at], verdict.as_dict(), *verdicts[at + 1 :]]


def _next(
    case: Case, step: int, verdicts: list[object], changes: dict[str, object]
) -> tuple[EvaluationResult.State, dict[str, object]]:
    """Return where a case stands after a call: one more has to judge, or it is decided."""
    changes = {**changes, "verdicts": verdicts}
    if step < len(judged_checks(case)):
        return Result.WAITING, {**changes, "step": step + 1}
    passed = all(isinstance(v, dict) and v["outcome"] == "passed" for v in verdicts)
    return (Result.PASSED if passed else Result.FAILED), changes


def _of(answered: Answered, state: EvaluationResult.State, changes: dict[str, object]) -> Settled:
    return Settled(
        state,
        answered.cost_usd,
        answered.tokens_in,
        answered.tokens_out,
        answered.is_estimated,
        changes,
    )
