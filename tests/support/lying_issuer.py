"""Issuers that do not answer as issuers do: each signs good tokens, and nobody can learn its keys."""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from scripts.support.issuer import AUDIENCE
from scripts.support.tls import Authority

LIES = ("mute", "silent", "drip", "flood", "redirect", "nonsense", "reset")
_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class LyingIssuer:
    """`how`: `mute` says nothing below TLS, `silent` nothing above it, `drip` a byte a second, `flood` a gigabyte,
    `redirect` to the clouds' metadata address, `nonsense` no JSON, `reset` cuts the connection."""

    def __init__(self, authority: Authority, how: str) -> None:
        self.how = how
        self.asked = 0
        self.sent = 0
        pair = authority.server(f"lying-{how}-{secrets.token_hex(4)}", hosts=("localhost", "127.0.0.1"))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._over = threading.Event()
        self._open: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def token(self, subject: str, *groups: str) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "groups": list(groups)}
        claims |= {"iat": now, "nbf": now, "exp": now + 3600, "jti": secrets.token_hex(8)}
        return jwt.encode(claims, _KEY, algorithm="RS256", headers={"kid": secrets.token_hex(4)})

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        self.asked += 1
        with suppress(OSError):  # the gateway has given up: what it did then is what tests look at
            if self.how == "mute":
                self._over.wait()
                return
            with self._context.wrap_socket(raw, server_side=True) as connection:
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                self._answer(connection)

    def _answer(self, connection: ssl.SSLSocket) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        if self.how == "silent":
            self._over.wait()
        elif self.how == "drip":
            connection.sendall(head + b"content-length: 1000\r\n\r\n{")
            while not self._over.wait(1.0):
                connection.sendall(b" ")
        elif self.how == "flood":
            connection.sendall(head + b"content-length: 1000000000\r\n\r\n{")
            while self.sent < 1_000_000_000 and not self._over.is_set():
                connection.sendall(b" " * 65536)
                self.sent += 65536
        elif self.how == "redirect":
            connection.sendall(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/meta-data/\r\n\r\n")
        elif self.how == "nonsense":
            connection.sendall(head + b"content-length: 9\r\n\r\n<html/>\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts
        for one in (self._socket, *self._open):
            one.close()
        self._thread.join(5)
