"""Two readers of one query: the tokens of our lexer, and sqlglot's tree of the same tokens. Both must agree.

The tokens are written out in a canonical form that no setting changes (names in backticks, strings without escapes,
no comments), and sqlglot reads that. It must see the same tokens, parse them as the statement that the first word says,
and lose no name, parameter or system variable: it is lenient by design, so what it drops or guesses must not pass
unnoticed. What it would read twice is written so that it reads it once (`_TYPES`): each nesting would double its time.

INVARIANT: sqlglot is only given SELECT, INSERT, UPDATE and DELETE, in words that `keywords` lists.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlglot import ErrorLevel, TokenType, exp
from sqlglot.dialects.mysql import MySQL
from sqlglot.errors import SqlglotError
from sqlglot.parser import Parser

from protocols.mysql.catalog import Catalog
from protocols.mysql.functions import FUNCTIONS
from protocols.mysql.settings import COMMON_CHARACTER_SETS, introduces
from protocols.mysql.statements.keywords import QUERY_WORDS, RESERVED, RESERVED_BY_MARIADB, RESERVED_BY_MYSQL
from protocols.mysql.statements.lexer import Kind, Token, Unreadable
from protocols.mysql.statements.roles import Brackets, is_grammar, is_type, opens_value

# its warnings quote the statement, which may hold secrets
logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)

_RESERVED = {"mariadb": RESERVED - RESERVED_BY_MYSQL, "mysql": RESERVED - RESERVED_BY_MARIADB}
_DIALECT = MySQL()
MAX_NESTING = 60  # brackets inside brackets


class Canonical(NamedTuple):
    """What sqlglot is given, and what it must make of it."""

    text: str
    expected: list[str]  # the tokens that it must see
    names: list[bool]  # of each name in backticks, in order: whether its tree must hold it
    parameters: int  # how many `?`
    variables: int  # how many `@@`


def canonical(
    tokens: Sequence[Token], reserved: frozenset[str] = RESERVED, charsets: frozenset[str] = COMMON_CHARACTER_SETS
) -> Canonical:
    """`charsets`: those that the server has."""
    out: list[str] = []
    expected: list[str] = []
    names: list[bool] = []
    parameters = variables = 0
    joins = _Joins()
    brackets = Brackets()
    depth = 0
    index, count = 0, len(tokens)
    while index < count:
        kind, text, upper, _, _ = tokens[index]
        index += 1
        if kind is Kind.WORD:
            before = tokens[index - 2] if index > 1 else None
            after = tokens[index] if index < count else None
            if (
                text[0] == "_" and after is not None and after.kind in (Kind.STRING, Kind.HEX, Kind.BITS)
                and introduces(text[1:])
            ):  # fmt: skip
                # an introducer: it says how to read the bytes of the literal. Of a set that the server has not it is a
                # column, and the literal is what that is called
                if after.kind is Kind.STRING and text[1:].lower() not in charsets:
                    raise Unreadable("a character set before a literal that this server may not have")
                continue
            dotted = before is not None and before.upper == "."
            if upper in ("INT", "INTEGER") and before is not None and before.upper in ("SIGNED", "UNSIGNED"):
                continue  # CAST(... AS UNSIGNED INTEGER)
            call = after is not None and after.upper == "("
            if call and not dotted and _twice(tokens, index - 1, brackets):
                out.append(f"`{text}`")
                expected.append(text)
                names.append(False)
                continue
            if call and upper == "SOME":  # it reads the brackets behind twice, which it does not with the other name
                text = upper = "ANY"
            if dotted or (after is not None and after.upper == "." and upper not in reserved):
                quoted = not (call and dotted)
            elif upper in QUERY_WORDS:
                quoted = upper not in reserved and not call and not is_grammar(tokens, index - 1, brackets)
                if upper == "INTERVAL":
                    brackets.interval()
            elif call and upper in FUNCTIONS:
                quoted = False
            elif upper in reserved:
                raise Unreadable(f"the keyword {upper} is not understood here")
            else:
                quoted = not call
            if quoted:
                out.append(f"`{text}`")
                expected.append(text)
                names.append(before is None or before.upper != "USING" or brackets.inside not in _CONVERTS)
            else:
                if upper in ("JOIN", "STRAIGHT_JOIN"):
                    joins.opened(depth, len(out), len(expected), [t.upper for t in tokens[max(0, index - 4) : index]])
                elif upper == "USING" or (upper == "ON" and (after is None or after.upper != "DUPLICATE")):
                    joins.closed(depth)
                out.append(text)
                expected.append(upper)
        elif kind is Kind.NAME:
            out.append("`" + text.replace("`", "``") + "`")
            expected.append(text)
            names.append(index < 2 or tokens[index - 2].upper != "USING" or brackets.inside not in _CONVERTS)
        elif kind is Kind.STRING:
            parts = [text]
            while index < count and tokens[index].kind is Kind.STRING:
                parts.append(tokens[index].text)
                index += 1
            value = "".join(parts)
            out.append("'" + value.replace("\\", "\\\\").replace("'", "''") + "'")
            expected.append(value)
        elif kind is Kind.NUMBER:
            plain = f"0{text}" if text[0] == "." else text
            plain = f"{plain}0" if plain[-1] == "." else plain.replace(".e", ".0e").replace(".E", ".0e")
            out.append(plain)
            expected.append(plain.upper())
        elif kind is Kind.HEX:
            out.append(f"x'{text}'")
            expected.append(text)
        elif kind is Kind.BITS:
            out.append(f"b'{text}'")
            expected.append(text)
        elif kind is Kind.VARIABLE:
            if not text.replace("_", "a").isalnum() or not text.isascii() or text[0].isdigit():
                raise Unreadable("a variable whose name is not plain")
            out.append(f"@`{text}`")
            expected += ("@", text)
            names.append(True)
        elif kind is Kind.SYSTEM:
            index = _system(tokens, index, out, expected)
            variables += 1
        elif kind is Kind.PARAMETER:
            out.append("?")
            expected.append("?")
            parameters += 1
        elif kind is Kind.OPERATOR:
            if upper == "{":
                if index >= count or tokens[index].kind not in (Kind.WORD, Kind.NAME):
                    raise Unreadable("a brace that opens no escape of ODBC")
                if tokens[index].upper not in ("D", "T", "TS", "FN", "OJ"):
                    raise Unreadable("a brace that opens no escape of ODBC that is known")
                index += 1
                upper = "("
            elif upper == "}":
                upper = ")"
            if upper == "(":
                depth += 1
                brackets.open(tokens[index - 2].upper if index > 1 else "")
                if depth > MAX_NESTING:
                    raise Unreadable("the statement is nested too deeply to be judged")
            elif upper == ")":
                depth -= 1
                brackets.close()
            elif upper == ",":
                brackets.comma()
            elif upper in (":", ":="):
                raise Unreadable("an assignment inside a statement")
            out.append(upper)
            expected += upper if upper in ("<<", ">>") else (upper,)
        # a HINT was read before, and means nothing here
    if depth:
        raise Unreadable("a bracket that is never closed, or that nothing opens")
    joins.spell_out(out, expected)
    return Canonical(" ".join(out), expected, names, parameters, variables)


# words that sqlglot takes for the name of a type: it reads what is in the brackets behind, and once more as a call
_TYPES = frozenset(word for word, kind in MySQL.tokenizer_class.KEYWORDS.items() if kind in Parser.TYPE_TOKENS)
_NO_CALLS = frozenset({"INTERVAL", "SET", "UNION"})  # of those, the grammar's own with a bracket behind
_CONVERTS = frozenset({"CONVERT", "CHAR"})  # whose USING names a character set


def _twice(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    """Whether sqlglot would read the brackets behind this word twice: not where it is a type, with a length or none."""
    upper = tokens[index].upper
    if upper not in _TYPES:
        return False
    if upper == "UNION" and (not index or opens_value(tokens[index - 1])):
        raise Unreadable("UNION where a value belongs")
    if not is_type(tokens, index, brackets):
        return upper not in _NO_CALLS
    for token in tokens[index + 2 : index + 6]:
        if token.upper == ")":
            return False
        if token.kind is not Kind.NUMBER and token.upper != ",":
            break
    raise Unreadable("a type whose length is no number")


class _Joins:
    """Joins without a condition, which sqlglot would try in every nesting: each doubles its time and its memory.

    `a JOIN b` without ON is `a CROSS JOIN b` by the manual ("JOIN Clause"), and so it is written for sqlglot.
    """

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[int, list[tuple[int, int, str]]] = {}  # by depth: places in the two lists, the word before

    def opened(self, depth: int, at: int, seen: int, words: list[str]) -> None:
        """A JOIN; `words` are the last ones up to it."""
        before = words[-2] if len(words) > 1 else ""
        side = words[-3] if before == "OUTER" and len(words) > 2 else before
        natural = "NATURAL" in words[-4:-1] and side in ("NATURAL", "INNER", "LEFT", "RIGHT")
        if not natural and before != "CROSS":
            straight = words[-1] == "STRAIGHT_JOIN"
            self._open.setdefault(depth, []).append((at, seen, words[-1] if straight else side))

    def closed(self, depth: int) -> None:
        """A condition: it is the last join's that has none yet."""
        if self._open.get(depth):
            self._open[depth].pop()

    def spell_out(self, out: list[str], expected: list[str]) -> None:
        for at, seen, before in sorted((j for level in self._open.values() for j in level), reverse=True):
            if before in ("LEFT", "RIGHT"):
                raise Unreadable("an outer join without its condition")
            if before == "INNER":
                out[at - 1] = expected[seen - 1] = "CROSS"
            else:
                out[at] = "CROSS JOIN"
                expected[seen : seen + 1] = ["CROSS", "JOIN"]


