"""Attack row 17, byte by byte: after a denial everything is as after a server's own error in that place.

The same script runs direct, where the marked statement fails by itself, and through the gateway, where it is denied.
Every message but the error's own words must be equal: ReadyForQuery's status above all.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence

import pytest

from scripts.support.lab import Lab
from tests.support import wire
from tests.support.raw import Message, Raw, direct, through
from tests.support.wire import FLUSH, SYNC, bind, close, describe, execute, parse, query

pytestmark = pytest.mark.e2e

FAILS, DENIED = "SELECT * FROM state.missing", "DROP TABLE public.orders"
UNREADABLE = "THIS IS NO SQL"
Script = Callable[[str], Sequence[tuple[bytes, int]]]  # bad statement -> [(what is sent, how many Z answer)]


def select(sql: str, name: str = "", portal: str = "", rows: int = 0) -> bytes:
    return parse(name, sql) + bind(portal, name) + describe("P", portal) + execute(portal, rows)


def insert(i: int) -> str:
    return f"INSERT INTO state.t VALUES ({i}, 'x')"


ALL = query("SELECT i FROM state.t ORDER BY i")


def idle(bad: str) -> Sequence[tuple[bytes, int]]:
    return [(query(bad), 1), (query("SELECT 1"), 1), (select(bad) + SYNC, 1), (select("SELECT 1") + SYNC, 1)]


def block(bad: str) -> Sequence[tuple[bytes, int]]:
    return [
        (query("BEGIN"), 1), (query(insert(1)), 1), (query(bad), 1), (query("SELECT 2"), 1), (query("COMMIT"), 1),
        (ALL, 1),
    ]  # fmt: skip


def block_extended(bad: str) -> Sequence[tuple[bytes, int]]:
    return [
        (select("BEGIN") + SYNC, 1), (select(insert(1)) + SYNC, 1), (select(bad) + SYNC, 1),
        (select("SELECT 2") + SYNC, 1), (query("ROLLBACK"), 1), (ALL, 1),
    ]  # fmt: skip


def aborted_block(bad: str) -> Sequence[tuple[bytes, int]]:
    sent = ("BEGIN", "SELECT 1/0", bad, "SELECT 2", "ROLLBACK")
    return [(query(text), 1) for text in sent]


def savepoint(bad: str) -> Sequence[tuple[bytes, int]]:
    """A portal from before the savepoint is still there, where it was."""
    return [
        (query("BEGIN"), 1), (select("SELECT generate_series(1, 5)", "g", "p", 2) + SYNC, 1), (query("SAVEPOINT a"), 1),
        (query(insert(1)), 1), (query(bad), 1), (execute("p", 1) + SYNC, 1), (query("ROLLBACK TO a"), 1),
        (execute("p", 1) + SYNC, 1), (query(insert(2)), 1), (query("COMMIT"), 1), (execute("p") + SYNC, 1), (ALL, 1),
    ]  # fmt: skip


def several_statements(bad: str) -> Sequence[tuple[bytes, int]]:
    """One message is one decision: denied, nothing of it runs, as where the server cannot parse it."""
    return [(query(bad + "; " + insert(3)), 1), (ALL, 1), (query(f"BEGIN; {bad}"), 1), (query("ROLLBACK"), 1)]


def pipeline(bad: str) -> Sequence[tuple[bytes, int]]:
    """The implicit transaction up to the error is undone, what follows is skipped, the next Sync starts anew."""
    return [
        (select(insert(1)) + select(bad) + select(insert(2)) + SYNC + select(insert(3)) + SYNC + ALL, 3),
        (select(insert(4)) + SYNC + select(bad) + query("SELECT 'ignored'") + FLUSH + close("S", "x") + SYNC + ALL, 3),
    ]


def pipeline_in_a_block(bad: str) -> Sequence[tuple[bytes, int]]:
    sent = query("BEGIN") + select(insert(1)) + SYNC + select(bad) + SYNC + select("SELECT 1") + SYNC
    return [(sent + query("COMMIT"), 5), (ALL, 1)]


def names(bad: str) -> Sequence[tuple[bytes, int]]:
    """What was prepared before stays; what was denied was never prepared; the unnamed one is gone."""
    return [
        (parse("kept", "SELECT 7") + parse("", "SELECT 8") + SYNC, 1), (parse("bad", bad) + SYNC, 1),
        (bind("", "bad") + execute() + SYNC, 1), (bind("", "kept") + execute() + SYNC, 1),
        (parse("", bad) + SYNC, 1), (bind("", "") + execute() + SYNC, 1), (parse("bad", "SELECT 9") + SYNC, 1),
        (bind("", "bad") + execute() + SYNC, 1), (parse("kept", "SELECT 1") + SYNC, 1),
        (bind("", "kept") + execute() + SYNC, 1),
    ]  # fmt: skip


def a_flush_brings_the_error(bad: str) -> Sequence[tuple[bytes, int]]:
    return [(parse("", bad) + FLUSH + bind("", "") + execute() + SYNC, 1), (query("SELECT 1"), 1)]


def portals_of_the_implicit_transaction(bad: str) -> Sequence[tuple[bytes, int]]:
    return [
        (select("SELECT generate_series(1, 5)", "", "p", 2) + parse("", bad) + execute("p", 1) + SYNC, 1),
        (execute("p", 1) + SYNC, 1),
    ]


def cursors(bad: str) -> Sequence[tuple[bytes, int]]:
    return [
        (query("BEGIN"), 1), (query("DECLARE c CURSOR WITH HOLD FOR SELECT 1"), 1),
        (query("DECLARE d CURSOR FOR SELECT generate_series(1, 3)"), 1), (query("COMMIT"), 1), (query(bad), 1),
        (query("FETCH c"), 1), (query("CLOSE c"), 1),
    ]  # fmt: skip


def settings(bad: str) -> Sequence[tuple[bytes, int]]:
    """A SET of the transaction that is undone is undone for the gateway, too."""
    return [
        (query("BEGIN; SET LOCAL application_name = 'a'"), 1), (query(bad), 1), (query("ROLLBACK"), 1),
        (query("SHOW application_name"), 1), (select("SET application_name = 'b'") + select(bad) + SYNC, 1),
        (query("SHOW application_name"), 1), (query("RESET application_name"), 1),
    ]  # fmt: skip


SCRIPTS: list[Script] = [
    idle, block, block_extended, aborted_block, savepoint, several_statements, pipeline, pipeline_in_a_block, names,
    a_flush_brings_the_error, portals_of_the_implicit_transaction, cursors, settings,
]  # fmt: skip


@pytest.fixture(scope="module")
def table(lab: Lab) -> None:
    with lab.server.connect() as connection:
        connection.execute("DROP SCHEMA IF EXISTS state CASCADE; CREATE SCHEMA state")
        connection.execute("CREATE TABLE state.t (i int PRIMARY KEY, v text)")
    time.sleep(1.5)  # the gateway's view of the catalog may be a second old


def fresh(lab: Lab) -> None:
    with lab.server.connect() as connection:
        connection.execute("DELETE FROM state.t; INSERT INTO state.t VALUES (0, 'z')")


def run(client: Raw, steps: Sequence[tuple[bytes, int]]) -> list[list[Message]]:
    seen = []
    for data, count in steps:
        client.send(data)
        seen.append([(k, b) for k, b in client.until(count=count) if k != "S"])
    return seen


def told(message: Message) -> object:
    """A message as it is compared: of an error all but its place in the server's source."""
    kind, body = message
    if kind not in "EN":
        return message
    return (kind, {k: v for k, v in wire.fields(body).items() if k not in "FLRP"})


