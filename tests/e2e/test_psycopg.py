"""psycopg 3 sees the same through the gateway as without it."""

from __future__ import annotations

import datetime
import decimal
import threading
import uuid
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support.observe import drained, told

pytestmark = pytest.mark.e2e

VALUES: tuple[tuple[str, Any], ...] = (
    ("int2", 7),
    ("int4", -(2**31)),
    ("int8", 2**63 - 1),
    ("numeric", decimal.Decimal("-12345678901234567890.000100")),
    ("float8", 1.5e300),
    ("text", "naïve \U0001f600 'quoted' \\ back\n\tslash"),
    ("bytea", bytes(range(256))),
    ("bool", True),
    ("date", datetime.date(1999, 12, 31)),
    ("timestamptz", datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC)),
    ("interval", datetime.timedelta(days=3, microseconds=5)),
    ("uuid", uuid.UUID(int=2**127 + 1)),
    ("int4[]", [[1, None], [3, 4]]),
    ("text[]", ["a,b", '"', None, ""]),
)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_values_of_every_kind_there_and_back(both: Any, binary: bool) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn) as connection, connection.cursor(binary=binary) as cursor:
            seen = []
            for kind, value in VALUES:
                placeholder = sql.SQL("%b" if binary else "%t")
                query = sql.SQL("SELECT {0}::{1} AS one, NULL::{1} AS none").format(placeholder, sql.SQL(kind))
                cursor.execute(query, (value,))
                assert cursor.description is not None
                seen.append((kind, cursor.description[0].type_code, cursor.fetchone()))
            return seen

    for (kind, value), (_, _, row) in zip(VALUES, both(script), strict=True):
        assert row == (value, None), kind


def test_statements_errors_and_the_state_of_the_transaction(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn) as connection:
            seen = [
                told(connection, "CREATE TABLE work.t (id int PRIMARY KEY, v text CHECK (v <> 'bad'))"),
                told(connection, "INSERT INTO work.t VALUES (1, 'a'), (2, 'b') RETURNING id, v"),
            ]
            connection.commit()
            seen += [
                told(connection, "INSERT INTO work.t VALUES (1, 'again')"),
                told(connection, "SELECT 1"),  # the block is aborted
            ]
            connection.rollback()
            seen += [
                told(connection, "SELECT nonsense FROM work.t"),
                connection.rollback(),
                told(connection, "SAVEPOINT s"),
                told(connection, "INSERT INTO work.t VALUES (3, 'bad')"),
                told(connection, "ROLLBACK TO SAVEPOINT s"),
                told(connection, "UPDATE work.t SET v = v || %s WHERE id = %s", ("x", 1)),
            ]
            connection.commit()
            seen += [told(connection, "SELECT * FROM work.t ORDER BY id"), told(connection, "")]
            return seen

    seen = both(script)
    assert seen[2][:2] == ("error", "23505")
    assert seen[3][:2] == ("error", "25P02")


