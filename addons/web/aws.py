"""Registered APIs that ask for AWS Signature Version 4: each request is signed below the hooks, as it leaves.

The client's own signature ends here; its token comes as `Authorization: Bearer` or, from AWS' software, as session
token. What is signed is what was judged: the target in one spelling, the body by its SHA-256, every field that nobody
on the way changes.

INVARIANT: no request leaves without a signature of the gateway's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

from mitmproxy import connection, http

from addons.web.aws_errors import ErrorMask, forms_of
from addons.web.exchange import HttpExchange
from addons.web.gate import HttpGate
from addons.web.live import NotAdmitted
from addons.web.port import Ended, Refuse, Verdict
from guard.config.schema import HttpAuth, ResourceConfig
from guard.secrets import Secret
from protocols.contract import Action, Analysis, Decision, Effect
from protocols.http.aws import problems
from protocols.http.aws.chunked import BadChunks, Chunks
from protocols.http.aws.keys import BadKeys, Keys, read_document
from protocols.http.aws.objects import beyond_path
from protocols.http.aws.requests import Signed, refuse_other_signatures, take_off
from protocols.http.aws.sigv4 import AS_IT_IS, UNSIGNED, Signer, written
from protocols.http.headers import Header
from protocols.http.targets import BadTarget, Target, read_target

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.http")

_AGE = 30.0  # seconds after which keys are read again: they may have been changed
_ANEW = 5.0  # seconds between two readings that a refusal of the upstream's can cause
_SKEW = 300.0  # seconds between two clocks beyond which AWS takes no signature
_HIDDEN = 200  # forms of keys that are looked for in errors: those of the last changes
_SOON = 10.0  # seconds before they expire in which keys are not used any more


def read_keys(resource: ResourceConfig, secret: Secret) -> Keys:
    """The keys in a resource's credential. Raises BadKeys."""
    user = resource.credential.user or secret.username
    if user is None:
        return read_document(secret.password)
    return Keys(user, secret.password, secret.session_token)


def scope(auth: HttpAuth) -> tuple[str, str]:
    if auth.region is None or auth.service is None:
        raise ValueError("`aws_sigv4` without region or service")  # the configuration's own check comes before
    return auth.region, auth.service


class SharedKeys:
    """The keys of one resource, for all connections to it."""

    def __init__(self, runtime: Runtime, resource: ResourceConfig) -> None:
        self._runtime = runtime
        self._resource = resource
        self._signer: Signer | None = None
        self.hidden: tuple[bytes, ...] = ()  # forms of what no client may see
        self._fetched = 0.0
        self._fetching: asyncio.Future[Signer] | None = None

    def at_hand(self) -> Signer | None:
        """What signs, while its keys need not be read anew."""
        signer = self._signer
        if signer is None or time.monotonic() > self._fetched + _AGE or _is_over(signer.keys):
            return None
        return None if self._resource.name in self._runtime.upstreams.stale else signer

    async def get(self, read: Callable[[], Awaitable[Secret]]) -> Signer:
        """What signs. Raises `NotAdmitted`: nothing does. Whoever comes while keys are read shares the outcome."""
        if (signer := self.at_hand()) is not None:
            return signer
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._fetch(read))
            self._fetching.add_done_callback(self._fetched_one)
        return await asyncio.shield(self._fetching)

    def _fetched_one(self, fetching: asyncio.Future[Signer]) -> None:
        self._fetching = None
        if not fetching.cancelled():
            fetching.exception()  # those who waited have it; if all have left, nobody is missing it

    async def _fetch(self, read: Callable[[], Awaitable[Secret]]) -> Signer:
        self._signer = None
        keys = self._keys(await read())
        outbound, name = self._runtime.http.outbound, self._resource.name
        outbound.learn(name, keys.secret_access_key)
        if keys.session_token:
            outbound.learn(f"{name}: session token", keys.session_token)
        # also those before: an answer may be under way
        forms = (*forms_of(keys.session_token, keys.secret_access_key), *self.hidden)
        self.hidden = tuple(dict.fromkeys(forms))[:_HIDDEN]
        self._signer = signer = Signer(keys, *scope(self._resource.http_auth))
        self._fetched = time.monotonic()
        return signer

    def _keys(self, secret: Secret) -> Keys:
        name = self._resource.name
        try:
            keys = read_keys(self._resource, secret)
        except BadKeys as e:
            log.error("credential of %s: %s", name, e)
            raise NotAdmitted(503, "the gateway has no credential for this resource; its log says why") from None
        if _is_over(keys):
            log.error("credential of %s: the keys have expired; renew them where they are kept", name)
            raise NotAdmitted(503, "the gateway's credential for this resource has expired; ask its owner to renew it")
        return keys

    def not_taken(self) -> None:
        """The upstream has refused a request: the keys are read again, unless they just were."""
        if time.monotonic() > self._fetched + _ANEW:
            self._runtime.upstreams.stale.add(self._resource.name)


