"""The lines of `sluicegate policy judge`: what all protocols read in one, and how all answer it.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocols.contract import Analysis, Decision, Effect

Decide = Callable[[Analysis], Decision]


class JudgeError(Exception):
    """The line is not in the form that `policy judge` reads; the message says what is wrong with it."""


def input_bytes(obj: Mapping[str, Any], limit: int) -> bytes:
    """The text of a line, as the server would get it: of both forms the bytes count. Raises JudgeError.

    `limit`: bytes of the longest command that a gateway inspects where nobody has configured another.
    """
    if "input_hex" in obj:
        try:
            text = bytes.fromhex(obj["input_hex"])
        except (TypeError, ValueError) as error:
            raise JudgeError("`input_hex` is not hexadecimal") from error
    elif isinstance(obj.get("input"), str):
        text = _encode(obj["input"])
    else:
        raise JudgeError("a line needs `input` (text) or `input_hex`")
    if len(text) > limit:
        raise JudgeError(f"a command above the inspection limit of {limit} bytes")
    return text


def settings(obj: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object of settings by name; empty where the line has none. Raises JudgeError."""
    value = obj.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str | bool | int | float | None) for v in value.values()):
        raise JudgeError(f"`{key}` must be an object of settings")
    return value


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise JudgeError("the text cannot be encoded; give it as `input_hex`") from error


def prelude(obj: Mapping[str, Any]) -> list[tuple[bytes, bool]]:
    """What the session sent before: (text, whether it succeeded). Raises JudgeError."""
    steps = obj.get("prelude")
    if steps is None:
        return []
    if not isinstance(steps, list):
        raise JudgeError("`prelude` must be a list")
    found = []
    for step in steps:
        if isinstance(step, str):
            found.append((_encode(step), True))
        elif isinstance(step, dict) and isinstance(step.get("sql"), str) and isinstance(step.get("ok", True), bool):
            found.append((_encode(step["sql"]), step.get("ok", True)))
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
        "effects": sorted(effect.value for effect in analysis.effects | decision.adds),
        "reads": list(analysis.reads),
        "writes": list(analysis.writes),
        "unknown": Effect.UNKNOWN in analysis.effects,
        "why": why,
    }
