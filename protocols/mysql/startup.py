"""What of a client's handshake response may pass: capabilities, character set, names, attributes.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.contract import Refused
from protocols.mysql import capabilities, errors
from protocols.mysql.capabilities import REQUIRED, Capability
from protocols.mysql.connection import Response

MAX_NAME = 255  # bytes of a user's or database's name: both servers keep at most 64 or 80 characters
MAX_ATTRIBUTE = 256  # characters of a connection attribute that go on record
MAX_ATTRIBUTES = 32

# The collations of one byte that a client may begin with, by character set. In these sets each byte below 0x80 is an
# ASCII character and nothing else, so that no quote can hide inside another character (gbk, sjis, big5, ucs2 ...).
_UTF8MB4 = (45, 46, *range(224, 248), 255)
_UTF8MB3 = (33, 76, 83, *range(192, 216), 223)
_LATIN1 = (5, 8, 15, 31, 47, 48, 49, 94)
_ASCII = (11, 65)
CHARSETS: dict[int, str] = (
    dict.fromkeys(_UTF8MB4, "utf8mb4")
    | dict.fromkeys(_UTF8MB3, "utf8mb3")
    | dict.fromkeys(_LATIN1, "latin1")
    | dict.fromkeys(_ASCII, "ascii")
    | {63: "binary"}
)
CODECS = {"latin1": "cp1252", "ascii": "ascii"}
"""How Python calls them; the others are read as UTF-8."""
DEFAULT_CHARSET = 45  # utf8mb4_general_ci: both servers have it


@dataclass(frozen=True, slots=True)
class Startup:
    """What a client asked for and may have. `charset` is the collation's number, to be repeated upstream."""

    capabilities: Capability  # that hold on its leg
    charset: int
    user: str
    database: str  # empty: none
    attributes: tuple[tuple[str, str], ...]

    @property
    def application(self) -> str:
        """What the client calls itself: its program, else its library and that one's version."""
        named = dict(self.attributes)
        if program := named.get("program_name", ""):
            return program
        return " ".join(filter(None, (named.get("_client_name", ""), named.get("_client_version", ""))))


def check(response: Response, offer: Capability) -> Startup:
    """Raises `Refused` with what the client has to change."""
    claimed = response.capabilities
    if extra := capabilities.unoffered(offer, claimed):
        raise Refused(
            f"the client uses what this gateway does not offer: {capabilities.names(extra)}; switch it off",
            errors.text_of(errors.HANDSHAKE_ERROR),
        )
    if missing := REQUIRED & ~claimed:
        raise Refused(
            f"the client is too old for this gateway: it lacks {capabilities.names(missing)}",
            errors.text_of(errors.NOT_SUPPORTED_AUTH_MODE),
        )
    charset = response.charset or DEFAULT_CHARSET  # 0 is the server's own default, which is not known here
    if charset not in CHARSETS:
        raise Refused(
            "this character set cannot be inspected by the gateway; connect with utf8mb4",
            errors.text_of(errors.UNKNOWN_CHARACTER_SET),
        )
    return Startup(
        capabilities.agreed(offer, claimed),
        charset,
        _name(response.user, "user", codec(charset)),
        _name(response.database, "database", codec(charset)),
        attributes(response.attributes),
    )


def codec(charset: int) -> str:
    """Python's name for the character set of an accepted collation."""
    return CODECS.get(CHARSETS[charset], "utf-8")


def _name(raw: bytes, what: str, codec: str) -> str:
    """Names in a handshake are in the client's character set."""
    if len(raw) > MAX_NAME:
        raise Refused(f"the {what} name is too long", errors.text_of(errors.HANDSHAKE_ERROR))
    try:
        return raw.decode(codec)
    except UnicodeDecodeError:
        raise Refused(
            f"the {what} name is not in the character set that the client uses", errors.text_of(errors.HANDSHAKE_ERROR)
        ) from None


def attributes(raw: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[str, str], ...]:
    """Connection attributes as evidence: bounded in number and length, and always printable text."""
    return tuple((_printable(name), _printable(value)) for name, value in raw[:MAX_ATTRIBUTES])


def _printable(raw: bytes) -> str:
    text = raw[: 4 * MAX_ATTRIBUTE].decode("utf-8", "replace")[:MAX_ATTRIBUTE]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
