"""An HTTP/2 upstream over TLS that says exactly the bytes that a test wants, as often as it wants."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Self

from scripts.support.tls import Authority

SETTINGS = bytes(3) + b"\x04\x00" + bytes(4)


class H2Liar:
    """`says(send)` runs once a request has come; `send` takes bytes and raises OSError once the gateway has left."""

    def __init__(self, authority: Authority) -> None:
        pair = authority.server("liar")
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._context.set_alpn_protocols(["h2"])
        self.says: Callable[[Callable[[bytes], None]], None] = lambda send: None
        self.sent = 0
        self.asked = threading.Event()  # a request has come
        self.left = threading.Event()  # the gateway has cut a connection
        self._stopping = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._stopping:
            try:
                raw, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            with self._context.wrap_socket(raw, server_side=True) as connection:
                connection.settimeout(20.0)
                connection.sendall(SETTINGS)
                got = b""
                while b"\x01" not in [got[i + 3 : i + 4] for i in _frames(got)]:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    got += piece
                self.asked.set()

                def send(data: bytes) -> None:
                    connection.sendall(data)
                    self.sent += len(data)

                try:
                    self.says(send)
                    while connection.recv(65536):
                        time.sleep(0)
                except OSError:
                    pass  # cut off in the middle, which is what most of these tests wait for
                self.left.set()
        except OSError:
            return  # the gateway did not want the connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping = True
        self._socket.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts
        self._socket.close()
        self._thread.join(2)


def _frames(data: bytes) -> list[int]:
    """Where each frame begins that a client has sent behind its preface."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    at, found = len(preface), []
    while at + 9 <= len(data):
        found.append(at)
        at += 9 + int.from_bytes(data[at : at + 3], "big")
    return found


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
