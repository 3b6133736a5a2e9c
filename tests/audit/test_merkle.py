"""Trees and their proofs: as published, as the RFC defines them, and against forgers."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.merkle import (
    MissingHash,
    consistency_path,
    inclusion_path,
    range_frontiers,
    root_at,
)
from audit.verify import (
    EMPTY_ROOT,
    CompactRange,
    ProofError,
    leaf_hash,
    node_hash,
    subtrees,
    verify_consistency,
    verify_inclusion,
)
from tests.audit.trees import StoredTree, hashes_of, leaf, path, proof, tree_hash

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "data" / "rfc6962_reference_tree.json").read_text("utf-8")
)
LEAVES = hashes_of(300)
ROOTS = [tree_hash(LEAVES[:size]) for size in range(len(LEAVES) + 1)]
# Deep enough for nodes of the stored levels 8 and 16, and ragged at each.
MANY = hashes_of(70_001)


@pytest.fixture(scope="module")
def many() -> StoredTree:
    return StoredTree.of(MANY)


def reference_leaves() -> list[bytes]:
    return [leaf_hash(bytes.fromhex(text)) for text in REFERENCE["leaves"]]


def test_the_reference_tree_has_the_published_roots():
    leaves = reference_leaves()
    tree = StoredTree.of(leaves)
    assert len(REFERENCE["roots"]) == 8
    for size, root in enumerate(REFERENCE["roots"], 1):
        assert tree_hash(leaves[:size]).hex() == root
        assert root_at(tree, size).hex() == root


def test_the_empty_tree_and_an_empty_leaf_have_the_published_hashes():
    assert EMPTY_ROOT.hex() == REFERENCE["empty_root"]
    assert leaf_hash(b"").hex() == REFERENCE["roots"][0]
    assert root_at(StoredTree(), 0) == EMPTY_ROOT == CompactRange().root()


def test_published_proofs_of_the_reference_tree_come_out_and_hold():
    leaves = reference_leaves()
    tree = StoredTree.of(leaves)
    roots = [bytes.fromhex(root) for root in REFERENCE["roots"]]
    assert (len(REFERENCE["inclusion"]), len(REFERENCE["consistency"])) == (4, 4)
    for case in REFERENCE["inclusion"]:
        index, size = case["index"], case["size"]
        published = [bytes.fromhex(node) for node in case["path"]]
        assert inclusion_path(tree, index, size) == published
        verify_inclusion(leaves[index], index, size, published, roots[size - 1])
    for case in REFERENCE["consistency"]:
        old, new = case["old"], case["new"]
        published = [bytes.fromhex(node) for node in case["path"]]
        assert consistency_path(tree, old, new) == published
        verify_consistency(old, roots[old - 1], new, roots[new - 1], published)


def test_every_inclusion_proof_of_every_size_to_300_is_that_of_the_rfc():
    tree = StoredTree.of(LEAVES)
    for size in range(1, 301):
        # All indexes of small trees; of larger ones those at the edges and some between.
        edges = {0, 1, size // 2, size - 2, size - 1, *range(size % 7, size, 7)}
        for index in range(size) if size <= 70 else sorted(edges):
            found = inclusion_path(tree, index, size)
            verify_inclusion(LEAVES[index], index, size, found, ROOTS[size])
            if size <= 70 or index in {size - 1, size // 2}:
                assert found == path(index, LEAVES[:size])


def test_every_consistency_proof_of_every_size_to_300_is_that_of_the_rfc():
    tree = StoredTree.of(LEAVES)
    for new in range(301):
        for old in range(new + 1) if new <= 70 else range(new % 5, new + 1, 5):
            found = consistency_path(tree, old, new)
            verify_consistency(old, ROOTS[old], new, ROOTS[new], found)
            if old and (new <= 70 or old % 3 == 0):
                assert found == proof(old, LEAVES[:new])


def test_a_compact_range_has_the_root_at_every_size():
    edge = CompactRange()
    for size, node in enumerate(LEAVES):
        assert edge.root() == ROOTS[size]
        edge.append(node)
        assert len(edge.hashes) == (size + 1).bit_count()
    assert edge.root() == ROOTS[300]


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_leaves_that_come_together_grow_the_same_tree_as_one_by_one(a, b):
    start, stop = sorted((a, b))
    edge = CompactRange()
    edge.extend(LEAVES[:start])
    assert (edge.size, edge.root()) == (start, ROOTS[start])
    edge.extend(LEAVES[start:stop])
    assert (edge.size, edge.root()) == (stop, ROOTS[stop])


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_a_stretch_folds_into_the_root_with_what_is_left_and_right_of_it(a, b, c):
    start, stop, size = sorted((a, b, c))
    left, right = range_frontiers(StoredTree.of(LEAVES[:size]), start, stop, size)
    edge = CompactRange(start, left)
    for node in LEAVES[start:stop]:
        edge.append(node)
    edge.fill(size, right)
    assert (edge.size, edge.root()) == (size, ROOTS[size])


@settings(deadline=None)
@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_subtrees_cover_a_stretch_without_gap_in_few_pieces(a, b):
    start, stop = sorted((a, b))
    at = start
    for level, index in subtrees(start, stop):
        assert index << level == at
        at += 1 << level
    assert at == stop
    assert len(list(subtrees(start, stop))) <= 2 * max(1, (stop - start).bit_length())


@settings(deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6))
def test_a_tree_that_grows_in_batches_stores_what_one_that_grows_at_once_stores(batches):
    leaves = hashes_of(sum(batches))
    tree = StoredTree()
    for count in batches:
        tree.grow(leaves[len(tree.rows[0]) :][:count])
    assert tree.rows == StoredTree.of(leaves).rows
    assert len(tree.rows[8]) == len(leaves) // 256


def test_stored_nodes_are_those_of_the_tree(many):
    assert many.rows[8][3] == tree_hash(MANY[768:1024])
    assert many.rows[16] == [tree_hash(MANY[:65536])]
    assert len(many.rows[8]) == 70_001 // 256


@pytest.mark.parametrize("index", [1, 255, 256, 40_000, 65_535, 65_536, 69_900, 70_000])
def test_proofs_in_a_deep_tree_hold_and_read_few_ranges(many, index):
    root = root_at(many, 70_001)
    assert root == tree_hash(MANY)
    many.reads.clear()
    found = inclusion_path(many, index, 70_001)
    verify_inclusion(MANY[index], index, 70_001, found, root)
    assert len(many.reads) <= 6
    assert max(many.reads) <= 2 * 256
    many.reads.clear()
    old_root = root_at(many, index)
    verify_consistency(index, old_root, 70_001, root, consistency_path(many, index, 70_001))
    assert max(many.reads) <= 2 * 256


def test_growing_reads_no_more_than_a_block_a_level(many):
    tree = StoredTree()
    tree.rows = {level: list(row) for level, row in many.rows.items()}
    tree.reads.clear()
    tree.grow(hashes_of(10_000))
    assert len(tree.reads) <= 2
    assert max(tree.reads) < 256


def test_a_stored_tree_that_lacks_hashes_says_which(many):
    tree = StoredTree()
    tree.rows = {0: MANY[:990], 8: many.rows[8][:3], 16: [], 24: []}
    with pytest.raises(MissingHash, match="Of the leaves from 768 to 999, 10 are missing"):
        root_at(tree, 1000)
    tree.rows[8].pop()
    with pytest.raises(MissingHash, match="Of the nodes of level 8 from 0 to 2, 1 are missing"):
        root_at(tree, 990)


def test_what_is_not_in_the_tree_has_no_proof():
    tree = StoredTree.of(LEAVES)
    with pytest.raises(ValueError, match="There is no leaf 8 in a tree of 8"):
        inclusion_path(tree, 8, 8)
    with pytest.raises(ValueError, match="can't continue"):
        consistency_path(tree, 9, 8)
    with pytest.raises(ValueError, match="There are no leaves 3 to 2"):
        range_frontiers(tree, 3, 2, 8)


# Forgeries


def flipped(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def forged_paths(genuine: list[bytes], draw: random.Random) -> list[list[bytes]]:
    """Flip a bit of each hash, drop each, double each, swap neighbours, cut off, add."""
    forged = [[*genuine, bytes(32)], [bytes(32), *genuine]]
    for at, node in enumerate(genuine):
        forged += [
            [*genuine[:at], flipped(node, draw), *genuine[at + 1 :]],
            [*genuine[:at], *genuine[at + 1 :]],
            [*genuine[:at], node, *genuine[at:]],
        ]
        if at:
            forged.append([*genuine[: at - 1], node, genuine[at - 1], *genuine[at + 1 :]])
    return forged


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 64, 100, 255, 256, 257, 300])
def test_forged_inclusion_proofs_are_refused_with_the_index_named(size):
    tree, draw, root = StoredTree.of(LEAVES), random.Random(size), ROOTS[size]
    for index in {0, size // 3, size // 2, size - 1}:
        genuine = inclusion_path(tree, index, size)
        node = LEAVES[index]
        cases = [(node, index, size, forged, root) for forged in forged_paths(genuine, draw)]
        cases += [
            (flipped(node, draw), index, size, genuine, root),
            (node, index, size, genuine, flipped(root, draw)),
            *((node, other, size, genuine, root) for other in range(size + 2) if other != index),
            (node, -1, size, genuine, root),
        ]
        for case in cases:
            named = f"(?i)leaf {case[1]}( |$)"
            with pytest.raises(ProofError, match=named):
                verify_inclusion(*case)


def test_a_node_of_the_tree_does_not_pass_for_a_leaf():
    root = node_hash(LEAVES[0], LEAVES[1])
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != root
    with pytest.raises(ProofError):
        verify_inclusion(leaf(LEAVES[0] + LEAVES[1]), 0, 1, [], root)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (4, 8), (6, 8), (128, 257), (299, 300)])
def test_forged_consistency_proofs_are_refused(old, new):
    tree, draw = StoredTree.of(LEAVES), random.Random(old)
    genuine = consistency_path(tree, old, new)
    cases = [(old, ROOTS[old], new, ROOTS[new], forged) for forged in forged_paths(genuine, draw)]
    cases += [
        (old, flipped(ROOTS[old], draw), new, ROOTS[new], genuine),
        (old, ROOTS[old], new, flipped(ROOTS[new], draw), genuine),
        (old, ROOTS[new], new, ROOTS[old], genuine),
        (old, ROOTS[old], new, ROOTS[new], []),
        (new, ROOTS[new], old, ROOTS[old], genuine),
        (new, ROOTS[old], new, ROOTS[new], []),
        (0, ROOTS[old], new, ROOTS[new], []),
        (0, EMPTY_ROOT, new, ROOTS[new], genuine),
        (-1, ROOTS[old], new, ROOTS[new], genuine),
    ]
    for case in cases:
        with pytest.raises(ProofError, match=r"leaves|empty tree"):
            verify_consistency(*case)


@settings(deadline=None)
@given(st.integers(1, 299), st.data())
def test_a_rewritten_history_continues_no_older_head(old, data):
    new = data.draw(st.integers(old + 1, 300))
    changed = data.draw(st.integers(0, old - 1))
    rewritten = StoredTree.of([*LEAVES[:changed], leaf(b"forged"), *LEAVES[changed + 1 : new]])
    with pytest.raises(ProofError, match=f"of {new} leaves does not continue the tree of {old}"):
        verify_consistency(
            old, ROOTS[old], new, root_at(rewritten, new), consistency_path(rewritten, old, new)
        )


def test_hashes_of_another_length_are_refused():
    with pytest.raises(ProofError, match="31 bytes"):
        verify_inclusion(LEAVES[0], 0, 2, [LEAVES[1][:31]], ROOTS[2])
    with pytest.raises(ProofError, match="33 bytes"):
        CompactRange(1, [LEAVES[0] + b"x"])


def test_a_compact_range_takes_only_what_fits():
    with pytest.raises(ProofError, match="1 hashes can't stand for 3 leaves"):
        CompactRange(3, [ROOTS[2]])
    edge = CompactRange(3, [ROOTS[2], LEAVES[2]])
    with pytest.raises(ProofError, match=r"No complete subtree of 2\^1 leaves begins at 3"):
        edge.append_subtree(1, ROOTS[2])
    with pytest.raises(ProofError, match="0 hashes can't stand for the leaves from 3 to 8"):
        edge.fill(8, [])
    with pytest.raises(ProofError, match="A tree of 2 leaves can't follow one of 3"):
        edge.fill(2, [])
