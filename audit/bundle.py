"""What an export holds: entries as they were hashed, the same for spreadsheets, and proofs.

docs/audit-export.md describes the files. The four large ones grow part by part, each part from two
statements, so that memory stays the same however long the log is; compressing runs in threads
(zlib leaves the interpreter alone meanwhile), and so does reading the next part.
"""

import base64
import csv
import hashlib
import io
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import orjson
from django.db import connection
from django.db.backends.utils import CursorWrapper

from audit import verify
from audit.archive import Member, write_zip
from audit.checkpoint import manifest_note
from audit.leaves import ROW_SQL, Row, StoredHashes, leaf_bytes
from audit.merkle import consistency_path, range_frontiers, root_at
from audit.models import Checkpoint, Export, Fork
from audit.models import SigningKey as KeyRow
from audit.statements import signing_key_of
from audit.verify import (
    CHECKPOINT,
    CONSISTENCY,
    ENTRIES,
    LEAVES,
    MANIFEST,
    MANIFEST_HEADER,
    MANIFEST_NOTE,
    PERSONAL,
    RANGE,
    leaf_hash,
)

PART = 5_000
TABLE = "entries.csv"
# A spreadsheet takes a cell that begins so for a formula, or as one behind a tab or a line break.
FORMULA = frozenset("=+-@\t\r")

COLUMNS = (
    *("index", "entry", "event", "occurred_at", "recorded_at", "outcome", "reason"),
    *("actor_kind", "actor_id", "actor", "actor_roles", "impersonator_id", "token_id"),
    *("target_kind", "target_id", "target", "network", "user_agent"),
    *("request_id", "trace_id", "turn_id", "payload"),
)

# As verify.py reads them: whether it should be in this export, its entry, its hash.
_LEAF = Struct(">BQ32s")
_PERSONAL_SQL = (
    "encode(personal.salt, 'hex'), personal.actor_label, personal.target_label,"
    " personal.network, personal.user_agent"
)
_ROW_WIDTH = len(Row._fields)


class Personal(NamedTuple):
    """The erasable values of an entry."""

    salt: str
    actor_label: str
    target_label: str
    network: str
    user_agent: str


@dataclass(slots=True)
class Counted:
    """What was found on the way; `damaged` and `missing` leaves should not be there.

    `first` is the index of the first of them.
    """

    leaves: int = 0
    entries: int = 0
    personal: int = 0
    damaged: int = 0
    missing: int = 0
    first: int | None = None

    def spoiled(self, index: int) -> None:
        """Remember the first leaf that is not as it should be."""
        self.first = index if self.first is None else self.first


class HoleInTree(Exception):
    """Leaves are missing from the tree; the message says which."""


# The ids of the entries that are asked for among those from one id to another; None takes all.
Chosen = Callable[[int, int], Collection[int]] | None


class Contents:
    """The large files of an export in `folder`, over the leaves [start, stop)."""

    def __init__(self, folder: Path, start: int, stop: int, chosen: Chosen) -> None:
        self.members = {name: Member(name, folder) for name in (ENTRIES, TABLE, PERSONAL, LEAVES)}
        self.counted = Counted()
        self._start, self._stop, self._chosen = start, stop, chosen

    def go_on_from(self, place: dict[str, Any]) -> None:
        """Take up what another process left at this place. Raises DamagedMember."""
        nowhere = {"size": 0, "compressed": 0, "crc": 0}
        for name, member in self.members.items():
            member.go_on_from(place.get("files", {}).get(name, nowhere))
        self.counted = Counted(**place.get("counted", {}))

    def place(self) -> dict[str, Any]:
        """Return where it is, for `go_on_from`."""
        files = {name: member.place() for name, member in self.members.items()}
        return {"files": files, "counted": asdict(self.counted)}

    def write(self) -> Iterator[Counted]:
        """Write what is left; each step ends with a part that is on disk, and can be the last."""
        if not self.members[TABLE].size:
            self.members[TABLE].append(_csv([COLUMNS]).encode())
        with ThreadPoolExecutor(len(self.members), thread_name_prefix="export") as threads:
            being_written: list[Future[None]] = []
            counted = self.counted
            for found in self._read_ahead(self._start + counted.leaves):
                part = _rendered(found, replace(counted))
                if being_written:
                    yield self._settled(being_written, counted)
                being_written = [
                    threads.submit(self.members[name].append, data)
                    for name, data in part.files.items()
                ]
                counted = part.counted
            if being_written:
                yield self._settled(being_written, counted)

    def _read_ahead(self, start: int) -> Iterator["_Found"]:
        """Yield the parts from this leaf on; the next one is read while one is worked on."""
        begins = range(start, self._stop, PART)
        with ThreadPoolExecutor(1, thread_name_prefix="export-reader") as reader:
            ahead: deque[Future[_Found]] = deque()
            try:
                for begin in begins:
                    ahead.append(reader.submit(self._read, begin, min(begin + PART, self._stop)))
                    if len(ahead) > 1:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                reader.submit(_close_connection).result()

    def _read(self, begin: int, stop: int) -> "_Found":
        """Read the leaves [begin, stop) with what is asked for of their entries."""
        with connection.cursor() as cursor:
            leaves = _leaves(cursor, begin, stop)
            ids = [entry_id for entry_id, _ in leaves]
            if self._chosen is None:
                wanted = None
            else:
                wanted = list(set(self._chosen(min(ids), max(ids))).intersection(ids))
            rows = _rows(cursor, begin, stop, wanted)
            gone = _gone(cursor, begin, stop) if len(rows) < len(leaves) else set()
        return _Found(begin, leaves, rows, gone)

    def remove(self) -> None:
        """Remove the files; what they held is in the bundle now."""
        for member in self.members.values():
            member.path.unlink(missing_ok=True)

    def _settled(self, being_written: list[Future[None]], counted: Counted) -> Counted:
        for one in being_written:
            one.result()
        self.counted = counted
        return counted


