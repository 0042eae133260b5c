"""Where a statement puts the values that it reads: `Analysis.stores`.

What is found here says where values go; whether somebody sees them masked, and would not there, is the policy's to say.
Filters decide which rows are stored and are no sources; they are `predicates`. A temporary relation is no target: it
remembers what went into it (`Temporary.sources`), and brings that along when it is read.

INVARIANT: no I/O in this module. Every doubt widens the sources or the target, never narrows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from protocols.contract import ANYWHERE, Store
from protocols.postgres.catalog import Relation
from protocols.postgres.statements.lineage import clear_columns, is_clear
from protocols.postgres.statements.names import TEMP, Target
from protocols.postgres.statements.nodes import Node, strings
from protocols.postgres.statements.queries import Queries, copied_column
from protocols.postgres.statements.scope import ANYTHING, NOTHING, Copied, Origins, Output, Scope, union

SAME = -1  # in place of a type: that of the value, to the last of its properties
MAX_STORES = 5000  # of one statement; past it everything that is read may be stored anywhere
_TEXTS = frozenset({25, 1043})  # text, varchar: what is too long is an error, never cut
# a value of these types may be rounded, cut or padded to fit a column of the very same type: bpchar, numeric, time,
# timestamp, interval, bit
_FITTED = frozenset({1042, 1700, 1083, 1266, 1114, 1184, 1186, 1560, 1562})
_RELATIONS = frozenset({"OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_FOREIGN_TABLE"})


class Stores(Queries):
    """Adds what is stored to the walk of queries."""

    # ------------------------------------------------------------ one store

    def store(self, target: str, origins: Origins, copied: Copied | None = None, kind: int = 0, name: str = "") -> None:
        """Values made of `origins` go to `target`; `copied`: they are that column's, and get the type `kind`."""
        if not origins:
            return
        if len(self.stores) >= MAX_STORES:
            self.stores = {Store(ANYWHERE, tuple(dict.fromkeys((*(f"{r}.*" for r in self.reads), ANYWHERE)))): None}
            return
        plain = copied is not None and (kind == SAME or copied[0] == target or _fits(copied[1], kind))
        self.budget.spend(len(origins))
        sources = tuple(sorted(set(self._sources(origins))))
        if sources and not (plain and target in sources):  # a column's values, put into the same column
            self.stores[Store(target, sources, plain, "" if plain else name)] = None

    def _sources(self, origins: Origins) -> Iterator[str]:
        """The columns, those of a temporary relation replaced by what may have gone into it."""
        for origin in origins:
            if not origin.startswith(f"{TEMP}."):
                yield origin
                continue
            name = origin.removeprefix(f"{TEMP}.").rpartition(".")[0]
            known = [t for t in self.names.temporaries if t.name == name]
            if not known:
                yield ANYWHERE
            for temporary in known:
                yield from (ANYWHERE if source == ANYWHERE else f"{source}.*" for source in temporary.sources)
                if temporary.body is not None:
                    yield from (f"{read}.*" for read in temporary.body.reads)

    def finish_stores(self) -> None:
        """What can only be said at the end: sources that the walk could not see."""
        for written in self.writes if self.blind else ():
            if not written.startswith(f"{TEMP}."):
                self.store(f"{written}.*", ANYTHING)
        if self.stores and (self.blind or self.opaque):
            self.stores = {
                Store(s.target, tuple(dict.fromkeys((*s.sources, ANYWHERE))), False, s.name): None for s in self.stores
            }

    # ------------------------------------------------------------ rows

    def places(self, relation: Node, event: str) -> list[Place]:
        """The relations that a data change fills; of temporary ones those whose rows theirs are, too."""
        found = []
        for one in self.names.relations(relation.get("schemaname"), relation.get("relname", "")):
            if one.temporary is not None and not one.why:
                for parent in one.temporary.parents:
                    schema, _, name = parent.partition(".")
                    found.append(Place(self, self.names.relations(schema, name)[0], rewritten=False))
                continue
            rewritten = one.relation is not None and self.names.catalog.rewritten(one.relation.oid, event)
            found.append(Place(self, one, rewritten))
        return found

    def fill(self, places: Sequence[Place], name: str, value: Node, origins: Origins, scope: Scope) -> None:
        """One assignment: `column = value`."""
        if not origins or is_clear(value, stored=all(source.is_plain for source in scope.sources)):
            return
        copied = copied_column(value, scope)
        for place in places:
            place.take(name, origins, copied)

    def fill_all(self, places: Sequence[Place], columns: Sequence[str] | None, output: Output) -> None:
        """A query's columns, into those of the same place; `columns` None: it is not known which."""
        if not output.everything:
            return
        if output.columns is None or columns is None or len(columns) < len(output.columns):
            for place in places:
                place.take("*", output.everything, None)
            return
        copies = output.copies or (None,) * len(output.columns)
        for column, (name, origins), copied in zip(columns, output.columns, copies, strict=False):
            for place in places:
                place.take(column, origins, copied, name)

    def made_table(self, schema: str, name: str, columns: Sequence[str] | None, output: Output) -> None:
        """CREATE TABLE AS and its like: a new relation is made of these rows. Its types are those of the values."""
        if not output.everything:
            return
        if output.columns is None or columns is None or len(columns) != len(output.columns):
            self.store(f"{schema}.{name}.*", output.everything)
            return
        copies = output.copies or (None,) * len(output.columns)
        for column, (called, origins), copied in zip(columns, output.columns, copies, strict=True):
            self.store(f"{schema}.{name}.{column}", origins, copied, SAME, called)

    def home(self, relation: Node) -> str:
        """The schema that a new relation goes to."""
        return str(relation.get("schemaname") or next((s for s in self.names.path if s != "pg_catalog"), "public"))

    def is_temporary(self, relation: Node) -> bool:
        """Whether a new relation ends with its session."""
        return bool(relation.get("relpersistence") == "t" or self.home(relation).startswith(TEMP))

    # ------------------------------------------------------------ definitions

    def define_stores(self, tag: str, body: Node) -> None:
        """DDL that computes, moves, renames or drops columns with what is in them."""
        if tag == "AlterTableStmt":
            for target in self._named(body.get("relation")):
                for command in body.get("cmds", ()):
                    self._altered(target, command.get("AlterTableCmd", {}))
        elif tag == "CreateStmt":
            self._created(body)
        elif tag == "RenameStmt":
            self._renamed(body)
        elif tag == "AlterObjectSchemaStmt" and body.get("objectType") in _RELATIONS:
            for target in self._named(body.get("relation")):
                name = target.qualified.partition(".")[2]
                self._moved(target, f"{body.get('newschema', '')}.{name}")
        elif tag == "DropStmt":
            self._dropped(body)
        elif tag == "IndexStmt" and body.get("unique"):
            for target in self._named(body.get("relation")):
                parts = [p.get("IndexElem", {}).get("expr", {}) for p in body.get("indexParams", ())]
                self.filter(self._used(target, [parts, body.get("whereClause", {})]))  # fails if two rows are alike

    def _named(self, relation: Any) -> list[Target]:
        if not isinstance(relation, dict) or (relation.get("schemaname") or "").startswith(TEMP):
            return []
        found = self.names.relations(relation.get("schemaname"), relation.get("relname", ""))
        return [target for target in found if target.temporary is None or target.why]

    def _own(self, target: Target, name: str) -> Origins:
        """A column, with the parents' that it has its masks from."""
        relation = target.relation
        if relation is None or name not in relation.columns:
            return frozenset({f"{target.qualified}.{name}"})
        return frozenset(
            (f"{target.qualified}.{name}", *(self.names.catalog.origin(relation.oid, relation.columns[name][0]) or ()))
        )

    def _altered(self, target: Target, command: Node) -> None:
        kind, definition = command.get("subtype", ""), command.get("def", {})
        column = definition.get("ColumnDef", {})
        if kind == "AT_AddColumn":
            self._generated(target, column.get("colname", ""), column)
        elif kind == "AT_AlterColumnType":
            if "raw_default" in column:
                self._computed(target, command.get("name", ""), column["raw_default"])
        elif kind in ("AT_SetExpression", "AT_ColumnDefault", "AT_CookedColumnDefault"):
            self._computed(target, command.get("name", ""), definition)
        elif kind in ("AT_AttachPartition", "AT_AddInherit", "AT_DetachPartition", "AT_DropInherit"):
            named = definition.get("PartitionCmd", {}).get("name") or definition.get("RangeVar")
            for other in self._named(named):
                parent, child = (target, other) if "Partition" in kind else (other, target)
                joins = kind in ("AT_AttachPartition", "AT_AddInherit")
                self._shared(child, parent, joins=joins)
        elif kind == "AT_DropColumn":
            self.store("", frozenset({f"{target.qualified}.{command.get('name', '')}"}))
        elif kind == "AT_AddConstraint" and "raw_expr" in definition.get("Constraint", {}):
            self.filter(self._used(target, definition["Constraint"]["raw_expr"]))  # fails if one row is not so

    def _shared(self, child: Target, parent: Target, *, joins: bool) -> None:
        """A child's rows are read through its parent from now on, or no longer."""
        relation = child.relation or parent.relation
        for name in relation.columns if relation is not None else ("*",):
            own, above = f"{child.qualified}.{name}", f"{parent.qualified}.{name}"
            if joins:
                self.store(above, frozenset({own}), (above, 0))
            else:
                self.store(own, self._own(parent, name), (own, 0))

    def _generated(self, target: Target, name: str, column: Node, known: Sequence[str] = ()) -> None:
        for one in column.get("constraints", ()):
            constraint = one.get("Constraint", {})
            if constraint.get("contype") == "CONSTR_GENERATED" and "raw_expr" in constraint:
                self._computed(target, name, constraint["raw_expr"], known)

    def _computed(self, target: Target, name: str, expression: Node, known: Sequence[str] = ()) -> None:
        """A column of a relation is made of others of the same row."""
        self.store(f"{target.qualified}.{name}", self._used(target, expression, known))

    def _used(self, target: Target, expression: Any, known: Sequence[str] = ()) -> Origins:
        """The columns of a relation that an expression over one row of it names."""
        columns = tuple(target.relation.columns) if target.relation is not None else known
        origins: set[str] = set()
        for reference in _references(expression):
            used = strings(reference.get("fields"))[-1:]
            if used and used[0] in columns and "A_Star" not in reference["fields"][-1]:
                origins |= self._own(target, used[0])
            else:
                origins.add(f"{target.qualified}.*")  # the whole row, or a column that was not known
        return frozenset(origins)

    def _created(self, body: Node) -> None:
        relation = body.get("relation", {})
        if self.is_temporary(relation):
            return
        made = Target(f"{self.home(relation)}.{relation.get('relname', '')}")
        columns = [e["ColumnDef"] for e in body.get("tableElts", ()) if "ColumnDef" in e]
        known = [column.get("colname", "") for column in columns]
        for column in columns:
            self._generated(made, column.get("colname", ""), column, known)
        for part in body.get("partspec", {}).get("partParams", ()):
            # which partition a row is in says what it holds
            element = part.get("PartitionElem", {})
            used = {f"{made.qualified}.{element['name']}"} if "name" in element else set[str]()
            self.store(ANYWHERE, self._used(made, element.get("expr", {}), known) | used)

    def _renamed(self, body: Node) -> None:
        kind, new = body.get("renameType", ""), body.get("newname", "")
        if kind == "OBJECT_COLUMN":
            for target in self._named(body.get("relation")):
                old = body.get("subname", "")
                self.store(f"{target.qualified}.{new}", self._own(target, old), (f"{target.qualified}.{new}", 0))
        elif kind in _RELATIONS:
            for target in self._named(body.get("relation")):
                self._moved(target, f"{target.qualified.partition('.')[0]}.{new}")
        elif kind == "OBJECT_SCHEMA":
            for relation in self._within(body.get("subname", "")):
                self._moved(Target(relation.qualified, relation), f"{new}.{relation.name}")

    def _within(self, schema: str) -> list[Relation]:
        found = [relation for (home, _), relation in self.names.catalog.relations.items() if home == schema]
        self.budget.spend(len(self.names.catalog.relations))
        return found

    def _moved(self, target: Target, new: str) -> None:
        """A relation gets another name; what it has from its parents stays."""
        for name in target.relation.columns if target.relation is not None else ("*",):
            place = f"{new}.{name}"
            self.store(place, frozenset({f"{target.qualified}.{name}"}), (place, 0))

    def _dropped(self, body: Node) -> None:
        kind = body.get("removeType", "")
        for item in body.get("objects", ()):
            if kind == "OBJECT_SCHEMA":
                name = item.get("String", {}).get("sval", "")
                targets = [Target(relation.qualified, relation) for relation in self._within(name)]
            elif kind in _RELATIONS:
                names = strings(item.get("List", {}).get("items"))
                named = (
                    {"relname": names[-1], **({"schemaname": names[-2]} if len(names) > 1 else {})} if names else None
                )
                targets = self._named(named)
            else:
                return
            for target in targets:
                columns = target.relation.columns if target.relation is not None else ("*",)
                self.store("", frozenset(f"{target.qualified}.{column}" for column in columns))


