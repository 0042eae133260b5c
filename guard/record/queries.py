"""The questions that the index answers, as SQLAlchemy Core statements. `EvidenceIndex` calls them; shapes are said
there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, Select, case, func, literal, or_, select, union_all

from guard.record import index_schema as schema

_MOST = 10_000  # answers are held in memory and sent through a socket
_CHUNK = 500  # values in one IN (...)
# those who did not get a session, whatever for
REFUSALS = ("session.refused", "session.failed", "cancel.refused", "tls.refused")


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; None or "" asks for anything.

    relation: `schema.name`, or a bare name in any schema. effect: exact, or a family such as `ddl.*`. text: part of the
    statement, upper and lower case alike for ASCII. since/until: seconds since the epoch. before: only sequence numbers
    below this (for the next page).
    """

    subject: str | None = None
    resource: str | None = None
    relation: str | None = None
    access: str | None = None  # read | write, with relation
    effect: str | None = None
    decision: str | None = None
    rule: str | None = None
    text: str | None = None
    session: str | None = None
    since: float | None = None
    until: float | None = None
    before: int | None = None
    limit: int = 100


def sessions(
    connection: Connection,
    subject: str | None,
    resource: str | None,
    since: float | None,
    until: float | None,
    live: bool | None,
    limit: int,
) -> list[dict[str, Any]]:
    table = schema.sessions
    query = select(table).order_by(table.c.started_at.desc(), table.c.id.desc()).limit(_bounded(limit))
    if subject:
        query = query.where(table.c.subject == subject)
    if resource:
        query = query.where(table.c.resource == resource)
    if since is not None:
        query = query.where(or_(table.c.ended_at.is_(None), table.c.ended_at >= _ns(since)))
    if until is not None:
        query = query.where(table.c.started_at <= _ns(until))
    if live is not None:
        query = query.where(table.c.ended_at.is_(None) if live else table.c.ended_at.is_not(None))
    return [_session(row) for row in connection.execute(query)]


def show(connection: Connection, session: str, after: int, limit: int) -> dict[str, Any] | None:
    row = connection.execute(select(schema.sessions).where(schema.sessions.c.session == session)).first()
    if row is None:
        return None
    table = schema.commands
    query = _commands().where(table.c.session == row.id, table.c.seq > after)
    found = connection.execute(query.order_by(table.c.seq).limit(_bounded(limit))).all()
    happened = connection.execute(
        select(schema.events, literal(session).label("name"))
        .where(schema.events.c.session == row.id)
        .order_by(schema.events.c.seq)
        .limit(_MOST)
    )
    return {
        "session": _session(row),
        "commands": _with_responses(connection, found),
        "events": [_event(each) for each in happened],
    }


def search(connection: Connection, wanted: Search) -> list[dict[str, Any]]:
    command, session = schema.commands, schema.sessions
    query = _commands()
    if wanted.subject:
        query = query.where(session.c.subject == wanted.subject)
    if wanted.resource:
        query = query.where(session.c.resource == wanted.resource)
    if wanted.session:
        query = query.where(session.c.session == wanted.session)
    if wanted.decision:
        query = query.where(command.c.decision == wanted.decision)
    if wanted.rule:
        query = query.where(command.c.rule == wanted.rule)
    if wanted.relation:
        query = query.where(command.c.profile.in_(_profiles_with_relation(wanted.relation, wanted.access)))
    if wanted.effect:
        query = query.where(command.c.profile.in_(_profiles_with_effect(wanted.effect)))
    if wanted.text:
        query = query.where(schema.texts.c.text.like(f"%{_escaped(wanted.text)}%", escape="\\"))
    query = _within(query, command.c.at, wanted.since, wanted.until)
    if wanted.before is not None:
        query = query.where(command.c.seq < wanted.before)
    found = connection.execute(query.order_by(command.c.seq.desc()).limit(_bounded(wanted.limit))).all()
    return _with_responses(connection, found)


def events(
    connection: Connection,
    kind: str | None,
    subject: str | None,
    since: float | None,
    until: float | None,
    limit: int,
) -> list[dict[str, Any]]:
    table = schema.events
    joined = table.outerjoin(schema.sessions, table.c.session == schema.sessions.c.id)
    query = select(table, schema.sessions.c.session.label("name")).select_from(joined)
    if kind:
        query = (
            query.where(table.c.kind.like(f"{_escaped(kind[:-1])}%", escape="\\"))
            if kind.endswith("*")
            else (query.where(table.c.kind == kind))
        )
    if subject:
        by = func.json_extract(table.c.facts, "$.by")  # of what administrators do, who did it
        query = query.where(or_(table.c.subject == subject, schema.sessions.c.subject == subject, by == subject))
    query = _within(query, table.c.at, since, until)
    found = connection.execute(query.order_by(table.c.seq.desc()).limit(_bounded(limit)))
    return [_event(row) for row in found]


