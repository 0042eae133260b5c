"""Stock psql and pgbench, direct and through the gateway."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.support import postgres
from scripts.support.lab import Lab, psql

pytestmark = pytest.mark.e2e


def run(program: Path, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [program, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "PGCONNECT_TIMEOUT": "20"},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(params=["tls", "plain"])
def stock(request: pytest.FixtureRequest, lab: Lab) -> tuple[Path, dict[str, str]]:
    """A psql, and the DSN parameters it needs: the machine's own over TLS, the embedded one without."""
    if request.param == "plain":
        return postgres.embedded().program("psql"), {"sslmode": "disable"}
    program = psql(tls=True)
    if program == postgres.embedded().program("psql"):
        pytest.skip("no psql with TLS on this machine: install Debian's `postgresql-client`")
    return program, {}


def test_a_script_prints_the_same(both: Any, stock: tuple[Path, dict[str, str]]) -> None:
    program, parameters = stock
    text = r"""
\set VERBOSITY verbose
CREATE TABLE work.t (id serial PRIMARY KEY, v text);
INSERT INTO work.t (v) SELECT 'row ' || n FROM generate_series(1, 5) AS n RETURNING *;
SELECT 'several' AS one \; SELECT 'results' AS two;
SELECT * FROM work.missing;
BEGIN;
INSERT INTO work.t VALUES (1, 'duplicate');
SELECT 'aborted';
ROLLBACK;
\copy work.t TO STDOUT WITH (FORMAT csv, HEADER)
COPY work.t (v) FROM STDIN;
copied	in
\.
\copy work.t (v) FROM STDIN
copied again
\.
SELECT format('SELECT %s AS generated', id) FROM work.t WHERE id < 3 \gexec
\d work.t
\dt work.*
\d+ customer_orders
\df work.*
\l shop
\set FETCH_COUNT 2
SELECT id FROM work.t ORDER BY id;
\x on
SELECT * FROM customers ORDER BY id LIMIT 1;
\errverbose
SELECT current_setting('application_name'), $tag$dollar $$ quoted$tag$;
"""

    def script(dsn: str) -> Any:
        return run(program, "-X", "-f", "-", dsn, stdin=text)

    code, out, errors = both(script, **parameters)
    assert code == 0
    assert "42P01" in errors
    assert "25P02" in errors
    assert "copied again" not in errors
    assert "SELECT 1 AS generated" not in out
    assert out.count("generated") == 2


def test_the_exit_status_follows_the_error(both: Any, stock: tuple[Path, dict[str, str]]) -> None:
    program, parameters = stock

    def script(dsn: str) -> Any:
        return [
            run(program, "-X", "-v", "ON_ERROR_STOP=1", "-1", "-c", "SELECT 1/0", "-c", "SELECT 2", dsn),
            run(program, "-X", "-At", "-c", "SELECT 1; SELECT 2", "-c", "SELECT 3", dsn),
        ]

    seen = both(script, **parameters)
    assert seen[0][0] != 0
    assert seen[1] == (0, "1\n2\n3\n", "")


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench_runs_without_a_failure(lab: Lab, protocol: str) -> None:
    pgbench = postgres.embedded().program("pgbench")
    with lab.server.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers")
    try:
        for dsn in (lab.server.dsn(sslmode="disable"), lab.dsn("admin", sslmode="disable")):
            code, _, errors = run(pgbench, "-i", "-q", "-s", "1", dsn)
            assert code == 0, errors
            code, out, errors = run(pgbench, "-M", protocol, "-c", "4", "-j", "2", "-t", "50", dsn)
            assert code == 0, errors
            assert "number of transactions actually processed: 200/200" in out
            assert "number of failed transactions: 0" in out
            with lab.server.connect() as connection:
                assert connection.execute("SELECT count(*) FROM pgbench_history").fetchone() == (200,)
    finally:
        with lab.server.connect() as connection:
            connection.execute(
                "DROP TABLE IF EXISTS pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers"
            )
