"""The log as a list, for those who may read it. Nothing can be added, changed or removed here."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from accounts.access import allowed
from accounts.models import User
from accounts.roles import Permission
from audit.events import EVENTS, Group, events_of
from audit.models import Entry


class NewestPages(Paginator):  # type: ignore[type-arg]
    """Pages through the newest entries that match, without counting the table.

    What lies further back is reached by a filter or a search.
    """

    REACH = 2_000

    @cached_property
    def count(self) -> int:
        """Return how many entries match, as far as the pages reach."""
        entries: QuerySet[Entry] = self.object_list  # type: ignore[assignment]
        return entries.order_by()[: self.REACH].count()


class EventFilter(admin.SimpleListFilter):
    """Filter by the vocabulary; the table is not asked which events occur."""

    title = "event"
    parameter_name = "event"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return all events."""
        return [(event, event) for event in EVENTS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        """Keep the entries of the chosen event."""
        return queryset.filter(event=self.value()) if self.value() in EVENTS else queryset


class GroupFilter(admin.SimpleListFilter):
    """Filter by what events are about."""

    title = "subject"
    parameter_name = "subject"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the groups that have events."""
        return [(group.name.lower(), group.value) for group in Group if events_of(group)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        """Keep the entries of the group's events."""
        group = Group.__members__.get((self.value() or "").upper())
        return queryset.filter(event__in=events_of(group)) if group else queryset


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Who did what to what, and how it ended."""

    list_display = ("occurred_at", "event", "actor", "target", "outcome", "reason")
    list_filter = (GroupFilter, EventFilter, "outcome", "actor_kind", "occurred_at")
    search_fields = ("=actor_id", "=target_id", "=request_id", "=turn_id")
    search_help_text = "An email, or the id of an account, a target, a request or a turn."
    list_select_related = ("personal",)
    sortable_by = ()
    actions = None
    paginator = NewestPages
    show_full_result_count = False

    @admin.display(description="actor")
    def actor(self, entry: Entry) -> str:
        """Return who acted, by name as long as the personal details are kept."""
        label = entry.personal.actor_label if hasattr(entry, "personal") else ""
        return label or entry.actor_id or entry.get_actor_kind_display()

    @admin.display(description="target")
    def target(self, entry: Entry) -> str:
        """Return to what it was done."""
        label = entry.personal.target_label if hasattr(entry, "personal") else ""
        return f"{entry.target_kind} {label or entry.target_id}".strip()

    @admin.display(description="network")
    def network(self, entry: Entry) -> str:
        """Return the client's network, while it is kept."""
        return entry.personal.network if hasattr(entry, "personal") else ""

    @admin.display(description="browser")
    def browser(self, entry: Entry) -> str:
        """Return the kind of browser or client, while it is kept."""
        return entry.personal.user_agent if hasattr(entry, "personal") else ""

    @admin.display(description="personal digest")
    def digest(self, entry: Entry) -> str:
        """Return the digest of the personal values, in hexadecimal."""
        return bytes(entry.personal_digest).hex()

    def get_fields(self, request: HttpRequest, obj: Entry | None = None) -> Any:
        """Show everything that is kept."""
        columns = [f.name for f in Entry._meta.fields if f.name != "personal_digest"]
        return [*columns, "actor", "target", "network", "browser", "digest"]

    get_readonly_fields = get_fields

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Entry], search_term: str
    ) -> tuple[QuerySet[Entry], bool]:
        """Find by an id; an email stands for its account, as actor or as target."""
        if "@" not in search_term:
            return super().get_search_results(request, queryset, search_term)
        user = User.objects.filter(email=search_term).first()
        if user is None:
            return queryset.filter(personal__target_label=search_term.lower()), False
        return super().get_search_results(request, queryset, str(user.pk))

    def has_view_permission(self, request: HttpRequest, obj: Entry | None = None) -> bool:
        """Say whether this person may read the log."""
        return allowed(request.user, Permission.VIEW_AUDIT)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Do as `has_view_permission`."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Answer no."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Entry | None = None) -> bool:
        """Answer no."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Entry | None = None) -> bool:
        """Answer no."""
        return False
