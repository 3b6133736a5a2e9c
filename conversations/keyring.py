"""Keys of days: made when somebody first speaks on a day, destroyed when that day is due.

Everything that people say is sealed under a key of its conversation and UTC day, which follows
(HKDF-SHA-256, RFC 5869) from the key of that day and of the retention class. Only day keys are
stored, in a `KeyStore` outside the database, each wrapped by a master key (AES-256-GCM, NIST SP
800-38D). So no key costs a row or a query, and a dump of the database that is older than the period
can't be read any more once the day's key is destroyed.

A legal hold has a key in the store too. The database keeps, wrapped by it, the keys of what is held
(`holds`), so that this outlives its day; destroying the hold's key ends it.

`CONTENT_KEYS` are the master keys: the first one wraps, all of them unwrap. Changing the first one
rewraps the store (`rewrap`) and touches no row.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from conversations.keystores import KeyStore, store_at

KEY_BYTES = 32
NONCE_BYTES = 12
KEPT_SECONDS = 60.0
"""How long a process goes on with a key before it looks whether the key still exists."""

_MOST_CONVERSATIONS_OF_A_DAY = 2_000
_MOST_DAYS_GONE = 10_000
_HOLDS = "holds/"
_DAY_NAME = re.compile(r"(\d{1,3})/(\d{4}-\d\d-\d\d)")


class Unreadable(Exception):
    """A sealed value can't be opened: its key is gone, or it was changed or moved."""


class KeyUnusable(Unreadable, ImproperlyConfigured):
    """A key is there and can't be unwrapped. The message says which, and what to do.

    No process starts with it; one that runs shows what it seals as unreadable, and goes on.
    """


class KeyGone(Unreadable):
    """The key of a day was destroyed, or never made."""


@dataclass(frozen=True, slots=True, order=True)
class KeyDay:
    """Which day key: of a retention class (1 to 255), and of a day by UTC."""

    retention_class: int
    day: date

    @property
    def name(self) -> str:
        """The key's name in the store."""
        return f"{self.retention_class}/{self.day.isoformat()}"

    @classmethod
    def of_name(cls, name: str) -> "KeyDay | None":
        """Return the day that a name of the store stands for; None when it is another key."""
        match = _DAY_NAME.fullmatch(name)
        return cls(int(match[1]), date.fromisoformat(match[2])) if match else None


@dataclass(slots=True)
class _Kept:
    """A day key in memory, and what was derived from it."""

    key: bytes
    look_again_at: float
    conversations: dict[uuid.UUID, "ConversationKey"] = field(default_factory=dict)


