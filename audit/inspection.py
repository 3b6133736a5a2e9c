"""Checks the log in the database against what was signed, and names what does not hold.

    report = inspect_log()                        all of it
    report = inspect_log(since_checkpoint=1204)   what came after a checkpoint
    report = inspect_log(against={name: note})    and whether it is what was published

Leaves are read with their entries in the order of the tree, in constant memory: each entry must
have the hash that its leaf keeps, the tree must have at the size of each checkpoint the root that
was signed, and the last signed head outside the database must be part of it. An entry that stands
where sealing has passed and has no leaf was slipped in.

The public keys are those of the log's own history: who rewrites everything, the head outside
included, is found only by those who keep a checkpoint of their own, and give it as `against`.
"""

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Q

from audit import folder, models
from audit.leaves import BATCH, Place, StoredHashes, leaf_bytes, read_places
from audit.log import Log
from audit.merkle import MissingHash, append, range_frontiers, root_at
from audit.removal import removed_below
from audit.trail import personal_digest
from audit.verify import (
    Checkpoint,
    CompactRange,
    ForkStatement,
    KeyStatement,
    Note,
    NoteError,
    ProofError,
    VerifierKey,
    leaf_hash,
    parse_checkpoint,
)

Kind = Literal[
    "changed",
    "removed",
    "inserted",
    "reordered",
    "rewritten",
    "tail_missing",
    "forged",
    "personal_changed",
]
Progress = Callable[[int, int], None]

_VERIFIED = "verified"
# More are counted and not kept.
KEPT_FINDINGS = 1_000
_CHECKPOINTS_AT_ONCE = 2_000
_ENTRIES_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold: a sentence, and the leaf and the entry where there is one."""

    kind: Kind
    sentence: str
    index: int | None = None
    entry: int | None = None


@dataclass(slots=True)
class Report:
    """What was checked and found. `more` findings beyond KEPT_FINDINGS are only counted."""

    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    leaves: int = 0
    entries: int = 0
    # Leaves whose entries were removed for their age.
    retired: int = 0
    checkpoints: int = 0
    # Published checkpoints that were given, and are states of this log.
    published: int = 0
    forks: int = 0
    # The number of the last checkpoint when the inspection began; 0 where there was none.
    last_checkpoint: int = 0
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def inspect_log(
    since_checkpoint: int | None = None,
    progress: Progress | None = None,
    against: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Check the log, whole or what came after a checkpoint; `progress` gets leaves done and all.

    What stands before `since_checkpoint` is taken as it was found then, but for its root. `against`
    are published checkpoints (signed notes, by a name for sentences), which the log has to contain.
    Raises models.Checkpoint.DoesNotExist, and folder.FolderError where the head outside can't be
    read.
    """
    began = time.monotonic()
    with connection.cursor() as cursor:
        inspection = _Inspection(cursor, since_checkpoint, against)
        inspection.run(progress or (lambda _done, _all: None))
    inspection.report.seconds = time.monotonic() - began
    return inspection.report


def last_verified() -> int | None:
    """Return the number of the checkpoint up to which the log was last found whole.

    None where that is not known, or where the database says something else of it by now. Raises
    folder.FolderError.
    """
    number, _, note = (folder.read(_VERIFIED) or "").partition("\n")
    known = number.isdecimal() and models.Checkpoint.objects.filter(number=number, note=note)
    return int(number) if known and known.exists() else None


def remember_verified(report: Report) -> None:
    """Keep, outside the database, how far a log without findings was checked."""
    row = models.Checkpoint.objects.filter(number=report.last_checkpoint).first()
    if report.holds and row:
        folder.write(_VERIFIED, f"{row.number}\n{row.note}")


@dataclass(frozen=True, slots=True, order=True)
class _Signed:
    """A root that was signed for so many leaves, and where that stands."""

    size: int
    name: str
    root: bytes
    # Kept by somebody else: whoever rewrites this log, with its key even, does not reach it.
    published: bool = False


