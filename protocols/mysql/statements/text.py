"""From the bytes of a text to characters as the server reads them, how to read them, and the second-level cache key.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from protocols.mysql.settings import FOREIGN
from protocols.mysql.statements.lexer import Rules, Unreadable

if TYPE_CHECKING:
    from protocols.mysql.state import SessionState

SHORT = 16_384  # bytes; longer texts have no shape
MAX_TEXT = 64 * 1024 * 1024  # bytes that are judged at all

# what Python decodes exactly as the server reads it, for the characters that may occur
_DECODED = {"utf8": "utf-8", "utf8mb3": "utf-8", "utf8mb4": "utf-8", "latin1": "latin-1", "ascii": "latin-1",
            "binary": "latin-1"}  # fmt: skip
_SINGLE = frozenset({"latin1", "ascii", "binary"})
# ASCII bytes that are no letters in ASCII, but are in a national variant of seven bits
_NATIONAL = re.compile(rb"[\[\]\\^`{|}~@]")

# a text that every sql_mode reads alike: how a session gets out of one that is not known
_SETS_PLAINLY = re.compile(r"\s*+set\s[\w\s@.,=']*+;?\s*+", re.IGNORECASE | re.ASCII)


def decode(raw: bytes, charset: str | None) -> str:
    """The text as the server reads it under this character_set_client. Raises Unreadable."""
    if len(raw) > MAX_TEXT:
        raise Unreadable("the text is too long to be judged")
    if charset is None:
        if not raw.isascii() or _NATIONAL.search(raw) is not None:
            raise Unreadable("character_set_client is not known; send SET NAMES utf8mb4")
        return raw.decode("ascii")
    if raw.isascii() and charset != "swe7":
        return raw.decode("ascii")
    codec = _DECODED.get(charset)
    if codec is None:
        raise Unreadable(f"a text beyond ASCII in the character set {charset}; send SET NAMES utf8mb4")
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError:
        raise Unreadable(f"bytes that are not valid in the session's character set {charset}") from None
    if charset in ("utf8", "utf8mb3") and max(text, default="") > "\uffff":
        raise Unreadable("a character beyond the basic plane in a session whose character set has none")
    return text


def encode(text: str, charset: str | None) -> bytes:
    """The bytes of a part of what `decode` gave."""
    return text.encode(_DECODED.get(charset or "", "utf-8"))


def rules(state: SessionState, reading: str, text: str = "", position: int = 0) -> Rules:
    """How this session's texts are read. `reading`: `run` or `skip` every executable comment, or `exact`.

    `text` from `position` on is what comes next: some of it is read alike under any mode.
    """
    modes = state.sql_mode
    if modes is None and _SETS_PLAINLY.fullmatch(text, position) is not None:
        modes = frozenset()  # read alike under any of them
    if modes is None:
        raise Unreadable("the session's sql_mode is not known; send SET sql_mode = with a plain string")
    if not modes.isdisjoint(FOREIGN):
        raise Unreadable("sql_mode is ORACLE or MSSQL, whose grammar is another one")
    if reading == "exact":
        flavour, version = state.flavour, _number(state.version)

        def executes(digits: str, mariadb: bool) -> bool:
            return _executes(flavour, version, digits, mariadb)

    else:
        run = reading == "run"

        def executes(digits: str, mariadb: bool) -> bool:
            return run

    return Rules(
        ansi_quotes="ANSI_QUOTES" in modes,
        backslash="NO_BACKSLASH_ESCAPES" not in modes,
        wide_blank=state.charset == "latin1",
        non_ascii_names=state.charset not in _SINGLE,
        executes=executes,
    )


def _number(version: tuple[int, ...]) -> int:
    major, minor, patch = (*version, 0, 0, 0)[:3]
    return major * 10_000 + minor * 100 + patch


def _executes(flavour: str, version: int, digits: str, mariadb: bool) -> bool:
    """Manual of each server, "Comment Syntax". MariaDB passes over MySQL's versions 5.7 to 9.99 unless /*M!."""
    if flavour == "mysql":
        return not mariadb and (digits == "" or int(digits) <= version)
    if digits == "":
        return True
    wanted = int(digits)
    return wanted <= version and (mariadb or not 50_700 <= wanted <= 99_999)


# ---------------------------------------------------------------- the second-level cache key

# A subset of the lexical grammar small enough to be surely right under every mode: no comments, no double quotes, no
# prefixed strings, no backslashes, no variables, no characters beyond ASCII. Possessive: no input makes it try twice.
_SHAPE_TEXT = re.compile(
    rb"""[ \t\n\r]*+(?:select|with|insert|update|delete|replace)\b(?:
        '(?:[^'\\\x00]|'')*+'(?![ \t\n\r]*+')
      | [0-9]++(?:\.[0-9]++)?+(?![\w.$'"`@])
      | [A-Za-z][A-Za-z0-9_]*+(?!['"$@])
      | `[^`\x00-\x1f]++`(?![`'"])
      | [ \t\n\r]++ | [(),.?] | <=> | [<>]=? | != | = | [+*/%](?![*/]) | -(?!-)
    )*+;?+[ \t\n\r]*+""",
    re.X | re.I,
)
_SHAPE_LITERAL = re.compile(rb"""'(?:[^']|'')*+'|`[^`]*+`|(?<![\w$.])[0-9]++(?:\.[0-9]++)?+""")


def _literal_type(match: re.Match[bytes]) -> bytes:
    literal = match.group()
    if literal.startswith(b"'"):
        return b"\x01s"
    if literal.startswith(b"`"):
        return literal
    return b"\x01n" if b"." in literal or len(literal) > 18 else b"\x01i"


def shape_key(raw: bytes) -> bytes | None:
    """The text with each literal replaced by its type, or None where two texts of one shape could differ in meaning.

    Only for a single SELECT, INSERT, REPLACE, UPDATE, DELETE or WITH. Equal keys mean equal token structure and literal
    types; an analysis may be shared between them only where it says `Cacheable.SHAPE`.
    """
    if len(raw) > SHORT or not raw.isascii() or _SHAPE_TEXT.fullmatch(raw) is None:
        return None
    return _SHAPE_LITERAL.sub(_literal_type, raw).rstrip(b" \t\n\r;")
