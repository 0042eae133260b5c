"""An immutable picture of the names on one server, as far as the gateway's own account sees them.

Built from the rows of `catalog_queries`; every look-up afterwards is a dictionary's. MySQL shows an account only what
it has a privilege on, so a name that is not here may exist: `None` means "not known", never "does not exist".

Names: columns, routines and aliases of functions ignore letter case everywhere; schemas and tables do where
`lower_case_table_names` is 1 or 2. Names in `information_schema` never have a case of their own.

INVARIANT: no I/O in this module; a Catalog is never changed after it was built but for its memos.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.mysql.catalog_queries import SCHEMA_ONLY, CatalogRows

__all__ = [
    "Catalog", "Column", "ForeignKey", "Relation", "Routine", "Trigger", "build", "builtin_catalog", "schema_only",
]  # fmt: skip

SYSTEM_SCHEMAS = frozenset({"information_schema", "mysql", "performance_schema", "sys"})
_CASELESS_SCHEMAS = frozenset({"information_schema", "performance_schema", "sys"})
_EVENTS = frozenset({"insert", "update", "delete"})


@dataclass(frozen=True, slots=True)
class Column:
    """`visible`: taken by `*` (an INVISIBLE column is not). `generated`: the expression behind it, or "".

    `full_type`: COLUMN_TYPE and character set; equal ones hold the same values. "" is not known. `preset`: its default,
    where that may be made of other columns.
    """

    name: str
    type: str = ""  # DATA_TYPE, lower case: `varchar`, `bigint`, ...
    generated: str = ""
    visible: bool = True
    full_type: str = ""
    preset: str = ""


@dataclass(frozen=True, slots=True)
class Trigger:
    name: str
    event: str  # insert | update | delete


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view or sequence. `columns` in their order; empty where the account sees none of them."""

    schema: str
    name: str
    kind: str  # table | view | system view | sequence
    columns: tuple[Column, ...] = ()
    definition: str | None = field(default=None, repr=False)  # of a view; None: the account may not see it
    triggers: tuple[Trigger, ...] | None = ()  # None: the account may not see them
    _by_name: Mapping[str, Column] = field(default_factory=dict, repr=False, hash=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {c.name.lower(): c for c in self.columns})

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        return self._by_name.get(name.lower())

    def has_triggers(self, event: str) -> bool | None:
        """Whether an `insert`, `update` or `delete` runs a trigger; None: not known."""
        if event not in _EVENTS:
            raise ValueError(f"a trigger has no event `{event}`")
        if self.triggers is None:
            return None
        return any(t.event == event for t in self.triggers)


