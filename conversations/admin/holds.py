"""Legal holds in the admin: which there are and what needs a look, placing one, lifting one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from accounts.access import allowed
from accounts.admin import DiscreetAdmin, NewestPages
from accounts.models import User
from accounts.roles import Permission
from conversations.models import Conversation, Hold
from conversations.retention.holds import HoldRefused, lift, place, still_to_come

LIST = "admin:conversations_hold_changelist"
PAGE = "admin:conversations_hold_change"
REVIEW_AFTER = timedelta(days=90)


def _overdue() -> Q:
    return Q(lifted_at=None, review_on__lt=datetime.now(UTC).date())


# In the order in which they are offered.
STATES: dict[str, tuple[str, Callable[[], Q]]] = {
    "standing": ("Standing", lambda: Q(lifted_at=None)),
    "overdue": ("Review overdue", _overdue),
    "lifted": ("Lifted, in the delay", lambda: Q(lifted_at__isnull=False, ended_at=None)),
    "ended": ("Ended", lambda: Q(ended_at__isnull=False)),
}


class StateFilter(admin.SimpleListFilter):
    """How far a hold is."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, label) for name, (label, _) in STATES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Hold]) -> QuerySet[Hold]:
        value = self.value()
        return queryset.filter(STATES[value][1]()) if value in STATES else queryset


def _default_review() -> Any:
    return datetime.now(UTC).date() + REVIEW_AFTER


class HoldForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a hold is on, and why."""

    person = forms.EmailField(
        required=False,
        help_text="The email of an account: all conversations of this person, later ones too.",
    )
    conversation = forms.UUIDField(
        required=False, label="Or one conversation", help_text="The id of a conversation."
    )
    review_on = forms.DateField(
        initial=_default_review,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="When somebody is to ask whether the hold is still needed. It does not end then.",
    )

    class Meta:
        model = Hold
        fields = ("matter", "reason", "review_on")
        widgets = {"reason": forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"})}

    def clean_person(self) -> User | None:
        """Return the account."""
        email = self.cleaned_data["person"]
        found = User.objects.filter(email=email.lower()).first() if email else None
        if email and found is None:
            raise forms.ValidationError("There is no account with this email.")
        return found

    def clean_conversation(self) -> Conversation | None:
        """Return the conversation."""
        pk = self.cleaned_data["conversation"]
        found = Conversation.objects.filter(pk=pk).first() if pk else None
        if pk and found is None:
            raise forms.ValidationError("There is no conversation with this id, or not any more.")
        return found

    def clean_review_on(self) -> Any:
        """Return the day."""
        try:
            return still_to_come(self.cleaned_data["review_on"])
        except HoldRefused as refused:
            raise forms.ValidationError(str(refused)) from None

    def clean(self) -> dict[str, Any]:
        """Want one of person and conversation."""
        given = super().clean() or self.cleaned_data
        named = [name for name in ("person", "conversation") if self[name].value()]
        if len(named) != 1:
            self.add_error(
                "person", "Name either a person or a conversation. For both, place two holds."
            )
        return given


class LiftForm(forms.Form):
    """Why a hold is lifted."""

    reason = forms.CharField(
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"}),
        help_text="Kept with the hold.",
    )


@admin.register(Hold)
class HoldAdmin(DiscreetAdmin):
    """What must be kept, for what matter, and until when. Placed and lifted, never edited."""

    form = HoldForm
    list_display = ("held", "matter", "state", "review_on", "placed_at")
    list_filter = (StateFilter,)
    list_select_related = ("user__erasure",)
    search_fields = ("matter", "=user__email", "=conversation__id")
    search_help_text = "A matter, an email, or the id of a conversation."
    paginator = NewestPages
    show_full_result_count = False
    sortable_by = ()
    actions = None
    fieldsets = (
        ("What is held", {"fields": ("person", "conversation")}),
        ("Why", {"fields": ("matter", "reason", "review_on")}),
    )
    told = (
        *("held", "state", "matter", "reason", "review_on", "placed_at", "author"),
        *("lifted_at", "lifted_by", "lift_reason", "ends_at", "ended_at"),
    )

    def get_urls(self) -> list[URLPattern]:
        """Add the page that lifts one."""
        lifting = self.admin_site.admin_view(self.lift_view)
        return [
            path("<uuid:pk>/lift/", lifting, name="conversations_hold_lift"),
            *super().get_urls(),
        ]

    def has_change_permission(self, request: HttpRequest, obj: Hold | None = None) -> bool:
        """Answer no: it is lifted, on a page of its own."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Hold | None = None) -> bool:
        """Answer no: that there was one stays known."""
        return False

    def get_fieldsets(self, request: HttpRequest, obj: Hold | None = None) -> Any:
        """Ask when one is placed; tell what holds afterwards, without what is not so far."""
        if obj is None:
            return self.fieldsets
        return ((None, {"fields": [name for name in self.told if getattr(obj, name, True)]}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Hold | None = None) -> Any:
        """Let nothing be edited."""
        return self.told if obj else ()

    @admin.display(description="held")
    def held(self, hold: Hold) -> str:
        """Return on whom or what it is."""
        if hold.conversation_id:
            return f"Conversation {hold.conversation_id}"
        if hold.user is None:
            return f"Account {hold.user_id}"
        former = getattr(hold.user, "erasure", None)
        if former and former.former_email:
            return f"{former.former_email}, erased"
        return str(hold.user.email)

    @admin.display(description="state")
    def state(self, hold: Hold) -> str:
        """Return how far it is, with a sign."""
        is_overdue = hold.lifted_at is None and hold.review_on < datetime.now(UTC).date()
        context = {"hold": hold, "is_overdue": is_overdue}
        return render_to_string("admin/conversations/hold/_state.html", context)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Say above the list how many want a review."""
        overdue = Hold.objects.filter(_overdue()).count()
        more = {"title": "Legal holds", "overdue": overdue}
        return super().changelist_view(request, {**(extra_context or {}), **more})

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the form again with a sentence when it can't be placed after all."""
        title = "Legal hold" if object_id else "Place a hold"
        more = {**(extra_context or {}), "title": title}
        try:
            return super().changeform_view(request, object_id, form_url, more)
        except HoldRefused as refused:
            self.message_user(request, str(refused), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: Any, obj: Hold, form: HoldForm, change: bool) -> None:
        """Place it by the verb, which locks, keeps the keys and records."""
        given = form.cleaned_data
        placed = place(
            given["person"] or given["conversation"],
            matter=given["matter"],
            reason=given["reason"],
            review_on=given["review_on"],
            by=request.user,
        )
        # Behind the lock of `place`: who clicks twice would have to lift two.
        same = Hold.objects.filter(
            user=placed.user_id,
            conversation=placed.conversation_id,
            matter=placed.matter,
            reason=placed.reason,
            lifted_at=None,
        )
        if same.exclude(pk=placed.pk).exists():
            raise HoldRefused("matter", "This hold stands already. It was not placed once more.")
        obj.pk, obj._state.adding = placed.pk, False

    def response_add(
        self, request: HttpRequest, obj: Hold, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Go to the list, and say what holds now."""
        what = "The hold was placed. Nothing that it is on is destroyed from now on."
        self.message_user(request, what, messages.SUCCESS)
        return redirect(LIST)

    def lift_view(self, request: Any, pk: Any) -> HttpResponse:
        """Ask for the reason and lift a hold."""
        if not allowed(request.user, Permission.PLACE_HOLDS):
            raise PermissionDenied
        hold = Hold.objects.select_related("user").filter(pk=pk).first()
        if hold is None:
            raise Http404("There is no such hold.")
        form = LiftForm(request.POST or None)
        if form.is_valid():
            return self._lifted(request, hold, form.cleaned_data["reason"])
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Lift the hold",
            "hold": hold,
            "held": self.held(hold),
            "form": form,
            "ends": datetime.now(UTC) + timedelta(days=settings.HOLD_DELAY_DAYS),
            "delay": settings.HOLD_DELAY_DAYS,
        }
        return TemplateResponse(request, "admin/conversations/hold/lift.html", context)

    def _lifted(self, request: Any, hold: Hold, reason: str) -> HttpResponse:
        try:
            lifted = lift(hold, reason=reason, by=request.user)
        except HoldRefused as refused:
            self.message_user(request, str(refused), messages.ERROR)
            return redirect(PAGE, hold.pk)
        self.log_change(request, lifted, "Lifted.")
        assert lifted.ends_at
        ends = f"{lifted.ends_at:%-d %b %Y, %H:%M} UTC"
        self.message_user(request, f"The hold was lifted. It keeps everything until {ends}.")
        return redirect(PAGE, hold.pk)
