"""What is personal in a text: cases of our own, apart from the held-out ones."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.pii import cases, score
from conversations.turn.pii import KINDS, Finding, detect, mask, mask_for_log, names
from conversations.turn.pii.names import _analyser

# Pieces of which hypothesis makes texts that are nearly personal.
PIECES = (
    *("olive@", "example.org", "+49 ", "030 23125 ", "4111 1111 ", "1111 ", "DE89", "3704 ", "::1"),
    *(
        "192.0.2.",
        "1",
        " ",
        "\n",
        "-",
        "password=",
        "born on ",
        "[EMAIL-",
        "]",
        "é",
        "中",
        "\ud800",
    ),
)
NEARLY = st.lists(st.sampled_from(PIECES)).map("".join)


def found(text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in detect(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write bob@corp.example.", [("EMAIL", "bob@corp.example")]),
        ("bob (at) corp (dot) example", [("EMAIL", "bob (at) corp (dot) example")]),
        ("to łukasz@example.pl today", [("EMAIL", "łukasz@example.pl")]),
        ("call +49 89 99998 100", [("PHONE", "+49 89 99998 100")]),
        ("+49 (0) 89 99998 100", [("PHONE", "+49 (0) 89 99998 100")]),
        ("or 040/66969 200", [("PHONE", "040/66969 200")]),
        ("phone: ０７７００ ９００ ７７７", [("PHONE", "０７７００ ９００ ７７７")]),
        ("Card 4012 8888 8888 1881!", [("CARD", "4012 8888 8888 1881")]),
        ("12 4012888888881881 34", [("CARD", "4012888888881881")]),
        ("GB29 NWBK 6016 1331 9268 19 ok", [("IBAN", "GB29 NWBK 6016 1331 9268 19")]),
        ("bsn: 123456782", [("NATIONAL_ID", "123456782")]),
        ("RVNR 65 170839 J 003", [("NATIONAL_ID", "65 170839 J 003")]),
        ("SSN 219-09-9998", [("NATIONAL_ID", "219-09-9998")]),
        ("SSN: 219 09 9998", [("NATIONAL_ID", "219 09 9998")]),
        ("DOB 14-FEB-1990", [("BIRTH_DATE", "14-FEB-1990")]),
        ("Ringstraße 8-10, 8005 Zürich", [("ADDRESS", "Ringstraße 8-10, 8005 Zürich")]),
        ("at 198.51.100.23:80", [("IP", "198.51.100.23")]),
        ("the host\n198.51.100.23", [("IP", "198.51.100.23")]),
        ("[2001:db8:1::5]:80", [("IP", "2001:db8:1::5")]),
        ("password: abcD1234.", [("SECRET", "abcD1234")]),
        ("the password is sun-flower-88, right?", [("SECRET", "sun-flower-88")]),
        ("curl -u admin:Sup3rS3cret x", [("SECRET", "Sup3rS3cret")]),
        ("redis://:pw12@cache", [("SECRET", "pw12")]),
        ("Basic b2xpdmU6c2VjcmV0MTIz", [("SECRET", "b2xpdmU6c2VjcmV0MTIz")]),
        ("geb. 03.04.1977", [("BIRTH_DATE", "03.04.1977")]),
        ("am 3. April 1977 geboren", [("BIRTH_DATE", "3. April 1977")]),
        ("Lange Str. 5, 70173 Stuttgart", [("ADDRESS", "Lange Str. 5, 70173 Stuttgart")]),
        (
            "born 1977-04-03, olive@example.org",
            [("BIRTH_DATE", "1977-04-03"), ("EMAIL", "olive@example.org")],
        ),
    ],
)
def test_what_is_personal_is_found_with_its_place(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png",
        "order 40012345678",
        "order no. 030 1234567",
        "4012 8888 8888 1882",
        "x4012888888881881y",
        "IBAN GB29 NWBK 6016 1331 9268 10",
        "bsn: 123456783",
        "RVNR 65 170839 J 008",
        "v1.2.3.4",
        "Safari/537.36.1.2",
        "::1 at 12:30:45",
        "password: $PASSWORD",
        "password=get_password()",
        "postgres://app:<password>@db",
        "token: 4096",
        "The password is required to have 12 characters",
        "LOOK AT example.org",
        "on 03.04.1977",
        "Chapter 5, 70173 words",
    ],
)
def test_what_only_looks_personal_is_left_alone(text):
    assert found(text) == []


@given(NEARLY | st.text(st.characters()))
@example("İ" * 20 + "olive@example.org")  # longer in lower case
def test_findings_of_any_text_are_in_order_apart_and_within(text):
    findings = detect(text)
    ends = [0, *(finding.end for finding in findings)]
    assert all(0 <= at.start < at.end <= len(text) and at.kind in KINDS for at in findings)
    assert all(end <= finding.start for end, finding in zip(ends, findings, strict=False))


@given(NEARLY, NEARLY)
def test_a_masked_text_holds_the_rest_unchanged(before, after):
    text = f"{before}\n.\nolive@example.org\n.\n{after}"
    assert mask(text) == f"{mask(before)}\n.\n[EMAIL]\n.\n{mask(after)}"


def test_no_kind_falls_below_what_the_documentation_says():
    """The held-out cases; a change of the detector that costs something must say so."""
    total = score(detect)
    assert total.right.total() / total.expected.total() >= 0.99
    assert total.true.total() / total.found.total() >= 0.99
    assert all(total.right[kind] / total.expected[kind] >= 0.95 for kind in total.expected)


def test_a_third_of_the_held_out_cases_are_innocent():
    expected = [pieces for _, pieces in cases()]
    assert len(expected) >= 300
    assert sum(not pieces for pieces in expected) * 3 >= len(expected)


# --- names -----------------------------------------------------------------------------------


@pytest.fixture
def presidio(monkeypatch, settings):
    """A Presidio that knows one name and one model."""

    class AnalyzerEngine:
        def __init__(self, **_given) -> None:
            pass

        def analyze(self, text, *, language, entities, score_threshold):
            start = text.index("Olive")
            return [SimpleNamespace(entity_type="PERSON", start=start, end=start + 5)]

    def module(name: str, **contents) -> None:
        made = ModuleType(name)
        vars(made).update(contents)
        monkeypatch.setitem(sys.modules, name, made)

    provider = SimpleNamespace(create_engine=lambda: None)
    module("spacy", util=SimpleNamespace(is_package=lambda name: name == "en_model"))
    module("presidio_analyzer", AnalyzerEngine=AnalyzerEngine)
    module("presidio_analyzer.nlp_engine", NlpEngineProvider=lambda **_given: provider)
    settings.PII_NAMES_MODEL = "en_model"
    _analyser.cache_clear()
    yield
    _analyser.cache_clear()


def test_names_are_found_where_presidio_is_set_up(presidio):
    assert found("Ask Olive now") == [("PERSON", "Olive")]


def test_log_lines_are_not_given_to_a_model(presidio):
    assert mask("Ask Olive at olive@example.org") == "Ask [PERSON] at [EMAIL]"
    assert mask_for_log("Ask Olive at olive@example.org") == "Ask Olive at [EMAIL]"


def test_a_model_that_is_missing_is_said_and_not_downloaded(presidio, settings):
    settings.PII_NAMES_MODEL = "xx_other"
    with pytest.raises(ImproperlyConfigured, match="xx_other"):
        detect("Ask Olive now")


def test_names_cost_nothing_where_they_are_not_set_up(settings):
    assert settings.PII_NAMES_MODEL == ""
    assert list(names("Ask Olive now")) == []
    assert "presidio_analyzer" not in sys.modules


def test_a_finding_holds_no_text():
    assert set(Finding.__slots__) == {"kind", "start", "end"}
