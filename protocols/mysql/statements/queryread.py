"""From the tokens of a query, a data change or an expression to what it reads and does: both readers, then the walk.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from protocols.contract import ANYWHERE, Effect
from protocols.mysql.flows import OPENS_ANY
from protocols.mysql.settings import words
from protocols.mysql.statements.agree import parse
from protocols.mysql.statements.calls import judge_calls
from protocols.mysql.statements.lexer import Kind, Token, Unreadable, lex
from protocols.mysql.statements.prepare import simplified
from protocols.mysql.statements.queries import Queries
from protocols.mysql.statements.scope import Origins, Outputs, Scope
from protocols.mysql.statements.spelling import spelt, word
from protocols.mysql.statements.text import rules
from protocols.mysql.statements.walk import Walk
from protocols.mysql.statements.writes import Writes

_SELECT = Token(Kind.WORD, "SELECT", "SELECT", -8, -2)
_BRACKETS = (Token(Kind.OPERATOR, "(", "(", -1, 0), Token(Kind.OPERATOR, ")", ")", -1, 0))
QUERY = (exp.Select, exp.SetOperation, exp.Subquery)
VERBS = frozenset({"SELECT", "INSERT", "REPLACE", "UPDATE", "DELETE", "WITH", "(", "VALUES", "TABLE"})


def read_query(text: str, walk: Walk) -> tuple[Any, Outputs | None]:
    """A whole text that must be one query: (tree, output columns). Raises Unreadable."""
    lexed = lex(text, 0, rules(walk.state, "exact"))
    if lexed.semicolon:
        raise Unreadable("more than one statement")
    return query(lexed.tokens, walk)


def query(tokens: Sequence[Token], walk: Walk) -> tuple[Any, Outputs | None]:
    """A query's tokens: (tree, output columns)."""
    tree = parse(_as_select(_plain(tokens, walk)), QUERY, walk.catalog)
    _calls(tokens, tree, walk)
    return tree, Queries(walk).query(tree, None)


def _plain(tokens: Sequence[Token], walk: Walk) -> list[Token]:
    return spelt(simplified(tokens, walk), "" if walk.catalog.open_world else walk.catalog.flavour)


def _as_select(tokens: list[Token]) -> list[Token]:
    """VALUES (1),(2), written as sqlglot reads it."""
    first = tokens[0].upper if tokens else ""
    if first == "VALUES":
        rows: list[Token] = []  # without the word ROW before them, which anywhere else may be the name of a column
        depth = behind = 0
        for at, token in enumerate(tokens):
            depth += (token.upper == "(") - (token.upper == ")")
            if not depth and token.upper in ("ORDER", "LIMIT", "UNION", "EXCEPT", "INTERSECT"):
                behind = at
                break
            if depth or token.upper != "ROW" or tokens[at - 1].upper not in ("VALUES", ","):
                rows.append(token)
        end = len(rows)
        rows += tokens[behind:] if behind else ()
        name = Token(Kind.NAME, "values", "", -1, -1)
        star = Token(Kind.OPERATOR, "*", "*", -1, -1)
        return [_SELECT, star, word("FROM"), _BRACKETS[0], *rows[:end], _BRACKETS[1], word("AS"), name, *rows[end:]]
    return tokens


def change(tokens: Sequence[Token], walk: Walk) -> tuple[Any, str]:
    """An INSERT, REPLACE, UPDATE or DELETE: (tree, kind)."""
    verb = verb_of(tokens)
    plain = _plain(tokens, walk)
    seen = _as_insert(plain) if verb in ("INSERT", "REPLACE") else plain
    tree = parse(
        seen,
        {"INSERT": exp.Insert, "REPLACE": exp.Insert, "UPDATE": exp.Update, "DELETE": exp.Delete}[verb],
        walk.catalog,
    )
    _calls(tokens, tree, walk)
    if verb == "REPLACE":
        walk.add(Effect.DATA_DELETE)
    opened = runs_code(walk)  # triggers come later: what they run is part of the table
    Writes(walk).change(tree, replaces=verb == "REPLACE")
    from protocols.mysql.stores import change_stores  # it reads the bodies of views itself

    change_stores(tree, walk, opens=opened)
    return tree, verb.lower()


def runs_code(walk: Walk) -> bool:
    """Whether code of the database's own was called so far, or a file read: its values may be anything."""
    return bool(walk.functions) or not OPENS_ANY.isdisjoint(walk.effects)


