"""What crosses to the process that analyses long texts, and back: pickled, and less of it than there is.

There: the copy of a session's state, a catalog, without what either of them has worked out and kept. Back: a `Read`,
which names its text where it would repeat it.

What pickles holds the interpreter for as long as it takes, but for the calls that it makes: there is one for every
object of a class, so that a thread that pickles a large catalog lets the event loop go on.

INVARIANT: no I/O but on the files that are given; nothing but classes of `protocols` is made of what comes back.
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import io
import operator
import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any

# of a class: attributes that stay behind, and what they are on the other side; of a dataclass perhaps none
LeftOut = Mapping[type, Mapping[str, Any]]

_TEXT, _DECODED = "text", "decoded"
_REPEATED = 1024  # characters of a text from which on it is named, not repeated


class CrossingError(Exception):
    """What came back is nothing that an analysis gives."""


class _There(pickle.Pickler):
    def __init__(self, file: Any, left_out: LeftOut) -> None:
        super().__init__(file, protocol=5)
        self._left_out = left_out

    def reducer_override(self, obj: Any) -> Any:
        cls: Any = type(obj)
        left_out = self._left_out.get(cls)
        if left_out is None:
            return NotImplemented
        return _reduced(obj, left_out) if left_out else (cls, _values(cls)(obj))


@functools.cache
def _values(cls: Any) -> Callable[[Any], tuple[Any, ...]]:
    """All of a dataclass: in half the time that it takes by itself."""
    return operator.attrgetter(*(one.name for one in dataclasses.fields(cls)))


def _reduced(obj: Any, left_out: Mapping[str, Any]) -> Any:
    cls = type(obj)
    if dataclasses.is_dataclass(cls):
        return cls, tuple(left_out.get(f.name, getattr(obj, f.name)) for f in dataclasses.fields(cls))
    slots = [name for base in cls.__mro__ for name in getattr(base, "__slots__", ())]
    values = {name: left_out.get(name, getattr(obj, name)) for name in slots}
    kept = {name: left_out.get(name, value) for name, value in getattr(obj, "__dict__", {}).items()}
    new = copyreg.__newobj__  # type: ignore[attr-defined]  # the name by which pickle knows how objects are made
    return new, (cls,), (kept or None, values)


def send(file: Any, value: Any, left_out: LeftOut) -> None:
    """Writes a state, a catalog or a plain value. Raises what pickle does, and OSError."""
    _There(file, left_out).dump(value)


class _Back(pickle.Pickler):
    def __init__(self, file: Any, text: bytes) -> None:
        super().__init__(file, protocol=5)
        self._text = text
        self._decoded = text.decode("ascii") if text.isascii() else None

    def persistent_id(self, obj: Any) -> str | None:
        cls = type(obj)
        if cls is bytes and len(obj) >= _REPEATED and obj == self._text:
            return _TEXT
        if cls is str and len(obj) >= _REPEATED and obj == self._decoded:
            return _DECODED
        return None


def pack(command: Any, text: bytes) -> bytes:
    """The analysis of this text as it goes back."""
    file = io.BytesIO()
    _Back(file, text).dump(command)
    return file.getvalue()


class _Unpack(pickle.Unpickler):
    def __init__(self, file: IO[bytes], text: bytes) -> None:
        super().__init__(file)
        self._text = text

    def persistent_load(self, pid: Any) -> Any:
        if pid == _TEXT:
            return self._text
        if pid == _DECODED:
            return self._text.decode("ascii")
        raise CrossingError("a reference to nothing")

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("protocols.") and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__.startswith("protocols."):
                return found
        raise CrossingError(f"`{module}.{name}` is no part of an analysis")


def unpack(data: bytes, text: bytes) -> Any:
    """What `pack` was given, of the same text. Raises `CrossingError`, and what pickle does."""
    return _Unpack(io.BytesIO(data), text).load()
