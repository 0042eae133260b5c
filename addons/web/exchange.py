"""One HTTP request through the guard: identity, verdict, record, forward.

The order is that of every command: identify, analyse, decide, record, and only then forward. What goes wrong on the way
is answered with 403 or 503 and forwards nothing. What a request asks for is in `addons.web.requests`, its verdict in
`addons.web.judged`, the answer's half in `addons.web.answers`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Awaitable, Iterator
from typing import Any

from mitmproxy import http
from mitmproxy.proxy import context, layer

from addons.content_threads import in_content_thread
from addons.takeover import handler_of
from addons.web.base import pairs
from addons.web.content import Unreadable, decoded
from addons.web.inspect import AT_ONCE, Looked
from addons.web.judged import Judged
from addons.web.live import HttpSession, NotAdmitted
from addons.web.port import Ended, Forward, Opaque, Tunnel, Verdict
from addons.web.relay import TunnelLayer
from addons.web.tunnels import OpaqueTunnel, WebSocketTunnel
from protocols.contract import Action, Analysis, Decision, Effect
from protocols.http.charsets import legible
from protocols.http.targets import BadTarget, Target, split_authority

__all__ = ["HttpExchange", "pairs"]

log = logging.getLogger("sluicegate.http")

_IN_MEMORY = 1 << 20  # bytes of a collected body before it goes to the disk
_PIECE = 1 << 18


class HttpExchange(Judged):
    """See `addons.web.port.Exchange`."""

    def __init__(self, gate: Any, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> None:
        super().__init__(gate, request, stream, tunnelled)
        try:
            self._read(request)
        except BadTarget as e:
            self._wrong = str(e)

    # ------------------------------------------------------------ CONNECT

    def connect(self) -> Awaitable[Verdict]:
        return self._guarded(self._connect())

    async def _connect(self) -> Verdict:
        if not self.gate.forward_proxy or self._tunnelled is not None:
            return self._refuse(403, "there is no tunnel through this listener")
        host, port = split_authority(self.request.authority or self.request.pretty_host, 443)
        self.target, self.scheme = Target(host, port, ("",), ()), "https"
        session = await self._identify()
        if why := session.refusal():
            return self._refuse(403, why)
        self.gate.tunnel = session
        opaque = Analysis(
            kind="CONNECT",
            effects=frozenset({Effect.HTTP_OPAQUE}),
            shape=f"CONNECT {host}:{port}",
            facts={"http.host": (host,), "http.port": (str(port),), "http.method": ("CONNECT",)},
        )
        decision = session.decide(opaque)
        if decision.action is not Action.ALLOW:
            return Forward()  # it is opened, and each request in it has its own verdict
        await self.gate.pin(host, port)
        self.analysis, self.decision = opaque, decision
        self._record(opaque, decision, f"CONNECT {host}:{port} (opaque)")
        await self._recorded()
        if decision.alerts:
            session.alert(decision.alerts, self._number)
        self._begin_work()
        return Opaque()

    # ------------------------------------------------------------ the request

    def begin(self, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        if end_stream and self.request.headers.get("content-length", "0") != "0":
            # HTTP/2 can say so; over HTTP/1 the upstream would take the next request for this one's body
            self._wrong = self._wrong or "a Content-Length without a body"
        session = self._at_hand()
        if session is None or self._wrong or not self._pinned() or self.gate.runtime.recorder.strict:
            return self._guarded(self._begin(end_stream))
        try:
            self.session = session
            return self._later(self._head(end_stream))
        except Exception as e:
            return self._failed(e)

    def _later(self, verdict: Verdict | Awaitable[Verdict]) -> Verdict | Awaitable[Verdict]:
        return self._guarded(verdict) if isinstance(verdict, Awaitable) else verdict

    async def _begin(self, end_stream: bool) -> Verdict:
        session = await self._identify()
        if self._wrong:
            session.denied += 1
            wrong = Analysis(kind=self.request.method, effects=frozenset({Effect.UNKNOWN}), why=self._wrong)
            decision = Decision(Action.DENY, "malformed", self._wrong, session.policy.version)
            self._record(wrong, decision, f"{self.request.method} (a malformed request)")
            self._respond_to_record(400, "error")
            return self._refuse(400, self._wrong)
        return await self._settle(self._head(end_stream))

    async def _settle(self, verdict: Verdict | Awaitable[Verdict]) -> Verdict:
        """Waits for people, then for the way upstream and for the record."""
        if isinstance(verdict, Awaitable):
            verdict = await verdict
        if isinstance(verdict, Forward):
            await self._reach()
            await self._recorded()
            assert self.session is not None
            if why := self.session.refusal() or self.session.end_reason or self.no_longer():
                self._respond_to_record(403, "error")
                return self._refuse(403, why)  # contained, or a stricter policy, while it waited
        return verdict

    async def _reach(self) -> None:
        assert self.target is not None
        await self.gate.pin(self.target.host, self.target.port)
        if not self.gate.forward_proxy:
            self._credential = await self.gate.credential_headers()

    def _at_hand(self) -> HttpSession | None:
        if self._tunnelled is not None:
            session = self.gate.tunnel
            return None if session is None or session.over else session
        return self.gate.known(self.token) if self.token else None

    async def _identify(self) -> HttpSession:
        session = self._at_hand()
        if session is None:
            if self._tunnelled is not None:
                raise NotAdmitted(407, "the tunnel's token has expired; connect again with a new one")
            session = await self.gate.identify(self.token, self.request.headers.get("user-agent", ""))
        self.session = session
        return session

    def _pinned(self) -> bool:
        target = self.target
        return (
            target is not None
            and (target.host, target.port) in self.gate.pins
            and (self.gate.forward_proxy or self._own_credential())
        )

    def _own_credential(self) -> bool:
        """Takes the upstream's credential if it is at hand."""
        headers = self.gate.credential_at_hand()
        self._credential = headers or []
        return headers is not None

    # ------------------------------------------------------------ the body

    def body(self, data: bytes) -> bytes | Verdict | Awaitable[Verdict]:
        self._size += len(data)
        self._keep_request(data)
        if self._streaming:
            return self._passed(*self._passing_on(data))
        try:
            if self._spool is None:
                self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self.gate.runtime.http.spool))  # noqa: SIM115  # closed in `_close`
            self._spool.write(data)
        except OSError as e:
            return self._no_room(e)
        cap = self.gate.runtime.config.limits.inspect_body_bytes
        if self._size > cap:
            self.request.headers.pop("content-length", None)
            return self._guarded(self._above(cap))
        return b""

    def _no_room(self, error: OSError) -> Verdict:
        """The disk for bodies is full: nothing of this one was judged, and nothing of it goes, not even on record."""
        log.error("a body cannot be kept: %s", error)
        session = self.session
        assert session is not None
        self._kept.clear()
        why = "the gateway has no room for this body now: send it again later"
        try:
            self._found |= self.gate.outbound.head(session, self._as_request(), self._withheld)
            unjudged = Analysis(kind=self.request.method, effects=frozenset({Effect.UNKNOWN}) | self._found, why=why)
            self._record(unjudged, Decision(Action.DENY, "gateway", why, session.policy.version), self._text())
        except Exception as e:
            return self._failed(e)
        session.denied += 1
        self._respond_to_record(507, "error")
        return self._refuse(507, why)

    async def _above(self, cap: int) -> Verdict:
        return await self._settle(self._judge_stream(cap))

    def _passing_on(self, data: bytes) -> tuple[bytes, frozenset[Effect]]:
        assert self._passing is not None
        return self._passing.feed(data)

    def _passed(self, data: bytes, found: frozenset[Effect]) -> bytes:
        """A piece that goes on. Raises Ended: it does not, and nothing after it."""
        if why := (self.may_pass(found) if found else "") or self.no_longer():
            raise Ended(f"the body is cut here: {why}")
        self._sent += len(data)
        return data

    def rest(self) -> bytes:
        if not self._streaming or self._passing is None:
            return b""
        return self._passed(*self._passing.end())

    def complete(self) -> Verdict | Awaitable[Verdict]:
        if self._streaming or (self._spool is None and self.decision is not None):
            return Forward()
        coded = self.request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")
        if self._size > AT_ONCE or coded or self.gate.runtime.recorder.strict:
            return self._guarded(self._complete())
        try:
            self._load()
            if not self._look_now():
                return self._guarded(self._complete())
            if not self._pinned():
                return self._guarded(self._completed())
            return self._later(self._ready(self._judge()))
        except Exception as e:
            return self._failed(e)

    def _look_now(self) -> bool:
        """Searches a small body; False: it holds too much for that."""
        assert self.session is not None
        if not self._body:
            return True
        outbound = self.gate.outbound
        looked = self._looked = outbound.look_at_once(self.session, self._body)
        if looked is not None:
            self._found |= outbound.body(self.session, looked)
        return looked is not None

    def _ready(self, verdict: Verdict | Awaitable[Verdict]) -> Verdict | Awaitable[Verdict]:
        self.request.headers["content-length"] = str(self._size)
        return verdict

    async def _complete(self) -> Verdict:
        assert self.session is not None
        await in_content_thread(self._load)
        if self._body:
            found, complete = await self.gate.outbound.large_body(self.session, self._body)
            self._found |= found
            self._looked = Looked(found, (), complete)
        self._ahead = self.session.policy, await in_content_thread(self.analyse)
        return await self._completed()

    async def _completed(self) -> Verdict:
        return await self._settle(self._ready(self._judge()))

    def _load(self) -> None:
        """The whole body as rules see it."""
        raw = self._raw_body()
        cap = self.gate.runtime.config.limits.inspect_body_bytes
        try:
            self._body = decoded(raw, self.request.headers.get("content-encoding", ""), cap)
        except Unreadable:
            self._body = None
        if self._body and not legible(self.request.headers.get("content-type", ""), self._body):
            self._body = None

    def collected(self) -> Iterator[bytes]:
        self._body = None  # judged: it need not stay in memory while it is sent
        if self._spool is None:
            return
        self._spool.seek(0)
        while piece := self._spool.read(_PIECE):
            if self._streaming:
                piece = self._passed(*self._passing_on(piece))
            if piece:
                yield piece
        self._spool.close()
        self._spool = None

    async def pace(self) -> None:
        handler: Any = handler_of(self.gate.client.id)
        await handler.drain_writers()

    # ------------------------------------------------------------ other protocols

    def upgraded(self) -> Tunnel:
        return WebSocketTunnel(self)

    def relay(self, context: context.Context, tunnel: Tunnel, *, opened: bool) -> layer.Layer:
        return TunnelLayer(context, tunnel, opened=opened)

    def tunnel(self) -> Tunnel:
        return OpaqueTunnel(self)
