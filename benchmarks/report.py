"""Figures as tables: for the terminal, and for docs/benchmarks.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

END = "<!-- end of figures -->"


@dataclass(slots=True)
class Table:
    """One table; `note` says what the columns mean and under which conditions."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def as_text(self) -> str:
        """For a terminal: columns aligned."""
        lines = [list(self.columns), *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        body = "\n".join(
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )
        return f"\n{self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def as_markdown(self) -> str:
        """For the documentation."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [list(self.columns), rule, *self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"### {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def number(value: float, digits: int = 1) -> str:
    """A figure for a cell; a dash where there is none."""
    return "–" if value != value else f"{value:,.{digits}f}"  # noqa: PLR0124 - NaN


def write(
    path: Path, tables: Iterable[Table], head: str, *, command: str = "python -m benchmarks"
) -> None:
    """Put the tables between a command's marks in the document; what stands around them is kept."""
    begin = f"<!-- figures: written by `{command} --write` -->"
    text = (
        path.read_text(encoding="utf-8") if path.exists() else f"# Benchmarks\n\n{begin}\n{END}\n"
    )
    before, _, rest = text.partition(begin)
    after = rest.partition(END)[2]
    body = "\n".join(table.as_markdown() for table in tables)
    path.write_text(f"{before}{begin}\n\n{head}\n\n{body}\n{END}{after}", encoding="utf-8")
