"""Plays a handshake generator: the test says what arrives and what the process around it answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from protocols.contract import (
    Admission,
    Authenticate,
    Cancel,
    Connect,
    Credential,
    KeepKey,
    PeerGone,
    Permit,
    Principal,
    Receive,
    Register,
    ReserveId,
    Resource,
    Send,
    Side,
    StartTls,
    TlsFacts,
)

NONCE = b"\1" * 18
ADA = Principal("ada", "https://idp", frozenset({"analysts"}), expires_at=2e9)
SHOP = Resource("shop", "postgres", {}, "shop")


def admitted(*, tls: bool = False, password: str = "upstream-secret") -> Admission:
    return Admission(ADA, SHOP, Credential("app", password), "shop", tls)


class Played:
    """What came out: bytes to each side, and everything that was asked, in order."""

    def __init__(self) -> None:
        self.client = b""
        self.upstream = b""
        self.asked: list[Any] = []
        self.result: Any = None
        self.error: Exception | None = None

    @property
    def names(self) -> list[str]:
        return [type(a).__name__ for a in self.asked]


def play(
    generator: Generator[Any, Any, Any],
    client: Iterable[bytes] = (),
    upstream: Iterable[bytes | Callable[[Played], bytes]] = (),
    *,
    admission: Admission | Exception | None = None,
    facts: TlsFacts | None = None,
    permit: Callable[[Permit], Exception | None] = lambda _: None,
) -> Played:
    """Runs it to its end. A side that has nothing more to say is gone. Never raises: see `error`."""
    out = Played()
    sides: dict[Side, list[Any]] = {Side.CLIENT: list(client), Side.UPSTREAM: list(upstream)}
    answer: Any = None
    failure: Exception | None = None
    for _ in range(10_000):
        try:
            asked = generator.throw(failure) if failure is not None else generator.send(answer)
        except StopIteration as done:
            out.result = done.value
            return out
        except Exception as e:
            out.error = e
            return out
        answer, failure = None, None
        if isinstance(asked, Send):
            if asked.side is Side.CLIENT:
                out.client += asked.data
            else:
                out.upstream += asked.data
            continue
        if isinstance(asked, Receive):
            waiting = sides[asked.side]
            if not waiting:
                failure = PeerGone()
            else:
                part = waiting.pop(0)
                answer = part(out) if callable(part) else part
            continue
        out.asked.append(asked)
        if isinstance(asked, StartTls):
            answer = facts or TlsFacts("TLSv1.3", asked.alpn, b"hash of the certificate")
        elif isinstance(asked, Authenticate):
            given = admission or admitted()
            if isinstance(given, Exception):
                failure = given
            else:
                answer = given
        elif isinstance(asked, Permit):
            failure = permit(asked)
        elif isinstance(asked, KeepKey):
            answer = (4711, b"k" * asked.length)
        elif isinstance(asked, ReserveId):
            answer = 4711
        else:
            assert isinstance(asked, (Connect, Cancel, Register)), asked
    raise AssertionError("a handshake without end")
