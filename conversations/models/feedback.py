"""What people think of replies and of conversations."""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q, Value
from uuid_utils.compat import uuid7

from conversations.encryption import SealedRow, SealedText, SealKey
from conversations.models.conversation import Conversation, Message
from prompts.models import Arm, PromptVersion, Release


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
