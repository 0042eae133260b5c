"""MySQL from the first byte to the session: TLS in every way a client can ask for it, on both legs."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from scripts.support import mysql
from scripts.support.gateway import LISTENER, Gateway
from scripts.support.issuer import Issuer
from scripts.support.lab import DEFAULT_POLICY, Lab
from scripts.support.mysql import MySQLServer
from scripts.support.tls import Authority

pytestmark = pytest.mark.e2e

AUTH_TIMEOUT = 3.0
SSL_FLAG = 0x0800
CAPABILITIES = 0x000FA68D & ~SSL_FLAG  # what PyMySQL asks for: protocol 4.1, plugins, no compression


def _listeners(document: dict[str, Any]) -> None:
    """One listener for each mode, and one whose certificate the gateway mints."""
    required = document["listeners"][0]
    for name, tls in (
        ("optional", {**required["tls"], "mode": "optional"}),
        ("off", {"mode": "off"}),
        ("minted", {"mode": "required"}),
    ):
        document["listeners"].append({**required, "name": name, "tls": tls})
    document["limits"] = {"auth_timeout": AUTH_TIMEOUT}


@pytest.fixture(scope="module")
def lab(mysql_installation: mysql.Installation) -> Iterator[Lab]:
    with Lab(installation=mysql_installation, adjust=_listeners) as running:
        yield running


def enter(lab: Lab, listener: str, **options: Any) -> pymysql.Connection:
    host, port = lab.gateway.listeners[listener]
    return pymysql.connect(host=host, port=port, user="me", password=lab.tokens["admin"], database="shop", **options)


def verified(lab: Lab, listener: str) -> dict[str, Any]:
    ca = lab.gateway.minted_ca if listener == "minted" else lab.authority.file
    return {"ssl": {"ca": str(ca), "check_hostname": True}}


class Raw:
    """The bytes of a connection, cut into packets."""

    def __init__(self, lab: Lab, listener: str) -> None:
        self.socket: Any = socket.create_connection(lab.gateway.listeners[listener], 20)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError(data)
            data += part
        return data

    def read(self) -> tuple[int, bytes]:
        """The next packet: its sequence number and payload."""
        head = self.exactly(4)
        return head[3], self.exactly(int.from_bytes(head[:3], "little"))

    def gone(self) -> bool:
        """Everything that comes until the end is read; nothing but the end is waited for."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65536):
                pass
        return True


def packet(number: int, payload: bytes) -> bytes:
    return struct.pack("<I", len(payload))[:3] + bytes((number,)) + payload


def ssl_request() -> bytes:
    return packet(1, struct.pack("<IIB23x", CAPABILITIES | SSL_FLAG, 1 << 24, 45))


def response(plugin: bytes, answer: bytes) -> bytes:
    body = struct.pack("<IIB23x", CAPABILITIES, 1 << 24, 45) + b"me\0"
    return packet(1, body + bytes((len(answer),)) + answer + b"shop\0" + plugin + b"\0")


def server_capabilities(greeting: bytes) -> int:
    at = greeting.index(b"\0") + 1 + 4 + 8 + 1
    return int(struct.unpack_from("<H", greeting, at)[0] | struct.unpack_from("<H", greeting, at + 5)[0] << 16)


# ---------------------------------------------------------------- who may speak in the clear


@pytest.mark.parametrize("listener", [LISTENER, "optional", "minted"])
def test_a_client_gets_tls_and_can_verify_it(lab: Lab, listener: str) -> None:
    with contextlib.closing(enter(lab, listener, **verified(lab, listener))) as connection:
        assert connection._sock.version().startswith("TLSv1.")
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


def test_no_token_is_asked_for_in_the_clear_where_tls_is_required(lab: Lab) -> None:
    with Raw(lab, LISTENER) as client:
        number, greeting = client.read()
        assert (number, greeting[0]) == (0, 10)
        assert server_capabilities(greeting) & SSL_FLAG
        client.socket.sendall(response(b"caching_sha2_password", b"x" * 32))
        number, error = client.read()
        assert (number, error[0]) == (2, 0xFF)
        assert b"this listener requires TLS" in error
        assert client.gone()


def test_a_token_that_does_not_fit_a_key_is_not_taken_in_the_clear(lab: Lab) -> None:
    """Where TLS is optional a token travels in TLS, or encrypted: a client that sends it bare has burnt it."""
    with Raw(lab, "optional") as client:
        client.read()
        client.socket.sendall(response(b"caching_sha2_password", b"x" * 32))
        _, full = client.read()
        assert full == b"\x01\x04"
        client.socket.sendall(packet(3, lab.tokens["admin"].encode() + b"\0"))
        _, error = client.read()
        assert error[0] == 0xFF
        assert b"revoked" in error
        assert lab.tokens["admin"].encode() not in error


