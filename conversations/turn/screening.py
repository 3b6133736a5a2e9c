"""What people send, made fit to keep and to show: valid Unicode without hidden characters.

Characters that nobody sees can carry orders to a model (tag characters, variation selectors) or
make a text read differently from what it says (direction overrides; CVE-2021-42574). They are
removed, and the person is told. What scripts and emoji need stays: joiners between letters of
Arabic and Indic scripts, joiners and selectors in emoji, direction marks in right-to-left text.

Sources: Unicode 16.0 sections 23.2-23.8, UAX #9 (direction), UTS #51 (emoji sequences).
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from conversations.turn.tokens import estimated_tokens

MAX_BYTES = 64 * 1024
MAX_TOKENS = 32_000


@dataclass(frozen=True)
class Sanitised:
    """A text that is safe to store, and how many characters were taken out of it.

    `sentence` tells the person about that; empty when nothing was removed.
    """

    text: str
    removed: int
    sentence: str

    @cached_property
    def size_bytes(self) -> int:
        """The length in UTF-8."""
        return len(self.text.encode())

    @cached_property
    def tokens(self) -> int:
        """The estimated length in tokens."""
        return estimated_tokens(self.text)

    @property
    def excess(self) -> str:
        """A sentence that says by how much the text is too long; empty when it is not."""
        if self.size_bytes > MAX_BYTES:
            had = f"{-(-self.size_bytes // 1024):,} KB; {MAX_BYTES // 1024} KB is the most"
        elif self.tokens > MAX_TOKENS:
            had = f"about {self.tokens:,} tokens; {MAX_TOKENS:,} is the most"
        else:
            return ""
        return f"It has {had}. Nothing was sent. Shorten it, or send it in parts."


def sanitised(text: str) -> Sanitised:
    """Return the text with LF as line end and without what is invalid, invisible or misleading.

    Idempotent, and linear in the length of the text.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        kept = _CONTROLS.sub("", text)
    else:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        text, lost = paired, len(_SURROGATES.findall(text)) - 2 * _pairs(text, paired)
        kept = _without_hidden(text)
        return _reported(kept, len(text) - len(kept) + lost)
    return _reported(kept, len(text) - len(kept))


def is_invisible(character: str) -> bool:
    """Whether a character shows nothing by itself, so that it may hide between letters."""
    return bool(_HIDDEN.match(character))


def _reported(text: str, removed: int) -> Sanitised:
    if not removed:
        return Sanitised(text, 0, "")
    what = "One hidden character was" if removed == 1 else f"{removed:,} hidden characters were"
    return Sanitised(
        text, removed, f"{what} removed: invisible, invalid, or able to change how a text reads."
    )


_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TAGS = "\U000e0000-\U000e007f"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180d\u180f"
_DIRECTIONS = "\u061c\u200e\u200f"
# Format characters and fillers without a shape of their own; joiners and marks among them.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200d"
    rf"\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb{_DIRECTIONS}{_SELECTORS}"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
    rf"{_TAGS}]"
)
_HIDDEN_RUN = re.compile(f"(?:{_HIDDEN.pattern})+")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff]")
_PICTURE = re.compile(
    "[\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)
# Scripts whose letters join: Arabic to Syriac and N'Ko, Indic and Southeast Asian, Mongolian.
_JOINING = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1a20-\u1aaf\ua800-\ua8ff\ufb50-\ufdff"
    "\ufe70-\ufefc\U00010800-\U00011fff\U0001e900-\U0001e95f]"
)
_IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# The only flags made of tag characters that are in general use: England, Scotland, Wales.
_FLAGS = frozenset(
    "".join(chr(0xE0000 + ord(c)) for c in name) + "\U000e007f"
    for name in ("gbeng", "gbsct", "gbwls")
)


def _pairs(text: str, paired: str) -> int:
    """How many characters came as two halves; both halves were counted as surrogates."""
    singles = len(text) - len(_SURROGATES.findall(text))
    return len(paired) - singles


def _without_hidden(text: str) -> str:
    has_right_to_left = bool(_RIGHT_TO_LEFT.search(text))

    def kept(run: "re.Match[str]") -> str:
        before = text[run.start() - 1 : run.start()] if run.start() else ""
        after = text[run.end() : run.end() + 1]
        return _needed(run[0], before, after, has_right_to_left=has_right_to_left)

    return _HIDDEN_RUN.sub(kept, text)


def _needed(run: str, before: str, after: str, *, has_right_to_left: bool) -> str:
    """Return what a run of hidden characters must keep between its two neighbours."""
    if before == "\U0001f3f4" and run in _FLAGS:
        return run
    selector, rest = (run[0], run[1:]) if _selects(run[0], before) else ("", run)
    if _joins(rest, before, after):
        return selector + rest
    if has_right_to_left and len(rest) == 1 and rest in "\u061c\u200e\u200f":
        return selector + rest
    return selector


def _selects(selector: str, before: str) -> bool:
    """Whether a variation selector changes how the character before it looks."""
    if not before:
        return False
    if selector in "\ufe0e\ufe0f":
        return bool(_PICTURE.match(before)) or before in "0123456789#*"
    if "\ufe00" <= selector <= "\ufe0d" or selector >= "\U000e0100":
        return bool(_IDEOGRAPH.match(before)) and _is_selector(selector)
    return selector in "\u180b\u180c\u180d\u180f" and "\u1820" <= before <= "\u18aa"


def _is_selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _joins(run: str, before: str, after: str) -> bool:
    """Whether the run is one joiner or non-joiner at a place where it shows."""
    if run not in {"\u200c", "\u200d"} or not before:
        return False
    if _JOINING.match(before):
        # At the end of a word it gives a letter its joining shape (Persian abbreviations).
        return unicodedata.category(before)[0] in "LM"
    return run == "\u200d" and all(map(_PICTURE.match, (before, after))) and bool(after)
