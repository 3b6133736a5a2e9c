"""Erasing accounts in the admin: for a person who asked for it, with the reason."""

import uuid
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect

from accounts.admin import DiscreetAdmin, NewestPages
from accounts.administration import LastAdministratorError
from accounts.models import User
from conversations.models import Erasure
from conversations.rights.erasure import erase


class ErasureForm(forms.ModelForm):  # type: ignore[type-arg]
    """Whose account is erased, and why."""

    email = forms.EmailField(label="Email of the account", help_text="As it is now.")
    reason = forms.CharField(
        min_length=10,
        max_length=300,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="Who asked for it, and how you know. It stays in the audit log for good: don't"
        " name the person here.",
    )
    sure = forms.BooleanField(
        label="Erase this account and all that the person said. Nobody can undo it."
    )

    class Meta:
        model = Erasure
        fields = ()

    def clean_email(self) -> User:
        """Return the account."""
        found: User | None = User.objects.filter(email=self.cleaned_data["email"]).first()
        if found is None:
            raise forms.ValidationError("There is no account with this email.")
        return found


@admin.register(Erasure)
class ErasureAdmin(DiscreetAdmin):
    """Which accounts were erased, by their numbers, and whether everything is destroyed."""

    form = ErasureForm
    list_display = ("account", "asked_at", "state")
    fields = ("account", "asked_at", "state")
    readonly_fields = fields
    search_fields = ("=person__id",)
    search_help_text = "The id of an account."
    paginator = NewestPages
    show_full_result_count = False
    sortable_by = ()
    actions = None

    @admin.display(description="account")
    def account(self, erasure: Erasure) -> str:
        """Return its id, which is all that is left to call it by."""
        return str(erasure.person_id)

    @admin.display(description="state")
    def state(self, erasure: Erasure) -> str:
        """Return how far it is. What holds it up is told to nobody here."""
        done = erasure.finished_at
        return f"Destroyed, {done:%-d %b %Y, %H:%M} UTC" if done else "Closed; being destroyed"

    def get_fieldsets(self, request: HttpRequest, obj: Erasure | None = None) -> Any:
        """Ask for a new one; tell of one that was."""
        if obj is not None:
            return super().get_fieldsets(request, obj)
        return ((None, {"fields": ("email", "reason", "sure"), "description": _WHAT_HAPPENS}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Erasure | None = None) -> Any:
        """Let nothing be edited."""
        return self.readonly_fields if obj else ()

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Fill in the account that a link names by its id."""
        try:
            person_id = uuid.UUID(request.GET.get("person", ""))
        except ValueError:
            return {}
        named = User.objects.filter(pk=person_id, erased_at=None).first()
        return {"email": named.email} if named else {}

    def has_change_permission(self, request: HttpRequest, obj: Erasure | None = None) -> bool:
        """Answer no: what is erased is erased."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Erasure | None = None) -> bool:
        """Answer no: that there was one stays known."""
        return False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Call the list what it is."""
        return super().changelist_view(request, {**(extra_context or {}), "title": "Erasures"})

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the form again with a sentence when the last administrator would go."""
        title = {} if object_id else {"title": "Erase an account"}
        context = {**(extra_context or {}), **title}
        try:
            return super().changeform_view(request, object_id, form_url, context)
        except LastAdministratorError as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: Any, obj: Erasure, form: ErasureForm, change: bool) -> None:
        """Erase by the verb, which asks for the permission, hides, and records."""
        person = form.cleaned_data["email"]
        erase(person, by=request.user, reason=form.cleaned_data["reason"])
        obj.person, obj._state.adding = person, False

    def response_add(
        self, request: HttpRequest, obj: Erasure, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Go to the list, and say what was done."""
        what = "The account is closed; what the person said is being destroyed."
        self.message_user(request, what, messages.SUCCESS)
        return redirect("admin:conversations_erasure_changelist")


_WHAT_HAPPENS = (
    "The person is signed out everywhere and can’t sign in any more. Conversations, tokens, name"
    " and email go; entries of the audit log stay and know the account by its number. The email is"
    " free for a new account. Under a legal hold the account is closed all the same."
)
