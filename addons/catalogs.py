"""Catalog snapshots, one keeper per resource and database, no older than the configuration allows while in use."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from addons.catalog_client import CatalogClient
from addons.definitions import Definitions
from protocols.contract import CatalogError, CatalogSnapshot, CredentialRefused

log = logging.getLogger("sluicegate.catalog")

_IDLE_CLOSE = 30.0  # seconds without sessions after which the metadata connection is closed
_RETRY = 1.0


class CatalogKeeper:
    """Keeps one snapshot fresh while sessions use it: checked several times within `max_age`, loaded when changed.

    What it cannot see is what changes between two checks: the documented window of `max_age` seconds.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[CatalogClient]],
        max_age: float,
        definitions: Definitions,
    ) -> None:
        self.name = name
        self._connect = connect
        self._max_age = max_age
        self._client: CatalogClient | None = None
        self._snapshot: CatalogSnapshot | None = None
        self._version = ""
        self._checked = 0.0  # monotonic time at which the last good check was *sent*
        self._checking: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        self.users = 0
        self.error = ""
        self.definitions = definitions

    def current(self, not_before: float = 0.0) -> CatalogSnapshot | None:
        """The snapshot if it is fresh enough, and was checked after `not_before` (monotonic seconds)."""
        if self._snapshot is None or self._checked < not_before:
            return None
        if time.monotonic() - self._checked > self._max_age:
            return None
        return self._snapshot

    def acquire(self) -> None:
        """A session begins to use it; where this raises, it does not."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._keep(), name=f"catalog of {self.name}")
        self.users += 1

    def release(self) -> None:
        self.users -= 1

    async def refresh(self, not_before: float = 0.0) -> None:
        """Returns after a check that began after `not_before`; raises `CatalogError` where none succeeds."""
        started = time.monotonic()
        while True:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._check(), name=f"catalog check of {self.name}")
            task = self._checking
            await asyncio.shield(task)
            if self._checked >= min(max(not_before, started), time.monotonic()):
                return
            if self._checked >= not_before and self.current(not_before) is not None:
                return

    async def _check(self) -> None:
        began = time.monotonic()
        try:
            if self._client is None or self._client.closed:
                self._client = await self._connect()
            version = await self._client.version()
            if version != self._version or self._snapshot is None:
                self._snapshot = await self._client.load()
                self._version = version
        except CatalogError as e:
            self.error = str(e)
            if self._client is not None and self._client.closed:
                self._client = None
            raise
        except CredentialRefused as e:
            # what the server said is the cause; the error itself is worded for clients
            self.error = f"the metadata connection failed: {e.__cause__ or e}"
            raise CatalogError(self.error) from e
        except Exception as e:
            # no credential, rows that make no sense, ...: whoever waits for the snapshot is told in one way
            self.error = f"{type(e).__name__}: {e}"
            raise CatalogError(f"the catalog could not be read: {self.error}") from e
        self.error = ""
        self._checked = began

    async def _keep(self) -> None:
        """Checks ahead of need while there are sessions, so that statements seldom wait."""
        idle_since = time.monotonic()
        try:
            while True:
                if self.users:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _IDLE_CLOSE:
                    break
                try:
                    await self.refresh()
                except CatalogError as e:
                    log.warning("catalog of %s: %s", self.name, e)
                    await asyncio.sleep(_RETRY)
                await asyncio.sleep(self._max_age / 3)
        finally:
            self._loop = None
            self.close()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
        client, self._client = self._client, None
        if client is not None:
            client.close()
