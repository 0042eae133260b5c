"""The masks of a session's results: which columns, how, and what its errors may say."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from protocols.contract import Analysis, Cacheable, Origin
from protocols.judging import defines
from protocols.mysql import origins
from protocols.mysql.base import SessionBase
from protocols.mysql.catalog import Catalog
from protocols.mysql.errors import ProtocolError
from protocols.mysql.lineage import opens
from protocols.mysql.messages import ColumnDefinition, Command, Err
from protocols.mysql.pending import Pending, Verdict
from protocols.mysql.results import RowRewriter, unsized
from protocols.mysql.scrub import scrub
from protocols.mysql.statements.model import Statement
from protocols.verdicts import COPYING, UNSETTLED

_MAX_KNOWN = 256  # results remembered, with how they are masked
_MAX_DEFINITIONS = 65536  # bytes of the definitions of one that is remembered


class _Known:
    """How a result was masked, and everything that this followed from."""

    __slots__ = ("catalog", "columns", "insert_id", "masker", "meaning", "rewriter", "statement", "tainted")

    def __init__(self, session: Masking, statement: Statement | None, catalog: object) -> None:
        self.statement = statement
        self.catalog = catalog
        self.masker = session.port.masker
        self.meaning = session.state.meaning_key()
        self.tainted = session.tainted
        self.insert_id = session.insert_id
        self.rewriter: RowRewriter | None = None
        self.columns = b""

    def same(self, other: _Known) -> bool:
        return (
            self.statement is other.statement
            and self.catalog is other.catalog
            and self.masker is other.masker
            and self.tainted == other.tainted
            and self.insert_id == other.insert_id
            and self.meaning == other.meaning
        )


class Masking(SessionBase):
    """Mixed into `MysqlSession`."""

    known_results: dict[bytes, _Known]  # by binary form and definitions; made with the first
    _went_by: _Known | None = None
    insert_id = False  # LAST_INSERT_ID(expression) ran over masked columns: its value may come from one of them

    def _masks(self, entry: Pending) -> tuple[RowRewriter | None, bytes]:
        """-> (how to mask the rows of the result whose columns are now known, None where no column needs it; what the
        record says of its columns).
        """
        assert self.port.masker is not None
        assert entry.definitions is not None
        binary = entry.command in (Command.STMT_EXECUTE, Command.MARIADB_STMT_BULK_EXECUTE, Command.STMT_FETCH)
        catalog = self._snapshot()
        statement = self._answered(entry)
        now = _Known(self, statement, catalog)
        key = b"".join((b"b" if binary else b"t", *entry.definitions))
        if not hasattr(self, "known_results"):
            self.known_results = {}
        redefined = self._redefined(entry)
        known = None if redefined else self.known_results.get(key)
        if known is not None and statement is not None and known.same(now):
            self._went_by = known
            return known.rewriter, known.columns
        definitions = [ColumnDefinition.decode(body) for body in entry.definitions]
        verdict = entry.verdict
        if verdict is None:
            raise ProtocolError("a result of a command that has none")
        shape = origins.shape(
            definitions,
            statement,
            verdict.command.analysis,
            catalog,
            self.state,
            self.port.masker.touches,
            tainted=self.tainted,
            insert_id=self.insert_id,
        )
        if redefined:
            shape = shape.of_anything()
        plan = self.port.masker.plan(shape)
        if plan is not None:
            collations = catalog.collations if catalog is not None else None
            now.rewriter = RowRewriter(plan, definitions, collations, binary=binary)
            now.rewriter.heads = {
                index: unsized(definitions[index]).encode()
                for index, (mask, column) in enumerate(zip(plan.columns, shape.columns, strict=True))
                if mask is not None and mask.withhold and column.origin is not Origin.KNOWN
            }
            now.columns = _columns(definitions, now.rewriter)
        if redefined:
            now.statement = None  # it is none to go by later
        elif len(key) <= _MAX_DEFINITIONS:
            if len(self.known_results) >= _MAX_KNOWN:
                self.known_results.clear()
            self.known_results[key] = now
        self._went_by = now
        return now.rewriter, now.columns

    def _why_unmasked(self, entry: Pending) -> object:
        return self._went_by

    def _unmasked_still(self, entry: Pending, why: object) -> bool:
        return (
            isinstance(why, _Known)
            and why.rewriter is None
            and why.statement is not None
            and why.statement is self._answered(entry)
            and why.catalog is self._snapshot()
            and why.masker is self.port.masker
            and why.tainted == self.tainted
            and why.insert_id == self.insert_id
            and why.meaning == self.state.meaning_key()
            and not self._redefined(entry)
        )

    def _redefined(self, entry: Pending) -> bool:
        """Whether names may mean something else now than when this was judged: it may have waited for a lock since."""
        verdict = entry.verdict
        return verdict is not None and self._named_anew(verdict, entry.judged or entry.started)

    def _unsettled(self, verdict: Verdict) -> str:
        """Why something may be stored that was read under a definition by which it was not judged; "": it will not."""
        if not self.masking:
            return ""
        analysis = verdict.command.analysis
        if analysis.writes and self._named_anew(verdict, self.port.now_ns()):
            return UNSETTLED
        if verdict.renames and (relations := defines(analysis)) is not None and self.port.being_copied(relations):
            return COPYING
        return ""

    def _copies(self, verdict: Verdict) -> None:
        """It is about to be sent: nobody else may define anew what it reads before it is done."""
        analysis = verdict.command.analysis
        if analysis.writes and analysis.reads:
            self.copying = True
            self.port.copying(_named(analysis))

    def _named_anew(self, verdict: Verdict, since_ns: int) -> bool:
        port = self.port
        return not port.quiet_since(since_ns) and port.redefined(_named(verdict.command.analysis), since_ns)

    @staticmethod
    def _answered(entry: Pending) -> Statement | None:
        """The statement whose result this is; None where it cannot be told."""
        statements = entry.verdict.command.statements if entry.verdict is not None else ()
        return statements[entry.index] if entry.certain and entry.index < len(statements) else None

    def _chooses_id(self, verdict: Verdict) -> bool:
        return chooses_id(verdict, self._snapshot())

    def _snapshot(self) -> Catalog | None:
        """Today's names, or those that the command in flight was judged by: it means what it did when it began."""
        catalog = self.port.catalog()
        assert catalog is None or isinstance(catalog, Catalog)
        return catalog if catalog is not None else self._names

    def _masked(self, rewriter: RowRewriter, buf: bytes, packets: Sequence[tuple[int, int, int]]) -> bytes:
        """These rows, masked. A row that cannot be is a `MaskError`, which ends the session."""
        return rewriter.rewrite_packets(buf, packets)

    def _scrub(self, body: bytes) -> bytes:
        """An ERR packet's payload without what may quote masked data."""
        error = Err.decode(body)
        verdict = self.current.verdict if self.current is not None else None
        message = error.message.decode("utf-8", "backslashreplace")
        code = verdict is not None and opens(verdict.command.analysis)
        text = scrub(error.errno, error.sqlstate, message, opens=code)
        if text == message:
            return body
        return Err(error.errno, error.sqlstate, text.encode()).encode()


