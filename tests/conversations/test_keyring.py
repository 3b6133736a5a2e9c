"""Keys of days: made once, shared, destroyed for good, wrapped by master keys that change."""

import base64
import json
import stat
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from botocore.stub import Stubber
from cryptography.exceptions import InvalidTag
from django.core.exceptions import ImproperlyConfigured
from moto import mock_aws

from conversations import keyring as module
from conversations.keyring import KeyDay, KeyGone, Keyring, keyring, master_id, master_keys
from conversations.keystores import FolderStore, SecretsManagerStore, store_at

OLD, NEW = bytes(32), bytes(range(32))
TODAY = KeyDay(1, datetime.now(UTC).date())
TALK, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
NONCE = bytes(12)


@pytest.fixture(params=["folder", "aws"])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        yield FolderStore(tmp_path / "keyring")
        return
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield SecretsManagerStore("parley/keyring")


def test_a_conversation_has_the_same_key_all_day_and_in_every_process(store):
    sealed = Keyring(store, [NEW]).cipher(TODAY, TALK, may_make=True).encrypt(NONCE, b"said", b"")
    assert Keyring(store, [NEW]).cipher(TODAY, TALK).decrypt(NONCE, sealed, b"") == b"said"
    with pytest.raises(InvalidTag):
        Keyring(store, [NEW]).cipher(TODAY, OTHER).decrypt(NONCE, sealed, b"")


def test_days_and_classes_have_keys_of_their_own(store):
    ring = Keyring(store, [NEW])
    yesterday, temporary = KeyDay(1, TODAY.day - timedelta(1)), KeyDay(2, TODAY.day)
    said = {
        ring.cipher(day, TALK, may_make=True).encrypt(NONCE, b"said", b"")
        for day in (TODAY, yesterday, temporary)
    }
    assert len(said) == 3
    assert ring.days() == [yesterday, TODAY, temporary]


def test_a_destroyed_day_is_gone_and_never_made_again_once_it_is_over(store):
    ring, over = Keyring(store, [NEW]), KeyDay(1, date(2026, 1, 5))
    store.add(over.name, ring._wrapped(over.name, OLD))
    ring.cipher(over, TALK)
    ring.destroy(over)
    for another in (ring, Keyring(store, [NEW])):
        with pytest.raises(KeyGone, match="2026-01-05"):
            another.cipher(over, TALK, may_make=True)
    assert ring.days() == []
    ring.destroy(over)  # again is fine


def test_a_day_without_a_key_is_asked_for_once_a_minute(store, monkeypatch):
    ring, over, read = Keyring(store, [NEW]), KeyDay(1, date(2026, 1, 5)), store.read
    asked: list[str] = []
    monkeypatch.setattr(store, "read", lambda name: (asked.append(name), read(name))[1])

    def is_gone() -> bool:
        with pytest.raises(KeyGone):
            ring.cipher(over, TALK)
        return True

    assert all(is_gone() for _ in range(200))
    assert asked == [over.name]
    later = time.monotonic() + 61
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    store.add(over.name, ring._wrapped(over.name, OLD))  # from a copy of the keyring
    ring.cipher(over, TALK)


def test_a_day_whose_key_another_process_may_make_is_asked_for_each_time(store):
    ring = Keyring(store, [NEW])
    with pytest.raises(KeyGone):
        ring.cipher(TODAY, TALK)
    Keyring(store, [NEW]).cipher(TODAY, TALK, may_make=True)
    ring.cipher(TODAY, TALK)


def test_other_processes_forget_a_destroyed_day_soon(store, monkeypatch):
    monkeypatch.setattr(module, "KEPT_SECONDS", -1.0)
    ring = Keyring(store, [NEW])
    ring.cipher(TODAY, TALK, may_make=True)
    Keyring(store, [NEW]).destroy(TODAY)
    ring.cipher(TODAY, TALK)  # still kept; this look notices
    ring._looking.shutdown(wait=True)
    with pytest.raises(KeyGone):
        ring.cipher(TODAY, TALK)


