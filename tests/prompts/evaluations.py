"""What tests of evaluations are made of: cases, and people who write and release."""

import json
from typing import Any

from benchmarks.provider_simulator import sim


def case(name: str, *checks: dict[str, Any], text: str = "", **control: Any) -> dict[str, Any]:
    """A case whose question tells the simulated provider what to answer."""
    said = f"Question {name}"
    if text or control:
        told = {"tokens_per_second": 0, **({"text": text} if text else {}), **control}
        said += f"\n{sim(**told)}"
    turns = [{"role": "user", "content": said}]
    given = list(checks) or [{"type": "contains", "text": "reply"}]
    return {"id": name, "turns": turns, "checks": given}


def lines(*cases: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in cases)
