"""Conversations, their tree of messages, and the processes that write replies."""

import uuid
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Cast, Now
from django.urls import reverse
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import User
from conversations.encryption import SealedRow, SealedText, SealKey, can_seal
from conversations.keyring import KeyDay
from prompts.models import Arm, PromptTemplate, PromptVersion, Release

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser

    from conversations.models.break_glass import BreakGlassGrant
    from conversations.models.feedback import Feedback


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def visible_to(self, user: "User | AnonymousUser") -> "ConversationQuerySet":
        """Those that `user` may open: their own that are not deleted. No role sees more."""
        if not user.is_authenticated or not user.is_active:
            return self.none()
        return self.living().filter(owner=user, is_trial=False)

    def living(self) -> "ConversationQuerySet":
        """Those that are there for their owners: neither deleted, nor is all of it purged."""
        return self.filter(
            lifecycle__in=[Conversation.Lifecycle.ACTIVE, Conversation.Lifecycle.ARCHIVED]
        )

    def readable_under(self, grant: "BreakGlassGrant", now: datetime) -> "ConversationQuerySet":
        """Those that a break-glass grant opens at this moment, deleted ones included."""
        return self.within(grant) if grant.is_active(now) else self.none()

    def within(self, grant: "BreakGlassGrant") -> "ConversationQuerySet":
        """Those in the scope of a grant, open or not: to be counted and named, never to be read.

        They come whole, with what a purge has hidden from their owners.
        """
        whole = self.annotate(is_whole=Value(True))  # type: ignore[no-redef]  # elsewhere False
        if grant.conversation_id:
            return whole.filter(pk=grant.conversation_id)
        found = whole.filter(owner=grant.person_id)
        if not (grant.first_day or grant.last_day):
            return found
        said = Message.objects.filter(grant.days(), conversation=models.OuterRef("pk"))
        return found.filter(models.Exists(said))

    def listed(self) -> "ConversationQuerySet":
        """Those that stand in lists: temporary ones never do."""
        return self.exclude(retention_class=RetentionClass.TEMPORARY)


LAST_SEEN_PRECISION = timedelta(minutes=1)


class RetentionClass(models.IntegerChoices):
    """How long what is said is kept; day keys are made for each of them."""

    STANDARD = 1
    TEMPORARY = 2


def today() -> date:
    return datetime.now(UTC).date()


# What points to a message is no foreign key to PostgreSQL: its checks, row by row for each message
# that goes, took four fifths of a purge. Who writes such a pointer has locked the conversation or
# the message first, and so has `retention.deletion`, which takes along all that points to what
# it deletes. Feedback and reservations hold more than a pointer: a trigger that looks once at all
# that a statement deletes lets no message go without them.


