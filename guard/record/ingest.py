"""From journal records to rows of the index. One `Ingest` lives for one transaction.

A record that is not what it should be (no JSON object, a number where a text belongs) still becomes a row: evidence is
never left out because it is odd.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import orjson
from cachetools import LRUCache
from sqlalchemy import Connection, Table, bindparam, func, select, update
from sqlalchemy.dialects.sqlite import insert

from guard.record import index_schema as schema
from guard.record.format import Record

_COUNTED = ("commands", "denied", "held", "rows", "bytes")
_MAX_INTEGER = 2**63 - 1
_CHUNK = 500  # values in one IN (...)


class Shared:
    """Ids of rows, remembered between transactions that committed for as long as no rows are deleted (`generation`)."""

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        self.sessions: LRUCache[str, int] = LRUCache(10_000)
        self.ids: dict[str, LRUCache[bytes, int]] = {
            table.name: LRUCache(20_000) for table in (schema.texts, schema.profiles, schema.results)
        }


class Ingest:
    def __init__(self, connection: Connection, shared: Shared) -> None:
        self._connection = connection
        self._shared = shared
        self._rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._counts: dict[int, dict[str, int]] = {}
        self._texts: dict[bytes, str] = {}  # by digest; statements are many and new, so they are written in bulk
        self._segments: dict[int, list[int]] = {}  # first_at, last_at, records, payload

    def add(self, record: Record) -> None:
        found = self._segments.setdefault(record.segment, [record.at, 0, 0, 0])
        if record.kind != "checkpoint":  # the last one may be much younger than what it signs
            found[1] = max(found[1], record.at)
        found[2] += 1
        found[3] += len(record.payload)
        if record.reduced and not record.payload:
            return  # nothing but its time and kind is left; `removals` says why
        try:
            facts = orjson.loads(record.payload)
        except orjson.JSONDecodeError:
            facts = None
        if not isinstance(facts, dict):
            facts = {"unreadable": True, "bytes": len(record.payload)}
        if record.kind == "command":
            self._command(record, facts)
        elif record.kind == "response":
            self._response(record, facts)
        elif record.kind != "checkpoint":
            self._event(record, facts)

    def finish(self) -> None:
        """Write what was collected. Must be called once, before the transaction commits."""
        if self._texts:
            self._write_texts()
        for table in (schema.commands, schema.responses, schema.events):
            if rows := self._rows.pop(table.name, None):
                self._connection.execute(table.insert(), rows)
        if self._counts:
            table = schema.sessions
            added = {name: table.c[name] + bindparam(f"add_{name}") for name in _COUNTED}
            self._connection.execute(
                update(table).where(table.c.id == bindparam("which")).values(added),
                [
                    {"which": session, **{f"add_{name}": counts[name] for name in _COUNTED}}
                    for session, counts in self._counts.items()
                ],
            )
            self._counts = {}
        self._write_segments()

    def _write_segments(self) -> None:
        table = schema.segments
        for number, (first_at, last_at, records, payload) in self._segments.items():
            values = {"first_at": first_at, "last_at": last_at or first_at, "records": records, "payload": payload}
            added = {
                "last_at": func.max(table.c.last_at, last_at),
                "records": table.c.records + records,
                "payload": table.c.payload + payload,
            }
            statement = insert(table).values(number=number, **values)
            self._connection.execute(statement.on_conflict_do_update(index_elements=["number"], set_=added))
        self._segments = {}

    def _command(self, record: Record, facts: dict[str, Any]) -> None:
        session = self._session(facts, record)
        decision = _text(facts, "decision")
        counts = self._count(session)
        counts["commands"] += 1
        counts["denied"] += decision in ("deny", "terminate")
        counts["held"] += decision == "hold"
        params = facts.get("params")
        row = self._place(record, session, facts)
        row |= {name: _text(facts, name) for name in ("rule", "why", "phase")}
        row |= {
            "decision": decision,
            "approval": _text(facts, "approval") or None,
            "text": self._text_digest(_text(facts, "text")),
            "profile": self._profile(facts),
            "params": orjson.dumps(params).decode() if params else None,
        }
        self._rows["commands"].append(row)

    def _response(self, record: Record, facts: dict[str, Any]) -> None:
        session = self._session(facts, record)
        rows, size = _number(facts, "rows"), _number(facts, "bytes")
        counts = self._count(session)
        counts["rows"] += rows
        counts["bytes"] += size
        columns = facts.get("columns")
        row = self._place(record, session, facts)
        row |= {
            "status": _text(facts, "status"),
            "rows": rows,
            "bytes": size,
            "us": _number(facts, "us"),
            "tag": _text(facts, "tag"),
            "sqlstate": _text(facts, "sqlstate") or None,
            "result": self._once(schema.results, "columns", orjson.dumps(columns)) if columns else None,
        }
        self._rows["responses"].append(row)

    def _event(self, record: Record, facts: dict[str, Any]) -> None:
        session = None
        if record.kind == "session.start":
            session = self._start(record, facts)
        elif facts.get("s"):
            session = self._session(facts, record)
        if record.kind == "session.end" and session is not None:
            self._end(schema.sessions.c.id == session, record.at, _text(facts, "reason"))
        elif record.kind == "journal.opened":
            self._end(schema.sessions.c.started_at < _MAX_INTEGER, record.at, "the gateway process ended")
        row = self._place(record, session, facts)
        del row["n"]
        row |= {"kind": record.kind, "subject": _text(facts, "subject"), "facts": orjson.dumps(facts).decode()}
        self._rows["events"].append(row)

    def _start(self, record: Record, facts: dict[str, Any]) -> int:
        names = ("subject", "issuer", "resource", "protocol", "client", "application")
        values: dict[str, Any] = {name: _text(facts, name) for name in names}
        values |= {"session": _text(facts, "s"), "started_at": record.at, "facts": orjson.dumps(facts).decode()}
        table = schema.sessions
        statement = insert(table).values(values).on_conflict_do_update(index_elements=["session"], set_=values)
        session: int = self._connection.execute(statement.returning(table.c.id)).scalar_one()
        self._shared.sessions[values["session"]] = session
        return session

    def _end(self, which: Any, at: int, reason: str) -> None:
        table = schema.sessions
        self._connection.execute(
            update(table).where(which, table.c.ended_at.is_(None)).values(ended_at=at, end_reason=reason)
        )

    def _session(self, facts: dict[str, Any], record: Record) -> int:
        """The row of the record's session; made up where its start is not in this journal."""
        name = _text(facts, "s")
        if (known := self._shared.sessions.get(name)) is not None:
            return known
        table = schema.sessions
        found = self._connection.execute(select(table.c.id).where(table.c.session == name)).scalar()
        if found is None:
            values = {"session": name, "started_at": record.at}
            found = self._connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one()
        self._shared.sessions[name] = found
        return int(found)

    def _count(self, session: int) -> dict[str, int]:
        return self._counts.setdefault(session, dict.fromkeys(_COUNTED, 0))

    def _place(self, record: Record, session: int | None, facts: dict[str, Any]) -> dict[str, Any]:
        return {
            "seq": record.seq,
            "session": session,
            "n": _number(facts, "n"),
            "at": record.at,
            "segment": record.segment,
            "offset": record.offset,
        }

    def _text_digest(self, text: str) -> bytes:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        self._texts[digest] = text
        return digest

    def _write_texts(self) -> None:
        """Give every statement of this transaction its row, and the commands its id instead of the digest."""
        cache, table = self._shared.ids["texts"], schema.texts
        ids = {digest: known for digest in self._texts if (known := cache.get(digest)) is not None}
        new = [digest for digest in self._texts if digest not in ids]
        if new:
            rows = [{"digest": digest, "text": _storable(self._texts[digest])} for digest in new]
            self._connection.execute(insert(table).on_conflict_do_nothing(), rows)
        for start in range(0, len(new), _CHUNK):
            some = new[start : start + _CHUNK]
            for row in self._connection.execute(select(table.c.digest, table.c.id).where(table.c.digest.in_(some))):
                ids[row.digest] = cache[row.digest] = row.id
        for command in self._rows["commands"]:
            command["text"] = ids[command["text"]]
        self._texts = {}

    def _profile(self, facts: dict[str, Any]) -> int:
        effects, reads, writes = (_words(facts, name) for name in ("effects", "reads", "writes"))
        profile = {"kind": _text(facts, "kind"), "effects": effects, "reads": reads, "writes": writes}
        profile |= {"columns": _words(facts, "columns")}
        packed = orjson.dumps(profile)
        known = hashlib.sha256(packed).digest() in self._shared.ids["profiles"]
        found = self._once(schema.profiles, "facts", packed)
        if not known:
            self._tags(found, effects, reads, writes)
        return found

    def _tags(self, profile: int, effects: list[str], reads: list[str], writes: list[str]) -> None:
        if effects:
            self._connection.execute(
                insert(schema.profile_effects).on_conflict_do_nothing(),
                [{"effect": effect, "profile": profile} for effect in effects],
            )
        relations = [(name, "read") for name in reads] + [(name, "write") for name in writes]
        if relations:
            self._connection.execute(
                insert(schema.profile_relations).on_conflict_do_nothing(),
                [
                    {"relation": name, "access": access, "profile": profile, "name": name.rpartition(".")[2]}
                    for name, access in relations
                ],
            )

    def _once(self, table: Table, column: str, value: bytes) -> int:
        """The id of the row with this value, inserted if it is new."""
        cache = self._shared.ids[table.name]
        digest = hashlib.sha256(value).digest()
        if (known := cache.get(digest)) is not None:
            return known
        row = {"digest": digest, column: value.decode("utf-8", "replace")}
        statement = insert(table).values(row).on_conflict_do_nothing()
        self._connection.execute(statement)
        found: int = self._connection.execute(select(table.c.id).where(table.c.digest == digest)).scalar_one()
        cache[digest] = found
        return found


def _storable(text: str) -> str:
    """Without lone surrogates, which SQLite does not take."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _number(facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name)
    return value if type(value) is int and -_MAX_INTEGER <= value <= _MAX_INTEGER else 0


def _words(facts: Mapping[str, Any], name: str) -> list[str]:
    value = facts.get(name)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
