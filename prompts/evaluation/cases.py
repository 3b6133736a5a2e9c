"""The cases of an evaluation set, read from JSON Lines: one case in a line.

    {"id": "refund-1", "tags": ["refusal"], "variables": {"organisation": "Acme"},
     "turns": [{"role": "user", "content": "…"}], "checks": [{"type": "contains", "text": "…"}]}

`turns` are those of the user and of the assistant in turn, the last one is the user's. `variables`
stand in place of the template's defaults. `checks` are those of `checks.KINDS`. `tags` and
`variables` may be left out.

Everything is bounded, and nothing is half-read: a line that can't be a case refuses the whole file,
with its number and what to do. JSON: RFC 8259, without names that come twice, NaN and Infinity.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import rfc8785

from prompts.evaluation.checks import Check, NoCheck, check_of
from prompts.rendering import Value

MAX_BYTES = 4 * 1024 * 1024
MAX_CASES = 1_000
MAX_LINE_BYTES = 128 * 1024
MAX_DEPTH = 24
MAX_TURNS = 40
MAX_CHECKS = 20
MAX_TAGS = 10

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # and not a backslash before the word u0000
_MEMBERS = {"id", "tags", "turns", "variables", "checks"}


class Malformed(ValueError):
    """The file holds no cases. The message is a sentence for who wrote it; `line` counts from 1."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"Line {line}: {reason}")
        self.reason, self.line = reason, line


@dataclass(frozen=True, slots=True)
class Case:
    """One question, with what was said before it and what its reply is held against."""

    id: str
    turns: tuple[Mapping[str, str], ...]
    checks: tuple[Check, ...]
    tags: tuple[str, ...] = ()
    variables: Mapping[str, Value] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """What the user says last."""
        return self.turns[-1]["content"]


@dataclass(frozen=True, slots=True)
class Read:
    """A file that was understood: its cases, its lines as they were given, its digest in hex."""

    cases: tuple[Case, ...]
    lines: str
    digest: str


def read(data: bytes | str) -> Read:
    """Return the cases of a file. Raises Malformed."""
    text = _text(data)
    cases: list[Case] = []
    said: list[Any] = []
    lines: list[str] = []
    at_line: dict[str, int] = {}
    for number, line in _lines(text):
        if len(cases) == MAX_CASES:
            raise Malformed(f"A set has at most {MAX_CASES:,} cases: split it.", number)
        value = _parsed(line, number)
        case = _case(value, number)
        if case.id in at_line:
            raise Malformed(
                f"The id {case.id} is that of line {at_line[case.id]} too: give each case its own.",
                number,
            )
        at_line[case.id] = number
        cases.append(case)
        said.append(value)
        lines.append(line)
    if not cases:
        raise Malformed("There is no case in it: write one case in each line, as JSON.")
    return Read(tuple(cases), "\n".join(lines) + "\n", hashlib.sha256(_canonical(said)).hexdigest())


@lru_cache(maxsize=16)
def cases_of(lines: str) -> tuple[Case, ...]:
    """Return the cases of a stored version, from memory where they were read before."""
    return read(lines).cases


def _text(data: bytes | str) -> str:
    size = len(data) if isinstance(data, bytes) else len(data.encode(errors="replace"))
    if size > MAX_BYTES:
        raise Malformed(f"The file is larger than {MAX_BYTES // 1024**2} MB: split the set.")
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Malformed("This is not UTF-8: save the file with this encoding.", line) from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, by number."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


# --- JSON ----------------------------------------------------------------------------------------


class _NotJson(ValueError):
    """The message ends a sentence that begins with the line's number."""


def _parsed(line: str, number: int) -> Any:
    if len(line.encode(errors="replace")) > MAX_LINE_BYTES:
        raise Malformed(f"A case has at most {MAX_LINE_BYTES // 1024} KB: shorten it.", number)
    try:
        value = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
        if _depth(value) > MAX_DEPTH:
            raise _NotJson(f"This is nested deeper than {MAX_DEPTH} levels: flatten it.")
        _canonical(value)
    except json.JSONDecodeError as error:
        raise Malformed(
            f"This is no JSON: {error.msg}, at character {error.colno}. One case, whole, in each"
            " line.",
            number,
        ) from None
    except _NotJson as error:
        raise Malformed(str(error), number) from None
    except RecursionError:
        raise Malformed(f"This is nested deeper than {MAX_DEPTH} levels.", number) from None
    except (ValueError, OverflowError):
        raise Malformed(
            "A number is too large, or a text holds half a character: write it otherwise.", number
        ) from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotJson(f"“{twice[:40]}” comes twice in one object: leave one of them out.")
    return found


