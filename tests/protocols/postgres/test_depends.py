"""Which columns each output column is made of: never too few, and known where it can be."""

from __future__ import annotations

from typing import Any

import pytest

from protocols.contract import Origin
from protocols.postgres.messages import FieldDescription, RowDescription
from protocols.postgres.origins import shape
from tests.support import statements as make

SSN, NAME, ID = "public.users.ssn", "public.users.name", "public.users.id"


@pytest.mark.parametrize(
    ("text", "depends"),
    [
        ("SELECT upper(name), ssn || '', 1 FROM users", ((NAME,), (SSN,), ())),
        ("SELECT name || id FROM users", ((ID, NAME),)),
        ("SELECT x FROM (SELECT upper(name) AS x, ssn FROM users) t", ((NAME,),)),
        ("SELECT t.ssn FROM (SELECT * FROM users) t", ((SSN,),)),
        ("WITH t(a) AS (SELECT upper(ssn) FROM users) SELECT a, 1 FROM t", ((SSN,), ())),
        ("SELECT name FROM users UNION ALL SELECT ssn FROM users", ((NAME, SSN),)),
        ("SELECT (SELECT max(ssn) FROM users), (SELECT 1)", ((SSN,), ())),
        ("SELECT CASE WHEN ssn = '1' THEN name END FROM users", ((NAME, SSN),)),
        ("SELECT count(*) FILTER (WHERE ssn = '1') FROM users", ((SSN,),)),
        ("SELECT row_number() OVER (ORDER BY ssn) FROM users", ((SSN,),)),
        ("SELECT g, id * g FROM users, generate_series(1, 3) g", ((), (ID,))),
        ("SELECT g FROM users u, unnest(ARRAY[u.ssn]) g", ((SSN,),)),
        ("SELECT u FROM users u", (("public.users.*",),)),
        ("SELECT (u).name FROM users u", (("public.users.*", NAME),)),
        # whether there is a row, or a value, is not what is in it
        ("SELECT EXISTS (SELECT * FROM users WHERE id = 1), NOT EXISTS (SELECT ssn FROM users u WHERE u.id = o.id)"
         " FROM orders o", ((), ())),
        ("SELECT sum(CASE WHEN ssn IS NULL THEN 1 ELSE 0 END), round(count(u.ssn) * 100.0 / count(*), 2) FROM users u",
         ((), ())),
        ("WITH u AS (SELECT ssn IS NOT NULL AS has FROM users) SELECT has, NOT has FROM u", ((), ())),
        ("SELECT count(DISTINCT ssn) + 1 FROM users", ((),)),
        ("SELECT x IS NULL, count(x) FROM (SELECT nullif(ssn, '1') AS x FROM users) t GROUP BY 1", ((SSN,), (SSN,))),
        ("SELECT count(x) FROM (SELECT ssn AS x FROM users UNION ALL SELECT '1') t", ((SSN,),)),
        ("SELECT nullif(ssn, '1') IS NULL, (ssn || '') IS NULL, count(ssn || '') FROM users GROUP BY 1, 2",
         ((SSN,), (SSN,), (SSN,))),
        ("SELECT shout IS NULL, count(shout) + 1 FROM v_users GROUP BY 1", (
            ("public.users.*", "public.v_users.shout"), ("public.users.*", "public.v_users.shout"))),
        ("SELECT max(ssn) IS NULL, evil.count(ssn) FROM users", ()),
        # a row is not the column of that name, and what is inside a row may be NULL as well
        ("SELECT (SELECT total.* IS NULL), count(DISTINCT total.*) + 0 FROM (SELECT nullif(ssn, '1') AS x FROM"
         " users) total, orders o GROUP BY 1", ((SSN,), (SSN,))),
        ("SELECT (SELECT total.* IS NULL FROM orders) FROM (SELECT nullif(ssn, '1') FROM users) total", ((SSN,),)),
        ("SELECT whole IS NOT NULL, id IS NULL FROM parcels",
         (("public.parcels.whole",), ("public.parcels.id",))),
        # each turn of a recursive query carries a value one column further
        ("WITH RECURSIVE r(a, b, c, n) AS (SELECT '', name, ssn, 1 FROM users UNION ALL SELECT b, c, a, n + 1 FROM r)"
         " SELECT a, n FROM r", ((NAME, SSN), ())),
    ],
)  # fmt: skip
def test_what_a_column_is_made_of(text: str, depends: tuple[tuple[str, ...], ...]) -> None:
    assert make.of(text).depends == depends


