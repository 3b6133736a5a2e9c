"""Exports: a part of the log as one ZIP for somebody else, who can check it without trusting us.

    export = request_export(selection, by=user)    asks for one; the worker writes it
    write(export.pk)                               writes it, or goes on where a killed worker was
    cancel(export, by=user), try_again(export, by=user)
    opened(export, by=user)                        its file, for a download that is recorded
    tend()                                         goes on with silent ones, removes old files

How far an export is stands in its row, in one statement with the question whether it was cancelled;
its files lie below AUDIT_FOLDER/exports and are cut back to that when somebody goes on. An export
ends at leaves that a checkpoint covers, so that everything in it is proven. Manifests form a chain:
each names the one before, so that a missing export shows.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from celery import current_app
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Max, Min, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts.access import System, require
from accounts.models import User
from accounts.roles import Permission
from audit import folder, sealing
from audit.archive import DamagedMember
from audit.bundle import Contents, Counted, HoleInTree, Terms, write_bundle
from audit.checkpoint import SigningKeyError
from audit.content import clean
from audit.merkle import MissingHash
from audit.models import UNFINISHED, Checkpoint, Export, ExportState, Leaf, Outcome
from audit.removal import removed_below, wait_for_removals
from audit.selection import Selection
from audit.trail import record

BY = System("export")
TASK = "audit.tasks.write_export"
# A silent export is handed over again and again; what no worker took in time is dropped.
HANDED_OVER_FOR_SECONDS = 55
# How long it waits until the last entry that was there at the request is sealed.
PATIENCE_SECONDS = 60.0
# A writer that was silent for so long is taken for dead; the files' lock decides.
SILENT_AFTER = timedelta(seconds=45)
FILE = "audit-export.zip"
COUNTED = 10_000
# Any number that nothing else in this database locks.
_CHAIN_LOCK = 0x6D616E69

log = structlog.get_logger(__name__)


class ExportRefused(Exception):
    """The export can't be made; the message is a sentence for the person who asked."""


class _Stopped(Exception):
    """Somebody else has ended the export or writes it."""


# --- what people ask for ---------------------------------------------------------------------


def request_export(selection: Selection, *, by: User) -> Export:
    """Note that somebody wants these entries, and hand it to the worker.

    Raises Denied, and ExportRefused while an earlier one of theirs is not finished.
    """
    require(by, Permission.EXPORT_AUDIT)
    try:
        with transaction.atomic():
            export = Export.objects.create(
                requested_by=by, selection=_stored(selection), seen_entry=0
            )
            export.seen_entry = _record_request(export, selection, by)
            export.save(update_fields=["seen_entry"])
            _hand_over(export)
    except IntegrityError as error:
        raise ExportRefused(_ONE_AT_A_TIME) from error
    return export


_ONE_AT_A_TIME = (
    "An export of yours is still being written. Wait for it or cancel it, then ask again."
)


def cancel(export: Export, *, by: User) -> bool:
    """End an export that is not finished; say whether it was one. Raises Denied."""
    require(by, Permission.EXPORT_AUDIT)
    with transaction.atomic():
        unfinished = Export.objects.filter(pk=export.pk, state__in=UNFINISHED)
        if not unfinished.update(state=ExportState.CANCELLED, finished_at=timezone.now()):
            return False
        record(by, "export.cancelled", export)
    _remove_files(export.pk)
    return True


def try_again(export: Export, *, by: User) -> None:
    """Take up an export that failed, where it was. Raises as `request_export`."""
    require(by, Permission.EXPORT_AUDIT)
    try:
        with transaction.atomic():
            failed = Export.objects.filter(pk=export.pk, state=ExportState.FAILED)
            waiting = failed.update(
                state=ExportState.WAITING,
                requested_by=by,
                reason="",
                beat_at=None,
                finished_at=None,
                expires_at=None,
            )
            if waiting:
                _record_request(export, restored(export.selection), by)
                _hand_over(export)
    except IntegrityError as error:
        raise ExportRefused(_ONE_AT_A_TIME) from error


def opened(export: Export, *, by: User) -> Path:
    """Return the file of an export that is ready, after its download is recorded.

    Raises Denied, and ExportRefused when it is not there (any more).
    """
    require(by, Permission.VIEW_AUDIT)
    path = _folder_of(export.pk) / FILE
    if export.state != ExportState.READY or not path.exists():
        raise ExportRefused(
            "The file of this export is not here. Files are kept for"
            f" {settings.AUDIT_EXPORT_DAYS} days; ask for the same entries again."
        )
    record(by, "export.downloaded", export, number=export.number, manifest=export.manifest_sha256)
    return path


