"""The gateway's own HTTP calls against real servers that lie, hang, drip and redirect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from guard.outbound import OutboundError, check_url, is_loopback, request


def exchange(answer: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]], **options):
    """One request to a real server that answers so; returns (response, what the server received)."""
    received: list[bytes] = []

    async def serve(reader, writer):
        received.append(await reader.readuntil(b"\r\n\r\n"))
        length = next(
            (int(line[15:]) for line in received[-1].split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        received[-1] += await reader.readexactly(length)
        try:
            if callable(answer):
                await answer(writer)
            else:
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass  # the client left in the middle: that is what some tests are about
        finally:
            writer.close()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{options.pop('path', '/')}"
            return await request(options.pop("method", "GET"), url, **options), received

    return asyncio.run(run())


def test_a_get_and_a_post():
    response, received = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok", path="/p?q=1")
    assert (response.status, response.body, response.headers["x-a"]) == (200, b"ok", "b")
    assert received[0].startswith(b"GET /p?q=1 HTTP/1.1\r\n")
    _, received = exchange(b"HTTP/1.1 204 No Content\r\n\r\n", method="POST", body=b"hello", headers={"X-K": "v"})
    assert received[0].endswith(b"\r\n\r\nhello")
    assert b"X-K: v" in received[0]


def test_chunked_and_until_close_bodies():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert exchange(chunked)[0].body == b"abc"
    assert exchange(b"HTTP/1.1 200 OK\r\n\r\nabc")[0].body == b"abc"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "understand"),
        (b"garbage\r\n\r\n", "understand"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "understand"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "understand"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "understand"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"y" * 2_000_000, "more than"),
    ],
)
def test_broken_answers_are_errors(answer, why):
    with pytest.raises(OutboundError, match=why):
        exchange(answer)


def test_the_deadline_covers_the_whole_answer():
    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    with pytest.raises(OutboundError, match=r"did not answer within 0\.2 s"):
        exchange(drip, timeout=0.2)


def test_redirects_stay_on_their_host_and_are_never_followed_unasked():
    elsewhere = b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/keys\r\nContent-Length: 0\r\n\r\n"
    assert exchange(elsewhere)[0].status == 302
    with pytest.raises(OutboundError, match="another host"):
        exchange(elsewhere, follow=True)
    loop = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(OutboundError, match="circle"):
        exchange(loop, follow=True)
    with pytest.raises(OutboundError, match="https"):
        exchange(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", follow=True)


def test_a_header_that_cannot_be_sent_is_not_quoted():
    with pytest.raises(OutboundError) as caught:
        exchange(b"", headers={"X-Vault-Token": "s3cret\r\nX: y"})
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_listens():
    with pytest.raises(OutboundError, match="cannot reach"):
        asyncio.run(request("GET", "http://127.0.0.1:1/"))


def test_a_ca_file_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    for name in ("bad.pem", "missing.pem"):
        with pytest.raises(OutboundError, match="ca file"):
            asyncio.run(request("GET", "https://127.0.0.1:1/", ca=tmp_path / name))


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example/",
        "ftp://idp.example/",
        "https://",
        "idp.example",
        "https://user:pw@idp.example/",
        "https://idp.example:99999/",
        "https://idp.example/a b",
        "https://idp.example/ä",
        "https://[::1/",
        "http://\x9b2Jevil/",
        "https://u@\x1bcevil/",
        "https://\x1bc\u2100.example/",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
    ],
)
def test_urls_that_are_not_called(url):
    with pytest.raises(OutboundError) as caught:
        check_url(url)
    assert "pw" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_loopback_is_a_literal():
    assert [is_loopback(host) for host in ("localhost", "127.9.9.9", "::1", "10.0.0.1", "localhost.x")] == [
        True,
        True,
        True,
        False,
        False,
    ]
