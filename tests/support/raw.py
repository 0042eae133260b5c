"""A client that speaks the protocol byte by byte, so that a test sees every message and says every byte."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from pathlib import Path
from typing import Self

from scripts.support.lab import Lab
from tests.support import wire

Message = tuple[str, bytes]


class Closed(Exception):
    """The other side has closed the connection; `args` are the messages before that."""


class Raw:
    """Connected and logged in (trust or cleartext password), up to its first ReadyForQuery. `key` is its cancel key."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        user: str,
        password: str = "",
        *,
        database: str = "shop",
        context: ssl.SSLContext | None = None,
        minor: int = 0,
        **parameters: str,
    ) -> None:
        self.address = address
        self.context = context
        self.socket = connect(address, context)
        self._in = b""
        self.greeting: list[Message] = []
        try:
            self._log_in((3 << 16) | minor, password, user=user, database=database, **parameters)
        except BaseException:
            self.close()
            raise
        (key,) = (body for kind, body in self.greeting if kind == "K")
        self.key = key

    def _log_in(self, version: int, password: str, **parameters: str) -> None:
        self.send(wire.startup(version, **parameters))
        while not self.greeting or self.greeting[-1][0] != "Z":
            kind, body = self.read()
            if (kind, body) == ("R", b"\0\0\0\3"):
                self.send(wire.message("p", wire.text(password)))
                continue
            self.greeting.append((kind, body))
            if kind == "E":
                raise Closed(wire.fields(body))

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def read(self, timeout: float = 20.0) -> Message:
        """The next message. Raises `Closed`, or TimeoutError."""
        self.socket.settimeout(timeout)
        while True:
            if len(self._in) >= 5:
                size = 1 + struct.unpack_from("!I", self._in, 1)[0]
                if len(self._in) >= size:
                    found = chr(self._in[0]), self._in[5:size]
                    self._in = self._in[size:]
                    return found
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Closed(self._in)
            self._in += data

    def until(self, kind: str = "Z", count: int = 1, timeout: float = 20.0) -> list[Message]:
        """Everything up to the `count`th message of a kind."""
        seen: list[Message] = []
        while count:
            try:
                seen.append(self.read(timeout))
            except Closed:
                raise Closed(seen) from None
            count -= seen[-1][0] == kind
        return seen

    def rest(self, timeout: float = 20.0) -> list[Message]:
        """Everything up to the end of the connection."""
        try:
            self.until("never", timeout=timeout)
        except Closed as e:
            return list(e.args[0])
        raise AssertionError

    def ask(self, *parts: bytes) -> list[Message]:
        """Sends, and reads up to ReadyForQuery."""
        self.send(*parts)
        return self.until()

    def cancel(self, key: bytes | None = None, *, tls: bool = True) -> None:
        """Sends a CancelRequest on a connection of its own, and waits until the other side has closed it."""
        with connect(self.address, self.context if tls else None) as other:
            other.sendall(wire.request(80877102, self.key if key is None else key))
            other.settimeout(20.0)
            with contextlib.suppress(ConnectionResetError):
                assert other.recv(1) == b""

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def connect(address: tuple[str, int] | str, context: ssl.SSLContext | None) -> socket.socket:
    if isinstance(address, str):
        plain = socket.socket(socket.AF_UNIX)
        plain.connect(address)
        return plain
    made = socket.create_connection(address, 20.0)
    if context is None:
        return made
    made.sendall(wire.request(80877103))
    assert made.recv(1) == b"S"
    return context.wrap_socket(made, server_hostname=address[0])


def direct(lab: Lab, **parameters: str) -> Raw:
    """To the server itself, over its private socket."""
    path = str(Path(lab.server.folder) / f".s.PGSQL.{lab.server.port}")
    return Raw(path, lab.server.user, database=lab.server.database, **parameters)


def through(lab: Lab, identity: str, *, tls: bool = False, minor: int = 0, token: str = "", **parameters: str) -> Raw:
    """Through the gateway, as one of the lab's identities or with a token."""
    context = ssl.create_default_context(cafile=str(lab.authority.file)) if tls else None
    address = (lab.gateway.host, lab.gateway.port)
    password = token or lab.tokens[identity]
    return Raw(address, identity, password, context=context, minor=minor, **parameters)
