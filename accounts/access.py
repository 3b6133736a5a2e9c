"""The one place that says no.

`allowed` answers, `require` refuses: it announces the refusal, so that it is recorded, and raises
`Denied`, which a view need not catch (Django answers 403). Rights come from roles alone; an object
may have a say of its own (`Guarded`), and only ever to forbid.

Rows that a person may not see are left out by querysets (`visible_to`), not refused here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, runtime_checkable

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import resolve_url
from django.utils.http import urlencode

from accounts.http import page_to_return_to
from accounts.models import User
from accounts.roles import DESCRIPTIONS, Permission
from accounts.signals import access_denied
from chatbot.database import db


@dataclass(frozen=True, slots=True)
class System:
    """A part of the product that acts on nobody's behalf: a timer, a command line."""

    name: str


Actor = User | AnonymousUser | System


@runtime_checkable
class Guarded(Protocol):
    """Something that can forbid to one person what their role would allow."""

    def permits(self, user: User, permission: Permission) -> bool:
        """Say whether nothing about this object speaks against it."""


class Denied(PermissionDenied):
    """Somebody asked for what they may not do. The message is a sentence for that person."""

    def __init__(self, permission: Permission, reason: str) -> None:
        super().__init__(reason)
        self.permission = permission


def allowed(user: Actor, permission: str, obj: object = None) -> bool:
    """Say whether `user` may do this, to `obj` if one is given.

    One query at most, none when the account came with its roles. Raises ValueError for a
    permission outside the closed set.
    """
    permission = Permission(permission)
    if isinstance(user, System):
        return True
    if not user.is_authenticated or permission not in user.permissions:
        return False
    return obj.permits(user, permission) if isinstance(obj, Guarded) else True


def require(user: Actor, permission: str, obj: object = None) -> None:
    """Return if `user` may do this; else announce `access_denied` and raise Denied."""
    if allowed(user, permission, obj):
        return
    known = Permission(permission)
    reason = _sentence(user, known, obj)
    access_denied.send(sender=Denied, user=user, permission=known, obj=obj, reason=reason)
    raise Denied(known, reason)


def _sentence(user: Actor, permission: Permission, obj: object) -> str:
    what = DESCRIPTIONS[permission]
    if isinstance(user, System) or not user.is_authenticated:
        return f"Sign in to {what}."
    if permission not in user.permissions:
        return f"Your roles do not allow you to {what}."
    return f"You may not {what} here." if obj is None else f"You may not {what} in this case."


# --- views -----------------------------------------------------------------------------------


def requires(permission: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Guard a view, synchronous or not: sign-in page for strangers, 403 for who may not.

    A stranger's htmx request is answered 401 with `HX-Redirect`, so that the page as a whole goes
    to the sign-in and no form of it lands inside a fragment.
    """
    asked = Permission(permission)

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        if iscoroutinefunction(view):

            @wraps(view)
            async def asynchronous(
                request: HttpRequest, *args: Any, **kwargs: Any
            ) -> HttpResponseBase:
                # On threads that are as many as connections: of a crowd, each with a thread of its
                # own, most would wait for a connection until they fail.
                if await db(_admitted)(request, asked):
                    response: HttpResponseBase = await view(request, *args, **kwargs)
                    return response
                return to_sign_in(request)

            return asynchronous

        @wraps(view)
        def synchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not _admitted(request, asked):
                return to_sign_in(request)
            response: HttpResponseBase = view(request, *args, **kwargs)
            return response

        return synchronous

    return decorate


def _admitted(request: HttpRequest, permission: Permission) -> bool:
    """Whether somebody is signed in. Raises `Denied` when they may not."""
    if not request.user.is_authenticated:
        return False
    require(request.user, permission)
    return True


def to_sign_in(request: HttpRequest) -> HttpResponse:
    """Send a stranger to the sign-in page, and back here afterwards."""
    back = page_to_return_to(request)
    if request.headers.get("HX-Request") != "true":
        return redirect_to_login(back, resolve_url(settings.LOGIN_URL))
    target = f"{resolve_url(settings.LOGIN_URL)}?{urlencode({'next': back})}"
    return HttpResponse(status=401, headers={"HX-Redirect": target})


# --- Django's authentication -----------------------------------------------------------------


# As `with_roles()` in a quarter of the time: this is asked with every request.
_ACTIVE_WITH_ROLES = """
    SELECT account.*,
        ARRAY(SELECT role_id FROM accounts_rolegrant WHERE user_id = account.id) AS loaded_roles
    FROM accounts_user AS account WHERE id = %s AND is_active
"""


class RoleBackend(BaseBackend):
    """Sign-in by email and password, and Django's permission questions from the table of roles."""

    def authenticate(
        self,
        request: HttpRequest | None,
        email: str | None = None,
        password: str | None = None,
        username: str | None = None,
        **_credentials: Any,
    ) -> User | None:
        """Return the active account with this email and password.

        An unknown or inactive account takes as long to refuse as a wrong password.
        """
        address = email or username
        if not address or password is None:
            return None
        user: User | None = User.objects.with_roles().filter(email=address).first()
        if user is None:
            make_password(password)
            return None
        return user if user.check_password(password) and user.is_active else None

    def get_user(self, user_id: Any) -> User | None:
        """Return the active account with its roles, in one query."""
        return next(iter(User.objects.raw(_ACTIVE_WITH_ROLES, [user_id])), None)

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        """Say whether the roles imply this permission."""
        return bool(user_obj.is_authenticated and user_obj.has_perm(perm, obj))

    async def ahas_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        """Do as `has_perm`."""
        return await db(self.has_perm)(user_obj, perm, obj)

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        """Say whether the roles show anything of this app in the admin."""
        return bool(user_obj.is_authenticated and user_obj.has_module_perms(app_label))
