"""The layer of exec, attach and port-forward: a tunnel with a clock, last words, and an end from outside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol, cast

from mitmproxy.proxy import commands, context, events

from addons.takeover import handler_of
from addons.web.port import Commands, Ended, Tunnel
from addons.web.relay import TunnelLayer

log = logging.getLogger("sluicegate.kubernetes")

_FOREVER = 10 * 365 * 86400.0  # seconds: a wake-up that only `cut` brings about


class KubeStream(Tunnel, Protocol):
    """A tunnel that can be ended with a Status, and that holds things back for a while."""

    def client(self, data: bytes) -> tuple[bytes, bytes]: ...
    def server(self, data: bytes) -> tuple[bytes, bytes]: ...

    @property
    def due_ns(self) -> int | None:
        """When `tick` is to be called."""

    def begun(self, cut: Callable[[str], None]) -> None:
        """It runs; `cut` ends it from outside, at once."""

    def tick(self, now_ns: int) -> tuple[bytes, bytes]:
        """What goes to the client, and to the upstream, now."""

    def parting(self) -> bytes:
        """The client has closed: what is left for the upstream."""

    def ending(self) -> bytes:
        """The upstream has closed: what is left for the client."""

    def farewell(self, why: str) -> bytes:
        """The last words to the client: nothing else follows."""


class KubeStreamLayer(TunnelLayer):
    """See above. Whatever goes wrong: the client gets a Status where it can, and both sides are closed."""

    def __init__(self, context: context.Context, tunnel: Tunnel, *, opened: bool) -> None:
        super().__init__(context, tunnel, opened=opened)
        self._stream = cast(KubeStream, tunnel)
        self._cue: commands.RequestWakeup | None = None
        self._timer: commands.RequestWakeup | None = None
        self._why = ""

    def _handle_event(self, event: events.Event) -> Commands:
        try:
            yield from self._step(event)
            if not self._over and self._timer is None and (due := self._stream.due_ns) is not None:
                self._timer = commands.RequestWakeup(max(0.0, (due - time.time_ns()) / 1e9))
                yield self._timer
        except Ended as e:
            log.info("a stream ends: %s", e)
            yield from self._end(str(e))
        except Exception:
            log.exception("a stream ended by an internal error")
            yield from self._end("internal error in the gateway")

    def _step(self, event: events.Event) -> Commands:
        if self._over:
            return
        if isinstance(event, events.Start):
            self._cue = commands.RequestWakeup(_FOREVER)
            yield self._cue
            self._stream.begun(self.cut)
        elif isinstance(event, events.Wakeup):
            if event.command is self._cue:
                yield from self._end(self._why)
                return
            self._timer = None
            down, up = self._stream.tick(time.time_ns())
            yield from self._up(up)
            yield from self._down(down)
        elif isinstance(event, events.DataReceived):
            from_client = event.connection == self.context.client
            down, up = (self._stream.client if from_client else self._stream.server)(event.data)
            yield from self._up(up)
            yield from self._down(down)
        elif isinstance(event, events.ConnectionClosed):
            if event.connection != self.context.client:
                yield from self._down(self._stream.ending())
            else:
                yield from self._up(self._stream.parting())
            yield from self._close()

    def _down(self, data: bytes) -> Commands:
        if data:
            yield commands.SendData(self.context.client, data)

    def _up(self, data: bytes) -> Commands:
        if data:
            yield commands.SendData(self.context.server, data)

    def _end(self, why: str) -> Commands:
        if not self._over:
            last = b""
            try:
                last = self._stream.farewell(why)
            except Exception:
                log.exception("a stream ends without last words")
            try:
                yield from self._down(last)
            finally:
                yield from self._close()

    def cut(self, why: str) -> None:
        """Ends it from outside. Safe to call twice, and from within an event."""
        if self._over or self._cue is None or self._why:
            return
        self._why = why
        try:
            handler = handler_of(self.context.client.id)
        except KeyError:
            return  # it is gone already
        task = asyncio.get_running_loop().create_task(handler.server_event(events.Wakeup(self._cue)))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish before it runs