def estimate(selection: Selection) -> tuple[int, bool]:
    """Return how many entries a selection has, and whether that was counted or is a guess.

    It counts up to COUNTED; beyond, it is what PostgreSQL expects.
    """
    entries = selection.entries()
    counted = entries.order_by()[: COUNTED + 1].count()
    if counted <= COUNTED:
        return counted, True
    plan: list[dict[str, Any]] = json.loads(entries.order_by().explain(format="json"))
    return max(counted, int(plan[0]["Plan"]["Plan Rows"])), False


def _record_request(export: Export, selection: Selection, by: User) -> int:
    # What was searched for may be personal: it stays erasable.
    return record(
        by,
        "export.requested",
        export,
        target_label=selection.search,
        filter=selection.described(),
        searched=bool(selection.search),
    )


def _hand_over(export: Export) -> None:
    # By name: the task's module imports this one. `tend` asks again when the broker is away.
    transaction.on_commit(
        lambda: current_app.send_task(TASK, [export.pk], queue="long"), robust=True
    )


def _stored(selection: Selection) -> dict[str, str]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(selection).items()
        if value
    }


def restored(stored: dict[str, str]) -> Selection:
    """Return the selection of an export's row."""
    times = {n: datetime.fromisoformat(v) for n, v in stored.items() if n in {"since", "until"}}
    return Selection(**{**stored, **times})  # type: ignore[arg-type]  # the names are its fields


# --- the worker's part -----------------------------------------------------------------------


def write(export_id: int) -> None:
    """Write an export, or go on where a killed worker was; nothing if another one is at it.

    What a later run may find mended (the database was away) is raised; anything else ends the
    export with a sentence.
    """
    export = Export.objects.filter(pk=export_id, state__in=UNFINISHED).first()
    if export is None:
        return
    try:
        with folder.locked(f"{_name_of(export_id)}/lock") as alone:
            if alone:
                _write(export)
    except _Stopped:
        _remove_files(export_id)
    except (ExportRefused, HoleInTree, MissingHash, SigningKeyError) as error:
        _fail(export, str(error))
    except (OSError, folder.FolderError) as error:
        _fail(export, f"A file of the export could not be written: {error}.")


def _write(export: Export) -> None:
    _pin(export)
    contents = _contents(export)
    for counted in contents.write():
        _step(export, done=counted.leaves, written=counted.entries, place=contents.place())
    _finish(export, contents)


def _step(export: Export, **values: Any) -> None:
    """Note how far the export is. Raises _Stopped if it was cancelled meanwhile."""
    values["beat_at"] = timezone.now()
    if not Export.objects.filter(pk=export.pk, state__in=UNFINISHED).update(**values):
        raise _Stopped
    for name, value in values.items():
        setattr(export, name, value)


def _pin(export: Export) -> None:
    """Settle which leaves the export goes through: once, below a checkpoint that covers them."""
    if export.stop is not None:
        return
    checkpoint = _checkpoint_over(export)
    with transaction.atomic():
        wait_for_removals()
        start, stop = _range(restored(export.selection), removed_below(), checkpoint.size)
        _step(
            export,
            state=ExportState.WRITING,
            start=start,
            stop=stop,
            checkpoint_number=checkpoint.number,
            started_at=timezone.now(),
        )


def _checkpoint_over(export: Export) -> Checkpoint:
    """Return the newest checkpoint as soon as it covers what was there at the request."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (checkpoint := _newest_over(export.seen_entry)) is None:
        _step(export)
        result = sealing.seal()
        if isinstance(result, sealing.Refused):
            raise ExportRefused(f"The log can't be sealed at the moment. {result.sentence}")
        if time.monotonic() > deadline:
            raise ExportRefused(
                f"After {PATIENCE_SECONDS:.0f} s the newest entries are still not sealed: something"
                " in the database has been open since before them. Try again when it is done."
            )
        if not result.entries:
            time.sleep(0.2)
    return checkpoint


def _newest_over(entry_id: int) -> Checkpoint | None:
    leaf = Leaf.objects.filter(entry_id=entry_id).first()
    newest = Checkpoint.objects.order_by("-number").first()
    return newest if leaf and newest and newest.size > leaf.index else None


def _range(selection: Selection, removed: int, size: int) -> tuple[int, int]:
    """Return the leaves [start, stop) between the first and the last entry of the period."""
    if selection.since is None and selection.until is None:
        return removed, size
    period = Selection(since=selection.since, until=selection.until).entries()
    found = Leaf.objects.filter(
        index__gte=removed, index__lt=size, entry_id__in=period.values("pk")
    ).aggregate(first=Min("index"), last=Max("index"))
    if found["first"] is None:
        raise ExportRefused("The log has no entry in this period.")
    return found["first"], found["last"] + 1


def _contents(export: Export) -> Contents:
    selection = restored(export.selection)
    chosen = None if selection == Selection() else _chosen(selection)
    assert export.start is not None
    assert export.stop is not None
    contents = Contents(_folder_of(export.pk), export.start, export.stop, chosen)
    try:
        contents.go_on_from(export.place)
    except DamagedMember as error:
        log.warning("export_begun_anew", export=export.pk, reason=str(error))
        contents.go_on_from({})
    return contents


def _chosen(selection: Selection) -> Callable[[int, int], set[int]]:
    entries = selection.entries()

    def chosen(first: int, last: int) -> set[int]:
        return set(entries.filter(pk__gte=first, pk__lte=last).values_list("pk", flat=True))

    return chosen


def _finish(export: Export, contents: Contents) -> None:
    """Give the export its place in the chain, and make its file."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CHAIN_LOCK])
        previous = Export.objects.filter(number__isnull=False).order_by("-number").first()
        terms = _terms(export, previous)
        made = write_bundle(_folder_of(export.pk) / FILE, contents, terms)
        _step(
            export,
            state=ExportState.READY,
            checkpoint_number=terms.checkpoint.number,
            number=terms.number,
            manifest_sha256=made.manifest_sha256,
            size=made.size,
            reason=_warning(contents.counted),
            finished_at=terms.made_at,
            expires_at=terms.made_at + timedelta(days=settings.AUDIT_EXPORT_DAYS),
        )
        record(
            BY,
            "export.finished",
            export,
            number=terms.number,
            manifest=made.manifest_sha256,
            leaves=contents.counted.leaves,
            entries=contents.counted.entries,
            damaged=contents.counted.damaged,
            missing=contents.counted.missing,
        )
    contents.remove()


