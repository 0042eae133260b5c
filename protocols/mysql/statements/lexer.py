"""The tokens of MySQL text, by the server's own rules (sql/sql_lex.cc of both servers; manual: "Language Structure").

What decides how a text is read is given: the modes, the character set's white space, and which executable comments
run. Where servers or versions read a text differently and the difference is not worth following (a name that begins
with a digit or a dollar sign, a comment inside an executable comment), the text is refused: `Unreadable`.

INVARIANT: linear time, and every character of the text belongs to a token, to white space or to a comment.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

MAX_TOKENS = 60_000  # of one statement


class Unreadable(Exception):
    """The text cannot be judged; the message says why, in lower case, without quoting it."""


class Kind(enum.Enum):
    WORD = "word"  # a keyword or an unquoted name
    NAME = "name"  # a quoted name; `text` is the name itself
    STRING = "string"  # `text` is the value
    NUMBER = "number"
    HEX = "hex"  # x'..' and 0x..; `text` is the digits
    BITS = "bits"
    VARIABLE = "variable"  # @name; `text` is the name in lower case
    SYSTEM = "system"  # @@
    PARAMETER = "parameter"  # ?
    OPERATOR = "operator"
    HINT = "hint"  # /*+ ... */ after a verb; `text` is what is inside


class Token(NamedTuple):
    kind: Kind
    text: str
    upper: str  # of a WORD in upper case, of an OPERATOR as it is; else empty
    start: int  # offset in characters
    end: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides how a text is read."""

    ansi_quotes: bool = False
    backslash: bool = True  # escapes inside strings
    wide_blank: bool = False  # U+00A0 is white space (latin1)
    hints: bool = True  # /*+ */ means something to this server
    non_ascii_names: bool = True
    executes: Callable[[str, bool], bool] = lambda digits, mariadb: True  # (version digits, /*M!): is the comment run


_WORD = re.compile(r"[A-Za-z_\x80-\U0010ffff][0-9A-Za-z_$\x80-\U0010ffff]*+")
_NUMBER = re.compile(r"(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_HEX = re.compile(r"0x([0-9a-fA-F]++)")
_BITS = re.compile(r"0b([01]++)")
_BLANK = re.compile(r"[ \t\n\v\f\r]++")
_BLANK_WIDE = re.compile(r"[ \t\n\v\f\r\xa0]++")
_HOST = re.compile(r"[0-9A-Za-z_.$\x80-\U0010ffff]++")
_VERSION = re.compile(r"[0-9]{5,}")
_OPERATOR = re.compile(r"<=>|->>|<<|>>|<=|>=|<>|!=|:=|&&|\|\||->|[-+*/%^~&|<>=!(),.;{}:]")
_IDENT_CHAR = re.compile(r"[0-9A-Za-z_$\x80-\U0010ffff]")
_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}
_STOP = {
    ("'", True): re.compile(r"['\\]"),
    ("'", False): re.compile(r"'"),
    ('"', True): re.compile(r'["\\]'),
    ('"', False): re.compile(r'"'),
}
_HINTED = frozenset({"SELECT", "INSERT", "REPLACE", "UPDATE", "DELETE"})


class Lexed(NamedTuple):
    tokens: list[Token]
    end: int  # where this statement ends: the offset behind its semicolon, or of the end of the text
    semicolon: bool
    commented: bool  # there were comments
    conditional: bool  # there were executable comments


