"""Recorded bytes, as a person reads them."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from protocols.postgres.render import MAX_LINES, render
from tests.support import wire


def lines(data: bytes) -> list[str]:
    """Without what only aligns the columns."""
    return [" ".join(line.split()) for line in render(data)]


def test_a_result() -> None:
    data = wire.columns(wire.field("id", type_oid=23, fmt=1), wire.field("name")) + wire.row(struct.pack("!i", 7), None)
    assert lines(data + wire.complete("SELECT 1")) == ["id | name", "7 | NULL", "SELECT 1"]


def test_errors_notices_and_copy_data() -> None:
    data = wire.error("42501", "denied", H="ask") + wire.notice("hello") + wire.copy_data(b"1\tx\n")
    assert lines(data) == ["ERROR 42501: denied (hint: ask)", "NOTICE 00000: hello", "1 x"]


def test_what_was_cut_says_so() -> None:
    data = wire.columns(wire.field("x")) + wire.row(b"1")
    assert lines(data + wire.row(b"2")[:7]) == ["x", "1", "(cut here)"]
    assert render(wire.row(b"1") * (MAX_LINES + 5))[-1] == "(cut here)"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing(data: bytes) -> None:
    assert all(isinstance(line, str) for line in render(data))
