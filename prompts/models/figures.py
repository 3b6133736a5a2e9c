"""What the turns of each version came to."""

from typing import Any

from django.db import models

from prompts.models.releases import Arm, Release
from prompts.models.templates import PromptVersion


def _count_field(**options: Any) -> "models.BigIntegerField[Any, Any]":
    return models.BigIntegerField(default=0, db_default=0, **options)


def _histogram_field(**options: Any) -> Any:
    return models.JSONField(default=dict, db_default={}, blank=True, **options)


class VersionFigures(models.Model):
    """What the turns of a version came to on a day (UTC), in an arm: sums alone, of nobody.

    Written by `prompts.figures.rollups`, which says what each number counts. A row's `shard` is
    only there so that turns that end at once seldom wait for each other: whoever reads adds all
    shards up. A single shard may hold less than nothing, their sum doesn't.
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