def refusals(
    connection: Connection,
    subject: str | None,
    resource: str | None,
    since: float | None,
    until: float | None,
    limit: int,
) -> list[dict[str, Any]]:
    table = schema.events
    query = select(table, literal(None).label("name")).where(table.c.kind.in_(REFUSALS))
    if subject:
        # where no token was good there is only what the client said
        query = query.where(
            or_(table.c.subject == subject, func.json_extract(table.c.facts, "$.claimed_user") == subject)
        )
    if resource:
        query = query.where(func.json_extract(table.c.facts, "$.resource") == resource)
    query = _within(query, table.c.at, since, until)
    return [_refusal(row) for row in connection.execute(query.order_by(table.c.seq.desc()).limit(_bounded(limit)))]


def summary(connection: Connection, subject: str, since: float | None, until: float | None) -> dict[str, Any]:
    command, session, response = schema.commands, schema.sessions, schema.responses
    theirs = command.join(session, command.c.session == session.c.id)

    def narrowed(query: Select[Any], at: ColumnElement[int]) -> Select[Any]:
        return _within(query.where(session.c.subject == subject), at, since, until)

    count = func.count().label("commands")
    decisions = narrowed(select(command.c.decision, count).select_from(theirs), command.c.at)
    rules = narrowed(select(command.c.rule, command.c.decision, count).select_from(theirs), command.c.at)
    relation = schema.profile_relations
    stopped = func.sum(case((command.c.decision.in_(("deny", "terminate")), 1), else_=0)).label("stopped")
    held = func.sum(case(((command.c.decision == "hold") & ~_released(), 1), else_=0)).label("held")
    touched = narrowed(
        select(relation.c.relation, relation.c.access, count, stopped, held).select_from(
            theirs.join(relation, relation.c.profile == command.c.profile)
        ),
        command.c.at,
    )
    answered = response.join(session, response.c.session == session.c.id)
    totals = connection.execute(
        narrowed(select(func.total(response.c.rows), func.total(response.c.bytes)).select_from(answered), response.c.at)
    ).one()
    seen = narrowed(
        select(schema.results.c.columns)
        .select_from(answered.join(schema.results, schema.results.c.id == response.c.result))
        .distinct(),
        response.c.at,
    )
    masked = {each["name"] for row in connection.execute(seen) for each in _masked(orjson.loads(row.columns))}
    span = connection.execute(
        narrowed(select(func.min(command.c.at), func.max(command.c.at)).select_from(theirs), command.c.at)
    ).one()
    taken = narrowed(select(func.count(command.c.session.distinct())).select_from(theirs), command.c.at)
    return {
        "subject": subject,
        "sessions": connection.execute(taken).scalar_one(),
        "commands": {row.decision: row.commands for row in connection.execute(decisions.group_by(command.c.decision))},
        "relations": [
            {
                "relation": row.relation,
                "access": row.access,
                "commands": row.commands,
                "stopped": row.stopped,
                "held": row.held,
            }
            for row in connection.execute(
                touched.group_by(relation.c.relation, relation.c.access).order_by(count.desc(), relation.c.relation)
            )
        ],
        "rules": [
            {"rule": row.rule, "decision": row.decision, "commands": row.commands}
            for row in connection.execute(rules.group_by(command.c.rule, command.c.decision).order_by(count.desc()))
        ],
        "rows": int(totals[0]),
        "bytes": int(totals[1]),
        "masked": sorted(masked),
        "first_at": _seconds(span[0]),
        "last_at": _seconds(span[1]),
    }


def _released() -> ColumnElement[bool]:
    """Whether a held command ran: an approval was used in its session, between it and its answer.

    Of several that wait at the same time (HTTP) those that still do count as run once one of them has: rather too many.
    """
    command, session, event, response = schema.commands, schema.sessions, schema.events, schema.responses
    answered = (
        select(func.min(response.c.seq))
        .where(response.c.session == command.c.session, response.c.n == command.c.n)
        .correlate(command)
        .scalar_subquery()
    )
    asked, used = (func.json_extract(event.c.facts, f"$.{name}") for name in ("s", "used_by"))
    return (
        select(event.c.seq)
        .where(
            event.c.kind == "approval.spent",
            func.coalesce(func.nullif(used, ""), asked) == session.c.session,
            event.c.seq > command.c.seq,
            event.c.seq < func.coalesce(answered, 2**63 - 1),
        )
        .correlate(command, session)
        .exists()
    )


def places(connection: Connection, session: str) -> list[tuple[int, int]]:
    """(segment, offset) of every record of a session, in the order of the journal."""
    row = connection.execute(select(schema.sessions.c.id).where(schema.sessions.c.session == session)).first()
    if row is None:
        return []
    parts = [
        select(table.c.segment, table.c.offset, table.c.seq).where(table.c.session == row.id)
        for table in (schema.commands, schema.responses, schema.events)
    ]
    merged = union_all(*parts).subquery()
    query = select(merged.c.segment, merged.c.offset).order_by(merged.c.seq)
    return [(each.segment, each.offset) for each in connection.execute(query)]


