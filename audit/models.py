"""The log: entries that only ever get more, and the personal values beside them.

`audit.trail` writes these rows, and nothing else does. The database refuses UPDATE, DELETE and
TRUNCATE of entries (see the first migration). Personal values live in a table of their own where
they can be erased; the entry keeps a salted digest of them, so that it stays provable without them.
"""

from typing import ClassVar

from auditlog.models import AbstractLogEntry
from django.conf import settings
from django.db import models
from django.db.models.functions import Cast, Length, Now
from django.db.models.lookups import Exact
from django.utils import timezone
from uuid_utils.compat import uuid7


class ActorKind(models.TextChoices):
    """Who can act."""

    USER = "user", "person"
    TOKEN = "token", "API token"
    SYSTEM = "system", "system"
    ANONYMOUS = "anonymous", "not signed in"


class Outcome(models.TextChoices):
    """How what was tried ended."""

    SUCCEEDED = "succeeded", "succeeded"
    DENIED = "denied", "denied"
    FAILED = "failed", "failed"


def _current_transaction() -> Cast:
    # The 64-bit id, which never wraps. bigint has no cast from xid8 other than by text.
    current = models.Func(function="pg_current_xact_id", output_field=models.TextField())
    return Cast(Cast(current, models.TextField()), models.BigIntegerField())


class Entry(models.Model):
    """One thing that happened. Holds names of kinds, ids and figures, and no personal value."""

    id = models.BigAutoField(primary_key=True)
    event = models.CharField(max_length=64)
    # By the application's clock, and by the database's: the difference shows a wrong clock.
    occurred_at = models.DateTimeField(default=timezone.now)
    recorded_at = models.DateTimeField(db_default=Now())
    actor_kind = models.CharField(max_length=16, choices=ActorKind)
    actor_id = models.CharField(max_length=64, blank=True)
    # Slugs with commas between, as they were at that moment.
    actor_roles = models.CharField(max_length=255, blank=True)
    impersonator_id = models.CharField(max_length=64, blank=True)
    # Of the API token that a program brought, which acts for the account `actor_id`.
    token_id = models.CharField(max_length=64, blank=True, default="", db_default="")
    target_kind = models.CharField(max_length=64, blank=True)
    target_id = models.CharField(max_length=64, blank=True)
    outcome = models.CharField(max_length=16, choices=Outcome)
    reason = models.CharField(max_length=500, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    trace_id = models.CharField(max_length=64, blank=True)
    turn_id = models.CharField(max_length=64, blank=True)
    payload = models.JSONField(default=dict)
    # SHA-256 over the salt and the canonical personal values, all in PersonalDetails.
    personal_digest = models.BinaryField(max_length=32)
    # Ids are given before commit. Whoever reads on takes only entries of transactions below the
    # oldest that still runs, and can't miss one that commits late.
    transaction_id = models.BigIntegerField(db_default=_current_transaction())

    class Meta:
        verbose_name = "entry"
        verbose_name_plural = "entries"
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(outcome__in=Outcome.values), name="entry_outcome_is_known"
            ),
            models.CheckConstraint(
                condition=models.Q(actor_kind__in=ActorKind.values),
                name="entry_actor_kind_is_known",
            ),
            models.CheckConstraint(
                condition=Exact(Length("personal_digest"), 32),
                name="entry_digest_is_32_bytes",
            ),
        )
        indexes = (
            models.Index(fields=["occurred_at", "id"], name="entry_by_time"),
            models.Index(fields=["event", "id"], name="entry_by_event"),
            models.Index(fields=["actor_id", "id"], name="entry_by_actor"),
            models.Index(fields=["target_kind", "target_id", "id"], name="entry_by_target"),
            models.Index(fields=["request_id", "id"], name="entry_by_request"),
            models.Index(fields=["transaction_id", "id"], name="entry_by_transaction"),
        )

    def __str__(self) -> str:
        return f"{self.event} {self.pk}"


class PersonalDetails(models.Model):
    """What an entry knows about people. A row may be erased; its entry stays and stays provable."""

    entry = models.OneToOneField(
        Entry, on_delete=models.DO_NOTHING, primary_key=True, related_name="personal"
    )
    salt = models.BinaryField(max_length=32)
    actor_label = models.CharField(max_length=254, blank=True)
    target_label = models.CharField(max_length=254, blank=True)
    # As much of the address as AUDIT_IP_PREFIX lets be kept.
    network = models.CharField(max_length=64, blank=True)
    user_agent = models.CharField(max_length=80, blank=True)

    class Meta:
        verbose_name = "personal details"
        verbose_name_plural = "personal details"

    def __str__(self) -> str:
        return f"personal details of entry {self.pk}"


class ModelChange(AbstractLogEntry):  # type: ignore[misc] # django-auditlog has no types
    """Difference that django-auditlog captured when somebody edited a registered model.

    The two keys have no constraint: deleting an account or a content type leaves these rows as
    they are.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    content_type = models.ForeignKey(
        "contenttypes.ContentType",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="+",
    )

    class Meta(AbstractLogEntry.Meta):  # type: ignore[misc]
        abstract = False
        verbose_name = "model change"
        verbose_name_plural = "model changes"
        ordering: ClassVar = ["-timestamp"]
