"""Makes what is recorded fit to be stored, hashed and compared for ever.

PostgreSQL stores neither NUL nor lone surrogates, JSON has no NaN, and an entry has a size. None of
that may lose an entry: such values are replaced, and the entry says so.
"""

import datetime
import decimal
import hashlib
import ipaddress
import json
import math
import re
import uuid
from typing import Any

MAX_PAYLOAD_BYTES = 16 * 1024
KEPT_CHARACTERS = 2_000
MAX_DEPTH = 16

# Keys that the log itself adds to a payload.
MADE_SAFE = "_made_safe"
TRUNCATED = "_truncated"
# Stands where somebody typed what may be personal.
WITHHELD = "(withheld)"

# What JSON's readers agree on; RFC 8785 takes no integer beyond.
MAX_INTEGER = 2**53 - 1

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(text: str, max_length: int) -> str:
    """Return `text` without NUL and lone surrogates, and no longer than `max_length` characters."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)[:max_length]


def canonical(value: Any) -> bytes:
    """Return the one UTF-8 JSON text of a value: sorted keys, no spaces."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def storable(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload as JSON that PostgreSQL stores and RFC 8785 takes, bounded in size.

    It is at most MAX_PAYLOAD_BYTES long. Altered characters and numbers are marked with
    `_made_safe`. Of a payload that is too large its beginning, its length in bytes and its SHA-256
    stay, under `_truncated`. Raises TypeError for a value that has no place in a log, such as a
    model instance.
    """
    safe, altered = _safe(payload, depth=0)
    if altered:
        safe[MADE_SAFE] = True
    text = canonical(safe)
    if len(text) <= MAX_PAYLOAD_BYTES:
        return dict(safe)
    return {
        TRUNCATED: {
            "bytes": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
            "beginning": text.decode()[:KEPT_CHARACTERS],
        }
    }


def _safe(value: Any, depth: int) -> tuple[Any, bool]:
    """Return a value for JSON, and whether something had to be replaced."""
    if value is None or isinstance(value, bool):
        return value, False
    if isinstance(value, int | float):
        kept = math.isfinite(value) if isinstance(value, float) else abs(value) <= MAX_INTEGER
        return (value, False) if kept else (str(value), True)
    if isinstance(value, str):
        safe = _UNSTORABLE.sub(_REPLACEMENT, value)
        return safe, safe != value
    if isinstance(value, uuid.UUID | decimal.Decimal):
        return str(value), False
    if isinstance(value, datetime.date):
        return value.isoformat(), False
    return _safe_collection(value, depth)


def _safe_collection(value: Any, depth: int) -> tuple[Any, bool]:
    if depth >= MAX_DEPTH:
        return _REPLACEMENT, True
    if isinstance(value, dict):
        names = [_safe(str(name), depth) for name in value]
        values = [_safe(item, depth + 1) for item in value.values()]
        pairs = zip((name for name, _ in names), (item for item, _ in values), strict=True)
        return dict(pairs), any(altered for _, altered in [*names, *values])
    if isinstance(value, list | tuple | set | frozenset):
        ordered = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        items = [_safe(item, depth + 1) for item in ordered]
        return [item for item, _ in items], any(altered for _, altered in items)
    raise TypeError(f"An audit entry can't hold a {type(value).__name__}.")


def network_of(address: str, ipv4_bits: int = 24, ipv6_bits: int = 56) -> str:
    """Return the network an address is in, by its first bits; empty for no address or no bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    bits = ipv4_bits if parsed.version == 4 else ipv6_bits
    return str(ipaddress.ip_network(f"{parsed}/{bits}", strict=False)) if bits else ""


# Browsers that call themselves others come first.
_FAMILIES = (
    ("Edge", "Edg"),
    ("Opera", "OPR/"),
    ("Firefox", "Firefox/"),
    ("Chrome", "Chrome/"),
    ("Safari", "Safari/"),
    ("curl", "curl/"),
    ("OpenAI client", "OpenAI/"),
    ("Python", "python"),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iOS", "iPhone"),
    ("iOS", "iPad"),
    ("Windows", "Windows"),
    ("macOS", "Mac OS X"),
    ("Linux", "Linux"),
)


def family_of(user_agent: str) -> str:
    """Return the kind of a user agent, "Firefox on Linux", without versions; empty for none."""
    if not user_agent:
        return ""
    family = next((name for name, sign in _FAMILIES if sign in user_agent), "other")
    system = next((name for name, sign in _SYSTEMS if sign in user_agent), "")
    return f"{family} on {system}" if system else family
