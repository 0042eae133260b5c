"""The upstream's side of a handshake: greeting, TLS, authentication, until the server says OK.

Generators in the sense of `protocols.contract`; they serve the relayed sessions and the gateway's own connections (the
catalog's, and the one that cancels) alike.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.contract import (
    Credential,
    CredentialRefused,
    Refused,
    Side,
    StartTls,
    TlsFacts,
    TlsNotOffered,
    UpstreamLogin,
)
from protocols.mysql import auth, errors
from protocols.mysql.capabilities import OWN, REQUIRED, SHARED, Capability
from protocols.mysql.connection import AuthSwitch, Greeting, Response, ssl_request
from protocols.mysql.errors import ProtocolError
from protocols.mysql.exchange import Exchange
from protocols.mysql.messages import EOF, ERR, OK, Command, Err, Ok, Status, column_count, ends_rows
from protocols.mysql.rows import text_row
from protocols.mysql.startup import DEFAULT_CHARSET, codec

C = Capability

MAX_PACKET = 1 << 30  # max_packet_size that the gateway says
_MAX_ROUNDS = 8  # packets of one authentication: more is no plugin that exists
_CANNOT_CONNECT = errors.text_of(errors.CONNECT_TO_FOREIGN_DATA_SOURCE)
_GENERAL = "the gateway could not log in to the upstream; its log says why"

# Errors of a login whose text a client may see: capacity, shutdown, no such database. Others name the gateway's own
# account, host or methods: they are for the log.
_TELLABLE = frozenset((1040, 1049, 1053, 1203))
_CREDENTIAL = frozenset((1045, 1698, 1820, 1862, 3118, 3955, 4151))  # wrong, expired, locked

OWN_CONNECTION = C.LONG_FLAG | C.TRANSACTIONS | C.MULTI_RESULTS | C.DEPRECATE_EOF
"""What a connection of the gateway's own asks for, where it is offered."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A session of the upstream that is ready for commands. `capabilities` are those that hold on its leg."""

    greeting: Greeting
    capabilities: Capability
    ok: Ok
    ok_payload: bytes = field(repr=False)


def read_greeting(upstream: Exchange) -> Generator[Any, Any, Greeting]:
    """The upstream's first packet. Raises `Refused` where it turns the gateway away."""
    body = yield from upstream.receive()
    if body[:1] == bytes((ERR,)):
        raise _told(Err.decode(body))
    greeting = Greeting.decode(body)
    if REQUIRED & ~greeting.capabilities:
        raise ProtocolError("the upstream is older than MySQL 5.7 or MariaDB 10")
    if upstream.buffer:
        raise ProtocolError("the upstream goes on after its greeting")
    return greeting


def log_in(
    upstream: Exchange,
    greeting: Greeting,
    credential: Credential,
    wanted: Capability,
    *,
    tls: bool,
    database: str = "",
    charset: int = DEFAULT_CHARSET,
    attributes: Sequence[tuple[str, str]] = (),
) -> Generator[Any, Any, LoggedIn]:
    """Answers the greeting and authenticates; `wanted` is reduced to what the upstream offers.

    Raises `Refused` (with what a client may know), `CredentialRefused`, `ProtocolError`.
    """
    offered = greeting.capabilities
    flags = wanted & offered & (SHARED | C.LOCAL_FILES) | (OWN & offered & ~C.CONNECT_WITH_DB)
    flags |= C.LONG_PASSWORD  # to MariaDB: no extended capabilities follow
    if database:
        flags |= C.CONNECT_WITH_DB
    facts: TlsFacts | None = None
    if tls:
        if C.SSL not in offered:
            raise TlsNotOffered("the upstream does not offer TLS, and the resource requires it", _CANNOT_CONNECT)
        flags |= C.SSL
        yield from upstream.send(ssl_request(flags, MAX_PACKET, charset))
        facts = yield StartTls(Side.UPSTREAM)
    password = credential.password.encode()
    plugin, challenge = greeting.plugin, greeting.challenge
    if plugin not in (auth.CACHING_SHA2, auth.NATIVE):
        # no answer can be right yet: name a plugin that every server has, and let the upstream switch
        plugin = auth.CACHING_SHA2 if greeting.flavour == "mysql" else auth.NATIVE
    try:
        user, schema = credential.username.encode(codec(charset)), database.encode(codec(charset))
    except UnicodeEncodeError:
        raise Refused("a name that the client's character set does not have; use utf8mb4", _CANNOT_CONNECT) from None
    response = Response(
        flags,
        MAX_PACKET,
        charset,
        user,
        _answer(plugin, password, challenge, facts),
        schema,
        plugin,
        tuple((name.encode(), value.encode()) for name, value in attributes),
    )
    yield from upstream.send(response.encode())
    ok = yield from _authenticate(upstream, plugin, challenge, password, facts)
    if upstream.buffer:
        raise ProtocolError("the upstream goes on after its login")
    return LoggedIn(greeting, flags, Ok.decode(ok, flags), ok)


