"""The websocket of a conversation's page: frames out, nothing in.

Whoever may not read is accepted and then closed with a 44xx code, because a browser would try a
refused connection again for ever. `Watch` looks every few seconds, for all sockets of the process
at once, whether each session still holds and whether the database knows more than a socket has
told its page; the second heals whatever Redis lost.
"""

import asyncio
import random
import uuid
from collections.abc import Iterable
from contextlib import aclosing
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import structlog
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user
from django.contrib.sessions.models import Session
from django.http.cookie import parse_cookie
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from accounts.access import allowed
from accounts.models import User
from chatbot import telemetry
from chatbot.database import DATABASE_FAULTS, db
from conversations.cancelling import cancelled
from conversations.models import Conversation
from conversations.reply.log import REDIS_FAULTS, Cursor, Frame, Gap
from conversations.reply.runner import runner
from conversations.thread import empty_page, thread_of

logger = structlog.get_logger(__name__)

NOT_SIGNED_IN, FOREIGN_ORIGIN, NOT_FOUND, BAD_REQUEST = 4401, 4403, 4404, 4400
WATCH_SECONDS = 2.0
AGAIN_SECONDS = 0.7
NOBODY = str(uuid.UUID(int=0))
_BEGINNING = Cursor(0, 0)


class ConversationConsumer(AsyncWebsocketConsumer):
    """Sends a conversation's frames to one page, from the page's cursor on."""

    conversation_id: uuid.UUID
    session_key: str
    user: User
    cursor: Cursor
    _told: Cursor | None = None  # on this line
    _following: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self.accept()
        if code := await self._refusal():
            await self.close(code)
            return
        telemetry.open_sockets.inc()
        watch.add(self)
        self._following = asyncio.create_task(self._follow())

    async def disconnect(self, code: int) -> None:
        if self._following is None:
            return
        watch.remove(self)
        telemetry.open_sockets.dec()
        await cancelled({self._following})

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Nothing is expected from the page: commands are HTTP requests."""

    async def _refusal(self) -> int:
        """Return the code to close with, or 0 when the page may read."""
        headers = dict(self.scope["headers"])
        if not _same_origin(headers):
            return FOREIGN_ORIGIN
        self.session_key = _session_key(headers)
        self.conversation_id = self.scope["url_route"]["kwargs"]["conversation_id"]
        query = parse_qs(self.scope["query_string"].decode("ascii", "replace"))
        try:
            self.cursor = Cursor.parse(query.get("last", ["0:0"])[0])
        except ValueError:
            return BAD_REQUEST
        user = await db(_user_of_session)(self.session_key)
        if user is None:
            return NOT_SIGNED_IN
        self.user = user
        return 0 if await db(_may_read)(user, self.conversation_id, self.cursor) else NOT_FOUND

    async def _follow(self) -> None:
        """Deliver frames until the socket closes, starting over from the database at each gap."""
        while True:
            try:
                known = await db(_known_cursor)(self.conversation_id)
                async with aclosing(
                    runner().hub.follow(self.conversation_id, self.cursor, known=known)
                ) as batches:
                    async for frames in batches:
                        await self._send_frames(frames)
            except Gap:
                await self.send_snapshot()
            except REDIS_FAULTS as error:
                logger.warning("log_away", error=type(error).__name__)
            except DATABASE_FAULTS as error:
                logger.warning("database_away", error=type(error).__name__)
            # Spread, so that all sockets of a process do not ask again at the same moment.
            await asyncio.sleep(AGAIN_SECONDS * random.uniform(1, 3))  # noqa: S311

    async def _send_frames(self, frames: list[Frame]) -> None:
        fresh = [frame for frame in frames if frame.cursor > self.cursor]
        if not fresh:
            return
        if self.cursor == _BEGINNING and not await db(_may_read)(
            self.user, self.conversation_id, _BEGINNING
        ):
            await self.close(NOT_FOUND)  # somebody else's conversation has begun under this id
            return
        for frame in fresh:
            # One message each: the page looks for all targets of a message before it swaps the
            # first piece, and a frame may be meant for elements that the one before brings.
            self.cursor = frame.cursor
            await self._send(frame.html)

    async def send_snapshot(self) -> None:
        """Send the thread as the database has it, with its cursor."""
        try:
            self.cursor, html = await db(_snapshot)(self.user, self.conversation_id)
        except (*DATABASE_FAULTS, Conversation.DoesNotExist) as error:
            logger.warning("snapshot_unavailable", error=type(error).__name__)
            return
        await self._send(html, starts_over=True)

    async def _send(self, html: str, *, starts_over: bool = False) -> None:
        envelope: dict[str, Any] = {"swap": "none", "content": html}
        # A frame that follows the one before need not say so: a sixth of what a word costs.
        if self._told is None or self.cursor != self._told.next():
            envelope["id"] = str(self.cursor)
        self._told = self.cursor
        if starts_over:
            envelope["over"] = True
        await self.send(text_data=orjson.dumps(envelope).decode())


class Watch:
    """Looks after all sockets of this process, with two queries every few seconds."""

    def __init__(self) -> None:
        self._sockets: set[ConversationConsumer] = set()
        self._behind: dict[ConversationConsumer, Cursor] = {}  # where each stood a round ago
        self._task: asyncio.Task[None] | None = None

    def add(self, socket: ConversationConsumer) -> None:
        self._sockets.add(socket)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_regularly(), name="watch")

    def remove(self, socket: ConversationConsumer) -> None:
        self._sockets.discard(socket)
        self._behind.pop(socket, None)

    async def _look_regularly(self) -> None:
        while self._sockets:
            await asyncio.sleep(WATCH_SECONDS)
            sockets = list(self._sockets)
            try:
                valid = await db(_valid_sessions)({socket.session_key for socket in sockets})
                known = await db(_known_cursors)({socket.conversation_id for socket in sockets})
                deleted = await db(_deleted)(_begun(sockets) - known.keys())
            except DATABASE_FAULTS as error:
                logger.warning("watch_failed", error=type(error).__name__)
                continue
            for socket in sockets:
                if socket.conversation_id in deleted:
                    await socket.close(NOT_FOUND)
                else:
                    await self._look_at(socket, valid, known)

    async def _look_at(
        self,
        socket: ConversationConsumer,
        valid: set[str],
        known: dict[uuid.UUID, Cursor],
    ) -> None:
        if socket.session_key not in valid:
            await socket.close(NOT_SIGNED_IN)
            return
        if known.get(socket.conversation_id, Cursor(0, 0)) <= socket.cursor:
            self._behind.pop(socket, None)
        elif self._behind.get(socket) == socket.cursor:
            # Nothing came for a whole round, although the log had the time to deliver.
            del self._behind[socket]
            await socket.send_snapshot()
        else:
            self._behind[socket] = socket.cursor


watch = Watch()


def _same_origin(headers: dict[bytes, bytes]) -> bool:
    """Whether the page that connects is one of ours; other programs send no Origin."""
    origin = headers.get(b"origin")
    if origin is None:
        return True
    host = headers.get(b"host", b"").decode("latin-1")
    given = origin.decode("latin-1")
    return urlsplit(given).netloc == host or given in settings.CSRF_TRUSTED_ORIGINS


def _session_key(headers: dict[bytes, bytes]) -> str:
    cookies = parse_cookie(headers.get(b"cookie", b"").decode("latin-1"))
    return cookies.get(settings.SESSION_COOKIE_NAME, "")


def _may_read(user: User, conversation_id: uuid.UUID, cursor: Cursor) -> bool:
    """Whether the conversation is the user's, or does not exist yet.

    One that the page has read in, up to `cursor`, existed: now it was deleted.
    """
    if not allowed(user, "conversations.chat"):
        return False
    found = Conversation.objects.filter(pk=conversation_id)
    # In this order: a conversation that begins between the two questions is looked at again when
    # its first frame comes; the other way round it would seem to be somebody else's.
    is_new = cursor == _BEGINNING and not found.exists()
    return is_new or found.visible_to(user).exists()


def _known_cursor(conversation_id: uuid.UUID) -> Cursor:
    return _known_cursors({conversation_id}).get(conversation_id, Cursor(0, 0))


def _known_cursors(conversation_ids: set[uuid.UUID]) -> dict[uuid.UUID, Cursor]:
    """How far the database is, for each conversation that has begun and was not deleted."""
    rows = (
        Conversation.objects.living()
        .filter(pk__in=conversation_ids, leaf__isnull=False)
        .values_list("pk", "leaf__fence", "leaf__cursor")
    )
    return {pk: Cursor(fence, number) for pk, fence, number in rows}


def _begun(sockets: Iterable[ConversationConsumer]) -> set[uuid.UUID]:
    """Return the conversations that pages have read in already."""
    return {socket.conversation_id for socket in sockets if socket.cursor != _BEGINNING}


def _deleted(conversation_ids: set[uuid.UUID]) -> set[uuid.UUID]:
    """Return which of these were deleted, or are gone. No query for none of them."""
    if not conversation_ids:
        return set()
    living = Conversation.objects.living()
    return conversation_ids - set(
        living.filter(pk__in=conversation_ids).values_list("pk", flat=True)
    )


def _user_of_session(session_key: str) -> User | None:
    """Return who is signed in with this session, or None."""
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key or None)
    user = get_user(SimpleNamespace(session=session))  # type: ignore[arg-type]
    return user if isinstance(user, User) else None


def _valid_sessions(keys: set[str]) -> set[str]:
    """Return those that have not ended, of users who are active and kept their password."""
    sessions = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    signed_in = {session.session_key: session.get_decoded() for session in sessions}
    users = User.objects.filter(is_active=True).in_bulk(
        {uuid.UUID(data[SESSION_KEY]) for data in signed_in.values() if SESSION_KEY in data}
    )
    return {
        key
        for key, data in signed_in.items()
        if (user := users.get(uuid.UUID(data.get(SESSION_KEY, NOBODY))))
        and constant_time_compare(data.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash())
    }


def _snapshot(user: User, conversation_id: uuid.UUID) -> tuple[Cursor, str]:
    stored = Conversation.objects.visible_to(user).filter(pk=conversation_id).first()
    page = thread_of(stored) if stored else empty_page(user, conversation_id)
    html = render_to_string(
        "conversations/oob/snapshot.html", {"page": page, "without_token": True}
    )
    return page.cursor, html
