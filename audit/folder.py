"""What the log keeps outside the database: AUDIT_FOLDER, with small files of text.

A file is either the old one or the new one, whatever happens while it is replaced. Whoever holds
the folder's lock is the only one who changes it; the lock ends with the process.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from chatbot.durable_files import make_private_folder, replace_file

HEAD = "head"


class FolderError(Exception):
    """AUDIT_FOLDER can't be read or written; the message says which file and why."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: {error.strerror or type(error).__name__}")


def read(name: str) -> str | None:
    """Return a file's text, or None where there is no such file. Raises FolderError."""
    path = _folder() / name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(path, _as_os_error(error)) from error


def write(name: str, text: str) -> None:
    """Replace a file so that it outlives a loss of power. Raises FolderError."""
    path = _folder() / name
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise FolderError(path, error) from error


def set_aside(name: str, new_name: str) -> None:
    """Rename a file, where there is one. Raises FolderError."""
    path = _folder() / name
    try:
        path.replace(path.with_name(new_name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise FolderError(path, error) from error


@contextmanager
def locked(name: str = "lock") -> Iterator[bool]:
    """Hold the folder's lock, or another by name, or yield False where somebody else holds it.

    Raises FolderError.
    """
    path = _folder() / name
    try:
        make_private_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FolderError(path, error) from error
    try:
        yield _acquired(descriptor)
    finally:
        os.close(descriptor)


def _acquired(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folder() -> Path:
    return Path(settings.AUDIT_FOLDER)


def _as_os_error(error: OSError | UnicodeDecodeError) -> OSError:
    return error if isinstance(error, OSError) else OSError(0, "holds no text")
