"""Sealed entries reach SIEMs: all of them, in order, and again after a fault."""

import datetime
import hashlib
import hmac
import ipaddress
import re
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts.access import System
from audit import streams
from audit.destinations import FIRST_PAUSE, LONGEST_PAUSE, pause_after
from audit.leaves import Place
from audit.models import Checkpoint, Destination, Fork
from audit.posting import signature
from audit.sealing import seal
from audit.streams import Sent, configured_streams, stream_to, syslog_message
from audit.trail import record
from tests.audit.receivers import counted, syslog_receiver, web_receiver
from tests.audit.test_ocsf import row

SECRET = "a secret that both sides know, 0123456789"


@pytest.fixture
def receiver(settings, monkeypatch):
    """A webhook to which AUDIT_STREAM_TO points; its answers can be changed."""
    monkeypatch.setenv("AUDIT_STREAM_SECRET", SECRET)
    with web_receiver() as found:
        settings.AUDIT_STREAM_TO = f"{found.url}/hook/a-token"
        yield found


def run() -> None:
    for name in configured_streams():
        stream_to(name)


def run_without_rest() -> None:
    Destination.objects.update(retry_at=None)
    run()


def indexes(receiver) -> list[int]:
    lines = [line for request in receiver.requests for line in request.body.splitlines()]
    return [int(orjson.loads(line)["metadata"]["uid"]) for line in lines]


def the_row() -> Destination:
    return Destination.objects.get()


# --- what is sent ----------------------------------------------------------------------------


def test_sealed_entries_arrive_in_order_once_and_others_wait(write, receiver):
    write(3)
    run()
    assert receiver.requests == []
    seal()
    write(2)
    run()
    assert indexes(receiver) == [0, 1, 2]
    seal()
    run()
    run()
    assert indexes(receiver) == [0, 1, 2, 3, 4]
    assert the_row().position == 5


def test_batches_are_bounded_by_count_and_by_size(write, receiver, monkeypatch):
    write(7)
    seal()
    monkeypatch.setattr(streams, "BATCH_ENTRIES", 3)
    run()
    assert [len(r.body.splitlines()) for r in receiver.requests] == [3, 3, 1]
    Destination.objects.update(position=0)
    receiver.requests.clear()
    monkeypatch.setattr(streams, "BATCH_BYTES", 10)
    run()
    assert [len(r.body.splitlines()) for r in receiver.requests] == [1] * 7
    assert indexes(receiver) == list(range(7))


def test_request_is_signed_over_its_time_and_body(write, receiver):
    write(1)
    seal()
    run()
    (request,) = receiver.requests
    timestamp = request.headers["parley-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    expected = hmac.new(
        SECRET.encode(), timestamp.encode() + b"." + request.body, hashlib.sha256
    ).hexdigest()
    assert request.headers["parley-signature"] == f"v1={expected}"
    assert request.headers["content-type"] == "application/x-ndjson"


def test_receiver_that_does_as_the_documentation_says_knows_what_is_ours(write, receiver):
    text = (Path(__file__).resolve().parents[2] / "docs" / "operating.md").read_text()
    documented: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], documented)
    is_ours = documented["is_ours"]
    write(1)
    seal()
    run()
    (request,) = receiver.requests
    now, signed = request.headers["parley-timestamp"], request.headers["parley-signature"]
    assert is_ours(SECRET, now, signed, request.body)
    assert not is_ours("another secret", now, signed, request.body)
    assert not is_ours(SECRET, now, signed, request.body + b" ")
    assert not is_ours(SECRET, str(int(now) - 1), signed, request.body)
    old = int(now) - 301
    assert not is_ours(SECRET, str(old), signature(SECRET, old, request.body), request.body)
    assert not is_ours(SECRET, "now", signature(SECRET, old, request.body), request.body)


def test_no_personal_value_is_sent(write, receiver):
    record(
        System("tests"), "account.created", ("accounts.user", "1"), target_label="olive@x.example"
    )
    seal()
    run()
    assert b"olive" not in receiver.requests[0].body


def test_long_backlog_is_sent_in_more_than_one_run(write, receiver, monkeypatch):
    write(4)
    seal()
    monkeypatch.setattr(streams, "BATCH_ENTRIES", 2)
    monkeypatch.setattr(streams, "RUN_SECONDS", -1.0)
    run()
    assert indexes(receiver) == [0, 1]
    run()
    assert indexes(receiver) == [0, 1, 2, 3]


