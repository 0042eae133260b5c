"""One connection's way in: who it is, whether the resource is open to them, and how the gateway logs in upstream."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import ssl
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from mitmproxy.connection import Client

from addons.leg import Leg
from addons.live import LiveSession
from addons.own import OwnConnection
from addons.relay import Relay
from guard.config.schema import ListenerConfig, ResourceConfig
from guard.identity import IdentityError
from guard.record.errors import RecordError
from guard.secrets import SecretError
from guard.state.database import StateError
from guard.state.registry import SessionEntry
from protocols.contract import (
    Admission,
    Authenticate,
    Cancel,
    CredentialRefused,
    KeepKey,
    ListenerTerms,
    Refused,
    SessionFacts,
    Side,
    StartTls,
)
from protocols.registry import Handover, WireProtocol

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.gate")

_CANCEL_TIMEOUT = 5.0
_MAX_ATTRIBUTES = 32  # of what a client says of itself


class Gate:
    """Made for each connection of a listener."""

    def __init__(
        self, runtime: Runtime, protocol: WireProtocol, listener: ListenerConfig, resource: ResourceConfig, peer: str
    ) -> None:
        self._runtime = runtime
        self._protocol = protocol
        self._listener = listener
        self._resource = resource
        self._peer = peer
        self._live: LiveSession | None = None
        self._pid = 0  # the id that the client is told, ours among `cancel_keys`
        self._secret = b""
        self._early: asyncio.Semaphore | None = None  # of which we hold a place
        self._upstream_key: tuple[int, bytes] = (0, b"")
        self._began = False  # the session is on record
        self._cancels = 0  # requests that no cancel request upstream has answered yet
        self._cancelling: asyncio.Task[None] | None = None
        self._counted = False
        self._subject = ""  # once the token was verified
        self._refusal_recorded = False
        self._registered = False
        self.auth_timeout = runtime.config.limits.auth_timeout
        self.upstream_address = (resource.server, resource.port)

    def arrive(self) -> bool:
        """Whether one more may try to log in: nobody has said who they are yet."""
        return self._runtime.strangers.enter(self._peer)

    def arrived(self) -> None:
        """The handshake of a connection that `arrive` let in is over, one way or the other."""
        self._runtime.strangers.leave(self._peer)

    def handshake(self, nonce: bytes) -> Generator[Any, Any, Any]:
        issuer = self._runtime.config.issuers[0]
        terms = ListenerTerms(
            self._listener.tls.mode,
            self._listener.client_auth == "oauth",
            issuer.issuer.rstrip("/") + "/.well-known/openid-configuration",
            issuer.scope,
            self._listener.local_files,
        )
        return self._protocol.handshake(terms, nonce, self._cache())

    def _cache(self) -> Any:
        return self._runtime.cache(self._protocol, self._resource.name)

    def refusal(self, message: str, code: str = "53300") -> bytes:
        return self._protocol.refusal(message, code)

    def tls(self, asked: StartTls) -> tuple[ssl.SSLContext, bool, str | None]:
        if asked.side is Side.CLIENT:
            return self._runtime.listener_tls[self._listener.name], True, None
        context = self._runtime.upstream_tls[self._resource.name]
        assert context is not None
        return context, False, self._resource.tls.server_name or self._resource.server

    # ------------------------------------------------------------ admission

    async def admit(self, asked: Authenticate) -> Admission:
        """Raises `Refused` with a text for the client; why exactly is on record."""
        runtime = self._runtime
        try:
            return await self._admit(asked)
        except IdentityError as e:
            self._subject = e.subject
            self._refused(asked, str(e), e.detail)
            raise Refused(f"authentication failed: {e}", "28P01") from None
        except SecretError as e:
            log.error("credential of %s: %s", self._resource.name, e)
            self._refused(asked, "no upstream credential", str(e))
            raise Refused("the gateway has no credential for this resource; its log says why", "08001") from None
        except Refused as e:
            self._refused(asked, str(e), "")
            raise
        except (RecordError, StateError) as e:
            log.error("%s refuses connections: %s", self._listener.name, e)
            raise Refused("the gateway cannot record or check state; nothing passes until it can", "58030") from None
        finally:
            if self._live is None and self._counted:
                runtime.connections -= 1
                self._counted = False

    async def _admit(self, asked: Authenticate) -> Admission:
        runtime, config = self._runtime, self._resource
        if runtime.connections >= runtime.config.limits.max_connections:
            raise Refused("the gateway has too many connections; try again later", "53300")
        if runtime.draining:
            raise Refused("the gateway shuts down", "57P03")
        if runtime.stopped:
            raise Refused(runtime.stopped, "57P03")
        runtime.connections += 1
        self._counted = True
        principal = await runtime.verifier.verify(asked.token)
        self._subject = principal.subject
        database = asked.database or config.database or ""
        if database == asked.claimed_user and config.one_database:
            database = config.database or ""  # what its clients ask for when they ask for none
        if not config.opens(database):
            known = ", ".join(f"`{d}`" for d in (config.database, *config.databases))
            raise Refused(f"database `{database[:63]}` is not behind this listener; it has {known}", "3D000")
        resource = config.as_resource(database)
        facts = SessionFacts(self._peer, asked.application[:256], time.time())
        policy = runtime.policies.for_session(principal, resource, facts)
        if not policy.may_connect:
            raise Refused(f"no policy opens `{resource.name}` to you; ask its owner for a rule", "28000")
        credential = await runtime.credential(config)
        keeper = runtime.keeper(config, database)
        live = LiveSession(runtime, secrets.token_hex(8), principal, resource, facts, policy, keeper)
        live.listener, live.claimed_user = self._listener.name, asked.claimed_user
        live.hold_wait = self._listener.hold_wait
        live.attributes = {k[:64]: v[:256] for k, v in asked.attributes[:_MAX_ATTRIBUTES]}
        if why := live.refusal():
            raise Refused(why, "28000")
        self._live = live
        self._known()
        keeper.acquire()
        return Admission(principal, resource, credential, database, runtime.upstream_tls[config.name] is not None)

    def credential_refused(self) -> None:
        """The upstream did not take it: it may have been rotated, and the next connection reads it anew."""
        self._runtime.stale_credentials.add(self._resource.name)

    def _refused(self, asked: Authenticate | None, public: str, detail: str) -> None:
        """`asked` is None where it did not come to a token."""
        self._refusal_recorded = True
        if detail:
            log.info("%s: refused %s: %s", self._listener.name, self._peer, detail)
        self._runtime.note(
            "session.refused",
            {
                "listener": self._listener.name,
                "resource": self._resource.name,
                "client": self._peer,
                "subject": self._subject,
                "claimed_user": asked.claimed_user[:256] if asked is not None else "",
                "application": asked.application[:256] if asked is not None else "",
                "why": public,
                "detail": detail,
            },
        )

    # ------------------------------------------------------------ the upstream connection

    async def may_connect(self) -> None:
        """Returns once this connection may open its upstream; who is not known yet waits for one of few places."""
        if self._live is None:
            early = self._runtime.early_upstreams(self._resource.name)
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
            keys = self._runtime.cancel_keys
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
        self._runtime.cancel_keys.pop(pid, None)

    async def cancel(self, asked: Cancel) -> None:
        """Somebody presents a cancel key. An unknown one is answered like a known one: not at all.

        Ends when the upstream has passed the signal on, as with the server itself: who goes on then cancels no
        statement but the one that was meant.
        """
        live, secret = self._runtime.cancel_keys.get(asked.pid, (None, b""))
        # a protocol whose ids come without a secret has no such request: whoever makes one has guessed
        if live is None or not secret or not hmac.compare_digest(secret, asked.secret):
            self._runtime.note("cancel.refused", {"listener": self._listener.name, "client": self._peer})
            return
        if (asking := live.cancel()) is not None:
            await asyncio.wait((asking,))  # it goes on where this connection ends: others may wait for it

    def _ask_cancel(self) -> asyncio.Task[None]:
        """One cancel request upstream at a time: who floods us with them does not flood the upstream."""
        self._cancels += 1
        if self._cancelling is None or self._cancelling.done():
            self._cancelling = self._runtime.background(self._cancel_while_asked(), "cancel request")
        return self._cancelling

    async def _cancel_while_asked(self) -> None:
        while self._cancels:
            self._cancels = 0
            await self._cancel_upstream()

    async def _cancel_upstream(self) -> None:
        """Asks the upstream on a connection of its own, in TLS where the resource has it."""
        runtime, config = self._runtime, self._resource
        own = OwnConnection(runtime.upstream_tls[config.name], config.tls.server_name or config.server)
        try:
            login = await runtime.login(config, config.database or "", _CANCEL_TIMEOUT)
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
        """The session in the registry, before it begins. Raises `StateError`.

        A locked store makes those who log in wait and fail, and nobody who is in.
        """
        runtime, live = self._runtime, self._live
        assert live is not None
        principal = live.principal
        entry = SessionEntry(
            live.id,
            runtime.name,
            principal.subject,
            principal.issuer,
            live.resource.name,
            live.resource.protocol,
            self._peer,
            live.facts.application,
            live.facts.started_at,
            principal.expires_at,
        )
        self._registered = True  # from now on, whatever comes of it, an end belongs there
        await runtime.registrar.start(entry)

    def start(self, handover: Handover, client: Leg, upstream: Leg, connection: Client) -> None:
        """The session begins. Raises where it cannot be put on record: then it does not begin."""
        runtime, live, config = self._runtime, self._live, self._runtime.config
        assert live is not None
        # the policy may have been loaded anew while it logged in: no reload would reach it any more
        live.begin_under(runtime.policies.for_session(live.principal, live.resource, live.facts))
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
        principal = live.principal
        runtime.recorder.session_start(
            live.id,
            {
                "subject": principal.subject,
                "issuer": principal.issuer,
                "groups": sorted(principal.groups),
                "token_id": principal.token_id,
                "expires_at": principal.expires_at,
                "resource": live.resource.name,
                "protocol": live.resource.protocol,
                "database": live.resource.database,
                "listener": self._listener.name,
                "client": self._peer,
                "application": live.facts.application,
                "claimed_user": live.claimed_user[:256],
                "policy": live.policy.version,
            }
            | ({"attributes": live.attributes} if live.attributes else {}),
        )
        self._began = True
        if self._pid:
            runtime.cancel_keys[self._pid] = (live, self._secret)
        runtime.sessions[live.id] = live
        if client.tls is not None:
            # mitmproxy knows nothing of a TLS that it did not do
            connection.tls, connection.timestamp_tls_setup = True, time.time()
            connection.tls_version = cast(Any, client.tls.version())
            connection.cipher = (client.tls.cipher() or [None])[0]
        runtime.watch(live, connection)
        live.relay.start(handover.client, handover.upstream)
        live.check(time.time())  # contained while it logged in: it ends before its first command
        if not live.policy.may_connect:
            live.terminate("the policy no longer gives you this resource")

    def failed(self, why: str, *, refused: bool = False) -> None:
        """The handshake did not become a session. `refused`: by us, which is on record whoever it was."""
        log.info("%s: no session for %s: %s", self._listener.name, self._peer, why)
        self._known()
        self._free_id()
        if refused and self._live is None and not self._refusal_recorded:
            self._refused(None, why, "")
        if self._began and self._live is not None and self._live.relay is not None:
            self._live.relay.end(why)  # its beginning is on record: so is its end
        if self._live is not None:
            self._runtime.note(
                "session.failed",
                {"subject": self._live.principal.subject, "resource": self._resource.name, "client": self._peer}
                | {"why": why},
            )
            if self._registered:
                self._runtime.deregister(self._live.id, why)
            self._release()

    def _release(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.keeper.release()
        if self._counted:
            self._runtime.connections -= 1
            self._counted = False

    def _ended(self, why: str) -> None:
        live, runtime = self._live, self._runtime
        if live is None:
            return
        self._free_id()
        runtime.sessions.pop(live.id, None)
        reason = live.end_reason or why
        self._release()
        runtime.session_ended(live, reason)
