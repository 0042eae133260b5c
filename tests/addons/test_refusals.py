"""A flood of bad logins fills no journal, and every one of them is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from addons import refusals
from addons.refusals import EACH, PERIOD, Refusals


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.refusals = Refusals(self._record, lambda: self.now)

    def _record(self, kind: str, payload: Mapping[str, Any]) -> None:
        self.records.append((kind, dict(payload)))

    def refuse(self, client: str = "10.0.0.7", why: str = "expired", listener: str = "db") -> None:
        known = {"listener": listener, "resource": "shop", "client": client, "claimed_user": "ada", "why": why}
        self.refusals.add("session.refused", known)

    @property
    def total(self) -> int:
        return sum(record.get("count", 1) for _, record in self.records)


def test_few_are_recorded_as_they_are() -> None:
    bench = Bench()
    for _ in range(EACH):
        bench.refuse()
    bench.now = PERIOD
    bench.refusals.flush()
    assert len(bench.records) == EACH
    assert all(record["claimed_user"] == "ada" and "count" not in record for _, record in bench.records)


def test_a_flood_is_counted_by_reason() -> None:
    bench = Bench()
    for number in range(10 * EACH):
        bench.refuse(why="expired" if number % 4 else "no token")
    bench.refusals.flush()
    assert len(bench.records) == EACH  # its period is not over
    bench.now = PERIOD
    bench.refusals.flush()
    assert len(bench.records) == EACH + 1
    assert bench.total == 10 * EACH
    kind, last = bench.records[-1]
    assert (kind, last["client"], last["listener"], last["resource"]) == ("session.refused", "10.0.0.7", "db", "shop")
    assert last["why"] == "900 more within 60 s: 675 x expired; 225 x no token"
    bench.refuse()  # and the next period begins anew
    assert "count" not in bench.records[-1][1]


def test_another_client_or_listener_is_not_hidden_by_it() -> None:
    bench = Bench()
    for _ in range(2 * EACH):
        bench.refuse()
    bench.refuse(client="10.0.0.8", why="contained")
    bench.refuse(listener="other", why="no policy")
    assert [record["why"] for _, record in bench.records[-2:]] == ["contained", "no policy"]


def test_reasons_and_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_CLIENTS", 5)
    bench = Bench()
    for number in range(EACH + 100):
        bench.refuse(why=f"database `{number}` is not here")
    for number in range(10 * EACH):
        bench.refuse(client=f"fd00::{number:x}")
    assert len(bench.refusals._counts) == 6
    bench.refusals.flush(everything=True)
    assert bench.total == EACH + 100 + 10 * EACH
    assert "other reasons" in next(record["why"] for _, record in bench.records if record.get("count") == 100)
    assert bench.records[-1][1]["client"] == "(other clients)"
    assert bench.refusals._counts == {}


def test_cancel_requests_have_no_reason() -> None:
    bench = Bench()
    for _ in range(EACH + 7):
        bench.refusals.add("cancel.refused", {"listener": "db", "client": "10.0.0.7"})
    bench.refusals.flush(everything=True)
    assert bench.records[-1] == ("cancel.refused", {"listener": "db", "client": "10.0.0.7", "count": 7})


def test_calls_without_a_token_fill_no_journal_and_hide_nobody_who_has_one() -> None:
    bench = Bench()
    told = {"method": "status", "params": {}, "peer": {"pid": 1, "uid": 1000}, "listener": "control socket"}
    for _ in range(5 * EACH):
        bench.refusals.add("admin.refused", {**told, "client": "uid 1000", "why": "no token"})
    named = {**told, "client": "mallory, uid 1000", "by": "mallory", "why": "takes the role approver"}
    bench.refusals.add("admin.refused", named)
    assert bench.records[-1] == ("admin.refused", named)
    bench.refusals.flush(everything=True)
    assert len(bench.records) == EACH + 2
    assert bench.records[-1][1]["why"] == "400 more within 60 s: 400 x no token"
