"""The two ends of the HTTP benchmark, each a process of its own: a server that answers at once, and a driver.

`serve` answers `/` with 200 bytes of JSON, `/large` with 10 MB, `/people` with JSON that masks apply to. `load` keeps
so many connections busy for so long and prints one JSON object: requests, seconds, latencies in microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from typing import Any

import uvloop

LARGE = 10_000_000
_PERSON = b'{"id": 1, "name": "somebody", "email": "someone@example.org", "note": "%s"},' % (b"x" * 400)
_BODIES = {
    b"/": json.dumps({"status": "ok", "text": "x" * 160}).encode(),
    b"/large": b"\n".join([b"a line of text that means nothing to anybody, and has no number in it"] * (LARGE // 70)),
    b"/people": b"[" + _PERSON * (LARGE // len(_PERSON)) + b"{}]",
}
_ANSWERS = {
    path: b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    for path, body in _BODIES.items()
}


class _Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            self._transport.write(_ANSWERS.get(path, _ANSWERS[b"/"]))


class _Client(asyncio.Protocol):
    """Sends the request again as soon as its answer is whole."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: Any = None
        self._left = -1
        self._head = b""
        self._tail = b""
        self.tunnel: asyncio.Future[None] | None = None  # waited for: the proxy's answer to CONNECT
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._load.connect and self.tunnel is None:
            self.tunnel = asyncio.get_running_loop().create_future()
            self._transport.write(self._load.connect)
        else:
            self._ask()

    def _connected(self, data: bytes) -> None:
        """What the proxy says; TLS begins when it has let us through."""
        assert self.tunnel is not None
        self._head += data
        if b"\r\n\r\n" in self._head:
            head, self._head = self._head, b""
            if b" 200 " not in head[:15]:
                self._load.failed = head[:200].decode("latin-1")
                self._transport.abort()
            self.tunnel.set_result(None)

    def _ask(self) -> None:
        if not self._load.new:
            self._began = time.perf_counter()
        self._transport.write(self._load.request)

    def begin(self, at: float) -> None:
        self._began = at

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None and not self.tunnel.done():
            self._connected(data)
            return
        if self._left < 0:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            lower = head.lower()
            if b" 200 " not in head[:15]:
                self._load.failed = head[:200].decode("latin-1")
                self._transport.abort()
                return
            self._chunked = b"transfer-encoding: chunked" in lower
            size = 0
            if not self._chunked:
                size = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self._left = size
            data = rest
        if self._chunked:
            self._load.bytes += len(data)
            self._tail = (self._tail + data)[-7:]  # the end may come in two pieces
            if self._tail != b"\r\n0\r\n\r\n":
                return
            self._tail = b""
        else:
            self._load.bytes += len(data)
            self._left -= len(data)
            if self._left > 0:
                return
        self._left = -1
        now = time.perf_counter()
        self._load.latencies.append(now - self._began)
        if now >= self._load.until or self._load.new:
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.tunnel is not None and not self.tunnel.done():
            self.tunnel.set_result(None)
        if not self.done.done():
            self.done.set_result(None)


class _Load:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.new: bool = options.new
        self.until = 0.0
        self.latencies: list[float] = []
        self.bytes = 0
        self.failed = ""
        headers = "".join(f"{header}\r\n" for header in options.header)
        close = "Connection: close\r\n" if self.new else ""
        target, self.connect = options.path, b""
        if options.proxy:
            auth = f"Proxy-Authorization: Bearer {options.proxy}\r\n"
            if options.ca:
                start = f"CONNECT {options.authority} HTTP/1.1\r\nHost: {options.authority}\r\n"
                self.connect = f"{start}{auth}\r\n".encode()
            else:
                target, headers = f"http://{options.authority}{target}", headers + auth
        self.request = f"GET {target} HTTP/1.1\r\nHost: {options.authority}\r\n{headers}{close}\r\n".encode()
        self.tls = ssl.create_default_context(cafile=options.ca) if options.ca else None

    async def run(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.until = began + self.options.seconds
        await asyncio.gather(*(self._one() for _ in range(self.options.clients)))
        seconds = time.perf_counter() - began
        if self.failed or not self.latencies:
            return {"error": self.failed or "no answers"}
        ordered = sorted(self.latencies)
        micros = [round(1e6 * ordered[min(len(ordered) - 1, int(len(ordered) * p))]) for p in (0.5, 0.99)]
        found = {"requests": len(ordered), "seconds": seconds, "p50_us": micros[0], "p99_us": micros[1]}
        return {**found, "mb": self.bytes / 1e6}

    async def _one(self) -> None:
        loop = asyncio.get_running_loop()
        while time.perf_counter() < self.until and not self.failed:
            client = _Client(self)
            client.begin(time.perf_counter())
            tls = None if self.connect else self.tls
            name = "localhost" if tls else None
            try:
                transport, _ = await loop.create_connection(
                    lambda made=client: made, "127.0.0.1", self.options.port, ssl=tls, server_hostname=name
                )
                if client.tunnel is not None:
                    await client.tunnel
                    if self.failed:
                        return
                    assert self.tls is not None
                    inner = await loop.start_tls(transport, client, self.tls, server_hostname="localhost")
                    assert inner is not None
                    client.connection_made(inner)
            except OSError as e:
                self.failed = f"cannot connect: {e}"
                return
            await client.done


async def _serve(options: argparse.Namespace) -> None:
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    server = await asyncio.get_running_loop().create_server(
        _Server, "127.0.0.1", options.port, ssl=context, backlog=1024
    )
    async with server:
        await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve = verbs.add_parser("serve")
    serve.add_argument("port", type=int)
    serve.add_argument("--certificate")
    serve.add_argument("--key")
    load = verbs.add_parser("load")
    load.add_argument("port", type=int)
    load.add_argument("--path", default="/")
    load.add_argument("--authority", required=True)
    load.add_argument("--header", action="append", default=[])
    load.add_argument("--clients", type=int, default=1)
    load.add_argument("--seconds", type=float, default=1.0)
    load.add_argument("--new", action="store_true")
    load.add_argument("--ca", default="")
    load.add_argument("--proxy", default="", help="`port` is a forward proxy's; this is the token for it")
    options = parser.parse_args()
    if options.verb == "serve":
        uvloop.run(_serve(options))
        return 0
    found = uvloop.run(_Load(options).run())
    print(json.dumps(found))
    return 1 if "error" in found else 0


if __name__ == "__main__":
    sys.exit(main())
