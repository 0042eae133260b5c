"""A real HTTP server for tests: h1 (and TLS), answers by path, remembers every request byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from scripts.support.tls import Authority

PEOPLE = [
    {"id": 1, "name": "Ada", "email": "ada@example.org", "card": "4111 1111 1111 1111"},
    {"id": 2, "name": "Bob", "email": "bob@example.org", "card": "5500 0000 0000 0004"},
]


class Seen:
    """One request as the server got it."""

    def __init__(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class HttpServer:
    """`https` with a certificate for `hosts`; port chosen by the system."""

    def __init__(self, authority: Authority | None = None, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> None:
        self.requests: list[Seen] = []
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if authority is not None:
            pair = authority.server(f"http-{id(self)}", hosts=hosts)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self.scheme = "https" if authority is not None else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def url(self, path: str = "/") -> str:
        return f"{self.scheme}://localhost:{self.port}{path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server_owner: HttpServer

    def _read(self) -> bytes:
        if "chunked" in (self.headers.get("transfer-encoding") or ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _serve(self) -> None:
        body = self._read()
        seen = Seen(self.command, self.path, [(k, v) for k, v in self.headers.items()], body)
        self.server_owner.requests.append(seen)
        path = self.path.partition("?")[0]
        if path == "/people":
            self._answer(json.dumps(PEOPLE).encode(), "application/json")
        elif path == "/people.gz":
            self._answer(gzip.compress(json.dumps(PEOPLE).encode()), "application/json", ("content-encoding", "gzip"))
        elif path == "/text":
            self._answer(b"write to ada@example.org or pay with 4111111111111111\n", "text/plain")
        elif path == "/binary":
            self._answer(bytes(range(256)) * 16, "application/octet-stream")
        elif path == "/cookie":
            self._answer(b"{}", "application/json", ("set-cookie", "session=s3cr3t-cookie; HttpOnly"))
        elif path == "/redirect":
            self._answer(b"", "text/plain", ("location", "http://169.254.169.254/latest/"), status=302)
        elif path.startswith("/size/"):
            self._large(int(path.split("/")[2]))
        elif path == "/events":
            self._events()
        elif path == "/zip":
            self._answer(b"PK\x03\x04", "application/zip")
        else:
            told: dict[str, Any] = {"method": self.command, "path": self.path, "body": len(body)}
            told["digest"] = hashlib.sha256(body).hexdigest()
            self._answer(json.dumps(told).encode(), "application/json")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _serve

    def _answer(self, body: bytes, kind: str, *more: tuple[str, str], status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"abc"')
        for name, value in more:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _large(self, size: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(size))
        self.end_headers()
        piece = b"x" * 65536
        while size > 0:
            self.wfile.write(piece[:size])
            size -= len(piece)

    def _events(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(3):
            data = b"data: %d\n\n" % number
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            time.sleep(0.3)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in `requests`."""
