"""A session as a transcript: bytes in, bytes out, records out."""

from __future__ import annotations

import pytest

from protocols.contract import Side, Wait
from protocols.mysql.capabilities import Capability
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import Talk, anything
from tests.support.mysql_wire import command, packets, query

SELECT = wire.result([wire.column("id", "orders", 8)], [wire.row("1"), wire.row("22")])


def test_a_query_and_its_rows_pass_byte_for_byte_and_are_on_record() -> None:
    talk = Talk()
    assert talk.client(query("SELECT id FROM orders")) == query("SELECT id FROM orders")
    assert talk.commands() == [("query", "SELECT id FROM orders", "allow")]
    assert talk.server(SELECT) == SELECT
    last = talk.last()
    assert (last["n"], last["status"], last["rows"], last["bytes"]) == (1, "ok", 2, len(SELECT))
    assert last["truncated"] is False
    assert not talk.session.busy


@pytest.mark.parametrize("cut", range(1, len(SELECT)))
def test_rows_in_two_pieces(cut: int) -> None:
    talk = Talk()
    talk.client(query("SELECT id FROM orders"))
    assert talk.server(SELECT[:cut]) + talk.server(SELECT[cut:]) == SELECT
    assert talk.responses() == [(1, "ok")]


def test_old_eof_packets() -> None:
    talk = Talk(capabilities=wire.BASE)
    answer = wire.result([wire.column("id", "orders", 8)], [wire.row("1")], old=True)
    talk.client(query("SELECT id FROM orders"))
    assert talk.server(answer) == answer
    assert talk.last()["rows"] == 1
    assert talk.session.current is None


def test_a_denied_command_is_answered_here_and_the_session_lives() -> None:
    talk = Talk()
    errno, state, text = talk.denied(query("DROP TABLE orders"))
    assert (errno, state) == (1142, "42000")
    assert "rule `no-ddl`" in text
    assert "ask the platform team" in text
    assert talk.commands() == [("query", "DROP TABLE orders", "deny")]
    assert talk.last()["sqlstate"] == "42000"
    assert talk.session.refused == 1
    talk.ok("SELECT 1 FROM orders")


def test_a_text_is_denied_as_a_whole() -> None:
    talk = Talk()
    talk.denied(query("SELECT id FROM orders; DROP TABLE orders"))


def test_several_results_of_one_text() -> None:
    talk = Talk()
    talk.client(query("INSERT INTO orders VALUES (1, 2); SELECT id FROM orders"))
    first = packets(1, wire.ok(1, wire.AUTOCOMMIT | wire.MORE))
    second = wire.result([wire.column("id")], [wire.row("1")], first=2)
    assert talk.server(first) == first
    assert talk.session.busy
    assert talk.server(second) == second
    assert talk.responses() == [(1, "ok"), (1, "ok")]
    assert not talk.session.busy


def test_an_error_ends_the_text_and_nothing_is_awaited() -> None:
    talk = Talk()
    talk.client(query("SELECT id FROM orders; SELECT id FROM orders"))
    answer = packets(1, wire.err(1146, "42S02", "Table 'app.orders' doesn't exist"))
    assert talk.server(answer) == answer
    assert talk.last()["sqlstate"] == "42S02"
    assert talk.session.current is None


def test_what_a_client_sends_behind_a_command_waits_for_its_answer() -> None:
    talk = Talk()
    assert talk.client(query("SELECT id FROM orders") + wire.PING) == query("SELECT id FROM orders")
    assert talk.session.waiting is Wait.SERVER
    talk.client(query("DROP TABLE orders"))
    assert talk.server(SELECT) == SELECT
    assert talk.up() == wire.PING
    told = talk.server(packets(1, wire.ok()))
    assert [seq for seq, _ in wire.split(told)] == [1, 1]
    assert wire.errors(told)[0][1] == 1142
    assert talk.session.waiting is None
    assert talk.session.backlog == 0


