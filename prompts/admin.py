"""Prompts and their versions, to read."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from accounts.admin import DiscreetAdmin
from prompts.models import PromptTemplate, PromptVersion


class VersionInline(admin.StackedInline):  # type: ignore[type-arg]
    """All versions of a template, newest first."""

    model = PromptVersion
    fields = ("number", "content", "change_note", "author", "published_at")
    readonly_fields = fields
    ordering = ("-number",)
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, *_args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, *_args: Any) -> bool:
        return False


@admin.register(PromptTemplate)
class PromptTemplateAdmin(DiscreetAdmin):
    """What the AI is told, and which version is live."""

    list_display = ("name", "slug", "live_version", "purpose")
    list_select_related = ("live_version__template",)
    fields = ("name", "slug", "purpose", "owner", "live_version")
    inlines = (VersionInline,)
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
