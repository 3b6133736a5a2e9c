"""What publishers do with a release: begin, advance, pause, let it go on, roll back, finish.

    release = begin(version, Plan(steps, early_role="operator"), note=..., by=publisher)
    advance(release, note=..., by=publisher)     when `progress_of(release)` lacks nothing
    roll_back(release, note=..., by=publisher)   or by System("guards"), with its numbers

Each verb asks for permission, changes, keeps the decision and records it, in one transaction.
Turns read the release with the template's row (`prompts.serving`), so what is committed here holds
for the next turn of every process. Who stands where is decided in `prompts.release.arms`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from accounts.access import System, require
from accounts.models import User
from accounts.roles import ROLES, Permission
from audit.trail import record
from prompts.models import (
    WHOLE,
    Arm,
    PromptTemplate,
    PromptVersion,
    Release,
    ReleaseDecision,
    percent,
)
from prompts.publishing import (
    NotPossible,
    locked,
    locked_version,
    make_live,
    noted,
    refuse_while_released,
)

MAX_STEPS = 20
MAX_NAMED_PEOPLE = 200  # they come with the template's row to every turn
MAX_SAMPLE = 1_000_000
MAX_MINUTES = 60 * 24 * 90

Verb = ReleaseDecision.Verb


@dataclass(frozen=True, slots=True)
class Step:
    """A share of the people, in basis points, and what is waited for before the next step.

    `people` and `turns` are those whom the new version answered since the step began, `minutes`
    the time that it was not paused.
    """

    share: int
    people: int = 0
    turns: int = 0
    minutes: int = 0

    @property
    def percent(self) -> str:
        """The share as people read it."""
        return percent(self.share)

    @property
    def lasts(self) -> str:
        """The time as people read it."""
        return _hours(self.minutes)


EARLY = Step(0, people=3, turns=10, minutes=60)
"""The early access, as the form proposes it."""

USUAL_STEPS = (
    Step(100, people=5, turns=20, minutes=60),
    Step(500, people=20, turns=100, minutes=4 * 60),
    Step(2500, people=50, turns=300, minutes=24 * 60),
    Step(5000, people=100, turns=600, minutes=24 * 60),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a version goes from a few people to everybody. Without a group: from the first share.

    `steps` are those with a share; `early` says what the group's step waits for.
    """

    steps: Sequence[Step] = USUAL_STEPS
    early_role: str = ""
    early_people: Sequence[UUID] = ()
    early: Step = EARLY

    def stored_steps(self) -> list[dict[str, int]]:
        """Return the steps as `Release.steps` has them. Raises NotPossible for what can't be."""
        self._check_group()
        _check_shares([step.share for step in self.steps])
        first = [self.early] if self.early_role or self.early_people else []
        for step in (*first, *self.steps):
            _check_sample(step)
        return [asdict(step) for step in (*first, *self.steps)]

    def _check_group(self) -> None:
        if self.early.share:
            raise NotPossible("The early access has no share: it is for the group alone.")
        if self.early_role and self.early_role not in ROLES:
            raise NotPossible(f"There is no role {self.early_role[:40]}.")
        if len(self.early_people) > MAX_NAMED_PEOPLE:
            raise NotPossible(f"At most {MAX_NAMED_PEOPLE} people can be named. Choose a role.")
        known = User.objects.filter(pk__in=self.early_people).count()
        if known != len(set(self.early_people)):
            raise NotPossible("Somebody of the early access has no account.")


def _check_shares(shares: Sequence[int]) -> None:
    if not 1 <= len(shares) <= MAX_STEPS:
        raise NotPossible(f"A release has 1 to {MAX_STEPS} steps with a share.")
    for before, share in zip((0, *shares), shares, strict=False):
        if share > WHOLE:
            raise NotPossible(f"A share is at most 100 %: {percent(share)} is more.")
        if share <= 0:
            raise NotPossible("Each share is more than 0 %.")
        if share <= before:
            raise NotPossible(
                f"Shares rise from step to step: {percent(share)} can't follow {percent(before)}."
            )


def _check_sample(step: Step) -> None:
    if min(step.people, step.turns, step.minutes) < 0:
        raise NotPossible("People, turns and time of a step are 0 or more.")
    if max(step.people, step.turns) > MAX_SAMPLE or step.minutes > MAX_MINUTES:
        raise NotPossible(f"A step waits for at most {MAX_SAMPLE:,} people or turns, and 90 days.")


# --- how far it is -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step has seen, and what it waits for."""

    step: Step
    people: int
    turns: int
    minutes: int
    is_last: bool

    @property
    def lacking(self) -> str:
        """What is still waited for, as the end of a sentence; empty when the step is done."""
        step = self.step
        missing = [
            _counted(step.people - self.people, "person", "people"),
            _counted(step.turns - self.turns, "turn", "turns"),
            _lasting(step.minutes - self.minutes),
        ]
        *first, last = [part for part in missing if part] or [""]
        return f"{', '.join(first)} and {last}" if first else last

    @property
    def ran(self) -> str:
        """How long the step ran, as people read it."""
        return _hours(self.minutes)

    @property
    def numbers(self) -> dict[str, int]:
        """The figures by which it is decided."""
        return {"people": self.people, "turns": self.turns, "minutes": self.minutes}


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} more {one if number == 1 else many}" if number > 0 else ""