@dataclass(frozen=True, slots=True)
class Routine:
    """A stored or loadable function, or a procedure: what it does is not looked into."""

    schema: str  # "" for a loadable function: it belongs to none
    name: str
    kind: str  # function | procedure | loadable | package


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key that changes rows by itself: of `schema.name`, whose `columns` point at the `referenced` ones.

    `on_delete` and `on_update` are `cascade`, `set null`, `set default`, or "" where the server only refuses.
    """

    schema: str
    name: str
    columns: frozenset[str]  # in lower case, like `referenced`
    referenced: frozenset[str]
    on_delete: str = ""
    on_update: str = ""


# MariaDB's sequence engine: tables that are there because they are named, unless one of that name was made
_SERIES = re.compile(r"seq_[0-9]+_to_[0-9]+(?:_step_[0-9]+)?")
_OF_SERIES = (Column("seq", "bigint"),)


class Catalog:
    """See the module's docstring. `open_world`: made without a server, so names that are not here say nothing."""

    __slots__ = (
        "_keys", "_memo", "_relations", "_routines", "character_sets", "charset_client", "charset_server", "collations",
        "flavour", "loadable_known", "lower_case_table_names", "open_world", "routines_known",
        "server_version", "sql_mode", "version",
    )  # fmt: skip

    def __init__(
        self,
        version: str,
        flavour: str,
        server_version: tuple[int, ...],
        *,
        lower_case_table_names: int = 0,
        sql_mode: frozenset[str] = frozenset(),
        charset_server: str = "utf8mb4",
        charset_client: str = "utf8mb4",
        relations: Sequence[Relation] = (),
        routines: Sequence[Routine] = (),
        foreign_keys: Mapping[tuple[str, str], Sequence[ForeignKey]] | None = None,
        collations: Mapping[int, tuple[str, str]] | None = None,
        loadable_known: bool = True,
        routines_known: bool = True,
        open_world: bool = False,
    ) -> None:
        self.version = version
        self.flavour = flavour  # mysql | mariadb
        self.server_version = server_version
        self.lower_case_table_names = lower_case_table_names
        self.sql_mode = sql_mode  # the global one: what a new session starts with
        self.charset_server = charset_server
        self.charset_client = charset_client  # the global one
        self.collations = collations or {}  # id -> (collation, character set)
        self.character_sets = frozenset(charset for _, charset in self.collations.values())
        self.loadable_known = loadable_known  # the list of loadable functions could be read
        self.routines_known = routines_known  # the account sees every routine of every schema
        self.open_world = open_world
        self._relations = {self._key(r.schema, r.name): r for r in relations}
        self._routines: dict[tuple[str, str], list[Routine]] = {}
        for routine in routines:
            self._routines.setdefault((self._fold(routine.schema), routine.name.lower()), []).append(routine)
        self._keys: dict[tuple[str, str], list[ForeignKey]] = {}  # by the table that they point at
        for (schema, name), keys in (foreign_keys or {}).items():
            self._keys.setdefault(self._key(schema, name), []).extend(keys)
        self._memo: dict[Hashable, Any] = {}

    def _fold(self, name: str) -> str:
        lowered = name.lower()
        return lowered if self.lower_case_table_names or lowered in _CASELESS_SCHEMAS else name

    def _key(self, schema: str, name: str) -> tuple[str, str]:
        folded = self._fold(schema)
        return folded, name.lower() if self.lower_case_table_names or folded in _CASELESS_SCHEMAS else name

    def relation(self, schema: str, name: str) -> Relation | None:
        """None: not known (it may not exist, or the gateway's account may not see it)."""
        found = self._relations.get(self._key(schema, name))
        if found is None and self.flavour == "mariadb" and _SERIES.fullmatch(name) is not None:
            return Relation(schema, name, "table", _OF_SERIES)
        return found

    def routine(self, schema: str, name: str, kind: str | None = None) -> Routine | None:
        """A routine of a schema (`kind` function, procedure or None for either); a loadable one with schema ""."""
        for routine in self._routines.get((self._fold(schema), name.lower()), ()):
            if kind is None or routine.kind == kind:
                return routine
        return None

    def pointing_at(self, schema: str, name: str) -> Sequence[ForeignKey]:
        """The foreign keys that change rows of other tables (or its own) when this table's rows change.

        As far as the account sees them: information_schema hides keys of tables on which it has no privilege.
        """
        return self._keys.get(self._key(schema, name), ())

    @property
    def relations(self) -> Sequence[Relation]:
        return tuple(self._relations.values())

    def memo(self) -> dict[Hashable, Any]:
        """What others worked out of this snapshot (bounded by its number of names): the lineage of views."""
        return self._memo


def schema_only(schema: str, name: str) -> bool:
    """Whether a system table holds names and settings only, and nothing of any row or of a session's text."""
    return name.lower() in SCHEMA_ONLY.get(schema.lower(), frozenset())


def modes(text: str | None) -> frozenset[str]:
    return frozenset(m.strip().upper() for m in (text or "").split(",") if m.strip())


def server_version(text: str) -> tuple[str, tuple[int, ...]]:
    """(flavour, numbers) of `version()`: `9.7.4-2`, `10.11.19-MariaDB-0+deb12u1`, `5.5.5-10.6.1-MariaDB`."""
    plain = text.removeprefix("5.5.5-")
    numbers = plain.partition("-")[0].split(".")
    if not numbers or not all(n.isdigit() for n in numbers):
        raise ValueError("the server's version is no version")
    return "mariadb" if "mariadb" in text.lower() else "mysql", tuple(int(n) for n in numbers[:3])


