"""What is recorded is fit to be stored and hashed for ever."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.content import (
    MADE_SAFE,
    MAX_PAYLOAD_BYTES,
    TRUNCATED,
    canonical,
    clean,
    family_of,
    network_of,
    storable,
)

anything = st.text(st.characters(), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(anything, values, max_size=5))
def test_any_payload_becomes_json_that_postgresql_takes(payload):
    text = json.dumps(storable(payload), allow_nan=False)
    assert "\\u0000" not in text
    json.loads(text)
    canonical(storable(payload))


@given(st.dictionaries(st.text("abc"), st.text("äb c0"), max_size=5))
def test_harmless_payload_stays_as_it_is(payload):
    assert storable(payload) == payload


@pytest.mark.parametrize("bad", ["a\x00b", "a\ud800b", float("nan"), {"\x00": 1}, ["\udfff"]])
def test_replaced_values_are_marked(bad):
    assert storable({"value": bad})[MADE_SAFE] is True


def test_large_payload_keeps_beginning_length_and_digest():
    (kept,) = storable({"list": ["ä" * 100] * 1000}).values()
    assert kept["bytes"] > MAX_PAYLOAD_BYTES
    assert kept["beginning"].startswith('{"list":["äää')
    assert len(kept["sha256"]) == 64
    assert list(storable({"list": "x" * MAX_PAYLOAD_BYTES})) == [TRUNCATED]


def test_bottomless_payload_is_cut():
    bottomless: list[object] = []
    bottomless.append(bottomless)
    assert storable({"value": bottomless})[MADE_SAFE] is True


def test_ids_and_sets_have_one_text():
    some = uuid.uuid4()
    assert storable({"id": some, "roles": {"b", "a"}}) == {"id": str(some), "roles": ["a", "b"]}


def test_objects_have_no_place_in_a_payload():
    with pytest.raises(TypeError, match="can't hold a object"):
        storable({"value": object()})


def test_texts_are_cut_and_cleaned():
    assert clean("a\x00bcd", 3) == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/56"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("fe80::1%eth0", "fe80::/56"),
        ("", ""),
        ("unknown", ""),
    ],
)
def test_only_the_network_of_an_address_is_kept(address, network):
    assert network_of(address) == network


CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 "


@pytest.mark.parametrize(
    ("user_agent", "family"),
    [
        (f"{CHROME}Safari/537.36", "Chrome on Linux"),
        (f"{CHROME}Safari/537.36 Edg/156.0", "Edge on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0",
            "Firefox on Windows",
        ),
        ("curl/8.5.0", "curl"),
        ("something new", "other"),
        ("", ""),
    ],
)
def test_only_the_kind_of_browser_is_kept(user_agent, family):
    assert family_of(user_agent) == family
