"""What exec, attach and port-forward carry, whatever the transport, and the channel protocols over WebSockets.

A message of `v4.channel.k8s.io` is a byte that names the channel, and data. `v5` adds 255, by which a client closes a
channel. Source: KEP-4006, and Kubernetes' reference for `pods/exec`. Older versions (no exit status) and
the base64 forms are refused: every client that has them has these too.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.contract import Side
from protocols.kubernetes.errors import RequestRefused, StreamError

V4 = "v4.channel.k8s.io"
V5 = "v5.channel.k8s.io"
PORT_FORWARD_TUNNEL = "SPDY/3.1+portforward.k8s.io"
PORT_FORWARD = "portforward.k8s.io"  # the version that port-forward over plain SPDY asks for

MAX_MESSAGE = 1024 * 1024  # bytes; clients and servers send at most 32 KiB and the channel's byte
MAX_STATUS = 64 * 1024
MAX_RESIZE = 1024


class Channel(enum.IntEnum):
    """Their numbers over WebSockets; over SPDY they are streams with a `streamtype`."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4
    CLOSE = 255


@dataclass(frozen=True, slots=True)
class Carried:
    """Data of stdin (from the client), stdout or stderr. `last`: the sender closes the channel with it."""

    channel: Channel
    data: bytes
    last: bool = False


@dataclass(frozen=True, slots=True)
class Resized:
    """The client's terminal, in characters."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The server's last words: exit code 0, the command's own, or -1 where it could not be run."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class PortOpened:
    """The client opens a connection to a port of the pod; `request` tells several to the same port apart."""

    port: int
    request: str


@dataclass(frozen=True, slots=True)
class PortCarried:
    port: int
    request: str
    data: bytes
    last: bool = False
    stream: int = field(default=0, compare=False)  # the transport's own


@dataclass(frozen=True, slots=True)
class PortFailed:
    port: int
    request: str
    message: str


type Event = Carried | Resized | Finished | PortOpened | PortCarried | PortFailed


@dataclass(frozen=True, slots=True)
class Piece:
    """One message or frame: the bytes as they came, and what they carry (nothing: the transport's own business).

    A caller that changes an event's data sends what the stream makes of it in place of `wire`.
    """

    wire: bytes
    events: tuple[Event, ...] = ()


def choose(offered: Sequence[str]) -> str:
    """The best exec protocol of those that a client offers. Raises `RequestRefused` where it has none that is taken."""
    for protocol in (V5, V4):
        if protocol in offered:
            return protocol
    raise RequestRefused(f"exec and attach are taken as {V5} or {V4}: use kubectl 1.30 or later", 400)


def choose_port_forward(offered: Sequence[str]) -> str:
    """The one WebSocket protocol for port-forward in which connections can be told apart."""
    if PORT_FORWARD_TUNNEL in offered:
        return PORT_FORWARD_TUNNEL
    raise RequestRefused(f"port-forward is taken as {PORT_FORWARD_TUNNEL}: use kubectl 1.31 or later", 400)


class Resizes:
    """The resize channel: JSON objects one after the other, cut anywhere."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, data: bytes) -> list[Resized]:
        try:
            self._text += data.decode("ascii")
        except UnicodeDecodeError:
            raise StreamError("a terminal size that is not json") from None
        found: list[Resized] = []
        while (text := self._text.lstrip()).find("}") >= 0:
            try:
                size, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                raise StreamError("a terminal size that is not json") from None
            found.append(_resized(size))
            self._text = text[end:]
        self._text = self._text.lstrip()
        if len(self._text) > MAX_RESIZE:
            raise StreamError("a terminal size that does not end")
        return found


def _resized(size: Any) -> Resized:
    if not isinstance(size, dict):
        raise StreamError("a terminal size that is no object")
    width, height = size.get("Width", 0), size.get("Height", 0)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 0xFFFF for n in (width, height)):
        raise StreamError("a terminal size out of range")
    return Resized(width, height)


