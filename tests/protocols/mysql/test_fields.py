"""Lengths and strings of packets, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mysql.errors import ProtocolError
from protocols.mysql.fields import Reader, lenenc


@given(st.integers(0, 2**64 - 1))
def test_lengths(n: int) -> None:
    encoded = lenenc(n)
    r = Reader(encoded)
    assert r.lenenc() == n
    r.end()
    # each form only where the shorter ones do not reach
    assert len(encoded) == (1 if n < 0xFB else 3 if n < 2**16 else 4 if n < 2**24 else 9)


@pytest.mark.parametrize("head", [0xFB, 0xFF])
def test_null_and_error_are_no_lengths(head: int) -> None:
    with pytest.raises(ProtocolError, match="integer that is none"):
        Reader(bytes((head,)) + bytes(9)).lenenc()


def test_row_02_a_length_beyond_its_packet() -> None:
    with pytest.raises(ProtocolError, match="past the end"):
        Reader(b"\xfe" + b"\xff" * 8 + b"x").string()