def _commands() -> Select[Any]:
    command, session = schema.commands, schema.sessions
    return select(
        command,
        session.c.session.label("name"),
        session.c.subject,
        session.c.issuer,
        session.c.resource,
        schema.texts.c.text.label("statement"),
        schema.profiles.c.facts,
    ).select_from(
        command.join(session, command.c.session == session.c.id)
        .join(schema.texts, schema.texts.c.id == command.c.text)
        .join(schema.profiles, schema.profiles.c.id == command.c.profile)
    )


def _with_responses(connection: Connection, found: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    answers: dict[tuple[int, int], list[dict[str, Any]]] = {}
    table = schema.responses
    by_session: dict[int, list[int]] = {}
    for row in found:
        by_session.setdefault(row.session, []).append(row.n)
    joined = table.outerjoin(schema.results, schema.results.c.id == table.c.result)
    for session, numbers in by_session.items():
        for some in _chunks(numbers):
            query = select(table, schema.results.c.columns).select_from(joined)
            query = query.where(table.c.session == session, table.c.n.in_(some)).order_by(table.c.seq)
            for row in connection.execute(query):
                answers.setdefault((session, row.n), []).append(_response(row))
    return [_command(row, answers.get((row.session, row.n), [])) for row in found]


def _command(row: Row[Any], responses: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "session": row.name,
        "n": row.n,
        "at": _seconds(row.at),
        "subject": row.subject,
        "issuer": row.issuer,
        "resource": row.resource,
        "text": row.statement,
        **orjson.loads(row.facts),
        "decision": row.decision,
        "rule": row.rule,
        "why": row.why,
        "approval": row.approval,
        "params": orjson.loads(row.params) if row.params else [],
        "phase": row.phase,
        "responses": responses,
    }


def _response(row: Row[Any]) -> dict[str, Any]:
    columns = orjson.loads(row.columns) if row.columns else []
    return {
        "seq": row.seq,
        "at": _seconds(row.at),
        "status": row.status,
        "rows": row.rows,
        "bytes": row.bytes,
        "us": row.us,
        "tag": row.tag,
        "sqlstate": row.sqlstate,
        "columns": columns,
        "masked": [each["name"] for each in _masked(columns)],
    }


def _session(row: Row[Any]) -> dict[str, Any]:
    facts = orjson.loads(row.facts)
    names = ("session", "subject", "issuer", "resource", "protocol", "client", "application", "end_reason")
    return {
        **{name: getattr(row, name) for name in names},
        **{name: facts.get(name) for name in ("groups", "claimed_user", "token_id", "expires_at")},
        **{name: getattr(row, name) for name in ("commands", "denied", "held", "rows", "bytes")},
        "started_at": _seconds(row.started_at),
        "ended_at": _seconds(row.ended_at),
        "live": row.ended_at is None,
    }


def _event(row: Row[Any]) -> dict[str, Any]:
    facts = orjson.loads(row.facts)
    return {"seq": row.seq, "at": _seconds(row.at), "kind": row.kind, "session": row.name, "facts": facts}


def _refusal(row: Row[Any]) -> dict[str, Any]:
    facts = orjson.loads(row.facts)
    names = ("listener", "resource", "client", "subject", "claimed_user", "application", "why", "count")
    return {"seq": row.seq, "at": _seconds(row.at), "kind": row.kind, **{name: facts.get(name) for name in names}}


def _masked(columns: Any) -> list[dict[str, Any]]:
    if not isinstance(columns, list):
        return []
    return [each for each in columns if isinstance(each, dict) and each.get("masked") and "name" in each]


def _profiles_with_relation(relation: str, access: str | None) -> Select[Any]:
    table = schema.profile_relations
    query = select(table.c.profile).where((table.c.relation if "." in relation else table.c.name) == relation)
    return query if access is None else query.where(table.c.access == access)


def _profiles_with_effect(effect: str) -> Select[Any]:
    table = schema.profile_effects
    if effect.endswith(".*"):
        return select(table.c.profile).where(table.c.effect.like(f"{_escaped(effect[:-1])}%", escape="\\"))
    return select(table.c.profile).where(table.c.effect == effect)


def _within(query: Select[Any], at: ColumnElement[int], since: float | None, until: float | None) -> Select[Any]:
    if since is not None:
        query = query.where(at >= _ns(since))
    if until is not None:
        query = query.where(at <= _ns(until))
    return query


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _bounded(limit: int) -> int:
    return max(0, min(limit, _MOST))


def _ns(seconds: float) -> int:
    return max(0, min(int(seconds * 1e9), 2**63 - 1))


def _seconds(at: int | None) -> float | None:
    return None if at is None else at / 1e9


def _chunks(numbers: list[int]) -> Iterable[list[int]]:
    return (numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK))
