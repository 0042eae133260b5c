"""Words that the servers take for names as well: whether one is the grammar's word where it stands.

sqlglot knows other such words than the servers do: it reads `any`, `text` or `current_role` as syntax of its own where
a server sees a column. So each of them is written as a quoted name unless what stands around it says what it is; then
both readers see the same name.

INVARIANT: no I/O in this module; the time for one word does not depend on the text's length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from protocols.mysql.settings import words
from protocols.mysql.statements.lexer import Kind, Token

# behind these a value follows: what stands there is one
_OPENS_VALUE = words(
    """
    SELECT DISTINCT DISTINCTROW ALL AND OR NOT LIKE BETWEEN THEN ELSE WHEN CASE RLIKE REGEXP WHERE HAVING BY ON INTERVAL
    DIV MOD XOR BINARY ESCAPE SET IN FROM USING RETURNING VALUES LIMIT AS
    """
)
_UNITS = words("DAY HOUR MINUTE SECOND MICROSECOND MONTH QUARTER WEEK YEAR")
_MOMENTS = words("DATE TIME TIMESTAMP")
_TAKES_UNIT = words("EXTRACT TIMESTAMPADD TIMESTAMPDIFF")


class Brackets:
    """The brackets that are open at one place of a text: the word before each, and whether an INTERVAL waits in it."""

    __slots__ = ("_called", "_waiting")

    def __init__(self) -> None:
        self._called = [""]
        self._waiting = [False]

    def open(self, before: str) -> None:
        self._called.append(before)
        self._waiting.append(False)

    def close(self) -> None:
        if len(self._called) > 1:
            self._called.pop()
            self._waiting.pop()

    def comma(self) -> None:
        self._waiting[-1] = False

    def interval(self) -> None:
        self._waiting[-1] = True

    @property
    def inside(self) -> str:
        """The word before the innermost open bracket, in upper case."""
        return self._called[-1]

    def unit(self) -> bool:
        """Whether an INTERVAL has no unit yet; afterwards it has one."""
        waits, self._waiting[-1] = self._waiting[-1], False
        return waits


_NOTHING = Token(Kind.OPERATOR, "", "", -1, -1)


def is_grammar(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    """Whether the word at `index`, with no bracket behind it, is the grammar's and no name. Else it must be quoted."""
    role = _ROLES.get(tokens[index].upper)
    return role is None or role(tokens, index, brackets)


def _at(tokens: Sequence[Token], index: int) -> Token:
    return tokens[index] if 0 <= index < len(tokens) else _NOTHING


def opens_value(token: Token) -> bool:
    """Whether a value follows."""
    return token.upper in _OPENS_VALUE if token.kind is Kind.WORD else _operator(token)


def _operator(token: Token) -> bool:
    return token.kind is Kind.OPERATOR and token.upper not in (")", "}")


