"""What is recorded because somebody announced it: sign-ins, accounts, refusals."""

from typing import Any

from allauth.account import signals as allauth
from django.contrib.auth import signals as auth
from django.db.models import Model

from accounts import signals as accounts
from accounts.models import ApiToken, User
from audit.models import Outcome
from audit.trail import ANONYMOUS, current_actor, record, record_outside, record_sparingly


def connect() -> None:
    """Begin to listen. Called once, when the app is ready."""
    for signal, receiver in (
        (auth.user_logged_in, logged_in),
        (auth.user_logged_out, logged_out),
        (auth.user_login_failed, login_failed),
        (allauth.password_changed, password_changed),
        (allauth.password_set, password_changed),
        (allauth.password_reset, password_reset),
        (accounts.password_reset_requested, password_reset_requested),
        (accounts.account_created, account_created),
        (accounts.account_deactivated, account_deactivated),
        (accounts.account_reactivated, account_reactivated),
        (accounts.account_erased, account_erased),
        (accounts.role_granted, role_granted),
        (accounts.role_revoked, role_revoked),
        (accounts.token_created, token_created),
        (accounts.token_first_used, token_first_used),
        (accounts.token_revoked, token_revoked),
        (accounts.access_denied, access_denied),
        (accounts.rate_limited, rate_limited),
    ):
        signal.connect(receiver, dispatch_uid=f"audit.{receiver.__name__}")


def logged_in(user: User, **_: Any) -> None:
    record(user, "auth.login_succeeded", user)


def logged_out(user: User | None, **_: Any) -> None:
    # Signing out without having been signed in is nothing that happened.
    if user is not None:
        record(user, "auth.logged_out", user)


def login_failed(credentials: dict[str, Any], **_: Any) -> None:
    tried = credentials.get("email") or credentials.get("username") or ""
    record_outside(ANONYMOUS, "auth.login_failed", outcome=Outcome.FAILED, target_label=str(tried))


def rate_limited(user: Any, page: str, tried: str, **_: Any) -> None:
    record_sparingly(
        user,
        "auth.rate_limited",
        outcome=Outcome.DENIED,
        reason="too many tries",
        each=f"{page} {tried}",
        target_label=tried,
        page=page,
    )


def password_changed(user: User, **_: Any) -> None:
    record(user, "auth.password_changed", user)


def password_reset(user: User, **_: Any) -> None:
    # Whoever holds the mailed link acts as the account.
    record(user, "auth.password_reset", user)


def password_reset_requested(user: User, **_: Any) -> None:
    # By whoever filled in the form: nobody who is signed in, or an administrator.
    actor = current_actor()
    record(ANONYMOUS if actor is None else actor, "auth.password_reset_requested", user)


def account_created(user: User, by: Any, **_: Any) -> None:
    record(by, "account.created", user)


def account_deactivated(user: User, by: Any, **_: Any) -> None:
    record(by, "account.deactivated", user)


def account_reactivated(user: User, by: Any, **_: Any) -> None:
    record(by, "account.reactivated", user)


def account_erased(user: User, by: Any, reason: str, **_: Any) -> None:
    # By its id alone: who it was is what goes.
    record(by, "account.erased", (user._meta.label_lower, str(user.pk)), reason=reason)


def role_granted(user: User, role: str, by: Any, **_: Any) -> None:
    record(by, "role.granted", user, role=role)


def role_revoked(user: User, role: str, by: Any, **_: Any) -> None:
    record(by, "role.revoked", user, role=role)


def token_created(token: ApiToken, by: Any, **_: Any) -> None:
    expires = token.expires_at.isoformat() if token.expires_at else ""
    record(by, "token.created", token, scopes=token.scopes, expires=expires)


def token_first_used(token: ApiToken, by: Any, **_: Any) -> None:
    record(by, "token.used_first", token)


def token_revoked(token: ApiToken, by: Any, **_: Any) -> None:
    record(by, "token.revoked", token)


def access_denied(
    user: Any, permission: str, obj: object, reason: str, page: str = "", **_: Any
) -> None:
    target = obj if isinstance(obj, Model) else None
    told = {"permission": str(permission), "page": page}
    record_sparingly(
        user,
        "access.denied",
        target,
        outcome=Outcome.DENIED,
        reason=reason,
        each=f"{permission} {page} {target.pk if target else ''}",
        **{name: value for name, value in told.items() if value},
    )
