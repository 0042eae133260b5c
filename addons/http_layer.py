"""mitmproxy's HTTP layers with the guard beneath its hooks.

mitmproxy parses and writes HTTP/1, HTTP/2 and TLS, keeps connections and fires its hooks. Between its codecs and its
stream machine stand `GuardedLayer` and `GuardedStream`: a request is looked at before any hook sees it (the token is
gone by then), nothing of it goes upstream before the verdict, credentials for the upstream are added on the way out of
the last hook, and what comes back is judged and masked before any hook or the flow list can see it.

INVARIANT: an exception in here, or in what it asks, ends the exchange with an error; nothing is forwarded.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from mitmproxy import connection, http
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers import tls
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    HttpLayer,
    HTTPMode,
    HttpStream,
    SendHttp,
)
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _hooks as http_hooks
from mitmproxy.proxy.layers.http import _http1 as http1

log = logging.getLogger("sluicegate.http")

_MAX_HEAD = 131072  # bytes of a request's head; mitmproxy itself has no bound
_MAX_WASTED = 1 << 20  # bytes of a refused request's body that are read on before the connection is cut
_PIECE = 1 << 18  # bytes of a spooled body that are handed on at once

Commands = Generator[commands.Command, Any, None]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this, forward nothing."""

    response: http.Response


class Collect:
    """The body is needed before a verdict."""


class Forward:
    """Let it pass; a body passes in pieces, each of them shown to the exchange first."""


class Opaque:
    """CONNECT only: pass the bytes of the tunnel unopened."""


type Verdict = Refuse | Collect | Forward | Opaque


class Ended(Exception):
    """The exchange must stop here: what has not gone yet does not go. The text is for the client."""


class Tunnel(Protocol):
    """What follows on a connection that is no longer HTTP: (to the client, to the upstream) for each piece."""

    def client(self, data: bytes) -> tuple[bytes, bytes]: ...
    def server(self, data: bytes) -> tuple[bytes, bytes]: ...
    def lost(self) -> None: ...