def _never(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return False


def _after(*before: str) -> Callable[[Sequence[Token], int, Brackets], bool]:
    return lambda tokens, index, brackets: _at(tokens, index - 1).upper in before


def _ahead_of(*after: str) -> Callable[[Sequence[Token], int, Brackets], bool]:
    return lambda tokens, index, brackets: _at(tokens, index + 1).upper in after


def is_type(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    """A type of CAST, CONVERT, JSON_VALUE or JSON_TABLE, or the first word in GET_FORMAT."""
    before = _at(tokens, index - 1).upper
    return (brackets.inside, before) in (
        ("CAST", "AS"), ("CONVERT", ","), ("JSON_VALUE", "RETURNING"), ("GET_FORMAT", "(")
    )  # fmt: skip


def _moment(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return _at(tokens, index + 1).kind is Kind.STRING or is_type(tokens, index, brackets)


def _unit(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    before = _at(tokens, index - 1)
    if before.upper == "(" and brackets.inside in _TAKES_UNIT:
        return True
    return not opens_value(before) and brackets.unit()


def _year(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return is_type(tokens, index, brackets) or _unit(tokens, index, brackets)


def _escape(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    after = _at(tokens, index + 1).kind
    return after in (Kind.STRING, Kind.PARAMETER, Kind.HEX) and not opens_value(_at(tokens, index - 1))


def _boolean(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return _at(tokens, index - 1).upper == "IN" and _at(tokens, index + 1).upper == "MODE"


def _query(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return _at(tokens, index - 1).upper == "WITH" and _at(tokens, index + 1).upper == "EXPANSION"


def _frame(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    """5 PRECEDING, INTERVAL 1 DAY FOLLOWING, UNBOUNDED PRECEDING."""
    before = _at(tokens, index - 1)
    return before.kind in (Kind.NUMBER, Kind.PARAMETER) or before.upper == "UNBOUNDED" or before.upper in _UNITS


def _unknown(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    before, earlier = _at(tokens, index - 1).upper, _at(tokens, index - 2).upper
    return before == "IS" or (before == "NOT" and earlier == "IS")


def _error(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return "ON" in (_at(tokens, index - 1).upper, _at(tokens, index + 1).upper)


def _path(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return _at(tokens, index + 1).kind is Kind.STRING and not _operator(_at(tokens, index - 1))


def _offset(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    """LIMIT 10 OFFSET 20, and MariaDB's OFFSET 20 alone."""
    return _at(tokens, index + 1).kind in (Kind.NUMBER, Kind.PARAMETER) and not opens_value(_at(tokens, index - 1))


def _row(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    return _at(tokens, index - 1).upper == "CURRENT"


def _over(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    """sum(a) OVER w."""
    after = _at(tokens, index + 1)
    return _at(tokens, index - 1).upper == ")" and after.kind in (Kind.WORD, Kind.NAME) and after.upper != "FROM"


def _window(tokens: Sequence[Token], index: int, brackets: Brackets) -> bool:
    """WINDOW w AS (...)."""
    return _at(tokens, index + 2).upper == "AS" and _at(tokens, index + 3).upper == "("


_Role = Callable[[Sequence[Token], int, Brackets], bool]
# of words that some server takes for a name; one that is not here is reserved by both, or sqlglot takes it for a name
_ROLES: Mapping[str, _Role] = {
    **dict.fromkeys(
        words(
            """
            AGAINST ANY CAST COLUMNS CUME_DIST CURRENT_ROLE DATABASE DENSE_RANK FIRST_VALUE FULL GROUPING GROUPS
            JSON_TABLE LAG LAST_VALUE LATERAL LEAD NTH_VALUE NTILE PERCENT_RANK RANK ROW_NUMBER SCHEMA SOME TEXT USER
            VALUE
            """
        ),
        _never,  # a bracket follows, or they are names
    ),
    **dict.fromkeys(_MOMENTS, _moment),
    **dict.fromkeys(words("DATETIME JSON NCHAR SIGNED"), is_type),
    **dict.fromkeys(_UNITS, _unit),
    "YEAR": _year,
    "BOOLEAN": _boolean,
    "CURRENT": _ahead_of("ROW"),
    "DUPLICATE": _after("ON"),
    "EMPTY": _after("ON"),
    "ERROR": _error,
    "ESCAPE": _escape,
    "EXPANSION": _after("QUERY"),
    "FOLLOWING": _frame,
    "LANGUAGE": _after("NATURAL"),
    "MEMBER": _ahead_of("OF"),
    "MODE": _after("LANGUAGE", "BOOLEAN"),
    "NESTED": _ahead_of("PATH"),
    "OF": _after("MEMBER"),
    "OFFSET": _offset,
    "ORDINALITY": _after("FOR"),
    "OVER": _over,
    "PATH": _path,
    "PRECEDING": _frame,
    "QUERY": _query,
    "RETURNING": lambda tokens, index, brackets: brackets.inside == "JSON_VALUE",
    "ROLLUP": _after("WITH"),
    "ROW": _row,
    "SOUNDS": _ahead_of("LIKE"),
    "UNBOUNDED": _ahead_of("PRECEDING", "FOLLOWING"),
    "UNKNOWN": _unknown,
    "WINDOW": _window,
    "WITHIN": _ahead_of("GROUP"),
}