def _no_constant(name: str) -> Any:
    raise _NotJson(f"{name} is no number of JSON: leave it out.")


def _depth(value: Any) -> int:
    """Return how many objects and lists stand in each other, without recursion."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        at, depth = waiting.pop()
        if not isinstance(at, dict | list):
            continue
        deepest = max(deepest, depth)
        inside = at.values() if isinstance(at, dict) else at
        waiting += [(each, depth + 1) for each in inside]
    return deepest


def _canonical(value: Any) -> bytes:
    """Raises ValueError for what canonical JSON can't hold, lone surrogates among it."""
    if _NUL.search(said := rfc8785.dumps(value)):
        raise _NotJson("A text holds the character NUL: leave it out.")
    return said


# --- a case --------------------------------------------------------------------------------------


def _case(value: Any, number: int) -> Case:
    try:
        if not isinstance(value, dict):
            raise _NotJson('A case is an object: {"id": …, "turns": […], "checks": […]}.')
        return Case(
            id=_id(_given(value, "id")),
            turns=_turns(_given(value, "turns")),
            checks=_checks(_given(value, "checks")),
            tags=_tags(value.get("tags", [])),
            variables=_variables(value.get("variables", {})),
        )
    except (_NotJson, NoCheck) as error:
        raise Malformed(str(error), number) from None


def _given(value: Mapping[str, Any], name: str) -> Any:
    if unknown := sorted(value.keys() - _MEMBERS):
        raise _NotJson(f"A case has no “{unknown[0][:40]}”: it has {', '.join(sorted(_MEMBERS))}.")
    if name not in value:
        raise _NotJson(f"The case has no {name}: add it.")
    return value[name]


def _id(given: Any) -> str:
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise _NotJson("The id is a text of 1 to 80 letters, digits, dots, _ and -: change it.")
    return given


def _turns(given: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_TURNS:
        raise _NotJson(f"The turns are a list of 1 to {MAX_TURNS}, the last one the user's.")
    first = 0 if len(given) % 2 else 1
    for at, turn in enumerate(given):
        if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
            raise _NotJson(f"Turn {at + 1} has to be an object with role and content, no more.")
        if turn["role"] != ("assistant" if (at + first) % 2 else "user"):
            raise _NotJson("The turns alternate between user and assistant, and end with user.")
        if not isinstance(turn["content"], str) or not turn["content"].strip():
            raise _NotJson(f"Turn {at + 1} has no content: write what is said there.")
    return tuple(given)


def _checks(given: Any) -> tuple[Check, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_CHECKS:
        raise _NotJson(f"The checks are a list of 1 to {MAX_CHECKS}.")
    return tuple(check_of(each) for each in given)


def _tags(given: Any) -> tuple[str, ...]:
    fits = isinstance(given, list) and len(given) <= MAX_TAGS
    if not fits or not all(isinstance(tag, str) and _NAME.fullmatch(tag) for tag in given):
        raise _NotJson(f"The tags are a list of at most {MAX_TAGS} words.")
    return tuple(given)


def _variables(given: Any) -> Mapping[str, Value]:
    if not isinstance(given, dict):
        raise _NotJson('The variables are an object: {"name": "value"}.')
    return {name: _value(name, value) for name, value in given.items()}


def _value(name: str, value: Any) -> Value:
    if isinstance(value, str | bool):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _NotJson(f"The variable {name[:40]} is a text, a list of texts, true or false.")


def judged_checks(case: Case) -> Sequence[int]:
    """Return where among the case's checks those stand that a model judges."""
    return [at for at, check in enumerate(case.checks) if check.kind == "judge"]
