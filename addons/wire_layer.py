"""The mitmproxy layer of every wire protocol: takes the connection over, runs the handshake, starts the relay.

mitmproxy sees the connections open and close (its hooks, its list, its shutdown); their bytes never pass its layers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Generator
from typing import Any

from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer

from addons import runtime, takeover
from addons.drive import drive, last_words
from addons.gate import Gate
from addons.leg import Leg
from guard.record.errors import RecordError
from guard.state import StateError
from protocols.contract import (
    Authenticate,
    Cancel,
    Connect,
    CredentialRefused,
    KeepKey,
    PeerGone,
    Permit,
    Refused,
    Register,
    ReserveId,
    Side,
    StartTls,
    WireError,
)
from protocols.registry import PROTOCOLS

log = logging.getLogger("sluicegate.wire")

_NONCE = 32  # random bytes that a handshake may use
_UNRECORDED = "the gateway cannot record; nothing passes until it can"
_CONNECT_TIMEOUT = 10.0  # seconds until an upstream has accepted


class OpenUpstream(events.Event):
    """Injected by ourselves: the handshake wants its upstream connection."""


class WireLayer(layer.Layer):
    """One connection of one listener."""

    def __init__(self, context: context.Context, protocol: str, listener: str) -> None:
        super().__init__(context)
        self._protocol = protocol
        self._listener = listener
        self._client: Leg | None = None
        self._upstream: Leg | None = None
        self._connecting = False
        self._registered = False  # its session, with the handshake's last step but one
        self._connected: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._gate: Gate | None = None

    def _handle_event(self, event: events.Event) -> Generator[commands.Command, Any, None]:
        return self.handle_event(event)

    def handle_event(self, event: events.Event) -> Generator[commands.Command, Any, None]:
        """Bypasses mitmproxy's pausing of layers: nothing here ever waits in a generator."""
        if isinstance(event, events.Start):
            self._begin()
        elif isinstance(event, OpenUpstream):
            yield commands.OpenConnection(self.context.server)
        elif isinstance(event, events.OpenConnectionCompleted):
            self._opened(event.reply)
        elif isinstance(event, events.ConnectionClosed):
            for conn in (self.context.server, self.context.client):
                if conn is not event.connection and conn is self.context.client and self._lingers():
                    continue  # it still has last words to take; its own end comes soon
                if conn.state is not connection.ConnectionState.CLOSED or conn is event.connection:
                    yield commands.CloseConnection(conn)

    def _lingers(self) -> bool:
        return self._client is not None and self._client.lingering

    def _begin(self) -> None:
        handler = takeover.handler_of(self.context.client.id)
        takeover.disarm_timeout(handler)
        self._client = takeover.take_over(handler, self.context.client)
        self._task = asyncio.create_task(self._run(), name=f"{self._listener} handshake")

    def _opened(self, error: str | None) -> None:
        waiting, self._connected = self._connected, None
        if error is None:
            self._upstream = takeover.take_over(takeover.handler_of(self.context.client.id), self.context.server)
        if waiting is None or waiting.done():
            if self._upstream is not None:
                self._upstream.close()  # it came too late: nobody waits for it any more
        elif error is None:
            waiting.set_result(None)
        else:
            log.warning("upstream of %s: %s", self._listener, error)
            waiting.set_exception(Refused("the gateway cannot reach the upstream; its log says why", "08001"))

    async def _run(self) -> None:
        assert self._client is not None
        address = self.context.client.peername
        peer, current = str(address[0]) if address else "", runtime.current()
        gate = current.gate(self._protocol, self._listener, peer) if current is not None else None
        if gate is None:
            words = "the gateway takes no connections at the moment; try again later"
            self._client.send(PROTOCOLS[self._protocol].refusal(words, "57P03"))
            self._client.close(linger=True)
            return
        self._gate = gate
        if not gate.arrive():
            self._client.send(gate.refusal("the gateway has too many connections; try again later"))
            self._client.close(linger=True)
            return
        try:
            await self._shake_hands(gate)
        finally:
            gate.arrived()

    async def _shake_hands(self, gate: Gate) -> None:
        assert self._client is not None
        why, refused = "the handshake failed", False
        handshake = gate.handshake(os.urandom(_NONCE))
        try:
            async with asyncio.timeout(gate.auth_timeout):
                handover = await drive(handshake, self._leg, self._tls, self._ask)
            if handover is None:
                why = "a cancel request"
            else:
                assert self._upstream is not None
                if not self._registered:
                    raise RuntimeError("a handshake that did not have its session registered")
                gate.start(handover, self._client, self._upstream, self.context.client)
                return
        except PeerGone as e:
            why = f"the client left during the handshake{f' ({e})' if str(e) else ''}"
        except Refused as e:
            why, refused = str(e), True
            if isinstance(e, CredentialRefused):
                gate.credential_refused()
            if e.__cause__ is not None:
                log.warning("%s: %s (%s)", self._listener, e, e.__cause__)
        except TimeoutError:
            why = "the handshake took too long"
            self._say(last_words(handshake, Refused("the login took too long", "57014")))
        except WireError as e:
            why = f"protocol error: {e}"
        except RecordError as e:
            why = f"not recorded: {e}"
            log.error("%s: %s", self._listener, why)
            self._say(gate.last_words(_UNRECORDED, "58030"))
        except Exception as e:
            why = f"{type(e).__name__} in the handshake"
            log.exception("%s: %s", self._listener, why)
            self._say(gate.last_words("internal error in the gateway", "XX000"))
        gate.failed(why, refused=refused)
        self._client.close(linger=True)
        if self._upstream is not None:
            self._upstream.close()

    def _say(self, words: bytes) -> None:
        """The last words to a client; none where TLS has begun and is not there yet."""
        if self._client is not None and not self._client.securing:
            self._client.send(words)

    # ------------------------------------------------------------ what a handshake asks for

    def _leg(self, side: Side) -> Leg:
        leg = self._client if side is Side.CLIENT else self._upstream
        if leg is None:
            raise Refused("the upstream is not connected", "08001")
        return leg

    def _tls(self, asked: StartTls) -> tuple[ssl.SSLContext, bool, str | None]:
        assert self._gate is not None
        return self._gate.tls(asked)

    async def _ask(self, asked: Any) -> Any:
        gate = self._gate
        assert gate is not None
        if isinstance(asked, Authenticate):
            return await gate.admit(asked)
        if isinstance(asked, ReserveId):
            return gate.reserve_id()
        if isinstance(asked, Connect):
            if self._connecting:
                raise RuntimeError("a handshake asked twice for its upstream")
            self._connecting = True
            await gate.may_connect()
            self.context.server.address = gate.upstream_address
            self._connected = asyncio.get_running_loop().create_future()
            waiting = self._connected
            await takeover.handler_of(self.context.client.id).server_event(OpenUpstream())
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    return await waiting
            except TimeoutError:
                raise Refused("the gateway cannot reach the upstream in time; try again later", "08001") from None
        if isinstance(asked, KeepKey):
            return gate.keep_key(asked)
        if isinstance(asked, Permit):
            return gate.permit(asked)
        if isinstance(asked, Register):
            try:
                await gate.register()
            except StateError as e:
                raise Refused(_UNRECORDED, "58030") from e
            self._registered = True
            return None
        if isinstance(asked, Cancel):
            return await gate.cancel(asked)
        raise TypeError(f"a handshake asked for {type(asked).__name__}")
