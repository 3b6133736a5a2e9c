"""Sets of cases, and how versions did in them."""

from decimal import Decimal
from typing import Any

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from prompts.models.templates import PromptTemplate, PromptVersion, person_field


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
    created_by = person_field(help_text="Nobody: it came with Parley.")

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
    began_by = person_field(help_text="Nobody: Parley itself, or the command line.")
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
