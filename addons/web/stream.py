"""One request and its answer in mitmproxy's stream machine, with the guard between that machine and the codecs.

mitmproxy's hooks get a flow that nothing is sent from (`_shadow`): what addons, mitmweb or a `-w` file see is a
projection, and what they change in it changes nothing. They can delay a request, and kill it.

INVARIANT: an exception in here, or in what it asks, ends the exchange with an error; nothing is forwarded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, cast

from mitmproxy import connection, flow, http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import DropStream, GetHttpConnection, SendHttp
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _hooks as http_hooks

from addons.web.answering import Answering
from addons.web.port import Collect, Commands, Ended, Exchange, Forward, Opaque, Refuse, Said, clone
from addons.web.relay import TunnelLayer

log = logging.getLogger("sluicegate.http")

_MAX_WASTED = 1 << 20  # bytes of a refused request's body that are read on before it is cut
_PIECE = 1 << 18  # bytes of a spooled body that are handed on at once
_UNREADABLE = "the gateway cannot read the upstream's answer"
# what mitmproxy says where nothing is quoted, and what it means
_MEANT = {
    "peer closed connection": "the upstream has closed the connection before its answer was complete",
    "server closed connection": "the upstream has closed the connection before its answer was complete",
    "stream reset by client": "the upstream has given up this request before its answer was complete",
}


class Get(GetHttpConnection):
    """Finds an open connection by what the exchange says, not by the address that was pinned."""

    exchange: Exchange
    leaving: Callable[[connection.Connection], bool]

    def connection_spec_matches(self, connection: connection.Connection) -> bool:
        # one that failed is tried again: mitmproxy would tell its error to all that come later on this connection
        usable = not connection.error and not self.leaving(connection)
        return usable and self.exchange.reaches(cast(Any, connection))


_HOOKS = (
    http_hooks.HttpRequestHeadersHook,
    http_hooks.HttpRequestHook,
    http_hooks.HttpResponseHeadersHook,
    http_hooks.HttpResponseHook,
    http_hooks.HttpErrorHook,
    http_hooks.HttpConnectHook,
    http_hooks.HttpConnectedHook,
    http_hooks.HttpConnectErrorHook,
)


class GuardedStream(Answering):
    """See above."""

    def _handle_event(self, event: events.Event) -> Commands:
        steps = self._guarded(event)
        reply: Any = None
        while True:
            try:
                command = self._judged(steps.send(reply))
            except StopIteration:
                return
            except Exception:
                log.exception("an exchange ended by an internal error")
                yield from self._end("internal error in the gateway")
                return
            reply = None
            if isinstance(command, _HOOKS):
                if self._gate.watched:
                    yield from self._show(cast(Any, command))
                continue
            if isinstance(command, commands.Log) and command.message.startswith("Streaming "):
                continue  # all of ours are streamed
            if isinstance(command, DropStream):
                self._owner.done_with(self)
            if (own := self._in_its_place(command)) is not None:
                for event in own:
                    yield SendHttp(event, self.context.client)
                continue
            reply = yield command

    def _in_its_place(self, command: commands.Command) -> list[http_events.HttpEvent] | None:
        """What a client of HTTP/2 is told in the place of mitmproxy's page about an error; None: leave it as it is.

        `ClientSide` does the same for HTTP/1, where the connection ends with it.
        """
        exchange = self.exchange
        if exchange is None or self._answered or not exchange.request.is_http2 or not isinstance(command, SendHttp):
            return None
        error = command.event
        if not isinstance(error, http_events.ResponseProtocolError) or command.connection is not self.context.client:
            return None
        status = error.code.http_status_code()
        if status is None:
            return None
        self._answered = True
        own = self._gate.refusal(status, error.message, request_id=exchange.id)
        content = b"" if exchange.request.method.upper() == "HEAD" else own.raw_content or b""
        found: list[http_events.HttpEvent] = [http_events.ResponseHeaders(self.stream_id, own, not content)]
        if content:
            found.append(http_events.ResponseData(self.stream_id, content))
        return [*found, http_events.ResponseEndOfMessage(self.stream_id)]

    def _judged(self, command: commands.Command) -> commands.Command:
        """In the place of what mitmproxy's machine sends, which hooks could have changed, what was judged."""
        exchange = self.exchange
        if exchange is None or not isinstance(command, SendHttp):
            return command
        event = command.event
        if isinstance(event, http_events.RequestHeaders):
            event = replace(event, request=exchange.outgoing(exchange.request, self.context.server))
        elif isinstance(event, http_events.ResponseHeaders) and event.response.status_code != 100:
            event = replace(event, response=exchange.to_client(event.response))
        else:
            return command
        return SendHttp(event, command.connection)

    def _show(self, hook: Any) -> Commands:
        shadow = self._shadow
        if shadow is None:
            shadow = self._shadow = http.HTTPFlow(self.context.client, self.context.server)
            shadow.request = http.Request.make("GET", "http://sluicegate.invalid/")
        shadow.server_conn = self.flow.server_conn
        shadow.live = self.flow.live
        if self.flow.error is not None:
            shadow.error = flow.Error(self.flow.error.msg)
        try:
            if self.exchange is not None:
                self.exchange.show(shadow)
        except Exception:
            log.exception("an exchange cannot be shown")
            return
        yield type(hook)(shadow)
        if shadow.error is not None and shadow.error.msg == flow.Error.KILLED_MESSAGE:
            self.flow.error = shadow.error

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
        elif isinstance(event, http_events.ResponseHeaders):
            yield from self._answer(event)
        elif isinstance(event, http_events.ResponseData):
            yield from self._answer_data(event)
        elif isinstance(event, http_events.ResponseEndOfMessage):
            yield from self._answer_end(event)
        elif isinstance(event, http_events.RequestTrailers | http_events.ResponseTrailers):
            pass  # they could carry what the head may not
        else:
            yield from super()._handle_event(event)

    # ------------------------------------------------------------ the request

    def _request(self, event: http_events.RequestHeaders) -> Commands:
        request = event.request
        self._asked = request.headers.get("expect", "").lower() == "100-continue"  # the exchange takes it away
        self.exchange = exchange = self._gate.exchange(request, self, self._owner.tunnelled)
        if request.method.upper() == "CONNECT":
            verdict = yield from self._wait(exchange.connect())
            if isinstance(verdict, Refuse):
                yield from self._refuse(verdict, outstanding=not event.end_stream)
            elif isinstance(verdict, Opaque | Forward):
                yield from self._open_tunnel(exchange, opaque=isinstance(verdict, Opaque))
            else:
                raise TypeError("no verdict on a CONNECT")
            return
        verdict = yield from self._wait(exchange.begin(event.end_stream))
        if isinstance(verdict, Refuse):
            yield from self._refuse(verdict, outstanding=not event.end_stream)
        elif isinstance(verdict, Collect):
            self._collecting = True
            yield from self._go_on()
        elif isinstance(verdict, Forward):
            if not event.end_stream:
                yield from self._go_on()
            yield from self._pass(end_stream=event.end_stream)
        else:
            raise TypeError("no verdict on a request")

    def _go_on(self) -> Commands:
        """Tells a client that waits for it to send its body. Ours to say: the upstream never sees `Expect`."""
        if self._asked:
            self._asked = False
            go_on = http.Response.make(100)
            go_on.headers.clear()
            yield SendHttp(http_events.ResponseHeaders(self.stream_id, go_on), self.context.client)

    def _pass(self, *, end_stream: bool) -> Commands:
        """Gives mitmproxy's machine a copy of the request: what goes upstream is the exchange's."""
        self._passed = True
        request = clone(cast(Exchange, self.exchange).request)
        request.stream = True
        yield from super()._handle_event(http_events.RequestHeaders(self.stream_id, request, end_stream))

    def _body(self, event: http_events.RequestData) -> Commands:
        assert self.exchange is not None
        self._asked = False
        try:
            data = yield from self._wait(self.exchange.body(event.data))
        except Ended as e:
            yield from self._end(str(e))
            return
        if isinstance(data, Refuse):
            yield from self._refuse(data, outstanding=True)
        elif isinstance(data, Forward):
            self._collecting = False
            yield from self._pass(end_stream=False)
            yield from self._let_go()
        elif isinstance(data, bytes):
            if data:
                yield from super()._handle_event(http_events.RequestData(self.stream_id, data))
        else:
            raise TypeError("no verdict on a piece of a body")

    def _let_go(self) -> Commands:
        """Hands on what was collected, no faster than the upstream takes it."""
        exchange = self.exchange
        assert exchange is not None
        sent = 0
        try:
            for piece in exchange.collected():
                if self._over:
                    return
                yield from super()._handle_event(http_events.RequestData(self.stream_id, piece))
                sent += len(piece)
                if sent >= _PIECE:
                    sent = 0
                    yield from self._wait(self._owner.flow.pace(exchange, self.stream_id))
        except Ended as e:
            yield from self._end(str(e))

    def _complete(self, event: http_events.RequestEndOfMessage) -> Commands:
        exchange = self.exchange
        assert exchange is not None
        verdict = yield from self._wait(exchange.complete())
        if isinstance(verdict, Refuse):
            if self._passed:
                raise TypeError("a refusal of what has gone already")
            yield from self._refuse(verdict, outstanding=False)
            return
        if not isinstance(verdict, Forward):
            raise TypeError("no verdict on a body")
        if self._collecting:
            self._collecting = False
            size = int(exchange.request.headers.get("content-length", "0"))
            yield from self._pass(end_stream=size == 0)
            yield from self._let_go()
        elif not self._over:
            try:
                last = exchange.rest()
            except Ended as e:
                yield from self._end(str(e))
                return
            if last:
                yield from super()._handle_event(http_events.RequestData(self.stream_id, last))
        if not self._over:
            yield from super()._handle_event(event)

    def make_server_connection(self) -> Generator[commands.Command, Any, bool]:
        exchange = self.exchange
        assert exchange is not None
        host, port, secure = exchange.address()
        wanted = Get((host, port), secure, None, "tcp")
        wanted.exchange, wanted.leaving = exchange, self._owner.flow.leaving
        found, error = yield wanted
        if error:
            log.info("the upstream cannot be reached: %s", error)
            exchange.failed("the upstream cannot be reached")
            code = http_events.ErrorCode.CONNECT_FAILED
            yield from self.handle_protocol_error(
                http_events.ResponseProtocolError(self.stream_id, "the gateway cannot reach the upstream", code)
            )
            self._over = True
            return False
        self.context.server = self.flow.server_conn = found
        return True

    # ------------------------------------------------------------ refusals and ends

    def _refuse(self, verdict: Refuse, *, outstanding: bool) -> Commands:
        """The gateway's own answer. `outstanding`: the request's body has not all come."""
        exchange = self.exchange
        assert exchange is not None
        request = exchange.request
        self._over = True
        self.flow = http.HTTPFlow(self.context.client, self.context.server)
        self.flow.request, self.flow.response = request, verdict.response
        content = verdict.response.raw_content or b""
        if request.method.upper() == "CONNECT" or (outstanding and not request.is_http2):
            # what follows on this connection was meant for somebody else, or is a body that nobody wants
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
        if not outstanding:
            yield DropStream(self.stream_id)
        elif self._asked and not request.is_http2:
            # a client that waited for `100 Continue` may send its next request in the place of the body
            yield commands.CloseConnection(self.context.client)

    def _after_the_end(self, event: events.Event) -> Commands:
        """What still comes of a refused request is thrown away, within reason."""
        if isinstance(event, http_events.RequestData):
            self._wasted += len(event.data)
            if self._wasted > _MAX_WASTED:
                code = http_events.ErrorCode.CANCEL
                cut = http_events.ResponseProtocolError(self.stream_id, "refused by the gateway", code)
                yield SendHttp(cut, self.context.client)
                yield DropStream(self.stream_id)
        elif isinstance(
            event,
            http_events.RequestEndOfMessage | http_events.RequestProtocolError | http_events.ResponseProtocolError,
        ):
            yield DropStream(self.stream_id)

    def _lost(self, event: http_events.RequestProtocolError | http_events.ResponseProtocolError) -> Commands:
        if isinstance(event, http_events.ResponseProtocolError):
            text = event.message
            if not isinstance(text, Said):  # it could quote what no mask has seen
                said = text.partition(":")[0]
                log.info("an exchange ends: %s", said)
                text = next((meant for start, meant in _MEANT.items() if said.startswith(start)), _UNREADABLE)
            cancelled = event.code is http_events.ErrorCode.CANCEL and not self._answered
            code = http_events.ErrorCode.GENERIC_SERVER_ERROR if cancelled else event.code
            event = replace(event, message=text, code=code)
        if self.exchange is not None:
            self.exchange.failed(event.message)
        if self._passed:
            yield from super()._handle_event(event)
        else:
            yield DropStream(self.stream_id)

    # ------------------------------------------------------------ other protocols on the same connection

    def flow_done(self) -> Commands:
        assert self.flow.response is not None
        if self.flow.response.status_code != 101:
            yield from super().flow_done()
            return
        assert self.exchange is not None
        self.flow.websocket = None  # its messages would pile up in the flow: ours are in the record
        self.flow.live = False
        self._upgraded = self._owner.tunnels = True
        self.child_layer = self.exchange.relay(self.context, self.exchange.upgraded(), opened=True)
        yield from self.child_layer.handle_event(events.Start())
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), self.context.client)

    def _open_tunnel(self, exchange: Exchange, *, opaque: bool) -> Commands:
        host, port, _ = exchange.address()
        self.flow = http.HTTPFlow(self.context.client, self.context.server)
        self.flow.request = exchange.request.copy()
        self.client_state = self.state_done
        self.context.server.address = (host, port)
        self._upgraded = self._owner.tunnels = True
        child: layer.Layer
        if opaque:
            child = TunnelLayer(self.context, exchange.tunnel(), opened=False)
        else:
            child = self._owner.inner(self.context, (host, port))
        self.child_layer = child
        yield from cast(Any, self).handle_connect_finish()
