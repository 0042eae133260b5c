"""The resources that this API server has, its discovery documents, and the Table form of each."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True, slots=True)
class Kind:
    group: str
    version: str
    resource: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


KINDS = (
    Kind("", "v1", "namespaces", "Namespace", False, ("ns",)),
    Kind("", "v1", "nodes", "Node", False, ("no",)),
    Kind("", "v1", "pods", "Pod", True, ("po",), ("log", "exec", "attach", "portforward", "status")),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "configmaps", "ConfigMap", True, ("cm",)),
    Kind("", "v1", "services", "Service", True, ("svc",)),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", True, ("sa",), ("token",)),
    Kind("", "v1", "events", "Event", True, ("ev",)),
    Kind("apps", "v1", "deployments", "Deployment", True, ("deploy",)),
    Kind("apps", "v1", "replicasets", "ReplicaSet", True, ("rs",)),
    Kind("batch", "v1", "jobs", "Job"),
    Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
)
BY_RESOURCE = {(kind.group, kind.resource): kind for kind in KINDS}
_QUESTIONS = (("selfsubjectaccessreviews", "SelfSubjectAccessReview"),)


def groups() -> dict[str, str]:
    """Named groups and their one version."""
    return {kind.group: kind.version for kind in KINDS if kind.group} | {"authorization.k8s.io": "v1"}


def api_group_list() -> dict[str, Any]:
    def entry(name: str, version: str) -> dict[str, Any]:
        chosen = {"groupVersion": f"{name}/{version}", "version": version}
        return {"name": name, "versions": [chosen], "preferredVersion": chosen}

    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [entry(*item) for item in groups().items()]}


def resource_list(group: str, version: str) -> dict[str, Any] | None:
    found: list[dict[str, Any]] = []
    for kind in KINDS:
        if (kind.group, kind.version) != (group, version):
            continue
        base = {"singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind}
        found.append({"name": kind.resource, "verbs": VERBS, "shortNames": list(kind.short)} | base)
        found += [{"name": f"{kind.resource}/{sub}", "verbs": ["get", "create"]} | base for sub in kind.subresources]
    if (group, version) == ("authorization.k8s.io", "v1"):
        found += [
            {
                "name": name,
                "singularName": kind_name.lower(),
                "namespaced": False,
                "kind": kind_name,
                "verbs": ["create"],
            }
            for name, kind_name in _QUESTIONS
        ]
    if not found:
        return None
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": found}


def openapi_index() -> dict[str, Any]:
    names = ["api/v1", *(f"apis/{group}/{version}" for group, version in groups().items())]
    return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}?hash=1"} for name in names}}


def openapi(prefix: str) -> dict[str, Any]:
    """A schema that says which kinds there are and that writes are validated by the server; fields are free."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for kind in KINDS:
        if kind.prefix != f"/{prefix}":
            continue
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        where = f"{kind.prefix}/namespaces/{{namespace}}" if kind.namespaced else kind.prefix
        parameters = [
            {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")
        ]
        operation = {
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": gvk,
        }
        paths[f"{where}/{kind.resource}"] = {"get": operation, "post": operation}
        paths[f"{where}/{kind.resource}/{{name}}"] = {"get": operation, "put": operation, "patch": operation}
        schemas[f"tests.{kind.group or 'core'}.{kind.version}.{kind.kind}"] = {
            "type": "object",
            "x-kubernetes-group-version-kind": [gvk],
            "x-kubernetes-preserve-unknown-fields": True,
        }
    info = {"title": "apiserver for tests", "version": "v1.34.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def table(kind: Kind, objects: list[dict[str, Any]], version: str, include: str) -> dict[str, Any]:
    """`meta.k8s.io/v1` Table. `include`: None, Metadata (the default) or Object."""
    columns = [("Name", "string"), *_COLUMNS.get(kind.kind, ()), ("Age", "string")]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [
            {
                "name": name,
                "type": type_,
                "format": "name" if name == "Name" else "",
                "description": name,
                "priority": 0,
            }
            for name, type_ in columns
        ],
        "rows": [_row(kind, item, include) for item in objects],
    }


_COLUMNS = {
    "Pod": (("Ready", "string"), ("Status", "string"), ("Restarts", "integer")),
    "Secret": (("Type", "string"), ("Data", "integer")),
    "ConfigMap": (("Data", "integer"),),
    "Namespace": (("Status", "string"),),
    "Deployment": (("Ready", "string"),),
}


def _row(kind: Kind, item: dict[str, Any], include: str) -> dict[str, Any]:
    phase = item.get("status", {}).get("phase", "Active")
    middle: dict[str, list[Any]] = {
        "Pod": ["1/1", phase, 0],
        "Secret": [item.get("type", "Opaque"), len(item.get("data") or {})],
        "ConfigMap": [len(item.get("data") or {})],
        "Namespace": [phase],
        "Deployment": [f"0/{item.get('spec', {}).get('replicas', 1)}"],
    }
    row: dict[str, Any] = {"cells": [item["metadata"]["name"], *middle.get(kind.kind, []), _age(item)]}
    if include == "Object":
        row["object"] = item
    elif include != "None":
        row["object"] = partial(item)
    return row


def partial(item: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}


def _age(item: dict[str, Any]) -> str:
    made = datetime.datetime.fromisoformat(item["metadata"]["creationTimestamp"])
    return f"{int((datetime.datetime.now(datetime.UTC) - made).total_seconds())}s"
