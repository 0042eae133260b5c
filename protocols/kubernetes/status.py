"""`Status` objects: how the API server refuses, and how kubectl and client libraries expect to be refused.

kubectl prints `Error from server (REASON): MESSAGE`. Source: API conventions, "Response status kind".
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from protocols.kubernetes.requests import RequestInfo

CONTENT_TYPE = "application/json"

# API conventions: the reason that goes with each code
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    414: "RequestURITooLong",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    code: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = field(default=(("content-type", CONTENT_TYPE),))


def status(
    code: int,
    message: str,
    request: RequestInfo | None = None,
    *,
    reason: str = "",
    causes: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """A Failure. `causes` are pairs of reason and message (`("PolicyRule", "no-prod-exec")`)."""
    details: dict[str, Any] = {}
    if request is not None and request.resource_request:
        given = {"name": request.name, "group": request.group, "kind": request.resource}
        details |= {key: value for key, value in given.items() if value}
    if causes:
        details["causes"] = [{"reason": kind, "message": text} for kind, text in causes]
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": _line(message),
        "reason": reason or REASONS.get(code, "Unknown"),
        **({"details": details} if details else {}),
        "code": code,
    }
    headers = (("content-type", CONTENT_TYPE), ("cache-control", "no-cache, private"))
    return Answer(code, json.dumps(body, separators=(",", ":")).encode(), headers)


def denied(request: RequestInfo, subject: str, rule: str, why: str, request_id: str = "") -> Answer:
    """403, in the words of the API server's own refusals, with the rule and what to do next."""
    what = f"{request.full_resource}" + (f' "{request.name}"' if request.name else "")
    where = f" in namespace `{request.namespace}`" if request.namespace else ""
    tail = f" (request {request_id})" if request_id else ""
    text = f"`{subject}` may not {request.verb} {what}{where}: rule `{rule}`: {why}{tail}"
    return status(403, text, request, causes=(("PolicyRule", rule),))


def held(request: RequestInfo, ticket: str, why: str) -> Answer:
    """The client must not wait longer. 403 and not 429: client libraries retry a 429 by themselves, without end."""
    text = f"held for approval as {ticket}: {why}: run the same command again once it is approved"
    return status(403, text, request, causes=(("Held", ticket),))


def stream_status(code: int, message: str) -> bytes:
    """What the error channel of an exec or attach carries as its last words: one Status, also for success (0)."""
    if code == 0:
        return b'{"metadata":{},"status":"Success"}'
    return status(code, message).body


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
