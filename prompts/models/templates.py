"""Prompts: templates with a name, and the versions of their wording."""

import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import rfc8785
from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from uuid_utils.compat import uuid7

from accounts.models import User
from accounts.roles import Permission

if TYPE_CHECKING:
    from prompts.models.releases import Release


class PromptTemplate(models.Model):
    """A prompt with a name; `live_version` points at what conversations get.

    Which version is live, whether the template is paused, and what a version has to pass
    before it can be published, `prompts.publishing` alone changes.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(unique=True, help_text="How programs and the log name it.")
    name = models.CharField(max_length=120, help_text="How people choose it.")
    purpose = models.CharField(max_length=500, blank=True, help_text="What it is for, briefly.")
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="Who is asked about it.",
    )
    roles = ArrayField(
        models.SlugField(max_length=40),
        default=list,
        db_default=[],
        blank=True,
        help_text="Who may choose it. Nobody chosen: everybody who may chat.",
    )
    live_version = models.ForeignKey(
        "PromptVersion", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    is_paused = models.BooleanField(
        "paused", default=False, db_default=False, help_text="Not offered to new conversations."
    )
    required_set = models.ForeignKey(
        "EvaluationSet",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="What a version has to pass before it can be published.",
    )
    required_score = models.DecimalField(
        max_digits=4,
        decimal_places=3,
        default=Decimal("0.9"),
        db_default=Decimal("0.9"),
        validators=[MinValueValidator(0), MaxValueValidator(1)],
        help_text="The share of its cases that have to pass, in [0, 1].",
    )
    scheduled_set = models.ForeignKey(
        "EvaluationSet",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="With what the live version is evaluated again and again. Empty: it is not.",
    )
    scheduled_days = models.PositiveSmallIntegerField(
        default=7, db_default=7, help_text="From one scheduled evaluation to the next."
    )
    scheduled_limit_usd = models.DecimalField(
        max_digits=8,
        decimal_places=2,
        default=Decimal(1),
        db_default=Decimal(1),
        help_text="What one of them may cost.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


def person_field(**options: Any) -> "models.ForeignKey[Any, Any]":
    # What was published never changes, so an account that goes must not change it either.
    return models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        **options,
    )


class PromptVersion(models.Model):
    """One wording of a template: a draft until it is published.

    The database refuses to change or remove what was published, and to let a template point at a
    draft. Written by `prompts.drafting` and `prompts.publishing`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    template = models.ForeignKey(PromptTemplate, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    content = models.TextField()
    variables = models.JSONField(
        default=list, db_default=[], blank=True, help_text="As `rendering.stored_form` has them."
    )
    model = models.CharField(
        max_length=200, blank=True, help_text="The slug of a model. Empty: the model by default."
    )
    parameters = models.JSONField(default=dict, blank=True)
    change_note = models.CharField(max_length=500, blank=True)
    author = person_field()
    contributors = ArrayField(
        models.UUIDField(),
        default=list,
        db_default=[],
        blank=True,
        help_text="Everybody who wrote a part of it: none of them may publish it.",
    )
    revision = models.PositiveIntegerField(
        default=0, db_default=0, help_text="How often the draft was saved."
    )
    content_hash = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    published_at = models.DateTimeField(null=True, blank=True)
    published_by = person_field()
    release_note = models.CharField(max_length=300, blank=True, default="", db_default="")
    is_for_release = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Published to be released step by step, not made live at once.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["template", "number"], name="one_number_per_template")
        ]
        ordering = ["template", "-number"]

    def __str__(self) -> str:
        return f"{self.template.name} v{self.number}"

    def save(self, *args: object, **kwargs: object) -> None:
        """Store it with its hash."""
        self.content_hash = hash_of(self.content, self.variables, self.model, self.parameters)
        super().save(*args, **kwargs)  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """The number as people read it."""
        return f"v{self.number}"

    @property
    def is_draft(self) -> bool:
        """Whether it may still change."""
        return self.published_at is None

    @property
    def last_release(self) -> "Release | None":
        """Its newest release; no query where `releases` was prefetched."""
        return next(iter(self.releases.all()), None)

    @property
    def was_live(self) -> bool:
        """Whether it was everybody's at some time, so that it can be again."""
        if self.is_draft:
            return False
        return not self.is_for_release or any(
            release.is_finished for release in self.releases.all()
        )

    def permits(self, user: User, permission: Permission) -> bool:
        """Say no to who wrote a part of it and wants to publish it."""
        return permission != Permission.PUBLISH_PROMPTS or user.pk not in self.contributors


def hash_of(
    content: str, variables: list[dict[str, Any]], model: str, parameters: dict[str, Any]
) -> str:
    """Return the SHA-256, in hex, of the canonical JSON (RFC 8785) of all that a reply depends on.

    The names of the members are part of it; two versions that say the same have the same hash.
    """
    said: Any = {
        "content": content,
        "model": model,
        "parameters": parameters,
        "variables": variables,
    }
    return hashlib.sha256(rfc8785.dumps(said)).hexdigest()
