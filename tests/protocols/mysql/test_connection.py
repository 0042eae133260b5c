"""The packets of the connection phase."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mysql.capabilities import REQUIRED, Capability
from protocols.mysql.connection import (
    AuthSwitch,
    Greeting,
    Response,
    decode_ssl_request,
    is_ssl_request,
    ssl_request,
    version_numbers,
)
from protocols.mysql.errors import ProtocolError

C = Capability
MARIADB = bytes.fromhex(
    # 5.5.5-10.11.19-MariaDB, thread 5, LONG_PASSWORD unset, extended capabilities 0x1d
    "0a 352e352e352d31302e31312e31392d4d61726961444200 05000000 722b79427c6a2262 00 fef7 2d 0200 ff81 15"
    "000000000000 1d000000 4d397255323862655352 7e47 00 6d7973716c5f6e61746976655f70617373776f726400"
)

text = st.binary(max_size=30).filter(lambda b: b"\0" not in b)
long_flags = st.integers(0, 2**38 - 1).map(C)
challenges = st.binary(min_size=20, max_size=20).filter(lambda b: not b.endswith(b"\0"))


def shape(flags: Capability) -> Capability:
    """Flags as a peer can say them: the extended ones only without LONG_PASSWORD."""
    return flags & C(0xFFFFFFFF) if C.LONG_PASSWORD in flags else flags


greetings = st.builds(
    Greeting,
    text.filter(bool),
    st.integers(0, 2**32 - 1),
    challenges,
    long_flags.map(lambda f: shape(f | C.PLUGIN_AUTH)),
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    text,
)


@given(greetings)
def test_a_greeting(made: Greeting) -> None:
    assert Greeting.decode(made.encode()) == made


@st.composite
def responses(draw: st.DrawFn) -> Response:
    flags = shape(draw(long_flags) | C.PROTOCOL_41)
    counted = C.PLUGIN_AUTH_LENENC in flags or C.SECURE_CONNECTION in flags
    return Response(
        flags,
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 255)),
        draw(text),
        draw(st.binary(max_size=400 if C.PLUGIN_AUTH_LENENC in flags else 255) if counted else text),
        draw(text) if C.CONNECT_WITH_DB in flags else b"",
        draw(text) if C.PLUGIN_AUTH in flags else b"",
        tuple(draw(st.lists(st.tuples(text, text), max_size=3))) if C.CONNECT_ATTRS in flags else (),
    )


@given(responses())
def test_a_response(made: Response) -> None:
    assert Response.decode(made.encode()) == made


@given(responses(), st.data())
def test_a_response_is_read_to_its_end(made: Response, data: st.DataObject) -> None:
    with pytest.raises(ProtocolError):
        Response.decode(made.encode() + b"\0\0")
    cut = data.draw(st.integers(0, 31))
    with pytest.raises(ProtocolError):
        Response.decode(made.encode()[:cut])


@given(st.binary(max_size=120))
def test_arbitrary_bytes_raise_only_our_error(body: bytes) -> None:
    for decode in (Greeting.decode, Response.decode, AuthSwitch.decode, decode_ssl_request):
        for prefix in (b"", b"\x0a", b"\x00\xaa\xff\xff"):
            try:
                decode(prefix + body)
            except ProtocolError:
                continue


def test_the_greeting_of_mariadb() -> None:
    greeting = Greeting.decode(MARIADB)
    assert greeting.challenge == b'r+yB|j"bM9rU28beSR~G'
    assert greeting.plugin == b"mysql_native_password"
    assert C.MARIADB_BULK | C.MARIADB_PROGRESS | C.DEPRECATE_EOF in greeting.capabilities
    assert greeting.flavour == "mariadb"
    assert version_numbers(greeting.version.decode()) == (10, 11, 19)
    assert greeting.encode() == MARIADB


@pytest.mark.parametrize(
    ("version", "flags", "flavour", "numbers"),
    [
        (b"9.7.4-2", C.LONG_PASSWORD, "mysql", (9, 7, 4)),
        (b"5.7.44-log", C.LONG_PASSWORD, "mysql", (5, 7, 44)),
        (b"11.8.3-MariaDB-1", C(0), "mariadb", (11, 8, 3)),
        (b"8.0.11-TiDB-v7", C.LONG_PASSWORD, "mysql", (8, 0, 11)),
        (b"5.5.5-10.6.1-MariaDB", C.LONG_PASSWORD, "mariadb", (10, 6, 1)),
        (b"8.0.99", C(0), "mariadb", (8, 0, 99)),  # a MariaDB that is configured to say another version
        (b"next", C.LONG_PASSWORD, "mysql", ()),
    ],
)
def test_versions(version: bytes, flags: Capability, flavour: str, numbers: tuple[int, ...]) -> None:
    greeting = Greeting(version, 1, bytes(range(1, 21)), flags, 45, 2, b"")
    assert (greeting.flavour, version_numbers(version.decode())) == (flavour, numbers)


def test_a_greeting_without_the_last_nul() -> None:
    """MySQL 5.5.7 to 5.5.9 and some proxies (bug 59453)."""
    assert Greeting.decode(MARIADB[:-1]) == Greeting.decode(MARIADB)


@pytest.mark.parametrize(
    "body",
    [
        b"\x09" + MARIADB[1:],
        b"\x0a\0" + MARIADB[24:],
        MARIADB[:40],
        MARIADB[:-1] + b"x\0y\0",
        b"\x0a" + b"9" * 300 + b"\0" + MARIADB[24:],
    ],
)
def test_greetings_that_make_no_sense(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Greeting.decode(body)


def test_a_client_older_than_4_1() -> None:
    with pytest.raises(ProtocolError, match=r"older than 4\.1") as e:
        Response.decode(b"\x85\xa4\0\0\0root\0")
    assert e.value.code == (1251, "08004")


def test_row_02_attributes_longer_than_their_packet() -> None:
    made = Response(REQUIRED | C.CONNECT_ATTRS, 1, 45, b"ada", b"x", b"", b"p", ((b"a", b"b"),))
    body = made.encode()
    assert body.endswith(b"\4\1a\1b")
    for wrong in (b"\5\1a\1b", b"\4\1a\2b", b"\4\1a\1", b"\3\1a\1b", b"\xfe" + b"\xff" * 8):
        with pytest.raises(ProtocolError):
            Response.decode(body[:-5] + wrong)
    # the flag without the field: some clients have nothing to say
    assert Response.decode(body[:-5]).attributes == ()


def test_too_many_attributes() -> None:
    made = Response(REQUIRED | C.CONNECT_ATTRS, 1, 45, b"ada", b"x", b"", b"p", ((b"", b""),) * 1025)
    with pytest.raises(ProtocolError, match="too many"):
        Response.decode(made.encode())


def test_the_request_for_tls() -> None:
    flags = REQUIRED | C.SSL
    body = ssl_request(flags, 1 << 24, 45)
    assert is_ssl_request(body)
    assert decode_ssl_request(body) == (flags, 1 << 24, 45)
    assert not is_ssl_request(body + b"ada\0")
    assert not is_ssl_request(ssl_request(REQUIRED, 1, 45))


def test_an_answer_that_an_old_server_has_no_length_for() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        Response(REQUIRED, 1, 45, b"ada", bytes(256)).encode()


def test_switching_the_plugin() -> None:
    made = AuthSwitch(b"caching_sha2_password", bytes(range(1, 21)) + b"\0")
    assert AuthSwitch.decode(made.encode()) == made
    with pytest.raises(ProtocolError, match="too old"):
        AuthSwitch.decode(b"\xfe")
