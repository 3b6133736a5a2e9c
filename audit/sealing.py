"""Sealing: entries get their leaves, and the tree of all leaves is signed.

    seal()                       one batch and one checkpoint, or why there is none
    state()                      how much waits, and for how long
    declare_fork(reason, by)     an operator's word that the log goes on from another state

Two transactions, so that whatever is signed stands in the database for good. The first appends
leaves. Entries are taken in the order of (transaction_id, id), and only those of transactions below
the oldest that still runs: nothing can appear below them any more. The second signs the tree and
leaves the signed head outside the database, before it commits. A crash anywhere between leaves a
state from which the next run goes on.

Nothing is signed that contradicts the head outside: a database that lost its tail, was rewritten or
restored is noticed there, and sealing stops until an operator declares a fork. Entries are written
meanwhile, and sealed later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from accounts.access import Actor, System
from audit import folder, models
from audit.checkpoint import (
    SigningKey,
    SigningKeyError,
    checkpoint_text,
    fork_note,
    key_note,
    read_signing_keys,
)
from audit.content import clean
from audit.leaves import ROW_SQL, Row, StoredHashes, leaf_bytes
from audit.log import Log
from audit.merkle import MissingHash, append, root_at
from audit.trail import record
from audit.verify import (
    EMPTY_ROOT,
    Checkpoint,
    ForkStatement,
    NoteError,
    VerifierKey,
    leaf_hash,
    parse_checkpoint,
)

BATCH = 10_000
# How far `state` counts what waits.
COUNTED = 10_000
# Entries that are written at once get their times and their numbers in either order.
CLOCK_TOLERANCE = timedelta(seconds=1)
BY = System("sealing")

# Any number that nothing else in this database locks.
_LOCK = 0x7365616C

Code = Literal["no_key", "bad_key", "wrong_key", "behind", "inconsistent", "restored", "folder"]
_REMOVED = " Somebody removed them. `manage.py audit_verify` says more. Restore them from a backup."
_FORK = " If that can't be, an operator says so with `manage.py audit_fork --reason …`."


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a run did: entries that got a leaf, leaves in all, the checkpoint made if one was.

    `more` says that a whole batch was taken, so that entries may still wait.
    """

    entries: int
    size: int
    checkpoint: int | None
    more: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was signed, for programs and for operators."""

    code: Code
    sentence: str


@dataclass(frozen=True, slots=True)
class State:
    """What waits to be sealed: entries, counted up to COUNTED, and the age of the oldest."""

    unsealed: int
    oldest_seconds: float


class SealingRefused(Exception):
    """The log can't be sealed as it stands."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class ForkNotNeeded(Exception):
    """The log goes on without a fork."""


def seal(batch: int = BATCH) -> Sealed | Refused:
    """Give up to `batch` entries their leaves and sign the tree; safe to call at any time.

    While another run is at work this one does nothing.
    """
    try:
        with folder.locked() as alone:
            return _seal(batch) if alone else _NOTHING
    except SealingRefused as refusal:
        return Refused(refusal.code, str(refusal))
    except MissingHash as error:
        return Refused("inconsistent", f"{error}{_REMOVED}")
    except folder.FolderError as error:
        return Refused(
            "folder", f"AUDIT_FOLDER can't be used ({error}). It holds the last signed head."
        )


def state() -> State:
    """Return what waits, by an index and without counting the table."""
    with connection.cursor() as cursor:
        log = Log.read(cursor)
        cursor.execute(
            "SELECT count(*), EXTRACT(epoch FROM now() - min(recorded_at)) FROM ("  # noqa: S608
            f"SELECT entry.recorded_at FROM audit_entry AS entry WHERE {_UNSEALED}"
            " AND entry.transaction_id < %s"
            " ORDER BY entry.transaction_id, entry.id LIMIT %s) AS waiting",
            [*log.cursor, log.next_transaction, COUNTED],
        )
        unsealed, age = cursor.fetchone()
    return State(unsealed, max(0.0, float(age or 0)))


def declare_fork(reason: str, by: Actor) -> models.Fork:
    """Let the log go on from what the database holds, under a new origin, and say so, signed.

    Every entry without a leaf gets one. The next `seal` signs. Raises SealingRefused where there is
    no key or no folder, or where hashes are missing without which the tree has no root;
    ForkNotNeeded where the log goes on as it is.
    """
    try:
        with folder.locked() as alone, transaction.atomic(), connection.cursor() as cursor:
            if not (alone and _is_alone(cursor)):
                raise SealingRefused("folder", "The log is being sealed. Try again in a moment.")
            return _fork(cursor, Log.read(cursor), reason, by)
    except MissingHash as error:
        raise SealingRefused(
            "inconsistent",
            f"{error} Without them the tree has no root, so no fork can be declared either. Only a"
            " restore helps: bring these rows of audit_leaf and audit_node back from a backup.",
        ) from error
    except folder.FolderError as error:
        raise SealingRefused("folder", f"AUDIT_FOLDER can't be used ({error}).") from error


