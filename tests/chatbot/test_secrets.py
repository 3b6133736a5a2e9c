"""Secrets of AWS Secrets Manager, against a stand-in for AWS where its tools are installed."""

import json
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from chatbot import secrets
from chatbot.secrets import read_secret


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(secrets, "_kept", {})


@pytest.fixture
def aws(monkeypatch):
    """Give a secret of AWS a value; `SECRETS_FROM` names it."""
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("SECRETS_FROM", "aws:parley/tests")
    with moto.mock_aws():
        client = boto3.client("secretsmanager")
        client.create_secret(Name="parley/tests", SecretString="{}")

        def put(text: str) -> None:
            client.put_secret_value(SecretId="parley/tests", SecretString=text)

        yield put


def test_a_secret_comes_from_aws_behind_environment_and_file(aws, monkeypatch, tmp_path):
    aws(json.dumps({"PARLEY_X": "of AWS"}))
    assert read_secret("PARLEY_X") == "of AWS"
    assert read_secret("PARLEY_Y", default="none") == "none"
    (tmp_path / "secret").write_text("of the file")
    monkeypatch.setenv("PARLEY_X_FILE", str(tmp_path / "secret"))
    assert read_secret("PARLEY_X") == "of the file"


def test_an_exchanged_secret_is_noticed_after_a_while_and_not_asked_for_before(aws, monkeypatch):
    aws(json.dumps({"PARLEY_X": "old"}))
    assert read_secret("PARLEY_X") == "old"
    aws(json.dumps({"PARLEY_X": "new"}))
    assert read_secret("PARLEY_X") == "old"
    monkeypatch.setattr(secrets, "KEPT_SECONDS", -1.0)
    secrets._kept.clear()
    assert read_secret("PARLEY_X") == "new"


@pytest.mark.parametrize("text", ["sk-very-secret", '["sk-very-secret"]'])
def test_a_secret_of_another_shape_is_told_without_it(aws, text):
    aws(text)
    with pytest.raises(ImproperlyConfigured, match="no JSON object") as error:
        read_secret("PARLEY_X")
    assert "sk-very-secret" not in repr(error.value)
    assert error.value.__cause__ is None


def test_a_secret_that_is_not_there_is_named(aws, monkeypatch):
    monkeypatch.setenv("SECRETS_FROM", "aws:parley/nowhere")
    with pytest.raises(ImproperlyConfigured, match=r"parley/nowhere: ResourceNotFoundException"):
        read_secret("PARLEY_X")


def test_aws_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setenv("SECRETS_FROM", "aws:parley/tests")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImproperlyConfigured, match="install the extra `aws`"):
        read_secret("PARLEY_X")


def test_another_source_is_not_understood(monkeypatch):
    monkeypatch.setenv("SECRETS_FROM", "vault:parley")
    with pytest.raises(ImproperlyConfigured, match="SECRETS_FROM is not understood"):
        read_secret("PARLEY_X")