def _system(tokens: Sequence[Token], index: int, out: list[str], expected: list[str]) -> int:
    """@@name and @@scope.name, in one piece."""
    parts: list[str] = []
    while index < len(tokens) and tokens[index].kind in (Kind.WORD, Kind.NAME) and len(parts) < 2:
        parts.append(tokens[index].text)
        index += 1
        if index < len(tokens) and tokens[index].upper == "." and len(parts) < 2:
            index += 1
        else:
            break
    if not parts or not all(p.replace("_", "a").isalnum() and p.isascii() and not p[0].isdigit() for p in parts):
        raise Unreadable("a system variable that is not understood")
    if len(parts) == 2 and parts[0].upper() not in ("GLOBAL", "SESSION", "LOCAL", "PERSIST"):
        raise Unreadable("a system variable of two parts that is not understood")
    out.append("@@" + ".".join(parts))
    expected.append("@@")
    if len(parts) == 2:
        expected += (parts[0].upper(), ".")
    expected.append(parts[-1].upper())
    return index


def _charsets(catalog: Catalog) -> frozenset[str]:
    return catalog.character_sets | {"utf8"} if catalog.character_sets else COMMON_CHARACTER_SETS


def parse(tokens: Sequence[Token], wanted: type[Any] | tuple[type[Any], ...], catalog: Catalog) -> Any:
    """sqlglot's tree of these tokens, which must be a `wanted` expression. Raises Unreadable."""
    asked = canonical(tokens, _RESERVED[catalog.flavour], _charsets(catalog))
    try:
        seen = _DIALECT.tokenize(asked.text)
        _same(seen, asked.expected)
        trees = _DIALECT.parser(error_level=ErrorLevel.IMMEDIATE).parse(seen, asked.text)
    except SqlglotError:
        raise Unreadable("the statement does not parse") from None
    if len(trees) != 1 or not isinstance(trees[0], wanted):
        raise Unreadable("the two parsers do not read the same statement")
    tree = trees[0]
    _whole(tree, seen, asked)
    return tree


