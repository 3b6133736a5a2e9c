"""How well and how fast personal data is found: `python -m benchmarks.pii [--write]`.

Two sets of texts: cases written before the detector, and messages written after it. Every miss and
every false alarm is listed. With `--write` the tables go into docs/privacy.md, which also keeps the
figures of the first runs, when the detector had not seen the texts.
"""

import argparse
import platform
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from benchmarks.apps import load_apps
from benchmarks.report import Table, number, write

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests/data/pii_cases.jsonl"
MESSAGES = ROOT / "tests/data/pii_messages.jsonl"
SETS = {"Cases, written before the detector": CASES, "Messages, written after it": MESSAGES}
DOCUMENT = ROOT / "docs/privacy.md"
KILOBYTE = 1024

Detect = Callable[[str], list]


def cases(path: Path = CASES) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Yield each text with the spans that are personal in it, as (kind, start, end)."""
    for line in path.read_bytes().splitlines():
        case = orjson.loads(line)
        expected, at = [], 0
        for kind, value in case["found"]:
            start = case["text"].index(value, at)
            at = start + len(value)
            expected.append((kind, start, at))
        yield case["text"], expected


@dataclass(slots=True)
class Score:
    """Counts by kind, and each error as (kind, piece, text)."""

    expected: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    true: Counter[str] = field(default_factory=Counter)
    misses: list[tuple[str, str, str]] = field(default_factory=list)
    alarms: list[tuple[str, str, str]] = field(default_factory=list)


def score(detect: Detect, path: Path = CASES) -> Score:
    """Compare what is found with what should be: a piece is found when all of it is covered."""
    total = Score()
    for text, expected in cases(path):
        findings = detect(text)
        for kind, start, end in expected:
            letters = {at for at in range(start, end) if text[at].isalnum()}
            same = {at for f in findings if f.kind == kind for at in range(f.start, f.end)}
            any_kind = {at for f in findings for at in range(f.start, f.end)}
            total.expected[kind] += 1
            total.right[kind] += letters <= same
            total.hidden[kind] += letters <= any_kind
            if not letters <= same:
                total.misses.append((kind, text[start:end], text))
        for finding in findings:
            total.found[finding.kind] += 1
            if any(
                k == finding.kind and s < finding.end and finding.start < e for k, s, e in expected
            ):
                total.true[finding.kind] += 1
            else:
                total.alarms.append((finding.kind, text[finding.start : finding.end], text))
    return total


def quality(title: str, path: Path, total: Score) -> list[Table]:
    """Recall and precision of each kind, and the errors one by one."""
    texts = [expected for _, expected in cases(path)]
    innocent = sum(not expected for expected in texts)
    rates = Table(
        title,
        ["kind", "pieces", "recall", "hidden under any kind", "findings", "precision"],
        note=f"{len(texts)} texts, {innocent} of them with nothing to find."
        " Recall: all letters and digits of the piece are in findings of its kind. Precision:"
        " the finding touches a piece of its kind. No case was taken out or added afterwards.",
    )
    for kind in [*sorted(total.expected | total.found), None]:
        rates.rows.append(_rates(total, kind))
    errors = Table(f"{title}: what is wrong", ["kind", "error", "piece", "text"])
    for error, pieces in (("missed", total.misses), ("false alarm", total.alarms)):
        for kind, piece, text in pieces:
            errors.rows.append([kind, error, _in_a_cell(piece), _in_a_cell(text)])
    return [rates, errors]


def _rates(total: Score, kind: str | None) -> list[str]:
    def of(counter: Counter[str]) -> int:
        return counter.total() if kind is None else counter[kind]

    def rate(part: int, whole: int) -> str:
        return number(part / whole if whole else float("nan"), 3)

    n, found = of(total.expected), of(total.found)
    return [
        kind or "all",
        str(n),
        rate(of(total.right), n),
        rate(of(total.hidden), n),
        str(found),
        rate(of(total.true), found),
    ]


def _in_a_cell(text: str) -> str:
    text = text.replace("\n", "⏎").replace("|", "\\|")
    return f"`{text if len(text) <= 60 else text[:59] + '…'}`"


def texts() -> dict[str, str]:
    """Ordinary texts, dense ones, and such as are made to take long."""
    prose = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    code = (ROOT / "benchmarks/provider_simulator.py").read_text() * 4
    table = "".join(
        f"Sam {n},sam{n}@example.org,+44 7700 900{n:03},192.0.2.{n % 256}\n" for n in range(900)
    )
    size = 64 * KILOBYTE
    hostile = {
        "digits in one run": "1",
        "digits and spaces": "1 ",
        "digits in fours": "4111 ",
        "telephone-like": "030 1234-",
        "plus signs": "+1 202 ",
        "at signs": "a@a.",
        "colons": "1:",
        "dots": "1.1.",
        "key beginnings": "-----BEGIN PRIVATE KEY-----\nA",
        "addresses of accounts": "DE89 3704 ",
        "words for birth": "born on ",
        "capitals": "Am Alten ",
        "assignments": "password=",
        "letters beyond Latin-1": "ł中 ",
        "random": "",
    }
    measured = {"documentation": prose, "Python": code, "a list of people": table}
    for name, piece in hostile.items():
        measured[f"hostile: {name}"] = (
            piece * (size // len(piece)) if piece else secrets.token_hex(size // 2)
        )
    return measured


def speed(detect: Detect) -> Table:
    """Milliseconds of one core for each kilobyte, and whether four times the text takes longer."""
    table = Table(
        "Time",
        ["text", "KB", "ms per KB", "in a message of 1 KB"],
        note=f"CPU time, best of three. {platform.machine()}, CPython {platform.python_version()}.",
    )
    for name, text in texts().items():
        size = len(text.encode()) / KILOBYTE
        whole, short = _cpu_ms(detect, text) / size, _cpu_ms(detect, text[:KILOBYTE])
        table.rows.append([name, number(size, 0), number(whole, 3), number(short, 3)])
    return table


def _cpu_ms(detect: Detect, text: str) -> float:
    times = []
    for _ in range(3):
        began = time.process_time()
        detect(text)
        times.append(time.process_time() - began)
    return min(times) * 1000


def main() -> int:
    """Measure, print, and write when asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pii", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/privacy.md")
    chosen = parser.parse_args()
    load_apps()
    from conversations.turn.pii import detect  # noqa: PLC0415 - needs the apps

    tables = [
        table for title, path in SETS.items() for table in quality(title, path, score(detect, path))
    ]
    tables.append(speed(detect))
    for table in tables:
        print(table.as_text())
    if chosen.write:
        write(DOCUMENT, tables, f"Measured on {platform.machine()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
