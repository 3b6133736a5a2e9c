"""What `make up` runs: everything Parley needs, in one folder, until Ctrl-C.

DATA (default ./data), HOST (127.0.0.1), PORT (8000) and WEB_PROCESSES (1) come from the environment
or from `.env`, like every setting of the application.
"""

import hashlib
import json
import os
import resource
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from chatbot.durable_files import replace_file
from chatbot.local import environment
from chatbot.local.children import Child, StartError
from chatbot.local.folder import DataFolder, given, storage_error
from chatbot.local.schema import Schema
from chatbot.local.servers import Servers, servers
from chatbot.local.supervisor import Supervisor

ROOT = environment.ROOT
ROLES = (
    *("member", "prompt_editor", "prompt_publisher", "compliance_officer"),
    *("external_auditor", "operator", "administrator"),
)
OPEN_FILES = 65_536
READY_SECONDS = 60.0
# uvicorn closes its sockets after 15 s at the latest; the rest is for the replies' last words.
# uvicorn gives open requests 15 s, then replies have 20 s to end and 5 s to be interrupted.
DRAIN_SECONDS = 45.0
# No letters that look alike, because people type these.
PASSWORD_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105

Accounts = dict[str, dict[str, str]]


def main() -> int:
    """Run until the end is asked for. Returns the exit status."""
    supervisor = Supervisor(say)
    try:
        env = environment.read_environment(os.environ)
        Parley(Wishes.read(env), env, supervisor).run()
    except StartError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("Stopped before it was ready.")
        return 130
    say("Stopped. The data is kept.")
    return 0


def say(line: str) -> None:
    # Whoever read this may have left (`make up | head`); that is no reason to stop.
    with suppress(BrokenPipeError):
        print(line, flush=True)


@dataclass(frozen=True)
class Wishes:
    """What the person at the terminal may choose."""

    data: Path
    host: str
    port: int
    processes: int

    @classmethod
    def read(cls, env: Mapping[str, str]) -> "Wishes":
        """Raises StartError when a number is none."""
        return cls(
            data=Path(env.get("DATA") or "data"),
            host=(env.get("HOST") or "127.0.0.1").strip("[]"),
            port=_number(env, "PORT", 8000, range(65_536)),
            processes=_number(env, "WEB_PROCESSES", 1, range(1, 65)),
        )


def _number(env: Mapping[str, str], name: str, default: int, allowed: range) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) not in allowed:
        raise StartError(
            f"{name}={text} is no number from {allowed.start} to {allowed.stop - 1}."
            f" Try {name}={default}."
        )
    return int(text)


