"""Verdicts on PostgreSQL's texts. How they are cached: `protocols.judging`."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

from protocols.analyses import AnalysisCache
from protocols.contract import Analysis
from protocols.crossing import LeftOut
from protocols.judging import LONG, SESSION_TEXTS, StatementJudge
from protocols.postgres.catalog import Catalog
from protocols.postgres.origins import assigned
from protocols.postgres.results import reach
from protocols.postgres.state import SessionState
from protocols.postgres.statements import CommandAnalysis, analyse, shape_key
from protocols.postgres.statements.model import Statement, unknown
from protocols.verdicts import Read, StatementVerdict

__all__ = ["KEPT", "SESSION_TEXTS", "AnalysisCache", "Judge", "Read", "Verdict"]

Verdict = StatementVerdict[CommandAnalysis]

KEPT = "kept"  # a variant: the server's plan may be of another time
_NAMES = re.compile(rb'"((?:[^"]|"")*+)"|([A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)')


def _named(text: bytes) -> set[str] | None:
    """Every name that a short text may say; None: it can say any."""
    if b"\\" in text or b"&" in text:  # U&"..."
        return None
    found = set()
    for quoted, word in _NAMES.findall(text):
        name = quoted.replace(b'""', b'"') or word.lower()
        found |= {name.decode("utf-8", "replace"), name[:63].decode("utf-8", "replace")}  # the server cuts longer ones
    return found


class Judge(StatementJudge[CommandAnalysis, Catalog, SessionState]):
    """Verdicts for one session."""

    __slots__ = ()

    PLACEHOLDER = b"$"
    LEFT_OUT: ClassVar[LeftOut] = {
        SessionState: {"plans": {}, "_names": None, "_key": None},
        Catalog: {"_facts": {}, "_types": {}, "_behind": {}, "_origins": {}},
        Statement: {"tree": None},
    }

    def _analyse(self, text: bytes, catalog: Catalog | None, state: SessionState, variant: str) -> CommandAnalysis:
        if variant == KEPT:
            return analyse(text, state, catalog, kept=True)
        return analyse(text, state, catalog)

    def _unread(self, why: str, text: bytes) -> CommandAnalysis:
        return unknown(why)

    def _light(self, command: CommandAnalysis, catalog: Catalog | None, state: SessionState) -> CommandAnalysis:
        statements = tuple(
            one if one.tree is None else dataclasses.replace(one, tree=assigned(one.tree, one.analysis.writes))
            for one in command.statements
        )
        return dataclasses.replace(command, statements=statements)

    def _named_bytes(self, text: bytes, state: SessionState) -> int:
        return state.prepared_size(_named(text))

    def _portable(self, text: bytes, state: SessionState) -> SessionState:
        return state.names_only(_named(text) if len(text) <= LONG else None)

    def _behind(self, command: CommandAnalysis) -> tuple[str, ...]:
        return command.behind

    def _shape_key(self, text: bytes) -> bytes | None:
        return shape_key(text)

    def _reach(self, analysis: Analysis, catalog: Catalog | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return reach(analysis, catalog)
