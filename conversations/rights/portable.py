"""Files for people to take along: a ZIP of JSON for programs, HTML and Markdown for reading.

    with SealedWriter(path, key) as out:
        with Archive(out, made_at=now) as archive:
            archive.put_tables("account", "Your account", tables)
            for conversation in conversations:
                archive.put_conversation(conversation, conversation.shown_messages())
    archive.digests                                 SHA-256 of each file

Everything is written as it is read, a page of messages at a time, so a conversation of any length
takes the same memory. HTML stands alone: no script, nothing loaded from elsewhere, all that people
or models wrote escaped. A text that can't be opened any more is named as such.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Protocol, Self

import orjson
from django.db.models import Q
from django.template.loader import render_to_string
from django.utils.safestring import mark_safe

from conversations.models import Conversation, Feedback, Message, MessageQuerySet, Satisfaction
from conversations.reply.markdown import render
from conversations.turn.faults import sentence_of

PAGE_MESSAGES = 100
UNREADABLE = "This can't be read any more: its key is gone, or what is stored was changed."
LEAD = (
    "Everything that Parley holds about you, as it was when this file was made. Each part is there"
    " three times: to read here, as Markdown, and as JSON for programs. It opens without a"
    " connection."
)
_LOADED = ("prompt_version__template", "refused_by", "feedback")

Row = dict[str, Any]
Write = Callable[[str], None]


class Output(Protocol):
    """Where an archive goes; it is never read, nor sought in."""

    def write(self, data: bytes, /) -> int:
        """Take more."""

    def flush(self) -> None:
        """Let nothing wait."""


@dataclass(frozen=True, slots=True)
class Table:
    """Something held as rows. `columns` are the names of members and what people call them.

    `rows` is asked anew for each format, and may be long. What `is_record` has one row, which is
    read downwards.
    """

    name: str
    title: str
    columns: Sequence[tuple[str, str]]
    rows: Callable[[], Iterable[Row]]
    note: str = ""
    is_record: bool = False


@dataclass(slots=True)
class Counted:
    """What was written so far. `unreadable` are titles and messages that can't be opened."""

    conversations: int = 0
    messages: int = 0
    unreadable: int = 0


