"""One request to a Kubernetes API server through the guard: an HTTP exchange that knows verbs, objects and Secrets.

Values of Secrets are shown to whom `secret.read` is granted; everybody else who may read the object gets them masked.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from mitmproxy import connection, http

from addons.http_content import Unreadable
from addons.http_exchange import HttpExchange, pairs
from addons.http_layer import Refuse, Tunnel, Verdict
from addons.kube_streams import stream_of
from protocols.contract import Action, Analysis, Cacheable, Effect
from protocols.http.headers import Header
from protocols.http.targets import BadTarget, Target
from protocols.kubernetes import impersonation, media
from protocols.kubernetes import status as statuses
from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.errors import RequestRefused, Withheld
from protocols.kubernetes.requests import RequestInfo, resolve
from protocols.kubernetes.secrets import MAX_ANSWER, MaskedObjects, mask_answer
from protocols.kubernetes.watching import WatchMasker

log = logging.getLogger("sluicegate.kubernetes")

_SETTINGS = ("privileged", "host_path", "host_network", "host_pid", "host_ipc", "privilege_escalation", "capability")
_SECRETS = MaskedObjects()


class SecretMask:
    """Secrets in one answer: a watch as it passes, anything else once it is whole."""

    def __init__(self, content_type: str, request: RequestInfo) -> None:
        """Raises Withheld."""
        self._type, self._request = content_type, request
        self._watch = WatchMasker(content_type, request, _SECRETS) if request.watches else None
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        try:
            if self._watch is not None:
                return self._watch.feed(data)
        except Withheld as e:
            raise Unreadable(str(e)) from None
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER:
            raise Unreadable("the answer is too large to be masked: ask for it in pages (`--chunk-size`)")
        return b""

    def end(self) -> bytes:
        try:
            if self._watch is not None:
                return self._watch.flush()
            return mask_answer(b"".join(self._parts), self._type, self._request, _SECRETS).body
        except Withheld as e:
            raise Unreadable(str(e)) from None


class KubeExchange(HttpExchange):
    """See `HttpExchange`."""

    info: RequestInfo | None = None
    _impersonates: tuple[str, ...] = ()
    _status = 400
    _clear = False  # values of Secrets may be shown

    # ------------------------------------------------------------ the request

    def _read(self, request: http.Request) -> None:
        self._impersonates = impersonation.asked(pairs(request.headers))
        super()._read(request)
        for name, _ in pairs(request.headers):
            if name.lower().replace("_", "-").startswith(("impersonate-", "x-remote-")):
                request.headers.pop(name, None)

    def _targets(self, request: http.Request) -> Target:
        resource = self.gate.resource
        self.scheme = "http" if resource.tls.mode == "off" else "https"
        try:
            self.info = resolve(request.method.upper(), request.path)
        except RequestRefused as e:
            self._status = e.code
            raise BadTarget(str(e)) from None
        return Target(resource.server, resource.port, (request.path.partition("?")[0],), ())

    def analyse(self) -> Analysis:
        assert self.info is not None
        known = self._body is not None
        body = self._body or b""
        kind = self.request.headers.get("content-type", "")
        found = analyse(self.info, body, kind, impersonates=self._impersonates, body_known=known)
        return replace(found, facts=_facts(found))

    def _judge(self) -> Any:
        """As a reader of clear values first; who may not be one is judged as a reader of masked ones."""
        session = self.session
        assert session is not None
        analysis = self.analyse()
        self._clear = True
        if Effect.SECRET_READ in analysis.effects:
            first = session.decide(_judged(analysis))
            if first.action > Action.HOLD:
                masked = replace(analysis, effects=analysis.effects - {Effect.SECRET_READ})
                self._clear = False
                return self._decide(masked)
        return self._decide(analysis)

    def _for_rules(self, analysis: Analysis) -> Analysis:
        return _judged(analysis)

    def _judge_stream(self, cap: int) -> Verdict:
        return self._refuse(413, f"the body is larger than what is judged ({cap} bytes)")

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
            return self._refuse(error.code, str(error))
        return super()._failed(error)

    # ------------------------------------------------------------ what goes upstream

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        sent = super().outgoing(request, server)
        assert self.info is not None
        if media.answers_objects(self.info) or not self.info.resource_request:
            sent.headers["accept"] = media.negotiate(request.headers.get("accept"), self.info)
        if self._masks_secrets():
            sent.headers["accept-encoding"] = "identity"
        return sent

    def _check(self) -> None:
        """What is found out before anything is decided. Raises RequestRefused."""
        assert self.info is not None
        if media.answers_objects(self.info) or not self.info.resource_request:
            media.negotiate(self.request.headers.get("accept"), self.info)

    def _identity_headers(self) -> list[Header]:
        """Who the upstream is to act for."""
        if not self.gate.resource.http_auth.impersonate:
            return []
        assert self.session is not None
        return impersonation.impersonation_headers(self.session.principal)

    # ------------------------------------------------------------ the answer

    def _masks_secrets(self) -> bool:
        return self.info is not None and not self._clear and _SECRETS.applies(self.info)

    def _mask_wanted(self) -> bool:
        return False

    def mask_for(self, response: http.Response, kind: str) -> Any:
        assert self.info is not None
        if media.answers_objects(self.info) and kind in ("application/vnd.kubernetes.protobuf", "application/cbor"):
            raise Unreadable("the api server answers in a format that was not asked for")
        if not self._masks_secrets():
            return None
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Unreadable("the api server has coded an answer that was to be plain")
        try:
            return SecretMask(response.headers.get("content-type", ""), self.info)
        except Withheld as e:
            raise Unreadable(str(e)) from None

    def upgraded(self) -> Tunnel:
        return stream_of(self)


def _facts(analysis: Analysis) -> dict[str, tuple[str, ...]]:
    """The facts as rules ask for them: the core group has a name, a subresource belongs to its resource."""
    facts = dict(analysis.facts)
    if facts.get("kube.group") == ("",):
        facts["kube.group"] = ("core",)
    subresource = facts.get("kube.subresource", ("",))[0]
    if subresource and "kube.resource" in facts:
        facts["kube.resource"] = (f"{facts['kube.resource'][0]}/{subresource}",)
    settings = tuple(name for name in _SETTINGS if facts.get(f"kube.{name}", ("false",)) != ("false",))
    if settings:
        facts["kube.setting"] = settings
    return facts


def _judged(analysis: Analysis) -> Analysis:
    """What rules see: relations are for the record, rules ask for facts."""
    return replace(analysis, reads=(), writes=(), cacheable=Cacheable.TEXT)
