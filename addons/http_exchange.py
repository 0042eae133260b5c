"""One HTTP request through the guard: identity, verdict, record, forward.

The order is that of every command: identify, analyse, decide, record, and only then forward. What goes wrong on the way
is answered with 403 or 503 and forwards nothing. The answer's half is in `addons.http_answers`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
import time
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from typing import Any

from mitmproxy import connection, http
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import context, layer

from addons.http_answers import Answers
from addons.http_base import pairs
from addons.http_content import Unreadable, decoded
from addons.http_inspect import SLICE, Looked
from addons.http_live import HttpSession, NotAdmitted
from addons.http_port import Collect, Ended, Forward, Opaque, Refuse, Tunnel, Verdict, clone
from addons.http_relay import TunnelLayer
from addons.http_tunnels import OpaqueTunnel, WebSocketTunnel
from addons.takeover import handler_of
from protocols.contract import Action, Analysis, Decision, Effect, HoldRefused, HoldRequest, Outcome
from protocols.http import syntax
from protocols.http.analysis import Request, analyse
from protocols.http.headers import HOP_BY_HOP, IDENTITY, Header, bearer, folded, is_secret, named_by_connection
from protocols.http.targets import BadTarget, Target, read_target, split_authority

__all__ = ["HttpExchange", "pairs"]

log = logging.getLogger("sluicegate.http")

_IN_MEMORY = 1 << 20  # bytes of a collected body before it goes to the disk
_PIECE = 1 << 18
_LOOK = 0.25  # seconds between looks whether a client that waits has left
_NOT_OURS = HOP_BY_HOP | IDENTITY  # also where they are written with `_`
_SHOWN_TO_APPROVERS = 65_536  # bytes of a body; of a larger one, and of one that is no text, size and digest


def _openable(accepted: str) -> str:
    """Of the codings that a client takes those that can be opened."""
    names = [clause.partition(";")[0].strip().lower() for clause in accepted.split(",")]
    return ", ".join(name for name in names if name in ("gzip", "br", "zstd", "deflate")) or "identity"


class HttpExchange(Answers):
    """See `addons.http_port.Exchange`."""

    def __init__(self, gate: Any, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> None:
        super().__init__(gate, request, stream, tunnelled)
        try:
            self._read(request)
        except BadTarget as e:
            self._wrong = str(e)

    # ------------------------------------------------------------ the head

    def _read(self, request: http.Request) -> None:
        """Takes from the request what nobody behind us may see, and finds out where it goes. Raises BadTarget."""
        headers = request.headers
        name = "proxy-authorization" if self.gate.forward_proxy else "authorization"
        self.token = bearer(headers.get(name, ""))
        fields = headers.fields
        upgrade = headers.get("upgrade", "").lower()
        named = named_by_connection(headers.get_all("connection"))
        self._closes = "close" in named
        for listed in named | HOP_BY_HOP | IDENTITY | {"expect"}:
            headers.pop(listed, None)
        for key in [k for k in headers if "_" in k and folded(k) in _NOT_OURS]:
            headers.pop(key)
        if not self.gate.forward_proxy:
            headers.pop("authorization", None)
        for key in [k for k in headers if is_secret(k)]:
            self._withheld += [(key, value) for value in headers.get_all(key)]
            headers.pop(key)
        if request.method.upper() == "CONNECT":
            return
        syntax.check(request.data.method, request.data.path, fields)
        self.upgrade = upgrade if upgrade in self.gate.upgrades else ""
        if self.upgrade == "websocket":
            headers.pop("sec-websocket-extensions", None)  # compressed messages could not be read
        self.target = self._targets(request)

    def _targets(self, request: http.Request) -> Target:
        host, port = self._destination(request)
        return read_target(request.path, host, port)

    def _destination(self, request: http.Request) -> tuple[str, int]:
        """Host and port, from wherever the client named them: all places must agree. Raises BadTarget."""
        resource = self.gate.resource
        named = [text for text in (request.headers.get("host", ""), request.authority) if text]
        if not self.gate.forward_proxy:
            self.scheme = "http" if resource.tls.mode == "off" else "https"
            if len({split_authority(text, 0) for text in named}) > 1:
                raise BadTarget("two different hosts in one request")
            return resource.host or "", resource.port
        if self._tunnelled is not None:
            self.scheme = "https" if self.gate.client.tls_established else "http"
            found = self._tunnelled
            sni = self.gate.client.sni
            if self.scheme == "https" and sni and split_authority(sni, found[1])[0] != found[0]:
                raise BadTarget("the TLS server name is another than the tunnel's")
        else:
            self.scheme = "http"
            if request.scheme == "https":
                raise BadTarget("https through a proxy needs CONNECT")
            if not named:
                raise BadTarget("the request does not say where it goes")
            found = split_authority(request.authority or named[0], 80)
            if request.host and split_authority(request.host, request.port) != found:
                raise BadTarget("two different hosts in one request")
        # in a tunnel to another port a client may leave the port out
        default = found[1] if self._tunnelled is not None else 80
        if any(split_authority(text, default) != found for text in named):
            raise BadTarget("the Host header names another host than the request")
        return found

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
            if why := self.session.refusal() or self.session.end_reason:
                return self._refuse(403, why)  # contained while it waited
        return verdict

    async def _reach(self) -> None:
        assert self.target is not None
        await self.gate.pin(self.target.host, self.target.port)
        if not self.gate.forward_proxy:
            self._credential = await self.gate.credential_headers()

    def _at_hand(self) -> HttpSession | None:
        if self._tunnelled is not None:
            session = self.gate.tunnel
            if session is None or session.end_reason or time.time() >= session.principal.expires_at:
                return None
            return session
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

    def _head(self, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        """With an identity and a destination: what the head alone decides."""
        assert self.session is not None
        if why := self.session.refusal():
            return self._refuse(403, why)
        self._check()
        if end_stream:
            return self._judge()
        declared = self.request.headers.get("content-length", "")
        cap = self.gate.runtime.config.limits.inspect_body_bytes
        if declared.isdigit() and int(declared) > cap:
            return self._judge_stream(cap)
        return Collect()

    def _as_request(self) -> Request:
        assert self.target is not None
        headers = tuple(pairs(self.request.headers))
        return Request(self.request.method.upper(), self.scheme, self.target, headers, self.upgrade)

    def analyse(self) -> Analysis:
        """What the request does, from its head and what is known of its body."""
        assert self.session is not None
        return analyse(self._as_request(), self.session.policy.asks, self._body)

    def _judge(self) -> Verdict | Awaitable[Verdict]:
        session = self.session
        assert session is not None
        analysis = self.analyse()
        self._found |= self.gate.outbound.head(session, self._as_request(), self._withheld)
        if self._body and self._looked is None:
            self._looked = self.gate.outbound.look(self._body)
            self._found |= self.gate.outbound.body(session, self._looked)
        found = self._found
        if self._body is None:
            found |= {Effect.UNKNOWN}
            analysis = replace(analysis, why="the body's encoding cannot be read")
        return self._decide(replace(analysis, effects=analysis.effects | found) if found else analysis)

    def _for_rules(self, analysis: Analysis) -> Analysis:
        """The analysis as rules see it."""
        return analysis

    def _check(self) -> None:
        """What can be refused before anything is decided; raises."""

    def _identity_headers(self) -> list[Header]:
        """Who the upstream is to act for."""
        return []

    def _judge_stream(self, cap: int) -> Verdict:
        """A body above the cap passes only where a rule grants `http.stream`, and then piece by piece."""
        session = self.session
        assert session is not None
        if self.request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            return self._refuse(413, f"a compressed body is judged whole, and this one is larger than {cap} bytes")
        self._body = None
        analysis = self.analyse()
        self._found |= self.gate.outbound.head(session, self._as_request(), self._withheld)
        analysis = replace(
            analysis,
            effects=analysis.effects | {Effect.HTTP_STREAM} | self._found,
            why=f"the body is larger than what is judged whole ({cap} bytes)",
        )
        verdict = self._decide(analysis, may_hold=False)
        if isinstance(verdict, Forward):
            self._streaming = True
            self._passing = self.gate.outbound.stream(session)
            return verdict
        if isinstance(verdict, Refuse):
            verdict.response.status_code = 413
            return verdict
        raise TypeError("a body that passes in pieces cannot be held")

    def _decide(self, analysis: Analysis, *, may_hold: bool = True) -> Verdict | Awaitable[Verdict]:
        session = self.session
        assert session is not None
        decision = session.decide(self._for_rules(analysis))
        if decision.action is Action.HOLD and not may_hold:
            why = "a body of this size cannot be held for approval"
            decision = replace(decision, action=Action.DENY, why=why, hold=None)
        self.analysis, self.decision = analysis, decision
        self._record(analysis, decision, self._text())
        if decision.alerts:
            session.alert(decision.alerts, self._number)
        if decision.action is Action.ALLOW:
            self._begin_work()
            return Forward()
        if decision.action is Action.HOLD:
            return self._hold(analysis, decision)
        session.denied += 1
        self._respond_to_record(403, "error")
        if decision.action is Action.TERMINATE:
            session.terminate(f"rule `{decision.rule}`: {decision.why}")
        return self._refuse(403, decision.why, rule=decision.rule)

    # ------------------------------------------------------------ the body

    def body(self, data: bytes) -> bytes | Awaitable[Verdict]:
        self._size += len(data)
        self._keep_request(data)
        if self._streaming:
            return self._passed(*self._passing_on(data))
        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self.gate.runtime.http.spool))  # noqa: SIM115  # closed in `_close`
        self._spool.write(data)
        cap = self.gate.runtime.config.limits.inspect_body_bytes
        if self._size > cap:
            self.request.headers.pop("content-length", None)
            return self._guarded(self._above(cap))
        return b""

    async def _above(self, cap: int) -> Verdict:
        return await self._settle(self._judge_stream(cap))

    def _passing_on(self, data: bytes) -> tuple[bytes, frozenset[Effect]]:
        assert self._passing is not None
        return self._passing.feed(data)

    def _passed(self, data: bytes, found: frozenset[Effect]) -> bytes:
        """A piece that goes on. Raises Ended: it does not, and nothing after it."""
        if found and (why := self.may_pass(found)):
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
        if self._size > SLICE or self.gate.runtime.recorder.strict:
            return self._guarded(self._complete())
        try:
            self._load()
            if not self._pinned():
                return self._guarded(self._completed())
            return self._later(self._ready(self._judge()))
        except Exception as e:
            return self._failed(e)

    def _ready(self, verdict: Verdict | Awaitable[Verdict]) -> Verdict | Awaitable[Verdict]:
        self.request.headers["content-length"] = str(self._size)
        return verdict

    async def _complete(self) -> Verdict:
        assert self.session is not None
        await asyncio.to_thread(self._load)
        if self._body:
            found, complete = await self.gate.outbound.large_body(self.session, self._body)
            self._found |= found
            self._looked = Looked(found, (), complete)
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

    def _raw_body(self) -> bytes:
        if self._spool is None:
            return b""
        self._spool.seek(0)
        raw: bytes = self._spool.read()
        return raw

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

    # ------------------------------------------------------------ holds

    async def _hold(self, analysis: Analysis, decision: Decision) -> Verdict:
        session = self.session
        assert session is not None
        digest, shown = await asyncio.to_thread(self._for_approval)
        request = HoldRequest(self._number, self._text(), digest, self._for_rules(analysis), decision, shown)
        try:
            ticket, future = session.ask(request)
        except HoldRefused as e:
            self._respond_to_record(403, "error")
            return self._refuse(403, str(e), rule=decision.rule)
        try:
            while not future.done():
                await asyncio.wait([future], timeout=_LOOK)
                if not future.done() and self._client_left():
                    session.withdraw(ticket, "the client has left")
                    raise Ended("the client has left")
            outcome, why = future.result()
            if outcome is Outcome.APPROVED and self._client_left():
                raise Ended("the client has left")  # between two looks
        finally:
            session.answered(ticket)
        if outcome is Outcome.APPROVED:
            self._begin_work()
            return Forward()
        self._respond_to_record(403, "error")
        session.denied += 1
        text = {
            Outcome.DENIED: f"the approvers refused it: {why}",
            Outcome.EXPIRED: "nobody approved it in time",
            Outcome.DEFERRED: f"{decision.why}. {why}: send it again then",
        }.get(outcome, f"it was withdrawn: {why}")
        return self._refuse(403, text, rule=decision.rule, ticket=ticket.id)

    def _for_approval(self) -> tuple[bytes, tuple[str | None, ...]]:
        """What an approval is bound to: target, headers, body; and the body as approvers see it."""
        digest = hashlib.sha256()
        target = f"{self.request.method} {self.scheme} {self.target and self.target.host} {self.request.path}"
        for part in (target, *(f"{k}: {v}" for k, v in sorted(self._significant()))):
            digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
        raw = self._raw_body()
        digest.update(raw)
        if not raw:
            return digest.digest(), ()
        told = f"({len(raw)} bytes, SHA-256 {hashlib.sha256(raw).hexdigest()})"
        body = self._body or b""
        if body and len(body) <= _SHOWN_TO_APPROVERS and not self._secretive:
            try:
                clear = self.gate.outbound.redacted(body, personal=self._personal).decode()
            except UnicodeDecodeError:
                return digest.digest(), (told,)
            return digest.digest(), (clear, told)
        return digest.digest(), (told,)

    def _significant(self) -> list[Header]:
        return [(k.lower(), v) for k, v in pairs(self.request.headers) if k.lower() != "user-agent"]

    def _client_left(self) -> bool:
        return not self.gate.client.state & ConnectionState.CAN_READ or self._stream.gave_up()

    # ------------------------------------------------------------ what goes upstream

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        assert self.target is not None
        sent = clone(request)
        for name, value in (*self._withheld, *self._credential, *self._identity_headers()):
            sent.headers.add(name, value)
        if self.upgrade:
            sent.headers["connection"] = "Upgrade"
            sent.headers["upgrade"] = self.upgrade
        if self._mask_wanted():
            sent.headers.pop("range", None)  # a part of an answer cannot be judged
            sent.headers["accept-encoding"] = _openable(request.headers.get("accept-encoding", ""))
        if self._streaming and "content-length" not in sent.headers and server.alpn != b"h2":
            sent.headers["transfer-encoding"] = "chunked"
        host = self.target.host
        if not self.gate.forward_proxy:
            host = self.gate.resource.tls.server_name or host
        default = 80 if self.scheme == "http" else 443
        authority = f"[{host}]" if ":" in host else host
        authority = authority if self.target.port == default else f"{authority}:{self.target.port}"
        sent.scheme = self.scheme
        # one place says where it goes, and it is ours: an absolute target would overrule it (RFC 9112 section 3.2.2)
        if request.is_http2:
            sent.authority = authority
            sent.headers.pop("host", None)
        else:
            sent.authority = ""
            sent.headers["host"] = authority
        return sent

    def address(self) -> tuple[str, int, bool]:
        assert self.target is not None
        return self.target.host, self.target.port, self.scheme == "https"

    def reaches(self, server: connection.Server) -> bool:
        if not isinstance(server, connection.Server) or self.target is None:
            return False
        logical = self.gate.opened.get(server.id, server.address)
        return logical == (self.target.host, self.target.port) and server.tls == (self.scheme == "https")

    # ------------------------------------------------------------ other protocols

    def upgraded(self) -> Tunnel:
        return WebSocketTunnel(self)

    def relay(self, context: context.Context, tunnel: Tunnel, *, opened: bool) -> layer.Layer:
        return TunnelLayer(context, tunnel, opened=opened)

    def tunnel(self) -> Tunnel:
        return OpaqueTunnel(self)
