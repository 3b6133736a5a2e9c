"""What a hold keeps, for counsel: one ZIP with its chain of custody, made under break-glass.

    found = holds_over(grant)                       holds that keep something of the grant's scope
    export = request_export(grant, hold.pk, by=officer)
    write(export.pk)                                the worker's part
    opened(grant, export.pk, by=officer)            its file, for a download that is recorded
    tend(now)                                       keeps house: what broke off, what is over

The file holds all branches of the conversations that lie both under the hold and in the grant's
scope, deleted ones included, and of their messages those within the grant's days. `custody.json`
says who made it, when, under which grant and hold, by what selection, with the SHA-256 of each file
and the checkpoint of the audit log at that moment; `custody.note` is signed by the log's key and
names the SHA-256 of `custody.json`.

It needs an active grant from the request to the download. The file lies in EXPORT_FOLDER, sealed
under a key of the day of temporary chats, so that it dies with that key, and is removed after
KEPT_FOR. The row stays, with the signed statement.
"""

import hashlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import orjson
import structlog
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from accounts.access import System
from accounts.models import User
from audit.checkpoint import SigningKeyError
from audit.models import Checkpoint, Outcome
from audit.models import SigningKey as LogKey
from audit.statements import signed_statement
from audit.trail import record
from conversations.break_glass.grants import name_and_email
from conversations.export_jobs import (
    KEPT_FOR,
    Ended,
    ExportRefused,
    Jobs,
    key_of,
    now_and_then,
    one_by_one,
)
from conversations.keyring import KeyGone
from conversations.models import (
    BreakGlassGrant,
    Conversation,
    CounselExport,
    Hold,
    Message,
)
from conversations.rights.portable import Archive, Counted, in_words
from conversations.sealed_file import SealedFile, SealedWriter

__all__ = ["ExportRefused", "holds_over", "opened", "request_export", "tend", "write"]

BY = System("counsel_export")
TASK = "conversations.tasks.write_counsel_export"
CUSTODY_HEADER = "parley-custody/v1"
JOBS = Jobs(CounselExport, TASK, ".counsel.sealed")
State = CounselExport.State

log = structlog.get_logger(__name__)


# --- what the officer asks for ----------------------------------------------------------------


def holds_over(grant: BreakGlassGrant) -> QuerySet[Hold]:
    """Return the standing holds that keep something in the scope of a grant, newest first."""
    scope = Conversation.objects.within(grant)
    return Hold.objects.standing().filter(
        Q(conversation__in=scope.values("pk")) | Q(user__in=scope.values("owner"))
    )


def request_export(grant: BreakGlassGrant, hold_id: uuid.UUID, *, by: User) -> CounselExport:
    """Ask for the file of what a hold keeps in the scope of a grant that `by` has opened.

    Raises ExportRefused.
    """
    hold = holds_over(grant).filter(pk=hold_id).first()
    if hold is None:
        raise ExportRefused("This hold keeps nothing that this access opens.")
    try:
        with transaction.atomic():
            export = CounselExport.objects.create(
                grant=grant, hold=hold, requested_at=datetime.now(UTC)
            )
            record(by, "counsel_export.requested", export, **_about(export))
            transaction.on_commit(lambda: JOBS.hand_over(export), robust=True)
    except IntegrityError as error:
        raise ExportRefused(
            "An export is being written already. Wait until it is there."
        ) from error
    return export


def opened(
    grant: BreakGlassGrant, export_id: uuid.UUID, *, by: User
) -> tuple[CounselExport, SealedFile]:
    """Return an export of a grant that `by` has opened, and its file; the download is recorded.

    Raises ExportRefused.
    """
    export = grant.exports.filter(pk=export_id, state=State.READY).first()
    file = JOBS.file_of(export) if export else None
    if export is None or file is None or not file.is_readable():
        raise ExportRefused("This file is not here any more: it is kept for a day.")
    record(by, "counsel_export.downloaded", export, **_about(export))
    return export, file


def _about(export: CounselExport) -> dict[str, str]:
    grant = export.grant
    return {"grant": str(grant.pk), "hold": str(export.hold_id), "matter": grant.matter}


