"""An upstream that says exactly what a test wants, and remembers every byte that it got."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Self


class RawServer:
    """`answer(connection, head)` runs for each head that has arrived whole; it may send anything, and close."""

    def __init__(self, answer: Callable[[socket.socket, bytes], None]) -> None:
        self._answer = answer
        self.received = b""
        self.connections = 0
        self._open: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, path: str = "/") -> str:
        return f"http://localhost:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        try:
            while piece := connection.recv(65536):
                self.received += piece
                buffer += piece
                while b"\r\n\r\n" in buffer:
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    self._answer(connection, head)
        except OSError:
            return  # closed, by either side: tests look at what was received

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts
        for one in (self._socket, *self._open):
            one.close()
        self._thread.join(1)


def ok(body: bytes = b"{}", *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "content-type: application/json", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def talk(port: int, *pieces: bytes, timeout: float = 5.0, until: bytes = b"") -> bytes:
    """Sends the pieces and reads until the peer closes, is silent for `timeout`, or has said `until`."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.settimeout(timeout)
            while piece := connection.recv(65536):
                answer += piece
                if until and until in answer:
                    break
        except (TimeoutError, ConnectionError):
            pass  # what came until then is the answer
        return answer
