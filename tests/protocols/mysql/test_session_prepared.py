"""Prepared statements of the protocol: ids, parameters, long data, cursors, and what they mean when they run."""

from __future__ import annotations

import struct

import pytest

from protocols.contract import Action, Analysis, Decision, Outcome, Wait
from protocols.mysql.capabilities import Capability
from protocols.mysql.pending import Awaited
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import Talk, anything
from tests.support.mysql_wire import execute, packets, prepare

SELECT = "SELECT total FROM orders WHERE id = ?"
LAST = 0xFFFFFFFF
ROWS = wire.result([wire.column("total", "orders", 8)], [wire.binary_row(5), wire.binary_row(None)])


@pytest.mark.parametrize("capabilities", [wire.BASE, wire.MODERN])
def test_an_execution_is_judged_and_recorded_with_its_parameters(capabilities: Capability) -> None:
    talk = Talk(capabilities=capabilities)
    talk.prepare(1, SELECT, 1, 1)
    assert talk.port.records == []
    sent = execute(1, 42)
    assert talk.client(sent) == sent
    command = talk.last("command")
    assert (command["phase"], command["text"], command["params"]) == ("execute", SELECT, ["42"])
    old = capabilities == wire.BASE
    answer = wire.result([wire.column("total", "orders", 8)], [wire.binary_row(5)], old=old)
    assert talk.server(answer) == answer
    assert talk.last()["rows"] == 1


def test_types_of_an_earlier_execution_stay_in_force() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    talk.client(execute(1, "Ada"))
    talk.server(ROWS)
    talk.client(execute(1, "Bob", types=False))
    assert talk.last("command")["params"] == ["Bob"]


def test_a_denied_prepare_gets_no_id() -> None:
    talk = Talk()
    errno, _, text = talk.denied(prepare("DROP TABLE orders"))
    assert errno == 1142
    assert "no-ddl" in text
    assert talk.commands() == [("prepare", "DROP TABLE orders", "deny")]


def test_a_prepare_that_the_server_refuses_is_on_record() -> None:
    talk = Talk()
    talk.client(prepare("SELECT nope FROM orders"))
    assert talk.commands() == []
    talk.server(packets(1, wire.err(1054, "42S22", "Unknown column")))
    assert [c[0] for c in talk.commands()] == ["prepare"]
    assert talk.last()["sqlstate"] == "42S22"


@pytest.mark.parametrize(
    ("sent", "function"),
    [
        (execute(9), "mysqld_stmt_execute"),
        (wire.fetch(9, 1), "mysqld_stmt_fetch"),
        (wire.reset(9), "mysqld_stmt_reset"),
    ],
)
def test_an_unknown_id_never_goes_up(sent: bytes, function: str) -> None:
    talk = Talk(anything)
    errno, state, text = talk.denied(sent)
    assert (errno, state) == (1243, "HY000")
    assert text == f"Unknown prepared statement handler (9) given to {function}"


@pytest.mark.parametrize("sent", [wire.close(9), wire.long_data(9, 0, "x")])
def test_an_unknown_id_of_a_command_without_answer_is_dropped(sent: bytes) -> None:
    talk = Talk(anything)
    assert talk.client(sent) == b""
    assert talk.down() == b""
    talk.ok("SELECT 1 FROM orders")


def test_a_closed_statement_is_unknown() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    assert talk.client(wire.close(1)) == wire.close(1)
    assert talk.denied(execute(1, 1))[0] == 1243


def test_reset_is_answered_by_the_server() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    assert talk.client(wire.reset(1)) == wire.reset(1)
    answer = packets(1, wire.ok())
    assert talk.server(answer) == answer


def test_it_is_judged_again_under_a_new_policy() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    talk.port.epoch = object()
    talk.port.decision = lambda _: _deny()
    assert talk.denied(execute(1, 1))[0] == 1142


def _deny() -> Decision:
    return Decision(Action.DENY, "closed", "")


# ---------------------------------------------------------------- the database and the quotes of the PREPARE


def test_names_are_looked_up_where_they_were_prepared() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    talk.ok("USE other")
    talk.client(execute(1, 1))
    assert talk.last("command")["reads"] == ["app.orders"]
    assert talk.last("command")["decision"] == "allow"


