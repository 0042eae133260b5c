"""Every client that people use with MySQL and MariaDB: the same script direct and through the gateway."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import datetime
import decimal
import importlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy

from scripts.support import mysql
from scripts.support.gateway import ROOT
from scripts.support.lab import Lab
from tests.e2e.conftest import Address, BothMySQL

pytestmark = pytest.mark.e2e

JAR = Path("/usr/share/java/mariadb-java-client.jar")

SETUP = (
    "CREATE TABLE kinds (id int PRIMARY KEY AUTO_INCREMENT, n bigint unsigned, d decimal(20, 6), f double,"
    " s varchar(300) CHARACTER SET utf8mb4, b varbinary(300), day date, moment datetime(6), span time, y year,"
    " choice enum('a', 'b'), many set('x', 'y', 'z'), doc json, bits bit(10), late timestamp NULL)",
    "INSERT INTO kinds VALUES (1, 18446744073709551615, 12345678901234.123456, 1.5e300,"
    " 'gr\u00fc\u00df \U0001f600', x'00ff27', '2026-02-28', '2026-02-28 23:59:59.000001', '-12:34:56', 1999,"
    " 'b', 'x,z', '{\"a\": [1, null]}', b'1010', '2026-01-01 00:00:00')",
    "INSERT INTO kinds (id) VALUES (2)",
    "CREATE TABLE texts (id int PRIMARY KEY, t longtext) CHARACTER SET utf8mb4",
)
ROW = "SELECT id, n, d, f, s, b, day, moment, span, choice, many, late FROM kinds ORDER BY id"
YEAR = "SELECT y FROM kinds"  # mysql-connector-python cannot read it from a prepared statement


def installed(module: str) -> Any:
    """A driver of the group `native`, or a skip that says how to get it; in CI it must be there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a driver says about itself when it is first compiled
            return importlib.import_module(module)
    except ImportError as error:
        why = f"{module} is not installed: libmariadb-dev and gcc, then `uv sync --group native` ({error})"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def plain(value: Any) -> Any:
    """Values of any driver in one form."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (decimal.Decimal, datetime.date, datetime.time, datetime.timedelta)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def asked(cursor: Any, sql: str, parameters: Any = None) -> Any:
    """What a cursor of the DB API tells of one statement, an error included."""
    try:
        # some drivers treat a second argument as a sign that there are placeholders
        cursor.execute(sql) if parameters is None else cursor.execute(sql, parameters)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("pymysql", "MySQLdb", "mysql", "mariadb", "asyncmy"):
            raise
        return ("error", type(error).__name__, getattr(error, "errno", error.args[0]))
    if cursor.description is None:
        return (cursor.rowcount, cursor.lastrowid)
    names = [(column[0], column[1]) for column in cursor.description]
    return names, plain(cursor.fetchall())


def dbapi(
    connect: Callable[[Address], Any], mark: str = "%s", *, year: bool = True, **cursor_options: Any
) -> Callable[[Address], Any]:
    """The script of all drivers with a DB API."""

    def script(address: Address) -> Any:
        seen: list[Any] = []
        with contextlib.closing(connect(address)) as connection:
            connection.autocommit(True) if callable(connection.autocommit) else setattr(connection, "autocommit", True)
            with contextlib.closing(connection.cursor(**cursor_options)) as cursor:
                for text in (
                    *SETUP,
                    ROW,
                    "SELECT doc, bits FROM kinds WHERE id = 1",
                    "SELECT * FROM kinds WHERE id > 9",
                ):
                    seen.append(asked(cursor, text))
                insert = f"INSERT INTO kinds (n, d, s, b, day, moment) VALUES ({', '.join([mark] * 6)})"
                day = datetime.date(2026, 3, 1)
                moment = datetime.datetime(2026, 3, 1, 4, 5, 6, 789)
                for number in (1, 2):
                    values = (number, decimal.Decimal("1.25"), "it's \\ 'so'", b"\0\xff'", day, moment)
                    seen.append(asked(cursor, insert, values))
                seen.append(asked(cursor, f"SELECT id, s, b, moment FROM kinds WHERE n = {mark}", (2,)))
                seen.append(asked(cursor, f"UPDATE kinds SET s = NULL WHERE n <= {mark}", (2,)))
                for bad in ("SELECT * FROM missing", "SELEC 1", "INSERT INTO kinds (id) VALUES (1)"):
                    seen.append(asked(cursor, bad))
                seen.append(asked(cursor, f"INSERT INTO texts VALUES (1, {mark})", ("x" * 200_000,)))
                seen.append(asked(cursor, "SELECT id, length(t), t FROM texts"))
            # transactions
            connection.autocommit(False) if callable(connection.autocommit) else setattr(
                connection, "autocommit", False
            )
            with contextlib.closing(connection.cursor(**cursor_options)) as cursor:
                seen.append(asked(cursor, "DELETE FROM texts"))
                connection.rollback()
                seen.append(asked(cursor, "SELECT count(*) FROM texts"))
                seen.append(asked(cursor, "UPDATE texts SET t = 'short'"))
                connection.commit()
                seen.append(asked(cursor, "SELECT t FROM texts"))
        return seen

    return script


def pymysql_connect(address: Address, **options: Any) -> Any:
    return pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database,
        ssl={"ca": str(address.ca), "check_hostname": True},
        **options,
    )


def test_pymysql(both_mysql: BothMySQL) -> None:
    seen = both_mysql(dbapi(pymysql_connect))
    assert seen[4][1][0][:3] == [1, 18446744073709551615, "12345678901234.123456"]


def test_pymysql_several_results_of_one_text(both_mysql: BothMySQL) -> None:
    def script(address: Address) -> Any:
        flag = pymysql.constants.CLIENT.MULTI_STATEMENTS
        with contextlib.closing(pymysql_connect(address, client_flag=flag, autocommit=True)) as connection:
            seen = []
            with connection.cursor() as cursor:
                for text in (
                    "SELECT 1; SELECT 2, 3; CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2); SELECT i FROM t",
                    "SELECT 4; SELECT * FROM missing; SELECT 5",
                ):
                    try:
                        cursor.execute(text)
                        while True:
                            seen.append((cursor.rowcount, cursor.fetchall()))
                            if not cursor.nextset():
                                break
                    except pymysql.err.MySQLError as error:
                        seen.append(("error", error.args[0]))
                cursor.execute("SELECT 6")
                seen.append(cursor.fetchall())
            return seen

    seen = both_mysql(script)
    assert seen[-2:] == [("error", 1146), ((6,),)]


def test_pymysql_unbuffered_and_large(both_mysql: BothMySQL) -> None:
    """A row of more than 16 MiB comes in several packets."""

    def script(address: Address) -> Any:
        with (
            contextlib.closing(pymysql_connect(address, cursorclass=pymysql.cursors.SSCursor)) as connection,
            contextlib.closing(connection.cursor()) as cursor,
        ):
            cursor.execute("SELECT repeat('x', 20 * 1024 * 1024), 'tail'")
            (long, tail) = cursor.fetchone()
            return len(long), set(long), tail, cursor.fetchone()

    assert both_mysql(script) == (20 * 1024 * 1024, {"x"}, "tail", None)


def test_procedures_and_their_results(both_mysql: BothMySQL) -> None:
    def script(address: Address) -> Any:
        with contextlib.closing(pymysql_connect(address, autocommit=True)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE PROCEDURE two(IN n int, OUT m int) BEGIN SELECT n; SELECT n + 1, 'x'; SET m = n * 2; END"
            )
            cursor.callproc("two", (20, 0))
            seen = [cursor.fetchall()]
            while cursor.nextset():
                seen.append(cursor.fetchall())
            cursor.execute("SELECT @_two_1")
            seen.append(cursor.fetchall())
            return seen

    assert both_mysql(script)[0] == ((20,),)


def test_mysqlclient(both_mysql: BothMySQL) -> None:
    driver = installed("MySQLdb")

    def connect(address: Address) -> Any:
        return driver.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            charset="utf8mb4",
            ssl={"ca": str(address.ca)},
            ssl_mode="VERIFY_IDENTITY",
        )

    both_mysql(dbapi(connect))


def _connector(address: Address, *, pure: bool = True) -> Any:
    import mysql.connector

    return mysql.connector.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database,
        ssl_ca=str(address.ca),
        ssl_verify_cert=True,
        use_pure=pure,
    )


def connector_script(*, pure: bool, prepared: bool) -> Callable[[Address], Any]:
    options = {"prepared": True} if prepared else {"buffered": True}
    return dbapi(lambda address: _connector(address, pure=pure), year=not prepared, **options)


@pytest.mark.parametrize("prepared", [False, True], ids=["text", "prepared"])
def test_mysql_connector_python(both_mysql: BothMySQL, prepared: bool) -> None:
    both_mysql(connector_script(pure=True, prepared=prepared))


# The wheel's C half needs the OpenSSL that lies beside it, which a process that has loaded another one cannot take
C_HALF = """
import dataclasses, json, pathlib, sys
import mysql.connector
from tests.e2e.conftest import Address
from tests.e2e.test_mysql_clients import connector_script
told = json.load(sys.stdin)
assert mysql.connector.HAVE_CEXT, "its C half cannot be loaded"
address = Address(**(told["address"] | {"ca": pathlib.Path(told["address"]["ca"])}))
print(repr(connector_script(pure=False, prepared=told["prepared"])(address)))
"""


@pytest.mark.parametrize("prepared", [False, True], ids=["text", "prepared"])
def test_mysql_connector_python_c(both_mysql: BothMySQL, prepared: bool) -> None:
    import mysql.connector

    vendor = Path(mysql.connector.__file__).parents[1] / "vendor"

    def script(address: Address) -> Any:
        told = {"address": dataclasses.asdict(address) | {"ca": str(address.ca)}, "prepared": prepared}
        done = subprocess.run(
            [sys.executable, "-c", C_HALF],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            env={**os.environ, "LD_LIBRARY_PATH": str(vendor)},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return ast.literal_eval(done.stdout)

    seen = both_mysql(script)
    assert seen[4][1][0][2:5] == ["12345678901234.123456", 1.5e300, "gr\u00fc\u00df \U0001f600"]


def as_text(seen: Any) -> Any:
    """A column that is described as JSON as one that is described as text."""
    if seen == ("doc", 245):
        return ("doc", 252)
    return type(seen)(as_text(one) for one in seen) if isinstance(seen, (list, tuple)) else seen


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_mariadb_connector(both_mysql: BothMySQL, binary: bool) -> None:
    driver = installed("mariadb")

    def connect(address: Address) -> Any:
        return driver.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            ssl_ca=str(address.ca),
            ssl_verify_cert=True,
        )

    script = dbapi(connect, mark="?", binary=binary)
    # MariaDB's extended metadata, by which this driver alone tells JSON from other texts, is not offered
    both_mysql(lambda address: as_text(script(address)))


def test_asyncmy(both_mysql: BothMySQL) -> None:
    import asyncmy

    async def run(address: Address) -> Any:
        connection = await asyncmy.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            ssl=ssl.create_default_context(cafile=str(address.ca)),
            autocommit=True,
        )
        seen: list[Any] = []
        try:
            async with connection.cursor() as cursor:
                for text in (*SETUP, ROW, "SELEC 1", "SELECT * FROM missing", "SELECT 1"):
                    try:
                        await cursor.execute(text)
                        seen.append((cursor.rowcount, plain(await cursor.fetchall()) if cursor.description else None))
                    except asyncmy.errors.MySQLError as error:
                        seen.append(("error", error.args[0]))
                await connection.begin()
                await cursor.execute("INSERT INTO kinds (s) VALUES (%s)", ("it's \U0001f600",))
                await connection.rollback()
                await cursor.execute("SELECT count(*) FROM kinds")
                seen.append(await cursor.fetchall())
        finally:
            await connection.ensure_closed()
        return seen

    seen = both_mysql(run)
    assert seen[-1] == ((2,),)


def test_sqlalchemy(both_mysql: BothMySQL) -> None:
    def script(address: Address) -> Any:
        url = sqlalchemy.URL.create(
            "mysql+pymysql", address.user, address.password, address.host, address.port, address.database
        )
        engine = sqlalchemy.create_engine(url, connect_args={"ssl": {"ca": str(address.ca)}}, pool_pre_ping=True)
        metadata = sqlalchemy.MetaData()
        table = sqlalchemy.Table(
            "things",
            metadata,
            sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
            sqlalchemy.Column("name", sqlalchemy.String(50), nullable=False),
            sqlalchemy.Column("price", sqlalchemy.Numeric(10, 2)),
            sqlalchemy.Column("doc", sqlalchemy.JSON),
        )
        try:
            metadata.create_all(engine)
            with engine.begin() as connection:
                rows = [{"name": f"thing {n}", "price": n, "doc": {"n": n}} for n in range(3)]
                connection.execute(table.insert(), rows)
            with engine.connect() as connection:
                query = sqlalchemy.select(table).where(table.c.price > 0).order_by(table.c.id)
                seen = [tuple(row) for row in connection.execute(query)]
                connection.execute(table.delete())
                connection.rollback()
                seen += [tuple(row) for row in connection.execute(sqlalchemy.text("SELECT count(*) FROM things"))]
            inspector = sqlalchemy.inspect(engine)
            seen += [inspector.get_table_names(), [column["name"] for column in inspector.get_columns("things")]]
            metadata.drop_all(engine)
        finally:
            engine.dispose()
        return plain(seen)

    assert both_mysql(script)[2] == [3]


# ---------------------------------------------------------------- the command lines


def _clients() -> Iterator[tuple[str, list[str | Path]]]:
    """MariaDB's own, and MySQL's own, whichever server they then talk to."""
    for found in mysql.available():
        with contextlib.suppress(mysql.StartError):
            yield found.flavour, found.client()


CLI_SCRIPT = """
SELECT version() IS NOT NULL AS up, 1.50 AS price, NULL AS nothing, 'tab\\there' AS text;
CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, s varchar(20));
INSERT INTO t (s) VALUES ('one'), ('two'), ('three');
SELECT * FROM t WHERE id > 1;
DELIMITER //
CREATE PROCEDURE p() BEGIN SELECT count(*) FROM t; SELECT 'second'; END//
DELIMITER ;
CALL p();
START TRANSACTION;
DELETE FROM t;
ROLLBACK;
SELECT count(*) FROM t;
SELECT * FROM missing;
SELECT 'after the error';
SHOW WARNINGS;
"""


@pytest.mark.parametrize("flavour", mysql.FLAVOURS)
def test_the_command_line(both_mysql: BothMySQL, flavour: str) -> None:
    argv = dict(_clients()).get(flavour)
    if argv is None:
        why = f"no command line client of {flavour} here: {mysql.how_to_get(flavour)}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)

    def script(address: Address) -> Any:
        tls = ["--ssl-verify-server-cert"] if flavour == "mariadb" else ["--ssl-mode=VERIFY_IDENTITY"]
        done = subprocess.run(
            [*argv, "--no-defaults", "-h", address.host, "-P", str(address.port), "-u", address.user,
             f"--ssl-ca={address.ca}", *tls, "--force", "-vv", address.database],
            input=CLI_SCRIPT, capture_output=True, text=True, timeout=60,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MYSQL_PWD": address.password},
        )  # fmt: skip
        return done.returncode, _steady(done.stdout), _steady(done.stderr)

    if (flavour, both_mysql.flavour) == ("mysql", "mariadb"):
        # MySQL's own client no longer has the plugin that MariaDB's users have by default; the gateway has another
        code, out, err = script(both_mysql.through())
    else:
        code, out, err = both_mysql(script)
    assert code == 0, err  # --force
    assert "after the error" in out
    assert any("1146" in line for line in err)


def _steady(text: str) -> list[str]:
    """Without what differs from run to run: times, ids, addresses, counters."""
    changing = ("Connection id", "Current user", "Connection:", "TCP port", "Uptime", "Threads:", "SSL:", "UNIX socket")
    return [
        line.partition(" (")[0] if " sec)" in line else line
        for line in text.splitlines()
        if not line.strip().startswith(changing)
    ]


# ---------------------------------------------------------------- JDBC

JAVA = """
import java.sql.*;
import java.util.Properties;

