"""Break-glass: the one way by which somebody reads what others said.

    grant = ask(by=officer, asked=Asked(matter, reason, minutes, person=…))
    decide(grant.pk, by=another, approve=True)     where BREAK_GLASS_NEEDS_APPROVAL
    grant = opened(grant.pk, by=officer)           raises NotReadable, with a sentence for the page
    page = read(grant, conversation_id, by=officer)
    end(grant.pk, by=officer)

`Conversation.visible_to` knows nothing of it: no other page, API or socket opens a conversation to
anybody but its owner. A grant is one officer's, has a scope and an end, and lasts 24 hours at most.
Nothing is shown before its audit entry is written. Entries name grant and matter, never what was
said; the reason stays with the grant, whose row the database keeps from being changed.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from accounts.access import require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record, record_sparingly
from conversations.models import (
    LONGEST_GRANT,
    BreakGlassGrant,
    BreakGlassView,
    Conversation,
)
from conversations.thread import Page, thread_of

DEFAULT_MINUTES = 60
MOST_MINUTES = LONGEST_GRANT // timedelta(minutes=1)
SHORTEST_REASON = 10
WAITS_FOR = timedelta(hours=24)
"""A request that nobody decided by then can't be approved any more."""
LISTED = 200


class Refused(Exception):
    """A request or a decision that can't be. The message is a sentence; `field` is its place."""

    def __init__(self, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field


class NotReadable(Exception):
    """Nothing opens under this grant now. The message says why, for its officer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an officer asks for: one conversation, or one person and perhaps days (by UTC)."""

    matter: str
    reason: str
    minutes: int = DEFAULT_MINUTES
    conversation_id: uuid.UUID | None = None
    person: User | None = None
    first_day: date | None = None
    last_day: date | None = None


# --- asking and deciding ----------------------------------------------------------------------


@transaction.atomic
def ask(*, by: User, asked: Asked) -> BreakGlassGrant:
    """Ask for leave to read; it begins at once unless somebody else must approve.

    Raises Denied, and Refused for what can't be asked.
    """
    require(by, Permission.BREAK_GLASS)
    _check(asked)
    now = datetime.now(UTC)
    grant = BreakGlassGrant(
        asked_by=by,
        asked_at=now,
        matter=asked.matter.strip(),
        reason=asked.reason.strip(),
        minutes=asked.minutes,
        conversation_id=asked.conversation_id,
        person=asked.person,
        first_day=asked.first_day,
        last_day=asked.last_day,
    )
    if not settings.BREAK_GLASS_NEEDS_APPROVAL:
        _begin(grant, now)
    grant.save(force_insert=True)
    record(
        by,
        "break_glass.requested",
        grant,
        matter=grant.matter,
        minutes=grant.minutes,
        scope=_scope_of(grant),
        until=grant.ends_at and grant.ends_at.isoformat(),
    )
    return grant


@transaction.atomic
def decide(grant_id: uuid.UUID, *, by: User, approve: bool) -> BreakGlassGrant:
    """Approve a request, which begins with that, or refuse it.

    Raises Denied, DoesNotExist, and Refused for what can't be decided, or not by this person.
    """
    require(by, Permission.BREAK_GLASS)
    grant = _locked(grant_id)
    now = datetime.now(UTC)
    if grant.asked_by_id == by.pk:
        raise Refused("Nobody decides their own request. Another compliance officer has to.")
    if concerns(grant, by):
        raise Refused("This request concerns you. Another compliance officer has to decide.")
    if not is_waiting(grant, now):
        raise Refused("This request can't be decided any more.")
    grant.decided_by, grant.decided_at = by, now
    if approve:
        _begin(grant, now)
    grant.save(update_fields=["decided_by", "decided_at", "starts_at", "ends_at"])
    until = grant.ends_at and grant.ends_at.isoformat()
    event = "break_glass.approved" if approve else "break_glass.refused"
    record(by, event, grant, matter=grant.matter, until=until)
    return grant


@transaction.atomic
def end(grant_id: uuid.UUID, *, by: User) -> BreakGlassGrant:
    """End a grant now, or withdraw its request; any compliance officer may.

    One that is over stays as it is. Raises Denied and DoesNotExist.
    """
    require(by, Permission.BREAK_GLASS)
    grant, now = _locked(grant_id), datetime.now(UTC)
    if grant.is_active(now) or is_waiting(grant, now):
        grant.ended_at = now
        grant.save(update_fields=["ended_at"])
        record(by, "break_glass.ended", grant, matter=grant.matter)
    return grant


def is_waiting(grant: BreakGlassGrant, now: datetime) -> bool:
    """Whether it waits for somebody's decision."""
    undecided = grant.starts_at is None and grant.decided_at is None and grant.ended_at is None
    return undecided and now < grant.asked_at + WAITS_FOR


def concerns(grant: BreakGlassGrant, user: User) -> bool:
    """Whether what `user` said is in its scope."""
    if grant.conversation_id is None:
        return grant.person_id == user.pk
    return Conversation.objects.filter(pk=grant.conversation_id, owner=user).exists()


def state_of(grant: BreakGlassGrant, now: datetime) -> str:
    """Return how it stands: waiting, active, refused, withdrawn, lapsed, ended or expired."""
    if grant.is_active(now):
        return "active"
    if grant.starts_at is None:
        if grant.ended_at:
            return "withdrawn"
        if grant.decided_at:
            return "refused"
        return "waiting" if is_waiting(grant, now) else "lapsed"
    return "ended" if grant.ended_at else "expired"


def _check(asked: Asked) -> None:
    """Raises Refused."""
    if not asked.matter.strip():
        raise Refused("Name the matter: its number, or what it is called.", "matter")
    if len(asked.reason.strip()) < SHORTEST_REASON:
        raise Refused(f"Give a reason, of {SHORTEST_REASON} characters at least.", "reason")
    if not 1 <= asked.minutes <= MOST_MINUTES:
        raise Refused(f"It lasts 1 to {MOST_MINUTES} minutes, which is a day.", "minutes")
    if (asked.conversation_id is None) == (asked.person is None):
        raise Refused("Name one conversation or one person.", "person")
    if asked.conversation_id and (asked.first_day or asked.last_day):
        raise Refused("Days narrow down a person's conversations, not a single one.", "first_day")
    if asked.first_day and asked.last_day and asked.first_day > asked.last_day:
        raise Refused("The first day lies behind the last one.", "last_day")
    if asked.conversation_id and not _exists(asked.conversation_id):
        raise Refused("There is no conversation with this id.", "conversation_id")


def _exists(conversation_id: uuid.UUID) -> bool:
    return Conversation.objects.filter(pk=conversation_id).exists()


def _begin(grant: BreakGlassGrant, now: datetime) -> None:
    grant.starts_at, grant.ends_at = now, now + timedelta(minutes=grant.minutes)


def _locked(grant_id: uuid.UUID) -> BreakGlassGrant:
    return BreakGlassGrant.objects.select_for_update(of=("self",)).get(pk=grant_id)


def _scope_of(grant: BreakGlassGrant) -> dict[str, str]:
    """Return the scope in ids and days, for the log."""
    if grant.conversation_id:
        return {"conversation": str(grant.conversation_id)}
    days = {"first_day": grant.first_day, "last_day": grant.last_day}
    named = {name: day.isoformat() for name, day in days.items() if day}
    return {"account": str(grant.person_id), **named}


# --- reading ----------------------------------------------------------------------------------


def opened(grant_id: uuid.UUID, *, by: User) -> BreakGlassGrant:
    """Return a grant under which `by` may read now.

    Raises Denied, DoesNotExist, and NotReadable, which is recorded.
    """
    require(by, Permission.BREAK_GLASS)
    grant = BreakGlassGrant.objects.select_related("person__erasure", "asked_by").get(pk=grant_id)
    if sentence := _obstacle(grant, by, datetime.now(UTC)):
        record_sparingly(
            by,
            "access.denied",
            grant,
            outcome="denied",
            reason=sentence,
            each=str(grant.pk),
            permission=Permission.BREAK_GLASS,
        )
        raise NotReadable(sentence)
    return grant


def _obstacle(grant: BreakGlassGrant, by: User, now: datetime) -> str:
    """Return why `by` can't read under the grant; empty when they can."""
    if grant.asked_by_id != by.pk:
        return "This access was given to somebody else."
    return _OBSTACLES.get(state_of(grant, now), "")


_OBSTACLES = {
    "waiting": "Another compliance officer has not approved this access yet.",
    "refused": "This access was refused.",
    "withdrawn": "This request was withdrawn.",
    "lapsed": "Nobody approved this access within a day.",
    "ended": "This access was ended.",
    "expired": "This access has expired.",
}


def listed(grant: BreakGlassGrant, *, by: User) -> list[Conversation]:
    """Return what the grant opens, newest first, LISTED at most, to be shown with its titles.

    That they were shown is recorded.
    """
    scope = Conversation.objects.readable_under(grant, datetime.now(UTC))
    found = list(scope.select_related("owner").order_by("-last_message_at")[:LISTED])
    record(by, "break_glass.listed", grant, matter=grant.matter, count=len(found))
    return found


@transaction.atomic
def read(
    grant: BreakGlassGrant,
    conversation_id: uuid.UUID,
    *,
    by: User,
    before: uuid.UUID | None = None,
) -> Page:
    """Return a conversation of the scope as its page shows it, without what its owner sees beside.

    That it was read is recorded first. Messages outside the grant's days are left out. Raises
    Conversation.DoesNotExist.
    """
    now = datetime.now(UTC)
    scope = Conversation.objects.readable_under(grant, now).select_related("owner__erasure")
    conversation = scope.get(pk=conversation_id)
    entry_id = record(by, "break_glass.viewed", conversation, **_under(grant))
    BreakGlassView.objects.create(
        grant=grant, conversation_id=conversation.pk, seen_at=now, entry_id=entry_id
    )
    return thread_of(conversation, before=before, within=grant.days())


def _under(grant: BreakGlassGrant) -> dict[str, str]:
    return {"grant": str(grant.pk), "matter": grant.matter}


def people_known_as(text: str) -> list[User]:
    """Return the accounts with this id, or with this email now or before they were erased."""
    try:
        return list(User.objects.filter(pk=uuid.UUID(text)))
    except ValueError:
        before = Q(erasure__former_email__iexact=text)
        return list(User.objects.filter(Q(email__iexact=text) | before).order_by("pk"))


def name_and_email(user: User) -> tuple[str, str]:
    """Return what somebody is called; of an erased account what it was, while a hold keeps that."""
    erasure = getattr(user, "erasure", None)
    if erasure and erasure.former_email:
        return erasure.former_name or erasure.former_email, erasure.former_email
    return user.get_full_name(), user.email


def grants() -> QuerySet[BreakGlassGrant]:
    """Return all grants, newest first, with the people whom they name."""
    found = BreakGlassGrant.objects.select_related("asked_by", "person__erasure", "decided_by")
    # Said here, because Django leaves the model's own order out of queries that count.
    return found.order_by("-asked_at", "-pk")
