"""Masked values against real servers: each must be a value of its type for the server and for a client library."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pgparse  # type: ignore[import-not-found]  # compiled, without stubs
import psycopg
import pytest
from psycopg import pq
from psycopg.adapt import Transformer

from guard.mask import Masker
from protocols.contract import Analysis, Effect, MaskRule, Origin, ResultColumn, ResultShape
from protocols.postgres.catalog import CATALOG_QUERIES, Catalog, build
from protocols.postgres.copy import CopyMasker, CopyOptions
from protocols.postgres.messages import DataRow, FieldDescription, RowDescription
from protocols.postgres.results import RowRewriter, reach, scrub, shape
from scripts.support.postgres import PostgresServer

KEY = b"k" * 32
SECRET = "123-45-6789"

SETUP = """
CREATE SCHEMA masking; SET search_path = masking, public;
CREATE DOMAIN mail AS text; CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TYPE pair AS (a text, b int);
CREATE TABLE users(id int primary key, email text unique, name text, ssn text, salary int check (salary < 1000000),
                   prefs jsonb, tags text[], feeling mood);
INSERT INTO users VALUES (1, 'alice@example.com', 'Alice', '123-45-6789', 5000, '{"a": "123-45-6789"}',
                          '{123-45-6789,b}', 'glad');
CREATE TABLE orders(id int primary key, user_id int references users, total numeric, note text);
INSERT INTO orders VALUES (7, 1, 12.50, 'n');
CREATE TABLE people(id int, ssn text); CREATE TABLE people_eu(country text) INHERITS (people);
INSERT INTO people_eu VALUES (1, '123-45-6789', 'de');
CREATE VIEW v_contact AS SELECT id, ssn AS contact, upper(ssn) AS up FROM users;
CREATE FUNCTION shout() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN RAISE NOTICE 'x %', (SELECT ssn FROM masking.users LIMIT 1); RETURN 1; END $$;
CREATE FUNCTION throw() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION USING MESSAGE = 'division by zero', ERRCODE = '23505',
     CONSTRAINT = (SELECT ssn FROM masking.users LIMIT 1), DETAIL = (SELECT ssn FROM masking.users LIMIT 1); END $$;
