"""What a hold keeps, for counsel: what is in the file, what proves it, who gets it, how long."""

import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse

from audit.models import Entry
from audit.sealing import seal
from audit.trail import record
from audit.verify import Note, VerifierKey
from conversations.break_glass import counsel_export
from conversations.break_glass import grants as break_glass
from conversations.break_glass.counsel_export import (
    ExportRefused,
    opened,
    request_export,
    tend,
    write,
)
from conversations.break_glass.grants import Asked
from conversations.keyring import keyring
from conversations.models import BreakGlassGrant, Conversation, CounselExport, Hold, Message
from conversations.retention import holds
from tests.audit.conftest import SEED

pytestmark = pytest.mark.django_db(transaction=True)
PLANTED = "The tulips bloom behind the third gate."


@pytest.fixture(autouse=True)
def _log_that_signs(settings, tmp_path, monkeypatch, ravi):
    settings.AUDIT_FOLDER = tmp_path / "audit"
    settings.EXPORT_FOLDER = tmp_path / "exports"
    settings.AUDIT_ORIGIN = "parley.example/log"
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    record(ravi, "auth.logged_out", ravi)
    seal()


@pytest.fixture
def said(finished) -> Conversation:
    conversation = finished(PLANTED, "**Roses** too.").conversation
    conversation.title = "Of gardens"
    conversation.save()
    return conversation


def held(on, by) -> Hold:
    soon = datetime.now(UTC).date() + timedelta(days=30)
    return holds.place(on, matter="Gate v. Tulip", reason="Litigation", review_on=soon, by=by)


@pytest.fixture
def hold(said, olive, ravi) -> Hold:
    return held(olive, ravi)


@pytest.fixture
def grant(said, ravi, olive) -> BreakGlassGrant:
    asked = Asked("2026-114", "Counsel asked for it.", person=olive)
    return break_glass.ask(by=ravi, asked=asked)


def exported(grant, hold, by) -> CounselExport:
    export = request_export(grant, hold.pk, by=by)
    write(str(export.pk))
    export.refresh_from_db()
    return export


