"""The ASGI application: static files, pages, websockets, and an orderly end.

A server that stops closes its sockets first and then asks us, through `lifespan`, to finish:
replies that are being written get the time to end, because they belong to the process and not to a
socket.
"""

import asyncio
import gc
import os
from contextlib import suppress
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbot.settings")
django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.db import DatabaseError  # noqa: E402
from servestatic import ServeStaticASGI  # noqa: E402

from accounts.access import System  # noqa: E402
from chatbot import telemetry  # noqa: E402
from chatbot.admission import AdmittingHandler  # noqa: E402
from chatbot.database import db  # noqa: E402
from conversations.doors.size import bounded  # noqa: E402
from conversations.keyring import keyring  # noqa: E402
from conversations.reply.runner import runner  # noqa: E402
from conversations.routing import router as sockets  # noqa: E402
from prompts.catalogue import offers_for  # noqa: E402
from prompts.provider import client_library  # noqa: E402


def _never_sniff(headers: Any, _path: str, _url: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"


_site = ServeStaticASGI(
    ProtocolTypeRouter({"http": bounded(AdmittingHandler()), "websocket": sockets}),
    root=settings.STATIC_ROOT,
    prefix=settings.STATIC_URL,
    allow_all_origins=False,
    add_headers_function=_never_sniff,
)


def _spare_the_collector() -> None:
    """Take what is loaded out of the garbage collector's sight.

    A full collection goes over all of it: some 150 ms in which every reply stands still.
    """
    gc.collect()
    gc.freeze()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve everything; Django's own handler knows no `lifespan`."""
    if scope["type"] != "lifespan":
        await _site(scope, receive, send)
        return
    await receive()
    try:
        await asyncio.to_thread(lambda: keyring().require_masters())
    except ImproperlyConfigured as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    telemetry.forget_ended_processes()
    await runner().ready()
    await send({"type": "lifespan.startup.complete"})
    await asyncio.to_thread(client_library)
    with suppress(DatabaseError):  # then the first question reads it
        await db(offers_for)(System("start"))
    _spare_the_collector()
    await receive()
    await runner().drain()
    await send({"type": "lifespan.shutdown.complete"})
