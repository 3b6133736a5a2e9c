"""Templates in a small part of Jinja's language, rendered within fixed bounds.

    template = compiled(source, variables)      raises Refused, with the line and the reason
    text = template.render({"today": …})        raises Refused when a bound is reached

Jinja parses and renders, in its immutable sandbox with strict undefined names. What it parsed must
pass a list of what is allowed before it is compiled: text, `{{ … }}` with names, texts and filters,
`if`/`elif`/`else` with comparisons, `for` over a declared list, comments. There are no calls,
attributes, subscripts, arithmetic, assignments, includes or macros. Tags alone on their line leave
no line (`trim_blocks`, `lstrip_blocks`).

Every expression has a kind that is known when a template is saved, and every name must be declared
or known to a turn; so what was accepted can only fail by its bounds. Each loop pays for the parts
of its body at every turn, and each value for its characters before it is compared or filtered, from
one budget (`MAX_WORK`): time and memory are bounded by construction.

Syntax: Jinja 3.1, template designer documentation.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SOURCE_BYTES = 64 * 1024
MAX_OUTPUT_CHARACTERS = 128 * 1024
MAX_ITERATIONS = 10_000
MAX_WORK = 250_000
"""Steps and characters of one rendering, together."""

MAX_NESTING = 8
MAX_DEPTH = 60
"""Of what Jinja makes of an expression; a chain of `and` goes one deeper with each word."""
MAX_NODES = 5_000
MAX_VARIABLES = 50
MAX_TEXT_CHARACTERS = 20_000
MAX_ITEMS = 200

Value = str | bool | int | tuple[str, ...]


class Refused(ValueError):
    """A template, or what it was given, can't be rendered. The message is for its author.

    `line` counts from 1; None where the reason stands in no line.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"Line {line}: {reason}")
        self.reason, self.line = reason, line


class Kind(StrEnum):
    """What a value is. Numbers arise from `length` and are never declared."""

    TEXT = "text"
    LIST = "list"
    FLAG = "flag"
    NUMBER = "number"


