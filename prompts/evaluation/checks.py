"""What a reply is held against. Nothing here waits, stores or asks anybody.

    check = check_of({"type": "contains", "text": "refund"})    raises NoCheck
    verdict = decided(check, Reply("…", tokens=12, seconds=0.8, cost_usd=Decimal(0)))

    contains, not_contains   text, or any of the texts in `any`; case does not matter
    regex, not_regex         a pattern of google-re2, found anywhere
    json_schema              the reply, or the one fenced block that it is, is JSON that fits
    max_tokens               of the reply; where the provider did not count them, estimated
    max_seconds              from the question to the end of the reply
    max_cost_usd             of the reply
    similarity               rapidfuzz.fuzz.token_set_ratio / 100 after utils.default_process, so
                             order, case and marks of words don't matter, nor words that come twice
    judge                    a model decides by a rubric (`judging.py`)

JSON Schema: draft 2020-12 unless the schema names another; nothing is fetched from elsewhere.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jsonschema_rs
import re2
import rfc8785
from rapidfuzz import fuzz, utils

from prompts.evaluation.schemas import refuse_costly

MAX_TEXT_CHARACTERS = 20_000
MAX_ALTERNATIVES = 50
MAX_PATTERN_CHARACTERS = 1_000
MAX_REASON_CHARACTERS = 500
_PATTERN_MEMORY_BYTES = 8 << 20
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")

Outcome = Literal["passed", "failed", "unparsable"]


class NoCheck(ValueError):
    """This can't be a check. The message is a sentence for who wrote it."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check as it was read. `terms` are its members but for the type."""

    kind: str
    terms: Mapping[str, Any]

    @property
    def says(self) -> str:
        """What it asks for, as people read it."""
        return KINDS[self.kind].says(self.terms)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is checked. `tokens` may be an estimate; `seconds` are from the question to the end."""

    text: str
    tokens: int
    seconds: float
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. `score` is in [0, 1] where the check has one.

    `unparsable`: a judge's answer could not be read. `judge` is the model that judged, `rubric` the
    hash of what it was asked by, and `prices` what its model cost in USD per million tokens.
    """

    kind: str
    outcome: Outcome
    reason: str = ""
    score: float | None = None
    judge: str = ""
    rubric: str = ""
    prices: str = ""

    @property
    def passed(self) -> bool:
        """Whether the check is met."""
        return self.outcome == "passed"

    def as_dict(self) -> dict[str, Any]:
        """Return it as the database holds it, without what is empty."""
        said = asdict(self) | {"reason": storable(self.reason)}
        return {name: value for name, value in said.items() if value not in {"", None}}


def storable(text: str) -> str:
    """Return what somebody said without what PostgreSQL holds in no text: NUL, half characters."""
    return _NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def check_of(given: Any) -> Check:
    """Return a check as JSON gives it; patterns and schemas are compiled. Raises NoCheck."""
    if not isinstance(given, dict):
        raise NoCheck('A check is an object: {"type": "contains", "text": "…"}.')
    kind = given.get("type")
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        named = f"“{str(kind)[:40]}”" if kind is not None else "without a type"
        raise NoCheck(f"There is no check {named}; there are {', '.join(KINDS)}.")
    terms = {name: value for name, value in given.items() if name != "type"}
    if unknown := sorted(terms.keys() - known.members):
        raise NoCheck(
            f"The check {kind} has no “{unknown[0][:40]}”: it has {' and '.join(known.members)}."
        )
    known.refuse(str(kind), terms)
    return Check(str(kind), terms)


def decided(check: Check, reply: Reply) -> Verdict:
    """Return what a check finds; not for `judge`, which a model decides."""
    decide = KINDS[check.kind].decide
    assert decide is not None, "a model decides what is judged"
    is_met, reason, score = decide(check.terms, reply)
    outcome: Outcome = "passed" if is_met else "failed"
    return Verdict(check.kind, outcome, reason[:MAX_REASON_CHARACTERS], score)


class _Found(NamedTuple):
    is_met: bool
    reason: str
    score: float | None = None


# --- texts ---------------------------------------------------------------------------------------


def _texts(terms: Mapping[str, Any]) -> list[str]:
    return [terms["text"]] if "text" in terms else list(terms["any"])


