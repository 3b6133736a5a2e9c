"""What the AI is and is told: models on offer with their prices, templates and their versions."""

import hashlib
import secrets
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import rfc8785
from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models.functions import Now
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
        finished = (release.state == Release.State.FINISHED for release in self.releases.all())
        return not self.is_for_release or any(finished)

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


# --- releases ------------------------------------------------------------------------------------


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


def _new_salt() -> bytes:
    return secrets.token_bytes(16)


class Release(models.Model):
    """A version on its way from a few people to everybody. Changed by `prompts.rollout` alone.

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
        default=_new_salt, help_text="Decides, with their id, where a person stands."
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
    began_by = _person_field()
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
    by = _person_field()
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


# --- guards --------------------------------------------------------------------------------------


def _positive(least: float, default: float, **options: Any) -> Any:
    return models.FloatField(
        default=default, db_default=default, validators=[MinValueValidator(least)], **options
    )


class ReleaseGuard(models.Model):
    """How much worse a release may be than production, and what was made of it so far.

    Rates are shares of turns, in [0, 1]; factors say how many times as long or dear. Changed by
    `prompts.guards` alone, and bounds only until the first person was compared.
    """

    release = models.OneToOneField(
        Release, on_delete=models.PROTECT, primary_key=True, related_name="guard"
    )
    error_rate = _positive(0, 0.02, help_text="So many more turns may fail: 0.02 is 2 in 100.")
    refusal_rate = _positive(0, 0.03, help_text="So many more turns may be refused.")
    thumbs_down_rate = _positive(0, 0.1, help_text="So many more ratings may be thumbs down.")
    duration_factor = _positive(1, 1.25, help_text="So many times as long may replies take.")
    cost_factor = _positive(1, 1.25, help_text="So many times as dear may replies be.")
    advances_itself = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Takes the next step when this one has its sample and time, and no bound is"
        " crossed. Production is always a publisher's decision.",
    )
    offered_step = models.SmallIntegerField(
        default=-1, db_default=-1, editable=False, help_text="The last step found to be done."
    )
    looked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = (
            models.CheckConstraint(
                name="guard_bounds_can_be_kept",
                condition=models.Q(
                    error_rate__range=(0, 0.9),
                    refusal_rate__range=(0, 0.9),
                    thumbs_down_rate__range=(0, 0.9),
                    duration_factor__range=(1, 4),
                    cost_factor__range=(1, 4),
                ),
            ),
        )

    def __str__(self) -> str:
        return f"Guards of {self.release_id}"


class ArmTally(models.Model):
    """What a window of one person's turns, or ratings, came to in an arm of a release's step.

    Written by `prompts.tallies` in the transaction that ends a turn or takes a rating; emptied when
    the release is over. No content. Times are milliseconds, costs USD.
    """

    class Kind(models.TextChoices):
        TURNS = "turns"
        RATINGS = "ratings"

    id = models.BigAutoField(primary_key=True)
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="tallies")
    step = models.PositiveSmallIntegerField()
    arm = models.CharField(max_length=10, choices=Arm.choices)
    person = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=7, choices=Kind.choices)
    window = models.PositiveSmallIntegerField(help_text="As `sequential.window_of` counts.")
    count = models.PositiveIntegerField(default=0, db_default=0)
    errors = models.PositiveIntegerField(default=0, db_default=0)
    refusals = models.PositiveIntegerField(default=0, db_default=0)
    thumbs_down = models.PositiveIntegerField(default=0, db_default=0)
    completed = models.PositiveIntegerField(default=0, db_default=0)
    duration_ms = models.BigIntegerField(default=0, db_default=0, help_text="Of those completed.")
    cost_usd = models.DecimalField(
        max_digits=16, decimal_places=8, default=0, db_default=0, help_text="Of those completed."
    )
    began_at = models.DateTimeField(default=timezone.now, db_default=Now())
    changed_at = models.DateTimeField(default=timezone.now, db_default=Now())
    compared_at = models.DateTimeField(
        null=True, blank=True, help_text="From then on it stays as it is."
    )

    class Meta:
        verbose_name_plural = "arm tallies"
        constraints = (
            models.UniqueConstraint(
                fields=["release", "step", "arm", "person", "kind", "window"],
                name="one_tally_per_window",
            ),
        )
        indexes = (
            models.Index(
                fields=["release", "step"],
                name="tallies_to_compare",
                condition=models.Q(compared_at=None),
            ),
        )

    def __str__(self) -> str:
        return f"{self.arm} {self.kind} {self.window}"


class GuardReading(models.Model):
    """How the comparison of one metric stands, in a step and a window: nobody's, numbers alone."""

    class Metric(models.TextChoices):
        ERRORS = "errors", "turns that failed"
        REFUSALS = "refusals", "turns that were refused"
        THUMBS_DOWN = "thumbs_down", "ratings that were thumbs down"
        DURATION = "duration", "time to the end of a reply"
        COST = "cost", "cost of a reply"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="readings")
    step = models.PositiveSmallIntegerField()
    metric = models.CharField(max_length=11, choices=Metric.choices)
    window = models.PositiveSmallIntegerField()
    comparison = models.JSONField(help_text="As `sequential.Comparison.as_dict` gives it.")
    scale = models.JSONField(default=dict, help_text="As `sequential.Scale.as_dict` gives it.")
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["release", "step", "metric", "window"], name="one_reading_per_window"
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_metric_display()}, window {self.window}"


