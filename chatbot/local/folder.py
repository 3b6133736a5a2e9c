"""The one folder that holds everything the one-command mode keeps.

    run/       sockets, pids, the lock, the scheduler's file, metrics of running processes
    logs/      one file per process
    secrets/   keys and passwords, made at the first start
    keyring/   the keys of days, wrapped; leave it out of backups of the rest
    postgres/  redis/  static/  mail/

The folder is made with mode 0700; no folder above it is ever changed.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from chatbot.durable_files import replace_file
from chatbot.local.children import StartError, end_leftovers

# A socket's path has room for 108 bytes on Linux and 104 on macOS, its lock file included.
SOCKET_PATH_BYTES = 100


class DataFolder:
    """The one folder that holds everything: made, locked and asked for its parts.

    Raises StartError when it can't be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True)
            for part in ("run", "logs", "secrets"):
                (self.path / part).mkdir(mode=0o700, exist_ok=True)
            replace_file(self.path / "run" / "writable", b"")
        except OSError as error:
            raise storage_error(error, self.path) from error

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return the secret of this name, made at its first use and kept in `secrets/`."""
        return self.secret_file(name, make).read_text(encoding="utf-8")

    def secret_file(self, name: str, make: Callable[[], str]) -> Path:
        path = self.path / "secrets" / name
        if not path.exists():
            replace_file(path, make().encode())
        return path

    @contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Hold the folder; what a killed holder left running has ended when the block begins.

        Raises StartError naming the holder when somebody else has it.
        """
        with (self.path / "run" / "lock").open("a+", encoding="utf-8") as lock:
            # Asking who holds it takes the lock for an instant.
            if not _take_soon(lock):
                raise StartError(self._in_use())
            lock.truncate(0)
            lock.write(json.dumps({"pid": os.getpid(), "purpose": purpose}))
            lock.flush()
            end_leftovers(self.path)
            yield

    def holder(self) -> dict[str, str | int] | None:
        """Who holds the folder (`pid`, `purpose`), or None when it is free."""
        with (self.path / "run" / "lock").open("a+", encoding="utf-8") as lock:
            if _take(lock, fcntl.LOCK_SH):
                return None
            lock.seek(0)
            # Empty for the instant between taking the lock and signing it.
            return dict(json.loads(lock.read() or "{}"))

    def require_free(self) -> None:
        """Raise StartError naming the holder when somebody holds the folder."""
        if self.holder() is not None:
            raise StartError(self._in_use())

    def _in_use(self) -> str:
        holder = self.holder() or {}
        with suppress(OSError, ValueError, KeyError):
            url = json.loads((self.path / "run.json").read_text())["url"]
            return f"Parley already runs on {self.path}: {url} (process {holder['pid']})."
        return (
            f"The data in {self.path} is in use by `{holder.get('purpose', 'another start')}`"
            f" (process {holder.get('pid', 'unknown')}). Stop that one first,"
            " or choose another folder: DATA=… PORT=… make up."
        )

    def sockets(self, uid: int) -> Path:
        """This user's private folder for sockets: short enough a path, the same at every start."""
        inside = self.path / "run"
        longest = os.fsencode(inside / ".s.PGSQL.5432.lock")
        plain = re.fullmatch(rb"[\w./-]+", longest)
        if plain and len(longest) < SOCKET_PATH_BYTES and inside.stat().st_uid == uid:
            return inside
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return _private_folder(Path(tempfile.gettempdir()) / f"parley-{uid}-{name}", uid)


def _take_soon(lock: TextIO) -> bool:
    for _ in range(5):
        if _take(lock, fcntl.LOCK_EX):
            return True
        time.sleep(0.05)
    return False


def _take(lock: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private_folder(path: Path, uid: int) -> Path:
    """Anybody may write where this lies, so a folder that somebody else put there is refused."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        os.chown(path, uid, -1)
    found = path.lstat()
    private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    if not private or found.st_uid != uid:
        raise StartError(f"{path} should be a private folder of user {uid} and is not: remove it.")
    return path


def storage_error(error: OSError, data: Path) -> StartError:
    """What an error of the file system means for the person, and what to do."""
    where = error.filename or data
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StartError(f"The disk that holds {data} is full. Free some space and start again.")
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return StartError(
            f"{where} can't be written ({os.strerror(error.errno)})."
            " Choose a folder that can: DATA=/path/to/folder make up."
        )
    return StartError(f"{where}: {error.strerror or error}.")


def given(env: Mapping[str, str], name: str) -> str:
    """The value of a variable, or of the file that NAME_FILE names; empty when neither is set."""
    if value := env.get(name):
        return value
    path = env.get(f"{name}_FILE")
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n") if path else ""
    except OSError as error:
        raise StartError(f"{name}_FILE names {path}: {error.strerror}.") from error
