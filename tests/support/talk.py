"""A `PostgresSession` between two hands: bytes in, bytes out, records out. All but its port is the real thing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from guard.mask.masker import Masker
from protocols.contract import (
    Action,
    Analysis,
    Decision,
    Effect,
    HoldRefused,
    HoldRequest,
    HoldTerms,
    HoldTicket,
    MaskRule,
    Outcome,
    RecordFailed,
    ResultMasker,
)
from protocols.postgres.builtins import _data, known_functions
from protocols.postgres.catalog import Catalog
from protocols.postgres.judging import AnalysisCache
from protocols.postgres.limits import Limits
from protocols.postgres.session import PostgresSession
from protocols.postgres.state import SessionState
from tests.support import wire

USERS, ORDERS, EVIL_ORDERS = 20001, 20002, 20003
# users(id, ssn, name) holds what is masked; public.orders does not; evil.orders shadows it
_RELATIONS = [
    (USERS, 2200, "users", (("id", 23), ("ssn", 25), ("name", 25))),
    (ORDERS, 2200, "orders", (("id", 23), ("total", 25))),
    (EVIL_ORDERS, 20100, "orders", (("id", 23), ("total", 25))),
]
SSN = MaskRule("hide-ssn", ("public.users.ssn",), (), "redact")
T0 = 1_700_000_000.0
KEY = b"k" * 32


@functools.cache
def catalog(version: str = "v1") -> Catalog:
    """PostgreSQL's own names and three tables."""
    rows: dict[str, Any] = dict(_data()["rows"])
    rows["session"] = [["db", "app", "180000", "UTF8", '"$user", public', "default"]]
    rows["schemas"] = [*rows["schemas"], ["20100", "evil", "t"]]
    rows["relations"] = [*rows["relations"], *([str(o), str(s), n, "r", "f"] for o, s, n, _ in _RELATIONS)]
    made = [
        [str(oid), str(i + 1), name, str(kind)]
        for oid, _, _, fields in _RELATIONS
        for i, (name, kind) in enumerate(fields)
    ]
    rows["attributes"] = [*rows["attributes"], *made]
    return Catalog(version, rows, known_functions(), open_world=False)


def usual(analysis: Analysis) -> Decision:
    """Reads, writes and session work pass; deletes are held, definitions denied, TRUNCATE ends the session."""
    effects = analysis.effects
    if Effect.DATA_TRUNCATE in effects:
        return Decision(Action.TERMINATE, "no-truncate", "never")
    if Effect.UNKNOWN in effects:
        return Decision(Action.DENY, "default", "not understood")
    if any(e.value.startswith(("ddl.", "priv.", "file.", "exec.", "session.role")) for e in effects):
        return Decision(Action.DENY, "no-ddl", "ask the platform team")
    if Effect.DATA_DELETE in effects:
        return Decision(Action.HOLD, "ask-first", "", hold=HoldTerms())
    return Decision(Action.ALLOW, "allow", "")


class FakePort:
    """What the process around a session does, without a process: it remembers."""

    def __init__(self, decide: Callable[[Analysis], Decision], masks: Sequence[MaskRule]) -> None:
        self.masker: ResultMasker | None = Masker(tuple(masks), KEY) if masks else None
        self.decision = decide
        self.snapshot: Catalog | None = catalog()
        self.records: list[dict[str, Any]] = []
        self.epoch: object = object()
        self.holds: list[HoldRequest] = []
        self.withdrawn: list[str] = []
        self.alerts: list[tuple[Sequence[str], int]] = []
        self.changed = 0
        self.nobody = ""  # why nobody can be asked
        self.full = False  # the journal cannot be written
        self.time = T0

    def catalog(self) -> Catalog | None:
        return self.snapshot

    def catalog_changed(self) -> None:
        self.changed += 1

    def decide(self, analysis: Analysis) -> Decision:
        return self.decision(analysis)

    def policy_epoch(self) -> object:
        return self.epoch

    def now_ns(self) -> int:
        return int(self.time * 1e9)

    def redact(self, text: str) -> str:
        return text.replace("hunter2", "[redacted]")

    def redact_params(self, text: str, values: Sequence[str | None]) -> tuple[str | None, ...]:
        return ("[redacted]",) * len(values) if "hunter2" in text else tuple(values)

    def record(self, kind: str, body: bytes) -> None:
        if self.full:
            raise RecordFailed("no space left on device")
        record = orjson.loads(body)
        assert record["t"] == kind
        self.records.append(record)

    def hold(self, request: HoldRequest) -> HoldTicket:
        if self.nobody:
            raise HoldRefused(self.nobody)
        self.holds.append(request)
        return HoldTicket(f"hold-{len(self.holds)}", self.time + 600)

    def withdraw(self, ticket: HoldTicket, why: str) -> None:
        self.withdrawn.append(why)

    def alert(self, names: Sequence[str], number: int) -> None:
        self.alerts.append((names, number))


class Talk:
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
        self.port = FakePort(decide, masks)
        state = SessionState()
        state.startup({"user": "app", "database": "db", "client_encoding": "UTF8", **(startup or {})})
        for name, value in (("client_encoding", "UTF8"), ("standard_conforming_strings", "on")):
            state.parameter_status(name, value)
        state.ready("I")
        self.session = PostgresSession("s1", self.port, state, cache or AnalysisCache(), Limits(**limits))

    def client(self, *data: bytes) -> bytes:
        for part in data:
            self.session.client(part)
        return self.up()

    def server(self, *data: bytes) -> bytes:
        for part in data:
            self.session.server(part)
        return self.down()

    def resume(self, outcome: Outcome | None, why: str = "") -> bytes:
        self.session.resume(outcome, why)
        return self.up()

    def up(self) -> bytes:
        """What goes to the server since the last look."""
        data = b"".join(self.session.up)
        self.session.up.clear()
        return data

    def down(self) -> bytes:
        data = b"".join(self.session.down)
        self.session.down.clear()
        return data

    @property
    def ended(self) -> bool:
        return self.session.ended

    def commands(self) -> list[tuple[str, str, str]]:
        """(phase, text, decision) of every command on record."""
        return [(r["phase"], r["text"], r["decision"]) for r in self.port.records if r["t"] == "command"]

    def responses(self) -> list[tuple[int, str]]:
        """(command number, status) of every response on record."""
        return [(r["n"], r["status"]) for r in self.port.records if r["t"] == "response"]

    def last(self, kind: str = "response") -> dict[str, Any]:
        return [r for r in self.port.records if r["t"] == kind][-1]

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
