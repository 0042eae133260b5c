"""Every provider against the real thing: the environment, files with real modes, an HTTP server that speaks Vault."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle

import pytest

from guard.config.schema import Credential, SecretRef
from guard.secrets import PROVIDERS, Secret, SecretError, Secrets, resolve
from guard.secrets import store as secret_store


def read(ref) -> Secret:
    return asyncio.run(resolve(ref))


def test_a_secret_shows_nothing():
    secret = Secret("hunter2", "app")
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        str([secret]),
        str({"a": secret}),
    ):
        assert "hunter2" not in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            leak(secret)
    assert not hasattr(secret, "__dict__")
    assert (secret.password, secret.username) == ("hunter2", "app")


def test_secrets_compare_by_value():
    assert Secret("a", "u") == Secret("a", "u")
    assert Secret("a", "u") != Secret("b", "u")
    assert Secret("a", "u") != Secret("a")
    assert Secret("ä") != "ä"


def test_every_provider_of_the_configuration_is_registered():
    configured = set(Credential.model_fields["provider"].annotation.__args__)
    assert set(PROVIDERS) == configured


def test_environment(monkeypatch):
    ref = SecretRef(provider="env", name="SHOP_DB_PASSWORD")
    monkeypatch.setenv("SHOP_DB_PASSWORD", "pw")
    assert read(ref) == Secret("pw")
    for change in (lambda: monkeypatch.setenv("SHOP_DB_PASSWORD", ""), lambda: monkeypatch.delenv("SHOP_DB_PASSWORD")):
        change()
        with pytest.raises(SecretError, match="`SHOP_DB_PASSWORD` is not set"):
            read(ref)


def test_none_is_an_empty_password():
    assert read(Credential(provider="none", user="app")).password == ""


@pytest.fixture
def secret_file(tmp_path):
    path = tmp_path / "pw"
    path.write_text("pw\n")
    path.chmod(0o600)
    return path


def test_file(secret_file):
    ref = SecretRef(provider="file", path=str(secret_file))
    assert read(ref) == Secret("pw")
    for content, password in ((b"pw", "pw"), (b"pw\r\n", "pw"), (b" p w \n\n", " p w \n"), ("ü".encode(), "ü")):
        secret_file.write_bytes(content)
        assert read(ref).password == password
    link = secret_file.with_name("link")
    link.symlink_to(secret_file)
    assert read(SecretRef(provider="file", path=str(link))).password == "ü"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o620, 0o602, 0o644, 0o601])
def test_a_file_that_others_can_open_is_refused(secret_file, mode):
    secret_file.chmod(mode)
    with pytest.raises(SecretError, match="chmod 600") as caught:
        read(SecretRef(provider="file", path=str(secret_file)))
    assert "pw\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(secret_file, monkeypatch):
    os.chown(secret_file, 65534, 65534)
    with pytest.raises(SecretError, match="another user"):
        read(SecretRef(provider="file", path=str(secret_file)))


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "empty"), (b"\n", "empty"), (b"\xff", "utf-8"), (b"x" * 70_000, "larger")]
)
def test_a_file_without_a_usable_secret(secret_file, content, why):
    secret_file.write_bytes(content)
    with pytest.raises(SecretError, match=why):
        read(SecretRef(provider="file", path=str(secret_file)))


def test_a_file_that_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    cases = {"missing": "No such file", "pipe": "no regular file", ".": "no regular file"}
    for name, why in cases.items():
        with pytest.raises(SecretError, match=why):
            read(SecretRef(provider="file", path=str(tmp_path / name)))


# -- Vault


class Vault:
    """Answers like Vault's API on a real socket."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes = json.dumps(
            {"data": {"data": {"password": "pw", "username": "app"}, "metadata": {"version": 3}}}
        ).encode()
        self.requests: list[str] = []
        self.extra = ""
        self.hang = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if self.hang:
            await reader.read()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.body)}\r\n{self.extra}\r\n"
        writer.write(head.encode() + self.body)
        await writer.drain()
        writer.close()


@pytest.fixture
def vault(monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", "hvs.s3cret")
    server = Vault()

    def run(work=None, **changes):
        async def go():
            listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
            async with listening:
                fields = {
                    "provider": "vault",
                    "address": f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}",
                    "path": "secret/data/shop",
                    "key": "password",
                    "token": SecretRef(provider="env", name="VAULT_TOKEN"),
                }
                ref = Credential(**(fields | changes))
                return await (work or resolve)(ref)

        return asyncio.run(go())

    server.run = run
    return server


