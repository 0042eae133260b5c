"""The upstream's side of a handshake against upstreams that are honest, strange, or lie."""

from __future__ import annotations

import functools
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.contract import Credential, CredentialRefused, PeerGone, Refused, Side, UpstreamLogin, WireError
from protocols.mysql import auth, login
from protocols.mysql.capabilities import OWN, SHARED, Capability
from protocols.mysql.connection import AuthSwitch, Greeting, Response
from protocols.mysql.errors import ProtocolError, err_payload
from protocols.mysql.exchange import Exchange
from protocols.mysql.framing import packet
from protocols.mysql.messages import ColumnDefinition, Eof, Err, Ok, Status
from tests.support.handshake import Played, play
from tests.support.mysql_rows import encode_text_row

C = Capability
PASSWORD = "upstream-secret"
CHALLENGE = b'r+yB|j"bM9rU28beSR~G'
OFFERED = SHARED | OWN | C.SSL | C.COMPRESS | C.LOCAL_FILES | C.MARIADB_PROGRESS
GREETING = Greeting(b"9.7.4", 77, CHALLENGE, OFFERED & C(0xFFFFFFFF), 255, 2, auth.CACHING_SHA2)
OK = Ok(status=2)


def speaks(*bodies: bytes, first: int = 0) -> list[bytes]:
    """Packets of an upstream that answers each one of ours with one of its own."""
    return [packet(first + 2 * i, body) for i, body in enumerate(bodies)]


def logging_in(
    *, tls: bool = False, password: str = PASSWORD, database: str = ""
) -> Generator[Any, Any, login.LoggedIn]:
    upstream = Exchange(Side.UPSTREAM)
    greeting = yield from login.read_greeting(upstream)
    wanted = SHARED | C.COMPRESS | C.MULTI_FACTOR
    return (
        yield from login.log_in(
            upstream, greeting, Credential("gw", password), wanted, tls=tls, database=database, attributes=(("a", "b"),)
        )
    )


def against(*bodies: bytes, greeting: Greeting = GREETING, first: int = 0, **options: Any) -> Played:
    return play(logging_in(**options), [], speaks(greeting.encode(), *bodies, first=first))


def sent(played: Played) -> list[bytes]:
    """The payloads that went up."""
    out, data = [], played.upstream
    while data:
        length = int.from_bytes(data[:3], "little")
        out.append(data[4 : 4 + length])
        data = data[4 + length :]
    return out


def response(played: Played) -> Response:
    return Response.decode(sent(played)[0])


def test_a_login() -> None:
    played = against(OK.encode(C(0)), database="shop")
    assert played.error is None
    assert played.result.ok == OK
    said = response(played)
    assert (said.user, said.database, said.plugin) == (b"gw", b"shop", auth.CACHING_SHA2)
    assert said.answer == auth.caching_sha2(PASSWORD.encode(), CHALLENGE)
    assert said.attributes == ((b"a", b"b"),)
    assert said.capabilities == played.result.capabilities
    assert not said.capabilities & (C.COMPRESS | C.LOCAL_FILES | C.MULTI_FACTOR | C.SSL)


def test_without_a_database_none_is_asked_for() -> None:
    assert C.CONNECT_WITH_DB not in response(against(OK.encode(C(0)))).capabilities


def test_what_the_upstream_lacks_is_not_wanted() -> None:
    old = Greeting(b"5.7.1", 1, CHALLENGE, OWN | C.LONG_PASSWORD, 8, 2, auth.NATIVE)
    played = against(OK.encode(C(0)), greeting=old)
    assert played.result.capabilities == OWN & ~C.CONNECT_WITH_DB | C.LONG_PASSWORD
    assert response(played).answer == auth.native_password(PASSWORD.encode(), CHALLENGE)


def test_the_fast_path() -> None:
    played = play(
        logging_in(),
        [],
        [packet(0, GREETING.encode()), packet(2, b"\1\3") + packet(3, OK.encode(C(0)))],
    )
    assert played.error is None
    assert len(sent(played)) == 1


def test_full_authentication_inside_tls() -> None:
    played = play(
        logging_in(tls=True),
        [],
        [packet(0, GREETING.encode()), packet(3, b"\1\4"), packet(5, OK.encode(C(0)))],
    )
    assert played.error is None
    assert played.names == ["StartTls"]
    request, answer, password = sent(played)
    assert len(request) == 32
    assert C.SSL in Response.decode(answer).capabilities
    assert password == PASSWORD.encode() + b"\0"


@functools.cache
def key() -> auth.ServerKey:
    return auth.ServerKey(2048)


