"""Signed notes, checkpoints and keys: written as C2SP says, and refused where they are not."""

import ast
import base64
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

import audit.verify
from audit.checkpoint import (
    SigningKey,
    SigningKeyError,
    checkpoint_text,
    fork_note,
    manifest_note,
    read_signing_keys,
    signed_note,
    tlog_proof_text,
)
from audit.merkle import inclusion_path, root_at
from audit.verify import (
    COSIGNATURE,
    ED25519,
    EMPTY_ROOT,
    ForkStatement,
    InclusionProof,
    Note,
    NoteError,
    NoteSignature,
    ProofError,
    SignatureError,
    VerifierKey,
    cosigned_text,
    leaf_hash,
    parse_checkpoint,
)
from tests.audit.bundles import KEY, ORIGIN, OTHER_KEY
from tests.audit.trees import StoredTree

ROOT = leaf_hash(b"only")
# A published pair of key and note, from the documentation of Go's golang.org/x/mod/sumdb/note.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZIn"
    "NIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
WITNESS_PRIVATE = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
WITNESS = VerifierKey(
    "witness.example/w1", COSIGNATURE, WITNESS_PRIVATE.public_key().public_bytes_raw()
)


def checkpoint(size: int = 1, root: bytes = ROOT, *keys: SigningKey) -> str:
    return checkpoint_text(ORIGIN, size, root, keys or [KEY])


def cosignature(text: str, time: int) -> str:
    signature = WITNESS_PRIVATE.sign(cosigned_text(text, time).encode())
    return NoteSignature(WITNESS.name, WITNESS.key_id, time.to_bytes(8) + signature).line


