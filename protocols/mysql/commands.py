"""What each command asks, judged where it could first take effect.

A command that is another way of saying a statement is judged as that statement: COM_INIT_DB as USE, COM_FIELD_LIST as
SHOW COLUMNS (of a view in MariaDB as EXPLAIN), COM_PROCESS_INFO as SHOW PROCESSLIST, COM_STATISTICS as SHOW GLOBAL
STATUS. KILL of an id that the gateway gave out is carried out by the gateway, and only on the same identity's sessions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from protocols.contract import Action, Analysis, Decision, Effect
from protocols.mysql import errors
from protocols.mysql.catalog import Catalog
from protocols.mysql.errors import ProtocolError
from protocols.mysql.executing import Executing, digest
from protocols.mysql.framing import packet, parts, payload
from protocols.mysql.messages import Command, FieldList, Ok, Status, number
from protocols.mysql.pending import Awaited, Pending, Verdict
from protocols.mysql.statements import CommandAnalysis

# Never let through, whatever a policy says: what they do cannot be seen, or hands over the connection or the server.
_NEVER: dict[int, str] = {
    Command.CHANGE_USER: "another user is another identity: connect again with its token",
    Command.BINLOG_DUMP: "replication does not pass this gateway",
    Command.BINLOG_DUMP_GTID: "replication does not pass this gateway",
    Command.REGISTER_SLAVE: "replication does not pass this gateway",
    Command.SUBSCRIBE_GROUP_REPLICATION_STREAM: "replication does not pass this gateway",
    Command.TABLE_DUMP: "replication does not pass this gateway",
    Command.CLONE: "cloning does not pass this gateway",
    Command.SHUTDOWN: "send SHUTDOWN as a statement, so that it can be judged",
    Command.CREATE_DB: "send CREATE DATABASE as a statement, so that it can be judged",
    Command.DROP_DB: "send DROP DATABASE as a statement, so that it can be judged",
    Command.REFRESH: "send FLUSH as a statement, so that it can be judged",
}


class Commands(Executing):
    """Mixed into `MysqlSession`. A handler answers False where it must wait and is to be asked again."""

    def _command_packet(self, buf: bytes, pos: int, stop: int) -> bool:
        """One whole command, its headers included, at `buf[pos:stop]`."""
        handler = _HANDLERS.get(buf[pos + 4])
        message = buf[pos:stop] if pos or stop < len(buf) else buf
        body = payload(buf, pos, stop)
        sequence = parts(pos, stop) & 0xFF  # the answer's: a command counts from 0
        if handler is None:
            name = Command(body[0]).name if body[0] in Command else f"0x{body[0]:02x}"
            why = _NEVER.get(body[0], "this gateway does not know it") if body[0] in Command else "it is not known"
            why = f"the command {name} is refused: {why}"
            self._refuse_unread(body[0], "query", f"({name})", sequence, errors.UNKNOWN_COM, why)
            return True
        return handler(self, message, body, sequence)

    # ------------------------------------------------------------ statements as text

    def _query(self, message: bytes, body: bytes, sequence: int) -> bool:
        return self._statement(message, body[1:], sequence, b"query", Awaited.FIRST, Command.QUERY)

    def _init_db(self, message: bytes, body: bytes, sequence: int) -> bool:
        text = b"USE " + _quoted(body[1:])
        return self._statement(message, text, sequence, b"init_db", Awaited.SIMPLE, Command.INIT_DB)

    def _field_list(self, message: bytes, body: bytes, sequence: int) -> bool:
        table = FieldList.decode(body).table
        # of a view MariaDB works out its columns, with what they call; not so where a statement asks for them
        looks = b"EXPLAIN SELECT * FROM " if self._runs_views(table) else b"SHOW COLUMNS FROM "
        text = looks + _quoted(table)
        return self._statement(message, text, sequence, b"field_list", Awaited.FIELDS, Command.FIELD_LIST)

    def _runs_views(self, table: bytes) -> bool:
        catalog = self.port.catalog()
        if self.state.flavour == "mysql":
            return False
        if not isinstance(catalog, Catalog):
            return True
        relation = catalog.relation(self.state.database or "", table.decode("utf-8", "replace"))
        return relation is not None and relation.kind == "view"

    def _process_info(self, message: bytes, body: bytes, sequence: int) -> bool:
        text = b"SHOW PROCESSLIST"
        return self._statement(message, text, sequence, b"process_info", Awaited.FIRST, Command.PROCESS_INFO)

    def _statistics(self, message: bytes, body: bytes, sequence: int) -> bool:
        text = b"SHOW GLOBAL STATUS"
        return self._statement(message, text, sequence, b"statistics", Awaited.TEXT, Command.STATISTICS)

    def _statement(
        self, message: bytes, text: bytes, sequence: int, phase: bytes, awaited: Awaited, command: Command
    ) -> bool:
        ready, catalog = self._catalog()
        if not ready:
            return False
        verdict = self.judge.judge(text, catalog)
        entry = Pending(command, awaited, verdict)
        if Effect.ADMIN_KILL in verdict.command.analysis.effects:
            self._kill(entry, phase, sequence)
            return True
        self._command(entry, phase)
        self._settle(entry, [message], sequence, (), lambda: self._text_digest(command, text, verdict))
        return True

    def _text_digest(self, command: int, text: bytes, verdict: Verdict) -> bytes:
        return digest(
            command, self.state.database, text, self._meant(verdict, (self.state.charset, self.state.sql_mode))
        )

    # ------------------------------------------------------------ KILL

    def _kill(self, entry: Pending, phase: bytes, sequence: int) -> None:
        """KILL: `entry` is not on record yet."""
        verdict = entry.verdict
        assert verdict is not None
        named = _KILL_TEXT.fullmatch(verdict.text)
        if named is None:
            why = "KILL passes this gateway only by itself, as `KILL [CONNECTION | QUERY] id`, with an id of its own"
            self._record_decided(entry, phase, verdict, Decision(Action.DENY, "gateway", why))
            self._refuse(entry, sequence, errors.KILL_DENIED, why)
            return
        end = (named[1] or b"").lower() != b"query"
        self._kill_session(entry, phase, sequence, int(named[2]), end)

    def _kill_session(self, entry: Pending, phase: bytes, sequence: int, pid: int, end: bool) -> None:
        """Ids are those that the gateway told to clients; a session may stop its own identity's, as by any cancel."""
        verdict = entry.verdict
        assert verdict is not None
        why = "an identity may stop its own sessions on a resource"
        self._record_decided(entry, phase, verdict, Decision(Action.ALLOW, "gateway", why))
        if not self.port.cancel_other(pid, end=end):
            self._capture(entry, self._answer_error(sequence, errors.NO_SUCH_THREAD, f"Unknown thread id: {pid}"))
            self._finish(entry, b"error", errors.NO_SUCH_THREAD[1])
            return
        if self.ended:  # it named itself
            return
        self._answer_ok(entry, sequence)

    def _answer_ok(self, entry: Pending, sequence: int) -> None:
        """An OK of our own: with the status that the server last told."""
        flags = self.status & ~(Status.MORE_RESULTS | Status.STATE_CHANGED | Status.CURSOR_EXISTS)
        answer = packet(sequence, Ok(status=flags).encode(self.capabilities))
        self.down.append(answer)
        self._capture(entry, answer)
        entry.tag = b"OK"
        self._finish(entry, b"ok")

    def _process_kill(self, message: bytes, body: bytes, sequence: int) -> bool:
        pid = number(body, 4)
        ready, _ = self._catalog()
        if not ready:
            return False
        verdict = self.judge.verdict(b"KILL %d" % pid, _KILL)
        self._kill_session(Pending(Command.PROCESS_KILL, Awaited.SIMPLE, verdict), b"process_kill", sequence, pid, True)
        return True

    # ------------------------------------------------------------ the connection

    def _ping(self, message: bytes, body: bytes, sequence: int) -> bool:
        if len(body) != 1:
            raise ProtocolError("bytes follow a command that has none")
        self._send(Pending(body[0], Awaited.SIMPLE), [message], sequence)
        return True

    def _set_option(self, message: bytes, body: bytes, sequence: int) -> bool:
        entry = Pending(Command.SET_OPTION, Awaited.SIMPLE)
        entry.option = number(body, 2)
        self._send(entry, [message], sequence)
        return True

    def _quit(self, message: bytes, body: bytes, sequence: int) -> bool:
        """The client closes now; so does the server once it has read this."""
        self.up.append(message)
        return True


