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

from scripts.support.tls import Authority
from tests.support.apiserver import catalogue, processes
from tests.support.apiserver.api import Answer, Api, Request, Seen, refused
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
from tests.support.apiserver.store import Object, Refusal

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
TOKEN = "upstream-token"


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
        return asyncio.run_coroutine_threadsafe(self.api.create(kind, namespace, item), self._loop).result(10)

    def find(self, resource: str, namespace: str, name: str, group: str = "") -> Object:
        async def look() -> Object:
            return self.api.store.find(catalogue.BY_RESOURCE[(group, resource)], namespace, name)

        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(10)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
            # the ends of pipes and processes are told in a later turn
            self._loop.run_until_complete(asyncio.sleep(0.1))
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self.api = Api(self.folder, self.forbidden, self.lie)
        self._stop = asyncio.Event()
        pair = self.authority.server("apiserver")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        context.load_verify_locations(self.authority.file)
        context.verify_mode = ssl.CERT_OPTIONAL if self.client_certificates else ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        for name in ("default", "kube-system"):
            self.api.store.create(catalogue.BY_RESOURCE[("", "namespaces")], "", {"metadata": {"name": name}})
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in (*self._connections, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._connections, *self._tasks, return_exceptions=True)
        for running in self.api.running.values():
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
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(writer.wait_closed(), 1)

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
            answer = await (self._upgrade(request, http, reader, writer) if upgrade else self.api.answer(request))
            if answer is None:
                return
            await self._respond(http, reader, writer, answer)
            if http.our_state is h11.MUST_CLOSE or http.their_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()

    def _request(self, head: h11.Request, body: bytes, certificate: str) -> Request:
        target = head.target.decode()
        headers = tuple((key.decode(), value.decode()) for key, value in head.headers.raw_items())
        parts = urlsplit(target)
        seen = Seen(head.method.decode(), target, headers, body, certificate, "")
        user = self.tokens.get(next(iter(seen.header("authorization")), "").removeprefix("Bearer "), certificate)
        user = next(iter(seen.header("impersonate-user")), user) if user else ""
        seen = Seen(seen.method, target, headers, body, certificate, user)
        self.seen.append(seen)
        return Request(seen, parts.path, parse_qs(parts.query, keep_blank_values=True))

    async def _respond(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
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

    # ------------------------------------------------------------ upgrades

    async def _upgrade(
        self, request: Request, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Answer | None:
        """Serves exec, attach and port-forward, or gives the answer that refuses them."""
        try:
            if not request.seen.user:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            kind, namespace, name, subresource = self.api.place(request)
            if kind.resource != "pods" or subresource not in ("exec", "attach", "portforward"):
                raise Refusal(400, "BadRequest", "upgrade is not possible here")
            self.api.store.find(kind, namespace, name)
            chosen = self._chosen(request, subresource)
        except Refusal as refusal:
            return refused(refusal)
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
            await processes.attach(self.api.running[(namespace, name)], remote)
        else:
            tty = request.truth("tty")
            folder = self.api.pod_folder(namespace, name)
            await processes.execute(folder, request.query["command"], remote, tty=tty, stdin=request.truth("stdin"))
        if not websocket:
            # a SPDY client closes when it has read everything
            while await plain.receive():
                pass
        return None

    def _chosen(self, request: Request, subresource: str) -> str:
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
