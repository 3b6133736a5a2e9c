"""The filter between a provider's reply and its readers.

    output = OutputFilter(moves)
    text = output.feed(chunk)      what may be shown now
    text = output.finish()         the rest

A forbidden text never gets out: not for a moment, not split over chunks, and not taken apart by
Markdown. The reply is read in every way in which it could be shown: each mark of Markdown may be
shown or not, an entity may stand for its character, the address of a link is not shown, and so on.
Which of them is the case depends on text that has not arrived yet, so that all are followed at
once; this finds at least what a reader could see, and rarely more (`a[c]t` is found by “act”).
What could be seen is looked for within one block (paragraph, cell, item); other blocks are other
places on the page.

What is held back is what may yet become a match, nothing else. It is decided character by
character, so that the result is the same for all chunks. A match that is masked is replaced by
MASK together with the marks in it. Something that would have to be held for more than MOST_HELD
characters, the longest address of a link say, behind the beginning of a match, is masked too.

Constructs: CommonMark 0.31.2 sections 2.4, 2.5, 6.1-6.8; GFM strikethrough; linkified addresses
are shown with their percent-encoding and their Punycode decoded.
"""

from dataclasses import dataclass, field

from conversations.turn import constructs
from conversations.turn.constructs import Reader
from conversations.turn.moves import Moves, Threads
from conversations.turn.patterns import NO_WORD, holds, kind_of
from conversations.turn.screening import is_invisible

MASK = "▮▮▮"
MOST_HELD = 2_048
"""Characters of a reply, marks and addresses included, that are held back at most."""
MOST_OPEN = 64
MOST_CHARACTERS_KNOWN = 10_000

# Marks that may not be shown, depending on what stands around them.
_MARKS = frozenset("*_~`\\[]!<>")


class Match(Exception):
    """A rule that blocks has matched. `before` is the text that may still be shown."""

    def __init__(self, rule: int, before: str) -> None:
        super().__init__()
        self.rule, self.before = rule, before


@dataclass(frozen=True, slots=True)
class _Character:
    """What is known of a character wherever it stands."""

    kind: int
    is_space: bool
    may_vanish: bool
    is_dull: bool
    """Whether it begins nothing."""


@dataclass(slots=True)
class _Open:
    """A construct that began at `start` and may show nothing, or stand for another character."""

    start: int
    threads: Threads
    before: int
    read: Reader
    stands_for_text: bool = False
    repeats: bool = False
    """Whether it may end here and as well further on."""
    ends_before: bool = False
    """Whether it ends before the character that tells its end."""


@dataclass(slots=True)
class _Masks:
    """Stretches of the text that are not shown, in order and without overlap."""

    stretches: list[tuple[int, int]] = field(default_factory=list)

    def add(self, start: int, end: int) -> None:
        while self.stretches and self.stretches[-1][1] > start:
            earlier = self.stretches.pop()
            start, end = min(start, earlier[0]), max(end, earlier[1])
        self.stretches.append((start, end))

    def forget_before(self, position: int) -> None:
        self.stretches = [s for s in self.stretches if s[1] > position]


