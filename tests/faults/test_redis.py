"""Redis is killed, loses what it knew, or stays away: a reply does not depend on it."""

import time

import pytest

from tests.faults.page import wait_until
from tests.faults.site import long_question
from tests.faults.table import fault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

RESTARTED = fault("Redis is killed (SIGKILL) and started again in mid-reply")
EMPTIED = fault("Redis loses all its data in mid-reply")
AWAY = fault("Redis is away for 8 s in mid-reply")


@pytest.mark.parametrize(
    ("name", "lose_data"), [(RESTARTED, False), (EMPTIED, True)], ids=["restarted", "emptied"]
)
def test_reply_goes_on(site, told, agree, next_turn_works, name, lose_data):
    question = long_question()
    page = site.page(site.web())
    status = page.ask(question.text)
    page.wait_for_words(40)
    site.kill_redis(lose_data=lose_data)
    site.redis.start()
    late = site.page(site.web(), page.conversation)
    for tab in (page, late):
        tab.wait_for_end()
        assert agree(tab).text == question.reply
        assert tab.closes == []
    told(name, status, page, site.row(page.conversation), question)
    next_turn_works(page)


def test_reply_goes_on_while_redis_is_away(site, told, agree, next_turn_works):
    question = long_question(tokens=700)
    page = site.page(site.web())
    status = page.ask(question.text)
    page.wait_for_words(40)
    site.kill_redis()
    words, away_since = len(page.text().split()), time.monotonic()
    wait_until(lambda: len(page.text().split()) > words + 40, "the text goes on without Redis")
    time.sleep(max(0.0, 8 - (time.monotonic() - away_since)))
    site.redis.start()
    page.wait_for_end()
    assert agree(page).text == question.reply
    assert page.closes == []
    told(AWAY, status, page, site.row(page.conversation), question)
    next_turn_works(page)


def test_pages_and_questions_are_answered_without_redis(site, agree, next_turn_works):
    page, question = site.page(site.web()), long_question(tokens=60)
    site.kill_redis()
    assert page.ask(question.text) == 200
    page.wait_for_end()
    assert agree(page).text == question.reply
    site.redis.start()
    next_turn_works(page)
