"""`sluicegate policy judge`: one JSON line in, one JSON line out, through the code that the data path runs.

The prelude is what the same session sent before; each text is taken to have had the server's real outcome: success, or
what `{"sql": ..., "ok": false}` says. `startup` is what the connection began with: `charset`, `database`,
`multi_statements`, `local_infile`, `sql_mode`; `session` is what is in force when the text is sent.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocols.judge_lines import Decide, JudgeError, answer, input_bytes, prelude, settings
from protocols.judging import decision_on
from protocols.mysql.catalog import Catalog, builtin_catalog
from protocols.mysql.limits import Limits
from protocols.mysql.settings import charset_of, modes_of
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse

_LONGEST = Limits().inspect_max
DATABASE = "test"  # where the line names none: names without a schema must mean something
_FLAVOURS = frozenset({"mysql", "mariadb"})


def judge_line(obj: Mapping[str, Any], decide: Decide, catalog: Catalog | None) -> dict[str, Any]:
    """The answer to one line. Without a catalog both servers' own names stand in. Raises JudgeError for a bad line.

    Without a catalog a line may name its `server` (`mysql`, `mariadb`); else the text is judged as both would read it,
    and the stricter answer counts.
    """
    text = input_bytes(obj, _LONGEST)
    before = prelude(obj)
    answers = []
    for names in [catalog] if catalog is not None else [builtin_catalog(flavour) for flavour in _flavours(obj)]:
        state = _state(obj, names)
        for raw, ok in before:
            _replay(raw, ok, state, names)
        _session(obj, state)
        command = analyse(text, state, names)
        parts = [statement.analysis for statement in command.statements]
        decision = decision_on(command.analysis, parts, decide)
        answers.append((decision.action, command, decision))
    _, command, decision = max(answers, key=lambda one: one[0])
    return answer(obj.get("id"), command.analysis, decision)


def _flavours(obj: Mapping[str, Any]) -> list[str]:
    given = obj.get("server")
    if given is None:
        listed = obj.get("servers")
        named = [s for s in listed if s in _FLAVOURS] if isinstance(listed, list) else []
        return named or sorted(_FLAVOURS)
    if given not in _FLAVOURS:
        raise JudgeError("`server` must be `mysql` or `mariadb`")
    return [given]


def _state(obj: Mapping[str, Any], names: Catalog) -> SessionState:
    startup = {**settings(obj, "connection"), **settings(obj, "startup")}
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
    for name, value in settings(obj, "session").items():
        if name == "database":
            state.changed_database(str(value))
        else:
            state.tracked(name, value if isinstance(value, str) else str(value))


def _replay(text: bytes, ok: bool, state: SessionState, catalog: Catalog) -> None:
    command = analyse(text, state, catalog)
    for statement in command.statements:
        if ok:
            state.applied(statement)
        else:
            state.failed(statement)