def compare(one: list[list[Message]], other: list[list[Message]]) -> list[tuple[dict[str, str], dict[str, str]]]:
    """The errors in which they differ; anything else that differs fails the test."""
    differing = []
    assert [[k for k, _ in step] for step in one] == [[k for k, _ in step] for step in other]
    for mine, theirs in zip((m for s in one for m in s), (m for s in other for m in s), strict=True):
        if told(mine) != told(theirs):
            assert mine[0] == "E", (mine, theirs)
            differing.append((wire.fields(mine[1]), wire.fields(theirs[1])))
    return differing


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__)
def test_row_17_a_denial_leaves_what_an_error_leaves(lab: Lab, table: None, script: Script) -> None:
    fresh(lab)
    with direct(lab) as client:
        expected = run(client, script(UNREADABLE if script is several_statements else FAILS))
    fresh(lab)
    with through(lab, "agent") as client:
        seen = run(client, script(DENIED))
    differing = compare(expected, seen)
    assert differing
    for server, gateway in differing:
        assert server["C"] in ("42P01", "42601", "25P02")  # 25P02: in an aborted block nothing is looked at any more
        assert (gateway["S"], gateway["C"]) == ("ERROR", "42501")
        assert "demo/agents-never-reshape" in gateway["M"]


@pytest.mark.parametrize("in_block", [False, True], ids=["idle", "in a block"])
def test_row_17_a_refused_hold_leaves_what_a_failed_bind_leaves(lab: Lab, table: None, in_block: bool) -> None:
    """Direct, the parameter of a Bind is no number; through the gateway, the approver says no."""

    def steps(statement: str, value: bytes) -> Sequence[tuple[bytes, int]]:
        bound = (parse("d", statement) + bind("", "d", [value]) + execute() + select("SELECT 'skipped'") + SYNC, 1)
        if not in_block:
            return [bound, (ALL, 1)]
        opened = [(query("BEGIN"), 1), (select("SELECT generate_series(1, 3)", "", "p", 1) + SYNC, 1)]
        return [*opened, bound, (execute("p", 1) + SYNC, 1), (query("COMMIT"), 1), (ALL, 1)]

    fresh(lab)
    with direct(lab) as client:
        expected = run(client, steps("SELECT i FROM state.t WHERE i = $1", b"no number"))
    fresh(lab)
    with through(lab, "agent") as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        stop = pool.submit(refuse_one, lab)
        seen = run(client, steps("DELETE FROM state.t WHERE i = $1", b"0"))
        stop.result(20)
    held = [[m for m in step if m[0] != "N"] for step in seen]
    assert sum(map(len, seen)) == sum(map(len, held)) + 1  # the notice of the hold
    ((server, gateway),) = compare(expected, held)
    assert (server["C"], gateway["C"]) == ("22P02", "42501")
    assert "no deletes today" in gateway["M"]


