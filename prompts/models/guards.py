"""What guards of releases know: their bounds, counts of people, comparisons."""

from typing import Any

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from uuid_utils.compat import uuid7

from prompts.models.releases import Arm, Release


def _positive(least: float, default: float, **options: Any) -> Any:
    return models.FloatField(
        default=default, db_default=default, validators=[MinValueValidator(least)], **options
    )


class ReleaseGuard(models.Model):
    """How much worse a release may be than production, and what was made of it so far.

    Rates are shares of turns, in [0, 1]; factors say how many times as long or dear. Changed by
    `prompts.release.guards` alone, and bounds only until the first person was compared.
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

    Written by `prompts.release.tallies` in the transaction that ends a turn or takes a rating;
    emptied when the release is over. No content. Times are milliseconds, costs USD.
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
