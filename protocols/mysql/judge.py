"""`sluicegate policy judge`: one JSON line in, one JSON line out, through the code that the data path runs.

The prelude is what the same session sent before; each text is taken to have had the server's real outcome: success, or
what `{"sql": ..., "ok": false}` says. `startup` is what the connection began with: `charset`, `database`,
`multi_statements`, `local_infile`, `sql_mode`; `session` is what is in force when the text is sent.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.mysql.catalog import Catalog, builtin_catalog
from protocols.mysql.settings import charset_of, modes_of
from protocols.mysql.state import SessionState
from protocols.mysql.statements import CommandAnalysis, analyse

Decide = Callable[[Analysis], Decision]
DATABASE = "test"  # where the line names none: names without a schema must mean something
_FLAVOURS = frozenset({"mysql", "mariadb"})


class JudgeError(Exception):
    """The line is not in the form that `policy judge` reads; the message says what is wrong with it."""


def judge_line(obj: Mapping[str, Any], decide: Decide, catalog: Catalog | None) -> dict[str, Any]:
    """The answer to one line. Without a catalog both servers' own names stand in. Raises JudgeError for a bad line.

    Without a catalog a line may name its `server` (`mysql`, `mariadb`); else the text is judged as both would read it,
    and the stricter answer counts.
    """
    text = _input(obj)
    prelude = _prelude(obj)
    answers = []
    for names in [catalog] if catalog is not None else [builtin_catalog(flavour) for flavour in _flavours(obj)]:
        state = _state(obj, names)
        for raw, ok in prelude:
            _replay(raw, ok, state, names)
        _session(obj, state)
        command = analyse(text, state, names)
        decision = decide(command.analysis)
        answers.append((decision.action, command, decision))
    _, command, decision = max(answers, key=lambda answer: answer[0])
    return _answer(obj.get("id"), command, decision)


def _flavours(obj: Mapping[str, Any]) -> list[str]:
    given = obj.get("server")
    if given is None:
        listed = obj.get("servers")
        named = [s for s in listed if s in _FLAVOURS] if isinstance(listed, list) else []
        return named or sorted(_FLAVOURS)
    if given not in _FLAVOURS:
        raise JudgeError("`server` must be `mysql` or `mariadb`")
    return [given]


def _object(obj: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = obj.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise JudgeError(f"`{key}` must be an object of settings")
    return value


def _state(obj: Mapping[str, Any], names: Catalog) -> SessionState:
    startup = {**_object(obj, "connection"), **_object(obj, "startup")}
    charset = startup.get("charset", "utf8mb4")
    modes = startup.get("sql_mode")
    state = SessionState(
        flavour=names.flavour,
        version=names.server_version,
        charset=charset_of(charset) if isinstance(charset, str) else None,
        sql_mode=modes_of(modes) if isinstance(modes, str) else names.sql_mode,
        database=str(startup.get("database") or DATABASE),
        multi_statements=startup.get("multi_statements") is True,
        lower_case_table_names=names.lower_case_table_names,
    )
    state.started()
    return state


def _session(obj: Mapping[str, Any], state: SessionState) -> None:
    for name, value in _object(obj, "session").items():
        if name == "database":
            state.changed_database(str(value))
        else:
            state.tracked(name, value if isinstance(value, str) else str(value))


def _input(obj: Mapping[str, Any]) -> bytes:
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


def _prelude(obj: Mapping[str, Any]) -> list[tuple[bytes, bool]]:
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


def _replay(text: bytes, ok: bool, state: SessionState, catalog: Catalog) -> None:
    command = analyse(text, state, catalog)
    for statement in command.statements:
        if ok:
            state.applied(statement)
        else:
            state.failed(statement)


def _answer(identifier: Any, command: CommandAnalysis, decision: Decision) -> dict[str, Any]:
    analysis = command.analysis
    why = "; ".join(part for part in (decision.why, analysis.why) if part)
    return {
        "id": identifier,
        "decision": Action(decision.action).label,
        "rule": decision.rule,
        "effects": sorted(effect.value for effect in analysis.effects),
        "reads": list(analysis.reads),
        "writes": list(analysis.writes),
        "unknown": Effect.UNKNOWN in analysis.effects,
        "why": why,
    }
