"""What people ask for about themselves: files, and erasure."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from uuid_utils.compat import uuid7


class ExportState(models.TextChoices):
    """How far a file is that somebody asked for."""

    WAITING = "waiting", "waiting"
    WRITING = "writing", "being written"
    READY = "ready", "ready"
    FAILED = "failed", "failed"
    EXPIRED = "expired", "removed"


class FileProgress:
    """What pages ask of a file that is being written."""

    state: Any
    messages: Any
    done: Any

    @property
    def is_unfinished(self) -> bool:
        """Whether it waits or is being written."""
        return self.state in {ExportState.WAITING, ExportState.WRITING}

    @property
    def percent(self) -> int:
        """How much of it is written; messages that came meanwhile do not count."""
        return min(100, 100 * self.done // self.messages) if self.messages else 0


class PersonExport(FileProgress, models.Model):
    """A file of all that is held about somebody: asked for, being written, there for a day, gone.

    `rights.person_export` alone writes here. One that broke off has failed: it is asked for
    again, and made anew.
    """

    State = ExportState

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="exports"
    )
    state = models.CharField(
        max_length=7, choices=State.choices, default=State.WAITING, db_default=State.WAITING
    )
    reason = models.CharField(
        max_length=300, blank=True, default="", db_default="", help_text="Why it failed."
    )
    requested_at = models.DateTimeField(db_default=Now())
    beat_at = models.DateTimeField(null=True, help_text="The writer's last sign of life.")
    finished_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    messages = models.PositiveBigIntegerField(
        default=0, db_default=0, help_text="How many there were when it was begun."
    )
    done = models.PositiveBigIntegerField(
        default=0, db_default=0, help_text="How many of them are written."
    )
    size = models.PositiveBigIntegerField(null=True, help_text="Of the ZIP, in bytes.")

    class Meta:
        ordering = ["-requested_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["person"],
                condition=Q(state__in=["waiting", "writing"]),
                name="one_export_of_a_person_at_a_time",
            )
        ]

    def __str__(self) -> str:
        return f"Export {self.pk}"


class Erasure(models.Model):
    """That an account was erased: closed at once, and when the last of it was destroyed.

    `rights.erasure` alone writes here. While a hold keeps what the person said, it keeps
    whose that was, too; both go when it ends.
    """

    person = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        primary_key=True,
        related_name="erasure",
    )
    asked_at = models.DateTimeField(db_default=Now())
    former_email = models.CharField(max_length=254, blank=True, default="")
    former_name = models.CharField(max_length=150, blank=True, default="")
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-asked_at"]
        indexes = [
            models.Index(fields=["asked_at"], name="open_erasures", condition=Q(finished_at=None))
        ]

    def __str__(self) -> str:
        return f"Erasure of account {self.person_id}"
