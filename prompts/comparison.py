"""Two wordings side by side: lines that changed, and within them the words."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, NamedTuple

# difflib's time grows with the square of what it compares; beyond this it is told less finely.
MAX_LINES = 2_000
MAX_WORD_PAIRS = 2_000_000

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


class Part(NamedTuple):
    """A piece of a line, and whether it stands on this side only."""

    text: str
    is_changed: bool = False


class Side(NamedTuple):
    """A line of one side; `number` counts from 1."""

    number: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Two lines beside each other; where a side has none it is None."""

    left: Side | None
    right: Side | None
    is_same: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two contents, and what else is set otherwise, as (name, left, right)."""

    rows: Sequence[Row]
    settings: Sequence[tuple[str, str, str]]

    @property
    def lines_out(self) -> int:
        """How many lines of the left side are gone or changed."""
        return sum(row.left is not None for row in self.rows if not row.is_same)

    @property
    def lines_in(self) -> int:
        """How many lines of the right side are new or changed."""
        return sum(row.right is not None for row in self.rows if not row.is_same)

    @property
    def is_same(self) -> bool:
        """Whether both sides say the same."""
        return not (self.settings or self.lines_out or self.lines_in)


def compare(left: Any, right: Any) -> Comparison:
    """Compare two of `publishing.Terms`."""
    before, after = _settings(left), _settings(right)
    changed = [
        (name, before.get(name, ""), after.get(name, ""))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
    return Comparison(list(_rows(left.content.split("\n"), right.content.split("\n"))), changed)


def _settings(terms: Any) -> dict[str, str]:
    shown = {"model": terms.model or "the model by default"}
    shown |= {name: f"{value:g}" for name, value in sorted(terms.parameters.items())}
    for variable in terms.variables:
        default = variable.default
        required = ", required" if variable.required else ""
        shown[f"variable {variable.name}"] = f"{variable.kind}{required}: {_in_words(default)}"
    return shown


def _in_words(default: str | bool | tuple[str, ...]) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ", ".join(default) if isinstance(default, tuple) else default


def _rows(left: list[str], right: list[str]) -> Iterator[Row]:
    words = _Words()
    for kind, i1, i2, j1, j2 in _opcodes(left, right):
        pairs = zip_longest(range(i1, i2), range(j1, j2))
        for i, j in pairs:
            if kind == "equal":
                yield Row(_whole(left, i), _whole(right, j), is_same=True)
            elif i is None or j is None:
                yield Row(_whole(left, i), _whole(right, j), is_same=False)
            else:
                parts = words.between(left[i], right[j])
                yield Row(Side(i + 1, parts[0]), Side(j + 1, parts[1]), is_same=False)


def _opcodes(left: list[str], right: list[str]) -> list[tuple[str, int, int, int, int]]:
    if max(len(left), len(right)) <= MAX_LINES:
        return list(SequenceMatcher(None, left, right).get_opcodes())
    same = next(
        (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    return [("equal", 0, same, 0, same), ("replace", same, len(left), same, len(right))]


def _whole(lines: list[str], at: int | None) -> Side | None:
    return None if at is None else Side(at + 1, (Part(lines[at]),))


class _Words:
    """Compares lines word by word, as long as that does not cost too much."""

    def __init__(self) -> None:
        self._left_to_spend = MAX_WORD_PAIRS

    def between(self, left: str, right: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        a, b = _WORDS.findall(left), _WORDS.findall(right)
        self._left_to_spend -= len(a) * len(b)
        matcher = SequenceMatcher(None, a, b)
        # Lines that have little in common are read more easily as a whole.
        if self._left_to_spend < 0 or matcher.ratio() < 0.4:
            return (Part(left, is_changed=True),), (Part(right, is_changed=True),)
        out, new = [], []
        for kind, i1, i2, j1, j2 in matcher.get_opcodes():
            out.append(Part("".join(a[i1:i2]), is_changed=kind != "equal"))
            new.append(Part("".join(b[j1:j2]), is_changed=kind != "equal"))
        return tuple(part for part in out if part.text), tuple(part for part in new if part.text)