class Conversation(SealedRow):
    """A tree of messages with one owner. `leaf` is the end of the branch that the page shows."""

    class Lifecycle(models.TextChoices):
        ACTIVE = "active"
        ARCHIVED = "archived"
        DELETED = "deleted"
        PURGED = "purged"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="conversations"
    )
    title_sealed = models.BinaryField(default=bytes)
    hidden_title_sealed = models.BinaryField(
        default=bytes,
        db_default=b"",
        help_text="The first title that a hold kept when its time was over, as it was sealed.",
    )
    retention_class = models.PositiveSmallIntegerField(
        default=RetentionClass.STANDARD, db_default=RetentionClass.STANDARD
    )
    key_day = models.DateField(
        default=today,
        db_default=Cast(Now(), models.DateField()),
        help_text="The day whose key serves the conversation as a whole, by UTC. Nothing in it is"
        " older.",
    )
    lifecycle = models.CharField(max_length=8, choices=Lifecycle.choices, default=Lifecycle.ACTIVE)
    template = models.ForeignKey(
        PromptTemplate,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,  # templates stay, so nobody asks which conversations point to one
        help_text="What it began with. Empty: the general assistant.",
    )
    release = models.ForeignKey(
        Release,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,  # releases stay, so nobody asks which conversations point to one
        help_text="What was being released of its template when it began.",
    )
    arm = models.CharField(
        max_length=10,
        choices=Arm.choices,
        blank=True,
        default="",
        db_default="",
        help_text="Where it stands in that release, from its beginning on.",
    )
    is_trial = models.BooleanField(
        default=False,
        db_default=False,
        help_text="A wording that was tried in the playground; nobody's list has it.",
    )
    leaf = models.ForeignKey(
        "Message",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
    )
    fence = models.BigIntegerField(
        default=0,
        help_text="Last number given to a run of a reply; a run with a lower one is over.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    last_message_at = models.DateTimeField(
        auto_now_add=True, help_text="When its owner last wrote in it or let a reply go on."
    )
    last_seen = models.DateTimeField(
        auto_now_add=True, help_text="When its owner last opened it; to the minute."
    )
    deleted_at = models.DateTimeField(null=True, blank=True)
    deleted_from = models.CharField(
        max_length=8,
        blank=True,
        default="",
        db_default="",
        help_text="The state that undoing its deletion brings back; empty: active.",
    )
    purged_before = models.DateTimeField(
        null=True,
        blank=True,
        help_text="What was said before was deleted, its time being over; what a hold keeps of it"
        " is hidden from its owner.",
    )

    title = SealedText("title_sealed")
    hidden_title = SealedText("hidden_title_sealed", sealed_for="title_sealed")
    # Whether it was loaded for those who may read what is hidden from its owner.
    is_whole = False
    objects = ConversationQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["owner", "lifecycle", "-last_message_at"], name="conversations_of_owner"
            ),
            models.Index(fields=["retention_class", "key_day"], name="conversations_by_age"),
            models.Index(
                fields=["deleted_at"],
                name="conversations_deleted",
                condition=Q(lifecycle="deleted"),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="conversation_lifecycle_known",
                condition=Q(lifecycle__in=["active", "archived", "deleted", "purged"]),
            )
        ]

    def __str__(self) -> str:
        return f"Conversation {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("conversation", args=[self.pk])

    @property
    def is_temporary(self) -> bool:
        """Whether it is kept for a short time and in no list."""
        return self.retention_class == RetentionClass.TEMPORARY

    @property
    def shown_title(self) -> str:
        """The title; empty while there is none, or where it can't be read."""
        return self.known_title or ""

    @property
    def known_title(self) -> str | None:
        """The title, empty while there is none; None where it can't be read."""
        if self.is_whole and not self.title_sealed:
            return Conversation.hidden_title.shown(self)
        return Conversation.title.shown(self)

    def shown_messages(self) -> "MessageQuerySet":
        """Return the messages that whoever it was loaded for may read."""
        return self.messages.all() if self.is_whole else self.messages.shown()

    def owning_conversation(self) -> uuid.UUID:
        """Return its own id."""
        return self.pk

    def seal_key(self) -> SealKey:
        """Return the key of today: a title is given today, whatever it sums up."""
        return SealKey(self.pk, KeyDay(self.retention_class, today()))

    def lasting_key(self) -> SealKey:
        """Return the key from which follows what must stay the same through the conversation."""
        return SealKey(self.pk, KeyDay(self.retention_class, self.key_day))

    def seen(self) -> None:
        """Note that its owner opens it; writes at most once a minute."""
        now = datetime.now(UTC)
        if self.last_seen < now - LAST_SEEN_PRECISION:
            Conversation.objects.filter(pk=self.pk).update(last_seen=now)


