"""Where the values that a statement reads go: never less than everything that could be there."""

from __future__ import annotations

import pytest

from guard.mask.copies import Copies
from protocols.contract import ANYWHERE, MaskRule, Store
from protocols.postgres.state import SessionState
from tests.support import statements as make

ID, NAME, SSN = "public.users.id", "public.users.name", "public.users.ssn"
NOTE = "public.lines.note"
ON_USERS = Copies((MaskRule("r", (SSN,), (), "tokenise"),))
ON_ANY = Copies((MaskRule("r", ("*.ssn",), (), "tokenise"),))


def stores(text: str, state: SessionState | None = None) -> set[Store]:
    return set(make.of(text, state).stores)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("INSERT INTO lines SELECT id, ssn FROM users",
         {Store("public.lines.order_id", (ID,), True), Store(NOTE, (SSN,), True)}),
        ("INSERT INTO lines(note) SELECT upper(ssn) FROM users", {Store(NOTE, (SSN,), False, "upper")}),
        ("INSERT INTO lines VALUES (1, 'x'), (2, $1)", set()),
        ("INSERT INTO lines SELECT 1, name FROM users WHERE ssn = '1' ORDER BY ssn LIMIT 1",
         {Store(NOTE, (NAME,), True)}),
        ("INSERT INTO lines SELECT count(*), 'x' FROM users", set()),
        ("UPDATE users SET name = ssn, salary = 1", {Store(NAME, (SSN,), True)}),
        ("UPDATE users SET ssn = ssn, name = users.name", set()),
        ("UPDATE users SET salary = (ssn IS NULL)::int", set()),
        ("UPDATE users SET (name, email) = ROW(ssn, 'x')", {Store(NAME, (SSN,), True)}),
        ("UPDATE users SET (name, email) = (SELECT ssn, name FROM users LIMIT 1)",
         {Store(NAME, (NAME, SSN)), Store("public.users.email", (NAME, SSN))}),
        ("CREATE TABLE t AS SELECT id AS a, ssn || '' AS b FROM users",
         {Store("public.t.a", (ID,), True), Store("public.t.b", (SSN,), False, "b")}),
        ("CREATE TABLE evil.t(a) AS SELECT ssn FROM users", {Store("evil.t.a", (SSN,), True)}),
        ("SELECT ssn AS q INTO t FROM users", {Store("public.t.q", (SSN,), True)}),
        ("INSERT INTO users(id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name", set()),
        ("INSERT INTO users(id, ssn) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.ssn", set()),
        ("INSERT INTO users(id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = users.ssn",
         {Store(NAME, (SSN,), True)}),
        # numeric is rounded to what its column holds, so another column's is no copy
        ("INSERT INTO lines(order_id) SELECT total FROM orders",
         {Store("public.lines.order_id", ("public.orders.total",), False, "total")}),
        ("ALTER TABLE users RENAME ssn TO x", {Store("public.users.x", (SSN,), True)}),
        ("ALTER TABLE users DROP COLUMN ssn", {Store("", (SSN,))}),
        ("COPY (SELECT ssn FROM users) TO STDOUT", set()),
        ("COPY users(ssn) TO '/tmp/x'", {Store(ANYWHERE, (SSN,))}),
        ("SELECT setval('s', length(ssn)) FROM users", {Store(ANYWHERE, (SSN,))}),
        ("SELECT setval('s', 7), nextval('s')", set()),
        ("INSERT INTO lines VALUES (purge(), 'x')",
         {Store("public.lines.order_id", (ANYWHERE,), False, "column1")}),
        ("SELECT ssn FROM users", set()),
    ],
)  # fmt: skip
def test_what_goes_where(text: str, found: set[Store]) -> None:
    assert stores(text) == found


