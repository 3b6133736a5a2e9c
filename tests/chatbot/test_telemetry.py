import io
import json
import logging
import os
import subprocess
import uuid
from pathlib import Path

import pytest
import structlog

from chatbot import telemetry


@pytest.fixture
def lines(settings):
    """Read the log as operators do: JSON lines."""
    stream = io.StringIO()
    telemetry.configure_logging("INFO", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    telemetry.configure_logging(settings.LOG_LEVEL)


def test_a_line_carries_the_ids_of_its_request_and_turn(lines):
    structlog.contextvars.clear_contextvars()
    telemetry.bind(request_id="r1", turn_id="t1")
    structlog.get_logger("somewhere").info("frame_waits", waiting=3)
    logging.getLogger("django.request").warning("Not Found: %s", "/x")
    ours, djangos = lines()
    assert (ours["event"], ours["request_id"], ours["turn_id"]) == ("frame_waits", "r1", "t1")
    assert (djangos["event"], djangos["request_id"]) == ("Not Found: /x", "r1")
    assert telemetry.current_ids() == {"request_id": "r1", "turn_id": "t1"}
    structlog.contextvars.clear_contextvars()


def test_a_traceback_does_not_show_what_people_said(lines):
    def crash(text: str) -> None:
        raise ValueError(len(text))

    try:
        crash("the planted words")
    except ValueError:
        structlog.get_logger("somewhere").exception("turn_crashed")
    (line,) = lines()
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "planted" not in json.dumps(line)


def test_what_is_personal_in_a_line_is_masked_wherever_it_stands(lines):
    logger = structlog.get_logger("somewhere")
    logger.info("mail_sent", to="olive@example.org", tried=[{"from": "192.0.2.17"}], count=3)
    logging.getLogger("a.library").warning("No mailbox %s", "olive@example.org")
    ours, theirs = lines()
    assert (ours["to"], ours["tried"], ours["count"]) == ("[EMAIL]", [{"from": "[IP]"}], 3)
    assert theirs["event"] == "No mailbox [EMAIL]"


def test_what_is_personal_in_an_exception_is_masked(lines):
    try:
        raise ValueError("olive@example.org, password=Winter2024!x")
    except ValueError:
        structlog.get_logger("somewhere").exception("sending_failed")
        logging.getLogger("a.library").exception("Failed")
    for line in lines():
        assert line["exception"][0]["exc_value"] == "[EMAIL], password=[SECRET]"


def test_ids_times_and_places_in_the_code_stay_readable(lines):
    request_id = "0123456789012345678901234567890a"
    structlog.contextvars.bind_contextvars(request_id=request_id)
    structlog.get_logger("somewhere").info(
        "begun", at=Path("/srv/parley/x.py"), reply=uuid.UUID(int=7)
    )
    structlog.contextvars.clear_contextvars()
    (line,) = lines()
    assert line["request_id"] == request_id
    assert line["timestamp"].startswith("20")
    assert (line["at"], line["reply"]) == ("/srv/parley/x.py", str(uuid.UUID(int=7)))


def test_the_query_of_an_address_is_not_logged(lines):
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/?ask=planted", "1.1", 200
    )
    (line,) = lines()
    assert line["event"] == '127.0.0.1:1 - "GET / HTTP/1.1" 200'


def test_each_answer_names_its_request(client, db):
    first, second = (client.get("/account/sign-in/") for _ in range(2))
    assert first["X-Request-ID"] != second["X-Request-ID"]


def test_gauges_of_an_ended_process_are_dropped(monkeypatch, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        (tmp_path / f"gauge_livesum_{pid}.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    telemetry.forget_ended_processes()
    assert [file.name for file in tmp_path.iterdir()] == [f"gauge_livesum_{os.getpid()}.db"]
