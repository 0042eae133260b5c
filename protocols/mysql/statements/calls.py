"""Every name followed by a bracket is a call, unless the syntax around it says otherwise: judged from the tokens alone.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from protocols.contract import Effect
from protocols.mysql.functions import FUNCTIONS, KEYWORD_FUNCTIONS, NO_BLANK, NOT_EVERYWHERE, WITH_EFFECT
from protocols.mysql.settings import set_effect, words
from protocols.mysql.statements.agree import MAX_NESTING
from protocols.mysql.statements.keywords import RESERVED
from protocols.mysql.statements.lexer import Kind, Token
from protocols.mysql.statements.walk import Walk

# words before a bracket that are syntax; none of them can be the name of a stored function without quotes
STRUCTURE = words(
    """
    ALL AND ANY AS BETWEEN BY CASE DISTINCT DISTINCTROW DIV ELSE EXCEPT EXISTS FROM GROUP HAVING IN INTERSECT INTO
    IS JOIN KEY INDEX LATERAL LIKE LIMIT NOT ON OR OVER PARTITION REGEXP RETURNING RLIKE SELECT SET SOME
    STRAIGHT_JOIN TABLE THEN UNION UPDATE USING WHEN WHERE WITH XOR AGAINST COLUMNS OF SEPARATOR OFFSET ESCAPE
    COLLATE DECIMAL NUMERIC FLOAT DOUBLE REAL INT INTEGER BIGINT SMALLINT TINYINT MEDIUMINT VARCHAR VARBINARY NCHAR
    DATETIME BLOB TEXT BIT CHARACTER DEC FIXED SIGNED UNSIGNED RECURSIVE
    HIGH_PRIORITY SQL_BIG_RESULT SQL_CALC_FOUND_ROWS SQL_SMALL_RESULT
    """
)
_HINT_VARIABLE = re.compile(r"\bset_var\s*\(\s*([^\s=()]*)\s*=", re.IGNORECASE)
_HINT_GROUP = re.compile(r"\bresource_group\b", re.IGNORECASE)


# how MySQL keeps WITH ROLLUP in the text of a view; there it writes a stored function with its schema
_IN_VIEWS = frozenset({"ROLLUP_GROUP_ITEM", "ROLLUP_SUM_SWITCHER"})


def judge_calls(
    tokens: Sequence[Token], walk: Walk, *, ignore_space: bool, structural: Counter[str] | None = None
) -> None:
    """Adds what the calls in these tokens do. `structural`: names before a bracket that are no calls, and how often."""
    left = Counter(structural) if structural else Counter()
    for index in range(len(tokens)):
        token = tokens[index]
        kind = token.kind
        if kind is Kind.HINT:
            _hint(token.text, walk)
            continue
        if kind is Kind.VARIABLE and index and tokens[index - 1].kind in (Kind.STRING, Kind.NAME):
            continue
        if kind is Kind.OPERATOR and token.upper == "(" and index:
            name = tokens[index - 1]
            if name.kind not in (Kind.WORD, Kind.NAME):
                continue
            dotted = index > 1 and tokens[index - 2].upper == "."
            lowered = name.text.lower()
            if left[lowered] > 0 and (dotted or name.upper not in STRUCTURE or name.kind is Kind.NAME):
                left[lowered] -= 1
                continue
            if dotted:
                schema = tokens[index - 3].text if index > 2 else ""
                _stored(walk, schema, name.text)
                continue
            if name.kind is Kind.NAME:
                upper = name.text.upper() if name.text.isascii() else ""
                native = upper in FUNCTIONS and upper not in KEYWORD_FUNCTIONS
                _native(walk, name.text, upper) if native else _stored(walk, "", name.text)
                continue
            upper = name.upper
            elsewhere = upper in _IN_PLACE and not _IN_PLACE[upper](tokens, index - 1)
            # MySQL reserves the names of window functions: no stored function has one
            needs = upper in NO_BLANK and not (upper in RESERVED and walk.catalog.flavour == "mysql")
            if elsewhere or (needs and not ignore_space and name.end != token.start):
                _stored(walk, "", name.text)
            elif upper in FUNCTIONS or (walk.view and upper in _IN_VIEWS and walk.catalog.flavour == "mysql"):
                _native(walk, name.text, upper)
            elif upper not in STRUCTURE and not _rolls_up(tokens, index, walk):
                _stored(walk, "", name.text)
        elif kind is Kind.WORD and token.upper in ("NEXT", "PREVIOUS"):
            following = [t.upper for t in tokens[index + 1 : index + 3]]
            if following == ["VALUE", "FOR"] and token.upper == "NEXT":
                walk.add(Effect.DATA_WRITE)
        elif kind is Kind.OPERATOR and token.upper == ":=":
            walk.unknown("an assignment inside a statement")
            walk.add(Effect.SESSION_OTHER)


def _against(tokens: Sequence[Token], at: int) -> bool:
    """MATCH (a) AGAINST (...), MATCH a, b AGAINST (...)."""
    at -= 1
    if at >= 0 and tokens[at].upper == ")":
        return True
    while at >= 0 and (tokens[at].kind in (Kind.WORD, Kind.NAME) or tokens[at].upper in (".", ",")):
        if tokens[at].upper == "MATCH":
            return True
        at -= 1
    return False


def _member(tokens: Sequence[Token], at: int) -> bool:
    """x MEMBER OF (...)."""
    return at > 0 and tokens[at - 1].upper == "MEMBER"


def _path_columns(tokens: Sequence[Token], at: int) -> bool:
    """COLUMNS (...), behind the path of a JSON_TABLE."""
    return at > 0 and tokens[at - 1].kind in (Kind.STRING, Kind.PARAMETER)


def _escape(tokens: Sequence[Token], at: int) -> bool:
    """LIKE x ESCAPE (y): behind a value."""
    before = tokens[at - 1] if at else None
    return before is not None and (before.upper == ")" or before.kind not in (Kind.WORD, Kind.OPERATOR))


def _json_table(tokens: Sequence[Token], at: int) -> bool:
    """JSON_TABLE (document, path COLUMNS (...))."""
    depth = 0
    for index in range(at + 1, len(tokens)):
        upper = tokens[index].upper
        if upper == "COLUMNS" and depth == 1 and _path_columns(tokens, index):
            return True
        depth += (upper == "(") - (upper == ")")
        if not depth or depth > MAX_NESTING:
            break
    return False


# syntax by its place only: anywhere else a stored function may have the name, for MariaDB at least
_IN_PLACE: Mapping[str, Callable[[Sequence[Token], int], bool]] = {
    "AGAINST": _against,
    "OF": _member,
    "COLUMNS": _path_columns,
    "ESCAPE": _escape,
    "JSON_TABLE": _json_table,
}


def _rolls_up(tokens: Sequence[Token], index: int, walk: Walk) -> bool:
    """MySQL's GROUP BY ROLLUP (...), before the bracket at `index`: MariaDB calls a function of that name."""
    return walk.catalog.flavour == "mysql" and [t.upper for t in tokens[max(0, index - 3) : index]] in (
        ["GROUP", "BY", "ROLLUP"],
        ["GROUP", "BY", "CUBE"],
    )


