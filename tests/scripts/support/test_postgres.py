"""The servers that everything else stands on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psycopg
import pytest

from scripts.support import postgres, sample
from scripts.support.postgres import Installation, PostgresServer
from scripts.support.process import StartError
from scripts.support.tls import Authority

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("method", ["scram-sha-256", "md5", "password"])
def test_the_password_is_asked_for_in_the_way_that_was_wanted(installation: Installation, method: str) -> None:
    with PostgresServer(installation, method=method) as server:
        with psycopg.connect(server.dsn()) as connection:
            stored = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'").fetchone()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.dsn(password="wrong"))
        folder = server.folder
    assert stored is not None
    assert stored[0].startswith("md5" if method == "md5" else "SCRAM-SHA-256$")
    assert not folder.exists()


def test_tls_only_refuses_plaintext_and_cert_wants_one(tls_installation: Installation, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with PostgresServer(tls_installation, authority=authority, tls_only=True) as server:
        with psycopg.connect(server.dsn()) as connection:
            assert connection.info.get_parameters()["sslmode"] == "verify-full"
            row = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
            assert row == (True,)
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            psycopg.connect(server.dsn(sslmode="disable"))
    with PostgresServer(tls_installation, authority=authority, method="cert") as server:
        with pytest.raises(psycopg.OperationalError, match="certificate"):
            psycopg.connect(server.dsn())
        pair = authority.client("postgres")
        with psycopg.connect(server.dsn(sslcert=str(pair.certificate), sslkey=str(pair.key))) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_without_tls_says_so(authority: Authority) -> None:
    with pytest.raises(StartError, match="built without TLS"):
        PostgresServer(postgres.embedded(), authority=authority)


def test_the_servers_own_log_tells_which_statements_reached_it(server: PostgresServer) -> None:
    text = "SELECT 1,\n\t'two\nlines' -- and a comment"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(text)
        connection.execute("SELECT %s::int + 40", (2,))
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
    statements = server.statements()
    assert text in statements
    assert "SELECT $1::int + 40" in statements
    assert any(entry.level == "ERROR" and "division by zero" in entry.text for entry in server.logged())


def test_the_log_is_read_also_where_a_role_has_an_odd_name(server: PostgresServer) -> None:
    name = "odd: name@home LOG"
    with server.connect() as connection:
        connection.execute(f"CREATE ROLE \"{name}\" LOGIN SUPERUSER PASSWORD 'odd'")
        with psycopg.connect(server.dsn(user=name, password="odd"), autocommit=True) as other:
            other.execute("SELECT 'odd one out'")
        connection.execute(f'DROP ROLE "{name}"')
    assert "SELECT 'odd one out'" in "".join(entry.text for entry in server.logged() if "odd: name" in entry.user)


def test_a_setup_script_that_fails_names_the_line(server: PostgresServer, tmp_path: Path) -> None:
    script = tmp_path / "setup.sql"
    script.write_text("CREATE TABLE half (id int);\n\\echo from psql\nSELECT nonsense;\n")
    with pytest.raises(StartError, match=r"setup\.sql:3: ERROR: .*nonsense"):
        server.run_file(script)
    script.write_text("DROP TABLE half;\nDO $$ BEGIN PERFORM 1; END $$;")
    server.run_file(script)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"method": "kerberos"}, "unknown authentication method"), ({"tls_only": True}, "needs an authority")],
)
def test_impossible_wishes_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(StartError, match=message):
        PostgresServer(**arguments)  # type: ignore[arg-type]  # that is the point


def test_a_server_that_does_not_start_quotes_its_log_and_leaves_nothing() -> None:
    with pytest.raises(StartError, match=r"unrecognized configuration parameter") as caught:
        PostgresServer(settings={"no_such_setting": "1"})
    assert caught.value.args
    with pytest.raises(StartError, match="no PostgreSQL in"):
        postgres.find("/nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the binaries to somebody else")
def test_binaries_that_the_servers_user_cannot_reach_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    origin = postgres.embedded()
    package = origin.bin.parents[1]
    for folder in (package, package.with_name(f"{package.name}.libs")):
        (closed / folder.name).symlink_to(folder)
    cache = Path("/tmp") / f"sgtest-{os.getpid()}"
    cache.mkdir(mode=0o755)
    monkeypatch.setattr("tempfile.tempdir", str(cache))
    try:
        hidden = Installation(closed / package.name / "pginstall" / "bin", origin.version, tls=False)
        with PostgresServer(hidden) as server, server.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert server.installation.bin.is_relative_to(cache)
        copies = cache / f"sluicegate-postgres-{os.geteuid()}"
        copies.chmod(0o777)
        with pytest.raises(StartError, match="not ours alone"):
            PostgresServer(hidden)
    finally:
        monkeypatch.undo()
        postgres.shutil.rmtree(cache)


def test_the_sample_is_the_same_every_time_and_looks_real(server: PostgresServer) -> None:
    assert list(sample.customers()) == list(sample.customers())
    with server.connect() as connection:
        sample.load(connection)
        try:
            with pytest.raises(psycopg.errors.DuplicateTable):
                sample.load(connection)
            counts = connection.execute(
                "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders),"
                " (SELECT count(*) FROM customer_orders), (SELECT count(*) FROM revenue_by_city)"
            ).fetchone()
        finally:
            connection.execute("DROP TABLE customers, orders, credentials CASCADE; DROP TYPE order_status")
    assert counts == (sample.CUSTOMERS, sample.ORDERS, sample.ORDERS, 10)
    for row in sample.customers():
        digits = [int(digit) for digit in row[3].replace(" ", "")]
        luhn = sum(digit if index % 2 else sum(divmod(digit * 2, 10)) for index, digit in enumerate(digits))
        assert len(digits) == 16
        assert luhn % 10 == 0
        assert re.fullmatch(r"9\d\d-[1-9]\d-[1-9]\d{3}", row[4])
    assert len({row[3] for row in sample.customers()}) == sample.CUSTOMERS
