"""The log as it grows, to SIEMs: each sealed entry as an OCSF event, in the order of the leaves.

AUDIT_STREAM_TO names the destinations:

    https://HOST/PATH          a webhook: lines of JSON, signed (audit.posting)
    syslog+tls://HOST:PORT     RFC 5424 messages over TLS (RFC 5425)
    syslog+tcp://HOST:PORT     the same with octet counting (RFC 6587)
    syslog+udp://HOST:PORT     one datagram each (RFC 5426); nobody notices what gets lost

A new destination gets the log from its beginning. Each goes on behind the last leaf that it took;
what was sent while a process died comes again, so a receiver has to expect duplicates and knows
them by `metadata.log_provider` and `metadata.uid`.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult

import orjson
from django.db import connection
from django.db.models import Min

from audit.destinations import (
    DeliveryFault,
    attempt,
    destinations,
    note_arrival,
    webhook_name,
)
from audit.leaves import Place, read_places
from audit.models import Checkpoint, Destination, Fork, Outcome
from audit.ocsf import ocsf_event
from audit.posting import post_signed

BATCH_ENTRIES = 500
BATCH_BYTES = 1 << 20
# One run ends after so long, so that a worker's thread is not held for a whole long log.
RUN_SECONDS = 20.0
NETWORK_SECONDS = 10.0
FINISH_SECONDS = 3.0

# RFC 5424: facility 13 is "log audit"; severities are informational and warning.
_FACILITY = 13
_INFORMATIONAL, _WARNING = 6, 4
# RFC 5612's number for those who have none registered.
_SD_ID = "parley@32473"


class Sent(NamedTuple):
    """A sealed entry and its event as JSON, without line breaks."""

    place: Place
    origin: str
    event: bytes


class Stream(Protocol):
    """A destination of entries."""

    @property
    def name(self) -> str:
        """Its name, without credentials."""

    def send(self, batch: Sequence[Sent]) -> None:
        """Return when the receiver has all of it, as far as can be known. Raises DeliveryFault."""


def configured_streams() -> dict[str, Stream]:
    """Return the streams of AUDIT_STREAM_TO by name. Raises ImproperlyConfigured."""
    kinds: Mapping[str, Callable[[SplitResult], Stream]] = {
        "https": WebhookStream.at,
        "http": WebhookStream.at,
        "syslog+tls": SyslogStream.at,
        "syslog+tcp": SyslogStream.at,
        "syslog+udp": SyslogStream.at,
    }
    return destinations("AUDIT_STREAM_TO", kinds)


def stream_to(name: str) -> None:
    """Send what a stream lacks, for RUN_SECONDS at most; nothing for a name that is gone."""
    if stream := configured_streams().get(name):
        attempt(Destination.Purpose.STREAM, name, lambda state: _catch_up(stream, state))


def _catch_up(stream: Stream, state: Destination) -> None:
    head = Checkpoint.objects.order_by("number").last()
    if head is None:
        return
    began = time.monotonic()
    for batch, stop in _batches(head, _resume_at(state, head)):
        if batch:
            stream.send(batch)
        note_arrival(state, stop, head.origin)
        if time.monotonic() - began > RUN_SECONDS:
            return


def _resume_at(state: Destination, head: Checkpoint) -> int:
    """Return the first leaf to send. A fork may have given other entries the same numbers."""
    if state.origin in {"", head.origin}:
        return state.position
    known = Fork.objects.filter(origin=state.origin).values_list("generation", flat=True).first()
    since = Fork.objects.filter(generation__gt=known or 0)
    least: int = since.aggregate(least=Min("resumed_size", default=0))["least"]
    return min(state.position, least)


def _batches(head: Checkpoint, start: int) -> Iterator[tuple[list[Sent], int]]:
    """Yield what to send together, and the leaf behind it; an entry that is gone is left out."""
    while start < head.size:
        stop = min(start + BATCH_ENTRIES, head.size)
        batch: list[Sent] = []
        size = 0
        with connection.cursor() as cursor:
            places = list(read_places(cursor, start, stop))
        for found in places:
            if found.row is None:
                continue
            event = orjson.dumps(ocsf_event(found.index, head.origin, found.row))
            if batch and size + len(event) > BATCH_BYTES:
                stop = found.index
                break
            batch.append(Sent(found, head.origin, event))
            size += len(event)
        yield batch, stop
        start = stop


# --- webhooks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class WebhookStream:
    """Takes lines of JSON by POST."""

    name: str
    _url: str = field(repr=False)

    @classmethod
    def at(cls, parts: SplitResult) -> "WebhookStream":
        """Raises ValueError."""
        return cls(webhook_name(parts), parts.geturl())

    def send(self, batch: Sequence[Sent]) -> None:
        """Send one request. Raises DeliveryFault."""
        body = b"".join(sent.event + b"\n" for sent in batch)
        post_signed(self._url, body, "application/x-ndjson")


# --- syslog ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyslogStream:
    """Takes RFC 5424 messages."""

    transport: str
    host: str
    port: int

    @classmethod
    def at(cls, parts: SplitResult) -> "SyslogStream":
        """Raises ValueError."""
        if not parts.hostname or not parts.port:
            raise ValueError("it has to name a host and a port.")
        return cls(parts.scheme.removeprefix("syslog+"), parts.hostname, parts.port)

    @property
    def name(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"syslog+{self.transport}://{host}:{self.port}"

    def send(self, batch: Sequence[Sent]) -> None:
        """Send each entry as a message. Raises DeliveryFault."""
        messages = [syslog_message(sent) for sent in batch]
        try:
            if self.transport == "udp":
                self._send_datagrams(messages)
            else:
                self._send_counted(messages)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "reason", None) or error.strerror or type(error).__name__
            raise DeliveryFault(f"The receiver can't be reached: {why}.") from error

    def _send_datagrams(self, messages: Sequence[bytes]) -> None:
        family, kind, _, _, address = socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as sender:
            for message in messages:
                sender.sendto(message, address)

    def _send_counted(self, messages: Sequence[bytes]) -> None:
        with self._connected() as sender:
            sender.sendall(b"".join(b"%d %s" % (len(message), message) for message in messages))
            _finish(sender)

    def _connected(self) -> socket.socket:
        plain = socket.create_connection((self.host, self.port), timeout=NETWORK_SECONDS)
        if self.transport == "tcp":
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        except (OSError, ssl.SSLError):
            plain.close()
            raise


def _finish(sender: socket.socket) -> None:
    """End the connection and see that the receiver does: syslog has no other receipt.

    A receiver that stays silent has taken everything as far as TCP knows; one that went away, or
    refuses us only now (TLS 1.3 lets it), raises OSError.
    """
    sender.settimeout(FINISH_SECONDS)
    with suppress(TimeoutError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        if isinstance(sender, ssl.SSLSocket):
            sender.unwrap()
            return
        sender.shutdown(socket.SHUT_WR)
        while sender.recv(4096):
            pass


def syslog_message(sent: Sent) -> bytes:
    """Return an entry as a message of RFC 5424; its text is the OCSF event."""
    row = sent.place.row
    assert row is not None
    severity = _INFORMATIONAL if row.outcome == Outcome.SUCCEEDED else _WARNING
    host = sent.origin.partition("/")[0]
    ids = {
        "leaf": str(sent.place.index),
        "entry": str(row.entry),
        "request": row.request_id,
        "trace": row.trace_id,
        "turn": row.turn_id,
    }
    header = " ".join(
        (
            f"<{_FACILITY * 8 + severity}>1",
            row.occurred_at,
            _printable(host, 255),
            "parley",
            "-",
            _printable(row.event, 32),
            _structured({name: value for name, value in ids.items() if value}),
        )
    )
    return header.encode() + b" " + sent.event


def _printable(text: str, longest: int) -> str:
    """Return a field of the header: PRINTUSASCII, or - for nothing."""
    return "".join(c for c in text if "!" <= c <= "~")[:longest] or "-"


def _structured(values: Mapping[str, str]) -> str:
    pairs = "".join(f' {name}="{_escaped(value)}"' for name, value in values.items())
    return f"[{_SD_ID}{pairs}]"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in '"\\]' else c for c in text)
