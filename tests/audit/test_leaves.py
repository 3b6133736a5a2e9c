"""The canonical bytes of entries."""

import json

import orjson
import pytest
import rfc8785
from django.db import connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from accounts.access import System
from audit.content import MADE_SAFE, MAX_INTEGER, storable
from audit.leaves import ROW_SQL, Row, canonical_payload, leaf_bytes
from audit.models import Entry
from audit.trail import record

texts = st.text(st.characters(), max_size=12)
# Where sorting by code points and by UTF-16 differ, and what JSON escapes.
peculiar = st.text(st.sampled_from('ab\U00010000\ufffd\uff00"\\\x7f\x1f\n1.[ '), max_size=6)
numbers = (
    st.integers() | st.floats() | st.sampled_from([MAX_INTEGER, -MAX_INTEGER, 2**53, 1e16, 1e300])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | peculiar,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts | peculiar, inner, max_size=4)
    ),
    max_leaves=15,
)
payloads = st.dictionaries(texts | peculiar, values, max_size=5)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads)
@example({"n": 1e300})
@example({"n": [1.5, -0.0, 5e-324, 1e21, 1e-7]})
@example({"\U00010000": 1, "\uffee": 2})
def test_payload_that_was_stored_is_written_as_rfc_8785_demands(db, payload):
    kept = storable(payload)
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [json.dumps(kept)])
        (text,) = cursor.fetchone()
    assert canonical_payload(text) == rfc8785.dumps(kept)


@pytest.mark.parametrize("number", [MAX_INTEGER + 1, -(2**70), 10**400])
def test_integers_beyond_json_become_texts_and_are_marked(number):
    assert storable({"n": number}) == {"n": str(number), MADE_SAFE: True}
    assert storable({"n": MAX_INTEGER, "b": True}) == {"n": MAX_INTEGER, "b": True}


def row_of(entry_id: int) -> Row:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {ROW_SQL} FROM audit_entry AS entry WHERE id = %s", [entry_id])
        return Row._make(cursor.fetchone())


@pytest.mark.django_db
def test_leaf_holds_everything_that_an_entry_says():
    entry_id = record(
        System("tests"), "role.granted", ("accounts.user", "ü\n7"), reason='"so"', role="operator"
    )
    entry = Entry.objects.get(pk=entry_id)
    written = leaf_bytes(row_of(entry_id))
    told = json.loads(written)
    assert rfc8785.dumps(told) == written
    assert told == {
        "v": 1,
        "entry": entry_id,
        "event": "role.granted",
        "occurred_at": f"{entry.occurred_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "recorded_at": f"{entry.recorded_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "actor": {"kind": "system", "id": "tests", "roles": "", "impersonator": "", "token": ""},
        "target": {"kind": "accounts.user", "id": "ü\n7"},
        "outcome": "succeeded",
        "reason": '"so"',
        "request_id": entry.request_id,
        "trace_id": entry.trace_id,
        "turn_id": entry.turn_id,
        "payload": {"role": "operator"},
        "personal_digest": bytes(entry.personal_digest).hex(),
    }


@given(st.lists(peculiar | texts, min_size=12, max_size=12))
def test_every_text_is_written_as_rfc_8785_demands(some):
    clean = [text.encode(errors="replace").decode() for text in some]
    row = Row(7, 1, clean[0], "t", "t", *clean[1:], "", "{}", "ab")
    assert leaf_bytes(row) == rfc8785.dumps(orjson.loads(leaf_bytes(row)))
