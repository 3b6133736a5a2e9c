"""`make demo-tamper`: the story that the documentation tells is true."""

import os
import re
import subprocess
import sys

from chatbot.local.environment import ROOT


def without_what_differs(text: str) -> str:
    """Leave out numbers and keys, and where lines are broken."""
    keyless = re.sub(r"\+[0-9a-f]{8}\+\S+|\([0-9a-f]{8}\)", "(key)", text)
    return " ".join(re.sub(r"[0-9.,]+", "0", keyless).split())


def test_change_behind_the_triggers_is_named_by_both_tools():
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    # An address in the shell is none of its business: it must not reach anybody's data.
    kept["DATABASE_URL"] = "postgres://nobody@127.0.0.1:9/nothing"
    told = subprocess.run(
        [sys.executable, "-m", "chatbot.demo_tamper"],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "Everything holds." in told.stdout
    assert "was changed after it was sealed" in told.stdout
    assert "The log does NOT hold." in told.stdout
    document = (ROOT / "docs" / "audit.md").read_text("utf-8")
    assert without_what_differs(told.stdout) in without_what_differs(document), (
        "docs/audit.md: replace the walk-through by the output of `make demo-tamper`"
    )
