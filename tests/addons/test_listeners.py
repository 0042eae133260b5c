"""Listeners take as many connections in one turn of the loop as are there, on either loop, and let go of their port."""

from __future__ import annotations

import asyncio
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # mitmproxy's own dependencies
    from addons import listeners


class Instance:
    """As much of mitmproxy's as a listener needs: it notes in which turn of the loop a connection came."""

    def __init__(self) -> None:
        self.turn = 0
        self.came: list[int] = []

    async def handle_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(self.turn)
        writer.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_crowd_does_not_come_in_one_by_one(loop: Callable[[], Any]) -> None:
    async def run() -> None:
        instance = Instance()
        servers = await listeners._listen(instance, "127.0.0.1", 0)
        addresses = {one.getsockname() for server in servers for one in server.sockets}
        assert len(addresses) == 1
        address = addresses.pop()
        crowd = [socket.create_connection(address) for _ in range(40)]
        while len(instance.came) < len(crowd):
            instance.turn += 1
            time.sleep(0.002)  # others are busy
            await asyncio.sleep(0)
        assert instance.turn < len(crowd) / 2
        for one in crowd:
            one.close()
        for server in servers:
            server.close()
            await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=0.5)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 30))
