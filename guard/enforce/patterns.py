"""Patterns on names (`public.*`, `*.email`) and an index that finds all rules whose pattern a name matches.

`*` matches any characters, dots too; `?` one character; `[ab]` one of those. Letter case counts where a rule grants, as
it does in the catalog; it does not where a rule stops, alerts or masks: a name in another case must not silently miss.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable
from functools import lru_cache

from protocols.contract import Effect

_WILD = frozenset("*?[")
_CACHE_LIMIT = 4096
FAMILIES = frozenset(effect.value.split(".")[0] for effect in Effect if "." in effect.value)


def check_glob(pattern: str) -> str:
    """The pattern itself, or ValueError for one that could never match, or not mean what it seems to."""
    if not pattern or pattern != pattern.strip() or not pattern.isprintable():
        raise ValueError("a pattern must not be empty, have blanks around it or control characters")
    if "{" in pattern or "}" in pattern:
        raise ValueError("braces are no pattern here: write one list item for each alternative")
    rest = pattern
    while "[" in rest:
        _, _, rest = rest.partition("[")
        end = rest.find("]", 2 if rest.startswith("!") else 1)
        if end < 0:
            raise ValueError("`[` without `]` in a pattern")
        rest = rest[end + 1 :]
    return pattern


def check_relation(pattern: str) -> str:
    """A pattern on `schema.table`; without a schema it would never match, which a stop must not do silently."""
    check_glob(pattern)
    if "." not in pattern and "*" not in pattern:
        raise ValueError(f"a name here is schema.name: write `public.{pattern}`, or `*.{pattern}` for any schema")
    return pattern


def check_column(pattern: str) -> str:
    """A pattern on `schema.table.column`."""
    check_glob(pattern)
    if pattern.count(".") < 2 and "*" not in pattern:
        last = pattern.rpartition(".")[2]
        raise ValueError(f"a column here is schema.table.column: write all three, or `*.{last}` for any table")
    return pattern


def expand_effects(pattern: str) -> frozenset[Effect]:
    """What an effect pattern of a policy names: one effect, a family (`ddl.*`) or, with `*`, all but `unknown`.

    Raises ValueError for anything else: an effect that does not exist would be a rule that never matches.
    """
    if pattern == "*":
        return frozenset(Effect) - {Effect.UNKNOWN}
    family, dot, rest = pattern.partition(".")
    if dot and rest == "*" and family in FAMILIES:
        return frozenset(effect for effect in Effect if effect.value.startswith(f"{family}."))
    try:
        return frozenset({Effect(pattern)})
    except ValueError:
        known = [effect.value for effect in Effect] + [f"{family}.*" for family in sorted(FAMILIES)]
        close = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known: {', '.join(known)}"
        raise ValueError(f"`{pattern}` is no effect{hint}") from None


def is_literal(pattern: str) -> bool:
    """Whether it names exactly one thing."""
    return not _WILD.intersection(pattern)


@lru_cache(maxsize=8192)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as an anchored regular expression."""
    return re.compile(fnmatch.translate(pattern))


def matches(pattern: str, name: str) -> bool:
    """Whether `name` as a whole fits the pattern."""
    return compiled(pattern).match(name) is not None


def could_match_under(pattern: str, prefix: str) -> bool:
    """Whether some name that begins with `prefix` fits: `public.users.ssn` could for the prefix `public.users.`."""
    tokens = _tokens(pattern)
    states = _closure({0}, tokens)
    for character in prefix:
        following = set()
        for state in states:
            if state == len(tokens):
                continue
            if tokens[state] == "*":
                following.add(state)
            elif matches(tokens[state], character):
                following.add(state + 1)
        states = _closure(following, tokens)
    return any(state < len(tokens) for state in states)


def touches(pattern: str, name: str) -> bool:
    """What a stopping rule asks: like `matches` without letter case.

    A name that ends in `.*` (all columns of a table) touches each pattern beneath it; the name `*` (anything) all.
    """
    pattern, name = pattern.casefold(), name.casefold()
    return matches(pattern, name) or (name.endswith("*") and _under(pattern, name))


def _under(pattern: str, name: str) -> bool:
    return name == "*" or (name.endswith(".*") and could_match_under(pattern, name[:-1]))


def _tokens(pattern: str) -> list[str]:
    tokens, index = [], 0
    while index < len(pattern):
        end = index + 1
        if pattern[index] == "[":
            end = pattern.index("]", index + (3 if pattern.startswith("[!", index) else 2)) + 1
        tokens.append(pattern[index:end])
        index = end
    return tokens


def _closure(states: set[int], tokens: list[str]) -> set[int]:
    result = set(states)
    for state in states:
        while state < len(tokens) and tokens[state] == "*":
            state += 1
            result.add(state)
    return result


class NameIndex:
    """Patterns of many rules; rule `n` is bit `n` of every answer. A rule without patterns is in every answer.

    `granting` compares as `matches` does, otherwise as `touches` does.

    The cost of one look-up does not grow with the number of literal, `prefix*` and `*suffix` patterns, and every answer
    is cached (bounded: clients choose the names).
    """

    def __init__(self, patterns_of_rules: Iterable[tuple[int, Iterable[str]]], *, granting: bool) -> None:
        self.unlimited = 0
        self._granting = granting
        self._literals: dict[str, int] = {}
        self._prefixes: dict[str, int] = {}
        self._suffixes: dict[str, int] = {}
        self._others: dict[str, int] = {}
        for bit, patterns in patterns_of_rules:
            listed = tuple(patterns)
            if not listed:
                self.unlimited |= 1 << bit
            for pattern in listed:
                self._add(pattern if granting else pattern.casefold(), 1 << bit)
        self._prefix_lengths = sorted({len(prefix) for prefix in self._prefixes})
        self._suffix_lengths = sorted({len(suffix) for suffix in self._suffixes})
        self._found: dict[str, int] = {}

    def _add(self, pattern: str, mask: int) -> None:
        if is_literal(pattern):
            kind, key = self._literals, pattern
        elif pattern.endswith("*") and is_literal(pattern[:-1]):
            kind, key = self._prefixes, pattern[:-1]
        elif pattern.startswith("*") and is_literal(pattern[1:]):
            kind, key = self._suffixes, pattern[1:]
        else:
            kind, key = self._others, pattern
        kind[key] = kind.get(key, 0) | mask

    def rules(self, name: str) -> int:
        """The rules with a pattern that the name fits, and the rules without patterns."""
        found = self._found.get(name)
        if found is None:
            found = self._search(name) if self._granting else self._search_touching(name.casefold())
            if len(self._found) >= _CACHE_LIMIT:
                self._found.clear()
            self._found[name] = found
        return found

    def _search_touching(self, name: str) -> int:
        mask = self._search(name)
        if name.endswith("*"):
            for pattern, rules in self._all():
                if _under(pattern, name):
                    mask |= rules
        return mask

    def _search(self, name: str) -> int:
        mask = self.unlimited | self._literals.get(name, 0)
        for length in self._prefix_lengths:
            mask |= self._prefixes.get(name[:length], 0)
        for length in self._suffix_lengths:
            if length <= len(name):
                mask |= self._suffixes.get(name[len(name) - length :], 0)
        for pattern, rules in self._others.items():
            if matches(pattern, name):
                mask |= rules
        return mask

    def _all(self) -> Iterable[tuple[str, int]]:
        yield from self._literals.items()
        yield from ((f"{prefix}*", rules) for prefix, rules in self._prefixes.items())
        yield from ((f"*{suffix}", rules) for suffix, rules in self._suffixes.items())
        yield from self._others.items()
