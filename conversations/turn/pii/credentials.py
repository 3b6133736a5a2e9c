"""Credentials: tokens that show what they are, private keys (RFC 7468), values named as secret."""

import re
from collections.abc import Iterator
from typing import Any

from conversations.turn.pii.plain import Finding, Plain, found, pattern

_TOKEN = pattern(
    rb"\b(?:"
    rb"sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic and many that follow them
    rb"|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}"
    rb"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    rb"|xox[abeoprs]-[A-Za-z0-9-]{10,}"
    rb"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}"
    rb"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JWT, RFC 7519
    rb"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{16,}"
    rb"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{16,}|dop_v1_[a-f0-9]{32,}"
    rb"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"
    rb")"
)
_KEY_END = rb"-----END [A-Z ]*PRIVATE KEY-----"
_PRIVATE_KEY = pattern(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"(?:(?:[^-]|-[^-])*" + _KEY_END + rb"|[A-Za-z0-9+/=\s]*)"
)
_BEARER = pattern(rb"(?i)\b(?:bearer|basic)[ \t]+([A-Za-z0-9._~+/=-]{16,})", captures=True)
_IN_URL = pattern(rb"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@", captures=True)
_OF_CURL = pattern(rb"(?:^|\s)(?:-u|--user)[ =][\"']?[^\s:\"']+:([^\s\"']+)", captures=True)
_NAMED = pattern(
    rb"(?i)(?:(pass(?:word|wd|phrase|code)|pwd|passwort|kennwort|mot de passe|contrase\xf1a"
    rb"|wachtwoord|senha|has\xffo)"
    rb"|secret(?:[_-](?:access[_-])?key)?|token|api[ _-]?key|(?:access|private|auth)[_-]?key"
    rb"|credentials?)"
    rb"[\"'`\]]{0,2}[ \t]{0,3}(?:(?:is|ist|lautet|est|es)[ \t]{0,3})?"
    rb"(:=|=>|[:=]|\b(?:is|ist|lautet|est|es) )[ \t]{0,3}"
    rb"(?:\"([^\"\n]+)\"|'([^'\n]+)'|`([^`\n]+)`|([^\s\"'`<>,;|]+))",
    captures=True,
)
_SHORTEST_NAMED = 6
# An expression of a program, a variable to be filled in, or something already hidden.
_NO_SECRET = re.compile(
    r"[$\[{(%<]|[A-Za-z_][\w.]*[\[({]|(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*$|(.)\1*$"
    r"|(?:none|null|true|false|undefined|required|optional|string|secret|password|token)\W*$",
    re.IGNORECASE,
)


def credentials(seen: Plain) -> Iterator[Finding]:
    """Whatever opens something: tokens, keys, passwords."""
    for token in found("SECRET", _TOKEN, seen):
        if _has_digit(seen.text[token.start : token.end]):
            yield token
    if "-----BEGIN" in seen.text:
        yield from found("SECRET", _PRIVATE_KEY, seen)
    for match in _BEARER.finditer(seen.coded):
        if _has_digit(seen.text[match.start(1) : match.end(1)]):
            yield Finding("SECRET", *match.span(1))
    if "://" in seen.text:
        for match in _IN_URL.finditer(seen.coded):
            if not _NO_SECRET.match(seen.text, match.start(1), match.end(1)):
                yield Finding("SECRET", *match.span(1))
    if " -u " in seen.text or "--user" in seen.text:
        for match in _OF_CURL.finditer(seen.coded):
            if not _NO_SECRET.match(seen.text, match.start(1), match.end(1)):
                yield Finding("SECRET", *match.span(1))
    for match in _NAMED.finditer(seen.coded):
        yield from _named(match, seen)


def _has_digit(text: str) -> bool:
    return any("0" <= character <= "9" for character in text)


def _named(match: Any, seen: Plain) -> Iterator[Finding]:
    start, end = next(match.span(group) for group in (3, 4, 5, 6) if match.start(group) >= 0)
    value = re.split(r"&\w+=", seen.text[start:end], maxsplit=1)[0].rstrip(".,:)]}")
    is_password, is_assigned = match.start(1) >= 0, match.group(2) == b"="
    if len(value) < _SHORTEST_NAMED or _NO_SECRET.match(value):
        return
    # "password: please" is prose, "api_key=api_key" a program; "token: 123456" is a count.
    if re.fullmatch(r"[^\W\d][^\W\d_]*(?:[_-][^\W\d]+)*", value) and not (
        is_password and is_assigned
    ):
        return
    if value.isdigit() and not is_password:
        return
    if match.group(2).endswith(b" ") and not (is_password and _has_digit(value)):
        return
    yield Finding("SECRET", start, start + len(value))
