"""Every column type in both wire forms: what a mask reads, and what the client gets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.contract import ValueKind
from protocols.mysql.messages import ColumnDefinition
from protocols.mysql.rows import FieldType as T
from protocols.mysql.values import BINARY_COLLATION, ENUM, SET, UNSIGNED, Scalar, charset, scalar, value_rewriter


def column(kind: int, *, flags: int = 0, length: int = 0, decimals: int = 0, collation: int = 255) -> ColumnDefinition:
    return ColumnDefinition(b"s", b"t", b"t", b"c", b"c", collation, length, kind, flags, decimals)


def scalar_of(kind: int, **facts: int) -> Scalar:
    return scalar(column(kind, **facts), None)


@dataclass(frozen=True)
class Mask:
    """Answers with a fixed text, or with what `how` makes of the one it is given."""

    how: Callable[[str], str | None]
    constant: bool = False
    withhold: bool = False
    rule: str = "r"
    strategy: str = "s"

    def apply(self, text: str, kind: ValueKind = ValueKind.TEXT, limit: int | None = None) -> str | None:
        return self.how(text)


SAME = Mask(lambda text: text)

BOTH_FORMS = [
    (scalar_of(T.TINY), b"-7", struct.pack("<b", -7), "-7", ValueKind.INTEGER),
    (scalar_of(T.TINY, flags=UNSIGNED), b"200", b"\xc8", "200", ValueKind.INTEGER),
    (scalar_of(T.SHORT), b"-300", struct.pack("<h", -300), "-300", ValueKind.INTEGER),
    (scalar_of(T.INT24), b"70000", struct.pack("<i", 70000), "70000", ValueKind.INTEGER),
    (scalar_of(T.LONG, flags=UNSIGNED), b"4294967295", b"\xff" * 4, "4294967295", ValueKind.INTEGER),
    (scalar_of(T.LONGLONG), b"-1", b"\xff" * 8, "-1", ValueKind.INTEGER),
    (scalar_of(T.LONGLONG, flags=UNSIGNED), b"%d" % (2**64 - 1), b"\xff" * 8, str(2**64 - 1), ValueKind.INTEGER),
    (scalar_of(T.YEAR), b"1999", struct.pack("<H", 1999), "1999", ValueKind.INTEGER),
    (scalar_of(T.NEWDECIMAL, length=12, decimals=2), b"-12.50", b"-12.50", "-12.50", ValueKind.NUMBER),
    (scalar_of(T.FLOAT), b"3.14", struct.pack("<f", 3.14), "3.14", ValueKind.NUMBER),
    (scalar_of(T.DOUBLE), b"1e20", struct.pack("<d", 1e20), "100000000000000000000", ValueKind.NUMBER),
    (scalar_of(T.DATE), b"2024-02-29", struct.pack("<HBB", 2024, 2, 29), "2024-02-29", ValueKind.DATE),
    (
        scalar_of(T.DATETIME), b"2024-02-29 00:00:00", struct.pack("<HBB", 2024, 2, 29),
        "2024-02-29 00:00:00", ValueKind.TIMESTAMP,
    ),
    (
        scalar_of(T.TIMESTAMP), b"2024-02-29 23:59:58", struct.pack("<HBBBBB", 2024, 2, 29, 23, 59, 58),
        "2024-02-29 23:59:58", ValueKind.TIMESTAMP,
    ),
    (
        scalar_of(T.DATETIME, decimals=6), b"2024-02-29 23:59:58.000123",
        struct.pack("<HBBBBBI", 2024, 2, 29, 23, 59, 58, 123), "2024-02-29 23:59:58.000123", ValueKind.TIMESTAMP,
    ),
    (scalar_of(T.VAR_STRING), "né".encode(), "né".encode(), "né", ValueKind.TEXT),
    (scalar_of(T.VAR_STRING, collation=8), b"n\xe9", b"n\xe9", "né", ValueKind.TEXT),
    (scalar_of(T.BLOB, collation=BINARY_COLLATION), b"\0\xff", b"\0\xff", "00ff", ValueKind.BYTES),
    (scalar_of(T.JSON, collation=BINARY_COLLATION), b'{"a": 1}', b'{"a": 1}', '{"a": 1}', ValueKind.JSON),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "binary", "read", "value_kind"), BOTH_FORMS)
def test_both_forms_read_as_the_same_text_and_write_back(
    kind: Scalar, text: bytes, binary: bytes, read: str, value_kind: ValueKind
) -> None:
    assert kind.kind is value_kind
    assert kind.read_text(text) == read
    assert kind.read_binary(binary) == read
    assert kind.write_binary(read) == binary
    assert kind.read_text(kind.write_text(read)) == read


OPAQUE = [
    scalar_of(T.TIME), scalar_of(T.BIT), scalar_of(T.GEOMETRY), scalar_of(T.VECTOR), scalar_of(T.NULL),
    scalar_of(T.STRING, flags=ENUM), scalar_of(T.STRING, flags=SET), scalar_of(T.ENUM), scalar_of(T.SET),
    scalar_of(199), scalar_of(T.TYPED_ARRAY),
]  # fmt: skip


@pytest.mark.parametrize("kind", OPAQUE)
@pytest.mark.parametrize("binary", [False, True])
def test_a_type_without_masked_values_becomes_null(kind: Scalar, binary: bool) -> None:
    assert kind.kind is ValueKind.OPAQUE
    assert value_rewriter(SAME, kind, binary=binary).rewrite(b"12:00:00") is None


@pytest.mark.parametrize(
    ("kind", "raw", "binary"),
    [
        (scalar_of(T.DATE), b"0000-00-00", False),
        (scalar_of(T.DATE), b"", True),
        (scalar_of(T.DATE), b"2024-00-01", False),
        (scalar_of(T.DATETIME), b"0000-00-00 00:00:00", False),
        (scalar_of(T.DATETIME), b"", True),
        (scalar_of(T.FLOAT), b"inf", False),
        (scalar_of(T.DOUBLE), struct.pack("<d", float("nan")), True),
        (scalar_of(T.LONG), b"12x", False),
        (scalar_of(T.LONG), b"\1\2", True),
        (scalar_of(T.VAR_STRING), b"\xff\xfe", False),
        (scalar_of(T.VAR_STRING, collation=9999), b"abc", False),
        (scalar_of(T.YEAR), b"", False),
    ],
)
def test_what_cannot_be_read_becomes_null(kind: Scalar, raw: bytes, binary: bool) -> None:
    assert value_rewriter(SAME, kind, binary=binary).rewrite(raw) is None


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (scalar_of(T.TINY), "128"),
        (scalar_of(T.TINY, flags=UNSIGNED), "-1"),
        (scalar_of(T.YEAR), "1900"),
        (scalar_of(T.VAR_STRING, length=16), "[masked]"),  # four characters of utf8mb4
        (scalar_of(T.BLOB, length=2, collation=BINARY_COLLATION), "000000"),
        (scalar_of(T.NEWDECIMAL, length=5, decimals=2), "1000.00"),
        (scalar_of(T.VAR_STRING, collation=8), "€"),
        (scalar_of(T.LONG), "[masked]"),
        (scalar_of(T.DATE), "[masked]"),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_a_masked_value_that_does_not_fit_becomes_null(kind: Scalar, answer: str, binary: bool) -> None:
    made = value_rewriter(Mask(lambda _: answer, constant=True), kind, binary=binary)
    assert made.constant
    assert made.value is None


def test_a_withheld_value_is_null() -> None:
    made = value_rewriter(Mask(lambda _: "x", withhold=True), scalar_of(T.VAR_STRING), binary=False)
    assert made.constant
    assert made.value is None


def test_the_character_set_is_the_catalog_s_or_a_known_one() -> None:
    assert charset(500, {500: ("x_general_ci", "latin1")}) == "latin1"
    assert charset(255, None) == "utf8mb4"
    assert charset(9999, {}) is None


TYPES = st.sampled_from([*T, 99, 200])


@given(TYPES, st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.integers(0, 255), st.sampled_from([8, 63, 255, 7]),
       st.binary(max_size=24), st.booleans())  # fmt: skip
def test_no_value_of_any_type_raises_or_comes_through_unread(
    kind: int, flags: int, length: int, decimals: int, collation: int, raw: bytes, binary: bool
) -> None:
    known = scalar(column(kind, flags=flags, length=length, decimals=decimals, collation=collation), None)
    assert value_rewriter(Mask(lambda _: None), known, binary=binary).rewrite(raw) is None
    value_rewriter(SAME, known, binary=binary).rewrite(raw)
    value_rewriter(Mask(lambda _: "[masked]"), known, binary=binary).rewrite(raw)
