"""Where the values that a statement reads go: never less than everything that could be there."""

from __future__ import annotations

import pytest

from guard.mask.copies import Copies
from protocols.contract import ANYWHERE, MaskRule, Store
from protocols.mysql.catalog import Catalog, Column, Relation, builtin_catalog
from protocols.mysql.state import SessionState
from tests.support import mysql_statements as make

ID, NAME, SSN = "shop.users.id", "shop.users.name", "shop.users.ssn"
TOTAL = "shop.orders.total"
ON_USERS = Copies((MaskRule("r", (SSN,), (), "tokenise"),))
ON_ANY = Copies((MaskRule("r", ("*.ssn",), (), "tokenise"),))
STRICT = frozenset({"STRICT_TRANS_TABLES"})


def stores(text: str, state: SessionState | None = None, catalog: Catalog | None = None) -> tuple[Store, ...]:
    return make.judged(text, state, catalog).analysis.stores


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("INSERT INTO orders (id, total) SELECT id, ssn FROM users",
         {Store("shop.orders.id", (ID,), False, "id"), Store(TOTAL, (SSN,), False, "ssn")}),
        ("INSERT INTO orders VALUES (1, 'x', ?), (2, 3, 4)", set()),
        ("INSERT INTO orders SELECT COUNT(*), COUNT(ssn), 1 FROM users", set()),
        ("INSERT INTO orders (total) SELECT name FROM users WHERE ssn = '1' ORDER BY ssn LIMIT 1",
         {Store(TOTAL, (NAME,), False, "name")}),
        ("UPDATE users SET name = ssn, salary = 1", {Store(NAME, (SSN,), False, "name")}),
        ("UPDATE users SET ssn = ssn, name = users.name", set()),
        ("UPDATE users SET salary = ssn IS NULL", set()),
        ("CREATE TABLE t AS SELECT id AS a, CONCAT(ssn, '') AS b FROM users",
         {Store("shop.t.a", (ID,), True), Store("shop.t.b", (SSN,), False, "b")}),
        ("CREATE TABLE t (ssn CHAR(1)) SELECT ssn FROM users", {Store("shop.t.ssn", (SSN,), False, "ssn")}),
        ("INSERT INTO users (id, ssn) VALUES (1, 'x') ON DUPLICATE KEY UPDATE ssn = VALUES(ssn)", set()),
        ("INSERT INTO users (id, ssn) VALUES (1, 'x') ON DUPLICATE KEY UPDATE name = VALUES(ssn)", set()),
        ("INSERT INTO users (id, ssn) VALUES (1, 'x') AS new ON DUPLICATE KEY UPDATE name = new.ssn", set()),
        ("INSERT INTO users (id) VALUES (1) ON DUPLICATE KEY UPDATE name = ssn", {Store(NAME, (SSN,), False, "name")}),
        ("ALTER TABLE users RENAME COLUMN ssn TO x", {Store("shop.users.x", (SSN,), True)}),
        ("ALTER TABLE users DROP COLUMN ssn", {Store("", (SSN,))}),
        ("SELECT ssn FROM users INTO OUTFILE '/tmp/x'", {Store(ANYWHERE, (SSN,))}),
        ("SELECT ssn INTO @v FROM users", set()),
        ("SELECT SLEEP(ASCII(ssn)) FROM users", {Store(ANYWHERE, (SSN,))}),
        ("UPDATE orders SET id = LAST_INSERT_ID(id + 1)",
         {Store("shop.orders.id", ("shop.orders.id",), False, "id"), Store(ANYWHERE, ("shop.orders.id",))}),
        ("INSERT INTO audit (id, msg) VALUES (1, NOW())", set()),  # with a trigger
        ("SELECT ssn FROM users", set()),
    ],
)  # fmt: skip
def test_what_goes_where(text: str, found: set[Store]) -> None:
    assert set(stores(text)) == found


