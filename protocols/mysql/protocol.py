"""What the registry knows of MySQL and MariaDB: how a connection becomes a session, and how evidence is shown."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from protocols.contract import WIRE, ListenerTerms, SessionPort, UpstreamLogin
from protocols.judging import StatementJudge
from protocols.mysql import errors, handshake
from protocols.mysql.catalog_source import MysqlCatalogSource
from protocols.mysql.connection import Greeting
from protocols.mysql.errors import err_packet
from protocols.mysql.handshake import Handover
from protocols.mysql.judging import AnalysisCache, Judge
from protocols.mysql.limits import Limits
from protocols.mysql.login import cancel
from protocols.mysql.render import MAX_LINES, render
from protocols.mysql.session import MysqlSession


class ResourceCache:
    """What the handshakes and sessions of one resource share."""

    __slots__ = ("analyses", "greeting")

    def __init__(self) -> None:
        self.analyses = AnalysisCache()
        self.greeting: Greeting | None = None


class Mysql:
    """See `protocols.registry.WireProtocol`."""

    name = "mysql"
    default_port = WIRE[name].port
    dsn_schemes: tuple[str, ...] = ("mysql", "mariadb")
    alpn: tuple[str, ...] = ()
    password_variable = "MYSQL_PWD"  # noqa: S105 - a variable's name
    judge: type[StatementJudge[Any, Any, Any]] = Judge

    def handshake(self, terms: ListenerTerms, nonce: bytes, cache: ResourceCache) -> Generator[Any, Any, Handover]:
        return handshake.serve(terms, nonce, cache)

    def cache(self) -> ResourceCache:
        return ResourceCache()

    def catalog_source(self) -> MysqlCatalogSource:
        return MysqlCatalogSource()

    def cancel(self, login: UpstreamLogin, pid: int, secret: bytes) -> Generator[Any, Any, None]:
        return cancel(login, pid)

    def session(
        self,
        session_id: str,
        port: SessionPort,
        handover: Handover,
        cache: ResourceCache,
        *,
        inspect_max: int,
        response_max: int,
    ) -> MysqlSession:
        limits = Limits(inspect_max=inspect_max, response_max=response_max)
        return MysqlSession(
            session_id, port, handover.state, cache.analyses, limits, handover.capabilities, handover.upstream_id
        )

    def refusal(self, message: str, code: str = "53300") -> bytes:
        """Last words to a client that cannot be served at all: in place of the greeting, so without SQLSTATE."""
        return err_packet(0, errors.code_of(code), message, state=False)

    def render(self, wire: bytes, limit: int = MAX_LINES) -> list[str]:
        return render(wire, limit)


PROTOCOL = Mysql()
