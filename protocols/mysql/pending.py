"""What a session remembers: the command whose answer is awaited, and prepared statements."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from protocols.mysql.judging import Verdict
from protocols.mysql.state import SessionState
from protocols.records import Answered

if TYPE_CHECKING:
    from protocols.mysql.repeats import Repeat

__all__ = ["Awaited", "Cursor", "Pending", "Prepared", "Verdict"]


class Awaited(enum.IntEnum):
    """What the server's next packet is."""

    FIRST = 0  # OK, ERR, a request for a local file, or the number of a result's columns
    DEFINITIONS = 1  # of a result's columns: `left` of them
    DEFINITIONS_END = 2  # the EOF behind them
    ROWS = 3
    PREPARED = 4  # COM_STMT_PREPARE_OK or ERR
    MARKERS = 5  # definitions of its parameters, then of its columns: `left` of them, and `then_left`
    MARKERS_END = 6
    FIELDS = 7  # COM_FIELD_LIST: definitions up to an EOF
    TEXT = 8  # COM_STATISTICS: one packet of text
    SIMPLE = 9  # OK, EOF or ERR
    INPUT = 10  # nothing: the client sends the content of a local file
    FETCHED = 11  # rows of a cursor, or ERR


class Cursor:
    """The rows that the server keeps for COM_STMT_FETCH, and how they are masked."""

    __slots__ = ("columns", "head", "number", "policy", "rewriter", "verdict")

    def __init__(self, entry: Pending, policy: object) -> None:
        self.number = entry.number
        self.verdict = entry.verdict
        self.rewriter = entry.rewriter
        self.columns = entry.columns
        self.head = entry.head  # the result's head as the client saw it, for the record
        self.policy = policy  # the policy epoch under which it was let through


class Prepared:
    """A prepared statement of the protocol: its text, and the verdict under the session's present meaning."""

    __slots__ = (
        "cursor",
        "database",
        "database_known",
        "epoch",
        "id",
        "lexing",
        "long",
        "long_packets",
        "long_refused",
        "long_size",
        "parameters",
        "repeats",
        "server_types",
        "text",
        "types",
        "verdict",
    )

    def __init__(self, text: bytes, verdict: Verdict, epoch: object, state: SessionState) -> None:
        self.id = 0  # the server's, once it has answered
        self.text = text
        self.verdict = verdict
        self.epoch = epoch
        self.database = state.database  # its names are looked up here, whatever the default is by then
        self.database_known = state.database_known
        self.lexing = (state.charset, state.sql_mode)
        self.parameters = 0
        self.repeats: dict[bytes, Repeat] = {}  # its executions, by how they begin
        self.types: tuple[int, ...] = ()  # as the client named them last
        self.server_types: tuple[int, ...] = ()  # as the server was told last: it never heard of a refused execution
        self.cursor: Cursor | None = None
        self.forget_long()

    def forget_long(self) -> None:
        self.long: dict[int, list[bytes]] = {}  # COM_STMT_SEND_LONG_DATA, by parameter
        self.long_packets: list[bytes] = []  # the same as it came: goes up with the execution that it is a part of
        self.long_size = 0
        self.long_refused = False  # more came than is kept: its execution is refused

    def meant(self, state: SessionState) -> bool:
        """Whether the session still reads a text as it did at the PREPARE, but for names that came and went."""
        return (
            self.database == state.database
            and self.database_known == state.database_known
            and self.lexing == (state.charset, state.sql_mode)
        )

    def there(self, state: SessionState, *, lexing: bool) -> SessionState:
        """The session as it is now, in the database of the PREPARE; `lexing`: with its quotes and characters too."""
        ahead = state.fork()
        ahead.database, ahead.database_known = self.database, self.database_known
        if lexing:
            ahead.charset, ahead.sql_mode = self.lexing
        ahead.started()  # what was remembered of its meaning is stale
        return ahead


class Pending(Answered):
    """One command in flight, or judged and waiting. Defaults stand on the class: most commands set few of these."""

    verdict: Verdict | None = None
    prepared: Prepared | None = None
    option = 0  # of COM_SET_OPTION
    types: tuple[int, ...] | None = None  # of the parameters of an execution
    index = 0  # statement of a text whose answer comes next
    certain = True  # `index` is: no statement before it can have given more than one result
    left = 0
    then_left = 0
    rewriter: Any = None  # results.RowRewriter
    definitions: list[bytes] | None = None  # payloads of the column definitions of the present result
    raw: list[bytes] | None = None  # the same as they came, with their headers, until all of them are known
    waits = 0  # bytes of those
    early = False  # a preparation that may run code of the database's own: on record, like an execution
    keeps_head = False  # the client asked for a cursor
    head = b""  # then: the column count and the definitions, as they went to the client
    cursor: Cursor | None = None

    def __init__(self, command: int, awaited: Awaited, verdict: Verdict | None = None) -> None:
        self.command = command  # its first byte
        self.awaited = awaited
        if verdict is not None:
            self.verdict = verdict
