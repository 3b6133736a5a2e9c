"""`python -m benchmarks`: measure speed against the provider simulator, and print tables.

python -m benchmarks                    everything, about twelve minutes
python -m benchmarks --quick            a short look, about four minutes
python -m benchmarks --only streams     a part: streams, guards, chat, browser, startup
python -m benchmarks --write            and put the figures into docs/benchmarks.md
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from benchmarks import browser, chat, guards, startup, streams
from benchmarks.processes import machine
from benchmarks.report import Table, write
from chatbot.local.environment import ROOT

PARTS = ("streams", "guards", "chat", "browser", "startup")
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Measure what was asked for."""
    chosen = _arguments()
    if sys.platform != "linux":
        print("The benchmark reads /proc and pins processes to cores: it needs Linux.")
        return 1
    head = f"{datetime.now(UTC):%Y-%m-%d}, `{_command()}` on {machine()}; load {_load()} before."
    print(head)
    parts: dict[str, Callable[[bool], list[Table]]] = {
        "streams": streams.measure,
        "guards": guards.measure,
        "chat": chat.measure,
        "browser": browser.measure,
        "startup": startup.measure,
    }
    tables = []
    for name, measure in parts.items():
        if name in (chosen.only or parts):
            print(f"\n{name}")
            found = _in_own_process(measure, chosen.quick)
            print("".join(table.as_text() for table in found))
            tables += found
    if chosen.write:
        write(DOCUMENT, tables, head)
        print(f"Written to {DOCUMENT}.")
    return 0


def _in_own_process(measure: Callable[[bool], list[Table]], quick: bool) -> list[Table]:
    """Each part has an installation of its own, and Django's settings are read once a process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, quick).result()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--write", action="store_true", help="update docs/benchmarks.md")
    return parser.parse_args()


def _command() -> str:
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def _load() -> str:
    return Path("/proc/loadavg").read_text().split()[0]


if __name__ == "__main__":
    sys.exit(main())
