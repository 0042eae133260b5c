"""What *thinning* leaves of a record: everything but its content.

Content is what a client sent or saw: the bytes of answers, COPY input, lines of terminals, messages, HTTP bodies. Who,
when, on what, with which decision, how many rows and with which outcome stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

# kind of record -> fields that go
CONTENT: Mapping[str, frozenset[str]] = {
    "command": frozenset({"body"}),
    "response": frozenset({"wire", "input", "body", "headers"}),
    "cast": frozenset({"lines"}),
    "message": frozenset({"text"}),
}


def thin_facts(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts without their content."""
    gone = CONTENT.get(kind, frozenset())
    return {name: value for name, value in facts.items() if name not in gone}


def residue(kind: str, payload: bytes) -> bytes | None:
    """What stays of a payload; None where nothing of it is content. Of what cannot be read nothing stays."""
    if kind not in CONTENT or not payload:
        return None
    try:
        facts = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return b""
    if not isinstance(facts, dict):
        return b""
    if not any(facts.get(name) for name in CONTENT[kind]):
        return None
    left = orjson.dumps(thin_facts(kind, facts))
    return left if len(left) <= len(payload) else b""  # another spelling of the same numbers may be longer
