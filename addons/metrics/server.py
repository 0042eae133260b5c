"""The port that Prometheus reads: HTTP/1.1, GET /metrics, nothing else. Whoever can reach it may read it.

INVARIANT: bounded in clients, bytes and seconds; what goes wrong here ends a scrape and nothing besides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import h11
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

log = logging.getLogger("sluicegate.metrics")

_CLIENTS = 8  # at a time; further ones are closed on
_SECONDS = 5.0  # for one request and its answer
_HEAD = 8192  # bytes
_PATH = "/metrics"


class MetricsServer:
    """`start` once. `text` gives the figures."""

    def __init__(self, host: str, port: int, text: Callable[[], bytes]) -> None:
        self._host, self._port = host, port
        self._text = text
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> str:
        """-> the address that it listens on. Raises OSError."""
        try:
            self._server = await asyncio.start_server(self._client, self._host, self._port, limit=_HEAD)
        except OSError as e:
            raise OSError(f"metrics: {self._host}:{self._port} did not open: {e.strerror or e}") from e
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._clients >= _CLIENTS:
                return
            self._clients += 1
            try:
                async with asyncio.timeout(_SECONDS):
                    await self._answer(reader, writer)
            finally:
                self._clients -= 1
        except (OSError, TimeoutError, h11.RemoteProtocolError) as e:
            log.info("a scrape failed: %s", e or type(e).__name__)
            writer.transport.abort()  # what it does not read is not kept for it
        except Exception:
            log.exception("a scrape failed")
            writer.transport.abort()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await reader.read(_HEAD))
        if not isinstance(event, h11.Request):
            return  # it left
        status, body = self._body(event.method, event.target.partition(b"?")[0])
        kind = CONTENT_TYPE_PLAIN_0_0_4 if status == 200 else "text/plain; charset=utf-8"
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        if status == 405:
            headers.append(("Allow", "GET, HEAD"))
        writer.write(http.send(h11.Response(status_code=status, headers=headers)) or b"")
        if event.method != b"HEAD":
            writer.write(http.send(h11.Data(data=body)) or b"")
        await writer.drain()

    def _body(self, method: bytes, path: bytes) -> tuple[int, bytes]:
        if path != _PATH.encode():
            return 404, f"there is only {_PATH} here\n".encode()
        if method not in (b"GET", b"HEAD"):
            return 405, b"read it with GET\n"
        try:
            return 200, self._text()
        except Exception:
            log.exception("the figures could not be gathered")
            return 500, b"the figures could not be gathered; the gateway's log says why\n"
