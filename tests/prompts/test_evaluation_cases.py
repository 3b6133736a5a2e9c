"""Cases and checks: what is read, what is refused and how that is said, what a reply meets."""

import json
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.evaluation import cases, judging
from prompts.evaluation.cases import MAX_CASES, MAX_DEPTH, MAX_LINE_BYTES, Malformed, read
from prompts.evaluation.checks import KINDS, NoCheck, Reply, check_of, decided
from prompts.evaluation.judging import Unparsable, judgement_in, question_for, verdict_on
from tests.prompts.evaluations import case, lines

GOOD = {
    "id": "a",
    "turns": [{"role": "user", "content": "Hello?"}],
    "checks": [{"type": "contains", "text": "x"}],
}
TURN = GOOD["turns"][0]


def line(**changes) -> str:
    return json.dumps({**GOOD, **changes})


# --- reading -------------------------------------------------------------------------------------


def test_what_was_given_is_given_back_and_the_digest_is_of_what_it_means():
    text = line() + "\n\n" + line(id="b", tags=["refusal"], variables={"n": ["x"], "f": True})
    found = read(text)
    assert found.lines == text.replace("\n\n", "\n") + "\n"
    assert [one.id for one in found.cases] == ["a", "b"]
    assert found.cases[1].variables == {"n": ("x",), "f": True}
    assert read(found.lines) == found
    spaced = "\n".join(json.dumps(json.loads(one), indent=None, separators=(" , ", " : "))
                       for one in found.lines.splitlines())  # fmt: skip
    assert read(spaced.encode()).digest == found.digest
    assert read(line(id="c")).digest != read(line()).digest


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble():
    assert len(read(b"\xef\xbb\xbf" + f"{line()}\r\n{line(id='b')}\r\n".encode()).cases) == 2


def test_a_backslash_before_the_word_u0000_is_no_nul():
    said = [{"role": "user", "content": r"What does \u0000 mean in \\u0000?"}]
    assert read(line(turns=said)).cases[0].turns == tuple(said)
    with pytest.raises(Malformed, match="NUL"):
        read(line(turns=[{"role": "user", "content": "\\\0"}]))


DEEP = json.dumps({**GOOD, "turns": "…"}).replace('"\\u2026"', "[" * 30 + "]" * 30)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "There is no case in it"),
        (" \n\n", "There is no case in it"),
        ("{", "Line 1: This is no JSON"),
        (f"{line()}\n{{}}", "Line 2: The case has no id: add it."),
        (f"{line()}\n\n{line()}", "Line 3: The id a is that of line 1 too"),
        ("[]", "Line 1: A case is an object"),
        (line(more=1), "Line 1: A case has no “more”: it has checks, id, tags"),
        ('{"id": "a", "id": "b"}', "Line 1: “id” comes twice"),
        (line(id="a b"), "The id is a text of"),
        (line(id=7), "The id is a text of"),
        (line(turns=[]), "The turns are a list of 1 to 40"),
        (line(turns=[TURN, TURN]), "The turns alternate"),
        (line(turns=[TURN, {**TURN, "role": "assistant"}]), "end with user"),
        (line(turns=[{"role": "system", "content": "x"}]), "The turns alternate"),
        (line(turns=[{**TURN, "name": "x"}]), "Turn 1 has to be an object with role and content"),
        (line(turns=[{**TURN, "content": " "}]), "Turn 1 has no content"),
        (line(tags=["a b"]), "The tags are a list"),
        (line(variables=[]), "The variables are an object"),
        (line(variables={"n": 7}), "The variable n is a text"),
        (line(checks=[]), "The checks are a list of 1 to 20"),
        (line(checks=["x"]), "A check is an object"),
        (line(checks=[{"type": "shorter"}]), "There is no check “shorter”; there are contains"),
        (line(checks=[{"text": "x"}]), "There is no check without a type"),
        (line().replace('"x"', "NaN"), "NaN is no number of JSON"),
        (line(turns="\ud800"), "half a character"),
        (line(turns="\0"), "holds the character NUL"),
        (line().replace('"x"', "1e999"), "A number is too large"),
        (line().replace('"x"', "9" * 5_000), "A number is too large"),
        ("[" * 100_000, f"Line 1: This is nested deeper than {MAX_DEPTH} levels"),
        (DEEP, f"Line 1: This is nested deeper than {MAX_DEPTH} levels"),
        (line(turns="x" * MAX_LINE_BYTES), "A case has at most 128 KB"),
        ("x" * (cases.MAX_BYTES + 1), "The file is larger than 4 MB"),
        (b"\n\n\xff", "Line 3: This is not UTF-8"),
    ],
)
def test_a_file_that_holds_no_cases_is_refused_with_line_and_reason(text, says):
    with pytest.raises(Malformed, match=re.escape(says)) as refused:
        read(text)
    assert len(str(refused.value)) < 600