EXPOSED = (
    "CREATE TABLE t AS SELECT ssn FROM users",
    "CREATE TABLE t SELECT * FROM users",
    "CREATE TABLE t (SELECT UPPER(ssn) FROM users)",
    "CREATE TABLE t IGNORE SELECT 'x' AS ssn UNION SELECT ssn FROM users",
    "CREATE OR REPLACE TABLE t SELECT ssn FROM users",
    "INSERT INTO orders SELECT 1, 2, ssn FROM users",
    "INSERT INTO orders SELECT 1, 2, ssn FROM users UNION SELECT 1, 2, name FROM users",
    "INSERT INTO orders VALUES (1, 2, (SELECT ssn FROM users LIMIT 1))",
    "INSERT INTO orders SET total = (SELECT MAX(ssn) FROM users)",
    "INSERT INTO orders WITH c AS (SELECT ssn FROM users) SELECT 1, 2, c.ssn FROM c",
    "INSERT INTO orders (total) SELECT n FROM v_users",
    "INSERT INTO audit (id, msg) SELECT 1, ssn FROM users",
    "INSERT IGNORE INTO orders (total) SELECT t.s FROM (SELECT ssn AS s FROM users) t",
    "REPLACE INTO orders SELECT 1, 2, ssn FROM users",
    "REPLACE INTO orders SET total = (SELECT MAX(ssn) FROM users)",
    "INSERT INTO orders (total) VALUES (LOAD_FILE('/x'))",
    "INSERT INTO orders VALUES (wipe(), 1, 2)",
    "UPDATE users SET name = ssn",
    "UPDATE users SET name = CASE WHEN ssn LIKE '1%' THEN 'a' END",
    "UPDATE users SET ssn = LEFT(ssn, 1)",
    "UPDATE orders o JOIN users u ON u.id = o.user_id SET o.total = u.ssn",
    "UPDATE orders, users SET total = ssn",
    "UPDATE orders SET total = (SELECT MAX(ssn) FROM users)",
    "UPDATE v_users SET id = n",
    "WITH c AS (SELECT ssn FROM users) UPDATE orders, c SET total = c.ssn",
    "INSERT INTO users (id) VALUES (1) ON DUPLICATE KEY UPDATE name = ssn",
    "INSERT INTO orders (id) SELECT id FROM users ON DUPLICATE KEY UPDATE total = users.ssn",
    "INSERT INTO users (id, ssn) SELECT id, ssn FROM users ON DUPLICATE KEY UPDATE name = VALUES(ssn)",
    "SELECT ssn FROM users INTO DUMPFILE '/tmp/x'",
    "SELECT LAST_INSERT_ID(ASCII(ssn)) FROM users",
    "SELECT SETVAL(s, ASCII(ssn)) FROM users",
    "SELECT GET_LOCK(ssn, 1) FROM users",
    "SELECT shop.wipe(ssn) FROM users",
    "SELECT CONCAT(wipe(), SETVAL(s, ASCII(ssn))) FROM users",
    "DELETE FROM orders WHERE SLEEP((SELECT ASCII(MAX(ssn)) FROM users))",
    "DO SLEEP((SELECT ASCII(MAX(ssn)) FROM users))",
    "SET @x = GET_LOCK((SELECT MAX(ssn) FROM users), 1)",
    "CALL p((SELECT ssn FROM users LIMIT 1))",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE orders (id, @a) SET total = (SELECT MAX(ssn) FROM users)",
    "ALTER TABLE users RENAME COLUMN ssn TO x",
    "ALTER TABLE users CHANGE ssn x VARCHAR(20)",
    "ALTER TABLE users CHANGE COLUMN ssn ssn VARCHAR(2)",
    "ALTER TABLE users MODIFY ssn VARCHAR(2)",
    "ALTER TABLE users RENAME TO people",
    "ALTER TABLE users RENAME AS people",
    "ALTER TABLE users ADD COLUMN z INT, RENAME people",
    "ALTER TABLE users NOWAIT RENAME COLUMN ssn TO x",
    "ALTER TABLE users ADD g VARCHAR(20) GENERATED ALWAYS AS (LOWER(ssn)) STORED",
    "ALTER TABLE users ADD COLUMN (g VARCHAR(20) AS (`ssn`), h INT)",
    "ALTER TABLE users MODIFY name VARCHAR(20) AS (ssn) STORED",
    "ALTER TABLE users ADD g VARCHAR(20) DEFAULT (LOWER(ssn))",
    "ALTER TABLE users ADD g VARCHAR(20) DEFAULT CONCAT(ssn, '')",
    "ALTER TABLE users ALTER COLUMN name SET DEFAULT (ssn)",
    "INSERT INTO orders VALUES ROW(1, 2, (SELECT MAX(ssn) FROM users))",
    "ALTER TABLE users EXCHANGE PARTITION p0 WITH TABLE orders",
    "ALTER TABLE users PARTITION BY RANGE COLUMNS (ssn) (PARTITION a VALUES LESS THAN ('5'))",
    "ALTER TABLE users DROP ssn",
    "CREATE TABLE m (id INT) ENGINE=MERGE UNION=(users)",
    "RENAME TABLE users TO people",
    "RENAME TABLE users TO hr.people, orders TO users",
    "DROP TABLE users",
    "DROP DATABASE shop",
    "PREPARE s FROM 'INSERT INTO orders (total) SELECT ssn FROM users'",
    "ANALYZE INSERT INTO orders (total) SELECT ssn FROM users",
    "SET STATEMENT max_statement_time = 1 FOR INSERT INTO orders (total) SELECT ssn FROM users",
    "SELECT 1; INSERT INTO orders (total) SELECT ssn FROM users",
    "/*!50000 INSERT INTO orders (total) SELECT ssn FROM users */",
)  # fmt: skip


