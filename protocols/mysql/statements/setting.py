"""SET in all its forms, and MariaDB's SET STATEMENT ... FOR.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from protocols.contract import Effect
from protocols.mysql.settings import (
    SAFE_CHARACTER_SETS,
    SAFE_COLLATIONS,
    TIME_LIMITS,
    charset_of,
    reads_alike,
    set_effect,
)
from protocols.mysql.statements.lexer import Kind, Token, Unreadable
from protocols.mysql.statements.model import ChangeKind, Variable
from protocols.mysql.statements.queryread import expression
from protocols.mysql.statements.reader import Reader, split
from protocols.mysql.statements.walk import Walk

_SCOPES = ("GLOBAL", "SESSION", "LOCAL", "PERSIST", "PERSIST_ONLY")
_SERVER = frozenset({"GLOBAL", "PERSIST", "PERSIST_ONLY"})


def set_command(reader: Reader, walk: Walk) -> str:
    """SET, behind the word itself."""
    sticky = ""  # GLOBAL holds for what follows, by some versions
    while True:
        sticky = _item(reader, walk, sticky)
        if not reader.accept(","):
            return "set"


def _item(reader: Reader, walk: Walk, sticky: str) -> str:
    token = reader.peek()
    if token.kind is Kind.VARIABLE:
        reader.take()
        _assigns(reader)
        value = reader.until_comma()
        before = dict(walk.reads)
        walk.reads = {}
        expression(value, walk)
        earlier, known = _assigned_before(value, walk)
        sources = tuple(dict.fromkeys((*walk.reads, *earlier)))
        walk.reads = {**before, **walk.reads}
        known = known and Effect.UNKNOWN not in walk.effects
        walk.add(Effect.SESSION_SET)
        if len(value) != 1 or value[0].kind is not Kind.STRING:
            walk.change(ChangeKind.VARIABLE, token.text, Variable(sources, known))
        else:
            walk.constants = True
            walk.change(ChangeKind.VARIABLE, token.text, Variable((), known))
        return sticky
    if token.kind is Kind.SYSTEM:
        reader.take()
        scope = ""
        if reader.peek(1).upper == ".":
            scope = reader.any_of(_SCOPES)
            if scope:
                reader.expect(".")
        _variable(reader, walk, scope or "SESSION")
        return sticky
    scope = reader.any_of(_SCOPES) if not _is_assignment(reader) else ""
    if reader.sees("TRANSACTION") and not _is_assignment(reader):
        reader.take()
        _transaction(reader, walk, scope)
        return sticky
    password = token.upper == "PASSWORD" and reader.peek(1).upper != "."  # with or without an account behind it
    if not scope and (password or not _is_assignment(reader)) and _special(reader, walk):
        return sticky
    _variable(reader, walk, scope or sticky, certain=bool(scope) or not sticky)
    return scope or sticky


def _assigned_before(tokens: Sequence[Token], walk: Walk) -> tuple[list[str], bool]:
    """What the variables in this value got earlier in the same SET: (relations, whether that is all of it)."""
    named = {token.text for token in tokens if token.kind is Kind.VARIABLE}
    walk.spend(len(walk.changes) // 8)
    sources: list[str] = []
    known = True
    for change in walk.changes:
        if change.kind is ChangeKind.VARIABLE and change.name in named and isinstance(change.value, Variable):
            sources += change.value.sources
            known = known and change.value.known
    return sources, known


def _is_assignment(reader: Reader) -> bool:
    return reader.peek(1).upper in ("=", ":=", ".")


def _assigns(reader: Reader) -> None:
    if not reader.any_of(("=", ":=")):
        raise Unreadable("an assignment is missing in SET")


def _special(reader: Reader, walk: Walk) -> bool:
    if reader.accept("NAMES"):
        name = _charset(reader)
        safe = True
        if reader.accept("COLLATE"):
            safe = reader.take().text.lower().partition("_")[0] in SAFE_COLLATIONS | {"default"}
        _names(walk, name)
        if not safe:
            walk.add(Effect.SESSION_PARSE_STATE)
    elif reader.accept("CHARSET") or reader.accept("CHARACTER", "SET") or reader.accept("CHAR", "SET"):
        _names(walk, _charset(reader))
    elif reader.accept("PASSWORD") or reader.accept("DEFAULT", "ROLE"):
        reader.rest()
        walk.add(Effect.PRIV_ROLE)
    elif reader.accept("ROLE"):
        reader.rest()
        walk.add(Effect.SESSION_ROLE)
        walk.change(ChangeKind.SET, "role", None)
    elif reader.accept("RESOURCE", "GROUP"):
        reader.rest()
        walk.add(Effect.SESSION_OTHER)
    else:
        return False
    return True


def _charset(reader: Reader) -> str | None:
    token = reader.take()
    if token.kind is Kind.WORD and token.upper == "DEFAULT":
        return None
    if token.kind not in (Kind.WORD, Kind.STRING, Kind.NAME):
        raise Unreadable("a character set is missing in SET")
    return charset_of(token.text)


def _names(walk: Walk, charset: str | None) -> None:
    walk.constants = True
    walk.add(Effect.SESSION_SET if charset in SAFE_CHARACTER_SETS else Effect.SESSION_PARSE_STATE)
    walk.change(ChangeKind.NAMES, "character_set_client", charset)


def _transaction(reader: Reader, walk: Walk, scope: str) -> None:
    walk.add(Effect.ADMIN_CONFIG if scope in _SERVER else Effect.SESSION_SET)
    while True:
        if reader.accept("ISOLATION", "LEVEL"):
            if not any(
                reader.accept(*level)
                for level in (("READ", "COMMITTED"), ("READ", "UNCOMMITTED"), ("REPEATABLE", "READ"), ("SERIALIZABLE",))
            ):
                raise Unreadable("an isolation level that is not known")
        elif reader.accept("READ", "WRITE"):
            own = walk.state.writable and scope not in _SERVER  # it takes back what the session itself has set
            walk.add(Effect.SESSION_SET if own else Effect.SESSION_GUARD)
        else:
            reader.expect("READ", "ONLY")
        if not reader.accept(","):
            return


def _variable(reader: Reader, walk: Walk, scope: str, *, certain: bool = True) -> None:
    first = reader.name()
    if reader.accept("."):
        # a key cache, a component's variable; NEW.column exists only in triggers
        first = f"{first}.{reader.name()}"
    _assigns(reader)
    tokens = reader.until_comma()
    walk.constants = True
    name = first.lower()
    value = _literal(tokens)
    if value is None:
        if not (len(tokens) == 1 and tokens[0].kind is Kind.WORD):
            _value(tokens, walk)
        if name == "sql_mode":
            value = _computed_mode(tokens, walk)
    if scope in _SERVER or "." in name:
        walk.add(Effect.ADMIN_CONFIG)
        if certain:
            return
        value = None
    walk.add(_effect(name, value, walk) if certain else set_effect(name, value))
    walk.change(ChangeKind.SET, name, value)


def _effect(name: str, value: str | None, walk: Walk) -> Effect:
    """`set_effect` of what is surely this session's own setting, by what the session began with."""
    if name == "sql_mode" and reads_alike(value, walk.state.sql_mode):
        return Effect.SESSION_SET
    if name in TIME_LIMITS and walk.state.unlimited:
        return Effect.SESSION_SET  # any limit is stricter than none, and none is what the server wanted
    return set_effect(name, value)