class Place:
    """A relation that is filled."""

    __slots__ = ("_relation", "_rewritten", "_target", "_walk")

    def __init__(self, walk: Stores, target: Target, rewritten: bool) -> None:
        self._walk = walk
        self._target = target
        self._relation = target.relation
        self._rewritten = rewritten  # a rule decides where its rows go

    def take(self, column: str, origins: Origins, copied: Copied | None, name: str = "") -> None:
        """Values go into one of its columns; `*`: into any of them."""
        relation, walk = self._relation, self._walk
        own = f"{self._target.qualified}.{column}"
        if self._rewritten:
            walk.store(ANYWHERE, origins)
        elif relation is None or column not in relation.columns:
            walk.store(own, origins, None, 0, name or column)
        else:
            number, kind = relation.columns[column]
            behind = walk.names.catalog.origin(relation.oid, number)
            if not behind or (relation.kind not in "vm" and len(walk.names.catalog.parents(relation.oid)) > 1):
                walk.store(f"{self._target.qualified}.*", origins)
                return
            # the root of an inheritance tree and the base of a view come last: read through that, only its own masks
            # apply
            walk.store(behind[-1], origins, copied, kind, name)


def _fits(kind: int, other: int) -> bool:
    """Whether a value of one type, put into a column of the other, stays what it was."""
    return (kind == other and kind not in _FITTED) or (kind in _TEXTS and other in _TEXTS)


def _references(root: Any) -> Iterator[Node]:
    """Every column that an expression names."""
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            for key, value in item.items():
                if key == "ColumnRef" and isinstance(value, dict) and value.get("fields"):
                    yield value
                else:
                    stack.append(value)


def without_clear(output: Output, select: Node, is_table: Callable[[str | None, str], bool]) -> Output:
    """A query's output without the origins of columns that provably carry no column's value (`count(*)`, ...)."""
    clear = clear_columns(select, is_table) if output.columns is not None and select else frozenset[int]()
    if not clear or output.columns is None:
        return output
    columns = [(name, NOTHING if i in clear else origins) for i, (name, origins) in enumerate(output.columns)]
    return Output(columns, union(origins for _, origins in columns), output.copies)
