"""The caches of verdicts: they save work, and never give an answer that a fresh look would not."""

from __future__ import annotations

from typing import Any

import pytest

from guard.record.redact import redact_params, redact_sql
from protocols.contract import Action, Analysis, Decision
from protocols.postgres import judging
from protocols.postgres.judging import AnalysisCache
from tests.support import wire
from tests.support.talk import Talk, catalog
from tests.support.wire import complete, query, ready


class Counting:
    """Counts analyses and decisions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.analysed: list[bytes] = []
        self.decided = 0
        real = judging.analyse

        def counted(text: bytes, *rest: Any) -> Any:
            self.analysed.append(text)
            return real(text, *rest)

        monkeypatch.setattr(judging, "analyse", counted)

    def decide(self, analysis: Analysis) -> Decision:
        self.decided += 1
        return Decision(Action.ALLOW, "all", "")


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def ask(talk: Talk, sql: str | bytes, tag: str = "SELECT 0") -> dict[str, Any]:
    """Runs a statement; its command record."""
    talk.client(query(sql))
    talk.server(complete(tag), ready())
    return talk.last("command")


def test_the_same_text_is_analysed_and_decided_once(counting: Counting) -> None:
    talk = Talk(counting.decide)
    for _ in range(5):
        assert ask(talk, "SELECT id FROM users WHERE id = 1")["text"] == "SELECT id FROM users WHERE id = 1"
    assert (len(counting.analysed), counting.decided) == (1, 1)


def test_the_same_shape_is_analysed_once_and_each_text_recorded(counting: Counting) -> None:
    talk = Talk(counting.decide)
    texts = [f"SELECT total FROM orders WHERE id = {i}" for i in range(5)]
    assert [ask(talk, t)["text"] for t in texts] == texts
    assert len(counting.analysed) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT set_config('application_name', 'x', false)", "SELECT set_config('role', 'x', false)"),
        ("DELETE FROM users WHERE 1 = 2", "DELETE FROM users WHERE 1 = 1"),
        ("SET application_name = 'x'", "SET search_path = 'x'"),
        ("SELECT nextval('a')", "SELECT nextval('b')"),
        ("SELECT id FROM users", "SELECT ssn FROM users"),
        ("SELECT id, ssn FROM users", "SELECT ssn, id FROM users"),
        ("EXECUTE a", "EXECUTE b"),
        ("BEGIN READ ONLY", "BEGIN READ WRITE"),
        ("SELECT id FROM users LIMIT 1", "SELECT id FROM users LIMIT ALL"),
        ("SELECT '1'", "SELECT 1"),
        ("SELECT * FROM users WHERE id = 1", "SELECT * FROM users WHERE id = '1'"),
    ],
)
def test_texts_of_different_meaning_never_share_an_analysis(counting: Counting, one: str, other: str) -> None:
    cache = AnalysisCache()
    fresh = [ask(Talk(counting.decide), sql, "X") for sql in (one, other)]
    talk = Talk(counting.decide, cache=cache)
    cached = [ask(talk, sql, "X") for sql in (one, other, one, other)]
    for found, want in zip(cached, fresh * 2, strict=True):
        assert {k: found[k] for k in ("kind", "effects", "reads", "writes", "columns", "text")} == {
            k: want[k] for k in ("kind", "effects", "reads", "writes", "columns", "text")
        }


def test_sessions_share_analyses_and_not_decisions(counting: Counting) -> None:
    cache = AnalysisCache()
    ask(Talk(counting.decide, cache=cache), "SELECT id FROM users")
    denied = Talk(lambda _: Decision(Action.DENY, "other", ""), cache=cache)
    denied.client(query("SELECT id FROM users"))
    assert denied.last("command")["decision"] == "deny"
    assert len(counting.analysed) == 1


def test_another_search_path_is_another_meaning(counting: Counting) -> None:
    cache = AnalysisCache()
    one = Talk(counting.decide, cache=cache)
    other = Talk(counting.decide, cache=cache)
    other.session.state.parameter_status("search_path", "evil")
    assert ask(one, "SELECT * FROM orders")["reads"] == ["public.orders"]
    assert ask(other, "SELECT * FROM orders")["reads"] == ["evil.orders"]
    assert ask(one, "SELECT * FROM orders")["reads"] == ["public.orders"]


def test_another_catalog_is_another_meaning(counting: Counting) -> None:
    talk = Talk(counting.decide)
    ask(talk, "SELECT * FROM orders")
    talk.port.snapshot = catalog("v1")  # looked at again, and the same
    ask(talk, "SELECT * FROM orders")
    assert len(counting.analysed) == 1
    talk.port.snapshot = catalog("v2")
    ask(talk, "SELECT * FROM orders")
    assert len(counting.analysed) == 2


def test_another_policy_is_asked_again(counting: Counting) -> None:
    talk = Talk(counting.decide)
    ask(talk, "SELECT * FROM orders")
    talk.port.epoch = object()
    ask(talk, "SELECT * FROM orders")
    assert (len(counting.analysed), counting.decided) == (1, 2)


def test_what_depends_on_names_of_the_session_is_analysed_each_time(counting: Counting) -> None:
    talk = Talk(counting.decide)
    ask(talk, "PREPARE a AS SELECT * FROM orders", "PREPARE")
    assert ask(talk, "EXECUTE a")["reads"] == ["public.orders"]
    ask(talk, "DEALLOCATE a", "DEALLOCATE")
    ask(talk, "PREPARE a AS SELECT * FROM users", "PREPARE")
    assert ask(talk, "EXECUTE a")["reads"] == ["public.users"]


def test_secrets_do_not_come_back_out_of_the_cache() -> None:
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    assert "hunter2" not in str(ask(talk, "SELECT id FROM users WHERE name = 'hunter2'"))
    assert ask(talk, "SELECT id FROM users WHERE name = 'plain'")["text"].endswith("'plain'")
    assert "hunter2" not in str(ask(talk, "SELECT id FROM users WHERE name = 'hunter2'"))


@pytest.mark.slow
def test_caches_are_bounded(counting: Counting) -> None:
    talk = Talk(counting.decide)
    for i in range(3000):
        ask(talk, f"SELECT id AS c{i} FROM users")
    judge = talk.session.judge
    assert len(judge._texts) <= judging.SESSION_TEXTS
    assert len(judge._shapes) <= judging.SESSION_TEXTS
    long = "SELECT " + ", ".join(["id"] * 5000) + " FROM users"
    ask(talk, long)
    ask(talk, long)
    assert counting.analysed.count(long.encode()) == 2
    assert wire.query(long)


def test_a_secret_is_known_by_its_place_whatever_its_number() -> None:
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    talk.port.redact, talk.port.redact_params = redact_sql, redact_params  # type: ignore[method-assign]
    for number in (1, 64, 65, 300):
        judge = talk.session.judge
        judge.epoch(talk.port.catalog())
        sql = f"SELECT id FROM users WHERE name = $2 AND api_key = ${number}"
        verdict = judge.judge(sql.encode(), talk.port.catalog())
        values = tuple(f"v{n}" for n in range(1, number + 1)) if number > 1 else ("v1", "v2")
        shown = judge.params(verdict, values)
        assert shown == redact_params(sql, values)
        assert shown[number - 1] != values[number - 1]
        assert verdict.redacted


def test_parameters_that_are_secrets_by_what_they_are() -> None:
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    talk.port.redact, talk.port.redact_params = redact_sql, redact_params  # type: ignore[method-assign]
    judge = talk.session.judge
    judge.epoch(talk.port.catalog())
    for sql in ("SELECT id FROM users WHERE name = $1", "SELECT id FROM users WHERE name = 'x' -- password"):
        verdict = judge.judge(sql.encode(), talk.port.catalog())
        for values in (("postgres://a:b@c/d", None), ("plain", None), ()):
            assert judge.params(verdict, values) == redact_params(sql, values)


def test_what_a_short_text_runs_is_on_record_whole_only_where_it_was_sent() -> None:
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    sql = "PREPARE s AS SELECT id FROM users WHERE id IN (" + ", ".join(["1"] * 2000) + ")"
    assert ask(talk, sql, "PREPARE")["text"] == sql
    assert ask(talk, "EXECUTE s", "SELECT 0")["runs"] == [f"{sql[:4096]}... ({len(sql)} characters)"]


def test_what_a_cursor_runs_is_made_ready_for_the_record_once() -> None:
    talk = Talk(lambda _: Decision(Action.ALLOW, "all", ""))
    asked: list[str] = []

    def redact(text: str) -> str:
        asked.append(text)
        return text

    talk.port.redact = redact  # type: ignore[method-assign]
    declare = "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM users WHERE name = 'x'"
    ask(talk, declare, "DECLARE CURSOR")
    asked.clear()
    for number in range(20):
        assert ask(talk, f"FETCH {number} FROM c", "FETCH 0")["runs"] == [declare]
    assert asked.count(declare) == 1