class Exchange(Protocol):
    """One request and its answer. Methods that may have to wait return an awaitable instead of their result."""

    def connect(self) -> Verdict | Awaitable[Verdict]:
        """A CONNECT request."""

    def begin(self, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        """The request's head is there."""

    def body(self, data: bytes) -> bytes | Verdict | Awaitable[Verdict]:
        """A piece of the body: what of it may go on at once (nothing while it is collected), or a verdict: `Forward`
        lets go what was collected, and the rest piece by piece. Raises `Ended`."""

    def complete(self) -> Verdict | Awaitable[Verdict]:
        """The whole body is there: `Refuse` or `Forward`."""

    def collected(self) -> Iterator[bytes]:
        """The body that was collected, in pieces."""

    def pace(self) -> Awaitable[None]:
        """Returns once the upstream has taken enough of what was sent."""

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        """What goes upstream in place of what the hooks saw."""

    def address(self) -> tuple[str, int, bool]:
        """Host, port, TLS: where it goes."""

    def reaches(self, server: connection.Server) -> bool:
        """Whether an open connection may be used again for this exchange."""

    def answer(self, response: http.Response, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        """The answer's head is there: `Refuse` or `Forward`."""

    def answer_data(self, data: bytes) -> bytes:
        """A piece of the answer, as the client may see it. Raises `Ended`."""

    def answer_end(self) -> bytes:
        """The last of the answer. Raises `Ended`."""

    def show(self, flow: http.HTTPFlow) -> None:
        """Puts what people may see of it into the flow."""

    def to_client(self, response: http.Response) -> http.Response:
        """What goes to the client in place of what the hooks saw."""

    def upgraded(self) -> Tunnel:
        """The upstream has switched protocols."""

    def tunnel(self) -> Tunnel:
        """An opaque CONNECT."""

    def failed(self, why: str) -> None: ...

    def finished(self) -> None: ...


class Gate(Protocol):
    """Makes the exchanges of one client connection."""

    watched: bool  # somebody looks at mitmproxy's flows: its hooks are fired

    def exchange(self, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> Exchange: ...

    def internal_error(self) -> http.Response: ...


class Step:
    """Something to wait for; `result` is what came out, or the exception."""

    def __init__(self, work: Awaitable[Any]) -> None:
        self._work = work
        self.result: Any = None
        self.error: BaseException | None = RuntimeError("the step did not run")

    async def run(self) -> None:
        try:
            self.result = await self._work
            self.error = None
        except Exception as e:
            self.error = e


@dataclass
class SluicegateStepHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Ours alone: the layer waits for a step."""

    step: Step


class Get(GetHttpConnection):
    """Finds an open connection by what the exchange says, not by the address that was pinned."""

    exchange: Exchange

    def connection_spec_matches(self, connection: connection.Connection) -> bool:
        return self.exchange.reaches(cast(Any, connection))


_QUIET = (
    http_hooks.HttpRequestHeadersHook,
    http_hooks.HttpRequestHook,
    http_hooks.HttpResponseHeadersHook,
    http_hooks.HttpResponseHook,
    http_hooks.HttpErrorHook,
    http_hooks.HttpConnectHook,
    http_hooks.HttpConnectedHook,
    http_hooks.HttpConnectErrorHook,
)


class GuardedStream(HttpStream):
    """One request and its answer."""

    def __init__(self, context: context.Context, stream_id: int, owner: GuardedLayer) -> None:
        super().__init__(context, stream_id)
        self._owner = owner
        self._gate = owner.gate
        self.exchange: Exchange | None = None
        self._over = False  # nothing more is taken from either side
        self._collecting = False
        self._wasted = 0
        self._passed = False  # the request was handed to mitmproxy's own machine
        self._upgraded = False

    def _handle_event(self, event: events.Event) -> Commands:
        steps = self._guarded(event)
        reply: Any = None
        while True:
            try:
                command = steps.send(reply)
            except StopIteration:
                return
            except Exception:
                log.exception("an exchange ended by an internal error")
                yield from self._break_off("internal error in the gateway")
                return
            reply = None
            if isinstance(command, _QUIET):
                if not self._gate.watched:
                    continue
                if self.exchange is not None:
                    self.exchange.show(cast(Any, command).flow)
            elif isinstance(command, commands.Log) and command.message.startswith("Streaming "):
                continue  # all of ours are streamed
            reply = yield command

    def _guarded(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            yield from super()._handle_event(event)
        elif self._upgraded:
            yield from self.passthrough(event)
        elif self._over:
            yield from self._after_the_end(event)
        elif isinstance(event, http_events.RequestProtocolError | http_events.ResponseProtocolError):
            yield from self._lost(event)
        elif isinstance(event, http_events.RequestHeaders):
            yield from self._request(event)
        elif isinstance(event, http_events.RequestData):
            yield from self._body(event)
        elif isinstance(event, http_events.RequestEndOfMessage):
            yield from self._complete(event)
        elif isinstance(event, http_events.RequestTrailers):
            pass  # they could carry what the head may not
        elif isinstance(event, http_events.ResponseHeaders):
            yield from self._answer(event)
        elif isinstance(event, http_events.ResponseData):
            yield from self._answer_data(event)
        elif isinstance(event, http_events.ResponseEndOfMessage):
            yield from self._answer_end(event)
        elif isinstance(event, http_events.ResponseTrailers):
            pass
        else:
            yield from super()._handle_event(event)

    def _wait(self, outcome: Any) -> Generator[commands.Command, Any, Any]:
        if not inspect.isawaitable(outcome):
            return outcome
        step = Step(outcome)
        yield SluicegateStepHook(step)
        if step.error is not None:
            raise step.error
        return step.result

    # ------------------------------------------------------------ the request

    def _request(self, event: http_events.RequestHeaders) -> Commands:
        request = event.request
        self.exchange = exchange = self._gate.exchange(request, self, self._owner.tunnelled)
        if request.method.upper() == "CONNECT":
            verdict = yield from self._wait(exchange.connect())
            if isinstance(verdict, Refuse):
                yield from self._refuse(request, verdict)
            elif isinstance(verdict, Opaque | Forward):
                yield from self._open_tunnel(request, exchange, opaque=isinstance(verdict, Opaque))
            else:
                raise TypeError("no verdict on a CONNECT")
            return
        verdict = yield from self._wait(exchange.begin(event.end_stream))
        if isinstance(verdict, Refuse):
            yield from self._refuse(request, verdict)
        elif isinstance(verdict, Collect):
            self._collecting = True
            if request.headers.pop("expect", "").lower() == "100-continue":
                go_on = http.Response.make(100)
                go_on.headers.clear()
                yield SendHttp(http_events.ResponseHeaders(self.stream_id, go_on), self.context.client)
        elif isinstance(verdict, Forward):
            yield from self._pass(request, end_stream=event.end_stream)
        else:
            raise TypeError("no verdict on a request")

    def _pass(self, request: http.Request, *, end_stream: bool) -> Commands:
        self._passed = True
        request.stream = True
        yield from super()._handle_event(http_events.RequestHeaders(self.stream_id, request, end_stream))

    def _body(self, event: http_events.RequestData) -> Commands:
        assert self.exchange is not None
        try:
            data = yield from self._wait(self.exchange.body(event.data))
        except Ended as e:
            yield from self._end(str(e))
            return
        if isinstance(data, Refuse):
            yield from self._refuse(self._request_of(), data)
        elif isinstance(data, Forward):
            self._collecting = False
            yield from self._pass(self._request_of(), end_stream=False)
            yield from self._let_go()
        elif isinstance(data, bytes) and data:
            yield from super()._handle_event(http_events.RequestData(self.stream_id, data))

    def _let_go(self) -> Commands:
        """Hands on what was collected, no faster than the upstream takes it."""
        exchange = self.exchange
        assert exchange is not None
        sent = 0
        for piece in exchange.collected():
            if self._over:
                return
            yield from super()._handle_event(http_events.RequestData(self.stream_id, piece))
            sent += len(piece)
            if sent >= _PIECE:
                sent = 0
                yield from self._wait(exchange.pace())

    def gave_up(self) -> bool:
        """Whether the client has cancelled the request while the layer waits."""
        return any(isinstance(e, http_events.RequestProtocolError) for e in self._paused_event_queue)

    def _complete(self, event: http_events.RequestEndOfMessage) -> Commands:
        exchange = self.exchange
        assert exchange is not None
        verdict = yield from self._wait(exchange.complete())
        if isinstance(verdict, Refuse):
            if self._passed:
                raise TypeError("a refusal of what has gone already")
            yield from self._refuse(self._request_of(), verdict, complete=True)
            return
        if not isinstance(verdict, Forward):
            raise TypeError("no verdict on a body")
        if self._collecting:
            self._collecting = False
            request = self._request_of()
            size = int(request.headers.get("content-length", "0"))
            yield from self._pass(request, end_stream=size == 0)
            yield from self._let_go()
        if not self._over:
            yield from super()._handle_event(event)

    def _request_of(self) -> http.Request:
        request: http.Request = cast(Any, self.exchange).request
        return request

    def make_server_connection(self) -> Generator[commands.Command, Any, bool]:
        exchange = self.exchange
        assert exchange is not None
        host, port, secure = exchange.address()
        wanted = Get((host, port), secure, None, "tcp")
        wanted.exchange = exchange
        found, error = yield wanted
        if error:
            exchange.failed(f"the upstream cannot be reached: {error}")
            code = http_events.ErrorCode.CONNECT_FAILED
            yield from self.handle_protocol_error(
                http_events.ResponseProtocolError(self.stream_id, "the gateway cannot reach the upstream", code)
            )
            return False
        self.context.server = self.flow.server_conn = found
        return True

    # ------------------------------------------------------------ refusals and ends

    def _refuse(self, request: http.Request, verdict: Refuse, *, complete: bool = False) -> Commands:
        """The gateway's own answer."""
        exchange = self.exchange
        assert exchange is not None
        self._over = True
        self.flow = http.HTTPFlow(self.context.client, self.context.server)
        self.flow.request, self.flow.response = request, verdict.response
        exchange.show(self.flow)
        content = verdict.response.raw_content or b""
        if request.method.upper() == "CONNECT":
            # what follows on this connection was meant for somebody else
            verdict.response.headers["connection"] = "close"
        if request.method.upper() == "HEAD":
            content = b""
        yield http_hooks.HttpRequestHeadersHook(self.flow)
        yield http_hooks.HttpResponseHook(self.flow)
        yield SendHttp(http_events.ResponseHeaders(self.stream_id, verdict.response, not content), self.context.client)
        if content:
            yield SendHttp(http_events.ResponseData(self.stream_id, content), self.context.client)
        self.flow.live = False
        exchange.finished()
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), self.context.client)
        if complete:
            yield DropStream(self.stream_id)

    def _after_the_end(self, event: events.Event) -> Commands:
        """What still comes of a refused request is thrown away, within reason."""
        if isinstance(event, http_events.RequestData):
            self._wasted += len(event.data)
            if self._wasted > _MAX_WASTED:
                yield commands.CloseConnection(self.context.client)
        elif isinstance(
            event,
            http_events.RequestEndOfMessage | http_events.RequestProtocolError | http_events.ResponseProtocolError,
        ):
            yield DropStream(self.stream_id)

    def _end(self, why: str) -> Commands:
        """In the middle of something: both sides see that it did not end well."""
        exchange = self.exchange
        if exchange is not None:
            exchange.failed(why)
        yield from self._break_off(why)

    def _break_off(self, why: str) -> Commands:
        self._over = True
        if self._passed and self.context.server in self._owner.connections:
            error = http_events.RequestProtocolError(self.stream_id, why, http_events.ErrorCode.CANCEL)
            yield SendHttp(error, self.context.server)
        failure = http_events.ResponseProtocolError(self.stream_id, why, http_events.ErrorCode.GENERIC_SERVER_ERROR)
        yield SendHttp(failure, self.context.client)
        yield DropStream(self.stream_id)

    def _lost(self, event: http_events.RequestProtocolError | http_events.ResponseProtocolError) -> Commands:
        if self.exchange is not None:
            self.exchange.failed(event.message)
        if self._passed:
            yield from super()._handle_event(event)
        else:
            yield DropStream(self.stream_id)

    # ------------------------------------------------------------ the answer

    def _answer(self, event: http_events.ResponseHeaders) -> Commands:
        exchange, response = self.exchange, event.response
        assert exchange is not None
        verdict = yield from self._wait(exchange.answer(response, event.end_stream))
        if isinstance(verdict, Refuse):
            own = verdict.response
            content = own.raw_content or b""
            cancel = http_events.RequestProtocolError(
                self.stream_id, "refused by the gateway", http_events.ErrorCode.CANCEL
            )
            if not event.end_stream:
                yield SendHttp(cancel, self.context.server)
            yield from super()._handle_event(http_events.ResponseHeaders(self.stream_id, own, not content))
            exchange.show(self.flow)
            if content:
                yield from super()._handle_event(http_events.ResponseData(self.stream_id, content))
            yield from super()._handle_event(http_events.ResponseEndOfMessage(self.stream_id))
            self._over = True
            exchange.finished()
            return
        if not isinstance(verdict, Forward):
            raise TypeError("no verdict on an answer")
        if response.status_code != 101:
            response.stream = True
        exchange.show(self.flow)
        yield from super()._handle_event(event)

    def _answer_data(self, event: http_events.ResponseData) -> Commands:
        assert self.exchange is not None
        try:
            data = self.exchange.answer_data(event.data)
        except Ended as e:
            yield from self._end(str(e))
            return
        if data:
            yield from super()._handle_event(http_events.ResponseData(self.stream_id, data))

    def _answer_end(self, event: http_events.ResponseEndOfMessage) -> Commands:
        assert self.exchange is not None
        try:
            data = self.exchange.answer_end()
        except Ended as e:
            yield from self._end(str(e))
            return
        if data:
            yield from super()._handle_event(http_events.ResponseData(self.stream_id, data))
        if self.flow.response is not None and self.flow.response.status_code != 101:
            self.exchange.show(self.flow)
            self.exchange.finished()
        yield from super()._handle_event(event)

    # ------------------------------------------------------------ other protocols on the same connection

    def flow_done(self) -> Commands:
        assert self.flow.response is not None
        if self.flow.response.status_code != 101:
            yield from super().flow_done()
            return
        assert self.exchange is not None
        self.flow.websocket = None  # its messages would pile up in the flow: ours are in the record
        self.flow.live = False
        self._upgraded = True
        self.child_layer = TunnelLayer(self.context, self.exchange.upgraded(), opened=True)
        yield from self.child_layer.handle_event(events.Start())
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), self.context.client)

    def _open_tunnel(self, request: http.Request, exchange: Exchange, *, opaque: bool) -> Commands:
        host, port, _ = exchange.address()
        self.flow = http.HTTPFlow(self.context.client, self.context.server)
        self.flow.request = request
        exchange.show(self.flow)
        self.client_state = self.state_done
        self.context.server.address = (host, port)
        self._upgraded = True
        if opaque:
            self.child_layer = TunnelLayer(self.context, exchange.tunnel(), opened=False)
        else:
            self.child_layer = Inner(self.context, self._gate, (host, port))
        yield from cast(Any, self).handle_connect_finish()


