"""What `make manage CMD="…"` runs: a management command on the data of `make up`.

While `make up` runs, its servers are used. Otherwise they are started for this command alone.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from chatbot.local.children import StartError
from chatbot.local.environment import (
    NO_PROVIDER,
    ROOT,
    application_environment,
    read_environment,
    shared,
)
from chatbot.local.folder import DataFolder, given
from chatbot.local.servers import servers

START_SECONDS = 60


def main() -> int:
    """Run the command and return its exit status."""
    env = read_environment(os.environ)
    try:
        arguments = shlex.split(env.get("CMD", "")) or ["help"]
        with command_environment(env) as complete:
            return run([sys.executable, "manage.py", *arguments], complete)
    except StartError as error:
        print(error, file=sys.stderr)
    except ValueError as error:
        print(f"CMD can't be read as a command line: {error}.", file=sys.stderr)
    return 1


@contextmanager
def command_environment(env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The environment of a command, good as long as the block lasts. Raises StartError."""
    folder = DataFolder(Path(env.get("DATA") or "data"))
    host = env.get("HOST") or "127.0.0.1"
    if (folder.holder() or {}).get("purpose") == "make up":
        yield {**env, **_of_what_runs(folder)}
        return
    with servers(folder.path, env, purpose="make manage") as running:
        complete = application_environment(folder, env, running, host)
        if not given(env, "OPENAI_BASE_URL"):
            complete |= {"OPENAI_BASE_URL": NO_PROVIDER, "PROVIDER_IS_DEMO": "true"}
        yield complete


def _of_what_runs(folder: DataFolder) -> dict[str, str]:
    """What `make up` shares as soon as its servers answer."""
    deadline = time.monotonic() + START_SECONDS
    while (found := shared(folder)) is None:
        if folder.holder() is None or time.monotonic() > deadline:
            raise StartError("`make up` is starting or stopping. Try again when it is done.")
        time.sleep(0.1)
    return found


def run(command: list[str], env: Mapping[str, str]) -> int:
    """Run it on this terminal. Ctrl-C is the command's affair; the servers outlive it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # An ignored signal stays ignored across exec: the command gets the default back.
        return subprocess.run(
            command,
            cwd=ROOT,
            env=dict(env),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            check=False,
        ).returncode
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
