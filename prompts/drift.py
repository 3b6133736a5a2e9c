"""Notices when a live prompt falls below what it was, and asks for retraining.

    tally_rating(version, person, is_down=True)    with each first rating of a reply
    look()                                         daily, by the worker
    declined(version, "evaluation", numbers)       by others who noticed, such as an evaluation

A version's baseline are the first BASELINE_PEOPLE who rated it, over BASELINE_DAYS or more. Each
day the people who rated it in the last WEEK are compared with them (`release.sequential`; one score
for each person). A look errs with a probability of at most ALPHA / 365: with all that stays as it
was, ALPHA is the probability of any mistaken alarm about a prompt within a year. Somebody of the
baseline may rate again in the week. Such people are counted in both; where they rate alike, that
makes an alarm rarer, not more frequent.

An alarm is an entry of the audit log with its numbers, a figure for Prometheus, and what
`prompts.retraining` makes of it.
"""

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import Max, Min, Sum

from accounts.access import System
from audit.trail import record
from chatbot.telemetry import prompt_declines
from prompts.models import PromptTemplate, PromptVersion, RatingBaseline, RatingTally
from prompts.release.sequential import Comparison
from prompts.retraining import ask_for_retraining

logger = structlog.get_logger(__name__)

ALPHA = 0.05
MARGIN = 0.1
"""So much larger may the share of thumbs down be before it counts as a fall."""

BASELINE_PEOPLE = 30
BASELINE_DAYS = 7
LEAST_PEOPLE = 5
WEEK = timedelta(days=7)
KEPT = timedelta(days=90)
"""So long may a version collect the people of its baseline."""

DRIFT = System("drift")


# --- ratings -----------------------------------------------------------------------------------

_TALLY = """
    INSERT INTO prompts_ratingtally AS tally (version_id, day, person_id, ratings, thumbs_down)
    VALUES (%s, %s, %s, 1, %s)
    ON CONFLICT (version_id, day, person_id) DO UPDATE SET
        ratings = tally.ratings + 1, thumbs_down = tally.thumbs_down + EXCLUDED.thumbs_down
"""


def tally_rating(version_id: UUID, person_id: UUID, *, is_down: bool) -> None:
    """Count the first rating of a reply that a live version gave. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(_TALLY, [version_id, today(), person_id, int(is_down)])


def today() -> date:
    """Return the day in UTC."""
    return datetime.now(UTC).date()


# --- looking -----------------------------------------------------------------------------------


def look() -> None:
    """Compare the last week of each live version with its baseline, once a day.

    One that can't be looked at holds no other.
    """
    live = PromptTemplate.objects.exclude(live_version=None).select_related("live_version")
    for template in live:
        version = template.live_version
        assert version is not None, "those without were left out"
        version.template = template
        try:
            _look_at(version)
        except Exception:
            logger.exception("drift_not_looked_at", template=template.slug)
    RatingTally.objects.filter(day__lt=today() - KEPT).delete()


@transaction.atomic
def _look_at(version: PromptVersion) -> None:
    known = RatingBaseline.objects.select_for_update().filter(version=version).first()
    baseline = known or _baseline_of(version)
    if baseline is None or baseline.looked_on == today() or baseline.until >= today() - WEEK:
        return
    baseline.looked_on = today()
    comparison = _compared(baseline, _scores(version, since=today() - WEEK))
    alpha = ALPHA / 365
    rests = baseline.declined_on is not None and baseline.declined_on > today() - WEEK
    if comparison.is_worse(alpha) and not rests:
        baseline.declined_on = today()
        declined(version, "feedback", _numbers(comparison, alpha))
    baseline.save()


def _baseline_of(version: PromptVersion) -> RatingBaseline | None:
    """Fix the baseline when enough people rated for long enough."""
    days = RatingTally.objects.filter(version=version).aggregate(first=Min("day"), last=Max("day"))
    if days["first"] is None or days["last"] - days["first"] < timedelta(days=BASELINE_DAYS):
        return None
    scores = _scores(version)
    if len(scores) < BASELINE_PEOPLE:
        return None
    # In no order: a part of the scores must say nothing of the rest (`_compared`), nor who it is.
    random.shuffle(scores)
    return RatingBaseline.objects.create(version=version, scores=scores, until=today())


def _scores(version: PromptVersion, since: date | None = None) -> list[float]:
    """Return the share of thumbs down of each person."""
    rows = RatingTally.objects.filter(version=version)
    rows = rows.filter(day__gte=since) if since else rows
    shares = rows.values("person").annotate(share=Sum("thumbs_down") * 1.0 / Sum("ratings"))
    return list(shares.values_list("share", flat=True))


def _compared(baseline: RatingBaseline, week: list[float]) -> Comparison:
    """Bet once on everybody of the week, beside the baseline."""
    if len(week) < LEAST_PEOPLE:
        return Comparison(MARGIN, 1.0)
    # Every third of the baseline says what to expect, and is not bet on.
    expected = baseline.scores[::3]
    others = [score for at, score in enumerate(baseline.scores) if at % 3]
    comparison = Comparison(MARGIN, odds=1.0, guess=sum(expected) / len(expected))
    comparison.see_block(canary=week, production=others)
    return comparison


def _numbers(comparison: Comparison, alpha: float) -> dict[str, Any]:
    return {
        "people_week": comparison.canary_people,
        "people_baseline": comparison.production_people,
        "thumbs_down_week": round(comparison.canary_mean or 0.0, 4),
        "thumbs_down_baseline": round(comparison.production_mean or 0.0, 4),
        "bound": MARGIN,
        "p": float(f"{comparison.p_value:.2e}"),
        "alpha": float(f"{alpha:.2e}"),
    }


# --- telling -----------------------------------------------------------------------------------


def declined(version: PromptVersion, source: str, numbers: Mapping[str, Any]) -> None:
    """Tell that a live version fell below its baseline: to the log, the alarms and the hooks.

    `source` is "feedback" or "evaluation". `numbers` go to the log and to the receivers: figures,
    never content. In the caller's transaction; the hooks follow when it is committed.
    """
    template = version.template
    fact: dict[str, Any] = {
        "event": "prompt.declined",
        "template": template.slug,
        "version": str(version.pk),
        "number": version.number,
        "content_hash": version.content_hash,
        "source": source,
        "numbers": dict(numbers),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record(
        DRIFT,
        "prompt.declined",
        template,
        version=str(version.pk),
        number=version.number,
        content_hash=version.content_hash,
        source=source,
        numbers=dict(numbers),
    )
    prompt_declines.labels(template.slug, source).inc()
    logger.warning("prompt_declined", template=template.slug, source=source)
    transaction.on_commit(partial(ask_for_retraining.delay, fact))
