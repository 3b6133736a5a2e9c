"""`make up` and `make manage`: what people may wish for, what they are told, and all of it."""

import base64
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from chatbot.local import environment, up
from chatbot.local.children import StartError
from chatbot.local.folder import DataFolder
from chatbot.local.servers import Servers
from chatbot.local.supervisor import Service

ROOT = environment.ROOT
GIVEN = Servers("postgres://app@db/parley", "postgres://owner@db/parley", "redis://r", None, None)


class TestWishes:
    def test_nothing_wished_is_the_usual(self):
        assert up.Wishes.read({}) == up.Wishes(Path("data"), "127.0.0.1", 8000, 1)

    @pytest.mark.parametrize(
        ("wish", "sentence"),
        [
            ({"PORT": "http"}, "PORT=http is no number from 0 to 65535"),
            ({"PORT": "70000"}, "PORT=70000 is no number"),
            ({"WEB_PROCESSES": "0"}, "WEB_PROCESSES=0 is no number from 1 to 64"),
        ],
    )
    def test_what_is_no_number_is_said_to_be_none(self, wish, sentence):
        with pytest.raises(StartError, match=sentence):
            up.Wishes.read(wish)

    def test_busy_port_is_named_with_the_way_out(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(StartError, match=rf"Port {port} .* PORT=\d+ make up"):
                up.listen("127.0.0.1", port)

    def test_address_of_another_machine_is_said_to_be_so(self):
        with pytest.raises(StartError, match=r"HOST=192\.0\.2\.1 is no address of this machine"):
            up.listen("192.0.2.1", 0)


class TestEnvironment:
    def test_shell_wins_over_the_file_and_empty_is_not_given(self, tmp_path):
        (tmp_path / ".env").write_text("PORT=1\nHOST=10.0.0.1\nOPENAI_BASE_URL=\n")
        found = environment.read_environment({"PORT": "2"}, tmp_path)
        assert found == {"PORT": "2", "HOST": "10.0.0.1"}

    def test_secrets_are_made_once_and_travel_as_files(self, tmp_path):
        folder = DataFolder(tmp_path / "data")
        first = environment.application_environment(folder, {}, GIVEN, "127.0.0.1")
        key = Path(first["SECRET_KEY_FILE"])
        text = key.read_text()
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert "SECRET_KEY" not in first
        assert environment.application_environment(folder, {}, GIVEN, "127.0.0.1") == first
        assert key.read_text() == text

    def test_log_is_signed_with_a_key_and_a_folder_in_the_data(self, tmp_path):
        env = environment.application_environment(
            DataFolder(tmp_path / "data"), {}, GIVEN, "127.0.0.1"
        )
        seed = base64.b64decode(Path(env["AUDIT_SIGNING_KEY_FILE"]).read_text())
        assert len(seed) == 32
        assert env["AUDIT_FOLDER"] == str(tmp_path / "data" / "audit")

    def test_given_secret_is_used_as_it_is(self, tmp_path):
        folder = DataFolder(tmp_path / "data")
        env = environment.application_environment(folder, {"SECRET_KEY": "mine"}, GIVEN, "::1")
        assert env["SECRET_KEY"] == "mine"
        assert "SECRET_KEY_FILE" not in env

    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", True),
            ("localhost", True),
            ("0.0.0.0", False),
            ("::", False),
            ("192.168.1.5", False),
            ("chat.example.org", False),
        ],
    )
    def test_loopback_is_told_from_what_others_reach(self, host, loopback):
        assert environment.is_loopback(host) is loopback

    def test_page_may_be_asked_for_by_its_host(self):
        assert environment.allowed_hosts("192.168.1.5")[-1] == "192.168.1.5"
        assert environment.allowed_hosts("::1") == ["localhost", "127.0.0.1", "[::1]"]
        assert socket.gethostname() in environment.allowed_hosts("0.0.0.0")


class TestAccounts:
    def test_one_per_role_kept_for_the_next_start(self, tmp_path):
        first = up._starting_accounts(tmp_path / "accounts.json")
        assert list(first) == list(up.ROLES)
        assert len({account["password"] for account in first.values()}) == len(up.ROLES)
        assert up._starting_accounts(tmp_path / "accounts.json") == first

    def test_none_where_others_reach_the_page(self):
        assert "create_account EMAIL --role administrator" in "\n".join(up._account_lines({}))


