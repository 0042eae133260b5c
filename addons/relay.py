"""Two legs and a session between them: bytes go in, bytes come out, back-pressure and waits in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from addons.busy_poll import BusyPoll
from addons.leg import Leg
from protocols.contract import Session, Side, Wait

log = logging.getLogger("sluicegate.relay")

_PROBE_EVERY = 1.0  # seconds between looks whether a client whose socket is not read has left


class Outbox:
    """Record before forward, for all sessions at once: one write to the journal per turn of the event loop.

    `flush` puts everything recorded so far into the journal and raises where it cannot. `barrier` (durability: strict)
    is awaited after it. What was recorded later waits for the next turn. `prepare` does of `flush` what can be done
    ahead, when nobody waits.
    """

    def __init__(
        self,
        flush: Callable[[], object],
        barrier: Callable[[], Awaitable[None]] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._flush = flush
        self.prepare = prepare
        self._barrier = barrier
        self.strict = barrier is not None
        self.crowded = False  # several sessions had something to send in the last turn
        self._ready: list[Relay] = []
        self._syncing: asyncio.Task[None] | None = None
        self._scheduled = False

    def add(self, relay: Relay) -> None:
        self._ready.append(relay)
        if not self._scheduled and self._syncing is None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        ready, self._ready = self._ready, []
        self.crowded = len(ready) > 1
        if self._barrier is not None:
            self._syncing = asyncio.ensure_future(self._synced(ready))
            return
        if self._flushed(ready):
            for relay in ready:
                relay.forward_or_end()

    def _flushed(self, ready: list[Relay]) -> bool:
        try:
            self._flush()
        except Exception as e:
            log.error("not forwarded: %s", e)
            for relay in ready:
                relay.unrecorded()
            return False
        return True

    async def _synced(self, ready: list[Relay]) -> None:
        """Strict: what arrives during the sync is sent with the next one, in order."""
        assert self._barrier is not None
        try:
            while ready:
                held = []
                for relay in ready:  # the same one may be there twice: its bytes go once
                    held.append((relay, relay.begin_sync()))
                if self._flushed(ready):
                    try:
                        await self._barrier()
                    except Exception as e:
                        log.error("not forwarded: %s", e)
                        for relay in ready:
                            relay.unrecorded()
                    else:
                        for relay, up in held:
                            relay.forward_synced(up)
                for relay in ready:
                    relay.end_sync()
                ready, self._ready = self._ready, []
        finally:
            self._syncing = None

    def flush_for(self, relay: Relay) -> None:
        """At a session's end: records and sends what it still has, at once. With `barrier` it is not sent."""
        if self._barrier is not None:
            relay.session.up.clear()
        else:
            try:
                self._flush()
            except Exception as e:
                log.error("not forwarded: %s", e)
                relay.session.up.clear()
            relay.forward()


