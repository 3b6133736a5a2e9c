"""Templates compile, and hold nothing that the content security policy would block."""

import re
from pathlib import Path

import pytest
from django.template import engines

TEMPLATES = Path(__file__).parent.parent / "templates"
NAMES = sorted(str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*") if path.is_file())

INLINE = {
    "style attribute": re.compile(r"<[^>]*\sstyle\s*=", re.IGNORECASE),
    "style element": re.compile(r"<style", re.IGNORECASE),
    "event attribute": re.compile(r"<[^>]*\son[a-z]+\s*=", re.IGNORECASE),
    "script without src": re.compile(r"<script(?![^>]*\ssrc=)", re.IGNORECASE),
    "script address": re.compile(r"javascript:", re.IGNORECASE),
    # These three make htmx evaluate text as code.
    "hx-on": re.compile(r"\shx-on", re.IGNORECASE),
    "js: value": re.compile(r"[\"']js:"),
    "trigger filter": re.compile(r"hx-trigger=\"[^\"]*\["),
}


@pytest.mark.parametrize("name", NAMES)
def test_template_compiles(name: str) -> None:
    engines["django"].get_template(name)


# Files that people take along must look decent alone; each brings a policy of its own.
ALLOWED = {"portable/_head.html": ["style element"]}


@pytest.mark.parametrize("name", NAMES)
def test_template_has_nothing_inline(name: str) -> None:
    source = (TEMPLATES / name).read_text()
    found = [what for what, pattern in INLINE.items() if pattern.search(source)]
    assert found == ALLOWED.get(name, [])