DECLARABLE = (Kind.TEXT, Kind.LIST, Kind.FLAG)
# What each turn knows without asking anybody.
KNOWN = {"today": Kind.TEXT, "weekday": Kind.TEXT}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_WORDS = {
    *("and", "or", "not", "in", "is", "if", "elif", "else", "endif", "for", "endfor"),
    *("true", "false", "none", "loop", "self", "super", "varargs", "kwargs", "caller"),
}


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared name with the value that it has unless another is given.

    `required`: an empty value is refused.
    """

    name: str
    kind: Kind
    required: bool = False
    default: str | bool | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.lower() in _WORDS:
            raise Refused(
                f"“{self.name[:40]}” can't be a name: use letters, digits and _, at most 40."
            )
        if self.name in KNOWN:
            raise Refused(f"{self.name} is known in every turn: leave it out of the variables.")
        if self.kind not in DECLARABLE:
            raise Refused(f"{self.name}: a variable is a text, a list or a flag.")
        self.check(self.default)

    def check(self, value: object) -> None:
        """Return if the variable may have this value. Raises Refused."""
        _check(self.name, self.kind, value)
        if self.required and value in {"", ()}:
            raise Refused(f"{self.name} is required and has no value: give it a default.")


def _check(name: str, kind: Kind, value: object) -> None:
    if not isinstance(value, {Kind.TEXT: str, Kind.LIST: tuple, Kind.FLAG: bool}[kind]):
        raise Refused(f"{name} is declared as a {kind}, and the value is none.")
    texts = value if isinstance(value, tuple) else (value,)
    if len(texts) > MAX_ITEMS:
        raise Refused(f"{name} has {len(texts)} items; {MAX_ITEMS} is the most.")
    if not all(isinstance(text, str) for text in texts) and kind != Kind.FLAG:
        raise Refused(f"{name}: the items of a list are texts.")
    if sum(len(text) for text in texts if isinstance(text, str)) > MAX_TEXT_CHARACTERS:
        raise Refused(f"{name} is too long: {MAX_TEXT_CHARACTERS:,} characters are the most.")


def declared(stored: Sequence[Mapping[str, Any]]) -> tuple[Variable, ...]:
    """Return variables as they were stored (`stored_form`). Raises Refused."""
    if len(stored) > MAX_VARIABLES:
        raise Refused(f"There are {len(stored)} variables; {MAX_VARIABLES} is the most.")
    found = tuple(
        Variable(
            one["name"],
            Kind(one["kind"]),
            bool(one["required"]),
            tuple(one["default"]) if one["kind"] == Kind.LIST else one["default"],
        )
        for one in stored
    )
    names = [variable.name for variable in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Refused(f"{twice} is declared twice.")
    return found


def stored_form(variables: Sequence[Variable]) -> list[dict[str, Any]]:
    """Return variables as JSON holds them."""
    return [
        {
            "name": one.name,
            "kind": one.kind.value,
            "required": one.required,
            "default": list(one.default) if isinstance(one.default, tuple) else one.default,
        }
        for one in variables
    ]


def with_line_feeds(source: str) -> str:
    """Return the source with LF as its line end, as templates are stored."""
    return source.replace("\r\n", "\n").replace("\r", "\n")


class Template:
    """A source that was understood. Safe to share by threads."""

    def __init__(self, source: str, variables: Sequence[Variable]) -> None:
        if len(source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
            raise Refused(f"The template is too long: {MAX_SOURCE_BYTES // 1024} KB is the most.")
        self._variables = {variable.name: variable for variable in variables}
        kinds = {**KNOWN, **{variable.name: variable.kind for variable in variables}}
        tree = _parsed(source)
        _Grammar(kinds).body(tree.body)
        for loop in list(tree.find_all(nodes.For)):
            _metered(loop)
        self._template = _ENVIRONMENT.from_string(tree)

    def render(self, given: Mapping[str, Value] | None = None) -> str:
        """Return the text for these values; what is not given has its default.

        Every name of KNOWN must be given. Raises Refused for a value that does not fit, and at
        MAX_OUTPUT_CHARACTERS, MAX_ITERATIONS and MAX_WORK.
        """
        run = _Run()
        values: dict[str, Any] = {**self._values(given or {}), _RUN: run}
        out = []
        for piece in self._template.generate(values):
            run.wrote(len(piece))
            out.append(piece)
        return "".join(out)

    def _values(self, given: Mapping[str, Value]) -> dict[str, Value]:
        if unknown := sorted(given.keys() - self._variables.keys() - KNOWN.keys()):
            raise Refused(f"There is no variable {unknown[0][:40]}.")
        values: dict[str, Value] = {}
        for name, variable in self._variables.items():
            values[name] = given.get(name, variable.default)
            variable.check(values[name])
        for name, kind in KNOWN.items():
            _check(name, kind, given.get(name))
            values[name] = given[name]
        return values


@lru_cache(maxsize=512)
def compiled(source: str, variables: tuple[Variable, ...] = ()) -> Template:
    """Return the template, from memory where it was understood before. Raises Refused."""
    return Template(source, variables)


# --- one rendering ----------------------------------------------------------------------------


_RUN = " run"  # no template can name it


class _Run:
    """What is left of the bounds of one rendering, and the line at which it is."""

    def __init__(self) -> None:
        self._room, self._work, self._turns = MAX_OUTPUT_CHARACTERS, MAX_WORK, MAX_ITERATIONS
        self.line = 1

    def spend(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise Refused("The template takes too long: fewer or shorter loops help.", self.line)

    def turn(self) -> None:
        self._turns -= 1
        if self._turns < 0:
            reason = f"The loops go round more than {MAX_ITERATIONS:,} times together."
            raise Refused(reason, self.line)

    def wrote(self, characters: int) -> None:
        self.spend(1 + characters)
        self._room -= characters
        if self._room < 0:
            reason = f"The text gets longer than {MAX_OUTPUT_CHARACTERS:,} characters."
            raise Refused(reason, self.line)


def _weight(value: Any) -> int:
    if isinstance(value, tuple):
        return 1 + len(value) + sum(map(len, value))
    return 1 + len(value) if isinstance(value, str) else 1


@pass_context
def _paid(context: Context, value: Any, line: int) -> Any:
    """Give the value on, once its characters are paid for."""
    run: _Run = context[_RUN]
    run.line = line
    run.spend(_weight(value))
    return value


@pass_context
def _turns(context: Context, items: tuple[str, ...], parts: int, line: int) -> Iterator[str]:
    """Yield the items; each turn of the loop pays for the parts of its body."""
    run: _Run = context[_RUN]
    for item in items:
        run.line = line
        run.turn()
        run.spend(1 + parts)
        yield item


@pass_context
def _join(context: Context, items: tuple[str, ...], between: str = "") -> str:
    context[_RUN].spend(len(between) * len(items))
    return between.join(items)


# --- the language -----------------------------------------------------------------------------


class _Filter(NamedTuple):
    takes: tuple[Kind, ...]
    gives: Kind
    apply: Callable[..., Any]
    arguments: int = 0


_FILTERS = {
    "upper": _Filter((Kind.TEXT,), Kind.TEXT, str.upper),
    "lower": _Filter((Kind.TEXT,), Kind.TEXT, str.lower),
    "capitalize": _Filter((Kind.TEXT,), Kind.TEXT, str.capitalize),
    "trim": _Filter((Kind.TEXT,), Kind.TEXT, str.strip),
    "length": _Filter((Kind.TEXT, Kind.LIST), Kind.NUMBER, len),
    "join": _Filter((Kind.LIST,), Kind.TEXT, _join, arguments=1),
}


def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,  # what comes out is told to a model, never shown as HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        optimized=False,  # nothing is worked out before its bounds are known
    )
    made.globals.clear()
    made.tests.clear()
    made.filters = {name: one.apply for name, one in _FILTERS.items()}
    made.filters |= {"paid": _paid, "turns": _turns}
    return made


_ENVIRONMENT = _environment()


def _parsed(source: str) -> nodes.Template:
    try:
        return _ENVIRONMENT.parse(with_line_feeds(source))
    except TemplateSyntaxError as error:
        raise Refused(_sentence(error.message or "This is not understood"), error.lineno) from error
    except RecursionError as error:
        raise Refused("This is nested too deeply.") from error
    except (ValueError, OverflowError) as error:  # numbers and escapes that Python can't read
        raise Refused("A number or a text in it can't be read.") from error


def _sentence(said: str) -> str:
    return f"{said[:1].upper()}{said[1:300].rstrip('.')}."


class _Grammar:
    """Refuses what is not in the language, and makes comparisons and filters pay."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = dict(kinds)
        self._left = MAX_NODES
        self._nesting = self._depth = 0

    def body(self, body: Sequence[nodes.Node]) -> None:
        for node in body:
            self._count(node)
            if isinstance(node, nodes.Output):
                node.nodes = [self._shown(part) for part in node.nodes]
            elif isinstance(node, nodes.If):
                self._nested(node, self._if)
            elif isinstance(node, nodes.For):
                self._nested(node, self._for)
            else:
                _refuse(node, _NO_BLOCK.get(type(node), _ONLY_IF_AND_FOR))

    def _nested(self, node: Any, check: Callable[[Any], None]) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            _refuse(node, f"This is nested too deeply: {MAX_NESTING} levels are the most.")
        check(node)
        self._nesting -= 1

    def _if(self, block: nodes.If) -> None:
        for branch in (block, *block.elif_):
            self._kind(branch.test)
            self.body(branch.body)
        self.body(block.else_)

    def _for(self, loop: nodes.For) -> None:
        if not (isinstance(loop.target, nodes.Name) and isinstance(loop.iter, nodes.Name)):
            _refuse(loop, "A loop is written: for name in list.")
        if loop.test or loop.recursive:
            _refuse(loop, "A loop goes over the whole list, and once: put an if inside.")
        name = loop.target.name
        if name in self._kinds or name.lower() in _WORDS or not _NAME.fullmatch(name):
            _refuse(loop, f"“{name[:40]}” can't be the loop's name: it has another meaning.")
        if self._kind(loop.iter) != Kind.LIST:
            _refuse(loop, f"{loop.iter.name[:40]} is no list: a loop goes over a declared list.")
        self._kinds[name] = Kind.TEXT
        self.body(loop.body)
        del self._kinds[name]
        self.body(loop.else_)

    # expressions

    def _shown(self, part: nodes.Expr) -> nodes.Expr:
        if isinstance(part, nodes.TemplateData):
            self._count(part)
            return part
        kind = self._kind(part)
        if kind == Kind.LIST:
            _refuse(part, 'A list can\'t be shown as it is: add |join(", "), or use for.')
        if kind == Kind.FLAG:
            _refuse(part, "A flag has no text: use if.")
        return part

    def _kind(self, node: nodes.Node) -> Kind:
        """Return what kind of value an expression has; it is made to pay on the way."""
        self._count(node)
        check = self._EXPRESSIONS.get(type(node))
        if check is None:
            _refuse(node, _NO_EXPRESSION.get(type(node), _NO_ARITHMETIC))
        self._depth += 1
        if self._depth > MAX_DEPTH:
            _refuse(node, "This expression is too long.")
        kind = check(self, node)
        self._depth -= 1
        return kind

    def _name(self, node: nodes.Name) -> Kind:
        if node.name not in self._kinds:
            names = ", ".join(sorted(self._kinds))
            _refuse(node, f"“{node.name[:40]}” is not declared. There are {names}.")
        return self._kinds[node.name]

    def _constant(self, node: nodes.Const) -> Kind:
        if isinstance(node.value, bool):
            return Kind.FLAG
        if isinstance(node.value, str):
            return Kind.TEXT
        if not isinstance(node.value, int) or node.value >= 1_000_000:
            _refuse(node, "Here only a text, a flag or a number of up to six digits is possible.")
        return Kind.NUMBER

    def _filter(self, node: nodes.Filter) -> Kind:
        chosen = _FILTERS.get(node.name)
        if chosen is None:
            _refuse(
                node, f"There is no filter “{node.name[:40]}”; there are {', '.join(_FILTERS)}."
            )
        if node.node is None:
            _refuse(node, _ONLY_IF_AND_FOR)
        kind = self._kind(node.node)
        if kind not in chosen.takes:
            _refuse(node, f"The filter {node.name} does not take a {kind}.")
        if node.kwargs or node.dyn_args or node.dyn_kwargs or len(node.args) > chosen.arguments:
            _refuse(node, f"The filter {node.name} takes nothing of that kind.")
        for argument in node.args:
            if not (isinstance(argument, nodes.Const) and isinstance(argument.value, str)):
                _refuse(node, "Give the filter a text in quotation marks.")
        node.node = _paying(node.node)
        return chosen.gives

    def _compare(self, node: nodes.Compare) -> Kind:
        if len(node.ops) > 1:
            _refuse(node, "One comparison at a time: join them with and.")
        [operand] = node.ops
        left, right = self._kind(node.expr), self._kind(operand.expr)
        if operand.op in {"in", "notin"}:
            fits = left == Kind.TEXT and right in {Kind.TEXT, Kind.LIST}
        elif operand.op in {"eq", "ne"}:
            fits = left == right
        else:
            fits = left == right == Kind.NUMBER
        if not fits:
            _refuse(node, f"A {left} and a {right} can't be compared like that.")
        node.expr, operand.expr = _paying(node.expr), _paying(operand.expr)
        return Kind.FLAG

    def _both(self, node: nodes.BinExpr) -> Kind:
        self._kind(node.left)
        self._kind(node.right)
        return Kind.FLAG

    def _negated(self, node: nodes.Not) -> Kind:
        self._kind(node.node)
        return Kind.FLAG

    _EXPRESSIONS: dict[type[nodes.Node], Callable[["_Grammar", Any], Kind]] = {
        nodes.Name: _name,
        nodes.Const: _constant,
        nodes.Filter: _filter,
        nodes.Compare: _compare,
        nodes.And: _both,
        nodes.Or: _both,
        nodes.Not: _negated,
    }

    def _count(self, node: nodes.Node) -> None:
        self._left -= 1
        if self._left < 0:
            _refuse(node, f"The template has too many parts: {MAX_NODES:,} are the most.")


