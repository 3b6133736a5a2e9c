"""The witness: cosigns what only grows, remembers it on disk, and answers as tlog-witness says."""

import hashlib
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from audit.checkpoint import checkpoint_text
from audit.merkle import consistency_path, root_at
from audit.verify import VerifierKey, parse_checkpoint
from audit.witness import (
    Refusal,
    Witness,
    WitnessError,
    WitnessServer,
    logs_by_origin,
    open_key,
)
from tests.audit.bundles import KEY, ORIGIN, OTHER_KEY, encoded
from tests.audit.trees import StoredTree, hashes_of, leaf

TREE = StoredTree.of(hashes_of(300))


@pytest.fixture
def place(tmp_path) -> tuple[Path, Path]:
    return tmp_path / "key", tmp_path / "key.state"


def started(place: tuple[Path, Path]) -> tuple[Witness, VerifierKey]:
    key = open_key(*place, "witness.example/w1")
    return Witness(key, logs_by_origin([KEY.vkey]), place[1]), key.verifier


def request(old: int, size: int, tree: StoredTree = TREE, checkpoint: str | None = None) -> str:
    path = consistency_path(tree, old, size) if old <= size else []
    text = checkpoint or checkpoint_text(ORIGIN, size, root_at(tree, size), [KEY])
    return "".join(f"{line}\n" for line in [f"old {old}", *encoded(path)]) + "\n" + text


def refused(witness: Witness, body: str) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        witness.add_checkpoint(body)
    return refusal.value


def test_what_grows_is_cosigned(place):
    witness, key = started(place)
    for old, size in ((0, 5), (5, 5), (5, 256), (256, 300)):
        line = witness.add_checkpoint(request(old, size))
        text = checkpoint_text(ORIGIN, size, root_at(TREE, size), [KEY])
        log, seen = parse_checkpoint(text + line, [KEY.verifier, key]).signed_by
        assert (log.name, seen.name) == (ORIGIN, "witness.example/w1")
        assert seen.time is not None


def test_who_comes_with_another_size_is_told_the_known_one(place):
    witness, _ = started(place)
    witness.add_checkpoint(request(0, 5))
    for old in (0, 4, 6):
        refusal = refused(witness, request(old, 300))
        assert (refusal.status, refusal.text) == (409, "5\n")
        assert refusal.content_type == "text/x.tlog.size"


def test_a_rewritten_log_is_not_cosigned_even_after_a_restart(place):
    witness, _ = started(place)
    witness.add_checkpoint(request(0, 256))
    forged = StoredTree.of([*hashes_of(17), leaf(b"forged"), *hashes_of(300)[18:]])
    for again in (witness, started(place)[0]):
        assert refused(again, request(256, 300, forged)).status == 422
        assert refused(again, request(256, 256, forged)).status == 422
        # Nor is the log set back.
        assert refused(again, request(0, 200)).status == 409
    # The refusals left what it knows as it was.
    witness.add_checkpoint(request(256, 300))


def test_a_proof_where_none_belongs_is_refused(place):
    witness, _ = started(place)
    body = request(0, 5).replace("old 0\n", f"old 0\n{encoded([bytes(32)])[0]}\n")
    assert refused(witness, body).status == 422


def test_unknown_logs_wrong_signatures_and_malformed_requests_have_their_status(place):
    witness, _ = started(place)
    fine = request(0, 5)
    root = root_at(TREE, 5)
    other = checkpoint_text("other.example/log", 5, root, [KEY])
    unsigned = checkpoint_text(ORIGIN, 5, root, [OTHER_KEY])
    empty = checkpoint_text(ORIGIN, 0, root, [KEY])
    line = encoded([bytes(32)])[0] + "\n"
    for status, body in (
        (404, request(0, 5, checkpoint=other)),
        (403, request(0, 5, checkpoint=unsigned)),
        (403, fine.replace("\n5\n", "\n6\n")),
        (422, request(0, 0, checkpoint=empty)),
        (400, request(6, 5)),
        (400, ""),
        (400, "old 0"),
        (400, "old 0\n\n"),
        (400, fine.replace("old 0", "old 00")),
        (400, fine.replace("old 0", "new 0")),
        (400, fine.replace("old 0\n", "old 0\nAAAA\n")),
        (400, fine.replace("old 0\n", "old 0\n" + 64 * line)),
    ):
        assert refused(witness, body).status == status
    witness.add_checkpoint(fine)


def test_a_lost_or_damaged_state_is_no_new_beginning(place):
    witness, _ = started(place)
    witness.add_checkpoint(request(0, 5))
    for damage in ("", "[]", '{"a": 1}'):
        place[1].write_text(damage)
        with pytest.raises(WitnessError, match="state"):
            started(place)
    place[1].unlink()
    with pytest.raises(WitnessError, match="would cosign a log that was rewritten"):
        started(place)


