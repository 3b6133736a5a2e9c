"""Conversations as those see them who keep the house in order: when, whose, how it went.

Never what was said: contents and titles are not fields here, and nothing opens them. And the rules
for what may be sent and shown, which are tried on a sample before they are saved.
"""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import F
from django.http import HttpRequest

from accounts.admin import DiscreetAdmin, HistoryInline, NewestPages
from conversations.models import (
    BudgetPlan,
    BudgetWindow,
    Conversation,
    Message,
    PolicyRule,
    PolicyRuleVersion,
)
from conversations.turn.plans import remove_plan, save_plan
from conversations.turn.rules import TERMS, RuleRefused, Trial, checked, save_rule, tried


class ReadOnly(DiscreetAdmin):
    """Shown, never changed; pages without a count of the table."""

    paginator = NewestPages
    show_full_result_count = False
    actions = None
    sortable_by = ()

    def has_add_permission(self, request: HttpRequest, *_args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, *_args: Any) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, *_args: Any) -> bool:
        return False


class MessageInline(admin.StackedInline):  # type: ignore[type-arg]
    """A conversation's messages without their contents."""

    model = Message
    verbose_name_plural = "messages, without contents"
    fields = ("created_at", "role", "state", "fault", "model", "tokens_in", "tokens_out")
    readonly_fields = fields
    ordering = ("created_at",)
    extra = 0
    can_delete = False
    show_change_link = False

    def has_add_permission(self, request: HttpRequest, *_args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, *_args: Any) -> bool:
        return False


@admin.register(Conversation)
class ConversationAdmin(ReadOnly):
    """When and whose; never what."""

    list_display = ("id", "owner", "lifecycle", "created_at", "last_message_at")
    list_filter = ("lifecycle", "is_trial", "created_at")
    list_select_related = ("owner",)
    search_fields = ("=id", "=owner__email")
    search_help_text = "The id of a conversation, or an email."
    ordering = ("-created_at",)
    fields = (
        "id",
        "owner",
        "lifecycle",
        "template",
        "is_trial",
        "created_at",
        "last_message_at",
        "last_seen",
        "deleted_at",
    )
    inlines = (MessageInline,)


@admin.register(BudgetPlan)
class BudgetPlanAdmin(DiscreetAdmin):
    """What people may spend, for each role and for everybody else."""

    list_display = ("whose", "session_usd", "session_hours", "day_usd", "month_usd")
    fields = ("role", "session_usd", "session_hours", "day_usd", "month_usd")
    ordering = (F("role").asc(nulls_first=True),)
    sortable_by = ()
    actions = None

    @admin.display(description="of whom")
    def whose(self, plan: BudgetPlan) -> str:
        return str(plan.role) if plan.role else "Everybody else"

    def get_readonly_fields(self, request: HttpRequest, obj: BudgetPlan | None = None) -> Any:
        """Let a plan keep its role."""
        return ("role",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: BudgetPlan | None = None) -> bool:
        """Keep the plan that holds where no other does."""
        if obj is not None and obj.role_id is None:
            return False
        return super().has_delete_permission(request, obj)

    def save_model(self, request: Any, obj: BudgetPlan, form: Any, change: bool) -> None:
        save_plan(obj, by=request.user)

    def delete_model(self, request: Any, obj: BudgetPlan) -> None:
        remove_plan(obj, by=request.user)


@admin.register(BudgetWindow)
class BudgetWindowAdmin(ReadOnly):
    """What was spent, by whom or in which conversation, and until when it counts."""

    list_display = ("scope", "subject", "starts_at", "ends_at", "spent_usd", "reserved_usd")
    list_filter = ("scope", "starts_at")
    search_fields = ("=subject",)
    search_help_text = "The id of a conversation or an account."
    ordering = ("-starts_at",)


class PolicyRuleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rule and a sample to try it on. A trial shows its result and saves nothing."""

    sample = forms.CharField(
        required=False,
        strip=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"}),
        help_text="A text of your own making. It is neither saved nor recorded.",
    )

    class Meta:
        model = PolicyRule
        fields = TERMS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_trial = "_try" in self.data
        self.trials: list[Trial] = []

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]  # here the instance gets its values
        if self.errors:
            return
        try:
            checked(self.instance)
            if self.is_trial:
                self.trials = tried(self.instance, self.cleaned_data["sample"])
        except RuleRefused as refused:
            self.add_error(refused.field, str(refused))

    def is_valid(self) -> bool:
        """Say whether to save; a trial is shown again instead, without an error."""
        return super().is_valid() and not self.is_trial


_OF_A_VERSION: tuple[str, ...] = ("number", "created_at", "author", *TERMS)


class PolicyRuleVersionInline(HistoryInline):
    """What the rule said before, newest first."""

    model = PolicyRuleVersion
    verbose_name_plural = "versions"
    fields = readonly_fields = _OF_A_VERSION


@admin.register(PolicyRule)
class PolicyRuleAdmin(DiscreetAdmin):
    """What may be sent and shown. Rules are not deleted but put out of force: hits name them."""

    form = PolicyRuleForm
    list_display = ("name", "kind", "direction", "action", "is_active", "version", "changed_at")
    list_filter = ("is_active", "kind", "direction", "action")
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": ("name", "is_active", "kind", "direction", "action", "message")}),
        ("What it looks for", {"fields": ("pattern", "words", "limit")}),
    )
    inlines = (PolicyRuleVersionInline,)
    actions = None

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Offer the trial to those who may save."""
        if not self.has_change_permission(request, obj):
            return self.fieldsets
        return (*self.fieldsets, ("Try it", {"fields": ("sample",)}))

    def save_model(self, request: Any, obj: PolicyRule, form: Any, change: bool) -> None:
        """Save by the verb, which makes a version and records it."""
        save_rule(obj, by=request.user)
