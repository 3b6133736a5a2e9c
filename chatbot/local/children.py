"""Processes that belong to one data folder and never outlive their supervisor.

A child gets a session of its own (Ctrl-C in the terminal reaches the supervisor alone) and a log
file. Its pid is recorded beside its start time, so that a later start can tell a leftover from a
stranger who was given the same number. On Linux the kernel ends the children when the supervisor
is killed; elsewhere the next start does, by these records.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from chatbot.durable_files import replace_file

LINUX = sys.platform == "linux"
MARK = "PARLEY_CHILD_OF"
LOG_KEPT_BYTES = 5_000_000
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """What stops the start, said in a sentence or two for the person at the terminal."""


class Child:
    """One supervised process, which can be started again after it has ended.

    ``before_exec`` runs between fork and exec; ``stdin`` holds a few kilobytes at most. Start
    children from the main thread: the kernel's death signal follows the *thread* that forked, not
    the process.
    """

    def __init__(  # noqa: PLR0913 - a process has that many properties
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        data: Path,
        cwd: Path | str = "/",
        stop_signal: signal.Signals = signal.SIGTERM,
        before_exec: Callable[[], None] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: str = "",
    ) -> None:
        self.name = name
        self.log = data / "logs" / f"{name}.log"
        self._command = [str(part) for part in command]
        self._env = {**env, MARK: str(data)}
        self._cwd = cwd
        self._stop_signal = stop_signal
        self._before_exec = before_exec
        self._pass_fds = tuple(pass_fds)
        self._stdin = stdin.encode()
        self._record = data / "run" / f"{name}.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start it. Raises OSError when its log can't be written or its program can't be run."""
        self._discard()
        with open_log(self.log) as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self._pass_fds,
                preexec_fn=self._preparation(),  # noqa: PLW1509 - the supervisor has one thread
            )
        record = [self.pid, start_time(self.pid), int(self._stop_signal)]
        replace_file(self._record, json.dumps(record).encode())
        if self._process.stdin:
            # It fits into the pipe, so this waits for nobody.
            with suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(self._stdin)

    def _preparation(self) -> Callable[[], None]:
        supervisor = os.getpid()

        def prepare() -> None:
            if self._before_exec:
                self._before_exec()
            if LINUX:
                # Behind every change of credentials, because that resets it.
                libc.prctl(PR_SET_PDEATHSIG, int(self._stop_signal))
                if os.getppid() != supervisor:
                    os._exit(1)

        return prepare

    @property
    def pid(self) -> int:
        """Process id of the last start; 0 before any."""
        return self._process.pid if self._process else 0

    def poll(self) -> int | None:
        """Exit status (negative: the signal), or None while it runs or before its first start."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Ask it to end, insist after ``grace_seconds``, and end what it has left behind."""
        self.ask()
        self.wait(grace_seconds)
        self.kill()

    def ask(self, number: signal.Signals | None = None) -> None:
        """Send ``number``, or the signal that ends it in good order."""
        if self._process and self.running:
            self._process.send_signal(number or self._stop_signal)

    def wait(self, seconds: float) -> bool:
        """True if it has ended within ``seconds``."""
        try:
            if self._process:
                self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        self.ask(signal.SIGKILL)
        self.wait(10)
        self._discard()

    def _discard(self) -> None:
        """Forget the ended process, and end the children that share its group."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None
        self._record.unlink(missing_ok=True)

    def last_words(self) -> str:
        """The last line of its output since the last start."""
        lines = [line.strip() for line in self.said().splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing."

    def said(self) -> str:
        """Its output since the last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")


def open_log(path: Path) -> BinaryIO:
    """Open for appending, readable by its owner alone; one that has grown too long is set aside."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_KEPT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def start_time(pid: int) -> str:
    """What tells this process from a later one of the same number; empty when there is none."""
    if not LINUX:
        ps = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return ps.stdout.strip()
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "" if state in "ZX" else f"{boot}/{fields[18]}"


def end_leftovers(data: Path, *, grace_seconds: float = 20.0) -> None:
    """End what a killed supervisor of this folder has left running. Call with the folder locked."""
    for record in sorted((data / "run").glob("*.pid")):
        with suppress(ValueError, TypeError):
            pid, started, stop_signal = json.loads(record.read_text())
            _end(pid, started, stop_signal, grace_seconds)
        record.unlink(missing_ok=True)
    for pid in _marked(data):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _end(pid: int, started: str, stop_signal: int, grace_seconds: float) -> None:
    deadline = time.monotonic() + grace_seconds
    for number in (stop_signal, signal.SIGKILL):
        if not started or start_time(pid) != started:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        while start_time(pid) == started and time.monotonic() < deadline:
            time.sleep(0.02)


def _marked(data: Path) -> Iterator[int]:
    """Orphans of ended children: they still carry the mark in their environment (Linux)."""
    mark = f"{MARK}={data}".encode()
    for process in Path("/proc").glob("[0-9]*") if LINUX else ():
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)
