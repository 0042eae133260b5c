"""What it means that a statement or a function has run, stopped between its rows, or failed.

For the session's state, for names, portals and prepared statements, and on record.
"""

from __future__ import annotations

from dataclasses import replace

from protocols.contract import Effect
from protocols.postgres import results
from protocols.postgres.errors import ProtocolError, error_response
from protocols.postgres.masking import Masking
from protocols.postgres.messages import CommandComplete, Fields, FunctionCallResponse
from protocols.postgres.pending import Kind, Pending, Verdict, judged_at
from protocols.postgres.roundtrip import RoundTrip
from protocols.postgres.statements import ChangeKind
from protocols.postgres.statements.model import Change
from protocols.records import SECRET_VALUES
from protocols.verdicts import NamesChanged

_KEEP_NAMES = frozenset(
    {
        ChangeKind.BEGIN,
        ChangeKind.SAVEPOINT,
        ChangeKind.RELEASE,
        ChangeKind.SET,
        ChangeKind.RESET,
        ChangeKind.RESET_ALL,
    }
)


class Outcomes(RoundTrip, Masking):
    """Mixed into `PostgresSession`. INVARIANT: what the server may have done counts as done."""

    def _complete(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.EXECUTE, Kind.QUERY)
        entry.tag = tag = buf[pos + 5 : stop - 1]
        if b"\0" in tag or buf[stop - 1]:
            raise ProtocolError("a command tag that is no string")
        self._capture(entry, buf[pos:stop])
        if not entry.rows:
            entry.rows = CommandComplete(tag).rows()
        self._statement_done(entry, b"ok")
        return None

    def _empty(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        self._statement_done(self._head(Kind.EXECUTE, Kind.QUERY), b"ok")
        return None

    def _suspended(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        # the server has run all of it (RETURNING) or a part: what it has changed already stands, whatever comes behind
        entry = self._head(Kind.EXECUTE)
        self._changed_by(entry, whole=False)
        self.queue.popleft()
        self._finish(entry, b"suspended")
        return None

    def _changed_by(self, entry: Pending, *, whole: bool) -> None:
        verdict = entry.verdict
        if verdict is None:
            return
        statements = verdict.command.statements
        if verdict.changes and self.masking and self._redefined(verdict, judged_at(entry)):
            raise NamesChanged  # a cursor or temporary table would be taken for what it was to be
        if verdict.changes and entry.index < len(statements):
            defined = self.state.definitions_changed
            statement = statements[entry.index]
            self.state.applied(statement if whole else replace(statement, changes=_in_part(statement.changes)))
            if defined and not self.state.definitions_changed:
                self.port.catalog_changed()
        portal = entry.portal
        if portal is not None and not whole and portal.renames == self.renames:
            portal.renames += verdict.changes  # its own next part is no surprise to it
        self.renames += verdict.changes
        if verdict.renames:
            self.port.catalog_changed()
        if verdict.changes and not _keeps_names(verdict, entry.index):
            self._forget_dropped()
            self._forget_closed()

    def _statement_done(self, entry: Pending, status: bytes) -> None:
        """One statement of the message has run: what it changes is in force now."""
        self._changed_by(entry, whole=True)
        self._finish(entry, status)
        copied = entry.what == b"G"
        entry.index += 1
        entry.rewriter = entry.copy = None
        entry.what = entry.columns = entry.tag = b""
        entry.judged = entry.judged or entry.started
        entry.started = self.port.now_ns()
        if entry.room < self.limits.response_max:
            entry.room = self.limits.response_max
        if entry.kind == Kind.EXECUTE:
            self.queue.popleft()
        self._end_copy(entry)
        if copied:
            self._end_input(entry)

    def _forget_dropped(self) -> None:
        """SQL's DEALLOCATE and DISCARD drop the protocol's statements too."""
        for name in [n for n in self.prepared if n and self.state.prepared(n.decode("utf-8", "replace")) is None]:
            del self.prepared[name]

    def _forget_closed(self) -> None:
        """SQL's CLOSE, COMMIT and the like end portals, and a cursor may take the name over."""
        for name in [n for n, p in self.portals.items() if n and p.bound]:
            if self.state.portal(name.decode("utf-8", "replace")) is not self.portals[name].verdict.command:
                del self.portals[name]

    def _error(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        fields = Fields.decode(buf[pos + 5 : stop])
        self._said_goodbye = self._said_goodbye or (fields.get("V") or fields.get("S")) in ("FATAL", "PANIC")
        queue = self.queue
        while queue and (queue[0].kind == Kind.COPY_END or (queue[0].maybe and self._others())):
            queue.popleft()
        if not queue or queue[0].kind == Kind.SYNC:
            if queue:
                self.state.failed()  # a commit that fails at Sync undoes what ran before it
            # not about a command: a shutdown, a timeout while idle, a failing commit at Sync. The last one may quote
            # rows that an earlier command wrote (a deferred constraint)
            return _scrubbed(fields, b"E") if self.masking else None
        entry = queue[0]
        if entry.hidden and entry.portal is None:
            # the gateway's own question failed: not the client's business, its columns stay unknown
            self._asked_in_vain = fields
            self._skip_to_sync()
            return b""
        if self._asked_in_vain is not None and entry.kind == Kind.QUERY:
            if fields.get("C") == "25P02":  # our question aborted the block: what the client's own would have said
                fields = self._asked_in_vain
            self._asked_in_vain = None
        replaced: bytes | None = None
        sqlstate = fields.get("C")
        if entry.denial is not None:
            sqlstate, message, hint = entry.denial
            replaced = error_response(sqlstate, message, hint=hint)
            entry.denial = None
        elif entry.verdict is not None and self._may_quote(entry, entry.verdict):
            replaced = _scrubbed(fields, b"E")
        if entry.kind == Kind.PARSE and not entry.number and not entry.hidden and entry.verdict is not None:
            self._refused_parse(entry)
        shown = buf[pos:stop] if replaced is None else replaced
        if replaced is None:
            shown = _recorded(entry, fields, shown)
        self._capture(entry, shown)
        self._finish(entry, b"error", sqlstate)
        entry.number = 0
        self.state.failed()
        self._end_copy(entry)
        if entry.kind in (Kind.QUERY, Kind.CALL):
            return replaced  # ReadyForQuery follows and takes the entry
        self._skip_to_sync()
        return replaced

    def _others(self) -> bool:
        """More than Syncs is awaited."""
        return any(e.kind not in (Kind.SYNC, Kind.COPY_END) for e in self.queue)

    def _may_quote(self, entry: Pending, verdict: Verdict) -> bool:
        """Its errors and notices may hold masked values: of rows it touches, or of deferred checks that it sets off."""
        if verdict.touches or not self.masking:
            return verdict.touches
        if entry.kind != Kind.PARSE and self._redefined(verdict, judged_at(entry)):
            return True
        return Effect.TX in verdict.command.analysis.effects

    def _skip_to_sync(self) -> None:
        """The server ignores everything behind the failed message until a Sync."""
        queue = self.queue
        while queue:
            entry = queue[0]
            if entry.kind == Kind.SYNC:
                break
            if entry.kind == Kind.PARSE and self.parsing.get(entry.name) is entry.prepared:
                self.parsing.pop(entry.name, None)
            if entry.kind == Kind.BIND and entry.portal is not None and self.portals.get(entry.name) is entry.portal:
                del self.portals[entry.name]
            if entry.number:
                self._finish(entry, b"skipped")
            queue.popleft()
        else:
            self.skipping = True

    def _notice(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        if self.queue and (self.queue[0].kind == Kind.SYNC or self.queue[0].verdict is not None):
            verdict = self.queue[0].verdict
            if self.masking if verdict is None else self._may_quote(self.queue[0], verdict):
                return _scrubbed(Fields.decode(buf[pos + 5 : stop]), b"N")
        return None

    def _call_result(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.CALL)
        replaced: bytes | None = None
        if self._withholds(entry):
            FunctionCallResponse.decode(buf[pos + 5 : stop])
            replaced = FunctionCallResponse(None).encode()
        self._capture(entry, buf[pos:stop] if replaced is None else replaced)
        self._called(entry)
        return replaced

    def _withholds(self, entry: Pending) -> bool:
        """A function's result has no columns to trace: where it may be of masked ones, it is withheld."""
        verdict = entry.verdict
        if not self.masking or verdict is None or verdict.touches:
            return self.masking
        return not verdict.command.analysis.effects or self._redefined(verdict, judged_at(entry))

    def _large_result(self, buf: bytes, run: int, pos: int, end: int) -> bool:
        """A function's result above the limit has begun: -> whether it stays here, NULL in its place."""
        entry = self._head(Kind.CALL)
        self._server_large = not self._withholds(entry)
        if self._server_large:
            self._capture(entry, buf[pos:end])
            return False
        self._withheld = True
        replaced = FunctionCallResponse(None).encode()
        self._capture(entry, replaced)
        self.down += (buf[run:pos], replaced)
        return True

    def _called(self, entry: Pending) -> None:
        """The function's result is complete, or will never be shown: what it changed is in force."""
        verdict = entry.verdict
        self._finish(entry, b"ok")
        if verdict is not None and verdict.renames:
            self.port.catalog_changed()
        if verdict is not None and verdict.changes and verdict.command.statements:
            self.state.applied(verdict.command.statements[0])
        self.renames += verdict is not None and verdict.changes
        entry.number = 0


def _keeps_names(verdict: Verdict, index: int) -> bool:
    """Whether this statement surely ends no prepared statement, cursor or portal: none has to be looked through."""
    statements = verdict.command.statements
    return index < len(statements) and _KEEP_NAMES.issuperset(change.kind for change in statements[index].changes)


def _in_part(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """Of a statement that stopped between its rows: which of its settings it has made by then is not known."""
    return tuple(replace(one, value=None) if one.kind is ChangeKind.SET else one for one in changes)


def _recorded(entry: Pending, fields: Fields, shown: bytes) -> bytes:
    """An error as it goes on record: without what may quote values that the records of its command leave out."""
    verdict = entry.verdict
    if (entry.intake is not None and entry.intake.hides) or (verdict is not None and verdict.redacted):
        # with a position it would pass for one about the client's own text, of which the record shows not all
        return _scrubbed(Fields(tuple(item for item in fields.items if item[0] != "P")), b"E")
    return _scrubbed(fields, b"E") if SECRET_VALUES.search(shown) is not None else shown


def _scrubbed(fields: Fields, kind: bytes) -> bytes:
    """The message without what quotes data."""
    safe = results.scrub({k: v.decode("utf-8", "replace") for k, v in fields.items}, touched=True)
    return Fields(tuple((k, v.encode()) for k, v in safe.items())).encode(kind)
