"""The whole handshake, as transcripts: what each side says, what is asked of the process around it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.contract import (
    Admission,
    Authenticate,
    Credential,
    CredentialRefused,
    KeepKey,
    ListenerTerms,
    PeerGone,
    Refused,
    StartTls,
    WireError,
)
from protocols.mysql import auth, errors, handshake
from protocols.mysql.capabilities import OWN, SHARED, Capability
from protocols.mysql.connection import AuthSwitch, Greeting, Response, ssl_request
from protocols.mysql.errors import ProtocolError, err_payload
from protocols.mysql.framing import packet
from protocols.mysql.messages import ColumnDefinition, Eof, Err, Ok
from tests.support.handshake import NONCE, Played, admitted, play
from tests.support.mysql_login import Memory
from tests.support.mysql_rows import encode_text_row

C = Capability
REQUIRED_TLS = ListenerTerms("required")
OPTIONAL = ListenerTerms("optional")
OFF = ListenerTerms("off")
TOKEN = b"header.payload.signature"
SCRAMBLE = auth.scramble_of(NONCE)
CHALLENGE = b'r+yB|j"bM9rU28beSR~G'
OFFERED = (SHARED | OWN | C.SSL | C.COMPRESS | C.LOCAL_FILES | C.QUERY_ATTRIBUTES) & C(0xFFFFFFFF)
UPSTREAM = Greeting(b"9.7.4", 77, CHALLENGE, OFFERED, 255, 2, auth.CACHING_SHA2)
CLAIMED = OWN | C.SSL | C.LONG_PASSWORD | C.MULTI_RESULTS | C.MULTI_STATEMENTS | C.SESSION_TRACK
COLUMN = ColumnDefinition(b"", b"", b"", b"a", b"", 45, 4, 253, 0, 0).encode()
SESSION = [
    b"ANSI_QUOTES,STRICT_TRANS_TABLES",
    b"utf8mb4",
    b"utf8mb4_general_ci",
    b"1",
    b"0",
    b"shop",
    b"9.7.4",
    b"0",
    b"0",
]
OK = Ok(status=2)


def remembered(greeting: Greeting | None = UPSTREAM) -> Memory:
    memory = Memory()
    memory.greeting = greeting
    return memory


def result(row: list[bytes | None], deprecated: bool) -> bytes:
    end = Ok(status=2, eof=True).encode(C(0)) if deprecated else Eof(0, 2).encode()
    middle = [] if deprecated else [Eof(0, 2).encode()]
    bodies = [bytes((len(row),)), *[COLUMN] * len(row), *middle, encode_text_row(row), end]
    return b"".join(packet(1 + i, body) for i, body in enumerate(bodies))


def server(
    *, greeting: Greeting = UPSTREAM, ok: Ok = OK, row: list[bytes | None] | None = None, claimed: C = CLAIMED
) -> list[bytes]:
    """An upstream that lets the gateway in, without TLS."""
    ok_body = ok.encode(claimed & C.SESSION_TRACK)
    answer = result(list(SESSION) if row is None else row, C.DEPRECATE_EOF in claimed)
    return [packet(0, greeting.encode()), packet(2, ok_body), answer]


def response(
    plugin: bytes = auth.CACHING_SHA2, answer: bytes = bytes(32), claimed: Capability = CLAIMED, **more: Any
) -> bytes:
    given: dict[str, Any] = {
        "user": b"ada",
        "database": b"shop",
        "attributes": ((b"program_name", b"nightly"),),
        "charset": 45,
    } | more
    return Response(claimed, 1 << 24, plugin=plugin, answer=answer, **given).encode()


def tls_client(body: bytes | None = None, token: bytes = TOKEN) -> list[bytes]:
    """Asks for TLS, answers, and sends its token when it is asked for it."""
    return [
        packet(1, ssl_request(CLAIMED, 1 << 24, 45)),
        packet(2, response() if body is None else body),
        packet(4, token + b"\0"),
    ]


def login(
    client: list[bytes] | None = None,
    *,
    upstream: list[Any] | None = None,
    terms: ListenerTerms = REQUIRED_TLS,
    memory: Memory | None = None,
    admission: Admission | Exception | None = None,
) -> Played:
    return play(
        handshake.serve(terms, NONCE, remembered() if memory is None else memory),
        tls_client() if client is None else client,
        server() if upstream is None else upstream,
        admission=admission,
    )


def told(played: Played) -> list[tuple[int, bytes]]:
    """(sequence number, payload) of what the client got."""
    out, data = [], played.client
    while data:
        length = int.from_bytes(data[:3], "little")
        out.append((data[3], data[4 : 4 + length]))
        data = data[4 + length :]
    return out


def last_error(played: Played) -> Err:
    _, body = told(played)[-1]
    assert played.error is not None
    return Err.decode(body)


def test_a_login_with_a_token() -> None:
    played = login()
    assert played.error is None
    assert played.names == ["ReserveId", "StartTls", "Authenticate", "Connect", "KeepKey", "Register"]
    assert [sequence for sequence, _ in told(played)] == [0, 3, 5]
    greeting = Greeting.decode(told(played)[0][1])
    assert (greeting.version, greeting.connection, greeting.plugin) == (b"9.7.4", 4711, auth.CACHING_SHA2)
    assert greeting.challenge == SCRAMBLE
    assert told(played)[1:] == [(3, b"\1\4"), (5, OK.encode(C.SESSION_TRACK))]
    asked = next(a for a in played.asked if isinstance(a, Authenticate))
    assert (asked.token, asked.claimed_user, asked.database) == (TOKEN.decode(), "ada", "shop")
    assert (asked.application, asked.attributes) == ("nightly", (("program_name", "nightly"),))
    kept = next(a for a in played.asked if isinstance(a, KeepKey))
    assert (kept.pid, kept.secret, kept.length) == (77, b"", 0)


def test_what_is_handed_over() -> None:
    done = login().result
    assert (done.connection_id, done.upstream_id) == (4711, 77)
    assert done.capabilities == CLAIMED & ~C.SSL | C.SSL
    assert (done.client, done.upstream) == (b"", b"")
    state = done.state
    assert state.sql_mode == {"ANSI_QUOTES", "STRICT_TRANS_TABLES"}
    assert (state.charset, state.collation, state.database) == ("utf8mb4", "utf8mb4_general_ci", "shop")
    assert (state.flavour, state.version, state.lower_case_table_names) == ("mysql", (9, 7, 4), 0)
    assert state.multi_statements
    assert state.autocommit
    assert not state.in_transaction
    assert state.user == "app"
    assert state.writable
    assert state.unlimited


def test_the_upstream_never_sees_the_token_nor_the_client_the_credential() -> None:
    played = login()
    assert TOKEN not in played.upstream
    assert b"ada" not in played.upstream
    assert b"upstream-secret" not in played.client
    assert b"nightly" in played.upstream


def test_the_first_connection_learns_how_the_upstream_greets() -> None:
    memory = Memory()
    played = login(memory=memory)
    assert played.error is None
    assert played.names == ["Connect", "ReserveId", "StartTls", "Authenticate", "KeepKey", "Register"]
    assert memory.greeting is not None
    assert (memory.greeting.version, memory.greeting.connection) == (b"9.7.4", 0)
    assert login(memory=memory).names[0] == "ReserveId"


@pytest.mark.parametrize(
    "now",
    [
        Greeting(b"9.8.0", 77, CHALLENGE, OFFERED, 255, 2, auth.CACHING_SHA2),
        Greeting(b"9.7.4", 77, CHALLENGE, OFFERED & ~C.DEPRECATE_EOF, 255, 2, auth.CACHING_SHA2),
    ],
)
def test_an_upstream_that_is_another_than_before(now: Greeting) -> None:
    """The client was told of another server: refused, and right the next time."""
    memory = remembered()
    played = login(memory=memory, upstream=server(greeting=now))
    assert isinstance(played.error, Refused)
    assert "connect again" in str(played.error)
    assert b"upstream-secret" not in played.upstream
    assert login(memory=memory, upstream=server(greeting=now)).error is None


def test_what_the_upstream_offers_is_what_the_client_may_have() -> None:
    old = Greeting(b"5.7.1", 1, CHALLENGE, OWN | C.LONG_PASSWORD | C.MULTI_RESULTS, 8, 2, auth.NATIVE)
    played = login([], memory=remembered(old))
    offered = Greeting.decode(told(played)[0][1]).capabilities
    assert offered == OWN | C.LONG_PASSWORD | C.MULTI_RESULTS | C.SSL


@pytest.mark.parametrize(
    "claimed", [CLAIMED, CLAIMED | C.DEPRECATE_EOF, CLAIMED & ~C.SESSION_TRACK & ~C.MULTI_STATEMENTS]
)
def test_both_legs_speak_the_same_variant(claimed: Capability) -> None:
    played = login(tls_client(response(claimed=claimed)), upstream=server(claimed=claimed))
    assert played.error is None
    up = Response.decode(played.upstream[4 : 4 + int.from_bytes(played.upstream[:3], "little")])
    assert up.capabilities & SHARED == claimed & SHARED | C.LONG_PASSWORD


def test_the_answer_of_another_plugin_is_switched() -> None:
    client = [*tls_client(response(auth.NATIVE, bytes(20)))[:2], packet(4, bytes(32)), packet(6, TOKEN + b"\x00")]
    played = login(client)
    assert played.error is None
    assert told(played)[1:3] == [(3, AuthSwitch(auth.CACHING_SHA2, SCRAMBLE + b"\0").encode()), (5, b"\1\4")]


def test_a_password_in_clear_inside_tls_is_taken_at_once() -> None:
    played = login(tls_client(response(auth.CLEAR, TOKEN + b"\0"))[:2])
    assert played.error is None
    assert told(played)[-1] == (3, OK.encode(C.SESSION_TRACK))


@pytest.mark.parametrize("size", [256, 2048, 8192, 60_000])
def test_long_tokens(size: int) -> None:
    played = login(tls_client(token=b"t" * size))
    assert played.error is None
    assert next(a for a in played.asked if isinstance(a, Authenticate)).token == "t" * size
    clear = login(tls_client(response(auth.CLEAR, b"t" * size + b"\0", attributes=()))[:2])
    assert clear.error is None


def test_the_client_hello_in_the_same_segment_is_tls() -> None:
    request, *rest = tls_client()
    played = login([request + b"\x16\3\1\2\0hello", *rest])
    assert played.error is None
    assert next(a for a in played.asked if isinstance(a, StartTls)).received == b"\x16\3\1\2\0hello"


def test_row_05_cleartext_behind_the_request_for_tls() -> None:
    request, body, token = tls_client()
    played = login([request + body, token])
    assert isinstance(played.error, ProtocolError)
    assert played.names == ["ReserveId"]
    assert last_error(played).errno == errors.HANDSHAKE_ERROR[0]


def test_a_request_for_tls_inside_tls() -> None:
    played = login([packet(1, ssl_request(CLAIMED, 1, 45)), packet(2, ssl_request(CLAIMED, 1, 45))])
    assert isinstance(played.error, ProtocolError)
    assert "Authenticate" not in played.names


def test_a_client_without_tls_where_it_is_required() -> None:
    played = login([packet(1, response(claimed=CLAIMED & ~C.SSL))])
    assert isinstance(played.error, Refused)
    assert last_error(played).errno == errors.SECURE_TRANSPORT_REQUIRED[0]
    assert told(played)[-1][0] == 2
    assert played.names == ["ReserveId"]


def test_tls_where_it_is_off() -> None:
    assert C.SSL not in Greeting.decode(told(login([], terms=OFF))[0][1]).capabilities
    played = login(terms=OFF)
    assert isinstance(played.error, ProtocolError)
    assert "StartTls" not in played.names


def plain(*more: bytes, plugin: bytes = auth.CACHING_SHA2, answer: bytes = bytes(32)) -> list[bytes]:
    return [packet(1, response(plugin, answer, CLAIMED & ~C.SSL)), *more]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> auth.ServerKey:
    made = auth.ServerKey(2048)
    monkeypatch.setattr(auth, "server_key", lambda: made)
    return made


@pytest.mark.parametrize("terms", [OPTIONAL, OFF])
def test_without_tls_the_token_comes_encrypted(terms: ListenerTerms, key: auth.ServerKey) -> None:
    secret = auth.encrypt(TOKEN, SCRAMBLE, key.pem())
    played = login(plain(packet(3, auth.ASK_KEY), packet(5, secret)), terms=terms)
    assert played.error is None
    assert told(played)[2] == (4, b"\1" + key.pem())
    # a client that has the key already does not ask for it
    again = login(plain(packet(3, secret)), terms=terms)
    assert again.error is None
    assert TOKEN.decode() in [a.token for a in again.asked if isinstance(a, Authenticate)]


def test_a_token_in_clear_without_tls(key: auth.ServerKey) -> None:
    """A client that sends it all the same is told that it is exposed; where TLS is off it is taken."""
    played = login(plain(packet(3, TOKEN + b"\0")), terms=OPTIONAL)
    assert isinstance(played.error, Refused)
    assert "revoked" in last_error(played).message.decode()
    assert "Authenticate" not in played.names
    assert login(plain(packet(3, TOKEN + b"\0")), terms=OFF).error is None
    assert login(plain(plugin=auth.CLEAR, answer=TOKEN + b"\0"), terms=OFF).error is None
    # where it is optional the plugin is switched, so that a client which can encrypts
    switched = login(plain(plugin=auth.CLEAR, answer=TOKEN + b"\0"), terms=OPTIONAL)
    assert told(switched)[1][1][:1] == b"\xfe"
    assert "Authenticate" not in switched.names


def test_a_secret_that_the_key_does_not_decrypt(key: auth.ServerKey) -> None:
    played = login(plain(packet(3, bytes(key.size))), terms=OFF)
    assert isinstance(played.error, ProtocolError)
    assert "Authenticate" not in played.names


@pytest.mark.parametrize(
    "client",
    [
        tls_client(response(answer=b""))[:2],
        tls_client(response(answer=b"\0"))[:2],
        tls_client(response(auth.NATIVE, b""))[:2],
        [*tls_client(response(auth.ED25519, b""))[:2], packet(4, b"")],
    ],
)
def test_no_token_at_all(client: list[bytes]) -> None:
    played = login(client)
    assert isinstance(played.error, Refused)
    assert last_error(played).errno == 1045
    assert "no token" in str(played.error)


def test_a_password_with_a_nul_in_it() -> None:
    played = login(tls_client(token=b"a\0b"))
    assert isinstance(played.error, ProtocolError)
    assert "Authenticate" not in played.names


def test_row_29_a_token_that_is_refused() -> None:
    played = login(admission=Refused("authentication failed: the token has expired", "28P01"))
    error = last_error(played)
    assert (error.errno, error.sqlstate) == errors.ACCESS_DENIED
    assert b"expired" in error.message
    assert told(played)[-1][0] == 5
    assert "Connect" not in played.names


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("53300", errors.CON_COUNT_ERROR),
        ("3D000", errors.BAD_DB),
        ("28000", errors.ACCESS_DENIED),
        ("58030", errors.ERROR_ON_WRITE),
        ("57P03", errors.SERVER_SHUTDOWN),
        ("", errors.ACCESS_DENIED),
        ("XX999", errors.UNKNOWN_ERROR),
    ],
)
def test_refusals_of_the_gate_in_the_words_of_this_protocol(code: str, expected: tuple[int, str]) -> None:
    error = last_error(login(admission=Refused("no", code)))
    assert (error.errno, error.sqlstate) == expected


def test_an_upstream_that_cannot_be_reached_before_the_greeting() -> None:
    """The first packet is then an error, in the form that a client expects there: without SQLSTATE."""
    played = login(memory=Memory(), upstream=[])
    assert isinstance(played.error, PeerGone)  # the driver makes a refusal of it
    generator = handshake.serve(REQUIRED_TLS, NONCE, Memory())
    next(generator)
    words = generator.throw(Refused("the gateway cannot reach the upstream", "08001"))
    assert words.data == packet(0, b"\xff\x95\x05the gateway cannot reach the upstream")
    with pytest.raises(Refused):
        next(generator)


def test_a_refusal_of_the_upstream_before_the_greeting_is_passed_on_where_it_may_be() -> None:
    full = [packet(0, b"\xff\x10\x04Too many connections")]
    assert last_error(login(memory=Memory(), upstream=full)) == Err(1040, "", b"Too many connections")
    blocked = [packet(0, b"\xff\x69\x04Host '10.0.0.7' is blocked")]
    assert b"10.0.0.7" not in last_error(login(memory=Memory(), upstream=blocked)).message


def test_something_else_than_a_database_behind_the_listener() -> None:
    memory = Memory()
    played = login(memory=memory, upstream=[b"SSH-2.0-OpenSSH_9.2\r\n"])
    assert isinstance(played.error, Refused)
    assert memory.greeting is None


def test_a_credential_that_the_upstream_refuses() -> None:
    played = login(upstream=[packet(0, UPSTREAM.encode()), packet(2, err_payload(errors.ACCESS_DENIED, "for 'gw'"))])
    assert isinstance(played.error, CredentialRefused)
    assert b"gw" not in last_error(played).message


ROWS: dict[str, list[bytes | None]] = {
    "too few": [b""],
    "no number": [b"", b"utf8mb4", b"x", b"1", b"three", None, b"9", b"0", b"0"],
    "not in UTF-8": [b"", b"utf8mb4", b"x", b"1", b"0", b"\xff", b"9", b"0", b"0"],
}


@pytest.mark.parametrize("name", ROWS)
def test_an_upstream_that_does_not_say_what_holds(name: str) -> None:
    played = login(upstream=server(row=ROWS[name]))
    assert isinstance(played.error, Refused)
    assert "could not log in" in str(played.error)


def test_an_upstream_that_fails_the_question() -> None:
    upstream = [*server()[:2], packet(1, err_payload((1290, "HY000"), "no"))]
    assert isinstance(login(upstream=upstream).error, Refused)


def test_a_mode_or_character_set_that_is_not_known_is_not_guessed() -> None:
    state = login(
        upstream=server(row=[b"NEW_MODE_2030", b"klingon", None, b"0", b"1", None, None, b"1", b"5"])
    ).result.state
    assert (state.sql_mode, state.version) == (None, ())
    assert state.charset is None
    assert state.database is None
    assert not state.autocommit
    assert not state.writable
    assert not state.unlimited


def test_the_version_is_what_the_server_says_inside_tls() -> None:
    """The greeting came in clear: what it says of the version must not decide what a comment with one does."""
    state = login(upstream=server(row=[*SESSION[:6], b"5.5.5-10.11.6-MariaDB", *SESSION[7:]])).result.state
    assert (state.flavour, state.version) == ("mariadb", (10, 11, 6))


@pytest.mark.parametrize("allowed", [False, True])
def test_files_of_the_client_are_offered_where_the_listener_says_so(allowed: bool) -> None:
    terms = ListenerTerms("required", local_files=allowed)
    played = login(tls_client(response(claimed=CLAIMED | C.LOCAL_FILES)), terms=terms)
    assert played.error is None
    assert (C.LOCAL_FILES in Greeting.decode(told(played)[0][1]).capabilities) is allowed
    assert (C.LOCAL_FILES in played.result.capabilities) is allowed
    up = Response.decode(played.upstream[4 : 4 + int.from_bytes(played.upstream[:3], "little")])
    assert (C.LOCAL_FILES in up.capabilities) is allowed


def test_a_name_that_the_character_set_does_not_have() -> None:
    nothing = admitted()
    there = Admission(nothing.principal, nothing.resource, Credential("łukasz", "x"), "shop", False)
    assert login(admission=there).error is None
    played = login(tls_client(response(charset=8)), admission=there)
    assert isinstance(played.error, Refused)


def test_the_login_leaves_no_database_where_none_is_asked_for() -> None:
    nothing = admitted()
    played = login(
        tls_client(response(database=b"")),
        admission=Admission(nothing.principal, nothing.resource, nothing.credential, "", False),
        upstream=server(row=[*SESSION[:5], None, *SESSION[6:]]),
    )
    assert played.error is None
    assert played.result.state.database is None
    assert next(a for a in played.asked if isinstance(a, Authenticate)).database == ""


def test_bytes_behind_the_token_are_kept_for_the_session() -> None:
    *first, token = tls_client()
    ping = packet(0, b"\x0e")
    assert login([*first, token + ping]).result.client == ping


def test_bytes_behind_the_upstreams_ok_are_a_lie() -> None:
    greeting, ok, answer = server()
    assert isinstance(login(upstream=[greeting, ok + packet(3, b"\0"), answer]).error, Refused)
    assert isinstance(login(upstream=[greeting, ok, answer + b"x"]).error, Refused)


WRONG: dict[str, list[bytes]] = {
    "a sequence number too high": [packet(2, ssl_request(CLAIMED, 1, 45))],
    "a length that cannot be": [b"\xff\xff\xff\1"],
    "an HTTP request": [b"GET / HTTP/1.1\r\n\r\n"],
    "a TLS ClientHello": [b"\x16\3\1\2\0\1\0\1\xfc"],
    "nothing in a packet": [packet(1, b"")],
    "a response cut short": [packet(1, ssl_request(CLAIMED, 1, 45)), packet(2, response()[:-1])],
    "a wrong number for the token": [*tls_client()[:2], packet(3, TOKEN)],
    "a token too long": [*tls_client()[:2], packet(4, bytes(70_000))],
}


@pytest.mark.parametrize("name", WRONG)
def test_row_02_a_client_that_lies(name: str) -> None:
    played = login(WRONG[name])
    assert isinstance(played.error, (ProtocolError, Refused)), played.error
    assert "Authenticate" not in played.names
    Err.decode(told(played)[-1][1])


def test_any_pieces_give_the_same_session() -> None:
    """The client's bytes one by one; only the request for TLS must come whole, and alone."""
    request, *rest = tls_client()
    played = login([request, *(bytes((b,)) for part in rest for b in part)])
    assert played.client == login().client
    assert played.upstream == login().upstream


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=5), st.sampled_from(["required", "optional"]))
def test_arbitrary_clients(parts: list[bytes], tls: str) -> None:
    played = login(parts, terms=ListenerTerms(tls))
    assert isinstance(played.error, (WireError, Refused, PeerGone))
    assert "Connect" not in played.names


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_arbitrary_packets_inside_tls(bodies: list[bytes]) -> None:
    request = packet(1, ssl_request(CLAIMED, 1, 45))
    played = login([request, *(packet(2 + 2 * i, body) for i, body in enumerate(bodies))])
    assert isinstance(played.error, (WireError, Refused, PeerGone))
    assert "Connect" not in played.names


@given(st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=5))
def test_arbitrary_upstreams(parts: list[bytes]) -> None:
    for memory in (Memory(), remembered()):
        played = login(memory=memory, upstream=parts)
        assert isinstance(played.error, (Refused, PeerGone))


def test_the_last_words_have_the_right_number_wherever_it_waits() -> None:
    """A driver that gives up throws a refusal in: at each place the client gets a packet that fits there."""
    expected = {0: 0, 1: 1, 2: 2, 3: 2, 4: 4, 5: 5}  # id, request, TLS, response, token, its verification
    seen = {}
    for count in expected:
        generator = handshake.serve(REQUIRED_TLS, NONCE, remembered())
        waits = play(_stopped(generator, count), tls_client(), server())
        seen[count] = told(waits)[-1][0]
    assert seen == expected


def _stopped(generator: Any, count: int) -> Any:
    """The handshake, refused at the `count`-th thing that it asks besides sending."""
    answer: Any = None
    index = 0
    asked = next(generator)
    while True:
        if type(asked).__name__ != "Send":
            if index == count:
                asked = generator.throw(Refused("the login took too long", "57014"))
                index += 1
                continue
            index += 1
        answer = yield asked
        asked = generator.send(answer)
