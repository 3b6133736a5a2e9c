"""Checkpoints reach places outside, each once, and a witness cosigns only what continues."""

import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from audit import publishing
from audit.checkpoint import SigningKey as Signer
from audit.models import Checkpoint, Destination, Publication
from audit.publishing import configured_publishers, publish_to
from audit.sealing import seal
from audit.verify import (
    COSIGNATURE,
    CompactRange,
    NoteSignature,
    VerifierKey,
    cosigned_text,
    key_id,
    parse_checkpoint,
    parse_decimal,
    verify_consistency,
)
from tests.audit.conftest import OTHER_SEED, SEED, behind_the_triggers
from tests.audit.receivers import Request, web_receiver

SECRET = "a secret that both sides know, 0123456789"


def run() -> None:
    for name in configured_publishers():
        publish_to(name)


def run_without_rest() -> None:
    Destination.objects.update(retry_at=None)
    run()


def grow(write, count: int = 1) -> Checkpoint:
    write(count)
    seal()
    return Checkpoint.objects.last()


# --- folders ---------------------------------------------------------------------------------


@pytest.fixture
def outside(settings, tmp_path):
    path = tmp_path / "outside"
    path.mkdir()
    settings.AUDIT_PUBLISH_TO = f"file://{path}"
    return path


def files(folder) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_newest_checkpoint_is_laid_beside_the_others(write, outside):
    run()
    assert files(outside) == {}
    first = grow(write, 2)
    run()
    run()
    assert files(outside) == {"checkpoint-2.txt": first.note, "latest": first.note}
    grow(write)
    newest = grow(write)
    run()
    assert files(outside) == {
        "checkpoint-2.txt": first.note,
        "checkpoint-4.txt": newest.note,
        "latest": newest.note,
    }
    rows = Publication.objects.values_list("checkpoint_id", "destination", "answer")
    assert list(rows) == [
        (first.pk, f"file://{outside}", "checkpoint-2.txt"),
        (newest.pk, f"file://{outside}", "checkpoint-4.txt"),
    ]


def test_what_lies_there_is_never_written_over(write, outside):
    (outside / "checkpoint-1.txt").write_text("of another log")
    checkpoint = grow(write)
    run()
    assert files(outside) == {
        "checkpoint-1.txt": "of another log",
        "checkpoint-1-1.txt": checkpoint.note,
        "latest": checkpoint.note,
    }


def test_folder_that_is_not_there_is_not_made(write, outside):
    outside.rmdir()
    grow(write)
    run()
    state = Destination.objects.get()
    assert (state.fault, state.failures) == ("There is no such folder.", 1)
    assert not outside.exists()
    outside.mkdir()
    run_without_rest()
    assert "latest" in files(outside)
    assert Destination.objects.get().fault == ""


def test_killed_after_writing_it_publishes_the_same_again(write, outside, monkeypatch):
    checkpoint = grow(write)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "note_arrival", die)
        with pytest.raises(Killed):
            run()
    assert not Publication.objects.exists()
    run()
    assert Publication.objects.count() == 1
    assert files(outside) == {"checkpoint-1.txt": checkpoint.note, "latest": checkpoint.note}


# --- S3 --------------------------------------------------------------------------------------


@pytest.fixture
def s3(settings, monkeypatch):
    """S3 as moto plays it, with a bucket `locked` and one without object lock, `open`."""
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    settings.AUDIT_PUBLISH_TO = "s3://locked/parley/log"
    where = {"CreateBucketConfiguration": {"LocationConstraint": "eu-central-1"}}
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True, **where)
        client.create_bucket(Bucket="open", **where)
        yield client


def test_object_can_not_be_deleted_before_its_time(write, s3, settings):
    from botocore.exceptions import ClientError

    settings.AUDIT_RETENTION_DAYS = 200
    checkpoint = grow(write, 3)
    run()
    found = s3.get_object(Bucket="locked", Key="parley/log/checkpoint-3.txt")
    assert found["Body"].read().decode() == checkpoint.note
    assert found["ObjectLockMode"] == "COMPLIANCE"
    kept = found["ObjectLockRetainUntilDate"] - timezone.now()
    assert 199 <= kept.days <= 200
    version = found["VersionId"]
    assert Publication.objects.get().answer == f"parley/log/checkpoint-3.txt version {version}"
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(
            Bucket="locked",
            Key="parley/log/checkpoint-3.txt",
            VersionId=version,
            BypassGovernanceRetention=True,
        )


