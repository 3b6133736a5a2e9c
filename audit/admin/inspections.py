"""Checks of the log in the admin: the last results, and buttons that have it verified anew."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from audit import inspection_runs
from audit.admin.reading import LogAdmin, viewed
from audit.models import InspectionRun

SHOWN = 20
SHOWN_FINDINGS = 50


@admin.register(InspectionRun)
class InspectionRunAdmin(LogAdmin):
    """Whether the log holds, by its own keys."""

    def get_urls(self) -> list[URLPattern]:
        """Leave a list, and what its buttons ask for."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="audit_inspectionrun_changelist"),
            path("ask/", view(self.ask_view), name="audit_inspectionrun_ask"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the last runs; what one found stands with it."""
        self.require_view(request)
        viewed(("audit.inspectionrun", ""), "list")
        runs = list(InspectionRun.objects.select_related("asked_by").order_by("-id")[:SHOWN])
        last = runs[0] if runs else None
        findings = last.findings[:SHOWN_FINDINGS] if last else []
        context = self.page_context(
            request,
            "Verify the log",
            runs=runs,
            last=last,
            has_verified=any(run.holds for run in runs),
            last_findings=[{**f, "words": f["kind"].replace("_", " ")} for f in findings],
            more_findings=last.total_findings - len(findings) if last else 0,
        )
        return TemplateResponse(request, "admin/audit/inspectionrun/change_list.html", context)

    def ask_view(self, request: Any) -> HttpResponse:
        """Have the log verified: all of it, or what is new."""
        self.require_view(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        asked = inspection_runs.ask(by=request.user, whole="whole" in request.POST)
        if asked.is_open:
            self.message_user(
                request, "The log is being verified. You can leave this page; it goes on."
            )
        else:
            self.message_user(request, asked.why_failed, messages.ERROR)
        return redirect("admin:audit_inspectionrun_changelist")
