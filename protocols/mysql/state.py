"""What one MySQL session remembers that changes what later text means.

The rules, in prose. A statement changes the session only once the server has said that it ran (`applied`); one that
failed may still have run code or set a part of what it names (`failed`). What the server reports itself (`status`,
`tracked`) wins over what was worked out here. Nothing of a session is undone by a rollback: settings, temporary tables,
prepared statements and user variables stay. Where it is not certain what the server did, the state says so and texts
become unknown: never a guess.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from protocols.mysql.settings import charset_of, fold, modes_of
from protocols.mysql.statements.model import (
    Change,
    ChangeKind,
    Prepared,
    Statement,
    Temporary,
    Variable,
)

__all__ = ["SessionState"]

MAX_NAMES = (
    10_000  # prepared statements, handlers, variables, temporary tables: beyond, the session's names are unknown
)
MAX_TEXTS = 64 * 1024 * 1024  # bytes of what SQL has prepared: likewise
MAX_SOURCES = 1000  # relations copied into one temporary table or variable

# status flags of OK and EOF packets
_IN_TRANSACTION = 0x0001
_AUTOCOMMIT = 0x0002
_NO_BACKSLASH_ESCAPES = 0x0200


class SessionState:
    """See the module's docstring. One per session, driven by the server's answers."""

    def __init__(
        self,
        *,
        flavour: str = "",
        version: tuple[int, ...] = (),
        charset: str | None = "utf8mb4",
        collation: str = "",
        sql_mode: frozenset[str] | None = frozenset(),
        database: str | None = None,
        multi_statements: bool = False,
        lower_case_table_names: int = 0,
    ) -> None:
        self.flavour = flavour  # "mysql", "mariadb"; "": not known
        self.version = version  # (10, 11, 6); (): not known
        self.charset = charset  # character_set_client in lower case; None: not known
        self.collation = collation
        self.sql_mode = sql_mode  # upper case, combinations resolved; None: not known
        self.database = database
        self.database_known = True
        self.multi_statements = multi_statements
        self.lower_case_table_names = lower_case_table_names
        self.autocommit = True
        self.in_transaction = False
        self.writable = False  # transactions were no read-only ones by default when it began, whatever it set since
        self.unlimited = False  # no statement's time was limited when it began, likewise
        self.opaque = False  # code ran that nobody saw
        self.user: str | None = None  # the account that the session is logged in as upstream
        self.prepared: dict[str, Prepared] = {}
        self.handlers: dict[str, str] = {}
        self.variables: dict[str, Variable] = {}
        self.temporaries: dict[tuple[str, str], Temporary] = {}
        self.settings: dict[str, str | None] = {}  # what this session has set; None: to a value that is not known
        self.judged: dict[tuple[bytes, int, Hashable], tuple[Any, Statement]] = {}  # see `preparing`
        self.remembered = 0  # how often something changed that only this session holds
        self.touched: set[str] = set()  # what its own DDL has named since the catalog was read
        self._start = (charset, sql_mode)
        self._login_charset = charset
        self._overflow = False
        self._key: Hashable = None

    # ------------------------------------------------------------ what the server says

    def status(self, flags: int) -> None:
        """The status flags of an OK or EOF packet."""
        self.in_transaction = bool(flags & _IN_TRANSACTION)
        self.autocommit = bool(flags & _AUTOCOMMIT)
        if self.sql_mode is not None:
            plain = bool(flags & _NO_BACKSLASH_ESCAPES)
            if plain != ("NO_BACKSLASH_ESCAPES" in self.sql_mode):
                self.sql_mode = None  # it is set to something that was not seen
                self._key = None

    def tracked(self, name: str, value: str) -> None:
        """Session tracking reports a system variable: authoritative from here on."""
        name = name.lower()
        if name == "character_set_client":
            self._set_charset(charset_of(value))
        elif name == "sql_mode":
            self._set_mode(modes_of(value))
        elif name == "autocommit":
            self.autocommit = value.lower() in ("on", "1")
        elif name in self.settings:
            self.settings[name] = value
            self._key = None

    def tracked_schema(self, name: str) -> None:
        """Session tracking reports the default database; empty: none."""
        self._set_database(name or None)

    # ------------------------------------------------------------ statements

    def applied(self, statement: Statement) -> None:
        """The server completed this statement."""
        for change in statement.changes:
            _APPLY[change.kind](self, change)
        if statement.changes:
            self.remembered += any(change.kind in _OWN for change in statement.changes)
            total = len(self.prepared) + len(self.handlers) + len(self.variables) + len(self.temporaries)
            if total + len(self.settings) > MAX_NAMES:
                self._overflow = True
            if self._overflow:  # what no name stands for any more is not kept
                self.prepared.clear()
                self.variables.clear()
            self._key = None

    def failed(self, statement: Statement) -> None:
        """The server answered this statement with an error: what it may have changed all the same is not known now."""
        for change in statement.changes:
            kind = change.kind
            if kind is ChangeKind.OPAQUE:
                self._ran_code(change)
            elif kind is ChangeKind.VARIABLE:
                self._vary(change)  # assigned row by row, until the error
            elif kind is ChangeKind.TEMP_FILL:
                self._temp_fill(change)
            elif kind is ChangeKind.HANDLER_CLOSE:
                self.handlers.pop(change.name or "", None)
            elif kind is ChangeKind.PREPARE and change.name is not None:
                self.prepared.pop(change.name, None)  # the server drops the old one first
            elif kind in (ChangeKind.TEMP_CREATE, ChangeKind.TEMP_DROP, ChangeKind.TEMP_CHANGE):
                self._temp_change(change)
            elif kind in (ChangeKind.SET, ChangeKind.NAMES) and len(statement.changes) > 1:
                _APPLY[kind](self, replace(change, value=None))
        if statement.changes:
            self.remembered += any(change.kind in _OWN for change in statement.changes)
            self._key = None

    def changed_database(self, name: str) -> None:
        """COM_INIT_DB succeeded."""
        self._set_database(name)

    @property
    def codec(self) -> str:
        """Python's name of the encoding in which a text or parameter is shown. What does not fit is shown in hex, or
        with a sign in its place."""
        return "latin-1" if self.charset == "latin1" else "utf-8"

    def reset(self, mode: frozenset[str] | None, charset: str | None) -> None:
        """COM_RESET_CONNECTION succeeded: the session is as after a login now, but for the default database.

        `mode` and `charset` are the global ones, None where they are not known: others may have changed them since the
        login. MariaDB alone keeps the character set that the client logged in with.
        """
        if self.flavour == "mariadb":
            charset = self._login_charset
        self._start = charset, mode
        self.prepared.clear()
        self.handlers.clear()
        self.variables.clear()
        self.temporaries.clear()
        self.settings.clear()
        self.opaque = self._overflow = self.writable = self.unlimited = False
        self.charset, self.sql_mode = charset, mode
        self.in_transaction = False
        self.remembered += 1
        self._key = None

    def started(self) -> None:
        """The login is over."""
        self._start = (self.charset, self.sql_mode)
        self._login_charset = self.charset
        self._key = None

    def catalog_read(self) -> None:
        """A catalog that is newer than this session's own DDL is in force."""
        self.touched.clear()
        self._key = None

    def _set_charset(self, value: str | None) -> None:
        if value != self.charset:
            self.charset = value
            self._key = None

    def _set_mode(self, value: frozenset[str] | None) -> None:
        if value != self.sql_mode:
            self.sql_mode = value
            self._key = None

    def _set_database(self, value: str | None) -> None:
        self.database, self.database_known = value, True
        self._key = None

    def _begin(self, change: Change) -> None:
        self.in_transaction = True

    def _end(self, change: Change) -> None:
        self.in_transaction = bool(change.value)  # AND CHAIN

    def _set(self, change: Change) -> None:
        name = change.name or ""
        if name == "sql_mode":
            self.sql_mode = modes_of(change.value) if change.value is not None else None
        elif name == "character_set_client":
            self.charset = charset_of(change.value) if change.value is not None else None
        elif name == "autocommit" and change.value is not None:
            self.autocommit = change.value.lower() in ("on", "1", "true")
        self.settings[name] = change.value

    def _names(self, change: Change) -> None:
        self.charset = change.value if change.value != "default" else self._start[0]

    def _vary(self, change: Change) -> None:
        if self._overflow:
            return
        name, new = change.name or "", change.value
        old = self.variables.get(name)
        sources = tuple(dict.fromkeys(((*old.sources,) if old else ()) + new.sources))
        known = new.known and (old is None or old.known) and len(sources) <= MAX_SOURCES
        self.variables[name] = Variable(sources[:MAX_SOURCES], known)

    def _use(self, change: Change) -> None:
        self._set_database(change.name)

    def _drop_database(self, change: Change) -> None:
        if self.database is not None and self.database.lower() == (change.name or "").lower():
            self._set_database(None)
        self.touched.add(change.name or "")

    def _prepare(self, change: Change) -> None:
        self.prepared[change.name or ""] = change.value
        if sum(len(one.text or b"") for one in self.prepared.values()) > MAX_TEXTS:
            self._overflow = True

    def _deallocate(self, change: Change) -> None:
        self.prepared.pop(change.name or "", None)

    def _open(self, change: Change) -> None:
        self.handlers[change.name or ""] = change.value

    def _close(self, change: Change) -> None:
        self.handlers.pop(change.name or "", None)

    def _temp_create(self, change: Change) -> None:
        made: Temporary = change.value
        key = self._temp_name(made.schema, made.name)
        known = self.temporaries.get(key)
        if known is not None:  # IF NOT EXISTS: it is the one that was there
            sources = tuple(dict.fromkeys((*known.sources, *made.sources)))
            made = replace(made, columns=None, sources=sources, certain=known.certain and made.certain)
        self.temporaries[key] = made

    def _temp_name(self, schema: str, name: str) -> tuple[str, str]:
        """`T` and `t` are two tables where the server does not fold their names."""
        return (fold(schema), fold(name)) if self.lower_case_table_names else (schema, name)

    def _temp_key(self, change: Change) -> tuple[str, str]:
        schema, _, name = (change.name or "").partition(".")
        return self._temp_name(schema, name)

    def _temp_drop(self, change: Change) -> None:
        self.temporaries.pop(self._temp_key(change), None)

    def _temp_change(self, change: Change) -> None:
        key = self._temp_key(change)
        known = self.temporaries.get(key)
        if known is not None:
            self.temporaries[key] = replace(known, columns=None, certain=False)

    def _temp_fill(self, change: Change) -> None:
        key = self._temp_key(change)
        known = self.temporaries.get(key)
        if known is not None:
            sources = tuple(dict.fromkeys((*known.sources, *change.value)))
            self.temporaries[key] = replace(known, sources=sources[:MAX_SOURCES])
            if len(sources) > MAX_SOURCES:
                self._overflow = True

    def _define(self, change: Change) -> None:
        self.touched.add(change.name or "")

    def _ran_code(self, change: Change) -> None:
        self.opaque = True
        if change.value:  # not only a routine, which gives these back as it found them
            self.charset = None
            self.sql_mode = None
            self.database_known = False
        self.prepared.clear()
        self.handlers.clear()
        self.temporaries = {k: replace(t, columns=None, certain=False) for k, t in self.temporaries.items()}

    # ------------------------------------------------------------ what is in force

    @property
    def overflow(self) -> bool:
        """Too many names to remember: what any of them stands for is not known."""
        return self._overflow

    def mode(self, name: str) -> bool:
        """Whether a mode is on; ask only while `sql_mode` is known."""
        return self.sql_mode is not None and name in self.sql_mode

    def temporary(self, schema: str, name: str) -> Temporary | None:
        """The temporary table of this name, which hides a table of the same name."""
        return self.temporaries.get(self._temp_name(schema, name)) if self.temporaries else None

    def variable(self, name: str) -> Variable:
        """What is known about a user variable (its name in lower case); one never set is NULL."""
        if self.opaque or self._overflow:
            return Variable((), known=False)
        return self.variables.get(name, Variable())

    @property
    def definitions_changed(self) -> bool:
        """This session defined something since the catalog was read: the catalog must be read again."""
        return bool(self.touched)

    def meaning_key(self) -> Hashable:
        """Everything in the session that changes what a text means. Cheap: kept until something changes."""
        if self._key is None:
            self._key = (
                self.flavour,
                self.version,
                self.charset,
                self.sql_mode,
                self.database,
                self.database_known,
                self.multi_statements,
                self.writable,
                self.unlimited,
                self.lower_case_table_names,
                self.opaque,
                self._overflow,
                tuple(self.temporaries.items()),
                tuple(self.variables.items()),
                frozenset(self.touched),
            )
        return self._key

    def fork(self) -> SessionState:
        """A copy to think ahead with: what holds after the first statements of a text."""
        ahead = SessionState()
        for name in self.__dict__:
            value = self.__dict__[name]
            ahead.__dict__[name] = value.copy() if isinstance(value, dict | set) else value
        return ahead


