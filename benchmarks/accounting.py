"""What the figures are computed with: no I/O, no clock.

Text is counted in letters, that is, in characters which are not white space: Markdown turns line
ends into spaces and paragraphs, and everything else of plain prose stays what it was.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import unescape

import orjson

_PARTIAL = re.compile(
    r'<hx-partial hx-target="([^"]*)" hx-swap="([^"]*)">(.*?)</hx-partial>', re.DOTALL
)
_TAG = re.compile(r"<[^>]*>")


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of them lie, interpolated; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Iterable[float]) -> float:
    """Return the 50th percentile."""
    return percentile(values, 0.5)


def letters(text: str) -> int:
    """Count the characters that are not white space."""
    return len("".join(text.split()))


def visible_letters(html: str) -> int:
    """Count the letters of what HTML shows."""
    return letters(unescape(_TAG.sub("", html)))


def token_ends(tokens: Iterable[str]) -> list[int]:
    """Return for each token how many letters the text has with it."""
    ends, total = [], 0
    for token in tokens:
        total += letters(token)
        ends.append(total)
    return ends


@dataclass(slots=True)
class ReplyOnPage:
    """How many letters of one run's reply a page shows, from the frames that it was sent."""

    fence: int
    _closed: int = 0
    _open: int = 0

    @property
    def letters(self) -> int:
        return self._closed + self._open

    def apply(self, html: str) -> None:
        """Take a frame's HTML."""
        for target, swap, content in _PARTIAL.findall(html):
            if target == f"#open-{self.fence}":
                self._in_open(swap, content)
            elif target.startswith(f"#open-{self.fence}>"):  # a suffix
                self._open += visible_letters(content)
            elif target == f"#prose-{self.fence}":
                self._closed, self._open = visible_letters(content), 0

    def start_over(self, html: str) -> None:
        """Take a snapshot of the thread, which replaces all that was shown."""
        _, _, reply = html.partition(f'id="prose-{self.fence}"')
        shown = reply.partition(f'id="evidence-{self.fence}"')[0].partition(">")[2]
        self._closed, self._open = visible_letters(shown.rpartition("<")[0]), 0

    def _in_open(self, swap: str, content: str) -> None:
        if swap == "beforebegin":
            self._closed += visible_letters(content)
        elif swap == "delete":
            self._open = 0
        else:
            self._open = visible_letters(content)


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a socket; `at` is CLOCK_MONOTONIC, `wire_bytes` all bytes until then."""

    at: float
    wire_bytes: int
    text: str


@dataclass(slots=True)
class ReadReply:
    """What one page saw of one reply: letters over time, and bytes."""

    samples: list[tuple[float, int]] = field(default_factory=list)
    raw_bytes: int = 0
    wire_bytes: int = 0
    frames: int = 0
    snapshots: int = 0
    text_raw_bytes: int = 0
    """Without the first frame (question, empty reply) and the last (what stands below a reply)."""
    text_wire_bytes: int = 0

    @property
    def first_text_at(self) -> float:
        return next((at for at, shown in self.samples if shown), float("nan"))


def read_reply(messages: Sequence[Received], wire_bytes_before: int) -> ReadReply:
    """Apply the messages that belong to one reply, from the frame that begins it to its last."""
    read, page, before = ReadReply(), None, wire_bytes_before
    for number, message in enumerate(messages):
        envelope = orjson.loads(message.text)
        if page is None:
            page = ReplyOnPage(int(envelope["id"].partition(":")[0]))
        if envelope.get("over"):
            page.start_over(envelope["content"])
            read.snapshots += 1
        else:
            page.apply(envelope["content"])
        read.samples.append((message.at, page.letters))
        raw, wire = len(message.text.encode()), message.wire_bytes - before
        before = message.wire_bytes
        read.frames += 1
        read.raw_bytes += raw
        read.wire_bytes += wire
        if 0 < number < len(messages) - 1:
            read.text_raw_bytes += raw
            read.text_wire_bytes += wire
    return read


def delays(
    sent: Sequence[float], ends: Sequence[int], samples: Sequence[tuple[float, int]]
) -> list[float]:
    """Return for each token how long after it was sent the page had the text up to its end.

    `sent` and `ends` belong together, token by token; the times are seconds. A token that never
    arrived is left out, so compare the lengths.
    """
    found, at = [], 0
    for sent_at, needed in zip(sent, ends, strict=False):
        while at < len(samples) and samples[at][1] < needed:
            at += 1
        if at == len(samples):
            break
        found.append(samples[at][0] - sent_at)
    return found


def is_sustained(
    sent: Sequence[float], arrived: Sequence[float], *, share: float = 0.97, lag: float = 0.5
) -> bool:
    """Whether all tokens came, at `share` of the rate they were sent, the last within `lag` s."""
    if len(arrived) < len(sent) or len(sent) < 2:
        return len(arrived) == len(sent)
    taken = arrived[-1] - arrived[0]
    return (sent[-1] - sent[0]) >= share * taken and arrived[-1] - sent[-1] <= lag