def test_several_statements_in_one_simple_query(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            return [
                told(connection, "SELECT 1 AS a; CREATE TABLE work.m (i int); INSERT INTO work.m VALUES (1), (2)"),
                told(connection, "INSERT INTO work.m VALUES (3); SELECT 1/0; INSERT INTO work.m VALUES (4)"),
                told(connection, "SELECT array_agg(i ORDER BY i) FROM work.m;;"),
                told(connection, "BEGIN; INSERT INTO work.m VALUES (5); SELECT txid_current() > 0"),
                told(connection, "COMMIT; SELECT count(*) FROM work.m"),
            ]

    seen = both(script)
    assert seen[2][0][0][2] == [([1, 2],)]


def test_prepared_statements_are_reused_and_survive_deallocate(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as connection:
            seen = [told(connection, "SELECT %s::int + %s", (number, 1)) for number in range(5)]
            seen.append(told(connection, "SELECT name, statement FROM pg_prepared_statements", prepare=False))
            connection.execute("DEALLOCATE ALL", prepare=False)
            connection.execute("PREPARE mine (int) AS SELECT $1 * 2", prepare=False)
            seen.append(told(connection, "EXECUTE mine (21)", prepare=False))
            seen.append(told(connection, "EXECUTE missing (21)", prepare=False))
            return seen

    both(script)


def test_pipelines_skip_to_sync_after_an_error(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE work.p (i int PRIMARY KEY)")
            pgconn = connection.pgconn
            pgconn.enter_pipeline_mode()
            for number in range(50):
                pgconn.send_query_params(b"INSERT INTO work.p VALUES ($1) RETURNING i", [str(number).encode()])
            pgconn.pipeline_sync()
            for number in (100, 1, 101):  # the second exists: the third is skipped, the first rolled back
                pgconn.send_query_params(b"INSERT INTO work.p VALUES ($1)", [str(number).encode()])
            pgconn.pipeline_sync()
            pgconn.send_query_params(b"SELECT count(*), max(i) FROM work.p", [])
            pgconn.send_prepare(b"named", b"SELECT $1::int + 1")
            pgconn.send_query_prepared(b"named", [b"41"])
            pgconn.send_describe_prepared(b"named")
            pgconn.pipeline_sync()
            seen = drained(pgconn, 3)
            pgconn.exit_pipeline_mode()
            with connection.cursor() as cursor:
                cursor.executemany("INSERT INTO work.p VALUES (%s)", [(n,) for n in range(200, 300)])
                seen.append(cursor.rowcount)
        return seen

    seen = both(script)
    assert [entry[0] for entry in seen if isinstance(entry, tuple)].count("PIPELINE_ABORTED") == 1
    assert ("TUPLES_OK", b"SELECT 1", [[b"50", b"49"]], b"") in seen
    assert seen[-1] == 100


def test_copy_in_and_out_in_every_format(both: Any) -> None:
    rows = [(1, "plain"), (2, 'with\ttab, "quote"\n'), (3, None), (4, "\\N")]

    def script(dsn: str) -> Any:
        seen: list[Any] = []
        with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE work.c (i int, t text)")
            with cursor.copy("COPY work.c FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            with cursor.copy("COPY work.c FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "text"])
                for row in rows:
                    copy.write_row(row)
            for options in ("", "(FORMAT csv, HEADER)", "(FORMAT binary)"):
                with cursor.copy(f"COPY (SELECT * FROM work.c ORDER BY i, t) TO STDOUT {options}") as copy:  # type: ignore[arg-type]
                    seen.append(b"".join(bytes(part) for part in copy))
                seen.append(cursor.statusmessage)
            try:
                with cursor.copy("COPY work.c FROM STDIN") as copy:
                    copy.write(b"not a number\tx\n")
            except psycopg.Error as error:
                seen.append((error.sqlstate, error.diag.context))
            try:
                with cursor.copy("COPY work.c FROM STDIN") as copy:
                    copy.write(b"9\tx\n")
                    raise ZeroDivisionError("the client changes its mind")
            except ZeroDivisionError as error:
                seen.append(str(error))
            seen.append(told(connection, "SELECT count(*) FROM work.c"))
        return seen

    assert both(script)[-1][0][0][2] == [(8,)]


def test_cursors_fetch_in_parts(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn) as connection:
            with connection.cursor("named", scrollable=True) as cursor:
                cursor.execute("SELECT n, repeat('x', n) FROM generate_series(1, 1000) AS n")
                seen: list[Any] = [cursor.fetchmany(3), cursor.fetchone()]
                cursor.scroll(500, mode="absolute")
                seen += [cursor.fetchone(), len(cursor.fetchall())]
            connection.execute("DECLARE plain CURSOR FOR SELECT id, city FROM customers ORDER BY id")
            seen += [told(connection, "FETCH 2 FROM plain"), told(connection, "MOVE 10 IN plain")]
            seen += [told(connection, "FETCH BACKWARD 1 FROM plain"), told(connection, "CLOSE plain")]
            return seen

    both(script)


def test_notices_and_parameter_changes_arrive(both: Any) -> None:
    def script(dsn: str) -> Any:
        notices: list[Any] = []
        with psycopg.connect(dsn, autocommit=True, application_name="first") as connection:
            connection.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary)))
            connection.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
            connection.execute("DROP TABLE IF EXISTS work.missing")
            names = ("server_encoding", "client_encoding", "DateStyle", "TimeZone", "integer_datetimes", "is_superuser")
            seen: list[Any] = [connection.info.parameter_status(name) for name in names]
            connection.execute("SET TIME ZONE 'Asia/Tokyo'; SET application_name = 'second'")
            seen += [connection.info.parameter_status(name) for name in ("TimeZone", "application_name")]
            seen.append(connection.info.server_version)
            seen.append(told(connection, "SHOW application_name"))
        return notices, seen

    notices, _ = both(script)
    assert [text for _, text in notices][:2] == ["one", "two"]


