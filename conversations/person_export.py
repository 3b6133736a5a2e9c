"""A person's export: one ZIP of everything that is held about them, for them alone.

    export = request_export(by=user)      asks for one; the worker writes it
    write(export.pk)                      writes it
    opened(export, by=user)               its file, for a download that is recorded
    withdraw(user)                        ends and removes all of theirs
    tend(now)                             keeps house: what broke off, what is over

The file lies in EXPORT_FOLDER, sealed under a key of the day of temporary chats: it dies with that
key, whatever becomes of the file. It is there for KEPT_FOR, and only the newest of each person.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog
from celery import current_app
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts.access import System
from accounts.models import User
from audit.models import Outcome
from audit.trail import record
from conversations.encryption import SealKey
from conversations.held_about import account_tables, log_tables
from conversations.keyring import KeyDay, KeyGone
from conversations.models import Conversation, Message, PersonExport, RetentionClass
from conversations.portable import Archive, Counted
from conversations.sealed_file import SealedFile, SealedWriter

BY = System("rights")
TASK = "conversations.tasks.write_person_export"
KEPT_FOR = timedelta(hours=24)
# One that nobody took is handed over again; what no worker took in time is dropped.
UNTAKEN_AFTER = timedelta(seconds=45)
HANDED_OVER_FOR_SECONDS = 55
# A writer that was silent for so long is taken for dead.
SILENT_AFTER = timedelta(minutes=3)
ROWS_KEPT_FOR = timedelta(days=30)
STEP_SECONDS = 0.5
CONVERSATIONS_AT_ONCE = 200

State = PersonExport.State
UNFINISHED = (State.WAITING, State.WRITING)

log = structlog.get_logger(__name__)


class ExportRefused(Exception):
    """There is no such file, or it can't be asked for now. The message is a sentence for people."""


class _Ended(Exception):
    """Somebody else has ended this export."""


# --- what the person asks for -----------------------------------------------------------------


def request_export(*, by: User) -> PersonExport:
    """Note that somebody wants what is held about them, and hand it to the worker.

    Raises ExportRefused while an earlier one of theirs is not finished.
    """
    try:
        with transaction.atomic():
            export = PersonExport.objects.create(person=by)
            record(by, "rights.export_requested", export)
            transaction.on_commit(lambda: _hand_over(export), robust=True)
    except IntegrityError as error:
        raise ExportRefused(
            "An export of yours is being written already. Wait until it is there."
        ) from error
    return export


def opened(export: PersonExport, *, by: User) -> SealedFile:
    """Return the file of one's own export, after its download is recorded. Raises ExportRefused."""
    file = _file_of(export)
    is_there = export.state == State.READY and export.expires_at and export.expires_at > _now()
    if export.person_id != by.pk or not is_there or not file.is_readable():
        raise ExportRefused(
            "This file is not here any more: exports are kept for a day. Ask for a new one."
        )
    record(by, "rights.export_downloaded", export)
    return file


def withdraw(user: User) -> None:
    """End the person's exports and remove their files, once the caller's transaction is through."""
    exports = PersonExport.objects.filter(person=user, state__in=[*UNFINISHED, State.READY])
    for export in exports.select_for_update():
        PersonExport.objects.filter(pk=export.pk).update(state=State.EXPIRED, finished_at=_now())
        transaction.on_commit(partial(_remove, _path_of(export)))


def _hand_over(export: PersonExport, **options: object) -> None:
    # By name: the task's module imports this one. `tend` asks again when the broker is away.
    current_app.send_task(TASK, [str(export.pk)], queue="long", **options)


# --- the worker's part ------------------------------------------------------------------------


def write(export_id: str) -> None:
    """Write an export that waits; nothing if it is written or ended already.

    Whatever goes wrong ends it with a sentence. Raises what can't be told to a person.
    """
    waiting = PersonExport.objects.filter(pk=export_id, state=State.WAITING)
    if not waiting.update(state=State.WRITING, beat_at=_now()):
        return
    export = PersonExport.objects.select_related("person").get(pk=export_id)
    try:
        counted, size = _write_file(export)
        _finish(export, counted, size)
    except _Ended:
        _remove(_path_of(export))
    except (OSError, KeyGone) as error:
        log.warning("person_export_failed", export=str(export.pk), error=type(error).__name__)
        _fail(export, _NOT_WRITTEN)
    except Exception:
        _fail(export, "Something went wrong on our side; it has been reported. Ask again.")
        raise


_NOT_WRITTEN = "The file could not be written. Ask again; if it stays so, tell your administrator."


def _write_file(export: PersonExport) -> tuple[Counted, int]:
    """Write all that is held about the person; return what was written, and how many bytes."""
    person, made_at = export.person, _now()
    messages = Message.objects.filter(conversation__in=_conversations_of(person))
    _step(export, messages=messages.count())
    with SealedWriter(_path_of(export), _key_of(export, made_at)) as out:
        with Archive(out, made_at=made_at, progress=_steps(export)) as archive:
            archive.put_tables("account", "Your account", account_tables(person))
            archive.put_tables("log", "What the audit log tells of you", log_tables(person))
            for conversation in _one_by_one(_conversations_of(person)):
                archive.put_conversation(conversation, conversation.messages.all())
            counted = archive.counted
            archive.put_index(
                "All that is held about you",
                _facts(person, made_at, counted),
                lambda: _one_by_one(_conversations_of(person)),
            )
        return counted, out.size


