"""Exec, attach and port-forward over SPDY/3.1, bare or tunnelled through a WebSocket's binary messages.

The client opens every stream and says what it is in headers: `streamtype` (error, stdin, stdout, stderr, resize; for
port-forward data and error, with `port` and `requestid`). A server that opens one, data on a stream that its sender
only reads, a type twice: each ends the session. Nothing of a stream that is gone passes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from protocols.contract import Side
from protocols.kubernetes import spdy
from protocols.kubernetes.channels import (
    MAX_STATUS,
    Carried,
    Channel,
    Event,
    Piece,
    PortCarried,
    PortFailed,
    PortOpened,
    Resizes,
    read_status,
)
from protocols.kubernetes.errors import StreamError

MAX_PORT_STREAMS = 1024  # open at once; two to a connection
MAX_DATA = 64 * 1024  # bytes of a frame that is made here

_CANCEL = 5
_TYPES = {"stdin": Channel.STDIN, "stdout": Channel.STDOUT, "stderr": Channel.STDERR, "error": Channel.ERROR,
          "resize": Channel.RESIZE}  # fmt: skip
_CLIENT_SENDS = frozenset({Channel.STDIN, Channel.RESIZE})


class _Ended(enum.Flag):
    NONE = 0
    CLIENT = enum.auto()
    SERVER = enum.auto()
    BOTH = CLIENT | SERVER


@dataclass(slots=True)
class _Stream:
    number: int
    headers: spdy.Pairs
    ended: _Ended = _Ended.NONE
    text: bytearray = field(default_factory=bytearray)  # of an error stream, until it ends


class _Session:
    """What all of these have in common: frames both ways, and the streams that are open."""

    def __init__(self) -> None:
        self._decoders = {side: spdy.Decoder() for side in Side}
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._broken = False

    @property
    def buffered(self) -> int:
        return sum(decoder.buffered for decoder in self._decoders.values())

    def client(self, data: bytes) -> list[Piece]:
        return self._take(Side.CLIENT, data)

    def server(self, data: bytes) -> list[Piece]:
        return self._take(Side.UPSTREAM, data)

    def _take(self, side: Side, data: bytes) -> list[Piece]:
        if self._broken:
            raise StreamError("the stream has ended")
        pieces: list[Piece] = []
        try:
            for frame, raw in self._decoders[side].feed(data):
                pieces.append(self._frame(side, frame, raw))
        except StreamError:
            self._broken = True
            raise
        return pieces

    def _frame(self, side: Side, frame: spdy.Frame, raw: bytes) -> Piece:
        match frame:
            case spdy.SynStream():
                return self._open(side, frame, raw)
            case spdy.SynReply() | spdy.Headers():
                if frame.stream > self._last:
                    raise StreamError("an answer to a stream that nobody opened")
                if isinstance(frame, spdy.Headers) or side is Side.CLIENT:
                    raise StreamError("headers that no peer of this kind sends")
                return self._carry(side, frame.stream, b"", frame.fin, raw)
            case spdy.Data():
                return self._carry(side, frame.stream, frame.data, frame.fin, raw)
            case spdy.RstStream():
                if frame.stream > self._last:
                    raise StreamError("a reset of a stream that nobody opened")
                gone = self._streams.pop(frame.stream, None)
                # what it would have said at its end
                return Piece(raw, self._ends(gone, Side.UPSTREAM) if gone else ())
        return Piece(raw)

    def _open(self, side: Side, frame: spdy.SynStream, raw: bytes) -> Piece:
        if side is not Side.CLIENT:
            raise StreamError("a server opens a stream")
        if not frame.stream % 2 or frame.stream <= self._last:
            raise StreamError("a client's streams have odd and rising numbers")
        if frame.unidirectional or frame.associated:
            raise StreamError("a stream of a kind that is not used")
        self._last = frame.stream
        stream = _Stream(frame.stream, frame.headers, _Ended.CLIENT if frame.fin else _Ended.NONE)
        events = self._opened(stream)
        self._streams[frame.stream] = stream
        return Piece(raw, events)

    def _carry(self, side: Side, number: int, data: bytes, fin: bool, raw: bytes) -> Piece:
        stream = self._streams.get(number)
        if stream is None:
            if number > self._last:
                raise StreamError("data of a stream that nobody opened")
            return Piece(b"")  # still under way when its stream was reset: nobody reads it
        mark = _Ended.CLIENT if side is Side.CLIENT else _Ended.SERVER
        if mark in stream.ended:
            raise StreamError("data behind the end of its stream")
        events = self._carried(side, stream, data, fin) if data or fin else ()
        if fin:
            stream.ended |= mark
            if stream.ended == _Ended.BOTH:
                del self._streams[number]
        return Piece(raw, events)

    def _opened(self, stream: _Stream) -> tuple[Event, ...]:
        raise NotImplementedError

    def _carried(self, side: Side, stream: _Stream, data: bytes, fin: bool) -> tuple[Event, ...]:
        raise NotImplementedError

    def _ends(self, stream: _Stream, side: Side) -> tuple[Event, ...]:
        """A stream is reset: what has to be said about it."""
        return ()

    @staticmethod
    def _frames(number: int, data: bytes, last: bool) -> list[bytes]:
        encode = spdy.Encoder().encode  # data frames do not touch the compression
        pieces = [data[at : at + MAX_DATA] for at in range(0, len(data), MAX_DATA)] or ([b""] if last else [])
        return [encode(spdy.Data(number, p, last and n == len(pieces) - 1)) for n, p in enumerate(pieces)]

    def _find(self, wanted: Callable[[_Stream], bool]) -> int:
        for number, stream in self._streams.items():
            if wanted(stream):
                return number
        return 0

    def _goodbye(self) -> list[bytes]:
        encode = spdy.Encoder().encode
        return [
            *(encode(spdy.RstStream(number, _CANCEL)) for number in self._streams),
            encode(spdy.GoAway(self._last, 0)),
        ]


class ExecSpdy(_Session):
    """Both directions of an exec or attach."""

    def __init__(self) -> None:
        super().__init__()
        self._resizes = Resizes()
        self._seen: dict[Channel, int] = {}
        self.finished = False

    def _opened(self, stream: _Stream) -> tuple[Event, ...]:
        channel = _TYPES.get(stream.headers.get("streamtype", ""))
        if channel is None:
            raise StreamError("an exec stream of a type that is not known")
        if channel in self._seen:
            raise StreamError("an exec stream of a type that is there already")
        self._seen[channel] = self._last
        return ()

    def _carried(self, side: Side, stream: _Stream, data: bytes, fin: bool) -> tuple[Event, ...]:
        channel = _TYPES[stream.headers["streamtype"]]
        if (side is Side.CLIENT) != (channel in _CLIENT_SENDS):
            if data:
                raise StreamError("data on a stream that its sender only reads")
            return ()
        if channel is Channel.RESIZE:
            return tuple(self._resizes.feed(data))
        if channel is not Channel.ERROR:
            return (Carried(channel, data, fin),)
        return self._status(stream, data, fin)

    def _status(self, stream: _Stream, data: bytes, fin: bool) -> tuple[Event, ...]:
        stream.text += data
        if len(stream.text) > MAX_STATUS:
            raise StreamError("a status that is too long")
        if not fin or not stream.text:
            return ()
        self.finished = True
        return (read_status(bytes(stream.text)),)

    def encode(self, event: Carried) -> list[bytes]:
        """The frames that say this in place of those that came. Empty when its stream is gone."""
        number = self._seen.get(event.channel, 0)
        return self._frames(number, event.data, event.last) if number else []

    def ending(self, status: bytes) -> list[bytes]:
        """The last words to a client, a Status on its error stream; then every stream is reset."""
        number = self._find(lambda stream: stream.headers.get("streamtype") == "error")
        said = self._frames(number, status, last=True) if number else []
        self._streams.pop(number, None)
        self._broken = True
        return [*said, *self._goodbye()]


class PortForwardSpdy(_Session):
    """Both directions of a port-forward. `allowed` names the ports that a client may open; None: any."""

    def __init__(self, allowed: frozenset[int] | None = None) -> None:
        super().__init__()
        self._allowed = allowed

    def _opened(self, stream: _Stream) -> tuple[Event, ...]:
        kind = stream.headers.get("streamtype")
        if kind not in ("data", "error"):
            raise StreamError("a port-forward stream of a type that is not known")
        if len(self._streams) >= MAX_PORT_STREAMS:
            raise StreamError("too many port-forward connections at once")
        port, request = _port(stream), stream.headers.get("requestid", "")
        if not request.isascii() or not request.isalnum() or len(request) > 20:
            raise StreamError("a port-forward stream without a request id")
        if self._find(lambda other: (*_place(other), other.headers["streamtype"]) == (port, request, kind)):
            raise StreamError("a port-forward stream that is there already")
        if self._allowed is not None and port not in self._allowed:
            raise StreamError(f"port {port} was not granted")
        return (PortOpened(port, request),) if kind == "data" else ()

    def _carried(self, side: Side, stream: _Stream, data: bytes, fin: bool) -> tuple[Event, ...]:
        port, request = _place(stream)
        if stream.headers["streamtype"] == "data":
            return (PortCarried(port, request, data, fin, stream.number),)
        if side is Side.CLIENT:
            if data:
                raise StreamError("data on a stream that its sender only reads")
            return ()
        stream.text += data
        if len(stream.text) > MAX_STATUS:
            raise StreamError("an error that is too long")
        return (PortFailed(port, request, stream.text.decode(errors="replace")),) if fin and stream.text else ()

    def _ends(self, stream: _Stream, side: Side) -> tuple[Event, ...]:
        if stream.headers["streamtype"] != "data":
            return ()
        return (PortCarried(*_place(stream), b"", True, stream.number),)

    def encode(self, event: PortCarried) -> list[bytes]:
        """The frames that say this in place of those that came."""
        return self._frames(event.stream, event.data, event.last)

    def ending(self, message: str) -> list[bytes]:
        """The last words to a client: every connection fails with this text."""
        said: list[bytes] = []
        for number, stream in list(self._streams.items()):
            if stream.headers["streamtype"] == "error" and _Ended.SERVER not in stream.ended:
                said += self._frames(number, message.encode(), last=True)
                del self._streams[number]
        self._broken = True
        return [*said, *self._goodbye()]


def _place(stream: _Stream) -> tuple[int, str]:
    return _port(stream), stream.headers.get("requestid", "")


def _port(stream: _Stream) -> int:
    text = stream.headers.get("port", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 65_535):
        raise StreamError("a port-forward stream without a port")
    return int(text)
