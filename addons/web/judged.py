"""What a request does, and what becomes of it: judged by its head or with its whole body, recorded, held for people."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable
from dataclasses import replace

from mitmproxy.connection import ConnectionState

from addons.content_threads import in_content_thread
from addons.web.base import pairs
from addons.web.live import is_token
from addons.web.port import Collect, Ended, Forward, Refuse, Verdict
from addons.web.requests import Requests
from guard.enforce import SessionPolicy
from protocols.contract import Action, Analysis, Decision, Effect, HoldRefused, HoldRequest, Outcome
from protocols.http.analysis import analyse
from protocols.http.headers import Header, folded, words

_LOOK = 0.25  # seconds between looks whether a client that waits has left
_SHOWN_TO_APPROVERS = 65_536  # bytes of a body; of a larger one, and of one that is no text, size and digest
_EACH_TIME = frozenset({"sec-websocket-key"})  # another one with each request
# what says nothing to somebody who approves: where it goes is in the text, the body's size beside the body
_ROUTINE = frozenset(
    {"host", "content-length", "user-agent", "accept", "accept-encoding", "accept-language", "date", "pragma"}
    | {"cache-control", "sec-websocket-key", "sec-websocket-version", "traceparent", "tracestate", "x-request-id"}
)
_UNASKED = "it needs approval, and nobody can be asked: "


class Judged(Requests):
    """See `addons.web.port.Exchange`."""

    _ahead: tuple[SessionPolicy, Analysis] | None = None  # made in a thread, under that policy

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

    def analyse(self) -> Analysis:
        """What the request does, from its head and what is known of its body."""
        assert self.session is not None
        asks = self.session.policy.asks
        found = analyse(self._as_request(), asks, self._body)
        if not self._withheld:
            return found
        # a rule may ask for a field that nobody may see: of these only what is asked for is a fact
        named: dict[str, tuple[str, ...]] = {}
        for name, value in self._withheld:
            for fact in {f"http.header.{name.lower()}", f"http.header.{folded(name)}"} & asks:
                named[fact] = (*named.get(fact, ()), value)
        return replace(found, facts={**found.facts, **named}) if named else found

    def _judge(self) -> Verdict | Awaitable[Verdict]:
        session = self.session
        assert session is not None
        ahead, self._ahead = self._ahead, None
        analysis = ahead[1] if ahead is not None and ahead[0] is session.policy else self.analyse()
        self._found |= self._leaving_head()
        if self._body and self._looked is None:
            self._looked = self.gate.outbound.look(self._body)
            self._found |= self.gate.outbound.body(session, self._looked)
        found = self._found
        if Effect.UNKNOWN in found:
            analysis = replace(analysis, why="more is packed in its head than is opened")
        if self._body is None:
            found |= {Effect.UNKNOWN}
            analysis = replace(analysis, why="the body's encoding cannot be read")
        return self._decide(replace(analysis, effects=analysis.effects | found) if found else analysis)

    def _leaving_head(self) -> frozenset[Effect]:
        """What must not leave in target and headers."""
        session = self.session
        assert session is not None
        found = self.gate.outbound.head(session, self._as_request(), self._withheld)
        if any(is_token(word, session.digest) for _, value in self._withheld for word in words(value)):
            found |= {Effect.EXFIL_CREDENTIAL}  # what opens this gateway is for nobody behind it
        return found

    def _check(self) -> None:
        """What can be refused before anything is decided; raises."""

    def _judge_stream(self, cap: int) -> Verdict:
        """A body above the cap passes only where a rule grants `http.stream`, and then piece by piece."""
        session = self.session
        assert session is not None
        if self.request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            return self._refuse(413, f"a compressed body is judged whole, and this one is larger than {cap} bytes")
        self._body = None
        analysis = self.analyse()
        self._found |= self._leaving_head()
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

    # ------------------------------------------------------------ holds

    async def _hold(self, analysis: Analysis, decision: Decision) -> Verdict:
        session = self.session
        assert session is not None
        digest, shown = await in_content_thread(self._for_approval)
        shown = (*self._fields_for_approval(), *shown)
        request = HoldRequest(self._number, self._text(), digest, self._for_rules(analysis), decision, shown)
        try:
            ticket, future = session.ask(request)
        except HoldRefused as e:
            self._respond_to_record(403, "error")
            return self._refuse(403, _UNASKED + str(e), rule=decision.rule)
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
            Outcome.REFUSED: _UNASKED + why,
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
        digest.update(f"{self.upgrade} {self.target and self.target.port}".encode() + b"\0")
        assert self.session is not None
        key = self.session.runtime.mask_key
        for name, value in sorted(self._withheld):  # with another key or cookie it is somebody else's doing there
            if name.lower() not in _EACH_TIME:
                digest.update(hmac.digest(key, f"{name.lower()}: {value}".encode("utf-8", "surrogateescape"), "sha256"))
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

    def _fields_for_approval(self) -> tuple[str, ...]:
        """The header fields as approvers see them: one may say where a copy goes, or how the body is to be read."""
        return tuple(f"{name}: {value}" for name, value in self._shown_headers() if name.lower() not in _ROUTINE)

    def _significant(self) -> list[Header]:
        return [(k.lower(), v) for k, v in pairs(self.request.headers) if k.lower() != "user-agent"]

    def _client_left(self) -> bool:
        return not self.gate.client.state & ConnectionState.CAN_READ or self._stream.gave_up()

    def _raw_body(self) -> bytes:
        if self._spool is None:
            return b""
        self._spool.seek(0)
        raw: bytes = self._spool.read()
        return raw