# --- sealing ---------------------------------------------------------------------------------

_NOTHING = Sealed(0, 0, None, more=False)

# What stands behind the cursor and has no leaf. A subquery, lest the planner reads the whole tree.
_UNSEALED = """(entry.transaction_id, entry.id) > (%s, %s)
    AND (SELECT leaf.index FROM audit_leaf AS leaf WHERE leaf.entry_id = entry.id) IS NULL"""


def _is_alone(cursor: CursorWrapper) -> bool:
    """Take the lock that lasts as long as the transaction, unless another sealer has it."""
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
    return bool(cursor.fetchone()[0])


def _seal(batch: int) -> Sealed:
    with transaction.atomic(), connection.cursor() as cursor:
        if not _is_alone(cursor):
            return _NOTHING
        log = Log.read(cursor)
        _require_continuity(cursor, log, _keys(log))
        rows = _next_rows(cursor, log, batch)
        _grow(cursor, log.size, rows)
    with transaction.atomic(), connection.cursor() as cursor:
        if not _is_alone(cursor):
            return Sealed(len(rows), log.size + len(rows), None, more=len(rows) == batch)
        log = Log.read(cursor)
        keys = _keys(log)
        _require_continuity(cursor, log, keys)
        # A changed key is announced at once, though there may be nothing new to sign.
        number = None if log.is_signed and not keys.former else _sign(cursor, log, keys)
    return Sealed(len(rows), log.size, number, more=len(rows) == batch)


def _next_rows(cursor: CursorWrapper, log: Log, batch: int) -> list[Row]:
    # The snapshot's own limit, because it must be the one of this very statement.
    cursor.execute(
        f"SELECT {ROW_SQL} FROM audit_entry AS entry WHERE {_UNSEALED}"  # noqa: S608
        " AND entry.transaction_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        " ORDER BY entry.transaction_id, entry.id LIMIT %s",
        [*log.cursor, batch],
    )
    return list(map(Row._make, cursor.fetchall()))


