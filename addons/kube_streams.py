"""Exec, attach and port-forward through the guard: decoded, recorded, masked, ended at once.

The command was judged before the stream opened. Here nothing is decided by what passes: a terminal can be made to show
anything. What cannot be decoded ends the stream; output goes out through its masks only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson
from mitmproxy import http
from wsproto.frame_protocol import FrameProtocol, Opcode

from addons.http_content import applies
from addons.http_layer import Ended
from addons.http_tunnels import Half
from addons.kube_cast import Cast, InputTooLong
from addons.kube_relay import KubeStream
from guard.detect import DetectError, Kind, Scanner
from guard.mask.bodies import BodyError, ContentRule, mask_of
from guard.mask.bodies.rules import Contents
from guard.mask.bodies.text_body import TextMasker
from guard.record.errors import RecordError
from protocols.contract import RecordFailed, Side
from protocols.kubernetes.channels import (
    PORT_FORWARD,
    PORT_FORWARD_TUNNEL,
    V4,
    V5,
    Carried,
    ExecWebSocket,
    Finished,
    Piece,
    PortCarried,
    PortFailed,
    PortOpened,
    Resized,
    choose,
    choose_port_forward,
)
from protocols.kubernetes.errors import RequestRefused, StreamError
from protocols.kubernetes.output import MaskedOutput, Masker, Shown
from protocols.kubernetes.requests import RequestInfo
from protocols.kubernetes.spdystreams import ExecSpdy, PortForwardSpdy
from protocols.kubernetes.status import stream_status

if TYPE_CHECKING:
    from addons.kube_exchange import KubeExchange

log = logging.getLogger("sluicegate.kubernetes")

STREAMS = frozenset({"exec", "attach", "portforward"})
_WS_PROTOCOL, _SPDY_PROTOCOL = "sec-websocket-protocol", "x-stream-protocol-version"
_WS_EXTENSIONS = "sec-websocket-extensions"


def is_stream(info: RequestInfo) -> bool:
    """Whether this request opens one of our streams."""
    return info.resource_request and not info.group and info.resource == "pods" and info.subresource in STREAMS


def agree(info: RequestInfo, upgrade: str, headers: http.Headers) -> str:
    """The one stream protocol that is offered to the upstream, put into `headers`. Raises RequestRefused."""
    headers.pop(_WS_EXTENSIONS, None)  # a compressed message cannot be read
    if upgrade == "websocket":
        offered = [part.strip() for value in headers.get_all(_WS_PROTOCOL) for part in value.split(",")]
        chosen = choose_port_forward(offered) if info.subresource == "portforward" else choose(offered)
        headers[_WS_PROTOCOL] = chosen
        return chosen
    if upgrade == "spdy/3.1":
        offered = [part.strip() for value in headers.get_all(_SPDY_PROTOCOL) for part in value.split(",")]
        chosen = PORT_FORWARD if info.subresource == "portforward" else V4
        if chosen not in offered:
            raise RequestRefused(f"over spdy `{info.subresource}` is taken as {chosen} only")
        headers[_SPDY_PROTOCOL] = chosen
        return chosen
    raise RequestRefused(f"`{info.subresource}` needs an upgrade to WebSocket or SPDY/3.1")


def agreed(chosen: str, upgrade: str, response: http.Response) -> bool:
    """Whether the upstream has switched to what was offered to it, and to nothing else."""
    headers = response.headers
    name = _WS_PROTOCOL if upgrade == "websocket" else _SPDY_PROTOCOL
    return (
        headers.get("upgrade", "").lower() == upgrade
        and headers.get_all(name) == [chosen]
        and _WS_EXTENSIONS not in headers
    )


def stream_of(exchange: KubeExchange) -> KubeStream:
    """The tunnel of an upgraded exchange. Raises `Ended` for what is not decoded."""
    assert exchange.info is not None
    websocket = exchange.upgrade == "websocket"
    if exchange.info.subresource == "portforward":
        return PortForward(exchange, websocket=websocket)
    if exchange.info.subresource in STREAMS:
        return Exec(exchange, ExecWebSocket(exchange.protocol) if websocket else ExecSpdy())
    raise Ended(f"`{exchange.upgrade}` is not taken for this request")


class _Unmasked:
    """Where no rule masks."""

    def feed(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _maskers(exchange: KubeExchange) -> Callable[[], Masker]:
    """How this identity sees the output of commands. Raises `Ended`: it cannot be masked, so nothing is shown."""
    session, analysis = exchange.session, exchange.analysis
    assert session is not None
    assert analysis is not None
    rules = [rule for rule in session.policy.masks if rule.detectors and applies(rule, analysis)]
    key = session.runtime.mask_key
    try:
        contents = Contents.of([ContentRule(rule.detectors, mask_of(rule, key)) for rule in rules])
    except (BodyError, DetectError) as e:
        raise Ended(f"the output is withheld: {e}") from None
    if contents is None:
        return _Unmasked
    return lambda: TextMasker(contents)


_scanner: Scanner | None = None


def _credentials() -> Scanner:
    global _scanner
    if _scanner is None:
        _scanner = Scanner([Kind.CREDENTIAL])
    return _scanner


class _Messages:
    """The messages of one side of a WebSocket, and messages of ours in their place."""

    def __init__(self, *, from_client: bool) -> None:
        self._half = Half(from_client=from_client)
        self._frames = FrameProtocol(client=from_client, extensions=[])

    def feed(self, data: bytes) -> list[tuple[Opcode, bytes, bytes]]:
        return self._half.feed(data)

    def frame(self, payload: bytes) -> bytes:
        return bytes(self._frames.send_data(payload, fin=True))

    def close(self) -> bytes:
        return bytes(self._frames.close(1000, ""))


class _Stream:
    """What exec and port-forward have in common."""

    def __init__(self, exchange: KubeExchange) -> None:
        assert exchange.session is not None
        self._exchange = exchange
        self._session = exchange.session
        self._sent = self._received = 0
        self._over = False
        self._detach: Callable[[], None] | None = None

    def begun(self, cut: Callable[[str], None]) -> None:
        self._detach = self._exchange.running(cut)

    def lost(self) -> None:
        if self._over:
            return
        self._over = True
        if self._detach is not None:
            self._detach()
        try:
            self._closing()
        finally:
            self._exchange.tunnelled(self._sent, self._received)

    def _closing(self) -> None:
        raise NotImplementedError


class Exec(_Stream):
    """An exec or attach over either transport."""

    def __init__(self, exchange: KubeExchange, stream: ExecWebSocket | ExecSpdy) -> None:
        super().__init__(exchange)
        self._stream = stream
        self._up = _Messages(from_client=True)
        self._down = _Messages(from_client=False)
        self._output = MaskedOutput(stream, _maskers(exchange))
        info = exchange.info
        assert info is not None
        title = f"{info.subresource} {info.namespace}/{info.name}" + (f" -c {info.container}" if info.container else "")
        command = exchange.redacted(" ".join(info.command))
        self._cast = Cast(self._session, exchange.number, title, command, _credentials())
        self._how = "the connection was lost"

    @property
    def due_ns(self) -> int | None:
        return self._output.due_ns

    def client(self, data: bytes) -> tuple[bytes, bytes]:
        self._exchange.still_granted()
        out: list[bytes] = []
        try:
            if isinstance(self._stream, ExecSpdy):
                for piece in self._stream.client(data):
                    self._typed(piece)
                    out.append(piece.wire)
            else:
                for opcode, payload, frame in self._up.feed(data):
                    if opcode in (Opcode.TEXT, Opcode.BINARY):
                        self._typed(self._stream.client(payload))
                    out.append(frame)
            self._cast.flush()
        except (StreamError, InputTooLong) as e:
            raise Ended(str(e)) from None
        except RecordFailed as e:
            log.error("input is not forwarded: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None
        return b"", b"".join(out)

    def _typed(self, piece: Piece) -> None:
        for event in piece.events:
            if isinstance(event, Carried) and event.data:
                self._sent += len(event.data)
                self._cast.input(event.data)
            elif isinstance(event, Resized):
                self._cast.resized(event.columns, event.rows)

    def server(self, data: bytes) -> tuple[bytes, bytes]:
        self._exchange.still_granted()
        out: list[bytes] = []
        now = time.time_ns()
        try:
            if isinstance(self._stream, ExecSpdy):
                pieces = self._stream.server(data)
                self._ends(pieces)
                out += self._shown(self._output.server(pieces, now))
            else:
                for opcode, payload, frame in self._down.feed(data):
                    if opcode in (Opcode.TEXT, Opcode.BINARY):
                        piece = self._stream.server(payload, text=opcode is Opcode.TEXT)
                        self._ends([piece])
                        out += self._shown(self._output.server([piece], now))
                        continue
                    if opcode is Opcode.CLOSE:
                        out += self._shown(self._output.end())
                    out.append(frame)
        except StreamError as e:
            raise Ended(str(e)) from None
        except RecordFailed as e:
            log.error("output is not forwarded: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None
        except DetectError as e:
            raise Ended(f"the output is withheld: {e}") from None
        return b"".join(out), b""

    def _ends(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            for event in piece.events:
                if isinstance(event, Finished):
                    self._how = f"exit code {event.code}" if event.code >= 0 else "the command could not be run"

    def _shown(self, shown: Shown) -> list[bytes]:
        """What goes to the client, on record."""
        for channel, data in shown.output:
            self._received += len(data)
            self._cast.output(channel, data)
        if isinstance(self._stream, ExecSpdy):
            return shown.wire
        return [self._down.frame(message) for message in shown.wire]

    def tick(self, now_ns: int) -> bytes:
        try:
            said = b"".join(self._shown(self._output.tick(now_ns)))
            self._cast.pause()
        except RecordFailed as e:
            log.error("output is not forwarded: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None
        return said

    def ending(self) -> bytes:
        try:
            return b"".join(self._shown(self._output.end()))
        except RecordFailed as e:
            raise Ended("the gateway cannot record; nothing passes until it can") from e

    def farewell(self, why: str) -> bytes:
        self._how = f"ended by the gateway: {why}"
        status = stream_status(403, f"ended by the gateway: {why}")
        if isinstance(self._stream, ExecSpdy):
            return b"".join(self._stream.ending(status))
        return b"".join([*map(self._down.frame, self._stream.ending(status)), self._down.close()])

    def _closing(self) -> None:
        self._exchange.outcome(self._how)
        self._cast.end(self._how)


class PortForward(_Stream):
    """A port-forward: each connection is on record with its port and the bytes in each direction, not their content."""

    def __init__(self, exchange: KubeExchange, *, websocket: bool) -> None:
        super().__init__(exchange)
        self._stream = PortForwardSpdy()
        self._websocket = websocket
        self._up = _Messages(from_client=True)
        self._down = _Messages(from_client=False)
        self._open: dict[tuple[int, str], list[int]] = {}
        self._ended: dict[tuple[int, str], set[Side]] = {}
        self._how = "the connection was closed"

    @property
    def due_ns(self) -> int | None:
        return None

    def tick(self, now_ns: int) -> bytes:
        return b""

    def ending(self) -> bytes:
        return b""

    def client(self, data: bytes) -> tuple[bytes, bytes]:
        try:
            return b"", self._pass(Side.CLIENT, data)
        except StreamError as e:
            raise Ended(str(e)) from None
        except RecordFailed as e:
            log.error("a port is not forwarded: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None

    def server(self, data: bytes) -> tuple[bytes, bytes]:
        try:
            return self._pass(Side.UPSTREAM, data), b""
        except StreamError as e:
            raise Ended(str(e)) from None
        except RecordFailed as e:
            log.error("a port is not forwarded: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None

    def _pass(self, side: Side, data: bytes) -> bytes:
        self._exchange.still_granted()
        take = self._stream.client if side is Side.CLIENT else self._stream.server
        if not self._websocket:
            pieces = take(data)
            self._look(side, pieces)
            return b"".join(piece.wire for piece in pieces)
        out: list[bytes] = []
        messages = self._up if side is Side.CLIENT else self._down
        for opcode, payload, frame in messages.feed(data):
            if opcode is Opcode.TEXT:
                raise StreamError("a text message in a tunnel of frames")
            if opcode is not Opcode.BINARY:
                out.append(frame)
                continue
            pieces = take(payload)
            self._look(side, pieces)
            wire = b"".join(piece.wire for piece in pieces)
            if wire:
                out.append(messages.frame(wire))
        return b"".join(out)

    def _look(self, side: Side, pieces: list[Piece]) -> None:
        opened = False
        for piece in pieces:
            for event in piece.events:
                if isinstance(event, PortOpened):
                    self._open[event.port, event.request] = [0, 0]
                    self._ended[event.port, event.request] = set()
                    self._note(event.port, event.request, "opened")
                    opened = True
                elif isinstance(event, PortCarried):
                    self._carried(side, event)
                elif isinstance(event, PortFailed):
                    self._note(event.port, event.request, "failed", why=event.message[:200])
        if opened:
            try:
                self._session.runtime.recorder.flush()
            except RecordError as e:
                raise RecordFailed(str(e)) from e

    def _carried(self, side: Side, event: PortCarried) -> None:
        place = (event.port, event.request)
        counts = self._open.get(place)
        if counts is None:
            return
        if side is Side.CLIENT:
            self._sent += len(event.data)
            counts[0] += len(event.data)
        else:
            self._received += len(event.data)
            counts[1] += len(event.data)
        if event.last:
            self._ended[place].add(side)
            if len(self._ended[place]) == 2:
                self._closed(place)

    def _closed(self, place: tuple[int, str]) -> None:
        sent, received = self._open.pop(place)
        self._ended.pop(place)
        self._note(*place, "closed", sent=sent, received=received)

    def _note(self, port: int, request: str, what: str, **more: object) -> None:
        body = {"t": "forward", "at": self._session.now_ns(), "s": self._session.id, "n": self._exchange.number}
        body |= {"port": port, "request": request, "what": what, **more}
        self._session.record("forward", orjson.dumps(body))

    def farewell(self, why: str) -> bytes:
        self._how = f"ended by the gateway: {why}"
        wire = b"".join(self._stream.ending(f"ended by the gateway: {why}"))
        if not self._websocket:
            return wire
        return self._down.frame(wire) + self._down.close()

    def _closing(self) -> None:
        for place in list(self._open):
            self._closed(place)
        self._exchange.outcome(self._how)


__all__ = ["PORT_FORWARD_TUNNEL", "STREAMS", "V5", "Exec", "PortForward", "agree", "agreed", "is_stream", "stream_of"]
