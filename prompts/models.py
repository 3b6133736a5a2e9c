"""What the AI is and is told: models on offer with their prices, templates and their versions."""

import hashlib
import uuid
from typing import Any
from urllib.parse import urlsplit

import rfc8785
from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import User
from accounts.roles import Permission

# Keys of providers and nothing else: a row must not be able to send out what signs our sessions.
_names_a_key = RegexValidator(
    r"\A[A-Z][A-Z0-9_]*_API_KEY\Z",
    "Give the name of a secret, never the key: capitals, digits and _, ending with _API_KEY.",
)


def validate_server_address(url: str) -> None:
    """Accept the address of a server. Raises ValidationError."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValidationError("This is no address.") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValidationError("Give an address that begins with https:// or http://.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValidationError("The address holds no name, password, query or fragment.")


class LanguageModel(models.Model):
    """A model that people may be answered by: where it is, how large, and for whom."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(unique=True)
    label = models.CharField(max_length=120, help_text="How people read it.")
    base_url = models.CharField(
        "base URL",
        max_length=500,
        blank=True,
        validators=[validate_server_address],
        help_text="Of the server, often ending with /v1. Empty: what OPENAI_BASE_URL says.",
    )
    secret_name = models.CharField(
        "name of the key",
        max_length=120,
        default="OPENAI_API_KEY",
        validators=[_names_a_key],
        help_text="The secret's name in the environment, never the key itself.",
    )
    remote_name = models.CharField(
        "name at the provider",
        max_length=200,
        blank=True,
        help_text="Empty: what OPENAI_MODEL says.",
    )
    context_window = models.PositiveIntegerField(
        validators=[MinValueValidator(1024)],
        help_text="Tokens that prompt, conversation and reply may have together.",
    )
    max_output_tokens = models.PositiveIntegerField(
        validators=[MinValueValidator(16)], help_text="Tokens that one reply may have."
    )
    roles = models.ManyToManyField(
        "accounts.Role",
        blank=True,
        related_name="+",
        help_text="Who may be answered by it. Nobody chosen: everybody who may chat.",
    )
    fallback = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="Answers when this one can't.",
    )
    is_active = models.BooleanField("on offer", default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.label

    def clean(self) -> None:
        """Refuse a reply larger than the window, and fallbacks that lead back here."""
        super().clean()
        if (self.max_output_tokens or 0) >= (self.context_window or 0):
            raise ValidationError(
                {"max_output_tokens": "Leave room for the question: less than the context window."}
            )
        if self.pk in self._fallback_ids():
            raise ValidationError(
                {"fallback": f"The fallbacks would lead in a circle back to {self.label}."}
            )

    def _fallback_ids(self) -> list[uuid.UUID]:
        """Return the models behind this one, as far as they don't repeat."""
        rows = LanguageModel.objects.values_list("pk", "fallback_id")
        following: dict[uuid.UUID, uuid.UUID | None] = dict(rows)
        following[self.pk] = self.fallback_id
        found: list[uuid.UUID] = []
        at = self.fallback_id
        while at is not None and at not in found:
            found.append(at)
            at = following.get(at)
        return found


def _usd_per_million(**options: Any) -> Any:
    return models.DecimalField(
        max_digits=12, decimal_places=6, validators=[MinValueValidator(0)], **options
    )


class ModelPrice(models.Model):
    """What a model costs from a moment on, in USD per million tokens.

    Rows are only ever added; the database refuses changes, so that old costs stay explained. A
    price counts for one name at the provider (`priced_name`): a row that follows the environment
    must not keep the price of a model that it no longer is.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = models.ForeignKey(LanguageModel, on_delete=models.PROTECT, related_name="prices")
    priced_name = models.CharField("name at the provider", max_length=200, editable=False)
    from_at = models.DateTimeField("from", default=timezone.now)
    input = _usd_per_million(help_text="USD per million tokens of input.")
    cached_input = _usd_per_million(help_text="USD per million tokens of input from its cache.")
    output = _usd_per_million(help_text="USD per million tokens of output, thinking included.")
    source = models.CharField(max_length=500, help_text="Where the price stands.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("model", "-from_at")
        constraints = (
            models.UniqueConstraint(
                fields=["model", "from_at"],
                name="one_price_at_a_time",
                violation_error_message="There is a price from this moment on already.",
            ),
            models.CheckConstraint(
                condition=models.Q(input__gte=0, cached_input__gte=0, output__gte=0),
                name="price_is_not_negative",
            ),
        )

    def __str__(self) -> str:
        return f"{self.priced_name}: {self.input:f} / {self.output:f}"


class PromptTemplate(models.Model):
    """A prompt with a name; `live_version` points at what conversations get.

    Which version is live, and whether the template is paused, `prompts.publishing` alone changes.
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
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


def _person_field(**options: Any) -> "models.ForeignKey[Any, Any]":
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
    author = _person_field()
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
    published_by = _person_field()
    release_note = models.CharField(max_length=300, blank=True, default="", db_default="")

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
