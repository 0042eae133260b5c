"""A row of the index as it is shown: the members of its JSON object. `EvidenceIndex` says their shapes."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Row

from guard.record.paging import LONG


def command(row: Row[Any]) -> dict[str, Any]:
    """Without its answers. `cut`: the fields of which only the beginning is shown."""
    params, cut = orjson.loads(row.params) if row.params else [], []
    if len(row.statement) > LONG:
        cut.append("text")
    if row.params and len(row.params) > LONG:
        params = [each if each is None else str(each)[: max(1, LONG // len(params))] for each in params]
        cut.append("params")
    return {
        "seq": row.seq,
        "session": row.name,
        "n": row.n,
        "at": seconds(row.at),
        "subject": row.subject,
        "issuer": row.issuer,
        "resource": row.resource,
        "text": row.statement[:LONG],
        **orjson.loads(row.facts),
        "decision": row.decision,
        "rule": row.rule,
        "why": row.why,
        "approval": row.approval,
        "params": params,
        "phase": row.phase,
        **({"cut": cut} if cut else {}),
    }


def response(row: Row[Any]) -> dict[str, Any]:
    columns = orjson.loads(row.columns) if row.columns else []
    return {
        "seq": row.seq,
        "at": seconds(row.at),
        "status": row.status,
        "rows": row.rows,
        "bytes": row.bytes,
        "us": row.us,
        "tag": row.tag,
        "sqlstate": row.sqlstate,
        "columns": columns,
        "masked": [each["name"] for each in masked(columns)],
    }


def session(row: Row[Any]) -> dict[str, Any]:
    facts = orjson.loads(row.facts)
    names = ("session", "subject", "issuer", "resource", "protocol", "client", "application", "end_reason")
    return {
        **{name: getattr(row, name) for name in names},
        **{name: facts.get(name) for name in ("groups", "claimed_user", "token_id", "expires_at")},
        **{name: getattr(row, name) for name in ("commands", "denied", "held", "rows", "bytes")},
        "started_at": seconds(row.started_at),
        "ended_at": seconds(row.ended_at),
        "live": row.ended_at is None,
    }


def event(row: Row[Any]) -> dict[str, Any]:
    facts = orjson.loads(row.facts)
    if len(row.facts) > LONG:
        facts = {name: value[:LONG] if isinstance(value, str) else value for name, value in facts.items()}
    return {"seq": row.seq, "at": seconds(row.at), "kind": row.kind, "session": row.name, "facts": facts}


def refusal(row: Row[Any]) -> dict[str, Any]:
    facts = orjson.loads(row.facts)
    names = ("listener", "resource", "client", "subject", "claimed_user", "application", "why", "count")
    return {"seq": row.seq, "at": seconds(row.at), "kind": row.kind, **{name: facts.get(name) for name in names}}


def masked(columns: Any) -> list[dict[str, Any]]:
    if not isinstance(columns, list):
        return []
    return [each for each in columns if isinstance(each, dict) and each.get("masked") and "name" in each]


def seconds(at: int | None) -> float | None:
    return None if at is None else at / 1e9
