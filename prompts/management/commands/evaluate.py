"""Put a version of a prompt through an evaluation set, and fail below a score: for pipelines."""

import signal
import uuid
from argparse import ArgumentParser, ArgumentTypeError
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.access import System
from prompts.evaluation import engine, runs
from prompts.evaluation.sets import newest_version
from prompts.models import EvaluationRun, EvaluationSet, PromptTemplate, PromptVersion
from prompts.publishing import NotPossible

BY = System("manage.py evaluate")
State = EvaluationRun.State


class Ends(IntEnum):
    """The exit codes. 1 is an error of ours, with a traceback."""

    PASSED = 0
    USAGE = 2
    BELOW = 3
    INCOMPLETE = 4
    STOPPED = 130


class Command(BaseCommand):
    """Makes the calls in this process; the run is on its page like any other."""

    help = (
        "Evaluate TEMPLATE@VERSION with a set. Exits with 0 when the score is reached and no result"
        " is missing; 3 below the score; 4 when a result is missing, failed or unreadable; 2 for"
        " what there is not; 130 when it was stopped."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name the options."""
        parser.add_argument(
            "version", nargs="?", help="support-agent@v3, @live, or @draft for the newest draft"
        )
        parser.add_argument("--set", help="slug or name of the evaluation set; its newest version")
        parser.add_argument(
            "--min", type=_score, required=True, help="share of the cases that must pass: 0.9"
        )
        parser.add_argument(
            "--limit-usd",
            type=_usd,
            help=f"most that it may cost, {runs.USUAL_LIMIT_USD} if not given",
        )
        parser.add_argument("--judge", default="", help="slug of the model that judges")
        parser.add_argument("--resume", type=uuid.UUID, metavar="RUN", help="go on with this run")
        parser.add_argument(
            "--ask-again",
            action="store_true",
            help="with --resume: ask those too that may have been asked and paid before",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Evaluate, print what came of it, and exit by it."""
        try:
            run = _resumed(options) if options["resume"] else _begun(options)
        except NotPossible as error:
            raise CommandError(str(error), returncode=Ends.USAGE) from error
        self.stderr.write(
            f"Run {run.pk}: {run.version} with {run.set_version}, {run.total} cases, at most"
            f" ${run.limit_usd.normalize():f}"
        )
        _stop_gracefully()
        engine.work(run.pk, _Progress(self, run))
        run.refresh_from_db()
        if run.state == State.WAITING:
            runs.cancel(run, by=BY)
            raise CommandError(
                f"Stopped after {run.decided} of {run.total} cases. To go on: evaluate --resume"
                f" {run.pk} --min {options['min']}",
                returncode=Ends.STOPPED,
            )
        self._print(run)
        self._end(run, options["min"])

    def _print(self, run: EvaluationRun) -> None:
        """Print the results. No words of cases or replies: what is printed here gets into logs."""
        width = max(len(result.case_id) for result in run.results.all())
        for result in run.results.all():
            missed = [v["kind"] for v in result.verdicts if v and v["outcome"] != "passed"]
            seconds = f"{result.reply_ms / 1000:.1f} s"
            self.stdout.write(
                f"{result.case_id:<{width}}  {result.state:<9}  {seconds:>8}"
                f"  ${result.cost_usd:.6f}  {', '.join(missed)}".rstrip()
            )

    def _end(self, run: EvaluationRun, least: Decimal) -> None:
        """Say how it ended; raise CommandError with the exit code where it did not pass."""
        self.stdout.write(
            f"{run.passed} of {run.total} passed, {run.failed} failed, {run.errors} errors,"
            f" {run.uncertain} uncertain, {run.unparsable} unreadable judgements."
            f" Cost: ${run.spent_usd:.6f}"
        )
        if run.reaches(least):
            self.stdout.write(f"Passed: {run.score:.4f}, at least {least} was asked for.")
            return
        if run.score is not None and not run.unparsable:
            raise CommandError(
                f"Not passed: {run.score:.4f} is less than {least}.", returncode=Ends.BELOW
            )
        raise CommandError(f"Not passed: {_what_is_missing(run)}", returncode=Ends.INCOMPLETE)


def _score(text: str) -> Decimal:
    try:
        score = Decimal(text)
    except InvalidOperation:
        raise ArgumentTypeError("a score is a number above 0 and at most 1") from None
    if not score.is_finite() or not 0 < score <= 1:
        raise ArgumentTypeError("a score is above 0 and at most 1")
    return score


def _usd(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ArgumentTypeError("an amount is a number of dollars, such as 2.50") from None
    if not amount.is_finite():
        raise ArgumentTypeError("an amount is a number of dollars, such as 2.50")
    return amount


def _begun(options: dict[str, Any]) -> EvaluationRun:
    if not options["version"] or not options["set"]:
        raise NotPossible("Name what to evaluate, and with what: support-agent@v3 --set support.")
    chosen = _set(options["set"])
    newest = newest_version(chosen) if chosen else None
    if newest is None:
        known = ", ".join(EvaluationSet.objects.values_list("slug", flat=True))
        raise NotPossible(
            f"There is no evaluation set {options['set']} with cases; there are {known or 'none'}."
        )
    limit = options["limit_usd"]
    return runs.begin(
        _version(options["version"]),
        newest,
        limit_usd=runs.USUAL_LIMIT_USD if limit is None else limit,
        judge=options["judge"],
        by=BY,
        here=True,
    )


def _set(named: str) -> EvaluationSet | None:
    """Return the set of this slug, else of this name: a name may be another set's slug."""
    by_slug = EvaluationSet.objects.filter(slug=named).first()
    return by_slug or EvaluationSet.objects.filter(name=named).first()


def _version(named: str) -> PromptVersion:
    """Return what `template@version` names. Raises NotPossible."""
    slug, _, which = named.partition("@")
    template = PromptTemplate.objects.select_related("live_version__template").filter(slug=slug)
    for one in template:
        versions = one.versions.select_related("template")
        if which == "live" and one.live_version:
            return one.live_version
        if which == "draft":
            found = versions.filter(published_at=None).order_by("-number").first()
        else:
            number = which.removeprefix("v")
            found = versions.filter(number=number).first() if number.isdecimal() else None
        if found:
            return found
        raise NotPossible(f"{slug} has no version “{which}”: name @v3, @live or @draft.")
    known = ", ".join(PromptTemplate.objects.values_list("slug", flat=True))
    raise NotPossible(f"There is no template {slug}; there are {known}.")


def _resumed(options: dict[str, Any]) -> EvaluationRun:
    run = EvaluationRun.objects.filter(pk=options["resume"]).first()
    if run is None:
        raise NotPossible(f"There is no run {options['resume']}.")
    if run.is_open:
        return runs.taken_from_the_dead(run)
    return runs.resume(
        run,
        by=BY,
        ask_again=options["ask_again"],
        limit_usd=options["limit_usd"],
        here=True,
    )


def _what_is_missing(run: EvaluationRun) -> str:
    go_on = f"evaluate --resume {run.pk}"
    if run.state == State.CANCELLED:
        return f"somebody cancelled the run. To go on: {go_on}"
    if run.uncertain:
        return (
            f"of {run.uncertain} cases nobody knows whether they were asked and paid, because a"
            f" process died. To ask them again: {go_on} --ask-again"
        )
    if run.state == State.INTERRUPTED:
        return f"{run.get_why_display()}. To go on: {go_on}"
    return f"of {run.unparsable} cases the judge's answer could not be read."


def _stop_gracefully() -> None:
    """Let Ctrl-C and SIGTERM wait for the calls that are being made: they are paid already."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        engine.stopping.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


class _Progress:
    """Says now and then how many cases were looked at."""

    def __init__(self, command: BaseCommand, run: EvaluationRun) -> None:
        self._command, self._total = command, run.total - run.decided
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        if self._done == self._total or self._done % max(1, self._total // 10) == 0:
            self._command.stderr.write(f"{self._done} of {self._total} cases")