def _authenticate(
    upstream: Exchange, plugin: bytes, challenge: bytes, password: bytes, facts: TlsFacts | None
) -> Generator[Any, Any, bytes]:
    """The exchange of a plugin until OK, whose payload it returns."""
    switched = asked_key = False
    for _ in range(_MAX_ROUNDS):
        body = yield from upstream.receive()
        head = body[0] if body else -1
        if head == OK:
            return body
        if head == ERR:
            raise _told(Err.decode(body))
        if head == EOF:
            if switched:
                raise ProtocolError("the upstream switches its authentication twice")
            switched, asked_key = True, False
            switch = AuthSwitch.decode(body)
            plugin, challenge = switch.plugin, switch.challenge
            yield from upstream.send(_answer(plugin, password, challenge, facts))
        elif head == auth.MORE_DATA and plugin in (auth.CACHING_SHA2, auth.SHA256):
            data = body[1:]
            if asked_key:
                asked_key = False
                yield from upstream.send(auth.encrypt(password, challenge, data))
            elif plugin == auth.CACHING_SHA2 and data == auth.FULL_AUTH:
                if facts is not None:
                    yield from upstream.send(password + b"\0")
                else:  # the password never crosses a network in clear: it is encrypted with the server's key
                    asked_key = True
                    yield from upstream.send(auth.ASK_KEY)
            elif plugin == auth.SHA256:
                yield from upstream.send(auth.encrypt(password, challenge, data))
            elif data != auth.FAST_OK:
                raise ProtocolError("an answer that caching_sha2_password does not have")
        else:  # a file request, a second factor, rows: nothing of that belongs to a login
            raise ProtocolError(f"an upstream packet {head:#04x} that does not belong to a login")
    raise ProtocolError("an upstream that does not end its authentication")


def _answer(plugin: bytes, password: bytes, challenge: bytes, facts: TlsFacts | None) -> bytes:
    """The first answer to a plugin's challenge. Raises `Refused` for a plugin that the gateway must not serve."""
    if plugin == auth.CLEAR:
        if facts is None:
            raise Refused("the upstream asks for the password in clear without TLS", _CANNOT_CONNECT)
        return password + b"\0"
    if plugin == auth.SHA256:
        if not password:
            return b"\0"
        return password + b"\0" if facts is not None else auth.ASK_KEY_SHA256
    if plugin == auth.ED25519:
        if len(challenge) < auth.ED25519_CHALLENGE:
            raise ProtocolError("an authentication challenge that is too short")
        return auth.ed25519(password, challenge[: auth.ED25519_CHALLENGE])
    if plugin not in (auth.NATIVE, auth.CACHING_SHA2):
        name = plugin[:64].decode("ascii", "replace")
        refused = Refused("the upstream asks for an authentication the gateway lacks", _CANNOT_CONNECT)
        refused.__cause__ = ProtocolError(f"authentication plugin `{name}`")
        raise refused
    if len(challenge) < auth.SCRAMBLE:
        raise ProtocolError("an authentication challenge that is too short")
    hashed = auth.native_password if plugin == auth.NATIVE else auth.caching_sha2
    return hashed(password, challenge)