def listen(host: str, port: int) -> socket.socket:
    """Bind here rather than in the web process, so that a restart of it refuses no connection.

    Raises StartError when the port or the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # uvicorn takes what comes as a number for a Unix socket and leaves it as it is: without this,
    # which every connection inherits, small answers and frames wait 40 ms for the reader's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror) or not _is_local(host):
            raise StartError(
                f"HOST={host} is no address of this machine: {error.strerror}."
            ) from error
        if isinstance(error, PermissionError):
            raise StartError(
                f"Port {port} is for root alone. Choose another: PORT=8000 make up."
            ) from error
        raise StartError(
            f"Port {port} on {host} is in use. Stop what uses it, or choose another:"
            f" PORT={port + 1 if port < 65_535 else 8001} make up."
        ) from error
    return listener


def _is_local(host: str) -> bool:
    with (
        suppress(OSError),
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial,
    ):
        trial.bind((host, 0))
        return True
    return False


class Parley:
    """All processes of one installation, from the first start to the end."""

    def __init__(self, wishes: Wishes, env: Mapping[str, str], supervisor: Supervisor) -> None:
        self._wishes = wishes
        self._given = env
        self._supervisor = supervisor
        self._folder = DataFolder(wishes.data)
        self._data = self._folder.path
        self._loopback = environment.is_loopback(wishes.host)

    def run(self) -> None:
        """Start everything, say so, and return when all of it has ended. Raises StartError."""
        self._folder.require_free()
        _allow_open_files()
        say("Starting Parley …")
        with ExitStack() as stack:
            listener = stack.enter_context(listen(self._wishes.host, self._wishes.port))
            running = stack.enter_context(
                servers(self._data, self._given, max_connections=100 + 32 * self._wishes.processes)
            )
            stack.enter_context(self._no_stale_facts())
            try:
                self._start(running, listener, stack)
            except OSError as error:
                raise storage_error(error, self._data) from error
            self._supervisor.watch()
            say("Stopping: replies that are being written may end. (Ctrl-C again hurries.)")

    @contextmanager
    def _no_stale_facts(self) -> Iterator[None]:
        """`run.json` is there exactly while it is true."""
        self._withdraw_facts()
        try:
            yield
        finally:
            self._withdraw_facts()

    def _withdraw_facts(self) -> None:
        (self._data / "run.json").unlink(missing_ok=True)
        environment.unshare(self._folder)

    def _start(self, running: Servers, listener: socket.socket, stack: ExitStack) -> None:
        if running.postgres:
            self._supervisor.keep(running.postgres.child, running.postgres.start)
        if running.redis:
            self._supervisor.keep(running.redis.child, running.redis.start)
        env = environment.application_environment(
            self._folder, self._given, running, self._wishes.host
        )
        env |= self._provider(stack)
        environment.share(self._folder, env)
        self._prepare(running, env)
        env["PROMETHEUS_MULTIPROC_DIR"] = str(_emptied(self._data / "run" / "metrics"))
        worker, web = self._worker(env), list(self._web(env, listener))
        # Ended from the last to the first: replies are drained while all they need still runs.
        stack.callback(self._supervisor.end, [worker], grace_seconds=10)
        stack.callback(self._supervisor.end, web, grace_seconds=DRAIN_SECONDS)
        self._begin(*web, worker)
        accounts = self._accounts(env)
        url = self._wait_until_ready(web, listener)
        self._tell(url, env, accounts)

    def _begin(self, *children: Child) -> None:
        for child in children:
            child.start()
            self._supervisor.keep(child)

    def _python(self, name: str, *arguments: str, env: Mapping[str, str], **more: object) -> Child:
        command = [sys.executable, *arguments]
        return Child(name, command, env=env, data=self._data, cwd=ROOT, **more)  # type: ignore[arg-type]

    def _provider(self, stack: ExitStack) -> dict[str, str]:
        """The variables of the demo provider, which runs when no other was given."""
        if given(self._given, "OPENAI_BASE_URL"):
            return {}
        listener = stack.enter_context(listen("127.0.0.1", 0))
        demo = self._python(
            "demo",
            *("-m", "uvicorn", "chatbot.local.demo_provider:application"),
            *("--fd", str(listener.fileno()), "--log-level", "warning", "--no-access-log"),
            *("--timeout-graceful-shutdown", "1"),
            env=self._given,
            pass_fds=[listener.fileno()],
        )
        stack.callback(self._supervisor.end, [demo], grace_seconds=5)
        self._begin(demo)
        return {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{listener.getsockname()[1]}/v1",
            "OPENAI_API_KEY": "demo",
            "OPENAI_MODEL": "demo",
            "PROVIDER_IS_DEMO": "true",
        }

    def _prepare(self, running: Servers, env: Mapping[str, str]) -> None:
        """Bring the schema and the static files up to date, side by side. Raises StartError."""
        steps = []
        # A database that was given may be anybody's: Django itself is to look at it.
        schema = Schema(running.database_owner_url) if running.postgres else None
        if not (schema and schema.is_current()):
            say("Bringing the database up to date …")
            (self._data / "run" / "accounts.made").unlink(missing_ok=True)
            steps.append(self._python("migrate", "manage.py", "migrate", "--no-input", env=env))
        static, stamp = Path(env["STATIC_ROOT"]), self._data / "run" / "static.digest"
        digest = _static_digest()
        if not (static.exists() and stamp.exists() and stamp.read_text() == digest):
            stamp.unlink(missing_ok=True)
            collect = ("manage.py", "collectstatic", "--no-input", "--clear", "-v", "0")
            steps.append(self._python("collectstatic", *collect, env=env))
        self._complete(steps)
        if schema:
            schema.note_current()
        replace_file(stamp, digest.encode())

    def _complete(self, steps: list[Child]) -> None:
        try:
            for step in steps:
                step.start()
            for step in steps:
                while not step.wait(1):
                    pass
                if step.poll() != 0:
                    raise StartError(
                        f"`{step.name}` failed: {step.last_words()} (More in {step.log}.)"
                    )
        finally:
            for step in steps:
                step.kill()

    def _web(self, env: Mapping[str, str], listener: socket.socket) -> Iterator[Child]:
        for number in range(1, self._wishes.processes + 1):
            yield self._python(
                "web" if self._wishes.processes == 1 else f"web-{number}",
                *("-m", "uvicorn", "chatbot.asgi:application", "--fd", str(listener.fileno())),
                *("--loop", "uvloop", "--lifespan", "on", "--ws-max-size", "65536"),
                "--no-proxy-headers",
                *("--timeout-graceful-shutdown", "15", "--no-server-header", "--no-access-log"),
                *("--log-config", str(Path(__file__).with_name("uvicorn_log.json"))),
                env=env,
                pass_fds=[listener.fileno()],
            )

    def _worker(self, env: Mapping[str, str]) -> Child:
        return self._python(
            "worker",
            *("-m", "celery", "-A", "chatbot.celery", "worker", "-B", "-P", "threads", "-c", "6"),
            *("-Q", "short,long", "--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("-s", str(self._data / "run" / "beat")),
            env=env,
        )

    def _accounts(self, env: Mapping[str, str]) -> Accounts:
        """One account per role, or none when strangers could reach the sign-in page."""
        if not self._loopback:
            return {}
        accounts = _starting_accounts(self._data / "secrets" / "accounts.json")
        # Written when all of it was done, and dropped when the database was brought up to date.
        stamp = self._data / "run" / "accounts.made"
        if stamp.exists():
            return accounts
        made = self._python(
            "accounts",
            "manage.py",
            "starting_accounts",
            env=env,
            stdin=json.dumps(accounts),
        )
        self._complete([made])
        stamp.touch(mode=0o600)
        return accounts

    def _wait_until_ready(self, web: list[Child], listener: socket.socket) -> str:
        """Return the page's address as soon as it answers. Raises StartError."""
        host, port = listener.getsockname()[:2]
        knock = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        deadline = time.monotonic() + READY_SECONDS
        while not _is_live(knock, port):
            for child in web:
                if not child.running:
                    words = child.last_words()
                    raise StartError(
                        f"`{child.name}` did not start: {words} (More in {child.log}.)"
                    )
            if time.monotonic() > deadline:
                raise StartError(f"The web process does not answer. Its log: {web[0].log}")
            time.sleep(0.05)
        shown = socket.gethostname() if environment.is_wildcard(host) else self._wishes.host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"

    def _tell(self, url: str, env: Mapping[str, str], accounts: Accounts) -> None:
        demo = env.get("PROVIDER_IS_DEMO") == "true"
        provider = "demo" if demo else env["OPENAI_BASE_URL"]
        facts = {"url": url, "pid": os.getpid(), "provider": provider, "accounts": accounts}
        replace_file(self._data / "run.json", json.dumps(facts, indent=2).encode())
        lines = ["", f"Parley is ready: {url}", "", *_account_lines(accounts), ""]
        if demo:
            lines += [
                "Replies  come from a demo: no AI is connected. OPENAI_BASE_URL, OPENAI_API_KEY",
                "         and OPENAI_MODEL (in the environment or in .env) connect one.",
            ]
        else:
            lines.append(
                f"Replies  come from {provider}, model {env.get('OPENAI_MODEL') or 'as preset'}."
            )
        lines += [f"Data     {self._data}", "Stop     Ctrl-C", ""]
        say("\n".join(lines))


