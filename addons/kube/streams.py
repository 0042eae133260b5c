"""Exec and attach through the guard: decoded, recorded, masked, ended at once; and what all streams agree on.

The command was judged before the stream opened. Here nothing is decided by what passes: a terminal can be made to show
anything. What cannot be decoded ends the stream; output goes out through its masks only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mitmproxy import http
from wsproto.frame_protocol import FrameProtocol, Opcode

from addons.kube.cast import Cast, InputTooLong
from addons.kube.outbound import StreamSearch
from addons.web.content import applies, content_rules
from addons.web.layer import Ended
from addons.web.tunnels import Half
from guard.detect import DetectError, Kind, Scanner
from guard.mask.bodies import BodyError
from guard.mask.bodies.rules import Contents
from guard.mask.bodies.text_body import TextMasker
from protocols.contract import Effect, RecordFailed, Side
from protocols.kubernetes.channels import (
    MAX_MESSAGE,
    PORT_FORWARD,
    V4,
    Carried,
    Channel,
    ExecWebSocket,
    Finished,
    Piece,
    Resized,
    choose,
    choose_port_forward,
)
from protocols.kubernetes.errors import RequestRefused, StreamError
from protocols.kubernetes.output import MaskedOutput, Masker, Shown
from protocols.kubernetes.requests import RequestInfo
from protocols.kubernetes.spdystreams import ExecSpdy
from protocols.kubernetes.status import stream_status

if TYPE_CHECKING:
    from addons.kube.exchange import KubeExchange

log = logging.getLogger("sluicegate.kubernetes")

STREAMS = frozenset({"exec", "attach", "portforward"})
_WS_PROTOCOL, _SPDY_PROTOCOL = "sec-websocket-protocol", "x-stream-protocol-version"
_WS_EXTENSIONS = "sec-websocket-extensions"
_FRAME_HEADS = 1024  # bytes: what SPDY in a tunnel adds to a data frame


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


class _Unmasked:
    """Where no rule masks."""

    def feed(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _maskers(exchange: KubeExchange) -> Callable[[], Masker]:
    """How this identity sees the output of commands. Raises `Ended`: it cannot be masked, so nothing is shown."""
    session, analysis = exchange.session, exchange.masked_as()
    assert session is not None
    rules = [rule for rule in session.policy.masks if rule.detectors and applies(rule, analysis)]
    try:
        contents = Contents.of(content_rules(session, rules, exchange.noted))
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


class Messages:
    """The messages of one side of a WebSocket, and messages of ours in their place."""

    def __init__(self, *, from_client: bool) -> None:
        # searched in one piece, while others wait: far from the 16 MiB of other WebSockets
        self._half = Half(from_client=from_client, most=MAX_MESSAGE + _FRAME_HEADS)
        self._frames = FrameProtocol(client=from_client, extensions=[])

    def feed(self, data: bytes) -> list[tuple[Opcode, bytes, bytes]]:
        return self._half.feed(data)

    def frame(self, payload: bytes) -> bytes:
        return bytes(self._frames.send_data(payload, fin=True))

    def close(self) -> bytes:
        return bytes(self._frames.close(1000, ""))


class Stream:
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


class Exec(Stream):
    """An exec or attach over either transport."""

    def __init__(self, exchange: KubeExchange, stream: ExecWebSocket | ExecSpdy) -> None:
        super().__init__(exchange)
        self._stream = stream
        self._up = Messages(from_client=True)
        self._down = Messages(from_client=False)
        self._output = MaskedOutput(stream, _maskers(exchange))
        info = exchange.info
        assert info is not None
        title = f"{info.subresource} {info.namespace}/{info.name}" + (f" -c {info.container}" if info.container else "")
        command = exchange.redacted(" ".join(info.command))
        self._cast = Cast(self._session, exchange.number, title, command, _credentials())
        self._how = "the connection was lost"
        # what a person types must be seen at once; a program's input can wait for what follows
        self._search = StreamSearch(exchange, waits="tty" not in info.streams)

    @property
    def due_ns(self) -> int | None:
        return min((due for due in (self._output.due_ns, self._search.due_ns) if due is not None), default=None)

    def client(self, data: bytes) -> tuple[bytes, bytes]:
        self._exchange.still_granted()
        return b"", self._going(lambda: self._typed_bytes(data, time.time_ns()))

    def _going(self, made: Callable[[], bytes]) -> bytes:
        """What goes to the pod, in the journal before it goes. Raises `Ended`."""
        try:
            data = made()
            self._cast.flush()
        except (StreamError, InputTooLong) as e:
            raise Ended(str(e)) from None
        except RecordFailed as e:
            log.error("input is not forwarded: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None
        return data

    def _typed_bytes(self, data: bytes, now: int) -> bytes:
        if isinstance(self._stream, ExecSpdy):
            return b"".join(b"".join(self._typed(p, now, p.wire)) for p in self._stream.client(data))
        out: list[bytes] = []
        for opcode, payload, frame in self._up.feed(data):
            if opcode in (Opcode.TEXT, Opcode.BINARY):
                out += self._typed(self._stream.client(payload), now, frame)
            else:
                out.append(frame)
        return b"".join(out)

    def _typed(self, piece: Piece, now: int, wire: bytes) -> list[bytes]:
        """What goes on of a message: the bytes that came, unless its input is held back, or let go with more."""
        out: list[bytes] = []
        changed = False
        for event in piece.events:
            if isinstance(event, Carried):
                data = self._search.feed(event.data, now)
                self._kept(data)
                if event.last:
                    self._kept(rest := self._search.flush())
                    data += rest
                changed = changed or data != event.data
                out += self._said(Carried(Channel.STDIN, data, event.last))
            elif isinstance(event, Resized):
                self._cast.resized(event.columns, event.rows)
        return out if changed else [wire]

    def _kept(self, data: bytes) -> None:
        """Input that goes on is on record; what is masked for who types it, and personal data, only by its size."""
        if data:
            self._sent += len(data)
            hidden = {Effect.EXFIL_MASKED, Effect.EXFIL_PERSONAL}
            self._cast.input(data, shown=not hidden & self._search.found)

    def _said(self, event: Carried) -> list[bytes]:
        if isinstance(self._stream, ExecSpdy):
            return self._stream.encode(event)
        return [self._up.frame(message) for message in self._stream.encode(Side.CLIENT, event)]

    def _let_go(self, held: Callable[[], bytes]) -> bytes:
        def made() -> bytes:
            data = held()
            self._kept(data)
            return b"".join(self._said(Carried(Channel.STDIN, data)))

        return self._going(made)

    def parting(self) -> bytes:
        return self._let_go(self._search.flush)

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

    def tick(self, now_ns: int) -> tuple[bytes, bytes]:
        try:
            said = b"".join(self._shown(self._output.tick(now_ns)))
            self._cast.pause()
        except RecordFailed as e:
            log.error("output is not forwarded: %s", e)
            raise Ended("the gateway cannot record; nothing passes until it can") from None
        return said, self._let_go(lambda: self._search.tick(now_ns))

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
