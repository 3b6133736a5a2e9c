"""What is done to accounts: create, grant, revoke, deactivate, reactivate, erase.

Each verb asks for permission, locks what it decides on, changes, and announces the change inside
its transaction. An installation always keeps one active administrator.
"""

from collections.abc import Iterable

from allauth.account.models import EmailAddress
from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.utils import timezone

from accounts.access import Actor, require
from accounts.models import Role, RoleGrant, User
from accounts.roles import ADMINISTRATOR, Permission
from accounts.sessions import end_sessions
from accounts.signals import (
    account_created,
    account_deactivated,
    account_erased,
    account_reactivated,
    role_granted,
    role_revoked,
)
from accounts.tokens import revoke_token


class LastAdministratorError(Exception):
    """Nobody would be left who may manage accounts. The message is a sentence for people."""

    def __init__(self) -> None:
        super().__init__(
            "This is the last active administrator. Make somebody else an administrator first."
        )


@transaction.atomic
def create_account(
    email: str,
    *,
    by: Actor,
    name: str = "",
    password: str | None = None,
    roles: Iterable[str] = (),
) -> User:
    """Create an account that holds these roles; without a password nobody can sign in yet.

    Raises Denied, IntegrityError when the email is taken, Role.DoesNotExist.
    """
    require(by, Permission.MANAGE_USERS)
    user: User = User.objects.create_user(email, password, name=name)
    account_created.send(sender=User, user=user, by=by)
    for role in sorted(set(roles)):
        grant(user, role, by=by)
    return user


@transaction.atomic
def grant(user: User, role: str, *, by: Actor) -> bool:
    """Give the account a role; return False when it holds it already.

    Raises Denied, Role.DoesNotExist.
    """
    require(by, Permission.GRANT_ROLES, user)
    _lock(role)
    giver = by if isinstance(by, User) else None
    _, is_new = RoleGrant.objects.get_or_create(
        user=user, role_id=role, defaults={"granted_by": giver}
    )
    if is_new:
        user.forget_roles()
        role_granted.send(sender=User, user=user, role=role, by=by)
    return is_new


@transaction.atomic
def revoke(user: User, role: str, *, by: Actor) -> bool:
    """Take a role from the account; return False when it does not hold it.

    Raises Denied, Role.DoesNotExist, LastAdministratorError.
    """
    require(by, Permission.GRANT_ROLES, user)
    _lock(role)
    if role == ADMINISTRATOR:
        _keep_an_administrator_besides(user)
    return _take(user, role, by)


def _take(user: User, role: str, by: Actor) -> bool:
    count, _ = RoleGrant.objects.filter(user=user, role_id=role).delete()
    if count:
        user.forget_roles()
        role_revoked.send(sender=User, user=user, role=role, by=by)
    return bool(count)


@transaction.atomic
def deactivate(user: User, *, by: Actor) -> bool:
    """Switch the account off: its sessions end with their next request. False if it was off.

    Raises Denied, LastAdministratorError.
    """
    require(by, Permission.MANAGE_USERS, user)
    _lock(ADMINISTRATOR)
    _keep_an_administrator_besides(user)
    return _switch(user, on=False, by=by)


@transaction.atomic
def reactivate(user: User, *, by: Actor) -> bool:
    """Switch the account on again, with the roles it had; False if it was on, or erased.

    Raises Denied.
    """
    require(by, Permission.MANAGE_USERS, user)
    return _switch(user, on=True, by=by)


@transaction.atomic
def erase(user: User, *, by: Actor, reason: str = "") -> bool:
    """Close the account for good and forget who it was; return False if that was done before.

    Everybody may do it to themselves, those who manage accounts to others. Sessions end, tokens and
    roles go, name and email are replaced, so that the email is free for a new account. What the
    person said is not deleted here. Raises Denied, LastAdministratorError.
    """
    if by != user:
        require(by, Permission.MANAGE_USERS, user)
    _lock(ADMINISTRATOR)
    stored = User.objects.select_for_update().get(pk=user.pk)
    if stored.erased_at:
        return False
    _keep_an_administrator_besides(stored)
    _close(stored, by)
    now = timezone.now()
    gone = {
        "email": f"erased-{stored.pk.hex}@erased.invalid",  # a domain of nobody, by RFC 2606
        "name": "",
        "password": make_password(None),
        "is_active": False,
        "last_login": None,
        "erased_at": now,
    }
    User.objects.filter(pk=stored.pk).update(**gone)
    for name, value in gone.items():
        setattr(user, name, value)
    user.forget_roles()
    account_erased.send(sender=User, user=user, by=by, reason=reason)
    return True


def _close(user: User, by: Actor) -> None:
    """Take what the account can do, and what it is known by besides its name."""
    for token in user.api_tokens.filter(revoked_at=None):
        revoke_token(token, by=by)
    user.api_tokens.all().delete()
    for role in sorted(user.roles):
        _take(user, role, by)
    EmailAddress.objects.filter(user=user).delete()
    end_sessions(user, now=timezone.now())


def _switch(user: User, *, on: bool, by: Actor) -> bool:
    there = User.objects.filter(pk=user.pk, is_active=not on, erased_at=None)
    changed = there.update(is_active=on)
    user.forget_roles()
    if changed:
        user.is_active = on
        announcement = account_reactivated if on else account_deactivated
        announcement.send(sender=User, user=user, by=by)
    return bool(changed)


def _lock(role: str) -> None:
    # One row per role, so two people who revoke from two administrators queue up here.
    Role.objects.select_for_update(no_key=True).get(slug=role)


def _keep_an_administrator_besides(user: User) -> None:
    administrators = User.objects.holding(ADMINISTRATOR)
    if (
        administrators.filter(pk=user.pk).exists()
        and not administrators.exclude(pk=user.pk).exists()
    ):
        raise LastAdministratorError
