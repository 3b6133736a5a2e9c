"""The log: entries that only ever get more, the personal values beside them, and their tree.

`audit.trail` writes the entries and `audit.sealing` the tree, and nothing else does. The database
refuses UPDATE, DELETE and TRUNCATE of all but the personal values (see the migrations). Those live
in a table of their own where they can be erased; the entry keeps a salted digest of them, so that
it stays provable without them.
"""

from datetime import datetime
from typing import ClassVar

from auditlog.models import AbstractLogEntry
from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Value
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


class RolesOfActor(models.Func):
    """The roles of an entry's actor as a list, which an index looks into."""

    function = "string_to_array"

    def __init__(self) -> None:
        super().__init__(
            models.F("actor_roles"),
            models.Value(","),
            output_field=ArrayField(models.TextField()),
        )


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
            models.Index(fields=["target_id", "id"], name="entry_by_target_id"),
            models.Index(fields=["target_kind", "id"], name="entry_by_target_kind"),
            models.Index(fields=["request_id", "id"], name="entry_by_request"),
            models.Index(fields=["transaction_id", "id"], name="entry_by_transaction"),
            # What is the same in nearly all entries is found without an index, and the rest by it.
            models.Index(
                fields=["turn_id", "id"], name="entry_by_turn", condition=~models.Q(turn_id="")
            ),
            models.Index(
                fields=["token_id", "id"], name="entry_by_token", condition=~models.Q(token_id="")
            ),
            models.Index(
                fields=["outcome", "id"],
                name="entry_by_outcome",
                condition=~models.Q(outcome="succeeded"),
            ),
            models.Index(
                fields=["actor_kind", "id"],
                name="entry_by_actor_kind",
                condition=~models.Q(actor_kind="user"),
            ),
            GinIndex(RolesOfActor(), name="entry_by_role"),
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
        indexes = (
            models.Index(
                fields=["target_label", "entry"],
                name="personal_by_target_label",
                condition=~models.Q(target_label=""),
            ),
        )

    def __str__(self) -> str:
        return f"personal details of entry {self.pk}"


class Leaf(models.Model):
    """The place of an entry in the tree. Places are given once, from 0 on, without gaps."""

    index = models.BigIntegerField(primary_key=True)
    # Not a foreign key: a leaf outlives an entry that retention has removed.
    entry_id = models.BigIntegerField(unique=True)
    # SHA-256 over a zero byte and the entry's canonical JSON (audit.leaves).
    hash = models.BinaryField(max_length=32)
    # The database's clock stood earlier here than at the leaf before.
    clock_went_back = models.BooleanField(db_default=False)

    class Meta:
        ordering = ("index",)
        constraints = (
            models.CheckConstraint(
                condition=Exact(Length("hash"), 32), name="leaf_hash_is_32_bytes"
            ),
        )

    def __str__(self) -> str:
        return f"leaf {self.index}"


class Node(models.Model):
    """The hash of a complete subtree: of the 2^level leaves from index * 2^level on."""

    pk = models.CompositePrimaryKey("level", "index")
    level = models.IntegerField()
    index = models.BigIntegerField()
    hash = models.BinaryField(max_length=32)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Exact(Length("hash"), 32), name="node_hash_is_32_bytes"
            ),
        )

    def __str__(self) -> str:
        return f"node {self.index} of level {self.level}"


class Checkpoint(models.Model):
    """What was signed: so many leaves have this root."""

    number = models.BigIntegerField(primary_key=True)
    origin = models.CharField(max_length=255)
    size = models.BigIntegerField()
    root = models.BinaryField(max_length=32)
    # The signed note as it is published (C2SP tlog-checkpoint).
    note = models.TextField()
    # Four bytes in hexadecimal, of the key in use; at a rotation the note bears two signatures.
    key_id = models.CharField(max_length=8)
    # Behind this entry, in the order of (transaction_id, id), sealing goes on.
    cursor_transaction = models.BigIntegerField()
    cursor_entry = models.BigIntegerField()
    signed_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("number",)
        indexes = (models.Index(fields=["size"], name="checkpoint_by_size"),)

    def __str__(self) -> str:
        return f"checkpoint {self.number}"