def _told(error: Err) -> Refused:
    text = error.message.decode("utf-8", "replace")
    code = (error.errno, error.sqlstate or "HY000")
    if error.errno in _TELLABLE:
        return Refused(text, errors.text_of(code))
    kind = CredentialRefused if error.errno in _CREDENTIAL else Refused
    refused = kind(_GENERAL, _CANNOT_CONNECT)
    refused.__cause__ = ProtocolError(f"upstream login failed: {error.errno} {error.sqlstate} {text}")
    return refused


# ---------------------------------------------------------------- one question on a connection of the gateway's own


class QueryFailed(Exception):
    """The server answered with an error. The text is for the gateway's log."""

    def __init__(self, error: Err) -> None:
        super().__init__(f"{error.errno} {error.message.decode('utf-8', 'replace')}")
        self.errno = error.errno


def query(
    upstream: Exchange,
    capabilities: Capability,
    text: str,
    *,
    max_rows: int = 1000,
    max_bytes: int = 1 << 20,
) -> Generator[Any, Any, list[list[bytes | None]]]:
    """The rows of one statement, as text; none where it has no result. Raises `QueryFailed`, `ProtocolError`."""
    upstream.restart()
    yield from upstream.send(bytes((Command.QUERY,)) + text.encode())
    first = yield from upstream.receive()
    if first[:1] == bytes((ERR,)):
        raise QueryFailed(Err.decode(first))
    rows: list[list[bytes | None]] = []
    if first[:1] == bytes((OK,)):
        _last(upstream, Ok.decode(first, capabilities).status)
        return rows
    columns = column_count(first)
    deprecated = C.DEPRECATE_EOF in capabilities
    for _ in range(columns if deprecated else columns + 1):  # the definitions, and the EOF behind them
        yield from upstream.receive()
    size = 0
    while True:
        body = yield from upstream.receive()
        head = body[0] if body else -1
        if head == ERR:
            raise QueryFailed(Err.decode(body))
        if ends_rows(head, len(body), capabilities):
            _last(
                upstream,
                int.from_bytes(body[3:5], "little") if not deprecated else Ok.decode(body, capabilities).status,
            )
            return rows
        size += len(body)
        if len(rows) >= max_rows or size > max_bytes:
            raise ProtocolError("an answer longer than the gateway keeps")
        rows.append(text_row(body, columns))


def _last(upstream: Exchange, status: int) -> None:
    if status & Status.MORE_RESULTS or upstream.buffer:
        raise ProtocolError("the upstream goes on after the end of its answer")


def open_own(login: UpstreamLogin, upstream: Exchange, program: str) -> Generator[Any, Any, LoggedIn]:
    """Greeting and login of a connection of the gateway's own. `program` is what the server's lists call it."""
    greeting = yield from read_greeting(upstream)
    return (
        yield from log_in(
            upstream,
            greeting,
            login.credential,
            OWN_CONNECTION,
            tls=login.tls,
            database=login.database,
            attributes=(("program_name", program),),
        )
    )


_NO_SUCH_THREAD = errors.NO_SUCH_THREAD[0]


def cancel(login: UpstreamLogin, pid: int) -> Generator[Any, Any, None]:
    """KILL QUERY on a connection of its own; a session that is gone is no failure. Raises as `log_in`, `query` do."""
    upstream = Exchange(Side.UPSTREAM)
    ready = yield from open_own(login, upstream, "sluicegate cancel")
    try:
        yield from query(upstream, ready.capabilities, f"KILL QUERY {pid:d}")
    except QueryFailed as e:
        if e.errno != _NO_SUCH_THREAD:
            raise Refused("the upstream does not cancel; the gateway's log says why", _CANNOT_CONNECT) from e
    upstream.restart()
    yield from upstream.send(bytes((Command.QUIT,)))