@pytest.mark.parametrize(
    ("bucket", "code"), [("open", "InvalidRequest"), ("missing", "NoSuchBucket")]
)
def test_bucket_that_locks_nothing_is_a_fault(write, s3, settings, bucket, code):
    settings.AUDIT_PUBLISH_TO = f"s3://{bucket}"
    grow(write)
    run()
    assert Destination.objects.get().fault == f"S3 did not take it: {code}."
    assert not Publication.objects.exists()


# --- webhooks --------------------------------------------------------------------------------


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("AUDIT_STREAM_SECRET", SECRET)
    with web_receiver() as receiver:
        yield receiver


def test_webhook_gets_the_signed_checkpoint(write, web, settings):
    settings.AUDIT_PUBLISH_TO = f"{web.url}/checkpoints"
    checkpoint = grow(write)
    run()
    (request,) = web.requests
    assert request.body.decode() == checkpoint.note
    signed = request.headers["parley-timestamp"].encode() + b"." + request.body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert request.headers["parley-signature"] == f"v1={expected}"


def test_one_that_fails_holds_no_other(write, web, outside, settings):
    settings.AUDIT_PUBLISH_TO = f"{web.url}/checkpoints,file://{outside}"
    web.answer = lambda _: (500, "")
    grow(write)
    run()
    assert "latest" in files(outside)
    assert Publication.objects.count() == 1


# --- witnesses -------------------------------------------------------------------------------


class WitnessDouble:
    """Answers as C2SP tlog-witness says, for one log; it can be made to misbehave."""

    def __init__(self, log_key: str) -> None:
        self.log_key = VerifierKey.parse(log_key)
        self.private = Ed25519PrivateKey.generate()
        self.name = "witness.example/w1"
        self.size = 0
        self.root = CompactRange().root()
        self.asked: list[tuple[int, int]] = []

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, COSIGNATURE, self.private.public_key().public_bytes_raw())

    def answer(self, request: Request) -> tuple[int, str]:
        head, _, note = request.body.decode().partition("\n\n")
        first, *proof = head.split("\n")
        old = parse_decimal(first.removeprefix("old "))
        checkpoint = parse_checkpoint(note, [self.log_key])
        self.asked.append((old, checkpoint.size))
        if old != self.size:
            return 409, f"{self.size}\n"
        path = [base64.b64decode(line) for line in proof]
        verify_consistency(old, self.root, checkpoint.size, checkpoint.root, path)
        self.size, self.root = checkpoint.size, checkpoint.root
        return 200, self.cosign(checkpoint.text)

    def cosign(self, text: str) -> str:
        signature = self.private.sign(cosigned_text(text, 1795000000).encode())
        return NoteSignature(
            self.name,
            key_id(self.name, COSIGNATURE, self.key.public),
            (1795000000).to_bytes(8) + signature,
        ).line


@pytest.fixture
def witness(web, settings, folder):
    seed = base64.b64decode(SEED)
    double = WitnessDouble(Signer.from_seed("parley.example/log", seed).vkey)
    web.answer = double.answer
    settings.AUDIT_PUBLISH_TO = f"witness+{web.url}/w/?key={double.key.vkey}"
    return double


def test_witness_follows_the_log_and_its_cosignature_is_kept(write, web, witness):
    for count in (3, 1, 300, 7):
        grow(write, count)
        run()
    assert witness.asked == [(0, 3), (3, 4), (4, 304), (304, 311)]
    assert {request.path for request in web.requests} == {"/w/add-checkpoint"}
    for publication in Publication.objects.all():
        note = publication.checkpoint.note + publication.answer
        signed = parse_checkpoint(note, [witness.log_key, witness.key])
        assert [s.time for s in signed.signed_by if s.kind == COSIGNATURE] == [1795000000]


