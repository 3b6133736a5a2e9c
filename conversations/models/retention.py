"""How long it is kept, and the evidence of each purge."""

from django.conf import settings
from django.db import models
from django.db.models import Q, Value

from accounts.models import Role
from conversations.models.conversation import RetentionClass


class RetentionPolicy(models.Model):
    """Whose conversations a retention class is for. How long they are kept, its versions say.

    Made and changed by `retention.policies`; never removed, because messages name the class.
    """

    retention_class = models.PositiveSmallIntegerField(primary_key=True)
    role = models.OneToOneField(
        Role, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )

    class Meta:
        verbose_name = "retention policy"
        verbose_name_plural = "retention policies"
        ordering = ["retention_class"]
        constraints = [
            models.CheckConstraint(
                # A sealed value names its class in one byte.
                name="retention_class_fits",
                condition=Q(retention_class__gte=1, retention_class__lte=255),
            ),
            models.CheckConstraint(
                name="other_retention_classes_have_a_role",
                condition=Q(retention_class__lte=2) ^ Q(role__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        if self.role_id:
            return f"Conversations of the role {self.role_id}"
        return RetentionClass(self.retention_class).label


class RetentionVersion(models.Model):
    """How long a class was to be kept from some moment on. The database refuses to change one."""

    policy = models.ForeignKey(RetentionPolicy, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    hours = models.PositiveIntegerField()
    effective_at = models.DateTimeField()
    note = models.CharField(max_length=300, blank=True)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["policy", "-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["policy", "number"], name="one_number_per_retention_policy"
            ),
            models.CheckConstraint(name="retention_lasts", condition=Q(hours__gte=1)),
        ]

    def __str__(self) -> str:
        return f"Version {self.number} of retention policy {self.policy_id}"


class PurgeRun(models.Model):
    """One run of the purge: what it was to delete, how far it is, and what it leaves as evidence.

    `retention.purge` alone writes here, in the transactions that delete. Once there is a
    certificate, the database refuses to change the row.
    """

    class State(models.TextChoices):
        ASKING = "asking", "waits to be confirmed"
        RUNNING = "running", "is running"
        FINISHED = "finished", "finished"
        WITHDRAWN = "withdrawn", "was not run"

    state = models.CharField(max_length=9, choices=State.choices, default=State.RUNNING)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    due = models.PositiveBigIntegerField(
        default=0, help_text="Messages that were due when it began, without those under a hold."
    )
    cutoffs = models.JSONField(
        default=list, help_text="For each class: its policy's version, and what is older goes."
    )
    place = models.JSONField(
        default=list, help_text="The last message that it went past, in its order."
    )
    counts = models.JSONField(default=dict, help_text="What it deleted, by kind.")
    held = models.PositiveBigIntegerField(
        default=0, help_text="Messages that were due and are kept by a hold."
    )
    skipped = models.PositiveBigIntegerField(
        default=0, help_text="Messages that were due and could not be deleted; tried again."
    )
    key_days = models.JSONField(
        default=list, help_text="The days whose keys it destroyed, as the keyring names them."
    )
    seconds = models.FloatField(default=0, help_text="For how long it worked.")
    tree_hashes = models.BinaryField(
        default=bytes, help_text="The tree over the ids so far: hashes of 32 bytes, left to right."
    )
    root = models.BinaryField(default=bytes, help_text="The tree's root, when it has finished.")
    certificate = models.TextField(blank=True, help_text="A note that the audit log's key signed.")
    confirmed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
    )
    confirmed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "purge"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                Value(1),
                condition=Q(state__in=["asking", "running"]),
                name="one_purge_at_a_time",
            )
        ]

    def __str__(self) -> str:
        return f"Purge {self.pk}"
