"""What the tests of exports share: writing one in this process, and verifying it in another."""

import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from accounts.models import User
from audit import export as exports
from audit.models import Export, SigningKey
from audit.selection import Selection


def exported(by: User, selection: Selection = Selection()) -> Export:  # noqa: B008 - is frozen
    """Ask for an export and write it."""
    asked = exports.request_export(selection, by=by)
    exports.write(asked.pk)
    asked.refresh_from_db()
    return asked


def file_of(export: Export) -> Path:
    return exports._folder_of(export.pk) / exports.FILE


def verify(
    path: Path, tmp_path: Path, *options: str, given: Iterable[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the bundle's own verifier: no Django, no database, nothing of ours to import.

    `given` are the keys that it gets; all of the log's, unless said otherwise.
    """
    script = tmp_path / "verify.py"
    with zipfile.ZipFile(path) as bundle:
        script.write_bytes(bundle.read("verify.py"))
    keys = tmp_path / "keys.txt"
    known = SigningKey.objects.values_list("vkey", flat=True) if given is None else given
    keys.write_text("".join(f"{vkey}\n" for vkey in known))
    return subprocess.run(
        [sys.executable, "-I", script, path, "--key", keys, *options],
        env={"PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
