"""A connection of the gateway's own to an upstream: to read a catalog, to cancel. No client has a part in it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Generator
from typing import Any

from addons.leg import Leg
from protocols.contract import PeerGone, Receive, Send, Side, StartTls


class OwnConnection:
    """Runs generators (see `protocols.contract`), one at a time. Any failure closes it."""

    def __init__(self, tls: ssl.SSLContext | None, server_name: str) -> None:
        self._tls = tls
        self._server_name = server_name
        self._leg = Leg()

    async def open(self, host: str, port: int, bound: float) -> None:
        """`host` may be the path of a socket. Raises OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(bound):
            if host.startswith("/"):
                await loop.create_unix_connection(lambda: self._leg, host)
            else:
                await loop.create_connection(lambda: self._leg, host, port)

    async def run[T](self, work: Generator[Any, Any, T], bound: float, *, each: bool = False) -> T:
        """Returns what the generator returns; raises what it raises, or TimeoutError after `bound` seconds.

        `each`: every question has that time, counted from what is sent. The end of the stream and failures of TLS are
        thrown into the generator, as `PeerGone` and `ssl.SSLError`.
        """
        try:
            async with asyncio.timeout(bound) as limit:
                answer: Any = None
                failure: Exception | None = None
                while True:
                    try:
                        asked = work.throw(failure) if failure is not None else work.send(answer)
                    except StopIteration as done:
                        result: T = done.value
                        return result
                    if each and isinstance(asked, Send):
                        limit.reschedule(asyncio.get_running_loop().time() + bound)
                    answer = failure = None
                    try:
                        answer = await self._do(asked)
                    except (PeerGone, ssl.SSLError) as e:
                        failure = e
        except BaseException:
            self.close()  # its place in the stream is lost
            raise

    async def _do(self, asked: Any) -> Any:
        if getattr(asked, "side", None) is not Side.UPSTREAM:
            raise TypeError(f"a connection of the gateway's own asked for {asked!r:.40}")
        if isinstance(asked, Receive):
            return await self._leg.receive()
        if isinstance(asked, Send):
            return self._leg.send(asked.data)
        if isinstance(asked, StartTls) and self._tls is not None:
            return await self._leg.start_tls(
                self._tls, server_side=False, hostname=self._server_name, received=asked.received
            )
        raise TypeError(f"a connection of the gateway's own asked for {type(asked).__name__}")

    @property
    def closed(self) -> bool:
        return self._leg.transport is None or self._leg.gone or self._leg.transport.is_closing()

    def close(self) -> None:
        if self._leg.transport is not None:
            self._leg.gone = True
            self._leg.close()
