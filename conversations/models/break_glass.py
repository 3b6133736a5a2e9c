"""Reading what others said, and files of it for counsel."""

from datetime import UTC, date, datetime, time, timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q
from uuid_utils.compat import uuid7

from conversations.models.holds import Hold
from conversations.models.rights import ExportState, FileProgress

LONGEST_GRANT = timedelta(hours=24)


class BreakGlassGrant(models.Model):
    """Leave for one compliance officer to read what somebody said, for a reason and for a time.

    `break_glass.grants` alone writes here. The database refuses to remove a row and to
    change what was asked for; a decision, a beginning and an early end are written once.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+"
    )
    asked_at = models.DateTimeField()
    matter = models.CharField(max_length=120)
    reason = models.TextField(max_length=2000)
    minutes = models.PositiveSmallIntegerField(help_text="For how long, from the beginning on.")
    # The scope: a conversation by its id, which may be gone since; or a person, and days by UTC.
    conversation_id = models.UUIDField(null=True, blank=True)
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
    )
    first_day = models.DateField(null=True, blank=True)
    last_day = models.DateField(null=True, blank=True)

    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    starts_at = models.DateTimeField(
        null=True, blank=True, help_text="Empty: nobody let it begin, or it was refused."
    )
    ends_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Ended early, or withdrawn.")

    class Meta:
        verbose_name = "break-glass grant"
        ordering = ["-asked_at", "-id"]
        constraints = [
            models.CheckConstraint(
                name="break_glass_has_one_scope",
                condition=Q(conversation_id=None) ^ Q(person=None),
            ),
            models.CheckConstraint(
                name="break_glass_is_short",
                condition=Q(minutes__gte=1, minutes__lte=24 * 60)
                & (Q(starts_at=None) | Q(ends_at__lte=models.F("starts_at") + LONGEST_GRANT)),
            ),
            models.CheckConstraint(
                name="break_glass_begins_and_ends",
                condition=Q(starts_at=None, ends_at=None)
                | Q(starts_at__isnull=False, ends_at__isnull=False),
            ),
            models.CheckConstraint(
                name="nobody_decides_their_own_break_glass",
                condition=Q(decided_by=None) | ~Q(decided_by=models.F("asked_by")),
            ),
        ]

    def __str__(self) -> str:
        return f"Break-glass grant {self.pk}"

    def is_active(self, now: datetime) -> bool:
        """Whether it opens anything at this moment."""
        if self.starts_at is None or self.ends_at is None or self.ended_at is not None:
            return False
        return self.starts_at <= now < self.ends_at

    def days(self) -> Q:
        """Return the condition for messages that lie within its days."""
        within = Q()
        if self.first_day:
            within &= Q(created_at__gte=datetime.combine(self.first_day, time.min, UTC))
        if self.last_day and self.last_day < date.max:
            behind = datetime.combine(self.last_day, time.min, UTC) + timedelta(days=1)
            within &= Q(created_at__lt=behind)
        return within


class BreakGlassView(models.Model):
    """That a conversation was read under a grant; `entry_id` is the audit entry that proves it.

    The database refuses to change or remove one.
    """

    grant = models.ForeignKey(BreakGlassGrant, on_delete=models.PROTECT, related_name="views")
    conversation_id = models.UUIDField()
    seen_at = models.DateTimeField()
    entry_id = models.BigIntegerField()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"View {self.pk} under {self.grant_id}"


class CounselExport(FileProgress, models.Model):
    """A file of what a hold keeps, for counsel: made under a grant, there for a day.

    `break_glass.counsel_export` alone writes here. The row stays, with the signed statement of
    what the file held.
    """

    State = ExportState

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    grant = models.ForeignKey(BreakGlassGrant, on_delete=models.PROTECT, related_name="exports")
    hold = models.ForeignKey(Hold, on_delete=models.PROTECT, related_name="+", db_index=False)
    state = models.CharField(max_length=7, choices=State.choices, default=State.WAITING)
    reason = models.CharField(max_length=300, blank=True, default="", help_text="Why it failed.")
    requested_at = models.DateTimeField()
    beat_at = models.DateTimeField(null=True, help_text="The writer's last sign of life.")
    finished_at = models.DateTimeField(null=True)
    messages = models.PositiveBigIntegerField(
        default=0, help_text="How many there were when it was begun."
    )
    done = models.PositiveBigIntegerField(default=0, help_text="How many of them are written.")
    size = models.PositiveBigIntegerField(null=True, help_text="Of the ZIP, in bytes.")
    custody = models.TextField(blank=True, default="", help_text="The statement, a signed note.")

    class Meta:
        ordering = ["-requested_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["grant"],
                condition=Q(state__in=["waiting", "writing"]),
                name="one_counsel_export_of_a_grant_at_a_time",
            )
        ]

    def __str__(self) -> str:
        return f"Export {self.pk} for counsel"
