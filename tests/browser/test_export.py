"""A compliance officer filters, exports, watches progress, downloads; another program verifies."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery.contrib.testing.worker import start_worker
from django.urls import reverse
from playwright.sync_api import BrowserContext, Page, expect

from accounts.models import User
from audit import bundle
from audit.models import Export
from audit.trail import record
from chatbot.celery import app
from tests.audit.conftest import SEED, behind_the_triggers
from tests.audit.exporting import verify

pytestmark = pytest.mark.browser


@pytest.fixture
def log(live, settings, tmp_path, monkeypatch, ravi: User, sam: User) -> None:
    """A log that can be sealed, with sign-outs of two people in parts of a few entries."""
    settings.AUDIT_FOLDER = tmp_path / "audit"
    settings.AUDIT_ORIGIN = "parley.example/log"
    monkeypatch.setenv("AUDIT_SIGNING_KEY", SEED)
    monkeypatch.setattr(bundle, "PART", 5)
    behind_the_triggers("TRUNCATE audit_entry CASCADE")
    for person in (ravi, sam) * 20:
        record(person, "auth.logged_out", person)


@pytest.fixture
def worker(log: None) -> Iterator[None]:
    options = {"pool": "threads", "concurrency": 2, "queues": "short,long"}
    with start_worker(app, perform_ping_check=False, **options):
        yield


@pytest.fixture
def page(new_context: Callable[..., BrowserContext], ravi: User) -> Page:
    return new_context(ravi).new_page()


def test_an_officer_filters_exports_watches_and_downloads(
    worker: None, page: Page, sam: User, tmp_path: Path
):
    page.goto(reverse("admin:audit_entry_changelist"))
    page.get_by_role("link", name="Sign-in", exact=True).click()
    page.goto(f"{page.url}&actor={sam.email}")
    page.get_by_role("link", name="Export this selection").click()
    expect(page.get_by_text("20 entries of the log match.")).to_be_visible()
    page.get_by_role("button", name="Export these entries").click()
    # Without a reload: the page itself asks how far it is.
    download = page.get_by_role("link", name="Download export 1")
    expect(download).to_be_visible()
    with page.expect_download() as downloading:
        download.click()
    file = tmp_path / "received.zip"
    downloading.value.save_as(file)
    checked = verify(file, tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert "20 entries: each is exactly what was sealed" in checked.stdout


def test_progress_shows_and_an_export_can_be_cancelled(log: None, page: Page):
    page.goto(reverse("admin:audit_export_add"))
    page.get_by_role("button", name="Export these entries").click()
    expect(page.get_by_text("waiting for a worker")).to_be_visible()
    Export.objects.update(start=0, stop=4000, done=1000, written=1000)
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "25")
    expect(page.get_by_text(re.compile("1\u202f000 of 4\u202f000 entries"))).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The export was cancelled.")).to_be_visible()


def test_without_script_a_link_tells_how_far_it_is(
    log: None, new_context: Callable[..., BrowserContext], ravi: User
):
    page = new_context(ravi, java_script_enabled=False).new_page()
    page.goto(reverse("admin:audit_export_add"))
    page.get_by_role("button", name="Export these entries").click()
    Export.objects.update(start=0, stop=4000, done=3000, written=3000)
    page.get_by_role("link", name="Look again how far it is").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "75")