def verb_of(tokens: Sequence[Token]) -> str:
    """The verb behind a WITH clause, or the first word."""
    if not tokens or tokens[0].upper != "WITH":
        return tokens[0].upper if tokens else ""
    depth = 0
    for index, token in enumerate(tokens):
        if token.upper == "(":
            if depth == 0 and tokens[index - 1].upper == ")":
                return "("  # behind the last of its queries
            depth += 1
        elif token.upper == ")":
            depth -= 1
        elif depth == 0 and token.upper in ("SELECT", "UPDATE", "DELETE", "INSERT", "REPLACE", "VALUES", "TABLE"):
            return token.upper
    raise Unreadable("a WITH clause without a statement")


def _as_insert(tokens: list[Token]) -> list[Token]:
    """REPLACE as INSERT, the optional INTO, and VALUE as VALUES."""
    at = next(i for i, t in enumerate(tokens) if t.upper in ("INSERT", "REPLACE"))
    out = [*tokens[:at], Token(Kind.WORD, "INSERT", "INSERT", tokens[at].start, tokens[at].end)]
    rest = tokens[at + 1 :]
    if not rest or rest[0].upper != "INTO":
        out.append(word("INTO"))
    depth = 0
    for index, token in enumerate(rest):
        depth += token.upper == "("
        depth -= token.upper == ")"
        following = rest[index + 1].upper if index + 1 < len(rest) else ""
        if token.upper == "VALUE" and depth == 0 and following == "(" and index and rest[index - 1].upper in (")", ""):
            token = Token(Kind.WORD, "VALUES", "VALUES", token.start, token.end)
        out.append(token)
    return out


def expression(tokens: Sequence[Token], walk: Walk) -> Origins:
    """An expression's tokens, read as the one column of a SELECT."""
    if not tokens:
        raise Unreadable("an expression is missing")
    depth = 0
    for token in tokens:
        depth += token.upper == "("
        depth -= token.upper == ")"
        if depth < 0:
            raise Unreadable("a bracket that nothing opens")
    tree = parse([_SELECT, _BRACKETS[0], *_plain(tokens, walk), _BRACKETS[1]], exp.Select, walk.catalog)
    if len(tree.expressions) != 1 or tree.args.get("from_"):
        raise Unreadable("an expression that is not one")
    before = runs_code(walk)
    _calls(tokens, tree, walk)
    from protocols.mysql.stores import keeps  # it reads the bodies of views itself

    origins = Queries(walk).expression(tree.expressions[0], Scope())
    if keeps(tree):
        walk.store(ANYWHERE, origins)
    return origins if before or not runs_code(walk) else origins | {ANYWHERE}


# words behind which a string is a value; behind anything else it is a name for a column
_VALUES_FOLLOW = words(
    """
    SELECT DISTINCT DISTINCTROW ALL AND OR NOT LIKE BETWEEN THEN ELSE WHEN CASE RLIKE REGEXP WHERE HAVING BY ON INTERVAL
    DIV MOD XOR BINARY DATE TIME TIMESTAMP SEPARATOR ESCAPE SET BOTH LEADING TRAILING FROM PATH IN
    """
)


def _names_by_strings(tokens: Sequence[Token]) -> bool:
    """Whether a string may be the name of a column: then texts of one shape differ in what their names mean."""
    for index, token in enumerate(tokens):
        if token.kind is Kind.STRING and index:
            before = tokens[index - 1]
            if before.kind is Kind.STRING:  # one value with it
                continue
            if before.kind is Kind.OPERATOR and before.upper != ")":
                continue
            if before.kind is not Kind.WORD or before.upper not in _VALUES_FOLLOW:
                return True
    return False


def _calls(tokens: Sequence[Token], tree: Any, walk: Walk) -> None:
    walk.constants = walk.constants or _names_by_strings(tokens)
    structural: Counter[str] = Counter()
    for alias in tree.find_all(exp.TableAlias):
        if alias.args.get("columns"):
            structural[alias.name.lower()] += 1
    target = tree.this if isinstance(tree, exp.Insert) else None
    if isinstance(target, exp.Schema):
        structural[target.this.name.lower()] += 1
    judge_calls(tokens, walk, ignore_space=walk.state.mode("IGNORE_SPACE"), structural=structural)