def _refuse_texts(kind: str, terms: Mapping[str, Any]) -> None:
    if len(terms) != 1:
        raise NoCheck(f"The check {kind} has either “text” or “any”, a list of texts.")
    if "any" in terms and not isinstance(terms["any"], list):
        raise NoCheck(f"“any” of the check {kind} is a list of texts.")
    texts = _texts(terms)
    if not 1 <= len(texts) <= MAX_ALTERNATIVES:
        raise NoCheck(f"“any” of the check {kind} has 1 to {MAX_ALTERNATIVES} texts.")
    for text in texts:
        _refuse_text(kind, "text", text)


def _refuse_text(kind: str, name: str, text: Any, most: int = MAX_TEXT_CHARACTERS) -> None:
    if not isinstance(text, str) or not text.strip():
        raise NoCheck(f"The check {kind} needs “{name}”, a text that is not empty.")
    if len(text) > most:
        raise NoCheck(f"“{name}” of the check {kind} has at most {most:,} characters.")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _quoted(texts: list[str]) -> str:
    return " or ".join(f"“{text[:60]}”" for text in texts[:5]) + (" or …" if texts[5:] else "")


def _contained(terms: Mapping[str, Any], reply: Reply) -> str | None:
    said = _folded(reply.text)
    return next((text for text in _texts(terms) if _folded(text) in said), None)


def _contains(terms: Mapping[str, Any], reply: Reply) -> _Found:
    if (found := _contained(terms, reply)) is not None:
        return _Found(True, f"It contains “{found[:60]}”.")
    return _Found(False, f"It does not contain {_quoted(_texts(terms))}.")


def _not_contains(terms: Mapping[str, Any], reply: Reply) -> _Found:
    if (found := _contained(terms, reply)) is not None:
        return _Found(False, f"It contains “{found[:60]}”.")
    return _Found(True, f"It does not contain {_quoted(_texts(terms))}.")


# --- patterns ------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _pattern(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        why = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise NoCheck(f"This is no pattern of google-re2: {why[:200]}.") from None


def _refuse_pattern(kind: str, terms: Mapping[str, Any]) -> None:
    _refuse_text(kind, "pattern", terms.get("pattern"), MAX_PATTERN_CHARACTERS)
    if _pattern(terms["pattern"]).search("") is not None:
        raise NoCheck(
            f"The pattern of {kind} matches the empty text, and so everything: name at least one"
            " character."
        )


def _regex(terms: Mapping[str, Any], reply: Reply) -> _Found:
    found = _pattern(terms["pattern"]).search(reply.text)
    if found is None:
        return _Found(False, f"Nothing in it matches {terms['pattern'][:100]}.")
    return _Found(True, f"“{found[0][:60]}” matches {terms['pattern'][:100]}.")


def _not_regex(terms: Mapping[str, Any], reply: Reply) -> _Found:
    found = _regex(terms, reply)
    return _Found(not found.is_met, found.reason)


# --- JSON Schema ---------------------------------------------------------------------------------