def test_a_thousand_cases_are_the_most():
    many = "\n".join(line(id=f"c{n}") for n in range(MAX_CASES))
    assert len(read(many).cases) == MAX_CASES
    with pytest.raises(Malformed, match=r"Line 1001: .* at most 1,000"):
        read(f"{many}\n{line(id='one-more')}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
)


@given(st.binary() | st.text())
def test_whatever_is_no_file_of_cases_is_refused_and_nothing_else_happens(data):
    with pytest.raises(Malformed):
        read(data)


@given(member=st.sampled_from(["id", "turns", "checks", "tags", "variables", "more"]), value=JSON)
def test_any_json_in_the_place_of_a_member_is_read_or_refused(member, value):
    text = json.dumps({**GOOD, member: value})
    try:
        found = read(text)
    except Malformed as refused:
        assert refused.line == 1  # noqa: PT017 - both outcomes are right
    else:
        assert read(found.lines).digest == found.digest


@given(kind=st.sampled_from(list(KINDS)), member=st.text(max_size=8), value=JSON)
def test_any_json_as_a_check_is_read_or_refused(kind, member, value):
    for given_check in (value, {"type": kind, member: value}, {"type": value}):
        try:
            check_of(given_check)
        except NoCheck:
            continue


@given(kind=st.sampled_from(list(KINDS)), value=JSON)
def test_any_json_in_the_place_of_a_term_is_read_or_refused(kind, value):
    for name in KINDS[kind].members:
        try:
            check = check_of({"type": kind, **dict.fromkeys(KINDS[kind].members, 0.5), name: value})
        except NoCheck:
            continue
        assert check.says


# --- checks --------------------------------------------------------------------------------------


def met(reply: str, kind: str, **terms) -> bool:
    said = Reply(reply, tokens=12, seconds=2.0, cost_usd=Decimal("0.02"))
    return decided(check_of({"type": kind, **terms}), said).passed


