"""Constructs of Markdown and of addresses that show nothing, or other text than is written.

Each function returns a reader, which is told the characters behind the first one of the construct
and says to each what comes of it (`Read`). A reader errs on the side of “this may be one”.

CommonMark 0.31.2 sections 2.5, 6.3, 6.6, 6.7; RFC 3986 section 2.1; RFC 3492.
"""

import re
from collections.abc import Callable
from html.entities import html5

LONGEST_TAG = 256
"""Characters of a tag or comment that are followed."""

Read = str | None | bool
"""None while the construct goes on, False when it was none after all, or the text for which it
stands, "" if it shows nothing."""

Reader = Callable[[str], Read]


def entity() -> Reader:
    """&name; or &#code; (CommonMark 2.5)."""
    source = ""

    def read(c: str) -> Read:
        nonlocal source
        source += c
        if c != ";":
            return None if _ENTITY_SO_FAR.fullmatch(source) else False
        if not source.startswith("#"):
            return html5.get(source, False)
        hexadecimal = source[1] in "xX"
        digits = source[1 + hexadecimal : -1]
        return _from_code(int(digits, 16 if hexadecimal else 10)) if digits else False

    return read


_ENTITY_SO_FAR = re.compile(r"#(?:[xX][0-9a-fA-F]{0,6}|[0-9]{0,7})|[A-Za-z][A-Za-z0-9]{0,31}")


def _from_code(code: int) -> str:
    is_character = 0 < code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF
    return chr(code) if is_character else "\ufffd"


def percent() -> Reader:
    """The bytes of a character in UTF-8, as in an address (RFC 3986, section 2.1)."""
    source = ""

    def read(c: str) -> Read:
        nonlocal source
        source += c
        if not _PERCENT_SO_FAR.fullmatch(source):
            return False
        return _decoded(bytes.fromhex(source.replace("%", ""))) if len(source) % 3 == 2 else None

    return read


_PERCENT_SO_FAR = re.compile("(?:[0-9a-fA-F]{2}%){0,3}[0-9a-fA-F]{0,2}")


def _decoded(data: bytes) -> Read:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return None if error.reason == "unexpected end of data" else False


def international_label() -> Reader:
    """Behind the x of `xn--…`: the label of a host in Punycode (RFC 3492).

    It ends before the character for which it returns a text; "" is the end of the reply.
    """
    source = ""

    def read(c: str) -> Read:
        nonlocal source
        if c and c in _LABEL and len(source) < LONGEST_LABEL:
            source += c.lower()
            return None if "n--".startswith(source[:3]) else False
        if not source.startswith("n--"):
            return False
        try:
            return source[3:].encode().decode("punycode") or False
        except UnicodeError:
            return False

    return read


LONGEST_LABEL = 256
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")


def destination() -> Reader:
    """Behind `](`: an address and perhaps a title, up to the closing parenthesis (6.3)."""
    state, depth, is_escaped = "begin", 0, False

    def read(c: str) -> Read:
        nonlocal state, depth, is_escaped
        escaped, is_escaped = is_escaped, c == "\\" and not is_escaped
        if escaped:
            return None
        if state in _TITLE_ENDS:
            state = "between" if c == _TITLE_ENDS[state] else state
        elif state == "<":
            state = "between" if c == ">" else state
            return False if c in "<\n" else None
        elif c.isspace():
            state = state if state == "begin" else "between"
        elif state == "begin" and c in "<>":
            state = c if c == "<" else state  # a > may be that of a quote, on its next line
        elif c == ")" and depth == 0:
            return ""
        elif state == "between":
            state = c if c in _TITLE_ENDS else state
            return None if c in _TITLE_ENDS or c == ">" else False
        else:
            state, depth = "address", depth + {"(": 1, ")": -1}.get(c, 0)
        return None

    return read


_TITLE_ENDS = {'"': '"', "'": "'", "(": ")"}


def label() -> Reader:
    """Behind `][`: the label of a reference (6.3)."""
    is_escaped = False

    def read(c: str) -> Read:
        nonlocal is_escaped
        escaped, is_escaped = is_escaped, c == "\\" and not is_escaped
        if escaped or c not in "[]":
            return None
        return "" if c == "]" else False

    return read


def tag() -> Reader:
    """Behind `<`: a tag or comment. It is shown as text here, but perhaps not elsewhere."""
    length = 0

    def read(c: str) -> Read:
        nonlocal length
        length += 1
        if length == 1:
            return None if c.isalpha() or c in "/!?" else False
        return "" if c == ">" else (None if length < LONGEST_TAG else False)

    return read


def hard_break() -> Reader:
    """Behind a space: more of them and the end of the line, which the text of an image drops."""
    length = 0

    def read(c: str) -> Read:
        nonlocal length
        length += 1
        if c == " ":
            return None
        return "" if c == "\n" and length > 1 else False

    return read