class _Found(NamedTuple):
    """Leaves from `begin` on, the entries asked for that are there, and those that are gone."""

    begin: int
    leaves: list[tuple[int, bytes]]
    rows: list[tuple[Any, ...]]
    gone: set[int]


def _close_connection() -> None:
    # Looked up here, because each thread has one of its own.
    connection.close()


@dataclass(frozen=True, slots=True)
class _Part:
    files: dict[str, bytes]
    counted: Counted


def _leaves(cursor: CursorWrapper, begin: int, stop: int) -> list[tuple[int, bytes]]:
    cursor.execute(
        "SELECT entry_id, hash FROM audit_leaf WHERE index >= %s AND index < %s ORDER BY index",
        [begin, stop],
    )
    leaves: list[tuple[int, bytes]] = cursor.fetchall()
    if len(leaves) != stop - begin:
        raise HoleInTree(
            f"Of the leaves {begin} to {stop - 1}, {stop - begin - len(leaves)} are missing."
        )
    return leaves


def _rows(
    cursor: CursorWrapper, begin: int, stop: int, wanted: list[int] | None
) -> list[tuple[Any, ...]]:
    """Return (index, the values of `Row`, those of `Personal`) of the entries that are there."""
    if wanted == []:
        return []
    cursor.execute(
        f"SELECT leaf.index, {ROW_SQL}, {_PERSONAL_SQL} FROM audit_leaf AS leaf"  # noqa: S608
        " JOIN audit_entry AS entry ON entry.id = leaf.entry_id"
        " LEFT JOIN audit_personaldetails AS personal ON personal.entry_id = entry.id"
        " WHERE leaf.index >= %(begin)s AND leaf.index < %(stop)s"
        + ("" if wanted is None else " AND leaf.entry_id = ANY(%(wanted)s)")
        + " ORDER BY leaf.index",
        {"begin": begin, "stop": stop, "wanted": wanted},
    )
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _gone(cursor: CursorWrapper, begin: int, stop: int) -> set[int]:
    """Return the entries of these leaves that are no longer there."""
    cursor.execute(
        "SELECT leaf.entry_id FROM audit_leaf AS leaf WHERE index >= %s AND index < %s"
        " AND NOT EXISTS (SELECT 1 FROM audit_entry AS entry WHERE entry.id = leaf.entry_id)",
        [begin, stop],
    )
    return {entry_id for (entry_id,) in cursor.fetchall()}


