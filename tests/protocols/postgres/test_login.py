"""The upstream's side of a login: every way to authenticate, and upstreams that cannot be trusted."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import Credential, CredentialRefused, PeerGone, Refused, TlsFacts
from protocols.postgres import login
from protocols.postgres.errors import ProtocolError
from protocols.postgres.scram import md5_password
from tests.support import wire
from tests.support.handshake import NONCE, Played, play

OK = wire.message("R", b"\0\0\0\0")
REST = wire.parameter("TimeZone", "UTC") + wire.message("K", b"\0\0\0\x07" + b"key!") + wire.ready()
TLS = TlsFacts("TLSv1.3", None, b"hash of the certificate")


def ask(code: int, body: bytes = b"") -> bytes:
    return wire.message("R", struct.pack("!I", code) + body)


def log_in(*upstream: bytes, password: str = "secret", tls: TlsFacts | None = None) -> Played:
    credential = Credential("app", password)
    return play(login.log_in(credential, {"user": "app", "database": "shop"}, tls, NONCE), [], upstream)


def passwords(played: Played) -> list[bytes]:
    size = struct.unpack("!I", played.upstream[:4])[0]
    return [body for kind, body in wire.split(played.upstream[size:]) if kind == "p"]


def test_trust() -> None:
    played = log_in(OK + REST)
    assert (played.result.pid, played.result.secret) == (7, b"key!")
    assert [chr(k) for k, _ in played.result.greeting] == ["S", "Z"]
    assert passwords(played) == []


def test_in_pieces_and_with_bytes_behind_it() -> None:
    data = OK + REST
    played = log_in(*(data[i : i + 1] for i in range(len(data))))
    assert played.result.pid == 7
    assert log_in(data + wire.notice("hello")).result.rest == wire.notice("hello")


def test_cleartext_and_md5() -> None:
    assert passwords(log_in(ask(3), OK + REST)) == [b"secret\0"]
    assert passwords(log_in(ask(5, b"salt"), OK + REST)) == [md5_password("app", "secret", b"salt") + b"\0"]


@pytest.mark.parametrize("code", [3, 5, 10])
def test_without_a_password_none_is_sent(code: int) -> None:
    played = log_in(ask(code, b"salt" if code == 5 else b"SCRAM-SHA-256\0\0"), OK + REST, password="")
    assert isinstance(played.error, Refused)
    assert passwords(played) == []


def test_scram_binds_to_the_certificate_where_it_can() -> None:
    both = ask(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    assert passwords(log_in(both, tls=TLS))[0].startswith(b"SCRAM-SHA-256-PLUS\0")
    assert passwords(log_in(both))[0].startswith(b"SCRAM-SHA-256\0")
    # a man in the middle that cuts -PLUS out is told that we could have
    assert b"y,," in passwords(log_in(ask(10, b"SCRAM-SHA-256\0\0"), tls=TLS))[0]


def test_an_upstream_that_skips_the_end_of_scram_is_not_believed() -> None:
    scram = ask(10, b"SCRAM-SHA-256\0\0")
    assert isinstance(log_in(scram, OK + REST).error, ProtocolError)
    assert isinstance(log_in(scram, ask(12, b"v=AAAA") + OK + REST).error, ProtocolError)


@pytest.mark.parametrize(
    "data",
    [
        wire.ready(),
        REST,
        OK + OK + REST,
        OK + wire.row(b"1"),
        ask(7),
        ask(11, b"r=x"),
        ask(12, b"v=x"),
        ask(5, b"sal"),
        ask(10, b"GS2-KRB5\0\0"),
        b"HTTP/1.1 400 Bad Request\r\n",
        b"R\xff\xff\xff\xff",
        wire.message("N", b"x" * 100_000),
        OK + wire.parameter("x", "y" * 60_000) * 40,
        OK + wire.message("v", b"\0" * 8),
    ],
    ids=range(14),
)
def test_upstreams_that_do_not_log_in(data: bytes) -> None:
    played = log_in(data, data)
    assert isinstance(played.error, (ProtocolError, Refused, PeerGone))
    assert played.result is None


@pytest.mark.parametrize(
    ("code", "told"), [("53300", "too many"), ("57P03", "starting up"), ("3D000", "does not exist")]
)
def test_what_a_client_may_know_of_a_failed_login(code: str, told: str) -> None:
    error = log_in(wire.error(code, f"it is {told}")).error
    assert isinstance(error, Refused)
    assert (error.code, told in str(error)) == (code, True)


@pytest.mark.parametrize("code", ["28P01", "28000", "XX000"])
def test_what_names_the_gateways_own_credential_is_for_its_log(code: str) -> None:
    error = log_in(wire.error(code, 'password authentication failed for user "app"')).error
    assert isinstance(error, Refused)
    assert "app" not in str(error)
    assert "app" in str(error.__cause__)
    assert isinstance(error, CredentialRefused) == code.startswith("28")


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60) | st.sampled_from([OK, REST, ask(3), ask(5, b"salt")]), max_size=5))
def test_arbitrary_bytes_raise_only_what_is_expected(parts: list[bytes]) -> None:
    played = log_in(*parts)
    assert played.error is None or isinstance(played.error, (ProtocolError, Refused, PeerGone))