def test_notifications_cross(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn, autocommit=True) as listener, psycopg.connect(dsn, autocommit=True) as sender:
            listener.execute("LISTEN news")
            sender.execute("SELECT pg_notify('news', 'hello')")
            sender.execute("NOTIFY news, 'world'")
            arrived = listener.notifies(timeout=20, stop_after=2)
            return [(note.channel, note.payload) for note in arrived]

    assert both(script) == [("news", "hello"), ("news", "world")]


def test_a_cancel_reaches_the_running_statement_only(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection, psycopg.connect(dsn, autocommit=True) as other:
            timer = threading.Timer(0.3, connection.cancel_safe)
            timer.start()
            seen = [told(connection, "SELECT pg_sleep(60)")]
            timer.join()
            seen += [told(connection, "SELECT 1"), told(other, "SELECT 2")]
            return seen

    assert both(script)[0][:2] == ("error", "57014")


def test_large_objects(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT lo_from_bytea(0, %s)", (b"\x00\xff" * 5000,)).fetchone()
            assert row is not None
            seen = connection.execute("SELECT length(lo_get(%s)), lo_get(%s, 0, 3)", (row[0], row[0])).fetchone()
            connection.execute("SELECT lo_unlink(%s)", (row[0],))
            return seen

    assert both(script) == (10_000, b"\x00\xff\x00")


def test_a_large_result_and_a_large_parameter(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn) as connection:
            rows = connection.execute("SELECT n, md5(n::text) FROM generate_series(1, 50000) AS n").fetchall()
            row = connection.execute("SELECT length(%s), md5(%s)", ("x" * 5_000_000, "y" * 1_000_000)).fetchone()
            blob = connection.execute("SELECT repeat('z', 20000000)").fetchone()
            assert blob is not None
            return len(rows), rows[-1], row, len(blob[0])

    both(script)


def test_two_phase_commit(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn) as connection:
            xid = connection.xid(1, "gate", "way")
            connection.tpc_begin(xid)
            seen = [told(connection, "CREATE TABLE work.twophase (i int)")]
            connection.tpc_prepare()
            seen.append(connection.info.transaction_status.name)
            connection.tpc_commit()
            seen.append(told(connection, "SELECT count(*) FROM work.twophase"))
            return seen

    both(script)


def test_the_end_of_a_session_is_noticed_on_both_sides(both: Any) -> None:
    def script(dsn: str) -> Any:
        with psycopg.connect(dsn, autocommit=True) as victim, psycopg.connect(dsn, autocommit=True) as admin:
            pid = victim.execute("SELECT pg_backend_pid()").fetchone()
            admin.execute("SELECT pg_terminate_backend(%s)", pid)
            try:
                victim.execute("SELECT 1")
            except psycopg.OperationalError as error:
                return error.sqlstate, error.diag.severity, victim.closed
        return "still alive"

    assert both(script) == ("57P01", "FATAL", True)