class TestService:
    class Ended:
        name = "web"

        def poll(self):
            return 1

    def test_pauses_grow_to_a_limit(self):
        service = Service(self.Ended(), start=lambda: None)
        pauses = []
        for _ in range(9):
            pauses.append(service.plan_restart())
            service.restart()
        assert pauses[:3] == [0.5, 1, 2]
        assert pauses[-1] == 30

    def test_one_that_ran_steadily_comes_back_at_once(self):
        service = Service(self.Ended(), start=lambda: None, pause_seconds=30, started=-1000)
        assert service.plan_restart() == 0.5


def wait_until(condition, process):
    while not (found := condition()):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    return found


def command_line(module, data, **more):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    # What is set overrides a developer's `.env`.
    env = kept | {"DATA": str(data), "HOST": "127.0.0.1", "PORT": "0", "WEB_PROCESSES": "1"} | more
    return {"args": [sys.executable, "-m", module], "env": env, "cwd": ROOT, "text": True}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A running `make up`: its process and its folder."""
    data = tmp_path_factory.mktemp("house") / "data"
    with subprocess.Popen(
        **command_line("chatbot.local.up", data),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        wait_until((data / "run.json").exists, process)
        yield process, data
        process.kill()


def facts(data):
    return json.loads((data / "run.json").read_text())


def pid_of(data, name):
    return json.loads((data / "run" / f"{name}.pid").read_text())[0]


def health(data):
    with urlopen(f"{facts(data)['url']}health/live") as response:
        return response.status


@pytest.mark.faults
@pytest.mark.timeout(300)
class TestHouse:
    """In the order of a day: it starts, things break, commands run, it stops."""

    def test_it_answers_and_its_facts_are_private(self, house):
        process, data = house
        assert health(data) == 200
        assert facts(data)["pid"] == process.pid
        assert facts(data)["provider"] == "demo"
        assert set(facts(data)["accounts"]) == set(up.ROLES)
        assert stat.S_IMODE((data / "run.json").stat().st_mode) == 0o600

    def test_second_start_names_the_first(self, house):
        _, data = house
        second = subprocess.run(
            **command_line("chatbot.local.up", data), capture_output=True, check=False
        )
        assert second.returncode == 1
        assert f"Parley already runs on {data}: {facts(data)['url']}" in second.stderr
        assert "Traceback" not in second.stderr

    def test_command_uses_the_running_servers_and_keeps_its_quotes(self, house):
        _, data = house
        line = command_line("chatbot.local.manage", data, CMD="""shell -v0 -c 'print("a  b")'""")
        done = subprocess.run(**line, capture_output=True, check=False)
        assert done.stdout == "a  b\n", done.stderr

    @pytest.mark.parametrize("name", ["web", "postgres", "redis", "worker", "demo"])
    def test_killed_process_comes_back(self, house, name):
        process, data = house
        before = pid_of(data, name)
        os.kill(before, signal.SIGKILL)
        record = data / "run" / f"{name}.pid"
        wait_until(lambda: record.exists() and pid_of(data, name) != before, process)
        assert health(data) == 200

    def test_sigterm_ends_everything_in_good_order(self, house):
        process, data = house
        pids = [pid_of(data, name) for name in ("web", "postgres", "redis", "worker", "demo")]
        process.terminate()
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
        assert "Stopped. The data is kept." in said
        assert not (data / "run.json").exists()
        assert not list((data / "run").glob("*.pid"))
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    def test_printed_passwords_are_those_of_the_facts_kept_in_secrets(self, house):
        _, data = house
        kept = json.loads((data / "secrets" / "accounts.json").read_text())
        assert all(re.fullmatch(r"(\w{4}-){3}\w{4}", one["password"]) for one in kept.values())

    def test_command_runs_while_nothing_else_does(self, house):
        _, data = house
        line = command_line("chatbot.local.manage", data, CMD="migrate --check")
        done = subprocess.run(**line, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert DataFolder(data).holder() is None
