"""What a session asks of the process around it, and what that asks of a session."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protocols.contract.catalogs import CatalogSnapshot
from protocols.contract.commands import Analysis, Decision
from protocols.contract.handshakes import Side
from protocols.contract.masks import ResultMasker


class RecordFailed(Exception):
    """Evidence could not be written: nothing more may pass."""


class HoldRefused(Exception):
    """The approvers cannot be asked: the command is denied with this text."""


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """A command that waits for people. `digest` is SHA-256 over the exact bytes and parameters that would run."""

    number: int
    text: str
    digest: bytes
    analysis: Analysis
    decision: Decision
    params: tuple[str | None, ...]
    parts: tuple[Analysis, ...] = ()  # of its statements: what is decided on the whole is decided on each
    told: bytes = b""  # what else decides what it does: where that differs, it is another command


@dataclass(slots=True, eq=False)
class HoldTicket:
    """A request for approval, on its way to the approvers: its id and its end (epoch seconds) are there once
    `Session.asked` is called."""

    id: str = ""
    expires_at: float = 0.0


class Outcome(enum.Enum):
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"  # nobody could be asked: the request is too much, or cannot be kept
    DEFERRED = "deferred"  # the client must not wait longer: refused now; once approved, the same command passes once


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """A long text, to be analysed away from the event loop, by what its session means now.

    `state` is a copy that nobody changes; `variant` says how the text is looked at, in the protocol's own words.
    """

    text: bytes
    state: Any
    catalog: CatalogSnapshot | None
    variant: str = ""


class SessionPort(Protocol):
    """What a session asks of the process around it. Every call is immediate; `RecordFailed` ends the session."""

    masker: ResultMasker | None

    apart: bool
    """Whether `analyse_apart` can be asked. Without it long texts are analysed at once, while everybody waits."""

    def analyse_apart(self, asked: Apart) -> None:
        """`Session.analysed` is called later, once, whatever becomes of it."""

    def forget_apart(self, asked: Apart) -> None:
        """Nobody waits for it any more."""

    def catalog(self, newest: bool = False) -> CatalogSnapshot | None:
        """The snapshot, or None while it is older than its maximum age: the session then waits.

        `newest`: None, too, while it is older than the last definition that any session of the gateway has made.
        """

    def catalog_changed(self) -> None:
        """The session itself changed names: the next snapshot must be newer than now."""

    def defining(self, relations: Sequence[str]) -> None:
        """What is about to be sent may give these another meaning, for other sessions, too; empty: any relation."""

    def defined(self, certain: bool = True) -> None:
        """What `defining` was said of is over, done or undone. Not `certain`: nobody hears any more whether it is."""

    def redefined(self, relations: Sequence[str], since_ns: int) -> bool:
        """Whether another session is giving one of these another meaning, or has since then (as `now_ns`)."""

    def quiet_since(self, since_ns: int) -> bool:
        """Nobody is giving any relation another meaning, or has since then: `redefined` of any would be False."""

    def copying(self, relations: Sequence[str]) -> None:
        """What is about to be sent may store what it reads of these, or writes to them; empty: of any relation."""

    def copied(self, certain: bool = True) -> None:
        """What `copying` was said of is over. Not `certain`: nobody hears any more whether it is."""

    def being_copied(self, relations: Sequence[str]) -> bool:
        """Whether another session is doing so with one of these; empty: with any relation."""

    def decide(self, analysis: Analysis) -> Decision: ...

    def policy_epoch(self) -> object:
        """Changes identity whenever an earlier decision may no longer stand."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""

    def redact(self, text: str) -> str:
        """A statement without its secrets, for the record."""

    def redact_params(self, text: str, values: Sequence[str | None]) -> tuple[str | None, ...]:
        """The parameters of a statement without those that are secrets, for the record."""

    def record(self, kind: str, body: bytes) -> None:
        """Takes one finished JSON object. The relay has it in the journal before it sends `up`."""

    def may_record(self) -> None:
        """Raises `RecordFailed` while nothing can be recorded: an answer must not reach the client then."""

    def hold(self, request: HoldRequest) -> HoldTicket:
        """Asks the approvers; raises `HoldRefused`. The request is stored behind this call: then `Session.asked` is
        called, or `Session.resume` with `Outcome.REFUSED`. The outcome comes through `Session.resume`, too."""

    def withdraw(self, ticket: HoldTicket, why: str) -> None: ...

    def alert(self, names: Sequence[str], number: int) -> None: ...

    def cancel_other(self, pid: int, *, end: bool) -> bool:
        """Cancels what runs in the session that was told this id, or ends that session (`end`).

        Only sessions of the same principal on the same resource can be named; False: there is none.
        """


class Wait(enum.Enum):
    """Why a session reads no further from its client."""

    CATALOG = "catalog"
    HOLD = "hold"
    SERVER = "server"  # an earlier message of the pipeline changes what the next one means: its answer comes first
    ANALYSIS = "analysis"  # a long text is being analysed apart
    TURN = "turn"  # it has had its time: other sessions are served first


class Session(Protocol):
    """A sans-io session after authentication: bytes in, bytes in `up` and `down`.

    The relay drains `up` (to the upstream) and `down` (to the client) after each call; `up` only once everything that
    was recorded is in the journal, and where that fails it calls `unrecorded` and sends nothing. While `waiting` is
    set the session keeps client bytes (`backlog` of them) and the relay stops reading. `ended` closes both sides.
    """

    up: list[bytes]
    down: list[bytes]
    waiting: Wait | None
    ended: bool

    refused: int  # commands stopped so far

    @property
    def backlog(self) -> int: ...

    @property
    def late(self) -> Sequence[object]:
        """Not empty: `catch_up` is due."""

    @property
    def busy(self) -> bool:
        """In a transaction, or with answers to come."""

    def client(self, data: bytes) -> None: ...

    def server(self, data: bytes) -> None: ...

    def catch_up(self) -> None:
        """Puts on record what the client has been sent: the relay calls it once `down` is on its way."""

    def resume(self, outcome: Outcome | None, why: str = "") -> None:
        """Ends the wait: an `Outcome` for a hold; None for fresh names (or none to be had), or its next turn."""

    def analysed(self, asked: Apart, read: Any, why: str = "") -> None:
        """What became of a long text: a `protocols.verdicts.Read`, or None and why there is none: it is denied then."""

    def asked(self) -> None:
        """The approvers have been asked for what is held: its ticket is complete, and the client may be told."""

    def notice(self, text: str) -> None:
        """A message to the person, at the next place where the protocol allows one."""

    def terminate(self, why: str) -> None:
        """The polite end: the protocol's own last words, then `ended`."""

    def unrecorded(self) -> None:
        """The journal failed: what is in `up` must not be sent, and the session ends."""

    def cancelled(self) -> bool:
        """The client asks to cancel: True when it was the session's own wait, False: pass it upstream."""

    def lost(self, side: Side) -> None:
        """A side is gone: what still waits for an answer is recorded as lost."""
