"""Reading the log: which entries are asked for, and pages of them by id.

A page is found by the id it begins behind (`below`, `above`), never by counting rows: it costs the
same at the end of the log as at its beginning, and entries that arrive meanwhile shift nothing.

    selection = Selection.parse(request.GET)
    page = selection.page(below=1204)

Where a selection has alternatives (a search, a group of events, a timeline) each is looked up by
an index of its own, and what they find first is put together.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from operator import or_
from typing import Any, Self

from django.db import connection
from django.db.models import F, Max, Min, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from accounts.models import User
from accounts.roles import ROLES
from audit.content import WITHHELD
from audit.events import EVENTS, Group, events_of
from audit.models import ActorKind, Checkpoint, Entry, Leaf, Outcome, RolesOfActor

PAGE = 50
ACCOUNT = User._meta.label_lower

PERIODS = {"today": "Today", "week": "Past 7 days", "month": "This month"}
_KIND = re.compile(r"[a-z_]+(\.[a-z_]+)?")
# What is typed into a field for ids and looks like none may be a name.
_ID = re.compile(r"[0-9a-fA-F-]+")
_LONGEST_ID = 254


class SelectionError(ValueError):
    """What was asked for can't be looked up; the message is a sentence for the reader."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries in their order, and whether there are more beyond its first and last."""

    entries: list[Entry]
    has_before: bool
    has_after: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries somebody asks for. Fields narrow it together; an empty one does not.

    `about` is an account, as who acted or to whom it was done. `since` is the first moment of the
    selection, `until` the first behind it.
    """

    search: str = ""
    event: str = ""
    group: str = ""
    actor_kind: str = ""
    actor: str = ""
    role: str = ""
    token: str = ""
    target_kind: str = ""
    target: str = ""
    outcome: str = ""
    request: str = ""
    turn: str = ""
    about: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def parse(cls, asked: Mapping[str, str]) -> Self:
        """Read the parameters of an address: the fields by name, `q`, `period`, `from`, `to`.

        `from` and `to` are days in UTC, both included. Raises SelectionError.
        """
        given: dict[str, Any] = {name: asked.get(name, "").strip() for name in _WORDS}
        given["search"] = asked.get("q", "").strip()
        for name, choices in _CHOICES.items():
            if given[name] and given[name] not in choices:
                raise SelectionError(f"The log knows no {name.replace('_', ' ')} of this name.")
        if given["target_kind"] and not _KIND.fullmatch(given["target_kind"]):
            raise SelectionError("A kind of target is a word like accounts.user.")
        if any(len(text) > _LONGEST_ID or "\x00" in text for text in given.values()):
            raise SelectionError("Nothing in the log has so long a name.")
        if "@" in given["actor"]:
            given["actor"] = _account_called(given["actor"])
            if not given["actor"]:
                raise SelectionError("The log knows no account with this email.")
        since, until = _times(asked)
        return cls(**given, since=since, until=until)

    def page(
        self, *, below: int | None = None, above: int | None = None, oldest_first: bool = False
    ) -> Page:
        """Return the entries next to an id, or the first ones; two queries, few more
        for a search or a period.

        `below` and `above` are ids of entries that are not on the page themselves.
        """
        upwards = above is not None or (oldest_first and below is None)
        found = self._nearest(PAGE + 1, below, above, upwards)
        more, found = len(found) > PAGE, found[:PAGE]
        if upwards != oldest_first:
            found.reverse()
        came_from = bool(found) and (below is not None or above is not None)
        before, after = (came_from, more) if upwards == oldest_first else (more, came_from)
        return Page(found, before, after)

    def entries(self) -> QuerySet[Entry]:
        """Return all entries of the selection, in no order."""
        narrowed = Entry.objects.order_by().filter(self._conditions())
        if self.role:
            listed: Any = narrowed.alias(roles=RolesOfActor())
            narrowed = listed.filter(roles__contains=[self.role])
        alternatives = self._alternatives()
        return narrowed.filter(reduce(or_, alternatives)) if alternatives else narrowed

    def described(self) -> dict[str, str]:
        """Return what narrows the selection; not what was searched for, which may be personal."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "search"}
        return {name: _told(name, value) for name, value in told.items() if value}

    def _nearest(
        self, count: int, below: int | None, above: int | None, upwards: bool
    ) -> list[Entry]:
        alternatives = self._alternatives() or [Q()]
        section = self._section(below, above)
        order = "id" if upwards else "-id"
        narrowed = (
            replace(self, search="", about="", group="").entries().filter(section).order_by(order)
        )
        first, *others = (narrowed.filter(one).values("id")[:count] for one in alternatives)
        ids = first.union(*others).order_by(order)[:count] if others else first
        # Personal details join what was found, lest the planner begins with them.
        found = Entry.objects.filter(id__in=[row["id"] for row in ids])
        return list(found.select_related("personal").order_by(order))

    def _section(self, below: int | None, above: int | None) -> Q:
        """Return the ids between which the page lies.

        The sequence of entries is that of their ids, which the clocks follow with few exceptions.
        All other indexes end with the id, so the time is turned into ids once.
        """
        section = Q()
        if self.since or self.until:
            # Adding 0 keeps the planner from walking along the primary key.
            ids = (
                Entry.objects.order_by()
                .filter(self._period())
                .aggregate(first=Min(F("id") + 0), last=Max(F("id") + 0))
            )
            if ids["first"] is None:
                return Q(pk__in=[])
            section &= Q(id__gte=ids["first"], id__lte=ids["last"])
        if below is not None:
            section &= Q(id__lt=below)
        if above is not None:
            section &= Q(id__gt=above)
        return section

    def _period(self) -> Q:
        period = Q(occurred_at__gte=self.since) if self.since else Q()
        return period & Q(occurred_at__lt=self.until) if self.until else period

    def _conditions(self) -> Q:
        equal = {
            "event": self.event,
            "actor_kind": self.actor_kind,
            "actor_id": self.actor,
            "token_id": self.token,
            "target_kind": self.target_kind,
            "target_id": self.target,
            "outcome": self.outcome,
            "request_id": self.request,
            "turn_id": self.turn,
        }
        return Q(**{name: value for name, value in equal.items() if value}) & self._period()

    def _alternatives(self) -> list[Q]:
        """Return conditions of which one has to hold, each with an index; none where all do."""
        if self.search:
            found = _searched(self.search)
            return [one & self._of_group() for one in found]
        if self.about:
            return [one & self._of_group() for one in _about(self.about)]
        return [Q(event=event) for event in events_of(self.group)] if self.group else []

    def _of_group(self) -> Q:
        return Q(event__in=events_of(self.group)) if self.group else Q()


