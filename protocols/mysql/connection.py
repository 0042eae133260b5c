"""The packets of the connection phase, one frozen dataclass each ("Connection Phase Packets").

`decode(payload)` consumes all of it and raises `ProtocolError`; `encode()` gives a payload.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Self

from protocols.mysql.auth import SCRAMBLE
from protocols.mysql.capabilities import Capability
from protocols.mysql.errors import HANDSHAKE_ERROR, NOT_SUPPORTED_AUTH_MODE, ProtocolError
from protocols.mysql.fields import Reader, string
from protocols.mysql.messages import EOF

C = Capability

PROTOCOL_VERSION = 10
MAX_ATTRIBUTES = 1024  # connection attributes of one client; the servers keep 64 KiB of them
_MAX_VERSION = 255
_MAX_CHALLENGE = 64
_LOW = 0xFFFFFFFF
_FIXED = 32  # bytes of SSLRequest, with which HandshakeResponse41 begins
_NUMBERS = re.compile(r"\d+(?:\.\d+)*", re.ASCII)
_PREFIX = "5.5.5-"  # MariaDB 10 and 11 put it before their version, for replicas that knew one digit only


@dataclass(frozen=True, slots=True)
class Greeting:
    """`Protocol::HandshakeV10`. `challenge` is without the NUL at its end."""

    version: bytes
    connection: int
    challenge: bytes
    capabilities: Capability
    charset: int
    status: int
    plugin: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        if (protocol := r.u8()) != PROTOCOL_VERSION:
            raise ProtocolError(f"a greeting of protocol {protocol}", HANDSHAKE_ERROR)
        version = r.cstring()
        if not version or len(version) > _MAX_VERSION:
            raise ProtocolError("a greeting without a sensible version", HANDSHAKE_ERROR)
        connection, challenge = r.u32(), r.take(8)
        r.u8()
        low = r.u16()
        charset, status, high, size = r.u8(), r.u16(), r.u16(), r.u8()
        r.take(6)
        extended = r.u32()
        flags = C(low | high << 16)
        if C.LONG_PASSWORD not in flags:
            flags |= C(extended << 32)
        challenge += r.take(max(13, size - 8))
        challenge = challenge.removesuffix(b"\0")
        # some versions leave the NUL behind the plugin's name out
        plugin = r.rest().removesuffix(b"\0") if C.PLUGIN_AUTH in flags else b""
        if b"\0" in plugin or not SCRAMBLE <= len(challenge) <= _MAX_CHALLENGE:
            raise ProtocolError("a greeting whose authentication data make no sense", HANDSHAKE_ERROR)
        r.end()
        return cls(version, connection, challenge, flags, charset, status, plugin)

    def encode(self) -> bytes:
        flags = int(self.capabilities)
        # where LONG_PASSWORD is set these bytes are filler, and mean nothing to a client
        extended = 0 if C.LONG_PASSWORD in self.capabilities else flags >> 32
        head = bytes((PROTOCOL_VERSION,)) + self.version + b"\0"
        fixed = struct.pack(
            "<I8sxHBHHB6xI",
            self.connection,
            self.challenge[:8],
            flags & 0xFFFF,
            self.charset,
            self.status,
            flags >> 16 & 0xFFFF,
            len(self.challenge) + 1,
            extended,
        )
        return head + fixed + self.challenge[8:] + b"\0" + self.plugin + b"\0"

    @property
    def flavour(self) -> str:
        """`mysql` or `mariadb`."""
        named = b"mariadb" in self.version.lower()
        return "mariadb" if named or C.LONG_PASSWORD not in self.capabilities else "mysql"


def version_numbers(text: str) -> tuple[int, ...]:
    """A server's version in numbers: `5.5.5-10.11.6-MariaDB` is (10, 11, 6). Empty where it has none."""
    if "mariadb" in text.lower():
        text = text.removeprefix(_PREFIX)
    found = _NUMBERS.match(text)
    return tuple(int(part[:9]) for part in found[0].split(".")[:4]) if found else ()


