"""How people sign in: django-allauth, with our rules."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest
from django.urls import reverse

from accounts.access import allowed
from accounts.http import client_address
from accounts.models import User
from accounts.roles import Permission
from accounts.signals import password_reset_requested


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc] # django-allauth has no types
    """Accounts are made by administrators; messages tell nobody whether an account exists."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Answer no: `accounts.administration` makes accounts."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """Return the address that rate limits count by; clients of a unix socket share one."""
        return client_address(request) or "unknown"

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
