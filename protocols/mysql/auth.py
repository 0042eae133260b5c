"""What the authentication plugins compute, on both sides of the gateway.

Towards clients only `caching_sha2_password` is spoken, always to its full exchange, whose secret is the token itself:
inside TLS as it is, else encrypted with a key of this process (RSA, OAEP). Towards upstreams: `mysql_native_password`,
`caching_sha2_password`, `sha256_password`, `client_ed25519`, and `mysql_clear_password` inside TLS.

Source: "Authentication Phase" of the MySQL internals manual; MariaDB's "Authentication plugins".
"""

from __future__ import annotations

import functools
import threading
from hashlib import sha1, sha256
from itertools import cycle

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from protocols.mysql.ed25519 import sign
from protocols.mysql.errors import ProtocolError

CACHING_SHA2 = b"caching_sha2_password"
CLEAR = b"mysql_clear_password"
ED25519 = b"client_ed25519"
NATIVE = b"mysql_native_password"
SHA256 = b"sha256_password"

SCRAMBLE = 20  # bytes of challenge that the hashing plugins use
ED25519_CHALLENGE = 32
MORE_DATA = 0x01  # head of a packet that goes on with the current plugin
FAST_OK = b"\x03"  # caching_sha2_password: the hash was known, OK follows
FULL_AUTH = b"\x04"  # caching_sha2_password: the password itself is wanted
ASK_KEY = b"\x02"  # caching_sha2_password: the client asks for the server's public key
ASK_KEY_SHA256 = b"\x01"  # the same in sha256_password

# A token is longer than a password: 4096 bits of key take one of 469 bytes.
_KEY_BITS = 4096
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303 - the protocol's


def scramble_of(nonce: bytes) -> bytes:
    """20 bytes of challenge without NUL, as both servers make theirs."""
    return bytes(b % 127 + 1 for b in sha256(b"scramble" + nonce).digest()[:SCRAMBLE])


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def native_password(password: bytes, scramble: bytes) -> bytes:
    """20 bytes; empty for an empty password."""
    if not password:
        return b""
    once = sha1(password).digest()  # noqa: S324 - the protocol's
    return _xor(once, sha1(scramble[:SCRAMBLE] + sha1(once).digest()).digest())  # noqa: S324


def caching_sha2(password: bytes, scramble: bytes) -> bytes:
    """32 bytes; empty for an empty password."""
    if not password:
        return b""
    once = sha256(password).digest()
    return _xor(once, sha256(sha256(once).digest() + scramble[:SCRAMBLE]).digest())


def ed25519(password: bytes, challenge: bytes) -> bytes:
    """64 bytes of signature over the server's 32 bytes of challenge."""
    return sign(password, challenge)


def _masked(text: bytes, scramble: bytes) -> bytes:
    """The text combined with the challenge over and over, so that what is encrypted differs each time."""
    return bytes(a ^ b for a, b in zip(text, cycle(scramble[:SCRAMBLE]), strict=False))


def encrypt(password: bytes, scramble: bytes, pem: bytes) -> bytes:
    """The password for a server that gave its public key. Raises `ProtocolError` for a key that cannot be used."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise ProtocolError("the upstream's public key cannot be read") from e
    if not isinstance(key, rsa.RSAPublicKey) or not 2048 <= key.key_size <= 16384:
        raise ProtocolError("the upstream's public key is no RSA key of at least 2048 bits")
    try:
        return key.encrypt(_masked(password + b"\0", scramble), _OAEP)
    except ValueError as e:
        raise ProtocolError("the password is too long for the upstream's public key") from e


class ServerKey:
    """The key with which clients without TLS encrypt their tokens. Made once, in a thread: it takes up to a second."""

    def __init__(self, bits: int = _KEY_BITS) -> None:
        self._bits = bits
        self._key: rsa.RSAPrivateKey | None = None
        # no daemon: an interpreter that ends under a thread in foreign code aborts; so it waits that second
        self._maker = threading.Thread(target=self._make, name="RSA key")
        self._maker.start()

    def _make(self) -> None:
        self._key = rsa.generate_private_key(65537, self._bits)

    def _ready(self) -> rsa.RSAPrivateKey:
        self._maker.join()
        if self._key is None:
            raise ProtocolError("the gateway could not make its key")
        return self._key

    @property
    def size(self) -> int:
        """Bytes of what a client has encrypted."""
        return self._bits // 8

    def pem(self) -> bytes:
        return (
            self._ready()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def decrypt(self, data: bytes, scramble: bytes) -> bytes:
        """What the client encrypted, with the NUL at its end. Raises `ProtocolError`."""
        try:
            return _masked(self._ready().decrypt(data, _OAEP), scramble)
        except ValueError:
            raise ProtocolError("a token that this gateway's key does not decrypt") from None


@functools.cache
def server_key() -> ServerKey:
    """This process' key; the first call begins to make it."""
    return ServerKey()
