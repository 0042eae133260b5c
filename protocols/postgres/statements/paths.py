"""An emptied search_path: when that needs nobody's leave, and what needs it afterwards.

Dump tools and foreign data wrappers empty their search_path with their first statement. Nothing is found through an
empty path but PostgreSQL's own names and the session's temporary relations, which come first under any path: a text
then means no more than what it says. What it could change is code of others that finds names without a schema as it
runs: a trigger whose handler swallows errors would do nothing. Hence:

- it passes as a harmless setting only as a message of its own, to exactly nothing or PostgreSQL's own schema, and while
  nothing that may run code of others is in the open transaction: a trigger may be deferred;
- while it is in force, whatever may run code of others needs `session.name_resolution` all the same;
- going back from it to what the session began with is harmless.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from dataclasses import replace

from protocols.contract import Analysis, Effect
from protocols.postgres.settings import EMPTY_PATH
from protocols.postgres.statements.model import ChangeKind, CommandAnalysis

_E = Effect
# what runs no code but PostgreSQL's own. A write may have triggers, here or where its keys cascade to
_READING = frozenset(
    {
        _E.DATA_SELECT,
        _E.DATA_COPY_OUT,
        _E.SHOW,
        _E.TX,
        _E.CURSOR,
        _E.PREPARE,
        _E.PROBE,
        _E.SECRET_READ,
        _E.SESSION_SET,
        _E.SESSION_GUARD,
        _E.SESSION_ROLE,
        _E.SESSION_NAME_RESOLUTION,
        _E.SESSION_PARSE_STATE,
        _E.SESSION_OTHER,
        _E.ADMIN_LOCK,
        _E.ADMIN_DOS,
    }
)
_NEEDED = frozenset({_E.SESSION_NAME_RESOLUTION})
_PLAIN = (_NEEDED, _NEEDED | {_E.DATA_SELECT})
_OWN = ("pg_catalog.", "information_schema.")
_EMPTIES = re.compile(
    rb"\s*(?:SET\s+(?:SESSION\s+)?search_path\s*(?:=|\sTO\s)\s*(?:''|\"?pg_catalog\"?)"
    rb"|SELECT\s+(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*'search_path'\s*,\s*'(?:pg_catalog)?'\s*,\s*false\s*\))\s*;?\s*",
    re.IGNORECASE,
)
_LONGEST = 256  # bytes of such a message


def emptying(text: bytes, command: CommandAnalysis) -> CommandAnalysis | None:
    """The command as one that sets something harmless, if it empties search_path and does nothing else. None: it does
    not. The caller sees to it that the open transaction, if there is one, has only read.
    """
    if len(command.statements) != 1 or len(text) > _LONGEST or _EMPTIES.fullmatch(text) is None:
        return None
    (one,) = command.statements
    analysis = one.analysis
    if analysis.effects not in _PLAIN or analysis.reads or analysis.functions or len(one.changes) != 1:
        return None
    (change,) = one.changes
    if change.kind is not ChangeKind.SET or change.name != "search_path" or change.local or change.value is None:
        return None
    if EMPTY_PATH.fullmatch(change.value) is None:
        return None
    analysis = replace(analysis, effects=(analysis.effects - _NEEDED) | {_E.SESSION_SET})
    return replace(command, analysis=analysis, statements=(replace(one, analysis=analysis),))


def only_reads(analysis: Analysis) -> bool:
    """It surely runs no code but PostgreSQL's own, neither now nor when its transaction ends."""
    return analysis.effects <= _READING and all(name.startswith(_OWN) for name in analysis.functions)


def under_empty_path(analysis: Analysis) -> Analysis:
    """What a statement does while this session's search_path is empty by its own doing."""
    if only_reads(analysis):
        return analysis
    return replace(analysis, effects=analysis.effects | _NEEDED)
