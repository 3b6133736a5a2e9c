"""Who acts: in a request, in the body that it streams, in a socket, a task, a command.

`acting_as(actor)` says it for a block, and everything that the block starts: tasks of asyncio and
threads inherit it. Requests (`acting_as_the_signed_in`), tasks of the worker (`chatbot.celery`) and
commands (`manage.py`) are such blocks already. `carried()` is the same as plain data, for a message
to another process.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.utils.functional import SimpleLazyObject

from accounts.access import Actor, System
from accounts.http import client_address
from accounts.models import ApiToken, User


@dataclass(frozen=True, slots=True)
class Acting:
    """Who acts here, and from where. `impersonator_id` is the account that really sits there."""

    actor: Actor
    address: str = ""
    user_agent: str = ""
    impersonator_id: str = ""
    token: ApiToken | None = None
    request: HttpRequest | None = None

    def token_of(self, user: User) -> str:
        """Return the id of the API token with which `user` acts here, or an empty string."""
        token = self.token or _token_in(self.request)
        return str(token.pk) if token and token.user_id == user.pk else ""


_acting: ContextVar[Acting | None] = ContextVar("acting", default=None)


@contextmanager
def acting_as(
    actor: Actor,
    *,
    address: str = "",
    user_agent: str = "",
    impersonator: User | None = None,
    token: ApiToken | None = None,
) -> Iterator[None]:
    """Let everything recorded inside be done by `actor`; nests, and ends with the block.

    `address` and `user_agent` are the client's, where there is one. `impersonator` is who really
    sits there when somebody acts in another's name, `token` the API token of a program of theirs.
    """
    impersonator_id = str(impersonator.pk) if impersonator else ""
    with _being(Acting(actor, address, user_agent, impersonator_id, token)):
        yield


@contextmanager
def _being(acting: Acting | None) -> Iterator[None]:
    reset = _acting.set(acting)
    try:
        yield
    finally:
        _acting.reset(reset)


def current_acting() -> Acting | None:
    """Return who acts here and from where, or None where nobody said."""
    return _acting.get()


def current_actor() -> Actor | None:
    """Return who acts here, or None where nobody said."""
    acting = _acting.get()
    return acting.actor if acting else None


# --- requests --------------------------------------------------------------------------------


def acting_as_the_signed_in(
    get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]
    | Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], Any]:
    """Middleware: what a request records is done by whoever is signed in or brings a token.

    Who that is gets looked up when something is recorded in their name, not before. The body of a
    streamed answer is made when the middleware is long done; it acts for the same person.
    """
    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            acting = _acting_in(request)
            with _being(acting):
                response: HttpResponseBase = await get_response(request)
            return _with_its_body(response, acting)

        return markcoroutinefunction(asynchronous)

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        acting = _acting_in(request)
        with _being(acting):
            response = cast("HttpResponseBase", get_response(request))
        return _with_its_body(response, acting)

    return synchronous


acting_as_the_signed_in.sync_capable = True  # type: ignore[attr-defined]
acting_as_the_signed_in.async_capable = True  # type: ignore[attr-defined]


def _acting_in(request: HttpRequest) -> Acting:
    # A new lazy object: sign-in and sign-out exchange `request.user` within the request.
    return Acting(
        SimpleLazyObject(lambda: _caller(request)),  # type: ignore[arg-type]
        address=client_address(request),
        user_agent=request.headers.get("User-Agent", ""),
        request=request,
    )


def _caller(request: HttpRequest) -> Actor:
    token = _token_in(request)
    return token.user if token else request.user


def _token_in(request: HttpRequest | None) -> ApiToken | None:
    """Return the API token that the doors for programs found in the request."""
    token = getattr(request, "auth", None)
    return token if isinstance(token, ApiToken) else None


def _with_its_body(response: HttpResponseBase, acting: Acting) -> HttpResponseBase:
    if isinstance(response, StreamingHttpResponse):
        body = response.streaming_content
        response.streaming_content = (
            _pieces_later(cast("AsyncIterator[bytes]", body), acting)
            if response.is_async
            else _pieces(cast("Iterator[bytes]", body), acting)
        )
    return response


def _pieces(body: Iterator[bytes], acting: Acting) -> Iterator[bytes]:
    # Not one block around all of them: between two pieces, whoever reads acts for itself.
    while True:
        with _being(acting):
            piece = next(body, None)
        if piece is None:
            return
        yield piece


async def _pieces_later(body: AsyncIterator[bytes], acting: Acting) -> AsyncIterator[bytes]:
    try:
        while True:
            with _being(acting):
                piece = await anext(body, None)
            if piece is None:
                return
            yield piece
    finally:
        if close := getattr(body, "aclose", None):
            with _being(acting):
                await close()


# --- other processes -------------------------------------------------------------------------


def carried() -> dict[str, str]:
    """Return the person who acts here as plain data: ids of account, token and impersonator.

    Empty for the system, strangers, and where nobody said. Holds no address and no name.
    """
    acting = _acting.get()
    if acting is None or not isinstance(acting.actor, User):
        return {}
    user = acting.actor
    ids = {
        "user": str(user.pk),
        "token": acting.token_of(user),
        "impersonator": acting.impersonator_id,
    }
    return {name: value for name, value in ids.items() if value}


@contextmanager
def acting_as_carried(carried: Mapping[str, str], otherwise: System) -> Iterator[None]:
    """Let everything recorded inside be done by who was `carried`, or by the system.

    Who that is gets looked up when something is recorded. An account or token that is no more is
    replaced by the system: its work is done all the same.
    """
    if "user" not in carried:
        with acting_as(otherwise):
            yield
        return
    person = SimpleLazyObject(lambda: _account(carried["user"]) or otherwise)
    token = SimpleLazyObject(lambda: ApiToken.objects.filter(pk=carried["token"]).first())
    acting = Acting(
        person,  # type: ignore[arg-type]
        impersonator_id=carried.get("impersonator", ""),
        token=token if "token" in carried else None,  # type: ignore[arg-type]
    )
    with _being(acting):
        yield


def _account(pk: str) -> User | None:
    account: User | None = User.objects.with_roles().filter(pk=pk).first()
    return account
