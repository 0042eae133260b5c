"""mitmproxy's HTTP layers with the guard beneath its hooks.

mitmproxy parses and writes HTTP/1, HTTP/2 and TLS, keeps connections and fires its hooks. Between its codecs and its
stream machine stand `GuardedLayer` and `GuardedStream`: a request is looked at before any hook sees it (the token is
gone by then), nothing of it goes upstream before the verdict, what goes is the request that was judged, with the
credential for the upstream added behind the last hook, and what comes back is judged and masked before any hook or the
flow list can see it.

INVARIANT: an exception in here, or in what it asks, ends the exchange with an error; nothing is forwarded.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers import tls
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

from addons.web.flow import ClientHttp2, Flow
from addons.web.port import (
    Collect,
    Commands,
    Ended,
    Exchange,
    Forward,
    Gate,
    Opaque,
    Refuse,
    SluicegateStepHook,
    Step,
    Tunnel,
    Verdict,
)
from addons.web.quick import install
from addons.web.relay import TunnelLayer
from addons.web.stream import GuardedStream
from addons.web.wire import ClientSide, bound_server, quiet

__all__ = [
    "Collect",
    "Ended",
    "Exchange",
    "Forward",
    "Gate",
    "GuardedLayer",
    "Inner",
    "Opaque",
    "Refuse",
    "SluicegateStepHook",
    "Step",
    "Tunnel",
    "TunnelLayer",
    "Verdict",
]

log = logging.getLogger("sluicegate.http")

install()

_TOGETHER = 1 << 16  # bytes that are joined to be sent at once
_MAX_QUEUED = 1 << 18  # bytes of a client's that may wait in here before its socket is not read any more


class GuardedLayer(HttpLayer):
    """mitmproxy's HTTP layer with guarded streams. `tunnelled`: the CONNECT target that it lies in."""

    def __init__(
        self, context: context.Context, mode: HTTPMode, gate: Gate, tunnelled: tuple[str, int] | None = None
    ) -> None:
        super().__init__(context, mode)
        self.gate = gate
        self.tunnelled = tunnelled
        self._pressed = False
        self.tunnels = False  # a stream is one, or takes its time: what its upstream sends may have to wait here, too
        self._held_up: set[connection.Connection] = set()  # upstreams whose sockets are left alone for now
        self._gone: dict[int, GuardedStream] = {}  # streams that are done with
        self._closed: set[connection.Connection] = set()  # to upstreams; each of them has a stack of layers
        self.flow = Flow(self)

    def inner(self, context: context.Context, target: tuple[str, int]) -> layer.Layer:
        return Inner(context, self.gate, target)

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            http2 = self.context.client.alpn == b"h2"
            context = self.context.fork()
            codec = self.flow.client(ClientHttp2(context)) if http2 else ClientSide(context, self.gate.refusal)
            self.connections[self.context.client] = codec
        elif isinstance(event, events.ConnectionEvent) and self._is_forgotten(event.connection):
            return
        try:
            yield from together(super()._handle_event(event))
            if isinstance(event, events.ConnectionClosed) and event.connection is not self.context.client:
                self._closed.add(event.connection)
            if self._gone or self._closed:
                self._forget()
            yield from self.flow.balance()
        except Exception:
            log.exception("a client's connection ended by an internal error")
            yield commands.CloseConnection(self.context.client)
        arrived = isinstance(event, events.DataReceived) and (self.tunnels or event.connection == self.context.client)
        if arrived or self._pressed or self._held_up:
            self._press_back()

    def _press_back(self) -> None:
        """While something is waited for, what goes on being sent must not fill the memory."""
        streams = [cast(GuardedStream, stream) for stream in self.streams.values()]
        flooded: set[connection.Connection] = {
            stream.context.server for stream in streams if stream.queued_down > _MAX_QUEUED
        }
        for upstream in flooded | self._held_up:
            self.gate.pause(upstream in flooded, upstream)
        self._held_up = flooded
        client = self.connections.get(self.context.client)
        if not isinstance(client, ClientSide):
            return  # it has windows
        pressed = client.waiting + sum(stream.queued for stream in streams) > _MAX_QUEUED
        if pressed or self._pressed:
            # each time: the reader between the socket and us lets go of it once its own buffer is empty
            self._pressed = pressed
            self.gate.pause(pressed)

    def done_with(self, stream: GuardedStream) -> None:
        if stream.stream_id >= 0:
            self._gone[stream.stream_id] = stream

    def _forget(self) -> None:
        gone, self._gone = self._gone, {}
        for stream_id, stream in gone.items():
            self.flow.forget(stream_id)
            stream.take_apart()
        if self._closed:
            used = {stream.context.server for stream in self.streams.values()}
            for server in self._closed - used:
                self.connections.pop(server, None)
                self.flow.left(server)
            self._closed &= used

    def _is_forgotten(self, server: connection.Connection) -> bool:
        return server not in self.connections and server not in (self.context.client, self.context.server)

    def make_stream(self, stream_id: int) -> Commands:
        stream = GuardedStream(self.context.fork(), stream_id, self)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def register_connection(self, command: Any) -> Commands:
        if command.err:
            self._closed.add(command.connection)
        else:
            bound_server(self.connections[command.connection])
            self.flow.joined(command.connection)
        yield from super().register_connection(command)

    def event_to_child(self, child: layer.Layer, event: events.Event) -> Commands:
        for command in super().event_to_child(child, event):
            yield quiet(command) if isinstance(command, commands.Log) else command


