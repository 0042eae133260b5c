"""An upstream that asks for AWS signatures: it checks each request's bytes with AWS' own library, and keeps objects.

What it refuses is answered as Amazon S3 does. It is no S3: it knows PUT, GET, HEAD, DELETE, lists and uploads in parts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import ssl
import threading
import time
import zlib
from calendar import timegm
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

import h2.config
import h2.connection
import h2.events
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from scripts.support.tls import Authority

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/ ,]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;!#$%&'*+.^_`|~-]+), Signature=([0-9a-f]{64})\Z"
)
REGION = "eu-central-1"
# whatever of these a request has must be under its signature
_MUST = ("host", "content-type", "content-md5", "content-encoding", "range")


class NotSigned(Exception):
    """The code that AWS answers with, and why."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


@dataclass(slots=True)
class Arrived:
    """One request as the upstream got it. `wrong`: why its signature does not hold; empty: it does."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    wrong: str = ""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def names(self) -> list[str]:
        return [name.lower() for name, _ in self.headers]

    @property
    def signed(self) -> list[str]:
        found = _AUTHORIZATION.match(self.header("authorization") or "")
        return found[5].split(";") if found else []


@dataclass(slots=True)
class AwsServer:
    """`keys`: access key id -> (secret, session token). `skew`: seconds that its clock is ahead. `http2`: speaks that,
    and answers with nothing but a status."""

    authority: Authority | None = None
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    skew: float = 0.0
    http2: bool = False
    requests: list[Arrived] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    port: int = 0
    _server: Any = None
    _thread: Any = None

    def __post_init__(self) -> None:
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.authority is not None:
            pair = self.authority.server(f"aws-{id(self)}", hosts=("localhost",))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            context.set_alpn_protocols(["h2"] if self.http2 else ["http/1.1"])
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    # ------------------------------------------------------------ the signature

    def arrive(self, request: Arrived) -> str:
        """Checked and remembered: the code that AWS would refuse it with; empty: it would not."""
        self.requests.append(request)
        try:
            self.check(request)
        except NotSigned as e:
            request.wrong = str(e)
            return e.code
        return ""

    def check(self, request: Arrived) -> None:
        """Raises NotSigned."""
        found = _AUTHORIZATION.match(request.header("authorization") or "")
        if found is None or request.names().count("authorization") != 1:
            raise NotSigned("AccessDenied", "no signature")
        key_id, day, region, service, names, signature = found.groups()
        secret, token = self.keys.get(key_id, ("", ""))
        if not secret:
            raise NotSigned("InvalidAccessKeyId", key_id)
        stamp = request.header("x-amz-date") or ""
        if not re.fullmatch(r"\d{8}T\d{6}Z", stamp) or stamp[:8] != day or region != REGION:
            raise NotSigned("AuthorizationHeaderMalformed", "its scope")
        if abs(timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) - time.time() - self.skew) > 300:
            raise NotSigned("RequestTimeTooSkewed", stamp)
        signed = names.split(";")
        present = set(request.names())
        loose = {n for n in present if n.startswith("x-amz-") or n in _MUST} - set(signed)
        if signed != sorted(set(signed)) or loose or not set(signed) <= present:
            raise NotSigned("AccessDenied", f"not under the signature: {sorted(loose)}")
        if (request.header("x-amz-security-token") or "") != token:
            raise NotSigned("InvalidToken", "the session token")
        payload = request.header("x-amz-content-sha256") or ""
        if payload != "UNSIGNED-PAYLOAD" and payload != hashlib.sha256(request.body).hexdigest():
            raise NotSigned("XAmzContentSHA256Mismatch", payload)
        if payload == "UNSIGNED-PAYLOAD" and not (service == "s3" and self.authority is not None):
            raise NotSigned("AccessDenied", "the payload is not signed")
        self._verify(request, stamp, service, region, signed, Credentials(key_id, secret, token or None), signature)

    def _verify(
        self,
        request: Arrived,
        stamp: str,
        service: str,
        region: str,
        signed: list[str],
        keys: Credentials,
        signature: str,
    ) -> None:
        copy = AWSRequest(request.method, f"https://h{request.target}")
        for name, value in request.headers:
            if name.lower() in signed:
                copy.headers.add_header(name, value)
        copy.context["timestamp"] = stamp
        auth = (S3SigV4Auth if service == "s3" else SigV4Auth)(keys, service, region)
        text = auth.canonical_request(copy)
        if auth.signature(auth.string_to_sign(copy, text), copy) != signature:
            raise NotSigned("SignatureDoesNotMatch", f"it should have been made of {text}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server_owner: AwsServer

    def handle(self) -> None:
        if not self.server_owner.http2:
            super().handle()
            return
        with contextlib.suppress(ConnectionError):
            self.connection.do_handshake()
            _Http2(self.server_owner, self.connection).run()

    def _serve(self) -> None:
        owner = self.server_owner
        raw_headers = [(name, value.encode("latin-1").decode("utf-8")) for name, value in self.headers.items()]
        body = self._read()
        if body is None:
            self.close_connection = True
            return
        request = Arrived(self.command, self.path, raw_headers, body)
        if code := owner.arrive(request):
            self._error(403, code, request.wrong)
            return
        if request.header("x-amz-target") is not None:
            self._say(200, json.dumps({"Item": {"id": {"S": "1"}}}).encode(), "application/x-amz-json-1.0")
            return
        path, _, query = self.path.partition("?")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        self._object(request, unquote(path), asked)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _serve

    def _read(self) -> bytes | None:
        """The body; None: it broke off. Amazon S3 takes none without a length."""
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        return body if len(body) == size and "transfer-encoding" not in self.headers else None

    def _object(self, request: Arrived, key: str, asked: dict[str, str]) -> None:
        owner = self.server_owner
        if request.method == "PUT":
            wanted = request.header("x-amz-checksum-crc32")
            if wanted is not None and wanted != base64.b64encode(zlib.crc32(request.body).to_bytes(4)).decode():
                self._error(400, "BadDigest", "the checksum")
                return
            if request.header("x-amz-copy-source") is not None:
                self._xml("<CopyObjectResult><ETag>x</ETag>")
                return
            if "partNumber" in asked:
                owner.parts[asked["partNumber"].zfill(5)] = request.body
            else:
                owner.objects[key] = request.body
            self._say(200, b"", etag=hashlib.md5(request.body).hexdigest())
        elif request.method == "POST" and "uploads" in asked:
            owner.parts.clear()
            self._xml(f"<InitiateMultipartUploadResult><UploadId>one</UploadId><Key>{escape(key)}</Key>")
        elif request.method == "POST" and "uploadId" in asked:
            owner.objects[key] = b"".join(owner.parts[number] for number in sorted(owner.parts))
            self._xml("<CompleteMultipartUploadResult><ETag>x</ETag>")
        elif request.method == "DELETE":
            owner.objects.pop(key, None)
            self._say(204, b"")
        elif "list-type" in asked:
            found = [
                name.partition("/")[2] for name in (k[1:] for k in owner.objects) if name.startswith(key.strip("/"))
            ]
            inner = "".join(f"<Contents><Key>{escape(name)}</Key><Size>1</Size></Contents>" for name in found)
            self._xml(f"<ListBucketResult><KeyCount>{len(found)}</KeyCount>{inner}")
        elif key in owner.objects:
            self._say(200, owner.objects[key])
        elif key.startswith("/echo"):
            self._say(200, json.dumps({"method": request.method, "target": request.target}).encode())
        else:
            self._error(404, "NoSuchKey", key)

    def _xml(self, text: str) -> None:
        self._say(200, f'<?xml version="1.0"?>\n{text}</{text[1 : text.index(">")]}>'.encode(), "application/xml")

    def _error(self, status: int, code: str, why: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(why)}</Message></Error>"
        self._say(status, body.encode(), "application/xml")

    def _say(self, status: int, body: bytes, kind: str = "application/octet-stream", etag: str = "") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if etag:
            self.send_header("etag", f'"{etag}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() + self.server_owner.skew, usegmt=True)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in `requests`."""


class _Http2:
    """One connection of HTTP/2."""

    def __init__(self, owner: AwsServer, connection: Any) -> None:
        self._owner = owner
        self._socket = connection
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._arriving: dict[int, Arrived] = {}

    def run(self) -> None:
        self._h2.initiate_connection()
        self._socket.sendall(self._h2.data_to_send())
        while data := self._socket.recv(65_536):
            for event in self._h2.receive_data(data):
                self._take(event)
            self._socket.sendall(self._h2.data_to_send())

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = [(str(name), str(value)) for name, value in event.headers]
            pseudo = {name: value for name, value in fields if name.startswith(":")}
            plain = [("host", pseudo[":authority"]), *(pair for pair in fields if not pair[0].startswith(":"))]
            self._arriving[event.stream_id] = Arrived(pseudo[":method"], pseudo[":path"], plain, b"")
        elif isinstance(event, h2.events.DataReceived):
            self._arriving[event.stream_id].body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            code = self._owner.arrive(self._arriving.pop(event.stream_id))
            self._h2.send_headers(event.stream_id, [(":status", "403" if code else "200")], end_stream=True)