def test_a_text_that_means_something_else_under_todays_quotes_is_refused() -> None:
    talk = Talk(anything_known)
    talk.prepare(1, 'SELECT "total" FROM orders', 0, 1)
    talk.ok("SET sql_mode = 'ANSI_QUOTES'", changes=wire.variable("sql_mode", "ANSI_QUOTES"))
    assert "prepare it again" in talk.denied(execute(1))[2]


def test_a_text_that_means_the_same_under_todays_quotes_passes() -> None:
    talk = Talk(anything_known)
    talk.prepare(1, SELECT, 1, 1)
    talk.ok("SET sql_mode = 'ANSI_QUOTES'", changes=wire.variable("sql_mode", "ANSI_QUOTES"))
    assert talk.client(execute(1, 1)) == execute(1, 1)


def anything_known(analysis: Analysis) -> Decision:
    return Decision(Action.DENY if analysis.unknown else Action.ALLOW, "known", "")


# ---------------------------------------------------------------- id -1


def test_the_last_statement_by_its_number_minus_one() -> None:
    talk = Talk()
    assert talk.client(prepare(SELECT) + execute(LAST, 3)) == prepare(SELECT)
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.prepared(7, 1, 1))
    assert talk.up() == execute(7, 3)
    assert talk.last("command")["text"] == SELECT


def test_minus_one_after_a_denied_prepare_is_no_older_statement() -> None:
    talk = Talk()
    talk.prepare(1, "SELECT id FROM orders")
    told = talk.client(prepare("DROP TABLE orders") + execute(LAST))
    assert told == b""
    assert [e[1] for e in wire.errors(talk.down())] == [1142, 1243]


def test_minus_one_after_a_failed_prepare_is_no_older_statement() -> None:
    talk = Talk()
    talk.prepare(1, "SELECT id FROM orders")
    talk.client(prepare("SELECT nope FROM orders"))
    talk.server(packets(1, wire.err(1054, "42S22")))
    assert talk.denied(execute(LAST))[0] == 1243


def test_minus_one_is_unknown_to_mysql() -> None:
    talk = Talk(flavour="mysql")
    talk.prepare(1, "SELECT id FROM orders")
    assert talk.denied(execute(LAST))[0] == 1243


# ---------------------------------------------------------------- long data


def test_long_data_goes_up_with_its_execution_only() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    pieces = wire.long_data(1, 0, "abc") + wire.long_data(1, 0, "def")
    assert talk.client(pieces) == b""
    sent = wire.command(0x17, struct.pack("<IBI", 1, 0, 1) + b"\0\1" + struct.pack("<H", 0xFC))
    assert talk.client(sent) == pieces + sent
    assert talk.last("command")["params"] == ["abcdef"]
    talk.server(ROWS)
    assert talk.client(execute(1, "x")) == execute(1, "x")
    assert talk.last("command")["params"] == ["x"]


def test_long_data_of_a_denied_execution_is_gone() -> None:
    talk = Talk()
    talk.prepare(1, "DELETE FROM orders WHERE id = ?", 1)
    talk.client(wire.long_data(1, 0, "abc"))
    sent = wire.command(0x17, struct.pack("<IBI", 1, 0, 1) + b"\0\1" + struct.pack("<H", 0xFC))
    assert talk.client(sent) == b""
    assert talk.port.holds[0].params == ("abc",)
    first = talk.port.holds[0].digest
    talk.resume(Outcome.DENIED, "no")
    talk.down()
    talk.client(wire.long_data(1, 0, "abd"))
    talk.client(sent)
    assert talk.port.holds[1].params == ("abd",)
    assert talk.port.holds[1].digest != first
    assert talk.resume(Outcome.APPROVED) == wire.long_data(1, 0, "abd") + sent
    assert talk.session._long_total == 0


def test_reset_drops_long_data() -> None:
    talk = Talk()
    talk.prepare(1, SELECT, 1, 1)
    talk.client(wire.long_data(1, 0, "abc"), wire.reset(1))
    talk.server(packets(1, wire.ok()))
    assert talk.client(execute(1, "x")) == execute(1, "x")