class SigningKey(models.Model):
    """A public key that signed checkpoints from a size on, until the next one did."""

    key_id = models.CharField(max_length=8)
    # The name in the signature line: the log's origin.
    name = models.CharField(max_length=255)
    # The key as verifiers take it (C2SP signed-note: name+id+base64).
    vkey = models.CharField(max_length=400)
    first_size = models.BigIntegerField()
    # The note by which the key before it announced it; none for a log's first key.
    announcement = models.TextField(blank=True, db_default="")
    introduced_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.vkey


class Fork(models.Model):
    """An operator's signed word that the log goes on from another state than the one it signed."""

    # The first generation is the log before any fork.
    generation = models.IntegerField(primary_key=True)
    origin = models.CharField(max_length=255)
    # The last head that is known outside the database; size 0 when none is.
    old_origin = models.CharField(max_length=255)
    old_size = models.BigIntegerField()
    old_root = models.BinaryField(max_length=32)
    # The leaves that the database has, on which the new generation builds.
    resumed_size = models.BigIntegerField()
    resumed_root = models.BinaryField(max_length=32)
    # The leaves after all entries without one got theirs, and from where sealing then goes on.
    size = models.BigIntegerField()
    cursor_transaction = models.BigIntegerField()
    reason = models.CharField(max_length=500)
    # All of this as a signed note.
    statement = models.TextField()
    declared_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("generation",)

    def __str__(self) -> str:
        return self.origin


class Publication(models.Model):
    """A checkpoint that has arrived where this database's owner can't change it."""

    # Not held by the database: what was published stays when a checkpoint's row is cut off.
    checkpoint = models.ForeignKey(
        Checkpoint, on_delete=models.DO_NOTHING, db_constraint=False, related_name="publications"
    )
    destination = models.CharField(max_length=255)
    published_at = models.DateTimeField(db_default=Now())
    # What the destination said: a witness's cosignature, the version of an object.
    answer = models.TextField(blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["destination", "checkpoint"], name="publication_is_made_once"
            ),
        )

    def __str__(self) -> str:
        return f"checkpoint {self.checkpoint_id} at {self.destination}"


class Removal(models.Model):
    """That the entries of some leaves were removed for their age; the leaves are still there.

    Only `audit_remove_prefix` of the database writes it.
    """

    from_index = models.BigIntegerField()
    below_index = models.BigIntegerField(unique=True)
    older_than = models.DateTimeField()
    # The newest checkpoint then; it covers all of them.
    checkpoint_number = models.BigIntegerField()
    # How many of the entries were no longer there before: nobody removed those rightly.
    missing = models.BigIntegerField()
    reason = models.CharField(max_length=200)
    removed_by = models.CharField(max_length=64)
    removed_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("below_index",)

    def __str__(self) -> str:
        return f"removal below leaf {self.below_index}"


class ExportState(models.TextChoices):
    """How far an export is."""

    WAITING = "waiting", "waiting"
    WRITING = "writing", "writing"
    READY = "ready", "ready"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"
    EXPIRED = "expired", "expired"


UNFINISHED = (ExportState.WAITING, ExportState.WRITING)


