"""How patterns see a text: one byte for each character, so that offsets are the same in both.

RE2 runs in time linear in the text whatever the text is, and is fastest on bytes. What Latin-1 does
not have becomes its plain relative (typographic dashes and spaces, digits of other scripts) or a
stand-in: one for letters, one for everything else.
"""

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

_STAND_IN = "parley.plain"
_LETTER, _OTHER = 0xFF, 0x80
_AFTER_DIGITS = 0x1FC00  # no script has digits above; to look at all planes takes a while
_HEX_BEFORE = re.compile(r"[0-9A-Fa-f]{4}-")
_HEX_AFTER = re.compile(r"-[0-9A-Fa-f]{4}")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something personal: its kind, and where it is as `text[start:end]`."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Plain:
    """A text in Latin-1, as bytes for RE2 and as a string of the same length."""

    coded: bytes
    text: str

    def before(self, at: int, characters: int) -> str:
        """Return up to so many characters before `at`, of the same line."""
        return self.text[max(0, at - characters) : at].rpartition("\n")[2]

    def is_apart(self, start: int, end: int) -> bool:
        """Whether neither a letter, a digit nor an underscore touches this span."""
        return not (_joins(self.text[start - 1 : start]) or _joins(self.text[end : end + 1]))


def is_in_uuid(text: str, start: int, end: int) -> bool:
    """Whether a hyphen and more hexadecimal digits touch this span (RFC 9562)."""
    before, after = text[max(0, start - 5) : start], text[end : end + 5]
    return bool(_HEX_BEFORE.fullmatch(before) or _HEX_AFTER.fullmatch(after))


Recogniser = Callable[[Plain], Iterator[Finding]]


def _joins(character: str) -> bool:
    return character.isalnum() or character == "_"


@lru_cache(maxsize=1)
def _relatives() -> dict[int, str]:
    table = dict.fromkeys(map(ord, "‐‑‒–—―−﹣－"), "-")
    table |= dict.fromkeys(map(ord, "\u00a0\u202f\u205f\u3000"), " ")
    table |= dict.fromkeys(range(0x2000, 0x200B), " ")
    table |= {ord("’"): "'", ord("＋"): "+", ord("＠"): "@", ord("．"): ".", ord("："): ":"}
    digits = (code for code in range(0x80, _AFTER_DIGITS) if chr(code).isdecimal())
    return table | {code: str(unicodedata.digit(chr(code))) for code in digits}


def _stand_in(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    strange = error.object[error.start : error.end]
    # Only letters with a case: scripts without one are written without spaces between words.
    stand_ins = (_LETTER if letter.lower() != letter.upper() else _OTHER for letter in strange)
    return bytes(stand_ins), error.end


codecs.register_error(_STAND_IN, _stand_in)


def plain(text: str) -> Plain:
    """Return the text as patterns see it; any string will do, lone surrogates included."""
    if not text.isascii():
        text = text.translate(_relatives())
    coded = text.encode("latin-1", _STAND_IN)
    return Plain(coded, coded.decode("latin-1"))


def pattern(expression: bytes, *, captures: bool = False) -> Any:
    """Compile for `Plain.coded`; much faster where nothing is captured."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = not captures
    return re2.compile(expression, options=options)


def found(kind: str, compiled: Any, seen: Plain) -> Iterator[Finding]:
    """Yield each match as it is."""
    for match in compiled.finditer(seen.coded):
        yield Finding(kind, *match.span())
