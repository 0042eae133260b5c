"""Where the columns of a result come from, worked out from the statement alone (the live proof is in tests/attacks)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlglot import exp

from protocols.contract import ANY_RELATION, Origin, ResultShape
from protocols.mysql.catalog import Catalog, Column, Relation, Routine, Trigger
from protocols.mysql.lineage import MAX_NODES, Lineage, Untraceable, alike
from protocols.mysql.messages import ColumnDefinition
from protocols.mysql.origins import reach, shape
from protocols.mysql.state import SessionState
from protocols.mysql.statements import CommandAnalysis, analyse

SECRET = "app.users.ssn"


def columns(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "varchar") for name in names)


def view(name: str, text: str | None, *names: str) -> Relation:
    return Relation("app", name, "view", columns(*names), text)


WIDE = (Column("a"), Column("b", generated="sha2(`a`,256)"), Column("h", visible=False))
CATALOG = Catalog(
    "1",
    "mariadb",
    (10, 11, 0),
    relations=(
        Relation("app", "users", "table", columns("id", "ssn", "name")),
        Relation("app", "orders", "table", columns("id", "total")),
        Relation("app", "wide", "table", WIDE),
        Relation("app", "fired", "table", columns("id"), triggers=(Trigger("t", "insert"),)),
        Relation("app", "nothing", "table"),
        view("plain", "select `app`.`users`.`id` AS `id`,`app`.`users`.`ssn` AS `x` from `app`.`users`", "id", "x"),
        view("hidden", None, "id"),
        view("narrow", "select 1 AS `a`,2 AS `b`", "a"),
        view("me", "select `me`.`a` AS `a` from `app`.`me`", "a"),
        view("calls", "select `f`(1) AS `a`", "a"),
        Relation("information_schema", "tables", "system view", columns("TABLE_NAME", "CHECKSUM")),
        Relation("mysql", "innodb_index_stats", "table", columns("stat_value")),
    ),
    routines=(Routine("app", "f", "function"),),
)  # fmt: skip


def state() -> SessionState:
    made = SessionState(flavour="mariadb", version=(10, 11, 0), database="app")
    made.started()
    return made


def definitions(names: Sequence[str], origin: tuple[str, str, str] = ("", "", "")) -> list[ColumnDefinition]:
    schema, table, column = (part.encode() for part in origin)
    return [ColumnDefinition(schema, table, table, name.encode(), column, 255, 80, 253, 0, 0) for name in names]


def judged(sql: str, session: SessionState) -> CommandAnalysis:
    return analyse(sql.encode(), session, CATALOG)


def traced(
    sql: str,
    names: str,
    *,
    session: SessionState | None = None,
    masked: Sequence[str] = (SECRET,),
    origin: tuple[str, str, str] = ("", "", ""),
    **facts: bool,
) -> ResultShape:
    session = session or state()
    command = judged(sql, session)
    statement = command.statements[-1]

    def touches(reads: object, read_columns: Sequence[str] = ()) -> bool:
        return any(column in masked for column in read_columns)

    wanted = definitions(names.split(), origin)
    return shape(wanted, statement, command.analysis, CATALOG, session, touches, **facts)  # type: ignore[arg-type]


def kinds(found: ResultShape) -> str:
    """One letter for each column: known, clear, computed, and `!` where any relation may be read."""
    letters = {Origin.KNOWN: "k", Origin.CLEAR: "c", Origin.COMPUTED: "x"}
    return "".join(letters[c.origin] for c in found.columns) + ("!" if ANY_RELATION in found.reads else "")


@pytest.mark.parametrize(
    ("sql", "names", "want"),
    [
        ("SELECT id, ssn FROM users", "id ssn", "kk"),
        ("SELECT 1, 'a', NULL, NOW()", "1 a NULL NOW()", "cccc"),
        ("SELECT COUNT(*), COUNT(ssn), ssn IS NULL FROM users", "a b c", "ccc"),
        ("SELECT REVERSE(ssn), REVERSE(name) FROM users", "a b", "xk"),
        ("SELECT * FROM users", "id ssn name", "kkk"),
        ("SELECT * FROM users", "id name ssn", "xxx!"),  # not the columns that were worked out
        ("SELECT * FROM users", "id ssn", "xx!"),
        ("SELECT * FROM wide", "a b", "kk"),
        ("SELECT h FROM wide", "h", "k"),
        ("SELECT id FROM nothing", "id", "x!"),
        ("SELECT * FROM nothing", "id", "x"),
        ("SELECT id FROM missing", "id", "x!"),
        ("SELECT a FROM (SELECT ssn AS a FROM users) t", "a", "k"),
        ("SELECT total FROM (SELECT CONCAT(ssn) AS total FROM users) orders", "total", "x"),
        ("SELECT x FROM plain", "x", "k"),
        ("SELECT id FROM hidden", "id", "x!"),
        ("SELECT a FROM narrow", "a", "x!"),
        ("SELECT a FROM me", "a", "x!"),
        ("SELECT a FROM calls", "a", "x!"),
        ("SELECT f(1)", "a", "x!"),
        ("SELECT id, f(1) FROM orders", "id a", "kx!"),
        ("SELECT table_name FROM information_schema.tables", "table_name", "k"),
        ("SELECT checksum FROM information_schema.tables", "checksum", "x!"),
        ("SELECT stat_value FROM mysql.innodb_index_stats", "stat_value", "x!"),
        ("INSERT INTO orders VALUES (1, 2) RETURNING id", "id", "k"),
        ("INSERT INTO orders SELECT id, ssn FROM users RETURNING id", "id", "x"),
        ("INSERT INTO fired VALUES (1) RETURNING id", "id", "x!"),
        ("SELECT x IS NULL, COUNT(x) FROM (SELECT NULLIF(ssn, '1') AS x FROM users) t", "a b", "xx"),
        ("SELECT x IS NULL, COUNT(x) FROM (SELECT ssn AS x FROM users) t", "a b", "cc"),
        ("INSERT INTO users VALUES (1, 'a', 'b') ON DUPLICATE KEY UPDATE name = ssn RETURNING name", "name", "x"),
        ("CALL p()", "a", "x!"),
        ("SHOW TABLES", "Tables_in_app", "c"),
        ("SHOW FULL PROCESSLIST", "Id Info", "xx!"),
    ],
)
def test_the_kind_of_each_column(sql: str, names: str, want: str) -> None:
    found = traced(sql, names)
    assert kinds(found).rstrip("!") == want.rstrip("!")
    if want.endswith("!"):
        assert ANY_RELATION in found.reads


@pytest.mark.parametrize(
    ("sql", "want"),
    [
        ("SELECT COUNT(DISTINCT ssn) FROM users", "c"),
        ("SELECT COUNT(DISTINCT ssn, name) FROM users GROUP BY name", "c"),
        ("SELECT COUNT(DISTINCT u.ssn) FROM users u JOIN orders o ON o.id = u.id", "c"),
        ("SELECT (SELECT COUNT(DISTINCT u.ssn) FROM orders) FROM users u", "c"),
        ("SELECT COUNT(DISTINCT CONCAT(ssn, '')) FROM users", "x"),
        ("SELECT COUNT(DISTINCT ssn, 'a') FROM users", "x"),
        ("SELECT COUNT(DISTINCT v) FROM (SELECT ssn AS v FROM users UNION ALL SELECT 'guess') t", "x"),
        ("WITH t AS (SELECT ssn AS v FROM users UNION ALL SELECT 'guess') SELECT COUNT(DISTINCT v) FROM t", "x"),
        ("SELECT (SELECT COUNT(DISTINCT v) FROM orders) FROM (SELECT ssn v FROM users UNION SELECT 'guess') t", "x"),
        ("SELECT COUNT(DISTINCT x) FROM plain", "x"),
    ],
)
def test_different_values_are_counted_where_no_guess_can_be_among_them(sql: str, want: str) -> None:
    assert kinds(traced(sql, "n")) == want


@pytest.mark.parametrize(
    ("sql", "want"),
    [
        ("SELECT EXISTS(SELECT * FROM users WHERE id = 1) AS n", "k"),
        ("SELECT IF(EXISTS(SELECT ssn FROM users u WHERE u.id = o.id), 1, 0) FROM orders o", "k"),
        ("SELECT NOT EXISTS(SELECT ssn FROM users GROUP BY name)", "k"),
        ("SELECT EXISTS(SELECT 1 FROM users WHERE ssn LIKE '1%')", "x"),
        ("SELECT EXISTS(SELECT 1 FROM users GROUP BY name HAVING max(ssn) > '1')", "x"),
        ("SELECT EXISTS(SELECT 1 FROM orders o JOIN users u ON u.ssn = 'a')", "x"),
        ("SELECT EXISTS(SELECT ssn FROM users EXCEPT SELECT 'a')", "x"),
        ("SELECT EXISTS(SELECT DISTINCT ssn FROM users LIMIT 1 OFFSET 1)", "x"),
        ("SELECT EXISTS(SELECT * FROM (SELECT ssn FROM users INTERSECT SELECT 'a') t)", "x"),
        ("SELECT EXISTS(SELECT * FROM (SELECT ssn FROM users UNION SELECT 'a') t LIMIT 1 OFFSET 1)", "x"),
        ("SELECT EXISTS(SELECT * FROM (SELECT ssn FROM users UNION ALL SELECT 'a') t LIMIT 1 OFFSET 1)", "c"),
        ("SELECT (SELECT COUNT(*) FROM (SELECT DISTINCT ssn FROM users WHERE id IN (1, 2)) t)", "x"),
        ("SELECT EXISTS(SELECT * FROM users JOIN (SELECT 'a' AS ssn) g USING (ssn))", "x"),
        ("SELECT (SELECT COUNT(*) FROM users NATURAL JOIN (SELECT 'a' AS ssn) g)", "x"),
        ("SELECT EXISTS(SELECT * FROM orders o JOIN (users JOIN (SELECT 'a' AS ssn) g USING (ssn)) ON 1)", "x"),
        ("SELECT EXISTS(SELECT * FROM users JOIN orders USING (id))", "k"),
        ("SELECT COUNT(*) FROM (SELECT DISTINCT ssn FROM users) t", "c"),
        ("SELECT 'a' IN (SELECT ssn FROM users)", "x"),
        ("SELECT (SELECT ssn FROM users LIMIT 1)", "x"),
        ("SELECT COUNT(*) OVER () FROM users", "c"),
        ("SELECT COUNT(*) OVER (PARTITION BY name), COUNT(ssn) OVER (ORDER BY id) FROM users", "kk"),
        ("SELECT COUNT(*) OVER (PARTITION BY ssn), COUNT(1) OVER (ORDER BY ssn) FROM users", "xx"),
        ("SELECT COUNT(*) OVER w FROM users WINDOW w AS (PARTITION BY ssn)", "x"),
        ("SELECT COUNT(CONCAT(ssn)) OVER () FROM users", "x"),
        # a window and an inner query may name what the list calls so
        ("SELECT ssn AS name, COUNT(*) OVER (ORDER BY name), COUNT(*) OVER (PARTITION BY name) FROM users", "kxx"),
        ("SELECT ROW_NUMBER() OVER w, ssn AS name FROM users WINDOW w AS (ORDER BY name)", "xk"),
        ("SELECT COUNT(*) OVER (ORDER BY total), id FROM orders", "kk"),
        ("SELECT (SELECT COUNT(*) FROM (SELECT ssn FROM users GROUP BY 1) t)", "x"),
        ("SELECT (SELECT COUNT(*) FROM (SELECT ssn FROM users UNION ALL SELECT 1 ORDER BY (1) LIMIT 1) t)", "x"),
        ("SELECT (SELECT COUNT(*) FROM ((SELECT ssn FROM users) ORDER BY TRUE LIMIT 1) t)", "x"),
        ("SELECT (SELECT MAX(id) FROM (SELECT id FROM users ORDER BY 1) t)", "k"),
    ],
)
def test_whether_and_how_many_rows_there_are_is_no_column_s_value(sql: str, want: str) -> None:
    assert kinds(traced(sql, " ".join("nmop"[: len(want)]))) == want


def test_a_computed_column_without_masked_columns_keeps_its_sources() -> None:
    (column,) = traced("SELECT CONCAT(id, name) FROM users", "a").columns
    assert column.origin is Origin.KNOWN
    assert set(column.columns) == {"app.users.id", "app.users.name"}


def test_a_generated_column_is_computed_from_others() -> None:
    (column,) = traced("SELECT b FROM wide", "b", masked=("app.wide.a",)).columns
    assert column.origin is Origin.COMPUTED


def test_metadata_only_adds_an_origin() -> None:
    spoofed = traced("SELECT 1 AS ssn", "ssn", origin=("app", "users", "ssn"))
    assert spoofed.columns[0].origin is Origin.KNOWN
    assert spoofed.columns[0].columns == (SECRET,)
    (honest,) = traced("SELECT ssn AS total FROM users", "total", origin=("app", "orders", "total")).columns
    assert SECRET in honest.columns


def test_a_base_table_s_column_comes_last() -> None:
    (column,) = traced("SELECT x FROM plain", "x").columns
    assert column.columns == ("app.plain.x", SECRET)


def test_warnings_after_masked_data_are_withheld() -> None:
    assert kinds(traced("SHOW WARNINGS", "Level Code Message", tainted=True)) == "ccx!"
    assert kinds(traced("SHOW WARNINGS", "Level Code Message")) == "ccc"


def test_the_insert_id_is_clear_unless_it_was_computed() -> None:
    assert kinds(traced("SELECT LAST_INSERT_ID()", "a")) == "c"
    assert kinds(traced("SELECT LAST_INSERT_ID()", "a", insert_id=True)) == "x!"
    assert kinds(traced("SELECT @@last_insert_id", "a", insert_id=True)) == "x!"


def applied(*texts: str) -> SessionState:
    session = state()
    for text in texts:
        for statement in judged(text, session).statements:
            session.applied(statement)
    return session


def test_a_variable_carries_what_was_put_into_it() -> None:
    assert kinds(traced("SELECT @v", "a", session=applied("SET @v = 1"))) == "c"
    assert kinds(traced("SELECT @v", "a", session=applied("SET @v = (SELECT ssn FROM users LIMIT 1)"))).startswith("x")
    assert kinds(traced("SELECT @v", "a", session=applied("SELECT ssn INTO @v FROM users"))).startswith("x")


def test_a_temporary_table_carries_what_was_put_into_it() -> None:
    made = applied("CREATE TEMPORARY TABLE orders AS SELECT id, ssn AS total FROM users")
    assert kinds(traced("SELECT total FROM orders", "total", session=made)).startswith("x")
    empty = applied("CREATE TEMPORARY TABLE t (a INT)")
    assert not kinds(traced("SELECT a FROM t", "a", session=empty)).startswith("x")


def test_a_prepared_statement_s_parameters_are_variables() -> None:
    made = applied("PREPARE p FROM 'SELECT ?'", "PREPARE q FROM 'SELECT ssn FROM users'")
    assert kinds(traced("EXECUTE p", "a", session=made)) == "c"
    assert kinds(traced("EXECUTE p USING @v", "a", session=made)).startswith("x")
    assert traced("EXECUTE q", "ssn", session=made).columns[0].columns == (SECRET,)
    assert kinds(traced("EXECUTE unheard", "a", session=made)) == "x!"


def test_handlers_show_their_table() -> None:
    made = applied("HANDLER users OPEN AS h")
    found = traced("HANDLER h READ FIRST", "id ssn name", session=made)
    assert [c.columns for c in found.columns] == [("app.users.id",), (SECRET,), ("app.users.name",)]
    assert kinds(traced("HANDLER other READ FIRST", "id", session=made)) == "x!"


def test_what_this_session_defined_is_not_taken_from_the_catalog() -> None:
    made = applied("ALTER TABLE orders ADD COLUMN x INT")
    assert kinds(traced("SELECT total FROM orders", "total", session=made)) == "x!"


def test_without_a_catalog_or_a_statement_nothing_is_known() -> None:
    command = judged("SELECT 1", state())
    for statement, names in ((None, CATALOG), (command.statements[0], None)):
        found = shape(definitions(["a"]), statement, command.analysis, names, state(), lambda *_: False)
        assert kinds(found) == "x!"


def test_reach_of_a_signal_is_anything() -> None:
    assert reach(judged("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = @v", state()).analysis, CATALOG)[0] == (
        ANY_RELATION,
    )


def test_reach_goes_through_views() -> None:
    _, read = reach(judged("SELECT id FROM plain", state()).analysis, CATALOG)
    assert SECRET in read


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "+".join(["ssn"] * (MAX_NODES + 1)) + " FROM users",
        "SELECT " + "(SELECT " * 60 + "1" + ")" * 60,
        "SELECT " + "(" * 400 + "ssn" + ")" * 400 + " FROM users",
        " UNION ".join(["SELECT ssn FROM users"] * 900),
    ],
)
def test_a_large_statement_is_bounded(sql: str) -> None:
    found = traced(sql, "a")
    assert kinds(found)[0] in "xk"
    assert found.columns[0].origin is Origin.COMPUTED or SECRET in found.columns[0].columns


def test_only_queries_are_traced() -> None:
    with pytest.raises(Untraceable):
        Lineage(CATALOG, state()).outputs(exp.Command(this="x"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("ssn", "SSN", True), ("ssn", "śsn", True), ("ssn", "name", False), ("ssn", "ssn2", False), ("ß", "s", True)],
)
def test_names_that_the_server_could_take_for_each_other(one: str, other: str, same: bool) -> None:
    assert alike(one, other) is same