class TunnelLayer(layer.Layer):
    """Bytes that are no HTTP: each piece goes through a `Tunnel`."""

    def __init__(self, context: context.Context, tunnel: Tunnel, *, opened: bool) -> None:
        super().__init__(context)
        self._tunnel = tunnel
        self._opened = opened
        self._over = False

    def _handle_event(self, event: events.Event) -> Commands:
        try:
            yield from self._relay(event)
        except Exception:
            log.exception("a tunnel ended by an internal error")
            yield from self._close()

    def _relay(self, event: events.Event) -> Commands:
        if isinstance(event, events.Start):
            if not self._opened:
                error = yield commands.OpenConnection(self.context.server)
                if error:
                    yield from self._close()
        elif self._over:
            return
        elif isinstance(event, events.DataReceived):
            from_client = event.connection == self.context.client
            try:
                down, up = (self._tunnel.client if from_client else self._tunnel.server)(event.data)
            except Ended as e:
                log.info("a tunnel ends: %s", e)
                yield from self._close()
                return
            if up:
                yield commands.SendData(self.context.server, up)
            if down:
                yield commands.SendData(self.context.client, down)
        elif isinstance(event, events.ConnectionClosed):
            yield from self._close()

    def _close(self) -> Commands:
        if not self._over:
            self._over = True
            self._tunnel.lost()
            yield commands.CloseConnection(self.context.server)
            yield commands.CloseConnection(self.context.client)


