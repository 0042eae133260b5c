"""Typed failures of this protocol, and the ErrorResponse/NoticeResponse bytes that tell a client about them."""

from __future__ import annotations

import struct

from protocols.contract import WireError

# SQLSTATE codes (PostgreSQL documentation, appendix A) that the gateway itself answers with.
INSUFFICIENT_PRIVILEGE = "42501"
INVALID_AUTHORIZATION = "28000"
PROTOCOL_VIOLATION = "08P01"
CONNECTION_FAILURE = "08006"
CANNOT_CONNECT = "08001"
ADMIN_SHUTDOWN = "57P01"
QUERY_CANCELED = "57014"
OBJECT_IN_USE = "55006"
PROGRAM_LIMIT_EXCEEDED = "54000"
FEATURE_NOT_SUPPORTED = "0A000"
IO_ERROR = "58030"


class ProtocolError(WireError):
    """Bytes that the protocol does not allow here. The session that sent them ends; the process goes on."""

    def __init__(self, message: str, sqlstate: str = PROTOCOL_VIOLATION) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def _fields(severity: str, sqlstate: str, message: str, hint: str) -> bytes:
    parts = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message)]
    if hint:
        parts.append(("H", hint))
    # a NUL inside a text would end the field early and let its tail pose as further fields
    body = b"".join(k.encode() + v.replace("\0", "\\0").encode("utf-8", "replace") + b"\0" for k, v in parts)
    return body + b"\0"


def error_response(sqlstate: str, message: str, *, severity: str = "ERROR", hint: str = "") -> bytes:
    """One whole ErrorResponse message ('E'), UTF-8."""
    body = _fields(severity, sqlstate, message, hint)
    return b"E" + struct.pack("!I", len(body) + 4) + body


def notice_response(message: str, *, hint: str = "") -> bytes:
    """One whole NoticeResponse message ('N'), UTF-8."""
    body = _fields("NOTICE", "00000", message, hint)
    return b"N" + struct.pack("!I", len(body) + 4) + body
