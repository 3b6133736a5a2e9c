"""What the AI is told in a turn: the version of the template for this conversation, rendered.

    chosen = choose(user, "summariser")         for a conversation that begins; raises NotOnOffer
    pin = pinned_first(chosen.release, user)    where it stands while a version is released
    chosen = chosen_before(template_id)         for one that goes on
    wording = wording_for(chosen, pin)

One query for the choice, the release with it, so that what was published, released, rolled back,
paused or restored holds in every process from the next turn on; versions are kept in memory,
because published ones never change. Where the version that is to serve is missing or can't be
rendered, that is reported, and the last good one serves.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet

from accounts.access import System
from accounts.models import User
from audit.trail import record_sparingly
from prompts.models import Arm, PromptTemplate, PromptVersion, Release
from prompts.release.arms import IN_PRODUCTION, Pin, UnderWay, standing
from prompts.rendering import Refused, compiled, declared

logger = structlog.get_logger(__name__)

GENERAL_ASSISTANT = "general-assistant"
"""The template of conversations for which none was chosen: for everybody, and never paused."""


MOST_TRIED = 5


class NoLiveVersion(Exception):
    """There is no published version at all to answer with."""


class NotOnOffer(LookupError):
    """There is no such template for this person."""


class Chosen(NamedTuple):
    """A template as a turn needs it: a row without its texts."""

    id: uuid.UUID
    slug: str
    name: str
    purpose: str
    roles: list[str]
    is_paused: bool
    live_version_id: uuid.UUID | None
    release: UnderWay | None = None

    def is_for(self, user: User) -> bool:
        """Whether this person may begin a conversation with it."""
        if self.slug == GENERAL_ASSISTANT:
            return True
        if self.is_paused or self.live_version_id is None:
            return False
        return not self.roles or not user.roles.isdisjoint(self.roles)


@dataclass(frozen=True, slots=True)
class Wording:
    """What is told, by which version, to which model (a slug; empty: the default), and how.

    `parameters` go to the provider; `max_tokens` among them only ever lowers what a reply may have.
    `is_fallback`: the version that was to serve could not. `pin` is where the conversation stood. A
    text that is tried has no version.
    """

    text: str
    version: PromptVersion | None = None
    model: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_fallback: bool = False
    pin: Pin = IN_PRODUCTION


def templates_for(user: User) -> list[Chosen]:
    """Return what this person may begin a conversation with, the general assistant first.

    One query.
    """
    found = [row for row in _rows() if row.is_for(user)]
    return sorted(found, key=lambda row: (row.slug != GENERAL_ASSISTANT, row.name.lower()))


def choose(user: User, slug: str = "") -> Chosen:
    """Return the template that this person chose; the general assistant without a choice.

    Raises NotOnOffer. One query.
    """
    for row in _rows(slug=slug or GENERAL_ASSISTANT):
        if row.is_for(user):
            return row
    raise NotOnOffer(slug)


def chosen_before(template_id: uuid.UUID | None) -> Chosen:
    """Return the template that a conversation began with, whoever may choose it by now.

    Raises NoLiveVersion. One query.
    """
    found = _rows(id=template_id) if template_id else _rows(slug=GENERAL_ASSISTANT)
    for row in found:
        return row
    raise NoLiveVersion("The template is gone.")


def wording_for(chosen: Chosen, pin: Pin = IN_PRODUCTION) -> Wording:
    """Return what a turn is told in a conversation with this pin. Raises NoLiveVersion.

    No query, but for the first turn with a version in this process.
    """
    stands = standing(chosen.release, pin)
    for version_id, name, is_fallback in _candidates(chosen, stands):
        try:
            return _worded(published(version_id, name), stands, is_fallback=is_fallback)
        except (PromptVersion.DoesNotExist, Refused) as error:
            _report(chosen, type(error).__name__)
    raise NoLiveVersion(f"The template {chosen.slug} has no version that can serve.")


def wording_again(
    version: PromptVersion | None, template_id: uuid.UUID | None, pin: Pin = IN_PRODUCTION
) -> Wording:
    """Return what a reply that goes on was told, whatever was rolled back meanwhile. Where that is
    gone: what its conversation, with this pin, is told now. Raises NoLiveVersion."""
    if version is None:
        return wording_for(chosen_before(template_id), pin)
    try:
        return _worded(version, pin, is_fallback=False)
    except Refused as error:
        chosen = chosen_before(template_id)
        _report(chosen, type(error).__name__)
        return replace(wording_for(chosen, pin), is_fallback=True)


def meant_for(template_id: uuid.UUID | None, pin: Pin = IN_PRODUCTION) -> uuid.UUID | None:
    """Return the id of the version that was to serve a turn, whether it could or not. One query.

    Outside of a release it is the one that is live now.
    """
    if pin.release_id:
        versions = Release.objects.filter(pk=pin.release_id).values_list("version", "replaces")
        version_id, replaced_id = versions.get()
        return replaced_id if pin.arm == Arm.PRODUCTION else version_id
    asked = {"pk": template_id} if template_id else {"slug": GENERAL_ASSISTANT}
    live = PromptTemplate.objects.filter(**asked)
    return live.values_list("live_version", flat=True).first()


def live_version(slug: str = GENERAL_ASSISTANT) -> PromptVersion:
    """Return the version that new replies are told. Raises NoLiveVersion."""
    for row in _rows(slug=slug):
        if row.live_version_id:
            return published(row.live_version_id, row.name)
    raise NoLiveVersion(f"The template {slug} has no live version.")


def known_now() -> dict[str, str]:
    """Return the values of `rendering.KNOWN` at this moment, by UTC."""
    now = datetime.now(UTC)
    return {"today": f"{now.day} {now:%B} {now.year}", "weekday": f"{now:%A}"}


def rendered(version: PromptVersion) -> str:
    """Return the text of a version as a turn is told it now. Raises Refused."""
    return compiled(version.content, declared(version.variables)).render(known_now())


def _worded(version: PromptVersion, pin: Pin, *, is_fallback: bool) -> Wording:
    text = rendered(version)
    return Wording(text, version, version.model, version.parameters, is_fallback, pin)


@lru_cache(maxsize=512)
def published(version_id: uuid.UUID, _template_name: str) -> PromptVersion:
    """Keep published versions at hand: they don't change, but for the name of their template."""
    return PromptVersion.objects.select_related("template").get(
        pk=version_id, published_at__isnull=False
    )