class _Inspection:
    def __init__(
        self, cursor: CursorWrapper, since_checkpoint: int | None, against: Mapping[str, str]
    ) -> None:
        self._cursor, self._against = cursor, against
        self._stored = StoredHashes(cursor)
        # The head first: beside a sealer the database is never behind it then.
        self._head = folder.read(folder.HEAD)
        self._log = Log.read(cursor)
        self.report = Report(
            last_checkpoint=self._log.checkpoint.number if self._log.checkpoint else 0
        )
        self._keys = [VerifierKey.parse(key.vkey) for key in self._log.keys]
        self._forks = list(models.Fork.objects.order_by("generation"))
        self._order = _Order(self._forks)
        # Leaves whose entry has another hash: index → (the leaf's, the entry's, id of the entry).
        self._unequal: dict[int, tuple[bytes, bytes, int]] = {}
        self._tree: CompactRange | None = CompactRange()
        # The last size at which the tree had the root that was signed, and that was published.
        self._held = self._published_held = 0
        self._rewritten = False
        self._removed_below = removed_below()
        self._since = (
            models.Checkpoint.objects.get(number=since_checkpoint) if since_checkpoint else None
        )

    def run(self, progress: Progress) -> None:
        begin = self._begin()
        self._check_forks()
        self._check_announcements()
        self._check_numbers()
        self._signed = heapq.merge(
            self._signed_in_table(begin), self._signed_outside(), self._signed_elsewhere(begin)
        )
        self._next_signed = next(self._signed, None)
        self._compare_roots()
        for start in range(begin, self._log.size, BATCH):
            stop = min(start + BATCH, self._log.size)
            self._check_leaves(start, stop)
            self._check_personal(start, stop)
            progress(stop, self._log.size)
        self._name_unequal()
        self._check_end()
        self._check_entries_without_leaf()

    def _find(
        self, kind: Kind, sentence: str, index: int | None = None, entry: int | None = None
    ) -> None:
        if len(self.report.findings) < KEPT_FINDINGS:
            self.report.findings.append(Finding(kind, sentence, index, entry))
        else:
            self.report.more += 1

    def _begin(self) -> int:
        """Return the first leaf to look at, with the tree before it taken from stored nodes."""
        if self._since is None:
            return 0
        size = self._since.size
        try:
            self._tree = CompactRange(size, range_frontiers(self._stored, size, size, size)[0])
        except (MissingHash, ValueError) as error:
            self._find("removed", f"{error}")
            self._tree = None
        self._held = size
        return size

    # --- what was signed

    def _signed_in_table(self, begin: int) -> Iterator[_Signed]:
        """Yield what checkpoints from a size on say, by size, where their signatures are right."""
        last, after = self.report.last_checkpoint, Q(size__gte=begin)
        while rows := list(
            models.Checkpoint.objects.filter(after, number__lte=last).order_by("size", "number")[
                :_CHECKPOINTS_AT_ONCE
            ]
        ):
            for row in rows:
                self.report.checkpoints += 1
                yield from self._checked(row)
            after = Q(size__gt=row.size) | Q(size=row.size, number__gt=row.number)

    def _checked(self, row: models.Checkpoint) -> Iterator[_Signed]:
        name = f"checkpoint {row.number}"
        try:
            signed = parse_checkpoint(row.note, self._keys)
        except NoteError as error:
            self._find("forged", f"The note of {name} is not right: {error}")
            return
        if (signed.origin, signed.size, signed.root) != (row.origin, row.size, bytes(row.root)):
            self._find("forged", f"The row of {name} says something else than its signed note.")
        if not self._let_go(signed):
            yield _Signed(signed.size, name, signed.root)

    def _let_go(self, signed: Checkpoint) -> models.Fork | None:
        """Return the declared fork by which the log does not go on from this checkpoint, if any."""
        generations = {fork.origin: fork.generation for fork in self._forks}
        generation = generations.get(signed.origin, 1)
        let_go = (
            fork
            for fork in self._forks
            if generation < fork.generation and signed.size > fork.resumed_size
        )
        return next(let_go, None)

    def _signed_outside(self) -> Iterator[_Signed]:
        if self._head is None:
            if self._log.signed:
                self._find("removed", "The head in AUDIT_FOLDER is missing.")
            return
        try:
            head = parse_checkpoint(self._head, self._keys)
        except NoteError as error:
            self._find("forged", f"The head in AUDIT_FOLDER is not right: {error}")
            return
        if not self._let_go(head):
            yield _Signed(head.size, "the head in AUDIT_FOLDER", head.root)

    def _signed_elsewhere(self, begin: int) -> Iterator[_Signed]:
        """Yield the published checkpoints from a size on, by size, and compare the others."""
        published = sorted(filter(None, map(self._read_published, self._against)))
        for signed in published:
            if signed.size >= begin:
                yield signed
            else:
                self._compare_published(signed)

    def _read_published(self, name: str) -> _Signed | None:
        try:
            signed = parse_checkpoint(self._against[name], self._keys)
        except (NoteError, ProofError) as error:
            self._find(
                "forged",
                f"{name} is no checkpoint of this log, or the log's keys were exchanged: {error}",
            )
            return None
        if fork := self._let_go(signed):
            self._find(
                "tail_missing",
                f"{name} signed {signed.size} leaves of {signed.origin}. A declared fork set the"
                f" log back to {fork.resumed_size}, where it goes on as {fork.origin}: what stood"
                " behind is no part of it any more.",
                fork.resumed_size,
            )
            return None
        return _Signed(signed.size, name, signed.root, published=True)

    def _compare_published(self, signed: _Signed) -> None:
        """Compare the stored tree, which is not gone through so far back, with what was signed."""
        try:
            root = root_at(self._stored, signed.size)
        except MissingHash as error:
            self._find("removed", f"{error} {signed.name} can't be compared.", signed.size)
        else:
            self._compare_root(signed, root)

    def _check_forks(self) -> None:
        self.report.forks = len(self._forks)
        for fork in self._forks:
            try:
                note = Note.parse(fork.statement)
                note.verified(self._keys)
                said = ForkStatement.parse(note.text)
            except NoteError as error:
                self._find("forged", f"The statement of {fork.origin} is not right: {error}")
                continue
            resumed = (fork.resumed_size, bytes(fork.resumed_root))
            if (said.origin, said.resumes) != (fork.origin, resumed):
                self._find("forged", f"The row of {fork.origin} differs from its statement.")

    def _check_announcements(self) -> None:
        for row in self._log.keys:
            if row.announcement:
                try:
                    note = Note.parse(row.announcement)
                    _, key = KeyStatement.verified(note, self._keys)
                except NoteError as error:
                    self._find(
                        "forged", f"The announcement of key {row.key_id} is not right: {error}"
                    )
                    continue
                if key.vkey != row.vkey or KeyStatement.parse(note.text).size != row.first_size:
                    self._find("forged", f"The row of key {row.key_id} differs from what was said.")

    def _check_numbers(self) -> None:
        self._cursor.execute(
            "SELECT number - 1 FROM audit_checkpoint AS later WHERE number > 1 AND NOT EXISTS"
            " (SELECT FROM audit_checkpoint AS one WHERE one.number = later.number - 1)"
            " ORDER BY number LIMIT %s",
            [KEPT_FINDINGS],
        )
        for (number,) in self._cursor.fetchall():
            self._find("removed", f"Checkpoint {number} is missing.")

    # --- leaves

    def _check_leaves(self, start: int, stop: int) -> None:
        places = list(read_places(self._cursor, start, stop))
        self.report.leaves += len(places)
        for place in places:
            self._check_place(place)
        if len(places) == stop - start:
            hashes = [place.hash for place in places]
            self._check_nodes(start, hashes)
            self._grow(hashes)
        else:
            self._name_missing(start, stop, {place.index for place in places})

    def _check_place(self, place: Place) -> None:
        row = place.row
        if row is None and self._was_retired(place.index):
            self.report.retired += 1
            return
        if row is None:
            self._find(
                "removed",
                f"Entry {place.entry_id} (leaf {place.index}) was removed.",
                place.index,
                place.entry_id,
            )
            return
        self.report.entries += 1
        computed = leaf_hash(leaf_bytes(row))
        if computed != place.hash:
            self._unequal[place.index] = (place.hash, computed, row.entry)
            if len(self._unequal) > KEPT_FINDINGS:
                self._name_unequal()
        for index, entry in self._order.misplaced(place.index, row.transaction, row.entry):
            self._find(
                "reordered",
                f"Entry {entry} (leaf {index}) does not stand where it was written.",
                index,
                entry,
            )

    def _was_retired(self, index: int) -> bool:
        """Whether the entry of a leaf was removed for its age; that may happen meanwhile."""
        if index >= self._removed_below:
            self._removed_below = removed_below()
        return index < self._removed_below

    def _name_unequal(self) -> None:
        """Tell entries that were changed from those that were exchanged."""
        homes = {kept: index for index, (kept, _, _) in self._unequal.items()}
        known = {f.index for f in self.report.findings if f.kind == "reordered"}
        for index, (_, computed, entry) in self._unequal.items():
            home = homes.get(computed)
            if home is None:
                sentence = f"Entry {entry} (leaf {index}) is not what was sealed: it was changed."
                self._find("changed", sentence, index, entry)
            elif index not in known:
                sentence = f"Entry {entry} was sealed as leaf {home} and stands at {index}."
                self._find("reordered", sentence, index, entry)
        self._unequal.clear()

    def _name_missing(self, start: int, stop: int, present: set[int]) -> None:
        for index in sorted(set(range(start, stop)) - present):
            hidden = " No root can be computed from here on." if self._tree else ""
            self._find("removed", f"Leaf {index} was removed.{hidden}", index)
            self._tree = None

    def _check_nodes(self, start: int, hashes: Sequence[bytes]) -> None:
        """Compare the stored nodes that these leaves complete with what follows from them."""
        try:
            computed = append(self._stored, start, hashes)
        except MissingHash as error:
            if self._tree is not None:
                self._find("removed", str(error), start)
            return
        for level in sorted({level for level, _, _ in computed}):
            nodes = {index: node for at, index, node in computed if at == level}
            stored = self._stored.nodes(level, min(nodes), max(nodes) + 1)
            self._compare_nodes(level, nodes, stored)

    def _compare_nodes(self, level: int, nodes: dict[int, bytes], stored: Sequence[bytes]) -> None:
        if len(stored) != len(nodes):
            index = min(nodes) << level
            self._find(
                "removed", f"Nodes of level {level} from leaf {index} on are missing.", index
            )
            return
        for index, node in zip(sorted(nodes), stored, strict=True):
            if nodes[index] != node:
                self._find(
                    "rewritten",
                    f"Node {index} of level {level} does not follow from its leaves, which are the"
                    f" {1 << level} from leaf {index << level} on.",
                    index << level,
                )

    def _grow(self, hashes: Sequence[bytes]) -> None:
        if self._tree is None:
            return
        for digest in hashes:
            self._tree.append(digest)
            if self._next_signed and self._next_signed.size == self._tree.size:
                self._compare_roots()

    def _compare_roots(self) -> None:
        """Compare the tree as it is with what was signed for its size."""
        tree = self._tree
        while tree and self._next_signed and self._next_signed.size <= tree.size:
            signed, self._next_signed = self._next_signed, next(self._signed, None)
            if signed.size == tree.size:
                self._compare_root(signed, tree.root())

    def _compare_root(self, signed: _Signed, root: bytes) -> None:
        """Compare a root of the tree as it is with what was signed.

        Of what was signed here the first that differs tells enough. Each published one is told.
        """
        held = self._published_held if signed.published else self._held
        if signed.root == root:
            self._hold(signed)
        elif signed.published or not self._rewritten:
            self._rewritten = self._rewritten or not signed.published
            self._find(
                "rewritten",
                f"The first {signed.size} leaves are not those that {signed.name} signed:"
                f" leaves from {held} on were changed, removed or slipped in, and the"
                " tree was made to fit.",
                held,
            )

    def _hold(self, signed: _Signed) -> None:
        self._held = max(self._held, signed.size)
        if signed.published:
            self._published_held = signed.size
            self.report.published += 1

    def _check_end(self) -> None:
        """What was signed for more leaves than there are tells of a tail that was cut off."""
        beyond = [signed for signed in (self._next_signed, *self._signed) if signed]
        cut = [signed for signed in beyond if signed.size > self._log.size]
        here = [signed for signed in cut if not signed.published]
        for last in [*here[-1:], *(signed for signed in cut if signed.published)]:
            self._find(
                "tail_missing",
                f"{last.size} leaves were signed ({last.name}), and {self._log.size} are there: the"
                f" end was removed, or an older state restored.",
                self._log.size,
            )

    # --- what has no leaf, and what is personal

    def _check_entries_without_leaf(self) -> None:
        self._cursor.execute("SELECT max(id) FROM audit_entry")
        (last,) = self._cursor.fetchone()
        for start in range(0, (last or 0) + 1, _ENTRIES_AT_ONCE):
            # Transactions of the statement's own time: what was written meanwhile is no finding.
            self._cursor.execute(
                "SELECT entry.id FROM audit_entry AS entry LEFT JOIN audit_leaf AS leaf"
                " ON leaf.entry_id = entry.id WHERE leaf.entry_id IS NULL"
                " AND entry.id >= %s AND entry.id < %s"
                " AND ((entry.transaction_id, entry.id) <= (%s, %s) OR"
                " entry.transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"
                " ORDER BY entry.id",
                [start, start + _ENTRIES_AT_ONCE, *self._log.cursor],
            )
            for (entry,) in self._cursor.fetchall():
                self._find(
                    "inserted",
                    f"Entry {entry} was slipped in: it has no leaf, and sealing had passed.",
                    entry=entry,
                )

    def _check_personal(self, start: int, stop: int) -> None:
        """What an entry knows about people is what it committed to, or is erased."""
        self._cursor.execute(
            "SELECT leaf.index, entry.id, entry.personal_digest, personal.salt,"
            " personal.actor_label, personal.network, personal.target_label, personal.user_agent"
            " FROM audit_leaf AS leaf JOIN audit_entry AS entry ON entry.id = leaf.entry_id"
            " JOIN audit_personaldetails AS personal ON personal.entry_id = entry.id"
            " WHERE leaf.index >= %s AND leaf.index < %s ORDER BY leaf.index",
            [start, stop],
        )
        names = ("actor_label", "network", "target_label", "user_agent")
        for index, entry, digest, salt, *values in self._cursor.fetchall():
            if personal_digest(bytes(salt), dict(zip(names, values, strict=True))) != bytes(digest):
                self._find(
                    "personal_changed",
                    f"The personal values of entry {entry} (leaf {index}) were changed.",
                    index,
                    entry,
                )


class _Order:
    """Tells which leaves break the order of (transaction, entry).

    What was given leaves at a fork stands in the order of entries, and a new count of transactions
    begins there.
    """

    def __init__(self, forks: Sequence[models.Fork]) -> None:
        self._adopted = [range(fork.resumed_size, fork.size) for fork in forks]
        self._seams = {fork.resumed_size for fork in forks} | {fork.size for fork in forks}
        # The last two leaves that are in order: (transaction, entry, index).
        self._last: list[tuple[int, int, int]] = []

    def misplaced(self, index: int, transaction: int, entry: int) -> Iterator[tuple[int, int]]:
        """Take the next leaf; yield (index, entry) of the one that it shows to be misplaced."""
        if index in self._seams:
            self._last.clear()
        if any(index in adopted for adopted in self._adopted):
            transaction = 0
        place = (transaction, entry, index)
        if not self._last or place > self._last[-1]:
            self._last = [*self._last[-1:], place]
        elif len(self._last) < 2 or place > self._last[0]:
            # Without the one before, the order holds.
            _, moved, where = self._last.pop()
            self._last.append(place)
            yield where, moved
        else:
            yield index, entry