class Export(models.Model):
    """A part of the log for somebody else: asked for, being written, there for a while, gone.

    The row is how its writer remembers how far it is (`audit.bundle`); what happened to an export
    stands in the log.
    """

    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    requested_at = models.DateTimeField(db_default=Now())
    # Which entries, as `audit.selection` writes it.
    selection = models.JSONField(default=dict)
    state = models.CharField(
        max_length=16, choices=ExportState, default=ExportState.WAITING, db_default="waiting"
    )
    # Why it failed, as a sentence.
    reason = models.CharField(max_length=500, blank=True, db_default="")
    # The entry of the request: the export covers at least what was there before.
    seen_entry = models.BigIntegerField()
    # The leaves [start, stop) that it goes through, below the checkpoint of that number.
    start = models.BigIntegerField(null=True)
    stop = models.BigIntegerField(null=True)
    checkpoint_number = models.BigIntegerField(null=True)
    # How many leaves are gone through, and how many entries of them are written.
    done = models.BigIntegerField(db_default=0, default=0)
    written = models.BigIntegerField(db_default=0, default=0)
    # Where each file of the bundle is, and what was counted; its writer goes on from here.
    place = models.JSONField(default=dict, db_default=Value({}, models.JSONField()))
    started_at = models.DateTimeField(null=True)
    # The writer's last sign of life.
    beat_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    # The place in the chain of manifests, given at the end; without gaps.
    number = models.BigIntegerField(null=True, unique=True)
    manifest_sha256 = models.CharField(max_length=64, blank=True, db_default="")
    # Of the ZIP, in bytes.
    size = models.BigIntegerField(null=True)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["requested_by"],
                condition=models.Q(state__in=UNFINISHED),
                name="one_export_at_a_time_each",
            ),
        )

    def __str__(self) -> str:
        return f"export {self.pk}"

    @property
    def is_unfinished(self) -> bool:
        """Whether it waits or is being written."""
        return self.state in UNFINISHED

    @property
    def total(self) -> int:
        """How many leaves it goes through; 0 as long as that is not settled."""
        return self.stop - self.start if self.stop is not None and self.start is not None else 0

    @property
    def percent(self) -> int:
        """How much of it is gone through."""
        return 100 * self.done // self.total if self.total else 0

    def seconds_left(self, now: datetime) -> int | None:
        """Return about how long it will take, at the pace so far; None before there is one."""
        if not self.done or self.started_at is None:
            return None
        spent = (now - self.started_at).total_seconds()
        return round(spent * (self.total - self.done) / self.done)


class InspectionRun(models.Model):
    """That somebody had the log verified: how far it is, and what was found.

    A working paper, for the administration; what came of it is an entry, `log.inspected`.
    """

    class State(models.TextChoices):
        WAITING = "waiting", "waiting"
        RUNNING = "running", "running"
        FINISHED = "finished", "finished"
        FAILED = "failed", "could not be finished"

    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    asked_at = models.DateTimeField(db_default=Now())
    # The worker's last sign of life.
    alive_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    is_whole = models.BooleanField(default=False)
    # The worker says from where it begins; a run over all leaves has none.
    since_checkpoint = models.BigIntegerField(null=True)
    last_checkpoint = models.BigIntegerField(null=True)
    leaves_done = models.BigIntegerField(default=0)
    leaves_to_do = models.BigIntegerField(default=0)
    # Of each its kind, a sentence, and the index and entry where there is one.
    findings = models.JSONField(default=list)
    # How many more there are, which are not kept.
    more_findings = models.BigIntegerField(default=0)
    why_failed = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name = "check of the log"
        verbose_name_plural = "checks of the log"
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"check {self.pk}"

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in {self.State.WAITING, self.State.RUNNING}

    @property
    def holds(self) -> bool:
        """Whether it came to its end and found nothing."""
        return self.state == self.State.FINISHED and not self.findings

    @property
    def total_findings(self) -> int:
        """How much does not hold, with what was only counted."""
        return len(self.findings) + self.more_findings


class Destination(models.Model):
    """A place outside that gets entries or checkpoints, and how far it is. Rows change."""

    class Purpose(models.TextChoices):
        STREAM = "stream", "stream"
        PUBLICATION = "publication", "publication"

    purpose = models.CharField(max_length=16, choices=Purpose)
    # Its address without what may be secret.
    name = models.CharField(max_length=255)
    # The leaves [0, position) of the log of that origin are there, or what commits to them.
    position = models.BigIntegerField(db_default=0, default=0)
    origin = models.CharField(max_length=255, blank=True)
    arrived_at = models.DateTimeField(null=True, blank=True)
    # How often in a row it failed, how, and when it is tried again.
    failures = models.IntegerField(db_default=0, default=0)
    fault = models.CharField(max_length=500, blank=True)
    retry_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["purpose", "name"], name="destination_is_one"),
        )

    def __str__(self) -> str:
        return f"{self.purpose} to {self.name}"


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