class Inner(layer.Layer):
    """What a client sends through CONNECT: TLS, which is opened, or HTTP in the clear. Nothing else passes."""

    def __init__(self, context: context.Context, gate: Gate, target: tuple[str, int]) -> None:
        super().__init__(context)
        self._gate = gate
        self._target = target
        self._child: layer.Layer | None = None

    def _handle_event(self, event: events.Event) -> Commands:
        if self._child is not None:
            yield from self._child.handle_event(event)
        elif isinstance(event, events.DataReceived):
            if event.data[:1] == b"\x16":
                child: layer.Layer = tls.ClientTLSLayer(self.context)
                cast(Any, child).child_layer = GuardedLayer(
                    self.context.fork(), HTTPMode.transparent, self._gate, self._target
                )
                self.context.server.tls = True
            elif event.data[:1].isalpha():
                child = GuardedLayer(self.context.fork(), HTTPMode.transparent, self._gate, self._target)
            else:
                log.info("neither TLS nor HTTP in a tunnel to %s:%d: closed", *self._target)
                yield commands.CloseConnection(self.context.client)
                return
            self._child = child
            yield from child.handle_event(events.Start())
            yield from child.handle_event(event)
        elif isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(event.connection)


class GuardedLayer(HttpLayer):
    """mitmproxy's HTTP layer with guarded streams. `tunnelled`: the CONNECT target that it lies in."""

    def __init__(
        self, context: context.Context, mode: HTTPMode, gate: Gate, tunnelled: tuple[str, int] | None = None
    ) -> None:
        super().__init__(context, mode)
        self.gate = gate
        self.tunnelled = tunnelled

    def _handle_event(self, event: events.Event) -> Commands:
        yield from super()._handle_event(event)
        if isinstance(event, events.DataReceived) and event.connection == self.context.client:
            server = self.connections.get(self.context.client)
            if isinstance(server, http1.Http1Server) and len(server.buf) > _MAX_HEAD and server.request is None:
                log.warning("a request's head is larger than %d bytes: closed", _MAX_HEAD)
                yield commands.CloseConnection(self.context.client)

    def make_stream(self, stream_id: int) -> Commands:
        stream = GuardedStream(self.context.fork(), stream_id, self)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def event_to_child(self, child: layer.Layer, event: events.Event) -> Commands:
        if not isinstance(child, HttpStream):
            if isinstance(event, http_events.RequestHeaders):
                stream = cast(GuardedStream, self.streams[event.stream_id])
                assert stream.exchange is not None
                server = stream.context.server
                event = replace(event, request=stream.exchange.outgoing(event.request, server))
            elif isinstance(event, http_events.ResponseHeaders) and event.stream_id in self.streams:
                stream = cast(GuardedStream, self.streams[event.stream_id])
                if stream.exchange is not None and event.response.status_code != 100:
                    event = replace(event, response=stream.exchange.to_client(event.response))
        yield from super().event_to_child(child, event)
