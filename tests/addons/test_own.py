"""Connections of the gateway's own, on real sockets: whatever happens to one closes it, and never hangs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from addons import catalog_client
from addons.catalog_client import CatalogClient, CatalogError, fetch_dsn, new_login
from addons.own import OwnConnection
from protocols.contract import (
    CatalogSnapshot,
    Connect,
    Credential,
    CredentialRefused,
    PeerGone,
    Receive,
    Refused,
    Send,
    Side,
    StartTls,
    WireError,
)
from protocols.registry import PROTOCOLS

BOUND = 0.3  # seconds: waited for only where something must not answer

type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
type Work = Generator[Any, Any, Any]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def gone(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def ask(*questions: bytes) -> Work:
    answers = []
    for question in questions:
        yield Send(Side.UPSTREAM, question)
        answers.append((yield Receive(Side.UPSTREAM)))
    return answers


def one(asked: Any) -> Work:
    return (yield asked)


def with_server(serve: Serve, work: Callable[[OwnConnection], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        own = OwnConnection(None, "127.0.0.1")
        async with server:
            await own.open("127.0.0.1", server.sockets[0].getsockname()[1], 5)
            try:
                return await work(own)
            finally:
                own.close()
                await asyncio.sleep(0.01)

    return asyncio.run(run())


def test_questions_and_answers() -> None:
    async def work(own: OwnConnection) -> None:
        assert await own.run(ask(b"a", b"b"), 5) == [b"a", b"b"]
        assert await own.run(ask(b"c"), 5) == [b"c"]
        assert not own.closed

    with_server(echo, work)


@pytest.mark.parametrize("each", [False, True])
def test_an_upstream_that_does_not_answer(each: bool) -> None:
    async def work(own: OwnConnection) -> None:
        with pytest.raises(TimeoutError):
            await own.run(ask(b"a"), BOUND, each=each)
        assert own.closed

    with_server(silent, work)


def test_each_question_has_its_own_time() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            await asyncio.sleep(BOUND / 2)
            writer.write(data)
        writer.close()

    async def work(own: OwnConnection) -> None:
        assert len(await own.run(ask(*[b"a"] * 4), BOUND, each=True)) == 4
        with pytest.raises(TimeoutError):
            await own.run(ask(*[b"a"] * 4), BOUND)

    with_server(slow, work)


def test_the_end_of_the_stream_is_thrown_into_the_generator() -> None:
    def wait() -> Work:
        try:
            yield Receive(Side.UPSTREAM)
        except PeerGone:
            return "it knows"

    async def work(own: OwnConnection) -> None:
        assert await own.run(wait(), 5) == "it knows"
        with pytest.raises(PeerGone):
            await own.run(ask(b"a"), 5)
        assert own.closed

    with_server(gone, work)


@pytest.mark.parametrize(
    "asked", [Receive(Side.CLIENT), Send(Side.CLIENT, b"x"), Connect(), StartTls(Side.UPSTREAM), 7]
)
def test_it_has_no_client_and_no_tls_that_was_not_configured(asked: Any) -> None:
    async def work(own: OwnConnection) -> None:
        with pytest.raises(TypeError):
            await own.run(one(asked), 5)
        assert own.closed

    with_server(echo, work)


def test_nobody_listens() -> None:
    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        own = OwnConnection(None, "127.0.0.1")
        with pytest.raises(OSError, match="Connect call failed"):
            await own.open("127.0.0.1", port, 5)
        assert own.closed
        own.close()

    asyncio.run(run())


# ---------------------------------------------------------------- the catalog client


class Source:
    """A catalog source that speaks in single bytes, and does wrong what a test wants."""

    def __init__(self, wrong: Exception | None = None, built: Exception | None = None) -> None:
        self.wrong = wrong
        self.built = built

    def log_in(self, login: Any) -> Work:
        yield from ask(b"l")

    def version(self) -> Work:
        yield from ask(b"v")
        if self.wrong is not None:
            raise self.wrong
        return "1"

    def load(self) -> Work:
        yield from ask(b"a", b"b")

        def build() -> CatalogSnapshot:
            if self.built is not None:
                raise self.built
            return self  # type: ignore[return-value]  # it is only handed on

        return build


def client_of(source: Any, work: Callable[[CatalogClient], Awaitable[None]], serve: Serve = echo) -> None:
    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = CatalogClient(source, None, "127.0.0.1")
        async with server:
            login = new_login(Credential("app"), "shop", False, BOUND)
            try:
                await client.connect("127.0.0.1", server.sockets[0].getsockname()[1], login)
                await work(client)
            finally:
                client.close()
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_catalog_is_read() -> None:
    async def work(client: CatalogClient) -> None:
        assert await client.version() == "1"
        assert await client.load() is source
        assert not client.closed

    source = Source()
    client_of(source, work)


@pytest.mark.parametrize("wrong", [CatalogError("57014"), WireError("a lie"), ValueError("a bug"), Refused("no")])
def test_any_failure_is_a_catalog_error_and_ends_the_connection(wrong: Exception) -> None:
    async def work(client: CatalogClient) -> None:
        with pytest.raises(CatalogError):
            await client.version()
        assert client.closed

    client_of(Source(wrong), work)


def test_rows_that_make_no_sense() -> None:
    async def work(client: CatalogClient) -> None:
        with pytest.raises(CatalogError, match="cannot be understood: KeyError"):
            await client.load()

    client_of(Source(built=KeyError("relations")), work)


@pytest.mark.parametrize("serve", [silent, gone])
def test_a_login_that_fails(serve: Serve) -> None:
    async def work(_client: CatalogClient) -> None:
        raise AssertionError("it is connected")

    with pytest.raises(CatalogError, match="the metadata connection failed"):
        client_of(Source(), work, serve)


def test_a_credential_that_is_refused_is_told_apart() -> None:
    class Refusing(Source):
        def log_in(self, login: Any) -> Work:
            yield from ask(b"l")
            raise CredentialRefused("not taken", "28000")

    async def work(_client: CatalogClient) -> None:
        raise AssertionError("it is connected")

    with pytest.raises(CredentialRefused):
        client_of(Refusing(), work)


# ---------------------------------------------------------------- DSNs


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("redis://u@h/d", "SCHEME one of"),
        ("shop", "SCHEME one of"),
        ("postgresql://u@[::1/d", "cannot be read"),
        ("postgresql://u@h:99999/d", "cannot be used"),
        ("postgresql://u@h/d?sslmode=verify-ful", "no TLS mode"),
        ("postgresql://u@h/d?sslmode=verify-full&sslrootcert=/nowhere.pem", "cannot be used"),
        ("postgresql://u@h/d?port=x", "cannot be used"),
        ("postgresql://u@/d?host=/proc", "0 sockets"),
        ("postgresql://u@/d?host=/nowhere/at/all", "the metadata connection failed"),
    ],
)
def test_dsns_that_cannot_be_used(dsn: str, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        asyncio.run(fetch_dsn(dsn, BOUND))


def test_every_protocol_has_its_dsn() -> None:
    schemes = [scheme for protocol in PROTOCOLS.values() for scheme in protocol.dsn_schemes]
    assert len(schemes) == len(set(schemes))
    assert all(protocol.dsn_schemes for protocol in PROTOCOLS.values())
    for protocol in PROTOCOLS.values():
        for scheme in protocol.dsn_schemes:
            assert catalog_client._protocol(f"{scheme}://u@h/d")[0] is protocol


def test_both_families_words_for_tls() -> None:
    for word in ("sslmode", "ssl-mode"):
        assert catalog_client._mode({word: "REQUIRED"}) == "require"
        assert catalog_client._mode({word: "disable"}) == "off"
    assert catalog_client._mode({}) == "prefer"
    full = catalog_client._context({}, catalog_client._mode({"ssl-mode": "VERIFY_IDENTITY"}))
    assert full.check_hostname
    chain = catalog_client._context({}, catalog_client._mode({"sslmode": "verify-ca"}))
    assert (chain.check_hostname, chain.verify_mode.name) == (False, "CERT_REQUIRED")


@pytest.mark.parametrize(
    ("query", "asked"), [("", [True, False]), ("?sslmode=require", [True]), ("?sslmode=disable", [False])]
)
def test_without_a_word_tls_is_asked_for_first(query: str, asked: list[bool]) -> None:
    seen: list[bool] = []

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A server without TLS, which ends every login."""
        first = await reader.readexactly(8)
        seen.append(first == bytes.fromhex("0000000804d2162f"))
        writer.write(b"N" if seen[-1] else b"")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(refuses, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(CatalogError):
                await fetch_dsn(f"postgresql://u:p@127.0.0.1:{port}/d{query}", 5)

    asyncio.run(run())
    assert seen == asked


def test_a_folder_with_the_socket_of_that_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def run() -> None:
        server = await asyncio.start_unix_server(gone, ".s.PGSQL.5432")
        async with server:
            assert catalog_client._socket(str(tmp_path), 5432) == os.path.join(tmp_path, ".s.PGSQL.5432")
            assert catalog_client._socket("/run/mysqld.sock", 3306) == "/run/mysqld.sock"

    asyncio.run(run())
