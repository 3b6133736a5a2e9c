"""One installation for the fault tests of this process; each test finds it whole."""

from collections.abc import Callable, Iterator

import pytest

from accounts.models import User
from benchmarks.provider_simulator import running_simulator
from conversations.reply.markdown import render
from tests.conftest import LiveServer
from tests.faults.books import check_books
from tests.faults.document import parsed
from tests.faults.here import Here
from tests.faults.page import Page, wait_until
from tests.faults.site import SHORT_REPLY, Question, Row, Site, controlled_question
from tests.faults.table import Seen, take_note


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    """The base URL of a provider that does what each question tells it."""
    # Titles without usage are charged by an estimate that can be read from the database.
    simulated = {"text": SHORT_REPLY, "tokens_per_second": 0, "title": {"usage": False}}
    with running_simulator(**simulated) as provider:
        yield provider


@pytest.fixture(scope="session")
def _site(tmp_path_factory: pytest.TempPathFactory, simulator: str) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("faults"), simulator)
    try:
        site.start()
        yield site
    finally:
        site.end()


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """The installation with its servers running; web processes start when they are asked for.

    However a test ends, nothing may be left that a reply or a title held.
    """
    yield _site
    _site.close_pages()
    if not _site.postgres.child.running:
        _site.postgres.start()
    if not _site.redis.child.running:
        _site.redis.start()
    _site.some_web()
    check_books(_site.query)


@pytest.fixture
def here(live: LiveServer, simulator: str, olive: User, sam: User) -> Iterator[Here]:
    """The server of this process, of which the same holds at the end of a test."""
    here = Here(live.url, simulator)
    yield here
    here.close_pages()
    check_books(here.query)


@pytest.fixture
def place(site: Site) -> Site:
    """Where the test's pages are; a module that kills nothing has another."""
    return site


@pytest.fixture
def told() -> Callable[..., None]:
    """Hand over what a fault looks like from outside, for the table in `docs/faults.md`."""

    def tell(
        fault: str, status: object, page: Page, row: Row, question: Question, beside: str = ""
    ) -> None:
        take_note(Seen.of(fault, status, page, row, question, beside))

    return tell


@pytest.fixture
def agree(place: Site | Here) -> Callable[[Page], Row]:
    """Check that open page, reloaded page and database show the same, to the character."""

    def check(page: Page) -> Row:
        row = place.row(page.conversation)
        fresh = page.reloaded()
        assert fresh.prose() == parsed(render(row.text)).inner_html()
        assert page.prose() == fresh.prose()
        assert page.offers_stop() == fresh.offers_stop()
        # The line of figures under a reply follows its last words.
        wait_until(lambda: page.thread() == fresh.thread(), f"{page.thread()}\n{fresh.thread()}", 5)
        return row

    return check


@pytest.fixture
def next_turn_works(agree: Callable[[Page], Row]) -> Callable[[Page], None]:
    """Check that the next question on the same page is answered there."""

    def check(page: Page) -> None:
        replies = page.replies()
        question = controlled_question(SHORT_REPLY, text=SHORT_REPLY)
        assert page.ask(question.text) == 200
        wait_until(
            lambda: (
                page.replies() == replies + 1
                and page.text() == SHORT_REPLY
                and not page.is_writing()
            ),
            f"the next reply, got: {page.text()} {page.notice()}",
        )
        assert agree(page).state == "completed"

    return check
