"""What the registry knows of PostgreSQL: how a connection becomes a session, and how evidence is shown."""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Any

from protocols.contract import ListenerTerms, SessionPort
from protocols.postgres import handshake
from protocols.postgres.errors import error_response
from protocols.postgres.framing import CANCEL_REQUEST
from protocols.postgres.handshake import Handover
from protocols.postgres.judging import AnalysisCache
from protocols.postgres.limits import Limits
from protocols.postgres.render import MAX_LINES, render
from protocols.postgres.session import PostgresSession


class Postgres:
    """See `protocols.registry.WireProtocol`."""

    name = "postgres"
    default_port = 5432

    def handshake(self, terms: ListenerTerms, nonce: bytes) -> Generator[Any, Any, Handover | None]:
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

    def cancel_request(self, pid: int, secret: bytes) -> bytes:
        """CancelRequest, section 54.7."""
        return struct.pack("!III", 12 + len(secret), CANCEL_REQUEST, pid) + secret

    def refusal(self, message: str, code: str = "53300") -> bytes:
        """Last words to a client that cannot be served at all."""
        return error_response(code, message, severity="FATAL")

    def render(self, wire: bytes, limit: int = MAX_LINES) -> list[str]:
        return render(wire, limit)


PROTOCOL = Postgres()
