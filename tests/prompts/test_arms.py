"""Who stands where while a version is released: the same for ever, and no more moves than must."""

import random
from types import SimpleNamespace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from prompts.models import Arm
from prompts.release.arms import (
    IN_PRODUCTION,
    WHOLE,
    Pin,
    UnderWay,
    is_drawn,
    pinned_first,
    position,
    standing,
)

SALT = bytes(range(16))
people = st.uuids()
salts = st.binary(min_size=16, max_size=16)
shares = st.integers(0, WHOLE)


def crowd(number: int = 10_000) -> list[UUID]:
    chance = random.Random(20_261_122)
    return [UUID(int=chance.getrandbits(128), version=4) for _ in range(number)]


def release(**given) -> UnderWay:
    usual = {
        "id": UUID(int=1),
        "version_id": UUID(int=2),
        "salt": SALT,
        "share": 1_000,
        "is_paused": False,
        "early_role": "",
        "early_people": [],
    }
    return UnderWay(**{**usual, **given})


def somebody(pk: UUID, *roles: str) -> SimpleNamespace:
    return SimpleNamespace(pk=pk, roles=frozenset(roles))


def first_outside(share: int) -> SimpleNamespace:
    return somebody(next(pk for pk in crowd() if not is_drawn(SALT, pk, share)))


def test_a_place_is_the_documented_hash():
    # The first 8 bytes of what `openssl dgst -sha256 -mac HMAC` says: 32cd28477b88c12e.
    person = UUID("00112233-4455-6677-8899-aabbccddeeff")
    assert position(SALT, person) == 254


def test_of_ten_thousand_people_each_share_gets_its_part():
    everybody = crowd()
    for share in (100, 500, 1_000, 2_500, 5_000, 9_000):
        drawn = sum(is_drawn(SALT, person, share) for person in everybody)
        # Five standard deviations of a binomial draw.
        assert abs(drawn - share) < 5 * (share * (WHOLE - share) / WHOLE) ** 0.5


def test_another_salt_draws_others():
    everybody = crowd()
    both = sum(is_drawn(SALT, one, 1_000) and is_drawn(b"other", one, 1_000) for one in everybody)
    assert 50 < both < 150  # a tenth of a tenth


@given(people, salts, shares, shares)
def test_a_growing_share_moves_nobody_back_and_a_falling_one_only_those_it_must(
    person, salt, one, other
):
    low, high = sorted((one, other))
    before, after = is_drawn(salt, person, low), is_drawn(salt, person, high)
    assert not before or after
    moved = before != after
    assert moved == (low <= position(salt, person) < high)


@given(people, salts)
def test_nobody_is_drawn_at_nothing_and_everybody_at_all(person, salt):
    assert not is_drawn(salt, person, 0)
    assert is_drawn(salt, person, WHOLE)


def test_the_group_has_early_access_whatever_the_share():
    person = first_outside(1_000)
    by_name = release(share=0, early_people=[person.pk])
    by_role = release(early_role="operator")
    assert pinned_first(by_name, person).arm == Arm.EARLY
    assert pinned_first(by_role, somebody(person.pk, "member", "operator")).arm == Arm.EARLY
    assert pinned_first(by_role, person) == Pin(by_role.id, Arm.PRODUCTION)
    assert pinned_first(release(early_role=""), somebody(person.pk)).arm == Arm.PRODUCTION


def test_nobody_joins_a_paused_release():
    person = somebody(crowd()[0])
    assert pinned_first(release(share=WHOLE, is_paused=True), person) == IN_PRODUCTION
    assert pinned_first(None, person) == IN_PRODUCTION


def test_a_pin_holds_while_its_release_is_under_way_and_no_longer():
    pin = Pin(UUID(int=1), Arm.CANARY)
    assert standing(release(share=100), pin) == pin
    assert standing(release(is_paused=True), pin) == pin
    assert standing(None, pin) == IN_PRODUCTION
    assert standing(release(id=UUID(int=9)), pin) == IN_PRODUCTION
    assert standing(release(), IN_PRODUCTION) == IN_PRODUCTION
