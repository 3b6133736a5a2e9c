"""What benchmarks import when they run is there: many wait with it for Django's set-up."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OURS = {"accounts", "audit", "benchmarks", "chatbot", "conversations", "prompts", "tests"}


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Each module of ours, and the name that is taken from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            yield from ((node.module or "", alias.name) for alias in node.names)


def is_there(module: str, name: str) -> bool:
    """Whether a module has the name, or is a package with a module of that name."""
    try:
        if hasattr(import_module(module), name):
            return True
        import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    assert [one for one in imported(path) if not is_there(*one)] == []
