"""The statements that are no queries: their kinds, effects and what they change in the session."""

from __future__ import annotations

import pytest

from protocols.contract import Effect
from protocols.mysql.statements import ChangeKind
from tests.support.mysql_statements import apply, judged, session

E = Effect


@pytest.mark.parametrize(
    ("text", "kind", "effects"),
    [
        ("BEGIN", "begin", {E.TX}),
        ("START TRANSACTION READ ONLY", "begin", {E.TX}),
        ("START TRANSACTION READ WRITE", "begin", {E.TX, E.SESSION_GUARD}),
        ("COMMIT AND NO CHAIN RELEASE", "commit", {E.TX}),
        ("ROLLBACK TO SAVEPOINT a", "rollback to savepoint", {E.TX}),
        ("ROLLBACK TO a", "rollback to savepoint", {E.TX}),
        ("SAVEPOINT a", "savepoint", {E.TX}),
        ("RELEASE SAVEPOINT a", "release savepoint", {E.TX}),
        ("USE hr", "use", {E.SESSION_NAME_RESOLUTION}),
        ("SET autocommit = 0, time_zone = '+00:00'", "set", {E.SESSION_SET}),
        ("SET GLOBAL max_connections = 1", "set", {E.ADMIN_CONFIG}),
        ("SET @@GLOBAL.max_connections = 1", "set", {E.ADMIN_CONFIG}),
        ("SET PERSIST max_connections = 1", "set", {E.ADMIN_CONFIG}),
        ("SET sql_mode = 'ANSI_QUOTES'", "set", {E.SESSION_PARSE_STATE}),
        ("SET sql_mode = ANSI", "set", {E.SESSION_PARSE_STATE}),
        ("SET sql_mode = 'STRICT_ALL_TABLES'", "set", {E.SESSION_SET}),
        ("SET sql_log_bin = 0", "set", {E.SESSION_GUARD}),
        ("SET nobody_knows = 1", "set", {E.SESSION_OTHER}),
        ("SET NAMES utf8mb4", "set", {E.SESSION_SET}),
        ("SET NAMES gbk", "set", {E.SESSION_PARSE_STATE}),
        ("SET CHARACTER SET 'latin1'", "set", {E.SESSION_SET}),
        ("SET ROLE admin", "set", {E.SESSION_ROLE}),
        ("SET PASSWORD = 'x'", "set", {E.PRIV_ROLE}),
        ("SET TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ", "set", {E.SESSION_SET}),
        ("SET GLOBAL TRANSACTION READ ONLY", "set", {E.ADMIN_CONFIG}),
        ("SHOW TABLES", "show tables", {E.SHOW}),
        ("SHOW FULL COLUMNS FROM users FROM shop LIKE 'a%'", "show full columns", {E.SHOW}),
        ("SHOW GRANTS", "show grants", {E.SHOW, E.SECRET_READ}),  # MariaDB, with the hash of the password
        ("SHOW GRANTS FOR root", "show grants", {E.SHOW, E.SECRET_READ}),
        ("SHOW PROCESSLIST", "show processlist", {E.SHOW, E.SECRET_READ}),
        ("DESC users", "describe", {E.SHOW}),
        ("HANDLER users OPEN AS h", "handler open", {E.CURSOR, E.DATA_SELECT}),
        ("DO 1, 2", "do", {E.DATA_SELECT}),
        ("LOCK TABLES users READ, orders o WRITE", "lock tables", {E.ADMIN_LOCK}),
        ("UNLOCK TABLES", "unlock tables", {E.TX}),
        ("KILL QUERY 5", "kill", {E.ADMIN_KILL}),
        ("FLUSH PRIVILEGES", "flush", {E.ADMIN_CONFIG}),
        ("GRANT SELECT ON *.* TO a@b", "grant", {E.PRIV_GRANT}),
        ("REVOKE ALL ON x.* FROM a", "revoke", {E.PRIV_REVOKE}),
        ("CREATE USER a IDENTIFIED BY 'x'", "create user", {E.DDL_CREATE, E.PRIV_ROLE} - {E.DDL_CREATE}),
        ("CREATE TABLE t (a INT)", "create table", {E.DDL_CREATE}),
        ("CREATE TABLE t SELECT * FROM users", "create table", {E.DDL_CREATE, E.DATA_INSERT, E.DATA_SELECT}),
        (
            "CREATE TABLE t (a INT) ENGINE=FEDERATED CONNECTION='mysql://x'",
            "create table",
            {E.DDL_CREATE, E.NET_EGRESS, E.FILE_READ, E.FILE_WRITE},
        ),
        ("CREATE TABLE t (a INT) DATA DIRECTORY = '/x'", "create table", {E.DDL_CREATE, E.FILE_WRITE}),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", "create view", {E.DDL_CREATE, E.DDL_DROP}),
        ("ALTER TABLE users DROP COLUMN ssn", "alter table", {E.DDL_ALTER, E.DDL_DROP}),
        ("DROP TABLE users", "drop table", {E.DDL_DROP}),
        ("DROP DATABASE shop", "drop database", {E.DDL_DROP}),
        ("TRUNCATE users", "truncate", {E.DATA_TRUNCATE}),
        ("RENAME TABLE users TO u", "rename table", {E.DDL_ALTER}),
        (
            "CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW SET NEW.id = 1",
            "create trigger",
            {E.DDL_CREATE, E.PRIV_TRIGGERS},
        ),
        ("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM users", "create event", {E.DDL_CREATE, E.EXEC_EVENT}),
        ("CREATE FUNCTION f RETURNS STRING SONAME 'x.so'", "create function", {E.DDL_CREATE, E.EXEC_LIBRARY}),
        ("INSTALL PLUGIN p SONAME 'x'", "install", {E.EXEC_LIBRARY}),
        (
            "LOAD DATA INFILE '/x' INTO TABLE orders (id, @v) SET total = @v + 1",
            "load data",
            {E.FILE_READ, E.DATA_INSERT},
        ),
        (
            "LOAD DATA LOCAL INFILE '/x' REPLACE INTO TABLE orders",
            "load data local",
            {E.DATA_COPY_IN, E.DATA_INSERT, E.DATA_DELETE},
        ),
        ("OPTIMIZE TABLE users", "optimize table", {E.ADMIN_MAINT}),
        (
            "CHANGE MASTER TO MASTER_HOST = 'x'",
            "change replication",
            {E.ADMIN_CONFIG, E.EXFIL_REPLICATION, E.NET_EGRESS},
        ),
        ("SHUTDOWN", "shutdown", {E.ADMIN_KILL}),
        ("SIGNAL SQLSTATE '45000'", "signal", {E.SESSION_OTHER}),
        ("PREPARE s FROM 'SELECT 1'", "prepare", {E.PREPARE, E.DATA_SELECT}),
        ("DEALLOCATE PREPARE s", "deallocate", {E.PREPARE}),
        ("EXECUTE IMMEDIATE 'DROP TABLE users'", "execute immediate", {E.PREPARE, E.EXEC_DYNAMIC, E.DDL_DROP}),
        ("SET STATEMENT sort_buffer_size = 100 FOR DELETE FROM users", "delete", {E.SESSION_SET, E.DATA_DELETE}),
        ("ANALYZE DELETE FROM users", "analyze", {E.SHOW, E.DATA_DELETE}),
        ("EXPLAIN DELETE FROM users", "explain", {E.SHOW}),
        ("ANALYZE TABLE users", "analyze table", {E.ADMIN_MAINT}),
        ("VALUES (1), (2)", "select", {E.DATA_SELECT}),
        ("/* ping */", "empty", set()),
    ],
)
def test_kinds_and_effects(text: str, kind: str, effects: set[Effect]) -> None:
    analysis = judged(text).analysis
    assert (analysis.kind, analysis.effects) == (kind, effects), analysis.why


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ";",
        "SELECT",
        "FOO",
        "BEGIN NOT ATOMIC SELECT 1; END",
        "IF 1 THEN SELECT 1; END IF",
        "x: LOOP SELECT 1; END LOOP",
        "SELECT 1 FROM",
        "SELECT 1 1",
        "SHOW NOTHING",
        "SET",
        "SET a",
        "SET a = ",
        "PREPARE s FROM @x",
        "EXECUTE nobody",
        "EXECUTE IMMEDIATE @x",
        "DROP",
        "DROP EVERYTHING x",
        "CREATE THING x",
        "EXPLAIN",
        "DESCRIBE",
        "LOAD DATA",
        "HANDLER x READ FIRST",
        "PREPARE s FROM 'SELECT 1; SELECT 2'",
        "SET STATEMENT sql_mode = 'ANSI_QUOTES' FOR SELECT 1",
        "SELECT @a := 1",
        "BINLOG 'x'",
        "SELECT * FROM users PROCEDURE ANALYSE()",
        "PREPARE s FROM 'PREPARE t FROM \"SELECT 1\"'",
        "COMMIT x",
        "USE",
        "USE a b",
        "BEGIN WORK x",
        "SHOW TABLES WHERE (SELECT 1)",
        "SELECT 1 INTO x",
        "SELECT (SELECT 1 INTO @a)",
        "INSERT INTO orders SELECT 1 INTO @a",
    ],
)
def test_what_is_not_understood_is_unknown_and_says_why(text: str) -> None:
    analysis = judged(text).analysis
    assert analysis.unknown
    assert analysis.why


