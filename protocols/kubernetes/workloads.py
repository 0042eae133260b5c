"""What an object's body asks of the cluster: images, privileges, host access, identities, wherever they stand.

The whole document is walked: a pod template sits at another place in each kind, custom resources hold some too, and a
patch holds only a part. A key that means something in a pod counts wherever it stands, so that the answer can be too
large and never too small. Only what is data by its nature (annotations, a ConfigMap's data, status) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from protocols.kubernetes.errors import Unreadable

MAX_VALUES = 256  # of one fact; more are not a workload
_DATA = frozenset({"annotations", "labels", "managedFields", "matchLabels", "nodeSelector"})
_TOP_DATA = frozenset({"data", "stringData", "binaryData"})  # of Secrets and ConfigMaps

# keys that are true or false, and the fact that they set
_FLAGS = {
    "privileged": "kube.privileged",
    "hostProcess": "kube.privileged",  # the same on Windows
    "hostNetwork": "kube.host_network",
    "hostPID": "kube.host_pid",
    "hostIPC": "kube.host_ipc",
    "allowPrivilegeEscalation": "kube.privilege_escalation",
}
# keys whose text is a value of the fact
_TEXTS = {
    "image": "kube.image",
    "serviceAccountName": "kube.service_account",
    "serviceAccount": "kube.service_account",
    "nodeName": "kube.node",
    "runtimeClassName": "kube.runtime_class",
    "secretName": "kube.secret_ref",
}
# keys whose object, or list of objects, has a name that is a value of the fact; `secret` is a projected volume's, and
# whatever ends like the others is a driver's
_REFERENCES = dict.fromkeys(("secret", "secretRef", "secretKeyRef", "imagePullSecrets"), "kube.secret_ref")
_REFERENCE = ("SecretRef", "SecretKeyRef")
_LISTS = {"command": "kube.container_command", "args": "kube.container_command"}
_PARENT_KEYS = frozenset(
    {*_FLAGS, *_TEXTS, *_REFERENCES, *_LISTS, "hostPath", "local", "capabilities", "ephemeralContainers"}
)

Facts = dict[str, dict[str, None]]  # ordered sets


def facts_of(document: Any, *, data: bool = False) -> dict[str, tuple[str, ...]]:
    """The facts of one object or merge patch; `data`: of a Secret or ConfigMap, whose keys are the user's own.

    Raises `Unreadable` where there are too many.
    """
    found: Facts = {}
    if isinstance(document, dict):
        # the API server does not take `status` from a write to the object
        left_out = _TOP_DATA | {"status"} if data else {"status"}
        document = {key: value for key, value in document.items() if key not in left_out}
    _walk(document, found)
    return {fact: tuple(values) for fact, values in found.items()}


def facts_of_json_patch(document: Any, *, data: bool = False) -> dict[str, tuple[str, ...]]:
    """The facts of an RFC 6902 patch: what its operations put in. `move` and `copy` put in what is not shown."""
    if not isinstance(document, list):
        raise Unreadable("a json patch is a list of operations")
    found: Facts = {}
    for operation in document:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise Unreadable("a json patch's operation has no path")
        op = operation.get("op")
        if op in ("remove", "test"):
            continue
        if op not in ("add", "replace"):
            raise Unreadable("a json patch copies values that it does not show: write them out")
        parts = [t.replace("~1", "/").replace("~0", "~") for t in operation["path"].split("/")[1:]]
        if any(part in _DATA for part in parts):
            continue
        # the value under the name that it gets; list positions say nothing
        value = operation.get("value")
        for part in reversed(parts):
            value = [value] if part == "-" or part.isdecimal() else {part: value}
        for fact, values in facts_of(value, data=data).items():
            found.setdefault(fact, {}).update(dict.fromkeys(values))
    return {fact: tuple(values) for fact, values in found.items()}


def _walk(value: Any, found: Facts) -> None:
    if isinstance(value, list):
        for item in value:
            _walk(item, found)
        return
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key in _DATA:
            continue
        if key in _PARENT_KEYS:
            _meaning(key, inner, found)
        elif key.endswith(_REFERENCE):
            _meaning("secretRef", inner, found)
        _walk(inner, found)


def _meaning(key: str, value: Any, found: Facts) -> None:
    if key in _FLAGS:
        # YAML's `yes` and `on` are true for the API server and text for others: only what is surely false is false
        if value is not None and value is not False:
            _add(found, _FLAGS[key], "true")
    elif key in _TEXTS:
        if value is not None and value != "":
            _add(found, _TEXTS[key], value)
    elif key in _REFERENCES:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping) and one.get("name"):
                _add(found, _REFERENCES[key], one["name"])
    elif key in _LISTS:
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not isinstance(item, dict | list):
                _add(found, _LISTS[key], item)
    elif key == "hostPath":
        _add(found, "kube.host_path", value.get("path", "") if isinstance(value, Mapping) else value)
    elif key == "local" and isinstance(value, Mapping) and value.get("path"):
        _add(found, "kube.host_path", value["path"])  # of a PersistentVolume: a folder of its node
    elif key == "capabilities":
        added = value.get("add") if isinstance(value, Mapping) else value
        for item in added if isinstance(added, list) else [added]:
            if item is not None:
                _add(found, "kube.capability", item)
    elif key == "ephemeralContainers" and value:
        _add(found, "kube.ephemeral_container", "true")


def _add(found: Facts, fact: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    values = found.setdefault(fact, {})
    values[text] = None
    if len(values) > MAX_VALUES:
        raise Unreadable("the body names more values than are read")
