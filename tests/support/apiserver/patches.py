"""The four kinds of PATCH, as far as the tests' clients need them.

Strategic merges know the merge keys of pods; server-side apply merges like that and keeps no field ownership, which the
real one does. Source: RFC 6902, RFC 7396, and Kubernetes' "update API objects in place".
"""

from __future__ import annotations

import copy
from typing import Any

_KEYS = {"containers": "name", "initContainers": "name", "ephemeralContainers": "name", "env": "name",
         "volumes": "name", "volumeMounts": "mountPath", "ports": "containerPort", "conditions": "type"}  # fmt: skip


class PatchError(ValueError):
    """A patch that cannot be applied."""


def apply(content_type: str, current: dict[str, Any], patch: Any) -> dict[str, Any]:
    """The object after the patch; `current` is left alone."""
    if content_type == "application/json-patch+json":
        changed: dict[str, Any] = json_patch(copy.deepcopy(current), patch)
        return changed
    if not isinstance(patch, dict):
        raise PatchError("the patch is no object")
    if content_type == "application/merge-patch+json":
        merged: dict[str, Any] = merge(copy.deepcopy(current), patch)
        return merged
    if content_type in ("application/strategic-merge-patch+json", "application/apply-patch+yaml"):
        return strategic(copy.deepcopy(current), patch)
    raise PatchError(f"a patch of type {content_type} is not taken")


def merge(current: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = current if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge(out.get(key), value)
    return out


def strategic(current: Any, patch: dict[str, Any]) -> dict[str, Any]:
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    out: dict[str, Any] = current if isinstance(current, dict) else {}
    if "$retainKeys" in patch:
        out = {key: value for key, value in out.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$"):
            continue  # orders and deletions of primitives, which nothing here depends on
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            out[key] = strategic(out.get(key), value)
        elif isinstance(value, list) and key in _KEYS and all(isinstance(item, dict) for item in value):
            out[key] = _merged(out.get(key) or [], value, _KEYS[key])
        else:
            out[key] = value
    return out


def _merged(current: list[Any], patch: list[Any], key: str) -> list[Any]:
    out = list(current)
    for item in patch:
        at = next((n for n, old in enumerate(out) if old.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del out[at]
        elif at is None:
            out.append(item)
        else:
            out[at] = strategic(out[at], item)
    return out


def json_patch(document: Any, patch: Any) -> Any:
    if not isinstance(patch, list):
        raise PatchError("the patch is no list")
    root = {"": document}
    for operation in patch:
        _operate(root, operation)
    return root[""]


def _operate(root: dict[str, Any], operation: dict[str, Any]) -> None:
    parts = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")]
    parent: Any = root
    try:
        for part in parts[:-1]:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        last: Any = parts[-1]
        if isinstance(parent, list):
            last = len(parent) if last == "-" else int(last)
        match operation["op"]:
            case "test":
                if parent[last] != operation["value"]:
                    raise PatchError("a test of the patch failed")
            case "remove":
                del parent[last]
            case "replace":
                parent[last] = operation["value"]
            case "add" if isinstance(parent, list):
                parent.insert(last, operation["value"])
            case "add":
                parent[last] = operation["value"]
            case other:
                raise PatchError(f"the operation {other} is not taken")
    except (KeyError, IndexError, TypeError) as error:
        raise PatchError("the patch names what is not there") from error
