"""Servers quote what they refuse. What the record of a command leaves out is not quoted by the record of its answer.

Clients get every word: it is their own input, and no mask is about it.
"""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from guard.record import redact
from protocols.mysql.capabilities import Capability
from scripts.support import mysql
from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support import mysql_wire, wire
from tests.support.journal import await_records
from tests.support.mysql_talk import Talk as MysqlTalk
from tests.support.port import anything
from tests.support.talk import Talk
from tests.support.wire import COPY_DONE, SYNC, bind, copy_data, execute, parse, query, ready

SECRET = "hunter2-hunter2"
WARNINGS = "SHOW WARNINGS"


def recorded(talk: Any) -> bytes:
    return base64.b64decode(talk.last()["wire"])


def real[T: (Talk, MysqlTalk)](talk: T) -> T:
    """With the redaction of a gateway."""
    port: Any = talk.port
    port.redact, port.redact_params = redact.redact_sql, redact.redact_params
    return talk


# ---------------------------------------------------------------- PostgreSQL


def postgres_talk() -> Talk:
    return real(Talk(anything))


def refused(talk: Talk, message: str, **more: str) -> bytes:
    """The server's error, which the client gets as it is; what is on record of it."""
    sent = wire.error("22P02", message, **more)
    assert talk.server(sent, ready()).startswith(sent)
    return recorded(talk)


QUOTING = f'invalid input syntax for type integer: "{SECRET}"'


def test_an_error_about_a_statement_with_a_secret_in_it() -> None:
    talk = postgres_talk()
    talk.client(query(f"ALTER ROLE app PASSWORD '{SECRET}'"))
    found = refused(talk, QUOTING)
    assert SECRET.encode() not in found
    assert b"C22P02\0" in found
    assert b'type integer: "[masked]"' in found


def test_an_error_about_its_text_has_no_place_where_it_might_be_quoted_either() -> None:
    talk = postgres_talk()
    talk.client(query(f"ALTER ROLE app PASSWORD '{SECRET}'"))
    found = refused(talk, f'syntax error at or near "{SECRET}"', P="24")
    assert SECRET.encode() not in found


def test_an_error_about_a_parameter_that_is_a_secret_by_its_place() -> None:
    talk = postgres_talk()
    talk.client(parse("", "UPDATE accounts SET password = $1"), bind("", "", [SECRET.encode()]), execute(), SYNC)
    talk.server(wire.PARSED, wire.BOUND)
    assert SECRET.encode() not in refused(talk, QUOTING)


@pytest.mark.parametrize("value", [f"postgres://app:{SECRET}@db/shop", f"password={SECRET}", f"Bearer {SECRET}"])
def test_an_error_about_a_parameter_that_is_a_secret_by_its_form(value: str) -> None:
    talk = postgres_talk()
    talk.client(parse("", "UPDATE accounts SET site = $1"), bind("", "", [value.encode()]), execute(), SYNC)
    talk.server(wire.PARSED, wire.BOUND)
    found = refused(talk, f'invalid input syntax for type integer: "{value}"', W=f"parameter $1 = '{value}'")
    assert SECRET.encode() not in found


@pytest.mark.parametrize(
    ("columns", "row"),
    [("id, password", f"1\t{SECRET}\n"), ("site, id", f"postgres://app:{SECRET}@db/shop\t1\n")],
)
def test_an_error_about_a_row_that_is_loaded(columns: str, row: str) -> None:
    talk = postgres_talk()
    talk.client(query(f"COPY accounts ({columns}) FROM STDIN"))
    talk.server(wire.copy_in(0, 0))
    talk.client(copy_data(row.encode()) + COPY_DONE)
    quoted = next(value for value in row.split("\t") if SECRET in value).strip()
    found = refused(talk, f'invalid input syntax for type integer: "{quoted}"', W=f'COPY accounts, line 1: "{quoted}"')
    assert SECRET.encode() not in found
    assert SECRET.encode() not in base64.b64decode(talk.last().get("input", ""))


