"""Refusals in the words of AWS' protocols: its software shows a person what stands there, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from xml.sax.saxutils import escape

from protocols.http.aws.sigv4 import AS_IT_IS
from protocols.http.headers import media_type

_CODES = {400: "InvalidRequest", 401: "InvalidToken", 403: "AccessDenied", 413: "EntityTooLarge", 502: "BadGateway"}
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Told:
    """An answer's body and the fields that go with it."""

    body: bytes
    headers: tuple[tuple[str, str], ...]


def told(service: str, content_type: str, status: int, document: bytes, request_id: str) -> Told:
    """A problem document (RFC 9457) as clients of this service read it. `content_type`: the request's."""
    problem = json.loads(document)
    code, text = _CODES.get(status, "ServiceUnavailable"), f"refused by the gateway: {problem['detail']}"
    if service in AS_IT_IS:
        return Told(_xml(f"<Error>{_error(code, text)}<RequestId>{request_id}</RequestId></Error>"), _XML)
    if media_type(content_type) == _FORM:  # the query protocol
        inner = f"<Error><Type>Sender</Type>{_error(code, text)}</Error><RequestId>{request_id}</RequestId>"
        return Told(_xml(f"<ErrorResponse>{inner}</ErrorResponse>"), _XML)
    problem |= {"__type": code, "message": text}
    fields = (("content-type", "application/problem+json"), ("x-amzn-errortype", code))
    return Told(json.dumps(problem, ensure_ascii=False).encode() + b"\n", (*fields, _id(request_id)))


_XML = (("content-type", "application/xml"),)


def _id(request_id: str) -> tuple[str, str]:
    return "x-amzn-requestid", request_id


def _error(code: str, text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)  # what XML 1.0 cannot say
    return f"<Code>{code}</Code><Message>{escape(printable)}</Message>"


def _xml(text: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()
