"""The witness: keeps, on a host of somebody else's, what a log has already shown of itself.

    python witness.pyz --listen 127.0.0.1:8700 --log VKEY --key FILE

It remembers the last checkpoint of each log, signs a newer one only with a proof that the log has
merely grown, and tells when. Who has the log's database and its key still can't show two people two
logs, or rewrite one, without the witness refusing. HTTP as in C2SP tlog-witness: `add-checkpoint`,
and the last checkpoint of each log for whoever asks. On its first start it makes its key in FILE
and, beside it, FILE.state; it prints the public key that belongs to `verify.py --key`.

`make witness` packs this file and verify.py into one, which needs Python 3.11 and `cryptography`.
"""

import argparse
import base64
import hashlib
import json
import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.verify import (
    COSIGNATURE,
    EMPTY_ROOT,
    MAX_PATH,
    Checkpoint,
    Note,
    NoteError,
    NoteSignature,
    ProofError,
    SignatureError,
    VerifierKey,
    check_name,
    cosigned_text,
    decoded,
    parse_checkpoint,
    parse_decimal,
    parse_hash,
    verify_consistency,
)

MAX_BODY_BYTES = 1 << 20
_REQUEST_SECONDS = 30
_KEY_MARK = "PRIVATE+KEY+"
_CHECKPOINT_PATH_LENGTH = len("/" + "0" * 64 + "/checkpoint")


class WitnessError(Exception):
    """The witness can't start; the message says why."""


class Refusal(Exception):
    """An answer that is no cosignature."""

    def __init__(self, status: int, text: str, content_type: str = "text/plain") -> None:
        super().__init__(text)
        self.status, self.text, self.content_type = status, text, content_type


