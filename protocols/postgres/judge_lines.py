"""`sluicegate policy judge`: one JSON line in, one JSON line out, through the code that the data path runs.

The prelude is what the same session sent before; each text is taken to have had the server's real outcome: success, or
what `{"sql": ..., "ok": false}` says. Some texts surely failed, and a transaction block with them: those that do not
parse, that prepare a name which is taken, or use one that does not exist, and a plain division by zero.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from protocols.contract import Action
from protocols.judge_lines import Decide, JudgeError, answer, input_bytes, prelude, settings
from protocols.judging import decision_on
from protocols.postgres import startup
from protocols.postgres.builtins import builtin_catalog
from protocols.postgres.catalog import Catalog
from protocols.postgres.limits import Limits
from protocols.postgres.state import SessionState
from protocols.postgres.statements import ChangeKind, Statement, analyse
from protocols.postgres.statements.analyse import NOT_PARSED
from protocols.postgres.statements.paths import emptying
from protocols.postgres.statements.session_commands import NO_CURSOR, NO_PREPARED

_LONGEST = Limits().inspect_max
_SWITCH = frozenset({"on", "off", "true", "false", "yes", "no", "1", "0"})
# the usual way to make a transaction fail, alone in its text
_DIVIDES_BY_ZERO = re.compile(r"\A\s*select\s+[0-9]+\s*/\s*0\s*;?\s*\Z", re.I)


def judge_line(obj: Mapping[str, Any], decide: Decide, catalog: Catalog | None) -> dict[str, Any]:
    """The answer to one line. Without a catalog PostgreSQL's own names stand in. Raises JudgeError for a bad line."""
    identifier = obj.get("id")
    state = SessionState()
    parameters = _strings(obj, "startup")
    checked = startup.check({k: v for k, v in parameters.items() if k not in ("user", "database")})
    if checked.refused:
        return _refused(identifier, checked.refused)
    for analysis, setting in checked.asks():
        decision = decide(analysis)
        if decision.action is not Action.ALLOW:
            return answer(identifier, replace(analysis, why=f"a startup setting: {setting}"), decision)
    state.startup({**checked.settings, **({"user": parameters["user"]} if "user" in parameters else {})})
    for name, value in _strings(obj, "session").items():
        state.parameter_status(name, value)
    names = catalog if catalog is not None else builtin_catalog()
    if names.server_encoding:
        state.parameter_status("server_encoding", names.server_encoding)
    for step in prelude(obj):
        _replay(step[0], step[1], state, names)
    for name, value in _strings(obj, "session").items():
        state.parameter_status(name, value)
    text = input_bytes(obj, _LONGEST)
    command = analyse(text, state, names)
    if not state.in_block:
        command = emptying(text, command) or command
    parts = [statement.analysis for statement in command.statements]
    return answer(identifier, command.analysis, decision_on(command.analysis, parts, decide))


def _strings(obj: Mapping[str, Any], key: str) -> dict[str, str]:
    found = {
        name: value if isinstance(value, str) else ("on" if value is True else "off" if value is False else str(value))
        for name, value in settings(obj, key).items()
    }
    strings = found.get("standard_conforming_strings", "on").lower()
    if strings not in _SWITCH:
        raise JudgeError(f"`standard_conforming_strings` cannot be `{strings[:40]}`")
    return found


def _replay(text: bytes, ok: bool, state: SessionState, catalog: Catalog) -> None:
    command = analyse(text, state, catalog)
    worked = ok and (bool(command.statements) or not command.analysis.why.startswith(NOT_PARSED))
    if worked:
        for statement in command.statements:
            if not _can_work(statement, state) or _DIVIDES_BY_ZERO.search(command.text):
                worked = False
                break
            state.applied(statement)
    if not worked:
        state.failed()
    if state.in_block:
        state.ready("T" if worked else "E")
    else:
        state.ready("I")


def _can_work(statement: Statement, state: SessionState) -> bool:
    """False for what the server surely refused: a name that is taken or missing, all but the end of a failed block."""
    if any(missing in statement.analysis.why for missing in (NO_PREPARED, NO_CURSOR)):
        return False
    for change in statement.changes:
        name = change.name or ""
        if change.kind is ChangeKind.PREPARE and state.prepared(name) is not None:
            return False
        if change.kind is ChangeKind.DECLARE and state.portal(name) is not None:
            return False
        if change.kind is ChangeKind.DEALLOCATE and change.name is not None and state.prepared(name) is None:
            return False
        if change.kind is ChangeKind.CLOSE and change.name is not None and state.portal(name) is None:
            return False
        if change.kind is ChangeKind.DISCARD_ALL and state.in_block:
            return False
        if change.kind in (ChangeKind.ROLLBACK_TO, ChangeKind.RELEASE) and not state.has_savepoint(name):
            return False
    ends = {ChangeKind.COMMIT, ChangeKind.ROLLBACK, ChangeKind.ROLLBACK_TO}
    return not state.in_failed_block or any(change.kind in ends for change in statement.changes)


def _refused(identifier: Any, refused: list[str]) -> dict[str, Any]:
    names = ", ".join(f"`{name}`" for name in refused[:8])
    return {
        "id": identifier,
        "decision": Action.DENY.label,
        "rule": "startup",
        "effects": [],
        "reads": [],
        "writes": [],
        "unknown": False,
        "why": f"startup parameters that are not allowed: {names}; remove them from the connection",
    }
