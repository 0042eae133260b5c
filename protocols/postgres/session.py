"""One PostgreSQL session after authentication: which message is legal when, and what happens to it.

The rules, in prose:

- Every message of the client that makes the server answer is entered in `queue`; the server's messages are matched
  against its head. An answer that nobody waits for ends the session: a server (or something in between) lies.
- What can run something is judged at the message that could start it: Query, Parse (a denial only), Bind (planning may
  already run code), Execute of a portal that no Bind of ours made, FunctionCall.
- A denied message is replaced by a stand-in that must fail on the server at that very place; the error that comes back
  gets the gateway's fields. Skipping to Sync, aborting the block and rolling back are the server's own doing.
- After an error in the extended protocol the server ignores everything up to Sync: so do we, and forward none of it.
- A message whose meaning depends on an earlier one's outcome waits for that outcome (`Wait.SERVER`).
- A command is recorded before its bytes are in `up`; the relay flushes the journal before it sends `up`.

INVARIANT: no sockets and no clock: time comes from the port.
"""

from __future__ import annotations

import secrets
from collections import deque

from protocols.contract import CatalogSnapshot, RecordFailed, SessionPort, Side, Wait
from protocols.postgres import errors
from protocols.postgres.backend import Backend
from protocols.postgres.errors import ProtocolError, error_response, notice_response
from protocols.postgres.framing import BACKEND, FRONTEND, Framer
from protocols.postgres.frontend import Frontend
from protocols.postgres.judging import AnalysisCache, Judge
from protocols.postgres.limits import Limits
from protocols.postgres.pending import Pending, Portal, Prepared
from protocols.postgres.state import SessionState
from protocols.postgres.statements import CommandAnalysis
from protocols.verdicts import NamesChanged
from protocols.waits import TURN_NS

_PIECE = 8192  # bytes of a backlog that are read at once
_STREAMED = 65536  # a message longer than this that needs no inspection is passed on in pieces