# --- drift ---------------------------------------------------------------------------------------


class RatingTally(models.Model):
    """How one person rated replies of a live version on a day (UTC). No content.

    Written by `prompts.drift` with the rating; removed when no look needs it any more.
    """

    id = models.BigAutoField(primary_key=True)
    version = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="+")
    day = models.DateField()
    person = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    ratings = models.PositiveIntegerField(default=0, db_default=0)
    thumbs_down = models.PositiveIntegerField(default=0, db_default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["version", "day", "person"], name="one_rating_tally_a_day"
            ),
        )

    def __str__(self) -> str:
        return f"{self.version_id} {self.day}"


class RatingBaseline(models.Model):
    """How a live version was rated at first: a share of thumbs down for each person, nobody's name.

    Fixed once; `prompts.drift` compares later weeks with it.
    """

    version = models.OneToOneField(
        PromptVersion, on_delete=models.PROTECT, primary_key=True, related_name="rating_baseline"
    )
    scores = ArrayField(models.FloatField())
    until = models.DateField(help_text="The last day that is part of it.")
    looked_on = models.DateField(null=True, blank=True)
    declined_on = models.DateField(null=True, blank=True, help_text="When it last told of a fall.")

    def __str__(self) -> str:
        return f"Baseline of {self.version_id}"


# --- figures -------------------------------------------------------------------------------------


def _count_field(**options: Any) -> "models.BigIntegerField[Any, Any]":
    return models.BigIntegerField(default=0, db_default=0, **options)


def _histogram_field(**options: Any) -> Any:
    return models.JSONField(default=dict, db_default={}, blank=True, **options)


class VersionFigures(models.Model):
    """What the turns of a version came to on a day (UTC), in an arm: sums alone, of nobody.

    Written by `prompts.figures`, which says what each number counts. A row's `shard` is only there
    so that turns that end at once seldom wait for each other: whoever reads adds all shards up. A
    single shard may hold less than nothing, their sum doesn't.
    """

    id = models.BigAutoField(primary_key=True)
    version = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="figures")
    release = models.ForeignKey(
        Release,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="figures",
        help_text="The release that the turns took part in.",
    )
    arm = models.CharField(max_length=10, choices=Arm.choices)
    day = models.DateField(help_text="By UTC: when the turn began, or the rating was given.")
    shard = models.PositiveSmallIntegerField()
    turns = _count_field()
    errors = _count_field()
    refusals = _count_field()
    fallbacks = _count_field(help_text="Turns of another version, which could not serve.")
    missed = _count_field(help_text="Turns that it was to serve and could not.")
    tokens_in = _count_field()
    tokens_out = _count_field()
    cost_usd = models.DecimalField(max_digits=20, decimal_places=8, default=0, db_default=0)
    cost_usd_squared = models.DecimalField(
        max_digits=36, decimal_places=16, default=0, db_default=0, help_text="Sum of squares."
    )
    first_token = _histogram_field(help_text="Turns by bucket, as `figures.bucket_of` has them.")
    duration = _histogram_field(help_text="Completed turns by bucket.")
    thumbs_up = _count_field()
    thumbs_down = _count_field()
    satisfaction_count = _count_field()
    satisfaction_sum = _count_field()
    satisfaction_squared = _count_field(help_text="Sum of squares.")
    policy_hits = _count_field()
    personal_data_hits = _count_field()

    class Meta:
        verbose_name_plural = "version figures"
        constraints = (
            models.UniqueConstraint(
                fields=["version", "day", "release", "arm", "shard"],
                name="one_row_of_figures_per_shard",
                nulls_distinct=False,
            ),
        )

    def __str__(self) -> str:
        return f"{self.version_id} {self.arm} {self.day}"