EXPOSED = (
    "CREATE TABLE t AS SELECT ssn FROM users",
    "CREATE TABLE t(a, b) AS SELECT * FROM users",
    "CREATE TABLE t AS TABLE users",
    "CREATE UNLOGGED TABLE t AS SELECT row_to_json(u) FROM users u",
    "CREATE MATERIALIZED VIEW v AS SELECT md5(ssn) FROM users",
    "SELECT * INTO t FROM users",
    "SELECT 'x' AS ssn INTO t UNION SELECT ssn FROM users",
    "INSERT INTO lines SELECT 1, ssn FROM users",
    "INSERT INTO lines SELECT 1, ssn FROM users UNION SELECT 2, name FROM users",
    "INSERT INTO lines(note) TABLE users",
    "INSERT INTO lines VALUES (1, (SELECT ssn FROM users LIMIT 1))",
    "INSERT INTO lines SELECT 1, users::text FROM users",
    "INSERT INTO lines SELECT id, shout FROM v_users",
    "INSERT INTO lines SELECT 1, x FROM users u, LATERAL (SELECT u.ssn AS x) l",
    "INSERT INTO lines SELECT 1, x FROM users u, unnest(ARRAY[u.ssn]) x",
    "WITH c(a, b) AS (SELECT id, ssn FROM users) INSERT INTO lines SELECT * FROM c",
    "WITH d AS (DELETE FROM users RETURNING *) INSERT INTO lines SELECT id, ssn FROM d",
    "WITH d AS (UPDATE users SET name = ssn RETURNING name) SELECT 1",
    "WITH RECURSIVE r(a, n) AS (SELECT ssn, 1 FROM users UNION ALL SELECT a, n + 1 FROM r)"
    " INSERT INTO lines SELECT n, a FROM r",
    "UPDATE users SET name = ssn",
    "UPDATE users SET name = CASE WHEN ssn LIKE '1%' THEN 'yes' END",
    "UPDATE users SET ssn = left(ssn, 1)",
    "UPDATE lines SET note = u.ssn FROM users u WHERE u.id = order_id",
    "UPDATE lines SET note = (SELECT max(ssn) FROM users)",
    "INSERT INTO users(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = users.ssn",
    "INSERT INTO users(id, ssn) SELECT id, ssn FROM users ON CONFLICT (id) DO UPDATE SET name = excluded.ssn",
    "MERGE INTO lines USING users u ON order_id = u.id WHEN MATCHED THEN UPDATE SET note = u.ssn",
    "MERGE INTO lines USING users u ON order_id = u.id WHEN NOT MATCHED THEN INSERT VALUES (u.id, u.ssn)",
    "MERGE INTO lines USING users u ON order_id = u.id WHEN NOT MATCHED THEN INSERT (note) VALUES (u.ssn)",
    "COPY users TO PROGRAM 'cat'",
    "COPY (SELECT ssn FROM users) TO '/tmp/x'",
    "ALTER TABLE users ADD COLUMN g text GENERATED ALWAYS AS (lower(ssn)) STORED",
    "ALTER TABLE users ALTER name TYPE text USING ssn",
    "ALTER TABLE users ALTER name TYPE text USING users::text",
    "ALTER TABLE users ALTER name SET EXPRESSION AS (ssn)",
    "ALTER TABLE users RENAME ssn TO x",
    "ALTER TABLE users RENAME TO people",
    "ALTER TABLE users SET SCHEMA evil",
    "ALTER SCHEMA public RENAME TO other",
    "ALTER TABLE users INHERIT lines",
    "ALTER TABLE lines NO INHERIT users; ALTER TABLE lines ATTACH PARTITION users FOR VALUES IN (1)",
    "DROP TABLE users",
    "DROP SCHEMA public CASCADE",
    "ALTER TABLE users DROP ssn",
    "SELECT pg_notify('c', ssn) FROM users",
    "SELECT lo_from_bytea(0, ssn::bytea) FROM users",
    "SELECT pg_advisory_lock(ascii(ssn)) FROM users",
    "SELECT query_to_xml('SELECT ' || ssn, true, false, '') FROM users",
    "SELECT lower(ssn::varchar), purge() FROM users WHERE purge_row(users) = 1",
    "INSERT INTO lines SELECT 1, lower(ssn) FROM users",
    "EXPLAIN ANALYZE INSERT INTO lines SELECT 1, ssn FROM users",
    "PREPARE p AS INSERT INTO lines SELECT 1, ssn FROM users",
    "SELECT 1; INSERT INTO lines SELECT 1, ssn FROM users",
    "CREATE RULE r AS ON INSERT TO lines DO ALSO UPDATE users SET name = ssn",
)  # fmt: skip


@pytest.mark.parametrize("text", EXPOSED)
def test_what_would_show_a_masked_column(text: str) -> None:
    assert ON_USERS.exposed(make.of(text).stores)


