"""Patterns and words of policy rules, compiled for text that arrives in pieces.

Patterns are RE2's, which takes time linear in the text whatever the pattern. RE2 can't say whether
the end of a text may yet become a match, nor read a text in several ways at once (as it is written
and as Markdown shows it), so what guards streams is an `Automaton` of our own over the same
language, walked one character at a time: at most one step for each character and each of its
places, and no backtracking. A pattern must be accepted by RE2, mean the same in Python's parser
(which gives us the tree), and be bounded, because what may become a match is held back.

Words are found as whole words, whatever their case; a space in them stands for any white space.
"""

import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import re2

LONGEST_MATCH = 256
"""Characters that a match may have in a reply."""
MOST_PLACES = 4_000
"""Places (characters, with repetitions written out) that one pattern may have."""
MOST_WORDS = 5_000

_parser: Any = import_module("re._parser")
_python: Any = import_module("re._constants")


class PatternRefused(ValueError):
    """A pattern can't be used. The message is a sentence that says why and what to do."""


def re2_compiled(pattern: str) -> Any:
    """Return RE2's compiled pattern. Raises PatternRefused."""
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise PatternRefused(f"This is no valid pattern: {_reason(error)}.") from None
    if compiled.search("") is not None:
        raise PatternRefused(
            "This pattern matches the empty text, and so everything. Replace * by + where it stands"
            " alone, or name at least one character."
        )
    return compiled


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def bounded_tree(pattern: str) -> Any:
    """Return the parsed tree of a pattern that may guard a reply. Raises PatternRefused.

    It is accepted by RE2 as well, matches one character at least and LONGEST_MATCH at most.
    """
    re2_compiled(pattern)
    for written in ("[:", "{,"):  # Python reads them in another way than RE2
        if written in pattern:
            raise _unreadable(f"“{written}”")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = _parser.parse(pattern)
    except (_python.error, RecursionError, OverflowError) as error:
        raise _unreadable(str(error)) from None
    longest = tree.getwidth()[1]
    if longest > LONGEST_MATCH:
        has = (
            "no longest match" if longest >= _python.MAXREPEAT else f"up to {longest:,} characters"
        )
        raise PatternRefused(
            f"A match of this pattern has {has}. While a reply arrives, what may become a match is"
            f" held back, and that can be {LONGEST_MATCH} characters at most. Give repetitions an"
            " upper bound, such as {1,64} instead of + or *."
        )
    return tree


def _unreadable(what: str) -> PatternRefused:
    return PatternRefused(
        f"For replies this pattern can't be used: {what}. Write it with plain characters, classes"
        r" such as [a-z] and \d, groups, |, bounded repetitions, \b, and (?i) at its beginning."
    )


# --- the automaton -------------------------------------------------------------------------------

# What a character is to a word boundary. RE2's \b knows ASCII alone; words know all letters.
ASCII_WORD, OTHER_WORD, NO_WORD = 1, 2, 4

# Conditions between two characters, as bits.
BOUNDARY, WORD_BOUNDARY = 1, 2

Test = Callable[[str], bool]


def kind_of(character: str) -> int:
    """Return ASCII_WORD, OTHER_WORD or NO_WORD."""
    if character.isascii():
        return ASCII_WORD if character.isalnum() or character == "_" else NO_WORD
    return OTHER_WORD if character.isalnum() else NO_WORD


def holds(conditions: int, before: int, after: int) -> bool:
    """Whether conditions can hold between a character of one of the kinds `before` and `after`.

    `before` is a set of kinds, as bits, because it may be open which character is shown there.
    """
    if conditions & BOUNDARY and not _can_differ(ASCII_WORD, before, after):
        return False
    return not conditions & WORD_BOUNDARY or _can_differ(ASCII_WORD | OTHER_WORD, before, after)


