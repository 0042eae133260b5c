"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the client's side (RFC 5802, RFC 7677; PostgreSQL documentation 54.3).

Channel binding is `tls-server-end-point` (RFC 5929). Derived keys are cached: the derivation costs milliseconds of the
event loop, and the password of a resource seldom changes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stringprep
import unicodedata

from cachetools import LRUCache

from protocols.postgres.errors import ProtocolError

SCRAM = b"SCRAM-SHA-256"
SCRAM_PLUS = b"SCRAM-SHA-256-PLUS"
MAX_ITERATIONS = 500_000  # a hostile server may not make the gateway compute for minutes

_keys: LRUCache[tuple[bytes, bytes, int], tuple[bytes, bytes]] = LRUCache(64)


_PROHIBITED = (  # RFC 4013, section 2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def _prepared(password: str) -> bytes:
    """SASLprep (RFC 4013). PostgreSQL takes the raw bytes of a password that SASLprep prohibits, and so do we."""
    if password.isascii():
        return password.encode()
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    text = unicodedata.normalize("NFKC", mapped)
    if not text or any(prohibited(c) for c in text for prohibited in _PROHIBITED):
        return password.encode()
    right_to_left = [stringprep.in_table_d1(c) for c in text]
    if any(right_to_left) and (
        any(stringprep.in_table_d2(c) for c in text) or not (right_to_left[0] and right_to_left[-1])
    ):
        return password.encode()
    return text.encode()


class ScramClient:
    """`first()`, then `final(server_first)`, then `verify(server_final)`; each raises `ProtocolError` on a lie.

    `binding` is the channel binding data, None on a connection without TLS. `offered` says whether the server offers
    -PLUS: if we could bind and it does not offer it, we say so ("y"), and a man in the middle is found out.
    """

    def __init__(self, password: str, nonce: bytes, binding: bytes | None, offered: list[bytes]) -> None:
        self._password = _prepared(password)
        self._nonce = base64.b64encode(nonce).decode()
        if binding is not None and SCRAM_PLUS in offered:
            self.mechanism, header = SCRAM_PLUS, b"p=tls-server-end-point,,"
            self._cbind = header + binding
        elif SCRAM in offered:
            self.mechanism = SCRAM
            header = b"n,," if binding is None else b"y,,"
            self._cbind = header
        else:
            raise ProtocolError("the upstream offers no SASL mechanism that the gateway speaks")
        self._header = header.decode()
        self._first = f"n=,r={self._nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        return (self._header + self._first).encode()

    def final(self, server_first: bytes) -> bytes:
        try:
            text = server_first.decode("ascii")
            fields = dict(part.split("=", 1) for part in text.split(","))
            nonce, salt, rounds = fields["r"], base64.b64decode(fields["s"], validate=True), int(fields["i"])
        except (ValueError, KeyError, binascii.Error):
            raise ProtocolError("the upstream's SCRAM challenge cannot be read") from None
        if not nonce.startswith(self._nonce) or len(nonce) <= len(self._nonce):
            raise ProtocolError("the upstream's SCRAM nonce is not a continuation of ours")
        if not 1 <= rounds <= MAX_ITERATIONS:
            raise ProtocolError("the upstream's SCRAM iteration count is out of bounds")
        client_key, server_key = self._derive(salt, rounds)
        bare = f"c={base64.b64encode(self._cbind).decode()},r={nonce}"
        signed = f"{self._first},{text},{bare}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = hmac.digest(server_key, signed, "sha256")
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

    def _derive(self, salt: bytes, rounds: int) -> tuple[bytes, bytes]:
        at = (hashlib.sha256(self._password).digest(), salt, rounds)
        keys = _keys.get(at)
        if keys is None:
            salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, rounds)
            keys = hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256")
            _keys[at] = keys
        return keys

    def verify(self, server_final: bytes) -> None:
        expected = b"v=" + base64.b64encode(self._server_signature)
        if not self._server_signature or not hmac.compare_digest(server_final, expected):
            raise ProtocolError("the upstream does not know its own password: SCRAM verification failed")


def md5_password(user: str, password: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password (54.2.1)."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()
