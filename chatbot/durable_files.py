"""Files that outlive a loss of power: each is the old one or the new one, never a half."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Let a file hold `data`, with these permissions; its folder is made. Raises OSError."""
    with written_beside(path, data) as written:
        written.chmod(mode)
        written.replace(path)
        sync_folder(path.parent)


@contextmanager
def written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """Give a file with this data in the folder of `path`, on disk, to be renamed or linked.

    What is left of it afterwards is removed. Raises OSError.
    """
    make_private_folder(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def make_private_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone.

    `Path.mkdir` gives the mode to the last one alone. Raises OSError.
    """
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
