"""Objects with resource versions, selectors, and watches that miss nothing."""

from __future__ import annotations

import asyncio
import base64
import copy
import datetime
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.apiserver.catalogue import Kind

type Object = dict[str, Any]


class Refusal(Exception):
    """An HTTP status, a reason of the API's and a message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    type: str  # ADDED, MODIFIED, DELETED
    kind: Kind
    item: Object


def selected(item: Object, field_selector: str, label_selector: str) -> bool:
    return _fields(item, field_selector) and _labels(item["metadata"].get("labels") or {}, label_selector)


def _fields(item: Object, selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        path, negated, wanted = re.split(r"(!=|==?)", term, maxsplit=1)
        value: Any = item
        for part in path.split("."):
            value = value.get(part, "") if isinstance(value, dict) else ""
        if (str(value) == wanted) == (negated == "!="):
            return False
    return True


def _labels(labels: dict[str, str], selector: str) -> bool:
    for term in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        if match := re.fullmatch(r"\s*(\S+)\s+(in|notin)\s+\(([^)]*)\)", term):
            values = {value.strip() for value in match[3].split(",")}
            if (labels.get(match[1]) in values) != (match[2] == "in"):
                return False
        elif match := re.fullmatch(r"([^!=]+)(!=|==?)(.*)", term):
            if (labels.get(match[1]) == match[3]) == (match[2] == "!="):
                return False
        elif (term.lstrip("!") in labels) == term.startswith("!"):
            return False
    return True


@dataclass
class Store:
    """Use it from its own event loop only."""

    objects: dict[tuple[str, str, str, str], Object] = field(default_factory=dict)
    log: list[Change] = field(default_factory=list)
    version: int = 100
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def find(self, kind: Kind, namespace: str, name: str) -> Object:
        found = self.objects.get((kind.group, kind.resource, namespace if kind.namespaced else "", name))
        if found is None:
            raise Refusal(404, "NotFound", f'{kind.resource} "{name}" not found')
        return copy.deepcopy(found)

    def all(self, kind: Kind, namespace: str, fields: str = "", labels: str = "") -> list[Object]:
        return [
            copy.deepcopy(item)
            for (group, resource, ns, _), item in sorted(self.objects.items())
            if (group, resource) == (kind.group, kind.resource)
            and namespace in ("", ns)
            and selected(item, fields, labels)
        ]

    def create(self, kind: Kind, namespace: str, item: Object, *, dry_run: bool = False) -> Object:
        metadata = item.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if not metadata.get("name"):
            raise Refusal(422, "Invalid", "metadata.name: required value")
        if kind.namespaced:
            metadata["namespace"] = namespace
        key = (kind.group, kind.resource, namespace if kind.namespaced else "", metadata["name"])
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f'{kind.resource} "{metadata["name"]}" already exists')
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now}
        item |= {"kind": kind.kind, "apiVersion": kind.api_version}
        _finished(kind, item)
        return self._put(kind, key, item, "ADDED", dry_run=dry_run)

    def update(self, kind: Kind, namespace: str, name: str, item: Object, *, dry_run: bool = False) -> Object:
        current = self.find(kind, namespace, name)
        metadata = item.setdefault("metadata", {})
        wanted = metadata.get("resourceVersion")
        if wanted and wanted != current["metadata"]["resourceVersion"]:
            raise Refusal(409, "Conflict", f'the object has been modified; "{name}" must be read again')
        kept = {key: current["metadata"][key] for key in ("name", "uid", "creationTimestamp", "namespace")
                if key in current["metadata"]}  # fmt: skip
        item["metadata"] = metadata | kept
        item |= {"kind": kind.kind, "apiVersion": kind.api_version}
        _finished(kind, item)
        key = (kind.group, kind.resource, namespace if kind.namespaced else "", name)
        if _without_version(item) == _without_version(current):
            return current
        return self._put(kind, key, item, "MODIFIED", dry_run=dry_run)

    def delete(self, kind: Kind, namespace: str, name: str, *, dry_run: bool = False) -> Object:
        item = self.find(kind, namespace, name)
        if not dry_run:
            del self.objects[(kind.group, kind.resource, namespace if kind.namespaced else "", name)]
            self._log(kind, item, "DELETED")
        return item

    async def watch(self, kind: Kind, namespace: str, since: int) -> AsyncIterator[Change]:
        """Every change after `since`, without end."""
        while True:
            waiter = self.changed
            for change in [c for c in self.log if c.version > since]:
                since = change.version
                place = change.item["metadata"].get("namespace", "")
                if change.kind == kind and namespace in ("", place):
                    yield change
            if self.changed is waiter:
                await waiter.wait()

    def _put(self, kind: Kind, key: tuple[str, str, str, str], item: Object, type_: str, *, dry_run: bool) -> Object:
        item = copy.deepcopy(item)
        if dry_run:
            return item
        self.objects[key] = item
        self._log(kind, item, type_)
        return copy.deepcopy(item)

    def _log(self, kind: Kind, item: Object, type_: str) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.log.append(Change(self.version, type_, kind, copy.deepcopy(item)))
        waiter, self.changed = self.changed, asyncio.Event()
        waiter.set()


def _without_version(item: Object) -> Object:
    metadata = {k: v for k, v in item["metadata"].items() if k not in ("resourceVersion", "managedFields")}
    return item | {"metadata": metadata}


def _finished(kind: Kind, item: Object) -> None:
    """What the server itself makes of an object."""
    if kind.kind == "Secret":
        item["type"] = item.get("type") or "Opaque"
        for key, text in (item.pop("stringData", None) or {}).items():
            item.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
    elif kind.kind == "Namespace":
        item["status"] = {"phase": "Active"}