def lex(text: str, position: int, rules: Rules) -> Lexed:
    """The tokens of one statement from `position`, up to a semicolon or the end. Raises Unreadable."""
    tokens: list[Token] = []
    add = tokens.append
    size = len(text)
    blank = _BLANK_WIDE if rules.wide_blank else _BLANK
    inside = False  # an executable comment that is run
    commented = conditional = False
    while position < size:
        c = text[position]
        if c in " \t\n\v\f\r" or (c == "\xa0" and rules.wide_blank):
            match = blank.match(text, position)
            assert match is not None
            position = match.end()
            continue
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("the text has too many tokens to be judged")
        match = _WORD.match(text, position)
        if match is not None:
            word, end = match.group(), match.end()
            if end < size and text[end] == "'":
                lower = word.lower()
                if lower in ("x", "b"):
                    position = _coded(text, position, end, lower, add)
                    continue
                if lower == "n":
                    value, stop = _string(text, end, "'", rules.backslash)
                    add(Token(Kind.STRING, value, "", position, stop))
                    position = stop
                    continue
            if not word.isascii():
                if rules.wide_blank and "\xa0" in word:  # white space inside what was taken for a name
                    end = position + word.index("\xa0")
                    word = text[position:end]
                if not rules.non_ascii_names and not word.isascii():
                    raise Unreadable("a character beyond ASCII outside quotes, in a character set of single bytes")
            if word.isascii():
                add(Token(Kind.WORD, word, word.upper(), position, end))
            else:
                add(Token(Kind.WORD, word, _upper(word), position, end))
            position = end
            continue
        if c in "'\"":
            if c == '"' and rules.ansi_quotes:
                value, end = _quoted_name(text, position, '"')
                add(Token(Kind.NAME, value, "", position, end))
            else:
                value, end = _string(text, position, c, rules.backslash)
                add(Token(Kind.STRING, value, "", position, end))
            position = end
            continue
        if c == "`":
            value, end = _quoted_name(text, position, "`")
            add(Token(Kind.NAME, value, "", position, end))
            position = end
            continue
        if c.isascii() and (c.isdigit() or (c == "." and position + 1 < size and text[position + 1] in "0123456789")):
            position = _number(text, position, tokens)
            continue
        if c == "/" and text.startswith("/*", position):
            commented = True
            mark = text[position + 2 : position + 3]
            mariadb = text.startswith("M!", position + 2)
            if mark == "!" or mariadb:
                if inside:
                    raise Unreadable("an executable comment inside another one")
                conditional = True
                position += 4 if mariadb else 3
                digits = _VERSION.match(text, position)
                if digits is not None and len(digits.group()) > 6:
                    raise Unreadable("an executable comment whose version has more than six digits")
                if rules.executes(digits.group() if digits is not None else "", mariadb):
                    inside = True
                    position = digits.end() if digits is not None else position
                else:
                    position = _skip(text, position)
                continue
            if inside:
                raise Unreadable("a comment inside an executable comment")
            end = text.find("*/", position + 2)
            if end < 0:
                raise Unreadable("a comment that is never closed")
            if mark == "+" and rules.hints and tokens and tokens[-1].upper in _HINTED:
                _check_hint(text[position + 3 : end])
                add(Token(Kind.HINT, text[position + 3 : end], "", position, end + 2))
            position = end + 2
            continue
        if c == "*" and inside and text.startswith("*/", position):
            inside = False
            position += 2
            continue
        if c == "#" or (c == "-" and text.startswith("--", position) and _opens_line_comment(text, position, rules)):
            commented = True
            end = text.find("\n", position)
            if inside and "*/" in text[position : size if end < 0 else end]:
                raise Unreadable("a line comment that may hide the end of an executable comment")
            position = size if end < 0 else end + 1
            continue
        if c == "@":
            position = _variable(text, position, rules, add)
            continue
        if c == "?":
            add(Token(Kind.PARAMETER, "?", "", position, position + 1))
            position += 1
            continue
        match = _OPERATOR.match(text, position)
        if match is None:
            raise Unreadable("a character that begins no token of the server's language")
        operator = match.group()
        if operator == ";":
            if inside:
                raise Unreadable("a semicolon inside an executable comment")
            return Lexed(tokens, position + 1, True, commented, conditional)
        add(Token(Kind.OPERATOR, operator, operator, position, match.end()))
        position = match.end()
    if inside:
        raise Unreadable("an executable comment that is never closed")
    return Lexed(tokens, size, False, commented, conditional)


def _check_hint(text: str) -> None:
    """MySQL reads quotes inside a hint, so that `*/` inside them does not end it."""
    used = [quote for quote in "'`\"" if quote in text]
    if len(used) > 1 or any(text.count(quote) % 2 for quote in used) or "\\" in text:
        raise Unreadable("an optimizer hint whose end is not sure")


def _upper(word: str) -> str:
    """Upper case of ASCII letters only: the server compares keywords byte by byte."""
    return "".join(c.upper() if c.isascii() else c for c in word)


def _opens_line_comment(text: str, position: int, rules: Rules) -> bool:
    """`--` begins a comment only before white space, a control character or the end."""
    after = text[position + 2 : position + 3]
    if after == "":
        return True
    if not after.isascii():
        raise Unreadable("two dashes before a character beyond ASCII")
    return after in " \t\n\v\f\r" or ord(after) < 0x20 or ord(after) == 0x7F


