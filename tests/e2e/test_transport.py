"""The ways in: TLS as the listener wants it, certificates of the gateway's own authority, and the two launchers."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq

from scripts.support.gateway import Gateway
from scripts.support.issuer import Issuer
from scripts.support.lab import DEFAULT_POLICY, Lab
from scripts.support.postgres import Installation, PostgresServer
from scripts.support.tls import Authority

pytestmark = pytest.mark.e2e

SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSS_REQUEST = struct.pack("!II", 8, 80877104)


def minted(config: dict[str, Any]) -> None:
    """Let the gateway make its own certificate."""
    config["listeners"][0]["tls"] = {"mode": "required"}


@pytest.fixture(scope="module")
def served() -> Iterator[Lab]:
    """The production entry, TLS required, with the gateway's own authority."""
    with Lab(tls="required", launcher="serve", adjust=minted) as running:
        yield running


def ask(lab: Lab, data: bytes) -> tuple[socket.socket, bytes]:
    raw = socket.create_connection((lab.gateway.host, lab.gateway.port), timeout=10)
    raw.sendall(data)
    return raw, raw.recv(1)


def rest(connection: socket.socket) -> bytes:
    """All bytes until the other side closes; a silent one runs into the socket's timeout."""
    received = b""
    while data := connection.recv(4096):
        received += data
    return received


def test_the_gateways_own_authority_verifies(served: Lab) -> None:
    dsn = served.dsn("analyst", sslrootcert=str(served.gateway.minted_ca))
    with psycopg.connect(dsn) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT count(*) FROM customers").fetchone() == (240,)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(served.dsn("analyst")).close()  # another authority


@pytest.mark.skipif(pq.version() < 170000, reason="direct TLS came with libpq 17")
def test_direct_tls(served: Lab) -> None:
    dsn = served.dsn("analyst", sslrootcert=str(served.gateway.minted_ca), sslnegotiation="direct")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_direct_tls_needs_the_protocols_name(served: Lab) -> None:
    """Without ALPN the bytes could have been meant for another protocol; PostgreSQL refuses, and so do we."""
    context = ssl.create_default_context(cafile=served.gateway.minted_ca)
    startup = struct.pack("!II", 23, 196608) + b"user\x00mallory\x00\x00"
    with socket.create_connection((served.gateway.host, served.gateway.port), timeout=10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped:
                wrapped.sendall(startup)
                answer = rest(wrapped)
        except (ssl.SSLError, ConnectionError):
            return
    assert not answer.startswith(b"R")  # no authentication request
    assert answer == b"" or b"FATAL" in answer


def test_plaintext_is_refused_where_tls_is_required(served: Lab) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(served.dsn("analyst", sslmode="disable")).close()
    assert "FATAL" in str(caught.value)
    assert served.tokens["analyst"] not in str(caught.value)


def test_attack_5_bytes_stuffed_behind_the_ssl_request_end_the_connection(served: Lab) -> None:
    startup = struct.pack("!II", 23, 196608) + b"user\x00mallory\x00\x00"
    raw, first = ask(served, SSL_REQUEST + startup)
    with raw:
        assert first in (b"", b"E")  # closed, or told why and closed; TLS is never begun
        rest(raw)


def test_attack_6_gss_encryption_is_refused(served: Lab) -> None:
    raw, answer = ask(served, GSS_REQUEST)
    with raw:
        assert answer == b"N"
        raw.sendall(SSL_REQUEST)
        assert raw.recv(1) == b"S"  # and TLS may follow on the same connection


@pytest.mark.parametrize(
    "head", [b"\x00\x00\x00\x04", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\x00\x03\x00\x00", b"GET / H"]
)
def test_attack_2_nonsense_ends_one_connection_only(served: Lab, head: bytes) -> None:
    raw, _ = ask(served, head)
    with raw:
        try:
            while raw.recv(4096):
                pass
        except ConnectionError:
            pass
    dsn = served.dsn("analyst", sslrootcert=str(served.gateway.minted_ca))
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scram-sha-256", "md5", "password", "trust"])
def test_the_gateway_logs_in_with_what_the_server_asks(
    installation: Installation, authority: Authority, issuer: Issuer, method: str, tmp_path: Path
) -> None:
    upstream = authority if installation.tls else None
    with (
        PostgresServer(installation, method=method, authority=upstream, tls_only=upstream is not None) as server,
        Gateway(tmp_path, server, [issuer], [DEFAULT_POLICY], authority) as gateway,
        psycopg.connect(gateway.dsn("admin", issuer.token("admin", ["platform"]))) as connection,
    ):
        row = connection.execute(
            "SELECT current_user::text, (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())"
        ).fetchone()
        assert row == ("postgres", installation.tls)


@pytest.mark.slow
def test_the_gateway_logs_in_with_a_certificate(
    tls_installation: Installation, authority: Authority, issuer: Issuer, tmp_path: Path
) -> None:
    pair = authority.client("postgres")

    def with_certificate(config: dict[str, Any]) -> None:
        resource = config["resources"][0]
        resource["tls"] |= {"certificate": str(pair.certificate), "key": str(pair.key)}
        resource["credential"] = {"user": "postgres", "provider": "none"}

    with (
        PostgresServer(tls_installation, method="cert", authority=authority) as server,
        Gateway(tmp_path, server, [issuer], [DEFAULT_POLICY], authority, adjust=with_certificate) as gateway,
        psycopg.connect(gateway.dsn("admin", issuer.token("admin", ["platform"]))) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_an_upstream_of_another_authority_is_not_trusted(
    tls_installation: Installation, authority: Authority, issuer: Issuer, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")

    def trust_the_stranger(config: dict[str, Any]) -> None:
        config["resources"][0]["tls"]["ca"] = str(stranger.file)

    with (
        PostgresServer(tls_installation, authority=authority) as server,
        Gateway(tmp_path, server, [issuer], [DEFAULT_POLICY], authority, adjust=trust_the_stranger) as gateway,
    ):
        with pytest.raises(psycopg.OperationalError, match="FATAL") as caught:
            psycopg.connect(gateway.dsn("admin", issuer.token("admin", ["platform"]))).close()
        assert server.password not in gateway.log.read_text() + str(caught.value)
