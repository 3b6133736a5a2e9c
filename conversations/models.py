"""What is said: conversations and their tree of messages.

Contents and titles exist only sealed (`encryption`). A question and its reply are two messages; a
reply's row is written before the provider is called, so that after any crash the history is honest.
"""

import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Cast, Coalesce, Now
from django.urls import reverse
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import Role, User
from conversations.encryption import SealedRow, SealedText, SealKey, can_seal
from conversations.keyring import KeyDay
from prompts.models import Arm, PromptTemplate, PromptVersion, Release

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser


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


def _today() -> date:
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
        default=_today,
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
        return SealKey(self.pk, KeyDay(self.retention_class, _today()))

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


# --- what may be spent ------------------------------------------------------------------------


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


# --- what may be sent and shown ---------------------------------------------------------------


class PolicyTerms(models.Model):
    """What a policy rule says; a rule and each of its versions have the same terms."""

    class Kind(models.TextChoices):
        PATTERN = "pattern", "a pattern"
        WORDS = "words", "words and phrases"
        SIZE = "size", "a length"
        MODERATION = "moderation", "the provider's moderation"

    class Direction(models.TextChoices):
        INPUT = "input", "what people send"
        OUTPUT = "output", "replies"
        BOTH = "both", "both"

    class Action(models.TextChoices):
        BLOCK = "block", "block"
        MASK = "mask", "mask"
        FLAG = "flag", "let it pass and note it"

    name = models.CharField(max_length=120, help_text="How administrators and the log call it.")
    kind = models.CharField("looks for", max_length=10, choices=Kind.choices)
    direction = models.CharField("in", max_length=6, choices=Direction.choices)
    action = models.CharField("then", max_length=5, choices=Action.choices)
    pattern = models.CharField(
        max_length=1000,
        blank=True,
        help_text=r"For a pattern, as RE2 has it: \bACME-[0-9]{4}\b, or (?i)secret for any case."
        " In replies a match may have 256 characters at most.",
    )
    words = models.TextField(
        blank=True,
        help_text="For words: one word or phrase on each line, found as whole words in any case."
        " For moderation: the categories to act on, one on each line; none means all.",
    )
    limit = models.PositiveIntegerField(
        null=True, blank=True, help_text="For a length: the most characters that may pass."
    )
    message = models.CharField(
        max_length=300,
        blank=True,
        help_text="What the person reads when something is blocked. Empty: the name of the rule.",
    )
    is_active = models.BooleanField("in force", default=True)

    class Meta:
        abstract = True


class PolicyRule(PolicyTerms):
    """A rule for what may be sent and shown, as it is now. Changed by `turn.rules.save_rule`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    version = models.PositiveIntegerField(default=0, editable=False)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name


class PolicyRuleVersion(PolicyTerms):
    """A rule as it once was. The database refuses to change or remove one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rule = models.ForeignKey(PolicyRule, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["rule", "number"], name="one_number_per_policy_rule")
        ]
        ordering = ["rule", "-number"]

    def __str__(self) -> str:
        return f"{self.name} v{self.number}"


class Reason(models.TextChoices):
    """Why somebody thinks so of a reply. The slugs stand in entries of the log: none is renamed."""

    WRONG = "wrong", "Not correct"
    NOT_HELPFUL = "not_helpful", "Not helpful"
    NOT_FOLLOWED = "not_followed", "Not what I asked"
    UNSAFE = "unsafe", "Unsafe"
    TOO_LONG = "too_long", "Too long"
    CORRECT = "correct", "Correct"
    HELPFUL = "helpful", "Helpful"
    WELL_WRITTEN = "well_written", "Well written"
    OTHER = "other", "Something else"


class Rating(models.TextChoices):
    UP = "up"
    DOWN = "down"

    @property
    def reasons(self) -> "tuple[Reason, ...]":
        """The reasons that fit this thumb, in the order in which they are shown."""
        return _REASONS_UP if self == Rating.UP else _REASONS_DOWN


_REASONS_UP = (Reason.CORRECT, Reason.HELPFUL, Reason.WELL_WRITTEN, Reason.OTHER)
_REASONS_DOWN = (
    *(Reason.WRONG, Reason.NOT_HELPFUL, Reason.NOT_FOLLOWED),
    *(Reason.UNSAFE, Reason.TOO_LONG, Reason.OTHER),
)


