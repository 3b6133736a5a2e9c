"""Check, offline and without trusting anybody, what an audit log says about itself.

    python verify.py EXPORT.zip --key KEY [--previous EARLIER.zip]
    python verify.py ENTRY.tlog-proof --key KEY

KEY is the log's public key (name+id+base64), or a file with one such key a line. Get it from the
operator on another way than the export: a forger would put a key of his own into the ZIP. Get this
file on another way too; it is short enough to be read. It needs Python 3.11 and the package
`cryptography`, nothing else. It exits with 0 when all holds, 1 when something does not, 2 when it
was called wrongly; with 3 when the whole export holds, and the log was set back (a fork) since the
export before.

Where the log has changed its key, the former key announced the new one, and the export holds what
it said: the first key that you were given is enough. Whoever stole a key can announce another with
it, so don't give one that was stolen.

What it proves: each entry in the export is, byte for byte and in this order, what the log sealed
when it signed the checkpoint; how many entries of the range were left out by the filter; that the
log has only grown since the export before; that no export between the two is missing.

What it does not prove: that what the log was told is true; that everything was recorded; that the
filter left out what it says it does, for an entry left out is a number and a hash; what happened in
the seconds between the writing of an entry and its sealing. And a log could show another tree to
somebody else: compare checkpoints, or let a witness cosign them and give its key too.

How: the log is a Merkle tree as in RFC 9162 (section 2.1). Checkpoints, keys and proofs are written
as the C2SP specifications signed-note, tlog-checkpoint, tlog-cosignature and tlog-proof say. The
files of an export are described in docs/audit-export.md.
"""

import argparse
import base64
import binascii
import hashlib
import io
import json
import re
import struct
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
# No tree is larger: sizes are signed 64-bit numbers, and a path is never longer than their bits.
MAX_SIZE = 2**63 - 1
MAX_PATH = 63
# Kinds of signatures (signed-note, "Signature types").
ED25519 = 0x01
COSIGNATURE = 0x04
MAX_NOTE_CHARACTERS = 1_000_000
MAX_SIGNATURES = 100
_COSIGNATURE_BYTES = 8 + 64
# Control characters, and halves of characters that have no UTF-8.
_UNFIT = re.compile("[\x00-\x1f\ud800-\udfff]")
_DECIMAL = re.compile("0|[1-9][0-9]{0,18}")
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
FORK_HEADER = "parley-audit-fork/v1"
KEY_HEADER = "parley-audit-key/v1"
MANIFEST_HEADER = "parley-audit-export/v1"


class ProofError(Exception):
    """A proof does not prove what it should; the message is a sentence."""


class NoteError(Exception):
    """A note, checkpoint or key is not written as the specification demands."""


class SignatureError(NoteError):
    """A note is signed by no key that we know, or wrongly by one."""


# Merkle trees


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf (RFC 9162, 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node from those of its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def subtrees(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest complete subtrees that cover the leaves [start, stop), left to right.

    Each is (level, index): it holds the 2^level leaves from index * 2^level on.
    """
    while start < stop:
        aligned = (start & -start).bit_length() - 1 if start else MAX_PATH
        level = min(aligned, (stop - start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


class CompactRange:
    """The right edge of a growing tree: its root in O(log n) memory, leaf after leaf.

    `begin` leaves stand before the first that is appended; `hashes` are those of the complete
    subtrees that cover them, left to right (as `subtrees(0, begin)` names them). So a stretch
    [i, j) of a tree is folded with what is left of it, its own leaves, and `fill` with what is
    right of it.
    """

    def __init__(self, begin: int = 0, hashes: Sequence[bytes] = ()) -> None:
        _check_hashes(hashes)
        if not 0 <= begin <= MAX_SIZE or len(hashes) != begin.bit_count():
            raise ProofError(f"{len(hashes)} hashes can't stand for {begin} leaves.")
        self.size = begin
        self.hashes = list(hashes)

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        self.append_subtree(0, leaf)

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add the hashes of the next leaves: level by level, as fast as hashing is."""
        level, nodes = 0, list(leaves)
        pending: list[tuple[int, bytes]] = []
        while nodes:
            if (self.size >> level) & 1:
                self.append_subtree(level, nodes.pop(0))
            if len(nodes) % 2:
                pending.append((level, nodes.pop()))
            pairs = iter(nodes)
            nodes = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=True)]
            level += 1
        for level, node in reversed(pending):
            self.append_subtree(level, node)

    def append_subtree(self, level: int, node: bytes) -> None:
        """Add the hash of the complete subtree of the next 2^level leaves.

        Raises ProofError where no such subtree can begin.
        """
        index = self.size >> level
        if index << level != self.size:
            raise ProofError(f"No complete subtree of 2^{level} leaves begins at {self.size}.")
        self.size += 1 << level
        while index & 1:
            node = node_hash(self.hashes.pop(), node)
            index >>= 1
        self.hashes.append(node)

    def fill(self, size: int, hashes: Sequence[bytes]) -> None:
        """Add all leaves up to `size`, given by the hashes of `subtrees(self.size, size)`."""
        _check_hashes(hashes)
        if not self.size <= size <= MAX_SIZE:
            raise ProofError(f"A tree of {size} leaves can't follow one of {self.size}.")
        nodes = list(subtrees(self.size, size))
        if len(nodes) != len(hashes):
            raise ProofError(
                f"{len(hashes)} hashes can't stand for the leaves from {self.size} to {size}."
            )
        for (level, _), node in zip(nodes, hashes, strict=True):
            self.append_subtree(level, node)

    def root(self) -> bytes:
        """Return the root of the tree of all leaves so far."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for node in hashes:
        if len(node) != HASH_BYTES:
            raise ProofError(f"A hash has {len(node)} bytes and not {HASH_BYTES}.")


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf hash stands at `index` in the tree of that size and root.

    RFC 9162, 2.1.3.2. Raises ProofError.
    """
    _check_hashes([leaf, root, *path])
    if not 0 <= index < size:
        raise ProofError(f"There is no leaf {index} in a tree of {size} leaves.")
    place, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ProofError(f"The proof of leaf {index} is too long.")
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(f"The proof of leaf {index} is too short.")
    if node != root:
        raise ProofError(f"Leaf {index} does not lead to the root of the tree of {size} leaves.")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the older tree is the beginning of the newer one.

    RFC 9162, 2.1.4.2; an empty older tree and one of the same size need an empty path. Raises
    ProofError.
    """
    _check_hashes([old_root, new_root, *path])
    if not 0 <= old_size <= new_size:
        raise ProofError(f"A tree of {new_size} leaves can't continue one of {old_size}.")
    if old_size in {0, new_size}:
        _verify_trivial_consistency(old_size, old_root, new_size, new_root, path)
        return
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    # The older tree itself is a node of the newer where it is complete.
    nodes = [old_root, *path] if old_size.bit_count() == 1 else list(path)
    if not path:
        raise ProofError(f"There is no proof that {new_size} leaves continue {old_size}.")
    old, new = nodes[0], nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            raise ProofError(f"The proof that {new_size} leaves continue {old_size} is too long.")
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(f"The proof that {new_size} leaves continue {old_size} is too short.")
    if old != old_root or new != new_root:
        raise ProofError(
            f"The tree of {new_size} leaves does not continue the tree of {old_size} leaves."
        )


def _verify_trivial_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    if path:
        raise ProofError(f"A proof from {old_size} to {new_size} leaves has to be empty.")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise ProofError("The root of the empty tree is not that of an empty tree.")
    if old_size == new_size and old_root != new_root:
        raise ProofError(f"Two trees of {old_size} leaves differ.")


# Signed notes (C2SP signed-note)


def decoded(text: str) -> bytes:
    """Return the bytes of standard base64, written in the one right way. Raises NoteError."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode() != text:
        raise NoteError("Something that should be base64 is not.")
    return data


