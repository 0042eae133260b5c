"""The catalog against real servers: names, origins, what stands behind views, and when its version changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from protocols.contract import Effect
from protocols.postgres import nodetree
from protocols.postgres.catalog import CATALOG_QUERIES, VERSION_QUERY, Catalog, build
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse, with_parameter_types
from scripts.support.postgres import PostgresServer
from tests.support.statements import load, rows

SETUP = """
CREATE SCHEMA cat; SET search_path = cat;
CREATE TABLE people(id int, ssn text, gone int); ALTER TABLE people DROP COLUMN gone;
CREATE TABLE people_eu(country text) INHERITS (people);
CREATE TABLE parted(id int, ssn text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE VIEW v1 AS SELECT ssn AS contact, id FROM people;
CREATE VIEW v2 AS SELECT upper(contact) AS up, contact AS again FROM v1 WHERE id > 0;
CREATE VIEW v3 AS SELECT ssn FROM people UNION SELECT 'x';
CREATE MATERIALIZED VIEW m1 AS SELECT ssn FROM people;
CREATE DOMAIN mail AS text CHECK (VALUE LIKE '%@%'); CREATE TYPE mood AS ENUM ('a');
CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS 'begin return 1; end';
CREATE VIEW trap AS SELECT 1 AS one WHERE cat.boom() > 0;
CREATE TABLE logged(id int primary key, note text);
CREATE TABLE log_of(logged_id int REFERENCES logged ON DELETE CASCADE, note text);
CREATE RULE also AS ON DELETE TO logged DO ALSO INSERT INTO log_of VALUES (OLD.id, cat.boom()::text);
CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end';
CREATE TRIGGER t BEFORE INSERT ON logged FOR EACH ROW EXECUTE FUNCTION trig();
"""


@pytest.fixture(scope="module")
def connection(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with server.connect() as conn:
        conn.autocommit = True
        conn.execute(SETUP)
        yield conn
        conn.execute("DROP SCHEMA cat CASCADE")


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection[Any]) -> Catalog:
    return load(connection)


def origins(connection: psycopg.Connection[Any], catalog: Catalog, query: str) -> list[tuple[str, ...] | None]:
    """The origins of a result's columns, as the server's RowDescription and the catalog say."""
    result = connection.pgconn.exec_(query.encode())
    return [catalog.origin(result.ftable(i), result.ftablecol(i)) for i in range(result.nfields)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT ssn AS x FROM cat.people", [("cat.people.ssn",)]),
        (
            "SELECT country, ssn FROM cat.people_eu",
            [("cat.people_eu.country",), ("cat.people_eu.ssn", "cat.people.ssn")],
        ),
        ("SELECT ssn FROM cat.parted_1", [("cat.parted_1.ssn", "cat.parted.ssn")]),
        ("SELECT contact FROM cat.v1", [("cat.v1.contact", "cat.people.ssn")]),
        ("SELECT up, again FROM cat.v2", [(), ("cat.v2.again", "cat.v1.contact", "cat.people.ssn")]),
        ("SELECT ssn FROM cat.v3", [()]),
        ("SELECT ssn FROM cat.m1", [("cat.m1.ssn", "cat.people.ssn")]),
        ("SELECT 1, tableoid FROM cat.people", [None, None]),
    ],
)
def test_origins(
    query: str, expected: list[tuple[str, ...] | None], connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    assert origins(connection, catalog, query) == expected


def test_types(catalog: Catalog) -> None:
    oids = {key: found.oid for key, found in catalog.types.items()}
    assert catalog.type_info(oids["cat", "mail"]) == ("cat", "mail", "d", 25)
    assert catalog.type_info(oids["cat", "_mail"]) == ("cat", "_mail", "a", oids["cat", "mail"])
    assert catalog.type_info(oids["cat", "mood"]) == ("cat", "mood", "e", 0)
    assert catalog.type_info(25) == ("pg_catalog", "text", "b", 0)
    assert catalog.type_info(1) is None


@pytest.mark.parametrize(
    ("text", "reads", "writes", "effects"),
    [
        ("SELECT up FROM cat.v2", {"cat.v2", "cat.v1", "cat.people"}, set(), {"data.select"}),
        ("SELECT * FROM cat.trap", {"cat.trap"}, set(), {"data.select", "exec.call"}),
        ("SELECT * FROM cat.m1", {"cat.m1", "cat.people"}, set(), {"data.select"}),
        ("DELETE FROM cat.logged WHERE id = 1", {"cat.logged"}, {"cat.logged", "cat.log_of"},
         {"data.delete", "data.insert", "exec.call"}),
        ("DELETE FROM cat.v1 WHERE id = 1", {"cat.v1", "cat.people"}, {"cat.v1", "cat.people"}, {"data.delete"}),
        ("INSERT INTO cat.logged VALUES (1)", set(), {"cat.logged"}, {"data.insert"}),
        ("SELECT 'a@b'::cat.mail", set(), set(), {"data.select"}),
    ],
)  # fmt: skip
def test_what_stands_behind_a_name(
    text: str, reads: set[str], writes: set[str], effects: set[str], catalog: Catalog
) -> None:
    found = analyse(text.encode(), SessionState(), catalog).analysis
    assert (set(found.reads), set(found.writes)) == (reads, writes)
    assert {e.value for e in found.effects} == effects


def test_binding_a_value_of_a_domain_runs_its_check(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE DOMAIN cat.evil AS int CHECK (cat.boom() > VALUE)")
    try:
        changed = load(connection)
        command = analyse(b"SELECT $1", SessionState(), changed)
        typed = with_parameter_types(command, [changed.types["cat", "evil"].oid], changed)
        assert {Effect.EXEC_CALL, Effect.EXEC_CAST} <= typed.analysis.effects
    finally:
        connection.execute("DROP DOMAIN cat.evil")


def test_triggers_are_named(catalog: Catalog) -> None:
    found = analyse(b"INSERT INTO cat.logged VALUES (1)", SessionState(), catalog).analysis
    assert found.functions == ("cat.trig",)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE cat.x1(a int)",
        "ALTER TABLE cat.people RENAME COLUMN ssn TO other",
        "ALTER TABLE cat.people_eu ALTER COLUMN country TYPE varchar",
        "ALTER TABLE cat.people RENAME TO p2",
        "ALTER TABLE cat.people SET SCHEMA public",
        "ALTER TABLE cat.people_eu NO INHERIT cat.people",
        "ALTER TABLE cat.people ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON cat.people USING (cat.boom() > 0)",
        "DROP VIEW cat.v3",
        "CREATE OR REPLACE VIEW cat.v1 AS SELECT country AS contact, id FROM cat.people_eu",
        "CREATE OR REPLACE FUNCTION cat.boom() RETURNS int LANGUAGE sql AS 'select 1'",
        "ALTER FUNCTION cat.boom() IMMUTABLE",
        "CREATE OPERATOR cat.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
        "CREATE TYPE cat.t AS ENUM ('a')",
        "ALTER DOMAIN cat.mail ADD CHECK (cat.boom() > 0)",
        "CREATE CAST (cat.mood AS int) WITH FUNCTION cat.m2i(cat.mood)",
        "CREATE RULE r AS ON UPDATE TO cat.people DO INSTEAD NOTHING",
        "CREATE TRIGGER t2 BEFORE UPDATE ON cat.logged FOR EACH ROW EXECUTE FUNCTION cat.trig()",
        "CREATE SCHEMA cat2",
        "ALTER ROLE postgres SET search_path = cat",
        "DROP FUNCTION cat.boom() CASCADE",
        "CREATE OPERATOR CLASS cat.ints FOR TYPE int4 USING btree AS OPERATOR 1 <",
    ],
)
def test_the_version_changes_with_every_change_that_matters(change: str, connection: psycopg.Connection[Any]) -> None:
    before = rows(connection, VERSION_QUERY)
    connection.execute("BEGIN")
    try:
        if "m2i" in change:
            connection.execute("CREATE FUNCTION cat.m2i(cat.mood) RETURNS int LANGUAGE sql AS 'select 1'")
            before = rows(connection, VERSION_QUERY)
        connection.execute(change.encode())
        assert rows(connection, VERSION_QUERY) != before
    finally:
        connection.execute("ROLLBACK")


def test_the_version_does_not_follow_temporary_tables_and_data(connection: psycopg.Connection[Any]) -> None:
    before = rows(connection, VERSION_QUERY)
    connection.execute("CREATE TEMP TABLE scratch(a int); INSERT INTO cat.people(id) VALUES (1); ANALYZE cat.people")
    assert rows(connection, VERSION_QUERY) == before
    assert not any(schema.startswith("pg_temp") for schema, _ in load(connection).relations)
    connection.execute("DROP TABLE scratch; DELETE FROM cat.people")


def test_a_refresh_that_finds_the_same_names_has_the_same_version(connection: psycopg.Connection[Any]) -> None:
    before = load(connection).version
    connection.execute("TRUNCATE cat.people; REFRESH MATERIALIZED VIEW cat.m1")
    assert load(connection).version == before


def test_the_role_that_logs_in_brings_its_own_path(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE ROLE pathy; ALTER ROLE pathy SET search_path = cat, public")
    try:
        catalog = load(connection)
        assert catalog.default_search_path("pathy") == "cat, public"
        state = SessionState()
        state.startup({"user": "pathy"})
        assert state.search_path(catalog) == (("cat", "public"), True)
        assert "cat.people" in analyse(b"SELECT ssn FROM people", state, catalog).analysis.reads
    finally:
        connection.execute("DROP ROLE pathy")


def test_a_role_with_no_privileges_can_read_it(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE ROLE nobody_special; SET ROLE nobody_special")
    try:
        catalog = load(connection)
        rows(connection, VERSION_QUERY)
        assert ("cat", "people") in catalog.relations
        assert "cat" not in catalog.usable
    finally:
        connection.execute("RESET ROLE; DROP ROLE nobody_special")


def test_refreshing_a_materialised_view_runs_what_reading_it_does_not(connection: psycopg.Connection[Any]) -> None:
    connection.execute("BEGIN; CREATE MATERIALIZED VIEW cat.m2 AS SELECT cat.boom() AS n, id FROM cat.people")
    try:
        catalog = load(connection)
        read = analyse(b"SELECT n FROM cat.m2", SessionState(), catalog).analysis
        ran = analyse(b"REFRESH MATERIALIZED VIEW cat.m2", SessionState(), catalog).analysis
    finally:
        connection.execute("ROLLBACK")
    assert read.effects == {Effect.DATA_SELECT}
    assert Effect.EXEC_CALL in ran.effects
    assert (ran.reads, ran.writes, ran.functions) == (("cat.people",), ("cat.m2",), ("cat.boom",))


def test_rows_of_other_queries_are_refused() -> None:
    with pytest.raises((KeyError, ValueError, IndexError)):
        build({name: [("x",)] for name in CATALOG_QUERIES})
    with pytest.raises((KeyError, ValueError, IndexError)):
        build({})


def test_a_tree_that_is_none_makes_its_owner_unknown() -> None:
    with pytest.raises(ValueError, match="not a stored"):
        nodetree.read("garbage")


def test_a_view_whose_body_cannot_be_read_is_unknown(connection: psycopg.Connection[Any]) -> None:
    results = {name: rows(connection, query) for name, query in CATALOG_QUERIES.items()}
    view = next(r[0] for r in results["relations"] if r[2] == "v1")
    results["rules"] = [(o, e, "garbage" if o == view else a, *rest) for o, e, a, *rest in results["rules"]]
    found = analyse(b"SELECT id FROM cat.v1", SessionState(), build(results)).analysis
    assert Effect.UNKNOWN in found.effects
    results["rules"] = [r for r in results["rules"] if r[0] != view]
    assert analyse(b"SELECT id FROM cat.v1", SessionState(), build(results)).analysis.unknown


def test_the_shipped_built_ins_cover_this_server(connection: psycopg.Connection[Any], catalog: Catalog) -> None:
    unknown = {
        f.name
        for f in catalog.functions_by_oid.values()
        if f.schema == "pg_catalog" and not f.volatile and Effect.UNKNOWN in f.effects
    }
    assert {n for n in unknown if not n.startswith("fmgr_")} == set()


def test_a_quote_in_a_name_does_not_move_a_views_columns(connection: psycopg.Connection[Any]) -> None:
    """A tree quotes names without escaping the quotes in them: two odd ones once hid where a subquery begins."""
    connection.execute('CREATE TABLE cat.odd ("a""b" int); CREATE TABLE cat.plain (item text)')
    try:
        connection.execute(
            "CREATE VIEW cat.turned AS SELECT s.e AS x, s.i AS y FROM cat.odd AS one,"
            " (SELECT p.item AS i, q.ssn AS e FROM cat.odd AS two, cat.plain AS p, cat.people AS q) AS s"
        )
        assert origins(connection, load(connection), "SELECT x, y FROM cat.turned") == [
            ("cat.turned.x", "cat.people.ssn"),
            ("cat.turned.y", "cat.plain.item"),
        ]
    finally:
        connection.execute("DROP TABLE cat.odd, cat.plain CASCADE")


@pytest.mark.parametrize("name", ['"', '"{', '}"', "\\", '\\"{', "{TARGETENTRY ", " :resorigtbl 1 :resorigcol 2", "<>"])
def test_no_name_in_a_view_moves_its_columns(name: str, connection: psycopg.Connection[Any]) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    connection.execute(
        f"CREATE VIEW cat.named AS SELECT {quoted}.{quoted} AS x, {quoted}.ssn AS y FROM"
        f" (SELECT upper(ssn) AS {quoted}, ssn FROM cat.people) AS {quoted}"
    )
    try:
        found = origins(connection, load(connection), "SELECT x, y FROM cat.named")
        assert found == [(), ("cat.named.y", "cat.people.ssn")]
    finally:
        connection.execute("DROP VIEW cat.named")


def test_holders_are_the_relations_with_values_of_a_type(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "CREATE TYPE cat.pair AS (one int, two cat.mail); CREATE DOMAIN cat.inner_mail AS cat.mail;"
        "CREATE TABLE cat.h1 (a cat.mail); CREATE TABLE cat.h2 (a cat.mail[]); CREATE TABLE cat.h3 (a cat.pair);"
        "CREATE TABLE cat.h4 (a cat.inner_mail); CREATE TABLE cat.h5 (a cat.h1); CREATE TABLE cat.h6 (a text)"
    )
    try:
        catalog = load(connection)
        held = catalog.holders(catalog.types["cat", "mail"].oid)
        expected = {"cat.h1", "cat.h2", "cat.h3", "cat.h4", "cat.h5"}
        assert {name for name in held if name.startswith("cat.h")} == expected
        found = analyse(b"ALTER DOMAIN cat.mail ADD CHECK (VALUE::int > 0)", SessionState(), catalog).analysis
        assert expected <= set(found.writes)
        assert "cat.h6" not in found.writes
    finally:
        connection.execute("DROP TABLE cat.h1, cat.h2, cat.h3, cat.h4, cat.h5, cat.h6")
        connection.execute("DROP TYPE cat.pair; DROP DOMAIN cat.inner_mail")


def test_replacing_a_view_that_was_copied_through_is_a_copy(connection: psycopg.Connection[Any]) -> None:
    """What the materialised view holds came from `people`: after this, its columns would be another's."""
    connection.execute("CREATE MATERIALIZED VIEW cat.m3 AS SELECT again, 1 AS one FROM cat.v2")
    try:
        catalog = load(connection)
        for text in (
            "CREATE OR REPLACE VIEW cat.v1 AS SELECT note AS contact, id FROM cat.logged",
            'CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO cat.v1 DO INSTEAD SELECT note, id FROM cat.logged',
        ):
            found = analyse(text.encode(), SessionState(), catalog).analysis
            assert ("cat.m3.*", True) in {(s.target, "cat.people.ssn" in s.sources) for s in found.stores}, text
        for text in (
            "CREATE OR REPLACE VIEW cat.v3 AS SELECT note AS ssn FROM cat.logged",
            "CREATE VIEW cat.v9 AS SELECT ssn FROM cat.people",
        ):
            assert analyse(text.encode(), SessionState(), catalog).analysis.stores == (), text
    finally:
        connection.execute("DROP MATERIALIZED VIEW cat.m3")


@pytest.mark.parametrize(
    ("operator", "call"),
    [
        ("(rightarg = float8, function = setseed)", "## 0.5::float8"),
        ("(leftarg = text, rightarg = text, function = pg_input_is_valid)", "'1' ## 'cat.mail'"),
        ("(rightarg = int, function = lo_close)", "## 1"),
    ],
)
def test_an_operator_does_not_hide_a_function_that_is_judged_by_its_name(
    operator: str, call: str, connection: psycopg.Connection[Any]
) -> None:
    if "pg_input" in operator and connection.info.server_version < 160000:
        pytest.skip("this function came with PostgreSQL 16")
    connection.execute(f"CREATE OPERATOR cat.## {operator}")
    connection.execute("SET search_path = cat")
    try:
        text = f"SELECT {call.replace('##', 'OPERATOR(cat.##)')}"
        found = analyse(text.encode(), SessionState(), load(connection)).analysis
        assert Effect.EXEC_CAST in found.effects
    finally:
        left = "text" if "leftarg" in operator else "NONE"
        right = operator.partition("rightarg = ")[2].partition(",")[0]
        connection.execute(f"DROP OPERATOR cat.## ({left}, {right})")


def test_a_column_that_a_child_generates_is_made_of_the_childs_columns(connection: psycopg.Connection[Any]) -> None:
    if connection.info.server_version >= 160000:
        pytest.skip("since 16 a child's column is generated where its parent's is, and nowhere else")
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path = cat; CREATE TABLE upper_one(ssn text, made text)")
        connection.execute("CREATE TABLE lower_one(made text GENERATED ALWAYS AS (nullif(ssn, '1')) STORED, ssn text)")
        connection.execute("ALTER TABLE lower_one INHERIT upper_one")
        catalog = load(connection)
        parent = catalog.relations["cat", "upper_one"]
        assert set(catalog.made_of(parent.oid, 2)) == {"cat.lower_one.ssn", "cat.upper_one.ssn"}
        assert catalog.made_of(parent.oid, 1) == ()
        found = analyse(b"SELECT count(made), ssn IS NULL FROM cat.upper_one", SessionState(), catalog).analysis
        assert "cat.lower_one.ssn" in found.depends[0]
        assert found.clear_columns == frozenset()
