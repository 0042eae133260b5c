"""One HTTP request through the guard: identity, verdict, record, forward, and the same for its answer.

The order is that of every command: identify, analyse, decide, record, and only then forward. What goes wrong on the way
is answered with 403 or 503 and forwards nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import tempfile
import time
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from mitmproxy import connection, http
from mitmproxy.connection import ConnectionState

from addons.http_content import AnswerMask, Unreadable, applies, decoded, leaks, redacted
from addons.http_layer import Collect, Ended, Forward, Opaque, Refuse, Tunnel, Verdict
from addons.http_live import HttpSession, NotAdmitted
from addons.http_tunnels import OpaqueTunnel, WebSocketTunnel
from addons.takeover import handler_of
from guard.record.errors import RecordError
from protocols.contract import (
    Action,
    Analysis,
    Decision,
    Effect,
    HoldRefused,
    HoldRequest,
    Outcome,
    RecordFailed,
)
from protocols.http import evidence
from protocols.http.analysis import Request, analyse
from protocols.http.headers import HOP_BY_HOP, IDENTITY, Header, bearer, is_secret, media_type, named_by_connection
from protocols.http.targets import BadTarget, Target, read_target, split_authority

if TYPE_CHECKING:
    from addons.http_gate import HttpGate

log = logging.getLogger("sluicegate.http")

_IN_MEMORY = 1 << 20  # bytes of a collected body before it goes to the disk
_PIECE = 1 << 18
_LOOK = 0.25  # seconds between looks whether a client that waits has left
_INLINE = 1 << 18  # bytes of body that are inspected on the event loop; more goes to a thread


def pairs(headers: http.Headers) -> list[Header]:
    """Headers in order, each with its name as it was written."""
    return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in headers.fields]


def _openable(accepted: str) -> str:
    """Of the codings that a client takes those that can be opened."""
    names = [clause.partition(";")[0].strip().lower() for clause in accepted.split(",")]
    return ", ".join(name for name in names if name in ("gzip", "br", "zstd", "deflate")) or "identity"


class HttpExchange:
    """See `addons.http_layer.Exchange`."""

    def __init__(self, gate: HttpGate, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> None:
        self.gate = gate
        self.request = request
        self.id = secrets.token_hex(8)
        self.session: HttpSession | None = None
        self.analysis: Analysis | None = None
        self.decision: Decision | None = None
        self._stream = stream
        self._tunnelled = tunnelled
        self._wrong = ""  # what is wrong with the request itself
        self._credential: list[Header] = []
        self._withheld: list[Header] = []  # of the request, for the upstream only
        self._answer_withheld: list[Header] = []
        self._spool: Any = None
        self._size = 0
        self._streaming = False
        self._body: bytes | None = b""  # as rules see it, once it is complete
        self._kept = bytearray()  # the beginning of the body, for the record
        self._number = 0
        self._started = time.monotonic()
        self._answer = bytearray()
        self._answer_size = 0
        self._answer_head = b""
        self._answer_tag = ""
        self._answer_status = 0
        self._mask: AnswerMask | None = None
        self._done = False
        self.target: Target | None = None
        self.scheme = ""
        self.upgrade = ""
        self.token = ""
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
        upgrade = headers.get("upgrade", "").lower()
        for listed in named_by_connection(headers.get_all("connection")) | HOP_BY_HOP | IDENTITY:
            headers.pop(listed, None)
        if not self.gate.forward_proxy:
            headers.pop("authorization", None)
        self.upgrade = upgrade if upgrade in ("websocket", "spdy/3.1") else ""
        for key in [k for k in headers if is_secret(k)]:
            self._withheld += [(key, value) for value in headers.get_all(key)]
            headers.pop(key)
        if request.method.upper() == "CONNECT":
            return
        self.target = self._targets(request)

    def _targets(self, request: http.Request) -> Target:
        host, port = self._destination(request)
        return read_target(request.path, host, port)

    def _destination(self, request: http.Request) -> tuple[str, int]:
        """Host and port, from wherever the client named them: all places must agree."""
        resource = self.gate.resource
        if not self.gate.forward_proxy:
            self.scheme = "http" if resource.tls.mode == "off" else "https"
            return resource.host or "", resource.port
        default = 443 if (self.gate.client.tls and self._tunnelled) or request.scheme == "https" else 80
        named = request.headers.get("host", "")
        if self._tunnelled is not None:
            self.scheme = "https" if self.gate.client.tls_established else "http"
            found = self._tunnelled
            sni = self.gate.client.sni
            if self.scheme == "https" and sni and split_authority(sni, found[1])[0] != found[0]:
                raise BadTarget("the TLS server name is another than the tunnel's")
            named = named or request.authority
            default = found[1]
        else:
            self.scheme = "http"
            if request.scheme == "https":
                raise BadTarget("https through a proxy needs CONNECT")
            found = split_authority(request.authority or named, default)
            if request.host and split_authority(request.host, request.port)[0] != found[0]:
                raise BadTarget("two different hosts in one request")
        if named and split_authority(named, default) != found and split_authority(named, default)[0] != found[0]:
            raise BadTarget("the Host header names another host than the request")
        if len(request.headers.get_all("host")) > 1:
            raise BadTarget("more than one Host header")
        return found

    # ------------------------------------------------------------ CONNECT

    def connect(self) -> Awaitable[Verdict]:
        return self._guarded(self._connect())

    async def _connect(self) -> Verdict:
        if not self.gate.forward_proxy or self._tunnelled is not None:
            return self._refuse(403, "there is no tunnel through this listener")
        host, port = split_authority(self.request.authority or self.request.pretty_host, 443)
        self.target = Target(host, port, ("",), ())
        session = await self._identify()
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
        session.under_way += 1
        return Opaque()

    # ------------------------------------------------------------ the request

    def begin(self, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        session = self._at_hand()
        if session is None or self._wrong or not self._pinned() or self.gate.runtime.recorder.strict:
            return self._guarded(self._begin(end_stream))
        try:
            self.session = session
            return self._head(end_stream)
        except Exception as e:
            return self._failed(e)

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
        found = leaks(session, self._as_request(), self._body)
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
        assert self.session is not None
        self._body = None
        analysis = self.analyse()
        analysis = replace(
            analysis,
            effects=analysis.effects | {Effect.HTTP_STREAM} | leaks(self.session, self._as_request(), b""),
            why=f"the body is larger than what is judged whole ({cap} bytes)",
        )
        verdict = self._decide(analysis)
        if isinstance(verdict, Forward):
            self._streaming = True
            return verdict
        if isinstance(verdict, Refuse):
            verdict.response.status_code = 413
            return verdict
        return self._refuse(413, "a body of this size cannot be held for approval")

    def _decide(self, analysis: Analysis) -> Verdict | Awaitable[Verdict]:
        session = self.session
        assert session is not None
        decision = session.decide(self._for_rules(analysis))
        self.analysis, self.decision = analysis, decision
        self._record(analysis, decision, self._text())
        if decision.alerts:
            session.alert(decision.alerts, self._number)
        if decision.action is Action.ALLOW:
            session.under_way += 1
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
        kept = self.gate.runtime.config.record.max_response_bytes - len(self._kept)
        if kept > 0:
            self._kept += data[:kept]
        if self._streaming:
            assert self.session is not None
            found = leaks(self.session, None, data)
            if found:
                raise Ended(f"the body holds what must not leave: {', '.join(sorted(found))}")
            return data
        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self.gate.runtime.http.spool))  # noqa: SIM115
        self._spool.write(data)
        cap = self.gate.runtime.config.limits.inspect_body_bytes
        if self._size > cap:
            self.request.headers.pop("content-length", None)
            return self._guarded(self._settle(self._judge_stream(cap)))
        return b""

    def complete(self) -> Verdict | Awaitable[Verdict]:
        if self._streaming or (self._spool is None and self.decision is not None):
            return Forward()
        if self._size > _INLINE or self.gate.runtime.recorder.strict:
            return self._guarded(self._complete())
        try:
            self._load()
            if not self._pinned():
                return self._guarded(self._completed())
            return self._ready(self._judge())
        except Exception as e:
            return self._failed(e)

    def _ready(self, verdict: Verdict | Awaitable[Verdict]) -> Verdict | Awaitable[Verdict]:
        self.request.headers["content-length"] = str(self._size)
        return verdict

    async def _complete(self) -> Verdict:
        await asyncio.to_thread(self._load)
        return await self._completed()

    async def _completed(self) -> Verdict:
        return await self._settle(self._ready(self._judge()))

    def _load(self) -> None:
        """The whole body as rules see it."""
        if self._spool is None:
            self._body = b""
            return
        self._spool.seek(0)
        raw = self._spool.read()
        cap = self.gate.runtime.config.limits.inspect_body_bytes
        try:
            self._body = decoded(raw, self.request.headers.get("content-encoding", ""), cap)
        except Unreadable:
            self._body = None

    def collected(self) -> Iterator[bytes]:
        if self._spool is None:
            return
        self._spool.seek(0)
        while piece := self._spool.read(_PIECE):
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
        digest = hashlib.sha256()
        for part in (self.request.method, self._text(), *(f"{k}: {v}" for k, v in sorted(self._significant()))):
            digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(self._raw_body())
        judged = self._for_rules(analysis)
        request = HoldRequest(self._number, self._text(), digest.digest(), judged, decision, ())
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
        finally:
            session.answered(ticket)
        if outcome is Outcome.APPROVED:
            session.under_way += 1
            return Forward()
        self._respond_to_record(403, "error")
        session.denied += 1
        text = {
            Outcome.DENIED: f"the approvers refused it: {why}",
            Outcome.EXPIRED: "nobody approved it in time",
            Outcome.DEFERRED: f"{decision.why}. {why}: send it again then",
        }.get(outcome, f"it was withdrawn: {why}")
        return self._refuse(403, text, rule=decision.rule, ticket=ticket.id)

    def _significant(self) -> list[Header]:
        return [(k.lower(), v) for k, v in pairs(self.request.headers) if k.lower() != "user-agent"]

    def _raw_body(self) -> bytes:
        if self._spool is None:
            return b""
        self._spool.seek(0)
        raw: bytes = self._spool.read()
        return raw

    def _client_left(self) -> bool:
        return not self.gate.client.state & ConnectionState.CAN_READ or self._stream.gave_up()

    # ------------------------------------------------------------ what goes upstream

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        sent = request.copy()
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
        if not self.gate.forward_proxy:
            assert self.target is not None
            default = 80 if self.scheme == "http" else 443
            host = self.gate.resource.tls.server_name or self.target.host
            shown = host if self.target.port == default else f"{host}:{self.target.port}"
            if server.alpn == b"h2" or request.is_http2:
                sent.authority = shown
                sent.headers.pop("host", None)
            else:
                sent.headers["host"] = shown
        return sent

    def address(self) -> tuple[str, int, bool]:
        assert self.target is not None
        return self.target.host, self.target.port, self.scheme == "https"

    def reaches(self, server: connection.Server) -> bool:
        if not isinstance(server, connection.Server) or self.target is None:
            return False
        logical = self.gate.opened.get(server.id, server.address)
        return logical == (self.target.host, self.target.port) and server.tls == (self.scheme == "https")

    # ------------------------------------------------------------ the answer

    def _mask_wanted(self) -> bool:
        if self.session is None or self.analysis is None:
            return False
        analysis = self.analysis
        return any(applies(rule, analysis) for rule in self.session.policy.masks)

    def answer(self, response: http.Response, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        session, analysis = self.session, self.analysis
        assert session is not None
        assert analysis is not None
        headers = response.headers
        self._answer_status = response.status_code
        kind = media_type(headers.get("content-type", ""))
        if {"http.status", "http.response_type"} & session.policy.asks:
            facts = {**analysis.facts, "http.status": (str(response.status_code),), "http.response_type": (kind,)}
            decision = session.decide(replace(analysis, facts=facts))
            if decision.action > Action.HOLD:
                self._respond_to_record(403, "error")
                if decision.action is Action.TERMINATE:
                    session.terminate(f"rule `{decision.rule}`: {decision.why}")
                return self._refuse(403, f"the answer is refused: {decision.why}", rule=decision.rule)
        for listed in named_by_connection(headers.get_all("connection")) | (HOP_BY_HOP - {"upgrade", "connection"}):
            headers.pop(listed, None)
        if response.status_code != 101:
            headers.pop("connection", None)
            headers.pop("upgrade", None)
        if not end_stream and response.status_code != 101:
            try:
                self._mask = self.mask_for(response, kind)
            except Unreadable as e:
                self._respond_to_record(502, "error")
                return self._refuse(502, f"the answer is withheld: {e}")
            if self._mask is not None:
                for name in ("content-length", "etag", "content-md5", "digest", "accept-ranges", "repr-digest"):
                    headers.pop(name, None)
        for key in [k for k in headers if is_secret(k)]:
            self._answer_withheld += [(key, value) for value in headers.get_all(key)]
            headers.pop(key)
        all_headers = [*pairs(headers), *self._answer_withheld]
        self._answer_head = evidence.head(response.http_version, response.status_code, response.reason, all_headers)
        self._answer_tag = f"{response.status_code} {response.reason}".strip()
        return Forward()

    def mask_for(self, response: http.Response, kind: str) -> AnswerMask | None:
        """How to mask this answer's body; None: not at all. Raises `Unreadable` where it cannot be done."""
        assert self.session is not None
        assert self.analysis is not None
        return AnswerMask.of(self.session, self.analysis, response.headers)

    def answer_data(self, data: bytes) -> bytes:
        if self._mask is not None:
            try:
                data = self._mask.feed(data)
            except Unreadable as e:
                raise Ended(f"the rest of the answer is withheld: {e}") from None
        self._keep(data)
        return data

    def answer_end(self) -> bytes:
        data = b""
        if self._mask is not None:
            try:
                data = self._mask.end()
            except Unreadable as e:
                raise Ended(f"the rest of the answer is withheld: {e}") from None
            self._keep(data)
        return data

    def _keep(self, data: bytes) -> None:
        self._answer_size += len(data)
        left = self.gate.runtime.config.record.max_response_bytes - len(self._answer)
        if left > 0:
            self._answer += data[:left]

    def to_client(self, response: http.Response) -> http.Response:
        sent = response.copy()
        for name, value in self._answer_withheld:
            sent.headers.add(name, value)
        if (
            "content-length" not in sent.headers
            and not self.request.is_http2
            and self.request.http_version == "HTTP/1.1"
            and sent.status_code not in (101, 204, 304)
            and sent.status_code >= 200
            and self.request.method.upper() not in ("HEAD", "CONNECT")
        ):
            sent.headers["transfer-encoding"] = "chunked"
        return sent

    def show(self, flow: http.HTTPFlow) -> None:
        """The redacted projection that mitmweb and `-w` files hold."""
        flow.metadata["sluicegate"] = self.session.id if self.session is not None else "refused"
        if self.session is not None:
            flow.metadata["principal"] = self.session.principal.subject
        if self.decision is not None:
            flow.metadata["decision"], flow.metadata["rule"] = self.decision.action.label, self.decision.rule
            who = self.session.principal.subject if self.session is not None else "nobody"
            flow.comment = f"{who}: {self.decision.action.label} by {self.decision.rule}"
            if self.decision.action > Action.HOLD:
                flow.marked = "⛔"
        if flow.response is not None and self._answer and flow.response.raw_content is None:
            flow.response.headers.pop("content-encoding", None)

    # ------------------------------------------------------------ other protocols

    def upgraded(self) -> Tunnel:
        return WebSocketTunnel(self)

    def tunnel(self) -> Tunnel:
        return OpaqueTunnel(self)

    def message(self, from_client: bool, payload: bytes, found: list[str]) -> None:
        """One WebSocket message is on record before it goes on. Raises `RecordFailed`."""
        session = self.session
        assert session is not None
        limit = self.gate.runtime.config.record.max_response_bytes
        text = redacted(payload[:limit].decode("utf-8", "replace"))
        body = {
            "t": "message",
            "at": session.now_ns(),
            "s": session.id,
            "n": self._number,
            "from_client": from_client,
            "bytes": len(payload),
            "text": text,
            "stopped": found,
        }
        session.record("message", orjson.dumps(body))
        if from_client:
            session.runtime.recorder.flush()

    def tunnelled(self, sent: int, received: int) -> None:
        """A tunnel or upgraded connection has ended: bytes in each direction."""
        self._answer_size, self._size = received, sent
        self._answer_tag = self._answer_tag or "tunnel"
        self._done = False
        self._respond_to_record(self._answer_status, "ok")
        self._close()

    # ------------------------------------------------------------ record

    def _text(self) -> str:
        target = self.target
        if target is None:
            return self.request.method
        port = "" if target.port == (443 if self.scheme == "https" else 80) else f":{target.port}"
        return redacted(f"{self.request.method} {self.scheme}://{target.host}{port}{self.request.path}")

    def _record(self, analysis: Analysis, decision: Decision, text: str) -> None:
        """The command is in the journal when this returns. Raises RecordFailed."""
        session = self.session
        assert session is not None
        session.number += 1
        self._number = session.number
        headers = [*pairs(self.request.headers), *self._withheld]
        kept = redacted(self._kept.decode("latin-1")).encode("latin-1", "replace")
        effects = [effect.value for effect in analysis.effects]
        body = evidence.command(
            session.id,
            self._number,
            session.now_ns(),
            analysis,
            effects,
            decision,
            text,
            headers,
            kept,
            self._size,
            {"request": self.id},
        )
        session.record("command", body)
        try:
            session.runtime.recorder.flush()
        except RecordError as e:
            raise RecordFailed(str(e)) from e

    async def _recorded(self) -> None:
        await self.gate.runtime.recorder.sync_barrier()

    def _respond_to_record(self, status: int, word: str) -> None:
        session = self.session
        if session is None or self._done or not self._number:
            return
        self._done = True
        wire = self._answer_head + bytes(self._answer)
        body = evidence.response(
            session.id,
            self._number,
            session.now_ns(),
            word,
            self._answer_size,
            int((time.monotonic() - self._started) * 1e6),
            self._answer_tag or str(status),
            wire,
            self._answer_size > len(self._answer),
            {},
        )
        try:
            session.record("response", body)
        except RecordFailed as e:
            log.error("an answer is not recorded: %s", e)

    def finished(self) -> None:
        if self.session is not None and self._number and not self._done:
            self._respond_to_record(self._answer_status, "ok" if self._answer_status < 400 else "error")
        self._close()

    def failed(self, why: str) -> None:
        if self.session is not None and self._number and not self._done:
            self._answer_tag = self._answer_tag or why
            self._respond_to_record(0, "lost")
        self._close()

    def _close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self.session is not None and self.session.under_way and self.decision is not None:
            self.session.under_way -= 1
            self.decision = None if self.decision.action is Action.ALLOW else self.decision

    # ------------------------------------------------------------ refusals

    def _refuse(self, status: int, text: str, **more: str) -> Refuse:
        return Refuse(self.gate.refusal(status, text, request_id=self.id, **more))

    async def _guarded(self, work: Awaitable[Verdict]) -> Verdict:
        try:
            return await work
        except Exception as e:
            return self._failed(e)

    def _failed(self, error: Exception) -> Verdict:
        """Whatever went wrong: refused."""
        if isinstance(error, NotAdmitted):
            return self._refuse(error.status, str(error))
        if isinstance(error, BadTarget):
            return self._refuse(400, str(error))
        if isinstance(error, RecordFailed | RecordError):
            log.error("not forwarded: %s", error)
            return self._refuse(503, "the gateway cannot record; nothing passes until it can")
        log.error("a request was refused by an internal error", exc_info=error)
        return self._refuse(503, "internal error in the gateway")
