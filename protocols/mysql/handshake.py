"""From the first byte of a client to a session: greeting, TLS, token, upstream login.

A generator in the sense of `protocols.contract`: it yields what it waits for. "Connection Phase" of the MySQL internals
manual. The server speaks first here, so the gateway greets with what it remembers of the upstream; where it remembers
nothing yet, it connects upstream before it greets.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from protocols.contract import (
    Admission,
    Authenticate,
    Connect,
    KeepKey,
    ListenerTerms,
    Refused,
    Register,
    ReserveId,
    Send,
    Side,
    StartTls,
    TlsFacts,
)
from protocols.mysql import auth, connection, errors, login, startup
from protocols.mysql.capabilities import SHARED, Capability, offered
from protocols.mysql.connection import AuthSwitch, Greeting, Response, version_numbers
from protocols.mysql.errors import Code, ProtocolError, err_packet
from protocols.mysql.exchange import Exchange
from protocols.mysql.messages import Status
from protocols.mysql.settings import charset_of, modes_of
from protocols.mysql.startup import CHARSETS, DEFAULT_CHARSET, Startup
from protocols.mysql.state import SessionState

C = Capability

_TLS_HANDSHAKE = 0x16  # first byte of a TLS record that carries a ClientHello
_CANNOT_CONNECT = errors.text_of(errors.CONNECT_TO_FOREIGN_DATA_SOURCE)
_ACCESS_DENIED = errors.text_of(errors.ACCESS_DENIED)

# What holds in a new session and changes what texts mean. The server's own defaults and its init_connect decide it.
_SESSION = (
    "SELECT @@session.sql_mode, @@session.character_set_client, @@session.collation_connection,"
    " @@session.autocommit, @@lower_case_table_names, DATABASE(), VERSION(), @@session.{}, @@session.{}"
)
_READ_ONLY = {"mariadb": "tx_read_only", "mysql": "transaction_read_only"}
_TIME_LIMIT = {"mariadb": "max_statement_time", "mysql": "max_execution_time"}


class Remembered(Protocol):
    """What the handshakes of one resource share: the greeting that its upstream gave last."""

    greeting: Greeting | None


@dataclass(frozen=True, slots=True)
class Handover:
    """A session may begin. `client` and `upstream` are bytes that were read beyond the handshake.

    `capabilities` hold on both legs. `upstream_id` is the upstream's number of the connection, `connection_id` the one
    that the client was told; `attributes` are what the client says of itself.
    """

    admission: Admission
    state: SessionState
    capabilities: Capability
    connection_id: int
    upstream_id: int
    attributes: tuple[tuple[str, str], ...]
    client: bytes
    upstream: bytes


def serve(terms: ListenerTerms, nonce: bytes, cache: Remembered) -> Generator[Any, Any, Handover]:
    """The whole handshake. `Refused` and `ProtocolError` have told the client already."""
    client = Exchange(Side.CLIENT)
    try:
        return (yield from _serve(client, terms, nonce, cache))
    except Refused as e:
        yield _words(client, errors.code_of(e.code) if e.code else errors.ACCESS_DENIED, str(e))
        raise
    except ProtocolError as e:
        yield _words(client, e.code, str(e))
        raise


def _words(client: Exchange, code: Code, message: str) -> Send:
    """An ERR packet at this place of the handshake. Before the greeting no client expects an SQLSTATE in it."""
    return Send(Side.CLIENT, err_packet(client.sequence, code, message, state=client.sequence > 0))


def _serve(client: Exchange, terms: ListenerTerms, nonce: bytes, cache: Remembered) -> Generator[Any, Any, Handover]:
    upstream = Exchange(Side.UPSTREAM)
    fresh: Greeting | None = None
    remembered = cache.greeting
    if remembered is None:
        fresh = remembered = yield from _greeting(upstream, cache)
    number: int = yield ReserveId()
    scramble = auth.scramble_of(nonce)
    if terms.tls != "required":
        auth.server_key()  # begins to be made
    offer = offered(remembered.capabilities, tls=terms.tls != "off", local_files=terms.local_files)
    charset = remembered.charset if remembered.charset in CHARSETS else DEFAULT_CHARSET
    greeting = Greeting(remembered.version, number, scramble, offer, charset, Status.AUTOCOMMIT, auth.CACHING_SHA2)
    yield from client.send(greeting.encode())
    tls, response = yield from _response(client, terms)
    started = startup.check(response, offer)
    token = yield from _token(client, response, scramble, tls, terms)
    admission: Admission = yield Authenticate(
        token, started.user, started.database, started.application, started.attributes
    )
    if fresh is None:
        fresh = yield from _greeting(upstream, cache)
        if not _same(fresh, remembered):
            raise Refused("the upstream is another version than before; connect again", _CANNOT_CONNECT)
    try:
        ready = yield from login.log_in(
            upstream,
            fresh,
            admission.credential,
            started.capabilities,
            tls=admission.upstream_tls,
            database=admission.database,
            charset=started.charset,
            attributes=started.attributes,
        )
        if (ready.capabilities ^ started.capabilities) & (SHARED & ~C.LONG_PASSWORD | C.LOCAL_FILES):
            raise ProtocolError("the two sides do not speak the same variant of the protocol")
        state = yield from _state(upstream, ready, started, admission)
    except (ProtocolError, login.QueryFailed) as e:
        # what the upstream did wrong is for the log; to the client it would read as its own fault
        raise Refused("the gateway could not log in to the upstream; its log says why", _CANNOT_CONNECT) from e
    yield KeepKey(fresh.connection, b"", 0)
    yield Register()
    yield from client.send(ready.ok_payload)
    return Handover(
        admission,
        state,
        started.capabilities,
        number,
        fresh.connection,
        started.attributes,
        client.rest(),
        upstream.rest(),
    )


def _greeting(upstream: Exchange, cache: Remembered) -> Generator[Any, Any, Greeting]:
    """Connects, and remembers how the upstream greets."""
    yield Connect()
    try:
        greeting = yield from login.read_greeting(upstream)
    except ProtocolError as e:
        raise Refused("the upstream does not greet as MySQL or MariaDB does; the log says why", _CANNOT_CONNECT) from e
    cache.greeting = replace(greeting, challenge=bytes(auth.SCRAMBLE), connection=0)
    return greeting


def _same(a: Greeting, b: Greeting) -> bool:
    """Whether what a client was told of `b` is true of `a`."""
    return (a.version, a.capabilities & SHARED) == (b.version, b.capabilities & SHARED)


def _response(client: Exchange, terms: ListenerTerms) -> Generator[Any, Any, tuple[TlsFacts | None, Response]]:
    """The client's answer to the greeting, inside TLS where it asked for that."""
    tls: TlsFacts | None = None
    body = yield from client.receive()
    if connection.is_ssl_request(body):
        if terms.tls == "off":
            raise ProtocolError("this listener does not offer TLS", errors.HANDSHAKE_ERROR)
        received = client.rest()
        if received and received[0] != _TLS_HANDSHAKE:
            # cleartext behind the request for TLS: whoever sent it is between us and the client (CVE-2021-3935)
            raise ProtocolError("received unencrypted data after a request for TLS", errors.HANDSHAKE_ERROR)
        connection.decode_ssl_request(body)  # well-formed; what it claims was in clear: the response inside TLS counts
        tls = yield StartTls(Side.CLIENT, received=received)
        body = yield from client.receive()
        if connection.is_ssl_request(body):
            raise ProtocolError("a request for TLS inside TLS", errors.HANDSHAKE_ERROR)
    elif terms.tls == "required":
        raise Refused(
            "this listener requires TLS: use --ssl-mode=VERIFY_IDENTITY (MariaDB: --ssl-verify-server-cert)",
            errors.text_of(errors.SECURE_TRANSPORT_REQUIRED),
        )
    return tls, Response.decode(body)