def test_a_use_is_in_force_for_the_command_behind_it() -> None:
    talk = Talk()
    assert talk.client(query("USE other") + query("SELECT id FROM orders")) == query("USE other")
    talk.server(packets(1, wire.ok()))
    assert talk.up() == query("SELECT id FROM orders")
    assert talk.last("command")["reads"] == ["other.orders"]


def test_init_db_is_judged_as_use_and_takes_effect_with_its_ok() -> None:
    talk = Talk()
    sent = command(0x02, "other")
    assert talk.client(sent) == sent
    assert talk.last("command")["phase"] == "init_db"
    assert talk.state.database == "app"
    talk.server(packets(1, wire.ok()))
    assert talk.state.database == "other"


def test_init_db_that_fails_changes_nothing() -> None:
    talk = Talk()
    talk.client(command(0x02, "nowhere"))
    talk.server(packets(1, wire.err(1049, "42000", "Unknown database")))
    assert talk.state.database == "app"


def test_session_tracking_is_believed() -> None:
    talk = Talk()
    talk.ok("SET SESSION sql_mode = 'ANSI_QUOTES'", changes=wire.variable("sql_mode", "ANSI_QUOTES"))
    assert talk.state.sql_mode == frozenset({"ANSI_QUOTES"})
    talk.ok("SELECT 1 FROM orders", changes=wire.schema("other"))
    assert talk.state.database == "other"


def test_status_flags_say_whether_a_transaction_is_open() -> None:
    talk = Talk()
    talk.ok("BEGIN", status=wire.AUTOCOMMIT | wire.IN_TRANS)
    assert talk.session.busy
    talk.denied(query("DROP TABLE orders"))
    assert talk.session.busy
    talk.ok("COMMIT")
    assert not talk.session.busy


def test_terminate_rule_ends_the_session_with_an_error() -> None:
    talk = Talk()
    assert talk.client(query("TRUNCATE TABLE orders")) == b""
    errno, text = talk.fatal()
    assert errno == 1053
    assert "no-truncate" in text
    assert talk.responses() == [(1, "error")]


def test_terminate_while_rows_pass_keeps_the_count_of_packets() -> None:
    talk = Talk()
    talk.client(query("SELECT id FROM orders"))
    told = talk.server(packets(1, b"\1", wire.column("id"), wire.row("1")))
    talk.session.terminate("terminating connection: contained")
    told += talk.down()
    assert [seq for seq, _ in wire.split(told)] == [1, 2, 3, 4]
    assert wire.errors(told)[-1][1] == 1053
    assert talk.responses() == [(1, "lost")]


def test_terminate_of_an_idle_session_is_read_with_the_next_command() -> None:
    talk = Talk()
    talk.session.terminate("terminating connection: contained")
    assert wire.errors(talk.down())[0][0] == 1


def test_inside_a_packet_there_is_no_place_for_last_words() -> None:
    talk = Talk()
    talk.client(query("SELECT id FROM orders"))
    talk.server(packets(1, b"\1", wire.column("id")))
    row = wire.packet(3, wire.row("1") + b"\xfd" + (100_000).to_bytes(3, "little") + b"x" * 100_000)
    assert talk.server(row[:70_000]) == row[:70_000]
    talk.session.terminate("terminating connection: contained")
    assert talk.down() == b""
    assert talk.ended


def test_a_long_row_passes_in_pieces() -> None:
    talk = Talk(response_max=100)
    talk.client(query("SELECT id FROM orders"))
    answer = wire.result(
        [wire.column("id")], [b"\xfd" + (200_000).to_bytes(3, "little") + b"x" * 200_000, wire.row("2")]
    )
    told = b""
    for at in range(0, len(answer), 30_000):
        told += talk.server(answer[at : at + 30_000])
        assert talk.session._from_server.buffered < 66_000
    assert told == answer
    assert talk.last()["rows"] == 2
    assert talk.last()["truncated"] is True
    assert talk.last()["bytes"] == len(answer)