def _rendered(found: _Found, counted: Counted) -> _Part:
    begin, leaves, rows, gone = found
    entries: list[bytes] = []
    table: list[str] = []
    personal: list[bytes] = []
    # What is gone counts as part of the export, so that a verifier misses it there.
    expected = set(gone)
    for index, *values in rows:
        row = Row._make(values[:_ROW_WIDTH])
        data = leaf_bytes(row)
        if leaf_hash(data) != leaves[index - begin][1]:
            counted.damaged += 1
            counted.spoiled(index)
        entries.append(data)
        expected.add(row.entry)
        kept = _ERASED
        if values[_ROW_WIDTH] is not None:
            kept = Personal._make(values[_ROW_WIDTH:])
            personal.append(_personal_line(row.entry, kept))
        table.append(table_line(index, row, kept))
    if gone:
        counted.missing += len(gone)
        counted.spoiled(next(begin + i for i, (entry, _) in enumerate(leaves) if entry in gone))
    counted.leaves += len(leaves)
    counted.entries += len(rows)
    counted.personal += len(personal)
    records = (_LEAF.pack(entry in expected, entry, digest) for entry, digest in leaves)
    files = {
        ENTRIES: _lines(entries),
        TABLE: "".join(table).encode(),
        PERSONAL: _lines(personal),
        LEAVES: b"".join(records),
    }
    return _Part(files, counted)


_ERASED = Personal("", "", "", "", "")


def _lines(lines: list[bytes]) -> bytes:
    return b"\n".join([*lines, b""])


def _personal_line(entry: int, kept: Personal) -> bytes:
    return orjson.dumps(
        {
            "entry": entry,
            "salt": kept.salt,
            "values": {
                "actor_label": kept.actor_label,
                "network": kept.network,
                "target_label": kept.target_label,
                "user_agent": kept.user_agent,
            },
        }
    )


def table_line(index: int, row: Row, kept: Personal) -> str:
    """Return an entry as a line of the table, in the order of COLUMNS; a spreadsheet runs no cell.

    It is what `csv` writes, which is asked only where something but the payload needs quotes.
    """
    texts = (
        *(row.event, row.occurred_at, row.recorded_at, row.outcome, row.reason),
        *(row.actor_kind, row.actor_id, kept.actor_label, row.actor_roles),
        *(row.impersonator_id, row.token_id),
        *(row.target_kind, row.target_id, kept.target_label, kept.network, kept.user_agent),
        *(row.request_id, row.trace_id, row.turn_id),
    )
    joined = _BETWEEN.join(("", *texts))
    is_split = joined.count(_BETWEEN) == len(texts)
    if not is_split or _QUOTED.search(joined) or _STARTED.search(joined):
        safe = [f"'{text}" if text[:1] in FORMULA else text for text in texts]
        return _csv([[index, row.entry, *safe, row.payload]])
    payload = row.payload
    if payload != "{}":
        payload = '"' + payload.replace('"', '""') + '"'
    return f"{index},{row.entry}{joined.replace(_BETWEEN, ',')},{payload}\r\n"


# Between texts while they are looked at together.
_BETWEEN = "\x1f"
# What needs quotes or is a formula behind a tab, and what a formula begins with: looked for apart,
# since each alone is found much faster than either.
_QUOTED = re.compile('[",\r\n\t]')
_STARTED = re.compile(f"{_BETWEEN}[=+@-]")


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


