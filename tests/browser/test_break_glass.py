"""A compliance officer breaks the glass; another approves, ends it and reads the trail."""

import json
import re
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import BrowserContext, Page, expect

from accounts.models import User
from audit.models import Entry
from conversations.break_glass import counsel_export
from conversations.models import Conversation, CounselExport
from conversations.retention import holds

pytestmark = pytest.mark.browser

LIST = reverse("admin:conversations_breakglassgrant_changelist")
REASON = "The regulator asked what was said."


@pytest.fixture
def rita(make_user) -> User:
    return make_user("rita", "compliance_officer")


def ask_for(page: Page, person: User) -> None:
    page.goto(LIST)
    page.get_by_role("link", name="Ask for access").click()
    page.get_by_label("Matter").fill("2026-114")
    page.get_by_label("Reason").fill(REASON)
    page.get_by_label("One person").fill(person.email)
    page.get_by_role("button", name="Ask for access").click()


@pytest.mark.parametrize("with_script", [True, False], ids=["with script", "without"])
def test_an_officer_reads_within_the_scope_and_leaves_a_trail(
    new_context: Callable[..., BrowserContext],
    ravi: User,
    rita: User,
    olive: User,
    everything: Conversation,
    settings,
    with_script: bool,
):
    settings.BREAK_GLASS_NEEDS_APPROVAL = True
    page = new_context(ravi, java_script_enabled=with_script).new_page()
    ask_for(page, olive)
    expect(page.get_by_text("waits for approval")).to_be_visible()
    expect(page.get_by_role("link", name="Read", exact=True)).to_have_count(0)

    other = new_context(rita).new_page()
    other.goto(page.url)
    expect(other.get_by_text(REASON)).to_be_visible()
    other.get_by_role("button", name="Approve").click()
    expect(other.get_by_text("open until")).to_be_visible()

    page.reload()
    page.get_by_role("link", name="Read", exact=True).click()
    expect(page.get_by_role("region", name="Break-glass")).to_contain_text("60 minutes left")
    page.get_by_role("link", name=re.compile("A title that is long")).click()
    expect(page.get_by_text("Show me code.")).to_be_visible()
    expect(page.get_by_role("region", name="Break-glass")).to_contain_text("Matter: 2026-114.")
    expect(page.get_by_role("textbox")).to_have_count(0)
    expect(page.get_by_role("button")).to_have_count(1)  # to end it
    read_at = page.url

    page.get_by_role("button", name="End now").click()
    expect(page.get_by_text("ended", exact=False).first).to_be_visible()
    page.goto(read_at)
    expect(page.get_by_text("This access was ended.")).to_be_visible()
    expect(page.get_by_text("Show me code.")).to_have_count(0)

    other.reload()
    trail = other.get_by_role("table", name="Pages that were read, newest first")
    expect(trail.get_by_text(str(everything.pk))).to_have_count(1)
    view = Entry.objects.get(event="break_glass.viewed")
    trail.get_by_role("link").click()
    expect(other).to_have_url(re.compile(reverse("admin:audit_entry_change", args=[view.pk])))
    expect(other.get_by_text("2026-114").first).to_be_visible()
    told = Entry.objects.filter(event__startswith="break_glass.").order_by("id")
    assert [entry.event.partition(".")[2] for entry in told] == [
        *("requested", "approved", "listed", "viewed", "ended"),
    ]


def test_what_a_hold_keeps_is_made_a_file_and_downloaded(
    new_context: Callable[..., BrowserContext],
    ravi: User,
    olive: User,
    everything: Conversation,
    sealed_log: list[int],
    settings,
    tmp_path: Path,
):
    settings.EXPORT_FOLDER = tmp_path / "exports"
    soon = timezone.now().date() + timedelta(days=30)
    holds.place(olive, matter="Gate v. Tulip", reason="Litigation", review_on=soon, by=ravi)
    page = new_context(ravi).new_page()
    ask_for(page, olive)
    page.get_by_role("link", name="Read", exact=True).click()
    page.get_by_role("link", name="Export for counsel").click()
    page.get_by_role("button", name="Make the file").click()
    expect(page.get_by_text("waiting for a worker")).to_be_visible()
    counsel_export.write(str(CounselExport.objects.get().pk))
    download = page.get_by_role("link", name="Download it")  # without a reload
    with page.expect_download() as downloading:
        download.click()
    file = tmp_path / "received.zip"
    downloading.value.save_as(file)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        custody = json.loads(archive.read("custody.json"))
        assert custody["counts"]["messages"] == everything.messages.count()
        assert b"Show me code." in archive.read(next(iter(custody["sha256"])))
    assert Entry.objects.filter(event="counsel_export.downloaded").count() == 1
