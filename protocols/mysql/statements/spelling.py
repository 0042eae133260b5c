"""Forms of the servers' grammars that sqlglot does not read, written as those that it does.

Each form is read here in full: what is left out says nothing about rows, columns or effects (a sort order inside GROUP
BY, a character set of CAST, what JSON_TABLE puts where a path finds nothing), and what is moved keeps its meaning. What
is not exactly of its form stays as it is, and then does not parse. Calls are judged from the tokens as they came.

INVARIANT: no I/O in this module, linear time, and no expression is ever left out: only names, literals and keywords.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.mysql.settings import words
from protocols.mysql.statements.lexer import Kind, Token, Unreadable
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.roles import Brackets

_FORMS = words(
    """
    JSON_TABLE SEPARATOR DEFAULT GROUP FETCH OFFSET CYCLE TABLE MATCH CHAR CHARACTER NCHAR VARCHAR DOUBLE SYSTEM_TIME
    ROLLUP CUBE NATIONAL RESPECT
    """
)
_CLAUSES = words("HAVING ORDER LIMIT WINDOW QUALIFY INTO FOR LOCK PROCEDURE UNION EXCEPT INTERSECT OFFSET FETCH")
_BEFORE_QUERY = words("( UNION ALL DISTINCT EXCEPT INTERSECT")
_TEXTS = words("CHAR CHARACTER VARCHAR NCHAR")
_BEFORE_TYPE = {  # (the word before the bracket, the word or mark before the type)
    *((call, "AS") for call in ("CAST", "COLUMN_ADD", "COLUMN_CREATE", "COLUMN_GET", "WEIGHT_STRING")), ("CONVERT", ",")
}  # fmt: skip
_MAX_FORMS = 4  # that one text type has behind it
_MAX_NESTED = 8  # JSON_TABLE inside JSON_TABLE
_TEXT_FORMS = words("ASCII UNICODE BYTE BINARY")
_MOMENTS = words("TIMESTAMP DATE TRANSACTION")
_NOW = words("NOW CURRENT_TIMESTAMP")


def spelt(tokens: list[Token], flavour: str) -> list[Token]:
    """The tokens of a query or a data change in forms that sqlglot reads. `flavour` "": both servers' forms."""
    if not any(token.upper in _FORMS for token in tokens):
        return tokens
    tokens = _json_tables(tokens)
    tokens = _defaults(_types(_matches(tokens)))
    if flavour != "mysql":
        tokens = _row_limits(_cycles(_periods(_group_orders(_concatenations(tokens)))))
    if flavour != "mariadb":
        tokens = _tables(_rollups(_nulls(tokens)))
    return tokens


def word(text: str) -> Token:
    return Token(Kind.WORD, text, text, -1, -1)


def mark(text: str) -> Token:
    return Token(Kind.OPERATOR, text, text, -1, -1)


def _upper(tokens: Sequence[Token], index: int) -> str:
    """Of a word or an operator; "" of anything else, of a name behind a point, and beyond the ends."""
    if not 0 <= index < len(tokens) or (index and tokens[index - 1].upper == "."):
        return ""
    return tokens[index].upper


# ---------------------------------------------------------------- JSON_TABLE


def _json_tables(tokens: list[Token], depth: int = 0) -> list[Token]:
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        if _upper(tokens, index) == "JSON_TABLE" and _upper(tokens, index + 1) == "(":
            reader = Reader(tokens)
            reader.position = index + 1
            try:
                out += _json_table(reader, depth)
            except Unreadable:
                return tokens
            index = reader.position
            continue
        out.append(tokens[index])
        index += 1
    return out


def _json_table(reader: Reader, depth: int) -> list[Token]:
    """JSON_TABLE(document, path COLUMNS (...)): columns inside NESTED stand beside the others."""
    if depth > _MAX_NESTED:
        raise Unreadable("JSON_TABLE nested too deeply to be judged")
    inner = Reader(reader.group())
    document = _json_tables(inner.until_comma(), depth + 1)
    inner.expect(",")
    path = inner.take()
    if path.kind not in (Kind.STRING, Kind.PARAMETER):
        raise Unreadable("a path of JSON_TABLE that is not understood")
    inner.expect("COLUMNS")
    columns: list[Token] = []
    _json_columns(Reader(inner.group()), columns, depth)
    inner.end()
    return [word("JSON_TABLE"), mark("("), *document, mark(","), path, word("COLUMNS"), mark("("), *columns[:-1],
            mark(")"), mark(")")]  # fmt: skip