class Relay:
    """Owns both legs until `ended` is called, once, with the reason."""

    def __init__(
        self,
        client: Leg,
        upstream: Leg,
        session: Session,
        *,
        hold_buffer: int,
        refresh: Callable[[], Awaitable[None]],
        ended: Callable[[str], None],
        outbox: Outbox,
        busy_poll: BusyPoll,
    ) -> None:
        self.client_leg = client
        self.upstream_leg = upstream
        self.session = session
        self._hold_buffer = hold_buffer
        self._refresh = refresh
        self._ended = ended
        self._outbox = outbox
        self._traffic = busy_poll.traffic
        self._over = False
        self._syncing = 0  # bytes whose record is on its way to the disk
        self._turning = False  # its next turn comes
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.TimerHandle | None = None

    def start(self, client_bytes: bytes, upstream_bytes: bytes) -> None:
        """Begins relaying with bytes that the handshake had read already."""
        if upstream_bytes:
            self.from_upstream(upstream_bytes)
        if client_bytes and not self._over:
            self.from_client(client_bytes)
        if self._over:
            return
        self.upstream_leg.attach(self.from_upstream, self._upstream_gone, self._upstream_writable)
        self.client_leg.attach(self.from_client, self._client_gone, self._client_writable)

    # ------------------------------------------------------------ bytes

    def from_client(self, data: bytes) -> None:
        try:
            self.session.client(data)
        except Exception:
            self._crashed()
            return
        self.drain()
        self._traffic()

    def from_upstream(self, data: bytes) -> None:
        try:
            self.session.server(data)
        except Exception:
            self._crashed()
            return
        self.drain()
        self._traffic()

    def drain(self) -> None:
        """Sends what the session has put out, and obeys its waits and its end."""
        if self._over:
            return
        session = self.session
        up, down = session.up, session.down
        if up:
            self._outbox.add(self)
            if self._outbox.strict and self._syncing + sum(map(len, up)) > self._hold_buffer:
                self.client_leg.pause("sync")
        if session.late and self._outbox.crowded:
            # clients that are woken early take the CPU from the sessions that are still to be served
            self._catch_up()
            if self._over:
                return
        if down:
            self._send_down()
        if session.late:
            self._catch_up()
            if self._over:
                return
        if session.ended:
            self.forward_last()
            self.end("ended by the gateway")
        elif session.waiting is not None:
            self._wait(session.waiting)
        elif self._probe is not None:
            self._stop_probe()

    def _send_down(self) -> None:
        down = self.session.down
        self.client_leg.send(down[0] if len(down) == 1 else b"".join(down))
        down.clear()

    def _catch_up(self) -> None:
        """What the client is sent goes on record."""
        try:
            self.session.catch_up()
            if not self._outbox.crowded and self._outbox.prepare is not None:
                self._outbox.prepare()
        except Exception:
            self._crashed()
            return
        if self.session.down:  # its last words: it could not be recorded
            self._send_down()

    def begin_sync(self) -> list[bytes]:
        """What is sent once the disk has its record. What comes meanwhile waits for the next time, up to a limit."""
        up = self.session.up[:]
        self.session.up.clear()
        self._syncing += sum(map(len, up))
        return up

    def end_sync(self) -> None:
        self._syncing = 0
        self.client_leg.resume("sync")

    def forward(self) -> None:
        """Sends `up`: called by the outbox once everything recorded is in the journal."""
        up = self.session.up
        if up and not self._over:
            self.upstream_leg.send(up[0] if len(up) == 1 else b"".join(up))
        up.clear()

    def forward_or_end(self) -> None:
        """As `forward`. What goes wrong with one session ends that one and keeps no other waiting."""
        try:
            self.forward()
        except Exception:
            self._crashed()

    def forward_synced(self, up: list[bytes]) -> None:
        """Sends what `begin_sync` gave out."""
        try:
            if up and not self._over:
                self.upstream_leg.send(b"".join(up))
        except Exception:
            self._crashed()

    def forward_last(self) -> None:
        """What was allowed before the end still goes, if it can be recorded (a client's Terminate, for one)."""
        if self.session.up:
            self._outbox.flush_for(self)

    def unrecorded(self) -> None:
        """The journal failed: nothing is sent, the session ends."""
        self.session.up.clear()
        self.step(self.session.unrecorded)

    def _crashed(self) -> None:
        """A bug of ours must not become a hole: the session ends, nothing more of it is forwarded."""
        log.exception("a session ended by an internal error")
        self.session.up.clear()
        try:
            self.session.terminate("internal error in the gateway; the session ends")
        except Exception:
            log.exception("the session could not say goodbye")
        if self.session.down:
            self.client_leg.send(b"".join(self.session.down))
        self.end("internal error")

    # ------------------------------------------------------------ waits and back-pressure

    def _wait(self, wait: Wait) -> None:
        if wait is Wait.CATALOG and self._task is None:
            self._task = asyncio.ensure_future(self._refresh_catalog())
            self._task.add_done_callback(self._refreshed)
        if wait is Wait.TURN and not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        if self.session.backlog > self._hold_buffer:
            self.client_leg.pause("wait")
        if self._probe is None:
            self._probe = asyncio.get_running_loop().call_later(_PROBE_EVERY, self._look)

    def _turn(self) -> None:
        """The others have been served."""
        self._turning = False
        if self.session.waiting is Wait.TURN:
            self.step(lambda: self.session.resume(None))

    async def _refresh_catalog(self) -> None:
        await self._refresh()

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or self._over:
            return
        if (e := task.exception()) is not None:
            log.warning("the catalog could not be refreshed: %s", e)
        self.step(lambda: self.session.resume(None))

    def step(self, change: Callable[[], object]) -> None:
        """Runs something that moves the session, then drains it."""
        if self._over:
            return
        try:
            change()
        except Exception:
            self._crashed()
            return
        self.drain()

    def _look(self) -> None:
        self._probe = None
        if self._over:
            return
        if self.session.waiting is not None:
            if self.client_leg.gone or self.client_leg.peer_left():
                self._client_gone()
                return
            self._probe = asyncio.get_running_loop().call_later(_PROBE_EVERY, self._look)

    def _stop_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        self.client_leg.resume("wait")

    def _client_writable(self, writable: bool) -> None:
        (self.upstream_leg.resume if writable else self.upstream_leg.pause)("peer")

    def _upstream_writable(self, writable: bool) -> None:
        (self.client_leg.resume if writable else self.client_leg.pause)("peer")

    # ------------------------------------------------------------ ends

    def _client_gone(self) -> None:
        self._lost(Side.CLIENT, "the client closed the connection")

    def _upstream_gone(self) -> None:
        self._lost(Side.UPSTREAM, "the upstream closed the connection")

    def _lost(self, side: Side, why: str) -> None:
        if self._over:
            return
        try:
            self.session.lost(side)
        except Exception:
            log.exception("a session could not record its end")
        if side is Side.UPSTREAM and self.session.down:
            self.client_leg.send(b"".join(self.session.down))
            self.session.down.clear()
        self.end(why)

    def end(self, why: str) -> None:
        """Closes both legs, once."""
        if self._over:
            return
        self.forward_last()
        self._over = True
        if self._probe is not None:
            self._probe.cancel()
        if self._task is not None:
            self._task.cancel()
        self.client_leg.close(linger=True)
        self.upstream_leg.close()
        self._ended(why)