def test_a_row_above_16_mib() -> None:
    talk = Talk()
    talk.client(query("SELECT id FROM orders"))
    value = b"\xfe" + (0x1000000).to_bytes(8, "little") + b"\xff" * 0x1000000
    answer = wire.packets(1, b"\1", wire.column("id")) + wire.packet(3, value) + wire.packets(5, wire.end())
    told = b"".join(talk.server(answer[at : at + 1_000_000]) for at in range(0, len(answer), 1_000_000))
    assert told == answer
    assert talk.last()["rows"] == 1
    assert talk.session.current is None


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x05, "CREATE_DB"),
        (0x06, "DROP_DB"),
        (0x07, "REFRESH"),
        (0x08, "SHUTDOWN"),
        (0x0D, "DEBUG"),
        (0x11, "CHANGE_USER"),
        (0x12, "BINLOG_DUMP"),
        (0x13, "TABLE_DUMP"),
        (0x15, "REGISTER_SLAVE"),
        (0x1E, "BINLOG_DUMP_GTID"),
        (0x20, "CLONE"),
        (0xFA, "MARIADB_STMT_BULK_EXECUTE"),
        (0xFE, "MARIADB_MULTI"),
        (0x77, "0x77"),
    ],
)
def test_commands_that_never_pass(code: int, name: str) -> None:
    talk = Talk(anything)
    errno, state, text = talk.denied(command(code, b"whatever"))
    assert (errno, state) == (1047, "08S01")
    assert name in text
    assert talk.last("command")["decision"] == "deny"
    assert b"whatever" not in str(talk.port.records).encode()
    talk.ok("SELECT 1 FROM orders")


def test_ping_passes_and_is_not_on_record() -> None:
    talk = Talk()
    assert talk.client(wire.PING) == wire.PING
    answer = packets(1, wire.ok())
    assert talk.server(answer) == answer
    assert talk.port.records == []


def test_statistics_answers_with_text() -> None:
    talk = Talk()
    talk.client(command(0x09))
    answer = packets(1, b"Uptime: 7  Threads: 2")
    assert talk.server(answer) == answer
    assert talk.last("command")["phase"] == "statistics"
    assert talk.session.current is None


def test_set_option_turns_multi_statements_on() -> None:
    talk = Talk()
    sent = command(0x1B, b"\0\0")
    assert talk.client(sent) == sent
    talk.server(packets(1, wire.end()))
    assert talk.state.multi_statements is True
    talk.client(command(0x1B, b"\1\0"))
    talk.server(packets(1, wire.end()))
    assert talk.state.multi_statements is False


def test_set_option_with_an_old_eof() -> None:
    talk = Talk(capabilities=wire.BASE)
    talk.client(command(0x1B, b"\0\0"))
    talk.server(packets(1, wire.eof()))
    assert talk.state.multi_statements is True


def test_field_list_is_judged_as_a_look_at_the_table() -> None:
    talk = Talk(capabilities=wire.BASE)
    sent = command(0x04, b"orders\0%")
    assert talk.client(sent) == sent
    assert talk.last("command")["phase"] == "field_list"
    answer = packets(1, wire.column("id", "orders", 8) + b"\xfb", wire.eof())
    assert talk.server(answer) == answer
    assert talk.session.current is None


def test_reset_connection_forgets_statements_and_settings() -> None:
    talk = Talk()
    talk.prepare(1, "SELECT id FROM orders")
    talk.ok("SET sql_mode = 'ANSI_QUOTES'")
    assert talk.client(wire.RESET_CONNECTION) == wire.RESET_CONNECTION
    talk.server(packets(1, wire.ok()))
    assert talk.state.sql_mode == frozenset()
    assert talk.denied(wire.execute(1))[0] == 1243


def test_quit_goes_up() -> None:
    talk = Talk()
    assert talk.client(wire.QUIT) == wire.QUIT
    talk.session.lost(Side.CLIENT)
    assert talk.down() == b""


# ---------------------------------------------------------------- KILL