def _metered(loop: nodes.For) -> None:
    """Let a loop that passed the check pay for each of its turns."""
    parts = sum(1 for part in loop.body for _ in _all(part))
    assert isinstance(loop.iter, nodes.Name), "the check lets loops go over names alone"
    loop.iter = _with_filter(loop.iter, "turns", parts, loop.lineno)


def _all(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _all(child)


def _paying(node: nodes.Expr) -> nodes.Expr:
    return _with_filter(node, "paid", node.lineno)


def _with_filter(node: nodes.Expr, name: str, *arguments: int) -> nodes.Expr:
    given = [nodes.Const(each) for each in arguments]
    made = nodes.Filter(node, name, given, [], None, None, lineno=node.lineno)
    made.set_environment(_ENVIRONMENT)
    return made


_NO_ARITHMETIC = "Templates do not calculate; work it out before, and put the result here."
_ONLY_IF_AND_FOR = "Only if and for are possible in templates."
_NO_BLOCK: dict[type[nodes.Node], str] = {
    nodes.Assign: "Templates set nothing. To compare, write ==.",
    nodes.AssignBlock: "Templates set nothing.",
}
_NO_EXPRESSION: dict[type[nodes.Node], str] = {
    nodes.Getattr: "Attributes are not possible: only names, filters and texts.",
    nodes.Getitem: "Subscripts are not possible: use for, or the filter join.",
    nodes.Call: "Calls are not possible.",
    nodes.CondExpr: "An if inside {{ }} is not possible: use {% if %}.",
    nodes.List: "Lists are declared as variables, not written in the text.",
    nodes.Tuple: "One value at a time, without commas.",
    nodes.Dict: "Dictionaries are not possible.",
    nodes.Test: "Tests with “is” are not possible: compare, or use if.",
}


def _refuse(node: nodes.Node, reason: str) -> NoReturn:
    raise Refused(reason, next((part.lineno for part in _all(node) if part.lineno), None))