def test_the_verifier_imports_the_standard_library_and_cryptography_alone():
    tree = ast.parse(Path(audit.verify.__file__).read_text("utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"cryptography"}


def test_a_note_of_another_implementation_verifies():
    key = VerifierKey.parse(GO_VKEY)
    assert key.vkey == GO_VKEY
    (signature,) = Note.parse(GO_NOTE).verified([key])
    assert (signature.name, signature.key_id, signature.kind) == ("PeterNeumann", "c74f20a3", 1)
    with pytest.raises(SignatureError, match="The signature by PeterNeumann"):
        Note.parse(GO_NOTE.replace("problem is", "problem was")).verified([key])


def test_a_checkpoint_says_what_was_signed():
    text = checkpoint(7, ROOT)
    assert text.startswith(f"{ORIGIN}\n7\n{base64.b64encode(ROOT).decode()}\n\n\u2014 {ORIGIN} ")
    found = parse_checkpoint(text, [KEY.verifier])
    assert (found.origin, found.size, found.root) == (ORIGIN, 7, ROOT)
    assert [(s.name, s.key_id, s.kind, s.time) for s in found.signed_by] == [
        (ORIGIN, KEY.key_id, ED25519, None)
    ]


def test_a_rotation_is_signed_by_both_keys_and_verifies_with_either():
    text = checkpoint(7, ROOT, KEY, OTHER_KEY)
    for keys in ([KEY.verifier], [OTHER_KEY.verifier]):
        assert len(parse_checkpoint(text, keys).signed_by) == 1
    assert len(parse_checkpoint(text, [KEY.verifier, OTHER_KEY.verifier]).signed_by) == 2


def test_a_cosignature_tells_its_time_and_covers_it():
    text = checkpoint()
    body = Note.parse(text).text
    keys = [KEY.verifier, WITNESS]
    found = parse_checkpoint(text + cosignature(body, 1_763_822_000), keys).signed_by
    assert [(s.name, s.time) for s in found] == [(ORIGIN, None), (WITNESS.name, 1_763_822_000)]
    line = cosignature(body, 1_763_822_000)
    data = bytearray(base64.b64decode(line.split(" ")[2]))
    data[11] ^= 1
    forged = f"\u2014 {WITNESS.name} {base64.b64encode(data).decode()}\n"
    with pytest.raises(SignatureError, match=f"by {WITNESS.name}"):
        parse_checkpoint(text + forged, keys)
    # Who does not know the witness passes over it.
    assert len(parse_checkpoint(text + forged, [KEY.verifier]).signed_by) == 1


def test_a_cosignature_after_the_end_of_time_is_refused():
    text = checkpoint()
    with pytest.raises(SignatureError, match="impossible time"):
        parse_checkpoint(text + cosignature(Note.parse(text).text, 2**63), [KEY.verifier, WITNESS])


def test_a_witness_alone_does_not_speak_for_the_log():
    body = Note.parse(checkpoint()).text
    with pytest.raises(SignatureError, match=f"The log {ORIGIN} itself has not signed"):
        parse_checkpoint(f"{body}\n{cosignature(body, 1)}", [KEY.verifier, WITNESS])


def test_wrong_origin_wrong_key_and_altered_checkpoints_are_refused():
    elsewhere = SigningKey.from_seed("other.example/log", bytes(range(32)))
    with pytest.raises(SignatureError, match="No key that you gave has signed this"):
        parse_checkpoint(checkpoint(), [OTHER_KEY.verifier])
    with pytest.raises(SignatureError, match="No key that you gave has signed this"):
        parse_checkpoint(checkpoint(), [elsewhere.verifier])
    # Signed rightly, but by a key for another log.
    text = checkpoint_text(ORIGIN, 1, ROOT, [elsewhere])
    with pytest.raises(SignatureError, match="itself has not signed"):
        parse_checkpoint(text, [KEY.verifier, elsewhere.verifier])
    for altered in (
        checkpoint(2).replace("\n2\n", "\n3\n"),
        checkpoint().replace(ORIGIN, "other.example/log", 1),
        checkpoint(1, ROOT).split("\n\n")[0] + "\nmore\n\n" + checkpoint().split("\n\n")[1],
    ):
        with pytest.raises(SignatureError, match="The signature by"):
            parse_checkpoint(altered, [KEY.verifier])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_flipped_bit_of_a_checkpoint_passes(at, bit):
    data = bytearray(checkpoint(12, ROOT).encode())
    data[at % len(data)] ^= 1 << bit
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(NoteError):
        parse_checkpoint(text, [KEY.verifier])


@pytest.mark.parametrize(
    ("size", "root", "why"),
    [
        ("07", None, "plain decimal"),
        ("-1", None, "plain decimal"),
        ("+1", None, "plain decimal"),
        ("\u0661", None, "plain decimal"),
        ("", None, "none of them empty"),
        ("9" * 19, None, "too large"),
        ("1", base64.b64encode(ROOT[:31]).decode(), "31 bytes"),
        ("1", base64.urlsafe_b64encode(b"\xff" * 32).decode(), "base64"),
        ("1", base64.b64encode(ROOT).decode().rstrip("="), "base64"),
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(size, root, why):
    text = f"{ORIGIN}\n{size}\n{root or base64.b64encode(ROOT).decode()}\n"
    with pytest.raises(NoteError, match=why):
        parse_checkpoint(signed_note(text, [KEY]), [KEY.verifier])


def test_an_empty_log_has_the_root_of_the_empty_tree():
    assert parse_checkpoint(checkpoint(0, EMPTY_ROOT), [KEY.verifier]).size == 0
    with pytest.raises(ProofError, match="empty log"):
        parse_checkpoint(checkpoint(0, ROOT), [KEY.verifier])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n\u2014 a AAAAAAAA",
        "text\n\n- a AAAAAAAA\n",
        "text\n\n\u2014 a AAAAAA==\n",
        "text\n\n\u2014 a  AAAAAAAA\n",
        "text\n\n\u2014 a+b AAAAAAAA\n",
        "text\n\n\u2014 a\u00a0b AAAAAAAA\n",
        "text\n\n\u2014 a AAAAAAAA\nmore\n",
        "te\rxt\n\n\u2014 a AAAAAAAA\n",
        "te\ud800xt\n\n\u2014 a AAAAAAAA\n",
        "text\n\n" + "\u2014 a AAAAAAAA\n" * 101,
        "t" * 1_000_001,
    ],
)
def test_what_is_no_note_is_refused(note):
    with pytest.raises(NoteError):
        Note.parse(note)


def test_a_note_parts_at_its_last_empty_line():
    note = signed_note("one\n\ntwo\n\n", [KEY])
    assert Note.parse(note).text == "one\n\ntwo\n\n"
    Note.parse(note).verified([KEY.verifier])


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+00000000+",
        "na me" + KEY.vkey.removeprefix(ORIGIN),
        KEY.vkey.replace(ORIGIN, "other.example/log"),
        KEY.vkey[:-4],
        f"{ORIGIN}+00000000+{base64.b64encode(bytes([2]) + bytes(32)).decode()}",
    ],
)
def test_what_is_no_verifier_key_is_refused(vkey):
    with pytest.raises(NoteError):
        VerifierKey.parse(vkey)


