"""The packets of the command phase: what is written is read again, and what is not well-formed is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mysql.capabilities import Capability
from protocols.mysql.errors import ProtocolError
from protocols.mysql.fields import string
from protocols.mysql.messages import (
    ColumnDefinition,
    Command,
    Eof,
    Err,
    FieldList,
    Ok,
    PrepareOk,
    Status,
    StmtFetch,
    StmtId,
    StmtSendLongData,
    Track,
    column_count,
    ends_rows,
    local_infile,
    number,
)

TRACKED = Capability.SESSION_TRACK
PLAIN = Capability(0)

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
short = st.binary(max_size=30)
states = st.lists(st.tuples(st.integers(0, 5), short), max_size=4).map(tuple)
names = st.binary(max_size=300)
columns = st.builds(ColumnDefinition, names, names, names, names, names, u16, u32, u8, u16, u8)


@st.composite
def oks(draw: st.DrawFn) -> tuple[Ok, Capability]:
    capabilities = draw(st.sampled_from([TRACKED, PLAIN]))
    status, info = draw(u16), draw(short)
    changed = capabilities is TRACKED and status & Status.STATE_CHANGED
    made = Ok(draw(u64), draw(u64), status, draw(u16), info, draw(states) if changed else (), draw(st.booleans()))
    return made, capabilities


@given(oks())
def test_ok(made: tuple[Ok, Capability]) -> None:
    ok, capabilities = made
    assert Ok.decode(ok.encode(capabilities), capabilities) == ok


ROUND: dict[str, tuple[st.SearchStrategy[Any], Callable[[bytes], Any]]] = {
    "err": (
        st.builds(Err, st.integers(0, 0xFFFE), st.just("HY000"), names)
        | st.builds(Err, st.integers(0, 0xFFFE), st.just(""), names.filter(lambda m: m[:1] != b"#")),
        Err.decode,
    ),
    "eof": (st.builds(Eof, u16, u16), Eof.decode),
    "column": (columns, ColumnDefinition.decode),
    "prepare ok": (st.builds(PrepareOk, u32, u16, u16, u16), PrepareOk.decode),
    "close": (st.builds(StmtId, st.sampled_from([Command.STMT_CLOSE, Command.STMT_RESET]), u32), StmtId.decode),
    "fetch": (st.builds(StmtFetch, u32, u32), StmtFetch.decode),
    "long data": (st.builds(StmtSendLongData, u32, u16, names), StmtSendLongData.decode),
    "field list": (st.builds(FieldList, st.text(alphabet="ab%").map(str.encode), names), FieldList.decode),
}


@pytest.mark.parametrize("name", ROUND)
def test_what_is_written_is_read_again(name: str) -> None:
    strategy, decode = ROUND[name]

    @given(strategy)
    def check(made: Any) -> None:
        assert decode(made.encode()) == made

    check()


DECODERS: dict[str, Callable[[bytes], Any]] = {
    **{name: decode for name, (_, decode) in ROUND.items()},
    "ok": lambda body: list(Ok.decode(body, PLAIN).tracked()),
    "tracked ok": lambda body: list(Ok.decode(body, TRACKED).tracked()),
    "field list column": lambda body: ColumnDefinition.decode(body, field_list=True),
    "column count": column_count,
    "local infile": local_infile,
    "set option": lambda body: number(body, 2),
}


@pytest.mark.parametrize("name", DECODERS)
def test_arbitrary_bytes_raise_only_our_error(name: str) -> None:
    @given(st.binary(max_size=80))
    def check(body: bytes) -> None:
        try:
            DECODERS[name](body)
        except ProtocolError:
            return

    check()


@pytest.mark.parametrize("name", [name for name in ROUND if name not in ("err", "long data", "field list")])
def test_every_byte_counts(name: str) -> None:
    """One byte less or more is an error: nothing is read half, nothing is left over."""
    strategy, decode = ROUND[name]

    @given(strategy, st.binary(min_size=1, max_size=3))
    def check(made: Any, more: bytes) -> None:
        body = made.encode()
        for wrong in (body[:-1], body + more):
            with pytest.raises(ProtocolError):
                decode(wrong)

    check()


def test_session_state_as_servers_send_it() -> None:
    """MariaDB 10.11 after `SET NAMES latin1`; several variables in one OK."""
    entry = string(string(b"character_set_client") + string(b"latin1"))
    more = string(string(b"autocommit") + string(b"OFF") + string(b"sql_mode") + string(b""))
    state = b"\0" + entry + b"\0" + more + b"\1" + string(string(b"shop")) + b"\3" + string(b"\0" + string(b"3E11:1"))
    body = b"\0\0\0" + b"\x02\x40\0\0" + string(b"") + string(state)
    assert list(Ok.decode(body, TRACKED).tracked()) == [
        (Track.SYSTEM_VARIABLES, "character_set_client", "latin1"),
        (Track.SYSTEM_VARIABLES, "autocommit", "OFF"),
        (Track.SYSTEM_VARIABLES, "sql_mode", ""),
        (Track.SCHEMA, "", "shop"),
        (Track.GTIDS, "", "3E11:1"),
    ]


def test_session_state_of_an_unknown_kind_is_not_passed_over() -> None:
    ok = Ok(status=Status.STATE_CHANGED, changes=((9, b"x"),))
    assert Ok.decode(ok.encode(TRACKED), TRACKED) == ok
    with pytest.raises(ProtocolError, match="unknown kind 9"):
        list(ok.tracked())


@pytest.mark.parametrize("cut", [0, 1])
def test_an_ok_without_its_last_field(cut: int) -> None:
    """Both servers leave an empty text out; the state behind it they never do."""
    assert Ok.decode(b"\0\0\0\2\0\0\0", TRACKED) == Ok(status=2)
    body = Ok(status=Status.STATE_CHANGED, changes=((1, b"\4shop"),)).encode(TRACKED)
    with pytest.raises(ProtocolError):
        Ok.decode(body[: -1 - cut], TRACKED)


def test_an_error_before_the_client_has_said_what_it_speaks() -> None:
    assert Err.decode(b"\xff\x10\x04Too many connections") == Err(1040, "", b"Too many connections")
    assert Err.decode(b"\xff\x10\x04#08004Too many") == Err(1040, "08004", b"Too many")


@pytest.mark.parametrize("body", [b"\xff\xff\xff\1\1", b"\xff\x10\x04#08", b"\xff\x10\x04#08 04x", b"\xff\x10", b"\0"])
def test_errors_that_are_none(body: bytes) -> None:
    """Among them MariaDB's progress report, which is never negotiated."""
    with pytest.raises(ProtocolError):
        Err.decode(body)


def test_what_ends_rows() -> None:
    deprecated = Capability.DEPRECATE_EOF
    assert ends_rows(0xFE, 5, PLAIN)
    assert not ends_rows(0xFE, 9, PLAIN)  # a row whose first value has a length of eight bytes
    assert ends_rows(0xFE, 9, deprecated)
    assert ends_rows(0xFE, 500, deprecated)
    assert not ends_rows(0xFE, 0xFFFFFF, deprecated)
    assert not ends_rows(0, 5, PLAIN)


@pytest.mark.parametrize("body", [b"", b"\0", b"\xfb", b"\xfe" + b"\xff" * 8, b"\1\1"])
def test_numbers_of_columns_that_make_no_sense(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        column_count(body)


def test_a_column_of_a_field_list_has_its_default() -> None:
    column = ColumnDefinition(b"s", b"t", b"t", b"c", b"c", 45, 4, 3, 0, 0, default=b"\xfb")
    assert ColumnDefinition.decode(column.encode(), field_list=True) == column
    with pytest.raises(ProtocolError):
        ColumnDefinition.decode(column.encode())
