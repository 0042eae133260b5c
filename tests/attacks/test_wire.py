"""The shared wire cases: each a conversation with a session, judged by what its case expects.

stop: nothing that does the damage goes to the server unless somebody allows it. mask: the secret does not come back.
server_rejects: what the server would refuse is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.contract import Effect, ListenerTerms, Permit, Refused, Wait
from protocols.postgres import handshake
from tests.support import wire
from tests.support.handshake import NONCE, play
from tests.support.talk import SSN, USERS, Talk, catalog
from tests.support.wire import SYNC, bind, complete, execute, kinds, parse, query, ready

FILE = Path(__file__).parent / "cases" / "wire.jsonl"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in map(json.loads, FILE.read_text().splitlines()) if case["dialect"] == "postgres"
}
SECRET = b"078-05-1120"
DELETE = "DELETE FROM users"
SSN_ROW = wire.row(SECRET)


def stopped(talk: Talk, sent: bytes, *damage: bytes) -> None:
    """The statement was denied or is held, on record, and its message did not go to the server."""
    assert all(message not in sent for message in damage)
    assert talk.last("command")["decision"] in ("deny", "hold")
    assert talk.session.refused or talk.session.waiting is Wait.HOLD


def masked(told: bytes) -> None:
    assert wire.rows(told)
    assert SECRET not in told


def use(name: str) -> bytes:
    return bind("", name) + execute() + SYNC


def wp_003() -> None:
    talk = Talk()
    sent = talk.client(query(f"PREPARE s1 AS {DELETE}") + use("s1"))
    stopped(talk, sent, query(f"PREPARE s1 AS {DELETE}"), bind("", "s1"))


def wp_004() -> None:
    talk = Talk()
    talk.prepare("s1", DELETE)
    sent = talk.client(parse("s1", "SELECT 1") + SYNC + use("s1"))
    talk.server(wire.error("42P05"), ready())
    stopped(talk, sent + talk.up(), bind("", "s1"))


def wp_007() -> None:
    talk = Talk(masks=[SSN])
    talk.client(parse("", "SELECT ssn,id FROM users") + bind("", "", results=[1]) + execute() + SYNC)
    columns = wire.columns(wire.field("ssn", USERS, 2, 25, 1), wire.field("id", USERS, 1, 23, 1))
    row = wire.row(SECRET, b"\0\0\0\7")
    masked(talk.server(wire.PARSED, wire.BOUND, columns, row, complete("SELECT 1"), ready()))


def wp_010() -> None:
    talk = Talk()
    (oid,) = {f.oid for f in catalog().functions["pg_catalog", "pg_read_file"] if f.nargs == 1}
    message = wire.call(oid, [b"/srv/cases/secret.txt"])
    sent = talk.client(message)
    stopped(talk, sent, message)
    assert "file.read" in talk.last("command")["effects"]


def wp_012() -> None:
    talk = Talk()
    first = parse("a", "SELECT 1") + bind("", "a") + execute()
    second = parse("b", DELETE) + bind("", "b") + execute() + SYNC
    stopped(talk, talk.client(first + second), bind("", "b"))
    denied = Talk()
    sent = denied.client(first + parse("b", "DROP TABLE users") + bind("", "b") + execute() + SYNC)
    stopped(denied, sent, parse("b", "DROP TABLE users"))
    rows = wire.columns(wire.field("x")) + wire.row(b"1")
    told = denied.server(wire.PARSED, wire.BOUND, rows[len(wire.columns(wire.field("x"))) :], complete("SELECT 1"))
    told += denied.server(wire.error("42601"), ready())
    assert kinds(told) == "12DCEZ"  # one error, one ReadyForQuery


def wp_016() -> None:
    talk = Talk()
    talk.prepare("", DELETE)
    talk.client(query("SELECT 1"))
    talk.server(complete("SELECT 0"), ready())
    assert bind("", "") not in talk.client(use(""))
    (error,) = wire.errors(talk.server(wire.error("26000"), ready()))
    assert error["C"] == "26000"


def wp_017() -> None:
    talk = Talk()
    talk.begin()
    talk.prepare("s", DELETE)
    talk.client(query("ROLLBACK"))
    talk.server(complete("ROLLBACK"), ready())
    stopped(talk, talk.client(use("s")), bind("", "s"))


def _startup(**parameters: str) -> None:
    packet = wire.startup(user="ada", **parameters)
    played = play(handshake.serve(ListenerTerms("optional"), NONCE), [packet, wire.message("p", b"a.b.c\0")])
    assert isinstance(played.error, Refused)
    assert (played.asked, played.upstream) == ([], b"")


def wp_020() -> None:
    _startup(options="-crole=r_admin")


def wp_021() -> None:
    _startup(role="r_admin")


def wp_022() -> None:
    """It is judged as SET is: without leave nothing is connected."""
    packet = wire.startup(user="ada", standard_conforming_strings="off")
    asked: list[Permit] = []

    def permit(one: Permit) -> Exception:
        asked.append(one)
        return Refused("no")

    sent = [packet, wire.message("p", b"a.b.c\0")]
    played = play(handshake.serve(ListenerTerms("optional"), NONCE), sent, permit=permit)
    assert isinstance(played.error, Refused)
    assert played.upstream == b""
    assert [one.analysis.effects for one in asked] == [{Effect.SESSION_PARSE_STATE}]


def wp_027() -> None:
    talk = Talk(masks=[SSN])
    sent = parse("", "SELECT ssn FROM users") + bind("", "") + execute("", 1) + execute("", 1) + SYNC
    talk.client(sent)
    columns = wire.columns(wire.field("ssn", USERS, 2))
    told = talk.server(wire.PARSED, wire.BOUND, columns, SSN_ROW, wire.SUSPENDED, SSN_ROW, wire.SUSPENDED, ready())
    assert len(wire.rows(told)) == 2
    masked(told)


def wp_028() -> None:
    talk = Talk()
    text = "SELECT query_to_xml($1::text,true,true,chr(0))"
    sent = talk.client(parse("", text) + bind("", "", [b"select ssn from users"]) + execute() + SYNC)
    stopped(talk, sent, parse("", text), bind("", "", [b"select ssn from users"]))


def wp_034() -> None:
    talk = Talk(masks=[SSN])
    talk.prepare("s", "SELECT total::text FROM orders")
    talk.client(query("SET search_path=evil"))
    talk.server(complete("SET"), ready())
    talk.client(bind("", "s") + execute() + SYNC)
    assert talk.last("command")["reads"] == ["evil.orders"]
    # and where the name leads to what is masked, its column is
    masked(talk.server(wire.BOUND, wire.columns(wire.field("total", USERS, 2)), SSN_ROW, complete("SELECT 1"), ready()))


CHECKS: dict[str, Callable[[], None]] = {
    name.replace("_", "-"): check for name, check in list(globals().items()) if name.startswith("wp_")
}


def test_every_case_has_its_check() -> None:
    assert {case_id[:6] for case_id in CASES} == set(CHECKS)


@pytest.mark.parametrize("case_id", CASES)
def test_a_shared_wire_case(case_id: str) -> None:
    CHECKS[case_id[:6]]()
