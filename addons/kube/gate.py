"""One client connection to a Kubernetes listener, and what such connections of one process have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mitmproxy import http

from addons.web.gate import HttpGate
from protocols.kubernetes import status as statuses

_LAST_WORDS = 1.0  # seconds that a client has to take them before its connection is cut
_REMEMBERED = 15.0  # seconds in which kubectl comes again over SPDY after a WebSocket was refused
_MAX_REMEMBERED = 10_000

type Asked = tuple[str, str, str, bytes]  # issuer, subject, resource, digest of the request


@dataclass(frozen=True, slots=True)
class _Refused:
    response: http.Response
    transport: str
    until: float


class Refusals:
    """Streams that people have just refused. kubectl asks again over SPDY at once: the approver is asked once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[Asked, _Refused] = {}

    def remember(self, asked: Asked, response: http.Response, transport: str) -> None:
        now = self._clock()
        if len(self._refused) >= _MAX_REMEMBERED:
            self._refused = {key: value for key, value in self._refused.items() if value.until > now}
        if len(self._refused) < _MAX_REMEMBERED:
            self._refused[asked] = _Refused(response.copy(), transport, now + _REMEMBERED)

    def same(self, asked: Asked, transport: str) -> http.Response | None:
        """The answer to the same request over the other transport, once."""
        found = self._refused.get(asked)
        if found is None or found.transport == transport:
            return None
        del self._refused[asked]
        return found.response if found.until > self._clock() else None


class KubeGate(HttpGate):
    """See `HttpGate`. Refusals are Status objects, and streams hear why they end."""

    def __init__(self, *given: Any, refusals: Refusals, **more: Any) -> None:
        super().__init__(*given, **more)
        self.refusals = refusals
        self._streams: set[Callable[[str], None]] = set()

    def running(self, cut: Callable[[str], None]) -> Callable[[], None]:
        """A stream runs on this connection: `cut` ends it. Returns what to call when it is over."""
        self._streams.add(cut)
        if self._over:
            asyncio.get_running_loop().call_soon(cut, "the connection is closed")
        return lambda: self._streams.discard(cut)

    def close(self, why: str) -> None:
        if not self._streams:
            super().close(why)
            return
        for cut in tuple(self._streams):
            cut(why)
        # the streams are over now; who does not take the last words is cut all the same
        asyncio.get_running_loop().call_later(_LAST_WORDS, super().close, why)

    def refusal(self, status: int, text: str, **more: str) -> http.Response:
        answer = statuses.status(401 if status == 407 else status, text)
        return http.Response.make(answer.code, answer.body, dict(answer.headers))