# --- the worker's part ------------------------------------------------------------------------


def write(export_id: str) -> None:
    """Write an export that waits; nothing if it is written or ended already.

    Whatever goes wrong ends it with a sentence. Raises what can't be told to a person.
    """
    if not JOBS.take(export_id):
        return
    loaded = CounselExport.objects.select_related(
        "hold__user", "hold__conversation__owner", "grant__asked_by", "grant__decided_by"
    )
    export = loaded.get(pk=export_id)
    try:
        _Writing(export).run()
    except Ended as ended:
        _fail(export, str(ended))
    except SigningKeyError as error:
        log.error("counsel_export_not_signed", export=str(export.pk), reason=str(error))
        _fail(export, "The audit log's key can't sign now. Nothing was exported; try again later.")
    except (OSError, KeyGone) as error:
        log.warning("counsel_export_failed", export=str(export.pk), error=type(error).__name__)
        _fail(export, "The file could not be written. Try again, or tell your administrator.")
    except Exception:
        _fail(export, "Something went wrong on our side; it has been reported. Try again.")
        raise


class _Writing:
    """One run of the writer."""

    def __init__(self, export: CounselExport) -> None:
        self.export, self.grant, self.hold = export, export.grant, export.hold
        self.made_at = datetime.now(UTC)
        self.custody_digest = ""

    def run(self) -> None:
        messages = Message.objects.filter(self.grant.days(), conversation__in=self._held())
        self._step(messages=messages.count())
        with SealedWriter(JOBS.path_of(self.export), key_of(self.export, self.made_at)) as out:
            with Archive(
                out, made_at=self.made_at, asker=self._asker(), progress=now_and_then(self._note)
            ) as archive:
                for conversation in one_by_one(self._held()):
                    archive.put_conversation(
                        conversation, conversation.messages.filter(self.grant.days())
                    )
                archive.put_index(
                    f"Held content: {self.hold.matter}",
                    self._facts(archive.counted),
                    lambda: one_by_one(self._held()),
                    lead=_LEAD,
                )
                note = self._put_custody(archive)
            size = out.size
            # Before the file gets its name: what must not be there is never there.
            self._step()
        self._finish(archive.counted, size, note)

    def _held(self) -> QuerySet[Conversation]:
        """Return what lies both under the hold and in the grant's scope."""
        scope = Conversation.objects.within(self.grant).select_related("owner")
        if self.hold.conversation_id is None:
            return scope.filter(owner=self.hold.user_id)
        return scope.filter(pk=self.hold.conversation_id)

    def _asker(self) -> str:
        owner = self.hold.user or (self.hold.conversation and self.hold.conversation.owner)
        return name_and_email(owner)[0] if owner else "Question"

    def _note(self, done: int) -> None:
        self._step(done=done)

    def _step(self, **values: object) -> None:
        """Note how far it is. Raises Ended if it was ended, or access or hold are over."""
        JOBS.step(self.export, **values)
        if not BreakGlassGrant.objects.get(pk=self.grant.pk).is_active(datetime.now(UTC)):
            raise Ended("The access ended before the file was written. Nothing was exported.")
        if not Hold.objects.standing().filter(pk=self.hold.pk).exists():
            raise Ended("The hold ended before the file was written. Nothing was exported.")

    def _facts(self, counted: Counted) -> dict[str, object]:
        facts: dict[str, object] = {
            "Matter": self.grant.matter,
            "Hold": f"{self.hold.matter} ({self.hold.pk})",
            "Made": in_words(self.made_at),
            "By": self.grant.asked_by.email,
            "Conversations": counted.conversations,
            "Messages": counted.messages,
            "Chain of custody": "custody.json, and custody.note with its signed SHA-256",
        }
        if counted.unreadable:
            facts["Can't be read any more"] = f"{counted.unreadable} texts, each named in its place"
        return facts

    def _put_custody(self, archive: Archive) -> str:
        """Write what the file holds and how it came about; return the signed statement."""
        custody = self._custody(archive)
        archive.put("custody.json", custody)
        self.custody_digest = hashlib.sha256(custody.encode()).hexdigest()
        note = signed_statement(CUSTODY_HEADER, self._lines(archive.counted))
        archive.put("custody.note", note)
        return note

    def _custody(self, archive: Archive) -> str:
        grant, hold, counted = self.grant, self.hold, archive.counted
        checkpoint = Checkpoint.objects.order_by("number").last()
        told = {
            "what": "Held content, exported for counsel from Parley",
            "export": self.export.pk,
            "made_at": self.made_at,
            "made_by": _person(grant.asked_by),
            "matter": grant.matter,
            "grant": {
                "id": grant.pk,
                "reason": grant.reason,
                "asked_at": grant.asked_at,
                "approved_by": _person(grant.decided_by),
                "starts_at": grant.starts_at,
                "ends_at": grant.ends_at,
            },
            "hold": {
                "id": hold.pk,
                "matter": hold.matter,
                "on": {"account": hold.user_id}
                if hold.user_id
                else {"conversation": hold.conversation_id},
                "placed_at": hold.placed_at,
            },
            "selection": {
                "conversations": "those that are under the hold and in the grant's scope,"
                " deleted ones included",
                "messages": "all branches, begun on the grant's days where it has some (UTC)",
                "account": grant.person_id,
                "conversation": grant.conversation_id,
                "first_day": grant.first_day,
                "last_day": grant.last_day,
            },
            "counts": {
                "conversations": counted.conversations,
                "messages": counted.messages,
                "unreadable": counted.unreadable,
            },
            "audit_log": {
                "checkpoint": checkpoint.note if checkpoint else None,
                "keys": [row.vkey for row in LogKey.objects.order_by("id")],
            },
            "sha256": archive.digests,
        }
        return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n"

    def _lines(self, counted: Counted) -> Iterator[str]:
        yield f"export {self.export.pk}"
        yield f"made {self.made_at.isoformat()} by account {self.grant.asked_by_id}"
        yield f"matter {' '.join(self.grant.matter.split())}"
        yield f"grant {self.grant.pk}"
        yield f"hold {self.hold.pk}"
        yield f"conversations {counted.conversations}"
        yield f"messages {counted.messages}"
        yield f"unreadable {counted.unreadable}"
        yield f"sha256 {self.custody_digest} custody.json"

    @transaction.atomic
    def _finish(self, counted: Counted, size: int, note: str) -> None:
        self._step(
            state=State.READY,
            done=counted.messages,
            size=size,
            custody=note,
            finished_at=datetime.now(UTC),
        )
        record(
            BY,
            "counsel_export.finished",
            self.export,
            **_about(self.export),
            conversations=counted.conversations,
            messages=counted.messages,
            unreadable=counted.unreadable,
            custody_sha256=self.custody_digest,
        )


