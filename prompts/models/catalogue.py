"""Models that people may be answered by, and what they cost."""

import uuid
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

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