@dataclass(frozen=True, slots=True)
class Response:
    """`Protocol::HandshakeResponse41`."""

    capabilities: Capability
    max_packet: int
    charset: int
    user: bytes
    answer: bytes  # of the plugin to the greeting's challenge
    database: bytes = b""
    plugin: bytes = b""
    attributes: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        flags, max_packet, charset = _fixed(r)
        user = r.cstring()
        if C.PLUGIN_AUTH_LENENC in flags:
            answer = r.string()
        elif C.SECURE_CONNECTION in flags:
            answer = r.take(r.u8())
        else:
            answer = r.cstring()
        database = r.cstring() if C.CONNECT_WITH_DB in flags else b""
        plugin = r.cstring() if C.PLUGIN_AUTH in flags else b""
        attributes = _attributes(r.string()) if C.CONNECT_ATTRS in flags and r.more else ()
        if C.ZSTD in flags:
            r.u8()  # the level; the capability is never offered
        r.end()
        return cls(flags, max_packet, charset, user, answer, database, plugin, attributes)

    def encode(self) -> bytes:
        flags = self.capabilities
        out = [ssl_request(flags, self.max_packet, self.charset), self.user, b"\0"]
        if C.PLUGIN_AUTH_LENENC in flags:
            out.append(string(self.answer))
        elif C.SECURE_CONNECTION in flags:
            if len(self.answer) > 255:
                raise ProtocolError("an answer too long for this server", NOT_SUPPORTED_AUTH_MODE)
            out += [bytes((len(self.answer),)), self.answer]
        else:
            out += [self.answer, b"\0"]
        if C.CONNECT_WITH_DB in flags:
            out += [self.database, b"\0"]
        if C.PLUGIN_AUTH in flags:
            out += [self.plugin, b"\0"]
        if C.CONNECT_ATTRS in flags:
            out.append(string(b"".join(string(k) + string(v) for k, v in self.attributes)))
        if C.ZSTD in flags:
            out.append(b"\0")
        return b"".join(out)


def _fixed(r: Reader) -> tuple[Capability, int, int]:
    low = r.u16()
    if not low & C.PROTOCOL_41:
        raise ProtocolError("the client speaks a protocol older than 4.1", NOT_SUPPORTED_AUTH_MODE)
    flags = C(low | r.u16() << 16)
    max_packet, charset = r.u32(), r.u8()
    r.take(19)
    extended = r.u32()
    if C.LONG_PASSWORD not in flags:
        flags |= C(extended << 32)
    return flags, max_packet, charset


def _attributes(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    r = Reader(data)
    out: list[tuple[bytes, bytes]] = []
    while r.more:
        if len(out) >= MAX_ATTRIBUTES:
            raise ProtocolError("too many connection attributes")
        name = r.string()
        out.append((name, r.string()))
    return tuple(out)


def is_ssl_request(body: bytes) -> bool:
    """Whether a client's first packet asks for TLS: the fixed part of a response alone, with CLIENT_SSL."""
    return len(body) == _FIXED and bool(body[1] << 8 & C.SSL)


def ssl_request(flags: Capability, max_packet: int, charset: int) -> bytes:
    """`Protocol::SSLRequest`; also the fixed part of the response that follows it."""
    extended = 0 if C.LONG_PASSWORD in flags else flags >> 32
    return struct.pack("<IIB19xI", flags & _LOW, max_packet, charset, extended)


def decode_ssl_request(body: bytes) -> tuple[Capability, int, int]:
    """(capabilities, longest packet, character set)."""
    r = Reader(body)
    out = _fixed(r)
    r.end()
    return out


@dataclass(frozen=True, slots=True)
class AuthSwitch:
    """`Protocol::AuthSwitchRequest`. `challenge` is all that follows: most plugins put a NUL behind it, some do not."""

    plugin: bytes
    challenge: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        r = Reader(body)
        if r.u8() != EOF or not r.more:  # the head alone asks for the hash of MySQL 4.0
            raise ProtocolError("a request for an authentication that is too old")
        plugin = r.cstring()
        return cls(plugin, r.rest())

    def encode(self) -> bytes:
        return bytes((EOF,)) + self.plugin + b"\0" + self.challenge
