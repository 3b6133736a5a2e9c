"""What the tests of exports share: making one in this process, and looking into it."""

import io
import json
import zipfile

from accounts.models import User
from conversations.models import PersonExport
from conversations.rights import person_export


def exported(by: User) -> PersonExport:
    """Ask for an export and write it."""
    asked = person_export.request_export(by=by)
    person_export.write(str(asked.pk))
    asked.refresh_from_db()
    return asked


def opened(export: PersonExport, by: User) -> zipfile.ZipFile:
    """Open the ZIP of an export as its person gets it."""
    return zipfile.ZipFile(io.BytesIO(b"".join(person_export.opened(export, by=by).pieces())))


def texts(archive: zipfile.ZipFile) -> dict[str, str]:
    return {name: archive.read(name).decode() for name in archive.namelist()}


def json_of(archive: zipfile.ZipFile, name: str) -> dict:
    return json.loads(archive.read(name))
