"""Exports in the admin: what was asked for and how far it is, asking for one, its download."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone

from accounts.access import allowed, require
from accounts.roles import Permission
from audit import export as exports
from audit.admin.filters import Asked
from audit.admin.reading import LogAdmin, viewed
from audit.events import EVENTS, Group
from audit.models import Export
from audit.selection import Selection, SelectionError, kinds_of_target
from audit.telling import OUTCOMES, kind_name

SHOWN = 50
CHUNK_BYTES = 1 << 18
LIST = "admin:audit_export_changelist"


@dataclass(frozen=True, slots=True)
class Shown:
    """An export as a page tells it; `what` names the selection."""

    export: Export
    what: str
    percent: int
    seconds_left: int | None
    may_export: bool

    @classmethod
    def of(cls, export: Export, request: HttpRequest) -> "Shown":
        return cls(
            export,
            in_words(exports.restored(export.selection)),
            export.percent,
            export.seconds_left(timezone.now()),
            allowed(request.user, Permission.EXPORT_AUDIT),
        )


@admin.register(Export)
class ExportAdmin(LogAdmin):
    """Parts of the log for others: read by those who may read it, asked for by those who may."""

    def get_urls(self) -> list[Any]:
        """Leave a list, a form, and what can be done with one export."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="audit_export_changelist"),
            path("add/", view(self.add_view), name="audit_export_add"),
            path("<int:pk>/job/", view(self.job_view), name="audit_export_job"),
            path("<int:pk>/cancel/", view(self.cancel_view), name="audit_export_cancel"),
            path("<int:pk>/again/", view(self.again_view), name="audit_export_again"),
            path("<int:pk>/download/", view(self.download_view), name="audit_export_download"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the last exports; those that are being written tell how far they are."""
        self._require_view(request)
        found = Export.objects.select_related("requested_by").order_by("-id")[:SHOWN]
        shown = [Shown.of(export, request) for export in found]
        viewed(("audit.export", ""), "list")
        context = self.page_context(
            request,
            "Exports",
            under_way=[one for one in shown if one.export.is_unfinished],
            finished=[one for one in shown if not one.export.is_unfinished],
            may_export=allowed(request.user, Permission.EXPORT_AUDIT),
        )
        return TemplateResponse(request, "admin/audit/export/change_list.html", context)

    def add_view(
        self, request: Any, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Let somebody choose entries, say how many they are, and ask for them."""
        require(request.user, Permission.EXPORT_AUDIT)
        asked = Asked((request.POST if request.method == "POST" else request.GET).dict())
        try:
            selection = Selection.parse(asked.given)
            if request.method == "POST":
                return self._request(request, selection)
            return self._form(request, _with_days(asked, selection), selection)
        except SelectionError as error:
            return self._form(request, asked, None, str(error))

    def job_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show how far one export is, as a piece of the list."""
        self._require_view(request)
        context = {"one": Shown.of(_export(pk), request)}
        return TemplateResponse(request, "admin/audit/export/_job.html", context)

    def cancel_view(self, request: Any, pk: int) -> HttpResponse:
        """End an export that is being written."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if exports.cancel(_export(pk), by=request.user):
            self.message_user(request, "The export was cancelled.")
        return redirect(LIST)

    def again_view(self, request: Any, pk: int) -> HttpResponse:
        """Go on with an export that failed."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            exports.try_again(_export(pk), by=request.user)
        except exports.ExportRefused as error:
            self.message_user(request, str(error), messages.ERROR)
        return redirect(LIST)

    def download_view(self, request: Any, pk: int) -> HttpResponseBase:
        """Hand out the file of an export."""
        export = _export(pk)
        try:
            file = exports.opened(export, by=request.user)
        except exports.ExportRefused as error:
            self.message_user(request, str(error), messages.ERROR)
            return redirect(LIST)
        return StreamingHttpResponse(
            _chunks(file),
            content_type="application/zip",
            headers={
                "Content-Disposition": f'attachment; filename="audit-export-{export.number}.zip"',
                "Content-Length": str(file.stat().st_size),
            },
        )

    def _require_view(self, request: Any) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _request(self, request: Any, selection: Selection) -> HttpResponse:
        try:
            exports.request_export(selection, by=request.user)
        except exports.ExportRefused as error:
            self.message_user(request, str(error), messages.ERROR)
        return redirect(LIST)

    def _form(
        self, request: HttpRequest, asked: Asked, selection: Selection | None, error: str = ""
    ) -> HttpResponse:
        if selection is not None:
            # It tells how many entries match, which is reading too.
            viewed(("audit.export", ""), "form", selection)
        count, is_exact = exports.estimate(selection) if selection else (0, True)
        context = self.page_context(
            request,
            "Export the log",
            asked=asked,
            chosen=in_words(selection) if selection else "",
            is_possible=selection is not None and (count > 0 or not is_exact),
            count=count,
            is_exact=is_exact,
            error=error,
            choices=CHOICES,
            kinds=[(kind, kind_name(kind)) for kind in kinds_of_target()],
            besides=asked.besides(*FIELDS),
        )
        template = "admin/audit/export/add.html"
        return TemplateResponse(request, template, context, status=400 if error else 200)


# What the form asks for; what else an address narrows the selection by goes along unseen.
FIELDS = ("from", "to", "group", "event", "outcome", "actor", "target_kind", "target")
CHOICES = {
    "group": [(group.value, group.value) for group in Group],
    "event": [(event, event) for event in EVENTS],
    "outcome": [(outcome.value, label) for outcome, label in OUTCOMES.items()],
}


def _with_days(asked: Asked, selection: Selection) -> Asked:
    """Put the days of a period like "today" where its name was: what is exported stays the same."""
    days = {
        "from": selection.since.date().isoformat() if selection.since else "",
        "to": _last_day(selection.until).date().isoformat() if selection.until else "",
    }
    return Asked({**dict(asked.besides("period")), **days})


def _last_day(until: datetime) -> datetime:
    return until - timedelta(days=1)


def in_words(selection: Selection) -> str:
    """Return what a selection is of, for the heading of an export."""
    asked = {
        name: str(getattr(selection, name))
        for name in Selection.__dataclass_fields__
        if name not in {"since", "until", "search"}
    }
    words = [chip for chip, _ in Asked(asked).chips()]
    if selection.search:
        words.append(f"Search: {selection.search}")
    return " · ".join([_period(selection.since, selection.until), *(words or ["all events"])])


def _period(since: datetime | None, until: datetime | None) -> str:
    first = f"{since:%-d %b %Y}" if since else ""
    last = f"{_last_day(until):%-d %b %Y}" if until else ""
    if first == last:
        return first or "everything so far"
    if not first:
        return f"up to {last}"
    return f"{first} to {last}" if last else f"since {first}"


def _export(pk: int) -> Export:
    found = Export.objects.select_related("requested_by").filter(pk=pk).first()
    if found is None:
        raise Http404("There is no export with this number.")
    return found


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    """Read a file beside the event loop, which goes on with others meanwhile."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()
