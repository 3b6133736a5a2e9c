"""The demo provider's only knowledge: the project's documentation, section by section.

A section answers a question when their words match. Words are cut to a stem, rare words count more
than common ones, words of the heading more than words of the body. It is a search, not an AI.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GUIDE = "using-parley.md"

_HEADING_WEIGHT = 3.0
# The share of a question (by the weight of its words) that a section must cover to answer it.
_ENOUGH = 0.5
_ENOUGH_WITH_HEADING = 0.4
_LONGEST_QUESTION = 2_000

_WORD = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*$")
_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")
_UNASKED = """
a about after all also am an and any anything are as at be because been but by can could did do does
doing done everybody everything exist exists explain for from get gets give go had happen happens
has have hello help her here hey hi him his how i if in into is it its just know let like make makes
may me mean means might more much must my need no not nothing of off on once one only or other our
out over please say shall she should so some someone something tell than thank thanks that the their
them then there these they thing things this those to too up us use used using very want was way we
were what when where whether which who whom whose why will with would yes you your
"""
_STOP_WORDS = frozenset(_UNASKED.split())


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document under one heading."""

    file: str
    heading: str
    body: str
    level: int = 2

    @property
    def place(self) -> tuple[bool, int]:
        """What decides between sections that match equally: the least is the best."""
        return self.file != GUIDE, -self.level


@dataclass(frozen=True, slots=True)
class Found:
    """What a question led to: the section that answers it, and others near it."""

    best: Section
    near: list[Section]


class Topics:
    """All sections of some documents, to be asked."""

    def __init__(self, sections: list[Section]) -> None:
        self.sections = sections
        self._headings = [_stems(section.heading) for section in sections]
        self._bodies = [_stems(section.body) for section in sections]
        self._known = Counter[str]()
        for heading, body in zip(self._headings, self._bodies, strict=True):
            self._known.update(heading | body)

    @classmethod
    def read(cls, folder: Path) -> "Topics":
        """Read a folder's `*.md`; a folder that does not exist holds no topics.

        The user guide comes first, so that it answers what other documents answer as well.
        """
        files = sorted(folder.glob("*.md"), key=lambda file: (file.name != GUIDE, file.name))
        return cls([s for file in files for s in sections(file.name, file.read_text("utf-8"))])

    def find(self, question: str) -> Found | None:
        """Return the sections that match a question's words best, or None."""
        asked = _stems(question[:_LONGEST_QUESTION])
        if not asked:
            return None
        scores = [self._score(asked, index) for index in range(len(self.sections))]
        # Of two that match equally the guide's is meant, else the deeper one, as more to the point.
        ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], *self.sections[i].place, i))
        matching = [self.sections[index] for index in ranked if scores[index] > 0]
        return Found(matching[0], matching[1:3]) if matching else None

    def _score(self, asked: set[str], index: int) -> float:
        """Weigh a section: 0 where it covers too little of the question."""
        weight = {word: self._rarity(word) for word in asked}
        heading, body = asked & self._headings[index], asked & self._bodies[index]
        covered = sum(weight[word] for word in heading | body)
        # One word out of several that only the body holds is a chance hit.
        by_chance = not heading and len(body) < min(2, len(asked))
        enough = _ENOUGH_WITH_HEADING if heading else _ENOUGH
        if by_chance or covered < enough * sum(weight.values()):
            return 0.0
        return covered + (_HEADING_WEIGHT - 1) * sum(weight[word] for word in heading)

    def _rarity(self, word: str) -> float:
        return math.log(1 + (1 + len(self.sections)) / (1 + self._known[word]))


def sections(file: str, text: str) -> Iterator[Section]:
    """Split a Markdown text by its headings; a heading inside a code fence is none."""
    heading, level, body, fence = "", 0, list[str](), ""
    for line in [*_COMMENT.sub("", text).splitlines(), None]:
        found = _HEADING.match(line) if line is not None and not fence else None
        if line is None or found:
            yield from _section(file, heading, level, body)
            if found:
                heading, level, body = found[2], len(found[1]), []
            continue
        if mark := _FENCE.match(line):
            fence = _fence_after(fence, mark[1])
        body.append(line)


def _fence_after(open_fence: str, mark: str) -> str:
    if not open_fence:
        return mark
    closes = mark[0] == open_fence[0] and len(mark) >= len(open_fence)
    return "" if closes else open_fence


def _section(file: str, heading: str, level: int, lines: list[str]) -> Iterator[Section]:
    # What a document links to lies beside it, not beside the conversation.
    body = _RELATIVE_LINK.sub(r"\1", _IMAGE.sub("", "\n".join(lines))).strip()
    if heading and body:
        yield Section(file, heading, body, level)


def _stems(text: str) -> set[str]:
    words = _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return {_stem(word) for word in words if word not in _STOP_WORDS and len(word) > 1}


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "ed", "es", "s", "y", "e"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3 and not (ending == "s" and stem.endswith("s")):
            # stopping, stopped and stop are one word; so are pass and passed
            doubled = stem[-1] == stem[-2] and stem[-1] not in "aeiouls"
            return stem[:-1] if doubled and ending in {"ing", "ed"} else stem
    return word
