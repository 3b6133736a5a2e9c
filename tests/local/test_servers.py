"""The embedded servers: their data, their roles, their end, and what is said when they can't."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from redis import Redis as Client

from chatbot.local import servers as module
from chatbot.local.folder import DataFolder, storage_error
from chatbot.local.servers import Identity, Postgres, Redis, StartError, identity_for, servers

FAST = {"durable": False, "max_connections": 20}
HOME = {"PATH": "/nonexistent"}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with servers(tmp_path_factory.mktemp("shared") / "data", HOME, **FAST) as running:
        yield running


def rows(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement)
        return found.fetchall() if found.description else None


class TestPostgres:
    def test_is_the_wheels_own(self, running):
        assert rows(running.database_url, "SHOW server_version")[0][0].startswith("18.")

    def test_listens_on_no_port(self, running):
        assert rows(running.database_url, "SHOW listen_addresses") == [("",)]

    def test_application_changes_rows_of_tables_made_later(self, running):
        rows(running.database_owner_url, "CREATE TABLE note (id bigserial PRIMARY KEY, text text)")
        rows(running.database_url, "INSERT INTO note (text) VALUES ('kept')")
        rows(running.database_url, "UPDATE note SET text = 'changed'")
        assert rows(running.database_url, "SELECT id, text FROM note") == [(1, "changed")]

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TABLE mine (id int)",
            "CREATE DATABASE mine",
            "SET ROLE parley_owner",
            "ALTER ROLE parley_app CREATEDB",
        ],
    )
    def test_application_changes_nothing_else(self, running, statement):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(running.database_url, statement)

    def test_application_has_the_same_rights_in_the_owners_test_databases(self, running):
        rows(running.database_owner_url, "CREATE DATABASE test_parley")
        rows(running.postgres.url("parley_owner", "test_parley"), "CREATE TABLE note (id int)")
        theirs = running.postgres.url(database="test_parley")
        assert rows(theirs, "INSERT INTO note VALUES (1) RETURNING id") == [(1,)]

    def test_keeps_what_was_committed_when_killed(self, running):
        rows(running.database_owner_url, "CREATE TABLE survivor (id int)")
        rows(running.database_url, "INSERT INTO survivor VALUES (1)")
        os.kill(running.postgres.child.pid, signal.SIGKILL)
        assert running.postgres.child.wait(5)
        running.postgres.start()
        assert rows(running.database_url, "SELECT id FROM survivor") == [(1,)]

    def test_password_lost_and_made_again_opens_the_database(self, running):
        data = running.postgres.child.log.parents[1]
        (data / "secrets" / "parley_app_password").unlink()
        running.postgres.stop()
        running.postgres.start()
        assert rows(running.postgres.url(), "SELECT 1") == [(1,)]

    def test_pid_file_of_a_stranger_is_no_obstacle(self, running):
        running.postgres.stop()
        cluster = running.postgres.child.log.parents[1] / "postgres"
        (cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{cluster}\n1\n5432\n")
        running.postgres.start()
        assert running.postgres.child.running


class TestRedis:
    def test_answers_at_its_address(self, running):
        assert Client.from_url(running.redis_url).ping()

    def test_has_no_port_and_a_private_socket(self, running):
        client = Client.from_url(running.redis_url)
        assert client.config_get("port")["port"] == "0"
        path = client.connection_pool.connection_kwargs["path"]
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o700

    def test_keeps_what_it_was_told_when_killed(self, tmp_path):
        folder = DataFolder(tmp_path / "data")
        redis = Redis(folder, HOME)
        redis.start()
        Client.from_url(redis.url()).set("word", "kept")
        os.kill(redis.child.pid, signal.SIGKILL)
        assert redis.child.wait(5)
        redis.start()
        try:
            assert Client.from_url(redis.url()).get("word") == b"kept"
        finally:
            redis.stop()

    def test_data_of_a_newer_one_is_said_to_be_so(self, tmp_path):
        folder = DataFolder(tmp_path / "data")
        (folder.path / "redis").mkdir()
        (folder.path / "redis" / "appendonly.aof").write_bytes(b"REDIS0099" + b"\xff" * 16)
        redis = Redis(folder, HOME)
        with pytest.raises(StartError, match="newer Redis"):
            redis.start()


class TestFirstStart:
    def test_unfinished_one_is_done_again_and_the_next_finds_its_data(self, tmp_path):
        data = tmp_path / "data"
        (data / "postgres.unfinished").mkdir(parents=True)
        (data / "postgres.unfinished" / "PG_VERSION").write_text("18")
        given = HOME | {"REDIS_URL": "redis://elsewhere"}
        with servers(data, given, **FAST) as running:
            rows(running.database_owner_url, "CREATE TABLE note (id int)")
        with servers(data, given, **FAST) as running:
            assert rows(running.database_url, "SELECT count(*) FROM note") == [(0,)]

    def test_changes_no_mode_above_and_is_private_itself(self, tmp_path):
        tmp_path.chmod(0o750)
        folder = DataFolder(tmp_path / "data")
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750
        modes = {stat.S_IMODE(p.stat().st_mode) for p in (folder.path, *folder.path.iterdir())}
        assert modes == {0o700}

    def test_without_room_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "FIRST_START_BYTES", 10**18)
        with pytest.raises(StartError, match=r"less than .* MB left"):
            Postgres(DataFolder(tmp_path / "data"), HOME).start()


class TestChoice:
    def test_given_addresses_start_nothing(self, tmp_path):
        given = {"DATABASE_URL": "postgres://db/parley", "REDIS_URL": "redis://cache"}
        with servers(tmp_path / "data", given) as running:
            assert running.environ() == {**given, "DATABASE_OWNER_URL": "postgres://db/parley"}
            assert running.postgres is None
            assert running.redis is None

    def test_address_may_come_from_a_file(self, tmp_path):
        (tmp_path / "url").write_text("redis://cache\n")
        given = {"DATABASE_URL": "postgres://db", "REDIS_URL_FILE": str(tmp_path / "url")}
        with servers(tmp_path / "data", given) as running:
            assert running.redis_url == "redis://cache"

    def test_data_of_a_newer_postgres_is_left_alone(self, tmp_path):
        folder = DataFolder(tmp_path / "data")
        (folder.path / "postgres").mkdir()
        (folder.path / "postgres" / "PG_VERSION").write_text("99\n")
        with pytest.raises(StartError, match="written by PostgreSQL 99"):
            Postgres(folder, HOME)

    def test_path_serves_where_there_is_no_wheel(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_package_folder", lambda _package: None)
        program = tmp_path / "valkey-server"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert module._redis_program({"PATH": str(tmp_path)}) == program

    def test_without_any_the_sentence_names_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_package_folder", lambda _package: None)
        with pytest.raises(StartError, match="apt install redis-server"):
            Redis(DataFolder(tmp_path / "data"), HOME)
        monkeypatch.setattr(module, "_postgres_folders", lambda _env: iter(()))
        with pytest.raises(StartError, match="apt install postgresql"):
            Postgres(DataFolder(tmp_path / "data"), HOME)


class TestFolder:
    def test_second_holder_is_refused_by_name(self, tmp_path):
        folder = DataFolder(tmp_path / "data")
        with (
            folder.locked("make manage"),
            pytest.raises(StartError, match=rf"`make manage` \(process {os.getpid()}\)"),
            folder.locked("make up"),
        ):
            pass
        assert folder.holder() is None

    def test_deep_one_has_its_sockets_elsewhere_and_always_there(self, tmp_path):
        folder = DataFolder(tmp_path / ("deep" * 30) / "data")
        sockets = folder.sockets(os.geteuid())
        assert len(str(sockets)) < 80
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert folder.sockets(os.geteuid()) == sockets
        sockets.rmdir()

    def test_socket_folder_that_others_could_enter_is_refused(self, tmp_path):
        folder = DataFolder(tmp_path / "with space")
        sockets = folder.sockets(os.geteuid())
        sockets.chmod(0o755)
        with pytest.raises(StartError, match="remove it"):
            folder.sockets(os.geteuid())
        sockets.rmdir()

    def test_something_else_in_its_place_is_a_sentence(self, tmp_path):
        (tmp_path / "data").write_text("")
        with pytest.raises(StartError, match=r"data.*: Not a directory"):
            DataFolder(tmp_path / "data")

    @pytest.mark.parametrize(
        ("error", "sentence"),
        [
            (OSError(28, "No space left on device"), "is full. Free some space"),
            (OSError(122, "Disk quota exceeded"), "is full. Free some space"),
            (OSError(30, "Read-only file system", "/data/run"), "/data/run can't be written"),
            (OSError(13, "Permission denied", "/data/run"), "DATA=/path/to/folder make up"),
        ],
    )
    def test_storage_trouble_says_what_to_do(self, error, sentence):
        assert sentence in str(storage_error(error, Path("/data")))


class TestIdentity:
    def test_folder_in_the_way_is_named(self, tmp_path):
        closed = tmp_path / "closed"
        (closed / "data").mkdir(parents=True)
        closed.chmod(0o700)
        stranger = os.geteuid() + 1
        for folder in (tmp_path, *tmp_path.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                closed = folder
        assert module._obstacle(stranger, (closed / "data",)) == closed

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has a choice")
    def test_root_without_namespaces_becomes_who_owns_the_folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_namespaces_work", lambda: False)
        monkeypatch.setattr(module, "_obstacle", lambda _uid, _wanted: None)
        os.chown(tmp_path, 1234, 1234)
        assert identity_for(tmp_path / "postgres", tmp_path) == Identity(1234)


PARENT = """
import os, sys, time
from pathlib import Path
from chatbot.local.servers import servers
with servers(Path(sys.argv[1]), {}, durable=False) as running:
    print(running.postgres.child.pid, running.redis.child.pid, flush=True)
    time.sleep(60)
"""


def test_killed_supervisor_leaves_nothing_that_stops_the_next(tmp_path):
    data = tmp_path / "data"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, data], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    with servers(data, HOME, **FAST) as running:
        assert rows(running.database_url, "SELECT 1") == [(1,)]
        assert Client.from_url(running.redis_url).ping()
