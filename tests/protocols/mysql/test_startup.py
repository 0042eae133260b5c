"""What of a client's handshake response may pass."""

from __future__ import annotations

import dataclasses

import pytest

from protocols.contract import Refused
from protocols.mysql import errors, startup
from protocols.mysql.capabilities import REQUIRED, Capability, offered
from protocols.mysql.connection import Response

C = Capability
OFFER = offered(C((1 << 38) - 1), tls=True)
RESPONSE = Response(REQUIRED | C.MULTI_RESULTS | C.CONNECT_ATTRS, 1 << 24, 45, b"ada", b"x", b"shop", b"p")


def refused(**change: object) -> Refused:
    with pytest.raises(Refused) as e:
        startup.check(dataclasses.replace(RESPONSE, **change), OFFER)  # type: ignore[arg-type]  # any field
    return e.value


def test_an_ordinary_client() -> None:
    found = startup.check(RESPONSE, OFFER)
    assert (found.user, found.database, found.charset) == ("ada", "shop", 45)
    assert found.capabilities == RESPONSE.capabilities


@pytest.mark.parametrize(
    "flag", [C.COMPRESS, C.ZSTD, C.OPTIONAL_RESULTSET_METADATA, C.MARIADB_CACHE_METADATA, C.MARIADB_BULK]
)
def test_row_06_a_capability_that_was_not_offered(flag: Capability) -> None:
    error = refused(capabilities=RESPONSE.capabilities | flag)
    assert errors.code_of(error.code) == errors.HANDSHAKE_ERROR
    assert (flag.name or "").lower() in str(error)


def test_claims_that_mean_nothing_are_dropped() -> None:
    claimed = RESPONSE.capabilities | C.LOCAL_FILES | C.QUERY_ATTRIBUTES | C.ODBC
    assert startup.check(dataclasses.replace(RESPONSE, capabilities=claimed), OFFER).capabilities == (
        RESPONSE.capabilities
    )


@pytest.mark.parametrize("flag", list(REQUIRED), ids=lambda f: f.name)
def test_a_client_that_is_too_old(flag: Capability) -> None:
    error = refused(capabilities=RESPONSE.capabilities & ~flag)
    assert errors.code_of(error.code) == errors.NOT_SUPPORTED_AUTH_MODE


@pytest.mark.parametrize(
    ("number", "name"),
    [(8, "latin1"), (11, "ascii"), (33, "utf8mb3"), (45, "utf8mb4"), (255, "utf8mb4"), (63, "binary")],
)
def test_character_sets_that_can_be_inspected(number: int, name: str) -> None:
    assert startup.CHARSETS[number] == name
    assert startup.check(dataclasses.replace(RESPONSE, charset=number), OFFER).charset == number


@pytest.mark.parametrize("number", [1, 13, 24, 28, 35, 54, 60, 87, 90, 95, 97, 128, 248, 254])
def test_character_sets_in_which_a_quote_may_hide(number: int) -> None:
    """big5, sjis, gb2312, gbk, ucs2, utf16, utf32, cp932, eucjpms, gb18030 and what has no name."""
    error = refused(charset=number)
    assert errors.code_of(error.code) == errors.UNKNOWN_CHARACTER_SET
    assert "utf8mb4" in str(error)


def test_the_servers_own_default_is_not_taken() -> None:
    assert startup.check(dataclasses.replace(RESPONSE, charset=0), OFFER).charset == startup.DEFAULT_CHARSET


@pytest.mark.parametrize(
    "change", [{"user": b"\xff"}, {"database": b"\xff"}, {"user": b"x" * 300}, {"database": b"x" * 300}]
)
def test_names_that_cannot_be_read(change: dict[str, object]) -> None:
    assert errors.code_of(refused(**change).code) == errors.HANDSHAKE_ERROR


def test_names_are_in_the_clients_character_set() -> None:
    latin = dataclasses.replace(RESPONSE, charset=8, user="jürgen".encode("latin-1"))
    assert startup.check(latin, OFFER).user == "jürgen"
    assert startup.check(dataclasses.replace(RESPONSE, user="jürgen".encode()), OFFER).user == "jürgen"


def test_no_name_at_all() -> None:
    found = startup.check(dataclasses.replace(RESPONSE, user=b"", database=b""), OFFER)
    assert (found.user, found.database) == ("", "")


def test_attributes_are_bounded_and_printable() -> None:
    raw = ((b"program_name", b"x" * 10_000), (b"esc\x1b[2J", b"\xff\0\n")) + ((b"a", b"b"),) * 100
    found = startup.check(dataclasses.replace(RESPONSE, attributes=raw), OFFER)
    assert len(found.attributes) == startup.MAX_ATTRIBUTES
    assert len(found.attributes[0][1]) == startup.MAX_ATTRIBUTE
    assert found.attributes[1] == ("esc\ufffd[2J", "\ufffd\ufffd\ufffd")
    assert found.application == "x" * startup.MAX_ATTRIBUTE


@pytest.mark.parametrize(
    ("attributes", "application"),
    [
        ({}, ""),
        ({"program_name": "nightly", "_client_name": "libmysql"}, "nightly"),
        ({"_client_name": "pymysql", "_client_version": "1.1"}, "pymysql 1.1"),
        ({"_client_version": "1.1"}, "1.1"),
    ],
)
def test_what_a_client_calls_itself(attributes: dict[str, str], application: str) -> None:
    raw = tuple((k.encode(), v.encode()) for k, v in attributes.items())
    assert startup.check(dataclasses.replace(RESPONSE, attributes=raw), OFFER).application == application
