"""A person's export: what is in it, who gets it, how long it is there."""

import hashlib
import io
import re
import zipfile
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.utils import timezone

from accounts.access import System
from accounts.tokens import make_token
from audit.models import Entry
from audit.trail import record
from conversations import export_jobs
from conversations.keyring import KeyDay, keyring
from conversations.models import Conversation, Feedback, Message, PersonExport
from conversations.rights import person_export, portable
from conversations.rights.person_export import ExportRefused, request_export, tend, write
from conversations.rights.portable import Archive, Table
from tests.conversations.taking_along import exported, json_of, opened, texts

pytestmark = pytest.mark.django_db
PLANTED = "The tulips bloom behind the third gate."


@pytest.fixture(autouse=True)
def _folder_of_its_own(settings, tmp_path):
    settings.EXPORT_FOLDER = tmp_path / "exports"


@pytest.fixture
def said(finished, olive) -> Conversation:
    """A conversation with thinking, a rated reply and a title."""
    turn = finished(PLANTED, "**Roses** too.")
    turn.reply.thinking = "First the gate."
    turn.reply.save()
    feedback = Feedback(reply=turn.reply, rating="up")
    feedback.comment = "Lovely roses"
    feedback.save()
    turn.conversation.title = "Of gardens"
    turn.conversation.save()
    return turn.conversation


def stem(conversation: Conversation) -> str:
    return f"conversations/{conversation.created_at:%Y-%m-%d}-{conversation.pk}"


# --- what is in it ----------------------------------------------------------------------------


def test_each_conversation_is_there_as_json_html_and_markdown(said, olive):
    archive = opened(exported(olive), olive)
    whole = json_of(archive, f"{stem(said)}.json")
    question, reply = whole["messages"]
    assert (whole["title"], question["content"], reply["content"]) == (
        "Of gardens", PLANTED, "**Roses** too.",
    )  # fmt: skip
    assert reply["thinking"] == "First the gate."
    assert reply["feedback"]["comment"] == "Lovely roses"
    assert reply["follows"] == question["id"]
    html, markdown = (archive.read(f"{stem(said)}.{kind}").decode() for kind in ("html", "md"))
    for piece in ("Of gardens", PLANTED, "First the gate.", "Lovely roses"):
        assert piece in html
        assert piece in markdown
    assert "<strong>Roses</strong> too." in html
    assert f"> {PLANTED}" in markdown
    index = archive.read("index.html").decode()
    assert f'href="{stem(said)}.html">Of gardens' in index


def test_what_is_held_of_the_account_is_there_and_no_secret(said, olive, olive_client):
    made = make_token(olive, name="Laptop", scopes=["read"], lasts=None, by=olive)
    archive = opened(exported(olive), olive)
    account = json_of(archive, "account.json")
    assert account["account"][0]["email"] == olive.email
    assert [role["role"] for role in account["roles"]] == ["member"]
    assert account["tokens"][0]["name"] == "Laptop"
    assert len(account["sessions"]) == 1
    assert {"day", "month", "session"} <= {row["scope"] for row in account["budgets"]}
    assert account["exports"][0]["state"] == "writing"
    everything = "".join(texts(archive).values())
    session = olive_client.cookies["sessionid"].value
    for secret in (made.secret, made.token.digest.hex(), olive.password, session):
        assert secret not in everything


def test_the_log_tells_events_about_the_person_and_none_that_is_kept_from_them(said, olive, ravi):
    record(ravi, "hold.placed", olive, hold="1", conversations=1, review_on="2030-01-01")
    record(ravi, "account.viewed", olive, page="record", filter={}, searched=False)
    record(System("tests"), "account.created", olive)
    record(olive, "turn.refused", said, outcome="denied", reason="budget_spent", count=1)
    archive = opened(exported(olive), olive)
    log = json_of(archive, "log.json")
    events = [entry["event"] for entry in log["entries"]]
    assert {"turn.started", "account.created", "rights.export_requested"} <= set(events)
    assert not {"hold.placed", "account.viewed"} & set(events)
    assert [refused["reason"] for refused in log["refused"]] == ["budget_spent"]
    assert set(log["entries"][0]) == {"event", "says", "at", "outcome", "by"}


def test_nothing_of_anybody_else_and_nothing_deleted_is_there(said, finished, sam, olive):
    finished("Of sam's boats", by=sam)
    gone = finished("Of what I deleted").conversation
    Conversation.objects.filter(pk=gone.pk).update(lifecycle="deleted", deleted_at=timezone.now())
    everything = "".join(texts(opened(exported(olive), olive)).values())
    assert "boats" not in everything
    assert "what I deleted" not in everything