def files_of(grant, export, by) -> dict[str, bytes]:
    _, file = opened(grant, export.pk, by=by)
    with zipfile.ZipFile(io.BytesIO(b"".join(file.pieces()))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def custody_of(files) -> dict:
    return json.loads(files["custody.json"])


def test_the_file_holds_what_was_said_and_how_it_came_about(grant, hold, said, ravi, olive):
    export = exported(grant, hold, ravi)
    assert (export.state, export.reason) == ("ready", "")
    files = files_of(grant, export, ravi)
    told = "".join(
        data.decode() for name, data in files.items() if name.startswith("conversations/")
    )
    for piece in (PLANTED, "**Roses** too.", "Of gardens", "Olive"):
        assert piece in told
    assert "You" not in told
    custody = custody_of(files)
    assert custody["counts"] == {"conversations": 1, "messages": 2, "unreadable": 0}
    assert (custody["matter"], custody["grant"]["id"]) == ("2026-114", str(grant.pk))
    assert custody["hold"]["on"] == {"account": str(olive.pk)}
    assert custody["made_by"] == {"account": str(ravi.pk), "email": ravi.email}


def test_each_file_is_proven_up_to_the_logs_key(grant, hold, ravi):
    export = exported(grant, hold, ravi)
    files = files_of(grant, export, ravi)
    custody, note = custody_of(files), files["custody.note"].decode()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert custody["sha256"] == {
        name: digest for name, digest in digests.items() if not name.startswith("custody.")
    }
    assert f"sha256 {digests['custody.json']} custody.json" in note
    keys = [VerifierKey.parse(key) for key in custody["audit_log"]["keys"]]
    assert Note.parse(note).verified(keys)
    assert Note.parse(custody["audit_log"]["checkpoint"]).verified(keys)
    assert export.custody == note
    finished = Entry.objects.get(event="counsel_export.finished")
    assert finished.payload["custody_sha256"] == digests["custody.json"]


def test_each_step_is_an_entry_without_words(grant, hold, ravi):
    export = exported(grant, hold, ravi)
    files_of(grant, export, ravi)
    entries = Entry.objects.filter(event__startswith="counsel_export.").order_by("id")
    assert [entry.event.partition(".")[2] for entry in entries] == [
        *("requested", "finished", "downloaded"),
    ]
    for entry in entries:
        told = (entry.payload["grant"], entry.payload["hold"], entry.payload["matter"])
        assert told == (str(grant.pk), str(hold.pk), "2026-114")
        assert "tulips" not in json.dumps(entry.payload)


def test_nothing_plain_lies_on_the_disk(grant, hold, ravi, settings):
    exported(grant, hold, ravi)
    (file,) = settings.EXPORT_FOLDER.iterdir()
    assert PLANTED.encode() not in file.read_bytes()
    assert b"PK\x03\x04" not in file.read_bytes()


def test_only_what_is_held_and_in_scope_is_there(said, finished, ravi, olive):
    other = finished("Not held at all", "No.").conversation
    grant = break_glass.ask(by=ravi, asked=Asked("m", "Counsel asked for it.", person=olive))
    export = exported(grant, held(said, ravi), ravi)
    custody = custody_of(files_of(grant, export, ravi))
    assert custody["counts"]["conversations"] == 1
    assert not any(str(other.pk) in name for name in custody["sha256"])
    one = Asked("m", "Counsel asked for it.", conversation_id=other.pk)
    narrow = break_glass.ask(by=ravi, asked=one)
    with pytest.raises(ExportRefused, match="keeps nothing"):
        request_export(narrow, Hold.objects.get().pk, by=ravi)


def test_days_leave_out_messages(said, hold, ravi, olive):
    Message.objects.filter(role="user").update(created_at=datetime.now(UTC) - timedelta(days=9))
    today = datetime.now(UTC).date()
    asked = Asked("m", "Counsel asked for it.", person=olive, first_day=today)
    grant = break_glass.ask(by=ravi, asked=asked)
    custody = custody_of(files_of(grant, exported(grant, hold, ravi), ravi))
    assert custody["counts"]["messages"] == 1
    assert custody["selection"]["first_day"] == today.isoformat()


def test_what_its_owner_deleted_and_whose_day_is_gone_is_there(grant, hold, said, ravi):
    Conversation.objects.update(lifecycle="deleted", deleted_at=datetime.now(UTC))
    for day in keyring().days():
        holds.keep_keys(day)
        keyring().destroy(day)
    holds.forget_held_keys()
    files = files_of(grant, exported(grant, hold, ravi), ravi)
    assert any(PLANTED.encode() in data for data in files.values())
    assert custody_of(files)["counts"]["unreadable"] == 0


def test_held_words_whose_day_is_gone_are_read_under_break_glass(grant, hold, said, ravi_client):
    for day in keyring().days():
        holds.keep_keys(day)
        keyring().destroy(day)
    holds.forget_held_keys()
    Conversation.objects.update(lifecycle="deleted", deleted_at=datetime.now(UTC))
    page = ravi_client.get(reverse("break_glass_conversation", args=[grant.pk, said.pk]))
    assert PLANTED in page.content.decode()


def test_no_second_one_at_a_time(grant, hold, ravi):
    request_export(grant, hold.pk, by=ravi)
    with pytest.raises(ExportRefused, match="already"):
        request_export(grant, hold.pk, by=ravi)


@pytest.mark.parametrize("what", ["access", "hold"])
def test_it_ends_with_the_access_or_the_hold(grant, hold, ravi, settings, what):
    export = request_export(grant, hold.pk, by=ravi)
    if what == "access":
        break_glass.end(grant.pk, by=ravi)
    else:
        settings.HOLD_DELAY_DAYS = 0
        holds.lift(hold, reason="Settled", by=ravi)
        holds.end_due(datetime.now(UTC) + timedelta(seconds=1))
    write(str(export.pk))
    export.refresh_from_db()
    assert export.state == "failed"
    assert export.reason == f"The {what} ended before the file was written. Nothing was exported."
    assert list(settings.EXPORT_FOLDER.glob("*")) == []
    assert Entry.objects.filter(event="counsel_export.failed", outcome="failed").count() == 1


def test_without_the_logs_key_nothing_is_exported(grant, hold, ravi, monkeypatch, settings):
    monkeypatch.delenv("AUDIT_SIGNING_KEY")
    export = exported(grant, hold, ravi)
    assert (export.state, "can't sign" in export.reason) == ("failed", True)
    assert list(settings.EXPORT_FOLDER.glob("*")) == []


def test_the_file_is_there_for_a_day(grant, hold, ravi, settings):
    export = exported(grant, hold, ravi)
    tend(export.finished_at + timedelta(hours=23))
    assert opened(grant, export.pk, by=ravi)
    tend(export.finished_at + timedelta(hours=24))
    with pytest.raises(ExportRefused, match="not here any more"):
        opened(grant, export.pk, by=ravi)
    assert list(settings.EXPORT_FOLDER.glob("*")) == []
    export.refresh_from_db()
    assert export.custody


def test_a_writer_that_died_is_noticed_and_its_file_removed(grant, hold, ravi, settings):
    export = request_export(grant, hold.pk, by=ravi)
    CounselExport.objects.update(state="writing", beat_at=datetime.now(UTC))
    settings.EXPORT_FOLDER.mkdir()
    (settings.EXPORT_FOLDER / f"{export.pk}.counsel.sealed.new").write_bytes(b"half")
    (settings.EXPORT_FOLDER / "other.zip.sealed").write_bytes(b"not ours")
    tend(datetime.now(UTC) + timedelta(minutes=4))
    export.refresh_from_db()
    assert export.state == "failed"
    assert [path.name for path in settings.EXPORT_FOLDER.iterdir()] == ["other.zip.sealed"]


def test_the_pages_ask_for_it_and_hand_it_out(grant, hold, ravi, ravi_client, said):
    listing = ravi_client.get(reverse("break_glass", args=[grant.pk])).content.decode()
    address = reverse("counsel_export", args=[grant.pk])
    assert address in listing
    assert "Gate v. Tulip" in ravi_client.get(address).content.decode()
    page = ravi_client.post(address, {"hold": str(hold.pk)}, follow=True).content.decode()
    assert "waiting for a worker" in page
    export = CounselExport.objects.get()
    write(str(export.pk))
    job = ravi_client.get(reverse("counsel_export_jobs", args=[grant.pk])).content.decode()
    download = reverse("download_counsel_export", args=[grant.pk, export.pk])
    assert download in job
    assert "every 1s" not in job
    answer = ravi_client.get(download)
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/zip")
    break_glass.end(grant.pk, by=ravi)
    assert ravi_client.get(download).status_code == 403
    assert ravi_client.post(address, {"hold": str(hold.pk)}).status_code == 403


def test_others_get_nothing(grant, hold, ravi, make_user, ada_client, olive_client):
    from django.test import Client

    export = exported(grant, hold, ravi)
    rita = Client()
    rita.force_login(make_user("rita", "compliance_officer"))
    for client in (rita, ada_client, olive_client):
        for name, args in (
            ("counsel_export", [grant.pk]),
            ("counsel_export_jobs", [grant.pk]),
            ("download_counsel_export", [grant.pk, export.pk]),
        ):
            assert client.get(reverse(name, args=args)).status_code == 403
    assert not Entry.objects.filter(event="counsel_export.downloaded").exists()


def test_a_hold_that_is_not_there_is_a_sentence(grant, ravi_client):
    address = reverse("counsel_export", args=[grant.pk])
    for given in ("", "x", str(grant.pk)):
        page = ravi_client.post(address, {"hold": given}, follow=True).content.decode()
        assert "keeps nothing that this access opens" in page
    assert not counsel_export.CounselExport.objects.exists()
