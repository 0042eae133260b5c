"""A PostgreSQL server that lies: a script says what it wants to each connection. And a man in the middle."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Self

from tests.support import wire

_PATIENCE = 20.0


class Peer:
    """The server's side of one connection of the gateway's."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.parameters: dict[str, str] = {}

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def packet(self) -> bytes:
        """The body of an untyped packet (a startup packet or a request)."""
        return self.receive(struct.unpack("!I", self.receive(4))[0] - 4)

    def message(self) -> tuple[str, bytes]:
        kind, length = struct.unpack("!cI", self.receive(5))
        return kind.decode(), self.receive(length - 4)

    def startup(self) -> None:
        words = self.packet()[4:-2].split(b"\0")
        self.parameters = {k.decode(): v.decode() for k, v in zip(words[::2], words[1::2], strict=True)}

    def hang(self) -> None:
        """Until the gateway closes."""
        while self.socket.recv(65536):
            pass


type Lie = Callable[[Peer], None]


def auth(code: int, body: bytes = b"") -> bytes:
    return wire.message("R", struct.pack("!I", code) + body)


class FakeUpstream:
    """Listens on a port of its own. `said` is everything that the gateway has sent to it.

    `lie` gets each connection before its first byte. Of metadata connections nothing is expected.
    """

    def __init__(self, lie: Lie) -> None:
        self._lie = lie
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.said = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        peer = _Listening(connection, self)
        with connection, contextlib.suppress(EOFError, OSError):
            self._lie(peer)
            peer.hang()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Listening(Peer):
    def __init__(self, connection: socket.socket, fake: FakeUpstream) -> None:
        super().__init__(connection)
        self._fake = fake

    def receive(self, size: int) -> bytes:
        data = super().receive(size)
        self._fake.said += data
        return data


def middle(
    server: tuple[str, int],
    certificate: ssl.SSLContext,
    change: Callable[[bytes], bytes] = lambda data: data,
) -> Lie:
    """A man in the middle with a certificate that the gateway trusts. He ends TLS on both sides, and may `change` what
    the server says.
    """

    def lie(peer: Peer) -> None:
        peer.packet()
        peer.send(b"S")
        careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        careless.check_hostname = False
        careless.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(server, timeout=_PATIENCE) as plain,
            certificate.wrap_socket(peer.socket, server_side=True) as near,
        ):
            plain.sendall(wire.request(80877103))
            assert plain.recv(1) == b"S"
            with careless.wrap_socket(plain) as far:
                upward = threading.Thread(target=_pump, args=(near, far, lambda data: data), daemon=True)
                upward.start()
                _pump(far, near, change)
                upward.join(_PATIENCE)

    return lie


def _pump(source: ssl.SSLSocket, sink: ssl.SSLSocket, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(change(data))
    for side in (source, sink):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
