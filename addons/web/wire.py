"""mitmproxy's HTTP/1 codecs with bounds: heads, what is pipelined, interim answers, trailers, texts of errors; and the
end of a TLS connection.

INVARIANT: nothing that a peer sent is quoted, neither to the other peer nor in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import h11
from mitmproxy import http
from mitmproxy.net.http import http1 as http1_text
from mitmproxy.proxy import commands, context, events, layer, tunnel
from mitmproxy.proxy.layers import tls
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _http1 as http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from OpenSSL import SSL

from addons.web.port import Commands

log = logging.getLogger("sluicegate.http")

MAX_HEAD = 131072  # bytes of a head; mitmproxy itself has no bound
_MAX_INTERIM = 16  # interim answers (1xx) before the real one

# where mitmproxy's messages begin to quote
_QUOTES = ("Unexpected data from server", "Client closed connection before completing request headers")


class _WithoutTrailers:
    """h11's reader; fields behind a chunked body are dropped: they could carry what the head may not."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __call__(self, buf: Any) -> Any:
        return self._bare(self._reader(buf))

    def read_eof(self) -> Any:
        return self._bare(self._reader.read_eof())

    def _bare(self, event: Any) -> Any:
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) and event.headers else event


class _Bounded(http1.Http1Connection):
    """What both sides have in common."""

    _reader: Any = None

    @property
    def body_reader(self) -> Any:
        return self._reader

    @body_reader.setter
    def body_reader(self, reader: Any) -> None:
        self._reader = _WithoutTrailers(reader)

    def read_body(self, event: events.Event) -> Commands:
        codec = cast(Any, self)
        yield from super().read_body(event)
        # between the pieces of a chunked body stand lines, which have no bound of their own
        if codec.state == codec.read_body and len(codec.buf) > MAX_HEAD:
            log.warning("a body with endless lines between its pieces: closed")
            stream, wrong = codec.stream_id, codec.ReceiveProtocolError
            codec.state = codec.done
            yield commands.CloseConnection(codec.conn)
            yield ReceiveHttp(wrong(stream, "the body is malformed", code=wrong.code))


class ClientSide(_Bounded, http1.Http1Server):
    """The client's connection. `refusal`: an answer of the gateway's own, of a status and a text."""

    def __init__(self, context: context.Context, refusal: Callable[[int, str], http.Response]) -> None:
        super().__init__(context)
        self._refusal = refusal

    def _own_error(self, status: int, text: str) -> bytes:
        answer = self._refusal(status, text)
        answer.headers["connection"] = "close"
        raw: bytes = cast(Any, http1_text).assemble_response(answer)
        return raw

    @property
    def waiting(self) -> int:
        """Bytes of later requests that were sent before this one was answered."""
        return len(self.buf) if self.request is not None and self.request_done else 0

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(self.conn)
            return
        for command in super().read_headers(event):
            if isinstance(command, commands.SendData):
                yield commands.SendData(self.conn, self._own_error(400, "the request is malformed"))
            elif isinstance(command, ReceiveHttp) and isinstance(command.event, http_events.RequestProtocolError):
                continue
            elif self._is_unframed(command):
                continue  # mitmproxy would show it in its list; nobody has looked at it
            elif isinstance(command, commands.Log):
                log.info("a client's request is malformed")
            else:
                yield command
        if self.request is None and len(self.buf) > MAX_HEAD:
            log.warning("a request's head is larger than %d bytes: closed", MAX_HEAD)
            yield commands.SendData(self.conn, self._own_error(431, f"a request's head has at most {MAX_HEAD} bytes"))
            yield commands.CloseConnection(self.conn)
            self.state = self.done

    def _is_unframed(self, command: commands.Command) -> bool:
        if not isinstance(command, ReceiveHttp) or not isinstance(command.event, http_events.RequestHeaders):
            return False
        try:
            http1_text.expected_http_body_size(command.event.request)
        except ValueError:
            return True
        return False

    def send(self, event: http_events.HttpEvent) -> Commands:
        for command in super().send(event):
            if (
                isinstance(event, http_events.ResponseProtocolError)
                and isinstance(command, commands.SendData)
                and (status := event.code.http_status_code()) is not None
            ):
                command = commands.SendData(command.connection, self._own_error(status, event.message))
            yield command


