"""What processes use, read from outside: CPU, the wait for a core, memory. Linux only."""

import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1 << 20


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, in nanoseconds' steps (clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


def family_cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, ended ones included; steps of 10 ms."""
    total = 0.0
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def waited_seconds(pid: int) -> float:
    """How long the threads of a process were ready to run and had to wait for their core.

    They wait for one another too. Far more than in another run of the same means that something
    else ran on that core.
    """
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            total += int((thread / "schedstat").read_text().split()[1])
    return total / 1e9


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB; `pss` counts what several processes share once, divided among them."""

    rss: float
    pss: float


def memory(pid: int) -> Memory:
    """Memory of a process and its children."""
    rss = pss = 0
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = process.memory_full_info()
            rss, pss = rss + used.rss, pss + used.pss
    return Memory(rss / MIB, pss / MIB)


def machine() -> str:
    """Describe the machine in a line."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if "model name" in line), "CPU")
    gib = psutil.virtual_memory().total / (1 << 30)
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{psutil.cpu_count()} × {model}, {gib:.0f} GiB, {system}"
