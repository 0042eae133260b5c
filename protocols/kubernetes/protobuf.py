"""Objects in Kubernetes' protobuf, which stock kubectl sends for what it creates itself: read, never written.

An object is the magic `k8s\\0`, then a `runtime.Unknown`: its type, and the encoded object. The fields of each kind are
in `protobuf.json` (written by scripts/kube_schema). A field or a kind that is not there, a field twice that can stand
once: the body is unreadable. Source: Kubernetes' "API concepts: protobuf encoding idl".
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocols.kubernetes.errors import Unreadable

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
MAX_DEPTH = 60
_VARINT, _FIXED64, _BYTES = 0, 1, 2

type Fields = dict[int, tuple[str, str, bool]]  # JSON name (none: inlined), type, repeated


@functools.cache
def _schema() -> tuple[dict[str, str], dict[str, Fields]]:
    document = json.loads((Path(__file__).parent / "protobuf.json").read_text())
    messages = {
        name: {int(number): (shown, kind, bool(many)) for number, (shown, kind, many) in fields.items()}
        for name, fields in document["messages"].items()
    }
    return document["kinds"], messages


def read(body: bytes) -> dict[str, Any]:
    """The object as it would stand in JSON. Raises `Unreadable`."""
    if not body.startswith(MAGIC):
        raise Unreadable("the body is not kubernetes' protobuf")
    type_meta, raw = b"", b""
    seen: set[int] = set()
    for number, value in _fields(body[len(MAGIC) :]):
        if number in seen or number > 4 or not isinstance(value, bytes):
            raise Unreadable("the body's envelope is not valid")
        seen.add(number)
        if number == 1:
            type_meta = value
        elif number == 2:
            raw = value
        elif value:
            raise Unreadable("the body is encoded a second time")
    api_version, kind = _type_meta(type_meta)
    kinds, _ = _schema()
    name = kinds.get(kind) or kinds.get(f"{_package(api_version)} {kind}")
    if name is None:
        raise Unreadable("the body is of a kind that is not read as protobuf: send json")
    return {"apiVersion": api_version, "kind": kind} | _message(raw, name, 0)


def _type_meta(data: bytes) -> tuple[str, str]:
    found = {1: "", 2: ""}
    for number, value in _fields(data):
        if number not in found or found[number]:
            raise Unreadable("the body's envelope is not valid")
        found[number] = _text(value)
    return found[1], found[2]


def _package(api_version: str) -> str:
    """`rbac.authorization.k8s.io/v1` is described in `rbac/v1`, `v1` in `core/v1`."""
    group, slash, version = api_version.rpartition("/")
    if not slash:
        return f"core/{version}"
    short, dot, rest = group.partition(".")
    return f"{short}/{version}" if not dot or rest.endswith("k8s.io") else ""


def _message(data: bytes, name: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise Unreadable("the body is nested too deeply")
    known = _schema()[1][name]
    out: dict[str, Any] = {}
    seen: set[int] = set()
    for number, value in _fields(data):
        field = known.get(number)
        if field is None:
            raise Unreadable("the body has a field that is not known here: send json")
        shown, kind, many = field
        if number in seen and not many:
            raise Unreadable("the body says a field twice")
        seen.add(number)
        if kind.startswith("map:"):
            _entry(out.setdefault(shown, {}), value, kind[4:], depth)
        elif many:
            out.setdefault(shown, []).append(_value(value, kind, depth))
        elif shown:
            out[shown] = _value(value, kind, depth)
        else:
            out |= _message(_bytes(value), kind, depth + 1)
    return out


def _entry(found: dict[str, Any], value: int | bytes, kind: str, depth: int) -> None:
    key, inner = "", None
    seen: set[int] = set()
    for number, part in _fields(_bytes(value)):
        if number not in (1, 2) or number in seen:
            raise Unreadable("the body holds a map that is not valid")
        seen.add(number)
        if number == 1:
            key = _text(part)
        else:
            inner = _value(part, kind, depth)
    if key in found:
        raise Unreadable("the body says a key twice")
    found[key] = "" if inner is None else inner


def _value(value: int | bytes, kind: str, depth: int) -> Any:
    match kind:
        case "string":
            return _text(value)
        case "bool":
            return bool(_integer(value))
        case "int":
            number = _integer(value)
            return number - (1 << 64) if number >> 63 else number
        case "bytes":
            return base64.b64encode(_bytes(value)).decode()
        case "strings":
            return [_text(part) for _, part in _fields(_bytes(value))]
        case "quantity":
            return "".join(_text(part) for _, part in _fields(_bytes(value)))
        case "time":
            parts = dict(_fields(_bytes(value)))
            return _moment(_integer(parts.get(1, 0)))
        case "duration":
            return str(next((part for _, part in _fields(_bytes(value))), 0))
        case "int_or_string":
            parts = dict(_fields(_bytes(value)))
            return _text(parts.get(3, b"")) if parts.get(1) else _value(parts.get(2, 0), "int", depth)
        case "raw":
            return _raw(value)
        case "double":
            raise Unreadable("the body has a field that is not read here: send json")
    return _message(_bytes(value), kind, depth + 1)


def _raw(value: int | bytes) -> Any:
    """An object inside an object, which is JSON."""
    from protocols.kubernetes.objects import read_json  # the two read each other's formats

    inner = b"".join(_bytes(part) for _, part in _fields(_bytes(value)))
    return read_json(inner) if inner else None


def _moment(seconds: int) -> str:
    signed = seconds - (1 << 64) if seconds >> 63 else seconds
    try:
        return datetime.datetime.fromtimestamp(signed, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        raise Unreadable("the body holds a moment that cannot be") from None


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise Unreadable("the body holds text that is not utf-8") from None


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise Unreadable("the body holds a field of another type")


def _integer(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    raise Unreadable("the body holds a field of another type")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values: an int for a varint, bytes for what has a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _FIXED64:
            size = 8
        elif wire == _BYTES:
            size, at = _varint(data, at)
        else:
            raise Unreadable("the body is not valid protobuf")
        if not number or size > len(data) - at:
            raise Unreadable("the body is not valid protobuf")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
        shift += 7
    raise Unreadable("the body is not valid protobuf")