def _token(
    client: Exchange, response: Response, scramble: bytes, tls: TlsFacts | None, terms: ListenerTerms
) -> Generator[Any, Any, str]:
    """The client's password, which is its token.

    A client that answers for another plugin is switched to caching_sha2_password, whose full exchange brings the
    password itself. mysql_clear_password is taken from a client that chose it, inside TLS or where TLS is off.
    """
    plugin, answer = response.plugin, response.answer
    if plugin == auth.CLEAR and (tls is not None or terms.tls == "off"):
        return _string(answer)
    if not answer and plugin in (auth.CACHING_SHA2, auth.NATIVE):
        raise _no_token()
    if plugin != auth.CACHING_SHA2:
        yield from client.send(AuthSwitch(auth.CACHING_SHA2, scramble + b"\0").encode())
        answer = yield from client.receive()
    if answer in (b"", b"\0"):
        raise _no_token()
    yield from client.send(bytes((auth.MORE_DATA,)) + auth.FULL_AUTH)
    secret = yield from client.receive()
    if tls is not None:
        return _string(secret)
    key = auth.server_key()
    if secret == auth.ASK_KEY:
        yield from client.send(bytes((auth.MORE_DATA,)) + key.pem())
        secret = yield from client.receive()
    if len(secret) == key.size:
        return _string(key.decrypt(secret, scramble))
    if terms.tls == "off":  # some clients do not encrypt; whoever switches TLS off has taken that upon themselves
        return _string(secret)
    raise Refused(
        "the client sent its token in clear: use TLS, and have that token revoked",
        errors.text_of(errors.SECURE_TRANSPORT_REQUIRED),
    )