def _value(tokens: Sequence[Token], walk: Walk) -> None:
    """A value that is computed; of rows or of what came from some: whoever reads the setting then reads them."""
    before, walk.reads = walk.reads, {}
    expression(tokens, walk)
    earlier, known = _assigned_before(tokens, walk)
    if walk.reads or earlier or not known:
        walk.unknown("a setting whose value comes from rows: read them first, and set what you saw")
    walk.reads = {**before, **walk.reads}


def _literal(tokens: Sequence[Token]) -> str | None:
    """The value that the text shows; None: it is computed, or the default."""
    if len(tokens) == 1:
        token = tokens[0]
        if token.kind in (Kind.STRING, Kind.NUMBER, Kind.NAME):
            return token.text
        if token.kind is Kind.WORD and token.upper != "DEFAULT":
            return token.text
    if len(tokens) == 2 and tokens[0].upper == "-" and tokens[1].kind is Kind.NUMBER:
        return "-" + tokens[1].text
    return None


def _computed_mode(tokens: Sequence[Token], walk: Walk) -> str | None:
    """sql_mode made from itself by CONCAT and REPLACE, as drivers do."""
    if walk.state.sql_mode is None:
        return None
    try:
        return _text(Reader(tokens), walk)
    except Unreadable:
        return None


def _text(reader: Reader, walk: Walk, depth: int = 0) -> str:
    if depth > 8:
        raise Unreadable("too deep")
    token = reader.take()
    if token.upper == "(":  # (SELECT REPLACE(@@sql_mode, ...))
        reader.position -= 1
        inner = Reader(reader.group())
        inner.accept("SELECT")
        found = _text(inner, walk, depth + 1)
    elif token.kind is Kind.STRING:
        found = token.text
    elif token.kind is Kind.SYSTEM:
        if reader.any_of(("SESSION", "LOCAL")):
            reader.expect(".")
        if reader.name().lower() != "sql_mode":
            raise Unreadable("another variable")
        found = ",".join(sorted(walk.state.sql_mode or ()))
    elif token.upper in ("CONCAT", "REPLACE"):
        parts = [_text(Reader(part), walk, depth + 1) for part in split(reader.group())]
        if token.upper == "CONCAT":
            found = "".join(parts)
        elif len(parts) == 3:
            found = parts[0].replace(parts[1], parts[2]) if parts[1] else parts[0]
        else:
            raise Unreadable("REPLACE without three arguments")
    else:
        raise Unreadable("a function that is not followed")
    reader.end()
    return found


def set_statement(
    tokens: Sequence[Token], walk: Walk, dispatch: Callable[[Sequence[Token], Walk], tuple[str, Any]]
) -> tuple[str, Any]:
    """SET STATEMENT name = value, ... FOR statement: settings for the time of one statement."""
    reader = Reader(tokens)
    reader.expect("SET", "STATEMENT")
    while True:
        name = reader.name().lower()
        _assigns(reader)
        value: list[Token] = []
        depth = 0
        while not (depth == 0 and (reader.sees(",") or reader.sees("FOR"))):
            token = reader.take()
            depth += (token.upper == "(") - (token.upper == ")")
            value.append(token)
        if _literal(value) is None:
            _value(value, walk)
        effect = _effect(name, _literal(value), walk) if name in TIME_LIMITS else set_effect(name, _literal(value))
        walk.constants = True
        walk.add(effect)
        if effect in (Effect.SESSION_PARSE_STATE, Effect.SESSION_OTHER):
            walk.unknown(f"a statement under a `{name[:64]}` of its own")
        if not reader.accept(","):
            break
    reader.expect("FOR")
    rest = reader.rest()
    if not rest:
        raise Unreadable("SET STATEMENT without a statement")
    return dispatch(rest, walk)
