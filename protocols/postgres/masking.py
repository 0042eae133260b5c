"""The masks of a session's results: which columns, how, and what a COPY writes."""

from __future__ import annotations

import orjson

from protocols.contract import Analysis
from protocols.intake import Intake
from protocols.judging import defines
from protocols.postgres import copy_columns, copy_input, results
from protocols.postgres.base import OWN, SessionBase
from protocols.postgres.catalog import Catalog
from protocols.postgres.copy import CopyMasker
from protocols.postgres.errors import ProtocolError
from protocols.postgres.fields import frame
from protocols.postgres.messages import (
    CopyResponse,
    RowDescription,
)
from protocols.postgres.pending import Kind, Pending, Portal, Verdict, judged_at
from protocols.postgres.results import MaskError, RowRewriter
from protocols.verdicts import COPYING, UNSETTLED

_MAX_UNMASKED = 256
_CALLS = "()"  # no relation's name: it meets only definitions of which it is not known what they define


def _meant(analysis: Analysis) -> tuple[str, ...]:
    """What of a statement a definition can concern: relations, or else that it calls something by name."""
    return results.relations(analysis) or ((_CALLS,) if analysis.resolves else ())


class Masking(SessionBase):
    """Mixed into `PostgresSession`."""

    def _needs_none(self, message: bytes, verdict: Verdict, judged: int) -> bool:
        """Whether this very RowDescription of this very statement was found to need no mask, under today's names."""
        known = self.unmasked.get(message)
        return (
            known is not None
            and known[0] is verdict.command
            and known[1] is not None
            and known[1] is self.port.catalog()
            and not self._redefined(verdict, judged)
        )

    def _redefined(self, verdict: Verdict | None, judged: int) -> bool:
        """Whether names may mean something else now than when this was judged (`judged`, ns): it may have waited for a
        lock meanwhile."""
        if verdict is None:
            return True
        port = self.port
        return not port.quiet_since(judged) and port.redefined(_meant(verdict.command.analysis), judged)

    def _unsettled(self, verdict: Verdict) -> str:
        """Why something may be stored that was read under a definition by which it was not judged; "": it will not."""
        if not self.masking:
            return ""
        analysis = verdict.command.analysis
        if analysis.writes and self._redefined(verdict, self.port.now_ns()):
            return UNSETTLED
        if verdict.renames and (relations := defines(analysis, OWN)) is not None and self.port.being_copied(relations):
            return COPYING
        return ""

    def _copies(self, entry: Pending, verdict: Verdict) -> None:
        """It is about to be sent: nobody else may define anew what it reads before it is done."""
        analysis = verdict.command.analysis
        if analysis.writes and (analysis.reads or analysis.resolves):
            self.port.copying(results.relations(analysis))
            self.copying = entry.order or self.syncs + 1

    def _rewriter(self, what: Pending | Portal, described: RowDescription, message: bytes) -> RowRewriter | None:
        """How to mask these rows; None where no column needs it."""
        assert self.port.masker is not None
        verdict = what.verdict
        assert verdict is not None
        command, catalog = verdict.command, self.port.catalog()
        assert catalog is None or isinstance(catalog, Catalog)
        single = len(command.statements) == 1
        tree = command.statements[0].tree if single else None
        shape = results.shape(described, catalog, command.analysis, single, tree)
        if redefined := self._redefined(verdict, judged_at(what)):
            shape = shape.of_anything()
        plan = self.port.masker.plan(shape)
        if plan is None:
            if redefined:
                return None
            if len(self.unmasked) >= _MAX_UNMASKED:
                self.unmasked.clear()
            self.unmasked[message] = (command, catalog)
            return None
        return RowRewriter(plan, described, catalog, self.state.encoding)

    def _columns(self, rewriter: RowRewriter | None, described: RowDescription | None) -> bytes:
        if rewriter is None or described is None:
            return b""
        columns = [
            {"name": f.name.decode("utf-8", "replace"), "masked": m.rule if m is not None else None}
            for f, m in zip(described.fields, rewriter.plan.columns, strict=True)
        ]
        return b',"columns":' + orjson.dumps(columns)

    def _masked(self, rewriter: RowRewriter, buf: bytes, start: int, end: int) -> bytes:
        try:
            return rewriter.rewrite_messages(buf, start, end)
        except MaskError as e:
            raise ProtocolError(f"a row that cannot be masked: {e}") from None

    def _end_copy(self, entry: Pending) -> None:
        if self.copy_in is entry:
            self.copy_in = None

    def _end_input(self, entry: Pending) -> None:
        """COPY FROM STDIN is complete: the server has read everything up to the end of its input, Syncs included."""
        queue = self.queue
        end = next((i for i, e in enumerate(queue) if e.kind == Kind.COPY_END), None)
        if end is None:
            raise ProtocolError("a COPY that ended before its input")
        for i in range(end, -1, -1):
            if queue[i].maybe or i == end:
                del queue[i]

    # ------------------------------------------------------------ COPY

    def _copy_in_response(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.EXECUTE, Kind.QUERY)
        response = CopyResponse.decode(buf[pos + 5 : stop])
        entry.intake = self._intake(entry, len(response.column_formats))
        entry.what = b"G"
        self.copy_in = entry
        # what the client sent before it knew of the COPY: the server ignores a Sync in here (copyfromparse.c)
        for later in list(self.queue)[1:]:
            if later.kind == Kind.COPY_END:
                self.copy_in = None
                break
            if later.kind != Kind.SYNC:
                raise ProtocolError("a message that is not allowed during COPY FROM STDIN")
            later.maybe = True
        return None

    def _copy_out_response(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.EXECUTE, Kind.QUERY)
        response = CopyResponse.decode(buf[pos + 5 : stop])
        self._capture(entry, buf[pos:stop])
        if self.masking:
            entry.copy = self._copy_masker(entry, response)
        entry.what = b"H"
        return None

    def _intake(self, entry: Pending, width: int) -> Intake:
        """How this COPY's input may be kept on record."""
        verdict = entry.verdict
        assert verdict is not None
        catalog = self.port.catalog()
        assert catalog is None or isinstance(catalog, Catalog)
        tree, analysis = self._copying(entry, verdict)
        return copy_input.intake_of(tree, width, analysis, catalog, self.state.encoding, self.port)

    def _copying(self, entry: Pending, verdict: Verdict) -> tuple[copy_columns.Tree | None, Analysis]:
        """The COPY that the server has begun, and what it does."""
        statements = verdict.command.statements
        analysis = statements[entry.index].analysis if entry.index < len(statements) else verdict.command.analysis
        return copy_columns.tree_of(verdict.text, entry.index, len(statements)), analysis

    def _copy_masker(self, entry: Pending, response: CopyResponse) -> CopyMasker | None:
        """How to mask this COPY's rows; None where no column needs it."""
        assert self.port.masker is not None
        verdict = entry.verdict
        assert verdict is not None
        catalog = self.port.catalog()
        assert catalog is None or isinstance(catalog, Catalog)
        tree, analysis = self._copying(entry, verdict)
        rows = entry.prepared.rows if entry.prepared is not None else b""
        described = RowDescription.decode(rows[5:]) if rows else None
        try:
            width = len(response.column_formats)
            shape, types = copy_columns.shape(tree, width, described, catalog, analysis)
            if self._redefined(verdict, judged_at(entry)):
                shape = shape.of_anything()
            plan = self.port.masker.plan(shape)
            if plan is None:
                return None
            options = copy_columns.options(tree, types)
            return CopyMasker(plan, options, catalog, self.state.encoding)
        except MaskError as e:
            raise ProtocolError(f"a COPY that cannot be masked: {e}") from None

    def _copy_data(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.EXECUTE, Kind.QUERY)
        if entry.what != b"H":
            raise ProtocolError("COPY data outside a COPY")
        if entry.copy is None:
            entry.rows += 1
            self._capture(entry, buf[pos:stop])
            return None
        try:
            out = b"".join(frame(b"d", body) for body in entry.copy.feed(buf[pos + 5 : stop]))
        except MaskError as e:
            raise ProtocolError(f"a COPY row that cannot be masked: {e}") from None
        self._capture(entry, out)
        return out

    def _copy_done(self, buf: bytes, pos: int, stop: int) -> bytes | None:
        entry = self._head(Kind.EXECUTE, Kind.QUERY)
        entry.rows = 0  # the tag that follows counts them
        if entry.copy is None:
            return None
        try:
            out = b"".join(frame(b"d", body) for body in entry.copy.end())
        except MaskError as e:
            raise ProtocolError(f"a COPY row that cannot be masked: {e}") from None
        self._capture(entry, out)
        return out + buf[pos:stop]
