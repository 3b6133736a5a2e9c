"""Break-glass in the administration: asking, deciding, and what was read under which grant.

For compliance officers alone. Titles and contents are never here.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path

from accounts.access import allowed, require
from accounts.models import User
from accounts.roles import Permission
from conversations.break_glass import grants as break_glass
from conversations.models import BreakGlassGrant, Conversation

SHOWN = 100
LIST = "admin:conversations_breakglassgrant_changelist"
ONE = "admin:conversations_breakglassgrant_change"


class AskForm(forms.Form):
    """What somebody asks to read, why, and for how long."""

    matter = forms.CharField(
        max_length=120,
        help_text="The case's number or name. It stands in the audit log, so name nobody here.",
    )
    reason = forms.CharField(
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="Why it is needed. Other compliance officers read it; it can't be changed later.",
    )
    person = forms.CharField(
        label="One person",
        required=False,
        help_text="The email or id of their account, or leave it empty and name a conversation.",
    )
    conversation_id = forms.UUIDField(
        label="Or one conversation", required=False, help_text="Its id."
    )
    first_day = forms.DateField(
        label="From, in UTC",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="Days narrow down what may be read of a person. Empty: everything that is kept.",
    )
    last_day = forms.DateField(
        label="To, that day included",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="Empty: until now.",
    )
    minutes = forms.IntegerField(
        initial=break_glass.DEFAULT_MINUTES,
        min_value=1,
        max_value=break_glass.MOST_MINUTES,
        help_text=f"Up to {break_glass.MOST_MINUTES}, which is a day. It can be ended earlier.",
    )

    def __init__(self, data: Any = None, *, initial: Any = None) -> None:
        super().__init__(data, initial=initial, label_suffix="")

    def clean_person(self) -> User | None:
        """Return the account that is meant."""
        text = self.cleaned_data["person"]
        found = break_glass.people_known_as(text) if text else []
        if text and not found:
            raise forms.ValidationError("There is no account with this email or id.")
        if len(found) > 1:
            ids = ", ".join(str(user.pk) for user in found)
            raise forms.ValidationError(f"Several accounts had this email. Give the id: {ids}.")
        return found[0] if found else None

    def ask(self, by: User) -> BreakGlassGrant | None:
        """Ask; None, with an error in its place, for what can't be asked."""
        if not self.is_valid():
            return None
        try:
            return break_glass.ask(by=by, asked=break_glass.Asked(**self.cleaned_data))
        except break_glass.Refused as refused:
            self.add_error(refused.field or None, str(refused))
            return None


@dataclass(frozen=True, slots=True)
class Shown:
    """A grant as a page tells it."""

    grant: BreakGlassGrant
    state: str
    is_mine: bool

    @classmethod
    def of(cls, grant: BreakGlassGrant, request: Any) -> "Shown":
        now = datetime.now(UTC)
        return cls(grant, break_glass.state_of(grant, now), grant.asked_by_id == request.user.pk)


@admin.register(BreakGlassGrant)
class BreakGlassAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Grants: asked for, decided and ended on pages of their own; nothing else changes them."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Say whether this person may break the glass."""
        return allowed(request.user, Permission.BREAK_GLASS)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Do as `has_module_permission`."""
        return self.has_module_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Do as `has_module_permission`."""
        return self.has_module_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no."""
        return False

    def get_urls(self) -> list[Any]:
        """Leave a list, a form, a page for each grant and what can be done with it."""
        view = self.admin_site.admin_view
        name = "conversations_breakglassgrant"
        return [
            path("", view(self.changelist_view), name=f"{name}_changelist"),
            path("add/", view(self.add_view), name=f"{name}_add"),
            path("<uuid:pk>/", view(self.grant_view), name=f"{name}_change"),
            path("<uuid:pk>/decide/", view(self.decide_view), name=f"{name}_decide"),
            path("<uuid:pk>/end/", view(self.end_view), name=f"{name}_end"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the newest grants, how they stand, and how often was read under them."""
        self._require_view(request)
        found = break_glass.grants().annotate(views_count=Count("views"))[:SHOWN]
        shown = [Shown.of(grant, request) for grant in found]
        context = self._context(request, "Break-glass", found=shown)
        return self._page(request, "change_list", context)

    def add_view(
        self, request: Any, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Let an officer state a matter, a reason and a scope."""
        require(request.user, Permission.BREAK_GLASS)
        if request.method != "POST":
            given = request.GET.get("conversation", "")
            form = AskForm(initial={"conversation_id": given} if given else None)
            return self._form(request, form)
        form = AskForm(request.POST)
        grant = form.ask(request.user)
        return redirect(ONE, grant.pk) if grant else self._form(request, form, 400)

    def grant_view(self, request: Any, pk: uuid.UUID) -> HttpResponse:
        """Show one grant: what was asked, how it stands, what was read, what lies in its scope."""
        self._require_view(request)
        grant = self._grant(pk)
        scope = Conversation.objects.within(grant)
        context = self._context(
            request,
            f"Break-glass: {grant.matter}",
            one=Shown.of(grant, request),
            views=list(grant.views.all()[:SHOWN]),
            concerns_me=break_glass.concerns(grant, request.user),
            # No titles: whoever looks here need not be the one to whom it was granted.
            scope=list(
                scope.order_by("-last_message_at").only("pk", "created_at", "last_message_at")[
                    :SHOWN
                ]
            ),
            shown=SHOWN,
        )
        return self._page(request, "change_form", context)

    def decide_view(self, request: Any, pk: uuid.UUID) -> HttpResponse:
        """Approve or refuse what somebody else asked for."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        approve = request.POST.get("decision") == "approve"
        try:
            break_glass.decide(self._grant(pk).pk, by=request.user, approve=approve)
        except break_glass.Refused as refused:
            self.message_user(request, str(refused), messages.ERROR)
        return redirect(ONE, pk)

    def end_view(self, request: Any, pk: uuid.UUID) -> HttpResponse:
        """End a grant, or withdraw a request."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        break_glass.end(self._grant(pk).pk, by=request.user)
        return redirect(ONE, pk)

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _grant(self, pk: uuid.UUID) -> BreakGlassGrant:
        found = break_glass.grants().filter(pk=pk).first()
        if found is None:
            raise Http404("There is no grant with this id.")
        return found

    def _form(self, request: HttpRequest, form: AskForm, status: int = 200) -> HttpResponse:
        context = self._context(
            request,
            "Ask to read what somebody said",
            form=form,
            needs_approval=settings.BREAK_GLASS_NEEDS_APPROVAL,
        )
        return self._page(request, "add", context, status)

    def _context(self, request: HttpRequest, title: str, **more: Any) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.opts, "title": title, **more}

    def _page(
        self, request: HttpRequest, name: str, context: dict[str, Any], status: int = 200
    ) -> HttpResponse:
        template = f"admin/conversations/breakglassgrant/{name}.html"
        return TemplateResponse(request, template, context, status=status)
