"""Reports read views: a computed column of one is masked where a masked column can be in it, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocols.postgres import nodetree
from protocols.postgres.catalog import Catalog
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse
from scripts.support.postgres import PostgresServer
from tests.support.statements import load

SETUP = """
CREATE SCHEMA reports; SET search_path = reports;
CREATE TABLE people (id int PRIMARY KEY, city text, ssn text, twice text GENERATED ALWAYS AS (ssn || ssn) STORED);
CREATE TABLE sales (person int, total numeric);
CREATE TABLE own (id int, city text); ALTER TABLE own ENABLE ROW LEVEL SECURITY;
CREATE TABLE "a :selectedCols (b 8)" (x text);
CREATE FUNCTION known(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT max(ssn) FROM reports.people';
CREATE VIEW towns AS SELECT p.city, count(*) AS n, sum(s.total) AS t
  FROM sales s JOIN people p ON p.id = s.person GROUP BY 1;
CREATE VIEW nested AS SELECT city, n + 1 AS m FROM towns;
CREATE MATERIALIZED VIEW kept AS SELECT p.city, sum(s.total) AS t FROM sales s JOIN people p ON p.id = s.person
  GROUP BY 1;
CREATE VIEW united AS SELECT upper(city) AS x FROM people UNION ALL SELECT total::text FROM sales;
CREATE VIEW inside AS WITH q AS (SELECT id FROM people) SELECT (SELECT count(*) FROM q) + 1 AS x;
CREATE VIEW system AS SELECT ctid::text || '' AS x FROM people;
CREATE VIEW joined AS SELECT count(*) + 0 AS x FROM people JOIN (SELECT person AS id FROM sales) s USING (id);
CREATE VIEW sampled AS SELECT upper(p.city) AS x FROM people p TABLESAMPLE bernoulli (50) JOIN people q ON q.id = p.id;
CREATE VIEW filtered AS SELECT count(*) + 0 AS x FROM people WHERE ssn LIKE '1%';
CREATE VIEW over_filtered AS SELECT x + 1 AS y FROM filtered;
CREATE VIEW generated AS SELECT upper(twice) AS x FROM people;
CREATE VIEW whole AS SELECT row_to_json(p)::text AS x FROM people p;
CREATE VIEW field AS SELECT upper((p).city) AS x FROM people p;
CREATE VIEW called AS SELECT known(city) || '' AS x FROM people;
CREATE VIEW secured AS SELECT upper(city) AS x FROM own;
CREATE VIEW odd AS SELECT upper(x) AS x FROM "a :selectedCols (b 8)";
CREATE MATERIALIZED VIEW kept_over AS SELECT upper(city) AS x FROM towns;
CREATE VIEW catalogued AS SELECT upper(attname::text) AS x FROM pg_stats;
"""
COLUMNS = {
    "towns": {"people.city", "people.id", "sales.person", "sales.total"},
    "nested": {"people.city", "people.id", "sales.person", "sales.total", "towns.city", "towns.n"},
    "kept": {"people.city", "people.id", "sales.person", "sales.total"},
    "united": {"people.city", "sales.total"},
    "inside": {"people.id"},
    "system": set(),
    "joined": {"people.id", "sales.person"},
    "sampled": {"people.city", "people.id"},
    "filtered": {"people.ssn"},
    "over_filtered": {"people.ssn", "filtered.x"},
    "generated": {"people.twice", "people.id", "people.city", "people.ssn"},
    "odd": {"a :selectedCols (b 8).x"},
}
ANYTHING = ["whole", "field", "called", "secured", "kept_over", "catalogued"]  # not certain: all that they read


@pytest.fixture(scope="module")
def catalog(server: PostgresServer) -> Iterator[Catalog]:
    with server.connect() as connection:
        connection.autocommit = True
        connection.execute(SETUP)
        yield load(connection)
        connection.execute("DROP SCHEMA reports CASCADE")


@pytest.mark.parametrize("view", COLUMNS)
def test_what_a_view_reads_is_known_by_column(catalog: Catalog, view: str) -> None:
    found = catalog.behind(catalog.relations["reports", view].oid)
    wanted = {f"reports.{column}" for column in COLUMNS[view]}
    if view == "generated":  # what it is computed from is behind it, however the server spells that
        assert found is not None
        assert {"reports.people.twice", "reports.people.ssn"} <= found
    else:
        assert found is not None
        assert set(found) == wanted


@pytest.mark.parametrize("view", ANYTHING)
def test_what_is_not_certain_may_be_anything(catalog: Catalog, view: str) -> None:
    assert catalog.behind(catalog.relations["reports", view].oid) is None


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("SELECT * FROM reports.towns", [False, False, False]),
        ("SELECT upper(city), n * 2 FROM reports.towns", [False, False]),
        ("SELECT m FROM reports.nested", [False]),
        ("SELECT city, t FROM reports.kept", [False, False]),
        ("SELECT x FROM reports.sampled", [False]),
        ("SELECT x FROM reports.filtered", [True]),
        ("SELECT y FROM reports.over_filtered", [True]),
        ("SELECT x FROM reports.generated", [True]),
        ("SELECT x FROM reports.whole", [True]),
        ("SELECT x FROM reports.field", [True]),
    ],
)
def test_only_what_a_masked_column_may_be_in_depends_on_one(catalog: Catalog, text: str, masked: list[bool]) -> None:
    analysis = analyse(text.encode(), SessionState(), catalog).analysis
    assert not analysis.unknown
    people = {"reports.people.ssn", "reports.people.*"}
    assert [not people.isdisjoint(columns) for columns in analysis.depends] == masked


def test_a_tree_that_cannot_be_counted_is_not_read() -> None:
    """Each relation has its own list of columns, or none of them counts."""
    one = "{RANGETBLENTRY :rtekind 0 :relid 16400 :relkind r :requiredPerms 2 :selectedCols (b 8 9)}"
    other = "{RANGETBLENTRY :rtekind 0 :relid 16401 :relkind r :requiredPerms 2}"
    assert nodetree.selected(one) == ((16400, frozenset({1, 2})),)
    assert nodetree.selected(one + other) is None
    assert nodetree.selected(other + one) is None
    later = "{RTEPERMISSIONINFO :relid 16400 :inh true :requiredPerms 2 :checkAsUser 0 :selectedCols (b 7)}"
    assert nodetree.selected(later) == ((16400, frozenset({0})),)
    assert nodetree.selected(later + "{RTEPERMISSIONINFO :relid 16401 :inh true}") is None
