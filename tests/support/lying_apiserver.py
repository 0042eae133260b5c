"""Puts bytes of a test's choice in the place of an API server's next answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import h11

from scripts.support.tls import Authority
from tests.support.apiserver import server as servers
from tests.support.apiserver.server import ApiServer


class LyingServer:
    """`saying(raw)`: while it lasts, every request to `apiserver` is answered with `raw`, and the connection closed."""

    def __init__(self, authority: Authority, apiserver: ApiServer) -> None:
        self._apiserver = apiserver
        self._raw: bytes | None = None
        self._truth: Any = apiserver._connection

    def __enter__(self) -> Self:
        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._raw is None:
                await self._truth(reader, writer)
                return
            http = h11.Connection(h11.SERVER)
            while not isinstance(event := await servers._next(http, reader), h11.Request):
                if isinstance(event, h11.ConnectionClosed):
                    return
            writer.write(self._raw)
            await writer.drain()
            await asyncio.sleep(0.2)

        self._apiserver._connection = connection  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._apiserver._connection = self._truth  # type: ignore[method-assign]

    @contextmanager
    def saying(self, raw: bytes) -> Iterator[None]:
        self._raw = raw
        try:
            yield
        finally:
            self._raw = None