# --- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 307, 400, 401, 500, 503])
def test_refused_batch_comes_again_after_a_rest(write, receiver, status):
    write(2)
    seal()
    receiver.answer = lambda _: (status, "an answer that is not repeated")
    run()
    run()
    assert len(receiver.requests) == 1, "it should rest"
    state = the_row()
    assert (state.position, state.failures) == (0, 1)
    assert str(status) in state.fault
    assert "answer that" not in state.fault
    assert state.retry_at > timezone.now()
    receiver.answer = lambda _: (200, "")
    run_without_rest()
    assert indexes(receiver) == [0, 1, 0, 1]
    state = the_row()
    assert (state.position, state.failures, state.fault, state.retry_at) == (2, 0, "", None)


def test_fault_in_the_middle_keeps_what_arrived(write, receiver, monkeypatch):
    write(6)
    seal()
    monkeypatch.setattr(streams, "BATCH_ENTRIES", 2)
    receiver.answer = lambda _: (500 if len(receiver.requests) == 2 else 200, "")
    run()
    assert the_row().position == 2
    run_without_rest()
    assert indexes(receiver) == [0, 1, 2, 3, 2, 3, 4, 5]


def test_one_that_fails_holds_no_other(write, receiver, settings):
    settings.AUDIT_STREAM_TO = f"http://127.0.0.1:9/closed, {receiver.url}/hook"
    write(2)
    seal()
    run()
    assert indexes(receiver) == [0, 1]
    failing = Destination.objects.get(failures=1)
    assert failing.name.startswith("http://127.0.0.1:9/~")
    assert "can't be reached" in failing.fault


def test_credentials_of_an_address_are_told_nowhere(write, settings, monkeypatch, caplog):
    monkeypatch.setenv("AUDIT_STREAM_SECRET", SECRET)
    settings.AUDIT_STREAM_TO = "http://mallory:s3cret-1@127.0.0.1:9/s3cret-2?key=s3cret-3"
    write(1)
    seal()
    run()
    told = caplog.text + str(vars(the_row())) + repr(configured_streams())
    assert "audit_delivery_fault" in told
    assert "s3cret" not in told
    assert "mallory" not in told


def test_without_a_good_secret_nothing_is_sent(write, receiver, monkeypatch):
    write(1)
    seal()
    monkeypatch.delenv("AUDIT_STREAM_SECRET")
    run()
    assert "AUDIT_STREAM_SECRET is not set" in the_row().fault
    monkeypatch.setenv("AUDIT_STREAM_SECRET", "short")
    run_without_rest()
    assert "too short" in the_row().fault
    assert "'short'" not in the_row().fault
    assert receiver.requests == []


def test_two_workers_do_not_send_at_once(write, receiver):
    write(1)
    seal()
    (name,) = configured_streams()
    beside = connections["default"].copy()
    beside.settings_dict["OPTIONS"].pop("pool", None)
    key = int.from_bytes(hashlib.sha256(f"audit stream {name}".encode()).digest()[:8], signed=True)
    with beside.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [key])
        run()
        assert receiver.requests == []
    # As when the other worker is killed.
    beside.close()
    deadline = time.monotonic() + 20
    while not receiver.requests and time.monotonic() < deadline:
        run()
    assert indexes(receiver) == [0]


@given(st.integers(1, 10_000))
def test_pauses_grow_and_are_bounded(failures):
    pause = pause_after(failures)
    assert FIRST_PAUSE / 2 <= pause <= LONGEST_PAUSE
    if failures > 10:
        assert pause >= LONGEST_PAUSE / 2


# --- forks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resumed", "came"), [([2], [2, 3]), ([1, 3], [1, 2, 3]), ([3, 1], [1, 2, 3])]
)
def test_after_forks_what_came_under_old_numbers_is_sent(write, receiver, resumed, came):
    write(4)
    seal()
    run()
    receiver.requests.clear()
    # Backups were restored; each time the log went on under a new name.
    Destination.objects.update(position=4, origin="parley.example/first")
    head = Checkpoint.objects.get()
    names = [*["parley.example/first", "parley.example/between"][: len(resumed)], head.origin]
    for number, size in enumerate(resumed):
        Fork.objects.create(
            generation=number + 2,
            origin=names[number + 1],
            old_origin=names[number],
            old_size=4,
            old_root=b"\0" * 32,
            resumed_size=size,
            resumed_root=b"\0" * 32,
            size=4,
            cursor_transaction=0,
            reason="restored",
            statement="",
        )
    run()
    assert indexes(receiver) == came
    assert (the_row().position, the_row().origin) == (4, head.origin)


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("ftp://h/", "has to begin with one of http:, https:, syslog"),
        ("no address", "has to begin with"),
        ("http://siem.example/hook", "has to begin with https:"),
        ("https:///path", "names no host"),
        ("https://[::1/", "is no address"),
        ("https://h:99999/", "is no address"),
        ("syslog+tls://h", "a host and a port"),
        (f"https://{'h' * 300}/", "too long"),
        ("https://h/a,https://h/a", "names https://h/~"),
    ],
)
def test_address_that_is_not_understood_is_told_by_its_place(settings, address, complaint):
    settings.AUDIT_STREAM_TO = address
    with pytest.raises(ImproperlyConfigured, match="AUDIT_STREAM_TO") as error:
        configured_streams()
    assert complaint in str(error.value)