def _can_differ(word: int, before: int, after: int) -> bool:
    return bool(before & ~word if after & word else before & word)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a match can stand: before a character that passes `test`, or at its end (None).

    `conditions` must hold between the character before and the next one.
    """

    rule: int
    conditions: int
    test: Test | None
    following: int
    """The node behind the character."""


class Automaton:
    """All rules for streams in one nondeterministic automaton (Thompson's construction).

    Nodes are joined by edges that take a character and by free ones that may have a condition.
    `places_after` gives the places that a node leads to; places are what a walk remembers.
    """

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.starts: list[int] = []
        self._edges: list[list[tuple[Test, int]]] = []
        self._free: list[list[tuple[int, int]]] = []
        self._ends: dict[int, int] = {}
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._after: dict[int, tuple[int, ...]] = {}
        self._rule_of: list[int] = []
        self._lock = threading.Lock()  # turns of several threads may share an automaton
        self._rule = 0

    def add_pattern(self, rule: int, pattern: str) -> None:
        """Add a bounded pattern under the number of its rule. Raises PatternRefused."""
        tree = bounded_tree(pattern)
        self._rule = rule
        start = self._node()
        self._limit = len(self._edges) + MOST_PLACES
        end = self._sequence(tree, start, tree.state.flags)
        self._finish(rule, start, end)

    def add_words(self, rule: int, words: Iterable[str]) -> None:
        """Add words and phrases as a tree of their characters. Raises PatternRefused."""
        self._rule = rule
        root = self._node()
        branches: dict[tuple[int, str], int] = {}
        for word in checked_words(words):
            folded = [fold(character) for character in " ".join(word.split())]
            node = self._entered(root, branches, folded[0])
            for character in folded:
                node = self._branch(node, branches, character)
            self._ends[self._bounded(node, folded[-1])] = rule
        self.starts.extend(self.places_after(root))

    def _entered(self, root: int, branches: dict[tuple[int, str], int], first: str) -> int:
        key = (root, "a word" if _needs_boundary(first) else "a sign")
        if key not in branches:
            node = branches[key] = self._node()
            self._free[root].append((WORD_BOUNDARY if _needs_boundary(first) else 0, node))
        return branches[key]

    def _branch(self, node: int, branches: dict[tuple[int, str], int], character: str) -> int:
        key = (node, character)
        if key not in branches:
            following = branches[key] = self._node()
            test = _is_space if character == " " else _same_folded(character)
            self._edges[node].append((test, following))
        return branches[key]

    def _bounded(self, node: int, last: str) -> int:
        end = self._node()
        self._free[node].append((WORD_BOUNDARY if _needs_boundary(last) else 0, end))
        return end

    def _finish(self, rule: int, start: int, end: int) -> None:
        self._ends[end] = rule
        self.starts.extend(self.places_after(start))

    def places_after(self, node: int) -> tuple[int, ...]:
        """Return the numbers of the places that can be reached from a node without a character."""
        known = self._after.get(node)
        if known is None:
            with self._lock:
                known = self._after[node] = tuple(self._reached(node))
        return known

    def _reached(self, node: int) -> list[int]:
        found: dict[int, None] = {}
        seen = {(node, 0)}
        waiting = [(node, 0)]
        while waiting:
            at, conditions = waiting.pop()
            if at in self._ends:
                found[self._place(at, -1, conditions)] = None
            for index in range(len(self._edges[at])):
                found[self._place(at, index, conditions)] = None
            for condition, following in self._free[at]:
                step = (following, conditions | condition)
                if step not in seen:
                    seen.add(step)
                    waiting.append(step)
        return list(found)

    def _place(self, node: int, edge: int, conditions: int) -> int:
        key = (node, edge, conditions)
        if key not in self._numbers:
            self._numbers[key] = len(self.places)
            test, following = (None, node) if edge < 0 else self._edges[node][edge]
            self.places.append(Place(self._rule_of[node], conditions, test, following))
        return self._numbers[key]

    def _node(self) -> int:
        self._edges.append([])
        self._free.append([])
        self._rule_of.append(self._rule)
        return len(self._edges) - 1

    # From the parser's tree to nodes

    def _sequence(self, tree: Any, start: int, flags: int) -> int:
        for operation, value in tree:
            if len(self._edges) > self._limit:
                raise PatternRefused(
                    "This pattern is too large once its repetitions are written out. Split it into"
                    " several rules, or repeat less."
                )
            start = self._operation(operation, value, start, flags)
        return start

    def _operation(self, operation: Any, value: Any, start: int, flags: int) -> int:
        if operation is _python.BRANCH:
            end = self._node()
            for choice in value[1]:
                self._free[self._sequence(choice, start, flags)].append((0, end))
            return end
        if operation is _python.SUBPATTERN:
            _group, added, removed, inside = value
            return self._sequence(inside, start, (flags | added) & ~removed)
        if operation in {_python.MAX_REPEAT, _python.MIN_REPEAT}:
            return self._repeated(value, start, flags)
        if operation is _python.AT:
            return self._condition(value, start)
        end = self._node()
        self._edges[start].append((_test(operation, value, flags), end))
        return end

    def _repeated(self, value: Any, start: int, flags: int) -> int:
        least, most, inside = value
        # An inside of no width is the same however often it is repeated.
        most = min(most, 1) if inside.getwidth()[1] == 0 else most
        for _ in range(min(least, most)):
            start = self._sequence(inside, start, flags)
        end = self._node()
        for _ in range(most - min(least, most)):
            self._free[start].append((0, end))
            entry = self._node()
            self._free[start].append((0, entry))
            start = self._sequence(inside, entry, flags)
        self._free[start].append((0, end))
        return end

    def _condition(self, value: Any, start: int) -> int:
        if value is not _python.AT_BOUNDARY:
            raise PatternRefused(
                "For replies a pattern can't be tied to the edge of the text (^, $) or to the"
                r" inside of a word (\B): text arrives in pieces, and Markdown moves it. Use \b for"
                " the edge of a word."
            )
        end = self._node()
        self._free[start].append((BOUNDARY, end))
        return end


def checked_words(words: Iterable[str]) -> list[str]:
    """Return the words without empty ones and doubles. Raises PatternRefused."""
    kept = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not kept:
        raise PatternRefused("There is no word yet. Write one word or phrase on each line.")
    if len(kept) > MOST_WORDS:
        raise PatternRefused(f"There are {len(kept):,} words; {MOST_WORDS:,} is the most.")
    longest = max(kept, key=len)
    if len(longest) > LONGEST_MATCH:
        raise PatternRefused(
            f"The longest phrase has {len(longest)} characters; {LONGEST_MATCH} is the most,"
            " because what may become a match is held back while a reply arrives."
        )
    return kept


# --- tests of one character ----------------------------------------------------------------------


def fold(character: str) -> str:
    """Return what all cases of a character have in common, itself one character."""
    folded = character.casefold()
    return folded if len(folded) == 1 else character.lower()[:1]


def _needs_boundary(character: str) -> bool:
    # Scripts without spaces between words (from U+2E80 on, and Thai to Khmer) have no such edge.
    if "\u0e00" <= character <= "\u0eff" or "\u1780" <= character <= "\u17ff":
        return False
    return character < "\u2e80" and kind_of(character) != NO_WORD


def _is_space(character: str) -> bool:
    return character.isspace()


def _same_folded(folded: str) -> Test:
    return lambda character: fold(character) == folded


_SPACES = frozenset("\t\n\f\r ")
_CATEGORIES: dict[Any, Test] = {
    _python.CATEGORY_DIGIT: lambda c: "0" <= c <= "9",
    _python.CATEGORY_NOT_DIGIT: lambda c: not "0" <= c <= "9",
    _python.CATEGORY_WORD: lambda c: kind_of(c) == ASCII_WORD,
    _python.CATEGORY_NOT_WORD: lambda c: kind_of(c) != ASCII_WORD,
    _python.CATEGORY_SPACE: lambda c: c in _SPACES,
    _python.CATEGORY_NOT_SPACE: lambda c: c not in _SPACES,
}


def _test(operation: Any, value: Any, flags: int) -> Test:
    """Return the test for one character of the text. Raises PatternRefused."""
    if operation is _python.ANY:
        return (lambda _: True) if flags & _python.SRE_FLAG_DOTALL else (lambda c: c != "\n")
    if operation is _python.LITERAL:
        return _in_any_case(_literal(value), flags)
    if operation is _python.NOT_LITERAL:
        return _negated(_in_any_case(_literal(value), flags))
    if operation is _python.IN:
        is_negated = value[0][0] is _python.NEGATE
        within = _in_any_case(_one_of([_member(*item) for item in value[is_negated:]]), flags)
        return _negated(within) if is_negated else within
    raise _unreadable(str(operation).lower())


def _member(operation: Any, value: Any) -> Test:
    if operation is _python.LITERAL:
        return _literal(value)
    if operation is _python.RANGE:
        low, high = map(chr, value)
        return lambda c: low <= c <= high
    return _CATEGORIES[value]


def _literal(code: int) -> Test:
    wanted = chr(code)
    return lambda c: c == wanted


def _one_of(tests: list[Test]) -> Test:
    return lambda c: any(test(c) for test in tests)


def _negated(test: Test) -> Test:
    return lambda c: not test(c)


def _in_any_case(test: Test, flags: int) -> Test:
    if not flags & _python.SRE_FLAG_IGNORECASE:
        return test

    def passes(character: str) -> bool:
        cases = {character, character.lower(), character.upper(), fold(character)}
        cases |= {fold(character).upper(), *_EXTRA_CASES.get(fold(character), ())}
        return any(test(case) for case in cases if len(case) == 1)

    return passes


# Characters that are a case of a plain letter besides its capital.
_EXTRA_CASES = {"k": "\u212a", "s": "\u017f", "å": "\u212b"}
