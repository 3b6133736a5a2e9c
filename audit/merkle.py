"""The Merkle tree as it is stored: growing it, and reading roots and proofs from it.

The tree is that of RFC 9162, section 2.1. Stored are the hashes of all leaves and, of the inner
nodes, those of the complete subtrees at the levels 8, 16 and 24 (of 2^8, 2^16, 2^24 leaves): 1/255
of the leaves' room. What lies between is hashed anew. So a proof reads at most two blocks of 256
hashes a stored level, however large the tree is: the one around the leaf and the one at the edge.

Everything here computes; where the hashes lie is the business of a `Hashes`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from audit.verify import EMPTY_ROOT, node_hash, subtrees

STORED_LEVELS = (8, 16, 24)
_STEP = 8
_FANOUT = 1 << _STEP


class Hashes(Protocol):
    """Reads what is stored: hashes of 32 bytes each, in order, of a range without its end."""

    def leaves(self, start: int, stop: int) -> Sequence[bytes]:
        """Return the hashes of the leaves [start, stop)."""

    def nodes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        """Return the nodes [start, stop) of one of STORED_LEVELS."""


class MissingHash(Exception):
    """The stored tree lacks hashes that it should hold; the message says which."""


def append(hashes: Hashes, size: int, leaves: Sequence[bytes]) -> list[tuple[int, int, bytes]]:
    """Return the nodes to store, (level, index, hash), when `leaves` follow on `size` leaves.

    `hashes` is asked for what was there before alone. Raises MissingHash.
    """
    complete: list[tuple[int, int, bytes]] = []
    row, start = leaves, size
    for level in STORED_LEVELS:
        first = start - start % _FANOUT
        if start - first + len(row) < _FANOUT:
            break
        row = [*_read(hashes, level - _STEP, first, start), *row]
        row = [_fold(row[i : i + _FANOUT]) for i in range(0, len(row) - _FANOUT + 1, _FANOUT)]
        start = first >> _STEP
        complete += [(level, start + i, node) for i, node in enumerate(row)]
    return complete


def root_at(hashes: Hashes, size: int) -> bytes:
    """Return the root of the first `size` leaves. Raises MissingHash."""
    return _roots(hashes, [(0, size)])[0] if size else EMPTY_ROOT


def inclusion_path(hashes: Hashes, index: int, size: int) -> list[bytes]:
    """Return the proof that leaf `index` is among the first `size` (RFC 9162, 2.1.3.1).

    Raises ValueError where it is not, MissingHash.
    """
    if not 0 <= index < size:
        raise ValueError(f"There is no leaf {index} in a tree of {size} leaves.")
    return _roots(hashes, list(_beside_leaf(index, size))[::-1])


def consistency_path(hashes: Hashes, old: int, new: int) -> list[bytes]:
    """Return the proof that the first `old` leaves begin the first `new` (RFC 9162, 2.1.4.1).

    It is empty where nothing needs proof: from the empty tree, and between equal sizes. Raises
    ValueError where `new` is the smaller, MissingHash.
    """
    if not 0 <= old <= new:
        raise ValueError(f"A tree of {new} leaves can't continue one of {old}.")
    return _roots(hashes, list(_beside_tree(old, new))[::-1]) if 0 < old < new else []


def range_frontiers(
    hashes: Hashes, start: int, stop: int, size: int
) -> tuple[list[bytes], list[bytes]]:
    """Return the hashes left and right of the leaves [start, stop) of a tree of `size` leaves.

    They are those of `subtrees(0, start)` and `subtrees(stop, size)`, as a CompactRange takes
    them. Raises ValueError, MissingHash.
    """
    if not 0 <= start <= stop <= size:
        raise ValueError(f"There are no leaves {start} to {stop} in a tree of {size} leaves.")
    left, right = list(subtrees(0, start)), list(subtrees(stop, size))
    found = _subtree_hashes(hashes, [*left, *right])
    return [found[node] for node in left], [found[node] for node in right]


def _beside_leaf(index: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of leaves beside the way from the root to a leaf, from the top."""
    start, stop = 0, size
    while stop - start > 1:
        middle = _middle(start, stop)
        if index < middle:
            yield middle, stop
            stop = middle
        else:
            yield start, middle
            start = middle


def _beside_tree(old: int, new: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of leaves that a consistency proof gives, from the top."""
    start, stop = 0, new
    while stop != old:
        middle = _middle(start, stop)
        if old <= middle:
            yield middle, stop
            stop = middle
        else:
            yield start, middle
            start = middle
    # The old tree itself is known to whoever asks.
    if start:
        yield start, stop


def _middle(start: int, stop: int) -> int:
    """Return where the two children of a node part: the left takes the largest power of two."""
    return start + (1 << ((stop - start - 1).bit_length() - 1))


def _roots(hashes: Hashes, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the hash of each range of leaves that is a node of a tree."""
    parts = [list(subtrees(start, stop)) for start, stop in ranges]
    found = _subtree_hashes(hashes, [node for nodes in parts for node in nodes])
    roots = []
    for nodes in parts:
        root = found[nodes[-1]]
        for node in reversed(nodes[:-1]):
            root = node_hash(found[node], root)
        roots.append(root)
    return roots


def _subtree_hashes(
    hashes: Hashes, wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], bytes]:
    """Return the hashes of complete subtrees, (level, index), with few reads."""
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for level, index in wanted:
        stored = _stored_below(level)
        width = 1 << (level - stored)
        spans[stored].append((index * width, (index + 1) * width))
    rows = {
        (stored, start): _read(hashes, stored, start, stop)
        for stored, level_spans in spans.items()
        for start, stop in _joined(level_spans)
    }
    return {(level, index): _of_rows(rows, level, index) for level, index in wanted}


def _of_rows(rows: dict[tuple[int, int], Sequence[bytes]], level: int, index: int) -> bytes:
    stored = _stored_below(level)
    width = 1 << (level - stored)
    start = max(s for at, s in rows if at == stored and s <= index * width)
    offset = index * width - start
    return _fold(rows[stored, start][offset : offset + width])


def _stored_below(level: int) -> int:
    return min(level - level % _STEP, STORED_LEVELS[-1])


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join spans that touch, or have one hash between them: what lies beside a leaf is one read."""
    current: tuple[int, int] | None = None
    for start, stop in sorted(spans):
        if current and start - current[1] <= 1:
            current = (current[0], max(stop, current[1]))
            continue
        if current:
            yield current
        current = (start, stop)
    if current:
        yield current


def _read(hashes: Hashes, level: int, start: int, stop: int) -> Sequence[bytes]:
    if start == stop:
        return []
    row = hashes.nodes(level, start, stop) if level else hashes.leaves(start, stop)
    if len(row) != stop - start:
        what = f"nodes of level {level}" if level else "leaves"
        raise MissingHash(
            f"Of the {what} from {start} to {stop - 1}, {stop - start - len(row)} are missing."
        )
    return row


def _fold(row: Sequence[bytes]) -> bytes:
    """Return the hash of the complete subtree over 2^n hashes."""
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]
