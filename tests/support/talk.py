"""A `PostgresSession` between two hands: bytes in, bytes out, records out. All but its port is the real thing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from protocols.contract import Analysis, Decision, MaskRule
from protocols.postgres.builtins import _data, known_functions
from protocols.postgres.catalog import Catalog
from protocols.postgres.judging import AnalysisCache
from protocols.postgres.limits import Limits
from protocols.postgres.session import PostgresSession
from protocols.postgres.state import SessionState
from tests.support import wire
from tests.support.port import Dialogue, FakePort, usual

USERS, ORDERS, EVIL_ORDERS = 20001, 20002, 20003
# users(id, ssn, name) holds what is masked; public.orders does not; evil.orders shadows it
_RELATIONS = [
    (USERS, 2200, "users", (("id", 23), ("ssn", 25), ("name", 25))),
    (ORDERS, 2200, "orders", (("id", 23), ("total", 25))),
    (EVIL_ORDERS, 20100, "orders", (("id", 23), ("total", 25))),
]
SSN = MaskRule("hide-ssn", ("public.users.ssn",), (), "redact")


@functools.cache
def catalog(version: str = "v1", without: int = 0) -> Catalog:
    """PostgreSQL's own names and three tables, or two: one of them is not there any more."""
    rows: dict[str, Any] = dict(_data()["rows"])
    rows["session"] = [["db", "app", "180000", "UTF8", '"$user", public', "default"]]
    rows["schemas"] = [*rows["schemas"], ["20100", "evil", "t"]]
    rows["relations"] = [
        *rows["relations"],
        *([str(o), str(s), n, "r", "f"] for o, s, n, _ in _RELATIONS if o != without),
    ]
    made = [
        [str(oid), str(i + 1), name, str(kind)]
        for oid, _, _, fields in _RELATIONS
        if oid != without
        for i, (name, kind) in enumerate(fields)
    ]
    rows["attributes"] = [*rows["attributes"], *made]
    return Catalog(version, rows, known_functions(), open_world=False)


class Talk(Dialogue):
    """One session. `client` and `server` take what that side sends and return what reaches the other side."""

    def __init__(
        self,
        decide: Callable[[Analysis], Decision] = usual,
        *,
        masks: Sequence[MaskRule] = (),
        startup: Mapping[str, str] | None = None,
        cache: AnalysisCache | None = None,
        **limits: int,
    ) -> None:
        self.port = FakePort(decide, masks, catalog())
        state = SessionState()
        state.startup({"user": "app", "database": "db", "client_encoding": "UTF8", **(startup or {})})
        for name, value in (("client_encoding", "UTF8"), ("standard_conforming_strings", "on")):
            state.parameter_status(name, value)
        state.ready("I")
        self.session = PostgresSession("s1", self.port, state, cache or AnalysisCache(), Limits(**limits))

    def fatal(self) -> dict[str, str]:
        """The session has ended: its last words to the client."""
        assert self.ended
        found = wire.errors(self.down())
        assert found
        assert found[-1]["S"] == "FATAL"
        return found[-1]

    def begin(self) -> None:
        """A transaction block is open."""
        assert self.client(wire.query("BEGIN"))
        self.server(wire.complete("BEGIN"), wire.ready("T"))

    def prepare(self, name: str, sql: str) -> None:
        """Parse and Sync, answered."""
        sent = wire.parse(name, sql) + wire.SYNC
        assert self.client(sent) == sent
        self.server(wire.PARSED, wire.ready(self.session.status))