def _string(text: str, position: int, quote: str, backslash: bool) -> tuple[str, int]:
    """(value, offset behind) of the string that opens at `position`."""
    stop = _STOP[quote, backslash]
    start = position = position + 1
    parts: list[str] = []
    while True:
        match = stop.search(text, position)
        if match is None:
            raise Unreadable("a string that is never closed")
        at = match.start()
        if match.group() == "\\":
            if at + 1 >= len(text):
                raise Unreadable("a string that is never closed")
            escaped = text[at + 1]
            parts += (text[start:at], _ESCAPES.get(escaped, escaped))
            start = position = at + 2
        elif text.startswith(quote, at + 1):
            parts.append(text[start : at + 1])
            start = position = at + 2
        else:
            parts.append(text[start:at])
            return "".join(parts), at + 1


def _quoted_name(text: str, position: int, quote: str) -> tuple[str, int]:
    start = position = position + 1
    parts: list[str] = []
    while True:
        at = text.find(quote, position)
        if at < 0:
            raise Unreadable("a quoted name that is never closed")
        if text.startswith(quote, at + 1):
            parts.append(text[start : at + 1])
            start = position = at + 2
            continue
        parts.append(text[start:at])
        name = "".join(parts)
        if not name or "\0" in name or name[-1] in " \t\n\v\f\r":
            raise Unreadable("a quoted name that the server refuses")
        return name, at + 1


def _coded(text: str, start: int, quote: int, letter: str, add: Callable[[Token], None]) -> int:
    """x'41' and b'01'."""
    end = text.find("'", quote + 1)
    digits = text[quote + 1 : end] if end >= 0 else "?"
    allowed = "01" if letter == "b" else "0123456789abcdefABCDEF"
    if any(d not in allowed for d in digits) or (letter == "x" and len(digits) % 2):
        raise Unreadable("a hexadecimal or bit literal that the server refuses")
    add(Token(Kind.HEX if letter == "x" else Kind.BITS, digits, "", start, end + 1))
    return end + 1


def _number(text: str, position: int, tokens: list[Token]) -> int:
    if text[position] == "." and tokens and tokens[-1].end == position:
        last = tokens[-1]
        if last.kind in (Kind.WORD, Kind.NAME):
            raise Unreadable("a name that begins with a digit")
    kind = Kind.NUMBER
    match = _HEX.match(text, position)
    if match is not None:
        kind = Kind.HEX
    else:
        match = _BITS.match(text, position)
        if match is not None:
            kind = Kind.BITS
        else:
            match = _NUMBER.match(text, position)
    assert match is not None
    end = match.end()
    if end < len(text) and (_IDENT_CHAR.match(text, end) or text[end] == "."):
        # a range `1..2` of a loop, `1.5.2`, or a name such as `1a`: which, depends on what precedes it
        raise Unreadable("a name that begins with a digit, or a malformed number")
    if tokens and tokens[-1].upper == "." and tokens[-1].end == position:
        raise Unreadable("a name that begins with a digit")
    digits = match.group(1) if kind is not Kind.NUMBER else match.group()
    tokens.append(Token(kind, digits, "", position, end))
    return end


def _skip(text: str, position: int) -> int:
    """The offset behind an executable comment that is not run: one comment inside it is skipped with it."""
    end = text.find("*/", position)
    if end < 0:
        raise Unreadable("a comment that is never closed")
    if text.find("/*", position, end) >= 0:
        raise Unreadable("a comment inside an executable comment")
    return end + 2


def _variable(text: str, position: int, rules: Rules, add: Callable[[Token], None]) -> int:
    after = text[position + 1 : position + 2]
    if after == "@":
        following = text[position + 2 : position + 3]
        if not (following and following.isascii() and (following.isalpha() or following in "_`")):
            raise Unreadable("two at signs before something that is no variable")
        add(Token(Kind.SYSTEM, "@@", "", position, position + 2))
        return position + 2
    if after in ("'", '"'):
        if after == '"' and rules.ansi_quotes:
            name, end = _quoted_name(text, position + 1, after)
        else:
            name, end = _string(text, position + 1, after, rules.backslash)
    elif after == "`":
        name, end = _quoted_name(text, position + 1, after)
    else:
        match = _HOST.match(text, position + 1)
        if match is None:
            raise Unreadable("an at sign before something that is no variable")
        name, end = match.group(), match.end()
    if not name.isascii() or name[-1:] == " ":
        # the server takes `@\u00e9` and `@e` for one, by its collation of names
        raise Unreadable("a variable or a host whose name is not plain ASCII")
    add(Token(Kind.VARIABLE, name.lower(), "", position, end))
    return end
