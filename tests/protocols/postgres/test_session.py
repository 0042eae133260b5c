"""Transcripts of a session: what the client sends, what goes to the server, what comes back, what is on record."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from protocols.contract import Action, Decision, Side, Wait
from tests.support import wire
from tests.support.port import T0, anything
from tests.support.talk import SSN, USERS, Talk, usual
from tests.support.wire import FLUSH, SYNC, bind, close, complete, describe, execute, kinds, parse, query, ready

ONE = wire.columns(wire.field("x", type_oid=23)) + wire.row(b"1") + complete("SELECT 1")
DROP = "DROP TABLE users"
REFUSED = b"sluicegate: stopped by policy"


def refused(data: bytes, rule: str = "no-ddl") -> dict[str, str]:
    """The one error of a stream: the gateway's own."""
    (found,) = wire.errors(data)
    assert (found["S"], found["C"]) == ("ERROR", "42501")
    assert f"`{rule}`" in found["M"]
    return found


# ---------------------------------------------------------------- what passes, passes as it is


def test_a_simple_query() -> None:
    talk = Talk()
    assert talk.client(query("SELECT 1")) == query("SELECT 1")
    assert talk.commands() == [("query", "SELECT 1", "allow")]
    assert talk.server(ONE + ready()) == ONE + ready()
    response = talk.last()
    assert (response["n"], response["status"], response["rows"], response["tag"]) == (1, "ok", 1, "SELECT 1")
    assert base64.b64decode(response["wire"]) == ONE
    assert not talk.session.busy


def test_the_extended_protocol_with_everything() -> None:
    talk = Talk()
    sent = (
        parse("s", "SELECT $1::int", 23) + describe("S", "s") + bind("p", "s", [b"7"]) + describe("P", "p")
        + execute("p", 1) + execute("p") + close("P", "p") + close("S", "s") + FLUSH + SYNC
    )  # fmt: skip
    assert talk.client(sent) == sent
    answer = (
        wire.PARSED + wire.parameters(23) + wire.columns(wire.field("int4")) + wire.BOUND
        + wire.columns(wire.field("int4")) + wire.row(b"7") + wire.SUSPENDED + complete("SELECT 0")
        + wire.CLOSED + wire.CLOSED + ready()
    )  # fmt: skip
    assert talk.server(answer) == answer
    assert talk.commands() == [("bind", "SELECT $1::int", "allow")]
    assert talk.last("command")["params"] == ["7"]
    assert talk.responses() == [(1, "suspended"), (1, "ok")]
    assert not talk.session.busy


def test_binary_parameters_are_recorded_decoded() -> None:
    talk = Talk()
    talk.client(parse("s", "SELECT $1::int, $2::text, $3::uuid", 23, 25, 2950) + SYNC)
    talk.server(wire.PARSED, ready())
    raw = bytes.fromhex("00112233445566778899aabbccddeeff")
    talk.client(bind("", "s", [b"\0\0\1\0", None, raw], [1]) + execute() + SYNC)
    assert talk.last("command")["params"] == ["256", None, "00112233-4455-6677-8899-aabbccddeeff"]


def test_statements_of_one_query_are_answered_one_by_one() -> None:
    talk = Talk()
    sent = query("INSERT INTO orders VALUES (1, 'x'); SELECT 1; ")
    assert talk.client(sent) == sent
    answer = complete("INSERT 0 1") + ONE + ready()
    assert talk.server(answer) == answer
    assert talk.responses() == [(1, "ok"), (1, "ok")]
    assert talk.last("command")["writes"] == ["public.orders"]


def test_an_empty_query_notices_and_notifications() -> None:
    talk = Talk()
    talk.client(query(""))
    answer = wire.notice("hello") + wire.EMPTY + ready()
    assert talk.server(answer) == answer
    idle = wire.notice("later") + wire.parameter("TimeZone", "UTC") + wire.message("A", b"\0\0\0\1c\0p\0")
    assert talk.server(idle) == idle


def test_a_statement_with_a_secret_is_recorded_without_it_and_without_its_parameters() -> None:
    talk = Talk()
    talk.client(parse("s", "SELECT 'hunter2', $1::text") + SYNC)
    talk.server(wire.PARSED, ready())
    talk.client(bind("", "s", [b"also secret"]) + execute() + SYNC)
    kept = str(talk.port.records)
    assert "hunter2" not in kept
    assert "also secret" not in kept
    assert "[redacted]" in kept


