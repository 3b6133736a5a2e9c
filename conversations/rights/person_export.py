"""A person's export: one ZIP of everything that is held about them, for them alone.

    export = request_export(by=user)      asks for one; the worker writes it
    write(export.pk)                      writes it
    opened(export, by=user)               its file, for a download that is recorded
    withdraw(user)                        ends and removes all of theirs
    tend(now)                             keeps house: what broke off, what is over

The file lies in EXPORT_FOLDER, sealed under a key of the day of temporary chats: it dies with that
key, whatever becomes of the file. It is there for KEPT_FOR, and only the newest of each person.
"""

from datetime import datetime, timedelta
from functools import partial

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.access import System
from accounts.models import User
from audit.models import Outcome
from audit.trail import record
from conversations.export_jobs import (
    KEPT_FOR,
    UNFINISHED,
    Ended,
    ExportRefused,
    Jobs,
    State,
    key_of,
    now_and_then,
    one_by_one,
)
from conversations.keyring import KeyGone
from conversations.models import Conversation, Message, PersonExport
from conversations.rights.held_about import account_tables, log_tables
from conversations.rights.portable import Archive, Counted
from conversations.sealed_file import SealedFile, SealedWriter

__all__ = ["ExportRefused", "opened", "request_export", "tend", "withdraw", "write"]

BY = System("rights")
TASK = "conversations.tasks.write_person_export"
ROWS_KEPT_FOR = timedelta(days=30)

JOBS = Jobs(PersonExport, TASK, ".zip.sealed")

log = structlog.get_logger(__name__)


# --- what the person asks for -----------------------------------------------------------------


def request_export(*, by: User) -> PersonExport:
    """Note that somebody wants what is held about them, and hand it to the worker.

    Raises ExportRefused while an earlier one of theirs is not finished.
    """
    try:
        with transaction.atomic():
            export = PersonExport.objects.create(person=by)
            record(by, "rights.export_requested", export)
            transaction.on_commit(lambda: JOBS.hand_over(export), robust=True)
    except IntegrityError as error:
        raise ExportRefused(
            "An export of yours is being written already. Wait until it is there."
        ) from error
    return export


def opened(export: PersonExport, *, by: User) -> SealedFile:
    """Return the file of one's own export, after its download is recorded. Raises ExportRefused."""
    file = JOBS.file_of(export)
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
        transaction.on_commit(partial(JOBS.remove, export))


# --- the worker's part ------------------------------------------------------------------------


def write(export_id: str) -> None:
    """Write an export that waits; nothing if it is written or ended already.

    Whatever goes wrong ends it with a sentence. Raises what can't be told to a person.
    """
    if not JOBS.take(export_id):
        return
    export = PersonExport.objects.select_related("person").get(pk=export_id)
    try:
        counted, size = _write_file(export)
        _finish(export, counted, size)
    except Ended:
        JOBS.remove(export)
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
    messages = Message.objects.shown().filter(conversation__in=_conversations_of(person))
    JOBS.step(export, messages=messages.count())
    progress = now_and_then(lambda done: JOBS.step(export, done=done))
    with SealedWriter(JOBS.path_of(export), key_of(export, made_at)) as out:
        with Archive(out, made_at=made_at, progress=progress) as archive:
            archive.put_tables("account", "Your account", account_tables(person))
            archive.put_tables("log", "What the audit log tells of you", log_tables(person))
            for conversation in one_by_one(_conversations_of(person)):
                archive.put_conversation(conversation, conversation.shown_messages())
            counted = archive.counted
            archive.put_index(
                "All that is held about you",
                _facts(person, made_at, counted),
                lambda: one_by_one(_conversations_of(person)),
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


@transaction.atomic
def _finish(export: PersonExport, counted: Counted, size: int) -> None:
    now = _now()
    earlier = PersonExport.objects.filter(person=export.person_id, state=State.READY)
    for one in earlier:
        _expire(one)
    JOBS.step(
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
    if JOBS.fail(export, reason):
        record(BY, "rights.export_failed", export, outcome=Outcome.FAILED, reason=reason)


# --- keeping house ----------------------------------------------------------------------------


def tend(now: datetime) -> None:
    """Hand over what nobody took, end what broke off, remove what is over."""
    JOBS.hand_over_untaken(now)
    for silent in JOBS.silent(now):
        _fail(silent, "The server stopped while it wrote this file. Nothing is lost: ask again.")
    for export in PersonExport.objects.filter(state=State.READY, expires_at__lte=now):
        with transaction.atomic():
            _expire(export)
    over = Q(state__in=[State.FAILED, State.EXPIRED], requested_at__lt=now - ROWS_KEPT_FOR)
    PersonExport.objects.filter(over).delete()
    JOBS.sweep()


def _expire(export: PersonExport) -> None:
    PersonExport.objects.filter(pk=export.pk).update(state=State.EXPIRED)
    record(BY, "rights.export_expired", export)
    transaction.on_commit(lambda: JOBS.remove(export))


def _now() -> datetime:
    return timezone.now()
