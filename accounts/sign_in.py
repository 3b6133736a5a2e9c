"""How people sign in: django-allauth, with our rules."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from accounts.access import allowed
from accounts.http import client_address
from accounts.models import User
from accounts.roles import Permission
from accounts.signals import password_reset_requested, rate_limited


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc] # django-allauth has no types
    """Accounts are made by administrators; messages tell nobody whether an account exists."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Answer no: `accounts.administration` makes accounts."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """Return the address that rate limits count by; clients of a unix socket share one."""
        return client_address(request) or "unknown"

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Announce a try that the limit on failed ones does not let through. Raises as the base."""
        try:
            super().pre_authenticate(request, **credentials)
        except ValidationError:
            tried = str(credentials.get("email") or "").lower()
            _announce_limit(request, tried)
            raise

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        """Go to the chat, or to the administration for those who may not chat."""
        may_chat = allowed(request.user, Permission.CHAT)
        return reverse("new_conversation" if may_chat else "admin:index")

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        """Go back to the person's own page."""
        return reverse("account")

    def send_password_reset_mail(
        self, user: AbstractBaseUser, email: str, context: dict[str, Any]
    ) -> None:
        """Send the link to an active account, and announce it."""
        if user.is_active:
            super().send_password_reset_mail(user, email, context)
            password_reset_requested.send(sender=User, user=user)


def too_many_tries(request: HttpRequest) -> HttpResponse:
    """Answer where a limit of django-allauth is reached (`handler429` of the root URLconf)."""
    _announce_limit(request)
    return render(request, "429.html", status=429)


def _announce_limit(request: HttpRequest, tried: str = "") -> None:
    page = request.resolver_match.view_name if request.resolver_match else ""
    rate_limited.send(sender=AccountAdapter, user=request.user, page=page, tried=tried)
