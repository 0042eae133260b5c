"""Shape of the control API.

    request   {"id": 1, "token": "...", "method": "approvals.list", "params": {...}}\\n
    answer    {"id": 1, "result": ...}\\n   or   {"id": 1, "error": {"code": "forbidden", "message": "..."}}\\n

Codes: bad_request, unauthenticated, forbidden, not_found, conflict, busy, unavailable, internal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

MAX_REQUEST = 64 * 1024  # bytes of one request line: a token has at most 16 KiB
MAX_ANSWER = 32 * 1024 * 1024  # bytes of one answer line
MAX_ID = 64  # characters

CODES = frozenset(
    {"bad_request", "unauthenticated", "forbidden", "not_found", "conflict", "busy", "unavailable", "internal"}
)
_SUN_PATH = 107  # bytes of a socket's address on Linux, unix(7)


class ControlError(Exception):
    """A call that was not carried out. `message` is for the caller: lower case, no secrets, says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Unreachable(Exception):
    """No gateway answers at the socket. The text says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call, well formed; nothing else is known about it yet."""

    id: str | int | None
    token: str
    method: str
    params: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Request(method={self.method!r})"  # never the token


def decode_request(line: bytes) -> Request:
    """Raises ControlError(bad_request)."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ControlError("bad_request", "the request is no json") from None
    if not isinstance(document, dict) or not document.keys() <= {"id", "token", "method", "params"}:
        raise ControlError("bad_request", "a request has the keys id, token, method and params only")
    identity = document.get("id")
    token, method, params = document.get("token", ""), document.get("method"), document.get("params", {})
    if isinstance(identity, bool) or not isinstance(identity, str | int | None) or len(str(identity)) > MAX_ID:
        raise ControlError("bad_request", "id must be a number or a short text")
    if not isinstance(token, str) or not isinstance(method, str) or not isinstance(params, dict):
        raise ControlError("bad_request", "token and method must be texts, params an object")
    return Request(identity, token, method, params)


def encode_request(request: Request) -> bytes:
    """One line; raises ControlError(bad_request) when it is longer than the gateway would read."""
    document = {"id": request.id, "token": request.token, "method": request.method, "params": dict(request.params)}
    line = orjson.dumps(document) + b"\n"
    if len(line) > MAX_REQUEST:
        raise ControlError("bad_request", f"the request is larger than {MAX_REQUEST} bytes")
    return line


def encode_result(identity: str | int | None, result: Any) -> bytes:
    """One line; raises ControlError(bad_request) for an answer that is too large to send at once."""
    line = orjson.dumps({"id": identity, "result": result}, default=_plain) + b"\n"
    if len(line) > MAX_ANSWER:
        raise ControlError("bad_request", f"the answer is larger than {MAX_ANSWER} bytes; ask for less")
    return line


def encode_error(identity: str | int | None, error: ControlError) -> bytes:
    return orjson.dumps({"id": identity, "error": {"code": error.code, "message": error.message}}) + b"\n"


def decode_answer(line: bytes) -> Any:
    """The result of an answer line; raises ControlError with what the gateway said, Unreachable for nonsense."""
    try:
        document = orjson.loads(line)
        if "result" in document:
            return document["result"]
        raise ControlError(str(document["error"]["code"]), str(document["error"]["message"]))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise Unreachable("what answers at the socket is no gateway") from None


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """The address to bind or connect to. A path too long for the kernel is reached through its folder's descriptor."""
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _plain(value: object) -> object:
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not json")