def test_a_verifier_key_with_pluses_in_its_base64_is_read():
    for number in range(200):
        key = SigningKey.from_seed("a", number.to_bytes(32)).verifier
        assert VerifierKey.parse(key.vkey) == key


def test_a_proof_of_one_entry_holds_the_entry_and_verifies():
    data = [str(number).encode() for number in range(11)]
    tree = StoredTree.of([leaf_hash(leaf) for leaf in data])
    text = tlog_proof_text(
        4, inclusion_path(tree, 4, 11), checkpoint(11, root_at(tree, 11)), data[4]
    )
    assert text.startswith("c2sp.org/tlog-proof@v1\nextra NA==\nindex 4\n")
    proof = InclusionProof.parse(text)
    assert proof.extra == b"4"
    assert proof.verify(leaf_hash(proof.extra), [KEY.verifier]).size == 11
    with pytest.raises(ProofError, match="Leaf 4 does not lead"):
        proof.verify(leaf_hash(b"5"), [KEY.verifier])
    with pytest.raises(ProofError, match="Leaf 5 does not lead"):
        replace(proof, index=5).verify(leaf_hash(b"4"), [KEY.verifier])
    with pytest.raises(NoteError):
        InclusionProof.parse(text.replace("index 4", "index 04"))
    without = InclusionProof.parse(text.replace("extra NA==\n", ""))
    assert (without.extra, without.path) == (b"", proof.path)


def test_a_fork_is_stated_in_single_lines_and_read_again():
    statement = ForkStatement(
        origin=f"{ORIGIN}/2",
        continues=ORIGIN,
        head=(12, ROOT),
        resumes=(10, ROOT),
        declared_at="2026-11-22T14:31:07Z",
        declared_by="ada",
        reason="Restored a backup,\nsize 99\r\x00 of Monday",
    )
    text = fork_note(statement, [KEY])
    note = Note.parse(text)
    note.verified([KEY.verifier])
    assert ForkStatement.parse(note.text) == replace(
        statement, reason="Restored a backup, size 99 of Monday"
    )
    lost = Note.parse(fork_note(replace(statement, head=None), [KEY])).text
    assert ForkStatement.parse(lost).head is None
    for bad in (note.text.replace("head", "tail"), note.text + "more\n", checkpoint()):
        with pytest.raises(NoteError):
            ForkStatement.parse(bad)


def test_no_statement_passes_for_another():
    fork = ForkStatement("2", ORIGIN, None, (1, ROOT), "now", "ada", "why")
    for note in (
        fork_note(fork, [KEY]),
        manifest_note(ORIGIN, 1, bytes(32), [KEY]),
    ):
        with pytest.raises(NoteError):
            parse_checkpoint(note, [KEY.verifier])


# The signing key


def test_signing_keys_come_from_the_secret_store(monkeypatch):
    seeds = [base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]
    monkeypatch.setenv("AUDIT_SIGNING_KEY", seeds[0] + "\n")
    monkeypatch.delenv("AUDIT_SIGNING_KEY_PREVIOUS", raising=False)
    key, previous = read_signing_keys(ORIGIN)
    assert (key.name, previous) == (ORIGIN, None)
    monkeypatch.setenv("AUDIT_SIGNING_KEY_PREVIOUS", seeds[1])
    _, previous = read_signing_keys(ORIGIN)
    assert previous is not None
    assert previous.key_id != key.key_id


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "AUDIT_SIGNING_KEY is not set"),
        ("no;base", "AUDIT_SIGNING_KEY is not base64"),
        (base64.b64encode(b"topsecret").decode(), "AUDIT_SIGNING_KEY holds 9 bytes"),
    ],
)
def test_an_unusable_key_says_what_to_do_and_stays_secret(monkeypatch, secret, why):
    monkeypatch.setenv("AUDIT_SIGNING_KEY", secret)
    with pytest.raises(SigningKeyError, match=why) as error:
        read_signing_keys(ORIGIN)
    assert "topsecret" not in str(error.value)
    assert not secret or secret not in str(error.value)


def test_a_key_shows_its_secret_nowhere():
    assert "rivate" not in repr(KEY)
    with pytest.raises(SigningKeyError, match="can't name a log"):
        SigningKey.from_seed("two words", bytes(32))