class Archive:
    """A ZIP that is written from its beginning to its end. Two of its files never mix."""

    def __init__(
        self,
        out: Output,
        *,
        made_at: datetime,
        asker: str = "You",
        progress: Callable[[Counted], None] = lambda _counted: None,
    ) -> None:
        """`asker` is who asked the questions, as the reader calls them.

        `progress` is told after each page of messages; what it raises ends the writing.
        """
        self._zip = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED)  # type: ignore[call-overload]
        self._made_at = made_at.astimezone(UTC)
        self._asker = asker
        self._progress = progress
        self.counted = Counted()
        self.digests: dict[str, str] = {}
        self._parts: list[tuple[str, str]] = []  # of tables: their files and titles

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._zip.close()

    @contextmanager
    def file(self, name: str) -> Iterator[Write]:
        """Give what writes text into a new file of the archive."""
        info = zipfile.ZipInfo(name, self._made_at.timetuple()[:6])
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        digest = hashlib.sha256()
        with self._zip.open(info, "w") as file:

            def write(text: str) -> None:
                data = text.encode()
                digest.update(data)
                file.write(data)

            yield write
        self.digests[name] = digest.hexdigest()

    def put(self, name: str, text: str) -> None:
        """Write a small file."""
        with self.file(name) as write:
            write(text)

    def put_tables(self, stem: str, title: str, tables: Sequence[Table]) -> None:
        """Write tables as `stem.json`, `stem.html` and `stem.md`."""
        self._parts.append((stem, title))
        with self.file(f"{stem}.json") as write:
            _write_object(write, [(table.name, table.rows()) for table in tables])
        with self.file(f"{stem}.html") as write:
            _write_page(write, title, (piece for table in tables for piece in _html_table(table)))
        with self.file(f"{stem}.md") as write:
            write(f"# {_in_line(title)}\n")
            for table in tables:
                for piece in _markdown_table(table):
                    write(piece)

    def put_conversation(self, conversation: Conversation, messages: MessageQuerySet) -> None:
        """Write a conversation with these messages of it, by `stem_of` its name."""
        stem, pages = stem_of(conversation), _Pages(conversation, messages)
        title = title_of(conversation)
        self.counted.unreadable += conversation.known_title is None
        with self.file(f"{stem}.json") as write:
            about = _conversation_json(conversation)
            _write_object(write, [*about.items(), ("messages", self._told(pages))])
        with self.file(f"{stem}.html") as write:
            _write_page(
                write, title, _html_messages(conversation, pages, self._asker), back="../index.html"
            )
        with self.file(f"{stem}.md") as write:
            write(f"# {_in_line(title)}\n\nBegun {in_words(conversation.created_at)}.\n")
            if score := _score_of(conversation):
                write(f"\nHow it went, from 1 to 5: {score}\n")
            for message in pages.messages():
                write(_markdown_message(message, self._asker))
        self.counted.conversations += 1
        self._progress(self.counted)

    def put_index(
        self,
        title: str,
        facts: Row,
        conversations: Callable[[], Iterable[Conversation]],
        *,
        lead: str = LEAD,
    ) -> None:
        """Write `index.html` and `index.md`: facts, and links to files and conversations.

        To be written last, and opened first.
        """
        context = {"lead": lead, "facts": facts, "parts": self._parts}
        with self.file("index.html") as write:
            start = render_to_string("portable/_index.html", context)
            listed = (_html_entry(conversation) for conversation in conversations())
            _write_page(write, title, _around("<ul>", listed, "</ul>", first=start))
        with self.file("index.md") as write:
            write(f"# {_in_line(title)}\n\n")
            write("".join(f"- {name}: {_in_line(in_words(facts[name]))}\n" for name in facts))
            write("".join(f"- [{_in_line(part)}]({stem}.md)\n" for stem, part in self._parts))
            write("\n## Conversations\n\n")
            for conversation in conversations():
                words = _in_line(title_of(conversation))
                write(f"- [{words}]({stem_of(conversation)}.md)\n")

    def _told(self, pages: "_Pages") -> Iterator[Row]:
        for page in pages:
            for message in page:
                told = _message_json(message)
                self.counted.messages += 1
                self.counted.unreadable += not told["readable"]
                yield told
            self._progress(self.counted)


class _Pages:
    """A conversation's messages by pages, oldest first; what is one page is read once."""

    def __init__(self, conversation: Conversation, messages: MessageQuerySet) -> None:
        self._conversation = conversation
        of_this = messages.filter(conversation=conversation)
        loaded = of_this.linked().select_related(*_LOADED)
        self._messages = loaded.order_by("created_at", "pk")
        self._only: list[Message] | None = None

    def __iter__(self) -> Iterator[list[Message]]:
        if self._only is not None:
            yield self._only
            return
        page = self._following(Q())
        if len(page) < PAGE_MESSAGES:
            self._only = page
        while page:
            yield page
            last = page[-1]
            later = Q(created_at__gt=last.created_at)
            same_moment = Q(created_at=last.created_at, pk__gt=last.pk)
            page = self._following(later | same_moment) if self._only is None else []

    def messages(self) -> Iterator[Message]:
        """Yield them one by one."""
        for page in self:
            yield from page

    def _following(self, where: Q) -> list[Message]:
        page = list(self._messages.filter(where)[:PAGE_MESSAGES])
        for message in page:
            message.conversation = self._conversation
        return page


# --- JSON -------------------------------------------------------------------------------------


def _write_object(write: Write, members: Iterable[tuple[str, Any]]) -> None:
    """Write an object; members that are iterators become arrays, written as they are read."""
    write("{")
    for number, (name, value) in enumerate(members):
        write(f"{',' if number else ''}\n{_json(name)}: ")
        if isinstance(value, str | dict | list) or not isinstance(value, Iterable):
            write(_json(value))
            continue
        write("[")
        for place, one in enumerate(value):
            write(f"{',' if place else ''}\n{_json(one)}")
        write("\n]")
    write("\n}\n")