_LEAD = (
    "What a legal hold keeps, exported for counsel. Each conversation is there three times: to read"
    " here, as Markdown, and as JSON for programs. custody.json says how this file came about and"
    " holds the SHA-256 of each file in it."
)


def _person(user: User | None) -> dict[str, object] | None:
    return {"account": user.pk, "email": user.email} if user else None


def _fail(export: CounselExport, reason: str) -> None:
    with transaction.atomic():
        if JOBS.fail(export, reason):
            outcome = Outcome.FAILED
            record(
                BY,
                "counsel_export.failed",
                export,
                outcome=outcome,
                reason=reason,
                **_about(export),
            )
    JOBS.remove(export)


# --- keeping house ----------------------------------------------------------------------------


def tend(now: datetime) -> None:
    """Hand over what nobody took, end what broke off, remove the files of what is over."""
    JOBS.hand_over_untaken(now)
    for silent in JOBS.silent(now).select_related("grant"):
        _fail(silent, "The server stopped while it wrote this file. Try again.")
    exports = CounselExport.objects.select_related("grant")
    for old in exports.filter(state=State.READY, finished_at__lte=now - KEPT_FOR):
        with transaction.atomic():
            CounselExport.objects.filter(pk=old.pk).update(state=State.EXPIRED)
            record(BY, "counsel_export.expired", old, **_about(old))
        JOBS.remove(old)
    JOBS.sweep()
