"""Processes under supervision: who is ended, and who is left alone."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from chatbot.local import children
from chatbot.local.children import Child, end_leftovers, open_log, start_time

SLEEP = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(60)"]
FORK = [
    sys.executable,
    "-c",
    "import os, time; os.fork() and print('forked', flush=True); time.sleep(60)",
]


@pytest.fixture
def make(tmp_path):
    made = []

    def make(command=SLEEP, **options):
        made.append(Child("child", command, env=dict(os.environ), data=tmp_path, **options))
        made[-1].start()
        return made[-1]

    yield make
    for child in made:
        child.kill()


def wait_for(child, text):
    while text not in child.said():
        assert child.running


@pytest.fixture
def stranger():
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE, start_new_session=True) as process:
        yield process
        process.kill()


def leave_behind(tmp_path, process, started):
    (tmp_path / "run").mkdir()
    record = [process.pid, started, int(signal.SIGTERM)]
    (tmp_path / "run" / "web.pid").write_text(json.dumps(record))


def test_child_has_a_session_and_a_log_of_its_own(make):
    child = make()
    wait_for(child, "awake")
    assert os.getsid(child.pid) == child.pid
    assert child.log.stat().st_mode & 0o777 == 0o600


def test_stop_ends_it_and_says_how(make, tmp_path):
    child = make()
    child.ask()
    assert child.wait(10)
    assert child.poll() == -signal.SIGTERM
    child.stop()
    assert not list((tmp_path / "run").iterdir())


def test_it_can_be_started_again(make):
    child = make()
    first = child.pid
    child.stop()
    child.start()
    assert child.running
    assert child.pid != first


def test_what_it_forked_ends_with_it(make, tmp_path):
    child = make(FORK)
    wait_for(child, "forked")
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(5)
    child.kill()
    deadline = time.monotonic() + 10  # the kernel takes a moment to bury what was killed
    while left := [pid for pid in children._marked(tmp_path) if start_time(pid)]:
        assert time.monotonic() < deadline, left


def test_standard_input_is_handed_over(make):
    child = make([sys.executable, "-c", "print(input())"], stdin="a word\n")
    assert child.wait(10)
    assert child.last_words() == "a word"


def test_leftover_of_a_killed_supervisor_is_ended(tmp_path, stranger):
    leave_behind(tmp_path, stranger, start_time(stranger.pid))
    end_leftovers(tmp_path)
    assert stranger.wait(5) == -signal.SIGTERM


def test_stranger_with_the_same_number_is_left_alone(tmp_path, stranger):
    leave_behind(tmp_path, stranger, "another boot/1")
    end_leftovers(tmp_path)
    assert stranger.poll() is None
    assert not (tmp_path / "run" / "web.pid").exists()


@pytest.mark.skipif(not children.LINUX, reason="found by /proc")
def test_orphan_without_a_record_is_found_by_its_mark(tmp_path):
    env = {**os.environ, children.MARK: str(tmp_path)}
    with subprocess.Popen(SLEEP, env=env, stdout=subprocess.PIPE) as orphan:
        orphan.stdout.readline()
        end_leftovers(tmp_path)
        assert orphan.wait(5) == -signal.SIGKILL


def test_garbage_in_a_record_is_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "web.pid").write_text("")
    end_leftovers(tmp_path)
    assert not (tmp_path / "run" / "web.pid").exists()


def test_overlong_log_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "LOG_KEPT_BYTES", 10)
    (tmp_path / "web.log").write_text("more than ten bytes")
    with open_log(tmp_path / "web.log") as log:
        assert log.tell() == 0
    assert (tmp_path / "web.log.1").read_text() == "more than ten bytes"
