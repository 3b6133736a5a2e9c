"""The admin site of Parley: signed in through the product's own page, sections by role."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.apps import AdminConfig
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, resolve_url

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


class ParleyAdmin(AdminConfig):
    """Stands in for `django.contrib.admin`."""

    default_site = "chatbot.apps.ParleyAdminSite"


class ParleyAdminSite(admin.AdminSite):
    """Who may enter, and what each sees, follows from the roles."""

    site_header = "Parley"
    site_title = "Parley"
    index_title = "Administration"

    def admin_view(self, view: View, cacheable: bool = False) -> View:
        """Let every page tell the audit log that it was read, where that is recorded."""
        from audit.reading import noted

        return super().admin_view(noted(view), cacheable)

    def each_context(self, request: Any) -> dict[str, Any]:
        """Tell each page whether an AI is connected."""
        return {**super().each_context(request), "provider_is_demo": settings.PROVIDER_IS_DEMO}

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Sign in where everybody does; who is signed in and may not enter gets a 403."""
        if request.user.is_authenticated:
            raise PermissionDenied("Your role has no section in the administration.")
        return redirect(f"{resolve_url(settings.LOGIN_URL)}?next={request.get_full_path()}")

    def password_change(  # type: ignore[override]  # a redirect is an answer too
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """There is one page for it."""
        return redirect("account_change_password")

    def logout(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """There is one page for it."""
        return redirect("account_logout")
