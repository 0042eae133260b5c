"""HTTP and Kubernetes requests, judged without a gateway: the exchange of the data path, on a gate that leads nowhere.

Every request goes through `addons.web.exchange` (or `addons.kube.exchange`) from its head to its last byte, with the
detectors and the codings of bodies: what is answered is what would be on record. Nothing is resolved, sent or kept.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import warnings
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of mitmproxy's own dependencies: nothing for a terminal
    from mitmproxy import connection, http

    from addons.kube.exchange import KubeExchange
    from addons.kube.gate import KubeGate, Refusals
    from addons.live import Opened
    from addons.web.destinations import Destinations
    from addons.web.exchange import HttpExchange
    from addons.web.gate import HttpGate
    from addons.web.inspect import Outbound
    from addons.web.live import HttpSession
    from addons.web.port import Collect, Ended, Forward, Opaque, Refuse, Verdict
from guard.config.schema import LimitsConfig, ListenerConfig, RecordConfig, ResourceConfig
from guard.enforce import SessionPolicy
from guard.leak import Fingerprints
from protocols.contract import Action, Analysis, Decision, Effect, HoldRefused, SessionFacts
from protocols.http.targets import BadTarget, split_authority
from protocols.judge_lines import JudgeError
from scripts.policy_texts import request_of

_PIECE = 65_536
_SERVER = "kubernetes.invalid"
_KEY = bytes(32)  # fingerprints live for one line
_PORTS = {"http": 80, "https": 443}

type Told = dict[str, Any]


class _Session(HttpSession):
    """Notes what the rules were asked and what would be on record."""

    judged: list[tuple[Analysis, Decision]]
    noted: Told | None
    now: float

    def decide(self, analysis: Analysis) -> Decision:
        decision = self.policy.decide(analysis, now=self.now, facts=self.facts)
        self.judged.append((analysis, decision))
        return decision

    def record(self, kind: str, body: bytes) -> None:
        if kind == "command":
            self.noted = orjson.loads(body)
            self.judged = self.judged[-1:]

    def refusal(self) -> str:
        return ""

    def alert(self, names: object, number: int) -> None:
        """They are in the decision."""

    def ask(self, request: object) -> Any:
        raise HoldRefused("this is only a question")

    def terminate(self, why: str) -> None:
        """That it would is the decision."""


class _NoGate(HttpGate):
    """Everybody is known, every place is pinned, and nothing is opened."""

    session: _Session

    def known(self, token: str) -> HttpSession | None:
        return self.session

    async def identify(self, token: str, application: str) -> HttpSession:
        return self.session

    async def pin(self, host: str, port: int) -> None:
        self.pins[host, port] = ""

    def credential_at_hand(self) -> list[tuple[str, str]] | None:
        return []


class _NoKubeGate(_NoGate, KubeGate):
    """See `_NoGate`."""


class _Recorder:
    """There is nothing to write to."""

    strict = False

    def flush(self) -> None:
        """Nothing waits."""

    async def sync_barrier(self) -> None:
        """Nothing waits."""


class RequestJudge:
    """Judges requests of one session's identity to its resource. `now`: the time that rules see (epoch seconds); None:
    the real one. `limits`: as a gateway's configuration would give them."""

    error: type[Exception] = JudgeError

    def __init__(
        self, policy: SessionPolicy, facts: SessionFacts, now: float | None = None, limits: LimitsConfig | None = None
    ) -> None:
        self._protocol = policy.resource.protocol
        self._policy = policy
        self._principal = replace(policy.principal, expires_at=float("inf"))
        self._resource = policy.resource
        self._facts = facts
        self._now = now
        self._limits = limits or LimitsConfig()

    def line(self, asked: Mapping[str, Any], decide: object = None, catalog: object = None) -> Told:
        """The answer to one line of `policy judge`, where nobody else decides and there is no catalog.

        Raises JudgeError for a line that is no request.
        """
        request = asked.get("request")
        if request is None and isinstance(asked.get("input"), str):
            request = request_of(self._protocol, asked["input"])
        if not isinstance(request, Mapping):
            raise JudgeError("a line needs `request`: an object with `method` and `url`; or `input`, its text")
        masked, response = asked.get("masked", []), asked.get("response")
        if not isinstance(masked, list) or not all(isinstance(value, str) for value in masked):
            raise JudgeError("`masked` must be a list of texts: values that the identity got masked before")
        made = http_request(request, self._protocol)
        answered = None if response is None else _response(response)
        told, _ = asyncio.run(self._judge(made, masked, answered))
        return {"id": asked.get("id"), **told}

    def analysis(self, request: Mapping[str, Any]) -> Analysis:
        """What the rules are asked at last about a request. Raises JudgeError where they are not asked at all."""
        told, analysis = asyncio.run(self._judge(http_request(request, self._protocol), [], None))
        if analysis is None:
            raise JudgeError(f"refused before any rule was asked: {told['why']}")
        return analysis

    async def _judge(
        self, made: tuple[http.Request, bytes], masked: list[str], response: http.Response | None
    ) -> tuple[Told, Analysis | None]:
        request, body = made
        with tempfile.TemporaryDirectory(prefix="sluicegate-judge-") as folder:
            gate = self._gate(Path(folder), request, masked)
            session = gate.session
            status = 0
            try:
                verdict = await self._drive(gate, request, body, response)
                if isinstance(verdict, Refuse):
                    status = verdict.response.status_code
                why = _detail(verdict)
            except Ended as e:
                why = str(e)
        return _told(session, status, why), session.judged[-1][0] if session.judged else None

    def _gate(self, folder: Path, request: http.Request, masked: list[str]) -> _NoGate:
        fingerprints = Fingerprints(_KEY) if masked else None
        runtime: Any = SimpleNamespace(
            watched=False,
            stopped="",
            fingerprints=fingerprints,
            policies=SimpleNamespace(remembers=True),
            mask_key=_KEY,
            recorder=_Recorder(),
            config=SimpleNamespace(limits=self._limits, record=RecordConfig()),
            http=SimpleNamespace(outbound=Outbound(fingerprints), spool=folder),
        )
        forward = self._protocol == "http"
        resource = ResourceConfig.model_validate(
            {"name": "judged", "protocol": self._protocol} | ({} if forward else {"host": _SERVER})
        )
        listener = ListenerConfig.model_construct(name="judge", protocol=cast(Any, self._protocol), resource="judged")
        secure = request.scheme == "https"
        client = connection.Client(peername=(self._facts.client_address, 0), sockname=("", 0), timestamp_start=0.0)
        client.timestamp_tls_setup = 1.0 if secure else None
        client.sni = request.host if secure and forward else None
        given = (runtime, listener, resource, client, Destinations())
        gate = _NoGate(*given) if forward else _NoKubeGate(*given, KubeExchange, refusals=Refusals())
        session = _Session(
            runtime, Opened("judged", self._principal, self._resource, self._facts, self._policy), lambda _why: None
        )
        session.judged, session.noted = [], None
        session.now = time.time() if self._now is None else self._now
        for value in masked:
            session.saw(value)
        gate.session = gate.tunnel = session
        return gate

    async def _drive(
        self, gate: _NoGate, request: http.Request, body: bytes, response: http.Response | None
    ) -> Verdict:
        """As the layers do. Raises Ended where a body is cut on its way."""
        tunnelled = None
        stream: Any = SimpleNamespace(gave_up=lambda: False)
        if gate.forward_proxy and request.scheme == "https":
            tunnelled = (request.host, request.port)
            authority = f"{request.host}:{request.port}"
            asked = http.Request.make("CONNECT", f"https://{authority}/")
            asked.authority, asked.path = authority, ""
            verdict = await _result(gate.exchange(asked, stream, None).connect())
            if isinstance(verdict, Refuse | Opaque):
                return verdict
            gate.session.judged.clear()  # opened: each request in it has its own verdict
        exchange = gate.exchange(request, stream, tunnelled)
        try:
            verdict = await _result(exchange.begin(not body))
            if body and not isinstance(verdict, Refuse):
                verdict = await _send(exchange, body, collecting=isinstance(verdict, Collect))
            if isinstance(verdict, Forward) and response is not None:
                verdict = await _result(exchange.answer(response, True))
        finally:
            exchange.failed("")  # its body is let go of
        return verdict


