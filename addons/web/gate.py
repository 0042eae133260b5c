"""One HTTP client connection: who sends through it, where it may go, what is closed when it must end."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mitmproxy import connection, http

from addons.admission import FULL, NO_CREDENTIAL, Door, Ground
from addons.takeover import handler_of
from addons.web.destinations import DestinationRefused, Destinations
from addons.web.exchange import HttpExchange
from addons.web.live import HttpSession, NotAdmitted, digest_of
from guard.config.schema import ListenerConfig, ResourceConfig
from guard.secrets import Secret, SecretError
from protocols.contract import Credential
from protocols.http.headers import Header
from protocols.http.problems import CONTENT_TYPE, problem

if TYPE_CHECKING:
    from addons.runtime import Runtime
    from addons.web.inspect import Outbound

log = logging.getLogger("sluicegate.http")

_CREDENTIAL_AGE = 30.0  # seconds after which a credential is asked for again
_HOLD_WAIT = 25.0  # seconds that a client waits for an approval unless its listener says otherwise
_MAX_IDENTITIES = 64  # different tokens on one client connection
_UPGRADES = {"http": frozenset({"websocket"}), "kubernetes": frozenset({"websocket", "spdy/3.1"})}
_STATUS = {Ground.IDENTITY: 401, Ground.POLICY: 403}  # else 503: it may be otherwise in a while


class HttpGate(Door):
    """See `addons.web.port.Gate`. Made when a client connects to an HTTP listener."""

    refusal_type: ClassVar[type[Exception]] = NotAdmitted

    def __init__(
        self,
        runtime: Runtime,
        listener: ListenerConfig,
        resource: ResourceConfig,
        client: connection.Client,
        destinations: Destinations,
        make: Callable[..., HttpExchange] = HttpExchange,
    ) -> None:
        super().__init__(runtime, listener, resource, str(client.peername[0]) if client.peername else "")
        self.watched = runtime.watched
        self.client = client
        self.destinations = destinations
        self.forward_proxy = not resource.host
        self.pins: dict[tuple[str, int], str] = {}
        self.opened: dict[str, tuple[str, int]] = {}  # server connection id -> what it was opened for
        self.tunnel: HttpSession | None = None
        self.outbound: Outbound = runtime.http.outbound
        self.upgrades = _UPGRADES[listener.protocol]
        self._make = make
        self._sessions: dict[str, HttpSession] = {}
        self._joining = asyncio.Lock()  # one identity of this connection is found out at a time
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._credential: list[Header] | None = None
        self._credential_until = 0.0

    def exchange(self, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> HttpExchange:
        return self._make(self, request, stream, tunnelled)

    # ------------------------------------------------------------ the connection

    def arrive(self) -> bool:
        """Whether one more may come in. Who says nothing has a time for it."""
        limits = self.runtime.config.limits
        if self.runtime.connections >= limits.max_connections or not super().arrive():
            self._refused(FULL)
            return False
        self._timer = asyncio.get_running_loop().call_later(limits.auth_timeout, self._too_late)
        return True

    def _too_late(self) -> None:
        self._refused("no valid token within the time for a login")
        self.close("nobody has logged in in time")

    def arrived(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().arrived()

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
        elif not cast(Any, io.reader)._paused:  # else the reader itself has paused it, and lets go when it has room
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
        session = self._sessions.get(digest_of(token))
        return None if session is None or session.over else session

    async def identify(self, token: str, application: str) -> HttpSession:
        """The session of whoever this token belongs to. Raises `NotAdmitted`, on record."""
        async with self._joining:
            session = self.known(token)
            return session if session is not None else await self._identify(token, application)

    def _denied(self, ground: Ground, text: str) -> NotAdmitted:
        if ground is Ground.IDENTITY and self.forward_proxy:
            return NotAdmitted(407, text)
        return NotAdmitted(_STATUS.get(ground, 503), text)

    async def _identify(self, token: str, application: str) -> HttpSession:
        with self._asking(application):
            if not token:
                text = "this gateway needs a token: as proxy password or bearer token"
                raise self._denied(Ground.IDENTITY, text)
            return await self._admit(token, application)

    async def _admit(self, token: str, application: str) -> HttpSession:
        for digest in [digest for digest, session in self._sessions.items() if session.over]:
            self._ended(self._sessions.pop(digest))
        if len(self._sessions) >= _MAX_IDENTITIES:
            raise NotAdmitted(403, "too many identities on one connection; open another")
        principal = await self._verified(token)
        opened = self._opened(principal, self.resource.as_resource(), application)
        session = HttpSession(self.runtime, opened, self.close)
        session.digest = digest_of(token)
        session.hold_wait = self.listener.hold_wait or _HOLD_WAIT
        self._let_in(session)
        await self._start(session)
        return session

    async def _start(self, session: HttpSession) -> None:
        """Registered, on record, and live; or none of it. Raises `StateError`, `RecordError`, `NotAdmitted`."""
        failed = "it did not begin"
        try:
            await self._register(session)
            if why := self._renewed(session):
                failed = why
                raise self._denied(Ground.POLICY, why)
            if self._over:
                failed = "the client has left"
                raise NotAdmitted(403, "the connection is closed")
            failed = "it could not be recorded"
            self._begin(session)
        except BaseException:
            self.runtime.deregister(session.id, failed)
            raise
        self.arrived()
        self._sessions[session.digest] = session

    def refuse_connection(self, why: str) -> None:
        """Puts on record that a connection ends before anything of it was read."""
        self._refused(why)

    def credential_at_hand(self) -> list[Header] | None:
        """The headers that log the gateway in upstream, while they need not be fetched anew."""
        if self._credential is None or time.monotonic() > self._credential_until:
            return None
        return None if self.resource.name in self.runtime.upstreams.stale else self._credential

    async def credential_headers(self) -> list[Header]:
        """The headers that log the gateway in upstream. Raises `NotAdmitted`."""
        headers = self.credential_at_hand()
        if headers is None:
            credential = await self._resolve()
            headers = self._credential = credential_headers(self.resource, credential)
            self._credential_until = time.monotonic() + _CREDENTIAL_AGE
        return headers

    async def _resolve(self) -> Credential:
        return await self._own(self.runtime.upstreams.credential(self.resource))

    async def _secret(self) -> Secret:
        """What the resource's credential names now. Raises `NotAdmitted`."""
        return await self._own(self.runtime.upstreams.secret(self.resource))

    async def _own[T](self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except SecretError as e:
            log.error("credential of %s: %s", self.resource.name, e)
            raise self._denied(Ground.CREDENTIAL, NO_CREDENTIAL) from None

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
        self.arrived()
        self._give_place_back()
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            self._ended(session)

    def _ended(self, session: HttpSession) -> None:
        self._end(session, "the client closed the connection")


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