def refuse_one(lab: Lab) -> None:
    token = lab.issuer.token("dana", ["oncall"])
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        for entry in lab.gateway.ask("approvals", "list", token=token):
            done = lab.gateway.cli("approvals", "deny", entry["id"], "--reason", "no deletes today", token=token)
            assert done.returncode == 0, done.stderr
            return
    pytest.fail("nothing was held")


def test_row_17_a_denied_function_call(lab: Lab, table: None) -> None:
    steps = [(query("BEGIN"), 1), (wire.call(4_000_000_000), 1), (query("SELECT 1"), 1), (query("END"), 1)]
    with direct(lab) as client:
        expected = run(client, steps)
    with through(lab, "agent") as client:
        seen = run(client, steps)
    ((server, gateway),) = compare(expected, seen)
    assert (server["C"], gateway["C"]) == ("42883", "42501")


def test_row_04_a_statement_above_the_limit_is_denied_and_the_session_goes_on(lab: Lab, table: None) -> None:
    huge = "SELECT '" + "x" * (17 << 20) + "'"
    for message in (query(huge), parse("", huge) + bind("", "") + execute() + SYNC):
        with through(lab, "agent") as client:
            answer = client.ask(message)
            assert [k for k, _ in answer] == ["E", "Z"]
            assert wire.fields(answer[0][1])["C"] == "54000"
            assert [k for k, _ in client.ask(query("SELECT 1"))] == ["T", "D", "C", "Z"]
    with lab.server.connect() as connection:
        assert connection.execute("SELECT count(*) FROM state.t").fetchone() is not None