def _whole(tree: Any, seen: Sequence[Any], asked: Canonical) -> None:
    """Every name is in the tree, known by its place: one spelt alike must not stand for another that is lost."""
    held: set[Any] = set()
    parameters = variables = 0
    for node in tree.walk():
        kind = type(node)
        if kind is exp.Identifier:
            held.add(node.meta.get("start"))
        elif kind is exp.Placeholder:
            parameters += 1
        elif kind is exp.SessionParameter:
            variables += 1
        elif kind is exp.Command:
            raise Unreadable("the statement does not parse")
    places = [token.start for token in seen if token.token_type == TokenType.IDENTIFIER]
    for place, wanted in zip(places, asked.names, strict=True):
        if wanted and place not in held:
            raise Unreadable("a name is lost between the two parsers")
    if parameters < asked.parameters or variables < asked.variables:
        raise Unreadable("a value is lost between the two parsers")


def _same(seen: Sequence[Any], expected: Sequence[str]) -> None:
    """sqlglot joins some keywords (`GROUP BY`); otherwise the tokens must be the very same."""
    position, count = 0, len(expected)
    for token in seen:
        text = token.text
        if position < count and (text == expected[position] or text.upper() == expected[position]):
            position += 1
            continue
        for part in text.upper().split():
            if position >= count or part != expected[position]:
                raise Unreadable("the two lexers do not read the same tokens")
            position += 1
    if position != count:
        raise Unreadable("the two lexers do not read the same tokens")
