"""MySQL's case files, without a catalog and against real ones: nothing dangerous passes, nothing harmless is stopped.

Attack rows 11 (hidden writes), 12 (prepared names, calls), 13 (what does not parse) and 16 (executable comments, modes,
multi-statements, PREPARE FROM, LOAD DATA LOCAL). The decision function is the reference policy of `cases/README.md`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from protocols.mysql.catalog import Catalog
from protocols.mysql.judge_lines import judge_line
from scripts.support.mysql import MySQLServer
from tests.support.mysql_statements import decide, load

CASES = Path(__file__).parent / "cases"
# the sample's names of effects that the vocabulary spells differently
SPELLING = {
    "priv.setrole": {"session.role"},
    "exec.function": {"exec.call"},
    "admin.replication": {"exfil.replication"},
    "data.update": {"data.update", "data.write"},
    "data.var": {"session.other"},
    "admin.lock": {"admin.lock"},
}


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / name).read_text("utf-8").splitlines()]


ALL = [*cases("classification_mysql.jsonl"), *cases("own_classification_mysql.jsonl")]
IDS = [c["id"] for c in ALL]


def right(case: dict[str, Any], decision: str) -> bool:
    if case["expected_verdict"] == "allow":
        return decision == "allow" or case.get("alt_verdict") == "hold"
    return case["expected_verdict"] == "any" or decision != "allow"


@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_without_a_catalog_only_what_a_catalog_would_show_may_pass(case: dict[str, Any]) -> None:
    answer = judge_line(case, decide, None)
    assert set(answer) == {"id", "decision", "rule", "effects", "reads", "writes", "unknown", "why"}
    if case.get("needs_catalog"):
        assert "without a catalog" in answer["why"]
    else:
        assert right(case, answer["decision"]), answer


@pytest.mark.parametrize("case", [c for c in ALL if c["effects"]], ids=[c["id"] for c in ALL if c["effects"]])
def test_the_effects_are_the_right_ones(case: dict[str, Any]) -> None:
    answer = judge_line(case, decide, None)
    if answer["unknown"]:
        return  # stopped as unknown: what it does was not looked at to its end
    for effect in case["effects"]:
        assert SPELLING.get(effect, {effect}) & set(answer["effects"]), (effect, answer)


class Catalogs:
    """Catalogs of the base schema plus a case's setup, each in the database `test`, made anew."""

    def __init__(self, server: MySQLServer) -> None:
        self.connection = server.connect()
        self.connection.autocommit(True)
        self.flavour = server.installation.flavour
        self.of = functools.lru_cache(maxsize=None)(self._of)

    def _of(self, setup: Sequence[str]) -> Catalog:
        with self.connection.cursor() as cursor:
            for sql in ("DROP DATABASE IF EXISTS test", "CREATE DATABASE test", "USE test"):
                cursor.execute(sql)
            for sql in (CASES / "base_mysql_classification.sql").read_text("utf-8").split(";\n"):
                if sql.strip():
                    cursor.execute(sql)
            for sql in setup:
                cursor.execute(sql)
        return load(self.connection, self.flavour)


@pytest.fixture(scope="module")
def catalogs(mysql_server: MySQLServer) -> Iterator[Catalogs]:
    held = Catalogs(mysql_server)
    yield held
    with held.connection.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS test")
    held.connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_nothing_dangerous_passes_and_nothing_harmless_is_stopped(case: dict[str, Any], catalogs: Catalogs) -> None:
    if catalogs.flavour not in case["servers"]:
        pytest.skip(f"the case is about {case['servers']}")
    if any("ROLE" in step for step in case["setup"]):
        setup: tuple[str, ...] = ()  # a role belongs to the whole server, and no catalog shows it
    else:
        setup = tuple(case["setup"])
    answer = judge_line(case, decide, catalogs.of(setup))
    assert right(case, answer["decision"]), answer


def large(text: str, verdict: str) -> Any:
    return pytest.param(text, verdict, id=f"{text[:24].strip()}-{len(text)}")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        large("SELECT " + "+".join(["1"] * 2000), "allow"),
        large("SELECT * FROM users WHERE id IN (" + ",".join(map(str, range(20000))) + ")", "allow"),
        large("SELECT '" + "x" * 2_000_000 + "'", "allow"),
        large("SELECT '" + "x" * 2_000_000 + "'; DROP TABLE orders", "stop"),
        large("SELECT 1 /* " + "x" * 1_000_000 + " */; DROP TABLE orders", "stop"),
        large("SELECT 1;" * 900 + "DROP TABLE orders", "stop"),
        large("SELECT 1;" * 1500 + "SELECT 1", "stop"),
        large("SELECT 1 WHERE " + " AND ".join(["1=1"] * 5000) + "; DROP TABLE orders", "stop"),
        large(" UNION ALL ".join(["SELECT 1"] * 500), "allow"),
        large("SELECT " + "(" * 20000 + "1" + ")" * 20000, "stop"),
        large("SELECT " + "-" * 60001 + "1", "stop"),
        large("SELECT " + "NOT " * 30000 + "1", "stop"),
        large("SELECT 1 " + "/*" * 30000 + "*/" * 30000, "stop"),
        large("SELECT " + "(SELECT " * 500 + "1" + ")" * 500, "stop"),
        large("SELECT CASE " + "WHEN 1 THEN CASE " * 3000 + "1", "stop"),
        large("SELECT 1; " + "DO 1;" * 20 + "SET @a='" + "y" * 100_000 + "'; TRUNCATE users", "stop"),
    ],
)
def test_size_is_no_way_around(text: str, verdict: str) -> None:
    answer = judge_line({"id": 1, "input": text}, decide, None)
    assert (answer["decision"] == "allow") == (verdict == "allow"), {**answer, "why": answer["why"][:200]}
