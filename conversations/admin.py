"""Conversations as those see them who keep the house in order: when, whose, how it went.

Never what was said: contents and titles are not fields here, and nothing opens them.
"""

from typing import Any

from django.contrib import admin
from django.db.models import F
from django.http import HttpRequest

from accounts.admin import DiscreetAdmin
from audit.admin import NewestPages
from conversations.models import BudgetPlan, BudgetWindow, Conversation, Message
from conversations.turn.plans import remove_plan, save_plan


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
    list_filter = ("lifecycle", "created_at")
    list_select_related = ("owner",)
    search_fields = ("=id", "=owner__email")
    search_help_text = "The id of a conversation, or an email."
    ordering = ("-created_at",)
    fields = (
        "id",
        "owner",
        "lifecycle",
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
