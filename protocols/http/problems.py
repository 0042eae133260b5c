"""Refusals as HTTP answers: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json

CONTENT_TYPE = "application/problem+json"
_TITLES = {
    400: "Bad request",
    403: "Refused by the gateway",
    407: "Proxy authentication required",
    401: "Authentication required",
    413: "Request body too large to be inspected",
    421: "Misdirected request",
    502: "No usable answer from the upstream",
    503: "The gateway cannot serve at the moment",
}


def problem(status: int, detail: str, *, rule: str = "", request_id: str = "", ticket: str = "") -> bytes:
    """The body of a refusal. `detail` is for the person: what was refused, why, what to do next."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": _TITLES.get(status, "Refused by the gateway"),
        "status": status,
        "detail": detail,
    }
    if rule:
        document["rule"] = rule
    if request_id:
        document["request_id"] = request_id
    if ticket:
        document["ticket"] = ticket
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"
