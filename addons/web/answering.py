"""The answer's half of a stream: judged by its head, shown piece by piece to the exchange, withheld where it must be.

What both halves need is here, too: how a step is waited for, and how an exchange ends in the middle.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mitmproxy import http
from mitmproxy.proxy import commands, context
from mitmproxy.proxy.layers.http import DropStream, HttpStream, SendHttp
from mitmproxy.proxy.layers.http import _events as http_events

from addons.web.port import Commands, Ended, Exchange, Forward, Refuse, SluicegateStepHook, Step, clone
from addons.web.relay import TunnelLayer

if TYPE_CHECKING:
    from addons.web.layer import GuardedLayer

log = logging.getLogger("sluicegate.http")

_TURN = 0.01  # seconds that masking an answer keeps others waiting, as a rule


class Answering(HttpStream):
    """See above."""

    stream_id = -1  # once it is taken apart

    def __init__(self, context: context.Context, stream_id: int, owner: GuardedLayer) -> None:
        super().__init__(context, stream_id)
        self._owner = owner
        self._gate = owner.gate
        self.exchange: Exchange | None = None
        self._shadow: http.HTTPFlow | None = None
        self._over = False  # nothing more is taken from either side
        self._collecting = False
        self._asked = False  # the client's body waits for our `100 Continue`
        self._wasted = 0
        self._passed = False  # the request was handed to mitmproxy's own machine
        self._answered = False  # the head of an answer was handed on
        self._upgraded = False

    @property
    def queued(self) -> int:
        """Bytes of the client's that wait here while something is waited for."""
        waiting = sum(len(e.data) for e in self._paused_event_queue if isinstance(e, http_events.RequestData))
        tunnel = self.child_layer
        return waiting + (tunnel.queued(self.context.client) if isinstance(tunnel, TunnelLayer) else 0)

    @property
    def queued_down(self) -> int:
        """The same of the upstream's."""
        waiting = sum(len(e.data) for e in self._paused_event_queue if isinstance(e, http_events.ResponseData))
        tunnel = self.child_layer
        return waiting + (tunnel.queued(self.context.server) if isinstance(tunnel, TunnelLayer) else 0)

    def gave_up(self) -> bool:
        """Whether the client has cancelled the request while the layer waits."""
        return any(isinstance(e, http_events.RequestProtocolError) for e in self._paused_event_queue)

    def take_apart(self) -> None:
        """Nothing comes any more. It is full of cycles, each request's memory would wait for the collector: a pause."""
        if self._paused is None and self.child_layer is None:
            self.__dict__.clear()

    def _wait(self, outcome: Any) -> Generator[commands.Command, Any, Any]:
        if not inspect.isawaitable(outcome):
            return outcome
        step = Step(outcome)
        yield SluicegateStepHook(step)
        if step.error is not None:
            raise step.error
        return step.result

    def _end(self, why: str) -> Commands:
        """In the middle of something: both sides see that it did not end well."""
        self._over = True
        if self.exchange is not None:
            try:
                self.exchange.failed(why)
            except Exception:
                log.exception("the end of an exchange is not recorded")
        if self._passed and self.context.server in self._owner.connections:
            error = http_events.RequestProtocolError(self.stream_id, why, http_events.ErrorCode.CANCEL)
            yield SendHttp(error, self.context.server)
        code = http_events.ErrorCode.GENERIC_SERVER_ERROR
        yield SendHttp(http_events.ResponseProtocolError(self.stream_id, why, code), self.context.client)
        yield DropStream(self.stream_id)

    # ------------------------------------------------------------ the answer

    def _answer(self, event: http_events.ResponseHeaders) -> Commands:
        exchange, response = self.exchange, event.response
        assert exchange is not None
        verdict = yield from self._wait(exchange.answer(response, event.end_stream))
        if isinstance(verdict, Refuse):
            yield from self._withhold(verdict.response, event)
            return
        if not isinstance(verdict, Forward):
            raise TypeError("no verdict on an answer")
        self._answered = True
        shown = clone(response)
        if response.status_code != 101:
            shown.stream = True
        yield from super()._handle_event(replace(event, response=shown))

    def _withhold(self, own: http.Response, event: http_events.ResponseHeaders) -> Commands:
        """Our answer in the place of the upstream's."""
        assert self.exchange is not None
        content = own.raw_content or b""
        if self.exchange.request.method.upper() == "HEAD":
            content = b""
        if not event.end_stream:
            code = http_events.ErrorCode.CANCEL
            yield SendHttp(
                http_events.RequestProtocolError(self.stream_id, "refused by the gateway", code), self.context.server
            )
        yield from super()._handle_event(http_events.ResponseHeaders(self.stream_id, own, not content))
        if content:
            yield from super()._handle_event(http_events.ResponseData(self.stream_id, content))
        yield from super()._handle_event(http_events.ResponseEndOfMessage(self.stream_id))
        self._over = True
        self.exchange.finished()

    def _answer_data(self, event: http_events.ResponseData) -> Commands:
        exchange, whole = self.exchange, event.data
        assert exchange is not None
        step = exchange.answer_step or len(whole)
        began = time.monotonic()
        shown: list[bytes] = []
        for at in range(0, len(whole), step):
            if time.monotonic() - began > _TURN:
                # a little that is packed may open to much: nobody else waits until all of it is masked
                yield from self._hand_on(shown)
                self._owner.tunnels = True
                yield from self._wait(asyncio.sleep(0))
                began = time.monotonic()
            try:
                data = exchange.answer_data(whole[at : at + step])
            except Ended as e:
                yield from self._hand_on(shown)
                yield from self._end(str(e))
                return
            if not isinstance(data, bytes):
                raise TypeError("no verdict on a piece of an answer")
            shown.append(data)
        yield from self._hand_on(shown)

    def _hand_on(self, shown: list[bytes]) -> Commands:
        data = b"".join(shown)
        shown.clear()
        if data:
            yield from super()._handle_event(http_events.ResponseData(self.stream_id, data))

    def _answer_end(self, event: http_events.ResponseEndOfMessage) -> Commands:
        assert self.exchange is not None
        try:
            data = self.exchange.answer_end()
        except Ended as e:
            yield from self._end(str(e))
            return
        if not isinstance(data, bytes):
            raise TypeError("no verdict on the end of an answer")
        if data:
            yield from super()._handle_event(http_events.ResponseData(self.stream_id, data))
        if self.flow.response is not None and self.flow.response.status_code != 101:
            self.exchange.finished()
        yield from super()._handle_event(event)
