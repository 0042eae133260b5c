"""What clients and tools send around their work passes a policy for readers, under both servers' rules."""

from __future__ import annotations

import pytest

from tests.support.mysql_statements import HARMLESS, judged, session, shop


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
@pytest.mark.parametrize(
    "text",
    [
        # mysql and mariadb, the command lines
        "select @@version_comment limit 1",
        "select USER()",
        "SELECT DATABASE()",
        "show databases",
        "select DATABASE(), USER() limit 1",
        # Connector/J
        "/* mysql-connector-j-9 (Revision: abc) */SELECT  @@session.auto_increment_increment AS a, "
        "@@character_set_client AS character_set_client, @@init_connect AS init_connect, @@sql_mode AS sql_mode, "
        "@@time_zone AS time_zone, @@transaction_isolation AS transaction_isolation, @@wait_timeout AS wait_timeout",
        "SET character_set_results = NULL",
        "SET autocommit=1",
        "SET sql_mode='STRICT_TRANS_TABLES'",
        "SHOW WARNINGS",
        "/* ping */ SELECT 1",
        # MariaDB Connector/J
        "set autocommit=1, session_track_schema=1, sql_mode = concat(@@sql_mode,',STRICT_TRANS_TABLES')",
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        # mysql-connector-python
        "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'",
        "SET @@session.autocommit = OFF",
        "SET @@session.time_zone = '+00:00'",
        # Django
        "SET SQL_AUTO_IS_NULL = 0",
        "SELECT VERSION(), @@sql_mode, @@default_storage_engine, @@sql_auto_is_null, @@lower_case_table_names, "
        "CONVERT_TZ('2001-01-01 01:00:00', 'UTC', 'UTC') IS NOT NULL",
        "SELECT `users`.`id` FROM `users` WHERE (`users`.`name` LIKE BINARY '%a%' AND NOT (`users`.`id` IN "
        "(SELECT U0.`user_id` FROM `orders` U0 WHERE U0.`total` > 1.5e0))) ORDER BY `users`.`id` ASC LIMIT 21",
        # mysqldump
        "/*!40100 SET @@SQL_MODE='' */",
        "/*!40103 SET TIME_ZONE='+00:00' */",
        "SET SQL_QUOTE_SHOW_CREATE=1",
        "SELECT /*!40001 SQL_NO_CACHE */ * FROM `users`",
        "show create table `users`",
        "SHOW TABLE STATUS LIKE 'users'",
        "SET SESSION NET_READ_TIMEOUT= 86400, SESSION NET_WRITE_TIMEOUT= 86400",
        "START TRANSACTION /*!40100 WITH CONSISTENT SNAPSHOT */",
        "SELECT COLUMN_NAME, JSON_EXTRACT(JSON_OBJECT('a', 1), '$.a') FROM information_schema.TABLES",
        # graphical tools
        "SET SQL_SELECT_LIMIT=DEFAULT",
        "SHOW SESSION VARIABLES LIKE 'lower_case_table_names'",
        "SHOW FULL TABLES FROM `shop` WHERE `Table_type` IN ('BASE TABLE', 'VIEW')",
        "EXPLAIN SELECT * FROM users WHERE id = 1",
        "SELECT table_name, engine, row_format FROM information_schema.tables WHERE table_schema = DATABASE()",
        "SELECT COUNT(*) FROM (SELECT 1 FROM `shop`.`users`) dbvrcnt",
        "SELECT name, value, date, user, `key` FROM (SELECT 'a' AS name, 2 AS value, 3 AS date, 4 AS user, 5 AS"
        " `key`) t LIMIT 0, 200",
        # the drivers' own
        "SET time_zone='Europe/Berlin', tx_isolation='READ-COMMITTED'",
        "rollback",
        "COMMIT",
    ],
)
def test_it_passes(text: str, flavour: str) -> None:
    analysis = judged(text, session(flavour), shop(flavour)).analysis
    assert analysis.effects <= HARMLESS, (analysis.effects, analysis.why)
