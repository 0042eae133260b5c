"""The questions that the index answers, as SQLAlchemy Core statements. `EvidenceIndex` calls them; shapes are said
there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, Table, case, func, literal, or_, select, union_all

from guard.record import index_schema as schema
from guard.record import shown
from guard.record.paging import fitting, page
from guard.record.people import same_person

_MOST = 10_000  # answers are held in memory and sent through a socket
_CHUNK = 500  # values in one IN (...)
# those who did not get a session, whatever for
REFUSALS = ("session.refused", "session.failed", "cancel.refused", "tls.refused")


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; None or "" asks for anything.

    subject: however it is spelt (`same_person`).
    relation: `schema.name`, or a bare name in any schema. effect: exact, or a family such as `ddl.*`. text: part of the
    statement, upper and lower case alike for ASCII. since/until: seconds since the epoch. before: only sequence numbers
    below this (for the next page). partly: where the texts are too long for one answer, the newest that fit.
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
    partly: bool = False


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
        query = query.where(table.c.subject.in_(_spellings(connection, subject)))
    if resource:
        query = query.where(table.c.resource == resource)
    if since is not None:
        query = query.where(or_(table.c.ended_at.is_(None), table.c.ended_at >= _ns(since)))
    if until is not None:
        query = query.where(table.c.started_at <= _ns(until))
    if live is not None:
        query = query.where(table.c.ended_at.is_(None) if live else table.c.ended_at.is_not(None))
    return [shown.session(row) for row in connection.execute(query)]


def _spellings(connection: Connection, subject: str, of: Table = schema.sessions) -> list[str]:
    """Every subject on record that is taken for this one: who contains it contains all of them."""
    known = select(of.c.subject).distinct()
    found = {row.subject for row in connection.execute(known) if same_person(row.subject, subject)}
    return sorted({subject, *found})


def show(connection: Connection, session: str, after: int, limit: int) -> dict[str, Any] | None:
    row = connection.execute(select(schema.sessions).where(schema.sessions.c.session == session)).first()
    if row is None:
        return None
    if limit <= 0:
        return {"session": shown.session(row), "commands": [], "events": [], "next": None}
    table, event = schema.commands, schema.events
    commands = _commands().where(table.c.session == row.id, table.c.seq > after).order_by(table.c.seq)
    happened = select(event, literal(session).label("name")).where(event.c.session == row.id, event.c.seq > after)
    found, ends = page(connection, commands.limit(_bounded(limit)), shown.command, _bounded(limit))
    events, end = page(connection, happened.order_by(event.c.seq).limit(_MOST), shown.event, _MOST)
    # both go as far as the one that is cut first: a page is what happened up to there
    following = min((each for each in (ends, end) if each is not None), default=None)
    if following is not None:
        found = [each for each in found if each[1]["seq"] <= following]
        events = [each for each in events if each[1]["seq"] <= following]
    return {
        "session": shown.session(row),
        "commands": _with_responses(connection, found),
        "events": [each for _, each in events],
        "next": following,
    }


def search(connection: Connection, wanted: Search) -> list[dict[str, Any]]:
    command, session = schema.commands, schema.sessions
    query = _commands()
    if wanted.subject:
        query = query.where(session.c.subject.in_(_spellings(connection, wanted.subject)))
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
        query = query.where(_says(wanted.text))
    query = _within(query, command.c.at, wanted.since, wanted.until)
    if wanted.before is not None:
        query = query.where(command.c.seq < wanted.before)
    query = query.order_by(command.c.seq.desc()).limit(_bounded(wanted.limit))
    return _with_responses(connection, fitting(connection, query, shown.command, partly=wanted.partly))


def _says(text: str) -> ColumnElement[bool]:
    """Whether a statement holds a text. LIKE ends at a NUL, which statements may hold: what is behind it counts."""
    column = schema.texts.c.text
    behind = func.instr(column, "\0") > 0
    return or_(
        column.like(f"%{_escaped(text)}%", escape="\\"), behind & (func.instr(func.lower(column), _lower(text)) > 0)
    )


def _lower(text: str) -> str:
    """As SQLite's `lower` sees it: ASCII only."""
    return "".join(char.lower() if char.isascii() else char for char in text)


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
        spelt = [*_spellings(connection, subject), *_spellings(connection, subject, table)]
        query = query.where(or_(table.c.subject.in_(spelt), schema.sessions.c.subject.in_(spelt), by.in_(spelt)))
    query = _within(query, table.c.at, since, until)
    query = query.order_by(table.c.seq.desc()).limit(_bounded(limit))
    return [each for _, each in fitting(connection, query, shown.event)]


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
        claimed = func.json_extract(table.c.facts, "$.claimed_user")
        query = query.where(or_(table.c.subject.in_(_spellings(connection, subject, table)), claimed == subject))
    if resource:
        query = query.where(func.json_extract(table.c.facts, "$.resource") == resource)
    query = _within(query, table.c.at, since, until)
    return [shown.refusal(row) for row in connection.execute(query.order_by(table.c.seq.desc()).limit(_bounded(limit)))]


def summary(connection: Connection, subject: str, since: float | None, until: float | None) -> dict[str, Any]:
    command, session, response = schema.commands, schema.sessions, schema.responses
    theirs = command.join(session, command.c.session == session.c.id)
    spelt = _spellings(connection, subject)

    def narrowed(query: Select[Any], at: ColumnElement[int]) -> Select[Any]:
        return _within(query.where(session.c.subject.in_(spelt)), at, since, until)

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
    masked = {each["name"] for row in connection.execute(seen) for each in shown.masked(orjson.loads(row.columns))}
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
        "first_at": shown.seconds(span[0]),
        "last_at": shown.seconds(span[1]),
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


def _with_responses(connection: Connection, found: Sequence[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Commands, each with its answers; `found` has the session's row beside each."""
    answers: dict[tuple[int, int], list[dict[str, Any]]] = {}
    table = schema.responses
    by_session: dict[int, list[int]] = {}
    for session, command in found:
        by_session.setdefault(session, []).append(command["n"])
    joined = table.outerjoin(schema.results, schema.results.c.id == table.c.result)
    for session, numbers in by_session.items():
        for some in _chunks(numbers):
            query = select(table, schema.results.c.columns).select_from(joined)
            query = query.where(table.c.session == session, table.c.n.in_(some)).order_by(table.c.seq)
            for row in connection.execute(query):
                answers.setdefault((session, row.n), []).append(shown.response(row))
    return [{**command, "responses": answers.get((session, command["n"]), [])} for session, command in found]


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


def _chunks(numbers: list[int]) -> Iterable[list[int]]:
    return (numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK))