class _Held:
    """What goes to one connection in a row: a head and its body, mostly."""

    def __init__(self) -> None:
        self._to: connection.Connection | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, command: commands.SendData) -> Commands:
        if self._to is not command.connection or self._size + len(command.data) > _TOGETHER:
            yield from self.release()
        self._to = command.connection
        self._pieces.append(command.data)
        self._size += len(command.data)

    def release(self) -> Commands:
        to, pieces = self._to, self._pieces
        if to is not None:
            self._to, self._pieces, self._size = None, [], 0
            yield commands.SendData(to, pieces[0] if len(pieces) == 1 else b"".join(pieces))


def together(steps: Commands) -> Commands:
    """The same commands in the same order, with what goes to one connection in a row sent at once."""
    held = _Held()
    try:
        for command in steps:
            if isinstance(command, commands.SendData):
                yield from held.add(command)
            else:
                yield from held.release()
                yield command
    except Exception:
        yield from held.release()  # it was on its way
        raise
    yield from held.release()


class Inner(layer.Layer):
    """What a client sends through CONNECT: TLS, which is opened, or HTTP in the clear. Nothing else passes."""

    def __init__(self, context: context.Context, gate: Gate, target: tuple[str, int]) -> None:
        super().__init__(context)
        self._gate = gate
        self._target = target
        self._child: layer.Layer | None = None

    def _handle_event(self, event: events.Event) -> Commands:
        if self._child is not None:
            yield from self._child.handle_event(event)
        elif isinstance(event, events.DataReceived):
            if event.data[:1] == b"\x16":
                child: layer.Layer = tls.ClientTLSLayer(self.context)
                cast(Any, child).child_layer = GuardedLayer(
                    self.context.fork(), HTTPMode.transparent, self._gate, self._target
                )
                self.context.server.tls = True
            elif event.data[:1].isalpha():
                child = GuardedLayer(self.context.fork(), HTTPMode.transparent, self._gate, self._target)
            else:
                log.info("neither TLS nor HTTP in a tunnel to %s:%d: closed", *self._target)
                yield commands.CloseConnection(self.context.client)
                return
            self._child = child
            yield from child.handle_event(events.Start())
            yield from child.handle_event(event)
        elif isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(event.connection)
