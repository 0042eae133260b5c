"""What statements that ran, and ends of transactions, do to what one PostgreSQL session remembers: see `state`.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field, replace

from protocols.contract import ANYWHERE, Analysis, Effect
from protocols.postgres.catalog import Catalog
from protocols.postgres.settings import KEPT, MEANING, remembered, set_effect
from protocols.postgres.statements.model import Change, ChangeKind, CommandAnalysis, Prepared, Statement, Temporary
from protocols.postgres.statements.names import NameSpace
from protocols.postgres.statements.session_commands import Plan

MAX_NAMES = 10_000  # prepared statements, cursors, temporary tables, settings: beyond, the session's names are unknown
MAX_TEXTS = 64 * 1024 * 1024  # characters of prepared statements and of cursors
MAX_SAVED = 1_000_000  # settings and temporary relations, as all savepoints know them
MAX_SOURCES = 1000  # relations copied into one temporary table
_SHORT = 4096  # characters of a cursor's text; only the number of shorter ones is bounded


@dataclass(slots=True)
class Volatile:
    """What a rollback undoes."""

    settings: dict[str, str | None] = field(default_factory=dict)  # SET by this session; None: to an unknown value
    local: dict[str, str | None] = field(default_factory=dict)  # SET LOCAL, until the transaction ends
    reported: dict[str, str] = field(default_factory=dict)  # ParameterStatus of what a text's meaning rests on
    role_changed: bool = False
    role: str | None = None  # SET ROLE; None: the login role
    role_known: bool = True
    temporaries: dict[str, Temporary] = field(default_factory=dict)
    temp_types: bool = False
    mixed: bool = False  # what one temporary relation holds, any of them may show

    def copy(self) -> Volatile:
        return replace(
            self,
            settings=dict(self.settings),
            local=dict(self.local),
            reported=dict(self.reported),
            temporaries=dict(self.temporaries),
        )

    @property
    def names(self) -> int:
        """How many it knows."""
        return len(self.settings) + len(self.local) + len(self.temporaries)


@dataclass(frozen=True, slots=True)
class Cursor:
    analysis: Analysis
    sent: str  # the message that declared it
    hold: bool
    fresh: bool = True  # declared in the open transaction


class StateChanges:
    """What is remembered, and how it changes."""

    def __init__(self) -> None:
        self._now = Volatile()
        self._saved: list[tuple[str | None, Volatile]] = []  # transaction start (None), then savepoints
        self._shot: Volatile | None = None  # `_now` as it is, in one of the saved
        self._started: dict[str, str] = {}  # startup parameters in force
        self._server_encoding: str | None = None  # as reported
        self._login_role: str | None = None
        self._writable: bool | None = None  # no transaction is read-only but by this session's doing; None: not said
        self._prepared: dict[str, Prepared] = {}
        self._commands: dict[str, CommandAnalysis] = {}
        self._cursors: dict[str, Cursor] = {}
        self._portals: dict[str, tuple[CommandAnalysis, str]] = {}
        self.plans: dict[str, Plan] = {}
        self._texts = 0  # characters of `_prepared`
        self._touched: set[str] = set()
        self._touched_all = False
        self._opaque = False
        self._overflow = False
        self._beyond: frozenset[Effect] = frozenset()  # of settings that were set after that
        self._block = False  # BEGIN was applied, or the server said so
        self._failed = False
        self.changes = 0  # statements that have changed something
        self._key: Hashable = None
        self._names: tuple[Catalog, NameSpace] | None = None

    def applied(self, statement: Statement) -> None:
        """The server completed this statement."""
        for change in statement.changes:
            if not self._saved and change.kind not in (ChangeKind.COMMIT, ChangeKind.ROLLBACK):
                self._saved.append((None, self._snapshot()))
            _APPLY[change.kind](self, change)
            if change.kind not in _SAVES:
                self._shot = None
        if statement.changes:
            self.changes += 1
            self._bound()
            self._changed()

    def _snapshot(self) -> Volatile:
        """`_now`, never to be changed: savepoints between which nothing happened share one."""
        if self._shot is None:
            self._shot = self._now.copy()
        return self._shot

    def _bound(self) -> None:
        total = len(self._prepared) + len(self._cursors) + len(self._touched) + self._now.names
        if self._overflow or total > MAX_NAMES or self._texts > MAX_TEXTS:
            # what no name stands for any more is not kept, and new names are not added
            self._overflow = True
            self._prepared.clear()
            self._cursors.clear()
            self._texts = 0
            self._touched_all = self._touched_all or bool(self._touched)
            self._touched.clear()

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
            n: Cursor(c.analysis, c.sent, True, fresh=False)
            for n, c in self._cursors.items()
            if c.hold and (commit or not c.fresh)
        }
        self._portals.clear()
        self._block = False
        self._changed()

    def _savepoint(self, change: Change) -> None:
        if len(self._saved) > MAX_NAMES or len(self._saved) * self._now.names > MAX_SAVED:
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
        value = remembered(name, change.value)
        if self._overflow and name not in KEPT:
            self._beyond |= {set_effect(name, self._started.get(name))}
        elif change.local:
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
        if name in MEANING and name in self._started:
            self._now.reported[name] = self._started[name]
        else:
            self._now.reported.pop(name, None)

    def _reset_all(self, change: Change) -> None:
        kept = {n: v for n, v in self._now.settings.items() if n in ("role", "session_authorization")}
        self._now.settings, self._now.local = kept, {}
        for name in MEANING:
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
        self._now.temp_types = self._now.mixed = False

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
        self._cursors[change.name or ""] = Cursor(analysis, source.sent, bool(hold))
        if len(source.sent) > _SHORT:
            sent = {id(one.sent): len(one.sent) for one in self._cursors.values()}
            self._overflow = self._overflow or sum(sent.values()) > MAX_TEXTS
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
        known = self._now.temporaries.get(made.name)
        if self._overflow and known is None:
            return
        self._now.temporaries[made.name] = _either(known, made) if change.local and known is not None else made
        if self._now.mixed:
            self._mix()

    def _temp_change(self, change: Change) -> None:
        if change.name is None:
            self._doubt_temporaries()
            return
        name = change.name
        known = self._now.temporaries.get(name)
        if known is not None:
            self._now.temporaries[name] = replace(known, columns=None, certain=False, ends=bool(change.value))

    def _temp_rename(self, change: Change) -> None:
        known = self._now.temporaries.get(change.name or "")
        if known is not None:
            made = replace(known, name=change.value, columns=None, certain=False)
            there = self._now.temporaries.get(change.value)  # none, unless IF EXISTS passed over what is to be renamed
            self._now.temporaries[change.value] = _either(there, made) if there is not None else made

    def _temp_fill(self, change: Change) -> None:
        known = self._now.temporaries.get(change.name or "")
        held = dict.fromkeys((*known.sources, *change.value)) if known is not None else {}
        if known is not None and len(held) > len(known.sources):
            self._hold(known, held)
            if self._now.mixed:
                self._mix()

    def _temp_mix(self, change: Change) -> None:
        self._now.mixed = True
        self._mix()

    def _mix(self) -> None:
        """Which of them shows the rows of which is not followed: each holds what any of them holds."""
        every = dict.fromkeys(source for known in self._now.temporaries.values() for source in known.sources)
        for known in tuple(self._now.temporaries.values()):
            if len(known.sources) < len(every):
                self._hold(known, every)

    def _hold(self, known: Temporary, sources: Collection[str]) -> None:
        self._now.temporaries[known.name] = replace(known, sources=tuple(sources)[:MAX_SOURCES])
        if len(sources) > MAX_SOURCES:
            self._overflow = True

    def _temp_types(self, change: Change) -> None:
        self._now.temp_types = True

    def _ran_code(self, change: Change) -> None:
        self._opaque = True
        self._doubt_temporaries()

    def _doubt_temporaries(self) -> None:
        """Any of them may be gone, or be another one by now: a permanent one of its name may be meant as well."""
        for name, known in self._now.temporaries.items():
            if known.certain or known.columns is not None:
                self._now.temporaries[name] = replace(known, columns=None, certain=False)

    def close_statement(self, name: str) -> None:
        """CloseComplete for a statement, or DEALLOCATE."""
        gone = self._prepared.pop(name, None)
        if gone is not None:
            self._texts -= len(gone.source.text)
        self._commands.pop(name, None)
        self.plans.pop(name, None)

    def close_portal(self, name: str) -> None:
        """CloseComplete for a portal, or CLOSE."""
        self._portals.pop(name, None)
        self._cursors.pop(name, None)

    def _changed(self) -> None:
        self._key = None
        self._names = None


def _either(known: Temporary, made: Temporary) -> Temporary:
    """One of that name, with all that either holds: it may still be the one that was there."""
    held = (*known.sources, *made.sources)
    if known.body is not None and made.body is not None:  # one body is kept: the other may show anything
        held = (*held, ANYWHERE)
    return replace(
        made,
        columns=None,
        body=known.body or made.body,
        certain=False,
        ends=False,
        sources=tuple(dict.fromkeys(held))[:MAX_SOURCES],
        parents=tuple(dict.fromkeys((*known.parents, *made.parents))),
    )


_SAVES = frozenset({ChangeKind.BEGIN, ChangeKind.SAVEPOINT, ChangeKind.RELEASE})  # nothing that a rollback undoes
_APPLY = {
    ChangeKind.BEGIN: StateChanges._begin,
    ChangeKind.COMMIT: StateChanges._commit,
    ChangeKind.ROLLBACK: StateChanges._rollback,
    ChangeKind.SAVEPOINT: StateChanges._savepoint,
    ChangeKind.ROLLBACK_TO: StateChanges._rollback_to,
    ChangeKind.RELEASE: StateChanges._release,
    ChangeKind.SET: StateChanges._set,
    ChangeKind.RESET: StateChanges._reset,
    ChangeKind.RESET_ALL: StateChanges._reset_all,
    ChangeKind.DISCARD_ALL: StateChanges._discard_all,
    ChangeKind.DISCARD_TEMP: StateChanges._discard_temp,
    ChangeKind.PREPARE: StateChanges._prepare,
    ChangeKind.DEALLOCATE: StateChanges._deallocate,
    ChangeKind.DECLARE: StateChanges._declare,
    ChangeKind.CLOSE: StateChanges._close,
    ChangeKind.DEFINE: StateChanges._define,
    ChangeKind.TEMP_CREATE: StateChanges._temp_create,
    ChangeKind.TEMP_CHANGE: StateChanges._temp_change,
    ChangeKind.TEMP_RENAME: StateChanges._temp_rename,
    ChangeKind.TEMP_FILL: StateChanges._temp_fill,
    ChangeKind.TEMP_MIX: StateChanges._temp_mix,
    ChangeKind.TEMP_TYPES: StateChanges._temp_types,
    ChangeKind.OPAQUE: StateChanges._ran_code,
}
