"""The OpenAPI document, and what Schemathesis finds when it takes it at its word."""

import subprocess
import sys
from pathlib import Path

from conversations.doors.problems import KINDS

from .doors import secret_of

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "api.md"
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


def test_api_does_what_its_document_says(live, olive):
    run = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", CONFIGURATION),
            *("run", f"{live.url}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {secret_of(olive)}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_document_is_openapi_3_1_and_open_to_all(client, db):
    document = client.get("/api/v1/openapi.json").json()
    asked = document["paths"]["/chat"]["post"]["responses"]
    assert document["openapi"].startswith("3.1.")
    assert set(asked["409"]["content"]) == {"application/problem+json"}
    assert set(asked["200"]["content"]) == {"application/json", "text/event-stream"}
    assert document["components"]["securitySchemes"]["Bearer"]["scheme"] == "bearer"


def test_documentation_lists_every_problem():
    listed = DOCUMENTATION.read_text()
    rows = [f"| {kind.status} | `{kind.code}` | {kind.title} |" for kind in KINDS.values()]
    assert [row for row in rows if row not in listed] == []
