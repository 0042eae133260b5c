"""PREPARE, EXECUTE, EXECUTE IMMEDIATE and DEALLOCATE PREPARE.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from protocols.contract import Cacheable, Effect
from protocols.mysql.statements.lexer import Kind, Unreadable, lex
from protocols.mysql.statements.model import ChangeKind, Prepared, Statement
from protocols.mysql.statements.queryread import expression
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.text import decode, rules
from protocols.mysql.statements.walk import Walk

MAX_KEPT = 1 << 20  # bytes of prepared texts whose analysis a session keeps
_LEAST = 4096  # bytes that each of them counts at least


def prepare(reader: Reader, walk: Walk) -> str:
    """The text inside is judged here, and again at each EXECUTE under what is in force then."""
    name = reader.label()
    reader.expect("FROM")
    walk.add(Effect.PREPARE)
    walk.fleeting = True
    text = _literal(reader, walk)
    if text is None:
        _dynamic(reader, walk)
    else:
        _inner(text, walk, changes=False)
    walk.change(ChangeKind.PREPARE, name, Prepared(text, _world(walk)))
    return "prepare"


def _world(walk: Walk) -> Hashable:
    state = walk.state
    return state.database if state.database_known else None, state.charset, state.sql_mode


def _literal(reader: Reader, walk: Walk) -> bytes | None:
    """The text, where it is a literal that can be seen to its end."""
    parts = []
    while reader.peek().kind is Kind.STRING:
        parts.append(reader.take().text)
    if not parts:
        return None
    if not (reader.done or reader.sees("USING")):
        raise Unreadable("a text to prepare that is not understood")
    text = "".join(parts)
    if not text.isascii() and (walk.state.charset or "") not in ("utf8", "utf8mb3", "utf8mb4"):
        raise Unreadable("a text to prepare beyond ASCII; send SET NAMES utf8mb4")
    return text.encode()


def _dynamic(reader: Reader, walk: Walk) -> None:
    walk.add(Effect.EXEC_DYNAMIC)
    walk.unknown("a text that only the server will see is prepared")
    tokens = []
    while not reader.done and not reader.sees("USING"):
        tokens.append(reader.take())
    expression(tokens, walk)


def _inner(text: bytes, walk: Walk, *, changes: bool) -> None:
    found = _judged(text, walk)
    walk.merge(found.analysis)
    walk.named = walk.named or bool(found.analysis.reads or found.analysis.writes or found.analysis.functions)
    if changes:
        walk.changes += found.changes


def _judged(text: bytes, walk: Walk) -> Statement:
    """The analysis of a prepared text, kept in the session while nothing changes what it means: an EXECUTE of a few
    bytes would take the time of a text of any length each time.
    """
    kept = walk.state.judged
    key = text, walk.depth, walk.state.meaning_key()
    known = kept.get(key)
    if known is not None and known[0] is walk.catalog:
        return known[1]
    found = _read(text, walk)
    if found.analysis.cacheable is not Cacheable.NO:
        if sum(len(other) for other, *_ in kept) + len(text) + _LEAST * len(kept) > MAX_KEPT:
            kept.clear()
        kept[key] = walk.catalog, dataclasses.replace(found, tree=None)
    return found


def _read(text: bytes, walk: Walk) -> Statement:
    from protocols.mysql.statements.commands import statement  # it knows PREPARE itself

    state = walk.state
    read = decode(text, state.charset)
    lexed = lex(read, 0, rules(state, "exact" if state.flavour else "run"))
    if lexed.semicolon and read[lexed.end :].strip():
        raise Unreadable("more than one statement in a text to prepare")
    if lexed.conditional:
        raise Unreadable("an executable comment in a text to prepare")
    if not lexed.tokens:
        raise Unreadable("an empty text to prepare")
    if lexed.tokens[0].upper in ("PREPARE", "EXECUTE", "DEALLOCATE"):
        raise Unreadable("a statement that cannot be prepared")
    walk.inner += len(lexed.tokens)
    return statement(lexed.tokens, state, walk.catalog, read, text, depth=walk.depth + 1)


def execute(reader: Reader, walk: Walk) -> str:
    walk.fleeting = True
    walk.add(Effect.PREPARE)
    if reader.accept("IMMEDIATE"):
        walk.add(Effect.EXEC_DYNAMIC)
        text = _literal(reader, walk)
        if text is None:
            _dynamic(reader, walk)
        else:
            _inner(text, walk, changes=True)
        _given(walk, _using(reader, walk))
        return "execute immediate"
    name = reader.label()
    given = _using(reader, walk)
    known = walk.state.prepared.get(name) if not walk.state.overflow else None
    if known is None:
        walk.unknown("a prepared statement that is not known")
    elif known.text is None:
        walk.add(Effect.EXEC_DYNAMIC)
        walk.unknown("a prepared statement whose text was computed by the server")
    elif known.world != _world(walk):
        walk.unknown("prepared under another default database or other settings: prepare it again")
    else:
        _inner(known.text, walk, changes=True)
        _given(walk, given)
    return "execute"


def _using(reader: Reader, walk: Walk) -> set[str]:
    """The columns that the parameters are made of."""
    found: set[str] = set()
    if reader.accept("USING"):
        while True:
            value = reader.until_comma()
            found |= expression(value, walk)
            if not reader.accept(","):
                break
    return found


def _given(walk: Walk, parameters: set[str]) -> None:
    """What is stored may be a parameter, whatever the prepared text does with it."""
    for written in walk.writes:
        if walk.state.temporary(*written.split(".", 1)) is None:
            walk.store(f"{written}.*", parameters)


def deallocate(reader: Reader, walk: Walk) -> str:
    reader.expect("PREPARE")
    walk.add(Effect.PREPARE)
    walk.change(ChangeKind.DEALLOCATE, reader.label())
    return "deallocate"
