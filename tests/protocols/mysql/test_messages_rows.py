"""Rows of results and the parameters of an execution: taken apart, put together, and never read past their end."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mysql.errors import ProtocolError
from protocols.mysql.fields import Reader
from protocols.mysql.parameters import UNSIGNED, StmtExecute, value_text
from protocols.mysql.rows import FIXED, STRINGS, FieldType, binary_row, binary_value, encode_binary_value, text_row
from tests.support.mysql_rows import encode_binary_row, encode_text_row

T = FieldType
values = st.none() | st.binary(max_size=40) | st.binary(min_size=250, max_size=260)


def sized(*sizes: int) -> st.SearchStrategy[bytes]:
    return st.sampled_from(sizes).flatmap(lambda n: st.binary(min_size=n, max_size=n))


def of_type(type_: int) -> st.SearchStrategy[bytes | None]:
    if type_ in FIXED:
        some = sized(FIXED[type_])
    elif type_ in STRINGS:
        some = st.binary(max_size=300)
    elif type_ == T.NULL:
        return st.none()
    else:
        some = sized(0, 8, 12) if type_ == T.TIME else sized(0, 4, 7, 11)
    return st.none() | some


TYPES = sorted({*FIXED, *STRINGS, T.DATE, T.TIME, T.DATETIME, T.TIMESTAMP, T.NULL})
typed = st.lists(st.sampled_from(TYPES).flatmap(lambda t: st.tuples(st.just(int(t)), of_type(t))), max_size=20)


@given(st.lists(values, max_size=12))
def test_a_row_of_text_values(row: list[bytes | None]) -> None:
    body = encode_text_row(row)
    assert text_row(body, len(row)) == row
    with pytest.raises(ProtocolError):
        text_row(body, len(row) + 1)
    with pytest.raises(ProtocolError):
        text_row(body + b"\1", len(row))


@given(st.binary(max_size=40), st.integers(0, 5))
def test_arbitrary_rows_of_text_values(body: bytes, columns: int) -> None:
    try:
        row = text_row(body, columns)
    except ProtocolError:
        return
    assert len(row) == columns


@pytest.mark.parametrize("body", [b"\xff", b"\xfc\1", b"\xfd\1\0", b"\xfe\1\0\0", b"\2x", b"\xfe" + b"\xff" * 8 + b"x"])
def test_row_02_lengths_of_values_that_cannot_be(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        text_row(body, 1)


@given(typed)
def test_a_row_of_binary_values(row: list[tuple[int, bytes | None]]) -> None:
    types, made = [t for t, _ in row], [v for _, v in row]
    body = encode_binary_row(made, types)
    assert binary_row(body, types) == made
    for wrong in (body[:-1], body + b"\0", b"\1" + body[1:]):
        with pytest.raises(ProtocolError):
            binary_row(wrong, types)


@given(st.binary(max_size=60), st.lists(st.integers(0, 255), max_size=6))
def test_arbitrary_rows_of_binary_values(body: bytes, types: list[int]) -> None:
    try:
        row = binary_row(body, types)
    except ProtocolError:
        return
    assert len(row) == len(types)


def test_the_null_bitmap_begins_at_its_third_bit() -> None:
    """As MySQL sends `SELECT NULL, 1, NULL`, and seven columns of which the last is NULL: in the second byte."""
    assert binary_row(b"\0\x14" + b"\1\0\0\0", [T.VAR_STRING, T.LONG, T.VAR_STRING]) == [None, b"\1\0\0\0", None]
    row = [b"\1", b"\2", b"\3", b"\4", b"\5", b"\6", None]
    assert encode_binary_row(row, [T.TINY] * 7) == b"\0\0\1\1\2\3\4\5\6"


@pytest.mark.parametrize(
    ("value", "type_"), [(b"\1", T.LONG), (b"123", T.DATE), (b"1234", T.TIME), (b"x", 99), (b"x", T.NULL)]
)
def test_a_value_that_does_not_fit_its_type_is_not_written(value: bytes, type_: int) -> None:
    with pytest.raises(ProtocolError):
        encode_binary_value(value, type_)


# ---------------------------------------------------------------- parameters

BINDABLE = [t for t in TYPES if t not in (T.INT24, T.YEAR)]
bound = st.lists(st.sampled_from(BINDABLE).flatmap(lambda t: st.tuples(st.just(int(t)), of_type(t))), max_size=12)


@given(bound, st.integers(0, 2**32 - 1), st.integers(0, 4), st.sets(st.integers(0, 11)))
def test_an_execution(row: list[tuple[int, bytes | None]], statement: int, flags: int, asked: set[int]) -> None:
    types, made = tuple(t for t, _ in row), tuple(v for _, v in row)
    long = {i: b"long" for i in asked if i < len(row) and types[i] in STRINGS}
    expected = tuple(long.get(i, value) for i, value in enumerate(made))
    first = StmtExecute(statement, flags, 1, types, expected, bool(row), frozenset(long))
    body = first.encode()
    assert StmtExecute.decode(body, len(row), (), long) == first
    with pytest.raises(ProtocolError):
        StmtExecute.decode(body + b"\0", len(row), (), long)
    with pytest.raises(ProtocolError):
        StmtExecute.decode(body[:-1], len(row), (), long)
    if row:  # executed again: the types are those of the first time
        again = StmtExecute(statement, flags, 1, types, expected, False, frozenset(long))
        assert StmtExecute.decode(again.encode(), len(row), types, long) == again
        with pytest.raises(ProtocolError, match="without their types"):
            StmtExecute.decode(again.encode(), len(row), (), long)


@given(st.binary(max_size=60), st.integers(0, 6))
def test_arbitrary_executions(body: bytes, count: int) -> None:
    try:
        made = StmtExecute.decode(body, count)
    except ProtocolError:
        return
    assert len(made.values) == len(made.texts()) == count


def test_an_execution_as_a_client_sends_it() -> None:
    """`VALUES (?, ?, ?)` with -1, NULL and a string."""
    body = bytes.fromhex("17 01000000 00 01000000 02 01 0800 0600 fd00") + struct.pack("<q", -1) + b"\3abc"
    made = StmtExecute.decode(body, 3)
    assert made.texts() == ("-1", None, "abc")
    assert made.encode() == body


def test_long_data_counts_even_where_the_bitmap_says_null() -> None:
    """Both servers look for long data first; a NULL bit would else hide from the record what is written."""
    body = bytes.fromhex("17 01000000 00 01000000 01 01 fc00")
    assert StmtExecute.decode(body, 1, (), {0: b"secret"}).values == (b"secret",)


@pytest.mark.parametrize("type_", [T.INT24, T.YEAR, T.NULL, T.NEWDATE, T.TIME2, 100])
def test_a_type_that_servers_read_differently_is_refused(type_: int) -> None:
    body = bytes.fromhex("17 01000000 00 01000000 00 01") + bytes((type_, 0)) + bytes(8)
    with pytest.raises(ProtocolError, match=f"of type {int(type_)}, which cannot be read"):
        StmtExecute.decode(body, 1)


@pytest.mark.parametrize(
    ("value", "bound_", "text"),
    [
        (b"\xff", T.TINY, "-1"),
        (b"\xff", T.TINY | UNSIGNED, "255"),
        (b"\xff" * 8, T.LONGLONG | UNSIGNED, "18446744073709551615"),
        (struct.pack("<d", 0.1), T.DOUBLE, "0.1"),
        (struct.pack("<f", 0.5), T.FLOAT, "0.5"),
        (b"", T.DATETIME, "0000-00-00"),
        (b"\xe7\x07\x0c\x1f", T.DATE, "2023-12-31"),
        (b"\xe7\x07\x0c\x1f\x17\x3b\x01", T.DATETIME, "2023-12-31 23:59:01"),
        (b"\xe7\x07\x0c\x1f\x17\x3b\x01\x01\0\0\0", T.TIMESTAMP, "2023-12-31 23:59:01.000001"),
        (b"", T.TIME, "00:00:00"),
        (b"\1\1\0\0\0\2\3\4", T.TIME, "-26:03:04"),
        (b"\0\0\0\0\0\2\3\4\5\0\0\0", T.TIME, "02:03:04.000005"),
        ("ü".encode(), T.VAR_STRING, "ü"),
        (b"\xff\xfe", T.BLOB, "0xfffe"),
    ],
)
def test_what_a_value_is_called(value: bytes, bound_: int, text: str) -> None:
    assert value_text(value, bound_) == text


@given(st.floats())
def test_numbers_come_back_from_their_text(number: float) -> None:
    text = value_text(struct.pack("<d", number), T.DOUBLE)
    assert math.isnan(number) if math.isnan(float(text)) else float(text) == number


def test_a_text_of_another_character_set() -> None:
    assert value_text(b"\xfc", T.VAR_STRING, "cp1252") == "ü"
    assert value_text(b"\xfc", T.VAR_STRING, "no such codec") == "0xfc"


def test_reading_one_value_of_a_type_that_does_not_exist() -> None:
    with pytest.raises(ProtocolError, match="unknown type 99"):
        binary_value(Reader(b"abc"), 99)
