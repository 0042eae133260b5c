"""The shared wire cases for MySQL: each a conversation with a session, judged by what its case expects.

stop: nothing that does the damage goes to the server unless somebody allows it. mask: the secret does not come back.
strip: it is not offered, and refused where it is claimed all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.contract import Wait
from protocols.mysql.capabilities import Capability, agreed, offered, unoffered
from tests.support import mysql_wire as wire
from tests.support.mysql_talk import SSN, Talk, anything
from tests.support.mysql_wire import packets, query

FILE = Path(__file__).parent / "cases" / "wire.jsonl"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in map(json.loads, FILE.read_text().splitlines()) if case["dialect"] == "mysql"
}
SECRET = b"078-05-1120"
DELETE = "DELETE FROM users"


def stopped(talk: Talk, sent: bytes, *damage: bytes) -> None:
    """The statement was denied or is held, on record, and its packet did not go to the server."""
    assert all(message not in sent for message in damage)
    assert talk.last("command")["decision"] in ("deny", "hold")
    assert talk.session.refused or talk.session.waiting is Wait.HOLD


def wm_001() -> None:
    talk = Talk()
    talk.prepare(1, DELETE)
    stopped(talk, talk.client(wire.execute(1)), wire.execute(1))
    denied = Talk()
    stopped(denied, denied.client(wire.prepare("DROP TABLE users")), b"DROP")


def wm_003() -> None:
    talk = Talk()
    option = wire.command(0x1B, b"\0\0")
    sent = talk.client(option + query("SELECT 1; DROP TABLE users"))
    assert sent == option
    talk.server(packets(1, wire.end()))
    stopped(talk, talk.up(), b"DROP")
    single = Talk()  # whatever the client asked for: a text is always cut
    stopped(single, single.client(query("SELECT 1; DROP TABLE users")), b"DROP")


def wm_005() -> None:
    talk = Talk(inspect_max=1 << 25)
    text = b"DELETE FROM users WHERE id IN (" + b" " * (0xFFFFFF - 1 - 31) + b"\x0e1)"
    sent = query(text)
    assert sent[0xFFFFFF + 8] == 0x0E
    got = b"".join(talk.client(sent[at : at + 999_999]) for at in range(0, len(sent), 999_999))
    stopped(talk, got, b"DELETE", b"\x0e")
    assert len(talk.commands()) == 1
    assert talk.last("command")["effects"] != []


def wm_006() -> None:
    talk = Talk()
    stopped(talk, talk.client(query(b"SELECT 1 /*\0*/; DROP TABLE users")), b"DROP")


def wm_015() -> None:
    talk = Talk()
    talk.client(query("SELECT 1"))
    told = talk.server(packets(1, b"\xfb/etc/passwd"))
    assert talk.ended
    assert b"/etc/passwd" not in told
    upstream = Capability(0xFFFFFFFF)
    assert Capability.LOCAL_FILES not in offered(upstream, tls=True)


def wm_019() -> None:
    talk = Talk(masks=[SSN])
    talk.prepare(1, "SELECT ssn, id FROM users", 0, 2)
    talk.client(wire.execute(1))
    columns = [wire.column("ssn", "users"), wire.column("id", "users", 8)]
    told = talk.server(wire.result(columns, [wire.binary_row(SECRET.decode(), 7), wire.binary_row(None, 8)]))
    assert SECRET not in told
    assert len(wire.split(told)) == 6


def wm_020() -> None:
    for code in (0x12, 0x1E, 0x15, 0x13, 0x20):
        talk = Talk(anything)
        stopped(talk, talk.client(wire.command(code, bytes(10))), bytes((code,)) + bytes(10))


def wm_022() -> None:
    upstream = Capability(0xFFFFFFFF)
    for flag in (Capability.COMPRESS, Capability.ZSTD, Capability.QUERY_ATTRIBUTES):
        offer = offered(upstream, tls=True)
        assert flag not in offer
        assert flag not in agreed(offer, upstream)
    for flag in (Capability.COMPRESS, Capability.ZSTD):
        assert flag in unoffered(offer, wire.MODERN | flag)


CHECKS: dict[str, Callable[[], None]] = {
    name.replace("_", "-"): check for name, check in list(globals().items()) if name.startswith("wm_")
}


def test_every_case_has_its_check() -> None:
    assert {case_id[:6] for case_id in CASES} == set(CHECKS)


@pytest.mark.parametrize("case_id", CASES)
def test_a_shared_wire_case(case_id: str) -> None:
    CHECKS[case_id[:6]]()


# ---------------------------------------------------------------- found by ourselves


def test_an_id_of_sql_prepare_is_no_id_of_the_protocol() -> None:
    """The server numbers both from one counter, so a guess would run what SQL prepared, unjudged."""
    talk = Talk()
    talk.ok("PREPARE s FROM 'SELECT 1'")
    assert talk.denied(wire.execute(1))[0] == 1243


def test_long_data_that_goes_up_before_its_verdict_would_stay_behind_a_denial() -> None:
    """Else a denied execution leaves its data on the server, in front of that of the next."""
    talk = Talk()
    talk.prepare(1, "DELETE FROM users WHERE id = ?", 1)
    assert talk.client(wire.long_data(1, 0, "1 OR 1=1")) == b""


def test_a_pipelined_use_does_not_move_the_name_of_the_command_before_it() -> None:
    talk = Talk()
    sent = query("SELECT id FROM orders")
    assert talk.client(sent + query("USE other") + sent) == sent
    assert talk.last("command")["reads"] == ["app.orders"]


def test_an_early_answer_is_not_taken_for_the_next_commands() -> None:
    """A server that answers ahead could give one statement's rows under the columns of another."""
    talk = Talk(masks=[SSN])
    talk.client(query("SELECT id FROM orders"))
    one = wire.result([wire.column("id", "orders")], [wire.row("1")])
    two = wire.result([wire.column("id", "orders")], [wire.row(SECRET)])
    told = talk.server(one + two)
    assert SECRET not in told
    assert talk.ended