@pytest.mark.parametrize(
    ("reply", "kind", "terms", "is_met"),
    [
        ("We refund it.", "contains", {"text": "REFUND"}, True),
        ("We refund it.", "contains", {"text": "return"}, False),
        ("Straße", "contains", {"text": "STRASSE"}, True),
        ("Cafe\u0301", "contains", {"text": "caf\u00e9"}, True),
        ("No.", "contains", {"any": ["yes", "no"]}, True),
        ("No.", "contains", {"any": ["yes", "maybe"]}, False),
        ("No.", "not_contains", {"any": ["yes", "maybe"]}, True),
        ("No, maybe.", "not_contains", {"any": ["yes", "maybe"]}, False),
        ("On 3 May", "regex", {"pattern": r"\d+ May"}, True),
        ("on may", "regex", {"pattern": r"\d+ May"}, False),
        ("on May", "not_regex", {"pattern": r"(?i)may"}, False),
        ("on June", "not_regex", {"pattern": r"(?i)may"}, True),
        ('{"a": 1}', "json_schema", {"schema": {"required": ["a"]}}, True),
        ('```json\n{"a": 1}\n```', "json_schema", {"schema": {"required": ["a"]}}, True),
        ('Here: {"a": 1}', "json_schema", {"schema": {"required": ["a"]}}, False),
        ('{"b": 1}', "json_schema", {"schema": {"required": ["a"]}}, False),
        ('{"a": 1, "a": 2}', "json_schema", {"schema": {"required": ["a"]}}, False),
        ("[" * 5_000, "json_schema", {"schema": {"type": "array"}}, False),
        ("[" * 500 + "]" * 500, "json_schema", {"schema": {"type": "object"}}, False),
        ("NaN", "json_schema", {"schema": {}}, False),
        ("x", "max_tokens", {"limit": 12}, True),
        ("x", "max_tokens", {"limit": 11}, False),
        ("x", "max_seconds", {"limit": 2}, True),
        ("x", "max_seconds", {"limit": 1.9}, False),
        ("x", "max_cost_usd", {"limit": 0.02}, True),
        ("x", "max_cost_usd", {"limit": 0.0199}, False),
        ("parcel comes Monday", "similarity", {"reference": "Monday: parcel!", "min": 0.9}, True),
        ("something else", "similarity", {"reference": "Monday: parcel!", "min": 0.9}, False),
        ("", "similarity", {"reference": "Monday: parcel!", "min": 0.1}, False),
    ],
)  # fmt: skip
def test_a_check_is_met_or_not(reply, kind, terms, is_met):
    assert met(reply, kind, **terms) is is_met


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ({"type": "contains"}, "either “text” or “any”"),
        ({"type": "contains", "text": "a", "any": ["b"]}, "either “text” or “any”"),
        ({"type": "contains", "text": ""}, "not empty"),
        ({"type": "contains", "any": "a"}, "a list of texts"),
        ({"type": "contains", "any": []}, "1 to 50"),
        ({"type": "regex", "pattern": "("}, "no pattern of google-re2"),
        ({"type": "regex", "pattern": r"(a)\1"}, "no pattern of google-re2"),
        ({"type": "regex", "pattern": "a*"}, "matches the empty text"),
        ({"type": "json_schema", "schema": {"type": "thing"}}, "no JSON Schema"),
        ({"type": "json_schema", "schema": {"$ref": "https://x.example/y"}}, "no JSON Schema"),
        ({"type": "json_schema", "schema": {"pattern": r"(a)\1"}}, "no JSON Schema"),
        ({"type": "json_schema", "schema": []}, "an object"),
        ({"type": "max_tokens", "limit": 1.5}, "a whole number above 0"),
        ({"type": "max_seconds", "limit": 0}, "a number above 0"),
        ({"type": "max_cost_usd", "limit": True}, "a number above 0"),
        ({"type": "similarity", "reference": "...", "min": 0.5}, "words in it"),
        ({"type": "similarity", "reference": "a", "min": 1.1}, "at most 1"),
        ({"type": "judge", "rubric": "Be kind."}, "needs “min”"),
        ({"type": "judge", "rubric": "Be kind.", "min": 1, "model": "x"}, "has no “model”"),
    ],
)
def test_a_check_that_can_not_be_is_refused_with_what_to_do(check, says):
    with pytest.raises(NoCheck, match=re.escape(says)):
        check_of(check)


ITSELF = {"$ref": "#"}
DOUBLING = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(30)}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a0", "$defs": {**DOUBLING, "a30": {"type": "string"}}},
        {"anyOf": [{"items": ITSELF}, {"items": ITSELF}]},
        {"items": {"anyOf": [ITSELF, {"items": ITSELF}]}},
        {"properties": {"a": ITSELF}, "additionalProperties": ITSELF},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    ],
)
def test_a_schema_by_which_a_look_could_take_for_ever_is_refused(schema):
    with pytest.raises(NoCheck, match=r"\$ref|begin with #/"):
        check_of({"type": "json_schema", "schema": schema})


@pytest.mark.parametrize(
    ("schema", "fits", "not_so"),
    [
        ({"type": "object", "properties": {"children": {"items": ITSELF}}}, {}, {"children": [1]}),
        (
            {"type": "object", "properties": {"left": ITSELF, "right": ITSELF}},
            {"left": {"right": {}}},
            {"left": {"right": 1}},
        ),
        (
            {"items": {"$ref": "#/$defs/a~1b"}, "$defs": {"a/b": {"type": "string"}}},
            ["x", "y"],
            [1],
        ),
    ],
)
def test_a_schema_may_lead_back_to_itself(schema, fits, not_so):
    check = check_of({"type": "json_schema", "schema": schema})
    assert decided(check, Reply(json.dumps(fits), 1, 1.0, Decimal(0))).passed
    assert not decided(check, Reply(json.dumps(not_so), 1, 1.0, Decimal(0))).passed


