"""The port that Prometheus reads: what it answers, and what it does not let anybody do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from addons.metrics import server
from addons.metrics.server import MetricsServer

TEXT = b"# TYPE up gauge\nup 1.0\n"


def serve(play: Callable[[int], Awaitable[None]], text: Callable[[], bytes] = lambda: TEXT) -> None:
    async def main() -> None:
        metrics = MetricsServer("127.0.0.1", 0, text)
        address = await metrics.start()
        try:
            await asyncio.wait_for(asyncio.ensure_future(play(int(address.rpartition(":")[2]))), 20)
        finally:
            await metrics.stop()
            await asyncio.sleep(0.05)  # the transports close behind our backs

    asyncio.run(main())


async def ask(port: int, request: bytes) -> bytes:
    """Everything that comes back until the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(method: str = "GET", path: str = "/metrics") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name[]=up"])
def test_the_figures_are_read_with_get(path: str) -> None:
    async def play(port: int) -> None:
        head, _, body = (await ask(port, request(path=path))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/plain; version=0.0.4" in head
        assert body == TEXT

    serve(play)


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        (request("HEAD"), 200, b""),
        (request("POST"), 405, b"read it with GET\n"),
        (request("DELETE"), 405, b"read it with GET\n"),
        (request(path="/"), 404, b"there is only /metrics here\n"),
        (request(path="/metrics/../status"), 404, b"there is only /metrics here\n"),
    ],
)
def test_nothing_else_is_there(asked: bytes, status: int, body: bytes) -> None:
    async def play(port: int) -> None:
        head, _, told = (await ask(port, asked)).partition(b"\r\n\r\n")
        assert head.split()[1] == str(status).encode()
        assert told == body

    serve(play)


@pytest.mark.parametrize("rubbish", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET /metrics\r\n\r\n", b"A" * 100_000])
def test_what_is_no_request_ends_the_connection(rubbish: bytes) -> None:
    async def play(port: int) -> None:
        with contextlib.suppress(ConnectionResetError):
            assert await ask(port, rubbish + b"\r\n\r\n") == b""
        assert (await ask(port, request())).endswith(TEXT)

    serve(play)


def test_who_is_slow_is_closed_on_and_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SECONDS", 0.3)

    async def play(port: int) -> None:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(server._CLIENTS)]
        for _, writer in slow:
            writer.write(b"GET /metr")
        await asyncio.sleep(0.05)
        with contextlib.suppress(ConnectionResetError):
            assert await ask(port, request()) == b""  # too many at a time
        for reader, writer in slow:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert (await ask(port, request())).endswith(TEXT)

    serve(play)


def test_figures_that_cannot_be_gathered_are_an_error_and_the_next_scrape_is_its_own() -> None:
    told = [TEXT]

    def text() -> bytes:
        if len(told) == 1:
            told.append(b"")
            raise KeyError("a bug")
        return TEXT

    async def play(port: int) -> None:
        failed = await ask(port, request())
        assert failed.startswith(b"HTTP/1.1 500 ")
        assert b"KeyError" not in failed
        assert (await ask(port, request())).endswith(TEXT)

    serve(play, text)


def test_an_address_that_is_taken_says_which() -> None:
    async def play(port: int) -> None:
        with pytest.raises(OSError, match=f"metrics: 127.0.0.1:{port} did not open: "):
            await MetricsServer("127.0.0.1", port, lambda: TEXT).start()

    serve(play)