public class Script {
    static void show(ResultSet rows) throws SQLException {
        ResultSetMetaData about = rows.getMetaData();
        while (rows.next()) {
            StringBuilder line = new StringBuilder("row");
            for (int i = 1; i <= about.getColumnCount(); i++)
                line.append('|').append(about.getColumnLabel(i)).append('=').append(rows.getString(i));
            System.out.println(line);
        }
    }

    public static void main(String[] words) throws Exception {
        Properties settings = new Properties();
        settings.put("user", words[1]);
        settings.put("password", System.getenv("TOKEN"));
        settings.put("useSsl", "true");  // up to 2.7
        settings.put("sslMode", "verify-full");  // from 3.0 on
        settings.put("serverSslCert", words[2]);
        settings.put("useServerPrepStmts", words[3]);
        settings.put("allowMultiQueries", "true");
        try (Connection connection = DriverManager.getConnection(words[0], settings)) {
            try (Statement statement = connection.createStatement()) {
                statement.execute("CREATE TABLE j (id int PRIMARY KEY AUTO_INCREMENT, s varchar(50), d decimal(10,2))");
            }
            try (PreparedStatement insert = connection.prepareStatement(
                    "INSERT INTO j (s, d) VALUES (?, ?)", Statement.RETURN_GENERATED_KEYS)) {
                for (int i = 0; i < 5; i++) {
                    insert.setString(1, "it's " + i);
                    insert.setBigDecimal(2, new java.math.BigDecimal("1.25"));
                    insert.addBatch();
                }
                System.out.println("batch " + insert.executeBatch().length);
            }
            try (PreparedStatement query = connection.prepareStatement("SELECT * FROM j WHERE id > ?")) {
                for (int i = 0; i < 3; i++) {
                    query.setInt(1, i);
                    show(query.executeQuery());
                }
            }
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.executeUpdate("DELETE FROM j");
                connection.rollback();
                show(statement.executeQuery("SELECT count(*) AS n FROM j"));
                try {
                    statement.executeQuery("SELECT * FROM missing");
                } catch (SQLException error) {
                    System.out.println("error " + error.getErrorCode() + " " + error.getSQLState());
                }
                boolean more = statement.execute("SELECT 1 AS a; SELECT 2 AS b");
                while (more) {
                    show(statement.getResultSet());
                    more = statement.getMoreResults();
                }
            }
            connection.commit();
            show(connection.getMetaData().getColumns(words[4], null, "j", null));
        }
    }
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("prepared", ["false", "true"])
def test_jdbc(both_mysql: BothMySQL, tmp_path: Path, prepared: str) -> None:
    java = shutil.which("java")
    if java is None or not JAR.is_file():
        why = "no java with MariaDB's driver here: on Debian, default-jdk-headless and libmariadb-java"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    source = tmp_path / "Script.java"
    source.write_text(JAVA)

    def script(address: Address) -> Any:
        url = f"jdbc:mariadb://{address.host}:{address.port}/{address.database}"
        done = subprocess.run(
            [java, "-XX:TieredStopAtLevel=1", "-cp", JAR, source, url, address.user, address.ca, prepared,
             address.database],
            capture_output=True, text=True, timeout=110, env={**os.environ, "TOKEN": address.password},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()

    seen = both_mysql(script)
    assert "error 1146 42S02" in seen
    assert "batch 5" in seen


# ---------------------------------------------------------------- what they must all get


def test_a_denial_is_an_ordinary_error_in_every_driver(both_mysql: BothMySQL, mysql_lab: Lab) -> None:
    agent = both_mysql.through("agent", "shop")
    drivers: list[Callable[[Address], Any]] = [pymysql_connect, _connector]
    for connect in drivers:
        with contextlib.closing(connect(agent)) as connection, contextlib.closing(connection.cursor()) as cursor:
            for _ in range(3):
                assert asked(cursor, "DROP TABLE orders")[::2] == ("error", 1142)
                assert asked(cursor, "SELECT count(*) FROM orders")[1] == [[720]]
    assert not any("DROP TABLE orders" in text for text in mysql_lab.server.statements())