class ConversationKey:
    """The key of a conversation on one day: what its words are sealed under."""

    __slots__ = ("cipher", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.cipher = AESGCM(secret)

    def derived(self, purpose: bytes) -> bytes:
        """Return 32 bytes for a purpose, that die with this key."""
        return _derived(self.secret, purpose)


class Keyring:
    """The day keys of a store, unwrapped by the master keys. Safe for several threads."""

    def __init__(self, store: KeyStore, masters: Sequence[bytes]) -> None:
        self._store = store
        self._masters = {master_id(key): AESGCM(key) for key in masters}
        self._current = master_id(masters[0])
        self._kept: dict[KeyDay, _Kept] = {}
        # Days without a key and until when that is taken for true (CLOCK_MONOTONIC): what a hold
        # keeps is read a text at a time, and none of them should wait for the store.
        self._gone: dict[KeyDay, float] = {}
        self._lock = threading.Lock()
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="keyring")

    def conversation_key(
        self, day: KeyDay, conversation_id: uuid.UUID, *, may_make: bool = False
    ) -> ConversationKey:
        """Return the key of a conversation on a day.

        With `may_make` the key of a recent day is made where there is none. Raises KeyGone. Goes to
        the store where this process does not know the day yet; else it waits for nothing.
        """
        kept = self._day(day, may_make=may_make)
        key = kept.conversations.get(conversation_id)
        if key is None:
            if len(kept.conversations) >= _MOST_CONVERSATIONS_OF_A_DAY:
                kept.conversations.clear()
            key = ConversationKey(_derived(kept.key, b"conversation", conversation_id.bytes))
            kept.conversations[conversation_id] = key
        return key

    def cipher(self, day: KeyDay, conversation_id: uuid.UUID, *, may_make: bool = False) -> AESGCM:
        """Return what seals and opens for a conversation on a day. As `conversation_key`."""
        return self.conversation_key(day, conversation_id, may_make=may_make).cipher

    def days(self) -> list[KeyDay]:
        """Return the days whose keys exist."""
        found = (KeyDay.of_name(name) for name in self._store.names())
        return sorted(day for day in found if day)

    def destroy(self, day: KeyDay) -> None:
        """Destroy the key of a day for good. Other processes forget it within KEPT_SECONDS."""
        self._store.remove(day.name)
        with self._lock:
            self._kept.pop(day, None)

    def make_hold(self, hold_id: uuid.UUID) -> AESGCM:
        """Make the key of a hold; return what wraps by it."""
        name = _name_of_hold(hold_id)
        self._store.add(name, self._wrapped(name, os.urandom(KEY_BYTES)))
        return self.hold(hold_id)

    def hold(self, hold_id: uuid.UUID) -> AESGCM:
        """Return what wraps and unwraps by the key of a hold. Raises KeyGone. Goes to the store."""
        name = _name_of_hold(hold_id)
        wrapped = self._store.read(name)
        if wrapped is None:
            raise KeyGone(f"The key of {name} is destroyed.")
        return AESGCM(self._unwrapped(name, wrapped))

    def holds(self) -> list[uuid.UUID]:
        """Return the holds whose keys exist."""
        names = (name for name in self._store.names() if name.startswith(_HOLDS))
        return [uuid.UUID(name.removeprefix(_HOLDS)) for name in names]

    def destroy_hold(self, hold_id: uuid.UUID) -> None:
        """Destroy the key of a hold for good."""
        self._store.remove(_name_of_hold(hold_id))

    def require_masters(self) -> None:
        """Make sure that every key of the store can be unwrapped.

        Raises ImproperlyConfigured, which names the master key that is missing.
        """
        for name in self._store.names():
            if (wrapped := self._store.read(name)) is not None:
                self._unwrapped(name, wrapped)

    def rewrap(self, progress: Callable[[int, int], None]) -> int:
        """Wrap all keys by the first master key; return how many were wrapped by another.

        Others may go on meanwhile. Repeat it when it was interrupted: what is done stays done.
        `progress` is told how many names of how many were looked at.
        """
        names, changed = self._store.names(), 0
        for number, name in enumerate(names, 1):
            wrapped = self._store.read(name)
            if wrapped is not None and _master_of(name, wrapped) != self._current:
                key = self._unwrapped(name, wrapped)
                self._store.replace(name, self._wrapped(name, key))
                changed += 1
            progress(number, len(names))
        return changed

    def _day(self, day: KeyDay, *, may_make: bool) -> _Kept:
        kept = self._kept.get(day)
        if kept is None:
            return self._loaded(day, may_make=may_make)
        if time.monotonic() > kept.look_again_at:
            kept.look_again_at = time.monotonic() + KEPT_SECONDS
            self._looking.submit(self._look_again, day)
        return kept

    def _loaded(self, day: KeyDay, *, may_make: bool) -> _Kept:
        with self._lock:
            if kept := self._kept.get(day):
                return kept
            is_gone = time.monotonic() < self._gone.get(day, 0.0)
            wrapped = None if is_gone else self._store.read(day.name)
            if wrapped is None:
                if not (may_make and _is_recent(day.day)):
                    self._note_gone(day)
                    raise KeyGone(f"The key of {day.name} is destroyed.")
                made = self._wrapped(day.name, os.urandom(KEY_BYTES))
                wrapped = self._store.add(day.name, made)
            key = self._unwrapped(day.name, wrapped)
            self._kept[day] = _Kept(key, time.monotonic() + KEPT_SECONDS)
            return self._kept[day]

    def _note_gone(self, day: KeyDay) -> None:
        """Remember that a day has no key; not of one that another process may still make."""
        if _is_recent(day.day):
            return
        if len(self._gone) >= _MOST_DAYS_GONE:
            self._gone.clear()
        now = time.monotonic()
        if now >= self._gone.get(day, 0.0):
            self._gone[day] = now + KEPT_SECONDS

    def _look_again(self, day: KeyDay) -> None:
        if self._store.read(day.name) is None:
            with self._lock:
                self._kept.pop(day, None)

    def _wrapped(self, name: str, key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._masters[self._current].encrypt(nonce, key, name.encode())
        value = {"format": 1, "master": self._current, "key": (nonce + sealed).hex()}
        return json.dumps(value).encode()

    def _unwrapped(self, name: str, wrapped: bytes) -> bytes:
        master = _master_of(name, wrapped)
        cipher = self._masters.get(master)
        if cipher is None:
            raise KeyUnusable(
                f"The keyring's key {name} is wrapped by the master key {master}, which is not"
                " among CONTENT_KEYS. Put it back: behind the first one, where keys are being"
                " changed. Nothing was started, and nothing was overwritten."
            )
        try:
            value = bytes.fromhex(json.loads(wrapped)["key"])
            return cipher.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError, KeyError, TypeError) as error:
            raise KeyUnusable(
                f"The keyring's key {name} was changed. Restore it from a copy of the keyring."
            ) from error