@dataclass(frozen=True)
class WitnessKey:
    """What the witness cosigns with."""

    name: str
    private: Ed25519PrivateKey

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, COSIGNATURE, self.private.public_key().public_bytes_raw())

    @classmethod
    def made(cls, name: str) -> "WitnessKey":
        return cls(check_name(name), Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> "WitnessKey":
        """Read `PRIVATE+KEY+name+keyid+base64(0x04 || seed)`. Raises NoteError."""
        name, _, rest = text.strip().removeprefix(_KEY_MARK).partition("+")
        claimed, _, encoded = rest.partition("+")
        data = decoded(encoded)
        if not text.startswith(_KEY_MARK) or len(data) != 33 or data[0] != COSIGNATURE:
            raise NoteError("This is no private key of a witness.")
        key = cls(check_name(name), Ed25519PrivateKey.from_private_bytes(data[1:]))
        if claimed != key.verifier.key_id:
            raise NoteError("The ID of the key is not that of this key.")
        return key

    @property
    def text(self) -> str:
        seed = bytes([COSIGNATURE]) + self.private.private_bytes_raw()
        encoded = base64.b64encode(seed).decode()
        return f"{_KEY_MARK}{self.name}+{self.verifier.key_id}+{encoded}\n"

    def cosign(self, text: str, seconds: int) -> NoteSignature:
        """Sign the text of a checkpoint, with the time (POSIX seconds)."""
        signature = self.private.sign(cosigned_text(text, seconds).encode())
        return NoteSignature(self.name, self.verifier.key_id, seconds.to_bytes(8) + signature)


class Witness:
    """Decides which checkpoints are cosigned, and remembers the last of each log on disk.

    `logs` holds the keys of each origin; `state` is a JSON file of origins and checkpoints, which
    has to exist.
    """

    def __init__(self, key: WitnessKey, logs: dict[str, list[VerifierKey]], state: Path) -> None:
        self._key, self._logs, self._state = key, logs, state
        self._one_at_a_time = Lock()
        self._notes = _read_state(state)
        for origin in self._notes.keys() & logs.keys():
            self._known(origin)

    def add_checkpoint(self, body: str) -> str:
        """Return the line of the cosignature. Raises Refusal, as tlog-witness says."""
        head, _, text = body.partition("\n\n")
        old, path = _parse_proof(head)
        try:
            note = Note.parse(text)
            origin = note.text.partition("\n")[0]
            if origin not in self._logs:
                raise Refusal(404, f"This witness does not know the log {origin}.\n")
            checkpoint = parse_checkpoint(text, self._logs[origin])
        except SignatureError as error:
            raise Refusal(403, f"{error}\n") from error
        except NoteError as error:
            raise Refusal(400, f"{error}\n") from error
        except ProofError as error:
            raise Refusal(422, f"{error}\n") from error
        if old > checkpoint.size:
            raise Refusal(400, "The old size is larger than the checkpoint's.\n")
        with self._one_at_a_time:
            self._check_growth(checkpoint, old, path)
            return self._cosign(checkpoint, note)

    def latest(self, origin_digest: str) -> str | None:
        """Return the last checkpoint of the log whose origin has this SHA-256, in hexadecimal."""
        for origin, note in self._notes.copy().items():
            if hashlib.sha256(origin.encode()).hexdigest() == origin_digest:
                return note
        return None

    def _known(self, origin: str) -> tuple[int, bytes]:
        if origin not in self._notes:
            return 0, EMPTY_ROOT
        checkpoint = parse_checkpoint(
            self._notes[origin], [*self._logs[origin], self._key.verifier]
        )
        return checkpoint.size, checkpoint.root

    def _check_growth(self, checkpoint: Checkpoint, old: int, path: list[bytes]) -> None:
        size, root = self._known(checkpoint.origin)
        if old != size:
            raise Refusal(409, f"{size}\n", "text/x.tlog.size")
        try:
            verify_consistency(size, root, checkpoint.size, checkpoint.root, path)
        except ProofError as error:
            raise Refusal(422, f"{error}\n") from error

    def _cosign(self, checkpoint: Checkpoint, note: Note) -> str:
        cosignature = self._key.cosign(checkpoint.text, int(time.time())).line
        by = {(signature.name, signature.key_id) for signature in checkpoint.signed_by}
        signed = "".join(s.line for s in note.signatures if (s.name, s.key_id) in by)
        notes = {**self._notes, checkpoint.origin: f"{checkpoint.text}\n{signed}{cosignature}"}
        write_durably(self._state, json.dumps(notes, indent=1, ensure_ascii=False))
        self._notes = notes
        return cosignature


def _parse_proof(head: str) -> tuple[int, list[bytes]]:
    first, *hashes = head.split("\n")
    try:
        if not first.startswith("old ") or len(hashes) > MAX_PATH:
            raise NoteError("The request names no old size, or has too many hashes.")
        return parse_decimal(first.removeprefix("old ")), [parse_hash(text) for text in hashes]
    except NoteError as error:
        raise Refusal(400, f"{error}\n") from error


def _read_state(path: Path) -> dict[str, str]:
    try:
        state = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WitnessError(
            f"{path} can't be read: {error}. A witness that forgot what it saw would cosign a log"
            " that was rewritten: restore the file, or let a new key begin anew."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(note, str) for note in state.values()):
        raise WitnessError(f"{path} is not the state of a witness.")
    return state


def write_durably(path: Path, text: str) -> None:
    """Replace a file so that after a crash it is the old or the new one, whole."""
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Handler(BaseHTTPRequestHandler):
    """The two addresses of tlog-witness."""

    protocol_version = "HTTP/1.1"
    timeout = _REQUEST_SECONDS
    server: "WitnessServer"

    def do_POST(self) -> None:
        try:
            if self.path != "/add-checkpoint":
                raise Refusal(404, "There is only /add-checkpoint.\n")
            cosignature = self.server.witness.add_checkpoint(self._body())
        except Refusal as refusal:
            # What is left of the body would be taken for the next request.
            self.close_connection = True
            self._answer(refusal.status, refusal.text, refusal.content_type)
        else:
            self._answer(200, cosignature)

    def do_GET(self) -> None:
        note = None
        if len(self.path) == _CHECKPOINT_PATH_LENGTH and self.path.endswith("/checkpoint"):
            note = self.server.witness.latest(self.path[1:65])
        self._answer(*((200, note) if note else (404, "There is no checkpoint of such a log.\n")))

    def _body(self) -> str:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            raise Refusal(411, "The request does not say how long it is.\n")
        if int(length) > MAX_BODY_BYTES:
            raise Refusal(413, "The request is too long.\n")
        try:
            return self.rfile.read(int(length)).decode()
        except UnicodeDecodeError as error:
            raise Refusal(400, "The request is not valid UTF-8.\n") from error

    def _answer(self, status: int, text: str, content_type: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class WitnessServer(ThreadingHTTPServer):
    """Serves one witness on (host, port)."""

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        super().__init__(address, Handler)
        self.witness = witness


def open_key(path: Path, state: Path, name: str) -> WitnessKey:
    """Return the key of the file; make it, with an empty state, where there is none yet.

    Raises WitnessError.
    """
    try:
        if not path.exists():
            key = WitnessKey.made(name)
            # Before the key: with a key, a missing state is a loss.
            write_durably(state, "{}")
            write_durably(path, key.text)
        return WitnessKey.parse(path.read_text("utf-8"))
    except (OSError, ValueError, NoteError) as error:
        raise WitnessError(f"The key {path} can't be used: {error}") from error


def logs_by_origin(vkeys: Sequence[str]) -> dict[str, list[VerifierKey]]:
    """Return the keys of logs by their names, which are their origins. Raises NoteError."""
    logs = defaultdict(list)
    for key in map(VerifierKey.parse, vkeys):
        logs[key.name].append(key)
    return dict(logs)


def main() -> None:
    """Run the witness until it is ended."""
    parser = argparse.ArgumentParser(description="Cosign checkpoints of logs that only grow.")
    parser.add_argument("--listen", default="127.0.0.1:8700", help="host:port (%(default)s)")
    parser.add_argument("--log", action="append", required=True, help="a log's public key")
    parser.add_argument("--key", type=Path, required=True, help="made on the first start")
    parser.add_argument("--name", default=f"{socket.gethostname()}/witness", help="of a new key")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    if not port.isdigit():
        parser.error("--listen takes host:port.")
    state = options.key.with_name(options.key.name + ".state")
    try:
        key = open_key(options.key, state, options.name)
        witness = Witness(key, logs_by_origin(options.log), state)
        server = WitnessServer((host, int(port)), witness)
    except (WitnessError, NoteError, ProofError, OSError, OverflowError) as error:
        sys.exit(f"The witness can't start: {error}")
    print(f"Witness {key.verifier.vkey}", flush=True)
    print(f"listens on {host}:{server.server_port} for {', '.join(options.log)}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
