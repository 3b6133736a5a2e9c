"""`python -m benchmarks`: measure speed against the provider simulator, and print tables.

python -m benchmarks                    everything, about six minutes
python -m benchmarks --quick            a short look, about a minute
python -m benchmarks --only streams     a part: streams, browser, startup
python -m benchmarks --write            and put the figures into docs/benchmarks.md
"""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from benchmarks import browser, startup, streams
from benchmarks.installation import installation
from benchmarks.people import make_people, use_installation
from benchmarks.processes import machine
from benchmarks.report import Table, write
from chatbot.local.environment import ROOT

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
        "streams": measure_streams,
        "browser": measure_browser,
        "startup": startup.measure,
    }
    tables = []
    for name, measure in parts.items():
        if name in (chosen.only or parts):
            print(f"\n{name}")
            found = measure(chosen.quick)
            print("".join(table.as_text() for table in found))
            tables += found
    if chosen.write:
        write(DOCUMENT, tables, head)
        print(f"Written to {DOCUMENT}.")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    parser.add_argument("--only", action="append", choices=["streams", "browser", "startup"])
    parser.add_argument("--write", action="store_true", help="update docs/benchmarks.md")
    return parser.parse_args()


def _command() -> str:
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def _load() -> str:
    return Path("/proc/loadavg").read_text().split()[0]


def measure_streams(quick: bool) -> list[Table]:
    """Many streams at once; see `benchmarks.streams`."""
    plan = streams.QUICK if quick else streams.FULL
    with installation("".join(streams.prose(plan.tokens))) as running:
        use_installation(running.env)
        bench = streams.Bench(running, make_people(plan.readers), plan)
        return uvloop.run(bench.measure())


def measure_browser(quick: bool) -> list[Table]:
    """One page in Chromium; see `benchmarks.browser`."""
    with installation("".join(streams.prose(300))) as running:
        use_installation(running.env)
        return browser.measure(running, quick=quick)


if __name__ == "__main__":
    sys.exit(main())
