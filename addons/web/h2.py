"""mitmproxy's HTTP/2 codecs with bounds, as `addons.web.wire` has them for HTTP/1.

Windows are small, what serves nothing is counted, an upstream that leaves finishes what it has begun, and what a peer
says is quoted nowhere. What is given back when, `addons.web.flow` decides.

INVARIANT: nothing that a peer sent is quoted, neither to the other peer nor in the log.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from typing import Any, cast

from h2 import events as h2_events
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import DenialOfServiceError, FrameTooLargeError
from hyperframe import frame as frames
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _http2 as http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection

from addons.web.port import Commands, Said
from addons.web.resets import Idle, Resets

STREAM_WINDOW = 1 << 20  # bytes that a peer may send on one stream before we give room back
CONNECTION_WINDOW = 1 << 23  # ... and on all streams of a connection
MAX_INTERIM = 16  # interim answers (1xx) before the real one
MAX_TABLE = 1 << 16  # bytes of header fields that we remember for a peer, whatever it allows: looking one up takes time
_STATUS = re.compile(rb"[2-9][0-9]{2}\Z")
_SERVES = (frames.DataFrame, frames.HeadersFrame)
_CLOSED = "the upstream closes its connection and takes no more requests on it: send it again"


class Room(events.Event):
    """There may be room again: windows that were withheld are given back. And who wants to leave may do so."""


class Leaving(h2_events.Event):
    """The peer finishes the streams up to `last`, and takes no more (RFC 9113 section 6.8)."""

    def __init__(self, last: int) -> None:
        self.last = last


class Windowed(BufferedH2Connection):
    """`full` says whether what comes on a stream waits in here already."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.local_settings.initial_window_size = STREAM_WINDOW
        self.local_settings.acknowledge()
        self.withheld: dict[int, int] = {}  # stream -> bytes that came and are not given back
        self.full: Callable[[int], bool] = lambda _stream: False
        self._idle = Idle(time.monotonic)

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

    def receive_data(self, data: bytes) -> list[h2_events.Event]:
        found: list[h2_events.Event] = super().receive_data(data)
        head = bytes(self.incoming_buffer._data[:3])
        # h2 would first wait for all of it: up to 16 MiB, of somebody who has not logged in
        if len(head) == 3 and int.from_bytes(head, "big") > self.max_inbound_frame_size:
            self._terminate_connection(ErrorCodes.FRAME_SIZE_ERROR)
            raise FrameTooLargeError("a frame above the size that was agreed")
        return found

    def _receive_frame(self, frame: frames.Frame) -> list[h2_events.Event]:
        if isinstance(frame, _SERVES) and (frame.data or "END_STREAM" in frame.flags):
            self._idle.served(1)
        elif not self._idle.one():
            raise DenialOfServiceError("frames without end that serve nothing")
        found: list[h2_events.Event] = super()._receive_frame(frame)
        if isinstance(frame, frames.SettingsFrame):
            self._bound_table()
        return found

    def _bound_table(self) -> None:
        encoder = self.encoder
        if encoder.header_table_size > MAX_TABLE:
            encoder.header_table_size = MAX_TABLE
        said = [min(size, MAX_TABLE) for size in encoder.table_size_changes]
        # of several changes the peer is told the smallest and the last (RFC 7541 section 4.2)
        encoder.table_size_changes = [min(said), said[-1]] if len(said) > 1 else said

    def _prepare_for_sending(self, frames_: list[frames.Frame]) -> None:
        # each piece that we send may be acknowledged, twice, and measured with a ping
        self._idle.served(sum(10 for frame in frames_ if isinstance(frame, _SERVES)))
        super()._prepare_for_sending(frames_)


class _Codec(http2.Http2Connection):
    """What both sides have in common."""

    h2_conn: Windowed

    def done(self, _: events.Event) -> Commands:
        """It is closed: whatever still comes."""
        yield from ()

    def _handle_event(self, event: events.Event) -> Commands:
        yield from self._room() if isinstance(event, Room) else super()._handle_event(event)

    def _room(self) -> Commands:
        self.h2_conn.give_back()
        if data := self.h2_conn.data_to_send():
            yield commands.SendData(self.conn, data)

    def handle_h2_event(self, event: Any) -> Generator[commands.Command, Any, bool]:
        if isinstance(event, h2_events.TrailersReceived | h2_events.UnknownFrameReceived):
            return False  # trailers could carry what the head may not
        if isinstance(event, h2_events.PriorityUpdated | h2_events.AlternativeServiceAvailable):
            return False
        return (yield from super().handle_h2_event(event))

    def protocol_error(self, message: str, error_code: int = ErrorCodes.PROTOCOL_ERROR) -> Commands:
        yield from super().protocol_error(_unquoted(message), error_code)

    def close_connection(self, msg: str) -> Commands:
        yield from super().close_connection(_unquoted(msg))

    def forget(self, stream_id: int) -> None:
        """Nothing comes of this stream any more: mitmproxy would keep an entry for each until the connection ends."""
        self.streams.pop(stream_id, None)


