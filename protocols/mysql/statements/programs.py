"""Where a stored program ends: the semicolons inside its body are not the text's.

CREATE PROCEDURE, FUNCTION, TRIGGER and EVENT are read up to their body. A body of one statement ends at the first
semicolon. One that is a BEGIN block ends where its last block does; blocks are counted only where the grammar lets a
statement begin, so that a column called `begin` opens none. Whatever is not sure ends the judging.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.mysql.settings import words
from protocols.mysql.statements.lexer import Kind, Token

_HEAD = words("CREATE ALTER")
_KINDS = words("PROCEDURE FUNCTION TRIGGER EVENT")
_BEFORE_BLOCK = words("DETERMINISTIC SQL DATA DEFINER INVOKER ROW DO")
_BLOCKS = words("LOOP WHILE REPEAT IF CASE FOR")


def has_block(tokens: Sequence[Token]) -> bool:
    """Whether this statement (cut at its first semicolon) opens a stored program whose body is a BEGIN block."""
    if not tokens or tokens[0].upper not in _HEAD:
        return False
    kind = next((t.upper for t in tokens[:16] if t.kind is Kind.WORD and t.upper in _KINDS), "")
    return bool(kind) and _block_start(tokens, kind) is not None


def _block_start(tokens: Sequence[Token], kind: str) -> int | None:
    """The index of the BEGIN that opens the body."""
    at = next(i for i, t in enumerate(tokens) if t.upper == kind and t.kind is Kind.WORD)
    opening = {"TRIGGER": "ROW", "EVENT": "DO"}.get(kind)
    if opening is not None:  # what stands before is a header, with words of its own
        at = next((i for i in range(at + 1, len(tokens)) if tokens[i].upper == opening), len(tokens))
    depth = 0
    for index in range(at + 1, len(tokens)):
        token = tokens[index]
        upper = token.upper if token.kind in (Kind.WORD, Kind.OPERATOR) else ""
        if upper == "(":
            depth += 1
        elif upper == ")":
            depth -= 1
        elif depth == 0 and upper in (
            "SELECT",
            "INSERT",
            "UPDATE",
            "DELETE",
            "SET",
            "CALL",
            "RETURN",
            "REPLACE",
            "IF",
            "CASE",
        ):
            if upper == "IF" and tokens[index + 1 : index + 2] and tokens[index + 1].upper in ("NOT", "EXISTS"):
                continue
            return None
        elif depth == 0 and upper == "BEGIN":
            before = tokens[index - 1]
            plain = before.upper in _BEFORE_BLOCK or (kind == "PROCEDURE" and before.upper == ")")
            follows = kind == "TRIGGER" and tokens[index - 2].upper in ("FOLLOWS", "PRECEDES")
            returns = kind == "FUNCTION" and any(t.upper == "RETURNS" for t in tokens[at:index])
            comment = before.kind is Kind.STRING and tokens[index - 2].upper == "COMMENT"
            if kind == "EVENT" and before.upper != "DO":
                return None
            return index if plain or follows or returns or comment else None
    return None


class Blocks:
    """Counts blocks over the statements of one body; `open` while a semicolon is the body's own."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._started = False

    @property
    def open(self) -> bool:
        return bool(self._stack)

    def feed(self, tokens: Sequence[Token]) -> None:
        """The tokens up to the next semicolon."""
        start = 0
        if not self._started:
            kind = next(t.upper for t in tokens[:16] if t.kind is Kind.WORD and t.upper in _KINDS)
            found = _block_start(tokens, kind)
            assert found is not None  # `has_block` said so
            start, self._started = found, True
        begins = True
        index = start
        block = -1  # the next BEGIN behind a HANDLER: looked for once for all of them
        while index < len(tokens):
            token = tokens[index]
            upper = token.upper if token.kind in (Kind.WORD, Kind.OPERATOR) else ""
            index += 1
            expression = bool(self._stack) and self._stack[-1] == "case expression"
            if upper == "END":
                if not self._stack:
                    return
                closed = self._stack.pop()
                if closed != "case expression" and index < len(tokens) and tokens[index].upper in _BLOCKS:
                    index += 1
                begins = False
                continue
            if upper == "CASE":
                self._stack.append("case" if begins and not expression else "case expression")
                begins = False
                continue
            if begins and not expression and upper:
                following = tokens[index].upper if index < len(tokens) else ""
                if following == ":":  # a label
                    index += 1
                    continue
                if upper == "BEGIN":
                    self._stack.append("begin")
                    if following == "NOT":
                        index += 2
                    continue
                if upper in ("LOOP", "REPEAT"):
                    self._stack.append(upper.lower())
                    continue
                if upper in ("IF", "WHILE", "FOR"):
                    self._stack.append(upper.lower())
                    begins = False
                    continue
            inside = self._stack[-1] if self._stack else ""
            branch = upper in ("THEN", "ELSE") and inside in ("if", "case")
            if branch or (upper == "DO" and inside in ("while", "for") and not begins):
                begins = True
            elif upper == "HANDLER" and index >= 2 and tokens[start].upper == "DECLARE":
                # DECLARE ... HANDLER FOR conditions, then a statement: only a block matters
                if block < index:
                    block = next((i for i in range(index, len(tokens)) if tokens[i].upper == "BEGIN"), len(tokens))
                if block < len(tokens) and tokens[block - 1].upper not in ("FOR", ","):
                    index = block
                    begins = True
                    continue
                begins = False
            else:
                begins = False
