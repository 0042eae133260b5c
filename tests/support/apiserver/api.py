"""What the API server answers: discovery, objects in every form, watches, logs. Runs on the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols.kubernetes.errors import Unreadable
from protocols.kubernetes.objects import media_type, read
from tests.support.apiserver import catalogue, patches, processes
from tests.support.apiserver.catalogue import Kind
from tests.support.apiserver.store import Object, Refusal, Store, selected


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    certificate: str  # the client certificate's common name
    user: str  # as whom it acts, after impersonation

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(frozen=True, slots=True)
class Request:
    seen: Seen
    path: str
    query: dict[str, list[str]]

    def one(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def truth(self, name: str) -> bool:
        return name in self.query and self.one(name).lower() not in ("0", "false")

    def header(self, name: str) -> str:
        return next(iter(self.seen.header(name)), "")


@dataclass
class Answer:
    code: int
    body: bytes | AsyncIterator[bytes]
    content_type: str = "application/json"


def as_json(value: Any, code: int = 200) -> Answer:
    return Answer(code, json.dumps(value).encode())


def refused(refusal: Refusal) -> Answer:
    """A Status with the refusal's code."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return as_json(body | {"message": str(refusal), "reason": refusal.reason, "code": refusal.code}, refusal.code)


@dataclass
class Api:
    """Everything behind the HTTP connection. `forbidden` is what `auth can-i` denies: (verb, resource)."""

    folder: Path
    forbidden: frozenset[tuple[str, str]]
    lie: tuple[str, bytes] | None
    store: Store = field(default_factory=Store)
    running: dict[tuple[str, str], processes.Running] = field(default_factory=dict)

    async def answer(self, request: Request) -> Answer:
        try:
            if not request.seen.user:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            return self._documents(request) or await self._objects(request)
        except Refusal as refusal:
            return refused(refusal)

    def _documents(self, request: Request) -> Answer | None:
        parts = request.path.strip("/").split("/")
        match parts:
            case ["version"]:
                return as_json({"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "test/test"})
            case ["healthz" | "readyz" | "livez"]:
                return Answer(200, b"ok", "text/plain")
            case ["api"]:
                return as_json({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
            case ["apis"]:
                return as_json(catalogue.api_group_list())
            case ["api", version]:
                found = catalogue.resource_list("", version)
            case ["apis", group, version]:
                found = catalogue.resource_list(group, version)
            case ["openapi", "v3"]:
                return as_json(catalogue.openapi_index())
            case ["openapi", "v3", *rest]:
                return as_json(catalogue.openapi("/".join(rest)))
            case _:
                return None
        if found is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return as_json(found)

    def place(self, request: Request) -> tuple[Kind, str, str, str]:
        """Kind, namespace, name, subresource."""
        parts = request.path.strip("/").split("/")
        group = ""
        if parts[0] == "apis":
            group = parts[1]
            parts = parts[1:]
        parts = parts[2:]
        namespace = ""
        if parts[:1] == ["namespaces"] and len(parts) > 2 and parts[2] not in ("status", "finalize"):
            namespace, parts = parts[1], parts[2:]
        kind = catalogue.BY_RESOURCE.get((group, parts[0] if parts else ""))
        if kind is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        name, subresource = (*parts[1:3], "", "")[:2]
        return kind, namespace, name, subresource

    async def _objects(self, request: Request) -> Answer:
        if request.path.startswith("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"):
            return self._can_i(request)
        kind, namespace, name, subresource = self.place(request)
        if self.lie is not None:
            return Answer(200, self.lie[1], self.lie[0])
        if kind.resource == "serviceaccounts" and subresource == "token":
            moment = "2099-01-01T00:00:00Z"
            status = {"token": f"token-of-{name}", "expirationTimestamp": moment}
            return as_json(self._body(request) | {"metadata": {"name": name}, "status": status}, 201)
        method, dry_run = request.seen.method, request.one("dryRun") == "All"
        if kind.resource == "pods" and subresource == "log":
            return self._log(request, namespace, name)
        if method == "GET" and not name:
            if request.truth("watch"):
                return self._watch(request, kind, namespace)
            return self._list(request, kind, namespace)
        if method == "GET":
            return self._shown(request, kind, [self.store.find(kind, namespace, name)], single=True)
        if method == "POST" and not name:
            return self._shown(request, kind, [await self.create(kind, namespace, self._body(request), dry_run)], 201)
        if method == "PUT":
            item = self.store.update(kind, namespace, name, self._body(request), dry_run=dry_run)
            return self._shown(request, kind, [item], single=True)
        if method == "PATCH":
            return await self._patch(request, kind, namespace, name, dry_run)
        if method == "DELETE":
            return await self._delete(request, kind, namespace, name, dry_run)
        raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _body(self, request: Request) -> Any:
        try:
            return read(request.seen.body, request.header("content-type"))
        except Unreadable as error:
            raise Refusal(400, "BadRequest", str(error)) from error

    async def create(self, kind: Kind, namespace: str, item: Object, dry_run: bool = False) -> Object:
        if kind.resource == "pods":
            item.setdefault("status", {}).update({"phase": "Running", "podIP": "127.0.0.1"})
            names = [c["name"] for c in item.get("spec", {}).get("containers", [])]
            item["status"]["containerStatuses"] = [
                {"name": name, "ready": True, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}}}
                for name in names
            ]
        made = self.store.create(kind, namespace, item, dry_run=dry_run)
        if kind.resource == "pods" and not dry_run:
            name = made["metadata"]["name"]
            first: dict[str, Any] = next(iter(item.get("spec", {}).get("containers", [])), {})
            command = [*first.get("command", []), *first.get("args", [])]

            def ended(code: int) -> None:
                with contextlib.suppress(Refusal):
                    pod = self.store.find(kind, namespace, name)
                    pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
                    self.store.update(kind, namespace, name, pod)

            self.running[(namespace, name)] = await processes.start(self.pod_folder(namespace, name), command, ended)
        return made

    def pod_folder(self, namespace: str, name: str) -> Path:
        return self.folder / namespace / name

    async def _patch(self, request: Request, kind: Kind, namespace: str, name: str, dry_run: bool) -> Answer:
        content_type, patch = media_type(request.header("content-type")), self._body(request)
        try:
            current = self.store.find(kind, namespace, name)
        except Refusal:
            if content_type != "application/apply-patch+yaml":
                raise
            made = await self.create(kind, namespace, patch, dry_run)
            return self._shown(request, kind, [made], 201)
        try:
            changed = patches.apply(content_type, current, patch)
        except patches.PatchError as error:
            raise Refusal(422, "Invalid", str(error)) from error
        item = self.store.update(kind, namespace, name, changed, dry_run=dry_run)
        return self._shown(request, kind, [item], single=True)

    async def _delete(self, request: Request, kind: Kind, namespace: str, name: str, dry_run: bool) -> Answer:
        options = self._body(request) if request.seen.body else {}
        dry_run = options.get("dryRun") == ["All"] if options else dry_run
        selectors = (request.one("fieldSelector"), request.one("labelSelector"))
        names = [name] if name else [i["metadata"]["name"] for i in self.store.all(kind, namespace, *selectors)]
        gone = [self.store.delete(kind, namespace, each, dry_run=dry_run) for each in names]
        for item in gone if kind.resource == "pods" and not dry_run else []:
            running = self.running.pop((namespace, item["metadata"]["name"]), None)
            if running is not None:
                await processes.stop(running)
        if not name:
            return self._list_of(kind, gone)
        details = {"name": name, "group": kind.group, "kind": kind.resource, "uid": gone[0]["metadata"]["uid"]}
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return as_json(gone[0] if kind.resource == "pods" else body)

    def _can_i(self, request: Request) -> Answer:
        review = self._body(request)
        asked = review["spec"].get("resourceAttributes") or {}
        allowed = (asked.get("verb"), asked.get("resource")) not in self.forbidden
        reason = "" if allowed else f"{request.seen.user} may not"
        return as_json(review | {"status": {"allowed": allowed, "reason": reason}}, 201)

    # ------------------------------------------------------------ answers

    def _list(self, request: Request, kind: Kind, namespace: str) -> Answer:
        selectors = (request.one("fieldSelector"), request.one("labelSelector"))
        return self._shown(request, kind, self.store.all(kind, namespace, *selectors))

    def _list_of(self, kind: Kind, items: list[Object]) -> Answer:
        bare = [{k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in items]
        metadata = {"resourceVersion": str(self.store.version)}
        return as_json(
            {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": bare}
        )

    def _shown(
        self, request: Request, kind: Kind, items: list[Object], code: int = 200, *, single: bool = False
    ) -> Answer:
        """In the form that the Accept header asks for."""
        accept = request.header("accept")
        first = accept.split(",")[0]
        if "as=Table" in first:
            return as_json(catalogue.table(kind, items, str(self.store.version), request.one("includeObject")), code)
        if "as=PartialObjectMetadataList" in first:
            shown: Any = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}}
            return as_json(shown | {"items": [catalogue.partial(item) for item in items]}, code)
        if "as=PartialObjectMetadata" in first:
            return as_json(catalogue.partial(items[0]), code)
        answer = as_json(items[0], code) if single or code == 201 else self._list_of(kind, items)
        if media_type(first) == "application/yaml":
            answer.content_type = "application/yaml"  # JSON is YAML
        return answer

    def _watch(self, request: Request, kind: Kind, namespace: str) -> Answer:
        selectors = (request.one("fieldSelector"), request.one("labelSelector"))
        table = "as=Table" in request.header("accept").split(",")[0]
        asked = request.one("resourceVersion")
        since = int(asked) if asked.isdecimal() and asked != "0" else self.store.version

        def event(type_: str, item: Object) -> bytes:
            version = item["metadata"]["resourceVersion"]
            shown = catalogue.table(kind, [item], version, request.one("includeObject")) if table else item
            return json.dumps({"type": type_, "object": shown}).encode() + b"\n"

        async def events() -> AsyncIterator[bytes]:
            if not asked or asked == "0":
                for item in self.store.all(kind, namespace, *selectors):
                    yield event("ADDED", item)
            if request.truth("sendInitialEvents"):
                marks = {"k8s.io/initial-events-end": "true"}
                metadata = {"resourceVersion": str(since), "annotations": marks}
                mark = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
                yield json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n"
            seconds = request.one("timeoutSeconds")
            with contextlib.suppress(TimeoutError):  # a watch that is over ends without a word
                async with asyncio.timeout(int(seconds) if seconds.isdecimal() else None):
                    async for change in self.store.watch(kind, namespace, since):
                        if selected(change.item, *selectors):
                            yield event(change.type, change.item)

        return Answer(200, events())

    def _log(self, request: Request, namespace: str, name: str) -> Answer:
        self.store.find(catalogue.BY_RESOURCE[("", "pods")], namespace, name)
        running = self.running[(namespace, name)]
        body = running.follow() if request.truth("follow") else running.log
        return Answer(200, body, "text/plain")
