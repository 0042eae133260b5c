"""What follows on an HTTP connection once it is no longer HTTP: WebSocket messages, and TLS that is not opened."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from addons.http_content import leaks
from addons.http_layer import Ended

if TYPE_CHECKING:
    from addons.http_exchange import HttpExchange

log = logging.getLogger("sluicegate.http")

_MAX_MESSAGE = 16 * 1024 * 1024  # bytes of one WebSocket message: it is judged whole


class OpaqueTunnel:
    """Bytes that a rule lets pass unopened: counted, nothing else."""

    def __init__(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        self._sent = self._received = 0

    def client(self, data: bytes) -> tuple[bytes, bytes]:
        self._sent += len(data)
        return b"", data

    def server(self, data: bytes) -> tuple[bytes, bytes]:
        self._received += len(data)
        return data, b""

    def lost(self) -> None:
        self._exchange.tunnelled(self._sent, self._received)


class _Half:
    """One direction: frames of one peer in, whole messages out, and the same messages as frames for the other."""

    def __init__(self, *, from_client: bool) -> None:
        self._in = FrameProtocol(client=not from_client, extensions=[])
        self._out = FrameProtocol(client=from_client, extensions=[])
        self._parts: list[bytes] = []
        self._size = 0
        self._opcode: Opcode | None = None

    def feed(self, data: bytes) -> list[tuple[Opcode, bytes, bytes]]:
        """(kind, payload, frame for the other side) of each message and control frame. Raises `Ended`."""
        found: list[tuple[Opcode, bytes, bytes]] = []
        self._in.receive_bytes(data)
        try:
            for frame in self._in.received_frames():
                payload: Any = frame.payload
                if frame.opcode in (Opcode.PING, Opcode.PONG):
                    raw = bytes(payload)
                    send = self._out.ping if frame.opcode is Opcode.PING else self._out.pong
                    found.append((frame.opcode, raw, bytes(send(raw))))
                elif frame.opcode is Opcode.CLOSE:
                    code, reason = payload
                    code = None if code == CloseReason.NO_STATUS_RCVD else code
                    found.append((frame.opcode, (reason or "").encode(), bytes(self._out.close(code, reason))))
                else:
                    self._collect(frame.opcode, payload, found, done=frame.message_finished)
        except (ParseFailed, ValueError, UnicodeError) as e:
            raise Ended(f"the peer broke the WebSocket protocol: {e}") from None
        return found

    def _collect(
        self, opcode: Opcode, payload: str | bytes, found: list[tuple[Opcode, bytes, bytes]], *, done: bool
    ) -> None:
        raw = payload.encode() if isinstance(payload, str) else bytes(payload)
        if self._opcode is None:
            self._opcode = opcode
        self._parts.append(raw)
        self._size += len(raw)
        if self._size > _MAX_MESSAGE:
            raise Ended(f"a WebSocket message is larger than {_MAX_MESSAGE} bytes")
        if done:
            whole, kind = b"".join(self._parts), self._opcode
            self._parts, self._size, self._opcode = [], 0, None
            text = kind is Opcode.TEXT
            frame = self._out.send_data(whole.decode() if text else whole, fin=True)
            found.append((kind, whole, bytes(frame)))


class WebSocketTunnel:
    """Each message is judged as a whole before any of it goes on, recorded, and framed anew."""

    def __init__(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        self._up = _Half(from_client=True)
        self._down = _Half(from_client=False)
        self._sent = self._received = 0

    def client(self, data: bytes) -> tuple[bytes, bytes]:
        out = []
        session = self._exchange.session
        assert session is not None
        for opcode, payload, frame in self._up.feed(data):
            if opcode in (Opcode.TEXT, Opcode.BINARY):
                found = leaks(session, None, payload)
                self._sent += len(payload)
                self._exchange.message(True, payload, sorted(found))
                if found:
                    raise Ended(f"the message holds what must not leave: {', '.join(sorted(found))}")
            out.append(frame)
        return b"", b"".join(out)

    def server(self, data: bytes) -> tuple[bytes, bytes]:
        out = []
        for opcode, payload, frame in self._down.feed(data):
            if opcode in (Opcode.TEXT, Opcode.BINARY):
                self._received += len(payload)
                self._exchange.message(False, payload, [])
            out.append(frame)
        return b"".join(out), b""

    def lost(self) -> None:
        self._exchange.tunnelled(self._sent, self._received)
