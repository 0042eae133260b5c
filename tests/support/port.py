"""What the tests of all wire sessions share: a port that remembers, and a session between two hands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from addons.definitions import Definitions
from guard.mask.masker import Masker
from protocols.contract import (
    Action,
    Analysis,
    Apart,
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

T0 = 1_700_000_000.0
KEY = b"k" * 32


def usual(analysis: Analysis) -> Decision:
    """Reads, writes and session work pass; deletes are held, definitions denied, TRUNCATE ends the session."""
    effects = analysis.effects
    if Effect.DATA_TRUNCATE in effects:
        return Decision(Action.TERMINATE, "no-truncate", "never")
    if Effect.UNKNOWN in effects:
        return Decision(Action.DENY, "default", "not understood")
    if any(e.value.startswith(("ddl.", "priv.", "file.", "exec.", "session.role", "admin.")) for e in effects):
        return Decision(Action.DENY, "no-ddl", "ask the platform team")
    if Effect.DATA_DELETE in effects:
        return Decision(Action.HOLD, "ask-first", "", hold=HoldTerms())
    return Decision(Action.ALLOW, "allow", "")


def anything(_: Analysis) -> Decision:
    return Decision(Action.ALLOW, "allow", "")


class FakePort:
    """What the process around a session does, without a process: it remembers."""

    def __init__(self, decide: Callable[[Analysis], Decision], masks: Sequence[MaskRule], snapshot: Any) -> None:
        self.masker: ResultMasker | None = Masker(tuple(masks), KEY) if masks else None
        self.decision = decide
        self.snapshot: Any = snapshot  # a catalog of the protocol's; None: it is not known
        self.records: list[dict[str, Any]] = []
        self.epoch: object = object()
        self.holds: list[HoldRequest] = []
        self.told = 0  # of `holds`, how many the session knows to be stored
        self.withdrawn: list[str] = []
        self.alerts: list[tuple[Sequence[str], int]] = []
        self.changed = 0
        self.outdated = False  # another session has defined something since the snapshot
        self.nobody = ""  # why nobody can be asked
        self.full = False  # the journal cannot be written
        self.time = T0
        # what others do at the same time; it stands still here
        self.definitions = Definitions(lambda: self.now_ns() - 1, self.now_ns)
        self.apart = False  # long texts are analysed elsewhere
        self.long: list[Apart] = []
        self.forgotten: list[Apart] = []

    def analyse_apart(self, asked: Apart) -> None:
        assert self.apart
        self.long.append(asked)

    def forget_apart(self, asked: Apart) -> None:
        self.forgotten.append(asked)

    def catalog(self, newest: bool = False) -> Any:
        return None if newest and self.outdated else self.snapshot

    def catalog_changed(self) -> None:
        self.changed += 1

    def defining(self, relations: Sequence[str]) -> None:
        self.definitions.begin(self, relations)

    def defined(self, certain: bool = True) -> None:
        self.definitions.end(self, certain=certain)

    def redefined(self, relations: Sequence[str], since_ns: int) -> bool:
        return self.definitions.concern(self, relations, since_ns)

    def quiet_since(self, since_ns: int) -> bool:
        return self.definitions.quiet_since(since_ns)

    def copying(self, relations: Sequence[str]) -> None:
        self.definitions.copies.begin(self, relations)

    def copied(self, certain: bool = True) -> None:
        self.definitions.copies.end(self, certain=certain)

    def being_copied(self, relations: Sequence[str]) -> bool:
        return self.definitions.copies.concern(self, relations)

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

    def may_record(self) -> None:
        if self.full:
            raise RecordFailed("no space left on device")

    def record(self, kind: str, body: bytes) -> None:
        self.may_record()
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


class Dialogue:
    """One session. `client` and `server` take what that side sends and return what reaches the other side."""

    session: Any
    port: FakePort

    def client(self, *data: bytes) -> bytes:
        for part in data:
            self.session.client(part)
            self.session.catch_up()
        self._asked()
        return self.up()

    def server(self, *data: bytes) -> bytes:
        for part in data:
            self.session.server(part)
        self._asked()
        sent = self.down()
        self.session.catch_up()
        return sent + self.down()

    def resume(self, outcome: Outcome | None, why: str = "") -> bytes:
        self.session.resume(outcome, why)
        self.session.catch_up()
        self._asked()
        return self.up()

    def _asked(self) -> None:
        """What was held is stored, and people are asked: the process says so once."""
        if len(self.port.holds) > self.port.told:
            self.port.told = len(self.port.holds)
            self.session.asked()

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
