"""What the HTTP layers and the guard say to each other: verdicts, exchanges, tunnels, steps that are waited for.

The layers (`addons.web.layer`, `addons.web.stream`) move bytes; an `Exchange` says what may become of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

from mitmproxy import connection, http
from mitmproxy.proxy import commands, context, layer

type Commands = Generator[commands.Command, Any, None]


def clone[M: (http.Request, http.Response)](message: M) -> M:
    """A copy whose head is its own. mitmproxy's `copy` goes through serialised state, and takes ten times as long."""
    made = _twin(message)
    made.data = _twin(message.data)
    made.data.headers = _twin(message.data.headers)  # its fields are a tuple, which nothing changes in place
    return cast(M, made)


def _twin(one: Any) -> Any:
    made = object.__new__(type(one))
    made.__dict__.update(one.__dict__)
    return made


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this, forward nothing."""

    response: http.Response


class Collect:
    """The body is needed before a verdict."""


class Forward:
    """Let it pass; a body passes in pieces, each of them shown to the exchange first."""


class Opaque:
    """CONNECT only: pass the bytes of the tunnel unopened."""


type Verdict = Refuse | Collect | Forward | Opaque


class Ended(Exception):
    """The exchange must stop here: what has not gone yet does not go. The text is for the client.

    `passed`: of a tunnel's piece, what came before the place where it ends, as the other side may have it.
    """

    passed = b""


class Said(str):
    """A text of the gateway's own about an upstream: it quotes nothing, and may be shown."""

    __slots__ = ()


class Tunnel(Protocol):
    """What follows on a connection that is no longer HTTP: (to the client, to the upstream) for each piece, or an
    awaitable of it: nothing else is passed until it is there."""

    def client(self, data: bytes) -> tuple[bytes, bytes] | Awaitable[tuple[bytes, bytes]]: ...
    def server(self, data: bytes) -> tuple[bytes, bytes] | Awaitable[tuple[bytes, bytes]]: ...
    def lost(self) -> None: ...


class Exchange(Protocol):
    """One request and its answer. Methods that may have to wait return an awaitable instead of their result.

    `request` is the request that was judged: the layers give mitmproxy a copy, and send this one.
    """

    request: http.Request
    id: str  # under which it is on record
    answer_step: int  # bytes of an answer that are shown at a time; 0: as they come

    def connect(self) -> Verdict | Awaitable[Verdict]:
        """A CONNECT request."""

    def begin(self, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        """The request's head is there."""

    def body(self, data: bytes) -> bytes | Verdict | Awaitable[Verdict]:
        """A piece of the body: what of it may go on at once (nothing while it is collected), or a verdict: `Forward`
        lets go what was collected, and the rest piece by piece. Raises `Ended`."""

    def complete(self) -> Verdict | Awaitable[Verdict]:
        """The whole body is there: `Refuse` or `Forward`."""

    def rest(self) -> bytes:
        """Of a body that passed in pieces the last, which was held back. Raises `Ended`."""

    def collected(self) -> Iterator[bytes]:
        """The body that was collected, in pieces."""

    def pace(self) -> Awaitable[None]:
        """Returns once the upstream has taken enough of what was sent."""

    def outgoing(self, request: http.Request, server: connection.Server) -> http.Request:
        """What goes upstream for the request that was judged."""

    def address(self) -> tuple[str, int, bool]:
        """Host, port, TLS: where it goes."""

    def reaches(self, server: connection.Server) -> bool:
        """Whether an open connection may be used again for this exchange."""

    def answer(self, response: http.Response, end_stream: bool) -> Verdict | Awaitable[Verdict]:
        """The answer's head is there: `Refuse` or `Forward`."""

    def answer_data(self, data: bytes) -> bytes:
        """A piece of the answer, as the client may see it. Raises `Ended`."""

    def answer_end(self) -> bytes:
        """The last of the answer. Raises `Ended`."""

    def show(self, flow: http.HTTPFlow) -> None:
        """Puts what people may see of it into a flow that nothing is sent from."""

    def to_client(self, response: http.Response) -> http.Response:
        """What goes to the client for an answer that was judged."""

    def upgraded(self) -> Tunnel:
        """The upstream has switched protocols."""

    def relay(self, context: context.Context, tunnel: Tunnel, *, opened: bool) -> layer.Layer:
        """The layer that an upgraded connection passes through."""

    def tunnel(self) -> Tunnel:
        """An opaque CONNECT."""

    def failed(self, why: str) -> None:
        """It ended in the middle. Safe to call twice."""

    def finished(self) -> None:
        """It ended as it should."""


class Gate(Protocol):
    """Makes the exchanges of one client connection."""

    watched: bool  # somebody looks at mitmproxy's flows: its hooks are fired

    def exchange(self, request: http.Request, stream: Any, tunnelled: tuple[str, int] | None) -> Exchange: ...

    def pause(self, paused: bool, of: connection.Connection | None = None) -> None:
        """Whether a socket, the client's or that of an upstream, is left alone for now."""

    def refusal(self, status: int, text: str, **more: str) -> http.Response:
        """An answer of the gateway's own."""

    def flooded(self, why: str) -> None:
        """The client is cut off for what it costs; it goes on record."""


class Step:
    """Something to wait for; `result` is what came out, or the exception."""

    def __init__(self, work: Awaitable[Any]) -> None:
        self._work = work
        self.result: Any = None
        self.error: BaseException | None = RuntimeError("the step did not run")

    async def run(self) -> None:
        try:
            self.result = await self._work
            self.error = None
        except Exception as e:
            self.error = e


@dataclass
class SluicegateStepHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Ours alone: the layer waits for a step."""

    step: Step
