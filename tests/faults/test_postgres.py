"""PostgreSQL is restarted or stays away: replies that are being written live on."""

import time

import pytest

from benchmarks.provider_simulator import TITLE
from tests.faults.page import wait_until
from tests.faults.site import long_question, slow_title
from tests.faults.table import fault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

RESTARTED = fault("PostgreSQL is restarted (fast stop) in mid-reply")
KILLED = fault("PostgreSQL is killed (SIGKILL) and started again in mid-reply")
AT_TITLE = fault("PostgreSQL is restarted while a title is asked for, and the title comes")
AWAY = fault("PostgreSQL is away for 8 s while two processes write replies")


@pytest.mark.parametrize("name", [RESTARTED, KILLED], ids=["restarted", "killed"])
def test_reply_goes_on(site, told, agree, next_turn_works, name):
    question = long_question()
    page = site.page(site.web())
    status = page.ask(question.text)
    page.wait_for_words(40)
    if name == KILLED:
        site.kill_postgres()
    else:
        site.postgres.stop()
    site.postgres.start()
    page.wait_for_end()
    assert agree(page).text == question.reply
    assert page.closes == []
    told(name, status, page, site.row(page.conversation), question)
    next_turn_works(page)


def test_title_is_stored_when_it_is_back(site, told, agree, next_turn_works):
    question = slow_title(seconds=1.5)
    page = site.page(site.web())
    status = page.ask(question.text)
    page.wait_for_end()
    site.postgres.stop()
    time.sleep(2)
    site.postgres.start()
    wait_until(lambda: TITLE in page.title(), "the title")
    assert page.closes == []
    told(AT_TITLE, status, page, agree(page), question)
    next_turn_works(page)


def test_no_living_process_is_taken_for_dead_after_an_outage(site, told, agree, next_turn_works):
    webs = [site.web("a"), site.web("b")]
    questions = [long_question(tokens=700), long_question(tokens=700)]
    pages = [site.page(web) for web in webs]
    for page, question in zip(pages, questions, strict=True):
        assert page.ask(question.text) == 200
    for page in pages:
        page.wait_for_words(40)
    site.postgres.stop()
    time.sleep(8)
    site.postgres.start()
    for page, question in zip(pages, questions, strict=True):
        page.wait_for_end()
        row = agree(page)
        assert (row.state, row.text) == ("completed", question.reply)
        assert page.closes == []
    told(AWAY, 200, pages[0], site.row(pages[0].conversation), questions[0])
    next_turn_works(pages[1])