def _account_lines(accounts: Accounts) -> list[str]:
    if not accounts:
        return [
            "Others can reach this address, so there are no starting accounts. Make one:",
            '  make manage CMD="create_account EMAIL --role administrator"',
            "and put a server that speaks TLS in front: passwords travel in the open here.",
        ]
    role_width = max(map(len, accounts))
    email_width = max(len(account["email"]) for account in accounts.values())
    return [
        "Sign in as       (role, email, password; kept for the next start)",
        *(
            f"  {role.replace('_', ' '):{role_width}}  {account['email']:{email_width}}"
            f"  {account['password']}"
            for role, account in accounts.items()
        ),
    ]


def _starting_accounts(kept: Path) -> Accounts:
    accounts: Accounts = json.loads(kept.read_text()) if kept.exists() else {}
    missing = {
        role: {
            "email": f"{role.replace('_', '-')}@parley.example",
            "password": "-".join(
                "".join(secrets.choice(PASSWORD_LETTERS) for _ in range(4)) for _ in range(4)
            ),
        }
        for role in ROLES
        if role not in accounts
    }
    if missing:
        accounts |= missing
        replace_file(kept, json.dumps(accounts, indent=2).encode())
    return accounts


def _static_digest() -> str:
    """Changes whenever collecting the static files could give another result."""
    digest = hashlib.sha256((ROOT / "requirements.lock").read_bytes())
    digest.update((ROOT / "chatbot" / "settings.py").read_bytes())
    for folder in sorted([ROOT / "static", *ROOT.glob("*/static")]):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(ROOT)).encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _emptied(folder: Path) -> Path:
    """Figures of processes that are gone would be added up for ever."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _is_live(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/health/live", headers={"Host": f"localhost:{port}"})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _allow_open_files() -> None:
    """Every open page holds a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
