"""Checkpoints in the admin: what was signed when, and where it was published."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from audit.admin.reading import ABOVE, BELOW, LogAdmin, in_fours, page_bounds, viewed
from audit.models import Checkpoint
from audit.selection import PAGE, SelectionError


@admin.register(Checkpoint)
class CheckpointAdmin(LogAdmin):
    """The signed heads of the log."""

    def get_urls(self) -> list[URLPattern]:
        """Add the note to download."""
        note = self.admin_site.admin_view(self.note_view)
        return [
            path("<int:number>/note/", note, name="audit_checkpoint_note"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show a page of checkpoints, newest first."""
        self.require_view(request)
        try:
            shown, has_newer, has_older = _page(**page_bounds(request))
        except SelectionError as error:
            raise Http404(str(error)) from error
        viewed(("audit.checkpoint", ""), "list")
        context = self.page_context(
            request,
            "Checkpoints",
            checkpoints=[(one, _hex(one)) for one in shown],
            newer=f"?{ABOVE}={shown[0].number}" if has_newer else "",
            older=f"?{BELOW}={shown[-1].number}" if has_older else "",
        )
        return TemplateResponse(request, "admin/audit/checkpoint/change_list.html", context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a checkpoint as it was signed."""
        self.require_view(request)
        checkpoint = _checkpoint(object_id)
        viewed(checkpoint, "record")
        context = self.page_context(
            request, f"Checkpoint {checkpoint.number}", checkpoint=checkpoint, root=_hex(checkpoint)
        )
        return TemplateResponse(request, "admin/audit/checkpoint/change_form.html", context)

    def note_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """Hand out the signed note."""
        self.require_view(request)
        checkpoint = _checkpoint(str(number))
        viewed(checkpoint, "note")
        name = f'attachment; filename="checkpoint-{checkpoint.number}.txt"'
        return HttpResponse(
            checkpoint.note,
            content_type="text/plain; charset=utf-8",
            headers={"Content-Disposition": name},
        )


def _with_publications() -> QuerySet[Checkpoint]:
    return Checkpoint.objects.prefetch_related("publications")


def _page(
    below: int | None = None, above: int | None = None
) -> tuple[list[Checkpoint], bool, bool]:
    """Return checkpoints, newest first, and whether there are newer and older ones."""
    rows = _with_publications()
    if above is not None:
        found = list(rows.filter(number__gt=above).order_by("number")[: PAGE + 1])
        if len(found) > PAGE:
            return found[:PAGE][::-1], True, True
    elif below is not None:
        rows = rows.filter(number__lt=below)
    found = list(rows.order_by("-number")[: PAGE + 1])
    return found[:PAGE], below is not None and bool(found), len(found) > PAGE


def _checkpoint(object_id: str) -> Checkpoint:
    found = None
    if object_id.isascii() and object_id.isdecimal() and len(object_id) < 19:
        found = _with_publications().filter(number=int(object_id)).first()
    if found is None:
        raise Http404("There is no checkpoint with this number.")
    return found


def _hex(checkpoint: Checkpoint) -> str:
    return in_fours(bytes(checkpoint.root).hex())