def test_what_cant_be_read_any_more_is_named_as_such(said, finished, olive):
    broken = said.messages.get(role="user")
    Message.objects.filter(pk=broken.pk).update(content_sealed=b"\x02" + b"spoilt" * 9)
    Conversation.objects.filter(pk=said.pk).update(title_sealed=b"\x02" + b"spoilt" * 9)
    archive = opened(exported(olive), olive)
    whole = json_of(archive, f"{stem(said)}.json")
    assert not whole["title_readable"]
    assert [message["readable"] for message in whole["messages"]] == [False, True]
    for kind in ("html", "md"):
        text = archive.read(f"{stem(said)}.{kind}").decode()
        assert "be read any more" in text
        assert "**Roses**" in text or "<strong>Roses</strong>" in text
    assert "2 texts, each named in its place" in archive.read("index.html").decode()


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.append((tag, dict(attrs)))


HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(1)>|[x](javascript:1)"


def test_html_holds_no_script_and_loads_nothing_whatever_was_said(finished, olive, settings):
    turn = finished(
        HOSTILE, f"{HOSTILE}\n\n```html\n{HOSTILE}\n```\n\n![x](https://evil.example/i)"
    )
    turn.conversation.title = HOSTILE
    turn.conversation.save()
    feedback = Feedback(reply=turn.reply, rating="down")
    feedback.comment = HOSTILE
    feedback.save()
    type(olive).objects.filter(pk=olive.pk).update(name=HOSTILE)
    make_token(olive, name=HOSTILE[:80], scopes=["read"], lasts=None, by=olive)
    archive = opened(exported(olive), olive)
    pages = [name for name in archive.namelist() if name.endswith(".html")]
    assert len(pages) == 4
    for name in pages:
        tags = _Tags()
        tags.feed(archive.read(name).decode())
        assert not {"script", "img", "iframe", "link", "object", "form"} & {t for t, _ in tags.seen}
        for _, attributes in tags.seen:
            assert not [a for a in attributes if a.startswith("on") or a in {"src", "style"}]
            assert not attributes.get("href", "").startswith("javascript")
        assert "default-src 'none'" in archive.read(name).decode()


