"""What people say stands nowhere in the clear: database, its log and dump, Redis' files, our logs.

Sentences are planted through every door, then searched for in every byte that is left on disk. A
name that is kept in the clear is planted beside them and must be found, or the search is blind.
"""

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest
import redis

from chatbot.local.servers import OWNER, SUPERUSER
from conversations.encryption import open_sealed
from conversations.keyring import KeyGone, keyring
from tests.faults.document import Document
from tests.faults.page import hidden_fields, wait_until
from tests.faults.site import Site, controlled_question

# What is not there any more is looked for among the keys of holds.
pytestmark = [pytest.mark.faults, pytest.mark.django_db]

IN_THE_CLEAR = "Name-of-a-token-4711"
PLANTED = {
    "question": "The heron keeps seven umbrellas",
    "personal data": "quentin.quayle@umbrellas.example",
    "reply": "A lighthouse polishes its violin",
    "title": "Umbrellas of a heron by night",
    "a program's question": "Eleven walruses translate Ovid",
    "a program's history": "The moth has filed its taxes",
    "a program's system message": "You are a gardener of clouds",
    "comment": "That violin is out of tune",
    "what was never sent": "Nobody irons the horizon",
}


@pytest.fixture(scope="module")
def planted(_site: Site) -> Iterator[Site]:
    """The installation after people and programs said every planted sentence to it."""
    web = _site.web()
    page = _site.page(web)
    said = f"{PLANTED['question']}, says {PLANTED['personal data']}. "
    title = {"text": PLANTED["title"]}
    asked = controlled_question("", text=f"{PLANTED['reply']}.", reasoning=40, title=title)
    assert page.ask(said + asked.text) == 200
    page.wait_for_end()
    wait_until(lambda: page.reloaded().title() == PLANTED["title"], "the title")
    person = _site.person("olive", web)
    with httpx2.Client(base_url=web.url, timeout=30) as program:
        program.headers["Authorization"] = f"Bearer {_token(person.http, web.url)}"
        _plant_by(program)
    too_long = f"{PLANTED['what was never sent']} " * 20_000
    assert page.ask(too_long) in {413, 422}
    yield _site
    page.leave()


def _token(http: httpx2.Client, url: str) -> str:
    form = Document(http.get(f"{url}/account/tokens/").text)
    fields = hidden_fields(form.root) | {
        "name": IN_THE_CLEAR,
        "scopes": ["chat", "read"],
        "days": "30",
    }
    answer = http.post(f"{url}/account/tokens/", data=fields, headers={"Origin": url})
    found = re.search(r"parley_[0-9a-f]{72}", answer.text)
    assert found, answer.text
    return found[0]


def _plant_by(program: httpx2.Client) -> None:
    question = {"user_message": PLANTED["a program's question"]}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    told = program.post("/chat", json=question, headers=key).json()
    at = f"/api/v1/sessions/{told['session_id']}/messages/{told['message_id']}/feedback"
    rating = {"rating": "down", "comment": PLANTED["comment"]}
    assert program.put(at, json=rating).status_code == 200
    messages = [
        {"role": "system", "content": PLANTED["a program's system message"]},
        {"role": "user", "content": PLANTED["a program's history"]},
        {"role": "assistant", "content": "Has it?"},
        {"role": "user", "content": PLANTED["a program's question"]},
    ]
    answer = program.post("/v1/chat/completions", json={"model": "default", "messages": messages})
    assert answer.status_code == 200, answer.text


def _found(where: bytes) -> set[str]:
    """Return which planted sentences stand there, as text or as UTF-16."""
    every = PLANTED | {"in the clear": IN_THE_CLEAR}
    return {
        name
        for name, text in every.items()
        if text.encode() in where or text.encode("utf-16-le") in where
    }


def _found_below(folder: Path) -> dict[str, set[str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, f"nothing in {folder}"
    found = {str(path.relative_to(folder)): _found(path.read_bytes()) for path in files}
    return {path: names for path, names in found.items() if names}


def test_a_dump_of_the_database_holds_none_of_it(planted: Site):
    program = planted.postgres.program("pg_dump")
    command = [program, planted.postgres.url(), "--inserts"]
    dump = subprocess.run(command, capture_output=True, check=True).stdout
    assert _found(dump) == {"in the clear"}


def test_an_old_dump_cannot_be_read_once_the_keys_of_its_days_are_destroyed(
    planted: Site, settings, tmp_path
):
    dumped = subprocess.run(
        [planted.postgres.program("pg_dump"), "--no-owner", planted.postgres.url(OWNER)],
        capture_output=True,
        check=True,
    ).stdout
    planted.query_as(SUPERUSER, "CREATE DATABASE restored")
    try:
        restored = planted.postgres.url(SUPERUSER, "restored")
        psql = [planted.postgres.program("psql"), "--quiet", restored]
        subprocess.run(psql, input=dumped, capture_output=True, check=True)
        with psycopg.connect(restored) as connection:
            rows = connection.execute(
                "SELECT id, conversation_id, content_sealed FROM conversations_message"
                " WHERE length(content_sealed) > 0"
            ).fetchall()
    finally:
        planted.query_as(SUPERUSER, "DROP DATABASE restored")
    sealed = [(f"conversations_message/{pk}/content_sealed", talk, text) for pk, talk, text in rows]
    said = "".join(open_sealed(text, place, talk).decode() for place, talk, text in sealed)
    assert PLANTED["question"] in said, "with the keys of that day it can be read"

    # The keyring as it is once the purge has let go of these days.
    shutil.copytree(settings.KEYRING, tmp_path / "keyring")
    settings.KEYRING = str(tmp_path / "keyring")
    for day in keyring().days():
        keyring().destroy(day)
    for place, talk, text in sealed:
        with pytest.raises(KeyGone):
            open_sealed(text, place, talk)


def test_the_files_of_the_database_and_its_write_ahead_log_hold_none_of_it(planted: Site):
    planted.query("SELECT 1")
    planted.postgres.stop()  # what was in memory is written
    try:
        found = _found_below(planted.folder / "postgres")
    finally:
        planted.postgres.start()
    assert set().union(*found.values()) == {"in the clear"}
    assert any(path.startswith("pg_wal/") for path in found)
    assert any(path.startswith("base/") for path in found)


def test_the_files_of_redis_hold_none_of_it(planted: Site):
    with redis.Redis.from_url(planted.redis.url()) as client:
        client.set("at-rest-control", IN_THE_CLEAR)
        client.config_set("rdbcompression", "no")
        client.save()
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the rewrite")
        client.delete("at-rest-control")
    wait_until(lambda: "in the clear" in str(_found_below(planted.folder / "redis")), "the control")
    found = _found_below(planted.folder / "redis")
    assert set().union(*found.values()) == {"in the clear"}
    assert {Path(path).suffix for path in found} >= {".rdb"}
    assert any("appendonly" in path for path in found)


def test_logs_and_all_other_files_of_the_installation_hold_none_of_it(planted: Site):
    others = [
        *(path for path in planted.folder.iterdir() if path.name not in {"postgres", "redis"}),
        Path(os.environ["PARLEY_TEST_FOLDER"]) / "metrics",
    ]
    found = {
        str(path): _found_below(path) for path in others if path.is_dir() and any(path.rglob("*"))
    }
    assert not any(found.values()), found
