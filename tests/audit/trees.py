"""The tree by the recursive definitions of RFC 9162, 2.1, as an oracle; and stored trees."""

import hashlib
from collections.abc import Sequence

from audit.merkle import STORED_LEVELS, append


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of 2.1.1, over hashes of leaves."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), tree_hash(leaves[k:])]
    return [*path(m - k, leaves[k:]), tree_hash(leaves[:k])]


def proof(m: int, leaves: Sequence[bytes], known: bool = True) -> list[bytes]:
    """PROOF and SUBPROOF of 2.1.4.1."""
    if m == len(leaves):
        return [] if known else [tree_hash(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*proof(m, leaves[:k], known), tree_hash(leaves[k:])]
    return [*proof(m - k, leaves[k:], known=False), tree_hash(leaves[:k])]


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def hashes_of(count: int) -> list[bytes]:
    return [leaf(str(number).encode()) for number in range(count)]


class StoredTree:
    """A stored tree in memory, which counts what is read from it."""

    def __init__(self) -> None:
        self.rows: dict[int, list[bytes]] = {level: [] for level in (0, *STORED_LEVELS)}
        self.reads: list[int] = []

    @classmethod
    def of(cls, leaves: Sequence[bytes]) -> "StoredTree":
        tree = cls()
        tree.grow(leaves)
        return tree

    def grow(self, leaves: Sequence[bytes]) -> None:
        for level, index, node in append(self, len(self.rows[0]), leaves):
            assert index == len(self.rows[level])
            self.rows[level].append(node)
        self.rows[0] += leaves

    def leaves(self, start: int, stop: int) -> Sequence[bytes]:
        return self.nodes(0, start, stop)

    def nodes(self, level: int, start: int, stop: int) -> Sequence[bytes]:
        self.reads.append(stop - start)
        return self.rows[level][start:stop]