def test_a_listener_without_tls_does_not_offer_it(lab: Lab) -> None:
    with Raw(lab, "off") as client:
        _, greeting = client.read()
        assert not server_capabilities(greeting) & SSL_FLAG
        client.socket.sendall(ssl_request())
        _, error = client.read()
        assert error[0] == 0xFF
        assert client.gone()


# ---------------------------------------------------------------- attack rows 2, 5 and 6


def test_row_5_bytes_behind_the_request_for_tls_end_the_connection(lab: Lab) -> None:
    for stuffed in (b"\x03SELECT 1", response(b"mysql_clear_password", b"secret"), b"\0"):
        with Raw(lab, LISTENER) as client:
            client.read()
            client.socket.sendall(ssl_request() + stuffed)
            assert client.gone()


def test_the_client_hello_may_come_with_the_request(lab: Lab) -> None:
    context = ssl.create_default_context(cafile=str(lab.authority.file))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with Raw(lab, LISTENER) as client:
        client.read()
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.socket.sendall(ssl_request() + outgoing.read())
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(client.socket.recv(65536))
        assert (tls.version() or "").startswith("TLSv1.")


@pytest.mark.parametrize("flag", [0x20, 0x4000000], ids=["compress", "zstd"])
def test_row_6_what_makes_bytes_opaque_is_not_offered_and_not_taken(lab: Lab, flag: int) -> None:
    with Raw(lab, "off") as client:
        _, greeting = client.read()
        assert not server_capabilities(greeting) & flag
        body = struct.pack("<IIB23x", CAPABILITIES | flag, 1 << 24, 45) + b"me\0\0" + b"shop\0mysql_clear_password\0"
        client.socket.sendall(packet(1, body))
        _, error = client.read()
        assert error[0] == 0xFF
        assert client.gone()


def test_row_2_lies_about_lengths_and_order_end_their_connection_only(lab: Lab) -> None:
    lies = (b"\xff\xff\xff\x01", packet(7, b"\0" * 40), b"\0\0\0\x01", packet(1, b"\x85\xa6"), packet(1, b"\xff" * 300))
    with contextlib.closing(enter(lab, LISTENER, **verified(lab, LISTENER))) as witness:
        for lie in lies:
            with Raw(lab, LISTENER) as client:
                client.read()
                client.socket.sendall(lie)
                client.socket.shutdown(socket.SHUT_WR)
                assert client.gone()
        with witness.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


@pytest.mark.slow
def test_who_says_nothing_is_sent_away(lab: Lab) -> None:
    with Raw(lab, LISTENER) as client:
        client.read()
        started = time.monotonic()
        assert client.gone()
        assert time.monotonic() - started > AUTH_TIMEOUT / 2


# ---------------------------------------------------------------- the gateway's own login


@pytest.mark.slow
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_the_gateway_logs_in_with_every_plugin(
    mysql_installation: mysql.Installation, issuer: Issuer, authority: Authority, tmp_path: Any, tls: bool
) -> None:
    """Without TLS upstream the password is still never in the clear: RSA, or a scramble."""
    token = issuer.token("admin", ["platform"])

    def adjust(document: dict[str, Any]) -> None:
        document["resources"][0]["credential"]["user"] = user
        if not tls:
            document["resources"][0]["tls"] = {"mode": "off"}

    with MySQLServer(mysql_installation, authority=authority) as server:
        server.load_sample()
        assert set(server.logins) >= {server.method}
        for plugin, (user, password) in server.logins.items():
            env = {"SHOP_DB_PASSWORD": password}
            with Gateway(
                tmp_path / plugin, server, [issuer], [DEFAULT_POLICY], authority, adjust=adjust, env=env
            ) as gateway:
                connection = pymysql.connect(
                    host=gateway.host,
                    port=gateway.port,
                    user="me",
                    password=token,
                    database="shop",
                    ssl={"ca": str(authority.file)},
                )
                with contextlib.closing(connection), connection.cursor() as cursor:
                    cursor.execute("SELECT current_user(), (SELECT count(*) FROM orders)")
                    assert cursor.fetchone() == (f"{user}@%", 720)
                assert password.encode() not in gateway.log.read_bytes()
