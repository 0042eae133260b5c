"""The types of parameters: what a server makes of an execution is what is on record, and what an approver was shown."""

from __future__ import annotations

import struct

import pytest

from tests.support import mysql_wire as wire
from tests.support.mysql_talk import Talk
from tests.support.mysql_wire import execute, packets

SELECT = "SELECT total FROM orders WHERE id = ?"
ROWS = wire.result([wire.column("total", "orders", 8)], [wire.binary_row(5)])
WRONG = packets(1, wire.err(1210, "HY000", "Incorrect arguments to mysqld_stmt_execute"))


def test_types_that_the_server_may_have_refused_are_said_again() -> None:
    """MariaDB answers some types with an error and keeps to the ones before: eight bytes are a text to it then."""
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    talk.client(execute(1, "Ada"))
    talk.server(ROWS)
    talk.client(execute(1, 5))
    talk.server(WRONG)
    assert talk.client(execute(1, 7, types=False)) == execute(1, 7)
    assert talk.last("command")["params"] == ["7"]
    talk.server(ROWS)
    assert talk.client(execute(1, 8, types=False)) == execute(1, 8, types=False)


def test_also_where_the_executions_before_were_known_by_their_bytes() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    for name in ("Ada", "Bob", "Cid"):
        talk.client(execute(1, name))
        talk.server(ROWS)
    for number in (5, 6, 7):
        talk.client(execute(1, number))
        talk.server(ROWS if number < 7 else WRONG)
    assert talk.client(execute(1, 8, types=False)) == execute(1, 8)


@pytest.mark.parametrize("bits", [0x0100, 0x4000, 0x7F00, 0x8100])
def test_a_type_with_bits_that_no_type_has_goes_nowhere(bits: int) -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    talk.client(execute(1, "Ada"))
    talk.server(ROWS)
    body = struct.pack("<IBI", 1, 0, 1) + b"\0\1" + struct.pack("<H", bits | 3) + b"\3abc"
    errno, _, _ = talk.denied(wire.command(0x17, body))
    assert errno == 1210
    assert talk.client(execute(1, "Bob", types=False)) == execute(1, "Bob", types=False)
    assert talk.last("command")["params"] == ["Bob"]


@pytest.mark.parametrize("kind", [1, 2, 3, 5, 7, 8, 10, 11, 12])
def test_what_comes_in_pieces_is_a_string(kind: int) -> None:
    """As a number the piece `5` would be 53 to whoever approves it; as a date it ended the session."""
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    talk.client(wire.long_data(1, 0, b"5"))
    body = struct.pack("<IBI", 1, 0, 1) + b"\0\1" + struct.pack("<H", kind)
    errno, _, _ = talk.denied(wire.command(0x17, body))
    assert errno == 1210
    talk.client(execute(1, "Bob"))
    assert talk.last("command")["params"] == ["Bob"]