class PostgresSession(Frontend, Backend):
    """See `protocols.contract.Session`. `state` has seen the startup parameters and the server's first statuses."""

    PROTOCOL_ERROR = ProtocolError

    def __init__(
        self, session_id: str, port: SessionPort, state: SessionState, cache: AnalysisCache, limits: Limits
    ) -> None:
        self.session_id = session_id.encode()
        self.port = port
        self.state = state
        self.limits = limits
        self.judge = Judge(port, state, cache)
        self.masking = port.masker is not None
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.waiting: Wait | None = None
        self.ended = False
        self.late = []
        self.queue: deque[Pending] = deque()
        self.prepared: dict[bytes, Prepared] = {}  # confirmed by ParseComplete
        self.parsing: dict[bytes, Prepared] = {}  # sent, not yet confirmed
        self.portals: dict[bytes, Portal] = {}
        self.unmasked: dict[bytes, tuple[CommandAnalysis, CatalogSnapshot | None]] = {}
        self.answers = {}
        self.skipping = False  # the server ignores everything until Sync
        self.copy_in: Pending | None = None
        self.syncs = 0
        self.number = 0
        self.status = "I"
        # names for stand-ins that must not exist: unguessable, so that no client can have made them
        self.nowhere = b"sluicegate-" + secrets.token_hex(16).encode()
        self._later: list[bytes] = []  # client bytes behind a wait
        self._later_size = 0
        self._notices: list[bytes] = []
        self._client_large = ""  # "forward" or "drop" while a large client message passes
        self._server_large = False
        streamed = dict.fromkeys(b"d", _STREAMED)
        self._from_client = Framer(FRONTEND, streamed, limits.inspect_max)
        streamed = {} if self.masking else dict.fromkeys(b"DdV", _STREAMED)
        self._from_server = Framer(BACKEND, streamed, limits.inspect_max)

    # ------------------------------------------------------------ the relay's side

    @property
    def backlog(self) -> int:
        return self._later_size + self._from_client.buffered

    @property
    def busy(self) -> bool:
        """In a transaction, or with answers to come."""
        return self.status != "I" or self._in_flight()

    def client(self, data: bytes) -> None:
        if self.ended:
            return
        if self.waiting is not None:
            self._later.append(data)
            self._later_size += len(data)
            return
        try:
            self._client(data)
        except ProtocolError as e:
            self._broken(e)
        except RecordFailed:
            self.unrecorded()

    def server(self, data: bytes) -> None:
        if self.ended:
            return
        try:
            self._server(data)
        except NamesChanged as e:
            self._fail(errors.OBJECT_IN_USE, str(e))
        except ProtocolError as e:
            self._fail(errors.CONNECTION_FAILURE, f"the upstream broke the protocol: {e}")
        except RecordFailed:
            self.unrecorded()
        if self.waiting is Wait.SERVER and not (self._alone and self._in_flight()) and not self._must_wait():
            self._alone = False
            self._over(None)

    def _after_wait(self) -> None:
        if self.waiting is None:
            self._replay()

    def notice(self, text: str) -> None:
        self._tell(notice_response(text))

    def _tell(self, message: bytes) -> None:
        """A message of our own to the client, behind the server's message that is passing in pieces."""
        if self._server_large:
            if len(self._notices) < 16:
                self._notices.append(message)
        else:
            self.down.append(message)

    def terminate(self, why: str) -> None:
        self._fail(errors.ADMIN_SHUTDOWN, why)

    def unrecorded(self) -> None:
        self._fail(errors.IO_ERROR, "the gateway cannot record; nothing passes until it can")

    def cancelled(self) -> bool:
        if self.waiting is Wait.ANALYSIS and self.judge.cancel():
            self._go_on()
            return True
        if self.waiting is not Wait.HOLD or self.held is None:
            return False
        self.port.withdraw(self.held.ticket, "the client cancelled it")
        return True

    def lost(self, side: Side) -> None:
        self.judge.leave()
        if self.held is not None:
            held, self.held = self.held, None
            self.port.withdraw(held.ticket, f"the {side.value} connection is gone")
        if side is Side.UPSTREAM and self.queue and not (self._server_large or self._said_goodbye or self.ended):
            text = "the upstream closed the connection; whether the last command ran is not known"
            self.down.append(error_response(errors.CONNECTION_FAILURE, text, severity="FATAL"))
        self.ended = True
        self.waiting = None
        if self.defining:
            self.defining = 0
            self.port.defined(certain=not self.queue)  # what is open is undone; what runs may still be done
        if self.copying:
            self.copying = 0
            self.port.copied(certain=not self.queue)
        try:
            for entry in self.queue:
                self._finish(entry, b"lost")
            self.queue.clear()
            self._record_late()
        except RecordFailed:
            # the connection is gone already and the recorder has said that it cannot write: nothing more passes
            self.queue.clear()
            self.late.clear()

    # ------------------------------------------------------------ shared by both halves

    def _broken(self, error: Exception) -> None:
        assert isinstance(error, ProtocolError)
        self._fail(error.sqlstate, str(error))

    def _fail(self, sqlstate: str, message: str) -> None:
        """The session's last words. Nothing that was not committed goes upstream."""
        if self.ended:
            return
        self.up.clear()
        if not self._server_large:  # inside a message there is no place for another
            self.down.append(error_response(sqlstate, message, severity="FATAL"))
        self.lost(Side.CLIENT)

    def _replay(self) -> None:
        """Goes on with what the client sent during a wait."""
        turn_ends = self.port.now_ns() + TURN_NS
        while self._later and self.waiting is None and not self.ended:
            if self.port.now_ns() > turn_ends:
                self.waiting = Wait.TURN
                return
            later = b"".join(self._later)
            # in pieces: what another wait puts back is cut into messages again. A message that has waited goes alone
            piece, self._front = self._front or _PIECE, 0
            rest = later[piece:]
            self._later, self._later_size = [rest] if rest else [], len(rest)
            self._client(later[:piece])
            if self.waiting is not Wait.ANALYSIS and self.waiting is not Wait.CATALOG:
                self.judge.forget()
