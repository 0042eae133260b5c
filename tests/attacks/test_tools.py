"""What psql's backslash commands ask, captured from psql 15 and 18: a read-only analyst must be able to look around."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocols.contract import Action, Analysis, Decision
from protocols.postgres.catalog import Catalog
from protocols.postgres.judge_lines import judge_line
from scripts.support.postgres import PostgresServer
from tests.support.statements import HARMLESS, load

ASKED = [json.loads(line) for line in (Path(__file__).parent / "cases" / "psql.jsonl").read_text("utf-8").splitlines()]


def decide(analysis: Analysis) -> Decision:
    if analysis.effects <= HARMLESS:
        return Decision(Action.ALLOW, "read", "")
    return Decision(Action.DENY, "default", "no rule allows this")


@pytest.fixture(scope="module")
def catalog(server: PostgresServer) -> Iterator[Catalog]:
    with server.connect() as connection:
        yield load(connection)


@pytest.mark.parametrize("asked", ASKED, ids=[a["id"] for a in ASKED])
def test_psql_can_look_around_and_sees_no_secret(asked: dict[str, Any], catalog: Catalog) -> None:
    for known in (catalog, None):
        answer = judge_line(asked, decide, known)
        assert (answer["decision"] == "allow") == (asked["expected_verdict"] == "allow"), answer