def test_a_long_response_is_recorded_up_to_the_limit() -> None:
    talk = Talk(response_max=100)
    talk.client(query("SELECT 1"))
    answer = wire.columns(wire.field("x")) + wire.row(b"y" * 500) + complete("SELECT 1") + ready()
    assert talk.server(answer) == answer
    assert talk.last()["truncated"] is True
    assert len(base64.b64decode(talk.last()["wire"])) == 100
    assert talk.last()["bytes"] == len(answer) - len(ready())


# ---------------------------------------------------------------- denials: the server raises the error itself


def test_a_denied_query_is_replaced_by_one_that_fails() -> None:
    talk = Talk()
    sent = talk.client(query(DROP) + query("SELECT 1"))
    assert DROP.encode() not in sent
    assert sent == query(REFUSED)  # what follows waits: a DROP would change what names mean
    told = talk.server(wire.error("42601", "syntax error", P="1"), ready())
    assert talk.up() == query("SELECT 1")
    told += talk.server(ONE, ready())
    assert kinds(told) == "EZTDCZ"
    error = refused(told)
    assert "ddl.drop" in error["H"]
    assert "P" not in error
    assert talk.commands() == [("query", DROP, "deny"), ("query", "SELECT 1", "allow")]
    assert talk.responses() == [(1, "error"), (2, "ok")]
    assert talk.port.records[1]["sqlstate"] == "42501"
    assert talk.session.refused == 1


def test_one_denied_statement_denies_its_whole_message() -> None:
    talk = Talk()
    sent = talk.client(query(f"INSERT INTO orders VALUES (1, 'x'); {DROP}"))
    assert sent == query(REFUSED)


def test_a_denied_parse_is_skipped_to_its_sync() -> None:
    talk = Talk()
    sent = talk.client(parse("s", DROP) + bind("", "s") + execute() + SYNC + query("SELECT 1"))
    assert DROP.encode() not in sent
    assert kinds(sent) == "PSQ"
    told = talk.server(wire.error("42601"), ready(), ONE, ready())
    assert kinds(told) == "EZTDCZ"
    refused(told)
    assert talk.commands()[0] == ("parse", DROP, "deny")
    assert not talk.session.busy


def test_after_a_denial_nothing_is_sent_until_sync() -> None:
    """The error came before the client had sent the rest: the server would ignore it, so it does not get it."""
    talk = Talk()
    talk.client(parse("s", DROP) + FLUSH)
    refused(talk.server(wire.error("42601")))
    assert talk.client(bind("", "s") + execute() + query("SELECT 'ignored'")) == b""
    assert talk.client(SYNC + query("SELECT 1")) == SYNC + query("SELECT 1")
    assert kinds(talk.server(ready(), ONE, ready())) == "ZTDCZ"


def test_a_denied_bind_of_a_statement_that_was_allowed_at_parse() -> None:
    """The policy became stricter in between: what counts is the one in force when it would run."""
    talk = Talk()
    talk.prepare("s", "INSERT INTO orders VALUES (1, 'x')")
    talk.port.decision = lambda _: Decision(Action.DENY, "closed", "not now")
    talk.port.epoch = object()
    sent = talk.client(bind("", "s") + execute() + SYNC)
    assert bind("", "s") not in sent
    told = talk.server(wire.error("26000"), ready())
    refused(told, "closed")


def test_a_denied_execute_of_a_portal_that_was_allowed_at_bind() -> None:
    talk = Talk()
    talk.begin()
    talk.prepare("s", "INSERT INTO orders VALUES (1, 'x')")
    talk.client(bind("p", "s") + SYNC)
    talk.server(wire.BOUND, ready("T"))
    talk.port.decision = lambda _: Decision(Action.DENY, "closed", "not now")
    talk.port.epoch = object()
    sent = talk.client(execute("p") + SYNC)
    assert execute("p") not in sent
    assert kinds(sent) == "ES"
    refused(talk.server(wire.error("34000"), ready("E")), "closed")
    assert talk.session.status == "E"


def test_a_portal_does_not_outlive_the_hour_it_was_bound_in() -> None:
    def decide(_: Any) -> Decision:
        if talk.port.time < T0 + 10:
            return Decision(Action.ALLOW, "office-hours", "", valid_until=T0 + 10)
        return Decision(Action.DENY, "closed", "not now")

    talk = Talk(decide)
    talk.begin()
    talk.prepare("s", "SELECT total FROM orders")
    talk.client(bind("p", "s") + execute("p", 1) + SYNC)
    talk.server(wire.BOUND, wire.row(b"1"), wire.SUSPENDED, ready("T"))
    assert talk.client(execute("p", 1) + SYNC) == execute("p", 1) + SYNC
    talk.server(wire.row(b"2"), wire.SUSPENDED, ready("T"))
    talk.port.time += 11
    assert execute("p", 1) not in talk.client(execute("p", 1) + SYNC)
    refused(talk.server(wire.error("34000"), ready("E")), "closed")


