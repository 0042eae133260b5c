"""Bulk INSERTs made short before they are analysed: of the rows that are nothing but literals, one of each kind.

A dump sends rows by the thousand in one statement, and analysis takes time for each token. What such a statement does
does not depend on how many rows of the same kinds of literals it has: which effects it has, what it writes, which casts
its columns need. So a row is looked at once for each kind: the same sequence of strings, numbers of one width, nulls.

This is done only where the text's own beginning proves how the server's lexer reads what follows: INSERT INTO a plain
name, VALUES, rows that match to the last byte. In every other text nothing is left out, and of what follows the rows
nothing ever is.

INVARIANT: the result is for the analysis only. What goes to the server, on record and before an approver is the text.
"""

from __future__ import annotations

import re
from functools import cache

LEAST = 4096  # bytes of a text below which nothing is gained

_NAME = rb'(?>[A-Za-z_][A-Za-z0-9_$]*+|"[^"\\\x00]*+"|`[^`\\\x00]*+`)'
_HEAD = re.compile(
    rb"\s*+(?>INSERT|REPLACE)\s++(?:IGNORE\s++)?INTO\s++%b(?:\.%b)?+\s*+"
    rb"(?:\(\s*+%b\s*+(?:,\s*+%b\s*+)*+\)\s*+)?+VALUES\s*+(?=\()" % (_NAME, _NAME, _NAME, _NAME),
    re.I,
)
_STRICT = rb"'(?>[^'\\]|'')*+'"  # the same string whatever a backslash means
_ESCAPED = rb"'(?>[^'\\]|\\.|'')*+'"  # a backslash takes the next character with it
_PLAIN = rb"'(?>[^']|'')*+'"  # a backslash is a character like any other
_NUMBER = rb"[-+]?+[0-9]++(?:\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+"
_WORD = rb"(?>NULL|TRUE|FALSE|DEFAULT)"
_ROW = re.compile(rb"\([^()]*+\)")  # once its strings are empty
# what stands for a number: one of the same type in both servers, by the bounds of 32 and 64 bits. What lies near a
# bound stands for itself
_WIDTHS = (
    (re.compile(rb"(?<![0-9])[0-9]{1,9}(?![0-9])"), b"1"),
    (re.compile(rb"(?<![0-9])[01][0-9]{9}(?![0-9])"), b"1"),
    (re.compile(rb"(?<![0-9])(?:[3-9][0-9]{9}|[1-9][0-9]{10,17})(?![0-9])"), b"33333333333"),
    (re.compile(rb"(?<![0-9])[1-9][0-9]{20,}+"), b"333333333333333333333"),
)


@cache
def _patterns(backslash: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """-> (as many rows as follow each other, a string in one)."""
    string = {"escape": _ESCAPED, "plain": _PLAIN}.get(backslash, _STRICT)
    value = rb"(?>%b|%b|%b)\s*+(?=[,)])" % (string, _NUMBER, _WORD)
    row = rb"\(\s*+%b(?:,\s*+%b)*+\)" % (value, value)
    return re.compile(rb"%b(?:\s*+,\s*+%b)*+" % (row, row), re.I | re.S), re.compile(string, re.S)


def shortened(text: bytes, backslash: str = "") -> bytes:
    """The text with one row of each kind; the text itself where that is not possible, or not worth it.

    `backslash`, in a string between single quotes: `escape` (MySQL as it comes), `plain` (standard_conforming_strings
    or NO_BACKSLASH_ESCAPES), anything else: not known, and strings with a backslash are left as they are. With `escape`
    the text must be in an encoding in which no byte of a longer character is a backslash.
    """
    if len(text) < LEAST:
        return text
    head = _HEAD.match(text)
    if head is None:
        return text
    many, string = _patterns(backslash)
    rows = many.match(text, head.end())
    if rows is None:
        return text
    kinds = string.sub(b"'x'", rows.group())
    for width, stand_in in _WIDTHS:
        kinds = width.sub(stand_in, kinds)
    return text[: head.end()] + b",".join(dict.fromkeys(_ROW.findall(kinds))) + text[rows.end() :]
