"""HTTP to those who get copies of the log: bounded in time and size, and signed for webhooks.

A webhook's receiver shares AUDIT_STREAM_SECRET with us. Each request has two headers:

    Parley-Timestamp: 1795358000
    Parley-Signature: v1=hex(HMAC-SHA-256(secret, "1795358000" + "." + body))

The time is POSIX seconds. A receiver checks the signature over the bytes that came, and that the
time is not long ago, lest somebody sends an old request again. Redirects are not followed.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass

import httpx2
from django.core.exceptions import ImproperlyConfigured

from audit.destinations import DeliveryFault
from chatbot.secrets import read_secret

SECRET = "AUDIT_STREAM_SECRET"  # noqa: S105 - its name
TIMESTAMP_HEADER = "Parley-Timestamp"
SIGNATURE_HEADER = "Parley-Signature"
MIN_SECRET_CHARACTERS = 32
_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
# No answer that means something to us is longer.
_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: HTTP's status, and the beginning of the body as text."""

    status: int
    text: str


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Return what Parley-Signature says of a body that is sent at `timestamp` (POSIX seconds)."""
    message = str(timestamp).encode() + b"." + body
    return "v1=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def post_signed(url: str, body: bytes, content_type: str) -> None:
    """Send a body to a webhook; any 2xx means that it is there.

    May ask the secret store over the network. Raises DeliveryFault.
    """
    now = int(time.time())
    signed = {TIMESTAMP_HEADER: str(now), SIGNATURE_HEADER: signature(_secret(), now, body)}
    answer = post(url, body, content_type, signed)
    if not 200 <= answer.status < 300:
        raise DeliveryFault(f"The receiver answered with HTTP status {answer.status}.")


def post(url: str, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> Answer:
    """Send a body and return the answer, whatever its status. Raises DeliveryFault."""
    try:
        with (
            httpx2.Client(timeout=_TIMEOUT, follow_redirects=False) as client,
            client.stream(
                "POST", url, content=body, headers={"Content-Type": content_type, **(headers or {})}
            ) as response,
        ):
            return Answer(response.status_code, _beginning(response))
    except httpx2.HTTPError as error:
        # Without the error's own words: they may hold the address with its credentials.
        raise DeliveryFault(f"The receiver can't be reached: {type(error).__name__}.") from None


def _beginning(response: httpx2.Response) -> str:
    found = b""
    for piece in response.iter_bytes():
        found += piece
        if len(found) >= _ANSWER_BYTES:
            break
    return found[:_ANSWER_BYTES].decode("utf-8", errors="replace")


def _secret() -> str:
    try:
        secret = read_secret(SECRET)
    except ImproperlyConfigured as error:
        raise DeliveryFault(str(error)) from error
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise DeliveryFault(
            f"{SECRET} is too short: give {MIN_SECRET_CHARACTERS} random characters or more."
        )
    return secret
