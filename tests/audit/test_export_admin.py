"""Exports in the admin: who may ask, watch and download, and what the pages say."""

import io
import zipfile

import pytest
from asgiref.sync import async_to_sync
from django.test import Client
from django.urls import reverse

from audit import export as exports
from audit.models import Entry, Export
from audit.selection import Selection
from audit.trail import record
from tests.audit.exporting import exported, file_of

pytestmark = pytest.mark.django_db(transaction=True)

LIST, ADD = reverse("admin:audit_export_changelist"), reverse("admin:audit_export_add")


def of(name: str, export: Export) -> str:
    return reverse(f"admin:audit_export_{name}", args=[export.pk])


def browser_of(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def officer(folder, account_of):
    return account_of("compliance_officer", email="ravi@example.org")


@pytest.fixture
def auditor(folder, account_of):
    return account_of("external_auditor", email="eve@example.org")


def body(response) -> bytes:
    async def read() -> bytes:
        return b"".join([part async for part in response.streaming_content])

    return async_to_sync(read)()


def test_the_form_says_how_many_and_the_request_carries_the_filters(officer, write):
    write(3)
    browser = browser_of(officer)
    asked = {"event": "account.created", "period": "today"}
    page = browser.get(ADD, asked).content.decode()
    count = Entry.objects.filter(event="account.created").count()
    assert f"{count} entries of the log match." in page
    assert 'name="from" value="2' in page, "a period becomes days"
    assert "period" not in page
    day = page.split('name="from" value="')[1][:10]
    assert browser.post(ADD, {"event": "account.created", "from": day}).status_code == 302
    selection = exports.restored(Export.objects.get().selection)
    assert (selection.event, f"{selection.since:%Y-%m-%d}") == ("account.created", day)


def test_the_entries_list_leads_to_it_with_its_filters(officer, auditor):
    entries = reverse("admin:audit_entry_changelist")
    page = browser_of(officer).get(entries, {"outcome": "denied"}).content.decode()
    assert f'href="{ADD}?outcome=denied"' in page
    assert ADD not in browser_of(auditor).get(entries).content.decode()


def test_what_can_not_be_looked_up_is_said(officer):
    answer = browser_of(officer).get(ADD, {"outcome": "nonsense"})
    assert answer.status_code == 400
    assert b"That can\xe2\x80\x99t be exported." in answer.content
    assert browser_of(officer).post(ADD, {"from": "never"}).status_code == 400
    assert not Export.objects.exists()


def test_a_second_one_at_once_is_refused_in_a_sentence(officer, write):
    browser = browser_of(officer)
    browser.post(ADD)
    page = browser.post(ADD, follow=True).content.decode()
    assert "still being written" in page
    assert Export.objects.count() == 1


def test_auditors_watch_and_download_but_ask_for_nothing(officer, auditor, write):
    write(3)
    export = exported(officer)
    browser = browser_of(auditor)
    assert "Download export 1" in browser.get(LIST).content.decode()
    made = body(browser.get(of("download", export)))
    assert made == file_of(export).read_bytes()
    assert zipfile.ZipFile(io.BytesIO(made)).testzip() is None
    downloaded = Entry.objects.get(event="export.downloaded")
    assert (downloaded.actor_id, downloaded.target_id) == (str(auditor.pk), str(export.pk))
    for answer in (
        browser.get(ADD),
        browser.post(ADD),
        browser.post(of("cancel", export)),
        browser.post(of("again", export)),
    ):
        assert answer.status_code == 403


@pytest.mark.parametrize("role", ["administrator", "operator", "member"])
def test_others_see_nothing(officer, account_of, write, role):
    export = exported(officer)
    browser = browser_of(account_of(role))
    pages = (LIST, ADD, of("job", export), of("download", export))
    assert {browser.get(page).status_code for page in pages} <= {302, 403}


def test_the_job_tells_how_far_it_is_and_can_be_cancelled(officer, write):
    export = exports.request_export(Selection(), by=officer)
    browser = browser_of(officer)
    assert "waiting for a worker" in browser.get(LIST).content.decode()
    Export.objects.filter(pk=export.pk).update(start=0, stop=4000, done=1000, written=1000)
    job = browser.get(of("job", export)).content.decode()
    assert "1\u202f000 of 4\u202f000 entries" in job
    assert 'value="25"' in job
    assert "every 1s" in job
    assert browser.get(of("cancel", export)).status_code == 405
    browser.post(of("cancel", export))
    job = browser.get(of("job", export)).content.decode()
    assert "cancelled" in job
    assert "every 1s" not in job


def test_a_failed_one_says_why_and_is_tried_again(officer, write, monkeypatch):
    with monkeypatch.context() as patched:
        patched.delenv("AUDIT_SIGNING_KEY")
        export = exported(officer)
    browser = browser_of(officer)
    assert "AUDIT_SIGNING_KEY" in browser.get(LIST).content.decode()
    browser.post(of("again", export))
    exports.write(export.pk)
    assert "Download export 1" in browser.get(LIST).content.decode()


def test_a_file_that_is_gone_is_a_sentence(officer, write):
    export = exported(officer)
    file_of(export).unlink()
    page = browser_of(officer).get(of("download", export), follow=True).content.decode()
    assert "The file of this export is not here" in page
    assert (
        browser_of(officer).get(reverse("admin:audit_export_download", args=[999])).status_code
        == 404
    )


def test_what_was_searched_for_stays_out_of_the_log(officer, write):
    browser_of(officer).post(ADD, {"q": "olive@example.org"})
    entry = Entry.objects.get(event="export.requested")
    assert entry.payload == {"filter": {}, "searched": True}
    assert entry.personal.target_label == "olive@example.org"


def test_pages_ask_the_database_little(officer, write, django_assert_max_num_queries):
    record(officer, "auth.logged_out", officer)
    for _ in range(3):
        exported(officer)
    browser = browser_of(officer)
    browser.get(LIST)
    with django_assert_max_num_queries(8):
        browser.get(LIST)
