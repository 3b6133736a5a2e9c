"""`make up`, without the installation: how long until the first page, and what memory it takes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from benchmarks.processes import memory
from benchmarks.report import Table, number
from benchmarks.streams import say
from chatbot.local.environment import ROOT

READY_SECONDS = 120.0
SETTLED_SECONDS = 5.0
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


def measure(quick: bool) -> list[Table]:
    """Start on an empty folder, then again on the same one."""
    folder = Path(tempfile.mkdtemp(prefix="parley-bench-"))
    try:
        say("first start")
        first, _ = _start(folder / "data")
        seconds = []
        for _ in range(1 if quick else 3):
            say("another start")
            again, memories = _start(folder / "data")
            seconds.append(again)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    times = [
        ["first start, on an empty folder", number(first)],
        ["second start", number(sorted(seconds)[len(seconds) // 2])],
    ]
    total = ["all together", number(sum(m[1] for m in memories), 0)]
    rows = [[name, number(mib, 0)] for name, mib in memories]
    return [
        Table("From `make up` to the first page, all installed", ["", "seconds"], times),
        Table("Memory of an idle installation (PSS)", ["process", "MiB"], [*rows, total]),
    ]


def _start(data: Path) -> tuple[float, list[tuple[str, float]]]:
    """Start, ask for the first page, note the memory, stop. Returns seconds and MiB by process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env |= {"DATA": str(data), "PORT": str(port)}
    began = time.monotonic()
    command = [sys.executable, "-m", "chatbot.local.up"]
    up = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    try:
        url = _url(data / "run.json", up)
        urllib.request.urlopen(url, timeout=30).close()
        seconds = time.monotonic() - began
        time.sleep(SETTLED_SECONDS)
        return seconds, _memories(up.pid, data)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)


def _url(facts: Path, up: "subprocess.Popen[bytes]") -> str:
    """Wait for the file that says where the page is."""
    deadline = time.monotonic() + READY_SECONDS
    while not facts.exists():
        if up.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("`make up` did not become ready.")
        time.sleep(0.02)
    return str(json.loads(facts.read_text())["url"])


def _memories(up: int, data: Path) -> list[tuple[str, float]]:
    """PSS of each service with its children; their names are those of their pid files."""
    names = {
        int(json.loads(record.read_text())[0]): record.stem
        for record in (data / "run").glob("*.pid")
    }
    found = [
        (names.get(child.pid, child.name()), child.pid) for child in psutil.Process(up).children()
    ]
    own = psutil.Process(up).memory_full_info().pss / (1 << 20)
    return [("supervisor", own), *((name, memory(pid).pss) for name, pid in sorted(found))]