def check_name(name: str) -> str:
    """Return the name of a key. Raises NoteError where it holds a space, a plus or nothing."""
    if not name or "+" in name or any(map(str.isspace, name)) or _UNFIT.search(name):
        raise NoteError("The name of a key is empty or holds a space or a plus.")
    return name


def key_id(name: str, kind: int, public: bytes) -> str:
    """Return the key ID, eight hexadecimal digits."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).hexdigest()[:8]


@dataclass(frozen=True)
class NoteSignature:
    """One line below a note: by whom it claims to be, and the signature's bytes."""

    name: str
    key_id: str
    signature: bytes

    @property
    def line(self) -> str:
        data = bytes.fromhex(self.key_id) + self.signature
        return f"\u2014 {self.name} {base64.b64encode(data).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A text that ends with a line break, and the signatures below it, none checked yet."""

    text: str
    signatures: tuple[NoteSignature, ...]

    @classmethod
    def parse(cls, note: str) -> "Note":
        """Split a note. Raises NoteError."""
        if len(note) > MAX_NOTE_CHARACTERS:
            raise NoteError("The note is too long.")
        if _UNFIT.search(note.replace("\n", "")):
            raise NoteError("The note holds a control character or is not valid UTF-8.")
        text, blank, below = note.rpartition("\n\n")
        if not blank or not below.endswith("\n"):
            raise NoteError("The note has no signatures below a blank line.")
        lines = below.removesuffix("\n").split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise NoteError(f"The note has more than {MAX_SIGNATURES} signatures.")
        return cls(text + "\n", tuple(_parse_signature(line) for line in lines))

    def verified(self, keys: Sequence["VerifierKey"]) -> list["VerifiedSignature"]:
        """Return the signatures by keys that are known; others are passed over.

        Raises SignatureError where one of a known key is wrong, or where there is none.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found: dict[tuple[str, str], VerifiedSignature] = {}
        for line in self.signatures:
            if key := known.get((line.name, line.key_id)):
                found.setdefault((line.name, line.key_id), key.verify(self.text, line.signature))
        if not found:
            names = ", ".join(sorted({f"{s.name}+{s.key_id}" for s in self.signatures}))
            raise SignatureError(f"No key that you gave has signed this, only {names}.")
        return list(found.values())


def _parse_signature(line: str) -> NoteSignature:
    dash, _, rest = line.partition(" ")
    name, _, signature = rest.partition(" ")
    data = decoded(signature) if dash == "\u2014" else b""
    if len(data) <= 4:
        raise NoteError("A line below the note is no signature.")
    return NoteSignature(check_name(name), data[:4].hex(), data[4:])


@dataclass(frozen=True)
class VerifiedSignature:
    """A signature that is right. `time` (POSIX seconds) stands in cosignatures alone."""

    name: str
    key_id: str
    kind: int
    time: int | None = None


@dataclass(frozen=True)
class VerifierKey:
    """The public half of a key, with the name that it signs under."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, vkey: str) -> "VerifierKey":
        """Read `name+keyid+base64(kind || public key)`. Raises NoteError."""
        name, _, rest = vkey.strip().partition("+")
        claimed, _, encoded = rest.partition("+")
        data = decoded(encoded)
        if len(data) != 1 + 32 or data[0] not in {ED25519, COSIGNATURE}:
            raise NoteError("The key is not an Ed25519 key for notes or cosignatures.")
        key = cls(check_name(name), data[0], data[1:])
        if claimed != key.key_id:
            raise NoteError(f"The ID of the key {name} is {key.key_id}, not {claimed[:16]}.")
        return key

    @property
    def key_id(self) -> str:
        return key_id(self.name, self.kind, self.public)

    @property
    def vkey(self) -> str:
        encoded = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.key_id}+{encoded}"

    def verify(self, text: str, signature: bytes) -> VerifiedSignature:
        """Check a signature over the text of a note. Raises SignatureError."""
        time = None
        if self.kind == COSIGNATURE:
            if len(signature) != _COSIGNATURE_BYTES:
                raise SignatureError(f"The cosignature by {self.name} has a wrong length.")
            time, signature = int.from_bytes(signature[:8]), signature[8:]
            if time > MAX_SIZE:
                raise SignatureError(f"The cosignature by {self.name} has an impossible time.")
            text = cosigned_text(text, time)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                f"The signature by {self.name} ({self.key_id}) is wrong: the text was changed"
                " or signed with another key."
            ) from error
        return VerifiedSignature(self.name, self.key_id, self.kind, time)