# what a session remembers for itself, and no text or catalog shows
_OWN = frozenset(ChangeKind) - {
    ChangeKind.BEGIN, ChangeKind.COMMIT, ChangeKind.ROLLBACK, ChangeKind.DATABASE, ChangeKind.DROP_DATABASE,
    ChangeKind.DEFINE,
}  # fmt: skip
_APPLY = {
    ChangeKind.BEGIN: SessionState._begin,
    ChangeKind.COMMIT: SessionState._end,
    ChangeKind.ROLLBACK: SessionState._end,
    ChangeKind.SET: SessionState._set,
    ChangeKind.NAMES: SessionState._names,
    ChangeKind.VARIABLE: SessionState._vary,
    ChangeKind.DATABASE: SessionState._use,
    ChangeKind.DROP_DATABASE: SessionState._drop_database,
    ChangeKind.PREPARE: SessionState._prepare,
    ChangeKind.DEALLOCATE: SessionState._deallocate,
    ChangeKind.HANDLER_OPEN: SessionState._open,
    ChangeKind.HANDLER_CLOSE: SessionState._close,
    ChangeKind.TEMP_CREATE: SessionState._temp_create,
    ChangeKind.TEMP_DROP: SessionState._temp_drop,
    ChangeKind.TEMP_CHANGE: SessionState._temp_change,
    ChangeKind.TEMP_FILL: SessionState._temp_fill,
    ChangeKind.DEFINE: SessionState._define,
    ChangeKind.OPAQUE: SessionState._ran_code,
}
