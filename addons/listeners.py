"""One mitmproxy mode per protocol, made here and never in the script: a reload must not make them again.

A listener's spec is `PROTOCOL:NAME@HOST:PORT`, NAME as in the configuration.
"""

from __future__ import annotations

import asyncio
import os
import socket
import types
from typing import Any

from mitmproxy.net.free_port import get_free_port
from mitmproxy.proxy import context, layer, mode_servers, mode_specs

from addons.web.addon import HttpFront
from addons.wire_layer import WireLayer
from protocols.contract import HTTP_PROTOCOLS
from protocols.registry import PROTOCOLS

BACKLOG = 1024
_ACCEPTED_AT_ONCE = 16


def _check(mode: Any) -> None:
    if not mode.data:
        raise ValueError(f"a listener needs its name: {mode.type_name}:NAME@HOST:PORT")


async def _listen(instance: Any, host: str, port: int) -> list[Any]:
    port = port or get_free_port()
    servers = [await asyncio.start_server(instance.handle_stream, host, port, backlog=BACKLOG)]
    if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        # libuv takes one connection from a socket in each turn of the loop, and while others are busy a turn is long
        for _ in range(_ACCEPTED_AT_ONCE - 1):
            for listening in servers[0].sockets:
                again = socket.socket(fileno=os.dup(listening.fileno()))
                servers.append(await asyncio.start_server(instance.handle_stream, sock=again, backlog=BACKLOG))
    return servers


def _register(protocol: str) -> type[mode_specs.ProxyMode]:
    """mitmproxy finds both classes when they are made: the mode by its name, the instance by its type argument."""

    top = HttpFront if protocol in HTTP_PROTOCOLS else WireLayer

    def top_layer(instance: Any, context: context.Context) -> layer.Layer:
        return top(context, protocol, instance.mode.data)

    name = protocol.capitalize()
    mode: Any = type(
        f"{name}Mode",
        (mode_specs.ProxyMode,),
        {"description": f"sluicegate {protocol}", "transport_protocol": "tcp", "__post_init__": _check},
    )
    members = {"make_top_layer": top_layer, "listen": _listen}
    types.new_class(
        f"{name}Instance", (mode_servers.AsyncioServerInstance[mode],), exec_body=lambda n: n.update(members)
    )
    found: type[mode_specs.ProxyMode] = mode
    return found


MODES = {protocol: _register(protocol) for protocol in (*PROTOCOLS, *HTTP_PROTOCOLS)}
