"""From the first byte of a client to a session: TLS, startup packet, token, upstream login.

A generator in the sense of `protocols.contract`: it yields what it waits for. PostgreSQL documentation 54.2.1
(start-up) and 54.2.10 (TLS), RFC 7628 (OAUTHBEARER).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocols.contract import (
    Admission,
    Authenticate,
    Cancel,
    Connect,
    KeepKey,
    ListenerTerms,
    Permit,
    Receive,
    Refused,
    Register,
    Send,
    Side,
    StartTls,
    TlsFacts,
)
from protocols.postgres import errors, framing, login, startup
from protocols.postgres.errors import ProtocolError, error_response
from protocols.postgres.fields import frame
from protocols.postgres.framing import Startup
from protocols.postgres.messages import BackendKeyData, ParameterStatus, ReadyForQuery
from protocols.postgres.state import SessionState

ALPN = "postgresql"
_TLS_HANDSHAKE = 0x16  # first byte of a TLS record that carries a ClientHello: sslnegotiation=direct
_MINOR = 2  # the newest minor version that the gateway speaks
_MAX_TOKEN_MESSAGE = 65536


@dataclass(frozen=True, slots=True)
class Handover:
    """A session may begin. `client` and `upstream` are bytes that were read beyond the handshake."""

    admission: Admission
    state: SessionState
    client: bytes
    upstream: bytes


def serve(terms: ListenerTerms, nonce: bytes) -> Generator[Any, Any, Handover | None]:
    """The whole handshake. None: nothing is to be relayed (a cancel request). `Refused` has told the client already."""
    try:
        return (yield from _serve(terms, nonce))
    except Refused as e:
        yield Send(Side.CLIENT, error_response(e.code or errors.INVALID_AUTHORIZATION, str(e), severity="FATAL"))
        raise
    except ProtocolError as e:
        yield Send(Side.CLIENT, error_response(e.sqlstate, str(e), severity="FATAL"))
        raise


def _serve(terms: ListenerTerms, nonce: bytes) -> Generator[Any, Any, Handover | None]:
    buffer = bytearray()
    tls, first = yield from _open(terms, buffer)
    if first.code == framing.CANCEL_REQUEST:
        if not 4 < len(first.body) <= 4 + 256 or buffer:
            raise ProtocolError("invalid length of cancel request")
        yield Cancel(int.from_bytes(first.body[:4]), first.body[4:])
        return None
    if first.major != 3:
        raise ProtocolError(f"unsupported frontend protocol {first.major}.{first.minor}", errors.FEATURE_NOT_SUPPORTED)
    if tls is None and terms.tls == "required":
        raise Refused("this listener requires TLS: set sslmode=verify-full", errors.INVALID_AUTHORIZATION)
    parameters = first.parameters()
    unknown = [k for k in parameters if k.startswith("_pq_.")]
    if first.minor > _MINOR or unknown:
        names = b"".join(k.encode() + b"\0" for k in unknown)
        body = struct.pack("!II", (3 << 16) | min(first.minor, _MINOR), len(unknown)) + names
        yield Send(Side.CLIENT, frame(b"v", body))
    parameters = {k: v for k, v in parameters.items() if k not in unknown}
    checked = startup.check(parameters)
    if checked.refused:
        raise Refused(_not_allowed(checked.refused), errors.INSUFFICIENT_PRIVILEGE)
    user = parameters.get("user", "")
    if not user:
        raise ProtocolError("no user name in the startup packet", errors.INVALID_AUTHORIZATION)
    token = yield from (_oauth_token(terms, buffer) if terms.oauth else _password_token(buffer))
    admission: Admission = yield Authenticate(
        token, user, parameters.get("database", user), parameters.get("application_name", "")
    )
    for analysis, text in checked.asks():
        yield Permit(analysis, text)
    yield Connect()
    up_tls: TlsFacts | None = None
    wanted = {**checked.settings, "user": admission.credential.username, "database": admission.database}
    wanted.setdefault("client_encoding", "UTF8")
    try:
        if admission.upstream_tls:
            up_tls = yield from login.start_tls()
        logged_in = yield from login.log_in(admission.credential, wanted, up_tls, nonce)
        state = _initial_state(wanted, logged_in)
    except ProtocolError as e:
        # what the upstream did wrong is for the log; to the client it would read as its own fault
        raise Refused("the gateway could not log in to the upstream; its log says why", errors.CANNOT_CONNECT) from e
    pid, secret = yield KeepKey(logged_in.pid, logged_in.secret, 32 if first.minor >= 2 else 4)
    out = [frame(b"R", b"\0\0\0\0")]
    for kind, message in logged_in.greeting:
        if kind == ord("Z"):
            out.append(BackendKeyData(pid, secret).encode())
        out.append(message)
    yield Register()
    yield Send(Side.CLIENT, b"".join(out))
    return Handover(admission, state, bytes(buffer), logged_in.rest)


def _not_allowed(names: Sequence[str]) -> str:
    if any(name == "replication" for name in names):
        return (
            "replication connections are not allowed through this gateway: they would read past masks and policies;"
            " connect to the database itself for that, or remove `replication` from the connection"
        )
    listed = ", ".join(f"`{name[:63]}`" for name in names[:5])
    return f"startup parameters not allowed through this gateway: {listed}; remove them from the connection"


def _initial_state(wanted: Mapping[str, str], logged_in: login.LoggedIn) -> SessionState:
    state = SessionState()
    state.startup(dict(wanted))
    for kind, message in logged_in.greeting:
        if kind == ord("S"):
            status = ParameterStatus.decode(message[5:])
            state.parameter_status(status.name.decode("utf-8", "replace"), status.value.decode("utf-8", "replace"))
        elif kind == ord("Z"):
            state.ready(ReadyForQuery.decode(message[5:]).status)
    return state


def _more(buffer: bytearray, cap: int) -> Generator[Any, Any, None]:
    if len(buffer) > cap:
        raise ProtocolError("too many bytes before authentication")
    buffer += yield Receive(Side.CLIENT)


def _open(terms: ListenerTerms, buffer: bytearray) -> Generator[Any, Any, tuple[TlsFacts | None, Startup]]:
    """Reads up to the startup packet, with the TLS and GSS requests that may come before it, each once."""
    tls: TlsFacts | None = None
    asked: set[int] = set()
    yield from _more(buffer, framing.MAX_STARTUP)
    if buffer[0] == _TLS_HANDSHAKE:
        if terms.tls == "off":
            raise ProtocolError("this listener does not offer TLS")
        received = bytes(buffer)
        buffer.clear()
        tls = yield StartTls(Side.CLIENT, ALPN, received)
        if tls.alpn != ALPN:
            # without ALPN another protocol's client could be talked into speaking to us (section 54.2.10)
            raise ProtocolError("a direct TLS connection needs the ALPN protocol `postgresql`")
        asked.update((framing.SSL_REQUEST, framing.GSSENC_REQUEST))
    while True:
        length = framing.startup_length(buffer)
        while length is None or len(buffer) < length:
            yield from _more(buffer, framing.MAX_STARTUP)
            length = framing.startup_length(buffer)
        packet = framing.parse_startup(bytes(buffer[:length]))
        del buffer[:length]
        if packet.code not in (framing.SSL_REQUEST, framing.GSSENC_REQUEST):
            return tls, packet
        if packet.code in asked or packet.body:
            raise ProtocolError("an encryption request that is not allowed here")
        if buffer:
            # cleartext behind an encryption request: whoever sent it is between us and the client (CVE-2021-23214)
            raise ProtocolError("received unencrypted data after an encryption request")
        asked.add(packet.code)
        if packet.code == framing.SSL_REQUEST and terms.tls != "off":
            yield Send(Side.CLIENT, b"S")
            tls = yield StartTls(Side.CLIENT, ALPN)
            asked.add(framing.GSSENC_REQUEST)
        else:
            yield Send(Side.CLIENT, b"N")
        yield from _more(buffer, framing.MAX_STARTUP)


def _password_message(buffer: bytearray) -> Generator[Any, Any, bytes]:
    """The body of the next 'p' message."""
    while len(buffer) < 5:
        yield from _more(buffer, _MAX_TOKEN_MESSAGE)
    length = int.from_bytes(buffer[1:5])
    if buffer[0] != ord("p") or not 4 <= length <= _MAX_TOKEN_MESSAGE:
        raise ProtocolError("expected a password message")
    while len(buffer) < length + 1:
        yield from _more(buffer, _MAX_TOKEN_MESSAGE * 2)
    body = bytes(buffer[5 : length + 1])
    del buffer[: length + 1]
    return body


def _password_token(buffer: bytearray) -> Generator[Any, Any, str]:
    yield Send(Side.CLIENT, frame(b"R", struct.pack("!I", 3)))
    body = yield from _password_message(buffer)
    if not body.endswith(b"\0") or b"\0" in body[:-1]:
        raise ProtocolError("a password message that holds no single string")
    return _text(body[:-1])


def _text(raw: bytes) -> str:
    """What the client calls its token, as the verifier gets it: it refuses, on record, what no token looks like."""
    return raw.decode("ascii", "replace")


def _oauth_token(terms: ListenerTerms, buffer: bytearray) -> Generator[Any, Any, str]:
    """SASL OAUTHBEARER. Without a token the client learns where to get one (RFC 7628, section 3.2.2)."""
    yield Send(Side.CLIENT, frame(b"R", struct.pack("!I", 10) + b"OAUTHBEARER\0\0"))
    body = yield from _password_message(buffer)
    mechanism, _, rest = body.partition(b"\0")
    if mechanism != b"OAUTHBEARER" or len(rest) < 4:
        raise ProtocolError("client selected an invalid SASL authentication mechanism")
    size = int.from_bytes(rest[:4], signed=True)
    message = rest[4:]
    if size == -1 and not message:
        # no initial response: it comes after an empty challenge (RFC 4422, section 5.1)
        yield Send(Side.CLIENT, frame(b"R", struct.pack("!I", 11)))
        message = yield from _password_message(buffer)
    elif size != len(message):
        raise ProtocolError("malformed OAUTHBEARER message")
    token = _bearer(message)
    if token:
        return token
    answer = {"status": "invalid_token", "openid-configuration": terms.discovery, "scope": terms.scope}
    yield Send(Side.CLIENT, frame(b"R", struct.pack("!I", 11) + json.dumps(answer).encode()))
    if (yield from _password_message(buffer)) != b"\x01":
        raise ProtocolError("malformed OAUTHBEARER message")
    raise Refused("OAuth bearer authentication needs a token; the issuer was named to the client", "28000")


def _bearer(message: bytes) -> str:
    """The token of a client's initial response, empty if it sent none: `n,,^Aauth=Bearer TOKEN^A^A`."""
    header, _, rest = message.partition(b"\x01")
    # no channel binding (RFC 7628 has none) and no identity beside the token's
    if header not in (b"n,,", b"y,,") or not rest.endswith(b"\x01\x01"):
        raise ProtocolError("malformed OAUTHBEARER message")
    pairs = [_pair(p) for p in rest[:-2].split(b"\x01") if p]
    values = [value for key, value in pairs if key == b"auth"]
    if len(values) > 1:
        raise ProtocolError("malformed OAUTHBEARER message")
    value = values[0] if values else b""
    if not value:
        return ""
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"bearer":
        raise ProtocolError("malformed OAUTHBEARER message")
    return _text(token.strip())


def _pair(text: bytes) -> tuple[bytes, bytes]:
    key, sep, value = text.partition(b"=")
    if not sep:
        raise ProtocolError("malformed OAUTHBEARER message")
    return key, value
