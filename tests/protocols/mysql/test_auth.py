"""What the authentication plugins compute."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.mysql import auth
from protocols.mysql.ed25519 import sign
from protocols.mysql.errors import ProtocolError
from tests.support.examples import examples

SCRAMBLE = b'r+yB|j"bM9rU28beSR~G'


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def small() -> auth.ServerKey:
    """Smaller than the gateway's own: it is there at once."""
    return auth.ServerKey(2048)


@settings(deadline=None, max_examples=examples(30))
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_signatures_are_those_of_the_standard(seed: bytes, message: bytes) -> None:
    """With a password of 32 bytes it is Ed25519 itself, so that another implementation can judge."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    assert sign(seed, message) == key.sign(message)


@settings(deadline=None, max_examples=examples(30))
@given(st.binary(max_size=80))
def test_a_password_of_any_length_signs(password: bytes) -> None:
    assert len(auth.ed25519(password, bytes(32))) == 64


def test_hashes_are_those_that_servers_check() -> None:
    """Computed with PyMySQL's functions, for `secret` and the scramble above."""
    from pymysql import _auth  # type: ignore[import-untyped]

    assert auth.native_password(b"secret", SCRAMBLE) == _auth.scramble_native_password(b"secret", SCRAMBLE)
    assert auth.caching_sha2(b"secret", SCRAMBLE) == _auth.scramble_caching_sha2(b"secret", SCRAMBLE)


def test_an_empty_password_has_no_hash() -> None:
    assert auth.native_password(b"", SCRAMBLE) == auth.caching_sha2(b"", SCRAMBLE) == b""


@given(st.binary(min_size=1, max_size=64))
def test_a_challenge_has_no_nul(nonce: bytes) -> None:
    scramble = auth.scramble_of(nonce)
    assert len(scramble) == 20
    assert all(0 < b < 128 for b in scramble)


@settings(deadline=None, max_examples=examples(30))
@given(st.binary(max_size=200).filter(lambda b: b"\0" not in b))
def test_what_a_client_encrypts_is_read(small: auth.ServerKey, token: bytes) -> None:
    """`encrypt` is the client's part: the gateway plays it towards its upstreams."""
    secret = auth.encrypt(token, SCRAMBLE, small.pem())
    assert len(secret) == small.size
    assert small.decrypt(secret, SCRAMBLE) == token + b"\0"


@settings(deadline=None, max_examples=examples(30))
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_not_decrypted(small: auth.ServerKey, data: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not decrypt"):
        small.decrypt(data, SCRAMBLE)


@pytest.mark.parametrize("data", [b"", b"\0", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_key_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        auth.encrypt(b"secret", SCRAMBLE, data)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_no_key(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        auth.encrypt(b"secret", SCRAMBLE, b"-----BEGIN PUBLIC KEY-----\n" + data + b"\n-----END PUBLIC KEY-----\n")


def test_a_key_too_weak_or_of_another_kind() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for key in (weak, other):
        with pytest.raises(ProtocolError, match="no RSA key of at least 2048 bits"):
            auth.encrypt(b"secret", SCRAMBLE, pem(key))


def test_a_password_longer_than_the_key_takes(small: auth.ServerKey) -> None:
    with pytest.raises(ProtocolError, match="too long"):
        auth.encrypt(b"x" * 300, SCRAMBLE, small.pem())


def test_a_key_that_could_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth.ServerKey, "_make", lambda self: None)
    with pytest.raises(ProtocolError, match="could not make its key"):
        auth.ServerKey(2048).pem()


def test_the_key_of_the_process_takes_a_token() -> None:
    key = auth.server_key()
    assert key is auth.server_key()
    token = b"t" * 469
    assert key.decrypt(auth.encrypt(token, SCRAMBLE, key.pem()), SCRAMBLE) == token + b"\0"
