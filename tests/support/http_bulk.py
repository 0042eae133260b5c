"""Bodies of any size whose content depends on the place in them, and a server that takes and gives them.

The server speaks HTTP/1 (plain or TLS) and, where a client offers it, HTTP/2. `PUT` answers with the size and the
SHA-256 of what arrived; `GET /bulk/SIZE` gives that many bytes.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

from scripts.support.tls import Authority

BLOCK = 65536
_LINE = b"words in a row that mean nothing to anybody and hold no number at all\n"
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
_FILL = _LINE * (BLOCK // len(_LINE) + 1)


def pieces(size: int) -> Iterator[bytes]:
    """Text without a digit in it. Each block begins with its number in letters: none is like another."""
    for number in range((size + BLOCK - 1) // BLOCK):
        block = bytes(0x61 + int(c, 16) for c in f"{number:08x}") + b"\n" + _FILL
        yield block[: min(BLOCK, size - number * BLOCK)]


def digest(size: int) -> str:
    found = hashlib.sha256()
    for piece in pieces(size):
        found.update(piece)
    return found.hexdigest()


class BulkServer:
    """Threads in this process; port chosen by the system. `received` and `sent` count bytes of bodies, whole or not."""

    def __init__(self, authority: Authority | None = None, *, http2: bool = True, window: int = 1 << 20) -> None:
        self.window = window  # of HTTP/2 streams
        self.received = self.sent = 0
        self.reads = threading.Event()  # cleared: bodies are left unread
        self.reads.set()
        self.versions: list[str] = []
        self._context: ssl.SSLContext | None = None
        if authority is not None:
            pair = authority.server(f"bulk-{id(self)}", hosts=("localhost", "127.0.0.1"))
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(pair.certificate, pair.key)
            self._context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.scheme = "http" if authority is None else "https"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"{self.scheme}://localhost:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(60)
        try:
            connection = raw if self._context is None else self._context.wrap_socket(raw, server_side=True)
            with connection:
                if isinstance(connection, ssl.SSLSocket) and connection.selected_alpn_protocol() == "h2":
                    _Http2(self, connection).run()
                else:
                    with connection.makefile("rb", BLOCK) as reader:
                        while self._exchange(connection, reader):
                            pass
        except (OSError, ValueError):
            raw.close()  # the other side has left: tests look at what it got

    def _exchange(self, connection: socket.socket, reader: BufferedReader) -> bool:
        start = reader.readline().decode().split()
        if len(start) != 3:
            return False
        headers = {}
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        self.versions.append("1.1")
        if start[0] == "GET":
            size = int(start[1].rpartition("/")[2])
            connection.sendall(_OK % (b"text/plain", size))
            for piece in pieces(size):
                connection.sendall(piece)
                self.sent += len(piece)
            return True
        got = hashlib.sha256()
        size = 0
        for piece in _body(reader, headers):
            got.update(piece)
            size += len(piece)
            self.received += len(piece)
            self.reads.wait(60)
        body = json.dumps({"bytes": size, "sha256": got.hexdigest()}).encode()
        connection.sendall(_OK % (b"application/json", len(body)))
        connection.sendall(body)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts
        self._socket.close()
        self._thread.join(5)


def _body(reader: BufferedReader, headers: dict[str, str]) -> Iterator[bytes]:
    if headers.get("transfer-encoding") == "chunked":
        while left := int(reader.readline().split(b";")[0], 16):
            yield from _exactly(reader, left)
            reader.readline()
        reader.readline()
    else:
        yield from _exactly(reader, int(headers.get("content-length", "0")))


def _exactly(reader: BufferedReader, left: int) -> Iterator[bytes]:
    while left:
        piece = reader.read1(min(left, BLOCK))
        if not piece:
            raise ConnectionError("the body ends too early")
        left -= len(piece)
        yield piece


class _Http2:
    """One connection; its streams one after the other."""

    def __init__(self, owner: BulkServer, connection: socket.socket) -> None:
        self._owner = owner
        self._socket = connection
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._bodies: dict[int, tuple[Any, int]] = {}
        self._paths: dict[int, tuple[str, str]] = {}
        self._open = True

    def run(self) -> None:
        self._h2.local_settings.initial_window_size = self._owner.window
        self._h2.local_settings.acknowledge()  # otherwise the old value is what is sent
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(self._owner.window)
        self._send()
        while self._open:
            self._read()

    def _send(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _read(self) -> None:
        data = self._socket.recv(BLOCK)
        if not data:
            self._open = False
            return
        ended = []
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._owner.versions.append("2")
                fields: dict[str, str] = dict(event.headers)  # type: ignore[arg-type]  # text, as configured
                self._paths[event.stream_id] = (fields[":method"], fields[":path"])
                self._bodies[event.stream_id] = (hashlib.sha256(), 0)
            elif isinstance(event, h2.events.DataReceived):
                got, size = self._bodies[event.stream_id]
                got.update(event.data)
                self._owner.received += len(event.data)
                self._bodies[event.stream_id] = (got, size + len(event.data))
                self._owner.reads.wait(60)
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                ended.append(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self._open = False
        self._send()
        for stream in ended:
            self._answer(stream)

    def _answer(self, stream: int) -> None:
        method, path = self._paths.pop(stream)
        got, size = self._bodies.pop(stream)
        told = json.dumps({"bytes": size, "sha256": got.hexdigest()}).encode()
        length = int(path.rpartition("/")[2]) if method == "GET" else len(told)
        self._h2.send_headers(stream, [(":status", "200"), ("content-length", str(length))])
        for piece in pieces(length) if method == "GET" else (told,):
            while piece:
                while not (window := min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)):
                    self._send()
                    self._read()
                    if not self._open:
                        return
                self._h2.send_data(stream, piece[:window])
                self._owner.sent += len(piece[:window])
                piece = piece[window:]
            self._send()
        self._h2.end_stream(stream)
        self._send()
