"""The masking cases by non-interference: two databases that differ in their secrets only must look the same.

Attack rows 22 (aliases, expressions, whole rows, views, set operations), 23 (COPY, cursors, RETURNING, errors), 24 and
25. What is not masked must be what the server says, so that no rule hides more than it must.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq

from scripts.support.lab import Lab
from scripts.support.postgres import Installation
from tests.support import adversary, wire

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CASES = Path(__file__).parent / "cases"
POLICY = """
version: 1
name: masking-cases
description: everything is allowed, so that only masks stand before the data
rules:
  - id: everything
    description: but what tells secrets of its own, which no mask of a column covers
    allow: ["data.*", "ddl.*", "exec.*", "session.*", tx, cursor, prepare, show, probe, "admin.*", unknown]
  - id: masked
    description: the columns that the cases call sensitive
    mask:
      columns: [public.users.email, public.users.ssn, public.cards.pan, "public.people*.ssn", "public.parted*.ssn",
        public.derived.ssn]
      strategy: redact
"""
SECRETS = {
    "A": ("ann@example", "bob@example", "123-45-6789", "219-09-9999", "4111111111111111"),
    "B": ("zoe@example", "max@example", "457-55-5462", "078-05-1120", "4012888888881881"),
}
NOT_HERE = {
    "mk-rel-112": "which row is first depends on the secret",
    "mk-rel-118": "content, not columns",
    "mk-side-164": "a channel that the policy here leaves closed",
}


def cases() -> list[dict[str, Any]]:
    lines = [
        line for name in ("masking.jsonl", "own_masking.jsonl") for line in (CASES / name).read_text().splitlines()
    ]
    found = [json.loads(line) for line in lines]
    return [c for c in found if not c.get("setup") and c["id"] not in NOT_HERE and c["expected_verdict"] != "inference"]


ALL = cases()


@dataclass(frozen=True)
class Answer:
    rows: list[list[bytes | None]]
    copied: list[bytes]
    told: list[str]  # errors
    seen: str  # everything that can be read


class Side:
    """One database behind its gateway."""

    def __init__(self, lab: Lab, major: int) -> None:
        self.lab, self.major = lab, major

    def ask(self, case: dict[str, Any]) -> Answer:
        with adversary.session(self.lab) as session:
            for step in (["BEGIN"] if case.get("writes") else []) + (case.get("prelude") or []):
                assert not adversary.errors(session.ask(step)), step
            found = session.ask(case["input"])
        raw = adversary.bytes_of(found)
        return Answer(
            [list(row) for row in wire.rows(raw)],
            [body for kind, body in found if kind == "d"],
            [f"{e.get('C')} {e.get('M')} {e.get('D', '')}" for e in adversary.errors(found)],
            raw.decode("utf-8", "replace").lower(),
        )

    def direct(self, case: dict[str, Any]) -> list[list[bytes | None]]:
        with self.lab.server.connect() as connection:
            try:
                for step in (["BEGIN"] if case.get("writes") else []) + (case.get("prelude") or []):
                    connection.execute(step.encode())
                result = connection.pgconn.exec_(case["input"].encode())
                if result.status != pq.ExecStatus.TUPLES_OK:
                    return []
                return [[result.get_value(r, c) for c in range(result.nfields)] for r in range(result.ntuples)]
            except psycopg.Error:
                return []
            finally:
                connection.pgconn.exec_(b"ROLLBACK")  # leaving the block would commit


@pytest.fixture(scope="module")
def sides(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Side]]:
    folder = tmp_path_factory.mktemp("masking-cases")
    (folder / "policy.yaml").write_text(POLICY)
    labs: list[Lab] = []
    try:
        found = {}
        for data in ("A", "B"):
            setup = folder / f"{data}.sql"
            setup.write_text(
                (CASES / "base_pg_masking.sql").read_text() + (CASES / f"data_pg_masking_{data}.sql").read_text() + ";"
            )
            labs.append(Lab([folder / "policy.yaml"], setup=setup, installation=installation, tls="off"))
            found[data] = Side(labs[-1], installation.major)
        yield found
    finally:
        for lab in labs:
            lab.stop()


@pytest.mark.parametrize("case", ALL, ids=[c["id"] for c in ALL])
def test_no_secret_shows_and_nothing_else_is_hidden(case: dict[str, Any], sides: dict[str, Side]) -> None:
    if sides["A"].major < case.get("min_server", 0):
        pytest.skip("syntax of a newer server")
    one, other = sides["A"].ask(case), sides["B"].ask(case)
    for answer, data in ((one, "A"), (other, "B")):
        assert not [secret for secret in SECRETS[data] if secret in answer.seen], answer
    verdict = case["expected_verdict"]
    if verdict in ("scrub_channel", "server_error", "refuse"):
        assert one.told == other.told
        return
    assert one.copied == other.copied
    masked = set(case.get("mask_columns") or ())
    if not one.rows:
        assert one.copied or one.told
        return
    for first, second in zip(one.rows, other.rows, strict=True):
        assert [first[i] for i in masked] == [second[i] for i in masked]
    if verdict in ("mask", "clear") and not case.get("loose"):
        true = sides["A"].direct(case)
        assert len(true) == len(one.rows)
        for shown, real in zip(one.rows, true, strict=True):
            assert [v for i, v in enumerate(shown) if i not in masked] == [
                v for i, v in enumerate(real) if i not in masked
            ]
