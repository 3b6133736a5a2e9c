import re
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from chatbot.celery import broker_url
from chatbot.secrets import read_secret

ROOT = Path(__file__).resolve().parents[2]


def test_every_variable_is_explained():
    code = (ROOT / "chatbot/settings.py").read_text()
    read = set(re.findall(r'(?:env\.\w+|read_secret)\("([A-Z_]+)"', code))
    explained = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert read - explained == set()


def test_a_secret_comes_from_the_file_that_is_named(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("of the file\n")
    monkeypatch.setenv("PARLEY_X_FILE", str(tmp_path / "secret"))
    assert read_secret("PARLEY_X") == "of the file"
    monkeypatch.setenv("PARLEY_X", "of the environment")
    assert read_secret("PARLEY_X") == "of the environment"


def test_a_missing_secret_is_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(ImproperlyConfigured, match="PARLEY_X is not set"):
        read_secret("PARLEY_X")
    monkeypatch.setenv("PARLEY_X_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(ImproperlyConfigured, match="can't be read"):
        read_secret("PARLEY_X")


def test_the_broker_is_the_same_redis():
    assert broker_url("unix:///run/r.sock?db=3") == "redis+socket:///run/r.sock?virtual_host=3"
    assert broker_url("redis://r:6379/0") == "redis://r:6379/0"
