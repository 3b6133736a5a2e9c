"""Figures by day as SVG: solid and dashed lines, gaps, and a finding in words."""

from datetime import date, timedelta
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.figures.plot import THEMES, WIDTHS, Series, drawn, finding
from prompts.figures.reports import milliseconds, percent

DAYS = [date(2026, 11, 9) + timedelta(days=number) for number in range(7)]
SVG = "{http://www.w3.org/2000/svg}"

days_of = st.lists(st.none() | st.floats(0, 1e7), min_size=7, max_size=7)


def points(svg: str, kind: str = "polyline") -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{SVG}{kind}"))


def test_the_finding_says_what_the_lines_show():
    series = [Series("v3", [None] * 5 + [0.01, 0.04]), Series("v2", [None] * 7)]
    assert finding("Errors", DAYS, series, percent) == (
        "Errors by day, 9 Nov to 15 Nov: v3 from 1.0\u00a0% to 4.0\u00a0%, the most on 15 Nov,"
        " 4.0\u00a0% on 15 Nov; v2 has none"
    )


def test_the_first_is_solid_and_the_second_dashed():
    series = [Series("v3", [1, 2, 3, 4, 5, 6, 7]), Series("v2", [7, 6, 5, 4, 3, 2, 1])]
    lines = points(drawn(DAYS, series, milliseconds, theme="light", width="wide"))
    assert [bool(line.get("stroke-dasharray")) for line in lines] == [True, False]


def test_a_day_without_turns_leaves_a_gap():
    series = [Series("v3", [1, 2, None, 4, 5, None, 7])]
    svg = drawn(DAYS, series, milliseconds, theme="dark", width="wide")
    assert [len(line.get("points").split()) for line in points(svg)] == [2, 2]
    assert len(points(svg, "circle")) == 3


@given(days_of, days_of, st.sampled_from(THEMES), st.sampled_from(sorted(WIDTHS)))
def test_nothing_is_drawn_outside(solid, dashed, theme, width):
    series = [Series("v3", solid), Series("v2", dashed)]
    svg = drawn(DAYS, series, milliseconds, theme=theme, width=width)
    places = [place.split(",") for line in points(svg) for place in line.get("points").split()]
    places += [(dot.get("cx"), dot.get("cy")) for dot in points(svg, "circle")]
    assert all(0 <= float(x) <= WIDTHS[width] and 0 <= float(y) <= 180 for x, y in places)


@pytest.mark.parametrize("series", [[], [Series("v1", [0.0] * 7)]])
def test_nothing_to_tell_of_can_be_drawn(series):
    assert points(drawn(DAYS, series, percent, theme="light", width="narrow"), "path")
