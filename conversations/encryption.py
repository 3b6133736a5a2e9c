"""What people say, sealed: AES-256-GCM (NIST SP 800-38D), bound to where it rests.

A sealed value is `format (1) | key id (16) | nonce (12) | ciphertext and tag`. The associated data
name the place (table, row and column, or stream and cursor), so a value that is moved to another
row or column does not open. The key id says which key opens it, so several keys live side by side
and a new one takes over without a rewrite.

Models keep a `BinaryField` and read and write it through `SealedText`; nothing else in the project
turns sealed bytes into words.
"""

import base64
import binascii
import hashlib
import hmac
import os
import uuid
from functools import lru_cache
from typing import overload

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models

FORMAT = b"\x01"
KEY_ID_BYTES = 16
NONCE_BYTES = 12
_HEAD_BYTES = 1 + KEY_ID_BYTES + NONCE_BYTES


class Unreadable(Exception):
    """A sealed value can't be opened: its key is gone, or it was changed or moved."""


class Keyring:
    """The keys at hand: one seals, all open."""

    def __init__(self, keys: list[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._current = _key_id(keys[0])
        self._current_key = keys[0]

    def derived(self, purpose: bytes, whose: bytes) -> bytes:
        """Return 32 bytes for this purpose and owner, by HKDF-SHA-256 (RFC 5869).

        They follow from the current key alone: another key, other bytes. Never store what needs
        them to be read again.
        """
        info = b"parley " + purpose + b"\x00" + whose
        return HKDF(hashes.SHA256(), length=32, salt=None, info=info).derive(self._current_key)

    def seal(self, plain: bytes, place: str) -> bytes:
        """Encrypt `plain` for `place`."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plain, place.encode())
        return FORMAT + self._current + nonce + sealed

    def open(self, sealed: bytes, place: str) -> bytes:
        """Decrypt what was sealed for `place`. Raises Unreadable."""
        cipher = self._ciphers.get(sealed[1 : 1 + KEY_ID_BYTES])
        if sealed[:1] != FORMAT or cipher is None:
            raise Unreadable(f"No key at hand opens the value at {place}.")
        nonce, body = sealed[1 + KEY_ID_BYTES : _HEAD_BYTES], sealed[_HEAD_BYTES:]
        try:
            return cipher.decrypt(nonce, body, place.encode())
        except InvalidTag as error:
            raise Unreadable(f"The value at {place} was changed or moved.") from error


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"parley content key\x00" + key).digest()[:KEY_ID_BYTES]


def _decode_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise ImproperlyConfigured("CONTENT_KEYS holds something that is not base64.") from error
    if len(key) != 32:
        raise ImproperlyConfigured(
            "Each of CONTENT_KEYS must be 32 random bytes in base64: `openssl rand -base64 32`."
        )
    return key


@lru_cache(maxsize=4)
def _keyring_of(configured: str) -> Keyring:
    return Keyring([_decode_key(text) for text in configured.split(",") if text.strip()])


def keyring() -> Keyring:
    """Return the keys of `CONTENT_KEYS`. Raises ImproperlyConfigured when one is malformed."""
    return _keyring_of(settings.CONTENT_KEYS)


def content_digest(text: str, conversation_id: uuid.UUID) -> str:
    """Return HMAC-SHA-256 (RFC 2104) of a text under a key of its conversation, in hexadecimal.

    Who has text and key can show that this was said; without the key nobody can try out what it
    may have been. The key follows from the content key in use (HKDF) and dies with it.
    """
    key = keyring().derived(b"content digest", conversation_id.bytes)
    return hmac.digest(key, text.encode(), "sha256").hex()


class SealedText:
    """A text attribute of a model, kept sealed in a `BinaryField` of the same row.

    The primary key is part of the place, so it must be known before the text is set: the models
    make their keys themselves.
    """

    def __init__(self, column: str) -> None:
        self.column = column

    def _place(self, row: models.Model) -> str:
        return f"{row._meta.db_table}/{row.pk}/{self.column}"

    @overload
    def __get__(self, row: None, owner: type) -> "SealedText": ...
    @overload
    def __get__(self, row: models.Model, owner: type) -> str: ...

    def __get__(self, row: models.Model | None, owner: type) -> "SealedText | str":
        if row is None:
            return self
        sealed = getattr(row, self.column)
        return keyring().open(bytes(sealed), self._place(row)).decode() if sealed else ""

    def __set__(self, row: models.Model, text: str) -> None:
        setattr(row, self.column, self.sealed(row, text))

    def sealed(self, row: models.Model, text: str) -> bytes:
        """Return what the column will hold for `text`; nothing for the empty text."""
        return keyring().seal(text.encode(), self._place(row)) if text else b""
