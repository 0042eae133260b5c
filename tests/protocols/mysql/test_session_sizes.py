"""Commands above the inspection limit, commands of several packets, and the content of local files."""

from __future__ import annotations

import pytest

from protocols.contract import Action, Decision
from protocols.mysql.capabilities import Capability
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import Talk, anything, usual
from tests.support.mysql_wire import packets, query


def test_a_command_above_the_limit_is_answered_once_it_is_over() -> None:
    talk = Talk(inspect_max=1000)
    sent = query("SELECT '" + "x" * 5000 + "'")
    assert talk.client(sent[:900]) == b""
    assert talk.down() == b""
    for at in range(900, len(sent), 700):
        assert talk.down() == b""
        assert talk.client(sent[at : at + 700]) == b""
        assert talk.session.backlog <= 1004
    ((sequence, errno, _, text),) = wire.errors(talk.down())
    assert (sequence, errno) == (1, 1153)
    assert "inspection limit" in text
    assert talk.last("command")["decision"] == "deny"
    talk.ok("SELECT 1 FROM orders")


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_large_packet_may_come_cut_anywhere_in_its_header(cut: int) -> None:
    """A header alone says that it is large, and not yet what it is."""
    talk = Talk(inspect_max=1000)
    sent = query("SELECT '" + "x" * 5000 + "'")
    assert talk.client(sent[:cut], sent[cut:]) == b""
    assert wire.errors(talk.down())[0][:2] == (1, 1153)
    row = wire.row(b"x" * 60_000) * 2  # above what is collected of rows that need no mask
    for old in (True, False):
        talk = Talk(capabilities=wire.BASE if old else wire.MODERN)
        answer = wire.result([wire.column("total"), wire.column("total")], [row], old=old)
        at = answer.index(row) - 4
        talk.client(query("SELECT total, total FROM orders"))
        assert b"".join(talk.server(part) for part in (answer[: at + cut], answer[at + cut :])) == answer
        assert talk.last()["rows"] == 1


def test_a_command_above_the_limit_in_one_piece_with_the_next() -> None:
    talk = Talk(inspect_max=1000)
    up = talk.client(query("SELECT '" + "x" * 5000 + "'") + wire.PING)
    assert up == wire.PING
    assert wire.errors(talk.down())[0][1] == 1153


def test_a_command_above_the_limit_behind_another_waits_its_turn() -> None:
    talk = Talk(inspect_max=1000)
    large = query("SELECT '" + "x" * 5000 + "'")
    assert talk.client(wire.PING + large[:2000]) == wire.PING
    talk.client(large[2000:])
    assert talk.down() == b""
    told = talk.server(packets(1, wire.ok()))
    assert wire.errors(told)[0][1] == 1153
    talk.ok("SELECT 1 FROM orders")


def test_a_command_of_several_packets_is_one_and_its_tail_is_none() -> None:
    talk = Talk(inspect_max=1 << 25)
    sql = b"SELECT id FROM orders -- " + b" " * (0xFFFFFF - 1 - 25) + b"\x0e"
    sent = query(sql)
    assert sent[0xFFFFFF + 4 + 4] == 0x0E
    up = talk.client(*(sent[at : at + 1_000_000] for at in range(0, len(sent), 1_000_000)))
    assert up == sent
    assert len(talk.commands()) == 1
    answer = wire.result([wire.column("id")], [], first=2)
    assert talk.server(answer) == answer


def test_a_denied_command_of_several_packets_is_answered_with_the_number_behind_them() -> None:
    talk = Talk(inspect_max=1 << 25)
    talk.client(query(b"DROP TABLE orders -- " + b" " * 0xFFFFFF))
    assert wire.errors(talk.down())[0][0] == 2


# ---------------------------------------------------------------- LOAD DATA LOCAL

LOAD = "LOAD DATA LOCAL INFILE '/tmp/orders.csv' INTO TABLE orders"


def test_the_content_of_a_local_file_passes_and_is_on_record() -> None:
    talk = Talk(anything, capabilities=wire.MODERN | Capability.LOCAL_FILES)
    talk.client(query(LOAD))
    asked = packets(1, b"\xfb/tmp/orders.csv")
    assert talk.server(asked) == asked
    content = packets(2, b"1,2\n", b"3,4\n", b"")
    assert talk.client(content[:7], content[7:]) == content
    answer = packets(5, wire.ok(2))
    assert talk.server(answer) == answer
    assert talk.last()["rows"] == 2
    assert talk.last()["input"] == "MSwyCjMsNAo="


def test_a_file_that_the_statement_does_not_name_is_never_asked_for() -> None:
    talk = Talk(anything, capabilities=wire.MODERN | Capability.LOCAL_FILES)
    talk.client(query(LOAD))
    assert b"/etc/passwd" not in talk.server(packets(1, b"\xfb/etc/passwd"))
    assert talk.ended


def test_a_file_asked_for_in_a_select_ends_the_session() -> None:
    talk = Talk(anything)
    talk.client(query("SELECT '/etc/passwd' FROM orders"))
    assert b"\xfb/etc" not in talk.server(packets(1, b"\xfb/etc/passwd"))
    assert talk.ended


def test_load_data_local_is_denied_unless_granted() -> None:
    talk = Talk(lambda a: usual(a) if "data.copy_in" not in a.effects else _deny())
    talk.denied(query(LOAD))


def _deny() -> Decision:
    return Decision(Action.DENY, "no-files", "")
