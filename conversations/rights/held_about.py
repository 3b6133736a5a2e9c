"""What is held about a person besides what they said, as tables for `portable`.

No secret is among it: no password or its hash, no token, no session key. Of the audit log it holds
what the person did, and what was done to their account; not what is kept from the people whom it
concerns, such as holds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from allauth.account.models import EmailAddress
from django.contrib.sessions.models import Session
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import User
from accounts.sessions import sessions_of
from audit.events import EVENTS, Group
from audit.models import Entry
from conversations.models import BudgetWindow, Conversation, PersonExport, SatisfactionPause
from conversations.rights.portable import Row, Table

_ENTRIES_AT_ONCE = 1_000
# What happens to an account and may be told to whom it belongs.
_TOLD_TO_THE_TARGET = (Group.SIGN_IN, Group.ACCESS, Group.ACCOUNTS, Group.RIGHTS)


def account_tables(user: User) -> Sequence[Table]:
    """Return what is held of the account itself."""
    return (
        Table("account", "Account", _ACCOUNT, lambda: [_account(user)], is_record=True),
        Table("emails", "Email addresses", _EMAILS, _values(_emails(user), _EMAILS)),
        Table("roles", "Roles", _ROLES, lambda: _roles(user)),
        Table("sessions", "Sessions", _SESSIONS, lambda: _sessions(user), _NO_SECRETS),
        Table(
            "tokens", "API tokens", _TOKENS, _values(user.api_tokens.all(), _TOKENS), _NO_SECRETS
        ),
        Table("budgets", "What was spent", _BUDGETS, _values(_windows(user), _BUDGETS), _IN_USD),
        Table("exports", "Exports like this one", _EXPORTS, _values(_exports(user), _EXPORTS)),
    )


def log_tables(user: User) -> Sequence[Table]:
    """Return what the audit log tells of the person."""
    return (
        Table("entries", "Entries of the audit log", _ENTRIES, lambda: _entries(user), _LOG_NOTE),
        Table("refused", "What was refused", _REFUSED, lambda: _refused(user), _REFUSED_NOTE),
    )


Columns = tuple[tuple[str, str], ...]

_NO_SECRETS = "Without what opens them."
_IN_USD = "In US dollars, by day, month, and session of a conversation."
_LOG_NOTE = (
    "What you did, and what was done to your account: which event, when, and how it ended. The log"
    " holds nothing of what was said."
)
_REFUSED_NOTE = "Questions that were not taken are not stored; that they were, and why, is."

_ACCOUNT: Columns = (
    ("id", "Id"),
    ("email", "Email"),
    ("name", "Name"),
    ("is_active", "Active"),
    ("has_password", "Has a password"),
    ("joined_at", "Joined"),
    ("last_sign_in_at", "Last sign-in"),
    ("not_asked_before", "Not asked how a conversation went before"),
)
_EMAILS: Columns = (("email", "Email"), ("verified", "Verified"), ("primary", "Primary"))
_ROLES: Columns = (("role", "Role"), ("label", "Name"), ("granted_at", "Given"))
_SESSIONS: Columns = (("ends_at", "Ends at the latest"),)
_TOKENS: Columns = (
    ("name", "Name"),
    ("beginning", "Begins with"),
    ("scopes", "Opens"),
    ("created_at", "Made"),
    ("last_used_at", "Last used"),
    ("expires_at", "Until"),
    ("revoked_at", "Revoked"),
)
_BUDGETS: Columns = (
    ("scope", "Of a"),
    ("starts_at", "From"),
    ("ends_at", "Until"),
    ("spent_usd", "Spent"),
    ("reserved_usd", "Reserved"),
)
_EXPORTS: Columns = (
    ("requested_at", "Asked for"),
    ("state", "State"),
    ("finished_at", "Finished"),
    ("expires_at", "Kept until"),
)
_ENTRIES: Columns = (
    ("event", "Event"),
    ("says", "In words"),
    ("at", "When"),
    ("outcome", "Outcome"),
    ("by", "By"),
)
_REFUSED: Columns = (("at", "When"), ("reason", "Reason"))


def _account(user: User) -> Row:
    pause = SatisfactionPause.objects.filter(person=user).first()
    return {
        "id": user.pk,
        "email": user.email,
        "name": user.name,
        "is_active": user.is_active,
        "has_password": user.has_usable_password(),
        "joined_at": user.date_joined,
        "last_sign_in_at": user.last_login,
        "not_asked_before": pause and pause.until,
    }


def _emails(user: User) -> "QuerySet[Any]":
    found: QuerySet[Any] = EmailAddress.objects.filter(user=user)
    return found


def _roles(user: User) -> Iterator[Row]:
    for grant in user.grants.select_related("role"):
        yield {"role": grant.role_id, "label": grant.role.label, "granted_at": grant.granted_at}


def _sessions(user: User) -> Iterator[Row]:
    session: Session
    for session in sessions_of(user, now=timezone.now()):
        yield {"ends_at": session.expire_date}


def _windows(user: User) -> QuerySet[BudgetWindow]:
    own = Conversation.objects.visible_to(user).values("pk")
    windows = BudgetWindow.objects.filter(Q(subject=user.pk) | Q(subject__in=own))
    return windows.order_by("scope", "starts_at", "pk")


def _exports(user: User) -> QuerySet[PersonExport]:
    return PersonExport.objects.filter(person=user).order_by("requested_at")


def _values(rows: "QuerySet[Any]", columns: Columns) -> Callable[[], Iterable[Row]]:
    names = [name for name, _ in columns]
    return lambda: rows.values(*names).iterator(_ENTRIES_AT_ONCE)


def _entries(user: User) -> Iterator[Row]:
    told = [event for event, known in EVENTS.items() if known.group in _TOLD_TO_THE_TARGET]
    done = Q(actor_id=str(user.pk))
    undergone = Q(target_kind="accounts.user", target_id=str(user.pk), event__in=told)
    found = Entry.objects.filter(done | undergone).order_by("pk")
    for entry in found.iterator(_ENTRIES_AT_ONCE):
        known = EVENTS.get(entry.event)
        yield {
            "event": entry.event,
            "says": known.says if known else "",
            "at": entry.occurred_at,
            "outcome": entry.outcome,
            "by": "you" if entry.actor_id == str(user.pk) else entry.get_actor_kind_display(),
        }


def _refused(user: User) -> Iterator[Row]:
    found = Entry.objects.filter(actor_id=str(user.pk), event="turn.refused").order_by("pk")
    for entry in found.iterator(_ENTRIES_AT_ONCE):
        yield {"at": entry.occurred_at, "reason": entry.reason}