def _json(value: Any) -> str:
    return orjson.dumps(value, default=_plain).decode()


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    raise TypeError(type(value).__name__)


def _conversation_json(conversation: Conversation) -> Row:
    title = conversation.known_title
    return {
        "id": conversation.pk,
        "title": title or "",
        "title_readable": title is not None,
        "state": conversation.lifecycle,
        "created_at": conversation.created_at,
        "last_message_at": conversation.last_message_at,
        "last_seen_at": conversation.last_seen,
        "end_of_shown_branch": conversation.leaf_id,
        "satisfaction": _satisfaction_json(getattr(conversation, "satisfaction", None)),
    }


def _satisfaction_json(satisfaction: Satisfaction | None) -> Row | None:
    if satisfaction is None:
        return None
    return {
        "asked_at": satisfaction.asked_at,
        "answered_at": satisfaction.answered_at,
        "score": satisfaction.score,
    }


def _message_json(message: Message) -> Row:
    version, rule = message.prompt_version, message.refused_by
    content = message.shown_content
    return {
        "id": message.pk,
        "follows": message.follows,
        "role": message.role,
        "state": message.state,
        "readable": content is not None,
        "content": content or "",
        "thinking": message.shown_thinking,
        "created_at": message.created_at,
        "ended_at": message.ended_at,
        "stop_requested_at": message.stop_requested_at,
        "key": message.key,
        "model": message.model,
        "asked_model": message.asked_model,
        "prompt": {"slug": version.template.slug, "version": version.number} if version else None,
        "finish_reason": message.finish_reason,
        "fault": message.fault,
        "refused_by": {"rule": rule.name, "version": rule.number} if rule else None,
        "tokens_in": message.tokens_in,
        "tokens_cached": message.tokens_cached,
        "tokens_out": message.tokens_out,
        "usage_estimated": message.usage_estimated,
        "cost_usd": message.cost_usd,
        "turns_left_out": message.turns_left_out,
        "first_token_ms": message.first_token_ms,
        "duration_ms": message.duration_ms,
        "feedback": _feedback_json(getattr(message, "feedback", None)),
    }


def _feedback_json(feedback: Feedback | None) -> Row | None:
    if feedback is None:
        return None
    comment = feedback.shown_comment
    return {
        "rating": feedback.rating,
        "reasons": feedback.reasons,
        "comment": comment or "",
        "comment_readable": comment is not None,
        "created_at": feedback.created_at,
        "changed_at": feedback.changed_at,
    }


# --- HTML -------------------------------------------------------------------------------------


def _write_page(write: Write, title: str, body: Iterable[str], *, back: str = "") -> None:
    context = {"title": title, "back": back}
    write(render_to_string("portable/_head.html", context))
    for piece in body:
        write(piece)
    write(render_to_string("portable/_foot.html", context))


def _html_table(table: Table) -> Iterator[str]:
    if table.is_record:
        yield render_to_string("portable/_record.html", {"table": table, "pairs": _pairs(table)})
        return
    head = render_to_string("portable/_table_head.html", {"table": table})
    rows = (
        render_to_string(
            "portable/_row.html", {"cells": [in_words(row.get(name)) for name, _ in table.columns]}
        )
        for row in _or_none(table)
    )
    yield from _around("<tbody>", rows, "</tbody></table></div></section>", first=head)


def _pairs(table: Table) -> list[tuple[str, str]]:
    (row,) = table.rows()
    return [(label, in_words(row.get(name))) for name, label in table.columns]


def _or_none(table: Table) -> Iterator[Row]:
    """Yield the rows, or one that says that there is none."""
    is_empty = True
    for row in table.rows():
        is_empty = False
        yield row
    if is_empty:
        yield {table.columns[0][0]: "None"}


def _html_messages(conversation: Conversation, pages: _Pages, asker: str) -> Iterator[str]:
    about = {"conversation": conversation, "score": _score_of(conversation)}
    yield render_to_string("portable/_conversation.html", about)
    for message in pages.messages():
        yield render_to_string("portable/_message.html", {**_about(message), "asker": asker})