class OutputFilter:
    """One reply on its way. `hits` counts the matches of each rule, by its number."""

    def __init__(self, moves: Moves) -> None:
        self.hits: dict[int, int] = {}
        self._moves = moves
        self._characters: dict[str, _Character] = {}
        self._threads = moves.nothing
        self._open: list[_Open] = []
        self._masks = _Masks()
        self._held, self._from = "", 0  # text that is not shown yet, and where it begins
        self._at = 0
        self._before = NO_WORD  # kinds that the character before may have been, as shown
        self._last = ""
        self._after_space = True  # white space here would be one run with what came before
        self._line_is_blank, self._in_image = True, False
        self._ends_of_hits: dict[int, int] = {}

    def feed(self, chunk: str) -> str:
        """Take a piece of the reply and return what may be shown now. Raises Match."""
        if not self._moves.automaton.starts:
            return chunk
        self._held += chunk
        self._walk(chunk)
        return self._shown(self._safe_up_to())

    def finish(self) -> str:
        """End the reply and return the rest of it. Raises Match."""
        self._end_labels("")
        threads, places = self._threads, self._moves.automaton.places
        for place, start, end in zip(
            threads.state.places, threads.starts, threads.ends, strict=True
        ):
            it = places[place]
            if it.test is None and holds(it.conditions, self._before, NO_WORD):
                self._matched(it.rule, start, end)
        self._threads, self._open = self._moves.nothing, []
        return self._shown(self._at)

    @property
    def held(self) -> int:
        """How many characters wait for more text."""
        return len(self._held)

    # --- characters

    def _walk(self, chunk: str) -> None:
        characters = self._characters
        for c in chunk:
            known = characters.get(c) or self._look_up(c)
            if known.is_dull and not self._threads and not self._open:
                self._pass_over(known)
            else:
                self._step(c, known)
            self._last = c
            self._at += 1

    def _look_up(self, c: str) -> _Character:
        if len(self._characters) > MOST_CHARACTERS_KNOWN:
            self._characters.clear()
        known = self._characters[c] = _Character(
            kind_of(c),
            c.isspace(),
            may_vanish=c in _MARKS or is_invisible(c),
            is_dull=not (c in "&%xX[\n" or self._moves.begins(c)),
        )
        return known

    def _step(self, c: str, known: _Character) -> None:
        if self._open:
            self._end_labels(c)
        vanishes = self._vanishes_here(c, known)
        before, span = self._before, (self._at, self._at + 1)
        following = self._advanced(self._threads, c, before, span, vanishes=vanishes)
        kinds = known.kind | (before if vanishes else 0)
        if self._open:
            following, more_kinds = self._read_on(c, following)
            kinds |= more_kinds
        self._open_here(c, before)  # with the threads from before this character
        self._threads, self._before = following, kinds
        self._after_space = known.is_space or (vanishes and self._after_space)
        if c == "\n" and self._line_is_blank:
            self._end_paragraph()
        self._line_is_blank = c == "\n" or (self._line_is_blank and known.is_space)
        if len(self._held) > MOST_HELD or len(self._open) > MOST_OPEN:
            self._give_up_on_long_ones()

    def _advanced(
        self, threads: Threads, c: str, before: int, span: tuple[int, int], *, vanishes: bool
    ) -> Threads:
        """Return where these threads stand behind a character, which is written in `span`.

        Notes the matches. Raises Match.
        """
        plan = self._moves.plan(threads.state, c, before, vanishes=vanishes)
        starts, end = (*threads.starts, span[0]), span[1]
        for rule, source, takes_it in plan.matched:
            self._matched(rule, starts[source], end if takes_it else threads.ends[source])
        if not plan.sources:
            return self._moves.nothing
        ends = [end] * len(plan.sources)
        for number, old in plan.stayed:
            ends[number] = threads.ends[old]
        return Threads(plan.state, tuple([starts[i] for i in plan.sources]), tuple(ends))

    def _pass_over(self, known: _Character) -> None:
        """Do as `_step` where nothing has begun and nothing begins."""
        if known.may_vanish or known.is_space:
            self._before |= known.kind
        else:
            self._before, self._line_is_blank = known.kind, False
        self._after_space = known.is_space or (known.may_vanish and self._after_space)

    def _vanishes_here(self, c: str, known: _Character) -> bool:
        if not known.is_space:
            return known.may_vanish
        is_break = c == "\n" and self._last == "\\" and self._in_image
        return self._after_space or self._last == "`" or is_break

    def _matched(self, rule: int, start: int, end: int) -> None:
        self._count(rule, start, end)
        action = self._moves.actions[rule]
        if action == "mask":
            self._masks.add(start, end)
        elif action == "block":
            raise Match(rule, self._shown(self._safe_up_to()))

    def _count(self, rule: int, start: int, end: int) -> None:
        """Count a match unless it overlaps the one before."""
        if start >= self._ends_of_hits.get(rule, 0):
            self.hits[rule] = self.hits.get(rule, 0) + 1
        self._ends_of_hits[rule] = max(end, self._ends_of_hits.get(rule, 0))

    # --- constructs that swallow text or stand for other text

    def _open_here(self, c: str, before: int) -> None:
        if c == "&":
            self._opened(constructs.entity(), before, stands_for_text=True)
        elif c == "%":
            self._opened(constructs.percent(), before, stands_for_text=True)
        elif c in "xX":
            label = constructs.international_label()
            self._opened(label, before, stands_for_text=True, ends_before=True)
        elif self._threads:
            self._open_jump(c, before)
        if c == "[" and self._last == "!":
            self._in_image = True

    def _open_jump(self, c: str, before: int) -> None:
        if c == "(" and self._last == "]":
            self._opened(constructs.destination(), before)
        elif c == "[" and self._last == "]":
            self._opened(constructs.label(), before)
        elif c == "<":
            self._opened(constructs.tag(), before)
        elif c == "`" and self._in_image:
            self._opened(lambda mark: "" if mark == "`" else None, before, repeats=True)
        elif c in " \n":
            self._opened(lambda mark: "" if mark == "`" else False, before)
            if c == " " and self._last != " " and self._in_image:
                self._opened(constructs.hard_break(), before)

    def _opened(self, read: Reader, before: int, **how: bool) -> None:
        self._open.append(_Open(self._at, self._threads, before, read, **how))

    def _read_on(self, c: str, following: Threads) -> tuple[Threads, int]:
        """Tell the open constructs a character.

        Returns the threads with those that go on behind a construct, and the kinds before them.
        """
        kinds, still = 0, []
        for construct in self._open:
            read = None if construct.ends_before else construct.read(c)
            if isinstance(read, str):
                resumed, before = self._resumed(construct, read, self._at + 1)
                following = self._moves.merged(following, resumed) if resumed else following
                kinds |= before
            if read is None or (read == "" and construct.repeats):
                still.append(construct)
        self._open = still
        return following, kinds

    def _end_labels(self, c: str) -> None:
        """Tell the character to what ends before it; threads go on from there to it."""
        for construct in [o for o in self._open if o.ends_before]:
            read = construct.read(c)
            if read is not None:
                self._open.remove(construct)
            if isinstance(read, str):
                resumed, before = self._resumed(construct, read, self._at)
                self._threads = self._moves.merged(self._threads, resumed)
                self._before |= before

    def _resumed(self, construct: _Open, text: str, end: int) -> tuple[Threads, int]:
        """Return the threads of a construct behind the text for which it stands, and the kinds."""
        threads, before = construct.threads, construct.before
        for c in text:
            vanishes = is_invisible(c)
            span = (construct.start, end)
            threads = self._advanced(threads, c, before, span, vanishes=vanishes)
            before = kind_of(c) | (before if vanishes else 0)
        return threads, before

    def _end_paragraph(self) -> None:
        self._in_image = False
        self._open = []

    def _give_up_on_long_ones(self) -> None:
        """Mask what would be held for too long, from the beginning of the possible match."""
        is_crowded = len(self._open) > MOST_OPEN
        oldest = self._at + 1 - (0 if is_crowded else MOST_HELD)
        self._threads = self._without_old(self._threads, oldest)
        for construct in self._open:
            construct.threads = self._without_old(construct.threads, oldest)
        self._open = [o for o in self._open if o.threads or o.stands_for_text]

    def _without_old(self, threads: Threads, oldest: int) -> Threads:
        left, old = self._moves.younger(threads, oldest)
        for rule, start in old:
            self._mask_beginning(rule, start)
        return left

    def _mask_beginning(self, rule: int, start: int) -> None:
        if self._moves.actions[rule] != "flag":
            self._count(rule, start, self._at + 1)
            self._masks.add(start, self._at + 1)

    # --- what may be shown

    def _safe_up_to(self) -> int:
        positions = [self._at, self._threads.first_held]
        for construct in self._open:
            positions.append(construct.threads.first_held)
            if construct.stands_for_text:
                positions.append(construct.start)
        return min(position for position in positions if position is not None)

    def _shown(self, up_to: int) -> str:
        """Return the held text up to a position, masked, and hold it no longer."""
        parts, at = [], self._from
        for start, end in self._masks.stretches:
            if start >= up_to:
                break
            if start >= self._from:
                parts += [self._held[at - self._from : start - self._from], MASK]
            at = max(at, min(end, up_to))
        if at < up_to:
            parts.append(self._held[at - self._from : up_to - self._from])
        self._held = self._held[max(up_to - self._from, 0) :]
        self._from = max(up_to, self._from)
        self._masks.forget_before(self._from)
        return "".join(parts)
