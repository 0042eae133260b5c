"""One mitmproxy mode per wire protocol, defined here and never in the script: a script reload must not redefine them.

A listener's spec is `postgres:NAME@HOST:PORT`, NAME as in the configuration.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from mitmproxy.net.free_port import get_free_port
from mitmproxy.proxy import context, layer, mode_servers, mode_specs

from addons.wire_layer import WireLayer

BACKLOG = 1024


class PostgresMode(mode_specs.ProxyMode):  # type: ignore[no-untyped-call]  # mitmproxy registers it, untyped
    """`postgres:NAME@HOST:PORT`"""

    description = "PostgreSQL gateway"

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("a postgres listener needs its name: postgres:NAME@HOST:PORT")

    @property
    def transport_protocol(self) -> Literal["tcp", "udp", "both"]:
        return "tcp"


class PostgresInstance(mode_servers.AsyncioServerInstance[PostgresMode]):  # type: ignore[no-untyped-call]
    """Found by mitmproxy through its type argument."""

    def make_top_layer(self, context: context.Context) -> layer.Layer:
        return WireLayer(context, "postgres", self.mode.data)

    async def listen(self, host: str, port: int) -> list[Any]:
        if port == 0:
            port = get_free_port()
        return [await asyncio.start_server(self.handle_stream, host, port, backlog=BACKLOG)]
