"""HTTP/2 with windows: what one side sends waits at its sender until the other side takes it.

mitmproxy opens windows of 2 GiB and gives every byte back as soon as it has come, so what the other side does not take
would pile up in the gateway. Here a window is small, and is given back once the other side has room (RFC 9113 section
5.2). HTTP/1 has no windows: an upstream's socket is left alone while an HTTP/2 client takes nothing of its answer.

INVARIANT: of one client connection, in each direction, at most `CONNECTION_WINDOW` bytes wait in here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from mitmproxy import connection
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http import _http1 as http1

from addons.web.h2 import CONNECTION_WINDOW, STREAM_WINDOW, ClientHttp2, Room, UpstreamHttp2, Windowed
from addons.web.port import Commands

if TYPE_CHECKING:
    from addons.web.layer import GuardedLayer
    from addons.web.port import Exchange
    from addons.web.stream import GuardedStream

__all__ = ["CONNECTION_WINDOW", "STREAM_WINDOW", "ClientHttp2", "Flow", "Room", "UpstreamHttp2", "Windowed"]

_FULL = 1 << 18  # bytes of a stream that may wait for the other side before its sender gets no more room


class Flow:
    """The windows of one client connection and of the upstreams behind it."""

    def __init__(self, owner: GuardedLayer) -> None:
        self._owner = owner
        self._client: ClientHttp2 | None = None
        self._upstreams: dict[connection.Connection, UpstreamHttp2 | http1.Http1Client] = {}
        self._left_alone: set[connection.Connection] = set()
        self._moved = asyncio.Event()

    def client(self, codec: ClientHttp2) -> ClientHttp2:
        self._client = codec
        codec.h2_conn.full = self._upstream_full
        codec.flooded = self._owner.gate.flooded
        return codec

    def joined(self, server: connection.Connection) -> None:
        """A connection to an upstream is there."""
        found: Any = self._owner.connections[server]
        while isinstance(found, layer.Layer):
            if isinstance(found, HttpClient):
                self._adopt(server, found.child_layer)
                return
            found = getattr(found, "child_layer", None)

    def _adopt(self, server: connection.Connection, codec: layer.Layer) -> None:
        if isinstance(codec, UpstreamHttp2):
            codec.h2_conn.full = lambda ours: self._client_full(codec.their_stream_id.get(ours, 0))
        if isinstance(codec, UpstreamHttp2 | http1.Http1Client):
            self._upstreams[server] = codec

    def left(self, server: connection.Connection) -> None:
        """A connection to an upstream is gone."""
        self._upstreams.pop(server, None)
        self._left_alone.discard(server)

    def _waiting(self, stream_id: int) -> int:
        stream = self._owner.streams.get(stream_id)
        codec = None if stream is None else self._upstreams.get(stream.context.server)
        return codec.waiting(stream_id) if isinstance(codec, UpstreamHttp2) else 0

    def _upstream_full(self, stream_id: int) -> bool:
        stream = self._owner.streams.get(stream_id)
        return stream is not None and cast("GuardedStream", stream).queued + self._waiting(stream_id) > _FULL

    def _client_full(self, stream_id: int) -> bool:
        return self._client is not None and self._client.h2_conn.waiting(stream_id) > _FULL

    def leaving(self, server: connection.Connection) -> bool:
        """Whether an upstream finishes what it has begun on this connection, and takes nothing more."""
        codec = self._upstreams.get(server)
        return isinstance(codec, UpstreamHttp2) and codec.leaving

    def forget(self, stream_id: int) -> None:
        """A stream is over on both sides."""
        if self._client is not None:
            self._client.forget(stream_id)
        for codec in self._upstreams.values():
            if isinstance(codec, UpstreamHttp2):
                codec.forget(stream_id)

    async def pace(self, exchange: Exchange, stream_id: int) -> None:
        """Returns once the upstream has taken enough of what was sent, or is gone."""
        await exchange.pace()
        while self._waiting(stream_id) > _FULL and self._connected(stream_id):
            self._moved.clear()
            await self._moved.wait()

    def _connected(self, stream_id: int) -> bool:
        stream = self._owner.streams.get(stream_id)
        if stream is None or not self._owner.context.client.connected or not stream.context.server.connected:
            return False
        return not cast("GuardedStream", stream).gave_up()

    def balance(self) -> Commands:
        """After each event: gives back what there is room for, and leaves alone whom there is none for."""
        client = self._client
        if client is None:
            return
        self._moved.set()
        if client.h2_conn.withheld:
            yield from self._owner.event_to_child(client, Room())
        for server, codec in list(self._upstreams.items()):
            if not server.connected:
                self.left(server)
            elif isinstance(codec, UpstreamHttp2):
                if codec.h2_conn.withheld or (codec.leaving and codec.idle):
                    yield from self._owner.event_to_child(self._owner.connections[server], Room())
            else:
                self._press(server, full=codec.stream_id is not None and self._client_full(codec.stream_id))

    def _press(self, server: connection.Connection, *, full: bool) -> None:
        if full:
            # each time: the reader between the socket and us lets go of it once its own buffer is empty
            self._left_alone.add(server)
            self._owner.gate.pause(True, server)
        elif server in self._left_alone:
            self._left_alone.discard(server)
            self._owner.gate.pause(False, server)