def _facts(person: User, made_at: datetime, counted: Counted) -> dict[str, object]:
    facts: dict[str, object] = {
        "Account": person.email,
        "Made": f"{made_at:%-d %b %Y, %H:%M} UTC",
        "Conversations": counted.conversations,
        "Messages": counted.messages,
        "Attachments": "none; Parley keeps no files",
    }
    if counted.unreadable:
        facts["Can't be read any more"] = f"{counted.unreadable} texts, each named in its place"
    return facts


def _conversations_of(person: User) -> QuerySet[Conversation]:
    # What was deleted is on its way to destruction: it is theirs no more, with or without a hold.
    return Conversation.objects.visible_to(person)


def _one_by_one(conversations: QuerySet[Conversation]) -> Iterator[Conversation]:
    """Yield them in the order of their ids, which is about that of their age."""
    page = list(conversations.order_by("pk")[:CONVERSATIONS_AT_ONCE])
    while page:
        yield from page
        page = list(conversations.order_by("pk").filter(pk__gt=page[-1].pk)[:CONVERSATIONS_AT_ONCE])


def _steps(export: PersonExport) -> Callable[[Counted], None]:
    """Return what notes progress, not too often."""
    noted_at = 0.0

    def note(counted: Counted) -> None:
        nonlocal noted_at
        if time.monotonic() - noted_at > STEP_SECONDS:
            _step(export, done=counted.messages)
            noted_at = time.monotonic()

    return note


def _step(export: PersonExport, **values: object) -> None:
    """Note how far the export is. Raises _Ended if it was ended meanwhile."""
    mine = PersonExport.objects.filter(pk=export.pk, state=State.WRITING)
    if not mine.update(beat_at=_now(), **values):
        raise _Ended


@transaction.atomic
def _finish(export: PersonExport, counted: Counted, size: int) -> None:
    now = _now()
    earlier = PersonExport.objects.filter(person=export.person_id, state=State.READY)
    for one in earlier:
        _expire(one)
    _step(
        export,
        state=State.READY,
        done=counted.messages,
        size=size,
        finished_at=now,
        expires_at=now + KEPT_FOR,
    )
    record(
        BY,
        "rights.exported",
        export,
        conversations=counted.conversations,
        messages=counted.messages,
        unreadable=counted.unreadable,
    )


@transaction.atomic
def _fail(export: PersonExport, reason: str) -> None:
    mine = PersonExport.objects.filter(pk=export.pk, state__in=UNFINISHED)
    if mine.update(state=State.FAILED, reason=reason, finished_at=_now()):
        record(BY, "rights.export_failed", export, outcome=Outcome.FAILED, reason=reason)


# --- keeping house ----------------------------------------------------------------------------


def tend(now: datetime) -> None:
    """Hand over what nobody took, end what broke off, remove what is over."""
    seen = Coalesce(F("beat_at"), F("requested_at"))
    unfinished = PersonExport.objects.filter(state__in=UNFINISHED).alias(seen=seen)
    for untaken in unfinished.filter(state=State.WAITING, seen__lt=now - UNTAKEN_AFTER):
        _hand_over(untaken, expires=HANDED_OVER_FOR_SECONDS)
    for silent in unfinished.filter(state=State.WRITING, seen__lt=now - SILENT_AFTER):
        _fail(silent, "The server stopped while it wrote this file. Nothing is lost: ask again.")
    for export in PersonExport.objects.filter(state=State.READY, expires_at__lte=now):
        with transaction.atomic():
            _expire(export)
    over = Q(state__in=[State.FAILED, State.EXPIRED], requested_at__lt=now - ROWS_KEPT_FOR)
    PersonExport.objects.filter(over).delete()
    _sweep()


def _expire(export: PersonExport) -> None:
    PersonExport.objects.filter(pk=export.pk).update(state=State.EXPIRED)
    record(BY, "rights.export_expired", export)
    transaction.on_commit(lambda: _remove(_path_of(export)))


def _sweep() -> None:
    """Remove files whose export is not there: of writers that died, of rows that are gone."""
    found = list(Path(settings.EXPORT_FOLDER).glob(f"*{_SUFFIX}*"))  # first: more may come
    kept = PersonExport.objects.filter(state__in=[State.WRITING, State.READY])
    names = {_path_of(export).name for export in kept.only("pk")}
    for path in found:
        if path.name.removesuffix(".new") not in names:
            path.unlink(missing_ok=True)


_SUFFIX = ".zip.sealed"


def _path_of(export: PersonExport) -> Path:
    return Path(settings.EXPORT_FOLDER) / f"{export.pk}{_SUFFIX}"


def _file_of(export: PersonExport) -> SealedFile:
    return SealedFile(_path_of(export), export.pk)


def _key_of(export: PersonExport, made_at: datetime) -> SealKey:
    day = made_at.astimezone(UTC).date()
    return SealKey(export.pk, KeyDay(RetentionClass.TEMPORARY, day))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _now() -> datetime:
    return timezone.now()
