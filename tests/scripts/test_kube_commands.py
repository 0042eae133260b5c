"""`sluicegate kubeconfig` and `exec-credential`: what they print, and what they say when they cannot."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from scripts import cli
from scripts.token_source import expiry


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


def test_a_token_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    token = jwt(exp=1_800_000_000)
    monkeypatch.setenv("SLUICEGATE_TOKEN", token)
    monkeypatch.delenv("KUBERNETES_EXEC_INFO", raising=False)
    assert cli.main(["exec-credential"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == {"token": token, "expirationTimestamp": "2027-01-15T08:00:00Z"}


def test_a_token_from_a_command_and_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("opaque\n")
    for words in (
        ["--command", "printf opaque"],
        *([name, str(tmp_path / "token")] for name in ("--file", "--token-file")),
    ):
        assert cli.main(["exec-credential", *words]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == {"token": "opaque"}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--command", "false"],
        ["--command", "no-such-program"],
        ["--command", "'"],
        ["--command", ""],
        ["--file", "/nowhere"],
        ["--command", "printf 'a b'"],
    ],
    ids=str,
)
def test_no_token_is_an_error_that_says_what_to_do(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLUICEGATE_TOKEN", raising=False)
    assert cli.main(["exec-credential", *words]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "token" in told.err


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "a.!.c", jwt(), jwt(exp="soon"), jwt(exp=-1), jwt(exp=None)])
def test_an_expiry_that_is_not_known(token: str) -> None:
    assert expiry(token) is None


def test_no_kubeconfig_without_a_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for server, ca in (("https://g:1", "ca.pem"), ("https://g:1", "missing"), ("http://g:1", "ca.pem")):
        assert cli.main(["kubeconfig", "--server", server, "--ca", str(tmp_path / ca)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("no kubeconfig") == 3
    assert "missing` cannot be read" in said.replace(" ", "").replace("cannotberead", " cannot be read")
