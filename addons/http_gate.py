"""One HTTP client connection: who sends through it, where it may go, what is closed when it must end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from mitmproxy import connection, http

from addons.http_destinations import DestinationRefused, Destinations
from addons.http_exchange import HttpExchange
from addons.http_live import HttpSession, NotAdmitted
from addons.takeover import handler_of
from guard.config.schema import ListenerConfig, ResourceConfig
from guard.identity import IdentityError
from guard.record.errors import RecordError
from guard.secrets import Secret, SecretError
from guard.state.database import StateError
from guard.state.registry import SessionEntry
from protocols.contract import Credential, SessionFacts
from protocols.http.headers import Header
from protocols.http.problems import CONTENT_TYPE, problem

if TYPE_CHECKING:
    from addons.http_inspect import Outbound
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.http")

_CREDENTIAL_AGE = 30.0  # seconds after which a credential is asked for again
_HOLD_WAIT = 25.0  # seconds that a client waits for an approval unless its listener says otherwise
_MAX_IDENTITIES = 64  # different tokens on one client connection
_UPGRADES = {"http": frozenset({"websocket"}), "kubernetes": frozenset({"websocket", "spdy/3.1"})}


class HttpGate:
    """See `addons.http_layer.Gate`. Made when a client connects to an HTTP listener."""

    def __init__(
        self,
        runtime: Runtime,
        listener: ListenerConfig,
        resource: ResourceConfig,
        client: connection.Client,
        destinations: Destinations,
        make: Callable[..., HttpExchange] = HttpExchange,
    ) -> None:
        self.runtime = runtime
        self.listener = listener
        self.resource = resource
        self.watched = runtime.watched
        self.client = client
        self.peer = str(client.peername[0]) if client.peername else ""
        self.destinations = destinations
        self.forward_proxy = not resource.host
        self.pins: dict[tuple[str, int], str] = {}
        self.opened: dict[str, tuple[str, int]] = {}  # server connection id -> what it was opened for
        self.tunnel: HttpSession | None = None
        self.outbound: Outbound = runtime.http.outbound
        self.upgrades = _UPGRADES[listener.protocol]
        self._make = make
        self._sessions: dict[str, HttpSession] = {}
        self._subject = ""  # of the token that was verified last
        self._joining = asyncio.Lock()  # one identity of this connection is found out at a time
        self._arriving = False
        self._counted = False
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._credential: list[Header] | None = None
        self._credential_until = 0.0

    def exchange(self, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> HttpExchange:
        return self._make(self, request, stream, tunnelled)

    # ------------------------------------------------------------ the connection

    def arrive(self) -> bool:
        """Whether one more may come in: nobody has said who they are yet, so they share one bound, and have a time."""
        runtime = self.runtime
        limits = runtime.config.limits
        if runtime.connections >= limits.max_connections or not runtime.strangers.enter(self.peer):
            self._refused("the gateway has too many connections; try again later", "", "", "")
            return False
        self._arriving = True
        self._timer = asyncio.get_running_loop().call_later(limits.auth_timeout, self._too_late)
        return True

    def _too_late(self) -> None:
        self._refused("no valid token within the time for a login", "", "", "")
        self.close("nobody has logged in in time")

    def _arrived(self) -> None:
        """It belongs to somebody now, or it is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._arriving:
            self._arriving = False
            self.runtime.strangers.leave(self.peer)

    def pause(self, paused: bool, of: connection.Connection | None = None) -> None:
        """Whether a socket (the client's, an upstream's) is left alone: what it sends has no place in memory."""
        try:
            io = handler_of(self.client.id).transports.get(of or self.client)
        except KeyError:
            return  # it is gone
        if io is None or io.writer is None:
            return
        transport = cast(asyncio.Transport, cast(asyncio.StreamWriter, io.writer).transport)
        if transport.is_closing():
            return
        if paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def flooded(self, why: str) -> None:
        """The client is cut off for what it costs."""
        log.warning("%s: %s is cut off: %s", self.listener.name, self.peer, why)
        session = next(iter(self._sessions.values()), None)
        self.runtime.note(
            "client.flood",
            {
                "s": session.id if session is not None else "",
                "subject": session.principal.subject if session is not None else "",
                "listener": self.listener.name,
                "resource": self.resource.name,
                "client": self.peer,
                "why": why,
            },
        )

    def refusal(self, status: int, text: str, **more: str) -> http.Response:
        """An answer of the gateway's own."""
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
        if status == 407:
            headers["proxy-authenticate"] = 'Basic realm="sluicegate: any user, an OIDC token as password"'
        elif status == 401:
            headers["www-authenticate"] = 'Bearer realm="sluicegate"'
        return http.Response.make(status, problem(status, text, **more), headers)

    # ------------------------------------------------------------ identities

    def known(self, token: str) -> HttpSession | None:
        """The session of a token that was verified on this connection, while it may go on."""
        session = self._sessions.get(_digest(token))
        if session is None or session.end_reason or time.time() >= session.principal.expires_at:
            return None
        return session

    async def identify(self, token: str, application: str) -> HttpSession:
        """The session of whoever this token belongs to. Raises `NotAdmitted`, on record."""
        async with self._joining:
            session = self.known(token)
            return session if session is not None else await self._identify(token, application)

    async def _identify(self, token: str, application: str) -> HttpSession:
        missing = 407 if self.forward_proxy else 401
        public, detail = "", ""
        try:
            if not token:
                raise NotAdmitted(missing, "this gateway needs a token: as proxy password or bearer token")
            return await self._admit(token, application)
        except IdentityError as e:
            public, detail, self._subject = str(e), e.detail, e.subject
            raise NotAdmitted(missing, f"authentication failed: {e}") from None
        except NotAdmitted as e:
            public = str(e)
            raise
        except (RecordError, StateError) as e:
            log.error("%s refuses requests: %s", self.listener.name, e)
            public = "the gateway cannot record or check state; nothing passes until it can"
            raise NotAdmitted(503, public) from None
        finally:
            if public:
                self._refused(public, detail, self._subject, application)

    async def _admit(self, token: str, application: str) -> HttpSession:
        runtime = self.runtime
        if runtime.draining or runtime.stopped:
            raise NotAdmitted(503, runtime.stopped or "the gateway shuts down")
        for digest in [d for d, s in self._sessions.items() if s.end_reason or time.time() >= s.principal.expires_at]:
            self._ended(self._sessions.pop(digest))
        if len(self._sessions) >= _MAX_IDENTITIES:
            raise NotAdmitted(403, "too many identities on one connection; open another")
        self._subject = ""
        if not self._counted and runtime.connections >= runtime.config.limits.max_connections:
            raise NotAdmitted(503, "the gateway has too many connections; try again later")
        principal = await runtime.verifier.verify(token)
        self._subject = principal.subject
        resource = self.resource.as_resource()
        facts = SessionFacts(self.peer, application[:256], time.time())
        policies = runtime.policies
        policy = policies.for_session(principal, resource, facts)
        if not policy.may_connect:
            raise NotAdmitted(403, f"no policy opens `{resource.name}` to you; ask its owner for a rule")
        session = HttpSession(runtime, secrets.token_hex(8), principal, resource, facts, policy, self.close)
        session.digest = _digest(token)
        session.listener = self.listener.name
        session.hold_wait = self.listener.hold_wait or _HOLD_WAIT
        if why := session.refusal():
            raise NotAdmitted(403, why)
        await self._register(session)
        # what has changed while it waited would reach nobody who is not listed yet
        if runtime.policies is not policies:
            session.policy = runtime.policies.for_session(principal, resource, facts)
        why = session.refusal() or (
            "" if session.policy.may_connect else "the policy no longer gives you this resource"
        )
        if self._over or why:
            runtime.deregister(session.id, why or "the client has left")
            raise NotAdmitted(403, why or "the connection is closed")
        self._start(session)
        return session

    async def _register(self, session: HttpSession) -> None:
        """In the registry, before it begins. A locked store makes this one wait, and fail. Raises `StateError`."""
        principal, runtime = session.principal, self.runtime
        entry = SessionEntry(
            session.id,
            runtime.name,
            principal.subject,
            principal.issuer,
            session.resource.name,
            session.resource.protocol,
            self.peer,
            session.facts.application,
            session.facts.started_at,
            principal.expires_at,
        )
        await runtime.registrar.start(entry)

    def _start(self, session: HttpSession) -> None:
        """On record, and live. Raises `RecordError`: then it is not."""
        runtime = self.runtime
        try:
            self._on_record(session)
        except RecordError:
            runtime.deregister(session.id, "it could not be recorded")
            raise
        self._arrived()
        if not self._counted:
            self._counted = True
            runtime.connections += 1
        self._sessions[session.digest] = session
        runtime.sessions[session.id] = session

    def _on_record(self, session: HttpSession) -> None:
        runtime, principal, resource, facts = self.runtime, session.principal, session.resource, session.facts
        runtime.recorder.session_start(
            session.id,
            {
                "subject": principal.subject,
                "issuer": principal.issuer,
                "groups": sorted(principal.groups),
                "token_id": principal.token_id,
                "expires_at": principal.expires_at,
                "resource": resource.name,
                "protocol": resource.protocol,
                "database": "",
                "listener": self.listener.name,
                "client": self.peer,
                "application": facts.application,
                "claimed_user": "",
                "policy": session.policy.version,
            },
        )

    def refuse_connection(self, why: str) -> None:
        """Puts on record that a connection ends before anything of it was read."""
        self._refused(why, "", "", "")

    def _refused(self, public: str, detail: str, subject: str, application: str) -> None:
        if detail:
            log.info("%s: refused %s: %s", self.listener.name, self.peer, detail)
        self.runtime.note(
            "session.refused",
            {
                "listener": self.listener.name,
                "resource": self.resource.name,
                "client": self.peer,
                "subject": subject,
                "claimed_user": "",
                "application": application[:256],
                "why": public,
                "detail": detail,
            },
        )

    def credential_at_hand(self) -> list[Header] | None:
        """The headers that log the gateway in upstream, while they need not be fetched anew."""
        if self._credential is None or time.monotonic() > self._credential_until:
            return None
        return None if self.resource.name in self.runtime.stale_credentials else self._credential

    async def credential_headers(self) -> list[Header]:
        """The headers that log the gateway in upstream. Raises `NotAdmitted`."""
        headers = self.credential_at_hand()
        if headers is None:
            credential = await self._resolve()
            headers = self._credential = credential_headers(self.resource, credential)
            self._credential_until = time.monotonic() + _CREDENTIAL_AGE
        return headers

    async def _resolve(self) -> Credential:
        secret = await self._secret()
        self.outbound.learn(self.resource.name, secret.password)
        return Credential(self.resource.credential.user or secret.username or "", secret.password)

    async def _secret(self) -> Secret:
        """What the resource's credential names now. Raises `NotAdmitted`."""
        config = self.resource
        try:
            stale = config.name in self.runtime.stale_credentials
            secret = await self.runtime.secrets.resolve(config.credential, fresh=stale)
            self.runtime.stale_credentials.discard(config.name)
        except SecretError as e:
            log.error("credential of %s: %s", config.name, e)
            text = "the gateway has no credential for this resource; its log says why"
            raise NotAdmitted(503, text) from None
        return secret

    # ------------------------------------------------------------ connections upstream

    async def pin(self, host: str, port: int) -> None:
        """Finds the address to connect to, once for this client connection. Raises `NotAdmitted`."""
        if (host, port) in self.pins:
            return
        try:
            self.pins[host, port] = await self.destinations.resolve(host, port)
        except DestinationRefused as e:
            raise NotAdmitted(403, str(e)) from None

    def connect(self, server: connection.Server) -> str:
        """Called as a server connection opens: leads it to the pinned address. Why it must not; empty: it may."""
        logical = server.address
        if logical is None or self._over:
            return "the gateway opens no such connection"
        address = self.pins.get((logical[0], logical[1]))
        if address is None:
            return "the gateway has not checked this destination"
        self.opened[server.id] = (logical[0], logical[1])
        server.address = (address, logical[1])
        return ""

    def closed(self, server: connection.Server) -> None:
        self.opened.pop(server.id, None)

    # ------------------------------------------------------------ the end

    def close(self, why: str) -> None:
        """Cuts the client connection: every request on it ends."""
        log.info("%s: connection of %s ends: %s", self.listener.name, self.peer, why)
        try:
            handler = handler_of(self.client.id)
            io = handler.transports.get(self.client)
        except KeyError:
            return  # it is gone already
        if io is not None and io.writer is not None:
            # at once: what is still to be sent is not sent
            cast(asyncio.StreamWriter, io.writer).transport.abort()

    def disconnected(self) -> None:
        """The client is gone."""
        self._over = True
        self._arrived()
        if self._counted:
            self._counted = False
            self.runtime.connections -= 1
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            self._ended(session)

    def _ended(self, session: HttpSession) -> None:
        self.runtime.sessions.pop(session.id, None)
        self.runtime.note_end(session, session.end_reason or "the client closed the connection")


def credential_headers(resource: ResourceConfig, credential: Credential) -> list[Header]:
    """How this resource wants its credential."""
    http_auth = resource.http_auth
    if credential.password == "" or http_auth.kind == "none":
        return []
    if http_auth.kind == "bearer":
        return [("authorization", f"Bearer {credential.password}")]
    if http_auth.kind == "basic":
        pair = f"{credential.username}:{credential.password}".encode()
        return [("authorization", f"Basic {base64.b64encode(pair).decode()}")]
    return [(http_auth.header, credential.password)]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