def test_witness_that_knows_more_or_less_than_we_noted_is_asked_from_there(write, witness):
    grow(write, 5)
    run()
    grow(write, 5)
    witness.size, witness.root = 0, CompactRange().root()
    run()
    assert witness.asked == [(0, 5), (5, 10), (0, 10)]
    assert Publication.objects.count() == 2


def test_witness_that_saw_a_longer_log_is_a_fault_that_says_so(write, witness):
    witness.size = 9
    grow(write, 5)
    run()
    fault = Destination.objects.get().fault
    assert "with 9 leaves, and the database has 5" in fault
    assert not Publication.objects.exists()


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (404, "", "does not know this log"),
        (403, "", "does not accept the log's signature"),
        (422, "", "does not continue what it has seen before"),
        (500, "", "failed (HTTP status 500)"),
        (409, "many\n", "names no size"),
        (409, "1\n", "changed what it has seen"),
        (200, "", "holds no cosignature"),
        (200, "\u2014 witness.example/w1 AAAAAAAA\n", "holds no cosignature"),
        (200, "<html>", "holds no cosignature"),
    ],
)
def test_witness_that_does_not_cosign_is_a_fault(write, web, witness, status, text, words):
    grow(write, 2)
    web.answer = lambda _: (status, text)
    run()
    assert words in Destination.objects.get().fault
    assert not Publication.objects.exists()


def test_cosignature_over_another_text_or_by_another_key_is_refused(write, web, witness):
    checkpoint = grow(write, 2)
    text = checkpoint.note.partition("\n\n")[0] + "\n"
    for line in (
        witness.cosign(text.replace("\n2\n", "\n3\n")),
        WitnessDouble(witness.log_key.vkey).cosign(text),
    ):
        web.answer = lambda _, line=line: (200, line)
        run_without_rest()
        assert "holds no cosignature" in Destination.objects.get().fault
    web.answer = lambda _: (
        200,
        WitnessDouble(witness.log_key.vkey).cosign(text) + witness.cosign(text),
    )
    run_without_rest()
    assert Publication.objects.get().answer == witness.cosign(text)


def test_leaves_that_are_gone_give_no_proof_and_a_fault(write, witness):
    grow(write, 5)
    run()
    grow(write, 5)
    behind_the_triggers("DELETE FROM audit_leaf WHERE index = 6")
    run()
    assert "There is no proof for the witness" in Destination.objects.get().fault


# --- addresses -------------------------------------------------------------------------------

LOG_KEY = Signer.from_seed("parley.example/log", bytes(range(32))).vkey


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("ftp://h/", "has to begin with one of file:, http"),
        ("file://folder", "its/whole/path"),
        ("s3:///prefix", "s3://BUCKET/PREFIX"),
        ("s3://key:s3cret@bucket/prefix", "without credentials"),
        ("http://h/hook", "has to begin with https:"),
        ("witness+https://h/", "?key="),
        ("witness+https://h/?key=nonsense", "key of the witness can't be used"),
        (f"witness+https://h/?key={LOG_KEY}", "a log's key"),
    ],
)
def test_address_that_is_not_understood_is_told_by_its_place(settings, address, complaint):
    settings.AUDIT_PUBLISH_TO = address
    with pytest.raises(ImproperlyConfigured, match="AUDIT_PUBLISH_TO") as error:
        configured_publishers()
    assert complaint in str(error.value)
    assert "s3cret" not in str(error.value)


def test_changed_key_signs_the_same_size_once_more(write, outside, monkeypatch):
    grow(write)
    run()
    monkeypatch.setenv("AUDIT_SIGNING_KEY", OTHER_SEED)
    monkeypatch.setenv("AUDIT_SIGNING_KEY_PREVIOUS", SEED)
    write(1)
    seal()
    run()
    assert files(outside)["latest"] == Checkpoint.objects.last().note


def test_public_keys_are_printed_for_witnesses(write, capsys):
    with pytest.raises(CommandError, match="has not been signed yet"):
        call_command("audit_keys")
    grow(write)
    call_command("audit_keys")
    assert capsys.readouterr().out == f"{LOG_KEY}\n"