class Runner(models.Model):
    """A process that writes replies. Its heartbeat tells the others that it lives."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(auto_now_add=True)
    beat_at = models.DateTimeField(db_index=True, help_text="By the database's clock.")

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class MessageQuerySet(models.QuerySet["Message"]):
    def shown(self) -> "MessageQuerySet":
        """Those that their owners may see: nothing that a purge deleted but for a hold.

        The one place of this rule. Whose conversation it is, and whether it was deleted, is asked
        of conversations.
        """
        since = F("conversation__purged_before")
        return self.filter(Q(conversation__purged_before=None) | Q(created_at__gte=since))

    def linked(self) -> "MessageQuerySet":
        """Let each message follow only what is among these as well."""
        before = self.order_by().filter(pk=models.OuterRef("parent_id"))
        found = models.Subquery(before.values("pk"))
        return self.annotate(follows=found)  # type: ignore[no-redef]  # in place of `parent`


class Message(SealedRow):
    """A question, a reply, or a system message.

    A reply points to the version that it was told, which can't change any more: the version holds
    the content hash and the parameters, before which `asked_parameters` come. `release` and `arm`
    say why it was that version, and `is_fallback` that another one was to serve.
    """

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"
        SYSTEM = "system"

    class State(models.TextChoices):
        SAID = "said"  # a question or system message: complete from the start
        STREAMING = "streaming"
        COMPLETED = "completed"
        STOPPED = "stopped"
        FAILED = "failed"
        REFUSED = "refused"
        INTERRUPTED = "interrupted"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="messages"
    )
    parent = models.ForeignKey(
        "self",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="children",
        db_constraint=False,
    )
    role = models.CharField(max_length=9, choices=Role.choices)
    state = models.CharField(max_length=11, choices=State.choices)
    content_sealed = models.BinaryField(default=bytes)
    key = models.CharField(  # noqa: DJ001 - only questions have one, and NULLs are never equal
        max_length=64,
        null=True,
        blank=True,
        help_text="Made by the client, so that a question sent twice arrives once.",
    )
    created_at = models.DateTimeField(default=timezone.now)

    # Replies only
    thinking_sealed = models.BinaryField(default=bytes)
    prompt_version = models.ForeignKey(
        PromptVersion, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    model = models.CharField(max_length=200, blank=True)
    release = models.ForeignKey(
        Release,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="replies",
        db_index=False,  # the index of Meta serves what is asked
        help_text="The release under way that it took part in.",
    )
    arm = models.CharField(max_length=10, choices=Arm.choices, blank=True)
    is_fallback = models.BooleanField(
        default=False, db_default=False, help_text="The version that was to serve could not."
    )
    asked_parameters = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        help_text="Numbers that a program asked for beside those of the version.",
    )
    finish_reason = models.CharField(max_length=32, blank=True)
    fault = models.CharField(
        max_length=32, blank=True, help_text="Why it failed or was interrupted, as a code."
    )
    refused_by = models.ForeignKey(
        "PolicyRuleVersion",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,  # versions stay, so nobody asks which replies point to one
        help_text="The rule that ended it.",
    )
    tokens_in = models.PositiveIntegerField(null=True, blank=True)
    tokens_cached = models.PositiveIntegerField(null=True, blank=True)
    tokens_out = models.PositiveIntegerField(null=True, blank=True)
    usage_estimated = models.BooleanField(default=False)
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, null=True, blank=True)
    asked_model = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The model that was asked, where another answered.",
    )
    turns_left_out = models.PositiveIntegerField(
        default=0,
        db_default=0,
        help_text="Oldest turns that did not fit the model's window any more.",
    )
    first_token_ms = models.PositiveIntegerField(null=True, blank=True)
    duration_ms = models.PositiveIntegerField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    # How a run of a reply is owned, or the title that is made behind it, and how far readers have
    # been told
    runner = models.ForeignKey(
        Runner, on_delete=models.SET_NULL, null=True, blank=True, related_name="replies"
    )
    fence = models.BigIntegerField(default=0, help_text="The run that may write this row.")
    cursor = models.BigIntegerField(
        default=0, help_text="Number of the frame up to which the stored text reaches."
    )
    stop_requested_at = models.DateTimeField(null=True, blank=True)

    content = SealedText("content_sealed")
    thinking = SealedText("thinking_sealed")
    objects = MessageQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["conversation", "created_at"], name="messages_of_conversation"),
            models.Index(
                fields=["runner"], name="replies_being_written", condition=Q(state="streaming")
            ),
            models.Index(
                fields=["release", "created_at"],
                name="replies_of_release",
                condition=Q(release__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["conversation"],
                condition=Q(state="streaming"),
                name="one_open_reply_per_conversation",
            ),
            models.UniqueConstraint(fields=["conversation", "key"], name="question_arrives_once"),
            models.CheckConstraint(
                name="only_replies_have_outcomes",
                condition=Q(role="assistant") ^ Q(state="said"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} {self.pk}"

    def owning_conversation(self) -> uuid.UUID:
        """Return the conversation's id."""
        return self.conversation_id

    def seal_key(self) -> SealKey:
        """Return the key of the day on which it was begun."""
        day = self.created_at.astimezone(UTC).date()
        return SealKey(self.conversation_id, KeyDay(self.conversation.retention_class, day))

    @property
    def shown_content(self) -> str | None:
        """What it says; None where that can't be read: its key is gone, or somebody changed it."""
        return Message.content.shown(self)

    @property
    def shown_thinking(self) -> str:
        """What the model thought; empty where that can't be read."""
        return Message.thinking.shown(self) or ""

    @cached_property
    def follows(self) -> uuid.UUID | None:
        """The id of the message before it; None where `linked` found that not to be shown."""
        return self.parent_id

    @property
    def takes_text(self) -> bool:
        """Whether anything can still be written in it or about it: its day's key is there."""
        return can_seal(self.seal_key())

    @property
    def is_reply(self) -> bool:
        return self.role == self.Role.ASSISTANT

    @property
    def loaded_feedback(self) -> "Feedback | None":
        """Its feedback, if there is any and it was loaded with it. Never asks the database."""
        return self._state.fields_cache.get("feedback")

    @property
    def is_open(self) -> bool:
        """Whether it is being written now."""
        return self.state == self.State.STREAMING
