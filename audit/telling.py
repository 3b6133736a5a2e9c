"""What an entry says to a reader: names instead of ids, a sentence, the difference it made."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps

from accounts.roles import ROLES
from audit.events import EVENTS
from audit.models import ActorKind, Entry, Outcome
from audit.selection import ACCOUNT, Sealed
from audit.trail import personal_digest

NOT_KNOWN = "Not known"
OUTCOMES = {Outcome.SUCCEEDED: "Done", Outcome.DENIED: "Refused", Outcome.FAILED: "Failed"}
_LONGEST_WHOLE_ID = 12


@dataclass(frozen=True, slots=True)
class Told:
    """An entry in words. `says` is the vocabulary's sentence, `sentence` that of a timeline."""

    entry: Entry
    says: str
    actor: str
    actor_note: str
    target: str
    outcome: str
    sealed: Sealed | None = None

    @property
    def at(self) -> datetime:
        return self.entry.occurred_at

    @property
    def sentence(self) -> str:
        """Say who did what to what."""
        fact = self.says.removesuffix(".").partition(". ")[0].partition(":")[0]
        if self.entry.actor_kind == ActorKind.ANONYMOUS:
            who = "somebody unknown"
        else:
            who = f"{self.actor} ({self.actor_note})"
        if fact.startswith("Somebody "):
            fact = fact.replace("Somebody", who.replace("somebody", "Somebody"), 1)
        else:
            fact += f", by {who}"
        if self.target and not _is_own(self.entry):
            fact += f", on {self.target}"
        return f"{fact}."


def tell(entry: Entry, sealed: Sealed | None = None) -> Told:
    """Put an entry into words. It must have been loaded with its personal details."""
    event = EVENTS.get(entry.event)
    return Told(
        entry,
        says=event.says if event else "Something of a version of Parley that this one is not.",
        actor=_actor(entry),
        actor_note=_actor_note(entry),
        target=target_name(entry.target_kind, entry.target_id, _label(entry, "target_label")),
        outcome=OUTCOMES[Outcome(entry.outcome)],
        sealed=sealed,
    )


def _label(entry: Entry, name: str) -> str:
    return str(getattr(entry.personal, name)) if hasattr(entry, "personal") else ""


def _actor(entry: Entry) -> str:
    if entry.actor_kind == ActorKind.ANONYMOUS:
        return NOT_KNOWN
    if entry.actor_kind == ActorKind.SYSTEM:
        return entry.actor_id
    return _label(entry, "actor_label") or f"Account {short(entry.actor_id)}"


def _actor_note(entry: Entry) -> str:
    if entry.actor_kind == ActorKind.ANONYMOUS:
        network = _label(entry, "network")
        return f"address {network}" if network else "not signed in"
    if entry.actor_kind == ActorKind.SYSTEM:
        return "system job"
    roles = ", ".join(role_names(entry.actor_roles)) or "no role"
    return f"{roles}, by API token" if entry.token_id else roles


def role_names(slugs: str) -> list[str]:
    """Return the names of roles, from slugs with commas between."""
    return [
        ROLES[slug].label.lower() if slug in ROLES else slug for slug in slugs.split(",") if slug
    ]


def target_name(kind: str, pk: str, label: str) -> str:
    """Return how people call a target: its label, or its kind and the ends of its id."""
    if label:
        return label
    return f"{kind_name(kind)} {short(pk)}" if pk else kind_name(kind, several=True)


def kind_name(kind: str, *, several: bool = False) -> str:
    """Return what a kind of target is called: "Conversation" of `conversations.conversation`."""
    try:
        meta = apps.get_model(kind)._meta
        name = str(meta.verbose_name_plural if several else meta.verbose_name)
    except (LookupError, ValueError):
        name = kind.rpartition(".")[2].replace("_", " ")
    return name[:1].upper() + name[1:]


def short(pk: str) -> str:
    """Return an id by its ends, where it is a long one."""
    return pk if len(pk) <= _LONGEST_WHOLE_ID else f"{pk[:4]}…{pk[-4:]}"


def _is_own(entry: Entry) -> bool:
    return entry.target_kind == ACCOUNT and entry.target_id == entry.actor_id


# --- personal values -------------------------------------------------------------------------


def personal_state(entry: Entry) -> str:
    """Say whether the personal values are those recorded: "kept", "erased" or "altered"."""
    if not hasattr(entry, "personal"):
        return "erased"
    names = ("actor_label", "network", "target_label", "user_agent")
    values = {name: str(getattr(entry.personal, name)) for name in names}
    if personal_digest(bytes(entry.personal.salt), values) == bytes(entry.personal_digest):
        return "kept"
    return "altered" if any(values.values()) else "erased"


# --- what changed ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A field that got another value. `lines` are the difference of longer texts."""

    field: str
    before: str
    after: str
    lines: tuple["DiffLine", ...] = ()


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of a text: `sign` is a plus for a new one, a minus for one that is gone."""

    sign: str
    text: str


def changes(payload: Mapping[str, Any]) -> list[Change]:
    """Return what an entry says about values before and after."""
    return [_change(field, before, after) for field, before, after in _pairs_of(payload)]


def facts(payload: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return all else that an entry says, as names and values for people."""
    told = set(_CHANGED) if _is_difference(payload.get("changes")) else set(_NOW_AND_BEFORE)
    if not any(True for _ in _pairs_of(payload)):
        told = set()
    return [(_words(name), text_of(value)) for name, value in payload.items() if name not in told]


_CHANGED = ("changes",)
_NOW_AND_BEFORE = ("now", "before")


def _pairs_of(payload: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    if _is_difference(payload.get("changes")):
        for field, change in payload["changes"].items():
            yield field, *_before_and_after(change)
    elif isinstance(now := payload.get("now"), dict):
        before = payload.get("before")
        was = before if isinstance(before, dict) else {}
        for field in sorted(now.keys() | was.keys()):
            yield field, was.get(field), now.get(field)


def _is_difference(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(change, dict) or (isinstance(change, list) and len(change) == 2)
        for change in value.values()
    )


def _before_and_after(change: Any) -> tuple[Any, Any]:
    if isinstance(change, list):
        return change[0], change[1]
    # django-auditlog about a relation to many: what was added to it, or taken from it.
    members = change.get("objects", change)
    return (members, None) if change.get("operation") == "delete" else (None, members)


def _change(field: str, before: Any, after: Any) -> Change:
    texts = text_of(before), text_of(after)
    longer = any("\n" in text for text in texts)
    return Change(_words(field), *texts, tuple(_difference(*texts)) if longer else ())


def _difference(before: str, after: str) -> Iterator[DiffLine]:
    signs = {"+ ": "+", "- ": "−", "  ": ""}
    for line in difflib.ndiff(before.splitlines(), after.splitlines()):
        if line[:2] in signs:  # "? " lines only point at letters
            yield DiffLine(signs[line[:2]], line[2:])


def _words(name: str) -> str:
    return name.strip("_").replace("_", " ")


def text_of(value: Any) -> str:
    """Return a value of a payload as people write it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{_words(str(name))}: {text_of(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(text_of, value)) or "–"
    return str(value)


def days(lines: Iterable[Told]) -> list[tuple[datetime, list[Told]]]:
    """Group entries that follow each other by their day in UTC."""
    grouped: list[tuple[datetime, list[Told]]] = []
    for line in lines:
        if not grouped or grouped[-1][0].date() != line.at.date():
            grouped.append((line.at, []))
        grouped[-1][1].append(line)
    return grouped
