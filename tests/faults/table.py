"""The table of faults in `docs/faults.md`: what the fault tests saw, written by themselves.

    python -m tests.faults.table

runs them and writes the file. In every other run a test fails when what it sees is not the row
that stands in the file, so the file stays true.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

from chatbot.local.environment import ROOT
from tests.faults.page import Page
from tests.faults.site import Question, Row

FILE = ROOT / "docs" / "faults.md"
RECORD = "FAULTS_RECORD"
HEADING = ("Fault", "HTTP status", "Text on the page, or type of the problem", "State of the row")
NOT_STORED = "nothing is stored"
_ABOUT = """# Faults

What a person sees when a part fails, and what the database then says. The fault tests
(`tests/faults/`) cause each of these on real processes and write this table; a test fails when what
it sees differs from its row here. `python -m tests.faults.table` writes the file anew.

In every case the question is kept, no character of the reply is doubled or missing, a reload shows
what the open page shows, and once the fault is over the next question is answered. A message that
is refused before anything is stored stays in the composer. Nothing is left behind: nobody holds a
reservation or a reply, and what was spent is what replies and titles cost. "HTTP status" is the
answer to the question or command; a code of the websocket stands behind it when the page's line was
cut. Where the socket alone is refused, the text is the one that `chat.js` has for its code. What
depends on the moment stands as "…".

"""

FAULTS: list[str] = []


def fault(name: str) -> str:
    """Give a fault its place in the table: the order of these calls."""
    assert name not in FAULTS, name
    FAULTS.append(name)
    return name


@dataclass(frozen=True)
class Seen:
    """One row of the table."""

    fault: str
    status: str
    page: str
    row: str

    @classmethod
    def of(
        cls,
        fault: str,
        status: object,
        page: Page,
        row: Row,
        question: Question,
        beside: str = "",
    ) -> "Seen":
        """Say in words what page and database show of the reply to `question`, and `beside` it."""
        said = " ".join(filter(None, [f"{_how_much(row, question)}.", page.notice(), beside]))
        return cls(fault, str(status), _timeless(said), _state(row))

    @classmethod
    def of_refusal(cls, fault: str, status: int, page: Page) -> "Seen":
        """Say what the page tells of a message that was not taken."""
        return cls(fault, str(status), _timeless(page.refusal()), NOT_STORED)

    @classmethod
    def of_problem(cls, fault: str, status: object, said: str) -> "Seen":
        """Say what a program is told."""
        return cls(fault, str(status), said, NOT_STORED)

    @classmethod
    def of_socket(cls, fault: str, code: int) -> "Seen":
        """Say what the page tells of a socket that was closed with this code."""
        source = (ROOT / "static" / "js" / "chat.js").read_text(encoding="utf-8")
        found = re.search(rf'^  {code}: \["(.*?)", "(.*?)"\],$', source, re.MULTILINE)
        assert found, f"chat.js has no words for {code}"
        return cls(fault, f"socket {code}", f"{found[1]} {found[2]}", "–")

    def line(self) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in astuple(self)) + " |"


def _timeless(text: str) -> str:
    """Return the text without what depends on the moment."""
    text = re.sub(r"on \d+ \w+ \d{4} at \d\d:\d\d UTC", "on … UTC", text)
    text = re.sub(r"(go on in) [^;]+;", r"\1 …;", text)
    return re.sub(r"\d+ %", "… %", text)


def _how_much(row: Row, question: Question) -> str:
    if not row.text:
        return "No text"
    return "The whole reply" if row.text == question.reply else "The text so far"


def _state(row: Row) -> str:
    return f"`{row.state}`" + (f", fault `{row.fault}`" if row.fault else "")


def take_note(seen: Seen) -> None:
    """Record the row when the table is being written; else compare it with the file's."""
    if record := os.environ.get(RECORD):
        with Path(record).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([FAULTS.index(seen.fault), *astuple(seen)]) + "\n")
        return
    assert seen.line() in FILE.read_text(encoding="utf-8").splitlines(), (
        f"docs/faults.md does not say: {seen.line()}\n"
        "If that is right now, write it anew: python -m tests.faults.table"
    )


def named_in_file() -> list[str]:
    """The faults that the file tells of, in its order."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]


def write(lines: list[str]) -> None:
    """Write the file from what was recorded, in the order in which the tests name their faults."""
    by_place = {place: Seen(*cells) for place, *cells in map(json.loads, lines)}
    rule = "| " + " | ".join("---" for _ in HEADING) + " |"
    rows = [by_place[place].line() for place in sorted(by_place)]
    table = ["| " + " | ".join(HEADING) + " |", rule, *rows]
    FILE.write_text(_ABOUT + "\n".join(table) + "\n", encoding="utf-8")


def main() -> int:
    """Run the fault tests and write the file when all pass; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "seen.jsonl"
        command = [sys.executable, "-m", "pytest", "tests/faults", "-q", *sys.argv[1:]]
        command.append("--ignore=tests/faults/test_table.py")
        env = {**os.environ, RECORD: str(record)}
        done = subprocess.run(command, cwd=ROOT, env=env, check=False)
        if done.returncode == 0:
            write(record.read_text(encoding="utf-8").splitlines())
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
