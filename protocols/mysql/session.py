"""One MySQL session after authentication: which packet is legal when, and what happens to it.

The rules, in prose:

- One command is in flight at a time; what the client sends behind it waits here (`Wait.SERVER`). So what an earlier
  command changes is known before the next one is judged, and every packet of the server belongs to one command.
- What can run something is judged where it could run: COM_QUERY, COM_STMT_PREPARE (a denial only), COM_STMT_EXECUTE,
  and the commands that are another way of saying a statement, which are judged as that one (COM_INIT_DB as USE).
- A denied command is answered by the gateway and never reaches the server: its transaction is as it was, as after a
  server's error of that class, which is found before anything runs.
- COM_STMT_SEND_LONG_DATA is kept until the execution that it is a part of is let go.
- Statements are known by the ids that the server gave in this session; any other id is answered here.
- KILL and COM_PROCESS_KILL name ids that the gateway gave to sessions: they never go up, see `commands`.
- A local file is asked for only where the statement in flight is a LOAD DATA LOCAL that a policy let pass.
- A command is recorded before its bytes are in `up`; the relay flushes the journal before it sends `up`.
- Packets that nobody asked for end the session; of an idle server only an ERR, its last words, is passed on.

INVARIANT: no sockets and no clock: time comes from the port.
"""

from __future__ import annotations

from protocols.contract import RecordFailed, SessionPort, Side, Wait
from protocols.mysql import errors
from protocols.mysql.backend import Backend
from protocols.mysql.capabilities import Capability
from protocols.mysql.errors import Code, ProtocolError, err_packet
from protocols.mysql.framing import Framer
from protocols.mysql.frontend import Frontend
from protocols.mysql.judging import AnalysisCache, Judge
from protocols.mysql.limits import Limits
from protocols.mysql.pending import Awaited, Pending, Prepared
from protocols.mysql.state import SessionState
from protocols.verdicts import NamesChanged
from protocols.waits import TURN_NS

_PIECE = 8192  # bytes of a backlog that are read at once
_QUIT = b"\x01\0\0\0\x01"