# The usual way of writing it. Anything else is refused: what is read here never reaches the server, so that reading it
# otherwise than the server would is without consequence.
_KILL_TEXT = re.compile(
    rb"\s*kill\s+(?:(?:hard|soft)\s+)?(?:(connection|query)\s+)?([0-9]{1,20})\s*;?\s*", re.IGNORECASE
)


def _quoted(name: bytes) -> bytes:
    return b"`" + name.replace(b"`", b"``") + b"`"


_KILL = CommandAnalysis(Analysis("kill", frozenset({Effect.ADMIN_KILL})))

_HANDLERS: dict[int, Callable[[Commands, bytes, bytes, int], bool]] = {
    Command.QUIT: Commands._quit,
    Command.INIT_DB: Commands._init_db,
    Command.QUERY: Commands._query,
    Command.FIELD_LIST: Commands._field_list,
    Command.STATISTICS: Commands._statistics,
    Command.PROCESS_INFO: Commands._process_info,
    Command.PROCESS_KILL: Commands._process_kill,
    Command.PING: Commands._ping,
    Command.STMT_PREPARE: Commands._prepare,
    Command.STMT_EXECUTE: Commands._execute,
    Command.STMT_SEND_LONG_DATA: Commands._send_long_data,
    Command.STMT_CLOSE: Commands._close,
    Command.STMT_RESET: Commands._reset,
    Command.STMT_FETCH: Commands._fetch,
    Command.SET_OPTION: Commands._set_option,
    Command.RESET_CONNECTION: Commands._ping,
}
