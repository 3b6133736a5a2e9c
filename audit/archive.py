"""A ZIP file whose large members are compressed piece by piece, by several threads, and resumably.

A member grows in a file beside the ZIP: each piece is raw deflate (RFC 1951) that ends at a byte's
border, so that pieces follow each other as one stream and a file that was cut back to the end of a
piece can be gone on with. `write_zip` puts the finished members together without compressing again
(APPNOTE 6.3, with ZIP64 where a size asks for it).
"""

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

# Of zlib's levels the one that keeps up with the rows; the next ones halve the speed for 10 % less.
LEVEL = 1
# An empty last block: no piece says that it is the last.
END = b"\x03\x00"
RAW = -zlib.MAX_WBITS
CHUNK_BYTES = 1 << 20
# Its contents are at most a thousand times as long.
COMPRESSED_CHUNK_BYTES = 1 << 15
# From here on, sizes stand in the ZIP64 extra field.
ZIP64_FROM = 0xFFFFFFFF


class DamagedMember(Exception):
    """What was written of a member before can't be gone on with; the message says which."""


class Member:
    """A file of the archive that is being written.

    `size` and `crc` are of its contents, `compressed` of its file: bytes all. One thread at a time
    may append.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.path = folder / f"{name.replace('/', '-')}.deflate"
        self.size = self.compressed = self.crc = 0
        self._digest = hashlib.sha256()

    def append(self, data: bytes) -> None:
        """Add contents, as a piece of their own. They are on disk when this returns."""
        if not data:
            return
        compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW)
        piece = compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)
        with open(self.path, "ab", opener=_private) as file:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        self._digest.update(data)
        self.crc = zlib.crc32(data, self.crc)
        self.size += len(data)
        self.compressed += len(piece)

    @property
    def sha256(self) -> str:
        """The digest of the contents so far, in hexadecimal."""
        return self._digest.hexdigest()

    def place(self) -> dict[str, int]:
        """Return how far it is, for `go_on_from`."""
        return {"size": self.size, "compressed": self.compressed, "crc": self.crc}

    def go_on_from(self, place: dict[str, int]) -> None:
        """Cut off what was written behind this place. Raises DamagedMember."""
        self.size, self.compressed, self.crc = place["size"], place["compressed"], place["crc"]
        if not self.compressed:
            self.path.unlink(missing_ok=True)
            return
        if not self.path.exists() or self.path.stat().st_size < self.compressed:
            raise DamagedMember(f"Of {self.name}, less is there than was written.")
        os.truncate(self.path, self.compressed)
        self._read_again()

    def _read_again(self) -> None:
        decompressor, size, crc = zlib.decompressobj(RAW), 0, 0
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(COMPRESSED_CHUNK_BYTES):
                    data = decompressor.decompress(chunk)
                    self._digest.update(data)
                    size, crc = size + len(data), zlib.crc32(data, crc)
        except zlib.error as error:
            raise DamagedMember(f"{self.name} was damaged on disk.") from error
        if (size, crc) != (self.size, self.crc):
            raise DamagedMember(f"{self.name} was damaged on disk.")


def write_zip(path: Path, members: Iterable[Member | tuple[str, bytes]], made_at: datetime) -> int:
    """Write a ZIP of finished members and of small files, (name, contents); return its bytes.

    It appears under its name when it is complete, and can be read by its owner alone.
    """
    beside = path.with_name(f"{path.name}.new")
    with open(beside, "wb", opener=_private) as file:
        entries = [_added(file, member, made_at) for member in members]
        _write_directory(file, entries)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return size


@dataclass(frozen=True)
class _Entry:
    name: bytes
    made_at: datetime
    crc: int
    compressed: int
    size: int
    offset: int


def _added(file: BinaryIO, member: Member | tuple[str, bytes], made_at: datetime) -> _Entry:
    offset = file.tell()
    if isinstance(member, Member):
        name, crc, size = member.name.encode(), member.crc, member.size
        entry = _Entry(name, made_at, crc, member.compressed + len(END), size, offset)
        file.write(_local_header(entry))
        if member.compressed:
            with member.path.open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
        file.write(END)
        return entry
    name, data = member[0].encode(), member[1]
    body = zlib.compress(data, wbits=RAW)
    entry = _Entry(name, made_at, zlib.crc32(data), len(body), len(data), offset)
    file.write(_local_header(entry) + body)
    return entry


def _common(entry: _Entry, sizes: tuple[int, int], extra: bytes) -> bytes:
    """Return what both headers have: from "version needed" to the length of the extra field."""
    at = entry.made_at
    return struct.pack(
        "<HHHHHIIIHH",
        45 if extra else 20,
        1 << 11,  # names are UTF-8
        zlib.DEFLATED,
        at.hour << 11 | at.minute << 5 | at.second // 2,
        (at.year - 1980) << 9 | at.month << 5 | at.day,
        entry.crc,
        *sizes,
        len(entry.name),
        len(extra),
    )


def _fitted(*values: int) -> tuple[list[int], bytes]:
    """Return the values for 32-bit fields, and the ZIP64 extra field for those that do not fit."""
    large = [value for value in values if value >= ZIP64_FROM]
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    return [0xFFFFFFFF if value >= ZIP64_FROM else value for value in values], extra


def _local_header(entry: _Entry) -> bytes:
    sizes, extra = (entry.compressed, entry.size), b""
    if max(sizes) >= ZIP64_FROM:
        # Here both stand in the extra field or none does; the size before the compressed size.
        sizes = (0xFFFFFFFF, 0xFFFFFFFF)
        extra = struct.pack("<HHQQ", 1, 16, entry.size, entry.compressed)
    return b"PK\x03\x04" + _common(entry, sizes, extra) + entry.name + extra


def _write_directory(file: BinaryIO, entries: list[_Entry]) -> None:
    start = file.tell()
    for entry in entries:
        (size, compressed, offset), extra = _fitted(entry.size, entry.compressed, entry.offset)
        # Made on Unix, where the attributes hold the mode: a file that its owner may read.
        file.write(b"PK\x01\x02" + struct.pack("<H", 3 << 8 | 45))
        file.write(_common(entry, (compressed, size), extra))
        file.write(struct.pack("<HHHII", 0, 0, 0, 0o100600 << 16, offset) + entry.name + extra)
    length, count = file.tell() - start, len(entries)
    if max(start, length) >= ZIP64_FROM:
        end = file.tell()
        file.write(b"PK\x06\x06")
        file.write(struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, start))
        file.write(b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1))
    (length, start), _ = _fitted(length, start)
    file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, length, start, 0))


def _private(path: Any, flags: int) -> int:
    return os.open(path, flags, 0o600)
