"""Many writers, late commits, rollbacks, a killed sealer: every entry is sealed once, in order."""

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction

from accounts.access import System
from audit.inspection import inspect_log
from audit.models import Checkpoint, Entry, Leaf
from audit.sealing import Sealed, seal, state
from audit.trail import record

BY = System("tests")

SEALER = """
import sys, django
from django.conf import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
django.setup()
from audit.sealing import seal
print("ready", flush=True)
while True:
    seal(batch=7)
"""


class RolledBack(Exception):
    """On purpose."""


def keep_writing(seed: int, ended: threading.Event) -> None:
    chance = random.Random(seed)
    # One of its own: the pool is smaller than the number of writers.
    own = connections[DEFAULT_DB_ALIAS].copy()
    own.settings_dict["OPTIONS"].pop("pool", None)
    connections[DEFAULT_DB_ALIAS] = own
    try:
        for number in itertools.takewhile(lambda _: not ended.is_set(), itertools.count()):
            with contextlib.suppress(RolledBack), transaction.atomic():
                for _ in range(chance.randint(1, 3)):
                    record(BY, "account.created", ("accounts.user", f"{seed}-{number}"))
                    time.sleep(chance.choice((0.03, 0.1)))
                if chance.random() < 0.2:
                    raise RolledBack
    finally:
        connections.close_all()


@contextlib.contextmanager
def writers(count: int) -> Iterator[None]:
    ended = threading.Event()
    threads = [threading.Thread(target=keep_writing, args=(seed, ended)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def seal_the_rest() -> None:
    deadline = time.monotonic() + 30
    while state().unsealed or not isinstance(seal(), Sealed):
        assert time.monotonic() < deadline, seal()
        seal()


def assert_each_is_sealed_once_and_in_order() -> None:
    entries = list(Entry.objects.order_by("transaction_id", "id").values_list("id", flat=True))
    leaves = list(Leaf.objects.order_by("index").values_list("index", "entry_id"))
    assert leaves == list(enumerate(entries))
    report = inspect_log()
    assert report.findings == []
    assert report.entries == len(entries)


def test_every_committed_entry_is_sealed_once_and_in_order(folder):
    sizes = set()
    with writers(20):
        while len(sizes) < 12:
            result = seal(batch=25)
            assert isinstance(result, Sealed)
            sizes.add(result.size)
    seal_the_rest()
    assert_each_is_sealed_once_and_in_order()


def test_two_sealers_do_not_seal_twice(folder, write_many):
    def keep_sealing() -> None:
        try:
            for _ in range(40):
                assert isinstance(seal(batch=20), Sealed)
        finally:
            connections.close_all()

    write_many(400)
    threads = [threading.Thread(target=keep_sealing) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal_the_rest()
    assert_each_is_sealed_once_and_in_order()


def start_sealer(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "AUDIT_FOLDER": str(folder), "AUDIT_ORIGIN": "parley.example/log"}
    process = subprocess.Popen(
        [sys.executable, "-c", SEALER, connection.settings_dict["NAME"]],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_killed_sealer_leaves_no_gap_and_no_double_leaf(folder):
    chance = random.Random(7)
    with writers(5):
        for _ in range(3):
            before = Leaf.objects.count()
            sealer = start_sealer(folder)
            while Leaf.objects.count() == before:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
            kill(sealer)
    seal_the_rest()
    assert_each_is_sealed_once_and_in_order()


@pytest.fixture
def commits_that_wait(folder) -> Iterator[None]:
    """Let the commit of a checkpoint wait for as long as this holds a lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION wait_a_while() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM pg_advisory_xact_lock(4242); RETURN NULL; END$$;"
            "CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON audit_checkpoint"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_a_while();"
            "SELECT pg_advisory_lock(4242)"
        )
        yield
        cursor.execute("SELECT pg_advisory_unlock_all()")
        cursor.execute("DROP TRIGGER IF EXISTS waits ON audit_checkpoint")
        cursor.execute("DROP FUNCTION wait_a_while()")


WAITING = "FROM pg_locks WHERE locktype = 'advisory' AND objid = 4242 AND NOT granted"


def wait_for_a_commit() -> None:
    deadline = time.monotonic() + 60
    with connection.cursor() as cursor:
        while True:
            cursor.execute(f"SELECT pid {WAITING}")
            if cursor.fetchall():
                return
            assert time.monotonic() < deadline
            time.sleep(0.01)


def end_waiting_backends() -> None:
    """Do to the killed sealer's connection what PostgreSQL does when it notices."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_terminate_backend(pid, 20000) {WAITING}")
        assert cursor.fetchall() == [(True,)]


def test_sealer_killed_between_the_head_and_the_commit(folder, write_many, commits_that_wait):
    ids = write_many(5)
    sealer = start_sealer(folder)
    wait_for_a_commit()
    head = (folder / "head").read_text()
    kill(sealer)
    end_waiting_backends()
    assert not Checkpoint.objects.exists()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(4242)")
    assert seal() == Sealed(0, 5, 1, more=False)
    assert Checkpoint.objects.get().note == head
    more = write_many(4)
    seal_the_rest()
    assert list(Leaf.objects.values_list("entry_id", flat=True)) == [*ids, *more]
    assert_each_is_sealed_once_and_in_order()
