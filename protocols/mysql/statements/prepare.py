"""Takes out of a query's tokens what our reader understands by itself, so that sqlglot sees plain SQL.

Modifiers behind the verb, locks, index hints, INTO: each is read here in full, or stays and then does not parse.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.contract import Effect
from protocols.mysql.settings import words
from protocols.mysql.statements.lexer import Kind, Token, Unreadable
from protocols.mysql.statements.model import ChangeKind, Variable
from protocols.mysql.statements.walk import Walk

_MODIFIERS = {
    "SELECT": words(
        "SQL_NO_CACHE SQL_CACHE SQL_CALC_FOUND_ROWS SQL_SMALL_RESULT SQL_BIG_RESULT SQL_BUFFER_RESULT HIGH_PRIORITY "
        "STRAIGHT_JOIN"
    ),
    "INSERT": words("LOW_PRIORITY DELAYED HIGH_PRIORITY IGNORE"),
    "REPLACE": words("LOW_PRIORITY DELAYED"),
    "UPDATE": words("LOW_PRIORITY IGNORE"),
    "DELETE": words("LOW_PRIORITY QUICK IGNORE"),
}
_KEPT = frozenset({"ALL", "DISTINCT", "DISTINCTROW"})
_FORMAT = words("CHARACTER SET FIELDS COLUMNS LINES TERMINATED BY OPTIONALLY ENCLOSED ESCAPED STARTING")


def simplified(tokens: Sequence[Token], walk: Walk) -> list[Token]:
    """The tokens without modifiers, locks, index hints and INTO; their effects go to the walk."""
    out: list[Token] = []
    index, count = 0, len(tokens)
    depth = 0
    while index < count:
        token = tokens[index]
        upper = token.upper if token.kind in (Kind.WORD, Kind.OPERATOR) else ""
        if token.kind is Kind.HINT:
            index += 1
            continue
        if upper == "(":
            depth += 1
        elif upper == ")":
            depth -= 1
        if not upper or upper in "(),.=" or (out and out[-1].upper == "."):
            out.append(token)
            index += 1
            continue
        following = tokens[index + 1].upper if index + 1 < count else ""
        if upper in _MODIFIERS and (upper == "SELECT" or not out) and following != "(":
            out.append(token)
            index += 1
            kept: list[Token] = []
            while index < count and tokens[index].kind in (Kind.WORD, Kind.HINT):
                word = tokens[index].upper
                if word == "SQL_CACHE" and walk.catalog.flavour == "mysql":
                    break  # a name since 8.0
                if tokens[index].kind is Kind.HINT or word in _MODIFIERS[upper]:
                    pass
                elif upper == "SELECT" and word in _KEPT:
                    kept.append(tokens[index])
                else:
                    break
                index += 1
            out += kept
            continue
        if upper == "FOR" and following in ("UPDATE", "SHARE"):
            index = _lock(tokens, index + 2, walk)
            continue
        if upper == "LOCK" and [t.upper for t in tokens[index + 1 : index + 4]] == ["IN", "SHARE", "MODE"]:
            index = _lock(tokens, index + 4, walk)
            continue
        if upper in ("USE", "FORCE", "IGNORE") and following in ("INDEX", "KEY"):
            index = _index_hint(tokens, index + 2)
            continue
        if upper == "INTO" and out and _first(out) not in ("INSERT", "REPLACE"):
            if depth:
                raise Unreadable("INTO inside brackets")
            index = _into(tokens, index + 1, walk)
            continue
        if upper == "INTO" and len(out) > 1:
            raise Unreadable("INTO in a place that is not understood")
        if upper == "ROWS" and following == "EXAMINED" and index + 2 < count and tokens[index + 2].kind is Kind.NUMBER:
            if out and out[-1].upper == "LIMIT":
                out.pop()
            index += 3
            continue
        out.append(token)
        index += 1
    return out


def _first(tokens: Sequence[Token]) -> str:
    return tokens[0].upper


def _lock(tokens: Sequence[Token], index: int, walk: Walk) -> int:
    walk.add(Effect.ADMIN_LOCK)
    count = len(tokens)
    if index < count and tokens[index].upper == "OF":
        index = _locked(tokens, index + 1)
    upper = tokens[index].upper if index < count else ""
    following = tokens[index + 1] if index + 1 < count else None
    if upper == "NOWAIT":
        index += 1
    elif following is not None:
        skips = upper == "SKIP" and following.upper == "LOCKED"
        waits = upper == "WAIT" and following.kind is Kind.NUMBER
        index += 2 if skips or waits else 0
    return index


def _locked(tokens: Sequence[Token], index: int) -> int:
    """Behind the tables that are locked: names with commas in between, and nothing else."""
    count = len(tokens)
    while True:
        for _ in range(2):  # schema.table
            if index >= count or tokens[index].kind not in (Kind.WORD, Kind.NAME):
                raise Unreadable("a lock of something that is no table")
            index += 1
            if index >= count or tokens[index].upper != ".":
                break
            index += 1
        if index >= count or tokens[index].upper != ",":
            return index
        index += 1


def _index_hint(tokens: Sequence[Token], index: int) -> int:
    count = len(tokens)
    if index < count and tokens[index].upper == "FOR":
        following = [t.upper for t in tokens[index + 1 : index + 3]]
        if following[:1] == ["JOIN"]:
            index += 2
        elif following in (["ORDER", "BY"], ["GROUP", "BY"]):
            index += 3
    if index >= count or tokens[index].upper != "(":
        raise Unreadable("an index hint that is not understood")
    index += 1
    while index < count and tokens[index].upper != ")":
        if tokens[index].kind not in (Kind.WORD, Kind.NAME) and tokens[index].upper != ",":
            raise Unreadable("an index hint that is not understood")
        index += 1
    return index + 1


def _into(tokens: Sequence[Token], index: int, walk: Walk) -> int:
    """INTO OUTFILE, INTO DUMPFILE, INTO @variables."""
    count = len(tokens)
    if index < count and tokens[index].upper in ("OUTFILE", "DUMPFILE"):
        walk.add(Effect.FILE_WRITE)
        if index + 1 >= count or tokens[index + 1].kind is not Kind.STRING:
            raise Unreadable("INTO before something that is no file name")
        index += 2
        while index < count:
            token = tokens[index]
            charset = tokens[index - 1].upper == "SET"
            if token.kind not in (Kind.STRING, Kind.HEX) and token.upper not in _FORMAT and not charset:
                break
            index += 1
        return index
    names = []
    while index < count and tokens[index].kind is Kind.VARIABLE:
        names.append(tokens[index].text)
        index += 1
        if index >= count or tokens[index].upper != ",":
            break
        index += 1
    if not names:
        raise Unreadable("INTO before something that is neither a file nor a variable")
    walk.add(Effect.SESSION_SET)
    for name in names:  # what they hold is known once the whole statement is
        walk.change(ChangeKind.VARIABLE, name, Variable())
    return index
