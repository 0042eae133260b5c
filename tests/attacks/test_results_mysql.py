"""What sensitive values try to leave MySQL and MariaDB by: rows 22 to 25 of the threat table, on real servers.

Non-interference: the same statement runs over two sets of data that differ in nothing but what is masked, through a
session with masks. Every byte that its client sees, and everything on record, must be the same. The cases say besides
which columns are masked, so that nothing is withheld without need.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from protocols.contract import MaskRule
from protocols.mysql.catalog import Catalog
from scripts.support.mysql import MySQLServer
from tests.support.mysql_masked import Answer, Masked, recorded, source

pytestmark = pytest.mark.slow

CASES = Path(__file__).parent / "cases"
RULES = (MaskRule("hide", ("*.users.ssn", "*.users.email"), (), "redact"),)
SCHEMA = """
CREATE TABLE users(id int primary key,email varchar(80),name varchar(80),ssn varchar(20),salary int);
CREATE TABLE orders(id int primary key,user_id int,total int);
INSERT INTO orders VALUES (1,1,10),(2,2,7);
CREATE VIEW v_contact AS SELECT id, email AS contact FROM users;
CREATE FUNCTION f_ssn(i int) RETURNS varchar(20) READS SQL DATA RETURN (SELECT ssn FROM users WHERE id=i);
CREATE PROCEDURE p_all() SELECT id,ssn FROM users ORDER BY id;
CREATE VIEW v_deep AS SELECT c.id, c.contact FROM v_contact c;
CREATE VIEW v_func AS SELECT id, f_ssn(id) AS x FROM orders;
CREATE VIEW v_star AS SELECT * FROM users;
CREATE VIEW v_union AS SELECT id, name FROM users UNION SELECT id, ssn FROM users;
CREATE VIEW v_count AS SELECT count(*) AS n FROM users;
CREATE VIEW v_roll AS SELECT name, MAX(ssn) AS s FROM users GROUP BY name WITH ROLLUP;
CREATE VIEW v_json AS SELECT u.id, j.s FROM users u, JSON_TABLE(JSON_ARRAY(u.ssn), '$[*]'
  COLUMNS (s VARCHAR(30) PATH '$' DEFAULT '"x"' ON EMPTY)) j;
CREATE TABLE gen (id int primary key, name varchar(30), secret varchar(30), h varchar(80) AS (SHA2(secret,256)),
                  inv int DEFAULT 3 INVISIBLE);
CREATE TABLE numbered (id int AUTO_INCREMENT PRIMARY KEY, v int)
"""
DATA = {
    "a": (("ann@example.com", "123-45-6789"), ("bob@example.com", "219-09-9999")),
    "b": (("zoe@example.org", "457-55-5462"), ("max@example.net", "078-05-1120")),
}
SECRETS = [value for rows in DATA.values() for row in rows for value in row]


def _own() -> Iterator[dict[str, Any]]:
    for line in (CASES / "mysql_masks.jsonl").read_text().splitlines():
        yield json.loads(line)


def _given() -> Iterator[dict[str, Any]]:
    """The MySQL rows of the shared sample, in the form of our own."""
    for line in (CASES / "masking_mysql.jsonl").read_text().splitlines():
        case = json.loads(line)
        verdict = case["expected_verdict"]
        masked = case["mask_columns"] if verdict in ("mask", "clear") else None
        servers = {"server": "mariadb"} if case["id"] in _MARIADB else {}
        binary = {"binary": True} if case["protocol"] == "binary" else {}
        yield {"id": case["id"], "sql": case["input"], "prelude": case["prelude"], "masked": masked} | servers | binary


# what MySQL itself refuses: RETURNING, statistics tables, computed texts, MD5 (gone in 9.6), ORDER BY outside DISTINCT
_MARIADB = {"mm-chan-045", "mm-chan-049", "mm-func-043", "mm-expr-010", "mm-rel-036", "mm-side-054"}
ALL = [*_own(), *_given()]


class World:
    """A schema `work` with one set of data."""

    def __init__(self, server: MySQLServer) -> None:
        self.server = server
        self.catalog: Catalog | None = None  # None: the schema may not be as it was made

    def fill(self, data: str) -> Catalog:
        with contextlib.closing(self.server.connect()) as connection, connection.cursor() as cursor:
            if self.catalog is None:
                for statement in ("DROP DATABASE IF EXISTS work", "CREATE DATABASE work", "USE work"):
                    cursor.execute(statement)
                for statement in SCHEMA.split(";\n"):
                    cursor.execute(statement)
                for i in (1, 2):
                    cursor.execute("INSERT INTO users VALUES (%s,'','User',%s,%s)", (i, i, i * 1000))
                cursor.execute("ANALYZE TABLE users, orders")  # or its plans, and with them flags of columns, vary
                with source(self.server) as opened:
                    self.catalog = opened.load()
            for i, (email, ssn) in enumerate(DATA[data], 1):
                cursor.execute("UPDATE work.users SET email=%s, ssn=%s WHERE id=%s", (email, ssn, i))
        return self.catalog

    def run(self, data: str, case: Mapping[str, Any], *, binary: bool) -> Answer:
        session = Masked(self.server, self.fill(data), RULES, "work")
        try:
            for statement in case.get("prelude", ()):
                session.query(statement)
            answer = session.execute(case["sql"]) if binary else session.query(case["sql"])
        finally:
            session.close()
        if _WRITES.search(" ".join((case["sql"], *case.get("prelude", ())))):
            self.catalog = None
        return answer


_WRITES = re.compile(r"(?i)\b(?:insert|replace into|update|delete|create|analyze table)\b")


@pytest.fixture(scope="module")
def world(mysql_server: MySQLServer) -> World:
    return World(mysql_server)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "prepared"])
@pytest.mark.parametrize("case", ALL, ids=lambda case: str(case["id"]))
def test_nothing_that_the_client_sees_depends_on_what_is_masked(
    world: World, case: Mapping[str, Any], binary: bool, request: pytest.FixtureRequest
) -> None:
    if "xfail" in case:
        request.applymarker(pytest.mark.xfail(strict=True, reason=case["xfail"]))
    flavour = world.server.installation.flavour
    if case.get("server", flavour) != flavour:
        pytest.skip(f"a statement of {case['server']}")
    if case.get("binary") and not binary:
        pytest.skip("a case of the binary protocol")
    one, other = (world.run(data, case, binary=binary) for data in DATA)
    assert one.data == other.data
    assert _static(one) == _static(other)
    for secret in SECRETS:
        if secret not in case["sql"] and secret not in str(case.get("prelude")):
            assert secret.encode() not in one.data
            assert secret.encode() not in recorded(one)
    if case["masked"] is not None and one.masked is not None:
        assert one.masked == frozenset(case["masked"])
    elif case["masked"]:
        assert binary, "the statement gave no rows"  # not everything can be prepared


def _static(answer: Answer) -> list[dict[str, Any]]:
    """The records without the times in them."""
    return [{k: v for k, v in r.items() if k not in ("at", "us")} for r in answer.records]