@pytest.mark.parametrize("plugin", [auth.CACHING_SHA2, auth.SHA256])
def test_full_authentication_without_tls_is_encrypted(plugin: bytes) -> None:
    if plugin == auth.CACHING_SHA2:
        played = against(b"\1\4", b"\1" + key().pem(), OK.encode(C(0)))
        asked, secret = sent(played)[1:]
        assert asked == b"\2"
    else:
        switch = AuthSwitch(plugin, CHALLENGE + b"\0").encode()
        played = against(switch, b"\1" + key().pem(), OK.encode(C(0)))
        asked, secret = sent(played)[1:]
        assert asked == b"\1"
    assert played.error is None
    assert PASSWORD.encode() not in played.upstream
    assert key().decrypt(secret, CHALLENGE) == PASSWORD.encode() + b"\0"


@pytest.mark.parametrize(
    ("plugin", "challenge", "answer"),
    [
        (auth.NATIVE, CHALLENGE[::-1] + b"\0", auth.native_password(PASSWORD.encode(), CHALLENGE[::-1])),
        (auth.CACHING_SHA2, CHALLENGE[::-1] + b"\0", auth.caching_sha2(PASSWORD.encode(), CHALLENGE[::-1])),
        (auth.ED25519, bytes(31) + b"\0", auth.ed25519(PASSWORD.encode(), bytes(32))),  # a NUL that is part of it
    ],
)
def test_the_upstream_switches_the_plugin(plugin: bytes, challenge: bytes, answer: bytes) -> None:
    played = against(AuthSwitch(plugin, challenge).encode(), OK.encode(C(0)))
    assert played.error is None
    assert sent(played)[1] == answer


def test_the_password_in_clear_goes_through_tls_alone() -> None:
    switch = AuthSwitch(auth.CLEAR, b"").encode()
    played = play(
        logging_in(tls=True), [], [packet(0, GREETING.encode()), packet(3, switch), packet(5, OK.encode(C(0)))]
    )
    assert sent(played)[2] == PASSWORD.encode() + b"\0"
    played = against(switch)
    assert isinstance(played.error, Refused)
    assert "in clear without TLS" in str(played.error)
    assert PASSWORD.encode() not in played.upstream


def test_an_upstream_without_tls_where_it_is_required() -> None:
    played = against(greeting=Greeting(b"9.7.4", 1, CHALLENGE, OWN, 8, 2, auth.NATIVE), tls=True)
    assert isinstance(played.error, Refused)
    assert "does not offer TLS" in str(played.error)
    assert played.upstream == b""


LIES: dict[str, list[bytes]] = {
    "a file request": [b"\xfb/etc/passwd"],
    "a second factor": [b"\2mysql_native_password\0" + CHALLENGE],
    "rows": [b"\5rows!"],
    "nothing": [b""],
    "a plugin that goes on without being one": [AuthSwitch(auth.NATIVE, CHALLENGE).encode(), b"\1\4"],
    "two switches": [AuthSwitch(auth.NATIVE, CHALLENGE).encode()] * 2,
    "the hash of MySQL 4.0": [b"\xfe"],
    "a plugin without end": [b"\1\3"] * 12,
    "a challenge too short": [AuthSwitch(auth.NATIVE, b"short").encode()],
    "a challenge too short to sign": [AuthSwitch(auth.ED25519, CHALLENGE).encode()],
    "a key that is none": [b"\1\4", b"\1no key"],
    "an OK cut short": [b"\0\0\0\2"],
    "an OK with too much": [OK.encode(C(0)) + b"\xff" * 9],
    "a wrong word of the plugin": [b"\1\7"],
}


@pytest.mark.parametrize("name", LIES)
def test_an_upstream_that_lies(name: str) -> None:
    bodies = LIES[name]
    if name == "a plugin without end":  # it talks alone: nothing of ours lies between
        parts = [packet(0, GREETING.encode()), b"".join(packet(2 + i, b) for i, b in enumerate(bodies))]
        played = play(logging_in(), [], parts)
    else:
        played = against(*bodies)
    assert isinstance(played.error, ProtocolError), played.error
    assert PASSWORD.encode() not in played.upstream


@pytest.mark.parametrize(
    "data",
    [
        packet(1, GREETING.encode()),
        packet(0, GREETING.encode()) + b"more",
        packet(0, b"\x0a"),
        packet(0, b"SSH-2.0-OpenSSH"),
        b"\xff\xff\xff\0",
        packet(0, Greeting(b"4.0.1", 1, CHALLENGE, C.PROTOCOL_41, 8, 2, b"").encode()),
    ],
)
def test_what_is_no_greeting(data: bytes) -> None:
    played = play(logging_in(), [], [data])
    assert isinstance(played.error, ProtocolError), played.error
    assert played.upstream == b""


def test_row_05_bytes_behind_the_ok() -> None:
    played = play(logging_in(), [], [packet(0, GREETING.encode()), packet(2, OK.encode(C(0))) + b"x"])
    assert isinstance(played.error, ProtocolError)


