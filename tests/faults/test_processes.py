"""Web processes that are killed, stopped, paused, or several."""

import signal
import time

import pytest

from tests.faults.page import wait_until
from tests.faults.site import SHORT_REPLY, Question, long_question, slow_title
from tests.faults.table import fault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

KILLED_ALONE = fault("The only web process is killed (SIGKILL) in mid-reply and started again")
CONTINUED = fault("… and Continue is pressed")
FOLLOWED = fault("Two web processes: a reply on one is followed through the other")
STOPPED = fault("Two web processes: a reply on one is stopped through the other")
KILLED_BESIDE = fault("Two web processes: the one that writes the reply is killed (SIGKILL)")
PAUSED = fault("A web process is paused (SIGSTOP) until another takes it for dead, and goes on")
DRAINED = fault("A web process is stopped (SIGTERM); the reply ends within the drain time")
KILLED_AT_TITLE = fault("The only web process is killed (SIGKILL) while it asks for the title")
CUT_SHORT = fault("A web process is stopped (SIGTERM); the reply would take longer")


# uvicorn's patience with connections, the drain, and what a machine that is busy takes besides.
LONGEST_STOP_SECONDS = 60


HELD_FOR_TITLES = """
    SELECT r.reply_id FROM conversations_reservation r
    JOIN conversations_message m ON m.id = r.reply_id
    WHERE r.settled_at IS NULL AND m.state = 'completed'
"""


def test_killed_process_leaves_the_text_so_far_and_continue(site, told, agree, next_turn_works):
    web, question = site.only(), long_question(tokens_per_second=40)
    page = site.page(web)
    status = page.ask(question.text)
    page.wait_for_words(60)
    wait_until(lambda: site.row(page.conversation).text, "a snapshot")
    web.sigkill()
    web.running()
    started_at = time.time()
    row = site.wait_for_state(page.conversation, "interrupted")
    assert row.ended_at < started_at + 10
    page.wait_for_end()
    row = agree(page)
    assert question.reply.startswith(row.text)
    told(KILLED_ALONE, f"{status}; socket {page.closes[0]}", page, row, question)

    status = page.mend()
    assert status == 200
    wait_until(lambda: site.row(page.conversation).state != "interrupted", "it goes on")
    page.wait_for_end()
    continued = agree(page)
    assert continued.text == row.text + SHORT_REPLY
    told(CONTINUED, status, page, continued, Question(question.text, continued.text))
    next_turn_works(page)


def test_title_of_a_killed_process_holds_nothing(site, told, agree, next_turn_works):
    web, question = site.only(), slow_title()
    page = site.page(web)
    status = page.ask(question.text)
    page.wait_for_end()
    wait_until(lambda: site.query(HELD_FOR_TITLES), "a title is asked for")
    web.sigkill()
    web.running()
    wait_until(lambda: not site.query(HELD_FOR_TITLES), "nothing is held any more")
    wait_until(lambda: page.closes, "the page notices")
    seen = f"{status}; socket {page.closes[0]}"
    told(KILLED_AT_TITLE, seen, page, agree(page), question)
    next_turn_works(page)


def test_reply_is_followed_through_another_process(site, told, agree, next_turn_works):
    question, other_web = long_question(tokens_per_second=80), site.web("b")
    page = site.page(site.web("a"))
    status = page.ask(question.text)
    page.wait_for_words(10)
    other = site.page(other_web, page.conversation)
    other.wait_for_words(30)
    for tab in (page, other):
        tab.wait_for_end()
        assert agree(tab).text == question.reply
        assert tab.document.snapshots == 0
    told(FOLLOWED, status, other, site.row(page.conversation), question)
    next_turn_works(other)


def test_reply_is_stopped_through_another_process(site, told, agree, next_turn_works):
    question = long_question(tokens=4000)
    page = site.page(site.web("a"))
    page.ask(question.text)
    page.wait_for_words(10)
    other = site.page(site.web("b"), page.conversation)
    wait_until(other.offers_stop, "Stop is offered")
    status = other.stop()
    page.wait_for_end()
    wait_until(lambda: site.upstream(question.text)["outcome"] == "cancelled", "upstream ends")
    row = agree(page)
    agree(other)
    assert question.reply.startswith(row.text)
    told(STOPPED, status, other, row, question)
    next_turn_works(page)


def test_reply_of_a_killed_process_is_interrupted_by_another(site, told, agree, next_turn_works):
    question = long_question(tokens=4000)
    watcher = site.web("b")
    page = site.page(site.web("a"))
    page.ask(question.text)
    other = site.page(watcher, page.conversation)
    other.wait_for_words(30)
    wait_until(lambda: site.row(page.conversation).text, "a snapshot")
    killed_at = time.time()
    site.web("a").sigkill()
    row = site.wait_for_state(page.conversation, "interrupted")
    assert row.ended_at < killed_at + 10
    other.wait_for_end()
    row = agree(other)
    assert question.reply.startswith(row.text)
    assert other.closes == []
    told(KILLED_BESIDE, 200, other, row, question)
    next_turn_works(other)


def test_frames_and_end_of_a_paused_process_change_nothing(site, told, agree, next_turn_works):
    question = long_question(tokens=700)
    writer, watcher = site.web("a"), site.web("b")
    page = site.page(writer)
    status = page.ask(question.text)
    other = site.page(watcher, page.conversation)
    other.wait_for_words(30)
    wait_until(lambda: site.row(page.conversation).text, "a snapshot")
    writer.child.ask(signal.SIGSTOP)
    other.wait_for_end()
    writer.child.ask(signal.SIGCONT)
    wait_until(lambda: site.upstream(question.text)["ended_at"], "the paused process lets go")
    row = agree(other)
    assert row.state == "interrupted"
    assert question.reply.startswith(row.text)
    page.wait_for_end()
    agree(page)
    told(PAUSED, status, other, row, question)
    next_turn_works(page)
    assert site.row(page.conversation).fence == row.fence + 1


def test_stop_in_good_order_lets_a_short_rest_end(site, told, agree, next_turn_works):
    web, question = site.web(), long_question(tokens=240)
    page = site.page(web)
    status = page.ask(question.text)
    page.wait_for_words(20)
    asked_to_stop_at = time.time()
    web.child.ask(signal.SIGTERM)
    assert web.child.wait(LONGEST_STOP_SECONDS), "it does not end"
    row = site.row(page.conversation)
    assert (row.state, row.text) == ("completed", question.reply)
    assert row.ended_at > asked_to_stop_at, "the reply had ended before"
    site.web()
    page.wait_for_end()
    told(DRAINED, f"{status}; socket {page.closes[0]}", page, agree(page), question)
    next_turn_works(page)


def test_stop_in_good_order_interrupts_a_long_rest(site, told, agree, next_turn_works):
    web = site.web("hurried", application="tests.faults.hurried")
    question = long_question(tokens=4000)
    page = site.page(web)
    status = page.ask(question.text)
    page.wait_for_words(20)
    web.child.ask(signal.SIGTERM)
    assert web.child.wait(LONGEST_STOP_SECONDS), "it does not end"
    row = site.row(page.conversation)
    assert question.reply.startswith(row.text)
    assert site.upstream(question.text)["outcome"] == "cancelled"
    web.running()
    page.wait_for_end()
    told(CUT_SHORT, f"{status}; socket {page.closes[0]}", page, agree(page), question)
    next_turn_works(page)
