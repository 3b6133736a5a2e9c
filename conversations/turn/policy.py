"""Policy: the rules in force, applied to what people send and to what they are shown.

    policy = current_policy()
    screened = policy.screen_input(text)       the text to go on with; raises Blocked
    screen = policy.output_filter()            feed(chunk), finish(); raises Blocked
    hits = await policy.judge(text, …)         where a rule asks the provider's moderation

Rules that need whole sentences (moderation) change how a reply is released: `policy.released()`
gives a filter whose `feed` and `finish` are awaited and let out sentence by sentence what was
judged. A reply that can't be judged is not shown: a fault of the moderation ends it, unless the
rules that ask for it only note what they find.

Hits name rule and version, and how often; never what was found. `record_hits` writes them down.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from audit.trail import Actor, Target, record, record_outside
from chatbot.kept import Kept
from conversations.models import PolicyRule, PolicyTerms
from conversations.turn.moves import Moves
from conversations.turn.output import MASK, Match, OutputFilter
from conversations.turn.patterns import Automaton, PatternRefused, re2_compiled
from prompts.provider import ProviderFault

LONGEST_SENTENCE = 1_000
JUDGED_CONTEXT = 1_000
"""Characters that were released before and are judged again with the next sentence."""
_MESSAGES_REMEMBERED = 4096

logger = structlog.get_logger(__name__)

Action = PolicyTerms.Action
Direction = PolicyTerms.Direction
Kind = PolicyTerms.Kind


@dataclass(frozen=True, slots=True)
class Rule:
    """One version of a rule, as it is applied."""

    id: str
    version: int
    name: str
    kind: str
    direction: str
    action: str
    pattern: str = ""
    words: tuple[str, ...] = ()
    limit: int = 0
    message: str = ""

    @classmethod
    def of(cls, row: PolicyTerms, *, id: str = "", version: int = 0) -> "Rule":  # noqa: A002
        """Return the rule that a row describes."""
        words = tuple(word.strip() for word in row.words.splitlines() if word.strip())
        return cls(
            id=id,
            version=version,
            name=row.name,
            kind=row.kind,
            direction=row.direction,
            action=row.action,
            pattern=row.pattern,
            words=words,
            limit=row.limit or 0,
            message=row.message,
        )

    def applies_to(self, direction: str) -> bool:
        """Whether it looks at what goes in this direction."""
        return self.direction in {direction, Direction.BOTH}

    @property
    def sentence(self) -> str:
        """What the person reads when something is blocked."""
        return self.message or f"The rule “{self.name}” of this organisation does not allow it."


@dataclass(frozen=True, slots=True)
class Hit:
    """That a rule found something: which, where, what became of it, and how often."""

    rule: Rule
    direction: str
    count: int


class Blocked(Exception):
    """A rule does not let this pass. `before` is the text of a reply that may still be shown.

    `hits` holds this one and those before it. Neither says what was found.
    """

    def __init__(self, rule: Rule, hits: Sequence[Hit], before: str = "") -> None:
        super().__init__(rule.id)
        self.rule, self.hits, self.before = rule, list(hits), before


@dataclass(frozen=True, slots=True)
class Screened:
    """A text after the rules: masked where they want it."""

    text: str
    hits: list[Hit]


class Moderates(Protocol):
    """Whom `judge` asks (`prompts.provider.Provider` is one)."""

    async def flagged_categories(self, text: str) -> frozenset[str]:
        """Return what is wrong with the text. Raises ProviderFault."""


class Policy:
    """Rules, compiled once. Safe to share by all turns of a process."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Compile. Raises PatternRefused."""
        self.rules = tuple(rules)
        self._input = _Compiled(self._those_for(Direction.INPUT), Direction.INPUT)
        self._output = _Compiled(self._those_for(Direction.OUTPUT), Direction.OUTPUT)
        self._harmless: set[tuple[Hashable, int]] = set()

    def _those_for(self, direction: str) -> list[Rule]:
        return [rule for rule in self.rules if rule.applies_to(direction)]

    @property
    def needs_whole_sentences(self) -> bool:
        """Whether replies are released by sentence, because something must judge them."""
        return bool(self._output.moderation)

    @property
    def judges_input(self) -> bool:
        """Whether `judge` has something to say about what people send."""
        return bool(self._input.moderation)

    def screen_input(self, text: str) -> Screened:
        """Apply the rules to what somebody sends; linear in its length. Raises Blocked.

        Moderation is not asked here, see `judge`.
        """
        hits: list[Hit] = []
        for rule, pattern in self._input.whole:
            text = _searched(rule, pattern, text, hits)
        screen = OutputScreen(self._input, hits)
        text = screen.feed(text) + screen.finish()
        return Screened(text, screen.hits)

    def screen_message(self, key: Hashable, text: str) -> str:
        """Return what `screen_input` leaves of the stored message `key`. Raises Blocked.

        One that passes as it is, as most do, is looked at once: every later turn tells it again.
        """
        place = (key, len(text))
        if place in self._harmless:
            return text
        left = self.screen_input(text).text
        if left == text:
            if len(self._harmless) >= _MESSAGES_REMEMBERED:
                self._harmless.clear()
            self._harmless.add(place)
        return left

    def output_filter(self) -> "OutputScreen":
        """Return the filter for one reply."""
        return OutputScreen(self._output)

    def released(self, moderator: Moderates) -> "SentenceRelease":
        """Return the filter for one reply that is released by sentence, each one judged."""
        return SentenceRelease(self, moderator)

    async def judge(
        self, text: str, moderator: Moderates, *, direction: str = Direction.OUTPUT
    ) -> list[Hit]:
        """Ask the provider's moderation, once for all rules. Raises Blocked, ProviderFault.

        No request when no rule wants it. A fault counts as none where all rules only note.
        """
        rules = (self._output if direction == Direction.OUTPUT else self._input).moderation
        if not rules or not text.strip():
            return []
        try:
            categories = await moderator.flagged_categories(text)
        except ProviderFault as fault:
            if any(rule.action == Action.BLOCK for rule in rules):
                raise
            logger.warning("moderation_unavailable", code=fault.code)
            return []
        hits = [
            Hit(rule, direction, 1)
            for rule in rules
            if categories & set(rule.words) or (categories and not rule.words)
        ]
        for hit in hits:
            if hit.rule.action == Action.BLOCK:
                raise Blocked(hit.rule, hits)
        return hits


