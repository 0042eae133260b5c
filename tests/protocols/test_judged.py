"""What every statement judge shares."""

from __future__ import annotations

import pytest

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.judged import JudgeError, decision_on, input_bytes, prelude
from protocols.mysql.judge import judge_line as judge_mysql
from protocols.postgres.judge import judge_line as judge_postgres


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


@pytest.mark.parametrize("line", [{}, {"input": 1}, {"input_hex": "zz"}, {"input": "\ud800"}])
def test_a_line_without_a_text_is_refused(line: dict[str, object]) -> None:
    with pytest.raises(JudgeError):
        input_bytes(line)


@pytest.mark.parametrize("steps", ["SELECT 1", [1], [{"ok": True}], ["\ud800"]])
def test_a_prelude_that_is_none_is_refused(steps: object) -> None:
    with pytest.raises(JudgeError):
        prelude({"prelude": steps})


def test_a_prelude_says_what_failed() -> None:
    assert prelude({"prelude": ["a", {"sql": "b", "ok": False}, {"sql": "c"}]}) == [
        (b"a", True),
        (b"b", False),
        (b"c", True),
    ]
