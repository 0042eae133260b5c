"""A small SQL scanner for redaction: where are the literals, comments and words? It judges nothing.

It follows PostgreSQL's lexical rules (section 4.1 of its manual: '' and E'' strings, U& and B/X/N prefixes,
"identifiers", dollar quotes, nested comments) or MySQL's ("strings", `names`, # comments, ? parameters). A text does
not say which, and settings decide too: a backslash-quote may or may not end a string. So the caller scans every way
that the text can be read and takes what any of them calls a literal.

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
    QUOTED = "quoted"  # a "quoted identifier", or a `name`
    DOUBLE = "double"  # "..." as MySQL reads it: a string, unless ANSI_QUOTES is on
    PARAMETER = "parameter"  # $1, or MySQL's ?
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
# MySQL: no dollar quotes, no nesting, backslashes inside double quotes, too.
_MYSQL_START = re.compile(
    r"""(?P<string>(?:[bBxXnN]|_[A-Za-z0-9]+\s*)?')
      | (?P<line>\#[^\n]*|--(?=[\s\x00-\x1f]|\Z)[^\n]*)
      | (?P<block>/\*)
      | (?P<quoted>`(?:[^`]++|``)*+(?:`|\Z))
      | (?P<double>")
      | (?P<word>[A-Za-z_$\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
      | (?P<number>\.?[0-9][A-Za-z0-9_.]*)
      | (?P<parameter>\?)
      | (?P<space>\s+)
    """,
    re.VERBOSE,
)
_DOUBLE_END = re.compile(r'(?:[^"]++|"")*+(?:"|\Z)')
_DOUBLE_ESCAPE_END = re.compile(r'(?:[^"\\]++|""|\\.|\\\Z)*+(?:"|\Z)', re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def scan(text: str, *, backslash: bool = False, mysql: bool = False) -> Iterator[Token]:
    """Tokens in order. backslash: read plain '...' strings as if backslash escaped the next character.

    What is never closed runs to the end of the text.
    """
    position, size = 0, len(text)
    start = _MYSQL_START if mysql else _START
    while position < size:
        match = start.match(text, position)
        if match is None:
            yield Token(Kind.OTHER, position, position + 1)
            position += 1
            continue
        kind, end = _finish(text, match, backslash, mysql)
        yield Token(kind, position, end)
        position = end


def _finish(text: str, match: re.Match[str], backslash: bool, mysql: bool) -> tuple[Kind, int]:
    name, end = match.lastgroup, match.end()
    if name == "string":
        escapes = backslash or (not mysql and match.group()[0] in "eE")
        closing = (_ESCAPE_END if escapes else _PLAIN_END).match(text, end)
        assert closing is not None  # both patterns match the empty string
        return Kind.STRING, closing.end()
    if name == "line":
        return Kind.COMMENT, end
    if name == "double":
        closing = (_DOUBLE_ESCAPE_END if backslash else _DOUBLE_END).match(text, end)
        assert closing is not None  # both patterns match the empty string
        return Kind.DOUBLE, closing.end()
    if name == "block" and mysql:
        closed = text.find("*/", end)
        return Kind.COMMENT, len(text) if closed < 0 else closed + 2
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
