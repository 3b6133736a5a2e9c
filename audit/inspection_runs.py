"""Having the log verified in the background, for those who read it in the administration.

    ask(by=user, whole=False)    queue a run, unless one is under way
    run(run_id)                  the worker's part: check, tell how far it is, keep what was found

What is found is kept for the page, and recorded: the entry `log.inspected` is sealed like all.
"""

import time
from dataclasses import asdict
from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from accounts.access import require
from accounts.models import User
from accounts.roles import Permission
from audit.folder import FolderError
from audit.inspection import Report, inspect_log, last_verified, remember_verified
from audit.models import InspectionRun, Outcome
from audit.trail import record

# So long after its last sign of life a run is given up, and another may begin.
SILENT = timedelta(minutes=5)
_TELL_SECONDS = 1.0

State = InspectionRun.State


def ask(*, by: User, whole: bool) -> InspectionRun:
    """Queue a run and return it, or the one that is under way. Raises Denied.

    Without `whole` it begins behind the checkpoint up to which the log was last found whole.
    """
    require(by, Permission.VIEW_AUDIT)
    with transaction.atomic():
        _give_up_silent_ones()
        # Two who ask at once queue up here.
        under_way = InspectionRun.objects.select_for_update().filter(
            state__in=[State.WAITING, State.RUNNING]
        )
        if found := under_way.first():
            return found
        made: InspectionRun = InspectionRun.objects.create(asked_by=by, is_whole=whole)
        record(by, "log.inspection_requested", made, whole=whole)
    _queue(made)
    return made


def _give_up_silent_ones() -> None:
    silent = InspectionRun.objects.filter(
        state__in=[State.WAITING, State.RUNNING], alive_at__lt=timezone.now() - SILENT
    )
    silent.update(
        state=State.FAILED,
        finished_at=timezone.now(),
        why_failed="The worker stopped, or none took it up.",
    )


def _queue(asked: InspectionRun) -> None:
    from audit.tasks import inspect  # noqa: PLC0415 - tasks run what stands here

    try:
        inspect.delay(asked.pk)
    except OperationalError:
        asked.state, asked.finished_at = State.FAILED, timezone.now()
        asked.why_failed = "The queue for work in the background does not answer."
        asked.save(update_fields=["state", "finished_at", "why_failed"])


def run(run_id: int) -> None:
    """Check the log as was asked; does nothing for a run that has ended."""
    asked = InspectionRun.objects.filter(pk=run_id, finished_at=None).first()
    if asked is None:
        return
    try:
        asked.since_checkpoint = None if asked.is_whole else last_verified()
        _tell(asked, state=State.RUNNING, since_checkpoint=asked.since_checkpoint)
        report = inspect_log(asked.since_checkpoint, progress=_Progress(asked))
        remember_verified(report)
    except FolderError as error:
        _fail(asked, f"AUDIT_FOLDER can't be used ({error})."[:200])
    except Exception:
        _fail(asked, "Something went wrong in the worker; its log says what.")
        raise
    else:
        _keep(asked, report)


def _fail(asked: InspectionRun, why: str) -> None:
    _tell(asked, state=State.FAILED, finished_at=timezone.now(), why_failed=why)


class _Progress:
    """Writes down how far a run is, once in a while."""

    def __init__(self, asked: InspectionRun) -> None:
        self._asked = asked
        self._told = 0.0

    def __call__(self, done: int, to_do: int) -> None:
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            _tell(self._asked, leaves_done=done, leaves_to_do=to_do)


def _tell(asked: InspectionRun, **fields: object) -> None:
    InspectionRun.objects.filter(pk=asked.pk).update(alive_at=timezone.now(), **fields)


@transaction.atomic
def _keep(asked: InspectionRun, report: Report) -> None:
    found = len(report.findings) + report.more
    _tell(
        asked,
        state=State.FINISHED,
        finished_at=timezone.now(),
        last_checkpoint=report.last_checkpoint or None,
        leaves_done=report.leaves,
        leaves_to_do=report.leaves,
        findings=[asdict(finding) for finding in report.findings],
        more_findings=report.more,
    )
    record(
        None,
        "log.inspected",
        asked,
        outcome=Outcome.FAILED if found else Outcome.SUCCEEDED,
        since_checkpoint=asked.since_checkpoint,
        last_checkpoint=report.last_checkpoint or None,
        leaves=report.leaves,
        findings=found,
    )