def test_long_data_above_the_limit_is_refused_with_its_execution() -> None:
    talk = Talk(inspect_max=1000)
    talk.prepare(1, SELECT, 1, 1)
    for _ in range(20):
        assert talk.client(wire.long_data(1, 0, "x" * 100)) == b""
    assert sum(map(len, talk.session.prepared[1].long_packets)) == 0
    sent = wire.command(0x17, struct.pack("<IBI", 1, 0, 1) + b"\0\1" + struct.pack("<H", 0xFC))
    assert talk.denied(sent)[0] == 1153
    assert talk.client(execute(1, "x")) == execute(1, "x")


def test_long_data_of_all_statements_together_is_bounded() -> None:
    talk = Talk(texts_max=3000)
    for statement in range(1, 6):
        talk.prepare(statement, SELECT, 1, 1)
        talk.client(wire.long_data(statement, 0, "x" * 1000))
    kept = [sum(map(len, p.long_packets)) for p in talk.session.prepared.values()]
    assert sum(kept) < 4000


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    "body",
    [
        b"\1\0\0\0\0\1\0\0\0",  # no parameters
        b"\1\0\0\0\0\1\0\0\0\0\0",  # no types, now or before
        b"\1\0\0\0\0\1\0\0\0\0\1\x08\0\1",  # a number cut short
        b"\1\0\0\0\x08\1\0\0\0\0\1\x08\0\1\0\0\0\0\0\0\0",  # query attributes
        b"\1\0\0\0\0\1\0\0\0\0\1\xf4\0\1",  # a type that nothing is bound with
    ],
)
def test_parameters_that_cannot_be_read_are_refused(body: bytes) -> None:
    talk = Talk(anything)
    talk.prepare(1, SELECT, 1, 1)
    assert talk.denied(wire.command(0x17, body))[0] == 1210
    assert talk.last("command")["decision"] == "deny"
    assert talk.client(execute(1, 1)) == execute(1, 1)


def test_secrets_are_not_on_record() -> None:
    talk = Talk(anything)
    talk.prepare(1, "SELECT total FROM orders WHERE id = ? AND 'hunter2' = ?", 2, 1)
    talk.client(execute(1, "a", "b"))
    assert talk.last("command")["params"] == ["[redacted]", "[redacted]"]


# ---------------------------------------------------------------- cursors


def open_cursor(talk: Talk, *, old: bool = False) -> None:
    talk.prepare(1, "SELECT total FROM orders", 0, 1)
    talk.client(execute(1, flags=1))
    status = wire.AUTOCOMMIT | wire.CURSOR
    end = wire.eof(status) if old else wire.end(status)
    talk.server(packets(1, b"\1", wire.column("total", "orders", 8), end))


@pytest.mark.parametrize("old", [True, False])
def test_rows_of_a_cursor_come_with_fetch(old: bool) -> None:
    talk = Talk(capabilities=wire.BASE if old else wire.MODERN)
    open_cursor(talk, old=old)
    assert talk.session.current is None
    assert talk.last()["status"] == "suspended"
    assert talk.client(wire.fetch(1, 1)) == wire.fetch(1, 1)
    status = wire.AUTOCOMMIT | wire.CURSOR
    end = wire.eof if old else wire.end
    answer = packets(1, wire.binary_row(5), end(status))
    assert talk.server(answer) == answer
    assert talk.last()["status"] == "suspended"
    talk.client(wire.fetch(1, 1))
    talk.server(packets(1, wire.binary_row(6), end(status | wire.LAST_ROW)))
    assert talk.responses() == [(1, "suspended"), (1, "suspended"), (1, "ok")]
    assert talk.last()["rows"] == 1


def test_a_very_long_head_is_not_on_record_with_each_fetch() -> None:
    columns = [wire.column("a rather long name " + "x" * 40, "orders") for _ in range(200)]
    head = packets(1, b"\xc8", *columns)
    talk = Talk(response_max=4096, texts_max=3 * 4096)
    talk.prepare(1, "SELECT total FROM orders", 0, 1)
    talk.client(execute(1, flags=1))
    talk.server(head + wire.packet(202, wire.end(wire.AUTOCOMMIT | wire.CURSOR)))
    for _ in range(3):
        talk.client(wire.fetch(1, 1))
        talk.server(packets(1, wire.binary_row(*[5] * 200), wire.end(wire.AUTOCOMMIT | wire.CURSOR)))
        assert (talk.last()["rows"], talk.last()["truncated"]) == (1, False)
        assert len(talk.last()["wire"]) < 4096
    for statement in range(2, 12):  # nor are those of very many cursors kept
        talk.prepare(statement, "SELECT total FROM orders", 0, 1)
        talk.client(execute(statement, flags=1))
        talk.server(packets(1, b"\x14", *columns[:20], wire.end(wire.AUTOCOMMIT | wire.CURSOR)))
    kept = [len(one.cursor.head) for one in talk.session.prepared.values() if one.cursor is not None]
    assert len(kept) == 11
    assert 2 * 4096 < sum(kept) <= 3 * 4096