_IDS = ("request_id", "turn_id", "token_id")
_WORDS = tuple(f.name for f in fields(Selection) if f.name not in {"search", "since", "until"})
_CHOICES: dict[str, Iterable[str]] = {
    "event": EVENTS,
    "group": [group.value for group in Group],
    "actor_kind": ActorKind.values,
    "role": ROLES,
    "outcome": Outcome.values,
}


def _told(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    typed = name not in _CHOICES and name != "target_kind"
    return WITHHELD if typed and not _ID.fullmatch(value) else str(value)


def _searched(term: str) -> list[Q]:
    if "@" not in term:
        return [Q(actor_id=term), Q(target_id=term), *(Q(**{name: term}) for name in _IDS)]
    labelled = Q(personal__target_label=term.lower())
    account = _account_called(term)
    return [labelled, *_about(account)] if account else [labelled]


def _about(account: str) -> list[Q]:
    return [Q(actor_id=account), Q(target_kind=ACCOUNT, target_id=account)]


def _account_called(email: str) -> str:
    """Return the id of the account with this email; where none has it now, of the last that had it.

    Empty where the log never knew one.
    """
    user = User.objects.filter(email=email).values_list("pk", flat=True).first()
    if user is not None:
        return str(user)
    labelled = Entry.objects.filter(personal__target_label=email.lower(), target_kind=ACCOUNT)
    return labelled.order_by("-id").values_list("target_id", flat=True).first() or ""


# --- times -----------------------------------------------------------------------------------


def _times(asked: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """Return the first moment of what is asked for, and the first behind it."""
    since, until = _day(asked.get("from", "")), _day(asked.get("to", ""))
    if since and until and until < since:
        raise SelectionError("The last day lies before the first.")
    if since is None and asked.get("period"):
        since = _begin(asked["period"])
    behind = until + timedelta(days=1) if until else None
    return (_midnight(since) if since else None), (_midnight(behind) if behind else None)


def _day(text: str) -> date | None:
    if not text.strip():
        return None
    try:
        day = date.fromisoformat(text.strip())
    except ValueError as error:
        raise SelectionError("A day is written like 2026-11-22.") from error
    if not 1970 <= day.year <= 9000:
        raise SelectionError("The log has no entries of that year.")
    return day


def _begin(period: str) -> date:
    if period not in PERIODS:
        raise SelectionError("The log knows no period of this name.")
    today = timezone.now().astimezone(UTC).date()
    return {
        "today": today,
        "week": today - timedelta(days=6),
        "month": today.replace(day=1),
    }[period]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


# --- what there is ---------------------------------------------------------------------------


def kinds_of_target() -> list[str]:
    """Return the kinds of targets that occur; the index is asked for one after the other."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE found AS (
                (SELECT target_kind FROM audit_entry ORDER BY target_kind LIMIT 1)
                UNION ALL
                SELECT (SELECT target_kind FROM audit_entry
                        WHERE target_kind > found.target_kind ORDER BY target_kind LIMIT 1)
                FROM found WHERE found.target_kind IS NOT NULL
            )
            SELECT target_kind FROM found WHERE target_kind <> ''
            """
        )
        return [kind for (kind,) in cursor.fetchall()]


# --- the tree --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sealed:
    """Where an entry stands in the tree; `checkpoint` is None until one covers it."""

    index: int
    checkpoint: int | None
    clock_went_back: bool


def sealed(entry_ids: Iterable[int]) -> dict[int, Sealed]:
    """Return the place of each of these entries that has one; one query."""
    covering = Checkpoint.objects.filter(size__gt=OuterRef("index")).order_by("size", "number")
    leaves: Any = (
        Leaf.objects.order_by()
        .filter(entry_id__in=list(entry_ids))
        .values_list(
            "entry_id", "index", Subquery(covering.values("number")[:1]), "clock_went_back"
        )
    )
    return {
        entry_id: Sealed(index, number, went_back) for entry_id, index, number, went_back in leaves
    }
