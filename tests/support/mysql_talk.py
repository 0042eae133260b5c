"""A `MysqlSession` between two hands: bytes in, bytes out, records out. All but its port is the real thing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from protocols.contract import Analysis, Decision, MaskRule
from protocols.mysql.capabilities import Capability
from protocols.mysql.catalog import Catalog, Column, Relation
from protocols.mysql.judging import AnalysisCache
from protocols.mysql.limits import Limits
from protocols.mysql.session import MysqlSession
from protocols.mysql.state import SessionState
from tests.support import mysql_wire as wire
from tests.support.port import Dialogue, FakePort, anything, usual

__all__ = ["SSN", "OwnPort", "Talk", "anything", "catalog", "usual"]

SSN = MaskRule("hide-ssn", ("app.users.ssn",), (), "redact")


@functools.cache
def catalog(version: str = "v1") -> Catalog:
    """app.users holds what is masked; app.orders does not; other.orders has the same name."""
    users = (Column("id", "int"), Column("ssn", "varchar"), Column("name", "varchar"))
    orders = (Column("id", "int"), Column("total", "int"))
    return Catalog(
        version,
        "mariadb",
        (10, 11, 6),
        relations=(
            Relation("app", "users", "table", users),
            Relation("app", "orders", "table", orders),
            Relation("other", "orders", "table", orders),
        ),
    )


class OwnPort(FakePort):
    """It also knows which connection ids are of sessions of the same identity."""

    def __init__(self, decide: Callable[[Analysis], Decision], masks: Sequence[MaskRule]) -> None:
        super().__init__(decide, masks, catalog())
        self.own = {77}
        self.cancelled: list[tuple[int, bool]] = []

    def cancel_other(self, pid: int, *, end: bool) -> bool:
        self.cancelled.append((pid, end))
        return pid in self.own


class Talk(Dialogue):
    """One session. `client` and `server` take what that side sends and return what reaches the other side."""

    def __init__(
        self,
        decide: Callable[[Analysis], Decision] = usual,
        *,
        masks: Sequence[MaskRule] = (),
        capabilities: Capability = wire.MODERN,
        flavour: str = "mariadb",
        database: str | None = "app",
        cache: AnalysisCache | None = None,
        **limits: int,
    ) -> None:
        self.port: OwnPort = OwnPort(decide, masks)
        version = (10, 11, 6) if flavour == "mariadb" else (9, 7, 0)
        self.state = SessionState(flavour=flavour, version=version, database=database)
        self.state.started()
        self.session = MysqlSession(
            "s1", self.port, self.state, cache or AnalysisCache(), Limits(**limits), capabilities, 4711
        )

    def denied(self, *data: bytes) -> tuple[int, str, str]:
        """The client's command is answered by the gateway alone: (errno, SQLSTATE, text)."""
        assert self.client(*data) == b""
        ((_, errno, state, text),) = wire.errors(self.down())
        return errno, state, text

    def fatal(self) -> tuple[int, str]:
        """The session has ended: its last words to the client, (errno, text)."""
        assert self.ended
        found = wire.errors(self.down())
        assert found
        return found[-1][1], found[-1][3]

    def ok(self, sql: str, *, status: int = wire.AUTOCOMMIT, changes: bytes = b"") -> None:
        """A statement that passes and is answered with OK."""
        sent = wire.query(sql)
        assert self.client(sent) == sent
        answer = wire.packets(1, wire.ok(status=status, changes=changes))
        assert self.server(answer) == answer

    def prepare(self, statement: int, sql: str, parameters: int = 0, columns: int = 0) -> None:
        sent = wire.prepare(sql)
        assert self.client(sent) == sent
        old = Capability.DEPRECATE_EOF not in self.session.capabilities
        answer = wire.prepared(statement, parameters, columns, old=old)
        assert self.server(answer) == answer
