"""The caches of verdicts: they save work, and never give an answer that a fresh look would not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.mysql import judging
from protocols.mysql.judging import AnalysisCache, Judge
from protocols.mysql.state import SessionState
from tests.support.mysql_statements import apply, session, shop


class Port:
    """What a judge asks of its session, with counters."""

    masker = None

    apart = False

    def __init__(self) -> None:
        self.decided: list[Analysis] = []
        self.epoch: object = object()
        self.now = 10**9
        self.valid_until = float("inf")
        self.denied: frozenset[Effect] = frozenset()

    def decide(self, analysis: Analysis) -> Decision:
        self.decided.append(analysis)
        action = Action.DENY if analysis.effects & self.denied else Action.ALLOW
        return Decision(action, "all", "", valid_until=self.valid_until)

    def policy_epoch(self) -> object:
        return self.epoch

    def now_ns(self) -> int:
        return self.now

    def redact(self, text: str) -> str:
        return text.replace("hunter2", "[redacted]")

    def redact_params(self, text: str, values: Sequence[str | None]) -> tuple[str | None, ...]:
        return tuple("[redacted]" for _ in values) if "secret" in text else tuple(values)


class Desk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.port, self.state, self.catalog = Port(), session(), shop()
        self.analysed: list[bytes] = []
        real = judging.analyse

        def counted(text: bytes, *rest: Any) -> Any:
            self.analysed.append(text)
            return real(text, *rest)

        monkeypatch.setattr(judging, "analyse", counted)
        self.cache = AnalysisCache()
        self.judge = self.another(self.state)

    def another(self, state: SessionState) -> Judge:
        return Judge(self.port, state, self.cache)  # type: ignore[arg-type]  # only what a judge asks

    def ask(self, text: str, judge: Judge | None = None) -> Any:
        used = judge if judge is not None else self.judge
        used.epoch(self.catalog)
        return used.judge(text.encode(), self.catalog)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_the_same_text_is_analysed_and_decided_once(desk: Desk) -> None:
    first, second = desk.ask("SELECT id FROM users"), desk.ask("SELECT id FROM users")
    assert first is second
    assert len(desk.analysed) == len(desk.port.decided) == 1


def test_texts_of_one_shape_share_an_analysis_but_not_their_text(desk: Desk) -> None:
    first, second = desk.ask("SELECT id FROM users WHERE id = 1"), desk.ask("SELECT id FROM users WHERE id = 22")
    assert len(desk.analysed) == 1
    assert second.text == b"SELECT id FROM users WHERE id = 22"
    assert b"id = 22" in second.fixed
    assert first.command is second.command


def test_a_text_whose_constants_were_read_shares_with_none(desk: Desk) -> None:
    assert desk.ask("DELETE FROM users WHERE 1 = 1").command.analysis.where.value == "always_true"
    assert desk.ask("DELETE FROM users WHERE 1 = 2").command.analysis.where.value == "present"
    assert len(desk.analysed) == 2


def test_what_rests_on_prepared_names_is_looked_at_each_time(desk: Desk) -> None:
    apply(desk.state, "PREPARE s FROM 'SELECT 1'")
    assert not desk.ask("EXECUTE s").command.analysis.writes
    apply(desk.state, "PREPARE s FROM 'TRUNCATE users'")
    assert desk.ask("EXECUTE s").command.analysis.writes == ("shop.users",)


def test_another_session_shares_the_analysis_and_decides_itself(desk: Desk) -> None:
    desk.ask("SELECT id FROM users")
    desk.ask("SELECT id FROM users", desk.another(session()))
    assert len(desk.analysed) == 1
    assert len(desk.port.decided) == 2


def test_another_meaning_is_another_analysis(desk: Desk) -> None:
    desk.ask('SELECT "id" FROM users')
    apply(desk.state, "SET sql_mode = 'ANSI_QUOTES'")
    assert desk.ask('SELECT "id" FROM users').command.analysis.columns == ("shop.users.id",)
    apply(desk.state, "USE hr")
    assert desk.ask("SELECT id FROM users").command.analysis.reads == ("hr.users",)


def test_another_policy_or_catalog_ends_every_verdict(desk: Desk) -> None:
    desk.ask("SELECT id FROM users")
    before = desk.judge.epoch(desk.catalog)
    desk.port.epoch = object()
    assert desk.judge.epoch(desk.catalog) is not before
    desk.ask("SELECT id FROM users")
    assert len(desk.port.decided) == 2
    desk.catalog = shop()
    desk.catalog.version = "v2"
    desk.ask("SELECT id FROM users")
    assert len(desk.analysed) == 2


def test_a_decision_that_ran_out_is_asked_for_again(desk: Desk) -> None:
    desk.port.valid_until = 2.0
    desk.ask("SELECT id FROM users")
    desk.port.now = 3 * 10**9
    desk.ask("SELECT id FROM users")
    assert len(desk.port.decided) == 2


def test_the_whole_and_each_part_must_be_allowed(desk: Desk) -> None:
    desk.port.denied = frozenset({Effect.DATA_DELETE})
    verdict = desk.ask("SELECT 1; DELETE FROM orders WHERE id = 1")
    assert verdict.decision.action is Action.DENY
    assert len(desk.port.decided) == 3


def test_without_a_catalog_what_names_anything_is_unknown(desk: Desk) -> None:
    desk.judge.epoch(None)
    assert desk.judge.judge(b"SELECT id FROM users", None).command.analysis.unknown
    assert not desk.judge.judge(b"SELECT 1", None).command.analysis.unknown
    assert not desk.cache.texts


def test_secrets_do_not_go_on_record(desk: Desk) -> None:
    verdict = desk.ask("SELECT 'hunter2'")
    assert verdict.redacted
    assert b"hunter2" not in verdict.fixed
    assert desk.ask("SELECT id FROM users WHERE secret = ?").redacted


def test_a_newer_catalog_ends_the_doubt_about_own_definitions(desk: Desk) -> None:
    apply(desk.state, "ALTER TABLE users ADD COLUMN x INT")
    assert desk.state.definitions_changed
    assert not desk.ask("SELECT id FROM users").command.analysis.unknown
    assert not desk.state.definitions_changed


def test_changes_and_renames_are_told(desk: Desk) -> None:
    assert desk.ask("CREATE TABLE t (a INT)").renames
    assert desk.ask("SET autocommit = 0").changes
    verdict = desk.ask("SELECT 1")
    assert not verdict.renames
    assert not verdict.changes
    assert dataclasses.is_dataclass(verdict)


def test_columns_named_by_strings_are_not_one_shape(desk: Desk) -> None:
    one = desk.ask("SELECT b FROM (SELECT ssn AS 'a', id AS 'b' FROM users) t WHERE b = 1")
    other = desk.ask("SELECT b FROM (SELECT ssn AS 'b', id AS 'a' FROM users) t WHERE b = 1")
    assert one.command.analysis.predicates == ("shop.users.id",)
    assert other.command.analysis.predicates == ("shop.users.ssn",)
    assert desk.ask("SELECT id 'x' FROM users").command.analysis.cacheable.value == "text"
    assert (
        desk.ask("SELECT id FROM users WHERE name = 'x' AND email IN ('a', 'b')").command.analysis.cacheable.value
        == "shape"
    )
