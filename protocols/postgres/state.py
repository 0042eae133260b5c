"""What one PostgreSQL session remembers that changes what later text means.

The rules, in prose. A statement changes the session only once the server has said that it ran (`applied`), an error
undoes what the failed transaction did (`failed`, `ready`), and what the server reports itself (`parameter_status`) wins
over what was worked out here. Prepared statements and WITH HOLD cursors survive a rollback, everything else does not.
Where it is not certain what the server did, the state says so and names become unknown: never a guess.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

from protocols.contract import Analysis, Effect
from protocols.postgres.builtins import builtin_catalog
from protocols.postgres.catalog import Catalog
from protocols.postgres.scalars import codec_of
from protocols.postgres.settings import (
    EMPTY_PATH,
    MEANING,
    READ_ONLY,
    TRANSACTIONS,
    canonical,
    decides,
    encoding_name,
    is_on,
    remembered,
    set_effect,
)
from protocols.postgres.state_changes import StateChanges
from protocols.postgres.statements.model import CommandAnalysis, Prepared, Source, Statement
from protocols.postgres.statements.names import TEMP, NameSpace, split_path

__all__ = ["SessionState"]

_HARMLESS = frozenset({Effect.SESSION_SET})


def _empty(path: str | None) -> bool:
    return path is not None and EMPTY_PATH.fullmatch(path) is not None


MANY_NAMES = 1000  # prepared statements, cursors and portals: more are not copied for each long text


class SessionState(StateChanges):
    """See the module's docstring. One per session, driven by the server's answers."""

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
        elif name in MEANING:
            now = self._now
            if name not in self._started and name not in now.reported and name not in now.settings:
                self._started[name] = value
            now.reported[name] = value
            # what is reported is what is in force: beneath a LOCAL value the session's own may be another
            store = now.local if name in now.local else now.settings
            if name in store:
                store[name] = value
        elif name == READ_ONLY:
            own = name in self._now.settings or name in self._now.local
            if is_on(value) and not own:
                self._writable = False  # somebody else protects the server, from the beginning or by now
            elif self._writable is None and not own:
                self._writable = value == "off"
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

    # ------------------------------------------------------------ names of the protocol and of SQL: one namespace

    def prepare(self, name: str, command: CommandAnalysis, sent: str = "") -> None:
        """ParseComplete. `sent`: the statement as it came; the analysis may be shared by others of its shape."""
        self._keep(name, Prepared(command.analysis, Source(command.text, sent=sent)))
        self._commands[name] = command
        self._bound()

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
    def codec(self) -> str:
        """Python's name of `encoding`, to show a text; UTF-8 where it has none."""
        return codec_of(self.encoding) or "utf-8"

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

    def prepared_size(self, names: Collection[str] | None) -> int:
        """Characters of the statements that are prepared under these names; None: under any."""
        if names is None:
            return self._texts
        return sum(len(self._prepared[name].source.text) for name in names if name in self._prepared)

    def names_only(self, names: Collection[str] | None) -> SessionState:
        """A copy that knows only these prepared statements, cursors and portals: any other name is unknown to it.

        None: it knows all, unless there are many of them.
        """
        ahead = self.fork()
        ahead._commands = {}
        if names is None and len(self._prepared) + len(self._cursors) + len(self._portals) > MANY_NAMES:
            names = ()
        if names is not None:
            ahead._prepared = {name: self._prepared[name] for name in names if name in self._prepared}
            ahead._cursors = {name: self._cursors[name] for name in names if name in self._cursors}
            ahead._portals = {name: self._portals[name] for name in names if name in self._portals}
        return ahead

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
        paths = [store["search_path"] for store in (self._now.settings, self._now.local) if "search_path" in store]
        if all(map(_empty, paths)):
            names.discard("search_path")  # from nothing it goes back to what every session begins with
        if self.writable:
            names -= TRANSACTIONS
        found = {set_effect(name, self._started.get(name)) for name in names} | self._beyond
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
            elif item.startswith(f"{TEMP}_"):
                certain = False  # this session's own, which then comes here and not first, or another one's
            elif item:
                path.append(item)
        return tuple(path), certain

    @property
    def writable(self) -> bool:
        """Transactions are writable unless this session itself sets otherwise: the server has said so.

        `default_transaction_read_only` is reported since PostgreSQL 14; of an older server it is not known.
        """
        return bool(self._writable)

    @property
    def path_emptied(self) -> bool:
        """This session has set its search_path to nothing, or to PostgreSQL's own schema alone."""
        for store in (self._now.local, self._now.settings):
            if "search_path" in store:
                return _empty(store["search_path"])
        return False

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
                self.path_emptied,
                self.writable,
                self._login_role,
                (self._now.role_changed, self._now.role, self._now.role_known),
                tuple(self._now.temporaries.values()),
                self._now.temp_types,
                frozenset(self._touched),
                self._touched_all,
                self._overflow,
            )
        return self._key

    def told(self) -> bytes | None:
        """What else of the session decides what a text does, to compare it by; None: not all of that is known."""
        now, found = self._now, {n: remembered(n, v) for n, v in self._started.items()}
        found |= now.settings | now.local
        if self._opaque or self._overflow or None in found.values():
            return None
        set_ = sorted((name, value) for name, value in found.items() if decides(name))
        return repr((self.encoding, self.conforming_strings, now.role_changed, now.role, set_)).encode()

    def fork(self) -> SessionState:
        """A copy to think ahead with: what holds after the first statements of a message."""
        ahead = SessionState()
        ahead._now = self._now.copy()
        ahead._saved = list(self._saved)  # what is saved never changes
        ahead._started, ahead._server_encoding = self._started, self._server_encoding
        ahead._login_role, ahead._writable = self._login_role, self._writable
        ahead._prepared, ahead._commands = dict(self._prepared), dict(self._commands)
        ahead._cursors, ahead._portals = dict(self._cursors), dict(self._portals)
        ahead._touched, ahead._touched_all = set(self._touched), self._touched_all
        ahead._opaque, ahead._overflow, ahead._beyond = self._opaque, self._overflow, self._beyond
        ahead._block, ahead._failed = self._block, self._failed
        ahead.plans, ahead._texts = self.plans, self._texts
        ahead._key, ahead._names = self._key, self._names
        return ahead