@pytest.mark.parametrize("text", EXPOSED)
def test_what_would_show_a_masked_column(text: str) -> None:
    assert ON_USERS.exposed(stores(text))


PLAIN = (
    "INSERT INTO orders VALUES (1, 2, '123-45-6789')",
    "INSERT INTO users VALUES (1, 'n', 'e', '123-45-6789', 5)",
    "INSERT INTO orders SELECT id, name, email FROM users",
    "INSERT INTO orders (total) SELECT id FROM v_users",
    "INSERT INTO users SELECT * FROM users",
    "INSERT INTO users (id, ssn) SELECT id + 1, u.ssn FROM (SELECT * FROM users) u",
    "REPLACE INTO users SELECT * FROM users",
    "UPDATE users SET ssn = ssn",
    "UPDATE users SET ssn = ?, name = UPPER(name) WHERE id = 1",
    "UPDATE users a JOIN users b ON a.id = b.id SET a.ssn = b.ssn",
    "UPDATE orders o JOIN users u ON u.id = o.user_id SET o.total = u.name",
    "INSERT INTO users (id, ssn, name) VALUES (1, 'a', 'b') ON DUPLICATE KEY UPDATE ssn = VALUES(ssn), name = 'c'",
    "INSERT INTO users (id, ssn) SELECT id, ssn FROM users ON DUPLICATE KEY UPDATE ssn = VALUES(ssn)",
    "INSERT INTO orders (total) VALUES (LAST_INSERT_ID())",
    "UPDATE users SET id = LAST_INSERT_ID(id + 1)",
    "DELETE FROM orders WHERE total IN (SELECT ssn FROM users)",
    "DELETE o FROM orders o JOIN users u ON u.ssn = o.total",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE orders",
    "SELECT id FROM users INTO OUTFILE '/tmp/x'",
    "SELECT SLEEP(1) FROM users",
    "CALL p(1)",
    "CREATE VIEW v AS SELECT MD5(ssn) FROM users",  # it stores nothing, and is masked when it is read
    "CREATE TEMPORARY TABLE t SELECT ssn FROM users",  # as is what a session keeps for itself
    "SET @v = (SELECT ssn FROM users LIMIT 1)",
    "CREATE TABLE t LIKE users",
    "ALTER TABLE users RENAME COLUMN name TO x",
    "ALTER TABLE users ADD INDEX (ssn)",
    "ALTER TABLE users DROP INDEX ssn",
    "ALTER TABLE users ADD x VARCHAR(20) AS (name)",
    "ALTER TABLE users ADD x VARCHAR(20) DEFAULT 'y', ADD z INT DEFAULT (1 + 1)",
    "DROP TABLE orders",
    "EXPLAIN INSERT INTO orders (total) SELECT ssn FROM users",
)  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_what_shows_none(text: str) -> None:
    assert not ON_USERS.exposed(stores(text))


def test_a_new_type_cuts_nothing_in_strict_mode() -> None:
    strict = make.session(sql_mode=STRICT)
    assert not ON_USERS.exposed(stores("ALTER TABLE users MODIFY ssn VARCHAR(2)", strict))
    assert not ON_USERS.exposed(stores("ALTER TABLE users CHANGE ssn ssn VARCHAR(2)", strict))
    assert ON_USERS.exposed(stores("ALTER TABLE users CHANGE ssn x VARCHAR(20)", strict))


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("CREATE TABLE t AS SELECT * FROM users", False),
        ("CREATE TABLE t AS SELECT CONCAT(ssn, '') AS ssn FROM users", True),
        ("CREATE TABLE t (ssn CHAR(2)) AS SELECT ssn FROM users", True),
        ("ALTER TABLE users RENAME TO people", False),
        ("DROP TABLE users", False),
        ("CREATE TABLE t (ssn TEXT, g TEXT AS (ssn))", True),
        ("CREATE TABLE t (id INT, ssn VARCHAR(9)) PARTITION BY KEY (ssn) PARTITIONS 9", True),
        ("CREATE TABLE t (id INT, ssn VARCHAR(9)) PARTITION BY HASH (id)", False),
    ],
)
def test_a_mask_on_any_table_follows_its_column(text: str, shows: bool) -> None:
    assert bool(ON_ANY.exposed(stores(text))) is shows