def _grow(cursor: CursorWrapper, size: int, rows: Sequence[Row]) -> None:
    """Append the leaves of these entries, and the nodes that they complete."""
    if not rows:
        return
    hashes = [leaf_hash(leaf_bytes(row)) for row in rows]
    nodes = append(StoredHashes(cursor), size, hashes)
    went_back = _went_back(rows)
    with cursor.copy(
        "COPY audit_leaf (index, entry_id, hash, clock_went_back) FROM STDIN (FORMAT BINARY)"
    ) as copy:
        copy.set_types(["int8", "int8", "bytea", "bool"])
        for index, (row, digest) in enumerate(zip(rows, hashes, strict=True), start=size):
            copy.write_row((index, row.entry, digest, row.entry in went_back))
    with cursor.copy("COPY audit_node (level, index, hash) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "int8", "bytea"])
        for node in nodes:
            copy.write_row(node)


def _went_back(rows: Sequence[Row]) -> set[int]:
    """Return the entries before which the database's clock was set back.

    Numbers are given in the order of writing; transactions may have begun in another.
    """
    written = sorted((row.entry, row.recorded_at) for row in rows)
    return {
        entry
        for (_, before), (entry, recorded) in pairwise(written)
        if recorded < before and _time(before) - _time(recorded) > CLOCK_TOLERANCE
    }


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _sign(cursor: CursorWrapper, log: Log, keys: "_Keys") -> int:
    """Sign the tree as it stands, and return the checkpoint's number."""
    root = _root_at(cursor, log.size)
    note = checkpoint_text(log.origin, log.size, root, keys.signers)
    number = log.checkpoint.number + 1 if log.checkpoint else 1
    _remember_key(log, keys)
    models.Checkpoint.objects.create(
        number=number,
        origin=log.origin,
        size=log.size,
        root=root,
        note=note,
        key_id=keys.key.key_id,
        cursor_transaction=log.cursor[0],
        cursor_entry=log.cursor[1],
    )
    # Last of all: the head outside is never behind what the database has committed.
    folder.write(folder.HEAD, note)
    return number


def _remember_key(log: Log, keys: "_Keys") -> None:
    """Note a key that signs for the first time."""
    if log.signing_key and log.signing_key.key_id == keys.key.key_id:
        return
    now = timezone.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    models.SigningKey.objects.create(
        key_id=keys.key.key_id,
        name=log.origin,
        vkey=keys.key.vkey,
        first_size=log.size,
        announcement=key_note(keys.former, keys.key, log.size, now) if keys.former else "",
    )
    if log.signing_key:
        record(
            BY,
            "log.key_rotated",
            ("audit.signingkey", keys.key.key_id),
            former=log.signing_key.key_id,
            first_size=log.size,
        )


# --- keys ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Keys:
    """The key to sign with, and the former one while it is being replaced."""

    key: SigningKey
    former: SigningKey | None

    @property
    def signers(self) -> list[SigningKey]:
        return [self.key, self.former] if self.former else [self.key]


def _keys(log: Log) -> _Keys:
    """Return the keys of the secret store, as far as the log's last one lets them sign.

    Raises SealingRefused.
    """
    key, former = _read_keys(log.origin)
    last = log.signing_key
    if last is None or last.key_id == key.key_id:
        return _Keys(key, None)
    if former and last.key_id == former.key_id:
        return _Keys(key, former)
    raise SealingRefused(
        "wrong_key",
        f"AUDIT_SIGNING_KEY is not the key that the log was last signed with ({last.key_id})."
        " Give that one; or, to change it, give it as AUDIT_SIGNING_KEY_PREVIOUS beside the new"
        " one." + _FORK,
    )


def _read_keys(origin: str) -> tuple[SigningKey, SigningKey | None]:
    try:
        return read_signing_keys(origin)
    except SigningKeyError as error:
        missing = isinstance(error.__cause__, ImproperlyConfigured)
        raise SealingRefused(
            "no_key" if missing else "bad_key",
            f"{error} Until then entries are written, and sealed later.",
        ) from error


# --- continuity ------------------------------------------------------------------------------


def _require_continuity(cursor: CursorWrapper, log: Log, keys: _Keys) -> None:
    """Check that what would be signed continues what was. Raises SealingRefused."""
    if log.next_transaction <= log.cursor[0]:
        raise SealingRefused(
            "restored",
            f"The database counts transactions from {log.next_transaction}, and the log is sealed"
            f" up to {log.cursor[0]}: it was restored into another server. Declare that with"
            " `manage.py audit_fork --reason …`.",
        )
    head = _head(log, keys)
    if log.fork and not log.signed and not (head and head.origin == log.origin):
        _require_head_of_fork(head, log.fork)
    elif head:
        _require_head(cursor, log, head)
    elif log.signed:
        raise SealingRefused(
            "folder",
            f"AUDIT_FOLDER ({settings.AUDIT_FOLDER}) holds no head, and checkpoint"
            f" {log.signed.number} was signed. Bring the folder back." + _FORK,
        )


def _head(log: Log, keys: _Keys) -> Checkpoint | None:
    """Return the head outside, checked, or None where there is none."""
    text = folder.read(folder.HEAD)
    if text is None:
        return None
    origin = text.partition("\n")[0]
    given = [VerifierKey(origin, key.verifier.kind, key.verifier.public) for key in keys.signers]
    try:
        return parse_checkpoint(text, [*_known_keys(log), *given])
    except NoteError as error:
        raise SealingRefused(
            "folder",
            f"The head in AUDIT_FOLDER is none that this log signed: {error} Bring the file back."
            + _FORK,
        ) from error


def _known_keys(log: Log) -> list[VerifierKey]:
    return [VerifierKey.parse(key.vkey) for key in log.keys]


def _require_head_of_fork(head: Checkpoint | None, fork: models.Fork) -> None:
    """Check that the head outside is still the one that the operator let go."""
    seen = (head.origin, head.size, head.root) if head else (fork.old_origin, 0, EMPTY_ROOT)
    if seen != (fork.old_origin, fork.old_size, bytes(fork.old_root)):
        raise SealingRefused(
            "inconsistent",
            f"The head in AUDIT_FOLDER is not the one from which {fork.origin} was forked." + _FORK,
        )


def _require_head(cursor: CursorWrapper, log: Log, head: Checkpoint) -> None:
    if head.origin != log.origin:
        raise SealingRefused(
            "behind",
            f"The head in AUDIT_FOLDER is of {head.origin}, and the database is at {log.origin}:"
            " it was restored from before a fork. Restore it as it was last." + _FORK,
        )
    if head.size > log.size:
        raise SealingRefused(
            "behind",
            f"The log was signed with {head.size} leaves, and the database has {log.size}: it was"
            " restored from a backup, or its end was removed. Restore it as it was last." + _FORK,
        )
    if log.signed and log.signed.size > head.size:
        raise SealingRefused(
            "folder",
            f"The head in AUDIT_FOLDER has {head.size} leaves, and checkpoint {log.signed.number}"
            f" {log.signed.size}: it is an old copy. Bring the last one back." + _FORK,
        )
    if _root_at(cursor, head.size) != head.root:
        raise SealingRefused(
            "inconsistent",
            f"The first {head.size} leaves in the database are not those that were signed:"
            " somebody changed them. `manage.py audit_verify` says which." + _FORK,
        )


def _root_at(cursor: CursorWrapper, size: int) -> bytes:
    try:
        return root_at(StoredHashes(cursor), size)
    except MissingHash as error:
        raise SealingRefused("inconsistent", f"{error}{_REMOVED}{_FORK}") from error


# --- forks -----------------------------------------------------------------------------------


def _fork(cursor: CursorWrapper, log: Log, reason: str, by: Actor) -> models.Fork:
    _require_reason_to_fork(cursor, log)
    head = _last_head(log)
    old_origin = head.origin if head else log.origin
    first = models.Checkpoint.objects.order_by("number").first()
    base = first.origin if first else settings.AUDIT_ORIGIN
    generation = 1 + max(_generation(old_origin, base), _generation(log.origin, base))
    fork = models.Fork(
        generation=generation,
        origin=f"{base}/{generation}",
        old_origin=old_origin,
        old_size=head.size if head else 0,
        old_root=head.root if head else EMPTY_ROOT,
        resumed_size=log.size,
        resumed_root=root_at(StoredHashes(cursor), log.size),
        size=_adopt(cursor, log),
        cursor_transaction=log.oldest_running,
        reason=clean(reason, 500),
        declared_at=timezone.now(),
    )
    fork.statement = _statement(log, fork, head, by)
    fork.save(force_insert=True)
    record(by, "log.fork_declared", ("audit.fork", str(generation)), reason=fork.reason)
    folder.write(f"fork-{generation}", fork.statement)
    if head is None:
        folder.set_aside(folder.HEAD, f"head-before-fork-{generation}")
    return fork


def _require_reason_to_fork(cursor: CursorWrapper, log: Log) -> None:
    try:
        _require_continuity(cursor, log, _keys(log))
    except SealingRefused as refusal:
        if refusal.code in {"no_key", "bad_key"}:
            raise
    else:
        raise ForkNotNeeded("The log can be sealed as it is; nothing has to be declared.")


def _last_head(log: Log) -> Checkpoint | None:
    """Return the head outside, or None where it is lost or none that this log signed."""
    key, former = _read_keys(log.origin)
    try:
        return _head(log, _Keys(key, former))
    except SealingRefused:
        return None


def _generation(origin: str, base: str) -> int:
    number = origin.removeprefix(f"{base}/")
    return int(number) if origin != base and number.isdecimal() else 1


def _adopt(cursor: CursorWrapper, log: Log) -> int:
    """Give a leaf to every entry without one, in the order of ids; return the leaves in all.

    Entries may come from a server that counted transactions differently. Those that fall among the
    transactions of this moment are left to the next `seal`.
    """
    size, last = log.size, 0
    while True:
        cursor.execute(
            f"SELECT {ROW_SQL} FROM audit_entry AS entry WHERE entry.id > %s"  # noqa: S608
            " AND (entry.transaction_id < %s OR entry.transaction_id >= %s)"
            " AND (SELECT leaf.index FROM audit_leaf AS leaf WHERE leaf.entry_id = entry.id)"
            " IS NULL ORDER BY entry.id LIMIT %s",
            [last, log.oldest_running, log.next_transaction, BATCH],
        )
        rows = list(map(Row._make, cursor.fetchall()))
        if not rows:
            return size
        _grow(cursor, size, rows)
        size, last = size + len(rows), rows[-1].entry


def _statement(log: Log, fork: models.Fork, head: Checkpoint | None, by: Actor) -> str:
    """Return the fork as a note, signed under the new name, and under the old by the same key."""
    key, _ = _read_keys(fork.origin)
    old_key, _ = _read_keys(fork.old_origin)
    known = {(line.name, line.key_id) for line in log.keys}
    knew_it = (fork.old_origin, old_key.key_id) in known
    said = ForkStatement(
        origin=fork.origin,
        continues=fork.old_origin,
        head=(head.size, head.root) if head else None,
        resumes=(fork.resumed_size, bytes(fork.resumed_root)),
        declared_at=fork.declared_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        declared_by=by.name if isinstance(by, System) else f"account {by.pk}",
        reason=fork.reason,
    )
    return fork_note(said, [key, old_key] if knew_it else [key])