class ServerSide(_Bounded, http1.Http1Client):
    """The upstream's connection."""

    _interim = 0

    def read_body(self, event: events.Event) -> Commands:
        """The end of an answer is told once this connection is free again: the client's next request may be there
        already, and would come in between."""
        late = None
        for command in super().read_body(event):
            ends = isinstance(command, ReceiveHttp) and isinstance(command.event, http_events.ResponseEndOfMessage)
            if ends and self.response is not None and self.response.status_code != 101:
                late = command
            else:
                yield command
        if late is not None:
            yield late

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        if isinstance(event, events.DataReceived) and self.request is not None:
            while self._begins_interim():
                self._interim += 1
                if self.buf.maybe_extract_lines() is None:
                    return  # the rest of its head is to come
                if self._interim > _MAX_INTERIM:
                    yield from self._unreadable("it sends interim answers without end")
                    return
            if not self.buf:
                return
        yield from super().read_headers(event)
        if self.response is None and len(self.buf) > MAX_HEAD:
            yield from self._unreadable(f"its head is larger than {MAX_HEAD} bytes")

    def _begins_interim(self) -> bool:
        """Whether an interim answer comes next. 101 is none: it is the last of its connection."""
        start = bytes(self.buf)[:13]
        status, behind = start[9:12], start[12:]
        if start[:9] not in (b"HTTP/1.1 ", b"HTTP/1.0 ") or behind not in (b"", b" ", b"\r", b"\n"):
            return False
        return status[:1] == b"1" and status != b"101"

    def _unreadable(self, why: str) -> Commands:
        log.warning("an upstream's answer cannot be read: %s", why)
        stream = self.stream_id
        self.state = self.done
        yield commands.CloseConnection(self.conn)
        if stream is not None:
            code = http_events.ErrorCode.GENERIC_SERVER_ERROR
            yield ReceiveHttp(http_events.ResponseProtocolError(stream, why, code))

    def mark_done(self, *, request: bool = False, response: bool = False) -> Commands:
        if response:
            self._interim = 0
        yield from super().mark_done(request=request, response=response)


def _receive_close(self: Any) -> Commands:
    """A connection is gone. mitmproxy says so to nobody where it ended by an alert instead of a goodbye: with TLS 1.3 a
    server refuses a client's certificate so, behind the handshake, and the request would wait for ever."""
    if self.tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN:
        try:
            self.tls.recv(1)
        except SSL.ZeroReturnError:
            return  # it did say goodbye, and that was told
        except SSL.Error:
            pass  # an alert
    yield from tunnel.TunnelLayer.receive_close(self)


cast(Any, tls.TLSLayer).receive_close = _receive_close


def bound_server(top: layer.Layer) -> None:
    """Puts `ServerSide` in the place of the codec that mitmproxy has just made at the end of a stack of layers.

    mitmproxy chooses the class in the middle of a method; the instance has not read anything yet.
    """
    for one in _stack(top):
        if isinstance(one, HttpClient) and type(one.child_layer) is http1.Http1Client:
            codec = cast(Any, one.child_layer)
            codec.__class__ = ServerSide
            codec.state = codec.read_headers


def _stack(top: layer.Layer) -> Iterator[layer.Layer]:
    found: Any = top
    while isinstance(found, layer.Layer):
        yield found
        found = getattr(found, "child_layer", None)


def quiet(command: commands.Log) -> commands.Log:
    """A log line without what a peer has sent."""
    for start in _QUOTES:
        if command.message.startswith(start):
            return commands.Log(start, command.level)
    return command
