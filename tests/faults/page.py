"""A person and their open tabs, without a browser: forms over HTTP, frames over the websocket."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import httpx2
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.faults.document import Document, Element

AGAIN = {1001, 1005, 1006, 1011, 1012, 1013, 1014}  # after which hx-ws connects again
AGAIN_SECONDS = 0.3
PATIENCE_SECONDS = 60.0


def wait_until(
    holds: Callable[[], object],
    what: str | Callable[[], str],
    seconds: float = PATIENCE_SECONDS,
) -> None:
    """Return when `holds()`; fail with `what` if it takes too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:.0f} s: {said}")
        time.sleep(0.02)


class Person:
    """Somebody who is signed in; the same cookies go to every process."""

    def __init__(self, base: str, email: str, password: str) -> None:
        self.http = httpx2.Client(timeout=30, follow_redirects=False)
        form = self.http.get(f"{base}/account/sign-in/").text
        fields = hidden_fields(Document(form).root)
        fields |= {"login": email, "password": password}
        answer = self.http.post(f"{base}/account/sign-in/", data=fields)
        assert answer.status_code == 302, f"{email} could not sign in: {answer.status_code}"

    def load(self, url: str) -> Document:
        """Return a page as it comes from the server."""
        answer = self.http.get(url)
        assert answer.status_code == 200, f"{url} answers {answer.status_code}"
        return Document(answer.text)

    @property
    def cookies(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())

    @property
    def session_key(self) -> str:
        return self.http.cookies["sessionid"]


def hidden_fields(form: Element) -> dict[str, str]:
    return {
        field.attributes["name"]: field.attributes.get("value", "")
        for field in form.all("input")
        if field.attributes.get("type") == "hidden"
    }


class Page:
    """An open tab: it loads a page, follows its socket, and connects again like hx-ws."""

    def __init__(self, person: Person, base: str, path: str = "/") -> None:
        self.person, self.base = person, base
        self.document = person.load(base + path)
        composer, thread = self.document.one("#composer"), self.document.one("#thread")
        self.conversation = composer.attributes["data-conversation"]
        self.socket_url = thread.attributes["hx-ws:connect"]
        self.closes: list[int] = []
        self._lock = threading.RLock()
        self._socket: ClientConnection | None = None
        self._open = threading.Event()
        self._leaving = threading.Event()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def reloaded(self) -> Document:
        """What a reload would show."""
        return self.person.load(f"{self.base}/c/{self.conversation}/")

    # --- the socket ----------------------------------------------------------------------------

    def connected(self) -> "Page":
        assert self._open.wait(PATIENCE_SECONDS), f"no socket: {self.closes}"
        return self

    def leave(self) -> None:
        self._leaving.set()
        while self._reader.is_alive():  # it may be about to open another socket
            if self._socket:
                self._socket.close()
            self._reader.join(0.2)

    def _follow(self) -> None:
        while not self._leaving.is_set():
            code = self._follow_once()
            self._open.clear()
            self.closes.append(code)
            if code not in AGAIN:
                return
            self._leaving.wait(AGAIN_SECONDS)

    def _follow_once(self) -> int:
        try:
            with open_socket(self.base, self.socket_url, self.person.cookies) as self._socket:
                self._open.set()
                while not self._leaving.is_set():
                    self._take(str(self._socket.recv()))
                return 1000
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006
        except (OSError, InvalidHandshake, EOFError):
            return 1006

    def _take(self, message: str) -> None:
        with self._lock:
            self.document.take(message)
            self.socket_url = with_cursor(self.socket_url, self.document.cursor())

    # --- what the person does --------------------------------------------------------------------

    def ask(self, text: str) -> int:
        """Send a question; return the HTTP status."""
        with self._lock:
            composer = self.document.one("#composer")
            url, fields = composer.attributes["hx-post"], hidden_fields(composer)
        return self._post(url, {**fields, "text": text})

    def stop(self) -> int:
        with self._lock:
            url = self.document.one("#act").attributes["hx-post"]
            fields = hidden_fields(self.document.one("#composer"))
        return self._post(url, fields)

    def mend(self) -> int:
        """Press the button beside the notice: Continue or Try again."""
        with self._lock:
            form = self.document.last_reply().first("form")
            assert form is not None, f"no button beside: {self.notice()}"
            url, fields = form.attributes["hx-post"], hidden_fields(form)
            if "hx-include" in form.attributes:
                fields |= hidden_fields(self.document.one("#composer"))
        return self._post(url, fields)

    def _post(self, url: str, fields: dict[str, str]) -> int:
        current = f"{self.base}/c/{self.conversation}/"
        headers = {"HX-Request": "true", "HX-Current-URL": current, "Origin": self.base}
        answer = self.person.http.post(self.base + url, data=fields, headers=headers)
        with self._lock, suppress(AssertionError if answer.status_code >= 500 else ()):
            self.document.apply(answer.text)
        return answer.status_code

    # --- what the person sees --------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """What a person sees, such as `text()`: see Document."""
        seen = getattr(self.document, name)

        def look() -> Any:
            with self._lock:
                return seen()

        return look

    def wait_for_words(self, count: int) -> None:
        """Return when the last reply has so many words, while it is still being written."""
        wait_until(lambda: len(self.text().split()) >= count, f"{count} words, got: {self.text()}")
        assert self.is_writing(), f"the reply ended too early: {self.notice()}"

    def wait_for_end(self) -> None:
        wait_until(
            lambda: self.replies() and not self.is_writing(),
            f"the end of the reply; {self.closes=}",
        )


def open_socket(
    base: str, path: str, cookies: str, *, origin: str | None = None
) -> ClientConnection:
    """Connect to the conversation's socket as the page does."""
    return connect(
        base.replace("http", "ws", 1) + path,
        additional_headers={"Cookie": cookies} if cookies else {},
        origin=origin or base,
        open_timeout=3,
        ping_interval=None,
        close_timeout=2,
        max_size=None,
    )


def with_cursor(url: str, cursor: str) -> str:
    """Return the socket's address with another cursor."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return urlunsplit(parts._replace(query=urlencode({**query, "last": cursor})))
