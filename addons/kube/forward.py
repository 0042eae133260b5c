"""Port-forward through the guard: each connection on record, what goes into it searched; and which stream is which."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson
from wsproto.frame_protocol import Opcode

from addons.kube.outbound import StreamSearch
from addons.kube.relay import KubeStream
from addons.kube.streams import STREAMS, Exec, Messages, Stream
from addons.web.port import Ended
from protocols.contract import RecordFailed, Side
from protocols.kubernetes.channels import ExecWebSocket, Piece, PortCarried, PortFailed, PortOpened
from protocols.kubernetes.errors import StreamError
from protocols.kubernetes.spdystreams import ExecSpdy, PortForwardSpdy

if TYPE_CHECKING:
    from addons.kube.exchange import KubeExchange

log = logging.getLogger("sluicegate.kubernetes")


def stream_of(exchange: KubeExchange) -> KubeStream:
    """The tunnel of an upgraded exchange. Raises `Ended` for what is not decoded."""
    assert exchange.info is not None
    websocket = exchange.upgrade == "websocket"
    if exchange.info.subresource == "portforward":
        return PortForward(exchange, websocket=websocket)
    if exchange.info.subresource in STREAMS:
        return Exec(exchange, ExecWebSocket(exchange.protocol) if websocket else ExecSpdy())
    raise Ended(f"`{exchange.upgrade}` is not taken for this request")


class PortForward(Stream):
    """A port-forward: each connection is on record with its port and the bytes in each direction, not their content."""

    def __init__(self, exchange: KubeExchange, *, websocket: bool) -> None:
        super().__init__(exchange)
        self._stream = PortForwardSpdy()
        self._websocket = websocket
        self._up = Messages(from_client=True)
        self._down = Messages(from_client=False)
        self._open: dict[tuple[int, str], list[int]] = {}
        self._searches: dict[tuple[int, str], StreamSearch] = {}
        self._ended: dict[tuple[int, str], set[Side]] = {}
        self._how = "the connection was closed"

    @property
    def due_ns(self) -> int | None:
        return None

    def tick(self, now_ns: int) -> tuple[bytes, bytes]:
        return b"", b""

    def parting(self) -> bytes:
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
            self._session.runtime.recorder.flush()

    def _carried(self, side: Side, event: PortCarried) -> None:
        place = (event.port, event.request)
        counts = self._open.get(place)
        if counts is None:
            return
        if side is Side.CLIENT:
            # two programs talk here: none of them waits for what the other has not finished
            self._searches.setdefault(place, StreamSearch(self._exchange, waits=False)).feed(event.data, 0)
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
        self._searches.pop(place, None)
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