@given(reply=st.text(), text=st.text(min_size=1).filter(str.strip))
def test_contains_and_not_contains_are_opposites(reply, text):
    assert met(reply, "contains", text=text) is not met(reply, "not_contains", text=text)
    assert met(f"{reply} {text}", "contains", text=text)


@given(reply=st.text(), pattern=st.sampled_from([r"\d", "[a-z]+", r"(?i)x", r"\bno\b"]))
def test_regex_and_not_regex_are_opposites(reply, pattern):
    assert met(reply, "regex", pattern=pattern) is not met(reply, "not_regex", pattern=pattern)


@given(value=JSON)
def test_a_reply_of_json_fits_the_schema_that_allows_its_kind_alone(value):
    text = json.dumps(value)
    kinds = {bool: "boolean", str: "string", dict: "object", list: "array", type(None): "null"}
    kind = kinds.get(type(value), "number")
    if text in {"NaN", "Infinity", "-Infinity"} or "NaN" in text or "Infinity" in text:
        return
    assert met(text, "json_schema", schema={"type": kind})
    assert not met(text, "json_schema", schema={"not": {"type": kind}})


@given(reply=st.text(), reference=st.text(alphabet="abc ", min_size=1).filter(str.strip))
def test_similarity_lies_between_0_and_1_and_a_text_is_like_itself(reply, reference):
    check = check_of({"type": "similarity", "reference": reference, "min": 1})
    said = decided(check, Reply(reply, 1, 1.0, Decimal(0)))
    assert said.score is not None
    assert 0 <= said.score <= 1
    assert met(reference, "similarity", reference=reference, min=1)


# --- the judge -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "It is good.",
        "[]",
        "1",
        '{"score": 1}',
        '{"score": "1", "reason": "x"}',
        '{"score": true, "reason": "x"}',
        '{"score": 1.01, "reason": "x"}',
        '{"score": -0.1, "reason": "x"}',
        '{"score": NaN, "reason": "x"}',
        '{"score": 1, "reason": ""}',
        '{"score": 1, "reason": 7}',
        '{"score": 1, "reason": "x", "more": 1}',
        '{"score": 0, "score": 1, "reason": "x"}',
        'Sure! {"score": 1, "reason": "x"}',
    ],
)
def test_what_is_no_judgement_fails_the_check(answer):
    with pytest.raises(Unparsable):
        judgement_in(answer)
    check = check_of({"type": "judge", "rubric": "Be kind.", "min": 0.1})
    verdict = verdict_on(check, answer, judge="m", prices="1 / 1 / 1")
    assert (verdict.outcome, verdict.score) == ("unparsable", None)


@given(st.text())
def test_any_answer_is_a_judgement_or_none(answer):
    try:
        assert 0 <= judgement_in(answer).score <= 1
    except Unparsable:
        return


def test_a_judgement_may_stand_in_a_fence():
    assert judgement_in('```json\n{"score": 1, "reason": "Kind."}\n```').score == 1.0


@given(reply=st.text(max_size=200))
def test_no_reply_can_leave_its_fence(reply):
    wording, turns = question_for("Be kind.", [TURN], reply, model="m")
    first, *inside, last = turns[0]["content"].split("\n")
    assert last == first.replace("<", "</", 1)
    assert all(line.startswith("|") for line in inside)
    assert wording == question_for("Be kind.", [], "", model="m")[0], "it is material, no order"


def test_a_rubric_has_a_version_that_follows_from_its_words():
    one, other = judging.rubric_version("Be kind."), judging.rubric_version("Be brief.")
    assert one != other
    assert one == judging.rubric_version("Be kind.")


def test_cases_of_a_stored_version_are_read_once():
    text = read(lines(case("a"))).lines
    assert cases.cases_of(text) is cases.cases_of(text)
