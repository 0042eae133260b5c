"""The protocols that the gateway speaks: one explicit line each, since each reads untrusted bytes."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol

from protocols.contract import (
    HTTP_PROTOCOLS,
    Admission,
    CatalogSource,
    ListenerTerms,
    Session,
    SessionPort,
    UpstreamLogin,
)
from protocols.http.evidence import render as render_http
from protocols.judging import StatementJudge
from protocols.mysql.protocol import PROTOCOL as MYSQL
from protocols.postgres.protocol import PROTOCOL as POSTGRES


class Handover(Protocol):
    """What a finished handshake hands over to the relay."""

    @property
    def admission(self) -> Admission: ...
    @property
    def client(self) -> bytes: ...
    @property
    def upstream(self) -> bytes: ...


class WireProtocol(Protocol):
    """One protocol behind a listener of its own."""

    name: str
    default_port: int
    dsn_schemes: tuple[str, ...]  # of a URL that names a server of this protocol
    password_variable: str  # the environment variable in which its own clients look for a password
    alpn: tuple[str, ...]  # what a listener offers in TLS (RFC 7301); empty: the protocol has none
    judge: type[StatementJudge[Any, Any, Any]]  # verdicts on its texts

    def handshake(self, terms: ListenerTerms, nonce: bytes, cache: Any) -> Generator[Any, Any, Any]:
        """From the first byte to a `Handover`, or None where nothing is to be relayed."""

    def cache(self) -> Any:
        """What the handshakes and sessions of one resource share."""

    def catalog_source(self) -> CatalogSource:
        """A connection of the gateway's own that reads the catalog, not yet open."""

    def cancel(self, login: UpstreamLogin, pid: int, secret: bytes) -> Generator[Any, Any, None]:
        """Asks the upstream, on a connection of its own, to cancel what runs in the session with this key."""

    def session(
        self, session_id: str, port: SessionPort, handover: Any, cache: Any, *, inspect_max: int, response_max: int
    ) -> Session: ...

    def refusal(self, message: str, code: str = ...) -> bytes: ...

    def render(self, wire: bytes, limit: int = ...) -> list[str]:
        """Recorded bytes as lines for a person, at most `limit` (or what the protocol finds enough)."""


PROTOCOLS: Mapping[str, WireProtocol] = {
    "postgres": POSTGRES,
    "mysql": MYSQL,
}


def render(protocol: str, wire: bytes) -> list[str]:
    """Recorded bytes of an answer as lines for a person, of any protocol. Raises KeyError for a name that is none."""
    return render_http(wire) if protocol in HTTP_PROTOCOLS else PROTOCOLS[protocol].render(wire)