"""


@pytest.fixture(scope="module")
def connection(server: PostgresServer) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with server.connect() as conn:
        conn.autocommit = True
        conn.execute(SETUP)
        yield conn
        conn.execute("DROP SCHEMA masking CASCADE")


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection[tuple[Any, ...]]) -> Catalog:
    results: dict[str, list[tuple[str | None, ...]]] = {}
    for name, query in CATALOG_QUERIES.items():
        result = connection.pgconn.exec_(query.encode())
        assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
        results[name] = [
            tuple(None if (v := result.get_value(r, c)) is None else v.decode() for c in range(result.nfields))
            for r in range(result.ntuples)
        ]
    return build(results)


def description_of(result: pq.abc.PGresult) -> RowDescription:
    return RowDescription(
        tuple(
            FieldDescription(
                result.fname(i) or b"",
                result.ftable(i),
                result.ftablecol(i),
                result.ftype(i),
                result.fsize(i),
                result.fmod(i),
                result.fformat(i),
            )
            for i in range(result.nfields)
        )
    )


def row_of(result: pq.abc.PGresult, row: int) -> bytes:
    return DataRow(tuple(result.get_value(row, i) for i in range(result.nfields))).encode()[5:]


def masker(strategy: str, columns: Sequence[str] = ("a.b.c",), **options: Any) -> Masker:
    return Masker((MaskRule("r", tuple(columns), (), strategy, options),), KEY)


# ---------------------------------------------------------------- every type, both formats

VALUES = [
    "'alice@example.com'::text", "'4111-1111-1111-1111'::varchar(19)", "'abc'::varchar(3)", "'ab '::char(5)",
    "'x'::\"char\"", "'a_name'::name", "'Jürgen Ünlü 漢字'::text", "''::text", "E'tab\\t\"q\" \\\\'::text",
    "12345::int2", "'-2147483648'::int4", "2147483647::int4", "9223372036854775807::int8",
    "'-9223372036854775808'::int8",
    "0::int4", "4294967295::oid",
    "1234.50::numeric(6,2)", "0.05::numeric(2,2)", "-99999.999::numeric", "1e30::numeric", "1e-20::numeric",
    "'NaN'::numeric", "0::numeric", "10000::numeric", "100000000::numeric(9,0)",
    "1.5::float4", "3.14159274::float4", "1e20::float8", "1e-300::float8", "'Infinity'::float8", "-0.1::float8",
    "'$1,234.50'::money", "true", "'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid",
    "'1980-03-04'::date", "'infinity'::date", "'0044-03-15 BC'::date", "'12345-01-01'::date",
    "'1980-03-04 12:13:14.123456'::timestamp", "'1980-07-04 12:13:14.5+02'::timestamptz",
    "'-infinity'::timestamptz", "'12:13:14'::time", "'12:13:14+02'::timetz", "'1 year 2 days'::interval",
    "'\\x00ff5c'::bytea", "''::bytea", "'{\"a\": \"b\", \"n\": 1}'::json", "'\"4111111111111111\"'::jsonb",
    "'42'::jsonb",
    "'{\"a\": [1, 2]}'::jsonb", "'null'::jsonb",
    "'192.168.1.10/24'::inet", "'2001:db8::1'::inet", "'10.0.0.0/8'::cidr", "'08:00:2b:01:02:03'::macaddr",
    "'a@b.c'::masking.mail", "'glad'::masking.mood", "row('a', 1)::masking.pair", "'[1,5)'::int4range",
    "ARRAY['alice', NULL, 'a \"b\" \\ c', '', 'NULL', '{x}']::text[]", "ARRAY[['a1','b2'],['c3','d4']]::varchar[]",
    "'[0:1]={ab,cd}'::text[]", "'{}'::text[]", "ARRAY[1234, NULL]::int[]", "ARRAY[1.5, 20000]::numeric[]",
    "ARRAY['6ba7b810-9dad-11d1-80b4-00c04fd430c8']::uuid[]", "ARRAY['1980-03-04']::date[]",
    "ARRAY['{\"k\": 1}']::jsonb[]", "ARRAY['\\x00ff']::bytea[]", "ARRAY['a@b.c']::masking.mail[]",
    "ARRAY['glad']::masking.mood[]", "ARRAY[true]", "ARRAY['1980-03-04 12:13:14+02']::timestamptz[]",
    "NULL::text", "'a b'::tsvector", "B'101'", "'(1,2)'::point", "'<a>x</a>'::xml",
]  # fmt: skip

STRATEGIES: list[tuple[str, dict[str, Any]]] = [
    ("redact", {}),
    ("null", {}),
    ("hash", {}),
    ("hash", {"length": 12}),
    ("tokenise", {}),
    ("partial", {"keep_first": 2, "keep_last": 2}),
    ("partial", {}),
    ("date", {"precision": "month"}),
]


@pytest.mark.parametrize("expression", VALUES)
def test_masked_values_are_values_of_their_type(
    connection: psycopg.Connection[tuple[Any, ...]], catalog: Catalog, expression: str
) -> None:
    pg = connection.pgconn
    if expression.endswith("::xml") and pg.exec_(b"SELECT '<a/>'::xml").status != pq.ExecStatus.TUPLES_OK:
        expression = "'no xml in this build'::text"
    for strategy, options in STRATEGIES:
        plan = masker(strategy, **options).plan(ResultShape((ResultColumn("c", Origin.KNOWN, ("a.b.c",)),)))
        assert plan is not None
        shown: list[str | None] = []
        for fmt in (0, 1):
            result = pg.exec_params(f"SELECT {expression} AS c".encode(), None, result_format=fmt)
            assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
            described = description_of(result)
            masked = RowRewriter(plan, described, catalog, "UTF8").rewrite(row_of(result, 0))
            (value,) = DataRow.decode(masked).values
            if result.get_value(0, 0) is None or strategy == "null":
                assert value is None
            oid, mod = described.fields[0].type_oid, described.fields[0].type_mod
            name = connection.execute("SELECT format_type(%s, %s)", (oid, mod)).fetchone()
            assert name is not None
            # the server reads it back as that type, in that format
            back = pg.exec_params(
                f"SELECT $1::{name[0]}::text".encode(), [value], param_types=[oid], param_formats=[fmt]
            )
            assert back.status == pq.ExecStatus.TUPLES_OK, (strategy, fmt, value, back.error_message)
            text = back.get_value(0, 0)
            shown.append(None if text is None else text.decode())
            # and the client library decodes it
            if value is not None:
                Transformer(connection).get_loader(oid, pq.Format(fmt)).load(value)
        assert shown[0] == shown[1], (expression, strategy)


def test_a_masked_value_of_a_varied_table_never_shows(
    connection: psycopg.Connection[tuple[Any, ...]], catalog: Catalog
) -> None:
    pg = connection.pgconn
    for strategy, options in STRATEGIES:
        for fmt in (0, 1):
            result = pg.exec_params(b"SELECT ssn, prefs, tags FROM masking.users", None, result_format=fmt)
            described = description_of(result)
            masks = masker(strategy, ("masking.users.*",), **options)
            plan = masks.plan(shape(described, catalog, select()))
            assert plan is not None
            masked = RowRewriter(plan, described, catalog, "UTF8").rewrite(row_of(result, 0))
            assert SECRET.encode() not in masked


# ---------------------------------------------------------------- origins


def select(
    *reads: str, writes: tuple[str, ...] = (), effects: frozenset[Effect] | None = None, **more: Any
) -> Analysis:
    effects = frozenset({Effect.DATA_SELECT}) if effects is None else effects
    return Analysis(more.pop("kind", "select"), effects, reads=reads, writes=writes, **more)


USERS = "masking.users"
CASES = [
    ("SELECT id, ssn FROM masking.users", select(USERS), [None, "redact"]),
    ("SELECT ssn AS total, id AS ssn FROM masking.users", select(USERS), ["redact", None]),
    ("SELECT x.s FROM (SELECT ssn s FROM masking.users) x", select(USERS), ["redact"]),
    ("WITH w AS (SELECT * FROM masking.users) SELECT ssn, id FROM w", select(USERS), ["redact", None]),
    ("SELECT upper(ssn), id FROM masking.users", select(USERS), ["withhold", None]),
    ("SELECT u FROM masking.users u", select(USERS), ["withhold"]),
    ("SELECT ctid, id FROM masking.users", select(USERS), [None, None]),
    ("SELECT ssn FROM masking.users UNION SELECT 'x'", select(USERS), ["withhold"]),
    ("SELECT contact, up, id FROM masking.v_contact", select("masking.v_contact", USERS), ["redact", "withhold", None]),
    ("SELECT count(*) FROM masking.users", select(USERS, clear_columns=frozenset({0})), [None]),
    ("SELECT 1 + 1", select(), [None]),
    ("SELECT upper(note) FROM masking.orders", select("masking.orders"), [None]),
    (
        "SELECT masking.shout()",
        select(effects=frozenset({Effect.EXEC_CALL}), functions=("masking.shout",)),
        ["withhold"],
    ),
    ("SELECT 1 + 1", select(effects=frozenset({Effect.UNKNOWN})), ["withhold"]),
    ("EXPLAIN SELECT * FROM masking.users", select(USERS, kind="explain"), [None]),
    ("EXPLAIN SELECT 1", select(kind="explain", effects=frozenset({Effect.EXEC_CALL})), ["withhold"]),
]


@pytest.mark.parametrize(("sql", "analysis", "expected"), CASES)
def test_origins(
    connection: psycopg.Connection[tuple[Any, ...]],
    catalog: Catalog,
    sql: str,
    analysis: Analysis,
    expected: list[str | None],
) -> None:
    result = connection.pgconn.exec_(sql.encode())
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
    assert strategies(shape(description_of(result), catalog, analysis)) == expected


def test_a_pattern_for_every_table_reaches_those_that_have_such_a_column(
    connection: psycopg.Connection[tuple[Any, ...]], catalog: Catalog
) -> None:
    anywhere = masker("redact", ("*.ssn", "*.passwd"))
    for sql, reads, expected in (
        ("SELECT sum(total), upper(note) FROM masking.orders", ("masking.orders",), False),
        ("SELECT quote_ident(relname) FROM pg_class", ("pg_catalog.pg_class", "pg_catalog.pg_namespace"), False),
        ("SELECT upper(passwd) FROM pg_shadow", ("pg_catalog.pg_shadow", "pg_catalog.pg_authid"), True),
        ("SELECT upper(ssn) FROM masking.users", (USERS,), True),
        ("SELECT upper(name) FROM masking.users", (USERS,), True),
        ("SELECT upper(note) FROM masking.orders", ("pg_temp.orders",), True),
        ("SELECT upper(note) FROM masking.orders", ("masking.orders", "masking.gone"), True),
    ):
        found = shape(description_of(connection.pgconn.exec_(sql.encode())), catalog, select(*reads))
        assert (anywhere.plan(found) is not None) is expected, sql
        assert anywhere.touches(*reach(select(*reads), catalog)) is expected
        assert anywhere.touches(*reach(select(*reads), None))


def strategies(found: ResultShape) -> list[str | None]:
    plan = masker("redact", ("masking.users.ssn",)).plan(found)
    return [None] * len(found.columns) if plan is None else [c.strategy if c else None for c in plan.columns]


def test_a_childs_column_follows_its_parents_rule(
    connection: psycopg.Connection[tuple[Any, ...]], catalog: Catalog
) -> None:
    result = connection.pgconn.exec_(b"SELECT ssn, country FROM masking.people_eu")
    plan = masker("redact", ("masking.people.ssn",)).plan(
        shape(description_of(result), catalog, select("masking.people_eu"))
    )
    assert plan is not None
    assert [c is not None for c in plan.columns] == [True, False]


def test_without_a_catalog_nothing_has_an_origin(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    result = connection.pgconn.exec_(b"SELECT id FROM masking.users")
    assert strategies(shape(description_of(result), None, select(USERS))) == ["withhold"]


# writes: (statement, relations read, relations written, expected with the parse tree, expected without)
WRITES = [
    ("UPDATE masking.users SET salary = 1 RETURNING id, ssn", "u", "u", [None, "redact"], ["withhold", "withhold"]),
    (
        "UPDATE masking.orders o SET note = u.ssn FROM masking.users u WHERE u.id = user_id RETURNING note, o.id, ssn",
        "ou",
        "o",
        ["withhold", None, "redact"],
        ["withhold", "withhold", "redact"],
    ),
    ("UPDATE masking.users SET name = ssn RETURNING name AS x, id", "u", "u", ["withhold", None], ["withhold"] * 2),
    ("UPDATE masking.users SET name = 'x'::text, email = $1 RETURNING name, email", "u", "u", [None] * 2, None),
    ("UPDATE masking.users SET (name, email) = (SELECT ssn, 'x') RETURNING name", "u", "u", ["withhold"], None),
    ("WITH d AS (UPDATE masking.users SET name = ssn RETURNING *) SELECT id, name FROM d", "u", "u",
     [None, "withhold"], None),
    ("INSERT INTO masking.orders(id, note) SELECT 9, ssn FROM masking.users RETURNING note, total", "u", "o",
     ["withhold", None], None),
    ("INSERT INTO masking.orders SELECT 9, 1, 2, ssn FROM masking.users RETURNING total", "u", "o", ["withhold"], None),
    ("INSERT INTO masking.users(id, ssn, name) VALUES (5, 's', 'n') RETURNING id, name, ssn", "", "u",
     [None, None, "redact"], None),
    ("INSERT INTO masking.users(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = users.ssn RETURNING name, tags",
     "", "u", ["withhold", None], None),
    ("DELETE FROM masking.orders USING masking.users u RETURNING note, u.ssn, u.name", "ou", "o",
     [None, "redact", None], ["withhold", "redact", None]),
    # the view's base table is written without being named: everything of it counts as assigned
    ("UPDATE masking.v_contact SET contact = 'x' || contact RETURNING contact, id", "vu", "vu",
     ["withhold"] * 2, ["withhold"] * 2),
    # named only: the view's own column is enough to know it again
    ("UPDATE masking.v_contact SET contact = 'x' || contact RETURNING contact, id", "vu", "v",
     ["withhold", None], ["withhold"] * 2),
]  # fmt: skip
_NAMES = {"u": USERS, "o": "masking.orders", "v": "masking.v_contact"}


@pytest.mark.parametrize(("sql", "reads", "writes", "with_tree", "without"), WRITES)
def test_writes_taint_what_they_assign(
    connection: psycopg.Connection[tuple[Any, ...]],
    catalog: Catalog,
    sql: str,
    reads: str,
    writes: str,
    with_tree: list[str | None],
    without: list[str | None] | None,
) -> None:
    analysis = select(*(_NAMES[r] for r in reads), writes=tuple(_NAMES[w] for w in writes))
    pg = connection.pgconn
    pg.prepare(b"", sql.encode())
    description = description_of(pg.describe_prepared(b""))
    tree = pgparse.parse(sql)[0]["stmt"]
    assert strategies(shape(description, catalog, analysis, True, tree)) == with_tree
    if without is not None:
        assert strategies(shape(description, catalog, analysis)) == without


def test_a_write_that_the_text_does_not_show_taints_everything(
    connection: psycopg.Connection[tuple[Any, ...]], catalog: Catalog
) -> None:
    pg = connection.pgconn
    pg.prepare(b"", b"SELECT name FROM masking.users")
    description = description_of(pg.describe_prepared(b""))
    analysis = select(USERS, writes=(USERS,))
    tree = pgparse.parse("EXECUTE p")[0]["stmt"]
    assert strategies(shape(description, catalog, analysis, True, tree)) == ["withhold"]


def test_a_trigger_may_read_anything(connection: psycopg.Connection[tuple[Any, ...]], catalog: Catalog) -> None:
    pg = connection.pgconn
    pg.prepare(b"", b"SELECT upper(note) FROM masking.orders")
    description = description_of(pg.describe_prepared(b""))
    quiet = select("masking.orders", writes=("masking.orders",))
    loud = select("masking.orders", writes=("masking.orders",), functions=("masking.shout",))
    assert strategies(shape(description, catalog, quiet)) == [None]
    assert strategies(shape(description, catalog, loud)) == ["withhold"]


# ---------------------------------------------------------------- COPY

ROWS = "(1, 'a\tb', E'x\\ny'), (2, NULL, ''), (3, '\"q\",', '\\N'), (4, '\\\\', 'secret one'), (5, 'é', '\\.')"


@pytest.mark.parametrize(
    "options",
    [
        "",
        "(DELIMITER '|', NULL 'nil')",
        "(HEADER)",
        "(FORMAT csv)",
        "(FORMAT csv, HEADER, DELIMITER ';', QUOTE '''', NULL 'nil')",
        "(FORMAT csv, ESCAPE '\\', FORCE_QUOTE *)",
        "(FORMAT csv, NULL '[masked]')",
        "(FORMAT binary)",
    ],
)
def test_a_masked_copy_loads_again(connection: psycopg.Connection[tuple[Any, ...]], options: str) -> None:
    if options == "(HEADER)" and connection.info.server_version < 150000:
        pytest.skip("text headers came with PostgreSQL 15")
    connection.execute("CREATE TEMP TABLE source(id int, a text, b text); CREATE TEMP TABLE target(LIKE source)")
    try:
        connection.execute(f"INSERT INTO source VALUES {ROWS}")
        statement = f"COPY source TO STDOUT {options}"
        tree = pgparse.parse(statement)[0]["stmt"]["CopyStmt"]
        columns = tuple(ResultColumn(c, Origin.KNOWN, (f"x.source.{c}",)) for c in ("id", "a", "b"))
        plan = masker("redact", ("x.source.b",)).plan(ResultShape(columns))
        assert plan is not None
        masks = CopyMasker(plan, CopyOptions.from_tree(tree, ((23, -1), (25, -1), (25, -1))), None, "UTF8")
        with connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                out = [body for data in copy for body in masks.feed(bytes(data))]
            assert masks.end() == []
            assert b"secret" not in b"".join(out)
            loading = options.replace(", FORCE_QUOTE *", "")
            with cursor.copy(f"COPY target FROM STDIN {loading}") as copy:
                for body in out:
                    copy.write(body)
            source = cursor.execute("SELECT id, a, b FROM source ORDER BY id").fetchall()
            target = cursor.execute("SELECT id, a, b FROM target ORDER BY id").fetchall()
        assert target == [(n, a, None if b is None else "[masked]") for n, a, b in source]
    finally:
        connection.execute("DROP TABLE source, target")


# ---------------------------------------------------------------- errors and notices

FIELDS = {
    "S": pq.DiagnosticField.SEVERITY, "V": pq.DiagnosticField.SEVERITY_NONLOCALIZED, "C": pq.DiagnosticField.SQLSTATE,
    "M": pq.DiagnosticField.MESSAGE_PRIMARY, "D": pq.DiagnosticField.MESSAGE_DETAIL,
    "H": pq.DiagnosticField.MESSAGE_HINT, "P": pq.DiagnosticField.STATEMENT_POSITION,
    "p": pq.DiagnosticField.INTERNAL_POSITION, "q": pq.DiagnosticField.INTERNAL_QUERY,
    "W": pq.DiagnosticField.CONTEXT, "s": pq.DiagnosticField.SCHEMA_NAME, "t": pq.DiagnosticField.TABLE_NAME,
    "c": pq.DiagnosticField.COLUMN_NAME, "d": pq.DiagnosticField.DATATYPE_NAME,
    "n": pq.DiagnosticField.CONSTRAINT_NAME,
}  # fmt: skip


def diagnostics(result: pq.abc.PGresult) -> dict[str, str]:
    return {k: v.decode() for k, field in FIELDS.items() if (v := result.error_field(field)) is not None}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ssn::int FROM masking.users",
        "SELECT ssn::regclass FROM masking.users",
        "SELECT ssn::masking.mood FROM masking.users",
        "SELECT ssn::jsonb FROM masking.users",
        "SELECT ssn::uuid FROM masking.users",
        "SELECT ssn::inet FROM masking.users",
        "SELECT ssn::int[] FROM masking.users",
        "SELECT ('x' || ssn)::date FROM masking.users",
        "SELECT now() AT TIME ZONE ssn FROM masking.users",
        "SELECT current_setting(ssn) FROM masking.users",
        "SELECT to_date(ssn, 'Month') FROM masking.users",
        "SELECT 'a' ~ ('(' || ssn) FROM masking.users",
        "SELECT query_to_xml('select ' || chr(34) || ssn || chr(34), true, true, '') FROM masking.users",
        "SELECT to_regclass(ssn || '.' || ssn || '.a.b.c.d') FROM masking.users",
        "SELECT nextval(ssn) FROM masking.users",
        "SELECT format('%' || ssn, 1) FROM masking.users",
        "SELECT decode(ssn, 'hex') FROM masking.users",
        "SELECT encode('a', ssn) FROM masking.users",
        "SELECT pg_read_file(ssn) FROM masking.users",
        "SELECT make_interval(secs => 1) + ssn::interval FROM masking.users",
        "SELECT to_number(ssn, ssn) + ssn::numeric FROM masking.users",
        "SELECT jsonb_path_query('1', (chr(34) || ssn)::jsonpath) FROM masking.users",
        "UPDATE masking.users SET salary = 2000000",
        "INSERT INTO masking.users(id, email, ssn) SELECT 2, email, ssn FROM masking.users",
        "INSERT INTO masking.orders(id, user_id) SELECT 8, replace(ssn, '-', '')::int FROM masking.users",
        "SELECT masking.throw()",
        "SELECT replace(ssn, '-', '')::int2 FROM masking.users",
        "SELECT chr(replace(ssn, '-', '')::int) FROM masking.users",
        "SELECT repeat(email, replace(ssn, '-', '')::int) FROM masking.users",
    ],
)
def test_errors_on_masked_rows_show_nothing_of_them(connection: psycopg.Connection[tuple[Any, ...]], sql: str) -> None:
    result = connection.pgconn.exec_(sql.encode())
    assert result.status == pq.ExecStatus.FATAL_ERROR, "the statement was to fail"
    found = diagnostics(result)
    shown = scrub(found, True)
    assert shown["C"] == found["C"]
    assert shown["M"]
    for secret in (SECRET, SECRET.replace("-", ""), "123456789", "alice"):
        assert secret not in str(shown)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT emial FROM masking.users",
        "SELECT * FROM masking.user",
        "SELECT FROM WHERE",
        "SELECT lower(ssn, 1) FROM masking.users",
    ],
)
def test_errors_about_the_clients_own_text_stay_readable(
    connection: psycopg.Connection[tuple[Any, ...]], sql: str
) -> None:
    found = diagnostics(connection.pgconn.exec_(sql.encode()))
    assert scrub(found, True) == found


def test_notices_show_nothing(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    seen: list[dict[str, str]] = []
    connection.pgconn.notice_handler = lambda result: seen.append(diagnostics(result))
    try:
        connection.pgconn.exec_(b"SELECT masking.shout()")
    finally:
        connection.pgconn.notice_handler = None
    assert SECRET in str(seen)
    assert SECRET not in str([scrub(notice, True) for notice in seen])


def test_binary_rows_are_the_servers_own(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    # the premise of the others: what libpq hands out is what the row carried
    result = connection.pgconn.exec_params(b"SELECT 5::int4", None, result_format=1)
    assert result.get_value(0, 0) == struct.pack("!i", 5)