def test_a_row_that_is_skipped_is_not_quoted_on_record() -> None:
    talk = postgres_talk()
    talk.client(query("COPY accounts (id, password) FROM STDIN WITH (ON_ERROR ignore, LOG_VERBOSITY verbose)"))
    talk.server(wire.copy_in(0, 0))
    talk.client(copy_data(f"1\t{SECRET}\n".encode()) + COPY_DONE)
    told = wire.notice(f'skipping row due to data type incompatibility at line 1 for column "password": "{SECRET}"')
    assert talk.server(told, wire.complete("COPY 0"), ready()).startswith(told)
    assert SECRET.encode() not in recorded(talk)


def test_an_error_about_a_statement_without_secrets_is_on_record_as_it_was() -> None:
    talk = postgres_talk()
    talk.client(query("SELECT id FROM passwords"))
    sent = wire.error("42P01", 'relation "passwords" does not exist', P="16")
    talk.server(sent, ready())
    assert recorded(talk) == sent


@pytest.mark.slow
@pytest.mark.e2e
def test_on_a_real_server_what_is_refused_or_skipped_is_not_on_record() -> None:
    copies = "COPY accounts (id, password) FROM STDIN"
    with Lab(tls="off") as lab:
        with lab.server.connect() as direct:
            direct.execute("CREATE TABLE accounts (id int, password int)")
        notices: list[str] = []
        with psycopg.connect(lab.dsn("admin"), autocommit=True) as client, client.cursor() as cursor:
            client.add_notice_handler(lambda told: notices.append(told.message_primary or ""))
            with pytest.raises(psycopg.Error, match=SECRET), cursor.copy(copies) as copy:
                copy.write(f"1\t{SECRET}\n")
            with cursor.copy(f"{copies} WITH (ON_ERROR ignore, LOG_VERBOSITY verbose)") as copy:
                copy.write(f"1\t{SECRET}\n2\t5\n")
            with pytest.raises(psycopg.Error, match=SECRET):
                cursor.execute("INSERT INTO accounts VALUES (1, %s::text::int)", [f"postgres://app:{SECRET}@db/shop"])
        assert any(SECRET in told for told in notices)  # the client reads it
        _nowhere(lab, 3)


def _nowhere(lab: Lab, answers: int) -> None:
    found = await_records(lab.gateway.state_dir, lambda r: r.get("t") == "response", count=answers)
    for record in found:
        for value in record.values():
            assert SECRET not in str(value)
        assert SECRET.encode() not in base64.b64decode(record["wire"])
        assert SECRET.encode() not in base64.b64decode(record.get("input", ""))


# ---------------------------------------------------------------- MySQL


def mysql_talk() -> MysqlTalk:
    return real(MysqlTalk(anything, capabilities=mysql_wire.MODERN | Capability.LOCAL_FILES))


def mysql_refused(talk: MysqlTalk, errno: int, state: str, message: str) -> bytes:
    sent = mysql_wire.packets(1, mysql_wire.err(errno, state, message))
    assert talk.server(sent) == sent
    return recorded(talk)


def shown(talk: MysqlTalk, sql: str = WARNINGS) -> bytes:
    """The list of warnings, with the secret in it, as the client asks for it; what is on record."""
    sent = mysql_wire.query(sql)
    assert talk.client(sent) == sent
    answer = mysql_wire.packets(
        1, b"\1", mysql_wire.column("Message"), mysql_wire.lenenc(f"Incorrect value: '{SECRET}'"), mysql_wire.end()
    )
    assert talk.server(answer) == answer
    return recorded(talk)


@pytest.mark.parametrize(
    ("errno", "state", "message"),
    [
        (1366, "HY000", f"Incorrect integer value: '{SECRET}' for column 'password' at row 1"),
        (1064, "42000", f"You have an error in your SQL syntax near '{SECRET}' at line 1"),
    ],
)
def test_a_mysql_error_about_a_statement_with_a_secret_in_it(errno: int, state: str, message: str) -> None:
    talk = mysql_talk()
    talk.client(mysql_wire.query(f"ALTER USER app IDENTIFIED BY '{SECRET}'"))
    found = mysql_refused(talk, errno, state, message)
    assert SECRET.encode() not in found
    assert errno.to_bytes(2, "little") in found


def test_a_mysql_error_that_quotes_a_secret_by_its_form() -> None:
    talk = mysql_talk()
    talk.client(mysql_wire.query("UPDATE orders SET total = (SELECT site FROM elsewhere)"))
    found = mysql_refused(talk, 1366, "HY000", f"Incorrect integer value: 'mysql://app:{SECRET}@db' for column 'x'")
    assert SECRET.encode() not in found


