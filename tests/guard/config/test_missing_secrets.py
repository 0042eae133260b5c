"""`check` says which secrets are not to be had, as a warning: it may run where the gateway does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.config import check, load
from tests.guard.config.conftest import Write

CREDENTIAL = "credential: {user: app, provider: env, name: SHOP_DB_PASSWORD}"


def warned(path: Path) -> list[tuple[int, bool, str]]:
    return [(one.line, one.warning, one.message) for one in check(path, secrets=True)]


def test_a_variable_that_is_not_set(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    monkeypatch.delenv("SHOP_DB_PASSWORD", raising=False)
    assert warned(path) == [
        (
            13,
            True,
            "as things are here: environment variable `SHOP_DB_PASSWORD` is not set; set it where the gateway starts",
        )
    ]
    assert load(path).resources[0].name == "shop"  # it is read when it is needed: no reason not to start
    monkeypatch.setenv("SHOP_DB_PASSWORD", "")
    assert len(warned(path)) == 1
    monkeypatch.setenv("SHOP_DB_PASSWORD", "x")
    assert warned(path) == []


def test_a_file_that_is_missing_or_open_to_others(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    path = write(CREDENTIAL, f"credential: {{user: app, provider: file, path: {secret}}}")
    assert "No such file or directory" in warned(path)[0][2]
    secret.write_text("geheim")
    secret.chmod(0o644)
    ((_, warning, message),) = warned(path)
    assert warning
    assert "chmod 600" in message
    assert "geheim" not in message
    secret.chmod(0o600)
    assert warned(path) == []


def test_the_token_of_a_vault_and_the_key_of_a_webhook(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_VAULT_TOKEN", raising=False)
    monkeypatch.delenv("SHOP_HOOK_KEY", raising=False)
    vault = (
        "credential: {provider: vault, address: 'https://vault.example', path: secret/data/shop, key: password, "
        "token: {provider: env, name: SHOP_VAULT_TOKEN}}"
    )
    hook = "\nnotify:\n  - {url: 'https://hooks.example', secret: {provider: env, name: SHOP_HOOK_KEY}}\n"
    found = warned(write(CREDENTIAL, vault + hook))
    assert [line for line, _, _ in found] == [13, 15]
    assert "SHOP_VAULT_TOKEN" in found[0][2]
    assert "SHOP_HOOK_KEY" in found[1][2]
