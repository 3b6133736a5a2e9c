"""Placeholders for personal data: the provider sees them, the reader never does.

A placeholder is `[KIND-XXXXXXXX]`, its letters derived from the value by a key of the conversation
(HKDF, RFC 5869, and HMAC, RFC 2104). So a value keeps its placeholder through the conversation, and
nothing is stored: which placeholder means what is known only in memory, for one turn. The key dies
with the content keys, and says nothing without them.
"""

import hmac
import re
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator

from conversations.encryption import SealKey, derived
from conversations.turn.pii import KINDS, Finding, detect, replaced

# Consonants: no words come of them, and nothing in them looks like a number.
_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
_LETTERS = 8
_NAMES = {kind: kind.replace("_", "-") for kind in (*KINDS, "TEXT")}
_LONGEST = max(map(len, _NAMES.values())) + 1 + _LETTERS
# As models give them back: in another case, with a space here and there.
_LOOKALIKE = re.compile(rf"\[(?: ?[A-Za-z-]){{{_LETTERS + 1},{_LONGEST}}} ?\]")
_MAY_BECOME_ONE = re.compile(rf"\[(?: ?[A-Za-z-]){{0,{_LONGEST}}} ?\Z")
# Found because of words beside them; elsewhere in the conversation they stand alone.
_FOUND_BY_CONTEXT = frozenset({"NATIONAL_ID", "PHONE", "SECRET", "BIRTH_DATE"})
_SHORTEST_TO_FOLLOW = 6


def _canonical(lookalike: str) -> str:
    return lookalike.replace(" ", "").upper()


class Restorer:
    """Puts the originals back into a text that arrives in pieces."""

    def __init__(self, originals: dict[str, str]) -> None:
        self._originals = originals
        self._sorted = sorted(originals)
        self._held = ""

    def feed(self, chunk: str) -> str:
        """Return what may be shown now: all but a last part that may become a placeholder."""
        text = self._held + chunk
        shown = self._settled(text)
        self._held = text[shown:]
        return _LOOKALIKE.sub(self._original, text[:shown])

    def finish(self) -> str:
        """Return what was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return rest

    def restore(self, text: str) -> str:
        """Return a whole text with the originals."""
        return _LOOKALIKE.sub(self._original, text)

    def _settled(self, text: str) -> int:
        """Return up to where nothing that comes later can change the meaning."""
        last = text.rfind("[", max(0, len(text) - 2 * _LONGEST - 2))
        if last < 0 or not _MAY_BECOME_ONE.match(text, last):
            return len(text)
        begun = _canonical(text[last:])
        at = bisect_left(self._sorted, begun)
        is_known = at < len(self._sorted) and self._sorted[at].startswith(begun)
        return last if is_known else len(text)

    def _original(self, match: re.Match[str]) -> str:
        return self._originals.get(_canonical(match[0]), match[0])


class Pseudonymiser:
    """Hides personal data of one turn, and knows how to bring it back.

    Give it the texts of the conversation oldest first: what was found by the words beside it is
    then hidden wherever it stands later. Not for several threads at once.
    """

    def __init__(self, *keys: SealKey) -> None:
        """Make placeholders by the first of these keys of a conversation that exists."""
        self._key = derived(b"pseudonyms", *keys)
        self._placeholders: dict[tuple[str, str], str] = {}
        self._originals: dict[str, str] = {}
        self._written: set[str] = set()  # lookalikes that people wrote themselves

    def hide(self, text: str) -> str:
        """Return the text with placeholders in the place of what is personal or secret."""
        return self._hidden(text, detect(text))

    def hide_message(self, key: Hashable, text: str) -> str:
        """Do as `hide`, and look only once in this process for the findings of message `key`."""
        return self._hidden(text, findings_of(key, text))

    def restorer(self) -> Restorer:
        """Return what brings back all that was hidden until now."""
        return Restorer(dict(self._originals))

    def _hidden(self, text: str, findings: list[Finding]) -> str:
        written = _lookalikes(text, findings)
        self._written.update(_canonical(text[at.start : at.end]) for at in written)
        for finding in findings:
            self._placeholder(finding.kind, text[finding.start : finding.end])
        # Somebody may know a placeholder and write it: it must come back as they wrote it.
        known = [at for at in written if _canonical(text[at.start : at.end]) in self._originals]
        everything = _merged(text, [*findings, *known], self._followed())
        return replaced(
            text,
            ((at, self._placeholder(at.kind, text[at.start : at.end])) for at in everything),
        )

    def _placeholder(self, kind: str, value: str) -> str:
        """Return the placeholder of this value; no other value has it in this turn."""
        if placeholder := self._placeholders.get((kind, value)):
            return placeholder
        attempt = 0
        while True:
            placeholder = f"[{_NAMES[kind]}-{self._letters(kind, value, attempt)}]"
            if placeholder not in self._originals and placeholder not in self._written:
                break
            attempt += 1
        self._placeholders[kind, value] = placeholder
        self._originals[placeholder] = value
        return placeholder

    def _letters(self, kind: str, value: str, attempt: int) -> str:
        said = f"{kind}\x00{attempt}\x00{value}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hmac.digest(self._key, said, "sha256"))
        letters = []
        for _ in range(_LETTERS):
            number, at = divmod(number, len(_ALPHABET))
            letters.append(_ALPHABET[at])
        return "".join(letters)

    def _followed(self) -> Iterator[tuple[str, str]]:
        """Yield the kinds and values to look for wherever they stand."""
        for kind, value in self._placeholders:
            if kind in _FOUND_BY_CONTEXT and len(value) >= _SHORTEST_TO_FOLLOW:
                yield kind, value


def _lookalikes(text: str, findings: list[Finding]) -> list[Finding]:
    if "[" not in text:
        return []
    spans = (Finding("TEXT", *match.span()) for match in _LOOKALIKE.finditer(text))
    return [at for at in spans if _free_place(findings, at) is not None]


def _merged(
    text: str, findings: list[Finding], followed: Iterable[tuple[str, str]]
) -> list[Finding]:
    """Return the findings and, between them, where the followed values stand by themselves."""
    merged = sorted(findings, key=_start)
    for kind, value in followed:
        at = text.find(value)
        while at >= 0:
            end = at + len(value)
            is_apart = not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum())
            finding = Finding(kind, at, end)
            if is_apart and (place := _free_place(merged, finding)) is not None:
                merged.insert(place, finding)
            at = text.find(value, end)
    return merged


def _start(finding: Finding) -> int:
    return finding.start


def _free_place(findings: list[Finding], new: Finding) -> int | None:
    """Return where among the findings of a text it belongs, or None where it overlaps one."""
    place = bisect_left(findings, new.start, key=_start)
    is_after = place == 0 or findings[place - 1].end <= new.start
    is_before = place == len(findings) or new.end <= findings[place].start
    return place if is_after and is_before else None


# --- what was found in messages --------------------------------------------------------------

_REMEMBERED_MESSAGES = 4096
_remembered: OrderedDict[tuple[Hashable, int], list[Finding]] = OrderedDict()
_lock = threading.Lock()


def findings_of(key: Hashable, text: str) -> list[Finding]:
    """Return the findings of a message, which only grows; kept are places, never words."""
    place = (key, len(text))
    with _lock:
        if place in _remembered:
            _remembered.move_to_end(place)
            return _remembered[place]
    findings = detect(text)
    with _lock:
        _remembered[place] = findings
        while len(_remembered) > _REMEMBERED_MESSAGES:
            _remembered.popitem(last=False)
    return findings