_FENCED = re.compile(r"```[A-Za-z0-9]*[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)


def _no_fetching(uri: str) -> Any:
    raise ValueError(f"{uri[:100]} lies elsewhere")


@lru_cache(maxsize=256)
def _schema(canonical: bytes) -> Any:
    schema = json.loads(canonical)
    refuse_costly(schema)
    return jsonschema_rs.validator_for(
        schema,
        retriever=_no_fetching,
        pattern_options=jsonschema_rs.RegexOptions(),
    )


def _refuse_schema(kind: str, terms: Mapping[str, Any]) -> None:
    schema = terms.get("schema")
    if not isinstance(schema, dict):
        raise NoCheck(f"The check {kind} needs “schema”, an object.")
    try:
        _schema(rfc8785.dumps(schema))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        why = getattr(error, "message", None) or str(error).partition("\n")[0]
        raise NoCheck(f"This is no JSON Schema that can be used: {why[:200]}") from None


def json_in(text: str) -> Any:
    """Return the JSON that a text is, or that the one fenced block is which it consists of.

    Raises ValueError; names that come twice, NaN and Infinity are no JSON.
    """
    text = text.strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("It is nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("A name comes twice in one object")
    return found


def _json_schema(terms: Mapping[str, Any], reply: Reply) -> _Found:
    try:
        said = json_in(reply.text)
    except ValueError as error:
        return _Found(False, f"It is no JSON: {error}.")
    try:
        _schema(rfc8785.dumps(terms["schema"])).validate(said)
    except jsonschema_rs.ValidationError as error:
        where = "/".join(map(str, error.instance_path)) or "the whole"
        return _Found(False, f"At {where[:100]}: {error.message[:300]}")
    except (ValueError, RecursionError):
        return _Found(False, "It is JSON that can't be looked at: nested too deeply.")
    return _Found(True, "It is JSON that fits the schema.")


# --- figures -------------------------------------------------------------------------------------


def _refuse_limit(kind: str, terms: Mapping[str, Any]) -> None:
    limit: Any = terms.get("limit")
    kinds = int if kind == "max_tokens" else int | float
    is_number = isinstance(limit, kinds) and not isinstance(limit, bool)
    if not is_number or not 0 < limit <= 1_000_000:
        whole = "a whole number" if kind == "max_tokens" else "a number"
        raise NoCheck(f"The check {kind} needs “limit”, {whole} above 0.")


def _max_tokens(terms: Mapping[str, Any], reply: Reply) -> _Found:
    return _Found(reply.tokens <= terms["limit"], f"{reply.tokens:,} tokens.")


def _max_seconds(terms: Mapping[str, Any], reply: Reply) -> _Found:
    return _Found(reply.seconds <= terms["limit"], f"{reply.seconds:.1f} seconds.")


def _max_cost_usd(terms: Mapping[str, Any], reply: Reply) -> _Found:
    return _Found(reply.cost_usd <= Decimal(str(terms["limit"])), f"${reply.cost_usd:f}.")


# --- likeness ------------------------------------------------------------------------------------


def _refuse_min(kind: str, terms: Mapping[str, Any]) -> None:
    least = terms.get("min")
    if not isinstance(least, int | float) or isinstance(least, bool) or not 0 < least <= 1:
        raise NoCheck(f"The check {kind} needs “min”, a number above 0 and at most 1.")


def _refuse_similarity(kind: str, terms: Mapping[str, Any]) -> None:
    _refuse_text(kind, "reference", terms.get("reference"))
    if not utils.default_process(terms["reference"]):
        raise NoCheck(f"The check {kind} needs a reference with words in it.")
    _refuse_min(kind, terms)


def _similarity(terms: Mapping[str, Any], reply: Reply) -> _Found:
    ratio = fuzz.token_set_ratio(reply.text, terms["reference"], processor=utils.default_process)
    score = round(ratio / 100, 4)
    return _Found(score >= terms["min"], f"Similarity {score:.2f}.", score)


def _refuse_judge(kind: str, terms: Mapping[str, Any]) -> None:
    _refuse_text(kind, "rubric", terms.get("rubric"), 4_000)
    _refuse_min(kind, terms)


# --- the kinds -----------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of check: its members, what refuses them, how it decides, how people read it."""

    members: tuple[str, ...]
    refuse: Callable[[str, Mapping[str, Any]], None]
    decide: Callable[[Mapping[str, Any], Reply], _Found] | None
    says: Callable[[Mapping[str, Any]], str]


KINDS: dict[str, Kind] = {
    "contains": Kind(
        ("text", "any"), _refuse_texts, _contains, lambda t: f"contains {_quoted(_texts(t))}"
    ),
    "not_contains": Kind(
        ("text", "any"),
        _refuse_texts,
        _not_contains,
        lambda t: f"does not contain {_quoted(_texts(t))}",
    ),
    "regex": Kind(("pattern",), _refuse_pattern, _regex, lambda t: f"matches {t['pattern']}"),
    "not_regex": Kind(
        ("pattern",), _refuse_pattern, _not_regex, lambda t: f"does not match {t['pattern']}"
    ),
    "json_schema": Kind(
        ("schema",), _refuse_schema, _json_schema, lambda _: "is JSON that fits a schema"
    ),
    "max_tokens": Kind(
        ("limit",), _refuse_limit, _max_tokens, lambda t: f"at most {t['limit']:,} tokens"
    ),
    "max_seconds": Kind(
        ("limit",), _refuse_limit, _max_seconds, lambda t: f"at most {t['limit']:g} seconds"
    ),
    "max_cost_usd": Kind(
        ("limit",), _refuse_limit, _max_cost_usd, lambda t: f"costs at most ${t['limit']:g}"
    ),
    "similarity": Kind(
        ("reference", "min"),
        _refuse_similarity,
        _similarity,
        lambda t: f"similar to a reference by {t['min']:g} or more",
    ),
    "judge": Kind(
        ("rubric", "min"),
        _refuse_judge,
        None,
        lambda t: f"judged {t['min']:g} or better by: {t['rubric'][:200]}",
    ),
}