def _searched(rule: Rule, pattern: Any, text: str, hits: list[Hit]) -> str:
    found = [match.span() for match in pattern.finditer(text)]
    if not found:
        return text
    hits.append(Hit(rule, Direction.INPUT, len(found)))
    if rule.action == Action.BLOCK:
        raise Blocked(rule, hits)
    return _masked(text, found) if rule.action == Action.MASK else text


def _masked(text: str, found: Iterable[tuple[int, int]]) -> str:
    # RE2's own `sub` garbles a replacement that is not ASCII.
    parts, at = [], 0
    for start, end in found:
        parts += [text[at:start], MASK]
        at = end
    return "".join([*parts, text[at:]])


class _Compiled:
    """The rules of one direction, each where it is applied."""

    def __init__(self, rules: Sequence[Rule], direction: str) -> None:
        self.direction = direction
        self.sizes = [rule for rule in rules if rule.kind == Kind.SIZE]
        self.moderation = [rule for rule in rules if rule.kind == Kind.MODERATION]
        # What only people send comes whole: RE2 finds in it also what has no longest match.
        only_sent = [r for r in rules if r.kind == Kind.PATTERN and r.direction == Direction.INPUT]
        self.whole = [(rule, re2_compiled(rule.pattern)) for rule in only_sent]
        found_by_stream = {Kind.PATTERN, Kind.WORDS}
        self.streamed = [r for r in rules if r.kind in found_by_stream and r not in only_sent]
        self.moves = Moves(_automaton(self.streamed), [rule.action for rule in self.streamed])

    @property
    def is_idle(self) -> bool:
        """Whether no rule looks at the text while it streams."""
        return not self.streamed and not self.sizes


def _automaton(rules: Sequence[Rule]) -> Automaton:
    automaton = Automaton()
    for number, rule in enumerate(rules):
        if rule.kind == Kind.WORDS:
            automaton.add_words(number, rule.words)
        else:
            automaton.add_pattern(number, rule.pattern)
    return automaton


class OutputScreen:
    """The rules on the way of one reply. What it gives out may be shown."""

    def __init__(self, compiled: _Compiled, hits: Sequence[Hit] = ()) -> None:
        self._compiled, self._hits = compiled, list(hits)
        self._filter = OutputFilter(compiled.moves)
        self._characters = 0

    def feed(self, chunk: str) -> str:
        """Take a piece of the text and return what may be shown now. Raises Blocked."""
        if self._compiled.is_idle:
            return chunk
        rule = self._outgrown(len(chunk))
        if rule:
            before = self._guarded(self._filter.feed, chunk[: rule.limit - self._characters])
            raise Blocked(rule, [*self.hits, Hit(rule, self._compiled.direction, 1)], before)
        self._characters += len(chunk)
        return self._guarded(self._filter.feed, chunk)

    def finish(self) -> str:
        """End the text and return the rest of it. Raises Blocked."""
        return "" if self._compiled.is_idle else self._guarded(lambda _: self._filter.finish(), "")

    @property
    def hits(self) -> list[Hit]:
        """What was found so far, one for each rule."""
        compiled = self._compiled
        found = sorted(self._filter.hits.items())
        streamed = [Hit(compiled.streamed[n], compiled.direction, count) for n, count in found]
        outgrown = [r for r in compiled.sizes if r.limit < self._characters]
        return [*self._hits, *streamed, *(Hit(rule, compiled.direction, 1) for rule in outgrown)]

    def _outgrown(self, more: int) -> Rule | None:
        """Return the rule that the text would be too long for, the strictest one."""
        blocking = [rule for rule in self._compiled.sizes if rule.action == Action.BLOCK]
        strictest = min(blocking, key=lambda rule: rule.limit, default=None)
        return strictest if strictest and self._characters + more > strictest.limit else None

    def _guarded(self, step: Any, chunk: str) -> str:
        try:
            return str(step(chunk))
        except Match as match:
            raise Blocked(
                self._compiled.streamed[match.rule], self.hits, match.before
            ) from None  # the frames of the filter hold the text