def _no_token() -> Refused:
    return Refused("authentication failed: no token was given; put one where the password goes", _ACCESS_DENIED)


def _string(raw: bytes) -> str:
    """A password with the NUL at its end. What is no token is refused, on record, by the verifier."""
    text = raw.removesuffix(b"\0")
    if b"\0" in text:
        raise ProtocolError("a password that is no single string", errors.HANDSHAKE_ERROR)
    return text.decode("ascii", "replace")


def _state(
    upstream: Exchange, ready: login.LoggedIn, started: Startup, admission: Admission
) -> Generator[Any, Any, SessionState]:
    """The session as the server has it: its defaults and its init_connect may have set anything."""
    flavour = ready.greeting.flavour
    asked = _SESSION.format(_READ_ONLY[flavour], _TIME_LIMIT[flavour])
    rows = yield from login.query(upstream, ready.capabilities, asked)
    if len(rows) != 1 or len(rows[0]) != 9:
        raise ProtocolError("the upstream does not say what holds in its session")
    try:
        values = [None if v is None else v.decode(startup.codec(started.charset)) for v in rows[0]]
    except UnicodeDecodeError:
        raise ProtocolError("the upstream says what holds in its session in another character set") from None
    mode, charset, collation, autocommit, folding, database, version, read_only, time_limit = values
    if folding not in ("0", "1", "2"):
        raise ProtocolError("the upstream has an unknown lower_case_table_names")
    version = version or ""
    state = SessionState(
        # not the greeting's version: that came before TLS
        flavour="mariadb" if "mariadb" in version.lower() else flavour,
        version=version_numbers(version),
        charset=charset_of(charset),
        collation=collation or "",
        sql_mode=modes_of(mode),
        database=database,
        multi_statements=C.MULTI_STATEMENTS in started.capabilities,
        lower_case_table_names=int(folding),
    )
    state.user = admission.credential.username
    state.status(ready.ok.status)
    state.autocommit = autocommit == "1"
    state.writable = read_only == "0"
    state.unlimited = time_limit in ("0", "0.000000")
    state.started()
    return state
