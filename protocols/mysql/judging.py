"""Verdicts on MySQL's texts. How they are cached: `protocols.judging`."""

from __future__ import annotations

from protocols.contract import Analysis
from protocols.judging import SESSION_TEXTS, AnalysisCache, StatementJudge, StatementVerdict
from protocols.mysql.catalog import Catalog
from protocols.mysql.origins import reach
from protocols.mysql.state import SessionState
from protocols.mysql.statements import CommandAnalysis, analyse, shape_key

__all__ = ["SESSION_TEXTS", "AnalysisCache", "Judge", "Verdict"]

Verdict = StatementVerdict[CommandAnalysis]


class Judge(StatementJudge[CommandAnalysis, Catalog, SessionState]):
    """Verdicts for one session."""

    __slots__ = ()

    PLACEHOLDER = b"?"

    def _analyse(self, text: bytes, catalog: Catalog | None) -> CommandAnalysis:
        return analyse(text, self._state, catalog)

    def _shape_key(self, text: bytes) -> bytes | None:
        return shape_key(text)

    def _reach(self, analysis: Analysis, catalog: Catalog | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return reach(analysis, catalog)

    def epoch(self, catalog: Catalog | None) -> object:
        if catalog is not None and self._state.touched:
            self._state.catalog_read()  # the port gives none that is older than the session's own definitions
        return super().epoch(catalog)