def test_a_long_conversation_is_written_page_by_page(begin, olive, monkeypatch):
    monkeypatch.setattr(portable, "PAGE_MESSAGES", 3)
    conversation = Conversation.objects.create(owner=olive)
    now = timezone.now()
    for number in range(10):
        message = Message(conversation=conversation, role="user", state="said")
        # Several of one moment, over the end of a page too.
        message.created_at = now + timedelta(seconds=number // 4)
        message.content = f"Number {number}."
        message.save()
    archive = opened(exported(olive), olive)
    whole = json_of(archive, f"{stem(conversation)}.json")
    assert [m["content"] for m in whole["messages"]] == [f"Number {n}." for n in range(10)]
    for kind in ("html", "md"):
        found = re.findall(r"Number \d\.", archive.read(f"{stem(conversation)}.{kind}").decode())
        assert found == [f"Number {n}." for n in range(10)]


def test_an_archive_knows_the_digest_of_each_file():
    out = io.BytesIO()
    rows = [{"what": "a|b\n<i>", "when": datetime(2026, 1, 2, tzinfo=UTC)}]
    columns = (("what", "What"), ("when", "When"))
    with Archive(out, made_at=timezone.now()) as archive:
        archive.put_tables("t", "T", [Table("rows", "Rows", columns, lambda: rows)])
    with zipfile.ZipFile(out) as made:
        digests = {n: hashlib.sha256(made.read(n)).hexdigest() for n in made.namelist()}
        assert "| a\\|b &lt;i> | 2 Jan 2026, 00:00:00 UTC |" in made.read("t.md").decode()
    assert archive.digests == digests


# --- who gets it, and how long ----------------------------------------------------------------


def test_nothing_that_was_said_lies_in_the_folder(said, olive, settings):
    exported(olive)
    files = [path for path in Path(settings.EXPORT_FOLDER).rglob("*") if path.is_file()]
    assert len(files) == 1
    for planted in (PLANTED, "tulips", "gardens", "Lovely", olive.email, "PK\x03\x04"):
        assert planted.encode() not in files[0].read_bytes()


def test_asking_writing_and_downloading_are_recorded(said, olive):
    export = exported(olive)
    opened(export, olive)
    found = Entry.objects.filter(event__startswith="rights.").order_by("pk")
    assert [entry.event for entry in found] == [
        "rights.export_requested",
        "rights.exported",
        "rights.export_downloaded",
    ]
    assert found[1].payload == {"conversations": 1, "messages": 2, "unreadable": 0}
    assert {entry.target_id for entry in found} == {str(export.pk)}


def test_there_is_one_at_a_time(olive, sam):
    request_export(by=olive)
    with pytest.raises(ExportRefused, match="being written already"):
        request_export(by=olive)
    request_export(by=sam)


def test_only_the_newest_of_a_person_is_kept(said, olive, django_capture_on_commit_callbacks):
    first = exported(olive)
    with django_capture_on_commit_callbacks(execute=True):
        second = exported(olive)
    first.refresh_from_db()
    assert (first.state, second.state) == ("expired", "ready")
    with pytest.raises(ExportRefused):
        opened(first, olive)
    assert opened(second, olive).testzip() is None


def test_nobody_opens_that_of_another(said, olive, sam, ada):
    export = exported(olive)
    for other in (sam, ada):
        with pytest.raises(ExportRefused):
            opened(export, other)


def test_it_is_there_for_a_day(said, olive, settings, django_capture_on_commit_callbacks):
    export = exported(olive)
    with django_capture_on_commit_callbacks(execute=True):
        tend(timezone.now() + timedelta(hours=23))
    assert opened(export, olive)
    with django_capture_on_commit_callbacks(execute=True):
        tend(timezone.now() + timedelta(hours=25))
    export.refresh_from_db()
    assert export.state == "expired"
    assert not list(Path(settings.EXPORT_FOLDER).glob("*"))
    with pytest.raises(ExportRefused, match="kept for a day"):
        opened(export, olive)
    assert Entry.objects.filter(event="rights.export_expired").count() == 1


def test_it_dies_with_the_key_of_its_day_though_its_file_be_kept(said, olive):
    export = exported(olive)
    keyring().destroy(KeyDay(2, datetime.now(UTC).date()))
    with pytest.raises(ExportRefused, match="Ask for a new one"):
        opened(export, olive)


# --- what goes wrong --------------------------------------------------------------------------


def test_a_writer_that_fell_silent_has_failed_and_it_can_be_asked_for_again(said, olive, settings):
    export = request_export(by=olive)
    PersonExport.objects.filter(pk=export.pk).update(state="writing", beat_at=timezone.now())
    left = Path(settings.EXPORT_FOLDER) / f"{export.pk}.zip.sealed.new"
    left.parent.mkdir()
    left.write_bytes(b"half")
    tend(timezone.now())
    assert left.exists()
    tend(timezone.now() + timedelta(minutes=4))
    export.refresh_from_db()
    assert export.state == "failed"
    assert "ask again" in export.reason
    assert not left.exists()
    assert exported(olive).state == "ready"


def test_a_fault_of_ours_ends_it_with_a_sentence_and_is_told(said, olive, monkeypatch):
    def broken(*_args):
        raise ZeroDivisionError

    export = request_export(by=olive)
    monkeypatch.setattr(person_export, "log_tables", broken)
    with pytest.raises(ZeroDivisionError):
        write(str(export.pk))
    export.refresh_from_db()
    assert (export.state, export.reason[:20]) == ("failed", "Something went wrong")
    assert Entry.objects.filter(event="rights.export_failed").exists()


def test_a_full_disk_ends_it_with_a_sentence(said, olive, settings, tmp_path):
    (tmp_path / "file").write_text("no folder")
    settings.EXPORT_FOLDER = tmp_path / "file" / "exports"
    export = exported(olive)
    assert (export.state, export.reason[:27]) == ("failed", "The file could not be writt")


def test_a_second_worker_does_nothing(said, olive):
    export = request_export(by=olive)
    PersonExport.objects.filter(pk=export.pk).update(state="writing")
    write(str(export.pk))
    export.refresh_from_db()
    assert export.state == "writing"


def test_one_that_was_ended_meanwhile_leaves_no_file(said, olive, settings, monkeypatch):
    export = request_export(by=olive)

    def ended(user):
        PersonExport.objects.filter(pk=export.pk).update(state="expired")
        return []

    monkeypatch.setattr(person_export, "log_tables", ended)
    write(str(export.pk))
    assert not list(Path(settings.EXPORT_FOLDER).glob("*"))


def test_what_nobody_took_is_handed_over_again(olive, monkeypatch):
    sent = []
    monkeypatch.setattr(export_jobs.current_app, "send_task", lambda *a, **k: sent.append(a))
    export = request_export(by=olive)
    tend(timezone.now())
    assert not sent
    tend(timezone.now() + timedelta(minutes=1))
    assert sent == [("conversations.tasks.write_person_export", [str(export.pk)])]
