"""What follows on an HTTP connection once it is no longer HTTP: WebSocket messages, and TLS that is not opened."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from addons.web.content import AnswerMask, TextMask, Unreadable, applies
from addons.web.port import Ended
from guard.mask.bodies.rules import WITHHELD
from protocols.contract import Effect, RecordFailed

if TYPE_CHECKING:
    from addons.web.exchange import HttpExchange
    from addons.web.inspect import Outbound
    from addons.web.live import HttpSession

log = logging.getLogger("sluicegate.http")

_OVERLAP = 512  # bytes of what went before in the same direction that a message is judged with
_MESSAGES = 40  # ... and messages: somebody may type it
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


class Half:
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
            found.append((kind, whole, self.frame(kind, whole)))

    def frame(self, kind: Opcode, whole: bytes) -> bytes:
        """One message as one frame for the other side."""
        return bytes(self._out.send_data(whole.decode() if kind is Opcode.TEXT else whole, fin=True))


class _Recent:
    """The ends of the last messages of one direction: a value may begin in any of them, at its very beginning too."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque(maxlen=_MESSAGES)

    def add(self, payload: bytes) -> None:
        if payload:
            self._pieces.append(payload[-_OVERLAP:])

    def texts(self) -> list[bytes]:
        """What went before, from the beginning of each of them."""
        found: list[bytes] = []
        text = b""
        for piece in reversed(self._pieces):
            text = (piece + text)[-_OVERLAP:]
            found.append(text)
            if len(text) == _OVERLAP:
                break
        return found


def _each(half: Half, data: bytes, judge: Callable[[Opcode, bytes, bytes], bytes]) -> bytes:
    """What goes on of the messages that are complete now. Raises `Ended` with what passed before it."""
    out: list[bytes] = []
    try:
        for opcode, payload, frame in half.feed(data):
            out.append(judge(opcode, payload, frame))
    except Ended as e:
        e.passed = b"".join(out)
        raise
    return b"".join(out)


class WebSocketTunnel:
    """Each message is judged as a whole before any of it goes on, recorded, and framed anew.

    A value may be spread over messages: each is judged together with the end of what went before in its direction. Of a
    value that is found so, what went before has arrived already.
    """

    def __init__(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        self._gone_up, self._gone_down = _Recent(), _Recent()
        self._up = Half(from_client=True)
        self._down = Half(from_client=False)
        self._sent = self._received = 0

    def client(self, data: bytes) -> tuple[bytes, bytes]:
        return b"", _each(self._up, data, self._outgoing)

    def _outgoing(self, opcode: Opcode, payload: bytes, frame: bytes) -> bytes:
        exchange = self._exchange
        session = exchange.session
        assert session is not None
        found: frozenset[Effect] = frozenset()
        if payload:  # the payload of a ping and the reason of a close go out, too
            outbound = exchange.gate.outbound
            found = outbound.body(session, outbound.look(payload))
            found |= self._spread(outbound, session, payload)
            self._gone_up.add(payload)
        why = exchange.may_pass(found)
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._sent += len(payload)
            self._record(True, payload, found, stopped=bool(why))
        if why:
            raise Ended(f"a message is refused: {why}")
        return frame

    def _spread(self, outbound: Outbound, session: HttpSession, payload: bytes) -> frozenset[Effect]:
        """What is only found once a message stands behind what went before."""
        before = self._gone_up.texts()
        if not before:
            return frozenset()
        begin = payload[:_OVERLAP]
        together = outbound.body(session, outbound.look(b"\n".join(text + begin for text in before)))
        return together - outbound.body(session, outbound.look(b"\n".join(before))) if together else together

    def server(self, data: bytes) -> tuple[bytes, bytes]:
        return _each(self._down, data, self._incoming), b""

    def _incoming(self, opcode: Opcode, payload: bytes, frame: bytes) -> bytes:
        if opcode not in (Opcode.TEXT, Opcode.BINARY):
            return frame
        masked = self._masked(opcode, payload)
        self._received += len(masked)
        self._record(False, masked, frozenset())
        return frame if masked == payload else self._down.frame(opcode, masked)

    def _masked(self, opcode: Opcode, payload: bytes) -> bytes:
        """A message with the masks of this request's answers. Raises `Ended` where that cannot be done."""
        session, analysis = self._exchange.session, self._exchange.analysis
        assert session is not None
        assert analysis is not None
        if not any(applies(rule, analysis) for rule in session.policy.masks):
            return payload
        before = self._gone_down.texts()
        self._gone_down.add(payload)
        kind = "application/octet-stream"
        if opcode is Opcode.TEXT:
            kind = "application/json" if payload.lstrip()[:1] in (b"{", b"[", b'"') else "text/plain"
        try:
            crossing = 0
            if before and (texts := TextMask.of(session, analysis)) is not None:
                crossing = max(texts.crossing(text, payload[:_OVERLAP]) for text in before)
            if crossing:  # it begins in the middle of a value: it is no document of its own
                kind = "text/plain"
            mask = AnswerMask.of(session, analysis, {"content-type": kind})
            if mask is None:
                return payload
            return WITHHELD * bool(crossing) + mask.feed(payload[crossing:]) + mask.end()
        except Unreadable as e:
            raise Ended(f"a message is withheld: {e}") from None

    def _record(self, from_client: bool, payload: bytes, found: frozenset[Effect], *, stopped: bool = False) -> None:
        try:
            self._exchange.message(from_client, payload, sorted(found), stopped=stopped)
        except RecordFailed as e:
            log.error("a message is not passed on: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None

    def lost(self) -> None:
        self._exchange.tunnelled(self._sent, self._received)