async def _result(outcome: Verdict | Awaitable[Verdict]) -> Verdict:
    return await outcome if isinstance(outcome, Awaitable) else outcome


async def _send(exchange: HttpExchange, body: bytes, *, collecting: bool) -> Verdict:
    for at in range(0, len(body), _PIECE):
        piece = exchange.body(body[at : at + _PIECE])
        passed = piece if isinstance(piece, bytes) else await _result(piece)
        if isinstance(passed, Refuse):
            return passed
        if isinstance(passed, Forward):
            collecting = False
            for _ in exchange.collected():
                pass
    verdict = await _result(exchange.complete())
    if not collecting:
        exchange.rest()
    return verdict


def _told(session: _Session, status: int, why: str) -> Told:
    """In the form of all answers of `policy judge`."""
    noted = session.noted or {"decision": "deny", "rule": "gateway", "why": why, "effects": []}
    facts: dict[str, list[str]] = {}
    if session.judged:
        analysis, decision = session.judged[-1]
        facts = {name: list(values) for name, values in sorted(analysis.facts.items())}
        if session.noted is None or decision.action > _action(noted["decision"]):  # on its way, or of its answer
            noted = {**noted, "decision": decision.action.label, "rule": decision.rule, "why": decision.why}
            noted["effects"] = sorted(analysis.effects)
    if session.noted is None and why and noted["decision"] == Action.ALLOW.label:
        noted |= {"decision": "deny", "rule": "gateway", "why": why}
    return {
        "decision": noted["decision"],
        "rule": noted["rule"],
        "effects": list(noted["effects"]),
        "reads": list(noted.get("reads", ())),
        "writes": list(noted.get("writes", ())),
        "unknown": Effect.UNKNOWN.value in noted["effects"],
        "why": noted["why"],
        "facts": facts,
        "status": status if status and noted["decision"] != Action.HOLD.label else None,
    }


