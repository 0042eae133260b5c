"""The JSON lines of `policy judge`."""

from __future__ import annotations

from typing import Any

import pytest

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.judge_lines import JudgeError
from protocols.postgres.judge_lines import judge_line
from tests.support import statements as make


def decide(analysis: Analysis) -> Decision:
    harmless = analysis.effects <= {Effect.DATA_SELECT, Effect.PREPARE, Effect.TX, Effect.CURSOR, Effect.SESSION_SET}
    return Decision(Action.ALLOW if harmless else Action.HOLD, "r", "asked")


def judge(**line: Any) -> dict[str, Any]:
    return judge_line(line, decide, make.catalog())


def test_the_answer_has_exactly_the_promised_keys() -> None:
    answer = judge(id=7, input="DELETE FROM users")
    assert answer == {
        "id": 7,
        "decision": "hold",
        "rule": "r",
        "effects": ["data.delete"],
        "reads": [],
        "writes": ["public.users"],
        "unknown": False,
        "why": "asked",
    }


@pytest.mark.parametrize(
    ("line", "decision"),
    [
        ({"input": "SELECT 1"}, "allow"),
        ({"input_hex": b"SELECT 1".hex()}, "allow"),
        ({"input": "SELECT 1", "input_hex": b"DROP TABLE users".hex(), "input_is_bytes": True}, "hold"),
        ({"input": "EXECUTE p", "prelude": ["PREPARE p AS SELECT 1"]}, "allow"),
        ({"input": "EXECUTE p", "prelude": [{"sql": "PREPARE p AS SELECT 1", "ok": False}]}, "hold"),
        ({"input": "EXECUTE p", "prelude": ["PREPARE p AS DELETE FROM users", "PREPARE p AS SELECT 1"]}, "hold"),
        ({"input": "EXECUTE p", "prelude": ["PREPARE p AS SELECT 1", "PREPARE p AS DELETE FROM users"]}, "allow"),
        # a failed block takes nothing until it ends
        ({"input": "EXECUTE p", "prelude": ["PREPARE p AS DELETE FROM users", "BEGIN",
                                            {"sql": "SELECT 1/0", "ok": False}, "DEALLOCATE p", "ROLLBACK"]}, "hold"),
        # what surely failed although nobody says so, and its block with it
        *(({"input": "EXECUTE p", "prelude": ["PREPARE p AS DELETE FROM users", "BEGIN", failing, "DEALLOCATE p",
                                              "PREPARE p AS SELECT 1", "COMMIT"]}, "hold")
          for failing in ("DEALLOCATE nope", "SELECT 1/0", "ROLLBACK TO nope", "RELEASE nope", "FETCH nope",
                          "CLOSE nope", "EXECUTE nope", "SELEC 1", "DISCARD ALL")),
        ({"input": "EXECUTE p", "prelude": ["PREPARE p AS DELETE FROM users", "BEGIN", "SAVEPOINT a", "ROLLBACK TO a",
                                            "DEALLOCATE p", "PREPARE p AS SELECT 1", "COMMIT"]}, "allow"),
        ({"input": "SELECT id FROM users", "session": {"search_path": "evil"}}, "allow"),
        ({"input": "SELECT '\\'", "session": {"standard_conforming_strings": False}}, "hold"),
        ({"input": "SELECT 1", "startup": {"application_name": "x"}}, "allow"),
        ({"input": "SELECT 1", "startup": {"options": "-c role=admin"}}, "deny"),
        ({"input": "SELECT 1", "prelude": None, "session": None, "startup": None}, "allow"),
    ],
)  # fmt: skip
def test_lines(line: dict[str, Any], decision: str) -> None:
    answer = judge(**line)
    assert answer["decision"] == decision, answer
    if decision == "deny":
        assert answer["rule"] == "startup"


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"input": 5},
        {"input_hex": "zz"},
        {"input": "\ud800"},
        {"input": "x", "prelude": "SELECT 1"},
        {"input": "x", "prelude": [5]},
        {"input": "x", "prelude": [{"ok": True}]},
        {"input": "x", "startup": ["role"]},
        {"input": "x", "session": "search_path"},
    ],
)
def test_a_bad_line_is_an_error_with_a_reason(line: dict[str, Any]) -> None:
    with pytest.raises(JudgeError, match=r"`|prelude|text"):
        judge(**line)
