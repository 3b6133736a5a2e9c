"""What people say, sealed: AES-256-GCM (NIST SP 800-38D), bound to where it rests.

A sealed value is `format (1) | retention class (1) | day (2) | nonce (12) | ciphertext and tag`,
the day as days since 1970 by UTC. The key is that of its conversation on that day (`keyring`), and
the associated data name conversation and place (table, row and column, or stream and cursor): a
value that is moved elsewhere does not open. When the key of the day is destroyed, nothing opens it
but a legal hold that has kept the conversation's key (`holds`): then it can be read, and nothing
new is sealed under it.

Models keep a `BinaryField` and read and write it through `SealedText`; nothing else in the project
turns sealed bytes into words.
"""

import hmac
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import overload

import structlog
from cryptography.exceptions import InvalidTag
from django.db import models

from chatbot import telemetry
from conversations.keyring import (
    NONCE_BYTES,
    ConversationKey,
    KeyDay,
    KeyGone,
    Unreadable,
    keyring,
)

logger = structlog.get_logger(__name__)

FORMAT = b"\x02"
HEAD_BYTES = 4
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class SealKey:
    """Under which key something is sealed: that of a conversation, on a day."""

    conversation_id: uuid.UUID
    day: KeyDay


def seal(plain: bytes, place: str, key: SealKey) -> bytes:
    """Encrypt `plain` for `place`. Raises KeyGone for a day that is over and has no key."""
    cipher = _made(key).cipher
    nonce = os.urandom(NONCE_BYTES)
    sealed = cipher.encrypt(nonce, plain, _bound_to(place, key.conversation_id))
    return head_of(key.day) + nonce + sealed


def open_sealed(sealed: bytes, place: str, conversation_id: uuid.UUID) -> bytes:
    """Decrypt what was sealed for `place` in a conversation. Raises Unreadable."""
    cipher = _existing(SealKey(conversation_id, day_of(sealed))).cipher
    nonce, body = sealed[HEAD_BYTES:][:NONCE_BYTES], sealed[HEAD_BYTES + NONCE_BYTES :]
    try:
        return cipher.decrypt(nonce, body, _bound_to(place, conversation_id))
    except (InvalidTag, ValueError) as error:
        raise Unreadable(f"The value at {place} was changed or moved.") from error


def derived(purpose: bytes, *keys: SealKey) -> bytes:
    """Return 32 bytes for a purpose, that follow from a key of a conversation and die with it.

    They follow from the first of the keys that exists, and from the conversation's own key, so a
    hold keeps them as well. Raises KeyGone when none exists.
    """
    *before, last = keys
    for key in before:
        with suppress(KeyGone):
            return _existing(key).derived(purpose)
    try:
        return _existing(last).derived(purpose)
    except KeyGone:
        return _made(last).derived(purpose)


def content_digest(text: str, key: SealKey) -> str:
    """Return HMAC-SHA-256 (RFC 2104) of a text under a key of its conversation, in hexadecimal.

    Who has text and key can show that this was said; without the key nobody can try out what it may
    have been. It dies with the key of the day, or with the last hold. Raises KeyGone.
    """
    return hmac.digest(derived(b"content digest", key), text.encode(), "sha256").hex()


_held_key: Callable[[SealKey], ConversationKey | None] | None = None


def fall_back_on(held_key: Callable[[SealKey], ConversationKey | None]) -> None:
    """Ask `held_key` for the key of a conversation whose day has none any more."""
    global _held_key  # noqa: PLW0603 - set once, when the app starts
    _held_key = held_key


def can_seal(key: SealKey) -> bool:
    """Whether anything may still be sealed under a key; not once the key of its day is gone."""
    try:
        _made(key)
    except KeyGone:
        return False
    return True


def _existing(key: SealKey) -> ConversationKey:
    """Return the key, of its day or of a hold. Raises KeyGone."""
    try:
        return keyring().conversation_key(key.day, key.conversation_id)
    except KeyGone:
        if held := _held(key):
            return held
        raise


def _made(key: SealKey) -> ConversationKey:
    """Return the key of its day, which is made for a recent day that has none. Raises KeyGone.

    Not where a hold keeps one: that day is over and its key was destroyed, and under another key
    nobody would look for what is held.
    """
    try:
        return keyring().conversation_key(key.day, key.conversation_id)
    except KeyGone:
        may_make = key.day.day >= datetime.now(UTC).date() or not _held(key)
    return keyring().conversation_key(key.day, key.conversation_id, may_make=may_make)


def _held(key: SealKey) -> ConversationKey | None:
    return _held_key(key) if _held_key else None


def day_of(sealed: bytes) -> KeyDay:
    """Return which day's key opens a value. Raises Unreadable when it is none of ours."""
    return _day_of_head(sealed[:HEAD_BYTES])


@lru_cache(maxsize=256)
def _day_of_head(head: bytes) -> KeyDay:
    if head[:1] != FORMAT or len(head) < HEAD_BYTES:
        raise Unreadable("No key at hand opens a value of another format.")
    return KeyDay(head[1], _EPOCH + timedelta(days=int.from_bytes(head[2:4])))


def head_of(day: KeyDay) -> bytes:
    return FORMAT + bytes([day.retention_class]) + (day.day - _EPOCH).days.to_bytes(2)


def _bound_to(place: str, conversation_id: uuid.UUID) -> bytes:
    return conversation_id.bytes + place.encode()


class SealedRow(models.Model):
    """A row with `SealedText`. It makes its primary key itself, before any text is set."""

    class Meta:
        abstract = True

    def owning_conversation(self) -> uuid.UUID:
        """Return the id of the conversation under whose keys the text is."""
        raise NotImplementedError

    def seal_key(self) -> SealKey:
        """Return the key under which text is sealed now."""
        raise NotImplementedError


class SealedText:
    """A text attribute of a model, kept sealed in a `BinaryField` of the same row.

    Table, primary key and column are the place. What was moved as it was from another column is
    still bound to that one, `sealed_for`.
    """

    def __init__(self, column: str, sealed_for: str = "") -> None:
        self.column = column
        self._sealed_for = sealed_for or column

    def _place(self, row: SealedRow) -> str:
        return f"{row._meta.db_table}/{row.pk}/{self._sealed_for}"

    @overload
    def __get__(self, row: None, owner: type) -> "SealedText": ...
    @overload
    def __get__(self, row: SealedRow, owner: type) -> str: ...

    def __get__(self, row: SealedRow | None, owner: type) -> "SealedText | str":
        if row is None:
            return self
        sealed = bytes(getattr(row, self.column))
        if not sealed:
            return ""
        return open_sealed(sealed, self._place(row), row.owning_conversation()).decode()

    def __set__(self, row: SealedRow, text: str) -> None:
        setattr(row, self.column, self.sealed(row, text))

    def sealed(self, row: SealedRow, text: str) -> bytes:
        """Return what the column will hold for `text`; nothing for the empty text."""
        return seal(text.encode(), self._place(row), row.seal_key()) if text else b""

    def shown(self, row: SealedRow) -> str | None:
        """Return the text; None where it does not open, which is reported by its place alone."""
        try:
            return self.__get__(row, type(row))
        except Unreadable as error:
            logger.error("unreadable", place=self._place(row), reason=type(error).__name__)
            telemetry.unreadable_texts.inc()
            return None