class ClientHttp2(_Codec, http2.Http2Server):
    """The client's connection."""

    def __init__(self, context: context.Context) -> None:
        super().__init__(context)
        self.h2_conn = Windowed(self.h2_conf)
        self.resets = Resets(time.monotonic)
        self.flooded: Callable[[str], None] = lambda _: None

    def handle_h2_event(self, event: Any) -> Generator[commands.Command, Any, bool]:
        if isinstance(event, h2_events.StreamReset) and not self.resets.one():
            self.flooded(f"{self.resets.total} streams of its connection were opened and reset")
            yield from self.protocol_error("too many streams were reset", ErrorCodes.ENHANCE_YOUR_CALM)
            return True
        if isinstance(event, DenialOfServiceError):
            self.flooded("its connection is full of HTTP/2 frames that serve nothing, or of headers")
        return (yield from super().handle_h2_event(event))


class _Upstream(Windowed):
    """A connection whose peer may announce that it leaves, and finish what it has begun.

    h2 takes every GOAWAY for the end of the connection. Servers send one after so many requests, or before they are
    restarted, and go on answering (nginx, Go's server, an API server with `--goaway-chance`).
    """

    def _receive_goaway_frame(self, frame: frames.GoAwayFrame) -> tuple[list[frames.Frame], list[h2_events.Event]]:
        if frame.error_code != ErrorCodes.NO_ERROR:
            found: tuple[list[frames.Frame], list[h2_events.Event]] = super()._receive_goaway_frame(frame)
            return found
        return [], [Leaving(frame.last_stream_id)]


class UpstreamHttp2(_Codec, http2.Http2Client):
    """The upstream's connection."""

    def __init__(self, context: context.Context) -> None:
        super().__init__(context)
        self.h2_conn = _Upstream(self.h2_conf)
        self.h2_conn.local_settings.enable_push = 0
        self.h2_conn.local_settings.acknowledge()
        self.leaving = False  # it takes no more requests
        self._interim: dict[int, int] = {}  # stream -> interim answers that have come on it
        self._over = False

    @property
    def idle(self) -> bool:
        return not self.our_stream_id and not self.stream_queue

    def _handle_event(self, event: events.Event) -> Commands:
        late = isinstance(event, http_events.HttpEvent) and event.stream_id not in self.our_stream_id
        if self.leaving and late:
            if isinstance(event, http_events.RequestHeaders):
                yield self._lost(event.stream_id, _CLOSED)
            return
        yield from super()._handle_event(event)
        if self._over or self.leaving:
            yield from self._turn_away()

    def _room(self) -> Commands:
        yield from super()._room()
        if self.leaving and self.idle and not self._over:
            yield from self.close_connection("the upstream has left")

    def _turn_away(self) -> Commands:
        """What waited for its turn on this connection: mitmproxy would let it wait for ever."""
        for theirs in [stream for stream in self.stream_queue if stream not in self.our_stream_id]:
            del self.stream_queue[theirs]
            yield self._lost(theirs, _CLOSED)

    def _lost(self, stream_id: int, why: str) -> ReceiveHttp:
        code = http_events.ErrorCode.GENERIC_SERVER_ERROR
        return ReceiveHttp(http_events.ResponseProtocolError(stream_id, Said(why), code))

    def handle_h2_event(self, event: Any) -> Generator[commands.Command, Any, bool]:
        if isinstance(event, Leaving):
            self.leaving = True
            for ours in [stream for stream in self.streams if stream > event.last]:
                yield from self._drop(ours, "the upstream leaves and has not looked at this request: send it again")
            return False
        if isinstance(event, h2_events.InformationalResponseReceived):
            count = self._interim[event.stream_id] = self._interim.get(event.stream_id, 0) + 1
            if count > MAX_INTERIM:
                yield from self._drop(event.stream_id, "the upstream sends interim answers without end")
            return False
        if isinstance(event, h2_events.ResponseReceived) and event.stream_id in self.streams:
            found = next((value for name, value in event.headers if name == b":status"), b"")
            if not _STATUS.match(found):
                yield from self._drop(event.stream_id, "the upstream's answer has no valid status")
                return False
        return (yield from super().handle_h2_event(event))

    def _drop(self, ours: int, why: str) -> Commands:
        """Gives up one stream; the others of the connection go on."""
        if ours not in self.streams:
            return
        del self.streams[ours]
        if not self.is_closed(ours):
            self.h2_conn.reset_stream(ours, ErrorCodes.CANCEL)
        yield self._lost(ours, why)

    def close_connection(self, msg: str) -> Commands:
        self._over = True
        yield from super().close_connection(msg)

    def waiting(self, stream_id: int) -> int:
        """Bytes of a client's stream that the upstream has not taken yet."""
        ours = self.our_stream_id.get(stream_id)
        if ours is not None:
            return self.h2_conn.waiting(ours)
        queue = self.stream_queue.get(stream_id, ())  # the upstream takes no more streams for now
        return sum(len(event.data) for event in queue if isinstance(event, http_events.RequestData))

    def forget(self, stream_id: int) -> None:
        self.stream_queue.pop(stream_id, None)
        ours = self.our_stream_id.pop(stream_id, None)
        if ours is not None:
            self.their_stream_id.pop(ours, None)
            self._interim.pop(ours, None)
            super().forget(ours)


def _unquoted(message: str) -> str:
    """Behind a colon mitmproxy says what came."""
    return message if isinstance(message, Said) else message.partition(":")[0]


# mitmproxy chooses the class in the middle of a method, and tells the peer its windows at once
cast(Any, http_layers).Http2Client = UpstreamHttp2
