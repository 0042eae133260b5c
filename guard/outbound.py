"""The few HTTP calls that the gateway makes itself: to issuers, to a secret store, to webhooks.

Small on purpose, because each of these peers can lie, hang or drip: one request per connection, one deadline over the
whole exchange (name look-up included), a cap on the answer, verified TLS, and no redirect that leaves the host. Nothing
here reads proxy variables: the gateway must never be sent through itself.

INVARIANT: plain HTTP goes to loopback only; an error text names the host and the cause, never a header, body or query.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import h11

MAX_BODY = 1024 * 1024
TIMEOUT_S = 5.0
_MAX_REDIRECTS = 3
_MAX_HEADERS = 64 * 1024
_READ = 64 * 1024


class OutboundError(Exception):
    """The call gave no usable answer. The text may be shown to an operator."""


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer: its status code and its body (at most the cap that the caller gave)."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case; of repeated ones the last


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str  # path and query, as sent

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


_DEFAULT_PORTS = {"https": 443, "http": 80}


def is_loopback(host: str) -> bool:
    """Whether a host name is literally this machine; a name that merely resolves to it does not count."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str) -> _Target:
    """Take a URL apart; raises OutboundError for whatever this module would not call."""
    if not url.isprintable():
        raise OutboundError("url holds characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise OutboundError(f"not a usable url: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise OutboundError("url must start with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise OutboundError(f"url for {host} must not carry a user name or password")
    if parts.scheme == "http" and not is_loopback(host):
        raise OutboundError(f"plain http to {host} is refused: use https (http is for loopback only)")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or any(ord(char) <= 32 or ord(char) == 127 for char in path + host):
        raise OutboundError(f"url for {host} holds characters that must be percent-encoded")
    return _Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path)


@functools.lru_cache(maxsize=32)
def _context(ca: str | None, stamp: float) -> ssl.SSLContext:
    """`stamp` is the CA file's modification time, so that a renewed file is read again."""
    return ssl.create_default_context(cafile=ca)


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return _context(None, 0.0) if ca is None else _context(str(ca), ca.stat().st_mtime)
    except (OSError, ssl.SSLError) as error:
        raise OutboundError(f"cannot read the ca file {ca}: {error.strerror or error}") from None


async def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    ca: Path | None = None,
    timeout: float = TIMEOUT_S,  # noqa: ASYNC109 - the deadline is the point of this function: no caller may forget it
    max_bytes: int = MAX_BODY,
    follow: bool = False,
) -> Response:
    """One HTTP exchange, finished within `timeout` seconds or failed with OutboundError.

    `ca` replaces the system's trust store. `follow` lets a GET follow redirects on the same scheme, host and port; any
    other redirect comes back as the 3xx answer it is.
    """
    target = check_url(url)
    try:
        async with asyncio.timeout(timeout):
            tls = await asyncio.to_thread(_tls, ca) if target.scheme == "https" else None
            for _ in range(_MAX_REDIRECTS + 1):
                response = await _exchange(method, target, dict(headers or {}), body, tls, max_bytes)
                location = response.headers.get("location")
                if not (follow and method == "GET" and location and 300 <= response.status < 400):
                    return response
                url = urljoin(url, location)
                moved = check_url(url)
                if (moved.scheme, moved.host, moved.port) != (target.scheme, target.host, target.port):
                    raise OutboundError(f"{target.host} redirects to another host: refused")
                target = moved
            raise OutboundError(f"{target.host} redirects in a circle")
    except TimeoutError:
        raise OutboundError(f"{target.host} did not answer within {timeout:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise OutboundError(f"certificate of {target.host} is not trusted: {error.verify_message}") from None
    except (h11.ProtocolError, UnicodeError):
        # the library's own text may quote a header that we sent, and those carry tokens
        raise OutboundError(f"{target.host}:{target.port} and the gateway do not understand each other") from None
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise OutboundError(f"cannot reach {target.host}:{target.port}: {cause}") from None


async def _exchange(
    method: str, target: _Target, headers: dict[str, str], body: bytes, tls: ssl.SSLContext | None, max_bytes: int
) -> Response:
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=tls)
    try:
        wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADERS)
        fields = {"Host": target.authority, "Connection": "close", "User-Agent": "sluicegate", **headers}
        if body or method in ("POST", "PUT"):
            fields["Content-Length"] = str(len(body))
        writer.write(_send(wire, h11.Request(method=method, target=target.path, headers=list(fields.items()))))
        if body:
            writer.write(_send(wire, h11.Data(data=body)))
        writer.write(_send(wire, h11.EndOfMessage()))
        await writer.drain()
        return await _receive(wire, reader, target, max_bytes)
    finally:
        # abort, not close: a peer that never answers the TLS goodbye must not hold the connection open
        writer.transport.abort()


def _send(wire: h11.Connection, event: h11.Request | h11.Data | h11.EndOfMessage) -> bytes:
    return wire.send(event) or b""


async def _receive(wire: h11.Connection, reader: asyncio.StreamReader, target: _Target, max_bytes: int) -> Response:
    status, fields, collected = 0, {}, bytearray()
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Response):
            status = event.status_code
            fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            collected += event.data
            if len(collected) > max_bytes:
                raise OutboundError(f"{target.host} answered more than {max_bytes} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Response(status, bytes(collected), fields)
        elif not isinstance(event, h11.InformationalResponse):
            raise OutboundError(f"{target.host} closed the connection before it answered")