def test_the_key_is_made_once_and_is_its_owners_alone(place):
    first, second = (open_key(*place, name).verifier for name in ("one/w", "two/w"))
    assert first == second
    assert first.name == "one/w"
    assert place[0].stat().st_mode & 0o777 == 0o600
    place[0].write_text("no key")
    with pytest.raises(WitnessError, match="can't be used"):
        open_key(*place, "one/w")


def test_what_can_not_be_stored_is_not_cosigned(place, monkeypatch):
    witness, _ = started(place)

    def full(*_args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            witness.add_checkpoint(request(0, 5))
    assert witness.latest(hashlib.sha256(ORIGIN.encode()).hexdigest()) is None
    witness.add_checkpoint(request(0, 7))


def test_of_many_at_once_one_wins(place):
    witness, _ = started(place)
    witness.add_checkpoint(request(0, 5))
    outcomes: list[object] = []

    def ask(size: int) -> None:
        try:
            outcomes.append(witness.add_checkpoint(request(5, size)))
        except Refusal as refusal:
            outcomes.append(refusal.status)

    threads = [threading.Thread(target=ask, args=(size,)) for size in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(409) == 7


# Over HTTP


@pytest.fixture
def server(place) -> Iterator[tuple[str, int]]:
    with WitnessServer(("127.0.0.1", 0), started(place)[0]) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield "127.0.0.1", server.server_port
        server.shutdown()
        thread.join()


def test_a_connection_serves_several_requests(server):
    connection = HTTPConnection(*server, timeout=10)
    for old, size in ((0, 5), (5, 9)):
        connection.request("POST", "/add-checkpoint", request(old, size).encode())
        response = connection.getresponse()
        assert response.status == 200
        assert response.read().decode().startswith("\u2014 witness.example/w1 ")
    connection.close()


def test_the_last_checkpoint_is_shown_with_its_cosignature(server, place):
    address = f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint"
    connection = HTTPConnection(*server, timeout=10)
    connection.request("GET", address)
    response = connection.getresponse()
    assert (response.status, bool(response.read())) == (404, True)
    connection.request("POST", "/add-checkpoint", request(0, 9).encode())
    connection.getresponse().read()
    connection.request("GET", address)
    text = connection.getresponse().read().decode()
    key = open_key(*place, "").verifier
    assert len(parse_checkpoint(text, [KEY.verifier, key]).signed_by) == 2
    connection.close()


@pytest.mark.parametrize(
    ("method", "address", "headers", "body", "status"),
    [
        ("POST", "/elsewhere", {}, b"", 404),
        ("GET", "/", {}, b"", 404),
        ("GET", "/" + "0" * 64 + "/checkpoint", {}, b"", 404),
        ("POST", "/add-checkpoint", {}, b"\xff", 400),
        ("POST", "/add-checkpoint", {"Content-Length": "-1"}, b"", 411),
        ("POST", "/add-checkpoint", {"Content-Length": "99999999"}, b"", 413),
    ],
)
def test_odd_requests_are_answered(server, method, address, headers, body, status):
    connection = HTTPConnection(*server, timeout=10)
    connection.request(method, address, body, headers)
    assert connection.getresponse().status == status
    connection.close()


def test_the_packed_witness_runs_without_our_packages(tmp_path):
    root = Path(__file__).parents[2]
    packing = ["make", "-s", "witness", f"PYTHON={sys.executable}", f"DIST={tmp_path}"]
    subprocess.run(packing, cwd=root, check=True, capture_output=True)
    (tmp_path / "elsewhere").mkdir()
    arguments = ["--listen", "127.0.0.1:0", "--log", KEY.vkey, "--name", "w.example/1"]
    running = subprocess.Popen(
        [sys.executable, "-I", str(tmp_path / "witness.pyz"), *arguments, "--key", "witness.key"],
        cwd=tmp_path / "elsewhere",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert running.stdout is not None
        key = VerifierKey.parse(running.stdout.readline().removeprefix("Witness "))
        address = running.stdout.readline().split(" ")[2]
        url = f"http://{address}/add-checkpoint"
        with urllib.request.urlopen(url, request(0, 20).encode(), timeout=10) as response:
            line = response.read().decode()
        text = checkpoint_text(ORIGIN, 20, root_at(TREE, 20), [KEY])
        assert len(parse_checkpoint(text + line, [KEY.verifier, key]).signed_by) == 2
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(url, request(0, 30).encode(), timeout=10)
        assert (error.value.code, error.value.read()) == (409, b"20\n")
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
