"""A PostgreSQL client made of a socket: says exactly the bytes that a test wants said, and shows what comes back."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import wire

SSL_REQUEST = wire.request(80877103)
GSS_REQUEST = wire.request(80877104)
V3_0, V3_2 = 3 << 16, (3 << 16) | 2
PATIENCE = 20.0  # seconds for an answer that must come


def context(
    ca: Path, *, alpn: str | None = "postgresql", version: ssl.TLSVersion | None = None, ciphers: str = ""
) -> ssl.SSLContext:
    """A client's TLS that trusts `ca`; `version` pins one."""
    made = ssl.create_default_context(cafile=ca)
    if alpn is not None:
        made.set_alpn_protocols([alpn])
    if ciphers:
        made.set_ciphers(ciphers)
    if version is not None:
        made.minimum_version = made.maximum_version = version
    return made


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server says between the startup packet and its first ReadyForQuery."""

    parameters: dict[str, str] = field(default_factory=dict)
    key: tuple[int, bytes] = (0, b"")
    negotiated: bytes = b""  # the body of NegotiateProtocolVersion


class Raw:
    """One connection. `receive` and `messages` raise EOFError where the peer has closed."""

    def __init__(self, address: tuple[str, int], source: str = "127.0.0.1") -> None:
        self.socket: socket.socket | ssl.SSLSocket = socket.create_connection(address, PATIENCE, (source, 0))
        self._buffer = b""

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        while len(self._buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"closed after {self._buffer!r}")
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def rest(self) -> bytes:
        """Everything until the peer closes. A reset counts as that."""
        with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError, BrokenPipeError):
            while data := self.socket.recv(65536):
                self._buffer += data
        data, self._buffer = self._buffer, b""
        return data

    def quiet(self, seconds: float = 0.3) -> bool:
        """Nothing comes for so long, and the peer has not closed."""
        if self._buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            self._buffer = self.socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False

    def tls(self, using: ssl.SSLContext, *, asked: bool = True, name: str = "127.0.0.1") -> None:
        """TLS from here on, after an SSLRequest (`asked`) or at once."""
        if asked:
            self.send(SSL_REQUEST)
            answer = self.receive(1)
            assert answer == b"S", answer
        assert not self._buffer
        self.socket = using.wrap_socket(self.socket, server_hostname=name)

    def message(self) -> tuple[str, bytes]:
        """The next message: (type, body)."""
        kind, length = struct.unpack("!cI", self.receive(5))
        return kind.decode(), self.receive(length - 4)

    def until(self, kind: str) -> list[tuple[str, bytes]]:
        """The messages up to the first of this type, which is the last one of the list."""
        found = []
        while not found or found[-1][0] != kind:
            found.append(self.message())
        return found

    def error(self) -> dict[str, str]:
        """The fields of the ErrorResponse with which the peer ends the connection; nothing may come after it."""
        kind, body = self.message()
        assert kind == "E", (kind, body)
        assert self.rest() == b""
        return wire.fields(body)

    def startup(self, user: str = "admin", database: str = "shop", code: int = V3_0, **more: str) -> None:
        self.send(wire.startup(code, user=user, database=database, **more))

    def password(self, token: str) -> None:
        """Answers the request for a cleartext password."""
        assert self.message() == ("R", struct.pack("!I", 3))
        self.send(wire.message("p", wire.text(token)))

    def greeting(self) -> Greeting:
        """Everything up to the first ReadyForQuery, AuthenticationOk first."""
        assert self.message() == ("R", bytes(4))
        parameters, key = {}, (0, b"")
        for kind, body in self.until("Z"):
            if kind == "S":
                name, value = body[:-1].split(b"\0")
                parameters[name.decode()] = value.decode()
            elif kind == "K":
                key = (int.from_bytes(body[:4]), body[4:])
            else:
                assert kind in "ZN", (kind, body)
        return Greeting(parameters, key)

    def log_in(self, token: str, **more: str) -> Greeting:
        self.startup(**more)
        self.password(token)
        return self.greeting()

    def query(self, sql: str) -> list[Sequence[bytes | None]]:
        """The rows of a simple query. An ErrorResponse fails the test."""
        self.send(wire.query(sql))
        answer = b"".join(wire.message(kind, body) for kind, body in self.until("Z"))
        assert not wire.errors(answer), wire.errors(answer)
        return list(wire.rows(answer))

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def connect(address: tuple[str, int]) -> Iterator[Raw]:
    client = Raw(address)
    try:
        yield client
    finally:
        client.close()


def eventually(holds: object, seconds: float = 10.0) -> None:
    """Waits until `holds()` is true; fails the test after so many seconds."""
    assert callable(holds)
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