class SentenceRelease:
    """One reply that is let out by sentences, after the rules and the moderation have seen them."""

    def __init__(self, policy: Policy, moderator: Moderates) -> None:
        self._policy, self._moderator = policy, moderator
        self._screen = policy.output_filter()
        self._waiting, self._context = "", ""
        self._judged: list[Hit] = []

    async def feed(self, chunk: str) -> str:
        """Take a piece and return the sentences to show. Raises Blocked, ProviderFault."""
        self._waiting += await self._screened(chunk)
        return await self._let_out(_end_of_sentences(self._waiting))

    async def finish(self) -> str:
        """End the reply and return the rest of it. Raises Blocked, ProviderFault."""
        try:
            self._waiting += self._screen.finish()
        except Blocked as blocked:
            await self._blocked(blocked)
        return await self._let_out(len(self._waiting))

    @property
    def hits(self) -> list[Hit]:
        """What was found so far."""
        return [*self._screen.hits, *self._judged]

    async def _screened(self, chunk: str) -> str:
        try:
            return self._screen.feed(chunk)
        except Blocked as blocked:
            await self._blocked(blocked)
            raise

    async def _blocked(self, blocked: Blocked) -> None:
        """What stands before a match is judged as well before it may be shown."""
        self._waiting += blocked.before
        before = await self._let_out(len(self._waiting))
        raise Blocked(blocked.rule, [*blocked.hits, *self._judged], before) from None

    async def _let_out(self, up_to: int) -> str:
        sentences = self._waiting[:up_to]
        if not sentences:
            return ""
        try:
            self._judged += await self._policy.judge(self._context + sentences, self._moderator)
        except Blocked as blocked:
            raise Blocked(blocked.rule, [*self.hits, *blocked.hits]) from None
        self._waiting = self._waiting[up_to:]
        self._context = (self._context + sentences)[-JUDGED_CONTEXT:]
        return sentences


_SENTENCE_END = re.compile(r"(?s).*(?:[.!?…:;][\"”’')\]*_]*\s|[。！？]|\n)")


def _end_of_sentences(text: str) -> int:
    """Return the length of the whole sentences at the beginning of the text."""
    found = _SENTENCE_END.match(text)
    return found.end() if found else len(text) if len(text) > LONGEST_SENTENCE else 0


# --- the rules in force --------------------------------------------------------------------------


def current_policy() -> Policy:
    """Return the policy in force, at most KEPT_SECONDS old. One query, or none.

    Raises PatternRefused when a rule can't be applied: then nothing must pass.
    """
    return kept_policy.get()


def _read(before: Policy | None) -> Policy:
    rules = tuple(
        Rule.of(row, id=str(row.pk), version=row.version)
        for row in PolicyRule.objects.filter(is_active=True)
    )
    return before if before and before.rules == rules else Policy(rules)


kept_policy = Kept(_read)


def releases_by_sentence() -> bool:
    """Whether replies come by sentence now. Rules that can't be applied are told when one asks."""
    try:
        return current_policy().needs_whole_sentences
    except PatternRefused:
        return False


def record_hits(
    hits: Iterable[Hit],
    target: Target,
    *,
    by: Actor | None,
    turn: object = "",
    rolls_back: bool = False,
) -> None:
    """Write down what the rules found, one entry for each hit, without any content.

    `turn` is the reply's id. With `rolls_back` the entries stay when the caller's transaction is
    undone.
    """
    for hit in hits:
        rule = hit.rule
        told: dict[str, Any] = {
            "rule": rule.id,
            "version": rule.version,
            "direction": str(hit.direction),
            "action": str(rule.action),
            "count": hit.count,
        }
        outcome = "denied" if rule.action == Action.BLOCK else "succeeded"
        write = record_outside if rolls_back else record
        write(by, "policy.hit", target, outcome=outcome, turn=turn, **told)