PLAIN = (
    "INSERT INTO lines VALUES (1, '123-45-6789')",
    "INSERT INTO users VALUES (1, 'n', 'e', '123-45-6789', 5)",
    "INSERT INTO lines SELECT id, name FROM users",
    "INSERT INTO lines SELECT id, name FROM v_users",
    "INSERT INTO lines SELECT count(ssn), 'x' FROM users",
    "INSERT INTO users SELECT * FROM users",
    "INSERT INTO users(id, ssn) SELECT id + 1, u.ssn FROM (SELECT * FROM users) u",
    "WITH c AS (SELECT id, ssn FROM users) INSERT INTO users(id, ssn) SELECT * FROM c",
    "UPDATE users SET ssn = ssn",
    "UPDATE users SET ssn = $1, name = upper(name) WHERE id = 1",
    "UPDATE users a SET ssn = b.ssn FROM users b WHERE a.id = b.id",
    "UPDATE lines SET note = u.name FROM users u WHERE u.id = order_id",
    "INSERT INTO users(id, ssn) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn",
    "INSERT INTO users(id, ssn) SELECT id, ssn FROM users ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn",
    "MERGE INTO users t USING users s ON t.id = s.id WHEN MATCHED THEN UPDATE SET ssn = s.ssn"
    " WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.name, s.email, s.ssn, s.salary)",
    "DELETE FROM lines WHERE note IN (SELECT ssn FROM users)",
    "COPY lines FROM STDIN",
    "COPY users TO STDOUT",
    "CREATE VIEW v AS SELECT md5(ssn) FROM users",  # it stores nothing, and is masked when it is read
    "CREATE TEMP TABLE t AS SELECT ssn FROM users",  # as is what a session keeps for itself
    "CREATE TABLE t (LIKE users INCLUDING ALL)",
    "CREATE INDEX ON users (ssn)",
    "ALTER TABLE users RENAME name TO x",
    "ALTER TABLE users ADD COLUMN x text DEFAULT 'y'",
    "DROP TABLE lines",
    "EXPLAIN INSERT INTO lines SELECT 1, ssn FROM users",
    "SELECT nextval('s') FROM users",
)  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_what_shows_none(text: str) -> None:
    assert not ON_USERS.exposed(make.of(text).stores)


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("CREATE TABLE t AS SELECT * FROM users", False),
        ("CREATE TABLE t AS SELECT ssn || '' AS ssn FROM users", True),
        ("CREATE TABLE t AS SELECT ssn::varchar(3) AS ssn FROM users", True),
        ("ALTER TABLE users RENAME TO people", False),
        ("ALTER TABLE users RENAME ssn TO x", True),
        ("DROP TABLE users", False),
        ("CREATE TABLE t (ssn text, g text GENERATED ALWAYS AS (ssn) STORED)", True),
        ("CREATE TABLE t (ssn text, g text GENERATED ALWAYS AS (t.*::text) STORED)", True),
        # which partition a row is in says what it holds
        ("CREATE TABLE t (id int, ssn text) PARTITION BY LIST (ssn)", True),
        ("CREATE TABLE t (id int, ssn text) PARTITION BY LIST (left(ssn, 1))", True),
        ("CREATE TABLE t (id int, ssn text) PARTITION BY LIST (id)", False),
    ],
)
def test_a_mask_on_any_table_follows_its_column(text: str, shows: bool) -> None:
    assert bool(ON_ANY.exposed(make.of(text).stores)) is shows


def test_a_constraint_or_unique_index_over_a_masked_value_is_a_question_about_it() -> None:
    assert SSN in make.of("ALTER TABLE users ADD CONSTRAINT c CHECK (ssn < '5')").predicates
    assert SSN in make.of("CREATE UNIQUE INDEX ON users (left(ssn, 1))").predicates
    assert SSN in make.of("CREATE UNIQUE INDEX ON users (name) WHERE ssn LIKE '1%'").predicates


def test_names_of_the_session_bring_along_what_went_into_them() -> None:
    state = make.ran(
        make.session(),
        "PREPARE p AS INSERT INTO lines SELECT 1, ssn FROM users",
        "PREPARE q(text) AS INSERT INTO lines VALUES (1, $1)",
        "PREPARE s AS SELECT ssn FROM users",
        "CREATE TEMP TABLE took AS SELECT name FROM users",
        "CREATE TEMP TABLE own(a text)",
        "CREATE TEMP VIEW seen AS SELECT ssn AS q FROM users",
        "DECLARE c CURSOR WITH HOLD FOR SELECT pg_notify('c', ssn) FROM users",
    )
    for text in (
        "EXECUTE p",
        "CREATE TABLE n AS EXECUTE s",
        "INSERT INTO lines SELECT 1, name FROM took",
        "INSERT INTO lines SELECT 1, q FROM seen",
        "EXECUTE q(purge()::text)",
        "INSERT INTO lines SELECT 1, pg_temp.took::text FROM pg_temp.took",
        "INSERT INTO lines SELECT 1, a FROM pg_temp.gone",
        "FETCH 1 FROM c",
    ):
        assert ON_USERS.exposed(make.of(text, state).stores), text
    for text in ("EXECUTE q('x')", "INSERT INTO lines SELECT 1, a FROM own", "INSERT INTO took SELECT ssn FROM users"):
        assert not ON_USERS.exposed(make.of(text, state).stores), text


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO lines SELECT 1, public.users::text FROM public.users",
        "INSERT INTO lines SELECT 1, (public.users).ssn FROM public.users",
        "WITH RECURSIVE a AS (SELECT s FROM b), b AS (SELECT ssn AS s FROM users) INSERT INTO lines SELECT 1, s FROM a",
    ],
)
def test_a_name_that_is_not_resolved_may_be_anything(text: str) -> None:
    assert ON_USERS.exposed(make.of(text).stores)


def test_more_places_than_are_listed_are_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.postgres.statements.stores.MAX_STORES", 2)
    found = make.of("CREATE TABLE t AS SELECT id, name, email, salary FROM users").stores
    assert any(store.target == ANYWHERE and ANYWHERE in store.sources for store in found)
