"""Typed failures of this protocol, and the ERR packets that tell a client about them.

Source: "ERR_Packet" of the MySQL internals manual; the numbers are those of the servers' own message file.
"""

from __future__ import annotations

import struct

from protocols.contract import WireError

# (errno, SQLSTATE) pairs that the gateway itself answers with, under the servers' own names
Code = tuple[int, str]
CON_COUNT_ERROR: Code = (1040, "08004")
HANDSHAKE_ERROR: Code = (1043, "08S01")
ACCESS_DENIED: Code = (1045, "28000")
UNKNOWN_COM: Code = (1047, "08S01")
BAD_DB: Code = (1049, "42000")
SERVER_SHUTDOWN: Code = (1053, "08S01")
UNKNOWN_ERROR: Code = (1105, "HY000")
UNKNOWN_CHARACTER_SET: Code = (1115, "42000")
TABLEACCESS_DENIED: Code = (1142, "42000")
NET_PACKET_TOO_LARGE: Code = (1153, "08S01")
NET_READ_ERROR: Code = (1158, "08S01")
NO_SUCH_THREAD: Code = (1094, "HY000")
KILL_DENIED: Code = (1095, "HY000")
NOT_SUPPORTED_YET: Code = (1235, "42000")
UNKNOWN_STMT_HANDLER: Code = (1243, "HY000")
NOT_SUPPORTED_AUTH_MODE: Code = (1251, "08004")
QUERY_INTERRUPTED: Code = (1317, "70100")
CONNECT_TO_FOREIGN_DATA_SOURCE: Code = (1429, "HY000")
MALFORMED_PACKET: Code = (1835, "HY000")
ERROR_ON_WRITE: Code = (1026, "HY000")
SECURE_TRANSPORT_REQUIRED: Code = (3159, "08004")

# The addons' answers carry SQLSTATEs of the standard's classes and of PostgreSQL; here they are in MySQL's terms.
_BY_STATE: dict[str, Code] = {
    "28000": ACCESS_DENIED,
    "28P01": ACCESS_DENIED,
    "42501": TABLEACCESS_DENIED,
    "08001": CONNECT_TO_FOREIGN_DATA_SOURCE,
    "08004": CON_COUNT_ERROR,
    "08006": NET_READ_ERROR,
    "08P01": MALFORMED_PACKET,
    "0A000": NOT_SUPPORTED_YET,
    "3D000": BAD_DB,
    "53300": CON_COUNT_ERROR,
    "54000": NET_PACKET_TOO_LARGE,
    "57014": QUERY_INTERRUPTED,
    "57P01": SERVER_SHUTDOWN,
    "57P03": SERVER_SHUTDOWN,
    "58030": ERROR_ON_WRITE,
}

MAX_TEXT = 511  # MYSQL_ERRMSG_SIZE less its end: clients keep no more


class ProtocolError(WireError):
    """Bytes that the protocol does not allow here. The session that sent them ends; the process goes on."""

    def __init__(self, message: str, code: Code = MALFORMED_PACKET) -> None:
        super().__init__(message)
        self.code = code


def code_of(state: str) -> Code:
    """The pair for a code as `Refused` carries it: `errno/SQLSTATE`, or an SQLSTATE of the addons; else 1105."""
    number, slash, rest = state.partition("/")
    if slash and number.isascii() and number.isdigit() and len(rest) == 5 and rest.isascii() and rest.isalnum():
        return int(number), rest
    return _BY_STATE.get(state, UNKNOWN_ERROR)


def text_of(code: Code) -> str:
    """The inverse of `code_of`: how a `Refused` carries a pair."""
    return f"{code[0]}/{code[1]}"


def err_payload(code: Code, message: str, *, state: bool = True) -> bytes:
    """An ERR packet's payload, UTF-8. `state`: False before the client has said CLIENT_PROTOCOL_41."""
    errno, sqlstate = code
    marker = b"#" + sqlstate.encode() if state else b""
    text = message.replace("\0", "\\0").encode("utf-8", "replace")
    if len(text) > MAX_TEXT:  # never cut inside a character
        text = text[: MAX_TEXT - 3].decode("utf-8", "ignore").encode() + b"..."
    return b"\xff" + struct.pack("<H", errno) + marker + text


def err_packet(sequence: int, code: Code, message: str, *, state: bool = True) -> bytes:
    """One whole ERR packet with its header."""
    body = err_payload(code, message, state=state)
    return len(body).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + body