def _is_over(keys: Keys) -> bool:
    return keys.expires_at is not None and time.time() >= keys.expires_at - _SOON


class AwsGate(HttpGate):
    """See `HttpGate`."""

    def __init__(self, *given: Any, keys: SharedKeys, **more: Any) -> None:
        super().__init__(*given, **more)
        self.keys = keys

    def credential_at_hand(self) -> list[Header] | None:
        return None if self.keys.at_hand() is None else []

    async def credential_headers(self) -> list[Header]:
        """None: a signature is no header that could be made beforehand. Raises `NotAdmitted`."""
        await self.keys.get(self._secret)
        return []

    async def signer(self) -> Signer:
        """What signs. Raises `NotAdmitted`."""
        return await self.keys.get(self._secret)


class AwsExchange(HttpExchange):
    """See `HttpExchange`."""

    _said = Signed()
    _chunks: Chunks | None = None
    _signer: Signer | None = None
    _held = b""

    # ------------------------------------------------------------ the request

    def _read(self, request: http.Request) -> None:
        self._service = scope(self.gate.resource.http_auth)[1]
        self._digest = hashlib.sha256()
        self._content_type = request.headers.get("content-type", "")
        request.headers.fields, self._said = take_off(request.headers.fields)
        try:
            super()._read(request)
            self._chunks = self._said.chunks()
        except BadTarget:
            # what it holds may be a token, and nobody has looked at it
            request.path = request.path.partition("?")[0]
            raise
        finally:
            self.token = self.token or self._said.token
        if self._chunks is not None:
            self._as_without_chunks(request)

    def _targets(self, request: http.Request) -> Target:
        host, port = self._destination(request)
        target = read_target(request.path, host, port)
        refuse_other_signatures(self._service, request.method.upper(), self._content_type, target.query)
        request.path = written(request.path, self._service)
        return read_target(request.path, host, port)

    def _as_without_chunks(self, request: http.Request) -> None:
        request.headers["content-length"] = self._said.decoded_length
        if coding := self._said.without_chunks():
            request.headers["content-encoding"] = coding
        else:
            request.headers.pop("content-encoding", None)

    def begin(self, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        if end_stream and not self._wrong:
            self._wrong = self._amiss()
        return super().begin(end_stream)

    async def _reach(self) -> None:
        await super()._reach()
        self._signer = await cast(AwsGate, self.gate).signer()

    def _own_credential(self) -> bool:
        self._signer = cast(AwsGate, self.gate).keys.at_hand()
        return self._signer is not None

    # ------------------------------------------------------------ the body

    def body(self, data: bytes) -> bytes | Verdict | Awaitable[Verdict]:
        if self._chunks is not None:
            try:
                data = self._chunks.feed(data)
            except BadChunks as e:
                if self._streaming:
                    raise Ended(str(e)) from None
                return self._malformed(str(e))
            if not data:
                return b""
            if self._streaming:
                # what follows a body tells whether it was whole: until then the upstream must not have all of it
                data, self._held = self._held, data
                if not data:
                    return b""
        self._digest.update(data)
        return super().body(data)

    def complete(self) -> Verdict | Awaitable[Verdict]:
        if not self._streaming and (why := self._amiss()):
            return self._malformed(why)
        return super().complete()

    def rest(self) -> bytes:
        if self._streaming and (why := self._amiss()):
            raise Ended(why)
        held, self._held = self._held, b""
        if not held:
            return super().rest()
        self._digest.update(held)
        return cast(bytes, super().body(held)) + super().rest()

    def _amiss(self) -> str:
        """What is wrong with the whole body; empty: nothing. Checksums behind it become fields before it."""
        if self._chunks is not None:
            try:
                checksums = self._chunks.end()
            except BadChunks as e:
                return str(e)
            for name, value in checksums if not self._streaming else ():
                if name in self.request.headers:
                    return "a checksum that is given before the body and behind it"
                self.request.headers[name] = value
        promised = self._said.digest
        if promised and promised != self._digest.hexdigest():
            return "the body is another one than x-amz-content-sha256 says"
        return ""

    def _judge_stream(self, cap: int) -> Verdict:
        if not self._said.digest and not (self._service in AS_IT_IS and self.scheme == "https"):
            return self._malformed(
                f"the body is larger than what is signed whole ({cap} bytes): send its SHA-256 in hexadecimal as "
                "x-amz-content-sha256, or have limits.inspect_body_bytes raised",
                413,
            )
        # its checksum comes behind the body, which has left by then
        self.request.headers.pop("x-amz-sdk-checksum-algorithm", None)
        return super()._judge_stream(cap)

    def analyse(self) -> Analysis:
        found = super().analyse()
        return beyond_path(found, self._as_request(), self._body) if self._service in AS_IT_IS else found

    def _malformed(self, why: str, status: int = 400) -> Verdict:
        """Refused for its form, on record."""
        session = self.session
        assert session is not None
        try:
            session.denied += 1
            wrong = Analysis(kind=self.request.method, effects=frozenset({Effect.UNKNOWN}), why=why)
            self._found |= self.gate.outbound.head(session, self._as_request(), self._withheld)
            wrong = replace(wrong, effects=wrong.effects | self._found)
            self._kept.clear()  # of a body that nobody has judged
            self._record(wrong, Decision(Action.DENY, "malformed", why, session.policy.version), self._text())
            self._respond_to_record(status, "error")
            return self._refuse(status, why)
        except Exception as e:
            return self._failed(e)

    # ------------------------------------------------------------ what goes upstream

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        sent = super().outgoing(request, server)
        signer = self._signer
        if signer is None:
            raise RuntimeError("a request without keys to sign it with")
        host = (sent.authority or sent.headers["host"]).encode()
        fields = sent.headers.fields
        added = signer.sign(sent.data.method, sent.data.path, host, fields, self._payload(), time.time())
        sent.headers.fields = (*fields, *added)
        return sent

    def _payload(self) -> str:
        if self._streaming:
            return self._said.digest or UNSIGNED
        return self._digest.hexdigest()

    # ------------------------------------------------------------ answers

    def answer(self, response: http.Response, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        if response.status_code in (401, 403):
            cast(AwsGate, self.gate).keys.not_taken()
        if response.status_code in (400, 401, 403) and (skew := _skew(response)) > _SKEW:
            log.error("%s: the gateway's clock is %.0f s away from the upstream's", self.gate.resource.name, skew)
            self._answer_status = 502
            self._respond_to_record(502, "error")
            why = "the upstream takes no signature of this gateway: their clocks are minutes apart"
            return self._refuse(502, f"{why}; have the gateway's set")
        return super().answer(response, end_stream)

    def mask_for(self, response: http.Response, kind: str) -> Any:
        mask = super().mask_for(response, kind)
        if response.status_code < 400:
            return mask
        hidden = cast(AwsGate, self.gate).keys.hidden
        return ErrorMask(hidden, response.headers.get("content-encoding", ""), mask)

    def _refuse(self, status: int, text: str, **more: str) -> Refuse:
        if not self._said.scheme:
            return super()._refuse(status, text, **more)
        if status == 401:
            text += "; AWS' software sends the gateway's token as session token (AWS_SESSION_TOKEN)"
        refused = super()._refuse(status, text, **more)
        answer = refused.response
        told = problems.told(self._service, self._content_type, status, answer.raw_content or b"", self.id)
        answer.content = told.body
        for name, value in told.headers:
            answer.headers[name] = value
        return refused


def _skew(response: http.Response) -> float:
    """Seconds between the upstream's clock and ours; 0 where it does not say."""
    try:
        return abs(parsedate_to_datetime(response.headers.get("date", "")).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
