"""What every statement judge shares: the decision on a command of several statements, and the lines of `policy judge`.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from protocols.contract import Analysis, Decision, Effect

Decide = Callable[[Analysis], Decision]


class JudgeError(Exception):
    """The line is not in the form that `policy judge` reads; the message says what is wrong with it."""


def decision_on(whole: Analysis, parts: Sequence[Analysis], decide: Decide) -> Decision:
    """The whole must be allowed, and so must each part: what covers one part's relations may not cover another."""
    decision = decide(whole)
    if len(parts) < 2:
        return decision
    return max((decision, *map(decide, parts)), key=lambda one: one.action)


def input_bytes(obj: Mapping[str, Any]) -> bytes:
    """The text of a line, as the server would get it. Raises JudgeError."""
    if isinstance(obj.get("input_hex"), str) and (obj.get("input_is_bytes") or "input" not in obj):
        try:
            return bytes.fromhex(obj["input_hex"])
        except ValueError as error:
            raise JudgeError("`input_hex` is not hexadecimal") from error
    if isinstance(obj.get("input"), str):
        return _encode(obj["input"])
    raise JudgeError("a line needs `input` (text) or `input_hex`")


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise JudgeError("the text cannot be encoded; give it as `input_hex`") from error


def prelude(obj: Mapping[str, Any]) -> list[tuple[bytes, bool]]:
    """What the session sent before: (text, whether it succeeded). Raises JudgeError."""
    steps = obj.get("prelude") or []
    if not isinstance(steps, list):
        raise JudgeError("`prelude` must be a list")
    found = []
    for step in steps:
        if isinstance(step, str):
            found.append((_encode(step), True))
        elif isinstance(step, dict) and isinstance(step.get("sql"), str):
            found.append((_encode(step["sql"]), step.get("ok", True) is not False))
        else:
            raise JudgeError('a prelude step is a text or {"sql": ..., "ok": ...}')
    return found


def answer(identifier: Any, analysis: Analysis, decision: Decision) -> dict[str, Any]:
    """The answer to one line."""
    parts = (decision.why, analysis.why if analysis.why not in decision.why else "")  # a denial quotes it
    why = "; ".join(part for part in parts if part)
    return {
        "id": identifier,
        "decision": decision.action.label,
        "rule": decision.rule,
        "effects": sorted(effect.value for effect in analysis.effects),
        "reads": list(analysis.reads),
        "writes": list(analysis.writes),
        "unknown": Effect.UNKNOWN in analysis.effects,
        "why": why,
    }
