"""Rollups of turns and ratings: what counts where, and how exact a quantile is."""

from datetime import UTC, datetime

import pytest
from django.db.models import Sum
from hypothesis import given
from hypothesis import strategies as st

from prompts.figures import rollups
from prompts.models import PromptTemplate, VersionFigures

pytestmark = pytest.mark.django_db
TODAY = datetime.now(UTC).date()


def total(version, name: str) -> int:
    return VersionFigures.objects.filter(version=version).aggregate(n=Sum(name))["n"]


@pytest.fixture
def version():
    return PromptTemplate.objects.get(slug="summariser").live_version


def test_thumbs_are_added_and_taken_back(version, django_assert_num_queries):
    with django_assert_num_queries(3):
        rollups.count_rating(version.pk, "production", None, TODAY, up=1)
        rollups.count_rating(version.pk, "production", None, TODAY, down=1)
        rollups.count_rating(version.pk, "production", None, TODAY, up=-1, down=1)
    assert (total(version, "thumbs_up"), total(version, "thumbs_down")) == (0, 2)


def test_satisfaction_keeps_what_a_mean_and_its_spread_need(version):
    for score in (5, 2):
        rollups.count_satisfaction(version.pk, "production", None, score)
    names = ("satisfaction_count", "satisfaction_sum", "satisfaction_squared")
    assert [total(version, name) for name in names] == [2, 7, 29]


@given(st.lists(st.integers(0, 3_600_000), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_off_by_no_more_than_it_says(times, share):
    histogram = {}
    for milliseconds in times:
        bucket = rollups.bucket_of(milliseconds)
        histogram[bucket] = histogram.get(bucket, 0) + 1
    below = sorted(max(1, each) for each in times)
    exact = next(one for at, one in enumerate(below, 1) if at >= share * len(below))
    found = rollups.quantile(histogram, share)
    assert abs(found - exact) <= exact * rollups.RELATIVE_ERROR * 1.000001
