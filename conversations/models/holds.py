"""What must be kept."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from uuid_utils.compat import uuid7

from conversations.models.conversation import Conversation


def who_did_it() -> "models.ForeignKey[Any, Any]":
    # Who did something stays named when the account goes.
    return models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )


class HoldQuerySet(models.QuerySet["Hold"]):
    def standing(self) -> "HoldQuerySet":
        """Those that still keep what they are on: not lifted, or lifted and not ended yet."""
        return self.filter(ended_at=None)


class Hold(models.Model):
    """A legal hold on a person or a conversation: nothing of theirs is destroyed while it stands.

    Placed, lifted and ended by `retention.holds`; the database allows nothing else to change,
    and no removal before the end. Rows name people and conversations without a constraint, since
    they outlive both.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
        verbose_name="person",
    )
    conversation = models.ForeignKey(
        Conversation,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    matter = models.CharField(max_length=200, help_text="The case, as your house calls it.")
    reason = models.TextField(max_length=2000, help_text="Why this must be kept.")
    review_on = models.DateField("review on", help_text="When to ask whether it is still needed.")
    author = who_did_it()
    placed_at = models.DateTimeField()
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = who_did_it()
    lift_reason = models.TextField(max_length=2000, blank=True, default="")
    ends_at = models.DateTimeField(
        null=True, blank=True, help_text="When what is due may go: some time after it was lifted."
    )
    ended_at = models.DateTimeField(
        null=True, blank=True, help_text="When its key was destroyed. Until then it keeps."
    )

    objects = HoldQuerySet.as_manager()

    class Meta:
        verbose_name = "legal hold"
        ordering = ["-placed_at", "-id"]
        indexes = [
            models.Index(fields=["user"], name="holds_on_people", condition=Q(ended_at=None)),
            models.Index(
                fields=["conversation"], name="holds_on_conversations", condition=Q(ended_at=None)
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="hold_is_on_one_thing",
                condition=Q(user=None) ^ Q(conversation=None),
            ),
            models.CheckConstraint(
                name="hold_says_why", condition=Q(matter__regex=r"\S") & Q(reason__regex=r"\S")
            ),
            models.CheckConstraint(
                name="hold_is_lifted_with_a_reason",
                condition=Q(lifted_at=None, ends_at=None)
                | Q(lifted_at__isnull=False, lift_reason__regex=r"\S", ends_at__gte=F("lifted_at")),
            ),
            models.CheckConstraint(
                name="hold_ends_after_its_delay",
                condition=Q(ended_at=None) | Q(ends_at__isnull=False, ended_at__gte=F("ends_at")),
            ),
        ]

    def __str__(self) -> str:
        return f"Hold {self.pk}"


class HeldKey(models.Model):
    """The key of a conversation on a day, wrapped by the key of a hold that keeps it readable.

    Written while the key of the day exists. As long as there is one, the database refuses to remove
    the conversation.
    """

    hold = models.ForeignKey(Hold, on_delete=models.PROTECT, related_name="keys")
    conversation = models.ForeignKey(
        Conversation, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    retention_class = models.PositiveSmallIntegerField()
    day = models.DateField()
    wrapped = models.BinaryField(help_text="Nonce, ciphertext and tag (AES-256-GCM).")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["conversation", "retention_class", "day", "hold"],
                name="one_key_per_day_and_hold",
            )
        ]

    def __str__(self) -> str:
        return f"Key of {self.conversation_id} for {self.hold_id}"
