"""How long what is said is kept: policies, who falls under which, what a change would remove.

    class_for(user)              the retention class of a conversation that begins now
    periods(now)                 how long each class is kept at a moment
    preview(policy, hours, now)  what a change would remove, and when
    set_period(policy, hours)    change it; a shorter period waits RETENTION_DELAY_HOURS
    add_policy(role, hours)      let the holders of a role have a class of their own

A conversation keeps the class with which it began: roles that change later change nothing. Each
policy has versions that are only ever added. A version holds from its moment on, unless a later one
was made before that moment came.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, zip_longest
from typing import Any

from django.apps import apps as django_apps
from django.apps.registry import Apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import Count, Max
from django.utils import timezone

from accounts.access import Actor, require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record
from chatbot.kept import Kept
from conversations.models import (
    Message,
    RetentionClass,
    RetentionPolicy,
    RetentionVersion,
)
from conversations.retention.holds import without_held

TEMPORARY_HOURS = 24
LONGEST_HOURS = 10 * 366 * 24
_LAST_CLASS = 255


class PeriodRefused(ValueError):
    """A period can't be set like this. The message is a sentence for who wanted it."""


@dataclass(frozen=True, slots=True)
class Period:
    """How long a retention class is kept: `hours`, by that version of its policy.

    Version 0 is the period that holds where no version was ever made.
    """

    retention_class: int
    name: str
    version: int
    hours: int

    def cutoff(self, now: datetime) -> datetime:
        """Return the moment before which everything of this class is due at `now`."""
        return now - timedelta(hours=self.hours)

    @property
    def in_words(self) -> str:
        return in_words(self.hours)


def in_words(hours: int) -> str:
    """Return a period as people say it: in days where it is whole days, from two on."""
    if hours % 24 == 0 and hours > 24:
        return f"{hours // 24:,} days"
    return f"{hours:,} hour{'' if hours == 1 else 's'}"


# --- what holds -------------------------------------------------------------------------------


def periods(now: datetime) -> dict[int, Period]:
    """Return the period of each class at a moment, by class. One query."""
    found = {period.retention_class: period for period in _first_periods()}
    versions = RetentionVersion.objects.select_related("policy__role")
    ordered = versions.order_by("policy_id", "number")
    for retention_class, of_policy in groupby(ordered, key=lambda version: version.policy_id):
        version = in_force(list(of_policy), now)
        if version:
            found[retention_class] = Period(
                retention_class, name_of(version.policy), version.number, version.hours
            )
    return found


def in_force(versions: Sequence[RetentionVersion], now: datetime) -> RetentionVersion | None:
    """Return which of a policy's versions, oldest first, holds at a moment."""
    held = [
        version
        for version, after in zip_longest(versions, versions[1:])
        if version.effective_at <= now
        and (after is None or after.created_at > now or after.created_at >= version.effective_at)
    ]
    return held[-1] if held else None


def pending(versions: Sequence[RetentionVersion], now: datetime) -> RetentionVersion | None:
    """Return the version that will hold at its moment, if nothing is changed before."""
    return versions[-1] if versions and versions[-1].effective_at > now else None


def name_of(policy: RetentionPolicy) -> str:
    """Return how pages and certificates call a policy."""
    if policy.role:
        return f"Role {policy.role.label}"
    return str(RetentionClass(policy.retention_class).label)


def _first_periods() -> Iterable[Period]:
    yield Period(RetentionClass.STANDARD, "Standard", 0, standard_hours())
    yield Period(RetentionClass.TEMPORARY, "Temporary", 0, TEMPORARY_HOURS)


def standard_hours() -> int:
    """Return the period of RETENTION_DAYS, in hours. Raises ImproperlyConfigured."""
    hours: int = settings.RETENTION_DAYS * 24
    if not 1 <= hours <= LONGEST_HOURS:
        raise ImproperlyConfigured(
            f"RETENTION_DAYS is {settings.RETENTION_DAYS}: say how many days messages are kept,"
            f" from 1 to {LONGEST_HOURS // 24:,}. Nothing was deleted."
        )
    return hours


# --- who falls under which --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """All periods by class, and those of roles by role."""

    periods: Mapping[int, Period]
    by_role: Mapping[str, Period]


def _read(_before: object) -> _Known:
    with_role = RetentionPolicy.objects.exclude(role=None).values_list("role_id", "pk")
    known = periods(timezone.now())
    return _Known(known, {role: known[pk] for role, pk in with_role if role and pk in known})


_policies = Kept(_read)
forget_policies = _policies.forget


def class_for(user: User, *, temporary: bool = False) -> int:
    """Return the class of a conversation that `user` begins now.

    Of the policies of their roles the longest, for to keep comes before to delete; the standard one
    where no role has one. One query at most every few seconds, and one for an account without its
    roles.
    """
    if temporary:
        return RetentionClass.TEMPORARY
    by_role = _policies.get().by_role
    if not by_role:
        return RetentionClass.STANDARD
    own = [by_role[role] for role in user.roles if role in by_role]
    longest = max(own, key=lambda period: (period.hours, -period.retention_class), default=None)
    return longest.retention_class if longest else RetentionClass.STANDARD


def kept_for(retention_class: int) -> str:
    """Return in words how long what is said in this class is kept. As many queries as class_for."""
    return _policies.get().periods[retention_class].in_words


