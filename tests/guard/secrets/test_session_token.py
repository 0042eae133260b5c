"""A session token beside a password: from Vault, in one answer with what it belongs to."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from guard.config.schema import Credential, SecretRef
from guard.secrets import Secret, SecretError, resolve

KEYS = {"secret_key": "hidden-1", "access_key": "ASIAEXAMPLE", "session_token": "hidden-2"}


def ask(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], **changes: Any) -> Secret:
    monkeypatch.setenv("VAULT_TOKEN", "t")
    body = json.dumps({"data": {"data": values, "metadata": {"version": 1}}}).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async def go() -> Secret:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
            ref = Credential(
                provider="vault",
                address=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}",
                path="kv/data/aws",
                key="secret_key",
                username_key="access_key",
                token=SecretRef(provider="env", name="VAULT_TOKEN"),
                **changes,
            )
            return await resolve(ref)

    return asyncio.run(go())


def test_all_three_parts_come_from_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(monkeypatch, KEYS, session_token_key="session_token")
    assert found == Secret("hidden-1", "ASIAEXAMPLE", "hidden-2")
    assert found.session_token == "hidden-2"
    assert ask(monkeypatch, KEYS).session_token == ""


def test_one_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: value for name, value in KEYS.items() if name != "session_token"}
    with pytest.raises(SecretError, match="no text under the key `session_token`") as caught:
        ask(monkeypatch, values, session_token_key="session_token")
    assert "hidden" not in str(caught.value)


def test_it_is_part_of_the_secret_and_not_shown() -> None:
    assert Secret("a", "b", "c") != Secret("a", "b", "d")
    assert Secret("a", "b", "c") != Secret("a", "b")
    shown = Secret("hidden-1", "b", "hidden-2")
    assert "hidden" not in f"{shown} {shown!r}"
