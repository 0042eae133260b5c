"""The HTTP layers fed by hand, with an exchange that lets everything pass but for what a test replaces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mitmproxy import connection, http, options
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import HTTPMode

from addons.web.layer import GuardedLayer
from addons.web.port import Collect, Forward, SluicegateStepHook
from protocols.http.problems import CONTENT_TYPE, problem


class Exchange:
    """Lets everything pass, but for what a test replaces."""

    def __init__(self, request: http.Request) -> None:
        self.request = request
        self.id = "e1"
        self.answer_step = 0
        self.told: list[str] = []
        self.pieces: list[bytes] = []

    def connect(self) -> Any:
        return Forward()

    def begin(self, end_stream: bool) -> Any:
        return Forward() if end_stream else Collect()

    def body(self, data: bytes) -> Any:
        self.pieces.append(data)
        return b""

    def complete(self) -> Any:
        return Forward()

    def rest(self) -> bytes:
        return b""

    def collected(self) -> Iterator[bytes]:
        yield from self.pieces

    def pace(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        return request

    def address(self) -> tuple[str, int, bool]:
        return "up.example", 80, False

    def reaches(self, server: connection.Server) -> bool:
        return isinstance(server, connection.Server) and server.address == ("up.example", 80)

    def answer(self, response: http.Response, end_stream: bool) -> Any:
        return Forward()

    def answer_data(self, data: bytes) -> bytes:
        return data

    def answer_end(self) -> bytes:
        return b""

    def show(self, flow: http.HTTPFlow) -> None:
        flow.metadata["sluicegate"] = "x"

    def to_client(self, response: http.Response) -> http.Response:
        return response

    def upgraded(self) -> Any:
        raise AssertionError

    def tunnel(self) -> Any:
        raise AssertionError

    def failed(self, why: str) -> None:
        self.told.append(f"failed: {why}")

    def finished(self) -> None:
        self.told.append("finished")


class Talk:
    """One client connection: `sent` is what went to each side."""

    def __init__(
        self,
        adjust: Callable[[Exchange], None] = lambda e: None,
        *,
        watched: bool = False,
        alpn: bytes | None = None,
        upstream_alpn: bytes | None = None,
    ) -> None:
        self.watched = watched
        self.exchanges: list[Exchange] = []
        self.paused = False
        self._upstream_alpn = upstream_alpn
        self._adjust = adjust
        client = connection.Client(
            alpn=alpn,
            peername=("127.0.0.1", 1),
            sockname=("127.0.0.1", 2),
            timestamp_start=0.0,
            state=ConnectionState.OPEN,
        )
        opts = options.Options()
        for name, value in (("validate_inbound_headers", True), ("store_streamed_bodies", False)):
            opts.add_option(name, bool, value, "")
        for name in ("stream_large_bodies", "body_size_limit"):
            opts.add_option(name, str | None, None, "")
        for name in ("websocket", "rawtcp", "normalize_outbound_headers", "keep_host_header"):
            opts.add_option(name, bool, True, "")
        opts.add_option("http2_ping_keepalive", int, 0, "")
        self.context = context.Context(client, opts)
        self.context.server.address = ("up.example", 80)
        self.client = client
        self.server: connection.Server | None = None  # the last that was opened
        self.up = b""
        self.down = b""
        self.flows: list[http.HTTPFlow] = []
        self.closed: list[connection.Connection] = []
        self.logged = ""
        self.sends: list[int] = []
        self.floods: list[str] = []
        self.refuses = ""  # why no connection to the upstream can be opened
        self.patient = False  # steps wait for `goes_on`
        self.steps: list[SluicegateStepHook] = []
        self.layer = GuardedLayer(self.context, HTTPMode.transparent, self)
        self._feed(events.Start())

    def exchange(self, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> Exchange:
        made = Exchange(request)
        self._adjust(made)
        self.exchanges.append(made)
        return made

    def pause(self, paused: bool, of: connection.Connection | None = None) -> None:
        self.paused = paused

    def refusal(self, status: int, text: str, **more: str) -> http.Response:
        return http.Response.make(status, problem(status, text, **more), {"content-type": CONTENT_TYPE})

    def flooded(self, why: str) -> None:
        self.floods.append(why)

    def says(self, data: bytes) -> None:
        self._feed(events.DataReceived(self.client, data))

    def answers(self, data: bytes) -> None:
        assert self.server is not None
        self._feed(events.DataReceived(self.server, data))

    def leaves(self) -> None:
        self.client.state = ConnectionState.CLOSED
        self._feed(events.ConnectionClosed(self.client))

    def goes_on(self) -> None:
        """The first step that waits is done."""
        command = self.steps.pop(0)
        asyncio.run(command.step.run())
        self._feed(events.HookCompleted(command))

    def _feed(self, event: events.Event) -> None:
        waiting = [event]
        while waiting:
            for command in self.layer.handle_event(waiting.pop(0)):
                if isinstance(command, commands.SendData):
                    self.sends.append(len(command.data))
                    if command.connection is self.client:
                        self.down += command.data
                    else:
                        self.up += command.data
                elif isinstance(command, commands.OpenConnection):
                    self.server = command.connection
                    if self.refuses:
                        self.server.error = self.refuses
                        waiting.append(events.OpenConnectionCompleted(command, self.refuses))
                        continue
                    self.server.state = ConnectionState.OPEN
                    self.server.alpn = self._upstream_alpn
                    waiting.append(events.OpenConnectionCompleted(command, None))
                elif isinstance(command, SluicegateStepHook):
                    if self.patient:
                        self.steps.append(command)
                        continue
                    asyncio.run(command.step.run())
                    waiting.append(events.HookCompleted(command))
                elif isinstance(command, commands.CloseConnection):
                    self.closed.append(command.connection)
                    command.connection.state = ConnectionState.CLOSED
                elif isinstance(command, commands.Log):
                    self.logged += command.message
                elif isinstance(command, commands.StartHook):
                    self.flows.append(command.args()[0])
                    waiting.append(events.HookCompleted(command))
