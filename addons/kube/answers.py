"""A Kubernetes answer through the guard: Secrets masked, streams ended with their grant, and what goes on record."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from mitmproxy import http

from addons.kube import masks
from addons.kube.streams import agreed
from addons.web.content import AnswerMask, Unreadable
from addons.web.exchange import HttpExchange
from addons.web.port import Verdict
from protocols.contract import Action, Analysis, Cacheable, Effect
from protocols.http.headers import WITHHELD
from protocols.kubernetes import media
from protocols.kubernetes.errors import Withheld
from protocols.kubernetes.requests import RequestInfo

_NOT_RECORDED = b"(not recorded: it holds secrets)"
_MAX_NAMED = 100  # Secrets whose values were shown, in the record
_HELM_IS_MASKED = '299 - "helm\'s releases are masked for you, and it will not find them: ask for secret.read on them"'


class KubeAnswers(HttpExchange):
    """The answer's half of a `KubeExchange`."""

    info: RequestInfo | None = None
    protocol = ""  # of a stream: what the upstream is asked for
    _clear = False  # values of Secrets may be shown
    _some_shown = False
    _impersonates: tuple[str, ...] = ()  # whom the client asks to be (`user:jane`)
    _shown: dict[str, None]  # Secrets that were shown in an answer that is masked

    def _place(self) -> str:
        """The one Secret that this is about, and for whom; nothing where it is about another thing, or several."""
        info, session = self.info, self.session
        assert info is not None
        assert session is not None
        if not self._about_secrets() or not (info.name and info.namespace):
            return ""
        return "\0".join((session.identity, self.gate.resource.name, info.namespace, info.name))

    # ------------------------------------------------------------ the answer

    def _about_secrets(self) -> bool:
        return self.info is not None and masks.SECRETS.applies(self.info)

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

    def _masks_now(self) -> object:
        assert self.session is not None
        return self.session.policy.masks

    def _begin_work(self) -> None:
        super()._begin_work()
        self._masked_by = self._masks_now()  # a stream's output is masked from here on

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
        if media.answers_objects(info) and kind in media.BINARY:
            raise Unreadable("the api server answers in a format that was not asked for")
        if not self._masks_secrets():
            return self._contents_mask(response, info) if self._mask_wanted() else None
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Unreadable("the api server has coded an answer that was to be plain")
        assert self.session is not None
        what = masks.masked_objects(self.session.saw if self.session.remembers else None, self._shows, self._place())
        try:
            mask = masks.SecretMask(response.headers.get("content-type", ""), info, what, self._note)
        except Withheld as e:
            raise Unreadable(str(e)) from None
        if masks.is_helms(info) and not self._granted_by_name(info.namespace or "*", masks.HELM + "any.v1"):
            response.headers.add("warning", _HELM_IS_MASKED)  # clients show it to the person
        return mask

    def _note(self, field: str) -> None:
        self.noted.add(field, Effect.SECRET_READ.value)  # which no rule grants

    def _shows(self, namespace: str, name: str) -> bool:
        """Whether of an answer that is masked this one Secret may be seen: where a rule grants it by its name."""
        if not self._granted_by_name(namespace, name):
            return False
        if len(self._shown) < _MAX_NAMED:
            self._shown[f"{namespace}/{name}"] = None
        self._some_shown = True
        return True

    def _granted_by_name(self, namespace: str, name: str) -> bool:
        session, analysis = self.session, self.analysis
        assert session is not None
        assert analysis is not None
        facts = {**analysis.facts, "kube.namespace": (namespace,), "kube.name": (name,)}
        read = replace(analysis, effects=frozenset({Effect.SECRET_READ}), facts=facts)
        return session.decide(judged(read)).action is Action.ALLOW

    def _contents_mask(self, response: http.Response, info: RequestInfo) -> AnswerMask | None:
        assert self.session is not None
        kind = response.headers.get("content-type", "")
        if info.watches and kind.partition(";")[0].strip().lower() == "application/json":
            kind = "application/json;stream=watch"  # documents one after the other, whether it says so or not
        headers = {"content-type": kind, "content-encoding": response.headers.get("content-encoding", "")}
        return AnswerMask.of(self.session, self.masked_as(), headers, self.noted)

    def redacted(self, text: str) -> str:
        if self._secretive:
            return WITHHELD
        return self.gate.outbound.redacted_text(text, personal=self._personal)

    # ------------------------------------------------------------ record

    def _text(self) -> str:
        info = self.info
        wish = f" as {', '.join(self._impersonates)}" if self._impersonates else ""
        if info is None or not info.resource_request:
            return super()._text() + self.redacted(wish)
        if self._secretive:
            return f"{info.verb} {info.full_resource} ({WITHHELD}: it holds a value that is masked for this identity)"
        where = f" in {info.namespace}" if info.namespace else ""
        what = f"{info.full_resource} {info.name}".strip()
        ran = f": {shlex.join(info.command)}" if info.command else ""
        return self.redacted(f"{info.verb} {what}{where}{wish}{ran} ") + f"({self.request.method} {self._shown_path()})"

    def _shown_body(self) -> bytes:
        shown = super()._shown_body()
        if not shown or not self._about_secrets():
            return shown
        assert self.info is not None
        # of what came whole the values are masked; of anything else nothing is kept
        whole = self._body if self._body else b""
        masked = masks.for_record(whole, self.request.headers.get("content-type", ""), self.info)
        return masked[: self.gate.runtime.config.record.max_response_bytes] if masked else _NOT_RECORDED

    def _shown_answer(self, limit: int) -> bytes:
        effects = self.analysis.effects if self.analysis is not None else frozenset()
        clear = self._about_secrets() and (self._clear or self._some_shown)
        if self._answer and (clear or Effect.KUBE_TOKEN in effects):
            return _NOT_RECORDED
        return super()._shown_answer(limit)

    def _respond_to_record(self, status: int, word: str) -> None:
        if self._shown and not self._done:
            self._answer_tag += f"; values shown of {', '.join(self._shown)}"
            self._answer_tag += " and others" if len(self._shown) == _MAX_NAMED else ""
        super()._respond_to_record(status, word)


def judged(analysis: Analysis) -> Analysis:
    """What rules see: relations are for the record, rules ask for facts."""
    return replace(analysis, reads=(), writes=(), cacheable=Cacheable.TEXT)
