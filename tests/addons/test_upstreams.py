"""The gateway's own credentials: read once while they are taken, anew when they are not, and known where they leak."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from addons.runtime import Runtime
    from addons.upstreams import Upstreams

from guard.config import load
from guard.secrets import SecretError
from tests.guard.config.conftest import BASE, POLICY

PROVIDED = "credential: {user: app, provider: file, path: password}"


@pytest.fixture
def made(tmp_path: Path) -> Callable[[], tuple[Upstreams, Any, list[tuple[str, str]]]]:
    """Upstreams, their resource, and what must not leave."""

    def make() -> tuple[Upstreams, Any, list[tuple[str, str]]]:
        (tmp_path / "policy.yaml").write_text(POLICY)
        (tmp_path / "password").write_text("first-password")
        (tmp_path / "password").chmod(0o600)
        path = tmp_path / "gateway.yaml"
        path.write_text(BASE.replace("credential: {user: app, provider: env, name: SHOP_DB_PASSWORD}", PROVIDED))
        runtime = Runtime(load(path))
        known: list[tuple[str, str]] = []
        learn = SimpleNamespace(learn=lambda name, secret: known.append((name, secret)))
        runtime.http = cast(Any, SimpleNamespace(outbound=learn))
        runtime.upstream_tls = {"shop": None}
        return runtime.upstreams, runtime.config.resources[0], known

    return make


def test_a_credential_that_is_not_taken_is_read_anew(made: Any, tmp_path: Path) -> None:
    async def run() -> None:
        upstreams, resource, known = made()
        assert (await upstreams.credential(resource)).password == "first-password"
        (tmp_path / "password").write_text("second-password")
        upstreams.stale.add("shop")
        login = await upstreams.login(resource, "shop", 1.0)
        assert login.credential.password == "second-password"
        assert upstreams.stale == set()
        assert known == [("shop", "first-password"), ("shop", "second-password")]

    asyncio.run(run())


def test_a_credential_that_cannot_be_read_stays_stale(made: Any, tmp_path: Path) -> None:
    async def run() -> None:
        upstreams, resource, known = made()
        upstreams.stale.add("shop")
        (tmp_path / "password").unlink()
        with pytest.raises(SecretError):
            await upstreams.credential(resource)
        assert upstreams.stale == {"shop"}
        assert known == []

    asyncio.run(run())


def test_catalogs_are_made_once_for_each_database(made: Any) -> None:
    async def run() -> None:
        upstreams, resource, _ = made()
        shop = upstreams.keeper(resource, "shop")
        assert upstreams.keeper(resource, "shop") is shop
        other = upstreams.keeper(resource, "other")
        assert (shop.name, other.name) == ("shop/shop", "shop/other")
        upstreams.close()

    asyncio.run(run())
