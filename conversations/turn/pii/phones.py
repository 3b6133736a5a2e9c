"""Telephone numbers: in the international form (ITU-T E.123), and as people dial them at home.

The numbering plans are those of `phonenumbers`. With a country code, code and length decide. A
local number is one of many countries at once, and so is an order number; it counts when it is
written as telephone numbers are (trunk prefix and groups, or as in North America), or when words
beside it say that it is one.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from conversations.turn.pii.plain import Finding, Plain, found, is_in_uuid, pattern

# Dialled with a 0 in front at home, and without.
_TRUNK_REGIONS = ("DE", "AT", "CH", "GB", "IE", "FR", "BE", "NL", "SE", "FI", "JP", "AU", "NZ")
_OPEN_REGIONS = ("US", "ES", "PT", "IT", "PL", "CZ", "DK", "NO", "LU", "GR", "IN", "BR")
_TYPES = ("fixed_line", "mobile", "toll_free", "shared_cost", "personal_number", "voip", "uan")

_RUN = pattern(rb"[0-9](?:[ ./()-]{0,3}[0-9]){5,}")
_GROUP = re.compile(r"[0-9]+")
_DIGITS = range(7, 16)
_MOST_GROUPS = 8
_DATE = re.compile(
    r"[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}|[0-9]{4}[./-][0-9]{1,2}[./-][0-9]{1,2}"
)
_NORTH_AMERICAN = re.compile(
    r"\([0-9]{3}\) ?[0-9]{3}[-. ][0-9]{4}|[0-9]{3}([-.])[0-9]{3}\1[0-9]{4}"
)
_WITH_TRUNK = re.compile(
    r"\(?0[1-9][0-9]{0,4}\)?(?:[ /-]{1,3}[0-9]{2,8}){1,4}|0[1-9](?:\.[0-9]{2}){4}"
)

_DEVICE = (
    r"(?:t[eé]l[eé](?:fon|phone|foon|f[óo]no)\w*|tel|tél|tlf|phone|mobile?\w*|m[óo]vil"
    r"|telem[óo]vel|cell\w*|cel|celular\w*|handy\w*|natel|gsm|fax\w*|whatsapp|sms|portable|landline"
    r"|festnetz\w*|hotline|durchwahl|rufnummer|call|ring|text|dial|phoning|calling|ruf|rufen|anrufen"
    r"|appel\w*|joindre|ll[áa]ma\w*|chiama\w*|bel|bellen|zadzwo\w*)"
)
_OWN_NUMBER = r"(?:my|mein\w*|mon|mi|mio|mijn|our|his|her|unsere?)\s+(?:number|nummer|num[ée]ro|nr)"
_GLUE = (
    r"(?:[\s.:=()\"'*-]|\b(?:me|us|him|her|them|mich|uns|ihn|sie|moi|mig|the|is|ist|est|es|[äe]r|è|é|jest|at|on|to"
    r"|under|unter|der|die|an|au|le|la|al|el|op|på|num\w*|nummer|number|nr|no|now|back)\b)*"
)
_SAID = re.compile(rf"\b(?:{_DEVICE}|{_OWN_NUMBER})\b{_GLUE}\Z", re.IGNORECASE)
_COUNTED = re.compile(
    r"(?:#|№|\b(?:order|bestell\w*|auftrag\w*|invoice|rechnung\w*|ticket|isbn|ean|id|ref\w*|serial"
    r"|sku|part|model|batch|article|art|version|v|case|tracking|kunden\w*|customer|account|konto\w*"
    r"|akt\w*|room|page|nr|no)\b)\W{0,3}(?:(?:no|nr|number|nummer|is)\b\W{0,3}){0,2}\Z",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"[-/][A-Za-z0-9]|[.,:][0-9]")
_CONTEXT = 48
_Groups = list[tuple[int, int]]


def phones_abroad(seen: Plain) -> Iterator[Finding]:
    """Numbers with `+` or `00` and the code of their country."""
    if "+" in seen.text or "00" in seen.text:
        yield from _phones(seen, _ends_abroad)


def phones_at_home(seen: Plain) -> Iterator[Finding]:
    """Numbers as they are dialled within a country."""
    yield from _phones(seen, _ends_at_home)


def _phones(seen: Plain, ends: Callable[[_Groups, int, Plain], Iterator[int]]) -> Iterator[Finding]:
    for run in found("PHONE", _RUN, seen):
        groups = [match.span() for match in _GROUP.finditer(seen.text, run.start, run.end)]
        at = 0
        while at < len(groups):
            last = next(ends(groups, at, seen), at - 1)
            if last >= at:
                yield Finding("PHONE", _start(groups[at][0], seen), groups[last][1])
            at = max(at, last) + 1


def _windows(groups: _Groups, at: int, seen: Plain) -> list[tuple[int, str]]:
    """Return last group and digits of what may be a number from this group on, longest first."""
    digits, fitting = "", []
    for last in range(at, min(len(groups), at + _MOST_GROUPS)):
        digits += seen.text[slice(*groups[last])]
        if len(digits) >= _DIGITS.stop:
            break
        if len(digits) >= _DIGITS.start:
            fitting.append((last, digits))
    start = groups[at][0]
    return [
        (last, digits)
        for last, digits in reversed(fitting)
        if seen.is_apart(start, groups[last][1])
        and not is_in_uuid(seen.text, start, groups[last][1])
    ]


def _start(at: int, seen: Plain) -> int:
    """Return where the number begins together with its plus or parenthesis."""
    while at and seen.text[at - 1] in "(+":
        at -= 1
    return at


# --- abroad ----------------------------------------------------------------------------------


def _ends_abroad(groups: _Groups, at: int, seen: Plain) -> Iterator[int]:
    start = groups[at][0]
    has_plus = seen.text[start - 1 : start] == "+"
    is_dialled_out = seen.text.startswith("00", start) and seen.text[start - 1 : start] != "."
    if not has_plus and not is_dialled_out:
        return
    for last, digits in _windows(groups, at, seen):
        if _is_international(digits if has_plus else digits[2:]):
            yield last


def _is_international(digits: str) -> bool:
    """Whether a country has this code and numbers of this length.

    Not whether the number was assigned: that changes, and made-up ones tell about people too.
    """
    for size in (1, 2, 3):
        if lengths := _lengths(int(digits[:size] or 0)):
            # The 0 of `+44 (0)20 …` is not dialled.
            return len(digits[size:].removeprefix("0")) in lengths or len(digits[size:]) in lengths
    return False


@lru_cache(maxsize=1024)
def _lengths(country_code: int) -> frozenset[int]:
    """Return how many digits numbers have behind this code; none when there is no such code."""
    import phonenumbers  # noqa: PLC0415 - takes a third of a second, and many processes need none

    lengths: set[int] = set()
    for region in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(country_code, ()):
        plan = phonenumbers.PhoneMetadata.metadata_for_region(region)
        if plan is not None and plan.general_desc is not None:
            lengths.update(plan.general_desc.possible_length)
    return frozenset(lengths)


# --- at home ---------------------------------------------------------------------------------


def _ends_at_home(groups: _Groups, at: int, seen: Plain) -> Iterator[int]:
    start, end = groups[at]
    if seen.text[start - 1 : start] in {"+", ".", ",", "-", "$", "#"} and start:
        return
    may_stand_alone = seen.text[start] == "0" or end - start == 3
    if at and not may_stand_alone:
        return
    windows = _windows(groups, at, seen)
    is_said = bool(windows) and at == 0 and _is_said(start, seen)
    for last, digits in windows:
        written = seen.text[_start(start, seen) : groups[last][1]]
        goes_on = _GOES_ON.match(seen.text, groups[last][1])
        if goes_on or _DATE.fullmatch(written) or not _is_written_so(written, digits, is_said):
            continue
        is_dialled = _home_numbers().fullmatch(digits.encode())
        if is_dialled and (is_said or not _COUNTED.search(seen.before(start, _CONTEXT))):
            yield last


def _is_said(start: int, seen: Plain) -> bool:
    return bool(_SAID.search(seen.before(_start(start, seen), _CONTEXT)))


def _is_written_so(written: str, digits: str, is_said: bool) -> bool:
    if is_said:
        return len(digits) >= 9 or not written.isdigit()
    if len(digits) == 10 and _NORTH_AMERICAN.fullmatch(written):
        return True
    return len(digits) in range(9, 13) and bool(_WITH_TRUNK.fullmatch(written))


@lru_cache(maxsize=1)
def _home_numbers() -> Any:
    """Return one pattern of what can be dialled in the regions, out of their numbering plans."""
    trunk = "|".join(_plans(_TRUNK_REGIONS))
    open_ = "|".join(_plans(_OPEN_REGIONS))
    return pattern(f"0(?:{trunk})|1?(?:{open_})|0(?:{open_})".encode())


def _plans(regions: tuple[str, ...]) -> Iterator[str]:
    from phonenumbers import PhoneMetadata  # noqa: PLC0415 - as above

    for region in regions:
        plan = PhoneMetadata.metadata_for_region(region)
        assert plan is not None, f"phonenumbers knows {region}"
        for name in _TYPES:
            numbers = getattr(plan, name)
            if numbers is not None and numbers.national_number_pattern:
                yield numbers.national_number_pattern