def _hours(minutes: int) -> str:
    return (
        f"{minutes}\N{NO-BREAK SPACE}min"
        if minutes < 120
        else f"{minutes / 60:.0f}\N{NO-BREAK SPACE}h"
    )


def _lasting(minutes: int) -> str:
    if minutes < 120:
        return _counted(minutes, "minute", "minutes")
    return _counted(-(-minutes // 60), "hour", "hours")


def steps_of(release: Release) -> list[Step]:
    """Return the steps of a stored release."""
    return [Step(**step) for step in release.steps]


def progress_of(release: Release, *, now: datetime | None = None) -> Progress:
    """Return how far the present step is. One query.

    Counted are the replies themselves that the group, or those who were drawn, got since the step
    began, as far as they ended and were not deleted.
    """
    steps = steps_of(release)
    arm = Arm.CANARY if release.share else Arm.EARLY
    replies = release.replies.filter(arm=arm, created_at__gte=release.step_began_at)
    counted = replies.exclude(state="streaming").aggregate(
        people=Count("conversation__owner", distinct=True), turns=Count("pk")
    )
    ran = (release.paused_at or now or timezone.now()) - release.step_began_at - release.paused_for
    return Progress(
        step=steps[release.step],
        people=counted["people"],
        turns=counted["turns"],
        minutes=ran // timedelta(minutes=1),
        is_last=release.step == len(steps) - 1,
    )


def under_way(template: PromptTemplate) -> Release | None:
    """Return the release of a template that has not ended."""
    releases = template.releases.filter(state__in=Release.UNDER_WAY)
    return releases.select_related("version", "replaces", "began_by").first()


# --- verbs -------------------------------------------------------------------------------------


@transaction.atomic
def begin(version: PromptVersion, plan: Plan, *, note: str, by: User) -> Release:
    """Begin to release a published version, with its early access or its first share.

    Raises Denied, also for who wrote a part of it, and NotPossible.
    """
    require(by, Permission.PUBLISH_PROMPTS)
    note, steps = noted(note), plan.stored_steps()
    template = locked(version.template)
    stored = locked_version(version)
    require(by, Permission.PUBLISH_PROMPTS, stored)
    replaces = _check_can_begin(template, stored)
    share = steps[0]["share"]
    release = Release(
        template=template,
        version=stored,
        replaces=replaces,
        early_role=plan.early_role,
        early_people=sorted(set(plan.early_people)),
        steps=steps,
        share=share,
        state=_running_state(share),
        began_by=by,
    )
    release.save(force_insert=True)
    _decided(release, Verb.BEGAN, note, by)
    return release


def _check_can_begin(template: PromptTemplate, version: PromptVersion) -> PromptVersion:
    """Return the live version, which it is to replace. Raises NotPossible."""
    number, live = version.number, template.live_version
    if version.published_at is None:
        raise NotPossible(f"v{number} is a draft: it has to be published before it is released.")
    if live is None:
        raise NotPossible(
            "Nothing of this template is live yet, so there is nothing to compare with. Publish"
            " its first version for everybody at once."
        )
    if live == version:
        raise NotPossible(f"v{number} is live already.")
    if template.is_paused:
        raise NotPossible(f"{template.name} is paused. Put it back on offer first.")
    refuse_while_released(template)
    return live


@transaction.atomic
def advance(
    release: Release, *, note: str, by: User | System, numbers: Mapping[str, Any] | None = None
) -> Release:
    """Go on from the step in which `release` was seen, when that has its sample and its time.

    `numbers` are what a part of Parley decided by, besides these. Raises Denied, also for who wrote
    a part of the version, and NotPossible, also when somebody else went on meanwhile.
    """
    require(by, Permission.PUBLISH_PROMPTS, release.version)
    note, stored = noted(note), _locked(release)
    progress = _done_step(stored, seen=release)
    if progress.is_last:
        raise NotPossible("This is the last step. Put the version into production instead.")
    stored.step += 1
    stored.share = stored.steps[stored.step]["share"]
    stored.state = Release.State.CANARY
    stored.step_began_at, stored.paused_for = timezone.now(), timedelta()
    stored.save()
    _decided(stored, Verb.ADVANCED, note, by, {**progress.numbers, **(numbers or {})})
    return stored


@transaction.atomic
def finish(release: Release, *, note: str, by: User | System) -> Release:
    """Make the version live for everybody, when the last step has its sample and its time.

    Raises Denied, also for who wrote a part of the version, and NotPossible, also when `release`
    was seen in another step.
    """
    require(by, Permission.PUBLISH_PROMPTS, release.version)
    note, stored = noted(note), _locked(release)
    progress = _done_step(stored, seen=release)
    if not progress.is_last:
        raise NotPossible("There are steps left. Advance to the next one.")
    stored.state, stored.ended_at = Release.State.FINISHED, timezone.now()
    stored.save()
    make_live(stored.template, stored.version)
    _decided(stored, Verb.FINISHED, note, by, progress.numbers)
    return stored


@transaction.atomic
def pause(
    release: Release, *, note: str, by: User | System, numbers: Mapping[str, Any] | None = None
) -> Release:
    """Let nobody else get the version; conversations that have it go on with it.

    `numbers` are what a part of Parley decided by. Raises Denied and NotPossible.
    """
    require(by, Permission.PUBLISH_PROMPTS)
    note, stored = noted(note), _locked(release)
    if stored.state == Release.State.PAUSED:
        raise NotPossible("The release is paused already.")
    stored.state, stored.paused_at = Release.State.PAUSED, timezone.now()
    stored.save()
    _decided(stored, Verb.PAUSED, note, by, numbers)
    return stored


@transaction.atomic
def resume(release: Release, *, note: str, by: User) -> Release:
    """Let a paused release go on with the step at which it was paused.

    Raises Denied, also for who wrote a part of the version, and NotPossible.
    """
    require(by, Permission.PUBLISH_PROMPTS, release.version)
    note, stored = noted(note), _locked(release)
    if stored.paused_at is None:
        raise NotPossible("The release is not paused.")
    stored.paused_for += timezone.now() - stored.paused_at
    stored.paused_at, stored.state = None, _running_state(stored.share)
    stored.save()
    _decided(stored, Verb.RESUMED, note, by)
    return stored


@transaction.atomic
def roll_back(
    release: Release, *, note: str, by: User | System, numbers: Mapping[str, Any] | None = None
) -> Release:
    """End the release: from the next turn on, everybody is answered by the live version.

    One person may do so alone; the log marks an emergency where that person wrote a part of one of
    the two versions. Replies that are being written end on what they began with. `numbers` are what
    a part of Parley decided by. Raises Denied and NotPossible.
    """
    require(by, Permission.PUBLISH_PROMPTS)
    note, stored = noted(note), _locked(release)
    stored.state, stored.ended_at, stored.paused_at = (
        Release.State.ROLLED_BACK,
        timezone.now(),
        None,
    )
    stored.save()
    _decided(stored, Verb.ROLLED_BACK, note, by, numbers, is_emergency=_is_own(stored, by))
    return stored


def _is_own(release: Release, by: User | System) -> bool:
    authors = {*release.version.contributors, *release.replaces.contributors}
    return isinstance(by, User) and by.pk in authors


def _locked(release: Release) -> Release:
    """Return the release as it is now, behind the template's lock. Raises NotPossible: it ended."""
    template = locked(release.template)
    releases = Release.objects.select_related("version__template", "replaces")
    stored = releases.select_for_update(of=("self",), no_key=True).get(pk=release.pk)
    stored.template = template
    if not stored.is_under_way:
        state = stored.get_state_display()
        raise NotPossible(f"The release of v{stored.version.number} is over: it is {state}.")
    return stored


def _done_step(release: Release, *, seen: Release) -> Progress:
    """Return how far the step is that was seen. Raises NotPossible: two who press at once would
    otherwise go two steps, of which nobody looked at the second."""
    if release.step != seen.step:
        raise NotPossible(
            f"Somebody went on meanwhile: {release.where}. Look at how it is now, then decide."
        )
    if release.state == Release.State.PAUSED:
        raise NotPossible("The release is paused. Let it go on first.")
    progress = progress_of(release)
    if progress.lacking:
        raise NotPossible(f"This step is not done: it waits for {progress.lacking}.")
    return progress


def _running_state(share: int) -> Release.State:
    return Release.State.CANARY if share else Release.State.EARLY_ACCESS


def _decided(  # noqa: PLR0913, PLR0917 - what a decision is made of
    release: Release,
    verb: ReleaseDecision.Verb,
    note: str,
    by: User | System,
    numbers: Mapping[str, Any] | None = None,
    is_emergency: bool = False,
) -> None:
    """Keep the decision with the release, and record it."""
    found = dict(numbers or {})
    flags: dict[str, Any] = {"emergency": is_emergency} if verb == Verb.ROLLED_BACK else {}
    ReleaseDecision.objects.create(
        release=release,
        verb=verb,
        share=release.reach,
        by=by if isinstance(by, User) else None,
        part=by.name if isinstance(by, System) else "",
        is_emergency=is_emergency,
        note=note,
        numbers=found,
    )
    record(
        by,
        f"release.{verb.value}",
        release.template,
        reason=note,
        release=str(release.pk),
        version=str(release.version_id),
        number=release.version.number,
        before=str(release.replaces_id),
        share=release.reach,
        step=release.step,
        numbers=found,
        **flags,
    )
