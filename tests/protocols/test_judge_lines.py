"""What every statement judge shares."""

from __future__ import annotations

import pytest

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.judge_lines import JudgeError, input_bytes, prelude
from protocols.judging import decision_on
from protocols.mysql.judge_lines import judge_line as judge_mysql
from protocols.postgres.judge_lines import judge_line as judge_postgres


def each_on_its_own(analysis: Analysis) -> Decision:
    """Lets a command pass that touches both tables or none, and `b` alone never: a part may be worse than the whole."""
    alone = [name for name in (*analysis.reads, *analysis.writes) if name.endswith(".b")]
    both = any(name.endswith(".a") for name in (*analysis.reads, *analysis.writes))
    return Decision(Action.DENY if alone and not both else Action.ALLOW, "test", "")


@pytest.mark.parametrize(
    ("judge", "prefix"), [(judge_postgres, "public"), (judge_mysql, "test")], ids=["postgres", "mysql"]
)
def test_each_statement_of_a_text_must_be_allowed(judge, prefix: str) -> None:  # type: ignore[no-untyped-def]
    def decide(text: str) -> str:
        return str(judge({"id": 1, "input": text}, each_on_its_own, None)["decision"])

    assert decide(f"SELECT 1 FROM {prefix}.a") == "allow"
    assert decide(f"SELECT 1 FROM {prefix}.a, {prefix}.b") == "allow"
    assert decide(f"SELECT 1 FROM {prefix}.a; SELECT 1 FROM {prefix}.b") == "deny"


def test_the_strictest_of_whole_and_parts_decides() -> None:
    order = iter([Action.ALLOW, Action.HOLD, Action.TERMINATE, Action.DENY])
    part = Analysis("select", frozenset({Effect.DATA_SELECT}))
    found = decision_on(part, [part, part, part], lambda _: Decision(next(order), "test", ""))
    assert found.action is Action.TERMINATE


@pytest.mark.parametrize(
    "line", [{}, {"input": 1}, {"input_hex": "zz"}, {"input_hex": None, "input": "SELECT 1"}, {"input": "\ud800"}]
)
def test_a_line_without_a_text_is_refused(line: dict[str, object]) -> None:
    with pytest.raises(JudgeError):
        input_bytes(line, 100)


def test_of_both_forms_the_bytes_count() -> None:
    assert input_bytes({"input": "SELECT 1", "input_hex": b"DROP TABLE x".hex()}, 100) == b"DROP TABLE x"


def test_a_text_that_no_gateway_would_inspect_is_refused() -> None:
    assert input_bytes({"input": "é" * 50}, 100) == "é".encode() * 50
    with pytest.raises(JudgeError, match="above the inspection limit of 100 bytes"):
        input_bytes({"input": "é" * 51}, 100)
    with pytest.raises(JudgeError):
        judge_postgres({"input": "SELECT '" + "x" * (16 << 20) + "'"}, each_on_its_own, None)


@pytest.mark.parametrize("given", [[], "on", 1, {"a": {"b": 1}}, {"a": [1]}])
@pytest.mark.parametrize("key", ["startup", "session"])
@pytest.mark.parametrize("judge", [judge_postgres, judge_mysql], ids=["postgres", "mysql"])
def test_settings_that_are_none_are_refused(judge, key: str, given: object) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(JudgeError):
        judge({"input": "SELECT 1", key: given}, each_on_its_own, None)
    assert judge({"input": "SELECT 1", key: None}, each_on_its_own, None)["decision"] == "allow"


def test_a_setting_that_postgres_would_not_have_is_refused() -> None:
    with pytest.raises(JudgeError, match="standard_conforming_strings"):
        judge_postgres(
            {"input": "SELECT 1", "session": {"standard_conforming_strings": "banana"}}, each_on_its_own, None
        )


@pytest.mark.parametrize("steps", ["SELECT 1", {}, [1], [{"ok": True}], ["\ud800"], [{"sql": "BEGIN", "ok": "false"}]])
def test_a_prelude_that_is_none_is_refused(steps: object) -> None:
    with pytest.raises(JudgeError):
        prelude({"prelude": steps})


def test_a_prelude_says_what_failed() -> None:
    assert prelude({"prelude": ["a", {"sql": "b", "ok": False}, {"sql": "c"}]}) == [
        (b"a", True),
        (b"b", False),
        (b"c", True),
    ]
