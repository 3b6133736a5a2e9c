"""A log in memory, and exports of it in the format of docs/audit-export.md."""

import base64
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.checkpoint import SigningKey, checkpoint_text, manifest_note
from audit.merkle import consistency_path, range_frontiers, root_at
from audit.verify import MANIFEST, MANIFEST_NOTE, leaf_hash
from tests.audit.trees import StoredTree

ORIGIN = "parley.example/log"
KEY = SigningKey.from_seed(ORIGIN, bytes(range(32)))
OTHER_KEY = SigningKey.from_seed(ORIGIN, bytes(range(1, 33)))

Members = dict[str, bytes]


def canonical(value: Any) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def first_entry(index: int) -> int:
    """Entries are numbered with gaps: leaf 17 is entry 23."""
    return index + 6


@dataclass
class Log:
    """A log whose entries were sealed; `written` is what its database holds now."""

    written: list[bytes] = field(default_factory=list)
    personal: dict[int, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    entries: list[int] = field(default_factory=list)
    tree: StoredTree = field(default_factory=StoredTree)
    key: SigningKey = KEY

    @classmethod
    def of(cls, count: int) -> "Log":
        log = cls()
        log.grow(count)
        return log

    def grow(self, count: int) -> None:
        fresh = range(len(self.entries), len(self.entries) + count)
        for index in fresh:
            entry = first_entry(index)
            salt, values = index.to_bytes(16), {"actor_label": f"Olive {index}", "network": "Ünet"}
            self.personal[entry] = salt, values
            digest = hashlib.sha256(salt + canonical(values)).hexdigest()
            self.entries.append(entry)
            self.written.append(line_of(entry, personal_digest=digest))
        self.tree.grow([leaf_hash(line) for line in self.written[fresh.start :]])

    @property
    def size(self) -> int:
        return len(self.entries)

    def checkpoint(self, size: int | None = None) -> str:
        size = self.size if size is None else size
        return checkpoint_text(self.key.name, size, root_at(self.tree, size), [self.key])

    def export(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        number: int = 1,
        within: Callable[[int], bool] = lambda entry: True,
        previous: Members | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> Members:
        """Return the members of an export of what a filter lets through of [start, stop)."""
        stop = self.size if stop is None else stop
        kept = [index for index in range(start, stop) if within(self.entries[index])]
        kept_entries = {self.entries[index] for index in kept}
        personal = [
            {
                "entry": entry,
                "salt": self.personal[entry][0].hex(),
                "values": self.personal[entry][1],
            }
            for entry in sorted(kept_entries & self.personal.keys())
        ]
        left, right = range_frontiers(self.tree, start, stop, self.size)
        members = {
            "README.txt": b"How to check this export.\n",
            "key.txt": f"# The key of the log since leaf 0\n{self.key.vkey}\n".encode(),
            "checkpoint.txt": self.checkpoint().encode(),
            "entries.jsonl": b"".join(self.written[index] + b"\n" for index in kept),
            "entries.csv": b"entry\n",
            "personal.jsonl": b"".join(canonical(row) + b"\n" for row in personal),
            "proof/leaves.bin": b"".join(
                bytes([self.entries[index] in kept_entries])
                + self.entries[index].to_bytes(8)
                + self.tree.rows[0][index]
                for index in range(start, stop)
            ),
            "proof/range.json": canonical(
                {
                    "size": self.size,
                    "start": start,
                    "stop": stop,
                    "left": encoded(left),
                    "right": encoded(right),
                }
            ),
            **(extra or {}),
        }
        if previous:
            members["proof/consistency.json"] = self._growth(previous)
        manifest = {
            "format": "parley-audit-export/v1",
            "origin": self.key.name,
            "number": number,
            "made_at": "2026-11-22T14:31:07Z",
            "period": {"from": "2026-11-01T00:00:00Z", "to": "2026-11-22T00:00:00Z"},
            "filters": {},
            "counts": {
                "entries": len(kept),
                "withheld": stop - start - len(kept),
                "personal": len(personal),
            },
            "previous": previous and follows(previous),
        }
        return sealed(members, manifest, self.key)

    def _growth(self, previous: Members) -> bytes:
        checkpoint = previous["checkpoint.txt"].decode()
        old = int(checkpoint.split("\n")[1])
        path = consistency_path(self.tree, old, self.size)
        return canonical({"checkpoint": checkpoint, "path": encoded(path)})


def line_of(entry: int, **values: Any) -> bytes:
    """A leaf's bytes, of which the verifier asks for `entry` and `personal_digest` alone."""
    return canonical({"v": 1, "entry": entry, "event": "conversation.viewed", **values})


def encoded(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(node).decode() for node in hashes]


def follows(previous: Members) -> dict[str, Any]:
    return {
        "number": json.loads(previous[MANIFEST])["number"],
        "sha256": hashlib.sha256(previous[MANIFEST]).hexdigest(),
    }


def sealed(members: Members, manifest: dict[str, Any], key: SigningKey = KEY) -> Members:
    """Return the members with a manifest that names each of them, signed."""
    content = {n: data for n, data in members.items() if n not in {MANIFEST, MANIFEST_NOTE}}
    files = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    text = canonical({**manifest, "files": files})
    note = manifest_note(
        manifest["origin"], manifest["number"], hashlib.sha256(text).digest(), [key]
    )
    return {**content, MANIFEST: text, MANIFEST_NOTE: note.encode()}


def resealed(members: Members, key: SigningKey = KEY, **manifest: Any) -> Members:
    """Return members that were changed before the export was signed, as an insider could."""
    return sealed(members, {**json.loads(members[MANIFEST]), **manifest}, key)


def packed(members: Mapping[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
