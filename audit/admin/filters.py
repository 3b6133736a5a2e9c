"""The filters beside the list of entries: what can be chosen, and what is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from accounts.roles import ROLES
from audit.events import EVENTS, Group, events_of
from audit.models import ActorKind
from audit.selection import PERIODS, kinds_of_target
from audit.telling import OUTCOMES, kind_name, short

NAMES = (
    *("q", "period", "from", "to", "outcome", "group", "event"),
    *("actor_kind", "role", "actor", "token", "target_kind", "target", "request", "turn", "about"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A link that narrows the list; `inner` are finer ones, shown while it is chosen."""

    label: str
    address: str
    is_chosen: bool
    is_inner: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """What can be chosen by one quality; `form` names the fields to type in."""

    title: str
    choices: list[Choice]
    is_open: bool
    form: str = ""
    # The rest of what is asked for, to send along with the form.
    kept: list[tuple[str, str]] = field(default_factory=list)


class Asked:
    """The filters that an address asks for, as they were written there."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = {name: given[name].strip() for name in NAMES if given.get(name, "").strip()}

    def __getitem__(self, name: str) -> str:
        # Templates ask here first, for `given` and the methods too.
        if name not in NAMES:
            raise KeyError(name)
        return self.given.get(name, "")

    def but(self, **changes: str | int) -> str:
        """Return the address with other values; an empty one drops the filter."""
        asked = {**self.given, **{name.rstrip("_"): value for name, value in changes.items()}}
        return f"?{urlencode({name: value for name, value in asked.items() if value})}"

    def besides(self, *names: str) -> list[tuple[str, str]]:
        """Return what is asked for apart from these."""
        return [(name, value) for name, value in self.given.items() if name not in names]

    def filters(self) -> list[Filter]:
        """Return all filters, as they stand beside the list."""
        return [self._time(), self._outcome(), self._event(), self._actor(), self._role(),
                self._target()]  # fmt: skip

    def chips(self) -> list[tuple[str, str]]:
        """Return what narrows the list, in words, each with the address that lets it go."""
        return [
            (self._in_words(name), self.but(**{name: ""})) for name in self.given if name != "q"
        ]

    def _in_words(self, name: str) -> str:
        value = self[name]
        words = {
            "period": PERIODS.get(value, value),
            "outcome": OUTCOMES.get(value, value),  # type: ignore[call-overload]
            "role": ROLES[value].label if value in ROLES else value,
            "target_kind": kind_name(value),
            "actor_kind": _KINDS.get(value, value),
        }.get(name, value if "@" in value or name in {"event", "group"} else short(value))
        return f"{_TITLES[name]}: {words}"

    def _choices(
        self, name: str, labels: Iterable[tuple[str, str]], every: str = "All", *dropped: str
    ) -> list[Choice]:
        others = dict.fromkeys(dropped, "")
        nothing = not self[name] and not any(self[other] for other in dropped)
        return [
            Choice(every, self.but(**{**others, name: ""}), nothing),
            *(
                Choice(label, self.but(**{**others, name: value}), self[name] == value)
                for value, label in labels
            ),
        ]

    def _time(self) -> Filter:
        choices = self._choices("period", PERIODS.items(), "Any", "from", "to")
        return Filter("By time", choices, True, "time", self.besides("period", "from", "to"))

    def _outcome(self) -> Filter:
        labels = [(outcome.value, label) for outcome, label in OUTCOMES.items()]
        return Filter("By outcome", self._choices("outcome", labels), True)

    def _event(self) -> Filter:
        chosen = self["group"] or (EVENTS[self["event"]].group if self["event"] in EVENTS else "")
        choices = []
        for choice in self._choices("group", [(g.value, g.value) for g in Group], "All", "event"):
            choices.append(choice)
            if choice.label == chosen:
                choices += [
                    Choice(event, self.but(group="", event=event), self["event"] == event, True)
                    for event in events_of(chosen)
                ]
        return Filter("By event", choices, True)

    def _actor(self) -> Filter:
        choices = self._choices("actor_kind", _KINDS.items(), "All", "actor")
        is_open = bool(self["actor"] or self["actor_kind"])
        return Filter("By actor", choices, is_open, "actor", self.besides("actor"))

    def _role(self) -> Filter:
        labels = [(slug, role.label) for slug, role in ROLES.items()]
        return Filter("By actor’s role", self._choices("role", labels), bool(self["role"]))

    def _target(self) -> Filter:
        labels = [(kind, kind_name(kind)) for kind in kinds_of_target()]
        choices = self._choices("target_kind", labels, "All", "target")
        is_open = bool(self["target"] or self["target_kind"])
        return Filter("By target", choices, is_open, "target", self.besides("target"))


_KINDS = {
    ActorKind.USER.value: "Person",
    ActorKind.TOKEN.value: "API token",
    ActorKind.SYSTEM.value: "System job",
    ActorKind.ANONYMOUS.value: "Not signed in",
}
_TITLES = {
    "period": "Time",
    "from": "From",
    "to": "To",
    "outcome": "Outcome",
    "group": "Events",
    "event": "Event",
    "actor_kind": "Actor",
    "role": "Role",
    "actor": "Actor",
    "token": "API token",
    "target_kind": "Target",
    "target": "Target",
    "request": "Request",
    "turn": "Turn",
    "about": "Account",
}