def cosigned_text(text: str, time: int) -> str:
    """Return what a witness signs at `time` (POSIX seconds): tlog-cosignature, Ed25519."""
    return f"cosignature/v1\ntime {time}\n{text}"


# Checkpoints and proofs (C2SP tlog-checkpoint, tlog-proof)


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log: how many leaves it has, and their root, signed."""

    origin: str
    size: int
    root: bytes
    signed_by: tuple[VerifiedSignature, ...]
    extensions: tuple[str, ...]
    # What is signed, to the letter.
    text: str


def parse_decimal(text: str) -> int:
    """Return a size or index as checkpoints write it, without leading zeros. Raises NoteError."""
    if not _DECIMAL.fullmatch(text):
        raise NoteError("A size or index is not a plain decimal number.")
    if (number := int(text)) > MAX_SIZE:
        raise NoteError("A size or index is too large.")
    return number


def parse_hash(text: str) -> bytes:
    """Return a hash from base64. Raises NoteError."""
    if len(data := decoded(text)) != HASH_BYTES:
        raise NoteError(f"A hash has {len(data)} bytes and not {HASH_BYTES}.")
    return data


def parse_checkpoint(text: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Read a checkpoint and check its signatures.

    The log itself has to have signed: a key of the kind ED25519 whose name is the origin. What
    witnesses among `keys` signed is told beside it. Raises NoteError where it is malformed,
    SignatureError where it is not signed so, ProofError where an empty log has leaves.
    """
    note = Note.parse(text)
    lines = note.text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise NoteError("A checkpoint has at least three lines, none of them empty.")
    origin, size, root, *extensions = lines
    checkpoint = Checkpoint(
        origin,
        parse_decimal(size),
        parse_hash(root),
        tuple(note.verified(keys)),
        tuple(extensions),
        note.text,
    )
    if not any(s.name == origin and s.kind == ED25519 for s in checkpoint.signed_by):
        raise SignatureError(f"The log {origin} itself has not signed this with a key you gave.")
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise ProofError("The root of an empty log is not that of an empty tree.")
    return checkpoint


@dataclass(frozen=True)
class InclusionProof:
    """That one leaf is part of a log, as a text (tlog-proof)."""

    index: int
    path: tuple[bytes, ...]
    # Not authenticated: here the bytes of the leaf, which have to lead to the root.
    extra: bytes
    checkpoint: str

    @classmethod
    def parse(cls, text: str) -> "InclusionProof":
        """Read the text, its checkpoint still unchecked. Raises NoteError."""
        head, blank, checkpoint = text.partition("\n\n")
        header, *lines = head.split("\n")
        if header != PROOF_HEADER or not blank:
            raise NoteError(f"This does not begin with {PROOF_HEADER}, or has no checkpoint.")
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = decoded(lines.pop(0).removeprefix("extra "))
        if not lines or not lines[0].startswith("index ") or len(lines) > 1 + MAX_PATH:
            raise NoteError("The proof names no index, or has too many hashes.")
        index = parse_decimal(lines[0].removeprefix("index "))
        return cls(index, tuple(map(parse_hash, lines[1:])), extra, checkpoint)

    def verify(self, leaf: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
        """Check that a leaf hash is in the log. Raises NoteError, SignatureError or ProofError."""
        checkpoint = parse_checkpoint(self.checkpoint, keys)
        verify_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)
        return checkpoint


# Statements of our own, as signed notes


@dataclass(frozen=True)
class ForkStatement:
    """That a log was set back, and goes on under a new origin; sizes are numbers of leaves."""

    origin: str
    continues: str
    # The last head known outside the database (None: lost), and the state that is gone on from.
    head: tuple[int, bytes] | None
    resumes: tuple[int, bytes]
    declared_at: str
    declared_by: str
    reason: str

    @property
    def text(self) -> str:
        """What is signed."""
        return (
            f"{FORK_HEADER}\norigin {self.origin}\ncontinues {self.continues}\n"
            f"head {_size_and_root(self.head)}\nresumes {_size_and_root(self.resumes)}\n"
            f"declared {self.declared_at}\nby {self.declared_by}\nreason {self.reason}\n"
        )

    @classmethod
    def parse(cls, text: str) -> "ForkStatement":
        """Read the text of a note, its signatures aside. Raises NoteError."""
        header, values = _stated(text)
        if header != FORK_HEADER or len(values) != 7:
            raise NoteError("This is no statement of a fork.")
        head, resumes = map(_parse_size_and_root, values[2:4])
        if resumes is None:
            raise NoteError("A statement of a fork says from where the log goes on.")
        statement = cls(values[0], values[1], head, resumes, *values[4:])
        if statement.text != text:
            raise NoteError("A statement of a fork is not written as it should be.")
        return statement