# --- evaluation ----------------------------------------------------------------------------------


class EvaluationSet(models.Model):
    """Cases by which versions of templates are judged before anybody is answered by them."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(unique=True, help_text="How the command line and the log name it.")
    name = models.CharField(max_length=120)
    purpose = models.CharField(max_length=500, blank=True, help_text="What it shows, briefly.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def newest(self) -> "EvaluationSetVersion | None":
        """Its newest version; no query where `versions` was prefetched."""
        return next(iter(self.versions.all()), None)


class EvaluationSetVersion(models.Model):
    """The cases of a set as they were at one time. The database refuses to change or remove them.

    `lines` are the JSON Lines as they were given (`evaluation.cases` reads them); `digest` is the
    SHA-256, in hex, of the canonical JSON (RFC 8785) of the list of cases. Written by
    `evaluation.sets`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    set = models.ForeignKey(EvaluationSet, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    digest = models.CharField(max_length=64)
    lines = models.TextField()
    case_count = models.PositiveSmallIntegerField()
    note = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = _person_field(help_text="Nobody: it came with Parley.")

    class Meta:
        ordering = ("set", "-number")
        constraints = (
            models.UniqueConstraint(fields=["set", "number"], name="one_number_per_evaluation_set"),
        )

    def __str__(self) -> str:
        return f"{self.set.name} v{self.number}"


def _usd(**options: Any) -> Any:
    return models.DecimalField(
        max_digits=16, decimal_places=8, default=Decimal(0), db_default=Decimal(0), **options
    )


class EvaluationRun(models.Model):
    """One wording put through all cases of a set. Changed by `evaluation.runs` alone.

    What is evaluated is `terms`, copied at the beginning, because a draft may change meanwhile:
    `content`, `variables`, `model`, `parameters`, with their `content_hash`. Money is USD.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        RUNNING = "running"
        FINISHED = "finished"  # every case was decided: the only state with a score
        INTERRUPTED = "interrupted"
        CANCELLED = "cancelled"

    class Why(models.TextChoices):
        """Why a run was interrupted."""

        PROVIDER = "provider", "the provider failed again and again"
        LIMIT = "limit", "the limit of its cost was reached"
        ERRORS = "errors", "some cases have no result"
        UNCERTAIN = "uncertain", "nobody knows whether some calls were made"
        REFUSED = "refused", "a model can't be asked at the moment"

    OPEN = (State.WAITING, State.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    set_version = models.ForeignKey(
        EvaluationSetVersion, on_delete=models.PROTECT, related_name="runs"
    )
    template = models.ForeignKey(
        PromptTemplate, on_delete=models.PROTECT, related_name="evaluation_runs"
    )
    version = models.ForeignKey(
        PromptVersion, on_delete=models.PROTECT, related_name="evaluation_runs"
    )
    was_draft = models.BooleanField(help_text="The version could still change when it began.")
    content_hash = models.CharField(max_length=64)
    terms = models.JSONField()
    judge = models.CharField(
        max_length=200, blank=True, help_text="The slug of the judge's model. Empty: by default."
    )
    state = models.CharField(max_length=11, choices=State.choices, default=State.WAITING)
    why = models.CharField(max_length=10, choices=Why.choices, blank=True)
    total = models.PositiveSmallIntegerField(help_text="Cases.")
    passed = models.PositiveSmallIntegerField(default=0)
    failed = models.PositiveSmallIntegerField(default=0)
    errors = models.PositiveSmallIntegerField(default=0)
    uncertain = models.PositiveSmallIntegerField(default=0)
    unparsable = models.PositiveSmallIntegerField(
        default=0, help_text="Cases of which an answer of the judge could not be read."
    )
    limit_usd = _usd()
    reserved_usd = _usd(help_text="Held for calls that are being made.")
    spent_usd = _usd()
    fence = models.PositiveIntegerField(
        default=0, help_text="Grows with each process that takes it."
    )
    beat_at = models.DateTimeField(null=True, blank=True)
    began_at = models.DateTimeField(default=timezone.now)
    began_by = _person_field(help_text="Nobody: Parley itself, or the command line.")
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-began_at",)
        indexes = (
            models.Index(fields=["template", "content_hash"], name="evaluations_of_content"),
        )

    def __str__(self) -> str:
        return f"Evaluation of {self.version}"

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in self.OPEN

    @property
    def score(self) -> Decimal | None:
        """The share of its cases that passed, in [0, 1]; None unless it is finished."""
        if self.state != self.State.FINISHED or not self.total:
            return None
        return Decimal(self.passed) / self.total

    @property
    def decided(self) -> int:
        """How many cases have an outcome."""
        return self.passed + self.failed

    def reaches(self, score: Decimal) -> bool:
        """Whether it is finished, no result is missing or unreadable, and its score suffices."""
        return self.score is not None and not self.unparsable and self.score >= score


class EvaluationResult(models.Model):
    """What became of one case in a run. Changed by `evaluation.runs` alone.

    A case takes one call for its reply and one for each check that a model judges. `step` is the
    call that comes next, or was claimed: 0 is the reply, n the nth such check. A claim is committed
    with its `attempt` before the call is made; one whose process died is `uncertain`.

    `verdicts` are those of the case's checks, in their order, as `checks.Verdict.as_dict` has them.
    `reply` and the reasons in `verdicts` are removed after 30 days.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        CLAIMED = "claimed"
        PASSED = "passed"
        FAILED = "failed"
        ERROR = "error"
        UNCERTAIN = "uncertain"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(EvaluationRun, on_delete=models.CASCADE, related_name="results")
    position = models.PositiveSmallIntegerField(help_text="Of the case in its set, from 0.")
    case_id = models.CharField(max_length=80)
    state = models.CharField(max_length=9, choices=State.choices, default=State.WAITING)
    step = models.PositiveSmallIntegerField(default=0)
    attempt = models.UUIDField(null=True, blank=True)
    held_usd = _usd(help_text="For the call that is claimed.")
    claimed_at = models.DateTimeField(null=True, blank=True)
    reply = models.TextField(blank=True)
    verdicts = models.JSONField(default=list)
    trouble = models.CharField(
        max_length=300, blank=True, help_text="Why there is no reply, for people."
    )
    model = models.CharField(max_length=200, blank=True, help_text="That gave the reply.")
    tokens_in = models.PositiveIntegerField(default=0, help_text="Of all its calls.")
    tokens_out = models.PositiveIntegerField(default=0)
    reply_tokens = models.PositiveIntegerField(default=0)
    reply_ms = models.PositiveIntegerField(default=0, help_text="From the question to the end.")
    reply_usd = _usd(help_text="What the reply alone cost.")
    cost_usd = _usd(help_text="Of all its calls.")
    is_estimated = models.BooleanField(default=False, help_text="Some of the cost is a guess.")
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("run", "position")
        constraints = (
            models.UniqueConstraint(fields=["run", "position"], name="one_result_per_case"),
        )

    def __str__(self) -> str:
        return f"{self.case_id}: {self.get_state_display()}"


class ScheduledEvaluation(models.Model):
    """A time when the live version of a template was to be evaluated, and what followed.

    Written by `evaluation.schedule` alone. `numbers` are figures, as `prompts.drift.declined` tells
    them.
    """

    class Result(models.TextChoices):
        WAITING = "waiting", "runs"
        BASELINE = "baseline", "passed, and is the baseline from now on"
        HELD = "held", "passed, and did not fall below the baseline"
        BELOW = "below", "did not pass, and no fall is shown"
        DECLINED = "declined", "fell below the baseline"
        UNFINISHED = "unfinished", "could not finish"
        NOT_BEGUN = "not_begun", "could not begin"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    template = models.ForeignKey(
        PromptTemplate, on_delete=models.PROTECT, related_name="scheduled_evaluations"
    )
    version = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="+")
    run = models.OneToOneField(
        EvaluationRun, on_delete=models.PROTECT, null=True, related_name="scheduled"
    )
    baseline = models.ForeignKey(
        EvaluationRun,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="With what the run was compared.",
    )
    result = models.CharField(max_length=10, choices=Result.choices, default=Result.WAITING)
    trouble = models.CharField(max_length=300, blank=True, help_text="Why it could not begin.")
    numbers = models.JSONField(default=dict)
    at = models.DateTimeField(default=timezone.now)
    told_at = models.DateTimeField(null=True, help_text="When a fall was told of.")

    class Meta:
        verbose_name_plural = "schedule"
        ordering = ("-at",)
        indexes = (models.Index(fields=["template", "-at"], name="scheduled_evaluations"),)

    def __str__(self) -> str:
        return f"Scheduled evaluation of {self.version}"
