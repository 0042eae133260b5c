"""SCRAM-SHA-256 as the client: the published example, a server of our own, and servers that lie."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.postgres.errors import ProtocolError
from protocols.postgres.scram import MAX_ITERATIONS, SCRAM, SCRAM_PLUS, ScramClient, md5_password

NONCE = b"\1" * 18


class Server:
    """RFC 5802, the other side, written from the RFC."""

    def __init__(self, password: bytes, binding: bytes | None = None, rounds: int = 64) -> None:
        self.salt, self.rounds, self.binding = b"salt" * 4, rounds, binding
        self.salted = hashlib.pbkdf2_hmac("sha256", password, self.salt, rounds)

    def first(self, message: bytes) -> bytes:
        header, _, self.bare = message.decode().partition(",,")
        self.header = f"{header},,".encode()
        self.nonce = self.bare.split("r=")[1] + "server"
        self.challenge = f"r={self.nonce},s={base64.b64encode(self.salt).decode()},i={self.rounds}"
        return self.challenge.encode()

    def final(self, message: bytes) -> bytes:
        without, _, proof = message.decode().rpartition(",p=")
        bound = base64.b64decode(without.split(",")[0][2:])
        assert bound == self.header + (self.binding or b"")
        signed = f"{self.bare},{self.challenge},{without}".encode()
        stored = hashlib.sha256(hmac.digest(self.salted, b"Client Key", "sha256")).digest()
        signature = hmac.digest(stored, signed, "sha256")
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        assert hashlib.sha256(key).digest() == stored, "the password is wrong"
        server_key = hmac.digest(self.salted, b"Server Key", "sha256")
        return b"v=" + base64.b64encode(hmac.digest(server_key, signed, "sha256"))


def test_the_example_of_rfc_7677() -> None:
    nonce = base64.b64decode("rOprNGfwEbeRWgbNEkqO")
    client = ScramClient("pencil", nonce, None, [SCRAM])
    client._first = "n=user,r=rOprNGfwEbeRWgbNEkqO"  # PostgreSQL ignores the name: ours is empty, the RFC's is not
    final = client.final(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    assert final.endswith(b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize("binding", [None, b"certificate hash"])
@pytest.mark.parametrize("offered", [[SCRAM], [SCRAM, SCRAM_PLUS]])
def test_a_whole_exchange(binding: bytes | None, offered: list[bytes]) -> None:
    client = ScramClient("pässword", NONCE, binding, offered)
    plus = binding is not None and SCRAM_PLUS in offered
    assert client.mechanism == (SCRAM_PLUS if plus else SCRAM)
    server = Server("pässword".encode(), binding if plus else None)
    first = client.first()
    # n: cannot bind. y: could, but the server offers no -PLUS; a server that does will know that somebody cut it out
    assert first.split(b",")[0] == (b"p=tls-server-end-point" if plus else b"n" if binding is None else b"y")
    client.verify(server.final(client.final(server.first(first))))


def test_no_mechanism_that_we_speak() -> None:
    with pytest.raises(ProtocolError):
        ScramClient("x", NONCE, None, [SCRAM_PLUS])
    with pytest.raises(ProtocolError):
        ScramClient("x", NONCE, None, [])


OURS = base64.b64encode(NONCE).decode()


@pytest.mark.parametrize(
    "challenge",
    [
        f"r={OURS},s=c2FsdA==,i=64",  # nothing of the server's in the nonce
        "r=other,s=c2FsdA==,i=64",
        f"r={OURS}x,s=c2FsdA==,i=0",
        f"r={OURS}x,s=c2FsdA==,i=-5",
        f"r={OURS}x,s=c2FsdA==,i={MAX_ITERATIONS + 1}",  # minutes of our time
        f"r={OURS}x,s=!,i=64",
        f"r={OURS}x,s=c2FsdA==",
        f"r={OURS}x,i=64",
        "",
        "\xff",
        "m=ext",
    ],
)
def test_challenges_that_are_refused(challenge: str) -> None:
    client = ScramClient("x", NONCE, None, [SCRAM])
    client.first()
    with pytest.raises(ProtocolError):
        client.final(challenge.encode())


@pytest.mark.parametrize("final", [b"v=", b"v=AAAA", b"e=invalid-proof", b"", b"v=" + base64.b64encode(b"\0" * 32)])
def test_a_server_that_does_not_know_the_password(final: bytes) -> None:
    client = ScramClient("x", NONCE, None, [SCRAM])
    client.first()
    client.final(f"r={OURS}x,s=c2FsdA==,i=64".encode())
    with pytest.raises(ProtocolError):
        client.verify(final)


def test_the_end_cannot_come_before_the_middle() -> None:
    client = ScramClient("x", NONCE, None, [SCRAM])
    client.first()
    for final in (b"v=", b"v=" + base64.b64encode(b"")):
        with pytest.raises(ProtocolError):
            client.verify(final)


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_arbitrary_challenges_raise_only_our_error(data: bytes) -> None:
    client = ScramClient("x", NONCE, None, [SCRAM])
    client.first()
    with pytest.raises(ProtocolError):
        client.final(data)


def test_md5() -> None:
    """As PostgreSQL's documentation has it: md5(md5(password || user) || salt)."""
    inner = hashlib.md5(b"secret" + b"ada").hexdigest().encode()
    assert md5_password("ada", "secret", b"salt") == b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode()
