"""What of an HTTP exchange goes on record, in the form of the journal's `command` and `response` records.

`wire` of a response is its head and as much of its body as is kept, as the client saw them, secrets withheld.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

import orjson

from protocols.contract import Analysis, Decision
from protocols.http.headers import Header, shown

MAX_LINES = 2000


def command(
    session: str,
    number: int,
    at_ns: int,
    analysis: Analysis,
    effects: Sequence[str],
    decision: Decision,
    text: str,
    headers: Sequence[Header],
    body: bytes,
    body_size: int,
    extra: dict[str, object],
) -> bytes:
    """`body` is the beginning of the body, redacted; `body_size` what was sent (bytes)."""
    return orjson.dumps(
        {
            "t": "command",
            "at": at_ns,
            "s": session,
            "n": number,
            "phase": "request",
            "kind": analysis.kind,
            "effects": sorted(effects),
            "reads": analysis.reads,
            "writes": analysis.writes,
            "columns": analysis.columns,
            "decision": decision.action.label,
            "rule": decision.rule,
            "why": decision.why or analysis.why,
            "shape": analysis.shape,
            "text": text,
            "headers": shown(headers),
            "body": b64encode(body).decode(),
            "body_bytes": body_size,
            **extra,
        }
    )


def head(version: str, status: int, reason: str, headers: Sequence[Header]) -> bytes:
    """An answer's head as it is kept."""
    lines = [f"{version} {status} {reason}".rstrip(), *(f"{name}: {value}" for name, value in shown(headers)), "", ""]
    return "\r\n".join(lines).encode("utf-8", "replace")


def response(
    session: str,
    number: int,
    at_ns: int,
    status: str,
    size: int,
    micros: int,
    tag: str,
    wire: bytes,
    truncated: bool,
    extra: dict[str, object],
) -> bytes:
    """`size`: bytes of body that went to the client. `tag`: `200 OK`."""
    return orjson.dumps(
        {
            "t": "response",
            "at": at_ns,
            "s": session,
            "n": number,
            "status": status,
            "rows": 0,
            "bytes": size,
            "us": micros,
            "tag": tag,
            "truncated": truncated,
            "wire": b64encode(wire).decode(),
            **extra,
        }
    )


def render(wire: bytes, limit: int = MAX_LINES) -> list[str]:
    """Recorded bytes of an answer as lines for a person, at most `limit`."""
    start, _, body = wire.partition(b"\r\n\r\n")
    lines = start.decode("utf-8", "replace").splitlines()
    text = body.decode("utf-8", "replace")
    if text and sum((c.isprintable() and c != "\ufffd") or c in "\r\n\t" for c in text[:1000]) < 0.8 * len(text[:1000]):
        lines.append(f"({len(body)} bytes that are no text)")
    elif text:
        lines += ["", *text.splitlines()]
    printable = ["".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in lines]
    return [*printable[:limit], "(cut here)"] if len(printable) > limit else printable
