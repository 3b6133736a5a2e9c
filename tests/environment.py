"""A pytest plugin, loaded before Django's settings: servers and settings of a test run.

Each process, xdist's workers too, starts a PostgreSQL and a Redis of its own: a transaction that is
open in any database of a server holds up the sealing of the audit log in all of them. The first
process collects the static files for all. Where DATABASE_URL and REDIS_URL are given, the workers
share what they name: each takes a Redis number and a key prefix for itself, pytest-django gives
each its own database, and tests of sealing need `-n0`.
"""

import atexit
import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
REDIS_DATABASES = 64
SERVERS_ARE_OURS = "PARLEY_TEST_SERVERS_ARE_OURS"


def _start_servers(folder: Path) -> None:
    from chatbot.local.servers import OWNER, SUPERUSER, servers

    stack = ExitStack()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(stack.close)
    given = stack.enter_context(
        servers(
            folder / "data",
            os.environ,
            purpose="the tests",
            durable=False,
            max_connections=400,
            redis_databases=REDIS_DATABASES,
        )
    )
    if given.postgres:
        # What a superuser may try, the append-only table must refuse; so the tests try it.
        with psycopg.connect(given.postgres.url(SUPERUSER)) as connection:
            connection.execute(f"GRANT SET ON PARAMETER session_replication_role TO {OWNER}")
    os.environ.update(
        # Tests make databases, so they run as the role that owns them.
        DATABASE_URL=given.database_owner_url or given.database_url,
        TEST_APPLICATION_URL=given.database_url,
        REDIS_URL=given.redis_url,
        STATIC_ROOT=str(folder / "static"),
        KEYRING=str(folder / "keyring"),
        EXPORT_FOLDER=str(folder / "exports"),
        PROMETHEUS_MULTIPROC_DIR=str(folder / "metrics"),
        PARLEY_TEST_FOLDER=str(folder),
    )
    (folder / "metrics").mkdir()


def _start_servers_of_worker() -> None:
    """Start them below the first process's folder, which is removed with all that is in it."""
    shared, static = Path(os.environ["PARLEY_TEST_FOLDER"]), os.environ["STATIC_ROOT"]
    del os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
    (shared / WORKER).mkdir()
    _start_servers(shared / WORKER)
    os.environ["STATIC_ROOT"] = static


def _settings() -> None:
    os.environ.update(
        DJANGO_SETTINGS_MODULE="chatbot.settings",
        DJANGO_ALLOW_ASYNC_UNSAFE="1",  # Playwright's synchronous API keeps a loop in this thread
        SECRET_KEY="only for tests, only for tests, only for tests, 0123456789",
        CONTENT_KEYS=base64.b64encode(bytes(range(32))).decode(),
        HTTPS="false",
        METRICS_TOKEN="metrics-token-of-the-tests",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        OPENAI_API_KEY="test",
        OPENAI_MODEL="gpt-4o-mini",
        LOG_LEVEL="WARNING",
        RATE_LIMITS="",  # set where they are tested
    )


# Brotli takes seconds. Pages are served, and weighed, as gzip leaves them, which is a little more.
COLLECT_STATIC_FILES = """
import django
from django.conf import settings
from django.core.management import call_command

django.setup()
settings.SERVESTATIC_USE_BROTLI = False
call_command("collectstatic", interactive=False, verbosity=0)
"""


@contextmanager
def _collecting_static_files(folder: Path) -> Iterator[None]:
    """Collect them in a process of its own while the block runs. It asks no server."""
    addresses = {"DATABASE_URL": "postgres://nowhere/none", "REDIS_URL": "redis://nowhere"}
    places = {"STATIC_ROOT": "static", "KEYRING": "keyring", "EXPORT_FOLDER": "exports"}
    env = os.environ | addresses | {name: str(folder / place) for name, place in places.items()}
    with subprocess.Popen([sys.executable, "-c", COLLECT_STATIC_FILES], cwd=ROOT, env=env) as run:
        yield
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, run.args)


if WORKER and SERVERS_ARE_OURS in os.environ:
    _start_servers_of_worker()
elif WORKER:
    number = 1 + int(WORKER.removeprefix("gw"))
    os.environ["REDIS_URL"] = os.environ["REDIS_URL"].split("?")[0] + f"?db={number}"
    os.environ["REDIS_PREFIX"] = f"{WORKER}:"
elif "PARLEY_TEST_FOLDER" not in os.environ:
    _settings()
    if not {"DATABASE_URL", "REDIS_URL"} & os.environ.keys():
        os.environ[SERVERS_ARE_OURS] = "1"
    here = Path(tempfile.mkdtemp(prefix="parley-test-"))
    with _collecting_static_files(here):
        _start_servers(here)
