"""What one PostgreSQL session remembers that changes what later text means.

The rules, in prose. A statement changes the session only once the server has said that it ran (`applied`), an error
undoes what the failed transaction did (`failed`, `ready`), and what the server reports itself (`parameter_status`) wins
over what was worked out here. Prepared statements and WITH HOLD cursors survive a rollback, everything else does not.
Where it is not certain what the server did, the state says so and names become unknown: never a guess.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from protocols.contract import Analysis, Effect
from protocols.postgres.builtins import builtin_catalog
from protocols.postgres.catalog import Catalog
from protocols.postgres.settings import canonical, encoding_name, is_on, set_effect
from protocols.postgres.statements.model import (
    Change,
    ChangeKind,
    CommandAnalysis,
    Prepared,
    Source,
    Statement,
    Temporary,
)
from protocols.postgres.statements.names import NameSpace, split_path
from protocols.postgres.statements.session_commands import Plan

__all__ = ["SessionState"]

MAX_NAMES = 10_000  # prepared statements, cursors, temporary tables: beyond, the session's names are unknown
MAX_TEXTS = 64 * 1024 * 1024  # characters of prepared statements
MAX_SOURCES = 1000  # relations copied into one temporary table
_HARMLESS = frozenset({Effect.SESSION_SET})
_MEANING = ("search_path", "client_encoding", "standard_conforming_strings")  # what a text means rests on them


@dataclass(slots=True)
class _Volatile:
    """What a rollback undoes."""

    settings: dict[str, str | None] = field(default_factory=dict)  # SET by this session; None: to an unknown value
    local: dict[str, str | None] = field(default_factory=dict)  # SET LOCAL, until the transaction ends
    reported: dict[str, str] = field(default_factory=dict)  # ParameterStatus of what a text's meaning rests on
    role_changed: bool = False
    role: str | None = None  # SET ROLE; None: the login role
    role_known: bool = True
    temporaries: dict[str, Temporary] = field(default_factory=dict)
    temp_types: bool = False

    def copy(self) -> _Volatile:
        return replace(
            self,
            settings=dict(self.settings),
            local=dict(self.local),
            reported=dict(self.reported),
            temporaries=dict(self.temporaries),
        )


@dataclass(frozen=True, slots=True)
class _Cursor:
    analysis: Analysis
    sent: str  # the message that declared it
    hold: bool
    fresh: bool = True  # declared in the open transaction


class SessionState:
    """See the module's docstring. One per session, driven by the server's answers."""

    def __init__(self) -> None:
        self._now = _Volatile()
        self._saved: list[tuple[str | None, _Volatile]] = []  # transaction start (None), then savepoints
        self._shot: _Volatile | None = None  # `_now` as it is, in one of the saved
        self._started: dict[str, str] = {}  # startup parameters in force
        self._server_encoding: str | None = None  # as reported
        self._login_role: str | None = None
        self._prepared: dict[str, Prepared] = {}
        self._commands: dict[str, CommandAnalysis] = {}
        self._cursors: dict[str, _Cursor] = {}
        self._portals: dict[str, tuple[CommandAnalysis, str]] = {}
        self.plans: dict[str, Plan] = {}
        self._texts = 0  # characters of `_prepared`
        self._touched: set[str] = set()
        self._touched_all = False
        self._opaque = False
        self._overflow = False
        self._block = False  # BEGIN was applied, or the server said so
        self._failed = False
        self._key: Hashable = None
        self._names: tuple[Catalog, NameSpace] | None = None

    # ------------------------------------------------------------ what the server and the client say

    def startup(self, params: Mapping[str, str]) -> None:
        """The startup parameters that the server was sent; `user` is the role that the session logs in as upstream."""
        for name, value in params.items():
            self._started[canonical(name)] = value
        self._login_role = params.get("user")
        self._changed()

    def parameter_status(self, name: str, value: str) -> None:
        """The server reports a setting: authoritative from here on."""
        name = canonical(name)
        if name == "server_encoding":
            self._server_encoding = value
        elif name in _MEANING:
            now = self._now
            if name not in self._started and name not in now.reported and name not in now.settings:
                self._started[name] = value
            now.reported[name] = value
            # what is reported is what is in force: beneath a LOCAL value the session's own may be another
            store = now.local if name in now.local else now.settings
            if name in store:
                store[name] = value
        else:
            return
        self._shot = None
        self._changed()

    def ready(self, status: str) -> None:
        """ReadyForQuery: `I` idle, `T` in a block, `E` in a failed block."""
        if status == "I":
            self._end_transaction(commit=not self._failed)
            self._failed = False
            self._block = False
        elif status == "E":
            self._failed = True
            self._block = True
        else:
            self._failed = False
            self._block = True

    def failed(self) -> None:
        """ErrorResponse: nothing of the running transaction will last, unless a savepoint is gone back to."""
        self._failed = True

    # ------------------------------------------------------------ statements that ran

    def applied(self, statement: Statement) -> None:
        """The server completed this statement."""
        for change in statement.changes:
            if not self._saved and change.kind not in (ChangeKind.COMMIT, ChangeKind.ROLLBACK):
                self._saved.append((None, self._snapshot()))
            _APPLY[change.kind](self, change)
            if change.kind not in _SAVES:
                self._shot = None
        if statement.changes:
            self._bound()
            self._changed()

    def _snapshot(self) -> _Volatile:
        """`_now`, never to be changed: savepoints between which nothing happened share one."""
        if self._shot is None:
            self._shot = self._now.copy()
        return self._shot

    def _bound(self) -> None:
        total = len(self._prepared) + len(self._cursors) + len(self._now.temporaries) + len(self._touched)
        if total > MAX_NAMES or self._texts > MAX_TEXTS:
            self._overflow = True

    def _begin(self, change: Change) -> None:
        self._block = True

    def _commit(self, change: Change) -> None:
        self._end_transaction(commit=not self._failed)
        self._failed = False
        self._block = bool(change.value)  # AND CHAIN

    def _rollback(self, change: Change) -> None:
        self._end_transaction(commit=False)
        self._failed = False
        self._block = bool(change.value)

    def _end_transaction(self, commit: bool) -> None:
        if not self._saved and not self._touched and not self._touched_all and not self._cursors and not self._portals:
            self._block = False
            return
        if self._saved and not commit:
            self._now = self._saved[0][1].copy()
        self._saved.clear()
        self._shot = None
        self._now.local.clear()
        if commit:
            self._now.temporaries = {n: t for n, t in self._now.temporaries.items() if not t.ends}
        self._touched.clear()
        self._touched_all = False
        self._cursors = {
            n: _Cursor(c.analysis, c.sent, True, fresh=False)
            for n, c in self._cursors.items()
            if c.hold and (commit or not c.fresh)
        }
        self._portals.clear()
        self._block = False
        self._changed()

    def _savepoint(self, change: Change) -> None:
        if len(self._saved) > MAX_NAMES:
            self._touched_all = True  # what going back to it means is not known, until the transaction ends
        else:
            self._saved.append((change.name, self._snapshot()))

    def _rollback_to(self, change: Change) -> None:
        for index in range(len(self._saved) - 1, -1, -1):
            if self._saved[index][0] == change.name and index > 0:
                self._now = self._saved[index][1].copy()
                del self._saved[index + 1 :]
                break
        else:
            self._opaque = True  # a savepoint that was not seen: what it undid is not known
            self._now.settings["search_path"] = None
        self._failed = False

    def _release(self, change: Change) -> None:
        for index in range(len(self._saved) - 1, 0, -1):
            if self._saved[index][0] == change.name:
                del self._saved[index:]
                break

    def _set(self, change: Change) -> None:
        name = change.name or ""
        if name in ("role", "session_authorization"):
            self._set_role(change)
        self._now.reported.pop(name, None)  # the server reports it anew, at the latest with its next ReadyForQuery
        value = change.value if name in _MEANING else ""  # of the others only the name is asked for
        if change.local:
            self._now.local[name] = value
        else:
            self._now.settings[name] = value
            self._now.local.pop(name, None)

    def _reset(self, change: Change) -> None:
        if change.name in ("role", "session_authorization"):
            self._set_role(change)
            return
        if change.local:
            self._set(change)
            return
        self._now.settings.pop(change.name or "", None)
        self._now.local.pop(change.name or "", None)
        self._back_to_start(change.name or "")

    def _set_role(self, change: Change) -> None:
        now = self._now
        plain = change.value is not None and change.value.lower() != "none"
        # a reset goes back to the login role only where nothing else was set, and LOCAL ends with the transaction
        now.role_known = plain and not change.local
        now.role = change.value if plain else None
        now.role_changed = True

    def _back_to_start(self, name: str) -> None:
        if name in _MEANING and name in self._started:
            self._now.reported[name] = self._started[name]
        else:
            self._now.reported.pop(name, None)

    def _reset_all(self, change: Change) -> None:
        kept = {n: v for n, v in self._now.settings.items() if n in ("role", "session_authorization")}
        self._now.settings, self._now.local = kept, {}
        for name in _MEANING:
            self._back_to_start(name)

    def _discard_all(self, change: Change) -> None:
        self._reset_all(change)
        self._now.settings.clear()
        self._now.role_changed, self._now.role, self._now.role_known = False, None, True
        self._forget_prepared()
        self._cursors.clear()
        self._portals.clear()
        self._discard_temp(change)

    def _forget_prepared(self) -> None:
        self._prepared.clear()
        self._commands.clear()
        self.plans.clear()
        self._texts = 0

    def _discard_temp(self, change: Change) -> None:
        self._now.temporaries.clear()
        self._now.temp_types = False

    def _prepare(self, change: Change) -> None:
        _, analysis, source = change.value
        self._keep(change.name or "", Prepared(analysis, source))
        self._commands.pop(change.name or "", None)

    def _keep(self, name: str, prepared: Prepared) -> None:
        self.close_statement(name)
        self._prepared[name] = prepared
        self._texts += len(prepared.source.text)

    def _deallocate(self, change: Change) -> None:
        if change.name is None:
            self._forget_prepared()
        else:
            self.close_statement(change.name)

    def _declare(self, change: Change) -> None:
        hold, analysis, source = change.value
        self._cursors[change.name or ""] = _Cursor(analysis, source.sent, bool(hold))
        self._portals.pop(change.name or "", None)  # the server took the name: whatever had it is gone

    def _close(self, change: Change) -> None:
        if change.name is None:
            self._cursors.clear()
            self._portals.clear()
        else:
            self.close_portal(change.name)

    def _define(self, change: Change) -> None:
        if change.name is None:
            self._touched_all = True
        else:
            self._touched.add(change.name)

    def _temp_create(self, change: Change) -> None:
        made: Temporary = change.value
        self._now.temporaries[made.name] = made

    def _temp_change(self, change: Change) -> None:
        name = change.name or ""
        known = self._now.temporaries.get(name)
        if known is not None:
            self._now.temporaries[name] = replace(known, columns=None, certain=False, ends=bool(change.value))

    def _temp_rename(self, change: Change) -> None:
        known = self._now.temporaries.get(change.name or "")
        if known is not None:
            self._now.temporaries[change.value] = replace(known, name=change.value, columns=None, certain=False)

    def _temp_fill(self, change: Change) -> None:
        known = self._now.temporaries.get(change.name or "")
        if known is not None:
            sources = tuple(dict.fromkeys((*known.sources, *change.value)))
            self._now.temporaries[known.name] = replace(known, sources=sources[:MAX_SOURCES])
            if len(sources) > MAX_SOURCES:
                self._overflow = True

    def _temp_types(self, change: Change) -> None:
        self._now.temp_types = True

    def _ran_code(self, change: Change) -> None:
        self._opaque = True

    # ------------------------------------------------------------ names of the protocol and of SQL: one namespace

    def prepare(self, name: str, command: CommandAnalysis, sent: str = "") -> None:
        """ParseComplete. `sent`: the statement as it came; the analysis may be shared by others of its shape."""
        self._keep(name, Prepared(command.analysis, Source(command.text, sent=sent)))
        self._commands[name] = command
        self._bound()

    def close_statement(self, name: str) -> None:
        """CloseComplete for a statement, or DEALLOCATE."""
        gone = self._prepared.pop(name, None)
        if gone is not None:
            self._texts -= len(gone.source.text)
        self._commands.pop(name, None)
        self.plans.pop(name, None)

    def prepared(self, name: str) -> CommandAnalysis | None:
        """What a prepared statement of this name does, whichever way it was made."""
        known = self._commands.get(name)
        if known is not None:
            return known
        sql = self._prepared.get(name)
        if sql is None or self._overflow:
            return None
        return CommandAnalysis(sql.analysis, (Statement(sql.analysis),))

    def prepared_source(self, name: str) -> Prepared | None:
        """For EXECUTE: where a prepared name was made."""
        return None if self._overflow else self._prepared.get(name)

    def bind(self, portal: str, command: CommandAnalysis, sent: str = "") -> None:
        """BindComplete. `sent` as in `prepare`."""
        if not self._saved:
            self._saved.append((None, self._snapshot()))
        self._portals[portal] = (command, sent)
        self._cursors.pop(portal, None)

    def close_portal(self, name: str) -> None:
        """CloseComplete for a portal, or CLOSE."""
        self._portals.pop(name, None)
        self._cursors.pop(name, None)

    def portal(self, name: str) -> CommandAnalysis | None:
        """What a portal does, whether Bind or DECLARE made it."""
        known = self._portals.get(name)
        if known is not None:
            return known[0]
        cursor = self._cursors.get(name)
        if cursor is None:
            return None
        return CommandAnalysis(cursor.analysis, (Statement(cursor.analysis, behind=(cursor.sent,)),))

    def cursor(self, name: str) -> Analysis | None:
        """For FETCH and MOVE."""
        command = None if self._overflow else self.portal(name)
        return None if command is None else command.analysis

    def cursor_text(self, name: str) -> str:
        """The message that made this cursor or portal; empty where it is not known."""
        if name in self._portals:
            return self._portals[name][1]
        return self._cursors[name].sent if name in self._cursors else ""

    # ------------------------------------------------------------ what is in force

    def _setting(self, name: str) -> tuple[str | None, bool]:
        """(value, whether it is known) as far as this session's own acts say; (None, True): the server's default."""
        for store in (self._now.local, self._now.settings):
            if name in store:
                return store[name], store[name] is not None
        if name in self._now.reported:
            return self._now.reported[name], True
        return self._started.get(name), True

    @property
    def encoding(self) -> str:
        """client_encoding, as the server calls it. Unknown counts as no encoding in which non-ASCII can be judged."""
        value, known = self._setting("client_encoding")
        if not known:
            return "unknown"
        return value if value is not None else self._server_encoding or "UTF8"

    @property
    def conforming_strings(self) -> bool:
        """standard_conforming_strings is on."""
        value, known = self._setting("standard_conforming_strings")
        return known and (value is None or is_on(value))

    @property
    def server_utf8(self) -> bool:
        """The server lexes UTF8 (what it has not said counts as UTF8: the catalog's connection says it, too)."""
        reported = self._server_encoding
        return reported is None or encoding_name(reported) in ("utf8", "unicode")

    @property
    def role_changed(self) -> bool:
        return self._now.role_changed or self._opaque

    @property
    def definitions_changed(self) -> bool:
        """The open transaction defined something: the catalog must be read again once it has committed."""
        return self._touched_all or bool(self._touched)

    @property
    def in_block(self) -> bool:
        """A transaction block is open, as far as the statements that ran say."""
        return self._block

    @property
    def in_failed_block(self) -> bool:
        """The open block has failed: the server takes nothing but its end."""
        return self._block and self._failed

    def has_savepoint(self, name: str) -> bool:
        """A savepoint of this name is set in the open transaction."""
        return any(saved == name for saved, _ in self._saved[1:])

    def altered(self) -> frozenset[Effect]:
        """The effects of setting back everything that this session has set."""
        names = {name for store in (self._now.settings, self._now.local) for name in store}
        found = {set_effect(name, self._started.get(name)) for name in names}
        return frozenset(found - {Effect.SESSION_ROLE}) - _HARMLESS

    def search_path(self, catalog: Catalog) -> tuple[tuple[str, ...], bool]:
        """(schemas, whether they are certain); `$user` is resolved as far as the role is known."""
        value, known = self._setting("search_path")
        if not known:
            return (), False
        if value is None:
            value = catalog.default_search_path(self._login_role)
        items = split_path(value)
        if items is None:
            return (), False
        login = self._login_role if self._login_role is not None else catalog.role
        role = self._now.role if self._now.role is not None else login
        path = []
        certain = True
        for item in items:
            if item == "$user":
                if not self._now.role_known:
                    certain = False
                elif role and role in catalog.schemas:
                    path.append(role)
            elif item:
                path.append(item)
        return tuple(path), certain

    def names(self, catalog: Catalog | None) -> NameSpace:
        """The names in force, resolved by this catalog (None: PostgreSQL's own alone)."""
        used = catalog if catalog is not None else builtin_catalog()
        if self._names is not None and self._names[0] is used and self._key is not None:
            return self._names[1]
        self.meaning_key()
        path, known = self.search_path(used)
        space = NameSpace(
            catalog=used,
            path=path,
            path_known=known,
            same_role=used.open_world or (not self._now.role_changed and self._login_role in (None, used.role)),
            temporaries=tuple(self._now.temporaries.values()),
            touched=frozenset(self._touched),
            touched_all=self._touched_all or self._overflow,
            temp_types=self._now.temp_types,
        )
        self._names = (used, space)
        return space

    def meaning_key(self) -> Hashable:
        """Everything in the session that changes what a text means. Cheap: kept until something changes."""
        if self._key is None:
            self._key = (
                self.encoding,
                self.conforming_strings,
                self.server_utf8,
                self._setting("search_path"),
                self._login_role,
                (self._now.role_changed, self._now.role, self._now.role_known),
                tuple(self._now.temporaries.values()),
                self._now.temp_types,
                frozenset(self._touched),
                self._touched_all,
                self._overflow,
            )
        return self._key

    def _changed(self) -> None:
        self._key = None
        self._names = None

    def fork(self) -> SessionState:
        """A copy to think ahead with: what holds after the first statements of a message."""
        ahead = SessionState()
        ahead._now = self._now.copy()
        ahead._saved = list(self._saved)  # what is saved never changes
        ahead._started, ahead._server_encoding = self._started, self._server_encoding
        ahead._login_role = self._login_role
        ahead._prepared, ahead._commands = dict(self._prepared), dict(self._commands)
        ahead._cursors, ahead._portals = dict(self._cursors), dict(self._portals)
        ahead._touched, ahead._touched_all = set(self._touched), self._touched_all
        ahead._opaque, ahead._overflow = self._opaque, self._overflow
        ahead._block, ahead._failed = self._block, self._failed
        ahead.plans, ahead._texts = self.plans, self._texts
        ahead._key, ahead._names = self._key, self._names
        return ahead


_SAVES = frozenset({ChangeKind.BEGIN, ChangeKind.SAVEPOINT, ChangeKind.RELEASE})  # nothing that a rollback undoes
_APPLY = {
    ChangeKind.BEGIN: SessionState._begin,
    ChangeKind.COMMIT: SessionState._commit,
    ChangeKind.ROLLBACK: SessionState._rollback,
    ChangeKind.SAVEPOINT: SessionState._savepoint,
    ChangeKind.ROLLBACK_TO: SessionState._rollback_to,
    ChangeKind.RELEASE: SessionState._release,
    ChangeKind.SET: SessionState._set,
    ChangeKind.RESET: SessionState._reset,
    ChangeKind.RESET_ALL: SessionState._reset_all,
    ChangeKind.DISCARD_ALL: SessionState._discard_all,
    ChangeKind.DISCARD_TEMP: SessionState._discard_temp,
    ChangeKind.PREPARE: SessionState._prepare,
    ChangeKind.DEALLOCATE: SessionState._deallocate,
    ChangeKind.DECLARE: SessionState._declare,
    ChangeKind.CLOSE: SessionState._close,
    ChangeKind.DEFINE: SessionState._define,
    ChangeKind.TEMP_CREATE: SessionState._temp_create,
    ChangeKind.TEMP_CHANGE: SessionState._temp_change,
    ChangeKind.TEMP_RENAME: SessionState._temp_rename,
    ChangeKind.TEMP_FILL: SessionState._temp_fill,
    ChangeKind.TEMP_TYPES: SessionState._temp_types,
    ChangeKind.OPAQUE: SessionState._ran_code,
}