def _native(walk: Walk, name: str, upper: str) -> None:
    """A call of one of the server's own functions, if this server has it."""
    catalog = walk.catalog
    if upper in _not_here(catalog.flavour):
        # without a catalog nothing is known of stored programs, behind a view or a trigger just as here
        sure = catalog.open_world or (catalog.routines_known and catalog.loadable_known and not _taken(walk, name))
        if not sure:
            _stored(walk, "", name)
            return
    walk.add(*WITH_EFFECT.get(upper, ()))


def _not_here(flavour: str) -> frozenset[str]:
    known = NOT_EVERYWHERE.get(flavour)
    return known if known is not None else NOT_EVERYWHERE["mysql"] | NOT_EVERYWHERE["mariadb"]


def _taken(walk: Walk, name: str) -> bool:
    """Whether a stored or loadable function has this name, or may have since the catalog was read."""
    catalog, schema = walk.catalog, walk.state.database or ""
    if catalog.routine(schema, name) is not None or catalog.routine("", name) is not None:
        return True
    lowered = name.lower()
    return any(t.rpartition(".")[2].lower() == lowered for t in walk.state.touched)


def _stored(walk: Walk, schema: str, name: str) -> None:
    """A call of a function that is not the server's own: what it does is not known, whatever the catalog says it is."""
    walk.named = True
    walk.add(Effect.EXEC_CALL)
    where = schema or walk.state.database or ""
    known = walk.catalog.routine(where, name) or (walk.catalog.routine("", name) if not schema else None)
    walk.functions[f"{where}.{name}" if where else name] = None
    if known is None:
        walk.unknown(f"the function `{name[:64]}` is not known")


def _hint(text: str, walk: Walk) -> None:
    """Optimizer hints: some of them set variables for the statement."""
    for match in _HINT_VARIABLE.finditer(text):
        walk.add(set_effect(match.group(1).strip("`\"'"), None))
    if _HINT_GROUP.search(text):
        walk.add(Effect.SESSION_OTHER)
    if "set_var" in text.lower() and _HINT_VARIABLE.search(text) is None:
        walk.unknown("an optimizer hint that is not understood")
