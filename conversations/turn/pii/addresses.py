"""Addresses: of mail, of networks (RFC 791, RFC 4291) and of streets."""

import ipaddress
import re
from collections.abc import Iterator

from conversations.turn.pii.plain import Finding, Plain, found, pattern

# --- mail ------------------------------------------------------------------------------------

_LOCAL = rb"[A-Za-z0-9\xc0-\xff_.%+'&-]+"
_LABEL = rb"[A-Za-z0-9\xc0-\xff-]+"
_TOP = rb"[A-Za-z\xc0-\xff][A-Za-z0-9\xc0-\xff-]+"
_EMAIL = pattern(_LOCAL + rb"@(?:" + _LABEL + rb"\.)+" + _TOP)
_SPELT_AT = rb" ?[(\[{] ?(?:at|AT|\xe4t|@) ?[)\]}] ?"
_SPELT_DOT = rb"(?: ?[(\[{] ?(?:dot|DOT|punkt|point|punto) ?[)\]}] ?|\.)"
_SPELT = pattern(
    _LOCAL + _SPELT_AT + rb"(?:" + _LABEL + _SPELT_DOT + rb")+" + _TOP
    + rb"|" + _LOCAL + rb" AT (?:" + _LABEL + rb" DOT )+" + _TOP
)  # fmt: skip
# `icon@2x.png` is a file.
_NO_DOMAINS = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js", ".ts")
_LONGEST_EMAIL = 320


def emails(seen: Plain) -> Iterator[Finding]:
    """Addresses of mail, also with `(at)` and `[dot]` spelt out."""
    if "@" in seen.text:
        for finding in found("EMAIL", _EMAIL, seen):
            text = seen.text[finding.start : finding.end]
            start = finding.start + len(text) - len(text.lstrip("'.-&"))
            is_file = text.lower().endswith(_NO_DOMAINS)
            if not is_file and text[start - finding.start] != "@" and len(text) <= _LONGEST_EMAIL:
                yield Finding("EMAIL", start, finding.end)
    yield from found("EMAIL", _SPELT, seen)


# --- networks --------------------------------------------------------------------------------

_V4 = pattern(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_V6 = pattern(rb"(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:\.[0-9]{1,3}){0,3}")
_NUMBERED = re.compile(
    r"(?:\b(?:versions?|vers|ver|v|releases?|build|firmware|sections?|sec|chapter|paragraph|clause"
    r"|abschnitt|kapitel|ziffer|nr|art|fig|figure|table|tabelle)\b\W{0,3}|§\W?|[A-Za-z]/)\Z",
    re.IGNORECASE,
)


def ips(seen: Plain) -> Iterator[Finding]:
    """Addresses of hosts, without those that mean every host or this one."""
    if seen.text.count(":") > 1:
        yield from _v6(seen)  # first: an IPv6 address may end with an IPv4 one
    yield from _v4(seen)


def _v4(seen: Plain) -> Iterator[Finding]:
    for finding in found("IP", _V4, seen):
        start, end = finding.start, finding.end
        goes_on = re.match(r"\.?[0-9]", seen.text[end : end + 2])
        came_from = re.search(r"[0-9]\.\Z|[\w.]\Z", seen.text[max(0, start - 2) : start])
        if goes_on or came_from or _NUMBERED.search(seen.before(start, 16)):
            continue
        if _tells_a_host(seen.text[start:end]):
            yield finding


def _v6(seen: Plain) -> Iterator[Finding]:
    for finding in found("IP", _V6, seen):
        start, end = finding.start, finding.end
        if seen.text[end - 2 : end] != "::" and seen.text[end - 1] == ":":
            end -= 1
        text = seen.text[start:end]
        has_digit = any(character.isdigit() for character in text)
        if has_digit and seen.is_apart(start, end) and _tells_a_host(text):
            yield Finding("IP", start, end)


def _tells_a_host(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


# --- streets ---------------------------------------------------------------------------------

_UP, _LOW = rb"[A-Z\xc0-\xde\xff]", rb"[A-Za-z\xc0-\xff.'-]"
_WORD = _UP + _LOW + rb"*"
_SMALL = (
    rb"(?:de la|de los|de las|de|del|della|dello|di|der|den|des|du|la|le|am|an|im|of|the|van|von)"
)
_CITY = _WORD + rb"(?: " + _WORD + rb"){0,2}"
_NEXT_LINE = rb"(?:, ?| ?\r?\n)"
_ENGLISH_STREET = (
    rb"(?:Street|St|Road|Rd|Lane|Ln|Avenue|Ave|Drive|Dr|Court|Ct|Close|Square|Sq|Place|Pl|Terrace"
    rb"|Boulevard|Blvd|Way|Row|Gardens|Crescent|Parkway|Pkwy|Highway|Hwy|Hill|Mews|Walk|Circle)\.?"
)
_FRENCH_STREET = (
    rb"(?:rue|avenue|av\.|boulevard|bd|place|chemin|all\xe9e|impasse|quai|cours|route|square)"
)
# House number last, then post code and place: most of the continent.
_CONTINENTAL = (
    _WORD + rb"(?: (?:" + _SMALL + rb"|" + _WORD + rb")){0,4},? "
    + rb"[0-9]{1,4} ?[a-z]?(?:-[0-9]{1,4}[a-z]?)?"
    + _NEXT_LINE
    + rb"(?:[A-Z]{1,2}-)?[0-9]{4,5}(?: [A-Z]{2})? " + _CITY
)  # fmt: skip
_FRENCH = (
    rb"[0-9]{1,4}(?: bis| ter)?,? (?i:" + _FRENCH_STREET + rb") " + _LOW + rb"+(?: " + _LOW
    + rb"+){0,5}" + _NEXT_LINE + rb"[0-9]{5} " + _CITY
)  # fmt: skip
_ENGLISH = (
    rb"[0-9]{1,5}[A-Za-z]? (?:[A-Z0-9]" + _LOW + rb"*,? ){1,4}?" + _ENGLISH_STREET
    + rb"(?:" + _NEXT_LINE + _CITY + rb")?(?:, ?| |\r?\n)"
    + rb"(?:[A-Z]{1,2}[0-9][A-Z0-9]? ?[0-9][A-Z]{2}|[A-Z]{2},? [0-9]{5}(?:-[0-9]{4})?)"
)  # fmt: skip
_STREET = pattern(rb"\b(?:" + _ENGLISH + rb"|" + _FRENCH + rb"|" + _CONTINENTAL + rb")")


def streets(seen: Plain) -> Iterator[Finding]:
    """Postal addresses in one or two lines: street, house number, post code, place."""
    for finding in found("ADDRESS", _STREET, seen):
        end = finding.end
        # The last word is none of the place's when it goes on as something else.
        if seen.text[end : end + 1] == "@" or not seen.is_apart(finding.start, end):
            end = seen.text.rindex(" ", finding.start, end)
        yield Finding("ADDRESS", finding.start, end)
