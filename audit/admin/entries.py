"""Entries in the admin: the list with its filters, one entry with its proof, timelines."""

from typing import Any

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.timesince import timesince

from accounts.access import allowed
from accounts.roles import Permission
from audit.admin.filters import Asked
from audit.admin.reading import (
    ABOVE,
    BELOW,
    LogAdmin,
    entries_with,
    in_fours,
    link_to,
    page_bounds,
    timeline_of,
    viewed,
)
from audit.attestation import Attested, attest
from audit.models import ActorKind, Checkpoint, Entry
from audit.selection import ACCOUNT, Page, Selection, SelectionError, sealed
from audit.telling import Told, changes, days, facts, personal_state, tell
from audit.trail import record

CONVERSATION = "conversations.conversation"
# What has a timeline: the field of a selection that holds its id, and what it is called.
TIMELINES = {
    "account": ("about", "account"),
    "conversation": ("target", "conversation"),
    "request": ("request", "request"),
    "turn": ("turn", "turn"),
}


@admin.register(Entry)
class EntryAdmin(LogAdmin):
    """Who did what to what, and how it ended."""

    def get_urls(self) -> list[URLPattern]:
        """Add timelines and proofs to the pages that every model has."""
        view = self.admin_site.admin_view
        return [
            path(
                "timeline/<str:kind>/<str:subject>/",
                view(self.timeline_view),
                name="audit_entry_timeline",
            ),
            path("<int:entry_id>/proof/", view(self.proof_view), name="audit_entry_proof"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show a page of entries, newest first."""
        self.require_view(request)
        asked = Asked(request.GET.dict())
        try:
            selection = Selection.parse(asked.given)
            bounds = page_bounds(request)
            page = _page(selection, bounds)
        except SelectionError as error:
            return self._list(request, asked, Page([], False, False), error=str(error))
        viewed(("audit.entry", ""), "list", selection)
        return self._list(request, asked, page)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show an entry, and check its proof."""
        self.require_view(request)
        entry = _entry(object_id)
        told = tell(entry, sealed([entry.pk]).get(entry.pk))
        seal = attest(entry.pk, timezone.now())
        viewed(entry, "record")
        context = self.page_context(
            request,
            f"{entry.event} · {told.target}" if told.target else entry.event,
            told=told,
            entry=entry,
            links=_links(request, entry),
            changes=changes(entry.payload),
            facts=facts(entry.payload),
            personal=personal_state(entry),
            digest=in_fours(bytes(entry.personal_digest).hex()),
            seal=seal,
            leaf=in_fours(seal.leaf) if isinstance(seal, Attested) else "",
            root=in_fours(seal.root) if isinstance(seal, Attested) else "",
            is_proven=isinstance(seal, Attested),
        )
        return TemplateResponse(request, "admin/audit/entry/change_form.html", context)

    def proof_view(self, request: HttpRequest, entry_id: int) -> HttpResponse:
        """Hand out an entry's proof, once it is sealed and as long as it holds."""
        self.require_view(request)
        entry = _entry(str(entry_id))
        seal = attest(entry.pk, timezone.now())
        if not isinstance(seal, Attested):
            raise Http404("This entry has no proof.")
        record(None, "audit.proof_downloaded", entry, checkpoint=seal.checkpoint.number)
        return HttpResponse(
            seal.proof,
            content_type="text/plain; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="entry-{entry.pk}.tlog-proof"'},
        )

    def timeline_view(self, request: HttpRequest, kind: str, subject: str) -> HttpResponse:
        """Show all that happened to an account, a conversation, or in a request or turn."""
        self.require_view(request)
        if kind not in TIMELINES:
            raise Http404("There is no timeline of this kind.")
        asked = Asked(_asked_for(kind, subject))
        try:
            selection = Selection.parse(asked.given)
            bounds = page_bounds(request)
            page = selection.page(
                below=bounds.get(BELOW), above=bounds.get(ABOVE), oldest_first=True
            )
        except SelectionError as error:
            raise Http404(str(error)) from error
        viewed(("audit.entry", ""), "timeline", selection)
        name = TIMELINES[kind][1]
        context = self.page_context(
            request,
            f"Timeline of {name} {_subject_name(page, kind, subject)}",
            days=days(_told(page)),
            page=page,
            earlier=f"?{BELOW}={page.entries[0].pk}" if page.has_before else "",
            later=f"?{ABOVE}={page.entries[-1].pk}" if page.has_after else "",
            as_list=entries_with(**asked.given),
            subject=link_to(request, {"account": ACCOUNT}.get(kind, CONVERSATION), subject)
            if kind in {"account", "conversation"}
            else "",
            kind=name,
        )
        return TemplateResponse(request, "admin/audit/entry/timeline.html", context)

    def _list(
        self, request: HttpRequest, asked: Asked, page: Page, error: str = ""
    ) -> HttpResponse:
        context = self.page_context(
            request,
            "Audit entries",
            days=days(_told(page)),
            asked=asked,
            filters=asked.filters(),
            chips=asked.chips(),
            error=error,
            newer=asked.but(above=page.entries[0].pk) if page.has_before else "",
            older=asked.but(below=page.entries[-1].pk) if page.has_after else "",
            may_export=allowed(request.user, Permission.EXPORT_AUDIT),
            signed_ago=_signed_ago(),
        )
        template = "admin/audit/entry/change_list.html"
        return TemplateResponse(request, template, context, status=400 if error else 200)


def _page(selection: Selection, bounds: dict[str, int]) -> Page:
    """Return the page asked for; going back to the newest entries shows a full page of them."""
    page = selection.page(below=bounds.get(BELOW), above=bounds.get(ABOVE))
    return selection.page() if ABOVE in bounds and not page.has_before else page


def _signed_ago() -> str:
    """Say how long ago the last checkpoint was signed, which is how far the log is proven."""
    last = Checkpoint.objects.order_by("number").last()
    if last is None:
        return "nothing is sealed yet"
    seconds = int((timezone.now() - last.signed_at).total_seconds())
    ago = timesince(last.signed_at) if seconds >= 60 else f"{max(0, seconds)} s"
    return f"last checkpoint signed {ago} ago"


def _told(page: Page) -> list[Told]:
    places = sealed(entry.pk for entry in page.entries)
    return [tell(entry, places.get(entry.pk)) for entry in page.entries]


def _entry(object_id: str) -> Entry:
    found = None
    if object_id.isascii() and object_id.isdecimal() and len(object_id) < 19:
        found = Entry.objects.select_related("personal").filter(pk=int(object_id)).first()
    if found is None:
        raise Http404("There is no entry with this number.")
    return found


def _asked_for(kind: str, subject: str) -> dict[str, str]:
    asked = {TIMELINES[kind][0]: subject}
    return {**asked, "target_kind": CONVERSATION} if kind == "conversation" else asked


def _subject_name(page: Page, kind: str, subject: str) -> str:
    """Return how the subject is called in the entries on the page."""
    for entry in page.entries:
        told = tell(entry)
        if kind == "account" and entry.actor_id == subject:
            return told.actor
        if kind == "account" and entry.target_id == subject:
            return told.target
    return subject


def _links(request: HttpRequest, entry: Entry) -> dict[str, str]:
    """Return the addresses to which an entry leads, as far as this person may follow them."""
    is_person = entry.actor_kind in {ActorKind.USER, ActorKind.TOKEN}
    kinds = {ACCOUNT: "account", CONVERSATION: "conversation"}
    timeline = kinds.get(entry.target_kind)
    return {
        "actor": link_to(request, ACCOUNT, entry.actor_id) if is_person else "",
        "actor_timeline": timeline_of("account", entry.actor_id) if is_person else "",
        "actor_entries": "" if is_person else entries_with(actor=entry.actor_id),
        "target": link_to(request, entry.target_kind, entry.target_id),
        "target_timeline": timeline_of(timeline, entry.target_id) if timeline else "",
        "target_entries": entries_with(target_kind=entry.target_kind, target=entry.target_id)
        if entry.target_id and not timeline
        else "",
        "request": timeline_of("request", entry.request_id),
        "turn": timeline_of("turn", entry.turn_id),
    }
