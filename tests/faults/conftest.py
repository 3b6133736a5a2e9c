"""One installation for the fault tests of this process; each test finds it whole."""

from collections.abc import Callable, Iterator

import pytest

from benchmarks.provider_simulator import running_simulator
from conversations.reply.markdown import render
from tests.faults.document import parsed
from tests.faults.page import Page, wait_until
from tests.faults.site import SHORT_REPLY, Question, Row, Site, controlled_question
from tests.faults.table import Seen, take_note


@pytest.fixture(scope="session")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_simulator(text=SHORT_REPLY, tokens_per_second=0) as provider:
        site = Site(tmp_path_factory.mktemp("faults"), provider)
        try:
            site.start()
            yield site
        finally:
            site.end()


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """The installation with its servers running; web processes start when they are asked for."""
    yield _site
    _site.close_pages()
    if not _site.postgres.child.running:
        _site.postgres.start()
    if not _site.redis.child.running:
        _site.redis.start()


@pytest.fixture
def told() -> Callable[..., None]:
    """Hand over what a fault looks like from outside, for the table in `docs/faults.md`."""

    def tell(fault: str, status: object, page: Page, row: Row, question: Question) -> None:
        take_note(Seen.of(fault, status, page, row, question))

    return tell


@pytest.fixture
def agree(site: Site) -> Callable[[Page], Row]:
    """Check that open page, reloaded page and database show the same, to the character."""

    def check(page: Page) -> Row:
        row = site.row(page.conversation)
        fresh = page.reloaded()
        assert fresh.prose() == parsed(render(row.text)).inner_html()
        assert page.prose() == fresh.prose()
        assert page.offers_stop() == fresh.offers_stop()
        # The line of figures under a reply follows its last words.
        wait_until(lambda: page.thread() == fresh.thread(), f"{page.thread()}\n{fresh.thread()}", 5)
        return row

    return check


@pytest.fixture
def next_turn_works(site: Site, agree: Callable[[Page], Row]) -> Callable[[Page], None]:
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
