"""pg8000 (pure Python, its own protocol code) and SQLAlchemy over two drivers, direct and through the gateway."""

from __future__ import annotations

import ssl
import urllib.parse
from typing import Any

import pg8000.native
import pytest
import sqlalchemy as sa

pytestmark = pytest.mark.e2e


def parts(dsn: str) -> tuple[dict[str, Any], ssl.SSLContext | None]:
    """A DSN as pg8000's keyword arguments, and the TLS that it asks for."""
    url = urllib.parse.urlsplit(dsn)
    query = dict(urllib.parse.parse_qsl(url.query))
    context = None
    if query["sslmode"] != "disable":
        context = ssl.create_default_context(cafile=query["sslrootcert"])
    arguments = {
        "user": urllib.parse.unquote(url.username or ""),
        "password": urllib.parse.unquote(url.password or ""),
        "host": url.hostname,
        "port": url.port,
        "database": url.path[1:],
    }
    return arguments, context


def test_pg8000(both: Any) -> None:
    def script(dsn: str) -> Any:
        arguments, context = parts(dsn)
        connection = pg8000.native.Connection(**arguments, ssl_context=context, timeout=20)
        try:
            seen: list[Any] = [
                connection.run("CREATE TABLE work.t (i int PRIMARY KEY, t text, n numeric, b bytea)"),
                connection.run("INSERT INTO work.t VALUES (:i, :t, 1.50, :b)", i=1, t="o'k", b=b"\x00\x01"),
                connection.run("SELECT * FROM work.t"),
                [{key: value for key, value in column.items() if key != "table_oid"} for column in connection.columns],
                connection.row_count,
            ]
            statement = connection.prepare("SELECT t FROM work.t WHERE i = :i")
            seen += [statement.run(i=1), statement.run(i=2)]
            statement.close()
            for text in ("SELECT 1/0", "INSERT INTO work.t VALUES (1)", "SELECT * FROM work.nowhere"):
                try:
                    connection.run(text)
                except pg8000.native.DatabaseError as error:
                    # where in the server's own source it was raised is no concern of ours
                    seen.append({key: value for key, value in error.args[0].items() if key not in "FLR"})
            connection.run("START TRANSACTION")
            connection.run("DELETE FROM work.t")
            connection.run("ROLLBACK")
            seen.append(connection.run("SELECT count(*) FROM work.t"))
            return seen
        finally:
            connection.close()

    assert both(script)[-1] == [[1]]


def exercise(connection: sa.Connection) -> Any:
    """Tables, constraints, reflection and transactions as an application's models use them."""
    metadata = sa.MetaData(schema="work")
    people = sa.Table(
        "people", metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("born", sa.Date),
        sa.Column("tags", sa.JSON),
    )  # fmt: skip
    pets = sa.Table(
        "pets", metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.ForeignKey("work.people.id")),
        sa.Column("price", sa.Numeric(8, 2)),
    )  # fmt: skip
    metadata.create_all(connection)
    rows = [{"name": f"person {number}", "tags": {"n": number}} for number in range(25)]
    ids = connection.scalars(people.insert().returning(people.c.id), rows).all()
    connection.execute(pets.insert(), [{"owner": owner, "price": f"{owner}.25"} for owner in ids])
    seen: list[Any] = [
        connection.execute(
            sa.select(people.c.name, sa.func.sum(pets.c.price))
            .join(pets)
            .where(people.c.id > 20)
            .group_by(people.c.name)
            .order_by(people.c.name)
        ).all()
    ]
    nested = connection.begin_nested()
    try:
        connection.execute(people.insert(), {"name": "person 1"})
    except sa.exc.IntegrityError as error:
        nested.rollback()
        seen.append(getattr(error.orig, "sqlstate", None))
    seen.append(connection.execute(people.update().where(people.c.id < 3).values(name=people.c.name + "!")).rowcount)
    reflected = sa.MetaData(schema="work")
    reflected.reflect(connection)
    for table in reflected.sorted_tables:
        seen += [(table.name, column.name, str(column.type), column.nullable) for column in table.columns]
        seen += [(key.parent.name, key.target_fullname) for key in table.foreign_keys]
    connection.commit()
    return seen


def engine(dsn: str, driver: str) -> sa.Engine:
    arguments, context = parts(dsn)
    arguments["username"] = arguments.pop("user")
    if driver == "pg8000":
        return sa.create_engine(sa.URL.create("postgresql+pg8000", **arguments), connect_args={"ssl_context": context})
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(dsn).query))
    return sa.create_engine(sa.URL.create("postgresql+psycopg", **arguments, query=query))


@pytest.mark.parametrize("driver", ["psycopg", "pg8000"])
def test_sqlalchemy(both: Any, driver: str) -> None:
    def script(dsn: str) -> Any:
        pool = engine(dsn, driver)
        try:
            with pool.connect() as connection:
                return exercise(connection)
        finally:
            pool.dispose()

    both(script)
