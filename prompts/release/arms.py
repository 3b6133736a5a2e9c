"""Who stands where while a version is released: by group, or by a hash. Pure, without a query.

    pin = pinned_first(release, user)        when a conversation begins; stored with it
    stands = standing(release, pin)          in each of its turns

A person's place follows from their id and the release's salt alone, so it is the same in every
process, needs no row, and a growing share moves only those who come to lie below it.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from accounts.models import User
from prompts.models import WHOLE, Arm


class Pin(NamedTuple):
    """Where a conversation stands from its beginning on. Without a release: in production."""

    release_id: UUID | None = None
    arm: str = Arm.PRODUCTION


IN_PRODUCTION = Pin()


class UnderWay(NamedTuple):
    """A release as a turn needs it: the columns that come with the template's row."""

    id: UUID
    version_id: UUID
    salt: bytes
    share: int
    is_paused: bool
    early_role: str
    early_people: Sequence[UUID]

    def includes_early(self, user: User) -> bool:
        """Whether this person is of the early-access group."""
        by_role = bool(self.early_role) and self.early_role in user.roles
        return by_role or user.pk in self.early_people


def position(salt: bytes, person_id: UUID) -> int:
    """Return where a person stands under a salt: 0 to 9999, evenly spread.

    HMAC-SHA-256 (RFC 2104) of the id's 16 bytes; the first 8 bytes modulo 10,000 favour no place
    by more than one in 10^15.
    """
    digest = hmac.digest(bytes(salt), person_id.bytes, sha256)
    return int.from_bytes(digest[:8]) % WHOLE


def is_drawn(salt: bytes, person_id: UUID, share: int) -> bool:
    """Whether a person is among the first `share` basis points."""
    return position(salt, person_id) < share


def pinned_first(release: UnderWay | None, user: User) -> Pin:
    """Return where a conversation of this person stands that begins now.

    While a release is paused nobody joins it, on either side.
    """
    if release is None or release.is_paused:
        return IN_PRODUCTION
    if release.includes_early(user):
        return Pin(release.id, Arm.EARLY)
    drawn = is_drawn(release.salt, user.pk, release.share)
    return Pin(release.id, Arm.CANARY if drawn else Arm.PRODUCTION)


def standing(release: UnderWay | None, pin: Pin) -> Pin:
    """Return where a conversation stands now: as pinned while its release is under way.

    A release that was rolled back, or finished, holds nobody any more.
    """
    return pin if release is not None and release.id == pin.release_id else IN_PRODUCTION