def test_row_18_a_portal_that_is_to_be_held_is_bound_again() -> None:
    """Who approves must see its parameters, and those came with Bind."""
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    talk.begin()
    talk.prepare("s", "DELETE FROM users WHERE id = $1")
    talk.client(bind("p", "s", [b"7"]) + SYNC)
    talk.server(wire.BOUND, ready("T"))
    talk.port.decision = usual
    talk.port.epoch = object()
    assert execute("p") not in talk.client(execute("p") + SYNC)
    assert not talk.port.holds
    (told,) = wire.errors(talk.server(wire.error("34000"), ready("E")))
    assert (told["C"], "bind it again" in told["M"]) == ("55000", True)
    assert [r["text"] for r in talk.port.records if r["t"] == "command"][-1] == "DELETE FROM users WHERE id = $1"


@pytest.mark.parametrize("masks", [[], [SSN]], ids=["clear", "masked"])
def test_a_denied_function_call(masks: Any) -> None:
    talk = Talk(masks=masks)
    sent = talk.client(wire.call(999_999, [b"x"]))
    assert sent == wire.call(0)
    refused(talk.server(wire.error("42883"), ready()), "default")


def test_rule_terminate_ends_the_session_and_sends_nothing() -> None:
    talk = Talk()
    assert talk.client(query("SELECT 1") + query("TRUNCATE users")) == b""
    assert talk.fatal()["C"] == "57P01"
    assert talk.commands()[-1] == ("query", "TRUNCATE users", "terminate")
    assert talk.responses() == [(1, "lost"), (2, "lost")]
    assert talk.client(query("SELECT 1")) == b""


def test_a_denial_with_an_alert_names_its_command() -> None:
    talk = Talk(lambda _: Decision(Action.DENY, "r", "no", alerts=("drop-tried",)))
    talk.client(query(DROP))
    assert talk.port.alerts == [(("drop-tried",), 1)]


def test_an_answer_with_an_end_is_not_used_behind_it() -> None:
    """A decision that holds until then is asked for again after it, whichever cache it came from."""
    asked: list[float] = []

    def decide(_: Any) -> Decision:
        asked.append(talk.port.time)
        return Decision(Action.ALLOW, "office-hours", "", valid_until=talk.port.time + 10)

    talk = Talk(decide)
    for passed in (0, 5, 11):
        talk.port.time += passed
        for sql in ("SELECT total FROM orders WHERE id = 1", "SELECT total FROM orders WHERE id = 2"):
            talk.client(query(sql))
            talk.server(complete("SELECT 0"), ready())
    assert len(asked) == 2
    assert asked[1] - asked[0] == 16


# ---------------------------------------------------------------- waits


def test_a_stale_catalog_is_waited_for_once() -> None:
    talk = Talk()
    snapshot, talk.port.snapshot = talk.port.snapshot, None
    assert talk.client(query("SELECT * FROM users") + query("SELECT 2")) == b""
    assert talk.session.waiting is Wait.CATALOG
    assert talk.session.backlog > 0
    talk.port.snapshot = snapshot
    assert talk.resume(None) == query("SELECT * FROM users") + query("SELECT 2")


def test_without_a_catalog_what_it_must_say_is_unknown_and_denied() -> None:
    talk = Talk()
    talk.port.snapshot = None
    talk.client(query("SELECT * FROM users"))
    assert talk.resume(None) == query(REFUSED)
    assert "catalog" in refused(talk.server(wire.error("42601"), ready()), "default")["H"]


def test_definitions_make_the_next_snapshot_newer() -> None:
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    talk.client(query("CREATE TABLE t (i int)"))
    assert talk.port.changed == 0
    talk.server(complete("CREATE TABLE"), ready())
    assert talk.port.changed >= 1


def test_what_follows_a_change_of_meaning_waits_for_its_outcome() -> None:
    talk = Talk(lambda a: Decision(Action.ALLOW, "all", ""))
    setting = query("SET standard_conforming_strings = off")
    assert talk.client(setting + query(r"SELECT '\' || x --'")) == setting
    assert talk.session.waiting is Wait.SERVER
    talk.server(wire.parameter("standard_conforming_strings", "off"), complete("SET"), ready())
    assert talk.up() == query(r"SELECT '\' || x --'")
    assert talk.last("command")["effects"] == ["unknown"]  # not lexed as it was before