def test_error_of_an_address_quotes_no_credentials(settings):
    settings.AUDIT_STREAM_TO = "syslog+tcp://h:1, http://mallory:s3cret@siem.example/s3cret"
    with pytest.raises(ImproperlyConfigured, match="address 2") as error:
        configured_streams()
    assert "s3cret" not in str(error.value)


def test_no_address_is_no_stream(settings):
    settings.AUDIT_STREAM_TO = " , "
    assert configured_streams() == {}


# --- syslog ----------------------------------------------------------------------------------

HEADER = re.compile(
    rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]+) parley - ([!-~]{1,32}) "
    rb'\[parley@32473((?: \w+="(?:[^"\\\]]|\\["\\\]])*")+)\] '
)


def test_message_is_that_of_rfc_5424():
    sent = Sent(
        Place(41, 7, b"", False, row("role.granted", turn_id='a"]\\b', outcome="failed")),
        "chat.example/log",
        b'{"time":1}',
    )
    message = syslog_message(sent)
    found = HEADER.match(message)
    assert found
    assert found.groups() == (
        b"108",
        b"2026-11-22T14:31:07.204518Z",
        b"chat.example",
        b"role.granted",
        rb' leaf="41" entry="7" request="r1" turn="a\"\]\\b"',
    )
    assert message[found.end() :] == b'{"time":1}'


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)


@given(event=TEXT, turn=TEXT, origin=TEXT)
def test_no_text_breaks_a_message(event, turn, origin):
    sent = Sent(Place(1, 1, b"", False, row(event, turn_id=turn)), origin, b"{}")
    found = HEADER.match(syslog_message(sent))
    assert found
    escaped = found[5].decode().partition(' turn="')[2].removesuffix('"')
    assert re.sub(r"\\(.)", r"\1", escaped, flags=re.DOTALL) == turn


def test_tcp_gets_octet_counted_messages(write, settings):
    write(3)
    seal()
    with syslog_receiver() as receiver:
        settings.AUDIT_STREAM_TO = f"syslog+tcp://127.0.0.1:{receiver.port}"
        run()
        (data,) = receiver.connections
    messages = counted(data)
    assert [HEADER.match(message)[5].split()[0] for message in messages] == [
        b'leaf="0"',
        b'leaf="1"',
        b'leaf="2"',
    ]
    events = [orjson.loads(message[HEADER.match(message).end() :]) for message in messages]
    assert [event["metadata"]["uid"] for event in events] == ["0", "1", "2"]
    assert the_row().position == 3


def test_receiver_that_goes_away_gets_it_again(write, settings):
    write(1)
    seal()
    with syslog_receiver() as receiver:
        settings.AUDIT_STREAM_TO = f"syslog+tcp://127.0.0.1:{receiver.port}"
    run()
    assert (the_row().position, the_row().failures) == (0, 1)
    assert "refused" in the_row().fault


def test_connection_that_is_reset_counts_as_not_arrived(write, settings):
    write(1)
    seal()
    listening = socket.create_server(("127.0.0.1", 0))
    settings.AUDIT_STREAM_TO = f"syslog+tcp://127.0.0.1:{listening.getsockname()[1]}"

    def reset() -> None:
        connection, _ = listening.accept()
        linger = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()

    thread = threading.Thread(target=reset)
    thread.start()
    run()
    thread.join(20)
    listening.close()
    assert (the_row().position, the_row().failures) == (0, 1)


def test_udp_gets_a_datagram_each(write, settings):
    write(2)
    seal()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        settings.AUDIT_STREAM_TO = f"syslog+udp://127.0.0.1:{receiver.getsockname()[1]}"
        run()
        messages = [receiver.recv(65536) for _ in range(2)]
    assert all(map(HEADER.match, messages))


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself, and its key, as one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_tls_is_spoken_with_those_who_are_trusted_alone(write, settings, certificate, monkeypatch):
    write(2)
    seal()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with syslog_receiver(context) as receiver:
        settings.AUDIT_STREAM_TO = f"syslog+tls://127.0.0.1:{receiver.port}"
        run()
        assert "CERTIFICATE_VERIFY_FAILED" in the_row().fault
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        run_without_rest()
        assert the_row().position == 2, the_row().fault
        (data,) = receiver.connections
    assert len(counted(data)) == 2
