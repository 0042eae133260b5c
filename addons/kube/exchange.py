"""One request to a Kubernetes API server through the guard: an HTTP exchange that knows verbs, objects and Secrets.

Values of Secrets are shown to whom `secret.read` is granted; everybody else who may read the object gets them masked.
They are never on record, whoever may see them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import cast

from mitmproxy import connection, http
from mitmproxy.proxy import context, layer

from addons.content_threads import in_content_thread
from addons.kube import masks
from addons.kube.answers import KubeAnswers, judged
from addons.kube.forward import stream_of
from addons.kube.gate import KubeGate
from addons.kube.outbound import Studied, aside, study, target
from addons.kube.relay import KubeStreamLayer
from addons.kube.streams import agree, is_stream
from addons.web.base import pairs
from addons.web.inspect import Looked
from addons.web.port import Refuse, Tunnel, Verdict
from protocols.contract import Action, Analysis, Decision, Effect
from protocols.http.analysis import Request
from protocols.http.headers import Header
from protocols.http.targets import BadTarget, Target
from protocols.kubernetes import impersonation, media
from protocols.kubernetes import status as statuses
from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.requests import resolve

log = logging.getLogger("sluicegate.kubernetes")

_SETTINGS = ("privileged", "host_path", "host_network", "host_pid", "host_ipc", "privilege_escalation", "capability")
# bytes of a body that are read while everything else waits; more are read aside. YAML takes a hundred times as long
_AT_ONCE, _YAML_AT_ONCE = 64 * 1024, 2 * 1024
# the API server reads none of these; what stands behind it or between might
_OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url")


class KubeExchange(KubeAnswers):
    """See `HttpExchange`."""

    _claimed: tuple[Header, ...] = ()
    _status = 400
    _studied: Studied | None = None

    # ------------------------------------------------------------ the request

    def _read(self, request: http.Request) -> None:
        self._shown = {}
        headers = pairs(request.headers)
        self._impersonates = impersonation.asked(headers)
        for name in _OVERRIDES:
            request.headers.pop(name, None)
        super()._read(request)
        claimed = []
        for name, value in headers:
            folded = name.lower().replace("_", "-")
            if folded.startswith(("impersonate-", "x-remote-")):
                request.headers.pop(name, None)
            if folded.startswith("impersonate-"):
                claimed.append((name, value))
        self._claimed = tuple(claimed)

    def _targets(self, request: http.Request) -> Target:
        resource = self.gate.resource
        self.scheme = "http" if resource.tls.mode == "off" else "https"
        try:
            self.info = resolve(request.method.upper(), request.path)
            if any("_" in name or impersonation.is_reserved(value) for name, value in _claims(request)):
                raise RequestRefused("the identity that is asked for is one of kubernetes' own", 403, "Forbidden")
        except RequestRefused as e:
            self._status = e.code
            raise BadTarget(str(e)) from None
        return Target(resource.server, resource.port, (request.path.partition("?")[0],), ())

    def _head(self, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        info = self.info
        assert info is not None
        try:
            if is_stream(info):
                if not end_stream:
                    # behind the upgrade the upstream would read it as the stream's first frames, which nobody has seen
                    raise RequestRefused("a request that opens a stream has no body")
                self.protocol = agree(info, self.upgrade, self.request.headers)
            elif self.upgrade:
                raise RequestRefused("only exec, attach and port-forward of pods are upgraded here")
            elif media.answers_objects(info) or not info.resource_request:
                media.negotiate(self.request.headers.get("accept"), info)
                coding = self.request.headers.get("content-encoding", "identity")
                if coding.strip().lower() not in ("", "identity"):
                    # the API server does not open it: it would read something else than was judged
                    raise RequestRefused("a body is taken as it is, without content-encoding", 415)
        except RequestRefused as e:
            return self._malformed(e.code, str(e))
        return super()._head(end_stream)

    def _malformed(self, status: int, why: str) -> Refuse:
        """Refused for its form, on record."""
        session = self.session
        assert session is not None
        session.denied += 1
        wrong = Analysis(kind=self.request.method, effects=frozenset({Effect.UNKNOWN}), why=why)
        self._record(wrong, Decision(Action.DENY, "malformed", why, session.policy.version), self._text())
        self._respond_to_record(status, "error")
        return self._refuse(status, why)

    def _study(self) -> Studied:
        assert self.info is not None
        kind = self.request.headers.get("content-type", "")
        known = partial(masks.OWN.holds, place) if (place := self._place()) else None
        return study(self.info, self._body, kind, self._impersonates, known)

    def analyse(self) -> Analysis:
        studied = self._studied or self._study()
        return replace(studied.analysis, facts=_facts(studied.analysis))

    def complete(self) -> Verdict | Awaitable[Verdict]:
        yaml = "yaml" in self.request.headers.get("content-type", "").lower()
        if self._spool is not None and self._size > (_YAML_AT_ONCE if yaml else _AT_ONCE):
            return self._guarded(self._complete())
        return super().complete()

    async def _complete(self) -> Verdict:
        assert self.session is not None
        await in_content_thread(self._load)
        studied = self._studied = await aside(in_content_thread(self._study))
        if studied.text:
            found, complete = await aside(self.gate.outbound.large_body(self.session, studied.text))
            self._found |= found
            self._looked = Looked(found, (), complete)
        return await self._completed()

    def _look_now(self) -> bool:
        assert self.session is not None
        studied = self._studied = self._studied or self._study()
        if not studied.text:
            return True
        outbound = self.gate.outbound
        looked = self._looked = outbound.look_at_once(self.session, studied.text)
        if looked is not None:
            self._found |= outbound.body(self.session, looked)
        return looked is not None

    def _search(self) -> None:
        """What is about to leave: in the target, the headers, the body."""
        session, studied = self.session, self._studied
        assert session is not None
        assert studied is not None
        resource, outbound = self.gate.resource, self.gate.outbound
        where = target(resource.server, resource.port, self.request.path)
        headers = (*pairs(self.request.headers), *self._claimed)
        request = Request(self.request.method.upper(), self.scheme, where, headers, self.upgrade)
        self._found |= outbound.head(session, request, self._withheld)
        if studied.text and self._looked is None:
            self._looked = outbound.look(studied.text)
            self._found |= outbound.body(session, self._looked)
        self._studied = replace(studied, text=b"")  # it need not stay in memory

    def _judge(self) -> Verdict | Awaitable[Verdict]:
        """As a reader of clear values first; who may not be one is judged as a reader of masked ones."""
        session = self.session
        assert session is not None
        self._studied = self._studied or self._study()
        self._search()
        analysis = self.analyse()
        analysis = replace(analysis, effects=analysis.effects | self._found)
        if Effect.SECRET_READ in analysis.effects:
            first = session.decide(judged(analysis))
            if first.action > Action.HOLD:
                return self._decide(replace(analysis, effects=analysis.effects - {Effect.SECRET_READ}))
            self._clear = True
        elif self._about_secrets():
            # who writes a Secret is answered with it: what they sent, and what others have put in
            read = replace(analysis, effects=frozenset({Effect.SECRET_READ}))
            self._clear = session.decide(judged(read)).action is Action.ALLOW
        return self._decide(analysis)

    def may_pass(self, found: frozenset[Effect]) -> str:
        whole = self.analysis
        assert whole is not None
        self.analysis = judged(whole)
        try:
            return super().may_pass(found)
        finally:
            self.analysis = whole

    def _for_rules(self, analysis: Analysis) -> Analysis:
        return judged(analysis)

    def _judge_stream(self, cap: int) -> Verdict:
        return self._malformed(413, f"the body is larger than what is judged ({cap} bytes)")

    def _refuse(self, status: int, text: str, **more: str) -> Refuse:
        rule, ticket = more.get("rule", ""), more.get("ticket", "")
        if status == 400:
            status = self._status
        if ticket and self.info is not None:
            answer = statuses.held(self.info, ticket, text)
        elif rule and self.info is not None and self.session is not None:
            answer = statuses.denied(self.info, self.session.principal.subject, rule, text, self.id)
        else:
            answer = statuses.status(401 if status == 407 else status, text, self.info)
        return Refuse(http.Response.make(answer.code, answer.body, dict(answer.headers)))

    def _failed(self, error: Exception) -> Verdict:
        if isinstance(error, RequestRefused):
            if not self._number and self.session is not None:
                try:
                    return self._malformed(error.code, str(error))
                except Exception as failure:
                    return super()._failed(failure)
            verdict = self._refuse(error.code, str(error))
            self._respond_to_record(error.code, "error")
            return verdict
        return super()._failed(error)

    # ------------------------------------------------------------ holds

    async def _hold(self, analysis: Analysis, decision: Decision) -> Verdict:
        session, info = self.session, self.info
        assert session is not None
        assert info is not None
        if not is_stream(info):
            return await super()._hold(analysis, decision)
        gate, principal = cast(KubeGate, self.gate), session.principal
        asked = (principal.issuer, principal.subject, self.gate.resource.name, self._for_approval()[0])
        if (told := gate.refusals.same(asked, self.upgrade)) is not None:
            session.denied += 1
            self._respond_to_record(403, "error")
            return Refuse(told)
        verdict = await super()._hold(analysis, decision)
        if isinstance(verdict, Refuse):
            gate.refusals.remember(asked, verdict.response, self.upgrade)
        return verdict

    def _for_approval(self) -> tuple[bytes, tuple[str | None, ...]]:
        info = self.info
        assert info is not None
        if is_stream(info):
            # the same for both transports: kubectl tries one after the other
            words = [info.subresource, self.request.path, *sorted(self._impersonates)]
            return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest(), ()
        digest, shown = super()._for_approval()
        if self._impersonates:
            digest = hashlib.sha256("\0".join((digest.hex(), *self._impersonates)).encode()).digest()
        if self._about_secrets() and shown:
            clear = self._shown_body().decode("utf-8", "replace")
            return digest, (clear, shown[-1])
        return digest, shown

    def _fields_for_approval(self) -> tuple[str, ...]:
        """Of a stream the target says all that there is, over either transport."""
        return () if self.info is not None and is_stream(self.info) else super()._fields_for_approval()

    # ------------------------------------------------------------ what goes upstream

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        sent = super().outgoing(request, server)
        assert self.info is not None
        if media.answers_objects(self.info) or not self.info.resource_request:
            sent.headers["accept"] = media.negotiate(request.headers.get("accept"), self.info)
        if self._masks_secrets():
            sent.headers["accept-encoding"] = "identity"
        return sent

    def _identity_headers(self) -> list[Header]:
        """Who the upstream is to act for. A client's own wish stands here only where a rule has granted it."""
        if self._claimed:
            return list(self._claimed)
        if not self.gate.resource.http_auth.impersonate:
            return []
        assert self.session is not None
        return impersonation.impersonation_headers(self.session.principal)

    async def _reach(self) -> None:
        self._identity_headers()  # raises before anything is opened for an identity that cannot be said
        await super()._reach()

    # ------------------------------------------------------------ streams

    def upgraded(self) -> Tunnel:
        return stream_of(self)

    def relay(self, context: context.Context, tunnel: Tunnel, *, opened: bool) -> layer.Layer:
        return KubeStreamLayer(context, tunnel, opened=opened)

    @property
    def number(self) -> int:
        """The command's number in its session."""
        return self._number

    def running(self, cut: Callable[[str], None]) -> Callable[[], None]:
        """See `KubeGate.running`."""
        detach = cast(KubeGate, self.gate).running(cut)
        if self.session is not None and self.session.end_reason:
            cut(self.session.end_reason)  # it has ended while the upstream was asked
        return detach

    def outcome(self, how: str) -> None:
        """How a stream ended, for the record."""
        self._answer_tag = how


def _claims(request: http.Request) -> list[Header]:
    return [(k, v) for k, v in pairs(request.headers) if k.lower().replace("_", "-").startswith("impersonate-")]


def _facts(analysis: Analysis) -> dict[str, tuple[str, ...]]:
    """The facts as rules ask for them: the core group has a name, a subresource belongs to its resource, and a request
    that names no object is about any."""
    facts = dict(analysis.facts)
    if "kube.resource" in facts:
        if facts["kube.group"] == ("",):
            facts["kube.group"] = ("core",)
        facts.setdefault("kube.name", ("*",))
        subresource = facts["kube.subresource"][0]
        if subresource:
            facts["kube.resource"] = (f"{facts['kube.resource'][0]}/{subresource}",)
    settings = tuple(name for name in _SETTINGS if facts.get(f"kube.{name}", ("false",)) != ("false",))
    if settings:
        facts["kube.setting"] = settings
    return facts
