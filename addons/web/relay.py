"""Bytes that are no HTTP on a connection that was HTTP: each piece goes through a `Tunnel`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Generator
from typing import Any

from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer

from addons.web.port import Commands, Ended, SluicegateStepHook, Step, Tunnel

log = logging.getLogger("sluicegate.http")


class TunnelLayer(layer.Layer):
    """`opened`: the upstream's connection is there already."""

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
                passed = (self._tunnel.client if from_client else self._tunnel.server)(event.data)
                down, up = passed if isinstance(passed, tuple) else (yield from self._wait(passed))
            except Ended as e:
                log.info("a tunnel ends: %s", e)
                if e.passed:
                    yield commands.SendData(self.context.server if from_client else self.context.client, e.passed)
                yield from self._close()
                return
            if up:
                yield commands.SendData(self.context.server, up)
            if down:
                yield commands.SendData(self.context.client, down)
        elif isinstance(event, events.ConnectionClosed):
            yield from self._close()

    def queued(self, of: connection.Connection) -> int:
        """Bytes of one side that wait here while something is waited for."""
        waiting = (e for e in self._paused_event_queue if isinstance(e, events.DataReceived))
        return sum(len(e.data) for e in waiting if e.connection is of)

    def _wait(self, passed: Awaitable[tuple[bytes, bytes]]) -> Generator[commands.Command, Any, tuple[bytes, bytes]]:
        step = Step(passed)
        yield SluicegateStepHook(step)
        if step.error is not None:
            raise step.error
        down, up = step.result
        return down, up

    def _close(self) -> Commands:
        if not self._over:
            self._over = True
            try:
                self._tunnel.lost()
            finally:
                yield commands.CloseConnection(self.context.server)
                yield commands.CloseConnection(self.context.client)