def test_execute_runs_what_was_prepared() -> None:
    state = apply(
        session(), "PREPARE s FROM 'DELETE FROM users WHERE id = ?'", "PREPARE T FROM 'SELECT ssn FROM users'"
    )
    analysis = judged("EXECUTE S USING @a", state).analysis
    assert analysis.writes == ("shop.users",)
    assert E.DATA_DELETE in analysis.effects
    assert judged("EXECUTE t", state).analysis.reads == ("shop.users",)
    apply(state, "DEALLOCATE PREPARE s")
    assert judged("EXECUTE s", state).analysis.unknown


def test_a_prepared_text_means_what_it_did_or_nothing() -> None:
    state = apply(session(), "PREPARE s FROM 'SELECT * FROM users'", "USE hr")
    assert judged("EXECUTE s", state).analysis.unknown  # the server still reads shop.users
    apply(state, "USE shop")
    assert judged("EXECUTE s", state).analysis.reads == ("shop.users",)
    assert not judged("EXECUTE s", state).analysis.unknown


def test_a_handler_reads_its_table() -> None:
    state = apply(session(), "HANDLER users OPEN AS h")
    assert judged("HANDLER H READ NEXT WHERE id > 1 LIMIT 2", state).analysis.reads == ("shop.users",)
    apply(state, "HANDLER h CLOSE")
    assert judged("HANDLER h READ NEXT", state).analysis.unknown


