"""YAML text -> plain data and the position of every key and value.

The parser's events are read here instead of using a constructor: that gives exact positions and leaves no room for
tags, aliases (a few bytes that become gigabytes), directives, or types that only some readers know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode

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
    walker = _Walker(text, path)
    try:
        data = walker.document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        # `problem` names tokens of the grammar, not values; `note` and the snippet could quote a secret
        what = str(error.problem or error.context or "cannot be parsed").lower()
        raise ConfigError([Problem(str(path), line, column, f"not valid YAML: {what}")]) from None
    except YAMLError:
        raise ConfigError([Problem(str(path), 0, 0, "not valid YAML: a character that YAML does not allow")]) from None
    if walker.problems:
        raise ConfigError(walker.problems)
    return Document(path, data, walker.keys, walker.values)


class _Walker:
    def __init__(self, text: str, path: Path) -> None:
        yaml = YAML(typ="safe", pure=True)
        self._events: Iterator[Event] = yaml.parse(text)
        self._resolver = yaml.resolver
        self._path = path
        self.problems: list[Problem] = []
        self.keys: dict[Location, Mark] = {}
        self.values: dict[Location, Mark] = {}

    def document(self) -> Any:
        """The one document of the text. Raises the parser's errors, and ConfigError where going on makes no sense."""
        data: Any = None
        documents = 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if event.version is not None or event.tags:
                    self._stop(event, "directives (`%...`) are not read")
                if documents > 1:
                    self._stop(event, "a second document; one file is one document")
                data = self._value(next(self._events), (), 0)
        if not documents:
            raise ConfigError([Problem(str(self._path), 0, 0, "empty file")])
        return data

    def _value(self, event: Event, location: Location, depth: int) -> Any:
        self.values[location] = _mark(event)
        if depth > MAX_DEPTH:
            self._stop(event, "nested too deeply")
        if isinstance(event, AliasEvent):
            self._problem(event, "aliases (`*name`) are not read")
            return None
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            if event.ctag is not None:
                self._problem(event, "tags (`!name`) are not read")
            walk = self._mapping if isinstance(event, MappingStartEvent) else self._sequence
            return walk(location, depth)
        return self._scalar(event)

    def _sequence(self, location: Location, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            place = (*location, len(items))
            self.keys[place] = _mark(event)
            items.append(self._value(event, place, depth + 1))
        return items

    def _mapping(self, location: Location, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = event.value if isinstance(event, ScalarEvent) and self._kind(event) == "str" else None
            if key is None:
                self._problem(event, "a key must be a word; put quotes around it if it looks like a number")
                self._skip(event, location, depth)
                continue
            place = (*location, key)
            if key in result:
                self._problem(event, f"`{key}` is given twice (first in line {self.keys[place].line})")
                self._skip(None, location, depth)
                continue
            self.keys[place] = _mark(event)
            child = next(self._events)
            result[key] = self._value(child, place, depth + 1)
            if isinstance(child, ScalarEvent) and not child.value and child.style is None:
                self.values[place] = self.keys[place]  # nothing is written: the parser says it stands in the next line
        return result

    def _skip(self, key: Event | None, location: Location, depth: int) -> None:
        """Read over a pair: its key, where that is no scalar, and its value. Their own problems are told, too."""
        place = (*location, "")
        if key is not None and not isinstance(key, ScalarEvent):
            self._value(key, place, depth + 1)
        self._value(next(self._events), place, depth + 1)

    def _kind(self, event: ScalarEvent) -> str:
        if event.ctag is not None:
            return "tagged"
        return str(self._resolver.resolve(ScalarNode, event.value, event.implicit)).removeprefix(_TAG)

    def _scalar(self, event: Event) -> Any:
        assert isinstance(event, ScalarEvent)
        kind, text = self._kind(event), str(event.value)
        if kind == "tagged":
            self._problem(event, "tags (`!name`) are not read")
            return None
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
        self._problem(event, "expected text, a finite number, true, false, null, a list or a mapping")
        return None

    def _problem(self, event: Event, message: str) -> None:
        mark = _mark(event)
        self.problems.append(Problem(str(self._path), mark.line, mark.column, message))

    def _stop(self, event: Event, message: str) -> NoReturn:
        self._problem(event, message)
        raise ConfigError(self.problems)


def _mark(event: Event) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)