def _json_columns(reader: Reader, out: list[Token], depth: int) -> None:
    if depth > _MAX_NESTED:
        raise Unreadable("columns nested too deeply to be judged")
    while True:
        if reader.sees("NESTED") and (reader.peek(1).upper == "PATH" or reader.peek(1).kind is Kind.STRING):
            reader.take()
            reader.accept("PATH")
            reader.string()
            reader.expect("COLUMNS")
            _json_columns(Reader(reader.group()), out, depth + 1)
        else:
            _json_column(reader, out)
        if not reader.accept(","):
            break
    reader.end()


def _json_column(reader: Reader, out: list[Token]) -> None:
    name = reader.peek()
    reader.name()
    if reader.accept("FOR", "ORDINALITY"):
        out += (name, word("FOR"), word("ORDINALITY"), mark(","))
        return
    if reader.take().kind is not Kind.WORD:  # the type
        raise Unreadable("a type is missing")
    while not (reader.sees("PATH") or reader.sees("EXISTS", "PATH")):
        token = reader.take()
        if token.kind not in (Kind.WORD, Kind.NUMBER, Kind.STRING, Kind.NAME) and token.upper not in ("(", ")", ","):
            raise Unreadable("a type that is not understood")
    reader.accept("EXISTS")
    reader.expect("PATH")
    path = reader.peek()
    reader.string()
    while not reader.done and not reader.sees(","):
        if reader.accept("DEFAULT"):
            if reader.take().kind not in (Kind.STRING, Kind.NUMBER):
                raise Unreadable("a default of JSON_TABLE that is no literal")
        elif not reader.any_of(("NULL", "ERROR")):
            raise Unreadable("a column of JSON_TABLE that is not understood")
        reader.expect("ON")
        if not reader.any_of(("EMPTY", "ERROR")):
            raise Unreadable("a column of JSON_TABLE that is not understood")
    out += (name, word("CHAR"), word("PATH"), path, mark(","))


# ---------------------------------------------------------------- both servers


def _matches(tokens: list[Token]) -> list[Token]:
    """MATCH a, b AGAINST: with the brackets that may be left out."""
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        out.append(tokens[index])
        index += 1
        if _upper(tokens, index - 1) != "MATCH" or _upper(tokens, index) == "(":
            continue
        end = index
        while end < len(tokens) and (
            (tokens[end].kind in (Kind.WORD, Kind.NAME) and tokens[end].upper not in ("AGAINST", "MATCH"))
            or tokens[end].upper in (".", ",")
        ):
            end += 1
        if end > index and _upper(tokens, end) == "AGAINST":
            out += (mark("("), *tokens[index:end], mark(")"))
            index = end
    return out


def _types(tokens: list[Token]) -> list[Token]:
    """CAST(x AS CHAR(3) CHARACTER SET binary), AS CHAR ASCII, AS DOUBLE PRECISION: without what says how it is kept.

    Only where a type stands: elsewhere `nchar ascii` is a column with another name, and so is `national nchar`.
    """
    out: list[Token] = []
    brackets = Brackets()
    index = 0
    while index < len(tokens):
        upper = _upper(tokens, index)
        if upper == "(":
            brackets.open(_upper(tokens, index - 1))
        elif upper == ")":
            brackets.close()
        typed = (brackets.inside, _upper(tokens, index - 1)) in _BEFORE_TYPE
        if typed and _upper(tokens, index) == "NATIONAL" and _upper(tokens, index + 1) in _TEXTS:
            index += 1
        out.append(tokens[index])
        upper = _upper(tokens, index)
        index += 1
        if not typed:
            continue
        if upper == "DOUBLE" and _upper(tokens, index) == "PRECISION":
            index += 1
        if upper not in _TEXTS:
            continue
        end = index
        if _upper(tokens, end) == "(" and end + 2 < len(tokens) and tokens[end + 1].kind is Kind.NUMBER:
            end += 3
        length = end
        for _ in range(_MAX_FORMS):
            if _upper(tokens, end) in _TEXT_FORMS:
                end += 1
            elif _upper(tokens, end) == "CHARSET":
                end += 2
            elif _upper(tokens, end) in ("CHARACTER", "CHAR") and _upper(tokens, end + 1) == "SET":
                end += 3
            else:
                break
        if end > length and _upper(tokens, end) in (")", "COLLATE") and _named(tokens[end - 1]):
            out += tokens[index:length]
            index = end
    return out