class Feedback(SealedRow):
    """What its owner thinks of a reply: a thumb, and perhaps reasons and words about it.

    Written by `conversations.feedback`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    reply = models.OneToOneField(
        Message, on_delete=models.CASCADE, related_name="feedback", db_constraint=False
    )
    rating = models.CharField(max_length=4, choices=Rating.choices)
    reasons = ArrayField(
        models.CharField(max_length=12, choices=Reason.choices),
        default=list,
        db_default=Value("{}"),
    )
    comment_sealed = models.BinaryField(default=bytes)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    comment = SealedText("comment_sealed")

    class Meta:
        verbose_name_plural = "feedback"
        constraints = [
            models.CheckConstraint(
                name="feedback_is_a_thumb", condition=Q(rating__in=["up", "down"])
            ),
            models.CheckConstraint(
                name="feedback_reasons_fit_the_thumb",
                condition=Q(rating="up", reasons__contained_by=list(_REASONS_UP))
                | Q(rating="down", reasons__contained_by=list(_REASONS_DOWN)),
            ),
        ]

    def __str__(self) -> str:
        return f"Feedback {self.pk}"

    @property
    def offered_reasons(self) -> list[tuple[str, str]]:
        """The reasons that fit its thumb, as slugs and words."""
        return [(str(each), each.label) for each in Rating(self.rating).reasons]

    @property
    def reasons_in_words(self) -> list[str]:
        """The reasons as people read them."""
        return [Reason(slug).label for slug in self.reasons]

    @property
    def shown_comment(self) -> str | None:
        """The words about it, empty if there are none; None where they can't be read."""
        return Feedback.comment.shown(self)

    def owning_conversation(self) -> uuid.UUID:
        """Return the conversation's id."""
        return self.reply.conversation_id

    def seal_key(self) -> SealKey:
        """Return the key of the reply: what is said about it goes with it."""
        return self.reply.seal_key()


class Satisfaction(models.Model):
    """That somebody was asked how a conversation went, and the score that they gave, if any.

    Written by `conversations.satisfaction`. An answer without a score is a "No thanks". What the
    last reply was made by is noted with the score.
    """

    conversation = models.OneToOneField(
        Conversation, on_delete=models.CASCADE, primary_key=True, related_name="satisfaction"
    )
    asked_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True, blank=True)
    score = models.PositiveSmallIntegerField(null=True, blank=True, help_text="From 1 to 5.")
    prompt_version = models.ForeignKey(
        PromptVersion,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,  # versions and releases stay, so nobody asks what points to one
    )
    release = models.ForeignKey(
        Release,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
    )
    arm = models.CharField(max_length=10, choices=Arm.choices, blank=True, default="")

    class Meta:
        verbose_name_plural = "satisfaction"
        constraints = [
            models.CheckConstraint(
                name="satisfaction_is_one_to_five", condition=Q(score__range=(1, 5))
            ),
            models.CheckConstraint(
                name="scores_are_answers",
                condition=Q(score=None) | Q(answered_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"Satisfaction with {self.conversation_id}"


class SatisfactionPause(models.Model):
    """Until when somebody is not asked how a conversation went; outlives their conversations."""

    person = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="+"
    )
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.person_id} until {self.until:%Y-%m-%d %H:%M}"


# --- how long it is kept ----------------------------------------------------------------------


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


# --- what must be kept ------------------------------------------------------------------------


def _who_did_it() -> "models.ForeignKey[Any, Any]":
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
    author = _who_did_it()
    placed_at = models.DateTimeField()
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = _who_did_it()
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


# --- the person's rights ----------------------------------------------------------------------


class ExportState(models.TextChoices):
    """How far a file is that somebody asked for."""

    WAITING = "waiting", "waiting"
    WRITING = "writing", "being written"
    READY = "ready", "ready"
    FAILED = "failed", "failed"
    EXPIRED = "expired", "removed"


class _Progress:
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


class PersonExport(_Progress, models.Model):
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


# --- reading what others said -----------------------------------------------------------------

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


class CounselExport(_Progress, models.Model):
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