def test_two_that_make_a_day_at_once_get_the_same_key(store):
    rings = [Keyring(store, [NEW]) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        ciphers = list(pool.map(lambda ring: ring.cipher(TODAY, TALK, may_make=True), rings))
    assert len({cipher.encrypt(NONCE, b"said", b"") for cipher in ciphers}) == 1


def test_keys_derived_for_a_purpose_are_their_own(store):
    ring = Keyring(store, [NEW])
    mine, other = (ring.conversation_key(TODAY, talk, may_make=True) for talk in (TALK, OTHER))
    keys = {mine.derived(b"names"), other.derived(b"names"), mine.derived(b"digests"), mine.secret}
    assert len(keys) == 4
    assert Keyring(store, [NEW]).conversation_key(TODAY, TALK).derived(b"names") in keys


def test_a_hold_has_a_key_of_its_own_until_it_is_destroyed(store):
    ring, hold = Keyring(store, [NEW]), uuid.uuid4()
    wrapped = ring.make_hold(hold).encrypt(NONCE, b"key", b"")
    assert Keyring(store, [NEW]).hold(hold).decrypt(NONCE, wrapped, b"") == b"key"
    assert ring.holds() == [hold]
    assert ring.days() == []
    ring.destroy_hold(hold)
    with pytest.raises(KeyGone, match=str(hold)):
        ring.hold(hold)
    assert ring.holds() == []


def test_keys_of_holds_are_asked_for_and_rotated_like_those_of_days(store):
    hold = uuid.uuid4()
    wrapped = Keyring(store, [OLD]).make_hold(hold).encrypt(NONCE, b"key", b"")
    with pytest.raises(ImproperlyConfigured, match=master_id(OLD)):
        Keyring(store, [NEW]).require_masters()
    assert Keyring(store, [NEW, OLD]).rewrap(lambda done, of: None) == 1
    Keyring(store, [NEW]).require_masters()
    assert Keyring(store, [NEW]).hold(hold).decrypt(NONCE, wrapped, b"") == b"key"


def test_a_missing_master_key_is_named_and_nothing_is_overwritten(store):
    Keyring(store, [OLD]).cipher(TODAY, TALK, may_make=True)
    before = store.read(TODAY.name)
    ring = Keyring(store, [NEW])
    with pytest.raises(ImproperlyConfigured, match=master_id(OLD)):
        ring.require_masters()
    with pytest.raises(ImproperlyConfigured, match=master_id(OLD)):
        ring.cipher(TODAY, TALK, may_make=True)
    assert store.read(TODAY.name) == before
    Keyring(store, [NEW, OLD]).require_masters()


def test_rotation_wraps_anew_and_changes_no_key(store):
    before = Keyring(store, [OLD])
    sealed = before.cipher(TODAY, TALK, may_make=True).encrypt(NONCE, b"said", b"")
    told = []
    ring = Keyring(store, [NEW, OLD])
    assert ring.rewrap(lambda done, of: told.append((done, of))) == 1
    assert ring.rewrap(lambda done, of: None) == 0
    assert told == [(1, 1)]
    assert Keyring(store, [NEW]).cipher(TODAY, TALK).decrypt(NONCE, sealed, b"") == b"said"
    with pytest.raises(ImproperlyConfigured, match=master_id(NEW)):
        Keyring(store, [OLD]).require_masters()


def test_a_key_that_was_put_in_the_place_of_another_is_refused(store):
    ring = Keyring(store, [NEW])
    ring.cipher(TODAY, TALK, may_make=True)
    elsewhere = KeyDay(1, TODAY.day - timedelta(1))
    store.add(elsewhere.name, store.read(TODAY.name))
    with pytest.raises(ImproperlyConfigured, match=f"{elsewhere.name} was changed"):
        ring.cipher(elsewhere, TALK)


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_key_is_said_in_a_sentence(store, damaged):
    store.add(TODAY.name, damaged or b" ")
    with pytest.raises(ImproperlyConfigured, match="damaged"):
        Keyring(store, [NEW]).require_masters()


def test_nothing_that_rests_is_a_key(tmp_path):
    folder = tmp_path / "keyring"
    Keyring(FolderStore(folder), [NEW]).cipher(TODAY, TALK, may_make=True)
    [file] = folder.rglob("*.key")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_bytes()).keys() == {"format", "master", "key"}
    assert base64.b64encode(NEW) not in file.read_bytes()
    assert NEW.hex().encode() not in file.read_bytes()


def test_a_store_adds_once_replaces_what_is_there_and_lists_names(store):
    assert store.add("1/2026-11-22", b"first") == b"first"
    assert store.add("1/2026-11-22", b"second") == b"first"
    store.replace("1/2026-11-22", b"third")
    store.replace("1/2026-11-23", b"never there")
    assert store.read("1/2026-11-22") == b"third"
    assert store.read("1/2026-11-23") is None
    assert store.names() == ["1/2026-11-22"]
    store.remove("1/2026-11-22")
    assert store.names() == []


def test_a_folder_that_can_not_be_used_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ImproperlyConfigured, match="KEYRING must name a folder"):
        FolderStore(tmp_path / "file" / "keyring")


def test_aws_says_what_it_refused_and_no_more(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    store = SecretsManagerStore("p")
    with Stubber(store._client) as stubber:
        stubber.add_client_error("create_secret", "AccessDeniedException", "secret words")
        with pytest.raises(ImproperlyConfigured, match="AccessDenied") as refused:
            store.add("1/2026-11-22", b"key")
    assert "secret words" not in str(refused.value)


def test_aws_needs_a_prefix():
    with pytest.raises(ImproperlyConfigured, match="prefix"):
        store_at("aws:")


@pytest.mark.parametrize("wrong", ["", ",", "not base64!", base64.b64encode(b"short").decode()])
def test_a_malformed_master_key_is_said_in_a_sentence(wrong):
    with pytest.raises(ImproperlyConfigured, match="CONTENT_KEYS"):
        master_keys(wrong)


def test_the_first_master_key_wraps_and_spaces_do_no_harm():
    text = f" {base64.b64encode(NEW).decode()} , {base64.b64encode(OLD).decode()},"
    assert master_keys(text) == [NEW, OLD]


def test_the_configured_keyring_is_one(settings, tmp_path):
    settings.KEYRING = str(tmp_path / "keys")
    settings.CONTENT_KEYS = base64.b64encode(OLD).decode()
    assert keyring() is keyring()
    keyring().cipher(TODAY, TALK, may_make=True)
    assert [path.stem for path in (tmp_path / "keys").rglob("*.key")] == [TODAY.day.isoformat()]
