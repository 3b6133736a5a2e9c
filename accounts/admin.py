"""Accounts in the admin: who there is, what they may do, and whether they may sign in."""

from typing import Any

from allauth.account.forms import default_token_generator
from allauth.account.internal.flows.password_reset import request_password_reset
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import cached_property
from django.utils.text import capfirst

from accounts import administration
from accounts.access import allowed
from accounts.http import Request
from accounts.models import ApiToken, User
from accounts.roles import ROLES, Permission
from accounts.tokens import revoke_token


class DiscreetAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """An admin whose entries in Django's own log name a record by its id alone.

    That log copies what `str()` says, an email or a title, to where no retention reaches. Its list
    is called what the menu calls it.
    """

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list."""
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> LogEntry:
        """Log that `obj` was added."""
        return _log(request, obj, ADDITION, message)

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> LogEntry:
        """Log that `obj` was changed, with the names of the fields."""
        return _log(request, obj, CHANGE, message)

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[LogEntry]:
        """Log that these records were deleted."""
        return [_log(request, obj, DELETION, "") for obj in queryset]


class NewestPages(Paginator):  # type: ignore[type-arg]
    """Pages through the first rows that match, without counting the table.

    What lies further back is reached by a filter or a search.
    """

    REACH = 2_000

    @cached_property
    def count(self) -> int:
        """Return how many rows match, as far as the pages reach."""
        rows: QuerySet[Model] = self.object_list  # type: ignore[assignment]
        return rows.order_by()[: self.REACH].count()


class HistoryInline(admin.StackedInline):  # type: ignore[type-arg]
    """What a record was before, newest first: to read, never to add to or change."""

    ordering = ("-number",)
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, *_args: Any) -> bool:
        """Answer no."""
        return False

    def has_change_permission(self, request: HttpRequest, *_args: Any) -> bool:
        """Answer no."""
        return False


def _log(request: HttpRequest, obj: Model, action: int, message: Any) -> LogEntry:
    return LogEntry.objects.create(
        user_id=str(request.user.pk),
        content_type=ContentType.objects.get_for_model(obj),
        object_id=str(obj.pk),
        object_repr=f"{obj._meta.verbose_name} {obj.pk}",
        action_flag=action,
        change_message=message,
    )


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    """An account with its roles. It has no password: its owner sets one by a mailed link."""

    roles = forms.MultipleChoiceField(
        choices=[(slug, role.label) for slug, role in ROLES.items()],
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text="What the person may do. Each change is recorded.",
    )

    class Meta:
        model = User
        fields = ("email", "name", "is_active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            self.initial["roles"] = sorted(self.instance.roles)


@admin.register(User)
class UserAdmin(DiscreetAdmin):
    """Add, describe, give roles, switch off. Accounts are not deleted here."""

    form = AccountForm
    list_display = ("email", "name", "role_labels", "is_active", "last_login")
    list_filter = ("is_active", ("grants__role", admin.RelatedOnlyFieldListFilter))
    search_fields = ("email", "name")
    readonly_fields = ("date_joined", "last_login", "erased_at")
    actions = None
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """Load the roles with the accounts."""
        accounts: QuerySet[User] = User.objects.with_roles().order_by("email")
        return accounts

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Ask only for what a new account needs."""
        if obj is None:
            return ["email", "name", "roles"]
        return ["email", "name", "roles", "is_active", "date_joined", "last_login", "erased_at"]

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Answer no: an account that did something stays nameable. Switch it off instead."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Say whether this person may manage accounts."""
        if obj is not None and obj.erased_at:
            return False  # nobody is left whom it could describe
        return allowed(request.user, Permission.MANAGE_USERS, obj)

    @admin.display(description="roles")
    def role_labels(self, user: User) -> str:
        """Return the roles as people call them."""
        return ", ".join(role.label for slug, role in ROLES.items() if slug in user.roles) or "none"

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the form again with a sentence when the last administrator would go."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except administration.LastAdministratorError as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: Any, obj: User, form: AccountForm, change: bool) -> None:
        """Make the changes by the verbs, which check, lock and announce."""
        if change:
            self._change(request, obj, form)
        else:
            self._create(request, obj, form)

    def _create(self, request: Request, obj: User, form: AccountForm) -> None:
        created = administration.create_account(
            obj.email, name=obj.name, roles=form.cleaned_data["roles"], by=request.user
        )
        obj.pk, obj._state.adding = created.pk, False
        request_password_reset(request, created.email, [created], default_token_generator)
        self.message_user(request, f"A link to set a password was sent to {created.email}.")

    def _change(self, request: Request, obj: User, form: AccountForm) -> None:
        described = [name for name in ("email", "name") if name in form.changed_data]
        if described:
            obj.save(update_fields=described)
        wanted = set(form.cleaned_data["roles"])
        # Granted first: an administrator may be replaced within one form, never removed by it.
        for role in sorted(wanted - obj.roles):
            administration.grant(obj, role, by=request.user)
        for role in sorted(obj.roles - wanted):
            administration.revoke(obj, role, by=request.user)
        if "is_active" in form.changed_data:
            switch = administration.reactivate if obj.is_active else administration.deactivate
            switch(obj, by=request.user)


@admin.register(ApiToken)
class ApiTokenAdmin(DiscreetAdmin):
    """Whose programs may act, and an end to it. Tokens are made by their owners alone."""

    list_display = ("beginning", "user", "scope_list", "last_used_at", "expires_at", "revoked_at")
    list_display_links = None
    list_select_related = ("user",)
    search_fields = ("=user__email", "beginning")
    search_help_text = "An email, or how the token begins."
    show_full_result_count = False
    actions = ("revoke",)

    @admin.display(description="opens")
    def scope_list(self, token: ApiToken) -> str:
        """Return the scopes, as the command line names them."""
        return ", ".join(token.scopes)

    @admin.action(description="Revoke the chosen tokens", permissions=["revoke"])
    def revoke(self, request: Any, queryset: QuerySet[ApiToken]) -> None:
        """Let the tokens open nothing any more."""
        revoked = sum(revoke_token(token, by=request.user) for token in queryset)
        self.message_user(request, f"Revoked: {revoked}.")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Say whether this person may manage accounts."""
        return allowed(request.user, Permission.MANAGE_USERS)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Answer no: the secret is shown to its owner alone."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        """Answer no: a token stays what it was made as."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        """Answer no: a revoked token stays nameable."""
        return False