# --- the bundle ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What an export says about itself beside its contents.

    `previous` is the export before in the chain of manifests, with its checkpoint; `filters` what
    narrows it; `removed_below` the first leaf whose entry retention has not removed.
    """

    number: int
    start: int
    stop: int
    checkpoint: Checkpoint
    previous: Export | None
    previous_checkpoint: Checkpoint | None
    filters: dict[str, str]
    removed_below: int
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Made:
    """A finished bundle: the digest by which the next one names it, and its bytes."""

    manifest_sha256: str
    size: int


def write_bundle(path: Path, contents: Contents, terms: Terms) -> Made:
    """Put everything together, signed.

    Raises SigningKeyError, and MissingHash where the tree has holes.
    """
    key = signing_key_of(terms.checkpoint.origin)
    small = {
        CHECKPOINT: terms.checkpoint.note.encode(),
        "key.txt": _keys_text().encode(),
        **_proofs(terms),
        **_announcements(),
        **{f"forks/{fork.generation}.txt": fork.statement.encode() for fork in Fork.objects.all()},
        "README.txt": _readme(terms).encode(),
        "verify.py": Path(verify.__file__).read_bytes(),
    }
    digests = {name: member.sha256 for name, member in contents.members.items()}
    digests |= {name: hashlib.sha256(data).hexdigest() for name, data in small.items()}
    manifest = _json(_manifest(contents.counted, terms, digests))
    digest = hashlib.sha256(manifest)
    note = manifest_note(terms.checkpoint.origin, terms.number, digest.digest(), [key])
    members: list[Member | tuple[str, bytes]] = [
        ("README.txt", small.pop("README.txt")),
        (MANIFEST, manifest),
        (MANIFEST_NOTE, note.encode()),
        *contents.members.values(),
        *small.items(),
    ]
    return Made(digest.hexdigest(), write_zip(path, members, terms.made_at))


def _keys_text() -> str:
    lines = [
        f"# from leaf {key.first_size} on, {key.introduced_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC\n"
        f"{key.vkey}\n"
        for key in KeyRow.objects.order_by("-id")
    ]
    return "".join(lines)


def _announcements() -> dict[str, bytes]:
    """Return what former keys said of those after them."""
    announced = KeyRow.objects.exclude(announcement="")
    return {f"keys/{key.key_id}.txt": key.announcement.encode() for key in announced}


def _proofs(terms: Terms) -> dict[str, bytes]:
    size = terms.checkpoint.size
    with connection.cursor() as cursor:
        hashes = StoredHashes(cursor)
        left, right = range_frontiers(hashes, terms.start, terms.stop, size)
        span = {"start": terms.start, "stop": terms.stop, "size": size}
        proofs = {RANGE: _json({**span, "left": _texts(left), "right": _texts(right)})}
        if terms.previous_checkpoint:
            old = terms.previous_checkpoint
            # A fork may have given up what the export before covers; its statement says why.
            is_grown = old.origin == terms.checkpoint.origin or (
                old.size <= size and root_at(hashes, old.size) == bytes(old.root)
            )
            path = consistency_path(hashes, old.size, size) if is_grown else []
            proofs[CONSISTENCY] = _json({"checkpoint": old.note, "path": _texts(path)})
    return proofs


def _manifest(counted: Counted, terms: Terms, digests: dict[str, str]) -> dict[str, Any]:
    previous = terms.previous
    filters = dict(terms.filters)
    period = {"from": filters.pop("since", None), "to": filters.pop("until", None)}
    return {
        "format": MANIFEST_HEADER,
        "origin": terms.checkpoint.origin,
        "number": terms.number,
        "made_at": terms.made_at.astimezone(UTC).isoformat(),
        "period": period,
        "filters": filters,
        "removed_below": terms.removed_below,
        "counts": {
            "leaves": counted.leaves,
            "entries": counted.entries,
            "withheld": counted.leaves - counted.entries - counted.missing,
            "personal": counted.personal,
        },
        "checkpoint": {"size": terms.checkpoint.size, "number": terms.checkpoint.number},
        "files": dict(sorted(digests.items())),
        "previous": previous and {"number": previous.number, "sha256": previous.manifest_sha256},
    }


def _readme(terms: Terms) -> str:
    title = f"Export {terms.number} of the audit log {terms.checkpoint.origin}"
    return f"{title}\n{'=' * len(title)}\n{README}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _texts(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(node).decode() for node in hashes]


README = """
entries.jsonl    what happened: one entry a line, in the order of the log, exactly the bytes that
                 were sealed
entries.csv      the same as a table for reading, with the names of people as far as they are kept.
                 A cell that a spreadsheet would take for a formula begins with an apostrophe.
personal.jsonl   names, networks and browsers, as far as they were not erased, with the salts that
                 prove them
manifest.json    period, filters, counts, the digest of every file, the export before this one;
                 below the leaf "removed_below" entries were removed because they were too old
manifest.note    the log's signature of it
checkpoint.txt   the log's signature of everything that was in it: how many entries, and their root
proof/           how the entries lead to that root, and that the log has only grown since the
                 export before
forks/           signed statements of operators, if the log was ever set back
keys/            what former keys signed of those after them, if the key was ever changed: with it
                 verify.py follows from the first key to the last
key.txt          the public keys of the log, newest first
verify.py        checks all of this

To check it you need Python 3.11 or newer and the package `cryptography`:

    python verify.py EXPORT.zip --key KEY.txt

Take the key, and if you can verify.py too, from somewhere other than this file: from earlier
correspondence, a publication or another person. Who could forge the file could forge what is in it.
With --previous EARLIER.zip it also checks that no export between the two is missing.

What this proves: every entry here is what was sealed, unchanged and in its order; the number of
entries that the filter left out of the range is as stated. What it does not prove: that the filter
is the one you asked for, and that everything that happened was recorded.
"""
