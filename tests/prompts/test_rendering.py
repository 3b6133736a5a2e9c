"""The language of templates: what it says, what it refuses, and that nothing gets beyond it."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompts import rendering
from prompts.rendering import (
    MAX_ITERATIONS,
    MAX_OUTPUT_CHARACTERS,
    MAX_SOURCE_BYTES,
    MAX_WORK,
    Kind,
    Refused,
    Template,
    Variable,
    compiled,
    declared,
    stored_form,
)

KNOWN = {"today": "22 November 2026", "weekday": "Sunday"}
VARIABLES = (
    Variable("name", Kind.TEXT, True, "Mei"),
    Variable("items", Kind.LIST, False, ("one", "two words", "ß")),
    Variable("empty", Kind.LIST, False, ()),
    Variable("formal", Kind.FLAG, False, True),
)


def told(source: str, **given) -> str:
    return Template(source, VARIABLES).render(KNOWN | given)


# Each as Jinja 3.1 renders it, with trim_blocks and lstrip_blocks.
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Plain {text} with }} and %}", "Plain {text} with }} and %}"),
        ("Hello {{ name }}, it is {{weekday}}.", "Hello Mei, it is Sunday."),
        ("{{ name|upper }} {{ ' x '|trim }}{{ 'ab'|capitalize|lower }}", "MEI xab"),
        ('{{ items|join(", ") }}: {{ items|length }}', "one, two words, ß: 3"),
        ("{{ items|join }}", "onetwo wordsß"),
        ("{% if formal %}Sir{% else %}you{% endif %}", "Sir"),
        ("{% if not formal %}a{% elif name == 'Mei' %}b{% else %}c{% endif %}", "b"),
        ("{% if 'one' in items and 'x' not in name %}yes{% endif %}", "yes"),
        ("{% if items|length >= 3 or (empty) %}many{% endif %}", "many"),
        ("{% if empty %}some{% else %}none{% endif %}", "none"),
        ("{% for one in items %}\n- {{ one }}\n{% endfor %}\nEnd", "- one\n- two words\n- ß\nEnd"),
        ("{% for one in empty %}x{% else %}nothing{% endfor %}", "nothing"),
        ("a\n  {% if formal %}\n  b\n  {% endif %}\nc", "a\n  b\nc"),
        ("a {{- name -}}  b", "aMeib"),
        ("a {#- nothing\nat all -#} b", "ab"),
        ('{{ "}}" }}{{ "a\\nb" }}', "}}a\nb"),
        ("a\r\nb", "a\nb"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("", ""),
    ],
)
def test_it_says(source, text):
    assert told(source) == text


@pytest.mark.parametrize(
    ("source", "line", "why"),
    [
        ("{{ who }}", 1, "not declared"),
        ("a\nb\n{{ name", 3, "Unexpected end"),
        ("{% if formal %}\n\nx", 2, "'endif'"),
        ("\n{% for x in items %}{% endif %}", 2, "unknown tag 'endif'"),
        ("{{ items }}", 1, "list can't be shown"),
        ("{{ formal }}", 1, "flag has no text"),
        ("{{ name|join }}", 1, "does not take a text"),
        ("{{ name|attr('x') }}", 1, "no filter"),
        ("{% if name > 'a' %}{% endif %}", 1, "can't be compared"),
        ("{% if 1 < 2 < 3 %}{% endif %}", 1, "One comparison"),
        ("{% if name == items %}{% endif %}", 1, "can't be compared"),
        ("{% for x in name %}{% endfor %}", 1, "is no list"),
        ("{% for name in items %}{% endfor %}", 1, "another meaning"),
        ("{% for x in items %}{% endfor %}{{ x }}", 1, "not declared"),
        ("{% set x = 1 %}", 1, "set nothing"),
        ("{{ 'a }}", 1, "Unexpected char"),
        ("{# a", 1, "Missing end of comment"),
        ("{{ name %}", 1, "Unexpected"),
        ("{{ }}", 1, "Expected an expression"),
        ("{% %}", 1, "Tag name expected"),
    ],
)
def test_it_refuses_with_line_and_reason(source, line, why):
    with pytest.raises(Refused, match=why) as refused:
        told(source)
    assert refused.value.line == line


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ name.__init__.__globals__ }}",
    "{{ name['__class__'] }}",
    "{{ self }}",
    "{{ cycler.__init__ }}",
    "{{ lipsum.__globals__.os.popen('id').read() }}",
    "{{ config }}",
    "{{ request }}",
    "{{ ''|attr('__class__') }}",
    "{{ name.format(name) }}",
    "{{ '%s' % name }}",
    "{{ '{0.__class__}'|format(name) }}",
    "{{ items|map(attribute='__class__')|join }}",
    "{{ range(10**9) }}",
    "{{ 'a' * 10**9 }}",
    "{{ 9**9**9 }}",
    "{{ [1, 2] }}",
    "{{ {'a': 1} }}",
    "{{ (1).__class__ }}",
    "{{ name if formal else name }}",
    "{{ name ~ name }}",
    "{{ name is callable }}",
    "{{ loop.index }}",
    "{{ joiner() }}",
    "{{ dict() }}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% macro x() %}{% endmacro %}",
    "{% call x() %}{% endcall %}",
    "{% set x = name %}",
    "{% block x %}{% endblock %}",
    "{% filter upper %}x{% endfilter %}",
    "{% do name.x() %}",
    "{% for x in range(10) %}{% endfor %}",
    "{% for x in items recursive %}{{ loop(items) }}{% endfor %}",
    "{% for a, b in items %}{% endfor %}",
    "{% for x in items if x %}{% endfor %}",
    "{% for x in items|join %}{% endfor %}",
    "{% with x = 1 %}{% endwith %}",
    "{% autoescape false %}{% endautoescape %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source):
    with pytest.raises(Refused) as refused:
        told(f"One\n{source}")
    assert refused.value.line == 2


def test_what_a_value_holds_is_never_read_as_a_template():
    assert told("{{ name }}", name="{{ items }}{% if %}") == "{{ items }}{% if %}"


# --- bounds ------------------------------------------------------------------------------------

LONG = tuple("x" * 90 for _ in range(200))
WIDE = (Variable("items", Kind.LIST, False, LONG),)


def _loops(depth: int, inside: str) -> str:
    opened = "".join("{% for x" + str(n) + " in items %}" for n in range(depth))
    return opened + inside + "{% endfor %}" * depth


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("x" * (MAX_SOURCE_BYTES + 1), "too long"),
        ("ß" * (MAX_SOURCE_BYTES // 2 + 1), "too long"),
        ("x" * 1_000_000, "too long"),
        (_loops(3, ""), "more than 10,000"),
        (_loops(9, ""), "nested too deeply"),
        (_loops(2, "{{ items|join }}"), "takes too long"),
        (
            _loops(2, "{% if " + "not x0 or " * 500 + "x1 == '' %}{% endif %}"),
            "expression is too long",
        ),
        (
            _loops(2, "{% if 'q' in items and " + "not x0 and " * 20 + "x1 %}{% endif %}"),
            "too long",
        ),
        (_loops(1, "y" * 900), "longer than"),
        ("{{ items|join('" + "z" * 60_000 + "') }}", "too long"),
        ("{% if " + "(" * 5_000 + "items" + ")" * 5_000 + " %}{% endif %}", "too deeply"),
        ("{% if " + "not " * 5_000 + "items %}{% endif %}", "too deeply"),
        ("{% if items %}" * 2_000, "too deeply"),
        ("{{ 'a'" + "|upper" * 200 + " }}", "expression is too long"),
        ("{{ items|length }}" * 3_000, "too many parts"),
    ],
)
def test_it_is_bounded(source, why):
    with pytest.raises(Refused, match=why):
        Template(source, WIDE).render(KNOWN)


def test_what_is_flat_may_be_long():
    source = "{% if formal %}a{% elif name %}b{% endif %}" * 500
    source += "{% if " + " or ".join(["empty"] * 50) + " %}{% endif %}"
    assert told(source) == "a" * 500


PIECES = st.sampled_from(
    [
        *ESCAPES,
        *(
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "{{-",
            "-%}",
            "\n",
            " ",
            "'",
            '"',
            "\\",
            "|",
            "(",
            ")",
        ),
        *("name", "items", "empty", "formal", "today", "x", "if", "elif", "else", "endif", "for"),
        *("in", "not", "and", "or", "==", "<", "endfor", "join", "upper", "length", "true", "7"),
        *("{{ name }}", "{% if formal %}", "{% endif %}", "{% for x in items %}", "{% endfor %}"),
        *("{{ x }}", "{{ items|join(', ') }}", "{% else %}", "\x00", "\ud800", "\u2028", "٣", "🙂"),
    ]
)
SOURCES = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SOURCES)
def test_whatever_it_is_given_it_refuses_with_a_line_or_stays_in_its_bounds(source):
    refused = None
    try:
        text = Template(source, VARIABLES).render(KNOWN)
    except Refused as found:
        refused, text = found, ""
    lines = source.count("\n") + source.count("\r") + 1
    assert refused is None or refused.reason
    assert refused is None or 1 <= (refused.line or 1) <= lines
    assert len(text) <= MAX_OUTPUT_CHARACTERS


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.sampled_from(["a", "{{ items|join }}", "{{ x0 }}", "{{ name|upper|lower }}"]),
        lambda inner: st.one_of(
            inner.map(lambda body: "{% for x0 in items %}" + body + "{% endfor %}"),
            inner.map(lambda body: "{% if items %}" + body + "{% endif %}"),
            st.lists(inner, max_size=4).map("".join),
        ),
        max_leaves=12,
    )
)
def test_the_work_of_a_rendering_is_counted_before_it_is_done(source):
    spent: list[int] = []

    class Counting(rendering._Run):
        def spend(self, work: int) -> None:
            spent.append(work)
            super().spend(work)

    run, rendering._Run = rendering._Run, Counting
    try:
        told(source)
    except Refused:
        pass
    finally:
        rendering._Run = run
    # Only the step that goes beyond the budget is counted and not taken.
    assert sum(spent[:-1]) <= MAX_WORK
    assert len(spent) <= MAX_WORK + MAX_ITERATIONS


# --- variables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "required", "default", "why"),
    [
        ("2x", Kind.TEXT, False, "", "can't be a name"),
        ("a" * 41, Kind.TEXT, False, "", "can't be a name"),
        ("for", Kind.TEXT, False, "", "can't be a name"),
        ("x", Kind.TEXT, True, "", "required and has no value"),
        ("x", Kind.LIST, True, (), "required and has no value"),
        ("x", Kind.LIST, False, "text", "declared as a list"),
        ("x", Kind.TEXT, False, True, "declared as a text"),
        ("x", Kind.NUMBER, False, "", "a text, a list or a flag"),
        ("today", Kind.TEXT, False, "now", "known in every turn"),
        ("x", Kind.TEXT, False, "y" * 20_001, "too long"),
        ("x", Kind.LIST, False, ("y",) * 201, "201 items"),
    ],
)
def test_a_variable_is_refused(name, kind, required, default, why):
    with pytest.raises(Refused, match=why):
        Variable(name, kind, required, default)


def test_variables_are_stored_and_read_again():
    assert declared(stored_form(VARIABLES)) == VARIABLES
    with pytest.raises(Refused, match="declared twice"):
        declared(stored_form([VARIABLES[0], replace(VARIABLES[0], default="Iris")]))


def test_given_values_are_checked():
    assert told("{{ name }}", name="Iris") == "Iris"
    for values, why in [
        ({"other": "x"}, "no variable other"),
        ({"name": ("x",)}, "declared as a text"),
        ({"name": ""}, "required"),
        ({"today": 3}, "declared as a text"),
    ]:
        with pytest.raises(Refused, match=why):
            told("{{ name }}", **values)


def test_a_template_is_understood_once():
    assert compiled("{{ name }}", VARIABLES) is compiled("{{ name }}", VARIABLES)