def _terms(export: Export, previous: Export | None) -> Terms:
    assert export.start is not None
    assert export.stop is not None
    checkpoint = Checkpoint.objects.get(number=export.checkpoint_number or 0)
    before = None
    if previous:
        before = Checkpoint.objects.get(number=previous.checkpoint_number or 0)
        # Each manifest's checkpoint continues that of the manifest before, whoever began earlier.
        checkpoint = max(checkpoint, before, key=lambda one: one.number)
    return Terms(
        number=previous.number + 1 if previous and previous.number else 1,
        start=export.start,
        stop=export.stop,
        checkpoint=checkpoint,
        previous=previous,
        previous_checkpoint=before,
        filters=export.selection,
        removed_below=removed_below(),
        made_at=timezone.now(),
    )


def _warning(counted: Counted) -> str:
    if counted.first is None:
        return ""
    return (
        f"Not all of it is as it was sealed: {counted.damaged} entries were changed and"
        f" {counted.missing} are gone, the first at leaf {counted.first}. The file holds what is"
        " there, and verify.py names each."
    )


def _fail(export: Export, reason: str) -> None:
    log.warning("export_failed", export=export.pk, reason=reason)
    now = timezone.now()
    with transaction.atomic():
        if Export.objects.filter(pk=export.pk, state__in=UNFINISHED).update(
            state=ExportState.FAILED,
            reason=clean(reason, 500),
            finished_at=now,
            expires_at=now + timedelta(days=settings.AUDIT_EXPORT_DAYS),
        ):
            record(BY, "export.failed", export, outcome=Outcome.FAILED, reason=reason)


# --- keeping house ---------------------------------------------------------------------------


def tend() -> None:
    """Hand silent exports to a worker again, and remove files that nobody may ask for any more."""
    now = timezone.now()
    unfinished = Export.objects.filter(state__in=UNFINISHED)
    seen = Coalesce(F("beat_at"), F("requested_at"))
    silent = unfinished.alias(seen=seen).filter(seen__lt=now - SILENT_AFTER)
    for pk in silent.values_list("pk", flat=True):
        current_app.send_task(TASK, [pk], queue="long", expires=HANDED_OVER_FOR_SECONDS)
    for export in Export.objects.filter(state=ExportState.READY, expires_at__lt=now):
        with transaction.atomic():
            Export.objects.filter(pk=export.pk).update(state=ExportState.EXPIRED)
            record(BY, "export.expired", export, number=export.number)
    _sweep(now)


def _sweep(now: datetime) -> None:
    kept = set(
        Export.objects.filter(
            Q(state__in=[*UNFINISHED, ExportState.READY])
            | Q(state=ExportState.FAILED, expires_at__gte=now)
        ).values_list("pk", flat=True)
    )
    for path in _exports().glob("*"):
        if path.name.isdecimal() and int(path.name) not in kept:
            _remove_files(int(path.name))


def _remove_files(export_id: int) -> None:
    """Remove an export's folder, unless its writer holds it: he does it then."""
    path = _folder_of(export_id)
    if not path.exists():
        return
    with folder.locked(f"{_name_of(export_id)}/lock") as alone:
        if alone:
            shutil.rmtree(path)


def _exports() -> Path:
    return Path(settings.AUDIT_FOLDER) / "exports"


def _folder_of(export_id: int) -> Path:
    return _exports() / str(export_id)


def _name_of(export_id: int) -> str:
    return f"exports/{export_id}"
