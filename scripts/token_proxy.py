"""A proxy on loopback that puts a fresh token into what clients send to the gateway.

Clients read `HTTPS_PROXY` once, and a CI token lives minutes. They get the address of this proxy instead, with a
password of its own that is good for nothing else; each connection goes on to the gateway with the token of that moment.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ssl
import sys
from dataclasses import dataclass

from scripts.token_source import TokenError, TokenSource

_MAX_HEAD = 65_536
_HEAD_TIMEOUT = 30.0
_PIECE = 65_536
# about this hop: ours to say
_OURS = (b"proxy-authorization", b"proxy-connection", b"connection", b"keep-alive")


@dataclass(frozen=True, slots=True)
class Upstream:
    """The gateway's proxy listener."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class TokenProxy:
    """`password` empty: whoever reaches the port may use it."""

    def __init__(self, upstream: Upstream, source: TokenSource, password: str) -> None:
        self._upstream = upstream
        self._source = source
        self._password = password
        self._fetching = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> int:
        """Listens on 127.0.0.1; returns the port. Raises OSError."""
        self._server = await asyncio.start_server(self._client, "127.0.0.1", port, limit=_MAX_HEAD)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def serve(self) -> None:
        assert self._server is not None
        async with self._server:
            await self._server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._one(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two has left: so does the other
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return
        except asyncio.LimitOverrunError:
            await _refuse(writer, "431 Request Header Fields Too Large", "the request's head is too large")
            return
        start, _, rest = head[:-4].partition(b"\r\n")
        fields = rest.split(b"\r\n") if rest else []
        if not self._may(fields):
            await _refuse(writer, "407 Proxy Authentication Required", "use the address that was printed")
            return
        try:
            async with self._fetching:
                found = await asyncio.to_thread(self._source.get)
        except TokenError as e:
            print(f"sluicegate token serve: {e}", file=sys.stderr, flush=True)
            await _refuse(writer, "503 Service Unavailable", str(e))
            return
        kept = [field for field in fields if field.partition(b":")[0].strip().lower() not in _OURS]
        kept.append(b"Proxy-Authorization: Bearer " + found.token.encode("ascii"))
        if not start.upper().startswith(b"CONNECT "):
            kept.append(b"Connection: close")  # the next request may need another token
        upstream = self._upstream
        try:
            name = upstream.host if upstream.tls else None
            far, out = await asyncio.open_connection(
                upstream.host, upstream.port, ssl=upstream.tls, server_hostname=name
            )
        except OSError as e:
            print(f"sluicegate token serve: the gateway cannot be reached: {e}", file=sys.stderr, flush=True)
            await _refuse(writer, "502 Bad Gateway", "the gateway cannot be reached")
            return
        try:
            out.write(b"\r\n".join([start, *kept, b"", b""]))
            await asyncio.gather(_copy(reader, out), _copy(far, writer))
        finally:
            out.close()

    def _may(self, fields: list[bytes]) -> bool:
        if not self._password:
            return True
        for field in fields:
            name, _, value = field.partition(b":")
            if name.strip().lower() != b"proxy-authorization":
                continue
            scheme, _, given = value.strip().partition(b" ")
            try:
                pair = base64.b64decode(given, validate=True)
            except ValueError:
                return False
            password = pair.partition(b":")[2]
            return scheme.lower() == b"basic" and hmac.compare_digest(password, self._password.encode())
        return False


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of the stream, which is passed on. Raises OSError."""
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except BaseException:
        writer.close()
        raise


async def _refuse(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    body = f"sluicegate token serve: {text}\n".encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    if status.startswith("407"):
        head += 'proxy-authenticate: Basic realm="sluicegate token serve"\r\n'
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()
