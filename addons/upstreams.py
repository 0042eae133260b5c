"""What connections to one upstream share: its credential, its catalogs, what was analysed, places for strangers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from addons.catalog_client import CatalogClient, new_login
from addons.catalogs import CatalogKeeper
from addons.definitions import Definitions
from guard.config.schema import ResourceConfig
from guard.secrets import Secret, Secrets
from protocols.contract import Credential, CredentialRefused, UpstreamLogin
from protocols.registry import PROTOCOLS, WireProtocol

if TYPE_CHECKING:
    from addons.runtime import Runtime

EARLY = 8  # upstream connections of clients that nobody knows yet, at a time


class Upstreams:
    """Made with the runtime. Each part is made when it is first asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._secrets = Secrets()
        self.stale: set[str] = set()  # resources whose upstream did not take their credential
        self.keepers: dict[tuple[str, str], CatalogKeeper] = {}
        self._definitions: dict[tuple[str, int], Definitions] = {}
        self._caches: dict[str, Any] = {}
        self._early: dict[str, asyncio.Semaphore] = {}

    async def login(self, config: ResourceConfig, database: str, bound: float) -> UpstreamLogin:
        """How a connection of the gateway's own logs in at this moment. Raises `SecretError`."""
        credential = await self.credential(config)
        return new_login(credential, database, self._runtime.upstream_tls[config.name] is not None, bound)

    async def credential(self, config: ResourceConfig) -> Credential:
        """What the gateway logs in with. No client may send it anywhere from now on. Raises `SecretError`."""
        secret = await self.secret(config)
        self._runtime.http.outbound.learn(config.name, secret.password)
        return Credential(config.credential.user or secret.username or "", secret.password)

    async def secret(self, config: ResourceConfig) -> Secret:
        """What a resource's credential names; read anew where the upstream has refused it. Raises `SecretError`."""
        secret = await self._secrets.resolve(config.credential, fresh=config.name in self.stale)
        self.stale.discard(config.name)
        return secret

    def keeper(self, config: ResourceConfig, database: str) -> CatalogKeeper:
        # where a connection sees one database only, each has a catalog of its own
        world = database if config.one_database else config.database or ""
        key = (config.name, world)
        keeper = self.keepers.get(key)
        if keeper is None:

            async def connect() -> CatalogClient:
                login = await self.login(config, world, config.catalog.timeout)
                source = PROTOCOLS[config.protocol].catalog_source()
                context = self._runtime.upstream_tls[config.name]
                client = CatalogClient(source, context, config.tls.server_name or config.server)
                try:
                    await client.connect(config.server, config.port, login)
                except CredentialRefused:
                    self.stale.add(config.name)
                    raise
                return client

            name = f"{config.name}/{world}" if world else config.name
            # two resources may lead to one server: what is defined through one of them counts for the other
            definitions = self._definitions.setdefault((config.server, config.port), Definitions())
            keeper = self.keepers[key] = CatalogKeeper(name, connect, config.catalog.max_age, definitions)
        return keeper

    def cache(self, protocol: WireProtocol, resource: str) -> Any:
        """What was analysed before, for every session on this resource."""
        if resource not in self._caches:
            self._caches[resource] = protocol.cache()
        return self._caches[resource]

    def early(self, resource: str) -> asyncio.Semaphore:
        """Places for clients that nobody knows yet: more wait, or a crowd of strangers could take all connections that
        the server has, or have it lock us out for logins that were never finished."""
        return self._early.setdefault(resource, asyncio.Semaphore(EARLY))

    def close(self) -> None:
        for keeper in self.keepers.values():
            keeper.close()
