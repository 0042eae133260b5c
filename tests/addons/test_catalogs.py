"""Which snapshot a session may judge by once another has defined something, and what when it cannot be read."""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import Any, cast

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from addons.catalogs import CatalogKeeper
    from addons.definitions import Definitions
    from addons.live import LiveSession
    from addons.upstreams import Upstreams

from guard.config.schema import ResourceConfig
from protocols.contract import CatalogError, CredentialRefused


class Metadata:
    """The gateway's own connection: as long as the server answers it, the catalog is there."""

    closed = False

    def __init__(self) -> None:
        self.fails = False

    async def version(self) -> str:
        if self.fails:
            raise CatalogError("the server does not answer")
        return "v1"

    async def load(self) -> Any:
        return "snapshot"

    def close(self) -> None: ...


def session(keeper: CatalogKeeper) -> LiveSession:
    live = LiveSession.__new__(LiveSession)
    live.keeper, live._needs_after = keeper, 0.0
    return live


def test_a_snapshot_that_is_known_to_be_old_is_not_judged_by_where_a_newer_one_cannot_be_read() -> None:
    async def play() -> None:
        metadata = Metadata()

        async def connect() -> Any:
            return metadata

        keeper = CatalogKeeper("shop", connect, 60.0, Definitions())
        one, other = session(keeper), session(keeper)
        await other.refresh_catalog()
        assert other.catalog(newest=True) == other.catalog() == "snapshot"

        one.defining(["public.mine"])
        assert other.redefined(["public.mine"], time.time_ns())
        one.defined()
        assert other.catalog(newest=True) is None
        metadata.fails = True
        with pytest.raises(CatalogError):
            await other.refresh_catalog()
        assert other.catalog() is None  # it has waited, and judges by nothing rather than by that
        metadata.fails = False
        await other.refresh_catalog()
        assert other.catalog(newest=True) == other.catalog() == "snapshot"
        assert not other.redefined(["public.mine"], time.time_ns())

    asyncio.run(play())


def test_resources_on_one_server_hear_of_each_others_definitions() -> None:
    upstreams = Upstreams(cast(Any, None))

    def keeper(name: str, host: str) -> CatalogKeeper:
        credential = {"provider": "env", "user": "app", "name": "PASSWORD"}
        said = {"name": name, "protocol": "postgres", "host": host, "database": "shop", "credential": credential}
        return upstreams.keeper(ResourceConfig.model_validate(said), "shop")

    read, write, elsewhere = keeper("read", "db"), keeper("write", "db"), keeper("elsewhere", "other")
    assert read is not write
    assert read.definitions is write.definitions
    assert read.definitions is not elsewhere.definitions


def test_a_login_that_the_server_refuses_is_told_with_the_servers_own_words() -> None:
    async def refused() -> Any:
        raise CredentialRefused("the gateway could not log in; its log says why", "08001") from ValueError("28P01 no")

    async def play() -> None:
        keeper = CatalogKeeper("shop", refused, 60.0, Definitions())
        with pytest.raises(CatalogError, match="28P01 no"):
            await keeper.refresh()
        assert keeper.error == "the metadata connection failed: 28P01 no"

    asyncio.run(play())
