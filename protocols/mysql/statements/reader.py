"""A cursor over the tokens of one statement, for the kinds that our own grammar reads.

INVARIANT: no I/O in this module; whatever is not as expected raises Unreadable.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.mysql.statements.lexer import Kind, Token, Unreadable

_END = Token(Kind.OPERATOR, "", "", -1, -1)


class Reader:
    """`peek` looks, `accept` takes where it matches, `expect` insists, `end` makes sure that nothing is left."""

    __slots__ = ("position", "tokens")

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.position = 0

    @property
    def done(self) -> bool:
        return self.position >= len(self.tokens)

    def peek(self, ahead: int = 0) -> Token:
        at = self.position + ahead
        return self.tokens[at] if at < len(self.tokens) else _END

    def take(self) -> Token:
        token = self.peek()
        if token is _END:
            raise Unreadable("the statement ends too early")
        self.position += 1
        return token

    def rest(self) -> Sequence[Token]:
        rest = self.tokens[self.position :]
        self.position = len(self.tokens)
        return rest

    def sees(self, *words: str) -> bool:
        return all(self.peek(i).upper == word for i, word in enumerate(words))

    def accept(self, *words: str) -> bool:
        """Takes these words, one behind the other, if they come next."""
        if not self.sees(*words):
            return False
        self.position += len(words)
        return True

    def any_of(self, words: frozenset[str] | Sequence[str]) -> str:
        """Takes one of these words if it comes next; else ""."""
        upper = self.peek().upper
        if upper and upper in words:
            self.position += 1
            return upper
        return ""

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            raise Unreadable(f"{' '.join(words)} is missing")

    def end(self) -> None:
        if not self.done:
            raise Unreadable("the statement goes on in a way that is not understood")

    def name(self) -> str:
        token = self.take()
        if token.kind not in (Kind.WORD, Kind.NAME):
            raise Unreadable("a name is missing")
        return token.text

    def label(self) -> str:
        """The name of a prepared statement or a handler in lower case: servers compare them by their own collations."""
        name = self.name()
        if not name.isascii():
            raise Unreadable("a prepared statement or a handler whose name is not plain ASCII")
        return name.lower()

    def qualified(self) -> tuple[str, str]:
        """(schema or "", name)."""
        first = self.name()
        if self.accept("."):
            return first, self.name()
        return "", first

    def names(self) -> list[tuple[str, str]]:
        found = [self.qualified()]
        while self.accept(","):
            found.append(self.qualified())
        return found

    def string(self) -> str:
        token = self.take()
        if token.kind is not Kind.STRING:
            raise Unreadable("a string is missing")
        return token.text

    def account(self) -> str:
        """'user'@'host', user, CURRENT_USER[()]."""
        token = self.take()
        if token.kind not in (Kind.WORD, Kind.NAME, Kind.STRING):
            raise Unreadable("an account is missing")
        if token.upper == "CURRENT_USER":
            if self.accept("("):
                self.expect(")")
            return ""
        if self.peek().kind is Kind.VARIABLE:
            self.take()
        return token.text

    def until_comma(self) -> list[Token]:
        """The tokens up to a comma outside brackets, or the end."""
        depth = 0
        found: list[Token] = []
        while not self.done:
            upper = self.peek().upper
            if upper == "," and depth == 0:
                break
            if upper in ("(", "{"):
                depth += 1
            elif upper in (")", "}"):
                depth -= 1
                if depth < 0:
                    raise Unreadable("a bracket that nothing opens")
            found.append(self.take())
        if not found or depth:
            raise Unreadable("an expression is missing")
        return found

    def group(self) -> list[Token]:
        """The tokens between this bracket and the one that closes it."""
        self.expect("(")
        depth = 1
        found: list[Token] = []
        while True:
            token = self.take()
            if token.upper == "(":
                depth += 1
            elif token.upper == ")":
                depth -= 1
                if not depth:
                    return found
            found.append(token)


def split(tokens: Sequence[Token]) -> list[list[Token]]:
    """Expressions separated by commas; [] for none."""
    if not tokens:
        return []
    reader = Reader(tokens)
    found = [reader.until_comma()]
    while reader.accept(","):
        found.append(reader.until_comma())
    return found
