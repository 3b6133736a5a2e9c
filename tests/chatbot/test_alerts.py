"""The alert rules are rules, and ask for figures that exist."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from chatbot import telemetry

FILE = Path(__file__).resolve().parents[2] / "deploy" / "alerts.yml"
RULES = [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_rule_has_the_form_that_prometheus_reads(rule):
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_holds_whose_day_of_review_is_over_are_told():
    (rule,) = [rule for rule in RULES if "parley_holds_to_review" in rule["expr"]]
    runbook = FILE.parents[1] / "docs" / "retention.md"
    (section,) = re.findall(r'"(When [^"]+)"', rule["annotations"]["description"])
    assert f"## {section}\n" in runbook.read_text()


def test_names_are_used_once():
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_figures_and_labels_exist(rule):
    assert telemetry.audit_refused
    known = {metric.name for metric in REGISTRY.collect()}
    asked = re.findall(r"parley_\w+", rule["expr"])
    assert asked
    assert {name.removesuffix("_total") for name in asked} <= known
    used = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
    grouped = re.findall(r"by \((\w+)\)", rule["expr"])
    assert set(used) <= set(grouped)
