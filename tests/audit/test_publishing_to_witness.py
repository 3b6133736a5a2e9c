"""The log and a real witness, which is a process of its own on the standard library."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from audit.models import Checkpoint, Destination, Publication, SigningKey
from audit.publishing import configured_publishers, publish_to
from audit.sealing import seal
from audit.verify import VerifierKey, parse_checkpoint
from tests.audit.conftest import behind_the_triggers

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running_witness(log_key: str, key: Path, port: int = 0) -> Iterator[tuple[str, str]]:
    """Run a witness; yields its address and its public key. It is killed at the end."""
    command = ["-m", "audit.witness", "--listen", f"127.0.0.1:{port}", "--log", log_key]
    process = subprocess.Popen(
        [sys.executable, *command, "--key", str(key), "--name", "witness.example/1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        vkey = process.stdout.readline().split()[1]
        place = process.stdout.readline().split()[2]
        yield f"http://{place}", vkey
    finally:
        process.kill()
        process.wait(20)


@pytest.fixture
def log_key(write) -> str:
    write(3)
    seal()
    return SigningKey.objects.get().vkey


def run() -> Destination:
    Destination.objects.update(retry_at=None)
    for name in configured_publishers():
        publish_to(name)
    return Destination.objects.get()


def test_log_is_cosigned_as_it_grows_and_across_a_killed_witness(
    write, log_key, settings, tmp_path
):
    with running_witness(log_key, tmp_path / "key") as (url, vkey):
        settings.AUDIT_PUBLISH_TO = f"witness+{url}/?key={vkey}"
        assert run().fault == ""
    write(400)
    seal()
    assert "can't be reached" in run().fault
    with running_witness(log_key, tmp_path / "key", int(url.rpartition(":")[2])):
        assert run().fault == ""
        kept = httpx2.get(f"{url}/{_origin_hash()}/checkpoint").text
    keys = [VerifierKey.parse(log_key), VerifierKey.parse(vkey)]
    assert parse_checkpoint(kept, keys).size == 403
    for publication in Publication.objects.all():
        note = publication.checkpoint.note + publication.answer
        assert len(parse_checkpoint(note, keys).signed_by) == 2


def _origin_hash() -> str:
    return hashlib.sha256(Checkpoint.objects.last().origin.encode()).hexdigest()


def test_rewritten_log_is_refused_even_with_its_own_key(write, log_key, settings, tmp_path, folder):
    with running_witness(log_key, tmp_path / "key") as (url, vkey):
        settings.AUDIT_PUBLISH_TO = f"witness+{url}/?key={vkey}"
        assert run().fault == ""
        # Who owns the database, the folder and the key makes another past.
        behind_the_triggers(
            "TRUNCATE audit_entry, audit_leaf, audit_node, audit_checkpoint, audit_publication"
            " CASCADE"
        )
        (folder / "head").unlink()
        write(2)
        seal()
        assert "with 3 leaves, and the database has 2" in run().fault
        write(5)
        seal()
        assert "does not continue what it has seen before" in run().fault
    assert not Publication.objects.exists()


def test_witness_that_does_not_know_the_log_says_so(log_key, settings, tmp_path):
    key = VerifierKey.parse(log_key)
    other = VerifierKey("other.example/log", key.kind, key.public)
    with running_witness(other.vkey, tmp_path / "key") as (url, vkey):
        settings.AUDIT_PUBLISH_TO = f"witness+{url}/?key={vkey}"
        assert "does not know this log" in run().fault
