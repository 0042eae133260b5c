"""Field paths: a small automaton over the keys from a document's root to a value. Arrays are transparent.

Letter case does not count: a path that is written in another case than the document must mask, not silently miss.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guard.mask.bodies.rules import FieldRule, strictest
from guard.mask.bodies.values import TELLING_WORDS
from protocols.contract import ColumnMask

_DEEP = "**"
_MOST_CACHED = 4096  # transitions: keys come from bodies

# one key or value of JSON without an escape, and as JSON's grammar (RFC 8259) has it
_KEY = rb'"[ !#-\[\]-~]*"'
STRING = rb'"[^"\\\x00-\x1f]*"'
NUMBER = rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_SPACE = rb"[ \t\n\r]*"
_SCALAR = rb"(?:" + STRING + rb"|" + NUMBER + rb"|true|false|null)" + _SPACE
_COMMA = rb"," + _SPACE
# a value without containers that could hold something of interest
_FLAT = (
    rb"(?:" + _SCALAR + rb"|\[" + _SPACE + rb"(?:(?:" + _SCALAR + _COMMA + rb")*+" + _SCALAR + rb")?\]" + _SPACE
    + rb"|\{" + _SPACE + rb"\}" + _SPACE + rb")"
)  # fmt: skip
# a key (1) and its scalar (2), with the comma behind it (3) or before the end of the object
MEMBER = re.compile(
    rb'"([ !#-\[\]-~]*+)"' + _SPACE + rb":" + _SPACE + rb"(" + STRING + rb"|" + NUMBER + rb"|true|false|null)"
    + _SPACE + rb"(?:(" + _COMMA + rb")|(?=\}))"
)  # fmt: skip

# from the end of an object to the first key of the next one in the same array
NEXT_OBJECT = re.compile(rb"\}" + _SPACE + _COMMA + rb"\{" + _SPACE + rb'(?=")')


class PathError(ValueError):
    """A path that can never match. The text says why."""


def steps(path: str) -> tuple[str, ...]:
    """The keys of a path, folded; `**` is any number of them. Raises PathError."""
    text = path.removeprefix("$").removeprefix(".")
    found: list[str] = []
    for step in re.findall(r"(?:\\.|[^.\\])+", text) if text else []:
        name = re.sub(r"(?:\[(?:\*|[0-9]*)\])+\Z", "", step)
        name = re.sub(r"\\(.)", r"\1", name) if "\\" in name else name
        if name:
            found.append(name.casefold())
    if not found or ".." in re.sub(r"\\.", "", text) or text.endswith("."):
        raise PathError(f"field path `{path}` has an empty part: write it like a.b, a[].b or **.b")
    return tuple(found)


def glob(name: str, one: str = ".") -> str:
    """A key with `*` and `?` as a regular expression; `one` is what stands for any character."""
    return "".join(f"{one}*" if c == "*" else one if c == "?" else re.escape(c) for c in name)


class Paths:
    """All field rules of a body."""

    def __init__(self, rules: Sequence[FieldRule]) -> None:
        """Raises PathError."""
        self.rules = tuple(rules)
        self.steps = tuple(steps(rule.path) for rule in rules)
        self.tests = tuple(tuple(re.compile(glob(s) + r"\Z", re.DOTALL) for s in each) for each in self.steps)
        self._nodes: dict[frozenset[tuple[int, int]], Node] = {}
        self.root = self.node(frozenset((r, 0) for r in range(len(rules))))

    def node(self, places: frozenset[tuple[int, int]]) -> Node:
        closed = set(places)
        for rule, at in places:
            while at < len(self.steps[rule]) and self.steps[rule][at] == _DEEP:
                at += 1
                closed.add((rule, at))
        key = frozenset(closed)
        found = self._nodes.get(key)
        if found is None:
            if len(self._nodes) >= _MOST_CACHED:
                self._nodes.clear()
            found = self._nodes[key] = Node(self, key)
        return found

    def named(self, name: str) -> ColumnMask | None:
        """The mask of a field that is no part of anything: its name is the path."""
        return self.root.after(name).mask


class Node:
    """Where in which rules a container is; what its members are follows from their keys."""

    __slots__ = ("_next", "_paths", "_plain", "careful_run", "mask", "places", "run")

    def __init__(self, paths: Paths, places: frozenset[tuple[int, int]]) -> None:
        self._paths = paths
        self.places = places
        self._next: dict[str, Node] = {}
        self._plain: dict[bytes, Node] = {}
        # of a value that is here
        self.mask = strictest(paths.rules[rule].mask for rule, at in sorted(places) if at == len(paths.steps[rule]))
        # members that no rule masks, with their commas; group 1: the last of all
        self.run = re.compile(self._run(b""), re.DOTALL)
        # the same without keys that make a detector look closer at their values
        self.careful_run = re.compile(self._run(rb'(?!"[^"\\]*' + TELLING_WORDS + rb")"), re.DOTALL)

    def after(self, key: str) -> Node:
        found = self._next.get(key)
        if found is None:
            if len(self._next) >= _MOST_CACHED:
                self._next.clear()
            found = self._next[key] = self._after(key.casefold())
        return found

    def after_plain(self, key: bytes) -> Node:
        """The same for a key in ASCII as it stands in the document."""
        found = self._plain.get(key)
        if found is None:
            if len(self._plain) >= _MOST_CACHED:
                self._plain.clear()
            found = self._plain[key] = self.after(key.decode("ascii"))
        return found

    def _after(self, key: str) -> Node:
        out: set[tuple[int, int]] = set()
        for rule, at in self.places:
            if at == len(self._paths.steps[rule]):
                continue
            if self._paths.steps[rule][at] == _DEEP:
                out.add((rule, at))
            elif self._paths.tests[rule][at].match(key):
                out.add((rule, at + 1))
        return self._paths.node(frozenset(out))

    def _run(self, besides: bytes) -> bytes:
        """A key is passed over only when no rule ends with it: it is one whose letters are ASCII, and not named."""
        ends: set[str] = set()
        for rule, at in self.places:
            each = self._paths.steps[rule]
            if at < len(each) and all(step == _DEEP for step in each[at + 1 :]):
                ends.add(glob("*" if each[at] == _DEEP else each[at], r'[^"\\]'))
        barred = rb'(?!"(?i:' + "|".join(sorted(ends)).encode() + rb')")' if ends else b""
        member = besides + barred + _KEY + _SPACE + rb":" + _SPACE + _FLAT
        return rb"(?:" + member + _COMMA + rb")*+(" + member + rb"(?=\}))?"


ARRAY_RUN = re.compile(rb"(?:" + _SCALAR + _COMMA + rb")*+(" + _SCALAR + rb"(?=\]))?", re.DOTALL)
