"""From a text's bytes to what it does: decode, lex under each reading, judge statement by statement.

Each statement is lexed after the one before it has run, as the server does: a new sql_mode counts at once. Executable
comments are judged as this server's version reads them, and also with all of them run and with all of them skipped:
what any reading does counts.

`analyse` never raises: whatever goes wrong is UNKNOWN, with a reason.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocols.contract import Analysis, Cacheable, Effect, Where
from protocols.literal_rows import LEAST, shortened
from protocols.mysql.catalog import Catalog, builtin_catalog
from protocols.mysql.settings import SAFE_CHARACTER_SETS
from protocols.mysql.statements.commands import statement
from protocols.mysql.statements.lexer import MAX_TOKENS, Kind, Lexed, Rules, Token, Unreadable, lex
from protocols.mysql.statements.model import CommandAnalysis, Statement, unknown
from protocols.mysql.statements.programs import Blocks, has_block
from protocols.mysql.statements.text import decode, encode, rules
from protocols.mysql.statements.walk import STRENGTH

if TYPE_CHECKING:
    from protocols.mysql.state import SessionState

MAX_STATEMENTS = 1000
MAX_TOKENS_OF_TEXT = 2 * MAX_TOKENS  # of all its statements, with what they prepare or execute
MAX_SHAPE = 16_384  # characters of normalised text that are kept
_LITERALS = frozenset({Kind.STRING, Kind.NUMBER, Kind.HEX, Kind.BITS})
_RANK = {Cacheable.NO: 0, Cacheable.TEXT: 1, Cacheable.SHAPE: 2}
_BLANK = " \t\n\v\f\r"
_NOTHING_MORE = re.compile(rf"[{_BLANK}]*+\Z")


def analyse(text: bytes, state: SessionState, catalog: Catalog | None) -> CommandAnalysis:
    """What a text does in this session, by this catalog. Never raises.

    Without a catalog every statement that names anything is unknown.
    """
    try:
        return _analyse(text, state, catalog)
    except Unreadable as error:
        return unknown(str(error), text=text)
    except RecursionError:
        return unknown("the statement is nested too deeply to be judged", text=text)
    except Exception as error:
        return unknown(f"the analysis failed ({type(error).__name__}); report this statement", text=text)


def _analyse(raw: bytes, state: SessionState, catalog: Catalog | None) -> CommandAnalysis:
    known = bool(state.flavour and state.version)
    found, conditional = _bulk(raw, state, catalog) or _read(raw, state, catalog, "exact" if known else "run")
    parts = [s.analysis for s in found]
    if conditional:
        for reading in ("run", "skip") if known else ("skip",):
            try:
                other, _ = _read(raw, state, catalog, reading)
            except Unreadable as error:
                other = [Statement(unknown(f"read with comments {reading}: {error}").analysis)]
            parts += [s.analysis for s in other if s.analysis.kind != "empty"]
    if not found:
        raise Unreadable("an empty text: the server refuses it")
    if len(parts) == 1:
        return CommandAnalysis(parts[0], tuple(found), raw)
    whole = merged(parts, [s.analysis.kind for s in found], "; ".join(s.analysis.shape for s in found)[:MAX_SHAPE])
    if conditional and len(found) == 1:
        analysis = dataclasses.replace(whole, kind=found[0].analysis.kind)
        found = [dataclasses.replace(found[0], analysis=analysis)]
    return CommandAnalysis(whole, tuple(found), raw)


def _bulk(raw: bytes, state: SessionState, catalog: Catalog | None) -> tuple[list[Statement], bool] | None:
    """A long INSERT of literals, read without the rows that repeat others. None: the text is no such statement."""
    if len(raw) < LEAST or state.sql_mode is None:
        return None
    if state.charset in SAFE_CHARACTER_SETS:
        backslash = "plain" if "NO_BACKSLASH_ESCAPES" in state.sql_mode else "escape"
    else:
        backslash = ""  # a byte that looks like one may be half of a character
    short = shortened(raw, backslash)
    if short is raw:
        return None
    decode(raw, state.charset)
    found, conditional = _read(short, state, catalog, "exact")
    if len(found) != 1 or conditional:
        return None
    text = raw.strip(_BLANK.encode())
    return [dataclasses.replace(found[0], text=text.removesuffix(b";").rstrip(_BLANK.encode()))], False


def _read(raw: bytes, state: SessionState, catalog: Catalog | None, reading: str) -> tuple[list[Statement], bool]:
    """The statements of a text under one reading, and whether it has executable comments."""
    names = catalog if catalog is not None else builtin_catalog(state.flavour or "mysql", state.version or None)
    charset = state.charset
    text = decode(raw, charset)
    found: list[Statement] = []
    ahead = state
    position, conditional, read = 0, False, 0
    while True:
        try:
            reading_rules = rules(ahead, reading, text, position)
            lexed = lex(text, position, reading_rules)
            if lexed.semicolon and has_block(lexed.tokens):
                lexed = _whole_program(text, lexed, reading_rules)
        except Unreadable as error:
            if not found:
                raise
            found.append(_rest(text[position:], charset, str(error)))
            return found, conditional
        conditional = conditional or lexed.conditional
        last = not lexed.semicolon or _NOTHING_MORE.match(text, lexed.end) is not None
        body = encode(text[position : lexed.end - 1 if lexed.semicolon else lexed.end], charset).strip(_BLANK.encode())
        if not lexed.tokens:
            if not lexed.commented:
                one = _rest("", charset, "an empty statement: the server refuses it")
                return [*found, one], conditional
            one = Statement(Analysis(kind="empty", effects=frozenset(), cacheable=Cacheable.TEXT), body)
        else:
            one = statement(lexed.tokens, ahead, names, text, body, without=catalog is None)
            one = dataclasses.replace(
                one, analysis=dataclasses.replace(one.analysis, shape=normalised(text, lexed.tokens))
            )
        found.append(one)
        read += len(lexed.tokens) + one.tokens
        if read > MAX_TOKENS_OF_TEXT:
            raise Unreadable("the statements of this text have too many tokens to be judged; send fewer at once")
        if last:
            return found, conditional
        if len(found) >= MAX_STATEMENTS:
            raise Unreadable(f"more than {MAX_STATEMENTS} statements in one text")
        if one.changes or ahead is state:
            ahead = ahead.fork() if ahead is state else ahead
            ahead.applied(one)
            if ahead.charset != charset and (not raw.isascii() or ahead.charset == "swe7"):
                # the rest of the bytes was decoded otherwise, and the server reads it anew
                why = "the character set changes inside a text that goes on beyond ASCII"
                return [*found, _rest(text[lexed.end :], charset, why)], conditional
        position = lexed.end


def _rest(text: str, charset: str | None, why: str) -> Statement:
    """What is left of a text, where it cannot be judged."""
    return unknown(why, text=encode(text, charset)).statements[0]


def _whole_program(text: str, first: Lexed, reading: Rules) -> Lexed:
    """A stored program with all of its body: up to the semicolon behind its last block."""
    blocks = Blocks()
    lexed, tokens, commented = first, list(first.tokens), first.commented
    blocks.feed(lexed.tokens)
    while blocks.open:
        if not lexed.semicolon:
            raise Unreadable("a stored program whose end is not found")
        lexed = lex(text, lexed.end, reading)
        if lexed.conditional:
            raise Unreadable("an executable comment inside a stored program")
        tokens += lexed.tokens
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("the text has too many tokens to be judged")
        blocks.feed(lexed.tokens)
    return Lexed(tokens, lexed.end, lexed.semicolon, commented, first.conditional)


def normalised(text: str, tokens: Sequence[Token]) -> str:
    """The statement with each literal replaced and without its comments, cut at `MAX_SHAPE` characters."""
    out: list[str] = []
    size, end = 0, tokens[0].start
    for token in tokens:
        piece = "?" if token.kind in _LITERALS else text[token.start : token.end]
        if token.start > end:
            piece = " " + piece
        out.append(piece)
        end = token.end
        size += len(piece)
        if size >= MAX_SHAPE:
            break
    return "".join(out)[:MAX_SHAPE]


def merged(parts: list[Analysis], kinds: list[str], shape: str) -> Analysis:
    """One text's analysis: the union of its statements'."""
    kinds = list(dict.fromkeys(kinds))
    shown = "; ".join(kinds[:6]) + ("; ..." if len(kinds) > 6 else "")

    def joined(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value for part in parts for value in getattr(part, name)))

    return Analysis(
        kind=shown,
        effects=frozenset[Effect]().union(*(a.effects for a in parts)),
        reads=joined("reads"),
        writes=joined("writes"),
        columns=joined("columns"),
        predicates=joined("predicates"),
        functions=joined("functions"),
        where=max((a.where for a in parts), key=lambda w: STRENGTH[w], default=Where.NONE),
        why="; ".join(dict.fromkeys(a.why for a in parts if a.why)),
        stores=tuple(dict.fromkeys(store for part in parts for store in part.stores)),
        shape=shape,
        cacheable=min((Cacheable.TEXT, *(a.cacheable for a in parts)), key=lambda c: _RANK[c]),
    )
