"""What all parts of a session share: its state, by name and type. `MysqlSession` makes it.

Read the parts in this order: `frontend` (the client's bytes), `commands` (what each command asks), `settling` (record,
allow, hold, refuse), `backend` (the server's answers), `masking` (results).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocols.contract import Decision, HoldTicket, Side, Wait
from protocols.judging import defines
from protocols.mysql.capabilities import Capability
from protocols.mysql.catalog import Catalog
from protocols.mysql.errors import NET_READ_ERROR, Code, ProtocolError, err_packet
from protocols.mysql.framing import Framer
from protocols.mysql.judging import Judge
from protocols.mysql.limits import Limits
from protocols.mysql.pending import Pending, Prepared, Verdict
from protocols.mysql.state import SessionState
from protocols.records import Recording
from protocols.waits import Waits

if TYPE_CHECKING:
    from protocols.mysql.parameters import StmtExecute
    from protocols.mysql.repeats import Answer

# what the client is shown of the server's list of warnings, by itself or from within code that is not in its text
_TELLS_WARNINGS = re.compile(rb"(?i)\b(?:warnings|errors|diagnostics|execute|call)\b")


@dataclass(slots=True)
class Held:
    """A command that waits for people."""

    ticket: HoldTicket
    entry: Pending
    verdict: Verdict
    messages: list[bytes]  # what goes up once it is approved
    sequence: int  # of the answer's first packet
    epoch: object  # of the verdict that the approvers were shown


class SessionBase(Recording, Waits):
    """INVARIANT: no method here decides anything."""

    state: SessionState
    limits: Limits
    judge: Judge
    capabilities: Capability  # of both legs
    deprecate_eof: bool
    mariadb: bool
    upstream_id: int  # the server's id of this connection, which CONNECTION_ID() shows
    masking: bool  # some column may be masked for this identity
    up: list[bytes]  # to the server
    down: list[bytes]  # to the client
    waiting: Wait | None
    ended: bool
    current: Pending | None  # the command whose answer is awaited: there is one at most
    prepared: dict[int, Prepared]  # by the server's id
    number: int  # of the last command on record
    _later: list[bytes]  # client bytes behind a command in flight or a wait
    _later_size: int
    _front = 0  # bytes of the command with which they begin, where that waits
    _from_client: Framer
    _from_server: Framer

    last_prepared: Prepared | None = None  # what MariaDB's id -1 stands for
    tainted = False  # the server's list of warnings and errors may quote masked values
    secrets_told = False  # the same list may quote values that are left out of the record
    _long_total = 0  # bytes of long data kept for executions
    held: Held | None = None
    refused = 0  # commands stopped so far
    status = 0  # the server's last status flags
    defining = False  # what is in flight defines something for others, too
    copying = False  # what is in flight stores what it reads under masks
    catalog_waited = False  # a fresh catalog was waited for once: judge with what there is
    _epoch: object = None
    answers: dict[tuple[int, int], Answer]  # to commands, by the identity of their analysis and their first byte
    _names: Catalog | None = None  # the snapshot by which the last command was judged
    _passing = False  # a packet above the limit is on its way to the client in pieces
    _ran = 0  # of the buffer at hand: what is before it has been passed on, or replaced
    _said_goodbye = False  # the server has announced its end

    def _room(self, entry: Pending) -> int:
        """Bytes of an answer that may go on record: none where it may be of the list that quotes secrets."""
        verdict = entry.verdict
        if verdict is not None and verdict.redacted:
            self._secret_told()
        if self.secrets_told and verdict is not None and _TELLS_WARNINGS.search(verdict.text) is not None:
            return 0
        return self.limits.response_max

    def _secret_told(self) -> None:
        if not self.secrets_told:
            self.secrets_told = True
            self.answers.clear()  # they would be known again, and go on record

    def _fail(self, code: Code, message: str) -> None:
        raise NotImplementedError

    def _keep(self, data: bytes) -> None:
        raise NotImplementedError

    def lost(self, side: Side) -> None:
        raise NotImplementedError

    def _capture(self, entry: Pending, data: bytes) -> None:
        raise NotImplementedError

    def _done(self) -> None:
        raise NotImplementedError

    # what `masking` does, while `self.masking`

    def _redefined(self, entry: Pending) -> bool:
        raise NotImplementedError

    def _unsettled(self, verdict: Verdict) -> str:
        raise NotImplementedError

    def _copies(self, verdict: Verdict) -> None:
        raise NotImplementedError

    def _masks(self, entry: Pending) -> tuple[Any, bytes]:
        """How the rows behind `entry.definitions` are masked, and what the record says of the columns.

        -> (a rewriter, or None where no column needs one; `,"columns":[...]` or nothing). The rows belong to
        `entry.verdict.command.statements[entry.index]` if `entry.certain`, else to any statement or none of them.
        `self.tainted`: warnings and errors may quote masked values.
        """
        raise NotImplementedError

    def _why_unmasked(self, entry: Pending) -> object:
        """What the last `_masks` went by, which found nothing to mask in the result of `entry`."""
        raise NotImplementedError

    def _unmasked_still(self, entry: Pending, why: object) -> bool:
        """Whether all of that is so now, for another result with the same definitions."""
        raise NotImplementedError

    def _masked(self, rewriter: Any, buf: bytes, packets: list[tuple[int, int, int]]) -> bytes:
        """A run of rows as the client may see them, with their headers: `packets` are (sequence, start, end) in `buf`.

        Raises ProtocolError for a row that is not understood to its last byte.
        """
        raise NotImplementedError

    def _scrub(self, body: bytes) -> bytes:
        """An ERR payload without what quotes data."""
        raise NotImplementedError

    def _again(self, data: bytes) -> bool:
        raise NotImplementedError

    def _remember_execution(self, message: bytes, run: StmtExecute, prepared: Prepared) -> None:
        raise NotImplementedError

    def _begin_input(self, entry: Pending, sequence: int) -> None:
        raise NotImplementedError

    def _command(self, entry: Pending, phase: bytes, params: bytes = b"") -> Pending:
        raise NotImplementedError

    def _catalog(self) -> tuple[bool, Catalog | None]:
        raise NotImplementedError

    def _settle(
        self,
        entry: Pending,
        messages: list[bytes],
        sequence: int,
        values: tuple[str | None, ...],
        digest: Callable[[], bytes],
    ) -> None:
        raise NotImplementedError

    def _record_decided(self, entry: Pending, phase: bytes, verdict: Verdict, decision: Decision) -> None:
        raise NotImplementedError

    def _answer_error(self, sequence: int, code: Code, message: str) -> bytes:
        """An ERR of our own to the client: -> its bytes, which are in `down`."""
        packet = err_packet(sequence, code, message)
        self.down.append(packet)
        return packet

    def _send(self, entry: Pending, messages: list[bytes], sequence: int) -> None:
        """Lets a command go: from here on its answer, and nothing else, is awaited."""
        if self._from_server.buffered:
            raise ProtocolError("the upstream spoke before it was asked", NET_READ_ERROR)
        if entry.types is not None and entry.prepared is not None:
            entry.prepared.server_types = entry.types
        verdict = entry.verdict
        if verdict is not None and verdict.renames and (relations := defines(verdict.command.analysis)) is not None:
            self.defining = True
            self.port.defining(relations)
        if self.masking and verdict is not None:
            self._copies(verdict)
        self.up.extend(messages)
        self.current = entry
        self._from_server.expected = sequence & 0xFF