@dataclass(frozen=True)
class KeyStatement:
    """That a log begins to sign with another key, said with the key before it and with itself."""

    origin: str
    # Both as VerifierKey.vkey.
    former: str
    key: str
    # How many leaves the log had when the new key first signed it.
    size: int
    announced_at: str

    @property
    def text(self) -> str:
        """What is signed."""
        return (
            f"{KEY_HEADER}\norigin {self.origin}\nformer {self.former}\nkey {self.key}\n"
            f"size {self.size}\nannounced {self.announced_at}\n"
        )

    @classmethod
    def parse(cls, text: str) -> "KeyStatement":
        """Read the text of a note, its signatures aside. Raises NoteError."""
        header, values = _stated(text)
        if header != KEY_HEADER or len(values) != 5:
            raise NoteError("This is no announcement of a key.")
        origin, former, key, size, announced_at = values
        statement = cls(origin, former, key, parse_decimal(size), announced_at)
        if statement.text != text:
            raise NoteError("An announcement of a key is not written as it should be.")
        return statement

    @classmethod
    def verified(cls, note: Note, keys: Sequence[VerifierKey]) -> tuple[VerifierKey, VerifierKey]:
        """Return the former key, which has to be one of `keys`, and the one that it announced.

        Both have to be keys of the log and to have signed. Raises NoteError, SignatureError.
        """
        said = cls.parse(note.text)
        former, key = VerifierKey.parse(said.former), VerifierKey.parse(said.key)
        if {(k.name, k.kind) for k in (former, key)} != {(said.origin, ED25519)}:
            raise NoteError("An announcement is of two keys of one log.")
        for one in (former, key):
            note.verified([one])
        if former not in keys:
            raise SignatureError(f"No key that you gave has announced {key.key_id}.")
        return former, key


def _stated(text: str) -> tuple[str, list[str]]:
    """Return the first line of a statement, and of the others what follows the first word."""
    header, *lines = text.removesuffix("\n").split("\n")
    return header, [line.partition(" ")[2] for line in lines]


def _size_and_root(head: tuple[int, bytes] | None) -> str:
    return f"{head[0]} {base64.b64encode(head[1]).decode()}" if head else "unknown"


def _parse_size_and_root(text: str) -> tuple[int, bytes] | None:
    size, _, root = text.partition(" ")
    return None if text == "unknown" else (parse_decimal(size), parse_hash(root))


def manifest_text(origin: str, number: int, digest: bytes) -> str:
    """Return what is signed of the manifest of an export: which one it is, and its SHA-256."""
    return f"{MANIFEST_HEADER}\n{origin}\n{number}\n{digest.hex()}\n"


# The ZIP of an export, which may come from anybody

MAX_MEMBERS = 1000
MAX_SMALL_BYTES = 1 << 22
MAX_LINE_BYTES = 1 << 20
# What unpacks to more than this many times its size is no log. Deflate reaches 1,000.
MAX_EXPANSION = 250
_CHUNK_BYTES = 1 << 18
_NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_RECORD = struct.Struct(f">BQ{HASH_BYTES}s")
_ARCHIVE_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
)
MANIFEST = "manifest.json"
MANIFEST_NOTE = "manifest.note"
ENTRIES = "entries.jsonl"
PERSONAL = "personal.jsonl"
CHECKPOINT = "checkpoint.txt"
LEAVES = "proof/leaves.bin"
RANGE = "proof/range.json"
CONSISTENCY = "proof/consistency.json"
REQUIRED = frozenset({MANIFEST, MANIFEST_NOTE, ENTRIES, CHECKPOINT, LEAVES, RANGE})


class BundleError(Exception):
    """An export is not written as it should be."""


