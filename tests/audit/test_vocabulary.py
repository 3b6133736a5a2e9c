"""The vocabulary, and that its documentation can't differ from it."""

from pathlib import Path

import pytest

from audit.events import EVENTS, Group, UnknownEventError, events_of, known, vocabulary_in_markdown

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/audit.md"


def test_documentation_has_the_vocabulary_as_the_code_has_it():
    assert vocabulary_in_markdown() in DOCUMENT.read_text(), (
        "docs/audit.md: replace the tables by the output of `python -m audit.events`"
    )


def test_every_event_is_in_one_group():
    grouped = [name for group in Group for name in events_of(group)]
    assert sorted(grouped) == sorted(EVENTS)


def test_fields_are_names():
    for event in EVENTS.values():
        assert all(field.isidentifier() for field in event.tells)
        assert len(set(event.tells)) == len(event.tells)


def test_only_what_is_in_it_is_known():
    assert known("turn.refused") == "turn.refused"
    with pytest.raises(UnknownEventError):
        known("auth.signed_in")
