"""One request to a Kubernetes API server through the guard: an HTTP exchange that knows verbs, objects and Secrets.

Values of Secrets are shown to whom `secret.read` is granted; everybody else who may read the object gets them masked.
They are never on record, whoever may see them.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

from mitmproxy import connection, http
from mitmproxy.proxy import context, layer

from addons import kube_masks
from addons.http_base import pairs
from addons.http_content import AnswerMask, Unreadable
from addons.http_exchange import HttpExchange
from addons.http_port import Ended, Refuse, Tunnel, Verdict
from addons.kube_gate import KubeGate
from addons.kube_relay import KubeStreamLayer
from addons.kube_streams import agree, agreed, is_stream, stream_of
from guard.enforce import SessionPolicy
from protocols.contract import Action, Analysis, Cacheable, Decision, Effect
from protocols.http.headers import Header
from protocols.http.targets import BadTarget, Target
from protocols.kubernetes import impersonation, media
from protocols.kubernetes import status as statuses
from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.errors import RequestRefused, Withheld
from protocols.kubernetes.requests import RequestInfo, resolve

log = logging.getLogger("sluicegate.kubernetes")

_SETTINGS = ("privileged", "host_path", "host_network", "host_pid", "host_ipc", "privilege_escalation", "capability")
_NOT_RECORDED = b"(not recorded: it holds secrets)"


class KubeExchange(HttpExchange):
    """See `HttpExchange`."""

    info: RequestInfo | None = None
    protocol = ""  # of a stream: what the upstream is asked for
    _impersonates: tuple[str, ...] = ()
    _claimed: tuple[Header, ...] = ()
    _status = 400
    _clear = False  # values of Secrets may be shown
    _granted: tuple[SessionPolicy, float] | None = None  # under which policy, and until when that need not be asked

    # ------------------------------------------------------------ the request

    def _read(self, request: http.Request) -> None:
        headers = pairs(request.headers)
        self._impersonates = impersonation.asked(headers)
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

    def analyse(self) -> Analysis:
        assert self.info is not None
        known = self._body is not None
        body = self._body or b""
        kind = self.request.headers.get("content-type", "")
        found = analyse(self.info, body, kind, impersonates=self._impersonates, body_known=known)
        return replace(found, facts=_facts(found))

    def _judge(self) -> Verdict | Awaitable[Verdict]:
        """As a reader of clear values first; who may not be one is judged as a reader of masked ones."""
        session = self.session
        assert session is not None
        analysis = self.analyse()
        if Effect.SECRET_READ in analysis.effects:
            first = session.decide(_judged(analysis))
            if first.action > Action.HOLD:
                return self._decide(replace(analysis, effects=analysis.effects - {Effect.SECRET_READ}))
            self._clear = True
        elif self._about_secrets():
            # who writes a Secret is answered with it: what they sent, and what others have put in
            read = replace(analysis, effects=frozenset({Effect.SECRET_READ}))
            self._clear = session.decide(_judged(read)).action is Action.ALLOW
        return self._decide(analysis)

    def _for_rules(self, analysis: Analysis) -> Analysis:
        return _judged(analysis)

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
        if self._about_secrets() and shown:
            clear = self._shown_body().decode("utf-8", "replace")
            return digest, (clear, shown[-1])
        return digest, shown

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

    # ------------------------------------------------------------ the answer

    def _about_secrets(self) -> bool:
        return self.info is not None and kube_masks.SECRETS.applies(self.info)

    def _masks_secrets(self) -> bool:
        return self._about_secrets() and not self._clear

    def _mask_wanted(self) -> bool:
        info = self.info
        if info is None or not info.resource_request:
            return False
        # what is masked within the base64 of a Secret's value would be no base64: all of a value is masked, or none
        return not self._about_secrets() and super()._mask_wanted()

    def answer(self, response: http.Response, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        if 300 <= response.status_code < 400 and response.status_code != 304 and not self._proxied(response):
            # a client would go where it leads with all that it has (CVE-2020-8559)
            self._respond_to_record(502, "error")
            return self._refuse(502, "the api server answers with a redirect, which is not followed")
        if response.status_code == 101 and not agreed(self.protocol, self.upgrade, response):
            self._respond_to_record(502, "error")
            return self._refuse(502, "the api server switches to a protocol that was not asked for")
        return super().answer(response, end_stream)

    def answer_data(self, data: bytes) -> bytes:
        self.still_granted()
        return super().answer_data(data)

    def still_granted(self) -> None:
        """A watch, a log, a terminal ends where the policy would no longer let it begin. Raises `Ended`."""
        session, analysis = self.session, self.analysis
        assert session is not None
        assert analysis is not None
        granted = self._granted
        if granted is not None and granted[0] is session.policy and time.time() < granted[1]:
            return
        decision = session.decide(_judged(analysis))
        if decision.action > Action.HOLD:
            raise Ended(f"the policy no longer grants this: rule `{decision.rule}`: {decision.why}")
        if granted is not None and granted[0].masks != session.policy.masks:
            raise Ended("what is masked for you has changed; send it again")
        self._granted = session.policy, decision.valid_until

    def _begin_work(self) -> None:
        super()._begin_work()
        assert self.session is not None
        assert self.decision is not None
        self._granted = self.session.policy, self.decision.valid_until

    def _proxied(self, response: http.Response) -> bool:
        """A redirect of a server behind the API server, within that server's own path."""
        info = self.info
        assert info is not None
        where = response.headers.get("location", "")
        inside = where.startswith("/") and not where.startswith(("//", "/\\"))
        return inside and "proxy" in (info.subresource, info.verb)

    def mask_for(self, response: http.Response, kind: str) -> Any:
        info = self.info
        assert info is not None
        if media.answers_objects(info) and kind in ("application/vnd.kubernetes.protobuf", "application/cbor"):
            raise Unreadable("the api server answers in a format that was not asked for")
        if not self._masks_secrets():
            return self._contents_mask(response, info) if self._mask_wanted() else None
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Unreadable("the api server has coded an answer that was to be plain")
        try:
            return kube_masks.SecretMask(response.headers.get("content-type", ""), info)
        except Withheld as e:
            raise Unreadable(str(e)) from None

    def _contents_mask(self, response: http.Response, info: RequestInfo) -> AnswerMask | None:
        assert self.session is not None
        assert self.analysis is not None
        kind = response.headers.get("content-type", "")
        if info.watches and kind.partition(";")[0].strip().lower() == "application/json":
            kind = "application/json;stream=watch"  # documents one after the other, whether it says so or not
        headers = {"content-type": kind, "content-encoding": response.headers.get("content-encoding", "")}
        return AnswerMask.of(self.session, self.analysis, headers)

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

    def redacted(self, text: str) -> str:
        return self.gate.outbound.redacted_text(text)

    # ------------------------------------------------------------ record

    def _text(self) -> str:
        info = self.info
        if info is None or not info.resource_request:
            return super()._text()
        where = f" in {info.namespace}" if info.namespace else ""
        what = f"{info.full_resource} {info.name}".strip()
        ran = f": {shlex.join(info.command)}" if info.command else ""
        text = f"{info.verb} {what}{where}{ran} ({self.request.method} {self.request.path})"
        return self.gate.outbound.redacted_text(text)

    def _shown_body(self) -> bytes:
        shown = super()._shown_body()
        if not shown or not self._about_secrets():
            return shown
        assert self.info is not None
        # of what came whole the values are masked; of anything else nothing is kept
        whole = self._body if self._body else b""
        masked = kube_masks.for_record(whole, self.request.headers.get("content-type", ""), self.info)
        return masked[: self.gate.runtime.config.record.max_response_bytes] if masked else _NOT_RECORDED

    def _shown_answer(self, limit: int) -> bytes:
        effects = self.analysis.effects if self.analysis is not None else frozenset()
        if self._answer and ((self._about_secrets() and self._clear) or Effect.KUBE_TOKEN in effects):
            return _NOT_RECORDED
        return super()._shown_answer(limit)


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


def _judged(analysis: Analysis) -> Analysis:
    """What rules see: relations are for the record, rules ask for facts."""
    return replace(analysis, reads=(), writes=(), cacheable=Cacheable.TEXT)
