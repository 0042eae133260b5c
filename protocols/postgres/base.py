"""What all parts of a session share: its state, by name and type. `PostgresSession` makes it.

Read the parts in this order: `frontend` (the client's bytes), `commands` (the messages that can run something),
`settling` (record, allow, hold, refuse), `backend` (the server's answers), `masking` (results and COPY), `roundtrip`
(the usual case, faster).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocols.contract import CatalogSnapshot, HoldTicket, Wait
from protocols.judging import defines
from protocols.postgres.errors import ProtocolError
from protocols.postgres.framing import Framer
from protocols.postgres.judging import Judge
from protocols.postgres.limits import Limits
from protocols.postgres.messages import Fields
from protocols.postgres.pending import Kind, Pending, Portal, Prepared, Verdict
from protocols.postgres.state import SessionState
from protocols.postgres.statements import CommandAnalysis
from protocols.records import Recording
from protocols.waits import Waits

if TYPE_CHECKING:
    from protocols.postgres.repeats import Answer

OWN = "pg_temp"  # schemas of the session's own begin so: temporary relations are nobody else's
Messages = list[tuple[int, int, int]]  # (kind, start, end) in a buffer


@dataclass(slots=True)
class Held:
    """A message that waits for people: how to let it go, and what to send in its place if it must not."""

    ticket: HoldTicket
    entry: Pending
    verdict: Verdict
    forward: Callable[[], None]
    refuse: Callable[[tuple[str, str, str]], None]
    epoch: object  # of the verdict that the approvers were shown


class SessionBase(Recording, Waits):
    """INVARIANT: no method here decides anything."""

    state: SessionState
    limits: Limits
    judge: Judge
    masking: bool  # some column may be masked for this identity
    up: list[bytes]  # to the server
    down: list[bytes]  # to the client
    waiting: Wait | None
    ended: bool
    queue: deque[Pending]  # answers awaited, in order
    prepared: dict[bytes, Prepared]  # confirmed by ParseComplete
    parsing: dict[bytes, Prepared]  # sent, not yet confirmed
    portals: dict[bytes, Portal]
    skipping: bool  # the server ignores everything until Sync
    copy_in: Pending | None  # COPY FROM STDIN runs
    syncs: int
    number: int  # of the last command on record
    _calm = -1  # of the last one up to which the open transaction surely has only read; not looked at until it matters
    status: str  # of the last ReadyForQuery
    nowhere: bytes  # a name that does not exist on the server
    _later: list[bytes]  # client bytes behind a wait
    _later_size: int
    _front = 0  # bytes of the message with which they begin, where that waits
    _alone = False  # that message waits until nothing is in flight
    _client_large: str
    _too_large: tuple[Pending, bytes, tuple[str, str, str]] | None = None  # refused at the end of its message
    _server_large: bool
    _withheld = False  # a message of the server's passes that the client does not get
    _notices: list[bytes]
    _from_client: Framer
    _from_server: Framer

    unmasked: dict[bytes, tuple[CommandAnalysis, CatalogSnapshot | None]]  # RowDescriptions that need no mask
    answers: dict[int, Answer]  # to simple queries, by the identity of their analysis
    trip: Pending | None = None  # a whole exchange, while it is in flight
    open = False  # messages of the extended protocol were sent since the last Sync: a transaction may be open
    held: Held | None = None
    refused = 0  # commands stopped so far
    defining = 0  # the Sync that ends what it defines for others, too; 0: nothing
    copying = 0  # the Sync that ends what it stores of what it reads under masks; 0: nothing
    catalog_waited = False  # a fresh catalog was waited for once: judge with what there is
    _barrier: Prepared | None = None  # the wait is for this Parse only
    _want_flush = False
    renames = 0  # how often a prepared name, portal or cursor has come to mean something else
    _asked_in_vain: Fields | None = None  # the error of a question of our own, whose command is still to be answered
    _epoch: object = None
    _said_goodbye = False  # the server has announced its end

    def _fail(self, sqlstate: str, message: str) -> None:
        raise NotImplementedError

    def _tell(self, message: bytes) -> None:
        raise NotImplementedError

    def _became_ready(self, entry: Pending, status: str) -> None:
        raise NotImplementedError

    def _redefined(self, verdict: Verdict | None, judged: int) -> bool:
        raise NotImplementedError

    def _unsettled(self, verdict: Verdict) -> str:
        raise NotImplementedError

    def _copies(self, entry: Pending, verdict: Verdict) -> None:
        raise NotImplementedError

    def _needs_none(self, message: bytes, verdict: Verdict, judged: int) -> bool:
        raise NotImplementedError

    def _capture(self, entry: Pending, data: bytes) -> None:
        raise NotImplementedError

    def _command(self, entry: Pending, phase: bytes, params: bytes = b"") -> Pending:
        raise NotImplementedError

    def _head(self, *kinds: Kind) -> Pending:
        raise NotImplementedError

    def _describe_portal(self, portal: Portal) -> None:
        raise NotImplementedError

    def _refused_parse(self, entry: Pending) -> None:
        raise NotImplementedError

    def _before(self, buf: bytes, run: int, pos: int) -> None:
        if pos > run:
            self.up.append(buf[run:pos])

    def _kept_texts(self) -> int:
        """Bytes of the statements that names stand for; a portal keeps its own, whatever became of that one's name."""
        kept = {id(p): p for known in (self.prepared, self.parsing) for p in known.values()}
        kept |= {id(one.prepared): one.prepared for one in self.portals.values() if one.prepared is not None}
        return sum(len(p.text) for p in kept.values())

    def _in_flight(self) -> bool:
        """Answers are to come."""
        return any(not entry.maybe for entry in self.queue)

    def _defines(self, entry: Pending, verdict: Verdict) -> None:
        """It is about to be sent, and other sessions may be asking for what it defines."""
        relations = defines(verdict.command.analysis, OWN)
        if relations is not None:
            self.port.defining(relations)
            self.defining = entry.order or self.syncs + 1

    def _sync(self, entry: Pending | None = None) -> Pending:
        """Numbers a message that ends an implicit transaction: what was made before it is gone after its answer."""
        entry = entry or Pending(Kind.SYNC)
        self.syncs += 1
        entry.order = self.syncs
        return entry

    def _await(self, entry: Pending) -> None:
        if len(self.queue) >= self.limits.queue_max:
            raise ProtocolError("more messages in flight than the gateway keeps track of", "54000")
        self.queue.append(entry)
        if entry.hidden:
            return
        if entry.verdict is not None and entry.verdict.renames and entry.kind != Kind.PARSE and entry.denial is None:
            self._defines(entry, entry.verdict)
        if self.masking and entry.verdict is not None and entry.kind != Kind.PARSE and entry.denial is None:
            self._copies(entry, entry.verdict)
        if entry.kind in (Kind.PARSE, Kind.BIND, Kind.DESCRIBE, Kind.EXECUTE, Kind.CLOSE):
            self.open = True
        elif entry.kind in (Kind.SYNC, Kind.QUERY, Kind.CALL) and not entry.maybe:
            self.open = False