def test_a_flush_makes_the_server_answer_where_both_would_wait() -> None:
    talk = Talk()
    talk.prepare("set", "SET search_path = evil")
    sent = talk.client(bind("", "set") + execute() + parse("", "SELECT * FROM orders") + SYNC)
    assert sent == bind("", "set") + execute() + FLUSH
    talk.server(wire.BOUND, complete("SET"))
    assert kinds(talk.up()) == "PS"


# ---------------------------------------------------------------- ends


def test_terminate_of_the_client_passes() -> None:
    talk = Talk()
    assert talk.client(wire.TERMINATE) == wire.TERMINATE
    talk.session.lost(Side.CLIENT)
    assert talk.ended
    assert talk.down() == b""


def test_losing_the_upstream_tells_the_client_and_records_the_loss() -> None:
    talk = Talk()
    talk.client(query("INSERT INTO orders VALUES (1, 'x')"))
    talk.session.lost(Side.UPSTREAM)
    assert talk.fatal()["C"] == "08006"
    assert talk.responses() == [(1, "lost")]


def test_the_polite_end_drops_what_was_not_sent() -> None:
    talk = Talk()
    talk.session.client(query("SELECT 1"))
    talk.session.terminate("contained")
    assert talk.up() == b""
    assert (talk.fatal()["C"], talk.session.busy) == ("57P01", False)


def test_what_cannot_be_recorded_is_not_sent() -> None:
    talk = Talk()
    talk.port.full = True
    assert talk.client(query("SELECT 1")) == b""
    assert talk.fatal()["C"] == "58030"


def test_a_response_that_cannot_be_recorded_ends_the_session() -> None:
    talk = Talk()
    talk.client(query("SELECT 1"))
    talk.port.full = True
    talk.session.server(ONE + ready())
    assert talk.fatal()["C"] == "58030"


def test_notices_of_ours_come_between_messages() -> None:
    talk = Talk()
    talk.client(query("SELECT 1"))
    big = wire.row(b"z" * 200_000)
    told = talk.server(wire.columns(wire.field("x")) + big[:100_000])
    talk.session.notice("this session ends in 60 s")
    told += talk.server(big[100_000:] + complete("SELECT 1") + ready())
    assert kinds(told) == "TDNCZ"
    talk.session.notice("again")
    assert kinds(talk.down()) == "N"


def test_masks_and_decisions_are_those_of_the_usual_port() -> None:
    """The port of these tests denies and masks as they say it does."""
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT ssn FROM users"))
    told = talk.server(
        wire.columns(wire.field("ssn", USERS, 2)), wire.row(b"078-05-1120"), complete("SELECT 1"), ready()
    )
    assert b"078-05-1120" not in told
    assert usual is talk.port.decision


def test_a_bind_behind_a_denied_parse_of_its_name_is_not_on_record() -> None:
    """The server skips it: an older statement of that name did not run again."""
    talk = Talk()
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.server(wire.PARSED, ready())
    talk.client(parse("s", DROP) + bind("", "s") + execute() + SYNC)
    assert [phase for phase, _, _ in talk.commands()] == ["parse"]


@pytest.mark.parametrize("kind", ["query", "parse"])
def test_a_message_above_the_limit_is_answered_at_its_end(kind: str) -> None:
    """As by the server: some clients wait for an answer only once they have sent all."""
    talk = Talk(inspect_max=1000)
    sql = "SELECT '" + "x" * 5000 + "'"
    sent = query(sql) if kind == "query" else parse("", sql) + SYNC
    end = len(query(sql) if kind == "query" else parse("", sql))
    assert talk.client(sent[:2000]) == b""
    assert talk.client(sent[2000 : end - 1]) == b""
    up = talk.client(sent[end - 1 :])
    assert up
    assert b"xxx" not in up
    told = wire.errors(talk.server(wire.error("42P01"), ready()))
    assert [(e["C"], e["M"][:9]) for e in told] == [("54000", "a message")]
    assert talk.commands() == [("query", "(above the inspection limit)", "deny")]


def test_a_text_is_on_record_as_its_encoding_says() -> None:
    talk = Talk(anything)
    talk.session.state.parameter_status("client_encoding", "LATIN1")
    said = "SELECT total AS Größe, 1 FROM orders"
    for number in ("1", "2", "3"):
        asked = said.replace("1", number)
        talk.client(wire.message("Q", asked.encode("latin-1") + b"\0"))
        talk.server(wire.columns(wire.field("total", type_oid=23)), complete("SELECT 0"), ready())
        assert talk.last("command")["text"] == asked
