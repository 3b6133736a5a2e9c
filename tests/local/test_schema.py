"""When a start may leave out `migrate`, and when it must not."""

import psycopg
import pytest

from chatbot.local.schema import PACKAGES, Schema
from chatbot.local.servers import servers


@pytest.fixture(scope="module")
def owner_url(tmp_path_factory):
    data = tmp_path_factory.mktemp("schema") / "data"
    given = {"PATH": "/nonexistent", "REDIS_URL": "redis://elsewhere"}
    with servers(data, given, durable=False, max_connections=20) as running:
        yield running.database_owner_url


@pytest.fixture
def code(tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "models.py").write_text("")
    (tmp_path / "requirements.lock").write_text("django==5.2\n")
    return tmp_path


def migrate(url, name):
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS django_migrations (id serial, name text)")
        connection.execute("INSERT INTO django_migrations (name) VALUES (%s)", [name])


def test_empty_database_is_not_current(owner_url, code):
    assert not Schema(owner_url, code).is_current()


def test_what_was_noted_is_current_for_the_same_code(owner_url, code):
    migrate(owner_url, "0001")
    Schema(owner_url, code).note_current()
    assert Schema(owner_url, code).is_current()


@pytest.mark.parametrize("file", ["accounts/models.py", "requirements.lock"])
def test_other_code_is_a_reason_to_migrate(owner_url, code, file):
    Schema(owner_url, code).note_current()
    (code / file).write_text("changed")
    assert not Schema(owner_url, code).is_current()


def test_migration_applied_or_reversed_by_hand_is_a_reason_too(owner_url, code):
    Schema(owner_url, code).note_current()
    migrate(owner_url, "0002")
    assert not Schema(owner_url, code).is_current()
