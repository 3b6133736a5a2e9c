"""Numbers of cards (ISO/IEC 7812) and of bank accounts (ISO 13616), by their check digits."""

import re
from collections.abc import Iterator
from functools import lru_cache

from stdnum import numdb
from stdnum.iso7064 import mod_97_10

from conversations.turn.pii.plain import Finding, Plain, found, is_in_uuid, pattern

# --- cards -----------------------------------------------------------------------------------

_RUN = pattern(rb"[0-9](?:[ -]?[0-9]){11,}")
_GROUP = re.compile(rb"[0-9]+")
_CARD_DIGITS = range(12, 20)
# How cards are printed, as sizes of groups.
_PRINTED = ((4, 4, 4, 4, 3), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (6, 13), (4, 4, 4, 1))
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_COUNTED = re.compile(
    r"\b(?:order|bestell\w*|auftrag\w*|invoice|rechnung\w*|ticket|isbn|ean|gtin|upc|imei|serial"
    r"|tracking|timestamp|sendung\w*|id)\b\W{0,3}(?:(?:no|nr|number|nummer|is)\b\W{0,3}){0,2}\Z",
    re.IGNORECASE,
)
_ACCOUNT_BEGINS = re.compile(r"[A-Za-z]{2}[0-9]{2}[ -]\Z")


def cards(seen: Plain) -> Iterator[Finding]:
    """12 to 19 digits that pass Luhn and are no part of a longer number."""
    for run in found("CARD", _RUN, seen):
        groups = [match.span() for match in _GROUP.finditer(seen.coded, run.start, run.end)]
        at = 0
        while at < len(groups):
            last = next(
                (last for last in _ends(groups, at) if _is_card(groups, at, last, seen)), at - 1
            )
            if last >= at:
                yield Finding("CARD", groups[at][0], groups[last][1])
            at = max(at, last) + 1


def _ends(groups: list[tuple[int, int]], at: int) -> Iterator[int]:
    """Yield the few groups with which a number may end that begins with this one."""
    if at == 0 and len(groups) <= _CARD_DIGITS.stop:
        yield len(groups) - 1
    first = groups[at][1] - groups[at][0]
    if first not in (4, 6) and first not in _CARD_DIGITS:
        return
    sizes = tuple(end - start for start, end in groups[at : at + 5])
    yield from (at + len(p) - 1 for p in _PRINTED if sizes[: len(p)] == p)
    if first in _CARD_DIGITS:
        yield at


def _is_card(groups: list[tuple[int, int]], at: int, last: int, seen: Plain) -> bool:
    start, end = groups[at][0], groups[last][1]
    digits = seen.coded[start:end].translate(None, b" -")
    if len(digits) not in _CARD_DIGITS or not _passes_luhn(digits) or not seen.is_apart(start, end):
        return False
    if is_in_uuid(seen.text, start, end):
        return False
    before = seen.before(start, 40)
    is_part = re.search(r"[0-9][.,]\Z|\+\Z", before[-2:]) or _ACCOUNT_BEGINS.search(before[-5:])
    return not is_part and not (at == last and _COUNTED.search(before))


def _passes_luhn(digits: bytes) -> bool:
    """ISO/IEC 7812-1 annex B; one digit repeated is nobody's number."""
    total = (
        sum(digits[::-2]) - ord("0") * len(digits[::-2]) + sum(digits[-2::-2].translate(_DOUBLED))
    )
    return total % 10 == 0 and len(set(digits)) > 1


# --- bank accounts ---------------------------------------------------------------------------

_BEGINNING = pattern(rb"\b[A-Za-z]{2}[0-9]{2}[ -]?[A-Za-z0-9]{4}")


def ibans(seen: Plain) -> Iterator[Finding]:
    """Numbers of accounts, in groups or not, as long as their country has them."""
    for match in _BEGINNING.finditer(seen.coded):
        start = match.start()
        length = _lengths().get(seen.text[start : start + 2].upper())
        end = length and _end_of(seen.text, start, length)
        if not end or not seen.is_apart(start, end) or is_in_uuid(seen.text, start, end):
            continue
        number = "".join(filter(str.isalnum, seen.text[start:end])).upper()
        if mod_97_10.is_valid(number[4:] + number[:4]):
            yield Finding("IBAN", start, end)


def _end_of(text: str, start: int, length: int) -> int | None:
    """Return where so many letters and digits end, with at most one joint between two of them."""
    match = _of_length(length).match(text, start)
    return match and match.end()


@lru_cache(maxsize=64)
def _of_length(length: int) -> re.Pattern[str]:
    return re.compile(rf"(?:[A-Za-z0-9][ -]?){{{length - 1}}}[A-Za-z0-9]")


@lru_cache(maxsize=1)
def _lengths() -> dict[str, int]:
    """Return the length of each country's numbers, from the registry that stdnum carries."""
    registry = numdb.get("iban")
    lengths = {}
    for first in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            entry = registry.info(first + second)[0][1]
            if "bban" in entry:
                parts = re.findall(r"([0-9]+)!", entry["bban"])
                lengths[first + second] = 4 + sum(map(int, parts))
    return lengths