def build(rows: CatalogRows) -> Catalog:
    """The catalog behind the rows of `catalog_queries` (text values, None for NULL).

    Its version is a digest of the rows: a refresh that finds the same names gives the same version.
    Raises KeyError or ValueError for rows that are not those queries'.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(rows):
        digest.update(name.encode())
        for row in sorted(rows[name], key=repr):
            digest.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    (server,) = rows["server"]
    flavour, numbers = server_version(_text(server[0]))
    grants = _Grants(rows["grants"], partial=server[5] not in ("0", "OFF"))
    columns: dict[tuple[str, str], list[Column]] = {}
    for schema, table, column_name, kind, extra, expression, full_type, preset in rows["columns"]:
        flags = (extra or "").upper()
        column = Column(
            _text(column_name),
            (kind or "").lower(),
            expression or ("unknown" if "GENERATED" in flags and "DEFAULT_GENERATED" not in flags else ""),
            "INVISIBLE" not in flags,
            full_type or "",
            preset if preset and "`" in preset and (flavour == "mariadb" or "DEFAULT_GENERATED" in flags) else "",
        )
        columns.setdefault((_text(schema), _text(table)), []).append(column)
    triggers: dict[tuple[str, str], list[Trigger]] = {}
    for schema, table, trigger_name, events in rows["triggers"]:
        for event in _text(events).lower().split(","):
            trigger = Trigger(_text(trigger_name), event.strip())
            triggers.setdefault((_text(schema), _text(table)), []).append(trigger)
    views = {(row[0], row[1]): row for row in rows["views"]}
    relations = []
    for schema, table, kind in rows["tables"]:
        at = (_text(schema), _text(table))
        view = views.get(at)
        visible = grants.on("TRIGGER", *at) or at in triggers or _text(schema).lower() in SYSTEM_SCHEMAS
        relations.append(
            Relation(
                *at,
                _KINDS.get((kind or "").upper(), "table"),
                tuple(columns.get(at, ())),
                (view[2] or None) if view is not None else None,
                tuple(triggers.get(at, ())) if visible else None,
            )
        )
    routines = [Routine(_text(r[0]), _text(r[1]), _text(r[2]).lower()) for r in rows["routines"]]
    loadable = {_text(r[0]) for name in ("loadable", "loadable_now") for r in rows.get(name, ())}
    routines += [Routine("", name, "loadable") for name in sorted(loadable)]
    collations = [*rows["collations"], *rows.get("collations_full", ())]
    return Catalog(
        digest.hexdigest(),
        flavour,
        numbers,
        lower_case_table_names=int(server[2] or 0),
        sql_mode=modes(server[3]),
        charset_server=_text(server[4]),
        charset_client=_text(server[6]),
        relations=relations,
        routines=routines,
        foreign_keys=_foreign_keys(rows),
        collations={int(r[0] or 0): (_text(r[1]), _text(r[2])) for r in collations},
        loadable_known="loadable" in rows,
        routines_known=grants.everywhere("EXECUTE"),
    )


_ACTIONS = frozenset({"cascade", "set null", "set default"})


def _foreign_keys(rows: CatalogRows) -> Mapping[tuple[str, str], Sequence[ForeignKey]]:
    """The keys that act, by the table that they point at."""
    acting: dict[tuple[str, ...], tuple[str, str]] = {}
    for schema, constraint, table, on_update, on_delete in rows["foreign_keys"]:
        actions = [a if a in _ACTIONS else "" for a in (_text(on_delete).lower(), _text(on_update).lower())]
        if any(actions):
            acting[_text(schema), _text(constraint), _text(table)] = (actions[0], actions[1])
    columns: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for row in rows["foreign_key_columns"]:
        schema, constraint, table, column, to_schema, to_table, to_column = (_text(value) for value in row)
        if (schema, constraint, table) in acting:
            columns.setdefault((schema, constraint, table, to_schema, to_table), []).append((column, to_column))
    found: dict[tuple[str, str], list[ForeignKey]] = {}
    for (schema, constraint, table, to_schema, to_table), pairs in columns.items():
        on_delete, on_update = acting[schema, constraint, table]
        own, referenced = (frozenset(name.lower() for name in names) for names in zip(*pairs, strict=True))
        key = ForeignKey(schema, table, own, referenced, on_delete, on_update)
        found.setdefault((to_schema, to_table), []).append(key)
    return found


_KINDS = {
    "VIEW": "view", "SYSTEM VIEW": "system view", "SEQUENCE": "sequence", "BASE TABLE": "table",
    "SYSTEM VERSIONED": "table", "TEMPORARY": "table", "TEMPORARY TABLE": "table",
}  # fmt: skip


def _text(value: str | None) -> str:
    if value is None:
        raise ValueError("a name in the catalog is NULL")
    return value


class _Grants:
    """Where the account holds a privilege directly; what it has through a role is not listed, and so not counted."""

    def __init__(self, rows: Sequence[Sequence[str | None]], *, partial: bool) -> None:
        self._partial = partial  # `partial_revokes`: a global privilege may be taken back for one schema
        self._held = {(_literal(r[0]), r[1], r[2]) for r in rows}

    def everywhere(self, privilege: str) -> bool:
        return not self._partial and (None, None, privilege) in self._held

    def on(self, privilege: str, schema: str, table: str) -> bool:
        named = {(schema, None, privilege), (schema, table, privilege)}
        return self.everywhere(privilege) or not named.isdisjoint(self._held)


def _literal(schema: str | None) -> str | None:
    # a granted schema is a pattern: only one that stands for itself is taken
    return schema.replace("\\_", "_").replace("\\%", "%") if schema is not None else None


def builtin_catalog(flavour: str = "mysql", version: tuple[int, ...] | None = None) -> Catalog:
    """A catalog without a server: for judging text alone. Every table and routine of a user is unknown in it."""
    if flavour not in ("mysql", "mariadb"):
        raise ValueError(f"`{flavour}` is neither mysql nor mariadb")
    numbers = version or ((9, 7, 0) if flavour == "mysql" else (10, 11, 0))
    relations = [
        Relation(schema, name, "system view") for schema, names in SCHEMA_ONLY.items() for name in sorted(names)
    ]
    return Catalog(
        f"builtin {flavour} {'.'.join(map(str, numbers))}",
        flavour,
        numbers,
        relations=relations,
        loadable_known=False,
        routines_known=False,
        open_world=True,
    )
