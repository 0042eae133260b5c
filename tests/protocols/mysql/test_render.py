"""Recorded responses as a person reads them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mysql.render import render
from tests.support import mysql_wire as wire
from tests.support.mysql_wire import column, packets


@pytest.mark.parametrize("old", [True, False])
def test_text_rows_are_a_table(old: bool) -> None:
    answer = wire.result([column("id"), column("name")], [wire.row("1", "Ada"), wire.row("22", None)], old=old)
    assert render(answer) == ["id | name", "1  | Ada", "22 | NULL"]


@pytest.mark.parametrize("old", [True, False])
def test_binary_rows_are_a_table(old: bool) -> None:
    columns = [column("id", kind=8), column("name")]
    answer = wire.result(columns, [wire.binary_row(1, "Ada"), wire.binary_row(22, None)], old=old)
    assert render(answer) == ["id | name", "1  | Ada", "22 | NULL"]


def test_a_text_row_that_begins_with_an_empty_value_is_no_binary_one() -> None:
    answer = wire.result([column("a"), column("b")], [wire.row("", "x"), wire.row("y", "z")])
    assert render(answer) == ["a | b", "  | x", "y | z"]


def test_short_types_of_binary_rows() -> None:
    columns = [column("year", kind=13), column("day", kind=10), column("small", kind=1)]
    body = b"\0\0" + struct.pack("<H", 1999) + b"\x04" + struct.pack("<HBB", 2024, 2, 29) + b"\xff"
    assert render(wire.result(columns, [body]))[1] == "1999 | 2024-02-29 | -1"


def test_several_results_and_an_ok() -> None:
    first = wire.result([column("a")], [wire.row("1")], status=wire.MORE)
    second = wire.result([column("b")], [], first=len(wire.split(first)) + 1, status=wire.MORE)
    ok = wire.packets(20, wire.ok(3, info=b"Rows matched: 3"))
    assert render(first + second + ok) == ["a", "1", "b", "OK, 3 affected (Rows matched: 3)"]


def test_an_ok_without_session_tracking() -> None:
    body = b"\0\3\5" + struct.pack("<HH", 2, 1) + b"Rows matched: 3"
    assert render(packets(1, body)) == ["OK, 3 affected, last id 5, 1 warnings (Rows matched: 3)"]


def test_an_error() -> None:
    assert render(packets(1, wire.err(1146, "42S02", "Table 'a.b' doesn't exist"))) == [
        "ERROR 1146 (42S02): Table 'a.b' doesn't exist"
    ]


def test_an_error_in_the_middle_of_rows() -> None:
    answer = packets(1, b"\1", column("a"), wire.row("1"), wire.err(1317, "70100", "interrupted"))
    assert render(answer) == ["a", "1", "ERROR 1317 (70100): interrupted"]


def test_statistics_and_fields_and_files() -> None:
    assert render(packets(1, b"Uptime: 7  Threads: 2")) == ["Uptime: 7  Threads: 2"]
    assert render(packets(1, column("id", "orders") + b"\xfb", wire.end())) == ["column orders.id"]
    assert render(packets(1, b"\xfb/tmp/a.csv")) == ["the server asks for the file /tmp/a.csv"]


def test_a_value_may_not_pose_as_a_further_row() -> None:
    (_, line) = render(wire.result([column("a")], [wire.row("x\ny\r")]))
    assert line == "x\u21b5y\u240d"


def test_what_is_cut_off_is_said() -> None:
    answer = wire.result([column("a")], [wire.row("1"), wire.row("2")])
    assert render(answer[:-12]) == ["a", "1", "(cut here)"]
    assert len(render(wire.result([column("a")], [wire.row("1")] * 100), limit=10)) <= 12


def test_a_row_of_two_packets() -> None:
    value = b"\xfe" + (0x1000000).to_bytes(8, "little") + b"x" * 0x1000000
    answer = packets(1, b"\1", column("a")) + wire.packet(3, value) + packets(5, wire.end())
    assert render(answer)[1].startswith("xxx")
    assert render(answer)[1].endswith("(16777216 characters)")


@given(st.binary(max_size=300))
def test_any_bytes_are_rendered_somehow(data: bytes) -> None:
    assert all(isinstance(line, str) and "\n" not in line for line in render(data))


@given(st.integers(0, 400), st.integers(0, 255), st.binary(max_size=2))
def test_any_damage_is_rendered_somehow(at: int, value: int, tail: bytes) -> None:
    answer = bytearray(wire.result([column("a", kind=8), column("b")], [wire.binary_row(1, "Ada")] * 3))
    answer[at % len(answer)] = value
    render(bytes(answer) + tail)