def test_a_fetch_without_a_cursor_never_goes_up() -> None:
    talk = Talk()
    talk.prepare(1, "SELECT total FROM orders", 0, 1)
    assert talk.denied(wire.fetch(1, 1))[0] == 1421


def test_a_stricter_policy_stops_a_cursor() -> None:
    talk = Talk()
    open_cursor(talk)
    talk.port.epoch = object()
    talk.port.decision = lambda _: _deny()
    assert talk.denied(wire.fetch(1, 1))[0] == 1142
    assert talk.last("command")["phase"] == "fetch"


def test_a_reset_statement_has_no_cursor() -> None:
    talk = Talk()
    open_cursor(talk)
    talk.client(wire.reset(1))
    talk.server(packets(1, wire.ok()))
    assert talk.denied(wire.fetch(1, 1))[0] == 1421


# ---------------------------------------------------------------- bounds


def test_more_statements_than_are_kept() -> None:
    talk = Talk(names_max=2)
    talk.prepare(1, SELECT, 1, 1)
    talk.prepare(2, SELECT, 1, 1)
    assert talk.denied(prepare(SELECT))[0] == 1461
    talk.client(wire.close(1))
    talk.prepare(3, SELECT, 1, 1)


def test_longer_statements_than_are_kept() -> None:
    talk = Talk(texts_max=12_000)
    long = "SELECT total FROM orders WHERE id = " + "1" * 60 + " + 1" * 2000
    talk.prepare(1, long)
    assert talk.denied(prepare(long))[0] == 1461


def test_nothing_of_a_held_execution_goes_up_before_its_approval() -> None:
    talk = Talk()
    talk.prepare(1, "DELETE FROM orders WHERE id = ?", 1)
    assert talk.client(execute(1, 7)) == b""
    assert talk.port.holds[0].params == ("7",)
    assert talk.resume(Outcome.APPROVED) == execute(1, 7)
    assert talk.session.current is not None
    assert talk.session.current.awaited is Awaited.FIRST


def test_a_digest_covers_the_parameters_and_not_the_id() -> None:
    digests = []
    for statement, value in ((1, 7), (2, 7), (1, 8)):
        talk = Talk()
        talk.prepare(statement, "DELETE FROM orders WHERE id = ?", 1)
        talk.client(execute(statement, value))
        digests.append(talk.port.holds[0].digest)
    assert digests[0] == digests[1] != digests[2]


def test_types_of_a_refused_execution_reach_the_server_with_the_next() -> None:
    """Else the gateway would read the next values by other types than the server does."""
    talk = Talk()
    talk.prepare(1, "DELETE FROM orders WHERE id = ?", 1)
    talk.client(execute(1, 7))
    assert talk.resume(Outcome.APPROVED) == execute(1, 7)
    talk.server(packets(1, wire.ok(1)))
    talk.client(execute(1, "7"))  # as a string now
    talk.resume(Outcome.DENIED, "no")
    talk.down()
    talk.client(execute(1, "8", types=False))
    assert talk.port.holds[-1].params == ("8",)
    assert talk.resume(Outcome.APPROVED) == execute(1, "8")
    talk.server(packets(1, wire.ok(1)))
    talk.client(execute(1, "9", types=False))
    assert talk.resume(Outcome.APPROVED) == execute(1, "9", types=False)


def test_an_execution_above_the_limit_uses_up_its_long_data() -> None:
    talk = Talk(inspect_max=1000)
    talk.prepare(1, "SELECT total FROM orders WHERE id = ?", 1, 1)
    talk.client(wire.long_data(1, 0, "old"))
    assert talk.denied(execute(1, "x" * 2000))[0] == 1153
    assert talk.client(execute(1, "x")) == execute(1, "x")
