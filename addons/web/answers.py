"""The answer's half of an exchange: judged by its head, masked as it passes, shown to people as it is on record."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any

from mitmproxy import http

from addons.web.base import ExchangeBase, pairs
from addons.web.content import AnswerMask, TextMask, Unreadable, applies
from addons.web.port import Ended, Forward, Verdict, clone
from protocols.contract import Action, Analysis, Decision
from protocols.http import evidence
from protocols.http.headers import HOP_BY_HOP, is_secret, media_type, named_by_connection

# what a masked body no longer has, and what would lead clients around the gateway
_OF_THE_BODY = ("content-length", "etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges")
# without these an answer cannot be read, and what they may say leaves no room for a value
_FRAMING = frozenset(
    {b"content-length", b"content-type", b"content-encoding", b"date", b"age", b"upgrade", b"connection", b"vary"}
    | {b"sec-websocket-accept", b"sec-websocket-protocol", b"cache-control", b"last-modified", b"expires"}
)
_SUMS = ("x-amz-checksum-", "x-goog-hash", "x-checksum-", "x-goog-stored-content-length")  # ... by how they begin
# what rules ask about an answer, until it is there: it may be anything
_NOT_YET: Mapping[str, tuple[str, ...]] = {"http.status": ("*",), "http.response_type": ("*",)}
_STEP, _PACKED_STEP = 1 << 13, 1 << 7  # bytes of an answer that are masked at a time; packed, they open to many more
_PARTS = (206, 226)  # Partial Content, IM Used
_NOT_THEIRS = HOP_BY_HOP | {"alt-svc", "alt-used"}


class Answers(ExchangeBase):
    """See `addons.web.port.Exchange`."""

    _of_answer = _NOT_YET
    _known: Mapping[str, tuple[str, ...]] = {}  # what rules may ask about the answer, once it is there
    _masked_by: object = None  # the masks that this answer is given
    answer_step = 0

    def masked_as(self) -> Analysis:
        """The analysis as masks see it: with what is known of the answer."""
        assert self.session is not None
        assert self.analysis is not None
        if self.session.policy.asks.isdisjoint(self._of_answer):
            return self.analysis
        return replace(self.analysis, facts={**self.analysis.facts, **self._of_answer})

    def _mask_wanted(self) -> bool:
        if self.session is None or self.analysis is None:
            return False
        masks = self.session.policy.masks
        if not masks:
            return False
        analysis = self.masked_as()
        return any(applies(rule, analysis) for rule in masks)

    def _for_rules(self, analysis: Analysis) -> Analysis:
        """The analysis as rules see it."""
        return analysis

    # ------------------------------------------------------------ what goes on for a while

    def no_longer(self) -> str:
        """Why what is under way may not go on: the policy would not let it begin any more. Empty: it may."""
        session, analysis, granted = self.session, self.analysis, self._granted
        assert session is not None
        assert analysis is not None
        if granted is not None and granted[0] is session.policy and time.time() < granted[1]:
            return ""
        decision = self._decision(analysis)
        if decision.action > Action.HOLD:
            return f"the policy no longer grants this: rule `{decision.rule}`: {decision.why}"
        if decision.action is Action.HOLD and (self.decision is None or self.decision.action is not Action.HOLD):
            return f"it needs approval now, by rule `{decision.rule}`: send it again"
        self._granted = session.policy, decision.valid_until
        return ""

    def _decision(self, analysis: Analysis) -> Decision:
        """On the request, with what is known of it and of its answer by now."""
        assert self.session is not None
        facts = {**analysis.facts, **self._known}
        return self.session.decide(
            self._for_rules(replace(analysis, effects=analysis.effects | self._found, facts=facts))
        )

    def still_granted(self) -> None:
        """The same of what is masked as it was when it began. Raises `Ended`."""
        before = self._granted
        why = self.no_longer()
        if self._granted is not before and self._masked_by is not None and self._masked_by != self._masks_now():
            why = "what is masked for you has changed; send it again"
        if why:
            self.cut(why)
            raise Ended(why)

    def _masks_now(self) -> object:
        """The masks that an answer like this one gets."""
        assert self.session is not None
        if not self.session.policy.masks:
            return []
        analysis = self.masked_as()
        return [rule for rule in self.session.policy.masks if applies(rule, analysis)]

    # ------------------------------------------------------------ the answer

    def answer(self, response: http.Response, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        session, analysis = self.session, self.analysis
        assert session is not None
        assert analysis is not None
        headers = response.headers
        self._answer_status = response.status_code
        kind = media_type(headers.get("content-type", ""))
        # who does not say what it sends, or what follows an upgrade, may send anything
        type_ = kind if kind and response.status_code != 101 else "*"
        self._of_answer = {"http.status": (str(response.status_code),), "http.response_type": (type_,)}
        if not (200 <= response.status_code < 1000 or response.status_code == 101):
            self._respond_to_record(502, "error")
            return self._refuse(502, "the upstream's answer has no valid status")
        if response.status_code == 101 and not self._switches(headers):
            self._respond_to_record(502, "error")
            return self._refuse(502, "the upstream changes to a protocol that was not asked for")
        if {"http.status", "http.response_type"} & session.policy.asks:
            self._known = {"http.status": (str(response.status_code),), "http.response_type": (kind,)}
            decision = self._decision(analysis)
            if decision.alerts:
                session.alert(decision.alerts, self._number)
            if decision.action > Action.HOLD:
                self._respond_to_record(403, "error")
                if decision.action is Action.TERMINATE:
                    session.terminate(f"rule `{decision.rule}`: {decision.why}")
                return self._refuse(403, f"the answer is refused: {decision.why}", rule=decision.rule)
        self._strip(headers, switches=response.status_code == 101)
        if response.status_code in _PARTS and self._mask_wanted():
            self._respond_to_record(502, "error")
            return self._refuse(502, "the answer is withheld: a part of an answer cannot be masked")
        if not end_stream and response.status_code != 101:
            try:
                self._mask = self.mask_for(response, kind)
            except Unreadable as e:
                self._respond_to_record(502, "error")
                return self._refuse(502, f"the answer is withheld: {e}")
        if not end_stream:
            self._masked_by = self._masks_now()
        if self._mask is not None:
            self.answer_step = _STEP if headers.get("content-encoding", "identity") == "identity" else _PACKED_STEP
        if self._mask is not None or self._mask_wanted():
            for name in [*_OF_THE_BODY, *(name for name in headers if name.lower().startswith(_SUMS))]:
                headers.pop(name, None)
        try:
            self._mask_head(response)
        except Unreadable as e:
            self._respond_to_record(502, "error")
            return self._refuse(502, f"the answer is withheld: {e}")
        withheld = [(name, value) for name, value in pairs(headers) if is_secret(name)]
        if withheld:
            self._answer_withheld += withheld
            headers.fields = tuple(field for field in headers.fields if not is_secret(field[0].decode("latin-1")))
        all_headers = self.gate.outbound.shown([*pairs(headers), *self._answer_withheld])
        self._answer_head = evidence.head(response.http_version, response.status_code, response.reason, all_headers)
        self._answer_tag = f"{response.status_code} {response.reason}".strip()
        self._response = response
        return Forward()

    def _switches(self, headers: http.Headers) -> bool:
        """Whether a 101 is what was asked for."""
        return bool(self.upgrade) and headers.get("upgrade", "").lower() == self.upgrade

    def _strip(self, headers: http.Headers, *, switches: bool) -> None:
        if "transfer-encoding" in headers:
            headers.pop("content-length", None)  # it was not read by this, and must not be (RFC 9112 section 6.3)
        kept = {"upgrade", "connection"} if switches else frozenset()
        gone = (named_by_connection(headers.get_all("connection")) | _NOT_THEIRS) - kept
        headers.fields = tuple(
            field for field in headers.fields if field[0].decode("utf-8", "surrogateescape").lower() not in gone
        )

    def _mask_head(self, response: http.Response) -> None:
        """Masks the contents of the reason phrase and of fields, where a rule masks contents. Raises `Unreadable`."""
        assert self.session is not None
        assert self.analysis is not None
        mask = TextMask.of(self.session, self.masked_as(), self.noted)
        if mask is None:
            return
        response.data.reason = mask.value("", response.data.reason)
        fields = [
            (name, value if name.lower() in _FRAMING else mask.value(name.decode("latin-1"), value))
            for name, value in response.headers.fields
        ]
        if tuple(fields) != response.headers.fields:
            response.headers.fields = tuple(fields)

    def mask_for(self, response: http.Response, kind: str) -> Any:
        """How to mask this answer's body; None: not at all. Raises `Unreadable` where it cannot be done."""
        assert self.session is not None
        assert self.analysis is not None
        return AnswerMask.of(self.session, self.masked_as(), response.headers, self.noted)

    def answer_data(self, data: bytes) -> bytes:
        self.still_granted()
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

    def to_client(self, response: http.Response) -> http.Response:
        judged = self._response
        sent = clone(judged or response)
        if self._closes and not self.request.is_http2:
            sent.headers["connection"] = "close"
        if judged is None:
            return sent  # the gateway's own
        for name, value in self._answer_withheld:
            sent.headers.add(name, value)
        length = sent.headers.get("content-length", "")
        self._answer_length = int(length) if length.isascii() and length.isdigit() else -1
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
        session, decision = self.session, self.decision
        flow.metadata["sluicegate"] = session.id if session is not None else "refused"
        flow.request = self._projection()
        if self._response is not None:
            flow.response = self._answer_projection(self._response)
        if session is not None:
            flow.metadata["principal"] = session.principal.subject
        if decision is not None:
            flow.metadata["decision"], flow.metadata["rule"] = decision.action.label, decision.rule
            who = session.principal.subject if session is not None else "nobody"
            flow.comment = f"{who}: {decision.action.label} by {decision.rule}"
            if decision.action > Action.HOLD:
                flow.marked = ":no_entry:"
