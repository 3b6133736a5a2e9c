"""The vendored files are the ones that were published: their checksums stand beside them."""

import hashlib
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "static" / "vendor"


def checksums() -> dict[str, str]:
    lines = (VENDOR / "CHECKSUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def test_every_vendored_file_has_its_published_checksum() -> None:
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "CHECKSUMS"
    }
    assert found == checksums()


def test_the_vendored_scripts_hold_no_source_map_address() -> None:
    """A hashed static build follows such addresses and fails when the map is not there."""
    for script in VENDOR.glob("*.js"):
        assert "sourceMappingURL" not in script.read_text()
