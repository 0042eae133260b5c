"""What follows on an HTTP connection once it is no longer HTTP: WebSocket messages, and TLS that is not opened."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from addons.web.content import AnswerMask, TextMask, Unreadable, applies
from addons.web.inspect import AT_ONCE, Looked
from addons.web.port import Ended
from guard.detect.expose import Effort
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
        self._still_granted()
        self._sent += len(data)
        return b"", data

    def server(self, data: bytes) -> tuple[bytes, bytes]:
        self._still_granted()
        self._received += len(data)
        return data, b""

    def _still_granted(self) -> None:
        if why := self._exchange.no_longer():
            self._exchange.cut(why)
            raise Ended(why)

    def lost(self) -> None:
        self._exchange.tunnelled(self._sent, self._received)


class Half:
    """One direction: frames of one peer in, whole messages out, and the same messages as frames for the other.

    `most`: bytes of one message.
    """

    def __init__(self, *, from_client: bool, most: int = _MAX_MESSAGE) -> None:
        self._most = most
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
        if self._size > self._most:
            raise Ended(f"a WebSocket message is larger than {self._most} bytes")
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


type Message = tuple[Opcode, bytes, bytes]


def _each(messages: Sequence[Message], judge: Callable[[Opcode, bytes, bytes], bytes]) -> bytes:
    """What goes on of messages that are complete. Raises `Ended` with what passed before it."""
    out: list[bytes] = []
    try:
        for opcode, payload, frame in messages:
            out.append(judge(opcode, payload, frame))
    except Ended as e:
        e.passed = b"".join(out)
        raise
    return b"".join(out)


async def _each_aside(messages: Sequence[Message], judge: Callable[[Opcode, bytes, bytes], Awaitable[bytes]]) -> bytes:
    """The same where judging takes its time."""
    out: list[bytes] = []
    try:
        for opcode, payload, frame in messages:
            out.append(await judge(opcode, payload, frame))
    except Ended as e:
        e.passed = b"".join(out)
        raise
    return b"".join(out)


def _is_large(messages: Sequence[Message]) -> bool:
    return sum(len(payload) for _, payload, _ in messages) > AT_ONCE


class WebSocketTunnel:
    """Each message is judged as a whole before any of it goes on, recorded, and framed anew.

    A value may be spread over messages: each is judged together with the end of what went before in its direction. Of a
    value that is found so, what went before has arrived already. What is large is looked at in a thread, or bit by bit:
    nobody else waits for it.
    """

    def __init__(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        self._gone_up, self._gone_down = _Recent(), _Recent()
        self._up = Half(from_client=True)
        self._down = Half(from_client=False)
        self._sent = self._received = 0

    # ------------------------------------------------------------ to the upstream

    def client(self, data: bytes) -> tuple[bytes, bytes] | Awaitable[tuple[bytes, bytes]]:
        messages = self._up.feed(data)
        outbound = self._exchange.gate.outbound
        looked: list[Looked] = []
        for _, payload, _ in messages if not _is_large(messages) else ():
            if (one := outbound.look_at_once(self._session, payload)) is None:
                break
            looked.append(one)
        if len(looked) < len(messages):
            return self._client_aside(messages)
        found = iter([outbound.body(self._session, one) for one in looked])
        return b"", _each(messages, lambda opcode, payload, frame: self._let_out(opcode, payload, frame, next(found)))

    async def _client_aside(self, messages: Sequence[Message]) -> tuple[bytes, bytes]:
        return b"", await _each_aside(messages, self._outgoing_aside)

    async def _outgoing_aside(self, opcode: Opcode, payload: bytes, frame: bytes) -> bytes:
        session = self._session
        found, _ = await self._exchange.gate.outbound.large_body(session, payload)
        if why := session.end_reason:
            raise Ended(why)  # while it was looked at
        return self._let_out(opcode, payload, frame, found)

    def _let_out(self, opcode: Opcode, payload: bytes, frame: bytes, found: frozenset[Effect]) -> bytes:
        exchange = self._exchange
        if payload:
            found |= self._spread(exchange.gate.outbound, self._session, payload)
            self._gone_up.add(payload)
        why = exchange.may_pass(found) or exchange.no_longer()
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._sent += len(payload)
            self._record(True, payload, found, stopped=bool(why))
        if why:
            exchange.cut(f"a message is refused: {why}")
            raise Ended(f"a message is refused: {why}")
        return frame

    @property
    def _session(self) -> HttpSession:
        session = self._exchange.session
        assert session is not None
        return session

    def _spread(self, outbound: Outbound, session: HttpSession, payload: bytes) -> frozenset[Effect]:
        """What is only found once a message stands behind what went before."""
        before = self._gone_up.texts()
        if not before:
            return frozenset()
        begin = payload[:_OVERLAP]
        together = b"\n".join(text + begin for text in before)
        found = outbound.body(session, outbound.look(together, Effort(budget=4 * len(together))))
        if not found:
            return found
        alone = b"\n".join(before)
        return found - outbound.body(session, outbound.look(alone, Effort(budget=4 * len(alone))))

    # ------------------------------------------------------------ to the client

    def server(self, data: bytes) -> tuple[bytes, bytes] | Awaitable[tuple[bytes, bytes]]:
        messages = self._down.feed(data)
        if _is_large(messages):
            return self._server_aside(messages)
        return _each(messages, self._incoming), b""

    async def _server_aside(self, messages: Sequence[Message]) -> tuple[bytes, bytes]:
        return await _each_aside(messages, self._incoming_aside), b""

    def _incoming(self, opcode: Opcode, payload: bytes, frame: bytes) -> bytes:
        self._still_granted()
        if opcode not in (Opcode.TEXT, Opcode.BINARY):
            return frame
        out = [piece for piece in self._masked(opcode, payload) if piece]
        return self._let_in(opcode, payload, frame, b"".join(out))

    async def _incoming_aside(self, opcode: Opcode, payload: bytes, frame: bytes) -> bytes:
        self._still_granted()
        if opcode not in (Opcode.TEXT, Opcode.BINARY):
            return frame
        out: list[bytes] = []
        for piece in self._masked(opcode, payload):
            out.append(piece)
            await asyncio.sleep(0)
        return self._let_in(opcode, payload, frame, b"".join(out))

    def _still_granted(self) -> None:
        """For what comes. Of what goes `_let_out` asks, and puts on record what is stopped."""
        if why := self._exchange.no_longer():
            self._exchange.cut(why)
            raise Ended(why)

    def _let_in(self, opcode: Opcode, payload: bytes, frame: bytes, masked: bytes) -> bytes:
        self._received += len(masked)
        self._record(False, masked, frozenset())
        return frame if masked == payload else self._down.frame(opcode, masked)

    def _masked(self, opcode: Opcode, payload: bytes) -> Iterator[bytes]:
        """A message with the masks of this request's answers, bit by bit. Raises `Ended` where that cannot be done."""
        session, analysis = self._session, self._exchange.masked_as()
        if not any(applies(rule, analysis) for rule in session.policy.masks):
            yield payload
            return
        before = self._gone_down.texts()
        self._gone_down.add(payload)
        kind = "application/octet-stream"
        if opcode is Opcode.TEXT:
            kind = "application/json" if payload.lstrip()[:1] in (b"{", b"[", b'"') else "text/plain"
        try:
            crossing = 0
            if before and (texts := TextMask.of(session, analysis, self._exchange.noted)) is not None:
                crossing = max(texts.crossing(text, payload[:_OVERLAP]) for text in before)
            if crossing:  # it begins in the middle of a value: it is no document of its own
                kind = "text/plain"
            mask = AnswerMask.of(session, analysis, {"content-type": kind}, self._exchange.noted)
            if mask is None:
                yield payload
                return
            yield WITHHELD * bool(crossing)
            for at in range(crossing, len(payload), AT_ONCE):
                yield mask.feed(payload[at : at + AT_ONCE])
            yield mask.end()
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