def chooses_id(verdict: Verdict, catalog: Catalog | None) -> bool:
    """Whether the insert id in the answer to this command may be a masked value, or computed from one.

    It is what LAST_INSERT_ID(expression) was given, in the text or in a view behind it, or the number that an INSERT
    put into its key: out of a row that it read, or by code of its own.
    """
    analysis = verdict.command.analysis
    if not verdict.touches:
        return False
    if analysis.reads and (analysis.writes or analysis.cacheable is Cacheable.NO or catalog is None):
        return True  # a text that is not there to be searched (EXECUTE) is never kept
    return (
        b"insert_id" in verdict.text.lower()
        or opens(analysis)
        or any(_view_chooses(r, catalog) for r in analysis.reads)
    )


def _named(analysis: Analysis) -> tuple[str, ...]:
    return (*analysis.reads, *analysis.writes)


def _view_chooses(name: str, catalog: Catalog | None) -> bool:
    schema, _, table = name.partition(".")
    relation = catalog.relation(schema, table) if catalog is not None else None
    if relation is None or relation.kind != "view":
        return False
    return relation.definition is None or "insert_id" in relation.definition.lower()


def _columns(definitions: Sequence[ColumnDefinition], rewriter: RowRewriter) -> bytes:
    columns = [
        {"name": d.name.decode("utf-8", "replace"), "masked": m.rule if m is not None else None}
        for d, m in zip(definitions, rewriter.plan.columns, strict=True)
    ]
    return b',"columns":' + orjson.dumps(columns)