@pytest.mark.parametrize(
    "text",
    [
        # a join gives one column for two: what stands where is not known, nor where two have one name
        "SELECT upper(r) FROM (SELECT * FROM (SELECT id, name FROM users) a JOIN (SELECT id, ssn FROM users) b"
        " USING (id)) x(p, q, r)",
        "SELECT upper(r) FROM (SELECT * FROM (SELECT 1 AS x, 2 AS x, ssn AS y, name AS n FROM users) d) e(p, q, r, s)",
        # the server names these columns otherwise than their cast
        "SELECT (SELECT upper(text) FROM (SELECT (SELECT 1 AS q)::text) d) FROM (SELECT ssn AS text FROM users) u",
        "SELECT (SELECT upper(text) FROM (SELECT greatest(1)::text) d) FROM (SELECT ssn AS text FROM users) u",
        "SELECT upper(greatest.greatest) FROM users u, GREATEST(u.ssn, '')",
        # a name of the server's own in FROM, and one further out that looks like it
        'SELECT (SELECT upper("greatest"."greatest") FROM GREATEST(u.ssn, \'\')) FROM users u,'
        ' (SELECT \'\' AS "greatest") AS "greatest"',
        # a subquery has no system columns: its alias is its whole row
        "SELECT ctid FROM (SELECT ssn FROM users) ctid",
        "SELECT xmin FROM (SELECT ssn FROM users) xmin",
        "SELECT oid FROM (SELECT ssn FROM users) oid",
        "SELECT (SELECT tableoid FROM v_users LIMIT 1) FROM (SELECT ssn FROM users) tableoid",
        # a join's alias hides the names of its sides: `total` is the one around it
        "SELECT (SELECT upper(total::text) FROM (orders CROSS JOIN (SELECT 1) q) AS j(a, b, c, d) LIMIT 1)"
        " FROM (SELECT ssn AS total FROM users) o",
        "WITH RECURSIVE a AS (SELECT s FROM b), b AS (SELECT ssn AS s FROM users) SELECT upper(s) FROM a",
    ],
)
def test_no_name_hides_what_a_column_is_made_of(text: str) -> None:
    depends = make.of(text).depends
    assert depends == () or SSN in depends[0] or "public.users.*" in depends[0]


@pytest.mark.parametrize(
    "text",
    [
        # which rows are left tells which are equal
        "SELECT i FROM (SELECT g, i FROM (VALUES ('1', 1)) v(g, i) INTERSECT ALL SELECT ssn, id FROM users) s",
        "SELECT i FROM (SELECT g, i FROM (VALUES ('1', 1)) v(g, i) EXCEPT ALL SELECT ssn, id FROM users) s",
        # whether there is one
        "SELECT EXISTS (SELECT 1 FROM users WHERE ssn = '1')",
        "SELECT EXISTS (SELECT ssn FROM users EXCEPT SELECT '1')",
        "SELECT EXISTS (SELECT DISTINCT ssn FROM users OFFSET 1)",
        "SELECT EXISTS (SELECT regexp_matches(ssn, '^1') FROM users)",
        "SELECT EXISTS (SELECT generate_series(1, length(ssn)) FROM users)",
        "SELECT EXISTS (SELECT FROM regexp_matches(u.ssn, '^1')) FROM users u",
        "SELECT EXISTS (SELECT FROM generate_series(1, ascii(u.ssn) - 48)) FROM users u",
        "SELECT EXISTS (SELECT FROM unnest(string_to_array(u.ssn, '1')) OFFSET 1) FROM users u",
        "SELECT EXISTS (SELECT FROM users JOIN (SELECT '1' AS ssn) g USING (ssn))",
        "SELECT EXISTS (SELECT FROM users NATURAL JOIN (SELECT '1' AS ssn) g)",
        "SELECT EXISTS (SELECT max(ssn) FROM users HAVING max(ssn) > '1')",
        "SELECT 1 FROM users GROUP BY ROLLUP (ssn)",
        "SELECT ssn, name FROM users GROUP BY ROLLUP (1), 2",
        "SELECT ssn, name FROM users GROUP BY (2, 1)",
        "SELECT EXISTS (SELECT name, ssn FROM users GROUP BY GROUPING SETS (id, CUBE (id, (2, 1))) OFFSET 9)",
        "SELECT EXISTS (SELECT FROM pg_partition_tree(ascii(ssn)::oid)) FROM users",
        "SELECT EXISTS (SELECT FROM users LIMIT (SELECT ascii(ssn) - 49 FROM users LIMIT 1))",
        "SELECT 1 FROM users WHERE ssn IS NULL",
        "SELECT count(*) FROM users GROUP BY id HAVING count(ssn) > 0",
        # a condition of a join sees its two sides and what is around the query, not the other items
        "SELECT (SELECT sum(1) FROM (SELECT 1 k) a JOIN (SELECT 2 j) b ON total::text LIKE '1%', orders c)"
        " FROM (SELECT ssn AS total FROM users) o",
        "SELECT (SELECT sum(1) FROM (SELECT 1 k) a JOIN (SELECT 2 j) b ON c.total::text LIKE '1%', orders c)"
        " FROM (SELECT ssn AS total FROM users) c",
        # a common table expression may use one behind it
        "WITH RECURSIVE a AS (SELECT s FROM b WHERE s = '1'), b AS (SELECT ssn AS s FROM users) SELECT count(*) FROM a",
        "WITH RECURSIVE a AS (SELECT x FROM b), b AS (SELECT s FROM c), c(s) AS (SELECT ssn FROM users)"
        " SELECT 1 FROM a WHERE x = '1'",
        "WITH RECURSIVE a AS (SELECT DISTINCT s FROM b), b AS (SELECT ssn AS s FROM users) SELECT count(*) FROM a",
        "WITH RECURSIVE a AS (WITH i AS (SELECT s FROM b WHERE s = '1') SELECT FROM i), b(s) AS (SELECT ssn FROM users)"
        " SELECT count(*) FROM a",
        # how many rows a named window's frame has
        "SELECT sum(1) OVER w FROM orders WINDOW w AS (ORDER BY id ROWS BETWEEN"
        " (SELECT ascii(ssn) FROM users LIMIT 1) PRECEDING AND CURRENT ROW)",
        # how many rows there are
        "SELECT sum(1) FROM users, JSON_TABLE(ssn::jsonb, '$[*]' COLUMNS (x int)) j",
        "SELECT sum(1) FROM users, XMLTABLE('/a' PASSING (ssn::xml) COLUMNS x int PATH '.') j",
        "SELECT sum(1) FROM orders TABLESAMPLE bernoulli((SELECT length(ssn) FROM users LIMIT 1))",
    ],
)
def test_what_decides_which_rows_come_is_a_filter(text: str) -> None:
    assert SSN in make.of(text).predicates


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE users SET name = ssn RETURNING name || ''",
        "WITH w AS (DELETE FROM users RETURNING name) SELECT upper(name) FROM w",
        "SELECT purge(), upper(name) FROM users",
        "SELECT upper(nope) FROM users",
        "SELECT upper(nope.name) FROM users",
        "SELECT lo_get(1), upper(name) FROM users",
    ],
)
def test_nothing_is_said_where_it_is_not_sure(text: str) -> None:
    assert make.of(text).depends == ()


