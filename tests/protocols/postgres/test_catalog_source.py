"""The gateway's own connections as transcripts: what is asked, what an upstream may answer, and what ends it."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable
from typing import Any

import pytest

from protocols.contract import CatalogError, CredentialRefused, PeerGone, Refused, UpstreamLogin, WireError
from protocols.postgres import catalog_source
from protocols.postgres.catalog import CATALOG_QUERIES
from protocols.postgres.catalog_source import PostgresCatalogSource
from protocols.postgres.framing import CANCEL_REQUEST, SSL_REQUEST
from tests.support import wire
from tests.support.handshake import NONCE, Credential, Played, play

OK = wire.message("R", b"\0\0\0\0")
GREETING = OK + wire.parameter("server_version", "18.0") + wire.ready()
DONE = wire.message("C", b"SET\0") + wire.ready()


def login(*, tls: bool = False, database: str = "shop") -> UpstreamLogin:
    return UpstreamLogin(Credential("app", "upstream-secret"), database, tls, NONCE, 2.5)


def row(*values: str | None) -> bytes:
    parts = [struct.pack("!i", -1) if v is None else struct.pack("!I", len(v)) + v.encode() for v in values]
    return wire.message("D", struct.pack("!H", len(parts)) + b"".join(parts))


def failed(code: str, text: str) -> bytes:
    return wire.message("E", b"SERROR\0C" + code.encode() + b"\0M" + text.encode() + b"\0\0")


def run(generator: Generator[Any, Any, Any], upstream: Iterable[bytes]) -> Played:
    return play(generator, (), upstream)


def test_a_login_sets_its_own_bounds_on_the_server() -> None:
    played = run(PostgresCatalogSource().log_in(login()), [GREETING, DONE])
    assert played.error is None
    assert b"database\0shop\0" in played.upstream
    assert b"lock_timeout = 2500" in played.upstream
    assert b"default_transaction_read_only = on" in played.upstream
    assert b"user\0app\0" in run(PostgresCatalogSource().log_in(login(database="")), [GREETING, DONE]).upstream


def test_a_login_in_tls() -> None:
    played = run(PostgresCatalogSource().log_in(login(tls=True)), [b"S", GREETING, DONE])
    assert played.names == ["StartTls"]
    assert played.upstream.startswith(wire.request(SSL_REQUEST))
    without = run(PostgresCatalogSource().log_in(login(tls=True)), [b"N", GREETING, DONE])
    assert isinstance(without.error, Refused)
    assert without.upstream == wire.request(SSL_REQUEST)


def test_a_credential_that_is_not_taken_is_told_apart() -> None:
    played = run(PostgresCatalogSource().log_in(login()), [failed("28P01", "no")])
    assert isinstance(played.error, CredentialRefused)


def test_the_version_is_what_the_server_says() -> None:
    played = run(PostgresCatalogSource().version(), [wire.message("T", b"\0\0") + row("1", None), row("2"), DONE])
    assert played.result == "1||2"


def test_an_error_of_the_server_is_a_catalog_error() -> None:
    played = run(PostgresCatalogSource().version(), [failed("57014", "canceling statement"), wire.ready()])
    assert isinstance(played.error, CatalogError)
    assert "57014" in str(played.error)


@pytest.mark.parametrize(
    "lie",
    [
        b"X\0\0\0\4",  # no message of a server
        b"D\0\0\0\2",  # a length that cannot be
        b"D\x7f\xff\xff\xff",  # a row without end
        wire.message("D", struct.pack("!HI", 1, 99) + b"x"),  # a value longer than its row
        DONE + row("more"),  # answers that nobody asked for
        DONE + b"D",
    ],
)
def test_an_upstream_that_lies(lie: bytes) -> None:
    assert isinstance(run(PostgresCatalogSource().version(), [lie]).error, WireError)


def test_an_upstream_that_leaves() -> None:
    assert isinstance(run(PostgresCatalogSource().version(), []).error, PeerGone)
    assert isinstance(run(PostgresCatalogSource().version(), [row("1")]).error, PeerGone)


def test_a_catalog_beyond_all_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_source, "_MAX_BYTES", 1000)
    assert isinstance(run(PostgresCatalogSource().version(), [row("x" * 100)] * 20).error, WireError)


def test_everything_is_read_and_built_later() -> None:
    played = run(PostgresCatalogSource().load(), [DONE] * len(CATALOG_QUERIES))
    assert callable(played.result)
    with pytest.raises((KeyError, ValueError, IndexError)):
        played.result()  # no rows at all are no catalog


def test_a_cancel_request_goes_in_tls_where_the_resource_has_it() -> None:
    """The key must not cross a network in clear."""
    request = struct.pack("!IIII", 16, CANCEL_REQUEST, 99, 7)
    played = run(catalog_source.cancel(login(), 99, b"\0\0\0\7"), [])
    assert (played.error, played.names, played.upstream) == (None, [], request)
    played = run(catalog_source.cancel(login(tls=True), 99, b"\0\0\0\7"), [b"S"])
    assert (played.error, played.names) == (None, ["StartTls"])
    assert played.upstream == wire.request(SSL_REQUEST) + request
    for answer in (b"N", b"E", b"SX"):
        played = run(catalog_source.cancel(login(tls=True), 99, b"\0\0\0\7"), [answer])
        assert isinstance(played.error, Refused)
        assert played.upstream == wire.request(SSL_REQUEST)


def test_a_cancel_request_that_is_answered() -> None:
    assert isinstance(run(catalog_source.cancel(login(), 99, b"\0\0\0\7"), [b"E"]).error, WireError)
