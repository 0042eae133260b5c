"""The upstream's side of a handshake: TLS request, startup packet, authentication, until ReadyForQuery.

A generator in the sense of `protocols.contract`; it serves the relayed sessions and the gateway's own metadata
connections alike.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocols.contract import (
    Credential,
    CredentialRefused,
    Receive,
    Refused,
    Send,
    Side,
    StartTls,
    TlsFacts,
    TlsNotOffered,
)
from protocols.postgres import errors
from protocols.postgres.errors import ProtocolError
from protocols.postgres.fields import frame
from protocols.postgres.framing import BACKEND, SSL_REQUEST, Framer
from protocols.postgres.messages import Fields, encode_parameters
from protocols.postgres.scram import ScramClient, md5_password

_LOGIN_KINDS = BACKEND | frozenset(b"v")
_VERSION_3_0 = 3 << 16
_MAX_MESSAGE = 65536
_MAX_GREETING = 1 << 20  # bytes of notices and parameters: an upstream that never ends its greeting may not fill memory

# what a client may know of a failed login upstream: its own bad setting, capacity, shutdown, no such database
_TELLABLE = ("22", "53", "57P", "3D")


@dataclass(slots=True)
class LoggedIn:
    """A session of the upstream that is ready: its messages after AuthenticationOk, and its cancel key."""

    greeting: list[tuple[int, bytes]] = field(default_factory=list)  # (kind, whole message): S, N, Z
    pid: int = 0
    secret: bytes = b""
    rest: bytes = b""  # bytes behind ReadyForQuery


def start_tls() -> Generator[Any, Any, TlsFacts]:
    """SSLRequest, one byte `S`, TLS. Anything behind that byte was stuffed in before the handshake (CVE-2021-23222)."""
    yield Send(Side.UPSTREAM, struct.pack("!II", 8, SSL_REQUEST))
    answer: bytes = yield Receive(Side.UPSTREAM)
    if answer[:1] != b"S":
        raise TlsNotOffered("the upstream does not offer TLS, and the resource requires it", errors.CANNOT_CONNECT)
    if len(answer) > 1:
        raise Refused("the upstream sent bytes before the TLS handshake", errors.CANNOT_CONNECT)
    facts: TlsFacts = yield StartTls(Side.UPSTREAM)
    return facts


def log_in(
    credential: Credential, parameters: Mapping[str, str], tls: TlsFacts | None, nonce: bytes
) -> Generator[Any, Any, LoggedIn]:
    """Sends the startup packet and authenticates. Raises `Refused` with what a client may know."""
    body = struct.pack("!I", _VERSION_3_0) + encode_parameters(list(parameters.items()))
    yield Send(Side.UPSTREAM, struct.pack("!I", len(body) + 4) + body)
    framer = Framer(_LOGIN_KINDS, {}, _MAX_MESSAGE)
    out = LoggedIn()
    scram: ScramClient | None = None
    proven = True  # SCRAM: the server has shown that it knows the password
    authenticated = False
    size = 0
    while True:
        data: bytes = yield Receive(Side.UPSTREAM)
        buf, messages, end = framer.feed(data)
        for i, (kind, pos, stop) in enumerate(messages):
            if stop > end:
                raise ProtocolError("an upstream message during login is too long")
            message = buf[pos:stop]
            if kind == ord("E"):
                raise _told(Fields.decode(message[5:]))
            if kind == ord("R"):
                if len(message) < 9:
                    raise ProtocolError("an authentication request that is cut short")
                code = int.from_bytes(message[5:9])
                body = message[9:]
                if authenticated:
                    raise ProtocolError("the upstream authenticates twice")
                if code == 0:
                    if not proven:
                        raise ProtocolError("the upstream skipped the end of SCRAM")
                    authenticated = True
                elif code in (3, 5, 10) and not credential.password:
                    raise Refused("the upstream asks for a password and none is configured", errors.CANNOT_CONNECT)
                elif code == 3:
                    yield Send(Side.UPSTREAM, frame(b"p", credential.password.encode() + b"\0"))
                elif code == 5 and len(body) == 4:
                    answer = md5_password(credential.username, credential.password, body)
                    yield Send(Side.UPSTREAM, frame(b"p", answer + b"\0"))
                elif code == 10:
                    offered = [m for m in body.split(b"\0") if m]
                    scram = ScramClient(credential.password, nonce, tls.server_end_point if tls else None, offered)
                    proven = False
                    first = scram.first()
                    yield Send(
                        Side.UPSTREAM,
                        frame(b"p", scram.mechanism + b"\0" + struct.pack("!I", len(first)) + first),
                    )
                elif code == 11 and scram is not None:
                    yield Send(Side.UPSTREAM, frame(b"p", scram.final(body)))
                elif code == 12 and scram is not None:
                    scram.verify(body)
                    proven = True
                else:
                    raise Refused("the upstream asks for an authentication the gateway lacks", errors.CANNOT_CONNECT)
            elif kind == ord("v"):
                if authenticated:
                    raise ProtocolError("the upstream negotiates its version too late")
            elif not authenticated and kind != ord("N"):
                raise ProtocolError("the upstream speaks before it has authenticated us")
            elif kind == ord("K"):
                out.pid, out.secret = int.from_bytes(message[5:9]), message[9:]
            elif kind in b"SN":
                out.greeting.append((kind, message))
                size += len(message)
                if size > _MAX_GREETING:
                    raise ProtocolError("an upstream that does not end its greeting")
            elif kind == ord("Z"):
                out.greeting.append((kind, message))
                later = messages[i + 1 :]
                out.rest = buf[stop:] if later or stop < len(buf) else b""
                return out
            else:
                raise ProtocolError("an upstream message that does not belong to a login")


def _told(fields: Fields) -> Refused:
    code = fields.get("C")
    if code.startswith(_TELLABLE):
        return Refused(fields.get("M"), code)
    # other errors name the gateway's own user, hosts or methods: they are for the log, not for the client
    kind = CredentialRefused if code.startswith("28") else Refused
    refused = kind("the gateway could not log in to the upstream; its log says why", errors.CANNOT_CONNECT)
    refused.__cause__ = ProtocolError(f"upstream login failed: {code} {fields.get('M')}")
    return refused
