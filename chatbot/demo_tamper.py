"""What `make demo-tamper` runs: somebody changes the audit log, and is found out.

It starts servers of its own in a temporary folder, with a log of its own: nothing of any
installation is read or changed. Somebody who owns the tables switches the triggers off and changes
an entry. Then the verifier of an export, a process of its own without Django, and `audit_verify`
are asked. The exit status is 0 when both name the entry, 1 otherwise.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import django
import psycopg
from django.core.management import call_command

from chatbot.local.children import StartError
from chatbot.local.environment import ROOT, application_environment
from chatbot.local.folder import DataFolder
from chatbot.local.servers import Servers, servers

PASSED_ON = ("PATH", "HOME", "LANG")
CHANGE = """UPDATE audit_entry SET payload = '{"role": "member"}' WHERE id = %s"""
WIDTH = 100


@dataclass(frozen=True, slots=True)
class _Told:
    """What a tool said, and what it exited with."""

    status: int
    words: str


def main() -> int:
    """Tell the story and return the exit status."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="parley-demo-") as folder,
            _application(Path(folder)) as running,
        ):
            return _Story(Path(folder), running).tell()
    except StartError as error:
        print(error, file=sys.stderr)
        return 1


@contextmanager
def _application(folder: Path) -> Iterator[Servers]:
    """Set Django up on servers below a folder."""
    _say("An installation of its own, in a temporary folder. Nothing of yours is touched.")
    # Neither `.env` nor the shell says where the data is: the demonstration has none but its own.
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with servers(folder / "data", env, purpose="make demo-tamper", durable=False) as running:
        complete = application_environment(DataFolder(folder / "data"), env, running, "127.0.0.1")
        manage = [sys.executable, "manage.py", "migrate", "--no-input", "-v", "0"]
        subprocess.run(manage, cwd=ROOT, env=complete, check=True)
        os.environ.clear()
        os.environ.update(complete)
        django.setup()
        yield running


class _Story:
    def __init__(self, folder: Path, running: Servers) -> None:
        self._folder, self._running = folder, running
        self._step = 0

    def tell(self) -> int:
        """Return 0 when both tools find nothing before, and name the entry after."""
        self._chapter("ada, an administrator, makes sam an administrator too. The log is sealed")
        entry, leaf = self._write_and_seal()
        self._chapter("ravi, the compliance officer, exports the log. An outsider checks the file")
        before = self._verify(self._export("before.zip"))
        self._chapter(f"Somebody wants entry {entry} to say that sam became a plain member")
        self._tamper(entry)
        self._chapter("ravi exports the log again. The outsider checks the file with the same key")
        after = self._verify(self._export("after.zip"))
        self._chapter("The operator checks the live log")
        live = self._audit_verify()
        return _verdict(entry, leaf, before, after, live)

    def _chapter(self, title: str) -> None:
        self._step += 1
        print(f"\n{self._step}. {title}.")

    def _write_and_seal(self) -> tuple[int, int]:
        """Return the number of the entry that will be changed, and that of its leaf."""
        from accounts.access import System
        from accounts.administration import create_account
        from audit.models import Entry, Leaf, SigningKey
        from audit.sealing import Refused, seal

        by = System("demo-tamper")
        ada = create_account("ada@example.org", roles=["administrator"], by=by)
        self._ravi = create_account("ravi@example.org", roles=["compliance_officer"], by=by)
        sam = create_account("sam@example.org", roles=["administrator"], by=ada)
        sealed = seal()
        if isinstance(sealed, Refused):
            raise StartError(sealed.sentence)
        entry = Entry.objects.get(event="role.granted", target_id=str(sam.pk))
        leaf: int = Leaf.objects.get(entry_id=entry.pk).index
        self._key = SigningKey.objects.get().vkey
        _say(f"Entry {entry.pk} says: {entry.event} {json.dumps(entry.payload)}")
        _say(f"It is leaf {leaf}. Checkpoint {sealed.checkpoint} signs {sealed.size} leaves.")
        _say(f"The outsider notes the key: {self._key}")
        return entry.pk, leaf

    def _export(self, name: str) -> Path:
        from audit.export import opened, request_export, write
        from audit.selection import Selection

        export = request_export(Selection(), by=self._ravi)
        write(export.pk)
        export.refresh_from_db()
        path = self._folder / name
        path.write_bytes(opened(export, by=self._ravi).read_bytes())
        _say(f"{name} has {export.written} entries. {export.reason}")
        return path

    def _verify(self, export: Path) -> _Told:
        """Run the verifier that the bundle brings, where it can import nothing of ours."""
        with zipfile.ZipFile(export) as bundle:
            (self._folder / "verify.py").write_bytes(bundle.read("verify.py"))
        said = subprocess.run(
            [sys.executable, "-I", "verify.py", export.name, "--key", self._key],
            env={"PATH": ""},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        told = _Told(said.returncode, said.stdout + said.stderr)
        return _quoted(f"python verify.py {export.name} --key …", told)

    def _tamper(self, entry: int) -> None:
        """Change an entry as an intruder would who owns its table."""
        with psycopg.connect(self._running.database_url, autocommit=True) as connection:
            _try("the application's role", connection, entry)
        with psycopg.connect(self._running.database_owner_url, autocommit=True) as connection:
            _try("the tables' owner", connection, entry)
            connection.execute("ALTER TABLE audit_entry DISABLE TRIGGER USER")
            _try("the tables' owner, with the triggers switched off", connection, entry)
            # Nothing is left to be seen.
            for trigger in ("rows_stay", "is_never_emptied"):
                connection.execute(
                    f"ALTER TABLE audit_entry ENABLE ALWAYS TRIGGER audit_entry_{trigger}"
                )

    def _audit_verify(self) -> _Told:
        out, status = io.StringIO(), 0
        try:
            call_command("audit_verify", stdout=out, stderr=io.StringIO())
        except SystemExit as ended:
            status = int(ended.code or 0)
        return _quoted("manage.py audit_verify", _Told(status, out.getvalue()))


def _try(who: str, connection: psycopg.Connection, entry: int) -> None:
    try:
        changed = connection.execute(CHANGE, [entry]).rowcount
    except psycopg.Error as error:
        _say(f"As {who}: refused. {str(error.diag.message_primary).rstrip('.')}.")
    else:
        _say(f"As {who}: {changed} row changed.")


def _verdict(entry: int, leaf: int, before: _Told, after: _Told, live: _Told) -> int:
    """Say whether it was found out, and return the exit status."""
    named = (
        before.status == 0
        and after.status == 1
        and f"Leaf {leaf} (entry {entry}) was changed" in after.words
        and live.status == 1
        and f"Entry {entry} (leaf {leaf}) is not what was sealed" in live.words
    )
    print(
        f"\nFound out: both name entry {entry}, at leaf {leaf}."
        if named
        else "\nNOT found out: the tools did not say what they should. This is a fault in Parley."
    )
    return 0 if named else 1


def _say(text: str) -> None:
    print(textwrap.indent(textwrap.fill(text.strip(), WIDTH, break_long_words=False), "   "))


def _quoted(command: str, told: _Told) -> _Told:
    print(f"\n   $ {command}")
    print(textwrap.indent(told.words.rstrip(), "     "))
    print(f"   (exit status {told.status})")
    return told


if __name__ == "__main__":
    sys.exit(main())
