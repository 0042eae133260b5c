"""The session's state against real servers: random transcripts, and after each message both must agree."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest
from psycopg import pq

from protocols.postgres.builtins import builtin_catalog
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from protocols.postgres.statements.names import split_path
from scripts.support.postgres import PostgresServer

PATHS = ["public", "evil, public", "x", "DEFAULT", '"Odd"', "'a, b'", "public, pg_temp", "y, public"]
FIXED = [
    "RESET search_path", "RESET ALL", "DISCARD ALL", "DISCARD TEMP", "BEGIN", "BEGIN", "BEGIN", "COMMIT", "ROLLBACK",
    "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "DEALLOCATE ALL", "CLOSE ALL", "SELECT 1/0", "SELECT 1",
    "SET client_encoding='LATIN1'", "SET client_encoding='UTF8'", "RESET client_encoding",
    "SET standard_conforming_strings=off", "SET standard_conforming_strings TO DEFAULT",
    "SELECT set_config('search_path', 'q', false)", "SELECT set_config('search_path', 'r, public', true)",
]  # fmt: skip
NAMED = [
    "SAVEPOINT {0}", "SAVEPOINT {0}", "ROLLBACK TO {0}", "RELEASE {0}", "PREPARE {0} AS SELECT 1", "DEALLOCATE {0}",
    "DECLARE {0} CURSOR FOR SELECT 1", "DECLARE {0} CURSOR WITH HOLD FOR SELECT 1", "CLOSE {0}",
    "CREATE TEMP TABLE {0} (id int)", "CREATE TEMP TABLE {0} (id int) ON COMMIT DROP", "SELECT 1 AS i INTO TEMP {0}",
    "DROP TABLE {0}", "DROP TABLE pg_temp.{0}", "ALTER TABLE {0} ADD x int", "ALTER TABLE {0} RENAME TO {1}",
]  # fmt: skip


TEMPORARY = "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'"


def statement(choice: random.Random) -> str:
    kind = choice.randrange(4)
    if kind == 0:
        return f"SET {choice.choice(['', 'LOCAL '])}search_path = {choice.choice(PATHS)}"
    if kind == 1:
        return choice.choice(FIXED)
    return choice.choice(NAMED).format(choice.choice("abc"), choice.choice("abc"))


def run(connection: psycopg.Connection[Any], state: SessionState, text: str) -> str:
    """Sends one message and tells the state what the server answered; returns the transaction status."""
    pg = connection.pgconn
    command = analyse(text.encode(), state, builtin_catalog())
    pg.send_query(text.encode())
    done = 0
    failed = False
    while (result := pg.get_result()) is not None:
        if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            state.applied(command.statements[done])
            done += 1
        else:
            failed = True
            state.failed()
    assert failed or done == len(command.statements)
    for name in ("client_encoding", "standard_conforming_strings"):
        state.parameter_status(name, (pg.parameter_status(name.encode()) or b"").decode())
    status = {0: "I", 2: "T", 3: "E"}[int(pg.transaction_status)]
    state.ready(status)
    return status


def column(connection: psycopg.Connection[Any], query: str) -> list[str]:
    result = connection.pgconn.exec_(query.encode())
    return [(result.get_value(row, 0) or b"").decode() for row in range(result.ntuples)]


@pytest.mark.parametrize("seed", range(40))
def test_state_and_server_agree(seed: int, server: PostgresServer) -> None:
    choice = random.Random(seed)
    state = SessionState()
    state.startup({"user": "postgres", "client_encoding": "UTF8"})
    with server.connect() as connection:
        connection.autocommit = True
        connection.pgconn.exec_(b"SET client_encoding = 'UTF8'")
        history = []
        for _ in range(choice.randrange(5, 25)):
            text = "; ".join(statement(choice) for _ in range(choice.choice([1, 1, 1, 2, 3])))
            history.append(text)
            status = run(connection, state, text)
            assert state.in_block == (status != "I"), history
            if status == "E":
                continue
            path = split_path(column(connection, "SHOW search_path")[0]) or ()
            mine, certain = state.search_path(builtin_catalog())
            assert not certain or mine == tuple(p for p in path if p not in ("", "$user")), history
            prepared = set(column(connection, "SELECT name FROM pg_prepared_statements"))
            assert prepared == {n for n in "abc" if state.prepared(n) is not None}, history
            cursors = set(column(connection, "SELECT name FROM pg_cursors")) - {""}
            assert cursors == {n for n in "abc" if state.cursor(n) is not None}, history
            tables = set(
                column(
                    connection,
                    "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'",
                )
            )
            known = {t.name: t.certain for t in state.names(None).temporaries}
            assert {n for n, surely in known.items() if surely} <= tables <= set(known), history
