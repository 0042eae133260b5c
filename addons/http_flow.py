"""HTTP/2 with windows: what one side sends waits at its sender until the other side takes it.

mitmproxy opens windows of 2 GiB and gives every byte back as soon as it has come, so what the other side does not take
would pile up in the gateway. Here a window is small, and is given back once the other side has room (RFC 9113 section
5.2). HTTP/1 has no windows: an upstream's socket is left alone while an HTTP/2 client takes nothing of its answer.

INVARIANT: of one client connection, in each direction, at most `CONNECTION_WINDOW` bytes wait in here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, cast

from h2 import events as h2_events
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _http1 as http1
from mitmproxy.proxy.layers.http import _http2 as http2
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection

from addons.http_port import Commands
from addons.http_resets import Resets

if TYPE_CHECKING:
    from addons.http_layer import GuardedLayer
    from addons.http_port import Exchange
    from addons.http_stream import GuardedStream

STREAM_WINDOW = 1 << 20  # bytes that a peer may send on one stream before we give room back
CONNECTION_WINDOW = 1 << 23  # ... and on all streams of a connection
_FULL = 1 << 18  # bytes of a stream that may wait for the other side before its sender gets no more room


class Room(events.Event):
    """There may be room again: windows that were withheld are given back."""


class Windowed(BufferedH2Connection):
    """`full` says whether what comes on a stream waits in here already."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.local_settings.initial_window_size = STREAM_WINDOW
        self.local_settings.acknowledge()
        self.withheld: dict[int, int] = {}  # stream -> bytes that came and are not given back
        self.full: Callable[[int], bool] = lambda _stream: False

    def initiate_connection(self) -> None:
        H2Connection.initiate_connection(self)  # mitmproxy's own would open the connection's window to its utmost
        self.increment_flow_control_window(CONNECTION_WINDOW - self.inbound_flow_control_window)

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        if stream_id in self.withheld or self.full(stream_id):
            self.withheld[stream_id] = self.withheld.get(stream_id, 0) + acknowledged_size
        else:
            super().acknowledge_received_data(acknowledged_size, stream_id)

    def give_back(self) -> None:
        for stream, size in list(self.withheld.items()):
            if not self.full(stream):
                del self.withheld[stream]
                super().acknowledge_received_data(size, stream)

    def waiting(self, stream_id: int) -> int:
        """Bytes that the peer has not taken yet."""
        return sum(len(piece.data) for piece in self.stream_buffers.get(stream_id, ()))


class _Codec(http2.Http2Connection):
    """What both sides have in common."""

    h2_conn: Windowed

    def done(self, _: events.Event) -> Commands:
        """It is closed: whatever still comes."""
        yield from ()

    def _room(self) -> Commands:
        self.h2_conn.give_back()
        if data := self.h2_conn.data_to_send():
            yield commands.SendData(self.conn, data)


class ClientHttp2(_Codec, http2.Http2Server):
    """The client's connection."""

    def __init__(self, context: context.Context) -> None:
        super().__init__(context)
        self.h2_conn = Windowed(self.h2_conf)
        self.resets = Resets(time.monotonic)
        self.flooded: Callable[[str], None] = lambda _: None

    def _handle_event(self, event: events.Event) -> Commands:
        yield from self._room() if isinstance(event, Room) else super()._handle_event(event)

    def handle_h2_event(self, event: Any) -> Generator[commands.Command, Any, bool]:
        if isinstance(event, h2_events.StreamReset) and not self.resets.one():
            self.flooded(f"{self.resets.total} streams of its connection were opened and reset")
            yield from self.protocol_error("too many streams were reset", ErrorCodes.ENHANCE_YOUR_CALM)
            return True
        return (yield from super().handle_h2_event(event))


class UpstreamHttp2(_Codec, http2.Http2Client):
    """The upstream's connection."""

    def __init__(self, context: context.Context) -> None:
        super().__init__(context)
        self.h2_conn = Windowed(self.h2_conf)
        self.h2_conn.local_settings.enable_push = 0
        self.h2_conn.local_settings.acknowledge()

    def _handle_event(self, event: events.Event) -> Commands:
        yield from self._room() if isinstance(event, Room) else super()._handle_event(event)

    def waiting(self, stream_id: int) -> int:
        """Bytes of a client's stream that the upstream has not taken yet."""
        ours = self.our_stream_id.get(stream_id)
        if ours is not None:
            return self.h2_conn.waiting(ours)
        queue = self.stream_queue.get(stream_id, ())  # the upstream takes no more streams for now
        return sum(len(event.data) for event in queue if isinstance(event, http_events.RequestData))


# mitmproxy chooses the class in the middle of a method, and tells the peer its windows at once
cast(Any, http_layers).Http2Client = UpstreamHttp2


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

    def _waiting(self, stream_id: int) -> int:
        stream = self._owner.streams.get(stream_id)
        codec = None if stream is None else self._upstreams.get(stream.context.server)
        return codec.waiting(stream_id) if isinstance(codec, UpstreamHttp2) else 0

    def _upstream_full(self, stream_id: int) -> bool:
        stream = self._owner.streams.get(stream_id)
        return stream is not None and cast("GuardedStream", stream).queued + self._waiting(stream_id) > _FULL

    def _client_full(self, stream_id: int) -> bool:
        return self._client is not None and self._client.h2_conn.waiting(stream_id) > _FULL

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
                del self._upstreams[server]
                self._left_alone.discard(server)
            elif isinstance(codec, UpstreamHttp2):
                if codec.h2_conn.withheld:
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
