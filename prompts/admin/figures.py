"""Figures of a template: versions beside each other, by day as plots, and as a table to take."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from accounts.access import allowed
from accounts.admin import DiscreetAdmin
from accounts.roles import Permission
from prompts.figures import plot, reports
from prompts.figures.plot import Series
from prompts.figures.reports import METRICS, Sums
from prompts.models import PromptTemplate, PromptVersion, Release, VersionFigures
from prompts.release import rollout

SPANS = (7, 14, 30)
USUAL_SPAN = 14
MOST_VERSIONS = 6
YEAR = 366
PLOTTED = ("errors", "first-token", "cost", "thumbs-up")
_NOT_OF_A_VERSION = {"fallbacks"}


@dataclass(frozen=True, slots=True)
class Pair:
    """The version in question, and the one that it is shown beside, if there is one."""

    solid: PromptVersion
    dashed: PromptVersion | None


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as the page shows it: what it finds, and its numbers by day."""

    metric: str
    label: str
    finding: str
    rows: list[list[str]]


@admin.register(VersionFigures)
class VersionFiguresAdmin(DiscreetAdmin):
    """The page of a template's figures, its plots and its table. Turns alone write the rows."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Answer no: turns write figures."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: turns write figures."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Answer no: figures stay."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether this person may see prompts."""
        return allowed(request.user, Permission.VIEW_PROMPTS)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Answer no: the way to the figures is the template's page."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """Leave a page for each template, its plots, and its table."""
        view, name = self.admin_site.admin_view, "prompts_figures"
        plots = "<uuid:template_id>/<str:metric>-<str:width>-<str:theme>.svg"
        return [
            path("<uuid:template_id>/", view(self.template_view), name=name),
            path(plots, view(self.plot_view), name=f"{name}_plot"),
            path("<uuid:template_id>/figures.csv", view(self.table_view), name=f"{name}_table"),
        ]

    def template_view(self, request: HttpRequest, template_id: UUID) -> HttpResponse:
        """Show the versions beside each other."""
        template, days = self._template(request, template_id), _days(request)
        by_version = _by_version(template, days)
        release = rollout.under_way(template)
        pair = _pair(template, list(by_version), release)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Figures of {template.name}",
            "template": template,
            "span": len(days),
            "spans": SPANS,
            "versions": list(by_version)[:MOST_VERSIONS],
            "left_out": max(0, len(by_version) - MOST_VERSIONS),
            "rows": _rows(list(by_version.values())[:MOST_VERSIONS]),
            "pair": pair,
            "release": release,
            "plots": [_plot(name, by_version, pair, days) for name in PLOTTED] if pair else [],
        }
        return TemplateResponse(request, "admin/prompts/versionfigures/template.html", context)

    def plot_view(
        self, request: HttpRequest, template_id: UUID, metric: str, width: str, theme: str
    ) -> HttpResponse:
        """Draw a figure by day."""
        template, days = self._template(request, template_id), _days(request)
        if metric not in PLOTTED or width not in plot.WIDTHS or theme not in plot.THEMES:
            raise Http404("There is no such plot.")
        by_version = _by_version(template, days)
        pair = _pair(template, list(by_version), rollout.under_way(template))
        series = _series(metric, by_version, pair, days)
        svg = plot.drawn(days, series, METRICS[metric].words, theme=theme, width=width)
        return HttpResponse(svg, content_type="image/svg+xml")

    def table_view(self, request: HttpRequest, template_id: UUID) -> HttpResponse:
        """Hand out the figures of a year, by day, version, release and arm."""
        template = self._template(request, template_id)
        name = f"{template.slug}-figures.csv"
        response = HttpResponse(
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
        csv.writer(response).writerows(_table(template))
        return response

    def _template(self, request: HttpRequest, template_id: UUID) -> PromptTemplate:
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = PromptTemplate.objects.filter(pk=template_id).first()
        if found is None:
            raise Http404("There is no such template.")
        return found


def _days(request: HttpRequest) -> list[date]:
    """Return the days that are asked for, oldest first."""
    asked = request.GET.get("days", "")
    span = next((each for each in SPANS if str(each) == asked), USUAL_SPAN)
    first = reports.first_day(span)
    return [first + timedelta(days=number) for number in range(span)]


_ByDay = dict[date, Sums]


def _by_version(template: PromptTemplate, days: Sequence[date]) -> dict[PromptVersion, _ByDay]:
    """Return the figures of each version that has some, newest first. Two queries."""
    found = reports.sums(by=["version_id", "day"], version__template=template, day__gte=days[0])
    ids = {version_id for version_id, _ in found}
    versions = PromptVersion.objects.filter(pk__in=ids).order_by("-number").defer("content")
    return {
        version: {day: each for (pk, day), each in found.items() if pk == version.pk}
        for version in versions
    }


def _pair(
    template: PromptTemplate, versions: Sequence[PromptVersion], release: Release | None
) -> Pair | None:
    """Return what is released beside what it replaces; else the live one beside the one before."""
    by_id = {version.pk: version for version in versions}
    if release:
        return Pair(release.version, by_id.get(release.replaces_id))
    if not versions:
        return None
    solid = by_id.get(template.live_version_id or versions[0].pk, versions[0])
    others = [version for version in versions if version.pk != solid.pk]
    before = next((version for version in others if version.number < solid.number), None)
    return Pair(solid, before or next(iter(others), None))


def _rows(by_version: Sequence[_ByDay]) -> list[tuple[str, list[str]]]:
    """Return each figure with its words for each version."""
    added = [reports.together(by_day) for by_day in by_version]
    return [
        (metric.label, [metric.shown(found) for found in added])
        for name, metric in METRICS.items()
        if name not in _NOT_OF_A_VERSION
    ]


def _series(
    name: str,
    by_version: dict[PromptVersion, _ByDay],
    pair: Pair | None,
    days: Sequence[date],
) -> list[Series]:
    shown = [version for version in (pair.solid, pair.dashed) if version] if pair else []
    return [
        Series(version.label, [_value(name, by_version.get(version, {}).get(day)) for day in days])
        for version in shown
    ]


def _value(name: str, found: Sums | None) -> float | None:
    return METRICS[name].value(found) if found else None


def _plot(
    name: str, by_version: dict[PromptVersion, _ByDay], pair: Pair, days: Sequence[date]
) -> Plot:
    metric, series = METRICS[name], _series(name, by_version, pair, days)
    rows = [
        [f"{day.day} {day:%b}", *(_words(name, each.values[at]) for each in series)]
        for at, day in enumerate(days)
    ]
    told = plot.finding(metric.label, days, series, metric.words)
    return Plot(name, metric.label, told, rows[::-1])


def _words(name: str, value: float | None) -> str:
    return reports.UNKNOWN if value is None else METRICS[name].words(value)


# --- as a table --------------------------------------------------------------------------------

_SUMS = (
    *("turns", "errors", "missed", "fallbacks", "refusals", "tokens_in", "tokens_out"),
    *("thumbs_up", "thumbs_down", "satisfaction_count", "satisfaction_sum"),
    *("policy_hits", "personal_data_hits"),
)
_TIMES = {
    "first_token_p50_ms": ("first_token", 0.5),
    "first_token_p95_ms": ("first_token", 0.95),
    "duration_p50_ms": ("duration", 0.5),
    "duration_p95_ms": ("duration", 0.95),
}


def _table(template: PromptTemplate) -> Iterator[list[Any]]:
    """Yield the head and the rows, newest day first. One query."""
    yield ["day", "version", "release", "arm", *_SUMS, "cost_usd", *_TIMES]
    keys = ("day", "version__number", "release_id", "arm")
    found = reports.sums(by=keys, version__template=template, day__gte=reports.first_day(YEAR))
    for key, each in sorted(found.items(), key=lambda pair: _order(pair[0]), reverse=True):
        day, number, release_id, arm = key
        times = (each.quantile(name, share) for name, share in _TIMES.values())
        yield [
            day.isoformat(),
            number,
            release_id or "",
            arm,
            *(f"{each.of(name):.0f}" for name in _SUMS),
            f"{each.of('cost_usd'):.8f}",
            *("" if one is None else f"{one:.0f}" for one in times),
        ]


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(str(part) if part is None or isinstance(part, UUID) else part for part in key)