# --- changing it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Preview:
    """What another period would remove in the first purge after it takes effect.

    Counted of what is there now: what the period of now would have removed until then is left out,
    and so is what is under a hold, which stays.
    """

    hours: int
    before: Period
    effective_at: datetime
    messages: int
    conversations: int
    people: int
    held: int
    of_messages: int

    @property
    def is_shorter(self) -> bool:
        return self.hours < self.before.hours

    @property
    def in_words(self) -> str:
        return in_words(self.hours)

    @property
    def share(self) -> float:
        """How much of this class's messages would go, in percent."""
        return 100 * self.messages / self.of_messages if self.of_messages else 0.0


def preview(policy: RetentionPolicy, hours: int, now: datetime) -> Preview:
    """Return what a period of `hours` would remove. Raises PeriodRefused. Four queries."""
    before = periods(now)[policy.pk]
    checked(hours)
    effective_at = _effective_at(hours, before, now)
    of_class = Message.objects.filter(conversation__retention_class=policy.pk).order_by()
    going = of_class.filter(
        created_at__gte=before.cutoff(effective_at),
        created_at__lt=effective_at - timedelta(hours=hours),
    )
    found = without_held(going).aggregate(
        messages=Count("pk"),
        conversations=Count("conversation", distinct=True),
        people=Count("conversation__owner", distinct=True),
    )
    return Preview(
        hours=hours,
        before=before,
        effective_at=effective_at,
        held=going.count() - found["messages"],
        of_messages=of_class.count(),
        **found,
    )


def checked(hours: int) -> int:
    """Return the period. Raises PeriodRefused for one of no time, or of more than a lifetime."""
    if hours < 1:
        raise PeriodRefused("Keep messages for one hour at least. Nothing was changed.")
    if hours > LONGEST_HOURS:
        raise PeriodRefused(
            f"Keep messages for {LONGEST_HOURS // 24:,} days at most. Nothing was changed."
        )
    return hours


def _effective_at(hours: int, before: Period, now: datetime) -> datetime:
    if hours >= before.hours:
        return now
    return now + timedelta(hours=settings.RETENTION_DELAY_HOURS)


@transaction.atomic
def set_period(
    policy: RetentionPolicy, hours: int, *, by: Actor, note: str = "", now: datetime | None = None
) -> RetentionVersion:
    """Give a policy another period; one that still waits to take effect is given up.

    A longer one holds at once, everywhere within seconds. What was purged before does not come
    back. Raises Denied and PeriodRefused.
    """
    require(by, Permission.MANAGE_RETENTION)
    now = now or timezone.now()
    locked = RetentionPolicy.objects.select_for_update().get(pk=policy.pk)
    before = periods(now)[locked.pk]
    versions = list(locked.versions.order_by("number"))
    to_come = pending(versions, now)
    if checked(hours) == before.hours and not to_come:
        raise PeriodRefused(f"Messages are kept {before.in_words} already.")
    if to_come and to_come.hours == hours:
        # Once more would begin the delay anew: somebody clicked twice, or two had the same idea.
        raise PeriodRefused(f"That they will be kept {in_words(hours)} is on its way already.")
    effective_at = _effective_at(hours, before, now)
    made = _version(locked, hours, effective_at, by=by, note=note, now=now)
    record(
        by,
        "retention.changed",
        locked,
        reason=note,
        version=made.number,
        hours=hours,
        before_hours=before.hours,
        effective_at=effective_at.isoformat(),
    )
    _policies.forget_when_committed()
    return made


@transaction.atomic
def add_policy(role: str, hours: int, *, by: Actor, note: str = "") -> RetentionPolicy:
    """Give what the holders of a role begin from now on a class and a period of its own.

    Raises Denied and PeriodRefused.
    """
    require(by, Permission.MANAGE_RETENTION)
    now = timezone.now()
    checked(hours)
    if RetentionPolicy.objects.filter(role=role).exists():
        raise PeriodRefused("This role has a policy. Change that one.")
    # Two who add one at once queue up here.
    RetentionPolicy.objects.select_for_update().get(pk=RetentionClass.STANDARD)
    last = RetentionPolicy.objects.aggregate(last=Max("retention_class"))["last"]
    if last >= _LAST_CLASS:
        raise PeriodRefused("There are as many policies as there can be.")
    made = RetentionPolicy.objects.create(pk=last + 1, role_id=role)
    version = _version(made, hours, now, by=by, note=note, now=now)
    record(
        by,
        "retention.changed",
        made,
        reason=note,
        role=role,
        version=version.number,
        hours=hours,
        before_hours=None,
        effective_at=now.isoformat(),
    )
    _policies.forget_when_committed()
    return made


def _version(  # noqa: PLR0913 - all are named
    policy: RetentionPolicy,
    hours: int,
    effective_at: datetime,
    *,
    by: Actor,
    note: str,
    now: datetime,
) -> RetentionVersion:
    return RetentionVersion.objects.create(
        policy=policy,
        number=policy.versions.aggregate(last=Max("number", default=0))["last"] + 1,
        hours=hours,
        effective_at=effective_at,
        created_at=now,
        author=by if isinstance(by, User) else None,
        note=note,
    )


def seed_policies(apps: Apps = django_apps, **_signal: Any) -> None:
    """Make the two policies that always are, with their first periods. Safe to repeat.

    Nothing is made where `apps`, the models that were migrated to, have no policies yet.
    """
    try:
        policies = apps.get_model("conversations", "RetentionPolicy").objects
        versions = apps.get_model("conversations", "RetentionVersion").objects
    except LookupError:  # migrated back to before there were any
        return
    now = timezone.now()
    for period in _first_periods():
        policy, _ = policies.get_or_create(pk=period.retention_class)
        if not versions.filter(policy=policy).exists():
            versions.create(
                policy=policy, number=1, hours=period.hours, effective_at=now, created_at=now
            )