def test_the_mode_of_a_computed_value_is_followed() -> None:
    state = session(sql_mode=frozenset({"STRICT_TRANS_TABLES", "ONLY_FULL_GROUP_BY"}))
    apply(state, "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')")
    assert state.mode("ANSI_QUOTES")
    assert state.mode("STRICT_TRANS_TABLES")
    apply(state, "SET sql_mode = (SELECT REPLACE(@@sql_mode, 'ANSI_QUOTES', ''))")
    assert state.sql_mode == {"STRICT_TRANS_TABLES", "ONLY_FULL_GROUP_BY"}
    apply(state, "SET sql_mode = (SELECT REPLACE(@@sql_mode, 'ANSI_QUOTES', '') FROM dual)")
    assert state.sql_mode is None
    apply(state, "SET sql_mode = ''")
    assert state.sql_mode == frozenset()


def test_global_holds_for_what_follows() -> None:
    analysis = judged("SET GLOBAL general_log = 1, sql_mode = 'ANSI_QUOTES'").analysis
    assert {E.ADMIN_CONFIG, E.SESSION_PARSE_STATE} <= analysis.effects
    state = apply(session(), "SET GLOBAL general_log = 1, sql_mode = ''")
    assert state.sql_mode is None


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END", "create procedure"),
        ("CREATE PROCEDURE p() BEGIN SELECT 1; END; DROP TABLE users", "create procedure; drop table"),
        ("CREATE PROCEDURE p() SELECT 1; DROP TABLE users", "create procedure; drop table"),
        ("CREATE PROCEDURE p() SELECT 1 AS begin; DROP TABLE users", "create procedure; drop table"),
        ("CREATE PROCEDURE p() SELECT (1) begin; DROP TABLE users", "create procedure; drop table"),
        (
            "CREATE PROCEDURE p() BEGIN IF a THEN SELECT CASE WHEN 1 THEN 2 END; END IF; END; DROP TABLE users",
            "create procedure; drop table",
        ),
        (
            "CREATE PROCEDURE p() BEGIN SELECT CASE WHEN 1 THEN begin END; END; DROP TABLE users",
            "create procedure; drop table",
        ),
        (
            "CREATE PROCEDURE p() BEGIN WHILE 1 DO SELECT 1; END WHILE; END; DROP TABLE users",
            "create procedure; drop table",
        ),
        (
            "CREATE TRIGGER t AFTER UPDATE ON users FOR EACH ROW BEGIN SET @a = 1; END; DROP TABLE users",
            "create trigger; drop table",
        ),
        (
            "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO BEGIN DELETE FROM users; END; DROP TABLE users",
            "create event; drop table",
        ),
        (
            "CREATE FUNCTION f() RETURNS INT DETERMINISTIC BEGIN RETURN 1; END; DROP TABLE users",
            "create function; drop table",
        ),
    ],
)
def test_a_stored_program_ends_where_its_body_does(text: str, kinds: str) -> None:
    assert judged(text).analysis.kind == kinds


def test_a_stored_program_that_does_not_end_is_unknown() -> None:
    assert judged("CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2").analysis.unknown


def test_what_ran_unseen_changes_what_is_known() -> None:
    statement = judged("CALL p()").statements[0]
    assert [c.kind for c in statement.changes] == [ChangeKind.OPAQUE]
    state = apply(session(), "PREPARE s FROM 'SELECT 1'", "CALL p()")
    assert state.opaque
    assert state.charset == "utf8mb4"  # a routine gives it back
    assert judged("EXECUTE s", state).analysis.unknown