def test_a_mysql_error_without_secrets_is_on_record_as_it_was() -> None:
    talk = mysql_talk()
    talk.client(mysql_wire.query("SELECT * FROM nothing"))
    assert b"nothing' doesn't exist" in mysql_refused(talk, 1146, "42S02", "Table 'app.nothing' doesn't exist")


def test_warnings_are_on_record_until_they_may_quote_a_secret() -> None:
    talk = mysql_talk()
    for _ in range(3):  # as it is known by its bytes, too
        assert SECRET.encode() in shown(talk)
    talk.client(mysql_wire.query(f"ALTER USER app IDENTIFIED BY '{SECRET}'"))
    talk.server(mysql_wire.packets(1, mysql_wire.ok()))
    for _ in range(3):
        assert SECRET.encode() not in shown(talk)
        assert talk.last()["truncated"] is True
        assert talk.last()["rows"] == 1
    assert SECRET.encode() not in shown(talk, "SHOW /* */ ERRORS LIMIT 1")
    assert b"Incorrect" in shown(talk, "SELECT 1")  # any other answer is kept


def test_warnings_behind_a_parameter_that_is_a_secret_by_its_form() -> None:
    talk = mysql_talk()
    talk.prepare(1, "UPDATE orders SET total = ?", 1)
    talk.client(mysql_wire.execute(1, f"Bearer {SECRET}"))
    talk.server(mysql_wire.packets(1, mysql_wire.ok()))
    assert SECRET.encode() not in shown(talk)


def test_warnings_behind_a_load() -> None:
    talk = mysql_talk()
    talk.client(mysql_wire.query("LOAD DATA LOCAL INFILE '/tmp/a' INTO TABLE orders"))
    talk.server(mysql_wire.packets(1, b"\xfb/tmp/a"))
    talk.client(mysql_wire.packets(2, f"{SECRET}\n".encode(), b""))
    talk.server(mysql_wire.packets(4, mysql_wire.ok(1)))
    assert SECRET.encode() not in shown(talk)


def test_warnings_in_the_same_message() -> None:
    talk = mysql_talk()
    talk.client(mysql_wire.query(f"ALTER USER app IDENTIFIED BY '{SECRET}'; {WARNINGS}"))
    rows = [b"\1", mysql_wire.column("Message"), mysql_wire.lenenc(SECRET), mysql_wire.end()]
    talk.server(mysql_wire.packets(1, mysql_wire.ok(status=mysql_wire.AUTOCOMMIT | mysql_wire.MORE), *rows))
    assert SECRET.encode() not in b"".join(base64.b64decode(r["wire"]) for r in talk.port.records if "wire" in r)


@pytest.mark.slow
@pytest.mark.e2e
def test_on_a_real_mysql_what_was_loaded_and_warned_of_is_not_on_record(
    mysql_installation: mysql.Installation, tmp_path: Path
) -> None:
    def offered(document: dict[str, Any]) -> None:
        document["listeners"][0]["local_files"] = True

    rows = tmp_path / "rows"
    rows.write_text(f"1\t{SECRET}\n")
    with Lab([DEFAULT_POLICY], installation=mysql_installation, adjust=offered) as lab:
        with contextlib.closing(lab.server.connect()) as direct, direct.cursor() as cursor:
            cursor.execute("SET GLOBAL local_infile = 1")
            cursor.execute("CREATE TABLE accounts (id int, password int)")
        client = pymysql.connect(
            host=lab.gateway.host,
            port=lab.gateway.port,
            user="me",
            password=lab.tokens["admin"],
            database="shop",
            ssl_ca=str(lab.authority.file),
            local_infile=True,
        )
        with client, client.cursor() as cursor:
            cursor.execute(f"LOAD DATA LOCAL INFILE '{rows}' INTO TABLE accounts")
            cursor.execute(WARNINGS)
            assert SECRET in str(cursor.fetchall())  # the client reads it
            with pytest.raises(pymysql.err.MySQLError, match=SECRET):
                cursor.execute("INSERT INTO accounts (id, password) VALUES (1, %s)", [SECRET])
        _nowhere(lab, 3)
