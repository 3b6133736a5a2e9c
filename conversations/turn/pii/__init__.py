"""Personal data and secrets in a text, by patterns and check digits: no network, no model.

Detection is not complete, and can't be. What is found, what is not, and how often, stands in
docs/privacy.md; `python -m benchmarks.pii` measures it. The time is linear in the text.
"""

from bisect import bisect
from collections.abc import Iterable

from conversations.turn.pii.addresses import emails, ips, streets
from conversations.turn.pii.credentials import credentials
from conversations.turn.pii.identity import birth_dates, named_numbers, shaped_numbers
from conversations.turn.pii.names import names
from conversations.turn.pii.payment import cards, ibans
from conversations.turn.pii.phones import phones_abroad, phones_at_home
from conversations.turn.pii.plain import Finding, Recogniser, plain

__all__ = ["KINDS", "Finding", "detect", "mask", "mask_for_log", "replaced", "with_kinds"]

KINDS = (
    "ADDRESS", "BIRTH_DATE", "CARD", "EMAIL", "IBAN", "IP", "LOCATION", "NATIONAL_ID", "PERSON",
    "PHONE", "SECRET",
)  # fmt: skip

# Where two overlap, the earlier one is right: what is surest stands first.
_RECOGNISERS: tuple[Recogniser, ...] = (
    credentials,
    emails,
    ibans,
    phones_abroad,
    named_numbers,
    birth_dates,
    ips,
    shaped_numbers,
    cards,
    streets,
    phones_at_home,
)


def detect(text: str) -> list[Finding]:
    """Return what is personal or secret in the text, in its order and without overlaps."""
    taken = _by_patterns(text)
    taken.add(names(text))
    return taken.findings


def _by_patterns(text: str) -> "_Spans":
    seen = plain(text)
    taken = _Spans()
    for recognise in _RECOGNISERS:
        taken.add(recognise(seen))
    return taken


class _Spans:
    """Findings in the order of the text; the first to claim a place has it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._starts: list[int] = []

    def add(self, candidates: Iterable[Finding]) -> None:
        """Take those that overlap none."""
        for candidate in candidates:
            at = bisect(self._starts, candidate.start)
            is_after = at == 0 or self.findings[at - 1].end <= candidate.start
            is_before = at == len(self.findings) or candidate.end <= self.findings[at].start
            if is_after and is_before:
                self.findings.insert(at, candidate)
                self._starts.insert(at, candidate.start)


def replaced(text: str, replacements: Iterable[tuple[Finding, str]]) -> str:
    """Return the text with each finding replaced; findings stand in the order of the text."""
    pieces, at = [], 0
    for finding, replacement in replacements:
        pieces += [text[at : finding.start], replacement]
        at = finding.end
    return "".join([*pieces, text[at:]])


def mask(text: str) -> str:
    """Return the text with the kind of each finding in its place, like `[EMAIL]`."""
    return with_kinds(text, detect(text))


def mask_for_log(text: str) -> str:
    """Do as `mask`, by patterns alone: a model takes long, and writes logs of its own."""
    return with_kinds(text, _by_patterns(text).findings)


def with_kinds(text: str, findings: Iterable[Finding]) -> str:
    """Do as `mask` with what was found before."""
    return replaced(text, ((finding, f"[{finding.kind}]") for finding in findings))
