"""MySQL's handshakes on real sockets: a driver that blocks, and a small gateway that only lets clients log in."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Self

from protocols.contract import (
    Admission,
    Authenticate,
    Connect,
    KeepKey,
    ListenerTerms,
    PeerGone,
    Receive,
    Refused,
    Register,
    ReserveId,
    Send,
    Side,
    StartTls,
    TlsFacts,
    WireError,
)
from protocols.mysql import handshake
from protocols.mysql.connection import Greeting
from protocols.mysql.handshake import Handover

TIMEOUT = 30.0


class Wire:
    """A blocking connection that can become TLS in the middle, also with bytes of the peer that were read before."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        self.sock = sock
        self._tls: ssl.SSLObject | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()

    def start_tls(self, context: ssl.SSLContext, *, server_side: bool, name: str | None, received: bytes) -> TlsFacts:
        self._tls = context.wrap_bio(self._in, self._out, server_side, None if server_side else name)
        self._in.write(received)
        self._step(self._tls.do_handshake)
        return TlsFacts(self._tls.version() or "", None, None)

    def _step[T](self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.sock.recv(65536)
                if not data:
                    raise PeerGone from None
                self._in.write(data)
                continue
            self._flush()
            return done

    def _flush(self) -> None:
        if data := self._out.read():
            self.sock.sendall(data)

    def send(self, data: bytes) -> None:
        if self._tls is None:
            self.sock.sendall(data)
        else:
            self._tls.write(data)
            self._flush()

    def receive(self) -> bytes:
        try:
            data = self.sock.recv(65536) if self._tls is None else self._decrypted()
        except (ConnectionError, ssl.SSLZeroReturnError, ssl.SSLEOFError) as e:
            raise PeerGone from e
        if not data:
            raise PeerGone
        return data

    def receive_some(self) -> bytes:
        """What one read of the socket brings: nothing, where that is not a whole record."""
        data = self.sock.recv(65536)
        if not data:
            raise PeerGone
        if self._tls is None:
            return data
        self._in.write(data)
        out: list[bytes] = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while part := self._tls.read(65536):
                out.append(part)
        self._flush()
        return b"".join(out)

    def _decrypted(self) -> bytes:
        tls = self._tls
        assert tls is not None
        return self._step(lambda: tls.read(65536))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def drive[T](
    generator: Generator[Any, Any, T],
    legs: dict[Side, Wire],
    contexts: dict[Side, ssl.SSLContext],
    answer: Callable[[Any], Any],
) -> T:
    """Runs a handshake or login to its end; what is neither bytes nor TLS goes to `answer`."""
    value: Any = None
    failure: BaseException | None = None
    while True:
        try:
            asked = generator.throw(failure) if failure is not None else generator.send(value)
        except StopIteration as done:
            result: T = done.value
            return result
        value, failure = None, None
        try:
            if isinstance(asked, Send):
                legs[asked.side].send(asked.data)
            elif isinstance(asked, Receive):
                value = legs[asked.side].receive()
            elif isinstance(asked, StartTls):
                value = legs[asked.side].start_tls(
                    contexts[asked.side],
                    server_side=asked.side is Side.CLIENT,
                    name="127.0.0.1",
                    received=asked.received,
                )
            else:
                value = answer(asked)
        except (PeerGone, Refused, ssl.SSLError, OSError) as e:
            failure = e


def upstream(host: str, port: int) -> Wire:
    return Wire(socket.create_connection((host, port), TIMEOUT))


def run[T](generator: Generator[Any, Any, T], host: str, port: int, ca: Path | None = None) -> T:
    """A generator that knows the upstream alone, against a real server."""
    wire = upstream(host, port)

    def none(asked: Any) -> Any:
        raise AssertionError(f"a login asked for {asked}")

    try:
        contexts = {Side.UPSTREAM: ssl.create_default_context(cafile=ca)} if ca is not None else {}
        return drive(generator, {Side.UPSTREAM: wire}, contexts, none)
    finally:
        wire.close()


class Memory:
    """What handshakes share, with the greeting of the upstream."""

    def __init__(self) -> None:
        self.greeting: Greeting | None = None


class LoginGateway:
    """Accepts clients, runs the handshake, and then passes bytes on as they are.

    `admit` answers `Authenticate`: it returns an admission or raises `Refused`. `handovers` and `errors` keep what
    became of each connection, in order.
    """

    def __init__(
        self,
        terms: ListenerTerms,
        admit: Callable[[Authenticate], Admission],
        target: tuple[str, int],
        *,
        server_context: ssl.SSLContext | None = None,
        upstream_context: ssl.SSLContext | None = None,
    ) -> None:
        self.terms = terms
        self.memory = Memory()
        self.asked: list[Any] = []
        self.handovers: list[Handover] = []
        self.errors: list[Exception] = []
        self._admit, self._target = admit, target
        self._contexts = {
            side: context
            for side, context in ((Side.CLIENT, server_context), (Side.UPSTREAM, upstream_context))
            if context is not None
        }
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[Wire] = []
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def _spawn(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, Wire(sock))

    def _serve(self, client: Wire) -> None:
        legs = {Side.CLIENT: client}
        self._open.append(client)

        def answer(asked: Any) -> Any:
            self.asked.append(asked)
            if isinstance(asked, Authenticate):
                return self._admit(asked)
            if isinstance(asked, ReserveId):
                return 4711
            if isinstance(asked, Connect):
                legs[Side.UPSTREAM] = upstream(*self._target)
                self._open.append(legs[Side.UPSTREAM])
                return None
            assert isinstance(asked, KeepKey | Register), asked
            return (4711, b"") if isinstance(asked, KeepKey) else None

        try:
            done = drive(handshake.serve(self.terms, os.urandom(32), self.memory), legs, self._contexts, answer)
        except (Refused, PeerGone, WireError, OSError) as e:
            self.errors.append(e)
            for leg in legs.values():
                leg.close()
            return
        self.handovers.append(done)
        there = legs[Side.UPSTREAM]
        if done.client:
            there.send(done.client)
        self._relay(client, there)

    @staticmethod
    def _relay(client: Wire, there: Wire) -> None:
        """Bytes both ways until a side is gone."""
        try:
            with selectors.DefaultSelector() as selector:
                for source, target in ((client, there), (there, client)):
                    selector.register(source.sock, selectors.EVENT_READ, (source, target))
                while True:
                    for key, _ in selector.select(TIMEOUT):
                        source, target = key.data
                        if data := source.receive_some():
                            target.send(data)
        except (PeerGone, OSError, ValueError):
            client.close()
            there.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self._open:
            wire.close()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def pieces(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes; what is left comes last."""
    at = 0
    for size in sizes:
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size
    if at < len(data):
        yield data[at:]