def _action(label: str) -> Action:
    return next(action for action in Action if action.label == label)


def _detail(verdict: Verdict) -> str:
    """Why the gateway itself refuses; empty where it does not."""
    if not isinstance(verdict, Refuse):
        return ""
    told = orjson.loads(verdict.response.raw_content or b"{}")
    return str(told.get("detail") or told.get("message") or "refused")


# ---------------------------------------------------------------- requests as people write them


def http_request(asked: Mapping[str, Any], protocol: str) -> tuple[http.Request, bytes]:
    """The request and its body. Raises JudgeError."""
    method, url = asked.get("method", "GET"), asked.get("url", asked.get("path"))
    if not isinstance(method, str) or not isinstance(url, str):
        raise JudgeError("`request` needs `method` and `url`, both texts")
    if unknown := sorted(set(asked) - {"method", "url", "path", "headers", "body", "body_hex"}):
        raise JudgeError(f"`request` has no `{unknown[0]}`; there are method, url, headers, body and body_hex")
    if protocol == "kubernetes" and url.startswith("/"):
        url = f"https://{_SERVER}{url}"
    scheme, host, port, path = _taken_apart(url)
    fields = _fields(asked.get("headers", []))
    body = _body(asked)
    names = {name.lower() for name, _ in fields}
    authority = f"[{host}]" if ":" in host else host
    authority = authority if port == _PORTS[scheme] else f"{authority}:{port}"
    if b"host" not in names:
        fields.insert(0, (b"Host", authority.encode()))
    if body and not {b"content-length", b"transfer-encoding"} & names:
        fields.append((b"Content-Length", str(len(body)).encode()))
    request = http.Request(
        host=host,
        port=port,
        method=method.encode("utf-8", "surrogateescape"),
        scheme=scheme.encode(),
        # through a tunnel, and to an API of its own, only the Host header says where
        authority=authority.encode() if protocol == "http" and scheme == "http" else b"",
        path=path.encode("utf-8", "surrogateescape"),
        http_version=b"HTTP/1.1",
        headers=http.Headers(fields),
        content=None,
        trailers=None,
        timestamp_start=0.0,
        timestamp_end=None,
    )
    return request, body


def _taken_apart(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and path with query, the latter as they were written. Raises JudgeError."""
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in _PORTS:
        raise JudgeError("`url` must begin with https:// or http://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    try:
        host, port = split_authority(authority, _PORTS[scheme])
    except BadTarget as e:
        raise JudgeError(f"`url`: {e}") from None
    return scheme, host, port, path if path.startswith("/") else f"/{path}"


def _fields(listed: Any) -> list[tuple[bytes, bytes]]:
    pairs = list(listed.items()) if isinstance(listed, Mapping) else listed
    good = isinstance(pairs, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    )
    if not good:
        raise JudgeError("`headers` must be a list of [name, value]")
    return [(name.encode("utf-8", "surrogatepass"), value.encode("utf-8", "surrogatepass")) for name, value in pairs]


def _body(asked: Mapping[str, Any]) -> bytes:
    text, coded = asked.get("body"), asked.get("body_hex")
    if isinstance(coded, str) and text is None:
        try:
            return bytes.fromhex(coded)
        except ValueError:
            raise JudgeError("`body_hex` is not hexadecimal") from None
    if coded is not None or not isinstance(text, str | None):
        raise JudgeError("give `body` (text) or `body_hex`")
    return (text or "").encode("utf-8", "surrogatepass")


def _response(told: Any) -> http.Response:
    if not isinstance(told, Mapping) or not isinstance(told.get("status", 200), int):
        raise JudgeError("`response` needs `status`, a number, and may have `headers`")
    fields = _fields(told.get("headers", []))
    return http.Response.make(told.get("status", 200), b"", http.Headers(fields))
