"""The worked example of docs/audit-export.md, checked with what it is an example of."""

import hashlib
import json
import re
import textwrap

import pytest

from audit.checkpoint import SigningKey
from audit.verify import CompactRange, VerifierKey, leaf_hash, node_hash, parse_checkpoint
from chatbot.local.environment import ROOT


@pytest.fixture(scope="module")
def chapter() -> str:
    return (ROOT / "docs" / "audit-export.md").read_text("utf-8").split("## A worked example")[1]


@pytest.fixture(scope="module")
def blocks(chapter) -> list[str]:
    """The indented blocks, without their indentation."""
    found = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", chapter, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


@pytest.fixture(scope="module")
def leaves(blocks) -> list[bytes]:
    return [bytes.fromhex(record.split()[2]) for record in blocks[0].splitlines()]


def test_first_line_is_the_first_leaf_and_commits_to_its_personal_details(blocks, leaves):
    line = blocks[1].replace("\n", "")
    assert leaf_hash(line.encode()) == leaves[0]
    details = json.loads(blocks[2])
    text = json.dumps(details["values"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(bytes.fromhex(details["salt"]) + text.encode()).hexdigest()
    assert digest == json.loads(line)["personal_digest"]


def test_leaves_lead_to_the_root_that_the_key_of_the_page_signed(chapter, blocks, leaves):
    span = json.loads(blocks[3])
    tree = CompactRange(span["start"], span["left"])
    for leaf in leaves:
        tree.append(leaf)
    key = SigningKey.from_seed("parley.example/log", bytes(range(32))).verifier
    checkpoint = parse_checkpoint(blocks[4], [key])
    assert (checkpoint.size, checkpoint.root) == (span["stop"], tree.root())
    assert node_hash(*leaves[:2]).hex() in chapter


def test_key_of_the_call_is_that_of_the_example(chapter):
    call = re.search(r'--key "(.+)"', (ROOT / "docs" / "audit-export.md").read_text("utf-8"))
    assert call
    assert VerifierKey.parse(call[1]).key_id in chapter
