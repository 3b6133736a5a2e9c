"""The steps of an automaton, learnt as they are taken (a lazy powerset construction).

Beginnings of matches that stand side by side are `Threads`: the places where they are, earliest
beginning first, and where each began. What a character does to a set of places does not depend on
where they began, so it is worked out once and kept as a `Plan`; a step then costs a look-up and one
number for each thread.

A character may have several readings (white space is white space; a host's full stop has three
forms), and it may vanish: then every thread also stays where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from conversations.turn.patterns import Automaton, holds, kind_of

MOST_KNOWN = 20_000
"""Plans and characters that are kept before all are learnt anew."""

_SPACE_READINGS = {c: tuple(dict.fromkeys((c, " ", "\n"))) for c in "\t\n\v\f\r "}
# Hosts are shown with a full stop for each of these (RFC 3490, section 3.1).
_STOP_READINGS = {c: (c, ".") for c in "。．｡"}
_READINGS = {**_SPACE_READINGS, **_STOP_READINGS}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a character does to the threads of a state.

    A source is the number of a thread; the one behind the last stands for a match that begins here.
    """

    state: "State"
    sources: tuple[int, ...]
    """For each new thread, the earliest one that it comes from."""
    stayed: tuple[tuple[int, int], ...]
    """New threads that are old ones which took no character."""
    matched: tuple[tuple[int, int, bool], ...]
    """Rule and source of each match, and whether it takes in the character."""


@dataclass(slots=True)
class State:
    """A set of places, in the order in which their threads began."""

    places: tuple[int, ...]
    first_held: int
    """The first thread whose rule holds the text back, or -1."""
    plans: dict[tuple[str, int, bool], Plan] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Threads:
    """Beginnings of matches: from and up to which character of the text."""

    state: State
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.starts)

    @property
    def first_held(self) -> int | None:
        """Where the earliest one began that holds the text back."""
        index = self.state.first_held
        return self.starts[index] if index >= 0 else None


class Moves:
    """An automaton with what was learnt of it. All filters of a policy share one.

    `actions` has the action of each rule: block, mask or flag.
    """

    def __init__(self, automaton: Automaton, actions: Sequence[str]) -> None:
        self.automaton, self.actions = automaton, actions
        self._states: dict[tuple[int, ...], State] = {}
        self._begins: dict[str, bool] = {}
        self._known = 0
        self.nothing = Threads(self._state(()), (), ())

    def begins(self, c: str) -> bool:
        """Whether a match can begin with this character."""
        known = self._begins.get(c)
        if known is None:
            if len(self._begins) > MOST_KNOWN:
                self._begins.clear()
            readings = _READINGS.get(c, (c,))
            known = any(self._following(place, readings) for place in self.automaton.starts)
            self._begins[c] = known
        return known

    def plan(self, state: State, c: str, before: int, *, vanishes: bool) -> Plan:
        """Return what a character behind one of the kinds `before` does to a state."""
        key = (c, before, vanishes)
        plan = state.plans.get(key)
        if plan is None:
            if self._known > MOST_KNOWN:
                self._forget()
            self._known += 1
            plan = state.plans[key] = self._planned(state, c, before, vanishes=vanishes)
        return plan

    def merged(self, *several: Threads) -> Threads:
        """Return all these threads; of those at one place the earliest beginning."""
        spans: dict[int, tuple[int, int]] = {}
        for threads in several:
            for place, *span in zip(
                threads.state.places, threads.starts, threads.ends, strict=True
            ):
                start, end = spans.get(place, span)
                spans[place] = (min(start, span[0]), max(end, span[1]))
        ordered = sorted(spans.items(), key=lambda item: item[1][0])
        return Threads(
            self._state(tuple(place for place, _ in ordered)),
            tuple(start for _, (start, _) in ordered),
            tuple(end for _, (_, end) in ordered),
        )

    def younger(self, threads: Threads, oldest: int) -> tuple[Threads, list[tuple[int, int]]]:
        """Return the threads that began at `oldest` or later, and rule and start of the others."""
        places, starts = threads.state.places, threads.starts
        count = sum(start < oldest for start in starts)
        rules = [self.automaton.places[place].rule for place in places[:count]]
        left = Threads(self._state(places[count:]), starts[count:], threads.ends[count:])
        return left, list(zip(rules, starts[:count], strict=True))

    def _forget(self) -> None:
        # Walks that go on keep the states they have; these learn further for themselves.
        for state in list(self._states.values()):
            state.plans.clear()
        self._states.clear()
        self._known = 0
        self._states[()] = self.nothing.state

    def _state(self, places: tuple[int, ...]) -> State:
        state = self._states.get(places)
        if state is None:
            rules = [self.automaton.places[place].rule for place in places]
            held = (i for i, rule in enumerate(rules) if self.actions[rule] != "flag")
            state = self._states[places] = State(places, next(held, -1))
        return state

    def _following(self, place: int, readings: tuple[str, ...]) -> tuple[int, ...]:
        it = self.automaton.places[place]
        passes = it.test is not None and any(map(it.test, readings))
        return self.automaton.places_after(it.following) if passes else ()

    def _planned(self, state: State, c: str, before: int, *, vanishes: bool) -> Plan:
        readings, kind = _READINGS.get(c, (c,)), kind_of(c)
        begun = len(state.places)
        sources: dict[int, int] = {}  # for each place that is reached, the earliest thread
        moved: set[int] = set()
        matched: list[tuple[int, int, bool]] = []
        waiting = [*enumerate(state.places), *((begun, place) for place in self.automaton.starts)]
        for source, place in waiting:
            if vanishes and source < begun:
                sources.setdefault(place, source)
            it = self.automaton.places[place]
            if not holds(it.conditions, before, kind):
                continue
            if it.test is None:
                matched.append((it.rule, source, False))
            for reached in self._following(place, readings):
                if self._is_match(reached):
                    matched.append((it.rule, source, True))
                else:
                    sources.setdefault(reached, source)
                    moved.add(reached)
        ordered = sorted(sources.items(), key=lambda item: item[1])
        where = {place: number for number, place in enumerate(state.places)}
        return Plan(
            self._state(tuple(place for place, _ in ordered)),
            tuple(source for _, source in ordered),
            tuple((n, where[p]) for n, (p, _) in enumerate(ordered) if p not in moved),
            tuple(matched),
        )

    def _is_match(self, place: int) -> bool:
        it = self.automaton.places[place]
        return it.test is None and not it.conditions