def _candidates(
    chosen: Chosen, stands: Pin = IN_PRODUCTION
) -> Iterator[tuple[uuid.UUID, str, bool]]:
    """Yield the version that is to serve, then the live one and the newest that were live before,
    last the general assistant's."""
    is_canary = chosen.release is not None and stands.arm != Arm.PRODUCTION
    if chosen.release is not None and is_canary:
        yield chosen.release.version_id, chosen.name, False
    if chosen.live_version_id:
        yield chosen.live_version_id, chosen.name, is_canary
    else:
        _report(chosen, "no live version")
    good = were_live(PromptVersion.objects.filter(template=chosen.id))
    if chosen.live_version_id:
        good = good.exclude(pk=chosen.live_version_id)
    good = good.order_by("-published_at")
    for version_id in good.values_list("pk", flat=True)[:MOST_TRIED]:
        yield version_id, chosen.name, True
    if chosen.slug == GENERAL_ASSISTANT:
        return
    for general in _rows(slug=GENERAL_ASSISTANT):
        for version_id, name, _ in _candidates(general):
            yield version_id, name, True


def were_live(versions: QuerySet[PromptVersion]) -> QuerySet[PromptVersion]:
    """Leave those that were everybody's at some time: a canary that was rolled back never was."""
    finished = Release.objects.filter(version=OuterRef("pk"), state=Release.State.FINISHED)
    for_all = Q(is_for_release=False) | Exists(finished)
    return versions.filter(for_all, published_at__isnull=False)


# Written out: each turn asks, and through Django's models that costs this process several times
# what it costs the database. The template's columns, then those of the release under way.
_TEMPLATE_COLUMNS = Chosen._fields[:-1]
_ROWS = f"""
    SELECT {", ".join(f"template.{name}" for name in _TEMPLATE_COLUMNS)},
        release.id, version_id, salt, share, release.state = 'paused', early_role, early_people
    FROM prompts_prompttemplate AS template
    LEFT JOIN prompts_release AS release
        ON template_id = template.id AND state IN ('early_access', 'canary', 'paused')
"""  # noqa: S608 - our own names


def _rows(**asked: uuid.UUID | str) -> list[Chosen]:
    """Return all templates, or the one with this `id` or `slug`."""
    where = " AND ".join(f"template.{name} = %({name})s" for name in asked) or "true"
    with connection.cursor() as cursor:
        cursor.execute(f"{_ROWS} WHERE {where}", asked)
        return [_chosen(row) for row in cursor.fetchall()]


def _chosen(row: tuple[Any, ...]) -> Chosen:
    template, release = row[: len(_TEMPLATE_COLUMNS)], row[len(_TEMPLATE_COLUMNS) :]
    is_released = release[0] is not None
    return Chosen._make((*template, UnderWay._make(release) if is_released else None))


def _report(chosen: Chosen, reason: str) -> None:
    """Say that a version can't serve: in the logs, and once a minute in the audit log."""
    logger.error("prompt_unavailable", template=chosen.slug, reason=reason)
    record_sparingly(
        System("prompts"),
        "prompt.unavailable",
        ("prompts.prompttemplate", str(chosen.id)),
        outcome="failed",
        reason=reason,
        each=str(chosen.id),
    )