def _defaults(tokens: list[Token]) -> list[Token]:
    """DEFAULT(column): as if the column itself were read. What its default is made of counts as in it."""
    out: list[Token] = []
    for index, token in enumerate(tokens):
        if (
            _upper(tokens, index) == "DEFAULT"
            and _upper(tokens, index + 1) == "("
            and _upper(tokens, index + 3) in (".", ")")
        ):
            continue
        out.append(token)
    return out


def _named(token: Token) -> bool:
    return token.kind in (Kind.WORD, Kind.NAME, Kind.STRING)


# ---------------------------------------------------------------- MariaDB


def _concatenations(tokens: list[Token]) -> list[Token]:
    """GROUP_CONCAT(x SEPARATOR ',' LIMIT n): how much of it."""
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        if (
            _upper(tokens, index) == "LIMIT"
            and _upper(tokens, index - 2) == "SEPARATOR"
            and tokens[index - 1].kind is Kind.STRING
            and _counts(tokens, index + 1)
        ):
            index += 2
            if _upper(tokens, index) in (",", "OFFSET") and _counts(tokens, index + 1):
                index += 2
            continue
        out.append(tokens[index])
        index += 1
    return out


def _group_orders(tokens: list[Token]) -> list[Token]:
    """GROUP BY a ASC, b DESC: how the groups are sorted."""
    out: list[Token] = []
    grouping: list[int] = []  # depths at which a GROUP BY is open
    depth = 0
    for index, token in enumerate(tokens):
        upper = _upper(tokens, index)
        depth += (upper == "(") - (upper == ")")
        while grouping and (depth < grouping[-1] or (depth == grouping[-1] and upper in _CLAUSES)):
            grouping.pop()
        if upper == "BY" and _upper(tokens, index - 1) == "GROUP":
            grouping.append(depth)
        elif upper in ("ASC", "DESC") and grouping and grouping[-1] == depth:
            after = _upper(tokens, index + 1)
            if index + 1 == len(tokens) or after in (",", ")", "WITH") or after in _CLAUSES:
                continue
        out.append(token)
    return out


def _periods(tokens: list[Token]) -> list[Token]:
    """t FOR SYSTEM_TIME ...: the same columns of older rows. Only of moments written as literals."""
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        if _upper(tokens, index) == "FOR" and _upper(tokens, index + 1) == "SYSTEM_TIME":
            end = _period_end(tokens, index + 2)
            if end:
                index = end
                continue
        out.append(tokens[index])
        index += 1
    return out


def _period_end(tokens: Sequence[Token], index: int) -> int:
    first = _upper(tokens, index)
    if first == "ALL":
        return index + 1
    if first == "AS" and _upper(tokens, index + 1) == "OF":
        return _moment_end(tokens, index + 2)
    between = {"FROM": "TO", "BETWEEN": "AND"}.get(first, "")
    if not between:
        return 0
    middle = _moment_end(tokens, index + 1)
    return _moment_end(tokens, middle + 1) if middle and _upper(tokens, middle) == between else 0


