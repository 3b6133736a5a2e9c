"""Conversations as those see them who keep the house in order: when, whose, how it went.

Never what was said: contents and titles are not fields here, and nothing opens them.
"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from accounts.admin import DiscreetAdmin
from audit.admin import NewestPages
from conversations.models import Conversation, Message


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