def _about(message: Message) -> Row:
    feedback = getattr(message, "feedback", None)
    text = message.shown_content
    return {
        "message": message,
        "text": text,
        "prose": mark_safe(render(text)) if message.is_reply and text else "",  # noqa: S308 - sanitised
        "thinking": message.shown_thinking,
        "feedback": feedback,
        "comment": feedback.shown_comment if feedback else "",
        "sentence": sentence_of(message) if message.is_reply else None,
        "unreadable": UNREADABLE,
    }


def _html_entry(conversation: Conversation) -> str:
    context = {
        "stem": stem_of(conversation),
        "title": title_of(conversation),
        "begun": conversation.created_at,
    }
    return render_to_string("portable/_entry.html", context)


def _around(start: str, pieces: Iterable[str], end: str, *, first: str = "") -> Iterator[str]:
    yield first + start
    yield from pieces
    yield end


def _score_of(conversation: Conversation) -> int | None:
    satisfaction = getattr(conversation, "satisfaction", None)
    return satisfaction.score if satisfaction else None


# --- Markdown ---------------------------------------------------------------------------------


def _markdown_table(table: Table) -> Iterator[str]:
    names = [name for name, _ in table.columns]
    yield f"\n## {_in_line(table.title)}\n\n"
    if table.note:
        yield f"{table.note}\n\n"
    if table.is_record:
        yield "".join(f"- {label}: {_in_line(value)}\n" for label, value in _pairs(table))
        return
    yield f"| {' | '.join(label for _, label in table.columns)} |\n|{' --- |' * len(names)}\n"
    for row in _or_none(table):
        yield f"| {' | '.join(_in_line(in_words(row.get(name))) for name in names)} |\n"


def _markdown_message(message: Message, asker: str) -> str:
    who = {"user": _in_line(asker), "system": "System"}.get(message.role, "Reply")
    parts = [f"\n---\n\n## {who} · {in_words(message.created_at)}\n\n"]
    text = message.shown_content
    if thinking := message.shown_thinking:
        parts.append(f"**Thinking**\n\n{_quoted(thinking)}\n\n")
    # A reply is Markdown. What people write need not be: quoted, it can't pass for a heading.
    words = f"*{UNREADABLE}*" if text is None else text if message.is_reply else _quoted(text)
    parts.append(f"{words}\n")
    if message.is_reply and (sentence := sentence_of(message)):
        parts.append(f"\n*{sentence.headline} {sentence.rest_for(message)}*\n")
    if feedback := getattr(message, "feedback", None):
        comment = feedback.shown_comment
        said = UNREADABLE if comment is None else comment
        rating = ", ".join([feedback.rating, *feedback.reasons_in_words])
        parts.append(f"\n{_in_line(asker)} rated this: {rating}\n\n{_quoted(said)}\n")
    return "".join(parts)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())


def _in_line(text: str) -> str:
    """Return text that stays in its line, its cell and its words."""
    line = " ".join(text.split()).replace("\\", "\\\\")
    return line.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


# --- words ------------------------------------------------------------------------------------


def stem_of(conversation: Conversation) -> str:
    """Return the path of a conversation's files in an archive, without what says the format."""
    return f"conversations/{conversation.created_at.astimezone(UTC):%Y-%m-%d}-{conversation.pk}"


def title_of(conversation: Conversation) -> str:
    """Return the title, or what stands in its place."""
    title = conversation.known_title
    if title is None:
        return "A conversation whose title can't be read any more"
    return title or "A conversation without a title"


def in_words(value: Any) -> str:
    """Return a value as people read it; dates by UTC."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        moment = value.astimezone(UTC)
        return f"{moment.day} {moment:%b %Y, %H:%M:%S} UTC"
    if isinstance(value, date):
        return f"{value.day} {value:%b %Y}"
    if isinstance(value, list | tuple):
        return ", ".join(in_words(one) for one in value)
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)
