"""What must not leave in a Kubernetes request: in its body and query, and in what is typed into a pod.

The judgement is HTTP's (`addons.web.inspect`): effects `exfil.*`, which rules must allow. A Secret is no exception:
who may keep credentials there is said by a rule about `secrets`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from addons.web.port import Ended
from guard.detect import DetectError
from guard.detect.expose import Effort
from protocols.contract import Analysis, Effect
from protocols.http.targets import Target
from protocols.kubernetes import paths
from protocols.kubernetes.analysis import analyse
from protocols.kubernetes.errors import RequestRefused
from protocols.kubernetes.leaving import said, without
from protocols.kubernetes.output import DELAY_NS
from protocols.kubernetes.requests import RequestInfo

if TYPE_CHECKING:
    from addons.kube.exchange import KubeExchange
    from addons.web.inspect import Outbound

STUDY_S = 20.0  # seconds that reading a body may take: what takes longer is refused
_COMMENT = re.compile(rb"^[^#\n]*", re.MULTILINE)  # what stands before a comment of YAML
_OPENED = 16  # times their own size is what is opened of a stream's bytes: it is searched while others wait
_OVERLAP = 2048  # bytes of a stream that are looked at again with what follows them


@dataclass(frozen=True, slots=True)
class Studied:
    """What a body does, and what is to be searched of it: the bytes, and behind them what they say."""

    analysis: Analysis
    text: bytes


def study(
    info: RequestInfo,
    body: bytes | None,
    kind: str,
    impersonates: tuple[str, ...],
    known: Callable[[bytes], bool] | None = None,
) -> Studied:
    """In any thread. `body` is None where it cannot be opened; values of a Secret that are `known` are not searched."""
    read: list[object] = []
    analysis = analyse(
        info, body or b"", kind, impersonates=impersonates, body_known=body is not None, keep=read.append
    )
    if body is None and Effect.UNKNOWN not in analysis.effects:
        effects = analysis.effects | {Effect.UNKNOWN}
        analysis = replace(analysis, effects=effects, why="the body's encoding cannot be read")
    raw = body or b""
    if known is not None and read:
        read[0], dropped = without(read[0], known)
        if dropped:
            raw = _COMMENT.sub(b"", raw)  # all else is in what was read
    return Studied(analysis, b"\n".join([raw, *map(said, read)]))


async def aside[T](work: Awaitable[T]) -> T:
    """Work that leaves the event loop free. Raises RequestRefused where it takes too long."""
    try:
        return await asyncio.wait_for(work, STUDY_S)
    except TimeoutError:
        # a thread cannot be stopped: it ends by itself, heard by nobody
        raise RequestRefused("the body takes too long to be judged: send less at once", 503, "Timeout") from None


def target(server: str, port: int, sent: str) -> Target:
    """The request's target for the search: path and query decoded, a command line also as one line."""
    parsed = paths.parse(sent)
    words = parsed.values("command")
    query = (*parsed.query, ("command", " ".join(words))) if len(words) > 1 else parsed.query
    return Target(server, port, (parsed.path,), query)


class StreamSearch:
    """One stream of a client's bytes into a pod, searched before they go on.

    A terminal's bytes go on at once (`waits=False`): of a value that comes letter by letter the last letter does not.
    Others are held back while they could become a finding, for at most `delay`. Base64 and its like are opened within
    what is looked at together. What is encrypted, or packed over more than one piece, is not seen.

    Methods raise `Ended`: nothing more goes on.
    """

    def __init__(self, exchange: KubeExchange, *, waits: bool, delay_ns: int = DELAY_NS) -> None:
        assert exchange.session is not None
        self._exchange = exchange
        self._session = exchange.session
        self._outbound: Outbound = exchange.gate.outbound
        self._passing = self._outbound.stream(exchange.session) if waits else None
        self._delay = delay_ns
        self._since: int | None = None
        self._tail = b""
        self.found: frozenset[Effect] = frozenset()  # in what was let go last

    @property
    def due_ns(self) -> int | None:
        return None if self._since is None else self._since + self._delay

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """What may go on now."""
        if self._passing is None:
            return self._looked(data, frozenset())
        try:
            sure, found = self._passing.feed(data)
        except DetectError as e:
            raise Ended(f"the input cannot be searched: {e}") from None
        if not (sure == data and self._since is None) and (sure or self._since is None):
            self._since = now_ns
        return self._looked(sure, found)

    def flush(self) -> bytes:
        """What was held back: nothing follows, or nothing came for a while."""
        self._since = None
        if self._passing is None:
            return b""
        try:
            rest, found = self._passing.end()
        except DetectError as e:
            raise Ended(f"the input cannot be searched: {e}") from None
        return self._looked(rest, found)

    def tick(self, now_ns: int) -> bytes:
        return self.flush() if self.due_ns is not None and now_ns >= self.due_ns else b""

    def _looked(self, data: bytes, found: frozenset[Effect]) -> bytes:
        self.found = found
        if not data:
            return data
        together = self._tail + data
        self._tail = together[-_OVERLAP:]
        try:
            looked = self._outbound.look(together, Effort(budget=_OPENED * len(together)))
            self.found = found = found | self._outbound.body(self._session, looked)
        except DetectError as e:
            raise Ended(f"the input cannot be searched: {e}") from None
        if found and (why := self._exchange.may_pass(found)):
            raise Ended(f"the input is cut here: {why}")
        return data
