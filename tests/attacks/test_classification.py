"""The case files against real catalogs: nothing dangerous passes a read-only policy, nothing harmless is stopped.

Attack rows 11 (hidden writes), 12 (prepared names, cursors, calls), 13 (what does not parse), 14 (startup parameters)
and 15 (roles). The decision function here is the reference policy of `cases/README.md`, not a shipped bundle.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from psycopg import pq

from protocols.contract import Action, Analysis, Decision
from protocols.postgres.catalog import Catalog
from protocols.postgres.judge_lines import judge_line
from scripts.support.postgres import PostgresServer
from tests.support.statements import HARMLESS, load

CASES = Path(__file__).parent / "cases"
# the sample's names of effects that the vocabulary spells differently
SPELLING = {
    "priv.setrole": {"session.role"},
    "exec.function": {"exec.call"},
    "data.insert": {"data.insert", "data.write", "ddl.create"},
    "data.update": {"data.update", "data.write"},
    "data.delete": {"data.delete", "exec.call", "exec.cast", "exec.procedure", "exec.dynamic"},
    "data.copy": {"ddl.create"},
}


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / name).read_text("utf-8").splitlines()]


ALL = [*cases("classification.jsonl"), *cases("own_classification.jsonl")]


def decide(analysis: Analysis) -> Decision:
    if analysis.effects <= HARMLESS:
        return Decision(Action.ALLOW, "read", "")
    return Decision(Action.DENY, "default", "no rule allows this")


class Catalogs:
    """Catalogs of the base schema plus a case's setup, read inside a transaction that is rolled back."""

    def __init__(self, server: PostgresServer) -> None:
        self.connection = server.connect()
        self.major = server.installation.major
        self.connection.autocommit = True
        self.of = functools.lru_cache(maxsize=None)(self._of)

    def _of(self, setup: Sequence[str]) -> Catalog:
        connection = self.connection
        connection.execute("BEGIN")
        try:
            for sql in ((CASES / "base_pg_classification.sql").read_text("utf-8"), *setup):
                result = connection.pgconn.exec_(sql.encode())
                assert result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK), result.error_message
            return load(connection)
        finally:
            connection.execute("ROLLBACK")


@pytest.fixture(scope="module")
def catalogs(server: PostgresServer) -> Iterator[Catalogs]:
    held = Catalogs(server)
    yield held
    held.connection.close()


@pytest.mark.parametrize("case", ALL, ids=[c["id"] for c in ALL])
def test_nothing_dangerous_passes_and_nothing_harmless_is_stopped(case: dict[str, Any], catalogs: Catalogs) -> None:
    if not case.get("min_server", 0) <= catalogs.major <= case.get("max_server", 99):
        pytest.skip(f"the case is about servers {case.get('min_server', '')}..{case.get('max_server', '')}")
    try:
        catalog = catalogs.of(tuple(case["setup"]))
    except AssertionError as error:
        if any("EXTENSION" in step for step in case["setup"]):
            pytest.skip(f"an extension is not installed here: {error}")
        raise
    answer = judge_line(case, decide, catalog)
    assert set(answer) == {"id", "decision", "rule", "effects", "reads", "writes", "unknown", "why"}
    verdict = case["expected_verdict"]
    if verdict == "allow":
        assert answer["decision"] == "allow" or case.get("alt_verdict") == "hold", answer
    elif verdict != "any":
        assert answer["decision"] != "allow", answer


@pytest.mark.parametrize("case", [c for c in ALL if c["effects"]], ids=[c["id"] for c in ALL if c["effects"]])
def test_the_effects_are_the_right_ones(case: dict[str, Any], catalogs: Catalogs) -> None:
    if not case.get("min_server", 0) <= catalogs.major <= case.get("max_server", 99) or any(
        "EXTENSION" in step for step in case["setup"]
    ):
        pytest.skip("not about this server")
    answer = judge_line(case, decide, catalogs.of(tuple(case["setup"])))
    if answer["rule"] == "startup" or not answer["effects"] or answer["effects"] == ["unknown"]:
        return  # stopped before its effects could be known
    for effect in case["effects"]:
        assert SPELLING.get(effect, {effect}) & set(answer["effects"]), (effect, answer)


@pytest.mark.parametrize("case", [c for c in ALL if not c["setup"]], ids=[c["id"] for c in ALL if not c["setup"]])
def test_without_a_catalog_nothing_harmless_is_stopped(case: dict[str, Any]) -> None:
    answer = judge_line(case, decide, None)
    if case["expected_verdict"] == "allow":
        assert answer["decision"] == "allow" or case.get("alt_verdict") == "hold", answer
    elif answer["decision"] == "allow":
        # only what needs the catalog may pass, and it says so
        assert "without a catalog" in answer["why"], answer


def large(text: str, verdict: str) -> Any:
    return pytest.param(text, verdict, id=f"{text[:24].strip()}-{len(text)}")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        large("SELECT " + "+".join(["1"] * 4000), "allow"),
        large("SELECT * FROM users WHERE id IN (" + ",".join(map(str, range(20000))) + ")", "allow"),
        large("SELECT '" + "x" * 2_000_000 + "'", "allow"),
        large("SELECT '" + "x" * 2_000_000 + "'; DROP TABLE orders", "stop"),
        large("SELECT 1 /* " + "x" * 1_000_000 + " */; DROP TABLE orders", "stop"),
        large("SELECT 1;" * 1500 + "DROP TABLE orders", "stop"),
        large("SELECT 1 WHERE " + " AND ".join(["1=1"] * 5000) + "; DROP TABLE orders", "stop"),
        large(" UNION ALL ".join(["SELECT 1"] * 4000), "allow"),
        large("SELECT " + "(" * 20000 + "1" + ")" * 20000, "stop"),
        large("SELECT 1" + "::int" * 60000, "stop"),
        large("SELECT 1 " + "/*" * 30000 + "*/" * 30000, "stop"),
        large("SELECT " + "(SELECT " * 500 + "1" + ")" * 500, "stop"),
    ],
)
def test_size_is_no_way_around(text: str, verdict: str, catalogs: Catalogs) -> None:
    answer = judge_line({"id": 1, "input": text}, decide, catalogs.of(()))
    assert (answer["decision"] == "allow") == (verdict == "allow"), {**answer, "why": answer["why"][:200]}
