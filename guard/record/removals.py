"""The index's side of retention: rows go as payloads go. Functions over a connection; `EvidenceIndex` calls them.

The tombstones say what went. `follow` makes the tables look as if the journal had been read anew, and notes each act in
`removals`, so that answers can say what is missing, since when and why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Table, delete, exists, func, insert, select, union_all, update

from guard.record import index_schema as schema
from guard.record.reader import Cursor, check_areas, open_segment, read_header, read_records, segments
from guard.record.residue import thin_facts
from guard.record.tombstones import Act, AreaDigest, Tombstone

_CHUNK = 500  # values in one IN (...)
_ROWS = (schema.commands, schema.responses, schema.events)


def followed(connection: Connection) -> dict[int, int]:
    """Segment -> how many acts on it the tables follow."""
    table = schema.removals
    query = select(table.c.segment, func.count()).group_by(table.c.segment)
    return {row[0]: row[1] for row in connection.execute(query)}


def carried_out(folder: Path, tombstone: Tombstone) -> bool:
    """Whether the segment looks as its tombstone says; False while the last act is still to come.

    Raises DamagedJournal where it looks neither so nor as before.
    """
    number = tombstone.segment
    present = number in segments(folder)
    if tombstone.dropped or not present:
        return not present
    areas = AreaDigest()
    with open_segment(folder, number) as file:
        _, at = read_header(file, Cursor(number, 0, tombstone.first_seq - 1, tombstone.previous_chain))
        for record in read_records(file, at):
            if record.reduced:
                areas.add(record.seq, record.payload)
            at = Cursor(number, record.end, record.seq, record.chain)
    check_areas(at, areas.digest(), tombstone)
    return areas.digest() == tombstone.areas


def follow(connection: Connection, tombstone: Tombstone) -> None:
    """Delete and shorten what the acts took, as far as that was not done before."""
    known = followed(connection).get(tombstone.segment, 0)
    for place, act in enumerate(tombstone.acts[known:], known):
        if act.level == "thin":
            _shorten(connection, act.seqs)
        else:
            _delete(connection, tombstone.segment, None if act.level == "drop" else act.seqs)
        connection.execute(insert(schema.removals).values(_row(tombstone, place, act)))
    if tombstone.dropped:
        connection.execute(delete(schema.segments).where(schema.segments.c.number == tombstone.segment))
        connection.execute(delete(schema.examined).where(schema.examined.c.segment == tombstone.segment))
    connection.execute(update(schema.progress).values(generation=schema.progress.c.generation + 1))


def _row(tombstone: Tombstone, place: int, act: Act) -> dict[str, Any]:
    whole = tombstone.last_seq - tombstone.first_seq + 1
    return {
        "segment": tombstone.segment,
        "act": place,
        **{name: getattr(act, name) for name in ("run", "level", "rule", "reason", "by", "at", "size", "kept")},
        "first_at": tombstone.first_at,
        "last_at": tombstone.last_at,
        "records": whole if act.level == "drop" else len(act.seqs),
        "counts": orjson.dumps(dict(act.counts), option=orjson.OPT_SORT_KEYS).decode(),
    }


def _shorten(connection: Connection, seqs: Collection[int]) -> None:
    """Only events are kept whole in the index; of commands and responses it never had what thinning takes."""
    table = schema.events
    for some in _chunks(seqs):
        for row in connection.execute(select(table.c.seq, table.c.kind, table.c.facts).where(table.c.seq.in_(some))):
            facts = orjson.dumps(thin_facts(row.kind, orjson.loads(row.facts))).decode()
            connection.execute(update(table).where(table.c.seq == row.seq).values(facts=facts))


def _delete(connection: Connection, segment: int, seqs: Collection[int] | None) -> None:
    """None: everything of the segment."""
    touched: set[int] = set()
    shared: dict[str, set[int]] = {"texts": set(), "profiles": set(), "results": set()}
    begun: set[int] = set()
    ended: set[int] = set()
    for some in [None] if seqs is None else _chunks(seqs):
        for table in _ROWS:
            which = table.c.segment == segment if some is None else table.c.seq.in_(some)
            for row in connection.execute(select(table).where(which)):
                if row.session is not None:
                    touched.add(row.session)
                if table is schema.commands:
                    shared["texts"].add(row.text)
                    shared["profiles"].add(row.profile)
                elif table is schema.responses and row.result is not None:
                    shared["results"].add(row.result)
                elif table is schema.events and row.kind in ("session.start", "session.end"):
                    (begun if row.kind == "session.start" else ended).add(row.session)
            connection.execute(delete(table).where(which))
    for session in touched:
        _settle_session(connection, session, begun=session in begun, ended=session in ended)
    _sweep(connection, schema.texts, shared["texts"], lambda one: exists().where(schema.commands.c.text == one))
    _sweep(connection, schema.results, shared["results"], lambda one: exists().where(schema.responses.c.result == one))
    gone = _sweep(
        connection, schema.profiles, shared["profiles"], lambda one: exists().where(schema.commands.c.profile == one)
    )
    for tags in (schema.profile_effects, schema.profile_relations):
        for part in _chunks(gone):
            connection.execute(delete(tags).where(tags.c.profile.in_(part)))


def _sweep(connection: Connection, table: Table, ids: Collection[int], used: Callable[[Any], Any]) -> list[int]:
    """Delete shared rows that nothing refers to any more. Returns which."""
    gone: list[int] = []
    for some in _chunks(ids):
        unused = select(table.c.id).where(table.c.id.in_(some), ~used(table.c.id))
        gone += connection.execute(unused).scalars()
    for some in _chunks(gone):
        connection.execute(delete(table).where(table.c.id.in_(some)))
    return gone


def _settle_session(connection: Connection, session: int, *, begun: bool, ended: bool) -> None:
    """Count again what is left; without anything the session goes. begun, ended: that record went."""
    table, command, response = schema.sessions, schema.commands, schema.responses
    left = union_all(*(select(rows.c.at).where(rows.c.session == session) for rows in _ROWS)).subquery()
    first, count = connection.execute(select(func.min(left.c.at), func.count())).one()
    if not count:
        connection.execute(delete(table).where(table.c.id == session))
        return
    counted = connection.execute(
        select(
            func.count(),
            func.total(command.c.decision.in_(("deny", "terminate"))),
            func.total(command.c.decision == "hold"),
        ).where(command.c.session == session)
    ).one()
    sums = connection.execute(
        select(func.total(response.c.rows), func.total(response.c.bytes)).where(response.c.session == session)
    ).one()
    names = ("commands", "denied", "held", "rows", "bytes")
    values: dict[str, Any] = dict(zip(names, map(int, (*counted, *sums)), strict=True))
    if begun:
        values |= dict.fromkeys(("subject", "issuer", "resource", "protocol", "client", "application"), "")
        values |= {"facts": "{}", "started_at": first}
    if ended:
        values["end_reason"] = ""
    connection.execute(update(table).where(table.c.id == session).values(values))


def removals(
    connection: Connection, since: float | None = None, until: float | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """What retention took from this time, grouped by run, newest first: `run, level, rule, reason, by, at, records,
    bytes, kept, segments, from_at, to_at, counts`. Times are seconds; from_at and to_at are those of the segments."""
    table = schema.removals
    query = select(table).order_by(table.c.at.desc(), table.c.segment)
    if since is not None:
        query = query.where(table.c.last_at >= int(since * 1e9))
    if until is not None:
        query = query.where(table.c.first_at <= int(until * 1e9))
    runs: dict[str, dict[str, Any]] = {}
    for row in connection.execute(query):
        found = runs.setdefault(
            row.run,
            {
                **{name: getattr(row, name) for name in ("run", "level", "rule", "reason", "by")},
                **dict.fromkeys(("records", "bytes", "kept", "segments"), 0),
                "at": row.at / 1e9,
                "from_at": row.first_at / 1e9,
                "to_at": row.last_at / 1e9,
                "counts": {},
            },
        )
        found["records"] += row.records
        found["bytes"] += row.size
        found["kept"] += row.kept
        found["segments"] += 1
        found["from_at"] = min(found["from_at"], row.first_at / 1e9)
        found["to_at"] = max(found["to_at"], row.last_at / 1e9)
        for kind, count in orjson.loads(row.counts).items():
            found["counts"][kind] = found["counts"].get(kind, 0) + count
    return list(runs.values())[:limit]


def happened(connection: Connection, kinds: Sequence[str]) -> list[tuple[int, int, str, Mapping[str, Any]]]:
    """`(seq, at (ns), kind, facts)` of the events of these kinds, in order."""
    table = schema.events
    query = select(table.c.seq, table.c.at, table.c.kind, table.c.facts).where(table.c.kind.in_(kinds))
    return [
        (row.seq, row.at, row.kind, orjson.loads(row.facts)) for row in connection.execute(query.order_by(table.c.seq))
    ]


def newest(connection: Connection, kinds: Sequence[str]) -> int:
    """Number of the last event of these kinds; 0 without any."""
    table = schema.events
    return connection.execute(select(func.max(table.c.seq)).where(table.c.kind.in_(kinds))).scalar() or 0


def subject_of(connection: Connection, session: str) -> str:
    """Empty where nobody can tell (any more)."""
    table = schema.sessions
    return connection.execute(select(table.c.subject).where(table.c.session == session)).scalar() or ""


def goes_on(connection: Connection, session: str, behind: int) -> bool:
    """Whether the session lasts, or there are records of it in a segment behind this one."""
    table = schema.sessions
    found = connection.execute(select(table.c.id, table.c.ended_at).where(table.c.session == session)).first()
    if found is None:
        return False
    return found.ended_at is None or any(
        connection.execute(
            select(rows.c.seq).where(rows.c.session == found.id, rows.c.segment > behind).limit(1)
        ).first()
        for rows in _ROWS
    )


def began_in(connection: Connection, segment: int) -> list[str]:
    """Sessions whose start lies in this segment."""
    event, session = schema.events, schema.sessions
    joined = event.join(session, event.c.session == session.c.id)
    query = select(session.c.session).select_from(joined)
    return list(connection.execute(query.where(event.c.segment == segment, event.c.kind == "session.start")).scalars())


def _chunks(numbers: Collection[int]) -> Iterator[list[int]]:
    ordered = sorted(numbers)
    return (ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK))
