"""What a body carries into the cluster, as text that detectors can read.

The bytes alone do not say it: protobuf puts a length before a value, YAML folds and escapes it, a pod's environment has
a name here and its value there, a command line is a list of words. Here each value stands on lines of its own behind
its name (`DB_PASSWORD: ...`), whatever the format was.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from typing import Any

from protocols.kubernetes.secrets import LAST_APPLIED

_ENCODED = frozenset({"data", "binaryData"})  # of Secrets and ConfigMaps: values in base64
_VALUES = frozenset({"data", "stringData"})
_SHORT = 32  # characters; what is longer is opened by whoever reads the text


def said(document: Any) -> bytes:
    """Every name and every value of a document, one to a line; values that may be base64 also as what they stand for.

    `document` is as `objects.read` gives it: at most so deep and so large.
    """
    return "\n".join(_lines(document)).encode("utf-8", "surrogatepass")


def without(document: Any, known: Callable[[bytes], bool]) -> tuple[Any, bool]:
    """A Secret, or a patch of one, without the values that are `known` and stay where they were; whether there are any.

    A value counts only whole, and only where it is one of the Secret's: anywhere else it would be for all to see.
    """
    if isinstance(document, list):
        found = [_operation(item, known) for item in document]
        return [item for item, _ in found], any(less for _, less in found)
    if not isinstance(document, dict):
        return document, False
    kept, dropped = dict(document), False
    for name in _VALUES & document.keys():
        kept[name], less = _values(document[name], known)
        dropped = dropped or less
    metadata = document.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    applied = annotations.get(LAST_APPLIED) if isinstance(annotations, dict) else None
    if isinstance(metadata, dict) and isinstance(annotations, dict) and isinstance(applied, str):
        inner, less = _applied(applied, known)
        if less:
            kept["metadata"] = metadata | {"annotations": annotations | {LAST_APPLIED: inner}}
            dropped = True
    return kept, dropped


def _values(values: Any, known: Callable[[bytes], bool]) -> tuple[Any, bool]:
    if not isinstance(values, dict):
        return values, False
    kept = {key: value for key, value in values.items() if not _is_known(value, known)}
    return dict.fromkeys(values, "") | kept, len(kept) < len(values)


def _applied(text: str, known: Callable[[bytes], bool]) -> tuple[Any, bool]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text, False
    return without(document, known) if isinstance(document, dict) else (text, False)


def _operation(item: Any, known: Callable[[bytes], bool]) -> tuple[Any, bool]:
    path, value = (item.get("path"), item.get("value")) if isinstance(item, dict) else ("", None)
    parts = path.split("/") if isinstance(path, str) else []
    if len(parts) < 2 or parts[0] or parts[1] not in _VALUES:
        return item, False
    if len(parts) == 2:
        values, less = _values(value, known)
        return item | {"value": values}, less
    return (item | {"value": ""}, True) if len(parts) == 3 and _is_known(value, known) else (item, False)


def _is_known(value: Any, known: Callable[[bytes], bool]) -> bool:
    if not isinstance(value, str) or not value:
        return False
    opened = _decoded(value)
    return known(value.encode("utf-8", "surrogatepass")) or bool(opened and known(opened))


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _lines(value: Any, name: str = "", *, encoded: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        yield from _of_map(value, encoded=name in _ENCODED)
    elif isinstance(value, list):
        texts = [_text(item) for item in value if not isinstance(item, dict | list)]
        if len(texts) > 1:
            yield f"{name}: {' '.join(texts)}"
        for item in value:
            yield from _lines(item, name)
    elif value is not None and value != "":
        text = _text(value)
        yield f"{name}: {text}"
        if encoded and isinstance(value, str) and (opened := _opened(value)):
            yield f"{name}: {opened}"


def _of_map(value: dict[str, Any], *, encoded: bool) -> Iterator[str]:
    for name, content in _paired(value):
        yield from _lines(content, name)
    for key, inner in value.items():
        if isinstance(inner, dict | list) or inner is None or inner == "":
            yield key  # a name alone carries something, too
        yield from _lines(inner, key, encoded=encoded)


def _paired(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A name and what it names, where they stand side by side: environment variables, operations of a JSON patch."""
    name, path = value.get("name"), value.get("path")
    if isinstance(name, str) and "value" in value:
        yield name, value["value"]
    if isinstance(path, str) and "op" in value and "value" in value:
        *before, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]
        yield last, value["value"]
        if before and before[-1] in _ENCODED and isinstance(value["value"], str):
            yield last, _opened(value["value"])


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else str(value)


def _opened(value: str) -> str:
    """What a short base64 text stands for, where that is text."""
    if len(value) > _SHORT:
        return ""
    try:
        return _decoded(value).decode()
    except UnicodeDecodeError:
        return ""
