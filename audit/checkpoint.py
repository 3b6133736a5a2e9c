"""Making what the log signs: checkpoints, proofs of single entries, statements of forks.

Written as C2SP signed-note, tlog-checkpoint and tlog-proof demand; `audit.verify` reads all of it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.exceptions import ImproperlyConfigured

from audit.verify import (
    ED25519,
    PROOF_HEADER,
    ForkStatement,
    KeyStatement,
    NoteError,
    NoteSignature,
    VerifierKey,
    check_name,
    decoded,
    manifest_text,
)
from chatbot.secrets import read_secret

SEED_BYTES = 32
CURRENT = "AUDIT_SIGNING_KEY"
PREVIOUS = "AUDIT_SIGNING_KEY_PREVIOUS"


class SigningKeyError(Exception):
    """The key that signs the log is missing or unusable; the message says what to do."""


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key and the name that it signs under: the origin of the log."""

    name: str
    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> "SigningKey":
        """Return the key of a seed of 32 bytes. Raises SigningKeyError."""
        if len(seed) != SEED_BYTES:
            raise SigningKeyError(f"The seed of a signing key has {SEED_BYTES} bytes.")
        try:
            return cls(check_name(name), Ed25519PrivateKey.from_private_bytes(seed))
        except NoteError as error:
            raise SigningKeyError(f"{name!r} can't name a log: {error}") from error

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, ED25519, self._private.public_key().public_bytes_raw())

    @property
    def vkey(self) -> str:
        return self.verifier.vkey

    @property
    def key_id(self) -> str:
        return self.verifier.key_id

    def sign(self, text: str) -> str:
        """Return the line that stands below a note with this text, line break included."""
        return NoteSignature(self.name, self.key_id, self._private.sign(text.encode())).line


def read_signing_keys(origin: str) -> tuple[SigningKey, SigningKey | None]:
    """Return the key that signs for an origin, and the one before it while it is being replaced.

    May ask the secret store over the network. Raises SigningKeyError.
    """
    try:
        secret, previous = read_secret(CURRENT), read_secret(PREVIOUS, "")
    except ImproperlyConfigured as error:
        raise SigningKeyError(str(error)) from error
    key = SigningKey.from_seed(origin, _seed(CURRENT, secret))
    if not previous:
        return key, None
    return key, SigningKey.from_seed(origin, _seed(PREVIOUS, previous))


def _seed(secret: str, text: str) -> bytes:
    # No message quotes the secret, nor does a cause that would.
    try:
        seed = decoded(text.strip())
    except NoteError:
        seed = None
    if seed is None:
        raise SigningKeyError(f"{secret} is not base64. Give {SEED_BYTES} random bytes as base64.")
    if len(seed) != SEED_BYTES:
        raise SigningKeyError(
            f"{secret} holds {len(seed)} bytes. Give {SEED_BYTES} random bytes as base64."
        )
    return seed


def signed_note(text: str, signers: Sequence[SigningKey]) -> str:
    """Return a note: a text that ends with a line break, and a signature of each signer."""
    return f"{text}\n{''.join(signer.sign(text) for signer in signers)}"


def checkpoint_text(origin: str, size: int, root: bytes, signers: Sequence[SigningKey]) -> str:
    """Return the signed checkpoint of a log of `size` leaves."""
    return signed_note(f"{origin}\n{size}\n{_encoded(root)}\n", signers)


def tlog_proof_text(index: int, path: Sequence[bytes], checkpoint: str, extra: bytes = b"") -> str:
    """Return the proof that a leaf is in the log; `extra` takes the leaf's own bytes."""
    lines = [PROOF_HEADER]
    if extra:
        lines.append(f"extra {_encoded(extra)}")
    lines += [f"index {index}", *map(_encoded, path)]
    return "\n".join(lines) + "\n\n" + checkpoint


def fork_note(statement: ForkStatement, signers: Sequence[SigningKey]) -> str:
    """Return the signed statement that a log goes on under a new origin.

    Its free texts become single lines. `signers` are the key under the new origin and, where it
    can still be had, the one under the old.
    """
    lines = replace(
        statement,
        declared_by=_one_line(statement.declared_by),
        reason=_one_line(statement.reason),
    )
    return signed_note(lines.text, signers)


def key_note(former: SigningKey, key: SigningKey, size: int, announced_at: str) -> str:
    """Return the statement, signed with both, that from `size` leaves on another key signs."""
    said = KeyStatement(key.name, former.vkey, key.vkey, size, announced_at)
    return signed_note(said.text, [former, key])


def manifest_note(origin: str, number: int, digest: bytes, signers: Sequence[SigningKey]) -> str:
    """Return the signed statement that an export has the manifest with this SHA-256."""
    return signed_note(manifest_text(origin, number, digest), signers)


def _one_line(text: str) -> str:
    """Return a text as one line of a note: no line breaks, no other control characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split()) or "-"


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