def test_what_was_copied_into_a_temporary_table_is_not_forgotten() -> None:
    state = make.session()
    for statement in make.command("CREATE TEMP TABLE t AS SELECT ssn AS x FROM users", state).statements:
        state.applied(statement)
    assert make.of("SELECT upper(x) FROM t", state).depends == ()


def described(*names: str) -> RowDescription:
    return RowDescription(tuple(FieldDescription(n.encode(), 0, 0, 25, -1, -1, 0) for n in names))


def test_a_result_tells_what_its_columns_are_computed_from_and_filtered_by() -> None:
    analysis = make.of("SELECT upper(name), id + 1 FROM users WHERE email > 'a'")
    found = shape(described("upper", "?column?"), make.catalog(), analysis)
    assert [(c.origin, c.depends) for c in found.columns] == [
        (Origin.COMPUTED, (NAME, "public.users.email")),
        (Origin.COMPUTED, (ID, "public.users.email")),
    ]
    whole = shape(described("u"), make.catalog(), make.of("SELECT u FROM users u"))
    assert set(whole.columns[0].depends or ()) == {
        f"public.users.{c}" for c in ("id", "name", "email", "ssn", "salary")
    }


@pytest.mark.parametrize("single", [True, False])
def test_a_result_of_another_width_is_not_believed(single: bool) -> None:
    analysis = make.of("SELECT upper(name) FROM users")
    names = ("a", "b") if single else ("a",)
    assert all(c.depends is None for c in shape(described(*names), make.catalog(), analysis, single).columns)
    assert shape(described("a"), None, analysis).columns[0].depends is None


class _Generating:
    """The usual catalog, in which `orders.total` is generated from `orders.user_id`."""

    def __getattr__(self, name: str) -> object:
        return getattr(make.catalog(), name)

    def made_of(self, table_oid: int, attnum: int) -> tuple[str, ...]:
        return ("public.orders.user_id",) if (table_oid, attnum) == (30002, 3) else ()


@pytest.mark.parametrize(
    ("text", "depends"),
    [
        ("SELECT total FROM orders", ("public.orders.user_id",)),
        ("UPDATE orders SET id = 1 RETURNING total", ("public.orders.user_id",)),
        # what it is made of is filled from elsewhere by the statement itself
        ("UPDATE orders SET user_id = (SELECT ascii(ssn) FROM users LIMIT 1) RETURNING total", None),
    ],
)
def test_a_generated_column_is_computed(text: str, depends: tuple[str, ...] | None) -> None:
    command = make.command(text)
    described = RowDescription((FieldDescription(b"total", 30002, 3, 1700, -1, -1, 0),))
    catalog: Any = _Generating()
    (column,) = shape(described, catalog, command.analysis, True, command.statements[0].tree).columns
    assert (column.origin, column.depends) == (Origin.COMPUTED, depends)
