"""What may be spent, and what is held for replies."""

from decimal import Decimal
from typing import Any

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Coalesce

from accounts.models import Role
from conversations.models.conversation import Message


def _limit_field(**options: Any) -> "models.DecimalField[Any, Any]":
    """A limit in USD, to a hundredth of a cent; NULL does not limit."""
    return models.DecimalField(
        max_digits=12,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
        **options,
    )


class BudgetPlan(models.Model):
    """What people who hold a role may spend; the plan without a role is everybody else's.

    Read and changed by `conversations.turn.plans`.
    """

    role = models.OneToOneField(
        Role,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="Empty: all roles that have no plan of their own.",
    )
    session_usd = _limit_field(
        verbose_name="per session, USD",
        default=Decimal("0.05"),
        help_text="What one conversation may cost until it renews. Empty: not limited.",
    )
    session_hours = models.PositiveSmallIntegerField(
        "hours of a session",
        default=24,
        validators=[MinValueValidator(1)],
        help_text="A session begins with a conversation's first reply and renews after this time.",
    )
    day_usd = _limit_field(
        verbose_name="per day, USD", help_text="For each person, by UTC. Empty: not limited."
    )
    month_usd = _limit_field(
        verbose_name="per month, USD", help_text="For each person, by UTC. Empty: not limited."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Coalesce("role", Value("")),
                name="one_budget_plan_per_role",
                violation_error_message="There is a plan for that already.",
            ),
            models.CheckConstraint(
                name="budgets_are_not_negative",
                condition=Q(session_usd__gte=0) & Q(day_usd__gte=0) & Q(month_usd__gte=0),
            ),
            models.CheckConstraint(name="sessions_last", condition=Q(session_hours__gte=1)),
        ]

    def __str__(self) -> str:
        return f"Budget of {self.role_id or 'everybody else'}"


class BudgetWindow(models.Model):
    """What was spent, and what open replies may still spend, in a span of time.

    `conversations.turn.budget` alone writes here.
    """

    class Scope(models.TextChoices):
        # In the order in which they are locked, which is also that of their names.
        DAY = "day"
        MONTH = "month"
        SESSION = "session"

    scope = models.CharField(max_length=7, choices=Scope.choices)
    subject = models.UUIDField(help_text="A session's conversation; else the account.")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    spent_usd = models.DecimalField(max_digits=14, decimal_places=8, default=Decimal(0))
    reserved_usd = models.DecimalField(max_digits=14, decimal_places=8, default=Decimal(0))

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["scope", "subject", "starts_at"], name="one_budget_window_at_a_time"
            ),
            models.CheckConstraint(
                name="nothing_negative_is_spent",
                condition=Q(spent_usd__gte=0, reserved_usd__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.scope} of {self.subject} from {self.starts_at:%Y-%m-%d %H:%M}"


def _window_field() -> "models.ForeignKey[Any, Any]":
    # A session's window goes with its conversation, all others when no reservation names them: so
    # nobody asks which reservations point to one, and PostgreSQL, which would have to read them all
    # for each session that goes, is told of no constraint.
    return models.ForeignKey(
        BudgetWindow,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )


class Reservation(models.Model):
    """What a reply may cost, held in its windows until the reply ends.

    A reply that is continued reserves anew in the same row. When a row is removed with its reply
    before it was settled, a trigger of the database gives back what it held.
    """

    reply = models.OneToOneField(
        Message,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="reservation",
        db_constraint=False,
    )
    day = _window_field()
    month = _window_field()
    session = _window_field()
    amount_usd = models.DecimalField(max_digits=14, decimal_places=8)
    model = models.CharField(max_length=200, blank=True)
    # USD per million tokens, as they were when the reply began
    input_price = models.DecimalField(max_digits=14, decimal_places=8)
    cached_input_price = models.DecimalField(max_digits=14, decimal_places=8)
    output_price = models.DecimalField(max_digits=14, decimal_places=8)
    tokens_in_estimate = models.PositiveIntegerField()
    tokens_written_before = models.PositiveIntegerField(
        default=0, help_text="By estimate, what the reply held when it was continued."
    )
    reserved_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["reserved_at"], name="open_reservations", condition=Q(settled_at=None)
            )
        ]

    def __str__(self) -> str:
        return f"Reservation of {self.reply_id}"