def read_status(data: bytes) -> Finished:
    """The Status on the error channel. Raises `StreamError` for what is none: its outcome would be a guess."""
    try:
        status = json.loads(data)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict) or status.get("status") not in ("Success", "Failure"):
        raise StreamError("the error channel carries no status")
    if status["status"] == "Success":
        return Finished(0, "")
    message = status.get("message")
    return Finished(_exit_code(status), message if isinstance(message, str) else "")


def _exit_code(status: dict[str, Any]) -> int:
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else []:
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            text = cause.get("message")
            if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 10:
                return int(text)
    return -1


class ExecWebSocket:
    """Both directions of an exec or attach over a WebSocket. Each call takes one whole message."""

    def __init__(self, protocol: str) -> None:
        if protocol not in (V4, V5):
            raise StreamError("an exec protocol that was not offered")
        self._v5 = protocol == V5
        self._resizes = Resizes()
        self._stdin_closed = False
        self.finished = False

    def client(self, message: bytes) -> Piece:
        """A client's message, binary or (as UTF-8) text: the official Python client sends text as such."""
        channel, data = _message(message)
        match channel:
            case Channel.STDIN:
                if self._stdin_closed and data:
                    raise StreamError("data on a channel that is closed")
                return Piece(message, (Carried(Channel.STDIN, data),) if data else ())
            case Channel.RESIZE:
                return Piece(message, tuple(self._resizes.feed(data)))
            case Channel.CLOSE if self._v5:
                if data != bytes([Channel.STDIN]):
                    raise StreamError("a client closes a channel that is not its own")
                self._stdin_closed = True
                return Piece(message, (Carried(Channel.STDIN, b"", last=True),))
        raise StreamError(f"a client sends on channel {channel}")

    def server(self, message: bytes, *, text: bool = False) -> Piece:
        if text:
            raise StreamError("a text message of a server: channels carry binary ones")
        channel, data = _message(message)
        if self.finished and data:
            raise StreamError("data behind the final status")
        match channel:
            case Channel.STDOUT | Channel.STDERR:
                # the first message is empty: it says that the stream is there
                return Piece(message, (Carried(Channel(channel), data),) if data else ())
            case Channel.ERROR:
                if not data:
                    return Piece(message)
                if len(data) > MAX_STATUS:
                    raise StreamError("a status that is too long")
                finished = read_status(data)
                self.finished = True
                return Piece(message, (finished,))
            case Channel.CLOSE if self._v5 and data and data[0] in (Channel.STDOUT, Channel.STDERR, Channel.ERROR):
                return Piece(message)
        raise StreamError(f"a server sends on channel {channel}")

    @staticmethod
    def encode(side: Side, event: Carried) -> list[bytes]:
        """The messages by which `side` says this, in place of those that came."""
        if not event.data and not event.last:
            return []
        messages = [
            bytes([event.channel]) + event.data[at : at + MAX_MESSAGE - 1]
            for at in range(0, len(event.data), MAX_MESSAGE - 1)
        ]
        if event.last and side is Side.CLIENT:
            messages.append(bytes([Channel.CLOSE, event.channel]))
        return messages

    @staticmethod
    def ending(status: bytes) -> list[bytes]:
        """The last words to a client, a Status; the close of the WebSocket follows."""
        return [bytes([Channel.ERROR]) + status]


def _message(message: bytes) -> tuple[int, bytes]:
    if not message:
        raise StreamError("a message without a channel")
    if len(message) > MAX_MESSAGE:
        raise StreamError("a message longer than is read")
    return message[0], message[1:]


__all__ = [
    "PORT_FORWARD", "PORT_FORWARD_TUNNEL", "V4", "V5", "Carried", "Channel", "Event", "ExecWebSocket", "Finished",
    "Piece", "PortCarried", "PortFailed", "PortOpened", "Resized", "Resizes", "Side", "choose", "choose_port_forward",
    "read_status",
]  # fmt: skip
