"""Ratings of live versions over time, and what they were at first."""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from prompts.models.templates import PromptVersion


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
