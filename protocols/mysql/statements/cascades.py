"""What a data change does to the tables whose foreign keys point at its target. Their triggers do not run.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.contract import Effect
from protocols.mysql.statements.walk import Walk

ANY_COLUMN: frozenset[str] = frozenset()


def cascade(walk: Walk, schema: str, name: str, events: Sequence[str], changed: frozenset[str] = ANY_COLUMN) -> None:
    """Adds the tables behind `schema.name`, at every level. `changed`: the columns of an update, in lower case.

    Each table is met once for each event and set of columns, so that keys in a circle come to an end.
    """
    waiting = [(schema, name, event, changed) for event in events if event in ("update", "delete")]
    seen = set(waiting)
    while waiting:
        at_schema, at_name, event, columns = waiting.pop()
        relation = walk.catalog.relation(at_schema, at_name)
        for key in walk.catalog.pointing_at(at_schema, at_name):
            # a generated column changes with those that it is made of
            computed = relation is None or any((c := relation.column(r)) is None or c.generated for r in key.referenced)
            action = key.on_delete if event == "delete" else key.on_update
            if not action or (event == "update" and columns and columns.isdisjoint(key.referenced) and not computed):
                continue
            removes = event == "delete" and action == "cascade"
            walk.add(Effect.DATA_DELETE if removes else Effect.DATA_UPDATE)
            walk.write(walk.qualified(key.schema, key.name))
            following = (key.schema, key.name, *(("delete", ANY_COLUMN) if removes else ("update", key.columns)))
            if following not in seen:
                seen.add(following)
                waiting.append(following)
