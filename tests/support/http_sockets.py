"""A WebSocket echo server, and a client that speaks frames by hand through the gateway's proxy."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from typing import Any, Self

from wsproto.frame_protocol import FrameProtocol, Opcode

from tests.support.http_raw import RawServer, ok

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accepted(head: bytes) -> bytes:
    """The answer that accepts an upgrade to WebSocket."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    key = next(value.strip() for name, _, value in lines if name.lower() == b"sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-accept: " + accept + b"\r\n\r\n"
    )


def echo(connection: socket.socket, head: bytes) -> None:
    """Accepts any upgrade to WebSocket under /ws and /text; says back each message whole. Else answers `{}`."""
    lines = head.split(b"\r\n")
    path = lines[0].split()[1]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if path.startswith(b"/ws/redirect"):
        connection.sendall(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/ws\r\ncontent-length: 0\r\n\r\n")
        return
    if path.startswith(b"/ws/other"):
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\nraw")
        return
    if path.startswith(b"/ws/refused") or headers.get(b"upgrade", b"").lower() != b"websocket":
        connection.sendall(ok(b'{"upgraded": false}'))
        return
    connection.sendall(accepted(head))
    frames = FrameProtocol(client=False, extensions=[])
    parts: list[Any] = []
    while data := connection.recv(65536):
        frames.receive_bytes(data)
        for frame in frames.received_frames():
            if frame.opcode is Opcode.PING:
                connection.sendall(frames.pong(bytes(frame.payload)))
            elif frame.opcode is Opcode.CLOSE:
                connection.sendall(frames.close(*frame.payload))
                connection.close()
                return
            elif frame.opcode is not Opcode.PONG:
                parts.append(frame.payload)
                if frame.message_finished:
                    whole = "".join(parts) if isinstance(parts[0], str) else b"".join(map(bytes, parts))
                    parts = []
                    connection.sendall(frames.send_data(whole, fin=True))


class Socket:
    """A client: CONNECT through the proxy, then the upgrade. `head` is the upstream's answer to it."""

    def __init__(self, proxy_port: int, token: str, server: RawServer, path: str, *headers: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", proxy_port), timeout=10)
        self._connection.sendall(
            f"CONNECT localhost:{server.port} HTTP/1.1\r\nProxy-Authorization: Bearer {token}\r\n\r\n".encode()
        )
        self.connected = self._until(b"\r\n\r\n")
        lines = [f"GET {path} HTTP/1.1", f"Host: localhost:{server.port}", "Connection: Upgrade", "Upgrade: websocket"]
        lines += [f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13"]
        self._connection.sendall("\r\n".join([*lines, *headers, "", ""]).encode())
        self.head = self._until(b"\r\n\r\n")
        self.frames = FrameProtocol(client=True, extensions=[])

    def _until(self, end: bytes) -> bytes:
        got = b""
        while end not in got:
            piece = self._connection.recv(1)
            if not piece:
                break
            got += piece
        return got

    def send(self, raw: bytes) -> None:
        self._connection.sendall(raw)

    def receive(self) -> Any:
        """The payload of the next frame; None: the connection is closed."""
        while True:
            for frame in self.frames.received_frames():
                return frame.payload
            try:
                data = self._connection.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self.frames.receive_bytes(data)

    def timeout(self, seconds: float) -> None:
        self._connection.settimeout(seconds)

    def raw(self) -> bytes:
        return self._connection.recv(65536)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()