class MysqlSession(Frontend, Backend):
    """See `protocols.contract.Session`.

    `state` is what holds after the login, `capabilities` what was agreed on both legs alike; `upstream_id` is the
    server's id of the connection.
    """

    PROTOCOL_ERROR = ProtocolError

    def __init__(
        self,
        session_id: str,
        port: SessionPort,
        state: SessionState,
        cache: AnalysisCache,
        limits: Limits,
        capabilities: Capability,
        upstream_id: int = 0,
    ) -> None:
        self.session_id = session_id.encode()
        self.port = port
        self.state = state
        self.limits = limits
        self.capabilities = capabilities
        self.deprecate_eof = Capability.DEPRECATE_EOF in capabilities
        self.mariadb = state.flavour == "mariadb"
        self.upstream_id = upstream_id
        self.judge = Judge(port, state, cache)
        self.masking = port.masker is not None
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.waiting: Wait | None = None
        self.ended = False
        self.late = []
        self.current: Pending | None = None
        self.prepared: dict[int, Prepared] = {}
        self.answers = {}
        self.number = 0
        self._later: list[bytes] = []
        self._later_size = 0
        self._from_client = Framer(limits.inspect_max, restart=True)
        self._from_server = Framer(limits.inspect_max)

    # ------------------------------------------------------------ the relay's side

    @property
    def backlog(self) -> int:
        return self._later_size + self._from_client.buffered

    @property
    def busy(self) -> bool:
        """In a transaction, or with answers to come."""
        return self.current is not None or self.state.in_transaction

    def client(self, data: bytes) -> None:
        if self.ended:
            return
        entry = self.current
        try:
            if entry is not None and entry.awaited is Awaited.INPUT:
                self._input(entry, data)
            elif entry is not None or self.waiting is not None:
                self._keep(data)
            else:
                self._client(data)
        except ProtocolError as e:
            self._broken(e)
        except RecordFailed:
            self.unrecorded()

    def _keep(self, data: bytes) -> None:
        """Client bytes behind a command in flight, or behind a wait."""
        if self.waiting is None:
            self.waiting = Wait.SERVER
        elif self.waiting is Wait.HOLD and not self._later and data[:5] == _QUIT:
            self.lost(Side.CLIENT)  # whoever asked has left
            return
        self._later.append(data)
        self._later_size += len(data)

    def server(self, data: bytes) -> None:
        if self.ended:
            return
        try:
            self._server(data)
        except NamesChanged as e:
            self._fail(errors.NET_READ_ERROR, str(e))
        except ProtocolError as e:
            self._fail(errors.NET_READ_ERROR, f"the upstream broke the protocol: {e}")
        except RecordFailed:
            self.unrecorded()
        if self.current is None and self.waiting is Wait.SERVER:
            self.waiting = None
            try:
                self._replay()
            except ProtocolError as e:
                self._broken(e)
            except RecordFailed:
                self.unrecorded()

    def _after_wait(self) -> None:
        if self.waiting is not None:
            return
        if self.current is None:
            self._replay()
        elif self._later:
            self.waiting = Wait.SERVER

    def notice(self, text: str) -> None:
        """MySQL has no message that a client does not ask for: whoever watches the session sees it, the client not."""

    def terminate(self, why: str) -> None:
        self._fail(errors.SERVER_SHUTDOWN, why)

    def unrecorded(self) -> None:
        self._fail(errors.ERROR_ON_WRITE, "the gateway cannot record; nothing passes until it can")

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
        sequence = self._next_sequence()
        held, self.held = self.held, None
        entry, self.current = self.current, None
        if held is not None:
            entry = held.entry
            self.port.withdraw(held.ticket, f"the {side.value} connection is gone")
        if side is Side.UPSTREAM and entry is not None and not self._passing and not self._said_goodbye:
            ran = "it did not run" if held is not None else "whether the last command ran is not known"
            text = f"the upstream closed the connection; {ran}"
            self.down.append(err_packet(sequence, errors.NET_READ_ERROR, text))
        self.ended = True
        self.waiting = None
        if self.defining:
            self.defining = False
            self.port.defined(certain=False)  # it is in flight, and may still be done
        if self.copying:
            self.copying = False
            self.port.copied(certain=False)
        try:
            if entry is not None:
                self._finish(entry, b"lost")
            self._record_late()
        except RecordFailed:
            # the connection is gone already and the recorder has said that it cannot write: nothing more passes
            self.late.clear()

    # ------------------------------------------------------------ shared by both halves

    def _broken(self, error: Exception) -> None:
        assert isinstance(error, ProtocolError)
        self._fail(error.code, str(error))

    def _fail(self, code: Code, message: str) -> None:
        """The session's last words. Nothing that was not committed goes upstream."""
        if self.ended:
            return
        self.up.clear()
        if not self._passing:  # inside a packet there is no place for another
            # to an idle client it comes as the answer to its next command, which is when it reads
            self.down.append(err_packet(self._next_sequence(), code, message))
        self.lost(Side.CLIENT)

    def _next_sequence(self) -> int:
        """The sequence number of the packet that the client reads next."""
        if self.held is not None:
            return self.held.sequence
        if self.current is None:
            return 1
        if self.current.awaited is Awaited.INPUT:
            return self._content_sequence
        return self._from_server.expected

    def _replay(self) -> None:
        """Goes on with what the client sent during a wait."""
        turn_ends = self.port.now_ns() + TURN_NS
        while self._later and self.waiting is None and self.current is None and not self.ended:
            if self.port.now_ns() > turn_ends:
                self.waiting = Wait.TURN
                return
            later = b"".join(self._later)
            # in pieces: what another wait puts back is cut into packets again. A command that has waited goes alone
            piece, self._front = self._front or _PIECE, 0
            rest = later[piece:]
            self._later, self._later_size = [rest] if rest else [], len(rest)
            self._client(later[:piece])
            if self.waiting is not Wait.ANALYSIS and self.waiting is not Wait.CATALOG:
                self.judge.forget()
        if self._later and self.waiting is None and not self.ended:
            self.waiting = Wait.SERVER
