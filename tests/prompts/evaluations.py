"""What tests of evaluations are made of: cases, and people who write and release."""

import json
from typing import Any

from benchmarks.provider_simulator import sim
from prompts.models import LanguageModel, ModelPrice


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


def make_judge(base_url: str) -> LanguageModel:
    """A model that judges, with its price."""
    model = LanguageModel.objects.create(
        slug="judge",
        label="Judge",
        base_url=base_url,
        remote_name="judging",
        context_window=32_768,
        max_output_tokens=4_096,
    )
    ModelPrice.objects.create(
        model=model, priced_name="judging", input=1, cached_input=1, output=2, source="a test"
    )
    return model
