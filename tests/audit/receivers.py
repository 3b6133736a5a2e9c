"""Who gets copies of the log, on loopback: a web server, and servers of syslog."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class WebReceiver:
    """Keeps what is posted to it, and answers as `answer` says: status and body."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answer: Callable[[Request], tuple[int, str]] = lambda _request: (204, "")


@contextmanager
def web_receiver() -> Iterator[WebReceiver]:
    receiver = WebReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            receiver.requests.append(request)
            status, text = receiver.answer(request)
            self.send_response(status)
            if status in {301, 307}:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class SyslogReceiver:
    """Keeps the bytes of each connection, whole when the sender has ended it."""

    port: int
    connections: list[bytes] = field(default_factory=list)


@contextmanager
def syslog_receiver(context: ssl.SSLContext | None = None) -> Iterator[SyslogReceiver]:
    listening = socket.create_server(("127.0.0.1", 0))
    receiver = SyslogReceiver(listening.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                _take(connection, context, receiver)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield receiver
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _take(
    connection: socket.socket, context: ssl.SSLContext | None, receiver: SyslogReceiver
) -> None:
    try:
        stream = context.wrap_socket(connection, server_side=True) if context else connection
        received = b""
        while piece := stream.recv(65536):
            received += piece
        receiver.connections.append(received)
        if isinstance(stream, ssl.SSLSocket):
            stream.unwrap()
    except OSError:
        return


def counted(data: bytes) -> list[bytes]:
    """Split octet-counted messages; what is no whole message fails."""
    messages = []
    while data:
        length, _, rest = data.partition(b" ")
        assert len(rest) >= int(length)
        messages.append(rest[: int(length)])
        data = rest[int(length) :]
    return messages
