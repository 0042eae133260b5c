"""What the registry knows of PostgreSQL: how a connection becomes a session, and how evidence is shown."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from protocols.contract import WIRE, ListenerTerms, SessionPort, UpstreamLogin
from protocols.judging import StatementJudge
from protocols.postgres import catalog_source, handshake
from protocols.postgres.catalog_source import PostgresCatalogSource
from protocols.postgres.errors import error_response
from protocols.postgres.handshake import Handover
from protocols.postgres.judging import AnalysisCache, Judge
from protocols.postgres.limits import Limits
from protocols.postgres.render import MAX_LINES, render
from protocols.postgres.session import PostgresSession


class Postgres:
    """See `protocols.registry.WireProtocol`."""

    name = "postgres"
    default_port = WIRE[name].port
    dsn_schemes: tuple[str, ...] = ("postgresql", "postgres")
    alpn: tuple[str, ...] = (handshake.ALPN,)
    password_variable = "PGPASSWORD"  # noqa: S105 - a variable's name
    judge: type[StatementJudge[Any, Any, Any]] = Judge

    def handshake(
        self, terms: ListenerTerms, nonce: bytes, cache: AnalysisCache
    ) -> Generator[Any, Any, Handover | None]:
        return handshake.serve(terms, nonce)

    def cache(self) -> AnalysisCache:
        return AnalysisCache()

    def session(
        self,
        session_id: str,
        port: SessionPort,
        handover: Handover,
        cache: AnalysisCache,
        *,
        inspect_max: int,
        response_max: int,
    ) -> PostgresSession:
        limits = Limits(inspect_max=inspect_max, response_max=response_max)
        return PostgresSession(session_id, port, handover.state, cache, limits)

    def catalog_source(self) -> PostgresCatalogSource:
        return PostgresCatalogSource()

    def cancel(self, login: UpstreamLogin, pid: int, secret: bytes) -> Generator[Any, Any, None]:
        return catalog_source.cancel(login, pid, secret)

    def refusal(self, message: str, code: str = "53300") -> bytes:
        """Last words to a client that cannot be served at all."""
        return error_response(code, message, severity="FATAL")

    def render(self, wire: bytes, limit: int = MAX_LINES) -> list[str]:
        return render(wire, limit)


PROTOCOL = Postgres()
