"""What a release costs a turn: `python -m benchmarks.rollout [--write]`.

Two hundred templates, each with a live version and a release under way. A turn decides who stands
where and renders what is told, beside a dictionary of texts and `str`. With `--write` the table
goes into docs/prompts.md.
"""

import argparse
import platform
import random
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from uuid import UUID, uuid4

from benchmarks.accounting import median, percentile
from benchmarks.apps import apps_on_servers
from benchmarks.report import Table, number, write

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/prompts.md"
TEMPLATES, ROUNDS = 200, 2_000
GOAL_MS = 1
CONTENT = (
    """You answer customers of {{ organisation }}. Today is {{ weekday }}, {{ today }}.
{% if topics %}
Hand over to a person when it is about:
{% for topic in topics %}
- {{ topic }}
{% endfor %}
{% endif %}
"""
    + "Be brief, be exact, and say what happens next. " * 40
)


def _fill() -> list[UUID]:
    """Store the templates with their releases; return their ids."""
    from django.utils import timezone  # noqa: PLC0415 - after Django's setup

    from prompts.models import PromptTemplate, PromptVersion, Release  # noqa: PLC0415
    from prompts.rendering import Kind, Variable, stored_form  # noqa: PLC0415

    variables = stored_form(
        (
            Variable("organisation", Kind.TEXT, True, "Parley"),
            Variable("topics", Kind.LIST, False, tuple(f"topic {number}" for number in range(10))),
        )
    )
    templates = [PromptTemplate(slug=f"t-{at}", name=f"T {at}") for at in range(TEMPLATES)]
    PromptTemplate.objects.bulk_create(templates)
    versions = [
        PromptVersion(
            template=template,
            number=number,
            content=f"{CONTENT}{template.slug}, {number}",
            variables=variables,
            content_hash="",
            published_at=timezone.now(),
        )
        for template in templates
        for number in (1, 2)
    ]
    PromptVersion.objects.bulk_create(versions)
    step = {"share": 1_000, "people": 0, "turns": 0, "minutes": 0}
    releases = []
    for template, live, new in zip(templates, versions[::2], versions[1::2], strict=True):
        PromptTemplate.objects.filter(pk=template.pk).update(live_version=live)
        given = {"template": template, "version": new, "replaces": live}
        releases.append(Release(**given, steps=[step], share=1_000, state="canary"))
    Release.objects.bulk_create(releases)
    return [template.pk for template in templates]


def _times(work: Callable[[], object]) -> list[float]:
    """Milliseconds of each of ROUNDS rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) * 1000)
    return found


def _kinds(template_ids: list[UUID]) -> dict[str, Callable[[], object]]:
    """Return what is compared, by name."""
    from accounts.models import User  # noqa: PLC0415 - after Django's setup
    from prompts.models import Arm  # noqa: PLC0415
    from prompts.release.arms import Pin, pinned_first  # noqa: PLC0415
    from prompts.serving import chosen_before, wording_for  # noqa: PLC0415

    people = [User(pk=uuid4()) for _ in range(997)]
    for person in people:
        person.__dict__["loaded_roles"] = ["member"]
    chance = random.Random(7)
    order = cycle(chance.sample(template_ids, len(template_ids)))
    asking = cycle(people)
    rows = {pk: chosen_before(pk) for pk in template_ids}
    for row in rows.values():  # what a process has after its first turns
        for arm in (Arm.PRODUCTION, Arm.CANARY):
            wording_for(row, Pin(row.release.id if row.release else None, arm))
    texts = dict.fromkeys(template_ids, CONTENT)

    def plain() -> object:
        return str(texts[next(order)])

    def decided() -> object:
        row = rows[next(order)]
        return wording_for(row, pinned_first(row.release, next(asking)))

    def asked() -> object:
        row = chosen_before(next(order))
        return wording_for(row, pinned_first(row.release, next(asking)))

    return {
        "a dictionary and `str`": plain,
        "decision and rendering": decided,
        "the same with the turn's one query": asked,
    }


def measure() -> list[Table]:
    """Measure all kinds in the same process."""
    table = Table(
        "What a release costs a turn",
        ["", "p50, ms", "p95, ms", "goal for p50, ms"],
        note=f"{TEMPLATES} templates of 2 KB, each with a release at 10 %, in random order;"
        f" {ROUNDS:,} turns. The query is the one that reads the template's row, release"
        f" or not. {platform.machine()}, CPython {platform.python_version()}.",
    )
    with apps_on_servers():
        for name, work in _kinds(_fill()).items():
            times = _times(work)
            goal = str(GOAL_MS) if name == "decision and rendering" else "–"
            row = [number(median(times), 4), number(percentile(times, 0.95), 4)]
            table.rows.append([name, *row, goal])
    return [table]


def main() -> int:
    """Measure, print, and write when asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into docs/prompts.md")
    chosen = parser.parse_args()
    tables = measure()
    for table in tables:
        print(table.as_text())
    if chosen.write:
        write(DOCUMENT, tables, f"Measured on {platform.machine()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