def test_vault(vault):
    assert vault.run() == Secret("pw", "app")
    assert vault.run(user="other") == Secret("pw")
    assert vault.run(username_key="password").username == "pw"
    assert vault.requests[0].startswith("GET /v1/secret/data/shop HTTP/1.1\r\n")
    assert "X-Vault-Token: hvs.s3cret\r\n" in vault.requests[0]
    vault.run(namespace="team/a", path="secret/shop")
    assert "X-Vault-Namespace: team/a\r\n" in vault.requests[-1]
    assert vault.requests[-1].startswith("GET /v1/secret/data/shop ")
    vault.run(path="a/mount/data/shop/db 1")
    assert vault.requests[-1].startswith("GET /v1/a/mount/data/shop/db%201 ")


@pytest.mark.parametrize(
    ("status", "why"),
    [(403, "permission denied"), (404, "no such secret"), (503, "sealed"), (500, "status 500"), (307, "standby")],
)
def test_vault_refusals(vault, status, why):
    vault.status, vault.body, vault.extra = status, b'{"errors":["pw"]}', "Location: http://127.0.0.1:1/\r\n"
    with pytest.raises(SecretError, match=why) as caught:
        vault.run()
    assert "hvs" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no version 2 secret"),
        (b"[]", "no version 2 secret"),
        (b'{"data": {"password": "pw"}}', "no version 2 secret"),
        (b'{"data": {"data": null, "metadata": {"deletion_time": "x"}}}', "deleted"),
        (b'{"data": {"data": {}}}', "no text under the key `username`"),
        (b'{"data": {"data": {"username": "a", "password": 7}}}', "no text under the key `password`"),
        (b'{"data": {"data": {"username": "a", "password": ""}}}', "no text under the key `password`"),
        (b'{"data": {"data": {"username": {}, "password": "pw"}}}', "no text under the key `username`"),
        (b"[" * 100_000, "no version 2 secret"),
    ],
)
def test_vault_answers_that_hold_no_secret(vault, body, why):
    vault.body = body
    with pytest.raises(SecretError, match=why):
        vault.run()


def test_vault_that_is_down_or_hangs(vault, monkeypatch):
    with pytest.raises(SecretError, match="cannot reach"):
        vault.run(address="http://127.0.0.1:1")
    monkeypatch.setattr(secret_store, "TIMEOUT_S", 0.1)
    vault.hang = True
    with pytest.raises(SecretError, match=r"did not answer within 0\.1 s"):
        vault.run()


@pytest.mark.parametrize("path", ["shop", "../sys/seal", "secret/../../sys", "secret//shop", "/"])
def test_vault_paths_that_lead_elsewhere(vault, path):
    with pytest.raises(SecretError, match="vault path"):
        vault.run(path=path)
    assert not vault.requests


def test_vault_without_its_token(vault, monkeypatch):
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(SecretError, match="VAULT_TOKEN"):
        vault.run()
    assert not vault.requests


def test_many_connections_share_one_look_up_and_a_refused_password_asks_again(vault):
    now = 0.0
    secrets = Secrets(clock=lambda: now)

    async def work(ref):
        nonlocal now
        first = await asyncio.gather(*(secrets.resolve(ref) for _ in range(20)))
        assert len(vault.requests) == 1
        vault.body = vault.body.replace(b'"pw"', b'"rotated"')
        assert await secrets.resolve(ref) == first[0]
        fresh = await asyncio.gather(*(secrets.resolve(ref, fresh=True) for _ in range(20)))
        assert {secret.password for secret in fresh} == {"rotated"}
        assert len(vault.requests) == 2
        now += 31
        vault.status = 503
        for _ in range(2):
            with pytest.raises(SecretError):
                await secrets.resolve(ref)
        assert len(vault.requests) == 4
        return first

    assert vault.run(work)[0] == Secret("pw", "app")


def test_the_environment_is_never_cached(monkeypatch):
    secrets = Secrets()
    ref = SecretRef(provider="env", name="X_PW")
    for value in ("a", "b"):
        monkeypatch.setenv("X_PW", value)
        assert asyncio.run(secrets.resolve(ref)).password == value