def _moment_end(tokens: Sequence[Token], index: int) -> int:
    """Behind [TIMESTAMP|TRANSACTION] literal, NOW() or CURRENT_TIMESTAMP; 0 for anything else.

    Not a word more: what follows may be the table's other name.
    """
    if _upper(tokens, index) in _MOMENTS:
        index += 1
    elif _upper(tokens, index) in _NOW:
        empty = _upper(tokens, index + 1) == "(" and _upper(tokens, index + 2) == ")"
        return index + (3 if empty else 1)
    if index < len(tokens) and tokens[index].kind in (Kind.STRING, Kind.NUMBER, Kind.PARAMETER):
        return index + 1
    return 0


def _cycles(tokens: list[Token]) -> list[Token]:
    """WITH RECURSIVE t AS (...) CYCLE a, b RESTRICT: rows that come again are left out."""
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        if _upper(tokens, index) == "CYCLE" and _upper(tokens, index - 1) == ")":
            end = index + 1
            while end < len(tokens) and (
                (tokens[end].kind in (Kind.WORD, Kind.NAME) and tokens[end].upper != "RESTRICT")
                or tokens[end].upper == ","
            ):
                end += 1
            if end > index + 1 and _upper(tokens, end) == "RESTRICT":
                index = end + 1
                continue
        out.append(tokens[index])
        index += 1
    return out


def _row_limits(tokens: list[Token]) -> list[Token]:
    """OFFSET n ROWS, FETCH FIRST n ROWS ONLY | WITH TIES, as LIMIT n OFFSET n."""
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        offset: list[Token] = []
        at = index
        if _upper(tokens, at) == "OFFSET" and _counts(tokens, at + 1) and _upper(tokens, at + 2) in ("ROW", "ROWS"):
            offset = [word("OFFSET"), tokens[at + 1]]
            at += 3
        if _upper(tokens, at) == "FETCH" and _upper(tokens, at + 1) in ("FIRST", "NEXT"):
            many = tokens[at + 2 : at + 3] if _counts(tokens, at + 2) else [Token(Kind.NUMBER, "1", "", -1, -1)]
            end = at + (3 if _counts(tokens, at + 2) else 2)
            tail = [_upper(tokens, i) for i in range(end, end + 3)]
            only, ties = tail[1] == "ONLY", tail[1:] == ["WITH", "TIES"]
            if tail[0] in ("ROW", "ROWS") and (only or ties):
                out += (word("LIMIT"), *many, *offset)
                index = end + (2 if only else 3)
                continue
        if offset:
            out += offset
            index = at
            continue
        out.append(tokens[index])
        index += 1
    return out


def _counts(tokens: Sequence[Token], index: int) -> bool:
    return index < len(tokens) and tokens[index].kind in (Kind.NUMBER, Kind.PARAMETER)


# ---------------------------------------------------------------- MySQL


def _nulls(tokens: list[Token]) -> list[Token]:
    """LAG(a) RESPECT NULLS OVER: what it does anyhow."""
    out: list[Token] = []
    index = 0
    while index < len(tokens):
        words_here = [_upper(tokens, i) for i in range(index - 1, index + 3)]
        if words_here == [")", "RESPECT", "NULLS", "OVER"]:
            index += 2
            continue
        out.append(tokens[index])
        index += 1
    return out


def _rollups(tokens: list[Token]) -> list[Token]:
    """GROUP BY ROLLUP (a, b): the same columns as GROUP BY (a, b)."""
    return [
        token
        for index, token in enumerate(tokens)
        if not (
            _upper(tokens, index) in ("ROLLUP", "CUBE")
            and _upper(tokens, index - 1) == "BY"
            and _upper(tokens, index - 2) == "GROUP"
            and _upper(tokens, index + 1) == "("
        )
    ]


def _tables(tokens: list[Token]) -> list[Token]:
    """TABLE t where a query may stand, as SELECT * FROM t."""
    out: list[Token] = []
    for index, token in enumerate(tokens):
        starts = index == 0 or _upper(tokens, index - 1) in _BEFORE_QUERY
        named = index + 1 < len(tokens) and tokens[index + 1].kind in (Kind.WORD, Kind.NAME)
        if _upper(tokens, index) == "TABLE" and starts and named:
            out += (Token(Kind.WORD, "SELECT", "SELECT", -1, -1), mark("*"), word("FROM"))
        else:
            out.append(token)
    return out
