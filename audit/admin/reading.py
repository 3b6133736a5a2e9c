"""What all pages of the log have in common: who may read them, and links between them."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse

from accounts.access import allowed
from accounts.roles import Permission
from audit.selection import Selection, SelectionError
from audit.trail import Target, record

# Pages of a list: behind which row it goes on, older or newer.
BELOW, ABOVE = "below", "above"


class LogAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A part of the log: read by those who may, added to, changed and removed by nobody."""

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Say whether this person may read the log."""
        return allowed(request.user, Permission.VIEW_AUDIT)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Do as `has_view_permission`."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Answer no."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Answer no."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Answer no."""
        return False

    def require_view(self, request: HttpRequest) -> None:
        """Return if this person may read the log. Raises PermissionDenied."""
        if not self.has_view_permission(request):
            raise PermissionDenied

    def page_context(self, request: HttpRequest, title: str, **more: Any) -> dict[str, Any]:
        """Return what the admin's own templates ask for, and `more`."""
        return {**self.admin_site.each_context(request), "opts": self.opts, "title": title, **more}


def viewed(target: Target, page: str, selection: Selection | None = None) -> None:
    """Record that somebody read a page of the log, once it is known that it will be shown.

    What was searched for may be personal: it stays erasable.
    """
    asked = selection or Selection()
    record(
        None,
        "audit.viewed",
        target,
        target_label=asked.search,
        page=page,
        filter=asked.described(),
        searched=bool(asked.search),
    )


def page_bounds(request: HttpRequest) -> dict[str, int]:
    """Return behind which id the page begins, by name. Raises SelectionError."""
    bounds = {name: request.GET[name] for name in (BELOW, ABOVE) if request.GET.get(name)}
    if not all(text.isascii() and text.isdecimal() and len(text) < 19 for text in bounds.values()):
        raise SelectionError("A page of the log begins behind the number of an entry.")
    return {name: int(text) for name, text in bounds.items()}


def link_to(request: HttpRequest, kind: str, pk: str) -> str:
    """Return the address of a record's page, or nothing.

    Nothing where there is no such page, the record is gone, or this person may not open it.
    """
    page = _page_of(request, kind)
    if not page or not pk or page.get_object(request, pk) is None:
        return ""
    return reverse(f"admin:{page.opts.app_label}_{page.opts.model_name}_change", args=[pk])


def _page_of(request: HttpRequest, kind: str) -> Any:
    for model, page in admin.site._registry.items():
        if model._meta.label_lower == kind and page.has_view_permission(request):
            return page
    return None


def timeline_of(kind: str, pk: str) -> str:
    """Return the address of the timeline of an account, a conversation, a request or a turn."""
    return reverse("admin:audit_entry_timeline", args=[kind, pk]) if pk else ""


def entries_with(**asked: str) -> str:
    """Return the address of the list with these filters."""
    return f"{reverse('admin:audit_entry_changelist')}?{urlencode(asked)}"


def in_fours(digest: str) -> str:
    """Return a hash with a space after every four digits, as people compare them."""
    return " ".join(digest[at : at + 4] for at in range(0, len(digest), 4))
