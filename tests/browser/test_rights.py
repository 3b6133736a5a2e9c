"""What people do with what is held about them: take it along, delete it, erase it."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery.contrib.testing.worker import start_worker
from django.urls import reverse
from playwright.sync_api import BrowserContext, Page, expect

from accounts.models import User
from benchmarks.provider_simulator import sim
from chatbot.celery import app
from conversations.models import Conversation, Message, PersonExport
from tests.browser.chat import Chat
from tests.conftest import PASSWORD

pytestmark = pytest.mark.browser
YOUR_DATA = "/account/data/"


@pytest.fixture(autouse=True)
def _folder_of_its_own(settings, tmp_path):
    settings.EXPORT_FOLDER = tmp_path / "exports"


@pytest.fixture
def worker(live) -> Iterator[None]:
    options = {"pool": "threads", "concurrency": 2, "queues": "short,long"}
    with start_worker(app, perform_ping_check=False, **options):
        yield


# --- the file of everything -------------------------------------------------------------------


def test_somebody_takes_everything_along_and_reads_it_offline(
    worker: None, chat: Chat, everything: Conversation, new_context, tmp_path: Path, settings
):
    page = chat.page
    page.goto("/account/")
    page.get_by_role("link", name="Your data").click()
    page.get_by_role("button", name="Make the file").click()
    # Without a reload: the page itself asks how far it is.
    download = page.get_by_role("link", name="Download it")
    expect(download).to_be_visible()
    with page.expect_download() as downloading:
        download.click()
    downloading.value.save_as(tmp_path / "mine.zip")
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "mine")
    (told,) = (tmp_path / "mine" / "conversations").glob("*.json")
    assert "A title that is long" in json.loads(told.read_text())["title"]
    for sealed in Path(settings.EXPORT_FOLDER).glob("*"):
        assert b"Show me code" not in sealed.read_bytes()
    offline = new_context(offline=True).new_page()
    offline.goto((tmp_path / "mine" / "index.html").as_uri())
    expect(offline.get_by_role("heading", name="All that is held about you")).to_be_visible()
    offline.get_by_role("link", name=re.compile("A title that is long")).click()
    expect(offline.get_by_text("Show me code.")).to_be_visible()
    expect(offline.locator(".code")).to_be_visible()


def test_how_far_the_file_is_shows_without_script_too(live, new_context, olive: User):
    page = new_context(olive, java_script_enabled=False).new_page()
    page.goto(YOUR_DATA)
    page.get_by_role("button", name="Make the file").click()
    expect(page.get_by_text("waiting for a worker")).to_be_visible()
    PersonExport.objects.update(state="writing", messages=4000, done=3000)
    page.get_by_role("link", name="Look again how far it is").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "75")
    PersonExport.objects.update(state="failed", reason="The server stopped. Ask again.")
    page.reload()
    expect(page.get_by_text("Your file was not written.")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("waiting for a worker")).to_be_visible()


# --- deleting ---------------------------------------------------------------------------------


def test_a_conversation_is_deleted_and_brought_back(chat: Chat):
    expect(chat.page.get_by_role("button", name="Delete this conversation")).to_be_hidden()
    chat.ask("Hello")
    chat.expect_finished()
    chat.page.get_by_role("button", name="Delete this conversation").click()
    notice = chat.page.get_by_role("status").filter(has_text="Deleted")
    expect(notice).to_contain_text("destroyed in 10 minutes")
    expect(chat.page.locator(".sidebar .items a:visible")).to_have_count(0)
    notice.get_by_role("button", name="Undo").click()
    chat.expect_finished()
    expect(chat.questions).to_have_text(["Hello"])


def test_another_tab_says_that_it_was_deleted(chat: Chat, second_tab: Callable[[], Chat]):
    chat.ask("Hello")
    chat.expect_finished()
    other = second_tab()
    chat.page.get_by_role("button", name="Delete this conversation").click()
    expect(other.line).to_contain_text("This conversation is not here any more.")
    # What was typed there goes nowhere, and stays.
    other.ask("Still there?")
    expect(other.field).to_have_value("Still there?")
    assert Message.objects.count() == 2


def test_deleting_stops_the_reply_that_is_being_written(chat: Chat):
    chat.ask(sim(text=None, tokens=100_000, tokens_per_second=40))
    chat.expect_writing()
    chat.page.get_by_role("button", name="Delete this conversation").click()
    chat.page.get_by_role("button", name="Undo").click()
    expect(chat.notice).to_contain_text("Stopped.")


def test_all_are_deleted_and_brought_back_without_script(
    new_context: Callable[..., BrowserContext], olive: User, everything: Conversation
):
    page = new_context(olive, java_script_enabled=False).new_page()
    page.goto(YOUR_DATA)
    page.get_by_role("button", name="Delete your conversation").click()
    expect(page.get_by_text("Deleted: A title that is long")).to_be_visible()
    expect(page.get_by_text("You have no conversations.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Show me code.")).to_be_visible()


# --- erasing ----------------------------------------------------------------------------------


def test_somebody_erases_their_account(
    chat: Chat, second_tab: Callable[[], Chat], everything: Conversation, olive: User
):
    other = second_tab()
    page = chat.page
    page.goto(YOUR_DATA)
    page.get_by_role("link", name="Erase your account").click()
    expect(page.get_by_text("This can’t be undone.")).to_be_visible()
    _confirm(page, "not my password")
    expect(page.get_by_label("Your password")).to_have_attribute("aria-invalid", "true")
    _confirm(page, PASSWORD)
    expect(page.get_by_role("heading", name="Your account is erased")).to_be_visible()
    expect(other.line).to_contain_text("You are signed out.")
    page.goto("/")
    page.get_by_label("Email").fill("olive@parley.example")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert not Conversation.objects.exclude(lifecycle="deleted").exists()
    assert User.objects.get(pk=olive.pk).name == ""


def _confirm(page: Page, password: str) -> None:
    page.get_by_label("Your password").fill(password)
    page.get_by_label("Erase my account and all that I said").check()
    page.get_by_role("button", name="Erase my account").click()


def test_an_administrator_erases_somebody(new_context, olive: User, ada: User):
    page = new_context(ada).new_page()
    page.goto(reverse("admin:accounts_user_change", args=[olive.pk]))
    page.get_by_role("link", name="Erase this account").click()
    page.get_by_label("Reason").fill("Asked for by mail, confirmed by phone.")
    page.get_by_label(re.compile("Erase this account and all")).check()
    page.get_by_role("button", name="Erase the account").click()
    expect(page.get_by_text("The account is closed")).to_be_visible()
    expect(page.get_by_role("link", name=str(olive.pk)).first).to_be_visible()
    assert User.objects.get(pk=olive.pk).erased_at
