"""Verdicts on MySQL's texts. How they are cached: `protocols.judging`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from protocols.analyses import AnalysisCache
from protocols.contract import Analysis
from protocols.crossing import LeftOut
from protocols.judging import SESSION_TEXTS, StatementJudge
from protocols.mysql.catalog import Catalog, Column, Relation
from protocols.mysql.origins import reach, traced
from protocols.mysql.state import SessionState
from protocols.mysql.statements import CommandAnalysis, analyse, shape_key
from protocols.mysql.statements.model import unknown
from protocols.verdicts import Read, StatementVerdict

__all__ = ["ELSEWHERE", "SESSION_TEXTS", "AnalysisCache", "Judge", "Read", "Verdict"]

Verdict = StatementVerdict[CommandAnalysis]

ELSEWHERE = "elsewhere"  # a variant: in the database that was the default when it was prepared


class Judge(StatementJudge[CommandAnalysis, Catalog, SessionState]):
    """Verdicts for one session."""

    __slots__ = ()

    PLACEHOLDER = b"?"
    LEFT_OUT: ClassVar[LeftOut] = {
        SessionState: {"judged": {}, "_key": None},
        Catalog: {"_memo": {}},
        Relation: {},
        Column: {},
    }

    def _analyse(self, text: bytes, catalog: Catalog | None, state: SessionState, variant: str) -> CommandAnalysis:
        return analyse(text, state, catalog)

    def _unread(self, why: str, text: bytes) -> CommandAnalysis:
        return unknown(why, text=text)

    def _light(self, command: CommandAnalysis, catalog: Catalog | None, state: SessionState) -> CommandAnalysis:
        statements, ahead = [], state.fork()
        for one in command.statements:
            tree = None if one.tree is None else traced(one, catalog, ahead)
            statements.append(dataclasses.replace(one, tree=tree))
            ahead.applied(one)  # the first ones change what the others' columns are made of
        return dataclasses.replace(command, statements=tuple(statements))

    def _named_bytes(self, text: bytes, state: SessionState) -> int:
        return sum(len(prepared.text or b"") for prepared in state.prepared.values())

    def _shape_key(self, text: bytes) -> bytes | None:
        return shape_key(text)

    def _reach(self, analysis: Analysis, catalog: Catalog | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return reach(analysis, catalog)

    def epoch(self, catalog: Catalog | None) -> object:
        if catalog is not None and self._state.touched:
            self._state.catalog_read()  # the port gives none that is older than the session's own definitions
        return super().epoch(catalog)
