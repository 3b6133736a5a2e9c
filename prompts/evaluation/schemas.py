"""What looking at a reply by a JSON Schema may cost, told from the schema alone.

    refuse_costly(schema)       raises Costly

A validator follows each `$ref` anew. A few lines of definitions that name each other twice make 2^n
steps of it, and so do two ways in which a schema leads back to itself at the same place: then the
depth of the reply is n. So what a schema comes to with its references unfolded is bounded, and of
the places at which it leads back to itself none may lie in another.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

MAX_UNFOLDED = 2_000
MAX_LOOPS = 50

_SAME_PLACE = ("not", "if", "then", "else", "allOf", "anyOf", "oneOf")
_SAME_PLACE_BY_NAME = ("dependentSchemas", "dependencies")
_INSIDE = (
    *("items", "prefixItems", "additionalItems", "contains", "unevaluatedItems"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
)
_ANY = "*"

Place = tuple[str, ...]
"""Where in a reply a schema is applied: names of members, or any member or item."""


class Costly(ValueError):
    """Looking by this schema may take for ever. The message is a sentence for who wrote it."""


def refuse_costly(schema: Mapping[str, Any]) -> None:
    """Return if a look takes a time that grows with the reply alone. Raises Costly."""
    loops: list[Place] = []
    unfolded = 0
    waiting: list[tuple[Any, Place, frozenset[str]]] = [(schema, (), frozenset({"#"}))]
    while waiting:
        at, place, within = waiting.pop()
        if not isinstance(at, dict):
            continue
        unfolded += 1
        for inside, step in _subschemas(at):
            waiting.append((inside, (*place, step) if step else place, within))
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            pointer = at.get(name)
            if not isinstance(pointer, str):
                continue
            if pointer in within:
                loops.append(place)
            else:
                waiting.append((_named(schema, pointer), place, within | {pointer}))
        if unfolded > MAX_UNFOLDED or len(loops) > MAX_LOOPS:
            raise Costly("its “$ref” lead to too many schemas: use fewer.")
    if any(_meet(one, other) for one, other in combinations(loops, 2)):
        raise Costly("it leads back to itself by “$ref” in several ways at one place: leave one.")


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield what a schema applies, and the step from its place to theirs; empty: the same place."""
    for name in _SAME_PLACE + _INSIDE:
        given, step = schema.get(name), _ANY if name in _INSIDE else ""
        for each in given if isinstance(given, list) else [given]:
            yield each, step
    for name in (*_SAME_PLACE_BY_NAME, "patternProperties", "properties"):
        given = schema.get(name)
        for member, each in given.items() if isinstance(given, dict) else ():
            yield each, {"properties": member, "patternProperties": _ANY}.get(name, "")


def _named(schema: Any, pointer: str) -> Any:
    """Return what a pointer (RFC 6901) names in the schema. Raises Costly for other references."""
    at = schema
    if not pointer.startswith("#/"):
        raise Costly(f"“{pointer[:60]}” is no reference within it: they begin with #/.")
    for step in pointer[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and name.isdecimal() and int(name) < len(at):
            at = at[int(name)]
        elif isinstance(at, dict) and name in at:
            at = at[name]
        else:
            raise Costly(f"there is no {pointer[:60]} in it.")
    return at


def _meet(one: Place, other: Place) -> bool:
    """Whether one place may be the other, or lie in it."""
    return all(a == b or _ANY in {a, b} for a, b in zip(one, other, strict=False))
