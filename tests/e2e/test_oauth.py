"""Tokens, as a password and with SASL OAUTHBEARER (RFC 7628): what opens a session, and what is refused, on record."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization

from scripts.support.gateway import LISTENER
from scripts.support.issuer import Issuer
from scripts.support.lab import Lab
from tests.support import bytewise as raw
from tests.support import wire
from tests.support.bytewise import Raw, connect

pytestmark = pytest.mark.e2e

OAUTH = "oauth"
NO_TOKEN = b"n,,\x01auth=\x01\x01"


def _listeners(document: dict[str, Any]) -> None:
    first = document["listeners"][0]
    document["listeners"].append({**first, "name": OAUTH, "client_auth": "oauth", "tls": dict(first["tls"])})


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(tls="optional", adjust=_listeners) as running:
        yield running


@pytest.fixture
def client(lab: Lab) -> Iterator[Raw]:
    """Asked for OAUTHBEARER."""
    with connect(lab.gateway.listeners[OAUTH]) as made:
        made.startup(application_name="raw oauth")
        assert made.message() == ("R", struct.pack("!I", 10) + b"OAUTHBEARER\0\0")
        yield made


def initial(message: bytes, mechanism: bytes = b"OAUTHBEARER", size: int | None = None) -> bytes:
    """A SASLInitialResponse."""
    length = len(message) if size is None else size
    return wire.message("p", mechanism + b"\0" + struct.pack("!i", length) + message)


def bearer(token: str, header: bytes = b"n,,", more: bytes = b"") -> bytes:
    return header + b"\x01" + more + b"auth=Bearer " + token.encode() + b"\x01\x01"


def journal(lab: Lab) -> list[dict[str, Any]]:
    """The records so far."""
    done = lab.gateway.cli("journal", "dump", str(lab.gateway.state_dir / "journal"), "--json")
    assert done.returncode == 0, done.stderr
    return [record.get("record", record) for line in done.stdout.splitlines() for record in [json.loads(line)]]


# ---------------------------------------------------------------- OAUTHBEARER, byte by byte


def test_a_token_opens_a_session(lab: Lab, client: Raw) -> None:
    client.send(initial(bearer(lab.tokens["analyst"])))
    client.greeting()
    assert client.query("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize(
    "message",
    [
        lambda token: bearer(token, header=b"y,,"),
        lambda token: bearer(token, more=b"host=db.internal\x01port=5432\x01"),
        lambda token: b"n,,\x01auth=bearer " + token.encode() + b"\x01\x01",
        lambda token: b"n,,\x01auth=BEARER   " + token.encode() + b"\x01\x01",
    ],
    ids=["channel binding known", "more pairs", "lower case", "blanks"],
)
def test_what_the_grammar_allows(lab: Lab, client: Raw, message: Any) -> None:
    client.send(initial(message(lab.tokens["analyst"])))
    client.greeting()


def test_the_token_may_come_after_an_empty_challenge(lab: Lab, client: Raw) -> None:
    client.send(initial(b"", size=-1))
    assert client.message() == ("R", struct.pack("!I", 11))
    client.send(wire.message("p", bearer(lab.tokens["analyst"])))
    client.greeting()


def test_without_a_token_the_client_learns_where_to_get_one(lab: Lab, client: Raw) -> None:
    client.send(initial(NO_TOKEN))
    kind, body = client.message()
    assert (kind, body[:4]) == ("R", struct.pack("!I", 11))
    assert json.loads(body[4:]) == {
        "status": "invalid_token",
        "openid-configuration": f"{lab.issuer.url}/.well-known/openid-configuration",
        "scope": "openid",
    }
    client.send(wire.message("p", b"\x01"))
    error = client.error()
    assert (error["S"], error["C"]) == ("FATAL", "28000")


@pytest.mark.parametrize("answer", [b"", b"\x01\x01", b"n,,\x01auth=Bearer x\x01\x01"])
def test_after_the_discovery_nothing_but_the_end_is_accepted(lab: Lab, client: Raw, answer: bytes) -> None:
    client.send(initial(NO_TOKEN))
    client.message()
    client.send(wire.message("p", answer))
    assert client.error()["C"] == "08P01"


@pytest.mark.parametrize(
    "message",
    [
        initial(b"n,,\x01auth=Bearer x\x01\x01", mechanism=b"SCRAM-SHA-256"),
        initial(b"n,,\x01auth=Bearer x\x01\x01", mechanism=b""),
        initial(b"n,,\x01auth=Bearer x\x01\x01", size=3),
        initial(b"n,,\x01auth=Bearer x\x01\x01", size=-1),
        initial(b"n,,\x01auth=Bearer x\x01\x01", size=-2),
        initial(b"n,,\x01auth=Bearer x\x01\x01", size=1 << 30),
        initial(b""),
        initial(b"p=tls-server-end-point,,\x01auth=Bearer x\x01\x01"),
        initial(b"n,a=admin,\x01auth=Bearer x\x01\x01"),
        initial(b"n\x01auth=Bearer x\x01\x01"),
        initial(b"n,,auth=Bearer x\x01\x01"),
        initial(b"n,,\x01auth=Bearer x\x01"),
        initial(b"n,,\x01auth=Bearer x"),
        initial(b"n,,\x01auth Bearer x\x01\x01"),
        initial(b"n,,\x01auth=Basic YWRtaW46YWRtaW4=\x01\x01"),
        initial(b"n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01"),
        wire.message("p", b"OAUTHBEARER"),
        wire.message("p", b"OAUTHBEARER\0"),
        wire.message("p", wire.text("a-password")),
        wire.query("SELECT 1"),
    ],
    ids=[
        "another mechanism",
        "no mechanism",
        "a size too small",
        "no size with a message",
        "a negative size",
        "a size too large",
        "nothing",
        "channel binding",
        "an identity beside the token",
        "half a header",
        "no separator",
        "one end",
        "no end",
        "no pair",
        "another scheme",
        "two tokens",
        "no end of the mechanism",
        "no size",
        "a password",
        "a query",
    ],
)
def test_a_malformed_message_ends_it(client: Raw, message: bytes) -> None:
    client.send(message)
    assert client.error()["C"] == "08P01"


# ---------------------------------------------------------------- OAUTHBEARER with libpq


class _Request(ctypes.Structure):
    """`PGoauthBearerRequest` of libpq 18 (documentation, section 32.20.3)."""

    _fields_ = (
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("async_", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    )


_BEARER_TOKEN = 1  # PQAUTHDATA_OAUTH_BEARER_TOKEN
_Hook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@contextlib.contextmanager
def libpq_with_token(token: str) -> Iterator[list[tuple[bytes, bytes]]]:
    """libpq asks an application for tokens through a hook: ours has one. Yields (discovery document, scope) asked for.

    The device flow itself is in a module of its own (`libpq-oauth`), which no wheel carries.
    """
    library = next(Path(psycopg.__file__).parents[1].glob("psycopg_binary.libs/libpq-*.so*"), None)
    if library is None or psycopg.pq.version() < 180000:
        pytest.skip("OAUTHBEARER needs libpq 18: install psycopg[binary] 3.3 or newer")
    libpq = ctypes.CDLL(str(library))
    asked: list[tuple[bytes, bytes]] = []
    secret = ctypes.create_string_buffer(token.encode())

    def hook(kind: int, _connection: int | None, data: int | None) -> int:
        if kind != _BEARER_TOKEN or data is None:
            return 0
        request = ctypes.cast(data, ctypes.POINTER(_Request)).contents
        asked.append((request.openid_configuration, request.scope))
        request.token = ctypes.cast(secret, ctypes.c_char_p)
        return 1

    kept = _Hook(hook)
    libpq.PQgetAuthDataHook.restype = ctypes.c_void_p
    libpq.PQsetAuthDataHook.argtypes = [ctypes.c_void_p]
    before = libpq.PQgetAuthDataHook()
    libpq.PQsetAuthDataHook(ctypes.cast(kept, ctypes.c_void_p))
    try:
        yield asked
    finally:
        libpq.PQsetAuthDataHook(before)


def dsn(lab: Lab, **parameters: str) -> str:
    host, port = lab.gateway.listeners[OAUTH]
    usual = {
        "host": host,
        "port": str(port),
        "user": "analyst",
        "dbname": "shop",
        "sslmode": "verify-full",
        "sslrootcert": str(lab.authority.file),
        "oauth_issuer": lab.issuer.url,
        "oauth_client_id": "psql",
    }
    return " ".join(f"{k}={v}" for k, v in {**usual, **parameters}.items())


def test_libpq_discovers_the_issuer_and_logs_in(lab: Lab) -> None:
    discovery = f"{lab.issuer.url}/.well-known/openid-configuration".encode()
    with libpq_with_token(lab.tokens["analyst"]) as asked:
        with psycopg.connect(dsn(lab)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert connection.pgconn.ssl_in_use
        with psycopg.connect(dsn(lab, require_auth="oauth")) as connection:
            assert connection.execute("SELECT 2").fetchone() == (2,)
    assert asked == [(discovery, b"openid")] * 2


def test_libpq_does_not_trust_another_issuer(lab: Lab) -> None:
    """The gateway names one issuer, the client was told of another: its token goes nowhere."""
    with (
        libpq_with_token(lab.tokens["analyst"]) as asked,
        pytest.raises(psycopg.OperationalError, match="is incompatible with oauth_issuer"),
    ):
        psycopg.connect(dsn(lab, oauth_issuer="https://idp.example")).close()
    assert asked == []


def test_libpq_with_a_token_that_is_refused(lab: Lab) -> None:
    expired = lab.issuer.token("analyst", ["analysts"], ttl=-60)
    with libpq_with_token(expired), pytest.raises(psycopg.OperationalError, match="token expired") as caught:
        psycopg.connect(dsn(lab)).close()
    assert expired not in str(caught.value)


def test_libpq_with_a_password_gets_no_further(lab: Lab) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(
            dsn(lab, password=lab.tokens["analyst"], require_auth="password", oauth_issuer="https://x.example")
        ).close()


# ---------------------------------------------------------------- tokens that open nothing


def _part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _with_pem_as_secret(issuer: Issuer) -> str:
    """The classic confusion: the public key, which everybody knows, as the secret of an HMAC."""
    kid, key = issuer._keys["RS256"]
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = issuer.token("admin", ["platform"]).split(".")[1]
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{body}"
    return f"{signed}.{_part(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def _unsigned(issuer: Issuer, algorithm: str) -> str:
    body = issuer.token("admin", ["platform"]).split(".")[1]
    return f"{_part({'alg': algorithm, 'typ': 'JWT'})}.{body}."


def _changed(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{_part({**claims, 'sub': 'admin', 'groups': ['platform']})}.{signature}"


def bad_tokens(lab: Lab, stranger: Issuer) -> dict[str, str]:
    issuer = lab.issuer
    return {
        "garbage": "garbage-" + "x" * 40,
        "something like a token": "aaaaaaaaaaaa.bbbbbbbbbbbb.cccccccccccc",
        "other characters": "pä" + "ß" * 20,
        "expired": issuer.token("admin", ["platform"], ttl=-60),
        "for another audience": issuer.token("admin", ["platform"], aud="elsewhere"),
        "of another issuer": stranger.token("admin", ["platform"]),
        "attack 29: an unknown kid": issuer.token("admin", ["platform"], headers={"kid": "unheard-of"}),
        "attack 29: a kid that is a path": issuer.token("admin", ["platform"], headers={"kid": "../../dev/null"}),
        "attack 29: another issuer's key": stranger.token("admin", ["platform"], iss=issuer.url),
        "attack 29: the PEM as HMAC secret": _with_pem_as_secret(issuer),
        "attack 29: no signature": _unsigned(issuer, "none"),
        "attack 29: nOnE": _unsigned(issuer, "nOnE"),
        "attack 29: a key of its own": issuer.token(
            "admin", ["platform"], headers={"jku": "https://evil.example/jwks"}
        )[:-8]
        + "AAAAAAAA",
        "changed after signing": _changed(lab.tokens["agent"]),
    }


@pytest.mark.parametrize("way", ["password", "oauth"])
def test_attack_29_what_is_no_good_token_is_refused_and_recorded_and_written_nowhere(lab: Lab, way: str) -> None:
    with Issuer(lab.authority) as stranger:
        tokens = bad_tokens(lab, stranger)
        before = len([r for r in journal(lab) if r["t"] == "session.refused"])
        upstream = len(lab.server.logged())
        for what, token in tokens.items():
            with connect(lab.gateway.listeners[OAUTH if way == "oauth" else LISTENER]) as client:
                client.startup(user="admin", application_name="forger")
                client.message()
                client.send(initial(bearer(token)) if way == "oauth" else wire.message("p", wire.text(token)))
                error = client.error()
            assert (error["S"], error["C"]) == ("FATAL", "28P01"), what
            assert error["M"].startswith("authentication failed: t"), what
            assert token not in error["M"], what
    refused = [r for r in journal(lab) if r["t"] == "session.refused"][before:]
    assert [r["claimed_user"] for r in refused] == ["admin"] * len(tokens)
    assert {(r["application"], r["resource"], r["client"]) for r in refused} == {("forger", "shop", "127.0.0.1")}
    assert all(r["why"] for r in refused)
    logins = [entry for entry in lab.server.logged()[upstream:] if "connection authorized" in entry.text]
    assert [entry for entry in logins if "sluicegate catalog" not in entry.text] == []
    for token in [*tokens.values(), *lab.tokens.values()]:
        for path in lab.gateway.folder.rglob("*"):
            if path.is_file():
                assert token.encode() not in path.read_bytes(), path


def test_a_refusal_before_any_token_is_on_record_too(lab: Lab) -> None:
    with connect(lab.gateway.listeners[LISTENER]) as client:
        client.startup(replication="true")
        client.error()
    last = [r for r in journal(lab) if r["t"] == "session.refused"][-1]
    assert "`replication`" in last["why"]
    assert (last["listener"], last["claimed_user"]) == (LISTENER, "")


def test_the_token_as_password_needs_no_further_change(lab: Lab) -> None:
    """psql's own way to hold a password: the environment."""
    with connect(lab.gateway.listeners[LISTENER]) as client:
        client.tls(raw.context(lab.authority.file))
        client.log_in(lab.tokens["analyst"], user="whoever")
        assert client.query("SELECT count(*) > 0 FROM customers") == [[b"t"]]