@pytest.mark.parametrize(
    ("sql", "pid", "end"),
    [
        ("KILL 77", 77, True),
        ("kill connection 77", 77, True),
        ("KILL QUERY 77", 77, False),
        (" KILL QUERY 77;", 77, False),
    ],
)
def test_kill_of_an_own_session_is_done_here(sql: str, pid: int, end: bool) -> None:
    talk = Talk()
    assert talk.client(query(sql)) == b""
    assert talk.port.cancelled == [(pid, end)]
    ((sequence, body),) = wire.split(talk.down())
    assert (sequence, body[0]) == (1, 0)
    assert talk.commands() == [("query", sql, "allow")]
    assert talk.responses() == [(1, "ok")]


def test_kill_of_any_other_session_is_an_unknown_id() -> None:
    talk = Talk()
    assert talk.denied(query("KILL QUERY 5"))[:2] == (1094, "HY000")
    assert talk.denied(command(0x0C, b"\5\0\0\0"))[:2] == (1094, "HY000")
    assert talk.port.cancelled == [(5, False), (5, True)]


@pytest.mark.parametrize(
    "sql", ["SELECT 1 FROM orders; KILL 77", "KILL 77 + 0", "KILL CONNECTION_ID()", "KILL USER app"]
)
def test_kill_in_any_other_form_goes_nowhere(sql: str) -> None:
    talk = Talk(anything)
    talk.denied(query(sql))
    assert talk.port.cancelled == []


def test_kill_cannot_be_prepared() -> None:
    talk = Talk(anything)
    assert talk.denied(wire.prepare("KILL 77"))[0] == 1095


# ---------------------------------------------------------------- waits and ends


def test_a_stale_catalog_is_waited_for_once() -> None:
    talk = Talk()
    talk.port.snapshot, fresh = None, talk.port.snapshot
    assert talk.client(query("SELECT id FROM orders")) == b""
    assert talk.session.waiting is Wait.CATALOG
    talk.port.snapshot = fresh
    assert talk.resume(None) == query("SELECT id FROM orders")


def test_without_a_catalog_the_statement_is_unknown() -> None:
    talk = Talk()
    talk.port.snapshot = None
    talk.client(query("SELECT id FROM orders"))
    assert talk.resume(None) == b""
    assert wire.errors(talk.down())[0][1] == 1142


def test_what_cannot_be_recorded_does_not_pass() -> None:
    talk = Talk()
    talk.port.full = True
    assert talk.client(query("SELECT id FROM orders")) == b""
    assert talk.fatal()[0] == 1026


def test_the_upstream_goes_in_the_middle_of_a_command() -> None:
    talk = Talk()
    talk.client(query("SELECT id FROM orders"))
    talk.server(packets(1, b"\1"))
    talk.session.lost(Side.UPSTREAM)
    ((sequence, errno, _, text),) = wire.errors(talk.down())
    assert (sequence, errno) == (2, 1158)
    assert "not known" in text
    assert talk.responses() == [(1, "lost")]


def test_definitions_make_the_catalog_stale() -> None:
    talk = Talk(anything)
    talk.ok("CREATE TABLE made (id int)")
    assert talk.port.changed


def test_last_words_of_an_idle_server_pass_once() -> None:
    talk = Talk()
    words = packets(0, wire.err(4031, "HY000", "The client was disconnected by the server because of inactivity."))
    assert talk.server(words) == words
    talk.server(words)
    assert talk.ended


@pytest.mark.parametrize("capabilities", [wire.BASE, wire.MODERN], ids=["base", "modern"])
def test_what_an_ok_says_is_on_record_without_its_length(capabilities: Capability) -> None:
    talk = Talk(anything, capabilities=capabilities)
    talk.client(query("UPDATE orders SET total = 1 WHERE id = 1"))
    talk.server(packets(1, wire.ok(1, info=b"Rows matched: 1")))
    assert talk.last()["tag"] == "OK, 1 affected (Rows matched: 1)"


def test_a_text_is_on_record_as_its_encoding_says() -> None:
    talk = Talk(anything)
    talk.ok("SET NAMES latin1")
    for number in (1, 2, 3):
        asked = f"SELECT id, {number} AS `Größe` FROM orders WHERE name = 'Müller'"
        talk.client(query(asked.encode("latin-1")))
        talk.server(SELECT)
        assert talk.last("command")["text"] == asked