@pytest.mark.parametrize(
    ("full_type", "shows"), [("varchar(11) utf8mb4", False), ("varchar(3) utf8mb4", True), ("", True)]
)
def test_a_copy_is_one_only_into_the_same_type(full_type: str, shows: bool) -> None:
    def people(name: str, kind: str) -> Relation:
        return Relation("shop", name, "table", (Column("id", "int"), Column("ssn", "varchar", full_type=kind)))

    catalog = Catalog("v1", "mysql", (9, 7, 4),
                      relations=(people("users", "varchar(11) utf8mb4"), people("old", full_type)))  # fmt: skip
    found = stores("INSERT INTO old (ssn) SELECT ssn FROM users", make.session("mysql"), catalog)
    assert bool(ON_ANY.exposed(found)) is shows


def test_a_view_that_calls_functions_is_followed() -> None:
    body = "select sleep(`u`.`id`) AS `a`,last_insert_id(`u`.`id`) AS `b`,`u`.`ssn` AS `c` from `shop`.`users` `u`"
    catalog = Catalog("v1", "mariadb", (10, 11, 6), relations=(
        make.table("shop", "users", "id", "ssn"), make.table("shop", "orders", "total"),
        make.table("shop", "v", "a", "b", "c", kind="view", definition=body)))  # fmt: skip
    for column, shows in (("a", False), ("b", True), ("c", True)):  # what the session keeps may be anything
        command = make.judged(f"INSERT INTO orders (total) SELECT {column} FROM v", None, catalog)
        assert "failed" not in command.analysis.why
        assert bool(ON_USERS.exposed(command.analysis.stores)) is shows


def test_functions_within_functions_take_no_longer_than_is_allowed() -> None:
    nested = "SLEEP(" * 40 + "ssn" + ")" * 40
    assert ON_USERS.exposed(stores(f"SELECT {nested} FROM users"))


def test_a_check_over_a_masked_value_is_a_question_about_it() -> None:
    assert SSN in make.judged("ALTER TABLE users ADD CONSTRAINT c CHECK (ssn < '5')").analysis.predicates


def test_names_of_the_session_bring_along_what_went_into_them() -> None:
    state = make.apply(
        make.session(),
        "PREPARE p FROM 'INSERT INTO orders (total) SELECT ssn FROM users'",
        "PREPARE q FROM 'INSERT INTO orders (total) VALUES (?)'",
        "SET @own = 'x'",
        "SELECT ssn INTO @v FROM users",
        "CREATE TEMPORARY TABLE took SELECT ssn FROM users",
        "CREATE TEMPORARY TABLE own (a INT)",
    )
    for text in (
        "EXECUTE p",
        "EXECUTE q USING @v",
        "INSERT INTO orders (total) VALUES (@v)",
        "UPDATE orders SET total = CONCAT(@v, '')",
        "INSERT INTO orders (total) SELECT ssn FROM took",
        "CREATE TABLE n SELECT * FROM took",
        "CALL p(@v)",
    ):
        assert ON_USERS.exposed(stores(text, state)), text
    for text in (
        "EXECUTE q USING @own",
        "INSERT INTO orders (total) VALUES (@own)",
        "INSERT INTO orders (total) SELECT a FROM own",
        "INSERT INTO took SELECT ssn FROM users",
        "UPDATE took SET ssn = @v",
        "ALTER TABLE took RENAME TO t3",
        "RENAME TABLE took TO t3",
        "DROP TABLE took",
        "CALL p(@own)",
    ):
        assert not ON_USERS.exposed(stores(text, state)), text
    state.opaque = True  # code ran that nobody saw: a variable may hold anything
    for text in ("INSERT INTO orders (total) VALUES (@own)", "EXECUTE q USING @own", "CALL p(@own)"):
        assert ON_USERS.exposed(stores(text, state)), text


def test_without_a_catalog_names_are_those_of_plain_tables() -> None:
    catalog = builtin_catalog("mariadb", (10, 11, 6))
    assert not ON_USERS.exposed(stores("INSERT INTO orders (total) SELECT name FROM users", None, catalog))
    assert ON_USERS.exposed(stores("INSERT INTO orders (total) SELECT ssn FROM users", None, catalog))
    assert ON_USERS.exposed(stores("CREATE TABLE t SELECT * FROM users", None, catalog))


def test_what_cannot_be_traced_is_everything_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.mysql.relation_flows.MAX_NODES", 1)
    (found,) = stores("INSERT INTO orders (total) SELECT name FROM users")
    assert found == Store("shop.orders.*", ("shop.users.*",))
    assert stores("INSERT INTO orders (total) VALUES (1)") == ()
