"""API tokens: made and shown once, found by their secret, revoked.

A secret is `parley_`, 32 random bytes in hexadecimal and their CRC-32: scanners for leaked secrets
recognise it, and a mistyped one is refused without a question to the database. Only its SHA-256 is
stored: with 256 random bits there is nothing to guess, so no slow hash is needed.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.postgres.expressions import ArraySubquery
from django.db import transaction
from django.db.models import OuterRef
from django.utils import timezone

from accounts.access import Actor, require
from accounts.models import ApiToken, RoleGrant, User
from accounts.roles import Permission
from accounts.signals import token_created, token_first_used, token_revoked

PREFIX = "parley_"
SECRET_BYTES = 32
SHOWN_CHARACTERS = len(PREFIX) + 6
MOST_PER_ACCOUNT = 25
LAST_USED_PRECISION = timedelta(minutes=1)

_SECRET = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * SECRET_BYTES}}})([0-9a-f]{{8}})")


class TooManyTokens(Exception):
    """The account has as many usable tokens as it may. The message is a sentence for people."""

    def __init__(self) -> None:
        super().__init__(
            f"You have {MOST_PER_ACCOUNT} tokens, as many as one may have."
            " Revoke one that is not used any more first."
        )


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token and its secret, which is known now and never again."""

    token: ApiToken
    secret: str


@transaction.atomic
def make_token(
    user: User, *, name: str, scopes: Iterable[str], lasts: timedelta | None, by: Actor
) -> NewToken:
    """Make a token for `user`; with `lasts` None it does not expire.

    Raises Denied, ValueError without a known scope, TooManyTokens.
    """
    require(user, Permission.CHAT)
    known = [ApiToken.Scope(scope).value for scope in dict.fromkeys(scopes)]
    if not known:
        raise ValueError("A token needs a scope.")
    now = timezone.now()
    User.objects.select_for_update(no_key=True).get(
        pk=user.pk
    )  # two forms at once count each other
    if ApiToken.objects.usable(now).filter(user=user).count() >= MOST_PER_ACCOUNT:
        raise TooManyTokens
    secret = _new_secret()
    token = ApiToken.objects.create(
        user=user,
        name=name,
        beginning=secret[:SHOWN_CHARACTERS],
        digest=_digest(secret),
        scopes=known,
        created_at=now,
        expires_at=now + lasts if lasts else None,
    )
    token_created.send(sender=ApiToken, token=token, by=by)
    return NewToken(token, secret)


def token_of(secret: str) -> ApiToken | None:
    """Return the usable token with this secret, its account with roles, and note that it is used.

    One query; two more at most once a minute. None at all for what can't be a secret.
    """
    if not _is_well_formed(secret):
        return None
    now, digest = timezone.now(), _digest(secret)
    roles = RoleGrant.objects.filter(user=OuterRef("user")).values("role")
    found = ApiToken.objects.usable(now).filter(digest=digest).select_related("user")
    token = found.annotate(roles_of_user=ArraySubquery(roles)).first()
    if token is None or not hmac.compare_digest(bytes(token.digest), digest):
        return None
    token.user.roles = frozenset(vars(token)["roles_of_user"])
    _note_use(token, now)
    return token


def why_refused(secret: str) -> tuple[ApiToken | None, str]:
    """Return the token that a secret without effect belongs to, if any, and why it opens nothing.

    The reason is malformed, unknown, revoked, expired or inactive (the account). One query at most.
    """
    if not _is_well_formed(secret):
        return None, "malformed"
    token = ApiToken.objects.filter(digest=_digest(secret)).first()
    if token is None:
        return None, "unknown"
    if token.revoked_at:
        return token, "revoked"
    return token, "expired" if token.has_expired else "inactive"


@transaction.atomic
def _noted(token: ApiToken, this_minute: datetime) -> None:
    used = token.last_used_at
    unchanged = ApiToken.objects.filter(pk=token.pk, last_used_at=used)
    if unchanged.update(last_used_at=this_minute) and used is None:
        token_first_used.send(sender=ApiToken, token=token, by=token.user)
    token.last_used_at = this_minute


def _note_use(token: ApiToken, now: datetime) -> None:
    used = token.last_used_at
    if used is None or used <= now - LAST_USED_PRECISION:
        _noted(token, now.replace(second=0, microsecond=0))


@transaction.atomic
def revoke_token(token: ApiToken, *, by: Actor) -> bool:
    """Let the token open nothing from now on; return False when it was revoked before."""
    now = timezone.now()
    revoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now)
    if revoked:
        token.revoked_at = now
        token_revoked.send(sender=ApiToken, token=token, by=by)
    return bool(revoked)


def _new_secret() -> str:
    random = secrets.token_hex(SECRET_BYTES)
    return f"{PREFIX}{random}{_checksum(random)}"


def _is_well_formed(secret: str) -> bool:
    match = _SECRET.fullmatch(secret)
    return match is not None and _checksum(match[1]) == match[2]


def _checksum(random: str) -> str:
    return f"{zlib.crc32(random.encode()):08x}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