def _name_of_hold(hold_id: uuid.UUID) -> str:
    return f"{_HOLDS}{hold_id}"


def _derived(key: bytes, purpose: bytes, whose: bytes = b"") -> bytes:
    info = b"parley " + purpose + b"\x00" + whose
    return HKDF(hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


def _is_recent(day: date) -> bool:
    """Whether a key may still be made for this day: a little slack for clocks and midnights."""
    return abs(datetime.now(UTC).date() - day) <= timedelta(days=1)


def _master_of(name: str, wrapped: bytes) -> str:
    try:
        return str(json.loads(wrapped)["master"])
    except (ValueError, KeyError, TypeError) as error:
        raise KeyUnusable(
            f"The keyring's key {name} is damaged. Restore it from a copy of the keyring."
        ) from error


# --- master keys ------------------------------------------------------------------------------


def master_id(key: bytes) -> str:
    """Return the id by which wrapped keys name their master key: 32 hexadecimal digits."""
    return hashlib.sha256(b"parley content key\x00" + key).hexdigest()[:32]


def master_keys(configured: str) -> list[bytes]:
    """Return the master keys of `CONTENT_KEYS`, base64 with commas between.

    Raises ImproperlyConfigured, which never quotes a key.
    """
    keys = [_decoded(text) for text in configured.split(",") if text.strip()]
    if not keys:
        raise ImproperlyConfigured(
            "CONTENT_KEYS holds no key: `openssl rand -base64 32` makes one."
        )
    return keys


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise ImproperlyConfigured("CONTENT_KEYS holds something that is not base64.") from error
    if len(key) != KEY_BYTES:
        raise ImproperlyConfigured(
            "Each of CONTENT_KEYS must be 32 random bytes in base64: `openssl rand -base64 32`."
        )
    return key


@lru_cache(maxsize=4)
def _keyring_of(store: str, keys: str) -> Keyring:
    return Keyring(store_at(store), master_keys(keys))


def keyring() -> Keyring:
    """Return the keyring of `KEYRING` and `CONTENT_KEYS`. Raises ImproperlyConfigured."""
    return _keyring_of(settings.KEYRING, settings.CONTENT_KEYS)
