"""One connection's way in: who it is, whether the resource is open to them, and how the gateway logs in upstream."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import ssl
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mitmproxy.connection import Client

from addons.admission import Door, Ground
from addons.leg import Leg
from addons.live import LiveSession
from addons.own import OwnConnection
from addons.relay import Relay
from guard.config.schema import ListenerConfig, ResourceConfig
from protocols.contract import (
    Action,
    Admission,
    Authenticate,
    Cancel,
    CredentialRefused,
    KeepKey,
    ListenerTerms,
    Permit,
    Refused,
    Side,
    StartTls,
)
from protocols.registry import Handover, WireProtocol

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.gate")

_CANCEL_TIMEOUT = 5.0
_FORBIDDEN = "42501"
_MAX_ATTRIBUTES = 32  # of what a client says of itself
_CODES = {  # SQLSTATEs; each protocol has its own words for them
    Ground.FULL: "53300",
    Ground.CLOSED: "57P03",
    Ground.IDENTITY: "28P01",
    Ground.POLICY: "28000",
    Ground.CREDENTIAL: "08001",
    Ground.STATE: "58030",
}


class Gate(Door):
    """Made for each connection of a listener."""

    refusal_type: ClassVar[type[Exception]] = Refused

    def __init__(
        self, runtime: Runtime, protocol: WireProtocol, listener: ListenerConfig, resource: ResourceConfig, peer: str
    ) -> None:
        super().__init__(runtime, listener, resource, peer)
        self._protocol = protocol
        self._live: LiveSession | None = None
        self._pid = 0  # the id that the client is told, ours among `cancel_keys`
        self._secret = b""
        self._early: asyncio.Semaphore | None = None  # of which we hold a place
        self._upstream_key: tuple[int, bytes] = (0, b"")
        self._began = False  # the session is on record
        self._cancels = 0  # requests that no cancel request upstream has answered yet
        self._cancelling: asyncio.Task[None] | None = None
        self._registered = False
        self.auth_timeout = runtime.config.limits.auth_timeout
        self.upstream_address = (resource.server, resource.port)

    def handshake(self, nonce: bytes) -> Generator[Any, Any, Any]:
        issuer = self.runtime.config.issuers[0]
        terms = ListenerTerms(
            self.listener.tls.mode,
            self.listener.client_auth == "oauth",
            issuer.issuer.rstrip("/") + "/.well-known/openid-configuration",
            issuer.scope,
            self.listener.local_files,
        )
        return self._protocol.handshake(terms, nonce, self._cache())

    def _cache(self) -> Any:
        return self.runtime.upstreams.cache(self._protocol, self.resource.name)

    def refusal(self, message: str, code: str = "53300") -> bytes:
        return self._protocol.refusal(message, code)

    def tls(self, asked: StartTls) -> tuple[ssl.SSLContext, bool, str | None]:
        if asked.side is Side.CLIENT:
            return self.runtime.listener_tls[self.listener.name], True, None
        context = self.runtime.upstream_tls[self.resource.name]
        assert context is not None
        return context, False, self.resource.tls.server_name or self.resource.server

    # ------------------------------------------------------------ admission

    def _denied(self, ground: Ground, text: str) -> Refused:
        return Refused(text, _CODES[ground])

    async def admit(self, asked: Authenticate) -> Admission:
        """Raises `Refused` with a text for the client; why exactly is on record."""
        with self._asking(asked.application, asked.claimed_user):
            return await self._admit(asked)

    async def _admit(self, asked: Authenticate) -> Admission:
        runtime, config = self.runtime, self.resource
        principal = await self._verified(asked.token)
        database = self._database(asked)
        opened = self._opened(principal, config.as_resource(database), asked.application)
        credential = await runtime.upstreams.credential(config)
        keeper = runtime.upstreams.keeper(config, database)
        live = LiveSession(runtime, opened, keeper)
        live.claimed_user = asked.claimed_user
        live.hold_wait = self.listener.hold_wait
        live.attributes = {k[:64]: v[:256] for k, v in asked.attributes[:_MAX_ATTRIBUTES]}
        self._let_in(live)
        keeper.acquire()
        self._live = live  # from here on it is released: nothing that was not acquired
        self._known()
        return Admission(
            principal, opened.resource, credential, database, runtime.upstream_tls[config.name] is not None
        )

    def _database(self, asked: Authenticate) -> str:
        """The one to log in to. Raises `Refused`: it is not behind this listener."""
        config = self.resource
        database = asked.database or config.database or ""
        if database == asked.claimed_user and config.one_database:
            database = config.database or ""  # what its clients ask for when they ask for none
        if not config.opens(database):
            known = ", ".join(f"`{d}`" for d in (config.database, *config.databases))
            raise Refused(f"database `{database[:63]}` is not behind this listener; it has {known}", "3D000")
        return database

    def permit(self, asked: Permit) -> None:
        """What a client sets with its login, judged as the statement that it stands for. Raises `Refused`."""
        live = self._live
        assert live is not None
        text = live.redact(asked.text)
        decision = live.decide(asked.analysis)
        if decision.alerts:
            live.alert(decision.alerts, 0)
        if decision.action is not Action.ALLOW:
            needs = ", ".join(f"`{effect}`" for effect in sorted(asked.analysis.effects))
            held = decision.action is Action.HOLD
            why = "it needs approval, for which a login does not wait; send it as a statement" if held else decision.why
            raise Refused(
                f"startup setting refused by rule `{decision.rule}`: {why}; {text} needs {needs}:"
                " remove it from the connection, or ask for a rule",
                _FORBIDDEN,
            )
        if len(live.attributes) < _MAX_ATTRIBUTES:
            live.attributes[f"startup {len(live.attributes) + 1}"] = text[:256]

    def credential_refused(self) -> None:
        """The upstream did not take it: it may have been rotated, and the next connection reads it anew."""
        self.runtime.upstreams.stale.add(self.resource.name)

    # ------------------------------------------------------------ the upstream connection

    async def may_connect(self) -> None:
        """Returns once this connection may open its upstream; who is not known yet waits for one of few places."""
        if self._live is None:
            early = self.runtime.upstreams.early(self.resource.name)
            await early.acquire()
            self._early = early

    def _known(self) -> None:
        """The client is no stranger any more, or is gone."""
        early, self._early = self._early, None
        if early is not None:
            early.release()

    # ------------------------------------------------------------ ids and cancel keys

    def reserve_id(self, wanted: int = 0) -> int:
        """The id of this connection, unique and kept until it ends: `wanted` where that is free, else any."""
        if not self._pid:
            keys = self.runtime.cancel_keys
            self._pid = wanted
            while self._pid in keys or not self._pid:
                self._pid = secrets.randbelow(0x7FFFFFFF) + 1
            keys[self._pid] = (None, b"")
        return self._pid

    def keep_key(self, asked: KeepKey) -> tuple[int, bytes]:
        """A secret of our own with the server's id, by which clients know their own notifications and locks.

        The upstream's secret never leaves the gateway.
        """
        self._upstream_key = (asked.pid, asked.secret)
        self._secret = secrets.token_bytes(asked.length)
        return self.reserve_id(asked.pid), self._secret

    def _free_id(self) -> None:
        pid, self._pid = self._pid, 0
        self.runtime.cancel_keys.pop(pid, None)

    async def cancel(self, asked: Cancel) -> None:
        """Somebody presents a cancel key. An unknown one is answered like a known one: not at all.

        Ends when the upstream has passed the signal on, as with the server itself: who goes on then cancels no
        statement but the one that was meant.
        """
        live, secret = self.runtime.cancel_keys.get(asked.pid, (None, b""))
        # a protocol whose ids come without a secret has no such request: whoever makes one has guessed
        if live is None or not secret or not hmac.compare_digest(secret, asked.secret):
            self.runtime.note("cancel.refused", {"listener": self.listener.name, "client": self.peer})
            return
        if (asking := live.cancel()) is not None:
            await asyncio.wait((asking,))  # it goes on where this connection ends: others may wait for it

    def _ask_cancel(self) -> asyncio.Task[None]:
        """One cancel request upstream at a time: who floods us with them does not flood the upstream."""
        self._cancels += 1
        if self._cancelling is None or self._cancelling.done():
            self._cancelling = self.runtime.background(self._cancel_while_asked(), "cancel request")
        return self._cancelling

    async def _cancel_while_asked(self) -> None:
        while self._cancels:
            self._cancels = 0
            await self._cancel_upstream()

    async def _cancel_upstream(self) -> None:
        """Asks the upstream on a connection of its own, in TLS where the resource has it."""
        runtime, config = self.runtime, self.resource
        own = OwnConnection(runtime.upstream_tls[config.name], config.tls.server_name or config.server)
        try:
            login = await runtime.upstreams.login(config, config.database or "", _CANCEL_TIMEOUT)
            await own.open(config.server, config.port, _CANCEL_TIMEOUT)
            await own.run(self._protocol.cancel(login, *self._upstream_key), _CANCEL_TIMEOUT)
        except Exception as e:
            if isinstance(e, CredentialRefused):
                self.credential_refused()
            log.warning("cancel request to %s: %s", config.name, e.__cause__ or e or type(e).__name__)
        finally:
            own.close()

    # ------------------------------------------------------------ start and end

    async def register(self) -> None:
        """The session in the registry, before it begins. Raises `StateError`."""
        assert self._live is not None
        self._registered = True  # from now on, whatever comes of it, an end belongs there
        await self._register(self._live)

    def start(self, handover: Handover, client: Leg, upstream: Leg, connection: Client) -> None:
        """The session begins. Raises where it cannot be put on record: then it does not begin."""
        runtime, live, config = self.runtime, self._live, self.runtime.config
        assert live is not None
        why = self._renewed(live)
        live.upstream_id = self._upstream_key[0]
        if self._upstream_key[0]:
            live.cancel_upstream = self._ask_cancel
        live.session = self._protocol.session(
            live.id,
            live,
            handover,
            self._cache(),
            inspect_max=config.limits.inspect_max_bytes,
            response_max=config.record.max_response_bytes,
        )
        live.relay = Relay(
            client,
            upstream,
            live.session,
            hold_buffer=config.limits.hold_buffer_bytes,
            refresh=live.refresh_catalog,
            ended=lambda why: self._ended(why),
            outbox=runtime.outbox,
            busy_poll=runtime.busy_poll,
        )
        self._begin(live)
        self._began = True
        if self._pid:
            runtime.cancel_keys[self._pid] = (live, self._secret)
        if client.tls is not None:
            # mitmproxy knows nothing of a TLS that it did not do
            connection.tls, connection.timestamp_tls_setup = True, time.time()
            connection.tls_version = cast(Any, client.tls.version())
            connection.cipher = (client.tls.cipher() or [None])[0]
        runtime.watch(live, connection)
        live.relay.start(handover.client, handover.upstream)
        if why:
            live.terminate(why)  # contained while it logged in, say: it ends before its first command
        else:
            live.check(time.time())

    def last_words(self, message: str, code: str) -> bytes:
        """What a client reads where the gateway itself failed. Once the handshake is over its session says it."""
        session = self._live.session if self._live is not None else None
        if session is None:
            return self.refusal(message, code)
        session.down.clear()  # the server's words, which the relay has not passed on
        session.terminate(message)
        return b"".join(session.down)

    def failed(self, why: str, *, refused: bool = False) -> None:
        """The handshake did not become a session. `refused`: by us, which is on record whoever it was."""
        log.info("%s: no session for %s: %s", self.listener.name, self.peer, why)
        self._known()
        self._free_id()
        if refused and self._live is None and not self._refusal_recorded:
            self._refused(why)
        if self._began and self._live is not None and self._live.relay is not None:
            self._live.relay.end(why)  # its beginning is on record: so is its end
        if self._live is not None:
            self.runtime.note(
                "session.failed",
                {"subject": self._live.principal.subject, "resource": self.resource.name, "client": self.peer}
                | {"why": why},
            )
            if self._registered:
                self.runtime.deregister(self._live.id, why)
            self._release()

    def _release(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.keeper.release()
        self._give_place_back()

    def _ended(self, why: str) -> None:
        live = self._live
        if live is None:
            return
        self._free_id()
        self._release()
        self._end(live, why)
