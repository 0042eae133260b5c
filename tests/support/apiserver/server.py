"""A small Kubernetes API server for tests: real protocol, real TLS, real local processes, and nothing of a cluster.

It has discovery, typed errors, list, watch, Table, four kinds of patch, logs, exec, attach and port-forward over both
transports. It has no scheduler, no controllers, no RBAC, no admission, no validation, and answers no protobuf: a pod is
a process of this machine, and a Deployment only an object. Whoever has a token may do everything.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import h11

from protocols.kubernetes.errors import Unreadable
from protocols.kubernetes.objects import media_type, read
from scripts.support.tls import Authority
from tests.support.apiserver import catalogue, patches, processes
from tests.support.apiserver.catalogue import Kind
from tests.support.apiserver.remote import (
    ERROR,
    NAMES,
    Plain,
    Recording,
    Remote,
    SpdyRemote,
    WebSocket,
    WebSocketRemote,
    port_forward,
)
from tests.support.apiserver.store import Object, Refusal, Store, selected

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
TOKEN = "upstream-token"


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
class _Request:
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
class _Answer:
    code: int
    body: bytes | AsyncIterator[bytes]
    content_type: str = "application/json"


def _json(value: Any, code: int = 200) -> _Answer:
    return _Answer(code, json.dumps(value).encode())


@dataclass
class ApiServer:
    """Use it as a context manager; it serves from a thread of its own. `seen` has each request before its answer."""

    authority: Authority
    tokens: dict[str, str] = field(default_factory=lambda: {TOKEN: "system:serviceaccount:gateway:gateway"})
    client_certificates: bool = False  # take a client certificate's common name as the user
    forbidden: frozenset[tuple[str, str]] = frozenset()  # what `auth can-i` denies: (verb, resource)
    seen: list[Seen] = field(default_factory=list)
    lie: tuple[str, bytes] | None = None  # content type and body of every answer with objects, as no server should
    recordings: list[Recording] = field(default_factory=list)  # of exec, attach and port-forward
    port: int = 0

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="apiserver-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="apiserver", daemon=True)
        self._started = threading.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._running: dict[tuple[str, str], processes.Running] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait(10)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self, resource: str, namespace: str, item: Object, group: str = "") -> Object:
        """Puts an object there, as a request would."""
        kind = catalogue.BY_RESOURCE[(group, resource)]
        return asyncio.run_coroutine_threadsafe(self._create(kind, namespace, item), self._loop).result(10)

    def find(self, resource: str, namespace: str, name: str, group: str = "") -> Object:
        async def look() -> Object:
            return self.store.find(catalogue.BY_RESOURCE[(group, resource)], namespace, name)

        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(10)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self.store = Store()
        self._stop = asyncio.Event()
        pair = self.authority.server("apiserver")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        context.load_verify_locations(self.authority.file)
        context.verify_mode = ssl.CERT_OPTIONAL if self.client_certificates else ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        for name in ("default", "kube-system"):
            self.store.create(catalogue.BY_RESOURCE[("", "namespaces")], "", {"metadata": {"name": name}})
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in (*self._connections, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._connections, *self._tasks, return_exceptions=True)
        for running in self._running.values():
            await processes.stop(running)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._connection(reader, writer)
        except (ConnectionError, ssl.SSLError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass  # a client that leaves, or the end of the test
        finally:
            self._connections.discard(task)
            writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert") or {}
        name = next((v for rdn in certificate.get("subject", ()) for k, v in rdn if k == "commonName"), "")
        http = h11.Connection(h11.SERVER)
        while True:
            head = await _next(http, reader)
            if not isinstance(head, h11.Request):
                return
            body = b""
            upgrade = any(key == b"upgrade" for key, _ in head.headers)
            # what follows an upgrade's head belongs to the stream
            while not upgrade or head.method != b"GET":
                event = await _next(http, reader)
                if isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                    break
                else:
                    return
            request = self._request(head, body, name)
            if upgrade and (answer := await self._upgrade(request, http, reader, writer)) is None:
                return
            if not upgrade:
                answer = await self._answer(request)
            await self._respond(http, reader, writer, answer)
            if http.our_state is h11.MUST_CLOSE or http.their_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()

    def _request(self, head: h11.Request, body: bytes, certificate: str) -> _Request:
        target = head.target.decode()
        headers = tuple((key.decode(), value.decode()) for key, value in head.headers.raw_items())
        parts = urlsplit(target)
        seen = Seen(head.method.decode(), target, headers, body, certificate, "")
        user = self.tokens.get(next(iter(seen.header("authorization")), "").removeprefix("Bearer "), certificate)
        user = next(iter(seen.header("impersonate-user")), user) if user else ""
        seen = Seen(seen.method, target, headers, body, certificate, user)
        self.seen.append(seen)
        return _Request(seen, parts.path, parse_qs(parts.query, keep_blank_values=True))

    async def _respond(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: _Answer
    ) -> None:
        headers = [("content-type", answer.content_type)]
        if isinstance(answer.body, bytes):
            headers.append(("content-length", str(len(answer.body))))
        else:
            headers.append(("transfer-encoding", "chunked"))
        writer.write(http.send(h11.Response(status_code=answer.code, headers=headers)) or b"")
        if isinstance(answer.body, bytes):
            writer.write(http.send(h11.Data(data=answer.body)) or b"")
        else:
            await self._stream(http, reader, writer, answer.body)
        writer.write(http.send(h11.EndOfMessage()) or b"")
        await writer.drain()

    async def _stream(
        self,
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        body: AsyncIterator[bytes],
    ) -> None:
        """An answer without a length, until it ends or the client is gone."""
        leaving = asyncio.create_task(reader.read(1))
        try:
            while True:
                following = asyncio.ensure_future(anext(body, None))
                await asyncio.wait({following, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    following.cancel()
                    raise ConnectionError("the client left")
                data = following.result()
                if data is None:
                    return
                writer.write(http.send(h11.Data(data=data)) or b"")
                await writer.drain()
        finally:
            if not leaving.done():
                leaving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await leaving

    # ------------------------------------------------------------ requests

    async def _answer(self, request: _Request) -> _Answer:
        try:
            if not request.seen.user:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            return self._documents(request) or await self._objects(request)
        except Refusal as refusal:
            body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
            return _json(body | {"message": str(refusal), "reason": refusal.reason, "code": refusal.code}, refusal.code)

    def _documents(self, request: _Request) -> _Answer | None:
        parts = request.path.strip("/").split("/")
        match parts:
            case ["version"]:
                return _json({"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "test/test"})
            case ["healthz" | "readyz" | "livez"]:
                return _Answer(200, b"ok", "text/plain")
            case ["api"]:
                return _json({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
            case ["apis"]:
                return _json(catalogue.api_group_list())
            case ["api", version]:
                found = catalogue.resource_list("", version)
            case ["apis", group, version]:
                found = catalogue.resource_list(group, version)
            case ["openapi", "v3"]:
                return _json(catalogue.openapi_index())
            case ["openapi", "v3", *rest]:
                return _json(catalogue.openapi("/".join(rest)))
            case _:
                return None
        if found is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return _json(found)

    def _place(self, request: _Request) -> tuple[Kind, str, str, str]:
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

    async def _objects(self, request: _Request) -> _Answer:
        if request.path.startswith("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"):
            return self._can_i(request)
        kind, namespace, name, subresource = self._place(request)
        if self.lie is not None:
            return _Answer(200, self.lie[1], self.lie[0])
        if kind.resource == "serviceaccounts" and subresource == "token":
            moment = "2099-01-01T00:00:00Z"
            status = {"token": f"token-of-{name}", "expirationTimestamp": moment}
            return _json(self._body(request) | {"metadata": {"name": name}, "status": status}, 201)
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
            return self._shown(request, kind, [await self._create(kind, namespace, self._body(request), dry_run)], 201)
        if method == "PUT":
            item = self.store.update(kind, namespace, name, self._body(request), dry_run=dry_run)
            return self._shown(request, kind, [item], single=True)
        if method == "PATCH":
            return await self._patch(request, kind, namespace, name, dry_run)
        if method == "DELETE":
            return await self._delete(request, kind, namespace, name, dry_run)
        raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _body(self, request: _Request) -> Any:
        try:
            return read(request.seen.body, request.header("content-type"))
        except Unreadable as error:
            raise Refusal(400, "BadRequest", str(error)) from error

    async def _create(self, kind: Kind, namespace: str, item: Object, dry_run: bool = False) -> Object:
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
            first = next(iter(item.get("spec", {}).get("containers", [])), {})
            command = [*first.get("command", []), *first.get("args", [])]

            def ended(code: int) -> None:
                with contextlib.suppress(Refusal):
                    pod = self.store.find(kind, namespace, name)
                    pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
                    self.store.update(kind, namespace, name, pod)

            self._running[(namespace, name)] = await processes.start(self._pod_folder(namespace, name), command, ended)
        return made

    def _pod_folder(self, namespace: str, name: str) -> Path:
        return self.folder / namespace / name

    async def _patch(self, request: _Request, kind: Kind, namespace: str, name: str, dry_run: bool) -> _Answer:
        content_type, patch = media_type(request.header("content-type")), self._body(request)
        try:
            current = self.store.find(kind, namespace, name)
        except Refusal:
            if content_type != "application/apply-patch+yaml":
                raise
            made = await self._create(kind, namespace, patch, dry_run)
            return self._shown(request, kind, [made], 201)
        try:
            changed = patches.apply(content_type, current, patch)
        except patches.PatchError as error:
            raise Refusal(422, "Invalid", str(error)) from error
        item = self.store.update(kind, namespace, name, changed, dry_run=dry_run)
        return self._shown(request, kind, [item], single=True)

    async def _delete(self, request: _Request, kind: Kind, namespace: str, name: str, dry_run: bool) -> _Answer:
        options = self._body(request) if request.seen.body else {}
        dry_run = options.get("dryRun") == ["All"] if options else dry_run
        selectors = (request.one("fieldSelector"), request.one("labelSelector"))
        names = [name] if name else [i["metadata"]["name"] for i in self.store.all(kind, namespace, *selectors)]
        gone = [self.store.delete(kind, namespace, each, dry_run=dry_run) for each in names]
        for item in gone if kind.resource == "pods" and not dry_run else []:
            running = self._running.pop((namespace, item["metadata"]["name"]), None)
            if running is not None:
                await processes.stop(running)
        if not name:
            return self._list_of(kind, gone)
        details = {"name": name, "group": kind.group, "kind": kind.resource, "uid": gone[0]["metadata"]["uid"]}
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return _json(gone[0] if kind.resource == "pods" else body)

    def _can_i(self, request: _Request) -> _Answer:
        review = self._body(request)
        asked = review["spec"].get("resourceAttributes") or {}
        allowed = (asked.get("verb"), asked.get("resource")) not in self.forbidden
        reason = "" if allowed else f"{request.seen.user} may not"
        return _json(review | {"status": {"allowed": allowed, "reason": reason}}, 201)

    # ------------------------------------------------------------ answers

    def _list(self, request: _Request, kind: Kind, namespace: str) -> _Answer:
        selectors = (request.one("fieldSelector"), request.one("labelSelector"))
        return self._shown(request, kind, self.store.all(kind, namespace, *selectors))

    def _list_of(self, kind: Kind, items: list[Object]) -> _Answer:
        bare = [{k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in items]
        metadata = {"resourceVersion": str(self.store.version)}
        return _json({"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": bare})

    def _shown(
        self, request: _Request, kind: Kind, items: list[Object], code: int = 200, *, single: bool = False
    ) -> _Answer:
        """In the form that the Accept header asks for."""
        accept = request.header("accept")
        first = accept.split(",")[0]
        if "as=Table" in first:
            return _json(catalogue.table(kind, items, str(self.store.version), request.one("includeObject")), code)
        if "as=PartialObjectMetadataList" in first:
            shown: Any = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}}
            return _json(shown | {"items": [catalogue.partial(item) for item in items]}, code)
        if "as=PartialObjectMetadata" in first:
            return _json(catalogue.partial(items[0]), code)
        answer = _json(items[0], code) if single or code == 201 else self._list_of(kind, items)
        if media_type(first) == "application/yaml":
            answer.content_type = "application/yaml"  # JSON is YAML
        return answer

    def _watch(self, request: _Request, kind: Kind, namespace: str) -> _Answer:
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
            async for change in self.store.watch(kind, namespace, since):
                if selected(change.item, *selectors):
                    yield event(change.type, change.item)

        return _Answer(200, events())

    def _log(self, request: _Request, namespace: str, name: str) -> _Answer:
        self.store.find(catalogue.BY_RESOURCE[("", "pods")], namespace, name)
        running = self._running[(namespace, name)]
        body = running.follow() if request.truth("follow") else running.log
        return _Answer(200, body, "text/plain")

    # ------------------------------------------------------------ upgrades

    async def _upgrade(
        self, request: _Request, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> _Answer | None:
        """Serves exec, attach and port-forward, or gives the answer that refuses them."""
        try:
            if not request.seen.user:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            kind, namespace, name, subresource = self._place(request)
            if kind.resource != "pods" or subresource not in ("exec", "attach", "portforward"):
                raise Refusal(400, "BadRequest", "upgrade is not possible here")
            self.store.find(kind, namespace, name)
            chosen = self._chosen(request, subresource)
        except Refusal as refusal:
            body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
            return _json(body | {"message": str(refusal), "reason": refusal.reason, "code": refusal.code}, refusal.code)
        websocket = request.header("upgrade").lower() == "websocket"
        headers = [("connection", "Upgrade"), ("upgrade", "websocket" if websocket else "SPDY/3.1")]
        if websocket:
            key = request.header("sec-websocket-key").encode()
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
            headers += [("sec-websocket-accept", accept), ("sec-websocket-protocol", chosen)]
        else:
            headers.append(("x-stream-protocol-version", chosen))
        writer.write(http.send(h11.InformationalResponse(status_code=101, headers=headers)) or b"")
        recording = Recording(subresource, chosen, websocket)
        self.recordings.append(recording)
        plain = Plain(reader, writer, http.trailing_data[0], None if websocket else recording)
        wire = WebSocket(plain, recording) if websocket else plain
        if subresource == "portforward":
            await port_forward(wire, lambda port: asyncio.open_connection("127.0.0.1", port))
            return None
        streams = frozenset(NAMES[n] for n in ("stdin", "stdout", "stderr") if request.truth(n)) | {ERROR}
        remote: Remote
        if isinstance(wire, WebSocket):
            remote = WebSocketRemote(wire, chosen.startswith("v5"))
        else:
            remote = SpdyRemote(wire, streams)
            await remote.open()
        if subresource == "attach":
            await processes.attach(self._running[(namespace, name)], remote)
        else:
            tty = request.truth("tty")
            folder = self._pod_folder(namespace, name)
            await processes.execute(folder, request.query["command"], remote, tty=tty, stdin=request.truth("stdin"))
        if not websocket:
            # a SPDY client closes when it has read everything
            while await plain.receive():
                pass
        return None

    def _chosen(self, request: _Request, subresource: str) -> str:
        websocket = request.header("upgrade").lower() == "websocket"
        header = "sec-websocket-protocol" if websocket else "x-stream-protocol-version"
        offered = [part.strip() for value in request.seen.header(header) for part in value.split(",")]
        if subresource == "portforward":
            wanted = ["SPDY/3.1+portforward.k8s.io"] if websocket else ["portforward.k8s.io"]
        else:
            wanted = ["v5.channel.k8s.io", "v4.channel.k8s.io"] if websocket else ["v4.channel.k8s.io"]
        for protocol in wanted:
            if protocol in offered:
                return protocol
        raise Refusal(400, "BadRequest", f"none of {offered} is spoken here")


async def _next(http: h11.Connection, reader: asyncio.StreamReader) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(65536))
    return event
