"""Secrets in answers: the values are masked, keys and metadata stay.

`data` and `stringData` are masked wherever an object of the kind stands: alone, in a list, in a watch's events, in a
Table's rows; the annotation in which `kubectl apply` keeps what was applied is masked as well, and those of other tools
too. `managedFields` name fields and hold no values. What cannot be read is withheld.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from protocols.kubernetes import objects
from protocols.kubernetes.errors import Unreadable, Withheld
from protocols.kubernetes.requests import RequestInfo

PLACEHOLDER = "[masked]"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MAX_ANSWER = 32 * 1024 * 1024  # bytes; a longer list must be asked for in pages (`limit`, as kubectl does)
_ENCODED = base64.b64encode(PLACEHOLDER.encode()).decode()
_VALUES = {"data": True, "binaryData": True, "stringData": False}  # and whether they are base64
_PACKED = "H4sI"  # gzip in base64
_TELLING = 6  # bytes: what is shorter stands in many texts
_SHOWN = 63  # letters of an annotation's name, on record
_STATUS = frozenset({"kind", "apiVersion", "metadata", "status", "message", "reason", "details", "code"})
_KINDS = {"secrets": "Secret", "configmaps": "ConfigMap"}


def _placeholder(_: bytes) -> bytes:
    return PLACEHOLDER.encode()


def _nothing(_namespace: str, _name: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class MaskedObjects:
    """What is masked: `resources` of the core group.

    `shows` says of a namespace and a name whether that Secret's values may be seen, for answers that hold several.
    `replace` makes the mask of one value. What either raises withholds the answer.
    """

    resources: frozenset[str] = frozenset({"secrets"})
    replace: Callable[[bytes], bytes] = _placeholder
    shows: Callable[[str, str], bool] = _nothing

    def applies(self, request: RequestInfo) -> bool:
        """Whether answers to this request may hold such an object."""
        if not request.resource_request or request.group:
            return False  # of a subresource too: what it answers is not known
        return request.resource in self.resources


@dataclass(frozen=True, slots=True)
class Masked:
    """An answer with its values masked, and where they stood."""

    body: bytes
    fields: tuple[str, ...] = ()  # `NAMESPACE/NAME data.KEY`


def mask_answer(
    body: bytes, content_type: str, request: RequestInfo, what: MaskedObjects, limit: int = MAX_ANSWER
) -> Masked:
    """Masks a whole answer. One that needs no mask is returned as it came. Raises `Withheld`."""
    if not what.applies(request) or not body:
        return Masked(body)
    kind = objects.media_type(content_type)
    if kind not in ("application/json", "application/yaml"):
        raise Withheld(f"an answer of type `{kind[:80]}` cannot be masked")
    return _mask_text(body, content_type, request, what, limit)


def mask_event(line: bytes, request: RequestInfo, what: MaskedObjects, limit: int = MAX_ANSWER) -> Masked:
    """Masks one event of a watch, `{"type": ..., "object": ...}`. Raises `Withheld`."""
    return _mask_text(line, "application/json", request, what, limit)


def walk_of(request: RequestInfo, what: MaskedObjects) -> Walk:
    """Masks what an answer to this request is made of. Its methods raise `Withheld`, and whatever the masks raise."""
    return Walk(_KINDS.get(request.resource, ""), what)


def _mask_text(body: bytes, content_type: str, request: RequestInfo, what: MaskedObjects, limit: int) -> Masked:
    walk = walk_of(request, what)
    try:
        document = objects.read(body, content_type, limit)
        if not isinstance(document, dict):
            raise Withheld("an answer that is no object cannot be masked")
        walk.document(document)
    except Unreadable as error:
        raise Withheld(f"an answer that cannot be read cannot be masked: {error}") from None
    except Withheld:
        raise
    except Exception:
        # a mask that fails must not show what it was given, also not in a traceback's cause
        raise Withheld("the mask of a value failed") from None
    if not walk.fields:
        return Masked(body)
    # JSON is YAML too
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Masked(text + b"\n" * body.endswith(b"\n"), tuple(walk.fields))


class Walk:
    """One pass over a document, in place."""

    def __init__(self, kind: str, what: MaskedObjects) -> None:
        self._kind = kind
        self._what = what
        self.fields: list[str] = []
        self.values: list[bytes] = []

    def document(self, document: dict[str, Any]) -> None:
        kind = document.get("kind")
        if kind == "Status":
            self._no_values(document)
            return
        if kind == "Table":
            self._table(document)
        elif "type" in document and isinstance(document.get("object"), dict):
            # an event of a watch; a Secret has a `type` and no `object`
            self.document(document["object"])
        elif isinstance(document.get("items"), list):
            for item in document["items"]:
                if not isinstance(item, dict):
                    raise Withheld("a list holds what is no object")
                self.object(item)
        elif document.get("items") is not None:
            raise Withheld("a list that is none cannot be masked")
        # whatever it calls itself: an object that has values has them masked
        self.object(document)

    def _table(self, table: dict[str, Any]) -> None:
        rows = table.get("rows")
        for row in rows if isinstance(rows, list) else []:
            if not isinstance(row, dict):
                raise Withheld("a table holds what is no row")
            shown = row.get("object")
            if isinstance(shown, dict):
                self.object(shown)

    def _no_values(self, document: Mapping[str, Any]) -> None:
        if document.keys() - _STATUS:
            raise Withheld("a status holds what only an object has")

    def object(self, item: dict[str, Any], *, applied: bool = False) -> None:
        """One object, or a part of one. `applied`: as somebody else once wrote it, so that its name proves nothing."""
        metadata = item.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        place = metadata.get("namespace", ""), metadata.get("name", "")
        named = bool(place[1]) and all(isinstance(part, str) for part in place)
        if self._kind == "Secret" and not applied and named and self._what.shows(*place):
            return
        name = "/".join(map(str, place))
        for key, encoded in _VALUES.items():
            # a ConfigMap's `data` is text
            self._values(item, key, encoded and (self._kind == "Secret" or key == "binaryData"), name)
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict):
            for key in [key for key, text in annotations.items() if key == LAST_APPLIED or self._quotes(text)]:
                self._applied(annotations, key, name)

    def _quotes(self, text: Any) -> bool:
        """Whether an annotation holds the object once more (kapp, Rancher), or one of the values that were masked."""
        if not isinstance(text, str):
            return False
        if text.startswith(_PACKED) or (text.lstrip()[:1] == "{" and any(f'"{key}"' in text for key in _VALUES)):
            return True
        raw = text.encode("utf-8", "surrogatepass")
        seen = (value for value in self.values if len(value) >= _TELLING)
        return any(value in raw or base64.b64encode(value) in raw for value in seen)

    def _values(self, item: dict[str, Any], key: str, encoded: bool, name: str) -> None:
        values = item.get(key)
        if values is None:
            return
        if not isinstance(values, dict):
            item[key] = None
            self.fields.append(f"{name} {key}")
            return
        for entry, value in values.items():
            if value is None or value == "":
                continue
            self.fields.append(f"{name} {key}.{entry}")
            values[entry] = self._masked(value, encoded)

    def _masked(self, value: Any, encoded: bool) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        raw = text.encode()
        if encoded:
            try:
                raw = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                return _ENCODED
        self.values.append(raw)
        mask = self._what.replace(raw)
        return base64.b64encode(mask).decode() if encoded else mask.decode()

    def _applied(self, annotations: dict[str, Any], key: str, name: str) -> None:
        """The object as it was applied, as JSON text; it is masked inside, so that `kubectl apply` still works."""
        text = annotations[key]
        self.fields.append(f"{name} {key.rpartition('/')[2][:_SHOWN]}")
        try:
            applied = objects.read_json(text.encode()) if isinstance(text, str) else None
        except (Unreadable, UnicodeEncodeError):
            applied = None
        if not isinstance(applied, dict):
            annotations[key] = PLACEHOLDER
            return
        before = len(self.fields)
        inner = applied.get("metadata")
        nested = inner.get("annotations") if isinstance(inner, dict) else None
        if isinstance(nested, dict):
            for inside in [inside for inside, text in nested.items() if inside == LAST_APPLIED or self._quotes(text)]:
                del nested[inside]
        self.object(applied, applied=True)
        del self.fields[before:]  # named once already
        annotations[key] = json.dumps(applied, ensure_ascii=False, separators=(",", ":")) + "\n"


def holds_placeholder(document: Any) -> bool:
    """Whether a body carries a mask as a value: writing it would replace the real one for good."""
    if isinstance(document, dict):
        return any(map(holds_placeholder, document.values()))
    if isinstance(document, list):
        return any(map(holds_placeholder, document))
    return isinstance(document, str) and document.strip() in (PLACEHOLDER, _ENCODED)
