"""YAML text -> plain data and the position of every key and value.

The node tree is walked here instead of using a constructor: that gives exact positions and leaves no room for tags,
aliases (a few bytes that become gigabytes) or types that only some readers know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from guard.documents.problems import ConfigError, Problem

Location = tuple[str | int, ...]
MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 40
_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Mark:
    """A position, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """The data of one file, with the marks of its keys (list items: their first character) and values."""

    path: Path
    data: Any
    keys: Mapping[Location, Mark]
    values: Mapping[Location, Mark]

    def resolve(self, location: Location) -> Location:
        """The part of `location` that exists in the data; what only a schema knows (a union's tag) is skipped."""
        found: list[str | int] = []
        for part in location:
            if (*found, part) in self.values:
                found.append(part)
        return tuple(found)

    def problem(self, location: Location, message: str, *, key: bool = False, warning: bool = False) -> Problem:
        """A problem at `location`: at its value, or at its key."""
        place = self.resolve(location)
        mark = (self.keys if key else self.values).get(place) or self.values.get(place) or Mark(1, 1)
        return Problem(str(self.path), mark.line, mark.column, message, warning)


def read(path: Path) -> Document:
    """Read one YAML document. Raises ConfigError with everything that is wrong with it as YAML."""
    try:
        # one byte more than allowed, so that a device or an endless file cannot fill the memory
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError([Problem(str(path), 0, 0, f"cannot be read: {reason}")]) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError([Problem(str(path), 0, 0, f"larger than {MAX_BYTES} bytes; split it")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise ConfigError([Problem(str(path), line, column, "not UTF-8; save the file as UTF-8")]) from error
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """The same for text that is already here; `path` only names it in problems."""
    try:
        aliases = _aliases(text, path)
        if aliases:
            raise ConfigError(aliases)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        # `problem` names tokens of the grammar, not values; `note` and the snippet could quote a secret
        what = str(error.problem or error.context or "cannot be parsed").lower()
        raise ConfigError([Problem(str(path), line, column, f"not valid YAML: {what}")]) from error
    except YAMLError as error:
        raise ConfigError([Problem(str(path), 0, 0, "not valid YAML: a character that YAML does not allow")]) from error
    except RecursionError as error:
        raise ConfigError([Problem(str(path), 0, 0, "nested too deeply")]) from error
    if node is None:
        raise ConfigError([Problem(str(path), 0, 0, "empty file")])
    walker = _Walker(path)
    data = walker.value(node, (), 0)
    if walker.problems:
        raise ConfigError(walker.problems)
    return Document(path, data, walker.keys, walker.values)


def _aliases(text: str, path: Path) -> list[Problem]:
    """Aliases are refused before composing: composing resolves them."""
    return [
        Problem(str(path), event.start_mark.line + 1, event.start_mark.column + 1, "aliases (`*name`) are not read")
        for event in YAML(typ="safe", pure=True).parse(text)
        if isinstance(event, AliasEvent)
    ]


class _Walker:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.keys: dict[Location, Mark] = {}
        self.values: dict[Location, Mark] = {}

    def value(self, node: Node, location: Location, depth: int) -> Any:
        self.values[location] = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
        if depth > MAX_DEPTH:
            self._problem(node, "nested too deeply")
            return None
        if isinstance(node, MappingNode):
            if not self._plain(node, "map"):
                return {}
            return self._mapping(node, location, depth)
        if isinstance(node, SequenceNode):
            if not self._plain(node, "seq"):
                return []
            items = []
            for index, child in enumerate(node.value):
                place = (*location, index)
                self.keys[place] = Mark(child.start_mark.line + 1, child.start_mark.column + 1)
                items.append(self.value(child, place, depth + 1))
            return items
        assert isinstance(node, ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: MappingNode, location: Location, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, ScalarNode) or key_node.tag != f"{_TAG}str":
                self._problem(key_node, "a key must be a word; put quotes around it if it looks like a number")
                continue
            key = str(key_node.value)
            if key in result:
                first = self.keys[(*location, key)]
                self._problem(key_node, f"`{key}` is given twice (first in line {first.line})")
                continue
            place = (*location, key)
            self.keys[place] = Mark(key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = self.value(child, place, depth + 1)
            if isinstance(child, ScalarNode) and not child.value and child.style is None:
                self.values[place] = self.keys[place]  # nothing is written: the parser says it stands in the next line
        return result

    def _scalar(self, node: ScalarNode) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        text = str(node.value)
        if kind in ("str", "timestamp"):
            return text  # a date is text until a schema says otherwise
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int":
                digits = text.replace("_", "")
                return int(digits, 10 if _DECIMAL.match(digits) else 0)
            if kind == "float":
                number = float(text.replace("_", ""))
                if math.isfinite(number):
                    return number
        except ValueError:
            pass  # reported below: a number of a form that only some readers know
        self._problem(node, "expected text, a finite number, true, false, null, a list or a mapping")
        return None

    def _plain(self, node: Node, kind: str) -> bool:
        if node.tag == f"{_TAG}{kind}":
            return True
        self._problem(node, "tags (`!name`) are not read")
        return False

    def _problem(self, node: Node, message: str) -> None:
        self.problems.append(
            Problem(str(self.path), node.start_mark.line + 1, node.start_mark.column + 1, message),
        )
