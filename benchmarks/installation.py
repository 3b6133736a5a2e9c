"""A Parley of its own to measure: real servers, real web process, data in a folder that goes.

The web process has one core to itself. PostgreSQL, Redis, the provider simulator and the client
share the others, so that what they use does not slow down what is measured.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.provider_simulator import running_simulator
from chatbot.local.children import Child
from chatbot.local.environment import ROOT, application_environment
from chatbot.local.folder import DataFolder
from chatbot.local.servers import Servers, servers
from chatbot.local.up import listen

READY_SECONDS = 60.0
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "CHROMIUM")


# Limits are counted, and never reached.
COUNTED = {
    "RATE_LIMITS": "user=1000000/minute; user=1000000/hour; token=1000000/minute;"
    " site=1000000/minute"
}


@dataclass
class Installation:
    """What runs. `provider` is the simulator's base URL, `env` that of the application."""

    provider: str
    env: dict[str, str]
    data: Path
    servers: Servers
    listener: socket.socket
    web_core: int | None
    web: Child = field(init=False)

    def __post_init__(self) -> None:
        self.web = self._started({})

    @property
    def url(self) -> str:
        """Where the web process listens."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def restart_web(self, settings: Mapping[str, str]) -> None:
        """Let another web process, with these settings over the others, take this one's place."""
        self.web.stop(30)
        self.web = self._started(settings)

    def _started(self, settings: Mapping[str, str]) -> Child:
        web = _web(self.env | dict(settings), self.data, self.listener, self.web_core)
        web.start()
        _wait_until_live(self.url, web)
        return web

    @property
    def postgres_pid(self) -> int:
        assert self.servers.postgres is not None
        return self.servers.postgres.child.pid

    @property
    def redis_pid(self) -> int:
        assert self.servers.redis is not None
        return self.servers.redis.child.pid


@contextmanager
def installation(reply: str) -> Iterator[Installation]:
    """Start everything in a temporary folder; `reply` is what the provider says unless told."""
    folder = Path(tempfile.mkdtemp(prefix="parley-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        web_core = _step_aside()
        data = folder / "data"
        # Nothing of the caller's settings: never somebody's own database.
        given = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        running = stack.enter_context(servers(data, given, purpose="the benchmark"))
        provider = stack.enter_context(running_simulator(text=reply))
        env = application_environment(DataFolder(data), given, running, "127.0.0.1") | {
            "OPENAI_BASE_URL": provider,
            "OPENAI_API_KEY": "simulated",
            "OPENAI_MODEL": "gpt-4o-mini",
            **COUNTED,
        }
        for command in (["migrate"], ["collectstatic"]):
            manage = [sys.executable, "manage.py", *command, "--no-input", "-v", "0"]
            subprocess.run(manage, cwd=ROOT, env=env, check=True)
        metrics = data / "run" / "metrics"
        metrics.mkdir()
        env["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        listener = stack.enter_context(listen("127.0.0.1", 0))
        installed = Installation(provider, env, data, running, listener, web_core)
        stack.callback(lambda: installed.web.stop(30))
        try:
            yield installed
        except BaseException:
            said = installed.web.said()[-3000:]
            print(f"The web process said at last:\n{said}", file=sys.stderr)
            raise


def _step_aside() -> int | None:
    """Leave a core to the web process, and return its number; None on a machine with one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, cores[:-1])
    return cores[-1]


def _web(env: dict[str, str], data: Path, listener: socket.socket, core: int | None) -> Child:
    """The web process as `make up` starts it, pinned."""
    command = [
        *(sys.executable, "-m", "uvicorn", "chatbot.asgi:application"),
        *("--fd", str(listener.fileno()), "--loop", "uvloop", "--lifespan", "on"),
        *("--ws-max-size", "65536", "--timeout-graceful-shutdown", "15"),
        *("--no-server-header", "--no-access-log"),
        *("--log-config", str(ROOT / "chatbot" / "local" / "uvicorn_log.json")),
    ]
    return Child(
        "web",
        command,
        env=env,
        data=data,
        cwd=ROOT,
        pass_fds=[listener.fileno()],
        before_exec=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )


def _wait_until_live(url: str, web: Child) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/health/live", timeout=5).close()
        except OSError as error:
            if not web.running or time.monotonic() > deadline:
                raise RuntimeError(f"The web process did not start: {web.said()}") from error
            time.sleep(0.05)
        else:
            return
