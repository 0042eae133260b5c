"""Prepared statements of the protocol: their ids, parameters and cursors, and what they mean when they run."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import orjson

from protocols.contract import Action, Analysis, Cacheable, Decision, Effect
from protocols.mysql import errors, evidence
from protocols.mysql.catalog import Catalog
from protocols.mysql.errors import Code, ProtocolError
from protocols.mysql.flows import opens
from protocols.mysql.framing import packet
from protocols.mysql.judging import ELSEWHERE
from protocols.mysql.messages import Command, StmtFetch, StmtId, StmtSendLongData
from protocols.mysql.parameters import StmtExecute
from protocols.mysql.pending import Awaited, Pending, Prepared, Verdict
from protocols.mysql.settling import Settling
from protocols.mysql.statements import CommandAnalysis, analyse
from protocols.records import SECRET_VALUES

LAST = 0xFFFFFFFF  # MariaDB: the statement that was prepared last
_PIECE = 128  # bytes that the keeping of one piece of a parameter takes at least
_SHORT = 4096  # bytes of a statement; only the number of shorter ones is bounded
_PARAMETER_COUNT_AVAILABLE = 8  # a flag of COM_STMT_EXECUTE that belongs to query attributes, which are not negotiated
_MAX_PREPARED: Code = (1461, "42000")
_WRONG_ARGUMENTS: Code = (1210, "HY000")
_NO_OPEN_CURSOR: Code = (1421, "HY000")

_AMBIGUOUS = CommandAnalysis(
    Analysis(
        "unknown",
        frozenset({Effect.UNKNOWN}),
        why="prepared under settings that give its text another meaning than today's: prepare it again",
    )
)


def _runs_early(verdict: Verdict, catalog: Catalog | None) -> bool:
    """Whether MariaDB may run code of the database's own while it prepares this.

    It works out how wide `ROUND(1.5, f())` is by running f, where f is deterministic or asked for by a query without
    tables; in a view as well. A call that nothing stands around decides no width: two brackets must be open in a text.
    """
    if not opens(verdict.command.analysis):
        return False
    return (
        verdict.text.count(b"(") > 1
        or catalog is None
        or any(_no_table(catalog, name) for name in verdict.command.analysis.reads)
    )


def _no_table(catalog: Catalog, name: str) -> bool:
    schema, _, table = name.partition(".")
    relation = catalog.relation(schema, table)
    return relation is None or relation.kind == "view"


class Executing(Settling):
    """Mixed into `MysqlSession`. A handler answers False where it must wait and is to be asked again."""

    def _prepare(self, message: bytes, body: bytes, sequence: int) -> bool:
        text = body[1:]
        ready, catalog = self._catalog()
        if not ready:
            return False
        if self._too_many(text):
            why = "more prepared statements than the gateway keeps; close some first"
            self._refuse_unread(Command.STMT_PREPARE, "prepare", "(too many)", sequence, _MAX_PREPARED, why)
            self.last_prepared = None
            return True
        verdict = self.judge.judge(text, catalog)
        entry = Pending(Command.STMT_PREPARE, Awaited.PREPARED, verdict)
        self.last_prepared = None  # as in the server: only a statement that was prepared is the last one
        if Effect.ADMIN_KILL in verdict.command.analysis.effects:
            self._kill_prepared(entry, sequence)
            return True
        if verdict.decision.action >= Action.DENY:
            self._command(entry, b"prepare")
            self._settle(entry, [message], sequence, (), lambda: b"")
            return True
        entry.prepared = prepared = Prepared(text, verdict, self._epoch, self.state)
        if self.state.flavour == "mysql" or not _runs_early(verdict, catalog):
            # nothing runs yet: on record only if the server refuses it; its executions are judged and recorded
            self._send(entry, [message], sequence)
            return True
        entry.early = True
        self._command(entry, b"prepare")

        def told() -> bytes:
            meant = self._meant(verdict, prepared.lexing)
            return digest(Command.STMT_PREPARE, prepared.database, text, meant)

        self._settle(entry, [message], sequence, (), told)
        return True

    def _kill_prepared(self, entry: Pending, sequence: int) -> None:
        assert entry.verdict is not None
        why = "KILL cannot be prepared through this gateway: send it as a statement of its own"
        self._record_decided(entry, b"prepare", entry.verdict, Decision(Action.DENY, "gateway", why))
        self._refuse(entry, sequence, errors.KILL_DENIED, why)

    def _too_many(self, text: bytes) -> bool:
        if len(self.prepared) >= self.limits.names_max:
            return True
        if len(text) <= _SHORT:
            return False
        return sum(len(p.text) for p in self.prepared.values()) + len(text) > self.limits.texts_max

    def _known(self, statement: int) -> Prepared | None:
        if statement == LAST and self.mariadb:
            return self.last_prepared
        return self.prepared.get(statement)

    def _unknown(self, command: int, statement: int, function: str, sequence: int) -> bool:
        """An id of no statement of this session, as the server would say it. It never goes up: SQL's own PREPARE takes
        its ids from the same numbers, so the server might know it.
        """
        text = f"Unknown prepared statement handler ({statement}) given to {function}"
        self._refuse_unread(command, "execute", f"(statement {statement})", sequence, errors.UNKNOWN_STMT_HANDLER, text)
        return True

    def _execute(self, message: bytes, body: bytes, sequence: int) -> bool:
        if len(body) < 10:
            raise ProtocolError("COM_STMT_EXECUTE without its fixed fields")
        statement = int.from_bytes(body[1:5], "little")
        prepared = self._known(statement)
        if prepared is None:
            return self._unknown(Command.STMT_EXECUTE, statement, "mysqld_stmt_execute", sequence)
        ready, catalog = self._catalog()
        if not ready:
            return False
        verdict = prepared.verdict
        if (
            prepared.epoch is not self._epoch
            or verdict.decision.valid_until <= self.port.now_ns() / 1e9
            or verdict.command.analysis.cacheable is Cacheable.NO
        ):
            verdict = prepared.verdict = self._prepared_verdict(prepared, catalog)
            prepared.epoch = self._epoch
        entry = Pending(Command.STMT_EXECUTE, Awaited.FIRST, verdict)
        entry.prepared = prepared
        unreadable = self._unreadable(prepared, body)
        if unreadable is not None:
            code, why = unreadable
            self._record_decided(entry, b"execute", verdict, Decision(Action.DENY, "limit", why))
            self._refuse(entry, sequence, code, why)
            return True
        try:
            long = {i: b"".join(pieces) for i, pieces in prepared.long.items()} if prepared.long else None
            run = StmtExecute.decode(body, prepared.parameters, prepared.types, long)
        except ProtocolError as e:
            # the server may read it, or not: it is not let through on a guess
            why = f"Incorrect arguments to mysqld_stmt_execute: {e}"
            self._record_decided(entry, b"execute", verdict, Decision(Action.DENY, "limit", why))
            self._refuse(entry, sequence, _WRONG_ARGUMENTS, why)
            return True
        prepared.types = entry.types = run.types
        entry.keeps_head = bool(run.flags)
        prepared.cursor = None
        values: tuple[str | None, ...] = ()
        params = b""
        if run.values and not verdict.failed:  # of a text that nobody has read nobody knows which are secrets
            values = run.texts(self.state.codec)
            cut = tuple(None if v is None else evidence.shown(v) for v in values)
            if verdict.redacted or SECRET_VALUES.search(body) is not None:
                self._secret_told()
                cut = self.judge.params(verdict, cut)
            params = b',"params":' + orjson.dumps(cut)
        self._command(entry, b"execute", params)
        as_it_came = not prepared.long_packets
        if run.types and not run.rebinds and run.types != prepared.server_types:
            as_it_came = False
            # the client named them with an execution that was refused: the server would read the values by older ones
            message = packet(0, replace(run, statement=prepared.id, rebinds=True).encode())
        elif statement != prepared.id:
            as_it_came = False
            # said as -1: the server gets the id that was meant here, so that both mean the same
            message = packet(0, body[:1] + struct.pack("<I", prepared.id) + body[5:])
        messages = [message]
        if prepared.long_packets:
            messages = [*prepared.long_packets, message]
            self._forget_long(prepared)
        self._settle(entry, messages, sequence, values, lambda: self._execute_digest(prepared, run, verdict))
        if as_it_came and self.current is entry and not verdict.redacted:
            self._remember_execution(message, run, prepared)
        return True

    def _unreadable(self, prepared: Prepared, body: bytes) -> tuple[Code, str] | None:
        if prepared.long_refused:
            why = (
                f"parameters above the inspection limit of {self.limits.inspect_max} bytes; "
                "send less at once, or raise limits.inspect_max_bytes"
            )
            return errors.NET_PACKET_TOO_LARGE, why
        if body[5] & _PARAMETER_COUNT_AVAILABLE:
            return _WRONG_ARGUMENTS, "query attributes were not agreed on"
        return None

    def _execute_digest(self, prepared: Prepared, run: StmtExecute, verdict: Verdict) -> bytes:
        shape = struct.pack(f"<BI{len(run.types)}H", run.flags, run.iterations, *run.types)
        values = (b"N" if v is None else b"V" + v for v in run.values)
        meant = self._meant(verdict, prepared.lexing)
        return digest(Command.STMT_EXECUTE, prepared.database, prepared.text, meant, shape, *values)

    def _meant(self, verdict: Verdict, lexing: tuple[str | None, frozenset[str] | None]) -> bytes:
        """What else decides what a text does: an approval of one must not release another of the same bytes.

        How it is read, always. Where it names what only this session holds (variables, prepared names, handlers,
        temporary tables), the session, and how often those have changed.
        """
        charset, modes = lexing
        read = f"{charset} {','.join(sorted(modes)) if modes is not None else '?'}".encode()
        state = self.state
        own = (
            verdict.command.analysis.cacheable is Cacheable.NO
            or b"@" in verdict.text
            or bool(state.temporaries)
            or state.opaque
        )
        return read + b" %s %d" % (self.session_id, state.remembered) if own else read

    def _prepared_verdict(self, prepared: Prepared, catalog: Catalog | None) -> Verdict:
        """The verdict under today's names and policy.

        The server looks names up in the database that was the default at the PREPARE, and reads the text again, under
        today's settings, when something it rests on has changed: where the two readings differ, neither is let pass.
        """
        if prepared.meant(self.state):
            return self.judge.judge(prepared.text, catalog)
        now = prepared.there(self.state, lexing=False)
        if self.judge.apart(prepared.text):
            if prepared.lexing != (self.state.charset, self.state.sql_mode):
                return self.judge.verdict(prepared.text, _AMBIGUOUS, prepared.verdict)
            return self.judge.judge(prepared.text, catalog, ELSEWHERE, now)
        command = analyse(prepared.text, now, catalog)
        if prepared.lexing != (self.state.charset, self.state.sql_mode):
            then = analyse(prepared.text, prepared.there(self.state, lexing=True), catalog)
            trees = [[s.tree for s in c.statements] for c in (then, command)]
            if then.analysis != command.analysis or trees[0] != trees[1]:
                command = _AMBIGUOUS
        return self.judge.verdict(prepared.text, command)

    def _judged_again(self, entry: Pending, catalog: Catalog) -> Verdict:
        assert entry.verdict is not None
        if entry.prepared is not None:
            return self._prepared_verdict(entry.prepared, catalog)
        return self.judge.judge(entry.verdict.text, catalog)

    def _send_long_data(self, message: bytes, body: bytes, sequence: int) -> bool:
        """No answer of its own, whatever becomes of it."""
        data = StmtSendLongData.decode(body)
        prepared = self._known(data.statement)
        if prepared is None or data.parameter >= prepared.parameters:
            return True  # the server would remember an error for the execution: there it is refused here
        size = len(data.data) + _PIECE  # or pieces of nothing would pile up without end
        prepared.long_size += size
        self._long_total += size
        if prepared.long_size > self.limits.inspect_max or self._long_total > self.limits.texts_max:
            prepared.long_refused = True
            prepared.long.clear()
            prepared.long_packets.clear()
        if prepared.long_refused:
            return True
        prepared.long.setdefault(data.parameter, []).append(data.data)
        if data.statement != prepared.id:
            message = packet(0, StmtSendLongData(prepared.id, data.parameter, data.data).encode())
        prepared.long_packets.append(message)
        return True

    def _fetch(self, message: bytes, body: bytes, sequence: int) -> bool:
        fetch = StmtFetch.decode(body)
        prepared = self._known(fetch.statement)
        if prepared is None:
            return self._unknown(Command.STMT_FETCH, fetch.statement, "mysqld_stmt_fetch", sequence)
        cursor = prepared.cursor
        if fetch.statement != prepared.id:
            message = packet(0, StmtFetch(prepared.id, fetch.rows).encode())
        if cursor is None or cursor.verdict is None:
            text = f"The statement ({prepared.id}) has no open cursor."
            self._refuse_unread(Command.STMT_FETCH, "fetch", "(no cursor)", sequence, _NO_OPEN_CURSOR, text)
            return True
        entry = Pending(Command.STMT_FETCH, Awaited.FETCHED, cursor.verdict)
        entry.prepared, entry.cursor = prepared, cursor
        entry.rewriter, entry.columns, entry.head = cursor.rewriter, cursor.columns, cursor.head
        if cursor.policy is not self.port.policy_epoch():
            ready, catalog = self._catalog()
            if not ready:
                return False
            verdict = self._prepared_verdict(prepared, catalog)
            cursor.policy = self.port.policy_epoch()
            if verdict.decision.action > cursor.verdict.decision.action:
                entry.verdict = cursor.verdict = verdict
                self._command(entry, b"fetch")
                self._settle(
                    entry,
                    [message],
                    sequence,
                    (),
                    lambda: digest(
                        Command.STMT_FETCH, prepared.database, prepared.text, self.session_id, b"%d" % cursor.number
                    ),
                )
                return True
        entry.number = cursor.number
        entry.started = self.port.now_ns()
        entry.room = self.limits.response_max
        self._send(entry, [message], sequence)
        return True

    def _reset(self, message: bytes, body: bytes, sequence: int) -> bool:
        statement = StmtId.decode(body).statement
        prepared = self._known(statement)
        if prepared is None:
            return self._unknown(Command.STMT_RESET, statement, "mysqld_stmt_reset", sequence)
        self._forget_long(prepared)
        prepared.cursor = None
        if statement != prepared.id:
            message = packet(0, StmtId(Command.STMT_RESET, prepared.id).encode())
        self._send(Pending(Command.STMT_RESET, Awaited.SIMPLE), [message], sequence)
        return True

    def _close(self, message: bytes, body: bytes, sequence: int) -> bool:
        """No answer."""
        prepared = self._known(StmtId.decode(body).statement)
        if prepared is None:
            return True
        del self.prepared[prepared.id]
        self._forget_long(prepared)
        if self.last_prepared is prepared:
            self.last_prepared = None
        self.up.append(packet(0, StmtId(Command.STMT_CLOSE, prepared.id).encode()))
        return True


def digest(command: int, database: str | None, *what: bytes) -> bytes:
    """SHA-256 over what would run, and in which default database."""
    parts_ = (bytes((command,)), (database or "").encode(), *what)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts_)).digest()
