"""Who may spend how much: the plans that administrators edit, and what follows for one person.

A turn costs no query for the plans (`chatbot.kept`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from django.db import transaction

from accounts.access import Actor, require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record
from chatbot.kept import Kept
from conversations.models import BudgetPlan, BudgetWindow

_FIGURES = ("session_usd", "session_hours", "day_usd", "month_usd")

Scope = BudgetWindow.Scope


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one person may spend in each window, in USD; None does not limit."""

    session_usd: Decimal | None
    session_hours: int
    day_usd: Decimal | None
    month_usd: Decimal | None

    def of(self, scope: str) -> Decimal | None:
        """Return the limit of a scope of BudgetWindow."""
        limits = {
            Scope.SESSION: self.session_usd,
            Scope.DAY: self.day_usd,
            Scope.MONTH: self.month_usd,
        }
        return limits[Scope(scope)]


def allowance_of(user: User) -> Allowance:
    """Return what `user` may spend: for each window the most generous of their roles' plans.

    A role without a plan has the plan without a role, and that one's defaults hold where it is
    missing. One query at most every KEPT_SECONDS, and one for an account without its roles.
    """
    by_role = kept_plans.get()
    general = by_role.get(None) or BudgetPlan()
    plans = [by_role.get(role, general) for role in sorted(user.roles)] or [general]
    longest = max(plans, key=lambda plan: (_generosity(plan.session_usd), -plan.session_hours))
    return Allowance(
        session_usd=longest.session_usd,
        session_hours=longest.session_hours,
        day_usd=_most(plan.day_usd for plan in plans),
        month_usd=_most(plan.month_usd for plan in plans),
    )


def _read(_before: object) -> Mapping[str | None, BudgetPlan]:
    return {plan.role_id: plan for plan in BudgetPlan.objects.order_by()}


kept_plans = Kept(_read)


def _most(limits: Iterable[Decimal | None]) -> Decimal | None:
    return max(limits, key=_generosity)


def _generosity(limit: Decimal | None) -> Decimal:
    return Decimal("Infinity") if limit is None else limit


@transaction.atomic
def save_plan(plan: BudgetPlan, *, by: Actor) -> None:
    """Add or change a plan; it holds everywhere within KEPT_SECONDS. Raises `Denied`."""
    require(by, Permission.MANAGE_LIMITS)
    before = BudgetPlan.objects.select_for_update().filter(pk=plan.pk).first()
    plan.save()
    plan.refresh_from_db(fields=list(_FIGURES))
    changes = {
        name: [_written(before, name), _written(plan, name)]
        for name in _FIGURES
        if _written(before, name) != _written(plan, name)
    }
    if changes or before is None:
        record(by, "budget.changed", plan, role=plan.role_id or "", changes=changes)


@transaction.atomic
def remove_plan(plan: BudgetPlan, *, by: Actor) -> None:
    """Remove a role's plan; those who hold it fall back to the general one. Raises `Denied`."""
    require(by, Permission.MANAGE_LIMITS)
    changes = {name: [_written(plan, name), None] for name in _FIGURES}
    record(by, "budget.changed", plan, role=plan.role_id or "", changes=changes)
    plan.delete()


def _written(plan: BudgetPlan | None, name: str) -> str | None:
    value = getattr(plan, name, None)
    return None if value is None else str(value)