@pytest.mark.parametrize(
    ("errno", "kind", "told"),
    [
        (1045, CredentialRefused, False),
        (1698, CredentialRefused, False),
        (1862, CredentialRefused, False),
        (4151, CredentialRefused, False),
        (1044, Refused, False),
        (1129, Refused, False),
        (1040, Refused, True),
        (1049, Refused, True),
        (1053, Refused, True),
    ],
)
def test_what_a_client_may_know_of_a_failed_login(errno: int, kind: type[Refused], told: bool) -> None:
    words = "the words of the upstream about gw"
    for bodies in ([GREETING.encode(), err_payload((errno, "08004"), words)], [err_payload((errno, "08004"), words)]):
        played = play(logging_in(), [], speaks(*bodies))
        assert type(played.error) is kind
        assert (words in str(played.error)) is told
        assert told or words in str(played.error.__cause__)


def test_a_plugin_that_the_gateway_lacks_is_named_in_the_log_only() -> None:
    played = against(AuthSwitch(b"auth_gssapi_client", b"principal").encode())
    assert isinstance(played.error, Refused)
    assert "gssapi" not in str(played.error)
    assert "gssapi" in str(played.error.__cause__)


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_arbitrary_packets(bodies: list[bytes]) -> None:
    played = against(*bodies)
    assert isinstance(played.error, (WireError, Refused, PeerGone)) or played.result
    assert PASSWORD.encode() not in played.upstream


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    played = play(logging_in(), [], [data] if data else [])
    assert played.error is not None
    assert played.upstream == b""


# ---------------------------------------------------------------- a question of the gateway's own

COLUMN = ColumnDefinition(b"", b"", b"", b"a", b"", 45, 4, 253, 0, 0).encode()
ROWS: list[list[bytes | None]] = [[b"1"], [None], [b"\xfe" * 20]]


def answer(deprecated: bool, status: int = 2, error: bool = False) -> bytes:
    """A result of one column and three rows in one piece."""
    end = Ok(status=status, eof=True).encode(C(0)) if deprecated else Eof(0, status).encode()
    bodies = [b"\1", COLUMN, *([] if deprecated else [Eof(0, 2).encode()]), *map(encode_text_row, ROWS)]
    bodies.append(Err(1317, "70100", b"interrupted").encode() if error else end)
    return b"".join(packet(1 + i, body) for i, body in enumerate(bodies))


def asking(deprecated: bool, **bounds: int) -> Generator[Any, Any, list[list[bytes | None]]]:
    upstream = Exchange(Side.UPSTREAM)
    upstream.sequence = 9  # whatever was before
    return login.query(upstream, C.DEPRECATE_EOF if deprecated else C(0), "SELECT 1", **bounds)


@pytest.mark.parametrize("deprecated", [True, False])
def test_a_question(deprecated: bool) -> None:
    data = answer(deprecated)
    for parts in ([data], [bytes((b,)) for b in data]):
        played = play(asking(deprecated), [], parts)
        assert played.error is None
        assert played.result == ROWS
        assert played.upstream == packet(0, b"\3SELECT 1")


@pytest.mark.parametrize("deprecated", [True, False])
def test_answers_that_are_none(deprecated: bool) -> None:
    assert isinstance(play(asking(deprecated), [], [answer(deprecated, error=True)]).error, login.QueryFailed)
    more = answer(deprecated, Status.MORE_RESULTS)
    for wrong in (more, answer(deprecated) + b"x", packet(1, b"\xfbfile"), packet(2, b"\1"), packet(1, b"")):
        assert isinstance(play(asking(deprecated), [], [wrong]).error, ProtocolError)


def test_an_answer_is_bounded() -> None:
    for bounds in ({"max_rows": 2}, {"max_bytes": 10}):
        assert isinstance(play(asking(True, **bounds), [], [answer(True)]).error, ProtocolError)


def test_a_statement_without_result() -> None:
    assert play(asking(True), [], [packet(1, OK.encode(C(0)))]).result == []


OWN_LOGIN = UpstreamLogin(Credential("gw", PASSWORD), "", False, b"")


def cancelled(said: bytes) -> Played:
    parts = [*speaks(GREETING.encode(), OK.encode(C(0))), packet(1, said)]
    return play(login.cancel(OWN_LOGIN, 77), [], parts)


def test_row_19_cancelling() -> None:
    played = cancelled(OK.encode(C(0)))
    assert played.error is None
    assert sent(played)[1:] == [b"\3KILL QUERY 77", b"\1"]


def test_a_session_that_is_gone_is_cancelled() -> None:
    assert cancelled(err_payload((1094, "HY000"), "Unknown thread id: 77")).error is None


def test_a_cancel_that_is_refused() -> None:
    error = cancelled(err_payload((1095, "HY000"), "You are not owner of thread 77")).error
    assert isinstance(error, Refused)
    assert "owner" not in str(error)
