"""A small SQL scanner for redaction: where are the literals, comments and words? It judges nothing.

It follows PostgreSQL's lexical rules (section 4.1 of its manual: '' and E'' strings, U& and B/X/N prefixes,
"identifiers", dollar quotes, nested comments), each with the reading that hides more where settings decide: a
backslash-quote may or may not end a string (`standard_conforming_strings`), so the caller scans both ways and takes
what either calls a literal.

INVARIANT: never raises, whatever the text; every character belongs to exactly one token; linear time.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import NamedTuple


class Kind(enum.Enum):
    STRING = "string"
    DOLLAR = "dollar"  # a dollar-quoted string
    COMMENT = "comment"
    NUMBER = "number"
    WORD = "word"
    QUOTED = "quoted"  # a "quoted identifier"
    PARAMETER = "parameter"  # $1
    SPACE = "space"
    OTHER = "other"  # operators and punctuation, one character each


class Token(NamedTuple):
    kind: Kind
    start: int
    end: int


# One alternative per token that can be found without counting. Strings and comments only have their opening matched
# here.
_START = re.compile(
    r"""(?P<string>(?:[uU]&|[eEbBxXnN])?')
      | (?P<line>--[^\r\n]*)
      | (?P<block>/\*)
      | (?P<quoted>(?:[uU]&)?"(?:[^"]++|"")*+(?:"|\Z))
      | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
      | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
      | (?P<number>\.?[0-9][A-Za-z0-9_.]*)
      | (?P<parameter>\$[0-9]+)
      | (?P<space>\s+)
    """,
    re.VERBOSE,
)
# Possessive, so that a long unclosed string costs neither backtracking nor its stack.
_PLAIN_END = re.compile(r"(?:[^']++|'')*+(?:'|\Z)")
_ESCAPE_END = re.compile(r"(?:[^'\\]++|''|\\.|\\\Z)*+(?:'|\Z)", re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def scan(text: str, *, backslash: bool = False) -> Iterator[Token]:
    """Tokens in order. backslash: read plain '...' strings as if backslash escaped the next character.

    What is never closed runs to the end of the text.
    """
    position, size = 0, len(text)
    while position < size:
        match = _START.match(text, position)
        if match is None:
            yield Token(Kind.OTHER, position, position + 1)
            position += 1
            continue
        kind, end = _finish(text, match, backslash)
        yield Token(kind, position, end)
        position = end


def _finish(text: str, match: re.Match[str], backslash: bool) -> tuple[Kind, int]:
    name, end = match.lastgroup, match.end()
    if name == "string":
        escapes = backslash or match.group()[0] in "eE"
        closing = (_ESCAPE_END if escapes else _PLAIN_END).match(text, end)
        assert closing is not None  # both patterns match the empty string
        return Kind.STRING, closing.end()
    if name == "line":
        return Kind.COMMENT, end
    if name == "block":
        return Kind.COMMENT, _block_end(text, end)
    if name == "dollar":
        closing_at = text.find(match.group(), end)
        return Kind.DOLLAR, len(text) if closing_at < 0 else closing_at + len(match.group())
    assert name is not None
    return Kind(name), end


def _block_end(text: str, position: int) -> int:
    """PostgreSQL nests block comments."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)
