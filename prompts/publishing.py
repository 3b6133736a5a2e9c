"""What editors and publishers do: draft, publish, restore, pause, require an evaluation.

Editors write drafts, publishers release them, and nobody releases what they wrote a part of. The
one exception is an emergency: a version that was live before may be restored by one person alone,
which the log says. Each verb asks for permission, changes and records, together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from accounts.access import Actor, require
from accounts.models import User
from accounts.roles import ROLES, Permission
from audit.trail import record
from prompts.evaluation.gate import missing
from prompts.models import EvaluationSet, LanguageModel, PromptTemplate, PromptVersion, Release
from prompts.rendering import Refused, Variable, compiled, declared, stored_form, with_line_feeds
from prompts.serving import GENERAL_ASSISTANT, known_now

MAX_NOTE_CHARACTERS = 300


class NotPossible(ValueError):
    """What was asked for can't be done now. The message is a sentence for the person."""


class Conflict(Exception):
    """Somebody else changed the draft in the meantime; `stored` is how it is now."""

    def __init__(self, stored: PromptVersion) -> None:
        super().__init__("The draft was changed by somebody else.")
        self.stored = stored


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything that an editor writes in a version. `model` is a slug; empty: the default."""

    content: str
    variables: tuple[Variable, ...] = ()
    model: str = ""
    parameters: Mapping[str, float | int] = field(default_factory=dict)
    change_note: str = ""

    @classmethod
    def of(cls, version: PromptVersion) -> "Terms":
        """Return what a version says. Raises Refused for variables that can't be."""
        return cls(
            version.content,
            declared(version.variables),
            version.model,
            version.parameters,
            version.change_note,
        )

    def rendered(self) -> str:
        """Return the text as a turn would be told it now.

        Raises Refused, with line and reason, for what no turn could be told.
        """
        if not self.content.strip():
            raise Refused("The template is empty.")
        _check_parameters(self.parameters)
        if self.model and not LanguageModel.objects.filter(slug=self.model).exists():
            raise Refused(f"There is no model {self.model[:50]}.")
        return compiled(with_line_feeds(self.content), self.variables).render(known_now())


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a provider can be told about how to choose words: its bounds, and a word about it."""

    least: float
    most: float
    says: str
    is_whole: bool = False


# As OpenAI's chat completions have them; servers that speak alike know them too.
PARAMETERS = {
    "temperature": Parameter(0, 2, "Low: predictable. High: varied."),
    "top_p": Parameter(0, 1, "Share of the likeliest words to choose from."),
    "presence_penalty": Parameter(-2, 2, "High: new subjects sooner."),
    "frequency_penalty": Parameter(-2, 2, "High: less repetition."),
    "max_tokens": Parameter(16, 1_000_000, "Longest reply, in tokens.", is_whole=True),
}


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        known = PARAMETERS.get(name)
        if known is None:
            raise Refused(f"There is no parameter {name[:40]}; there are {', '.join(PARAMETERS)}.")
        kinds = (int,) if known.is_whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise Refused(f"{name} has to be a {'whole ' if known.is_whole else ''}number.")
        if not known.least <= value <= known.most:
            raise Refused(f"{name} lies between {known.least:,} and {known.most:,}.")


# --- templates ---------------------------------------------------------------------------------


@transaction.atomic
def save_template(template: PromptTemplate, *, by: User) -> None:
    """Save a new or changed template: its names, purpose, owner and roles.

    Raises Denied, NotPossible, and ValidationError for names that can't be.
    """
    require(by, Permission.EDIT_PROMPTS, template)
    check_roles(template.slug, template.roles)
    template.full_clean()
    template.save()


def check_roles(slug: str, roles: Sequence[str]) -> None:
    """Return if the template with this slug may be for these roles alone. Raises NotPossible."""
    if slug == GENERAL_ASSISTANT and roles:
        raise NotPossible(
            "The general assistant answers whoever chose nothing: it is for everybody."
        )
    if unknown := sorted(set(roles) - ROLES.keys()):
        raise NotPossible(f"There is no role {unknown[0]}.")


@transaction.atomic
def set_paused(template: PromptTemplate, paused: bool, *, by: User, note: str) -> None:
    """Take a template off offer for new conversations, or put it back.

    Conversations that began with it go on. Raises Denied and NotPossible.
    """
    require(by, Permission.PUBLISH_PROMPTS, template)
    note = noted(note)
    stored = locked(template)
    if paused and stored.slug == GENERAL_ASSISTANT:
        raise NotPossible("The general assistant answers whoever chose nothing: it can't pause.")
    if stored.is_paused == paused:
        raise NotPossible(f"{stored.name} is {'paused' if paused else 'on offer'} already.")
    stored.is_paused = paused
    stored.save(update_fields=["is_paused"])
    record(by, "prompt.paused" if paused else "prompt.resumed", stored, reason=note)


@transaction.atomic
def require_evaluation(
    template: PromptTemplate,
    required: EvaluationSet | None,
    score: Decimal,
    *,
    note: str,
    by: Actor,
) -> PromptTemplate:
    """Let a template require a score in a set before a version of it can be published, or nothing.

    Raises Denied and NotPossible.
    """
    require(by, Permission.GATE_PROMPTS)
    note = noted(note)
    if not 0 < score <= 1:
        raise NotPossible("The score lies above 0 and at most at 1: 0.9 is nine cases in ten.")
    if required is not None and not required.versions.exists():
        raise NotPossible(f"{required} has no cases yet: upload some first.")
    stored = locked(template)
    before = _gate_of(stored)
    stored.required_set, stored.required_score = required, score
    if _gate_of(stored) == before:
        raise NotPossible("This is required already.")
    stored.save(update_fields=["required_set", "required_score"])
    record(by, "prompt.gate_changed", stored, reason=note, now=_gate_of(stored), before=before)
    return stored


def _gate_of(template: PromptTemplate) -> dict[str, str]:
    if template.required_set is None:
        return {"set": ""}
    return {"set": template.required_set.slug, "score": f"{template.required_score:f}"}


def locked(template: PromptTemplate) -> PromptTemplate:
    """Return the template as it is now, locked against other verbs; turns go on beside it."""
    return PromptTemplate.objects.select_for_update(no_key=True).get(pk=template.pk)


def noted(note: str) -> str:
    """Return the note without space around it. Raises NotPossible when there is none."""
    note = note.strip()
    if not note:
        raise NotPossible("Say why in the note: it goes to the audit log.")
    return note[:MAX_NOTE_CHARACTERS]


# --- drafts ------------------------------------------------------------------------------------


@transaction.atomic
def begin_draft(template: PromptTemplate, terms: Terms, *, by: User) -> PromptVersion:
    """Store a new draft with the next number. Raises Denied and Refused."""
    require(by, Permission.EDIT_PROMPTS, template)
    locked(template)  # two at once would take the same number
    highest = template.versions.aggregate(highest=Max("number"))["highest"] or 0
    draft = PromptVersion(template=template, number=highest + 1, author=by)
    _write(draft, terms, by)
    return draft


@transaction.atomic
def save_draft(draft: PromptVersion, terms: Terms, *, revision: int, by: User) -> PromptVersion:
    """Store what an editor wrote who had `revision` before them; return the draft as it is now.

    Raises Denied, Refused, NotPossible when it was published meanwhile, and Conflict when somebody
    else saved it meanwhile.
    """
    require(by, Permission.EDIT_PROMPTS, draft)
    stored = locked_version(draft)
    if not stored.is_draft:
        raise NotPossible(f"v{stored.number} was published meanwhile, and stays as it is.")
    if stored.revision != revision:
        raise Conflict(stored)
    _write(stored, terms, by)
    return stored


def _write(draft: PromptVersion, terms: Terms, by: User) -> None:
    terms.rendered()
    draft.content = with_line_feeds(terms.content)
    draft.variables = stored_form(terms.variables)
    draft.model, draft.parameters = terms.model, dict(terms.parameters)
    draft.change_note = terms.change_note
    draft.contributors = sorted({*draft.contributors, by.pk})
    draft.revision += 1
    draft.save()


def locked_version(version: PromptVersion) -> PromptVersion:
    """Return the version as it is now, with its template, locked against other verbs."""
    versions = PromptVersion.objects.select_related("template")
    return versions.select_for_update(of=("self",), no_key=True).get(pk=version.pk)


# --- releases ----------------------------------------------------------------------------------


@transaction.atomic
def publish(
    draft: PromptVersion, *, content_hash: str, note: str, by: User, for_release: bool = False
) -> PromptVersion:
    """Make a draft immutable, as it was when its `content_hash` was read, and live: for everybody
    at once, or for nobody yet, to be released step by step (`prompts.release.rollout`).

    Raises Denied for who wrote a part of it, Refused, NotPossible, also without the evaluation that
    the template requires, and Conflict when the draft was changed after it was read.
    """
    require(by, Permission.PUBLISH_PROMPTS)
    note = noted(note)
    template = locked(draft.template)
    stored = locked_version(draft)
    require(by, Permission.PUBLISH_PROMPTS, stored)
    if not stored.is_draft:
        raise NotPossible(f"v{stored.number} is published already.")
    if stored.content_hash != content_hash:
        raise Conflict(stored)
    Terms.of(stored).rendered()
    if why_not := missing(template, stored):
        raise NotPossible(why_not)
    before = template.live_version_id
    if for_release and before is None:
        raise NotPossible("Nothing of it is live yet: the first version is for everybody at once.")
    stored.published_at, stored.published_by, stored.release_note = timezone.now(), by, note
    stored.is_for_release = for_release
    stored.save(update_fields=["published_at", "published_by", "release_note", "is_for_release"])
    if not for_release:
        make_live(template, stored)
    told = _told(stored, before)
    record(by, "prompt.published", template, reason=note, live=not for_release, **told)
    return stored


@transaction.atomic
def restore(
    version: PromptVersion, *, note: str, by: User, is_emergency: bool = False
) -> PromptVersion:
    """Make a version live again that was live before.

    Who wrote a part of it may do so in an emergency alone, and the log says that it was one.
    Raises Denied and NotPossible.
    """
    require(by, Permission.PUBLISH_PROMPTS, None if is_emergency else version)
    note = noted(note)
    template = locked(version.template)
    stored = locked_version(version)
    if stored.is_draft:
        raise NotPossible(f"v{stored.number} was never live: it has to be published.")
    if not stored.was_live:
        raise NotPossible(f"v{stored.number} was never live: it has to be released.")
    before = template.live_version_id
    if before == stored.pk:
        raise NotPossible(f"v{stored.number} is live already.")
    make_live(template, stored)
    told = _told(stored, before)
    record(by, "prompt.restored", template, reason=note, emergency=is_emergency, **told)
    return stored


def make_live(template: PromptTemplate, version: PromptVersion) -> None:
    """Let a locked template point at a published version. Raises NotPossible during a release."""
    refuse_while_released(template)
    template.live_version = version
    template.save(update_fields=["live_version"])


def refuse_while_released(template: PromptTemplate) -> None:
    """Return if no version of the template is being released. Raises NotPossible."""
    releases = template.releases.filter(state__in=Release.UNDER_WAY).select_related("version")
    for release in releases:
        raise NotPossible(
            f"v{release.version.number} is being released. Put it into production or roll it back"
            " first."
        )


def _told(version: PromptVersion, before: UUID | None) -> dict[str, Any]:
    """Return what the log tells of a version that took the place of another."""
    return {
        "version": str(version.pk),
        "number": version.number,
        "content_hash": version.content_hash,
        "before": str(before or ""),
    }
