"""Versions on their way to everybody, and who decided what."""

import secrets
from datetime import timedelta

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from prompts.models.templates import PromptTemplate, PromptVersion, person_field


class Arm(models.TextChoices):
    """By what a conversation is answered while a version is released."""

    PRODUCTION = "production"
    CANARY = "canary"  # drawn by the release's share
    EARLY = "early", "early access"  # chosen by name or role, so not to be compared as if drawn


WHOLE = 10_000
"""All people, in basis points."""


def percent(share: int) -> str:
    """Return basis points as people read them: `2.5 %`."""
    return f"{share / 100:g}\N{NO-BREAK SPACE}%"


def new_salt() -> bytes:
    return secrets.token_bytes(16)


class Release(models.Model):
    """A version on its way from a few people to everybody. Changed by `release.rollout` alone.

    `steps` are objects with `share` in basis points, strictly rising, at most 10000, and what each
    step waits for before the next: `people`, `turns` and `minutes`. A first step with the share 0
    is the early access. The database refuses steps that don't rise, a draft, another release of
    the template at the same time, and changes of what was decided at the beginning or of a release
    that is over.
    """

    class State(models.TextChoices):
        EARLY_ACCESS = "early_access", "early access"
        CANARY = "canary"
        PAUSED = "paused"
        FINISHED = "finished", "in production"
        ROLLED_BACK = "rolled_back", "rolled back"

    UNDER_WAY = (State.EARLY_ACCESS, State.CANARY, State.PAUSED)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    template = models.ForeignKey(PromptTemplate, on_delete=models.PROTECT, related_name="releases")
    version = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="releases")
    replaces = models.ForeignKey(
        PromptVersion,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="What is live meanwhile, and after a rollback.",
    )
    salt = models.BinaryField(
        default=new_salt, help_text="Decides, with their id, where a person stands."
    )
    early_role = models.SlugField(max_length=40, blank=True)
    early_people = ArrayField(models.UUIDField(), default=list, blank=True)
    steps = models.JSONField()
    step = models.PositiveSmallIntegerField(default=0, help_text="Which of `steps` holds, from 0.")
    share = models.PositiveSmallIntegerField(
        help_text="Of the people, in basis points: that of the step."
    )
    state = models.CharField(max_length=12, choices=State.choices)
    step_began_at = models.DateTimeField(default=timezone.now)
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_for = models.DurationField(
        default=timedelta, help_text="How long this step was paused before it went on."
    )
    began_at = models.DateTimeField(default=timezone.now)
    began_by = person_field()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-began_at",)
        constraints = (
            models.UniqueConstraint(
                fields=["template"],
                condition=models.Q(state__in=["early_access", "canary", "paused"]),
                name="one_release_under_way",
            ),
            models.CheckConstraint(
                condition=models.Q(
                    state__in=["early_access", "canary", "paused", "finished", "rolled_back"]
                ),
                name="release_state_known",
            ),
            models.CheckConstraint(
                condition=models.Q(state="paused", paused_at__isnull=False)
                | (~models.Q(state="paused") & models.Q(paused_at=None)),
                name="paused_release_says_since_when",
            ),
        )

    def __str__(self) -> str:
        return f"Release of {self.version}"

    @property
    def is_finished(self) -> bool:
        """Whether it brought its version into production."""
        return self.state == self.State.FINISHED

    @property
    def where(self) -> str:
        """Where it stands, as people say it: `Canary 10 %`."""
        share = percent(self.share) if self.share else "early access"
        if self.state == self.State.CANARY:
            return f"Canary {share}"
        if self.state == self.State.PAUSED:
            return f"Paused at {share}"
        return str(self.get_state_display()).capitalize()

    @property
    def reach(self) -> int:
        """Whom the version reaches by this release now, in basis points."""
        ends = {self.State.FINISHED: WHOLE, self.State.ROLLED_BACK: 0}
        return ends.get(self.State(self.state), self.share)

    @property
    def reached(self) -> str:
        """The part of the people whom it reaches, as people read it."""
        return percent(self.reach)

    @property
    def left(self) -> str:
        """The part of the people whom it does not reach, as people read it."""
        return percent(WHOLE - self.reach)

    @property
    def is_under_way(self) -> bool:
        """Whether it can still end either way."""
        return self.state in self.UNDER_WAY


class ReleaseDecision(models.Model):
    """Who decided what about a release, when and why. Only ever added."""

    class Verb(models.TextChoices):
        BEGAN = "began"
        ADVANCED = "advanced"
        PAUSED = "paused"
        RESUMED = "resumed"
        ROLLED_BACK = "rolled_back", "rolled back"
        FINISHED = "finished"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="decisions")
    verb = models.CharField(max_length=11, choices=Verb.choices)
    share = models.PositiveSmallIntegerField(help_text="From then on, in basis points.")
    by = person_field()
    part = models.CharField(
        max_length=40, blank=True, help_text="Which part of Parley decided, where no person did."
    )
    is_emergency = models.BooleanField(
        default=False, help_text="An author of the version decided alone."
    )
    note = models.CharField(max_length=300)
    numbers = models.JSONField(default=dict, blank=True, help_text="What it was decided by.")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("at", "id")

    def __str__(self) -> str:
        return f"{self.release}: {self.get_verb_display()}"

    @property
    def says(self) -> str:
        """What was decided, in words."""
        word = str(self.get_verb_display()).capitalize()
        if self.verb not in {self.Verb.BEGAN, self.Verb.ADVANCED}:
            return word
        return f"{word}: {percent(self.share) if self.share else 'early access'}"

    @property
    def figures(self) -> str:
        """The sample of the step and how long it ran, in words; the log has all numbers."""
        sample = [(name, self.numbers.get(name)) for name in ("people", "turns", "minutes")]
        return ", ".join(f"{number:,} {name}" for name, number in sample if number is not None)
