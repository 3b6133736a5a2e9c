"""Files that hold what people said, sealed like everything else; written and read in pieces.

A file is a row of sealed pieces (`encryption.seal`), each of PIECE_BYTES plain bytes and the last
of fewer, perhaps none. A piece is bound to the file, to its number and to being the last: pieces
that are swapped, doubled, cut off or taken from another file do not open. Nothing plain reaches the
disk. When the key of its day is destroyed, the file is noise.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from chatbot.durable_files import make_private_folder, sync_folder
from conversations.encryption import SealKey, open_sealed, seal
from conversations.keyring import NONCE_BYTES, Unreadable

PIECE_BYTES = 1 << 18
_ADDED_BYTES = 4 + NONCE_BYTES + 16
_SEALED_BYTES = PIECE_BYTES + _ADDED_BYTES


class SealedWriter:
    """A file to write to, which seals what it is given; not seekable.

    It gets its name when the block ends well, and is gone when it does not.
    """

    def __init__(self, path: Path, key: SealKey) -> None:
        self._path, self._key = path, key
        self._beside = path.with_name(f"{path.name}.new")
        self._waiting = bytearray()
        self._number = 0
        self.size = 0
        """Plain bytes so far."""

    def __enter__(self) -> Self:
        make_private_folder(self._path.parent)
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._seal_piece(bytes(self._waiting), is_last=True)
                self._file.flush()
                os.fsync(self._file.fileno())
        if kind is None:
            self._beside.replace(self._path)
            sync_folder(self._path.parent)
        else:
            self._beside.unlink(missing_ok=True)

    def write(self, data: bytes) -> int:
        """Take more; raises KeyGone, OSError."""
        self._waiting += data
        self.size += len(data)
        while len(self._waiting) >= PIECE_BYTES:
            self._seal_piece(bytes(self._waiting[:PIECE_BYTES]), is_last=False)
            del self._waiting[:PIECE_BYTES]
        return len(data)

    def flush(self) -> None:
        """Do nothing: pieces are whole."""

    def _seal_piece(self, plain: bytes, *, is_last: bool) -> None:
        place = _place(self._path.name, self._number, is_last=is_last)
        self._file.write(seal(plain, place, self._key))
        self._number += 1


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A sealed file that is there. `owner` is the id under whose keys it is."""

    path: Path
    owner: uuid.UUID

    def pieces(self) -> Iterator[bytes]:
        """Yield its plain bytes, a piece at a time. Raises Unreadable, OSError."""
        with self.path.open("rb") as file:
            number, sealed = 0, file.read(_SEALED_BYTES)
            while True:
                following = file.read(_SEALED_BYTES)
                place = _place(self.path.name, number, is_last=not following)
                yield open_sealed(sealed, place, self.owner)
                if not following:
                    return
                number, sealed = number + 1, following

    def is_readable(self) -> bool:
        """Say whether it begins with something that opens."""
        try:
            next(self.pieces())
        except (Unreadable, OSError):
            return False
        return True


def _place(name: str, number: int, *, is_last: bool) -> str:
    return f"file/{name}/{number}/{'last' if is_last else 'more'}"