class Bundle:
    """An export: reads its members as streams, and nothing that its names do not promise."""

    def __init__(self, path: Path) -> None:
        with _archive_faults(path.name):
            self._zip = zipfile.ZipFile(path)
        self.members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            self._admit(member)
        if missing := sorted(REQUIRED - self.members.keys()):
            raise BundleError(f"{path.name} lacks {', '.join(missing)}.")

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def _admit(self, member: zipfile.ZipInfo) -> None:
        # As it stands in the archive: zipfile cuts `filename` at a NUL.
        name = member.orig_filename
        if not _NAME.fullmatch(name) or len(self.members) == MAX_MEMBERS:
            raise BundleError(f"The archive has too many files, or one with an odd name: {name}")
        if name.lower() in map(str.lower, self.members):
            raise BundleError(f"The archive holds {name} twice.")
        if member.flag_bits & 1 or member.compress_type not in {
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        }:
            raise BundleError(f"{name} is encrypted or packed in an unusual way.")
        if member.file_size > MAX_EXPANSION * (member.compress_size + 4096):
            raise BundleError(f"{name} would unpack to {member.file_size:,} bytes: not opened.")
        self.members[name] = member

    def small(self, name: str) -> bytes:
        """Return a whole member of moderate size."""
        if (member := self.members.get(name)) is None:
            raise BundleError(f"The archive has no file {name}.")
        if member.file_size > MAX_SMALL_BYTES:
            raise BundleError(f"{name} is larger than such a file can be.")
        with _archive_faults(name):
            return self._zip.read(member)

    def text(self, name: str) -> str:
        with _archive_faults(name):
            return self.small(name).decode()

    def json(self, name: str) -> "Fields":
        return Fields(name, _json_object(self.small(name)))

    def chunks(self, name: str, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
        with _archive_faults(name), self._zip.open(self.members[name]) as member:
            yield from iter(lambda: member.read(size), b"")

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield each line without its line break."""
        with _archive_faults(name), self._zip.open(self.members[name]) as member:
            # A buffer of C's reads lines faster than the archive's own file does.
            reader = io.BufferedReader(cast("io.RawIOBase", member), _CHUNK_BYTES)
            while line := reader.readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n"):
                    raise BundleError(f"{name} holds a line that is cut off or too long.")
                yield line[:-1]

    def records(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield of each leaf of the range: 1 if it is in the export, its entry, its hash."""
        rest = b""
        for chunk in self.chunks(LEAVES):
            whole = len(rest + chunk) // _RECORD.size * _RECORD.size
            data, rest = (rest + chunk)[:whole], (rest + chunk)[whole:]
            yield from _RECORD.iter_unpack(data)
        if rest:
            raise BundleError(f"{LEAVES} is cut off.")


@contextmanager
def _archive_faults(name: str) -> Iterator[None]:
    try:
        yield
    except _ARCHIVE_FAULTS as error:
        raise BundleError(f"{name} can't be read, it is damaged: {error}") from error


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


T = TypeVar("T")


class Fields:
    """An object of JSON, of which each value has to be of the kind that is expected."""

    def __init__(self, name: str, values: dict[str, Any] | None) -> None:
        if values is None:
            raise BundleError(f"{name} is no JSON object.")
        self._name, self._values = name, values

    def get(self, key: str, kind: type[T]) -> T:
        value = self._values.get(key)
        if type(value) is not kind:
            raise BundleError(f"{self._name} does not say properly what {key} is.")
        return value

    def number(self, key: str) -> int:
        if not 0 <= (number := self.get(key, int)) <= MAX_SIZE:
            raise BundleError(f"{self._name} does not say properly what {key} is.")
        return number

    def part(self, key: str) -> "Fields":
        return Fields(f"{self._name}: {key}", self.get(key, dict))

    def hashes(self, key: str) -> list[bytes]:
        found = self.get(key, list)
        if not all(isinstance(text, str) for text in found):
            raise BundleError(f"{self._name} does not say properly what {key} is.")
        return [parse_hash(text) for text in found]

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None


# What is said about an export

MAX_SENTENCES = 100


@dataclass
class Report:
    """Says what holds and what does not, as soon as it is known."""

    problems: int = 0
    forks: int = 0

    def good(self, sentence: str) -> None:
        _say("  holds ", sentence)

    def note(self, sentence: str) -> None:
        _say("  note  ", sentence)

    def fork(self, sentence: str) -> None:
        self.forks += 1
        _say("  FORK  ", sentence)

    def bad(self, sentence: str) -> None:
        self.problems += 1
        if self.problems <= MAX_SENTENCES:
            _say("  WRONG ", sentence)
        if self.problems == MAX_SENTENCES:
            _say("  WRONG ", "There is more; it is no longer listed.")

    @contextmanager
    def about(self, subject: str) -> Iterator[None]:
        """Whatever is raised inside becomes a sentence that begins with the subject."""
        try:
            yield
        except (BundleError, NoteError, ProofError) as error:
            self.bad(f"{subject}: {error}")


def _say(mark: str, sentence: str) -> None:
    """Print one line; what a stranger wrote can't steer the terminal."""
    print(mark + "".join(c if c.isprintable() else "?" for c in sentence)[:2000])


# The checks of an export


def verify_export(
    path: Path, given: Sequence[VerifierKey], report: Report, previous: Path | None = None
) -> None:
    """Check an export, and that it follows on the previous one where that is given."""
    with report.about("The archive"), Bundle(path) as bundle:
        manifest = bundle.json(MANIFEST)
        statements = Statements(bundle, given, report)
        keys = statements.keys
        checkpoint = None
        with report.about("The manifest"):
            _check_manifest(bundle, manifest, keys, report)
        with report.about("The checkpoint"):
            checkpoint = _check_checkpoint(bundle, manifest, keys, report)
        with report.about("The entries"):
            _check_entries(bundle, manifest, checkpoint, report)
        if checkpoint and manifest.has("previous"):
            with report.about("Growth since the export before"):
                _check_growth(bundle, checkpoint, statements, report)
        statements.tell_others(report)
        if previous:
            with report.about("The export before"), Bundle(previous) as earlier:
                _check_previous(bundle, manifest, earlier, keys, report)


class Statements:
    """What the log itself says of its keys and forks, as far as keys that are trusted signed it.

    `keys` are those that were given, and those that follow from them: a key that a trusted one
    announced, and a trusted key under the name that the log has on the other side of a fork.
    """

    def __init__(self, bundle: Bundle, given: Sequence[VerifierKey], report: Report) -> None:
        self.keys = list(given)
        # By the origin under which the log goes on.
        self._forks: dict[str, tuple[ForkStatement, str]] = {}
        self._told: set[str] = set()
        keys = _notes(bundle, "keys/", KeyStatement, report)
        forks = _notes(bundle, "forks/", ForkStatement, report)
        # Each may be what makes another one known; a round without anything new is the last.
        while self._follow_keys(keys, report) or self._follow_forks(forks, report):
            pass
        for name in keys:
            report.note(f"{name} concerns no key that you gave: not looked at.")
        for name in forks:
            report.bad(f"{name}: no key of this log that you gave has signed it.")

    def since(self, old: str, new: str) -> list[ForkStatement]:
        """Return the forks by which the log got from one origin to another. Raises ProofError."""
        found: list[ForkStatement] = []
        origin = new
        while origin != old:
            if origin not in self._forks or len(found) == len(self._forks):
                raise ProofError(
                    f"the log was {old} then and is {new} now, and no statement of a fork leads"
                    " from one to the other."
                )
            found.append(self._forks[origin][0])
            origin = found[-1].continues
        return found[::-1]

    def tell(self, fork: ForkStatement, say: Callable[[str], None]) -> None:
        """Say in words what a fork is."""
        self._told.add(fork.origin)
        say(_fork_in_words(*self._forks[fork.origin]))

    def tell_others(self, report: Report) -> None:
        """Mention the forks that were not told of yet."""
        for fork, _ in self._forks.values():
            if fork.origin not in self._told:
                self.tell(fork, report.note)

    def _follow_keys(self, notes: dict[str, Note], report: Report) -> bool:
        """Trust what trusted keys announced; say whether that made another key known."""
        before = len(self.keys)
        for name, note in list(notes.items()):
            said = KeyStatement.parse(note.text)
            if said.former in {key.vkey for key in self.keys}:
                del notes[name]
                with report.about(name):
                    former, key = KeyStatement.verified(note, self.keys)
                    report.note(
                        f"The log {said.origin} signs with {said.key} since it had {said.size:,}"
                        f" leaves: {said.announced_at} (announced with {former.key_id})"
                    )
                    self._trust(key)
        return len(self.keys) > before

    def _follow_forks(self, notes: dict[str, Note], report: Report) -> bool:
        """Take the forks that trusted keys signed; say whether that made another key known."""
        before = len(self.keys)
        for name, note in list(notes.items()):
            fork = ForkStatement.parse(note.text)
            sides = {fork.origin, fork.continues}
            trusted = [k for k in self.keys if k.name in sides and k.kind == ED25519]
            if any(_signs(note, key) for key in trusted):
                del notes[name]
                with report.about(name):
                    signed_by = _names(note.verified(trusted))
                    self._forks[fork.origin] = fork, signed_by
                    # The same key, under both names of the log: nobody else is trusted by that.
                    for key in trusted:
                        for other in sides - {key.name}:
                            twin = VerifierKey(other, ED25519, key.public)
                            if _signs(note, twin):
                                note.verified([twin])
                                self._trust(twin)
        return len(self.keys) > before

    def _trust(self, key: VerifierKey) -> None:
        if key not in self.keys:
            self.keys.append(key)


def _notes(
    bundle: Bundle,
    folder: str,
    kind: type[KeyStatement] | type[ForkStatement],
    report: Report,
) -> dict[str, Note]:
    """Return the statements of a kind that an export holds, by name, their signatures unchecked."""
    notes = {}
    for name in sorted(bundle.members):
        if name.startswith(folder):
            with report.about(name):
                note = Note.parse(bundle.text(name))
                kind.parse(note.text)
                notes[name] = note
    return notes


def _signs(note: Note, key: VerifierKey) -> bool:
    """Return whether a note claims to be signed with a key."""
    return any((s.name, s.key_id) == (key.name, key.key_id) for s in note.signatures)


def _fork_in_words(fork: ForkStatement, signed_by: str) -> str:
    head = f"{fork.head[0]:,} leaves were known" if fork.head else "the last head was lost"
    return (
        f"The log {fork.continues} was set back and goes on as {fork.origin} from"
        f" {fork.resumes[0]:,} leaves ({head}): {fork.declared_at}, by {fork.declared_by},"
        f" {fork.reason} (signed with {signed_by})"
    )


def _check_manifest(
    bundle: Bundle, manifest: Fields, keys: Sequence[VerifierKey], report: Report
) -> None:
    """That each file is the one that the manifest names, and that the log signed the manifest."""
    origin, number = manifest.get("origin", str), manifest.number("number")
    files = manifest.get("files", dict)
    damaged = report.problems
    present = bundle.members.keys() - {MANIFEST, MANIFEST_NOTE}
    for name in sorted(files.keys() - present):
        report.bad(f"{name} is missing: the manifest names it.")
    for name in sorted(present - files.keys()):
        report.bad(f"{name} does not belong to this export: the manifest does not name it.")
    for name in sorted(present & files.keys()):
        with report.about(name):
            digest = hashlib.sha256()
            for chunk in bundle.chunks(name):
                digest.update(chunk)
            if digest.hexdigest() != files[name]:
                report.bad(f"{name} is not the file that was exported.")
    if report.problems == damaged:
        report.good(f"{len(files)} files: each is the one that the manifest names.")
    signed_by, _ = _check_manifest_note(bundle, manifest, keys)
    report.good(f"The manifest: export {number:,} of {origin}, signed with {_names(signed_by)}.")


def _check_manifest_note(
    bundle: Bundle, manifest: Fields, keys: Sequence[VerifierKey]
) -> tuple[list[VerifiedSignature], bytes]:
    """Return who of the log signed the manifest, and its SHA-256."""
    origin = manifest.get("origin", str)
    note = Note.parse(bundle.text(MANIFEST_NOTE))
    signed_by = note.verified([key for key in keys if key.kind == ED25519 and key.name == origin])
    digest = hashlib.sha256(bundle.small(MANIFEST)).digest()
    if note.text != manifest_text(origin, manifest.number("number"), digest):
        raise NoteError("what the log signed is another manifest; this one was changed.")
    return signed_by, digest


def _check_checkpoint(
    bundle: Bundle, manifest: Fields, keys: Sequence[VerifierKey], report: Report
) -> Checkpoint:
    checkpoint = parse_checkpoint(bundle.text(CHECKPOINT), keys)
    if checkpoint.origin != manifest.get("origin", str):
        raise NoteError(f"it is of another log, {checkpoint.origin}.")
    signed_by = _names(s for s in checkpoint.signed_by if s.kind == ED25519)
    report.good(f"The checkpoint: {checkpoint.size:,} leaves, signed with {signed_by}.")
    for signature in checkpoint.signed_by:
        if signature.time is not None:
            report.good(f"Witness {signature.name} saw this checkpoint {_when(signature.time)}.")
    return checkpoint


def _check_growth(
    bundle: Bundle, checkpoint: Checkpoint, statements: Statements, report: Report
) -> None:
    proof = bundle.json(CONSISTENCY)
    old = parse_checkpoint(proof.get("checkpoint", str), statements.keys)
    path = proof.hashes("path")
    if old.origin == checkpoint.origin:
        verify_consistency(old.size, old.root, checkpoint.size, checkpoint.root, path)
        report.good(f"Since the export before, {old.size:,} leaves then, the log has only grown.")
        return
    forks = statements.since(old.origin, checkpoint.origin)
    for fork in forks:
        statements.tell(fork, report.fork)
    try:
        verify_consistency(old.size, old.root, checkpoint.size, checkpoint.root, path)
    except ProofError:
        resumed = min(fork.resumes[0] for fork in forks)
        report.fork(
            f"The export before covers {old.size:,} leaves; the log was taken up again at"
            f" {resumed:,}. That it still holds what the export before shows is not proven: keep"
            " that export."
        )
    else:
        report.good(
            f"All {old.size:,} leaves that the export before covers are still in the log: what the"
            " fork gave up came after them."
        )


def _check_previous(
    bundle: Bundle,
    manifest: Fields,
    earlier: Bundle,
    keys: Sequence[VerifierKey],
    report: Report,
) -> None:
    """That the manifest names the earlier export, and the proof begins at its checkpoint."""
    old, told = earlier.json(MANIFEST), manifest.part("previous")
    number = old.number("number")
    _, digest = _check_manifest_note(earlier, old, keys)
    if (told.number("number"), told.get("sha256", str)) != (number, digest.hex()):
        raise ProofError(
            f"this one follows on export {told.number('number'):,}, and not on the export"
            f" {number:,} that you gave: one is missing, or another."
        )
    if bundle.json(CONSISTENCY).get("checkpoint", str) != earlier.text(CHECKPOINT):
        raise ProofError("the proof of growth does not begin at its checkpoint.")
    report.good(f"This export follows on export {number:,}: none between them is missing.")


def _names(signatures: Iterable[VerifiedSignature]) -> str:
    return ", ".join(f"{s.name} ({s.key_id})" for s in signatures)


def _when(seconds: int) -> str:
    try:
        return f"on {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d at %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return "at an impossible time"


# The entries: what is written against what was sealed

# How far is looked for an entry that does not stand where it should.
LOOK_AHEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """An entry with its leaf hash, and where it stands: the index of a leaf, or a line."""

    at: int
    entry: int | None
    hash: bytes


class Ahead:
    """A stream of places that can be searched a stretch ahead."""

    def __init__(self, places: Iterator[Place]) -> None:
        self._places, self._waiting = places, deque[Place]()

    def first(self) -> Place | None:
        return self._waiting[0] if self._reach(1) else None

    def find(self, entry: int | None) -> int | None:
        """Return how many places ahead an entry stands; None where it is nowhere near."""
        if entry is None:
            return None
        self._reach(LOOK_AHEAD)
        found = (n for n, place in enumerate(self._waiting) if place.entry == entry)
        return next(found, None)

    def take(self, ahead: int = 0) -> Place:
        place = self._waiting[ahead]
        del self._waiting[ahead]
        return place

    def rest(self) -> Iterator[Place]:
        while place := self.first():
            self.take()
            yield place

    def _reach(self, count: int) -> bool:
        while len(self._waiting) < count:
            if (place := next(self._places, None)) is None:
                break
            self._waiting.append(place)
        return bool(self._waiting)


def _counted(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _check_entries(
    bundle: Bundle, manifest: Fields, checkpoint: Checkpoint | None, report: Report
) -> None:
    span, counts = bundle.json(RANGE), manifest.part("counts")
    start, stop = span.number("start"), span.number("stop")
    sealed = SealedLeaves(bundle, CompactRange(start, span.hashes("left")))
    personal = PersonalDetails(bundle, report)
    written = WrittenEntries(bundle, personal)
    before = report.problems
    _compare(Ahead(iter(sealed)), Ahead(iter(written)), report)
    personal.finish()
    for what, count in (
        ("entries", written.count),
        ("withheld", sealed.withheld),
        ("personal", personal.count),
    ):
        if counts.number(what) != count:
            report.bad(f"The manifest counts {counts.number(what):,} as {what}: it is {count:,}.")
    if sealed.tree.size != stop:
        raise ProofError(f"there are hashes of {sealed.tree.size - start:,} leaves, not of all.")
    if report.problems == before:
        entries = _counted(written.count, "entry", "entries")
        report.good(f"{entries}: each is exactly what was sealed, in its order.")
        report.good(
            f"{personal.count:,} of them come with personal details, which are the recorded ones."
        )
    withheld = _counted(sealed.withheld, "entry of the range was", "entries of the range were")
    report.note(f"{withheld} left out by the filter.")
    if checkpoint is None:
        raise ProofError("whether they are in the log is open without a checkpoint.")
    sealed.tree.fill(span.number("size"), span.hashes("right"))
    if (sealed.tree.size, sealed.tree.root()) != (checkpoint.size, checkpoint.root):
        raise ProofError(
            f"the leaves {start:,} to {stop - 1:,} do not lead to the root that was signed:"
            " at least one of them, or what is beside them, is not what was sealed."
        )
    report.good(f"The leaves from {start:,} on, {stop - start:,} in number, are in the checkpoint.")


class SealedLeaves:
    """The leaves of the range that are in the export; all of the range go into the tree."""

    def __init__(self, bundle: Bundle, tree: CompactRange) -> None:
        self._bundle, self.tree, self.withheld = bundle, tree, 0

    def __iter__(self) -> Iterator[Place]:
        for exported, entry, node in self._bundle.records():
            self.tree.append(node)
            if exported == 1:
                yield Place(self.tree.size - 1, entry, node)
            elif exported == 0:
                self.withheld += 1
            else:
                raise BundleError(f"{LEAVES} marks leaf {self.tree.size - 1} with {exported}.")


class WrittenEntries:
    """The lines of entries.jsonl."""

    def __init__(self, bundle: Bundle, personal: "PersonalDetails") -> None:
        self._bundle, self._personal, self.count = bundle, personal, 0

    def __iter__(self) -> Iterator[Place]:
        for line in self._bundle.lines(ENTRIES):
            self.count += 1
            value = _json_object(line) or {}
            entry = value.get("entry")
            if type(entry) is int:
                self._personal.meet(entry, value.get("personal_digest"))
            yield Place(self.count, entry if type(entry) is int else None, leaf_hash(line))


class PersonalDetails:
    """The lines of personal.jsonl, which stand in the order of the entries that they belong to."""

    def __init__(self, bundle: Bundle, report: Report) -> None:
        self._report, self.count = report, 0
        self._lines = bundle.lines(PERSONAL) if PERSONAL in bundle.members else iter(())
        self._next = self._read()

    def meet(self, entry: int, sealed: object) -> None:
        """Check what stands next against the digest in an entry, if it belongs to that."""
        if self._next is None or self._next.get("entry", int) != entry:
            return
        salt, values = self._next.get("salt", str), self._next.get("values", dict)
        if not all(isinstance(value, str) for value in values.values()):
            raise BundleError(f"{PERSONAL}, line {self.count}, holds something else than texts.")
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        try:
            digest = hashlib.sha256(bytes.fromhex(salt) + text.encode()).hexdigest()
        except ValueError:
            digest = None
        if digest is None or digest != sealed:
            self._report.bad(f"The personal details of entry {entry} are not the recorded ones.")
        self._next = self._read()

    def finish(self) -> None:
        if self._next:
            self._report.bad(
                f"{PERSONAL}, line {self.count}, belongs to no entry, or stands out of order."
            )

    def _read(self) -> Fields | None:
        if (line := next(self._lines, None)) is None:
            return None
        self.count += 1
        return Fields(f"{PERSONAL}, line {self.count}", _json_object(line))


def _compare(leaves: Ahead, lines: Ahead, report: Report) -> None:
    """Say of each leaf whose entry is not where and what it was, what became of it."""
    limit = report.problems + MAX_SENTENCES
    while (leaf := leaves.first()) and (line := lines.first()) and report.problems < limit:
        if (leaf.entry, leaf.hash) == (line.entry, line.hash):
            leaves.take()
            lines.take()
        else:
            _explain(leaf, line, leaves, lines, report)
    for leaf in leaves.rest():
        if report.problems < limit:
            report.bad(f"Leaf {leaf.at} (entry {leaf.entry}) is missing: it was removed.")
    for line in lines.rest():
        if report.problems < limit:
            report.bad(f"Line {line.at} ({_entry(line)}) was never sealed: it was slipped in.")


def _explain(leaf: Place, line: Place, leaves: Ahead, lines: Ahead, report: Report) -> None:
    """Say why a leaf and a line differ, and go on behind what was explained."""
    found_line, found_leaf = lines.find(leaf.entry), leaves.find(line.entry)
    name = f"Leaf {leaf.at} (entry {leaf.entry})"
    if found_line is None and found_leaf is not None:
        report.bad(f"{name} is missing: it was removed.")
        leaves.take()
    elif found_line is not None and found_leaf is None:
        report.bad(f"Line {line.at} ({_entry(line)}) was never sealed: it was slipped in.")
        lines.take()
    elif found_line is None or found_leaf is None:
        report.bad(f"{name} was replaced by something else ({_entry(line)}).")
        leaves.take()
        lines.take()
    else:
        # Whichever was carried farther is the one that was moved.
        moved_back = found_line >= found_leaf
        leaf = leaves.take(0 if moved_back else found_leaf)
        line = lines.take(found_line if moved_back else 0)
        if found_line or found_leaf:
            report.bad(f"Leaf {leaf.at} (entry {leaf.entry}) stands in line {line.at}: moved.")
        if leaf.hash != line.hash:
            report.bad(f"Leaf {leaf.at} (entry {leaf.entry}) was changed after it was sealed.")


def _entry(line: Place) -> str:
    return f"line {line.at}, no entry" if line.entry is None else f"entry {line.entry}"


# The program


def verify_proof(text: str, keys: Sequence[VerifierKey], report: Report) -> None:
    """Check the proof of one entry, which holds the entry itself."""
    with report.about("The proof"):
        proof = InclusionProof.parse(text)
        checkpoint = proof.verify(leaf_hash(proof.extra), keys)
        report.good(
            f"Leaf {proof.index:,} is in the log {checkpoint.origin} as of its checkpoint of"
            f" {checkpoint.size:,} leaves. It says:"
        )
        report.note(proof.extra.decode(errors="replace"))


def read_keys(given: Sequence[str]) -> list[VerifierKey]:
    """Return keys from texts and names of files with one a line. Raises NoteError, OSError."""
    lines = []
    for text in given:
        path = Path(text)
        lines += path.read_text("utf-8").split("\n") if path.is_file() else [text]
    return [VerifierKey.parse(line) for line in lines if line.strip() and line[0] != "#"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return what it exits with."""
    parser = argparse.ArgumentParser(description="Check an export of an audit log, offline.")
    parser.add_argument("file", type=Path, help="an export (.zip), or a proof (.tlog-proof)")
    parser.add_argument("--key", action="append", required=True, help="a key, or a file of keys")
    parser.add_argument("--previous", type=Path, help="the export before, to check that it is")
    options = parser.parse_args(arguments)
    try:
        keys = read_keys(options.key)
    except (NoteError, OSError, ValueError) as error:
        parser.error(f"--key: {error}")
    for path in filter(None, (options.file, options.previous)):
        if not path.is_file():
            parser.error(f"There is no file {path}.")
    report = Report()
    if options.file.suffix == ".tlog-proof":
        verify_proof(options.file.read_bytes().decode(errors="replace"), keys, report)
    else:
        verify_export(options.file, keys, report, options.previous)
    if report.problems:
        problems = _counted(report.problems, "thing does", "things do")
        print(f"{problems} not hold. Do not rely on this file.")
        return 1
    if report.forks:
        print(
            "Everything in this file holds. But the log was set back since the export before it:"
            " see FORK. What was sealed in between may be lost."
        )
        return 3
    print("Everything holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
