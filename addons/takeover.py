"""What the databases rely on of mitmproxy's private attributes: taking a connection's transport from its streams.

mitmproxy accepts and connects (its hooks, its connection list, its shutdown); the bytes then go straight to a `Leg`.
When a leg ends, the loss goes back to the original protocol, so that mitmproxy tears the connection down its own way.

`self_check` runs at start: where mitmproxy no longer looks as it must, or is of a series that was not tried (the HTTP
layers replace parts of its own), the gateway refuses to start.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import inspect
import logging
from importlib.metadata import version
from typing import Any, cast

from mitmproxy import ctx
from mitmproxy.addons import termlog
from mitmproxy.connection import Connection
from mitmproxy.proxy import mode_servers, mode_specs, server

from addons.leg import Leg

WORKS_WITH = "12.2.1 to 12.2.x"
_SERIES = "12.2."  # the HTTP layers go deeper than `self_check` can look: what holds was tried on these


class Incompatible(RuntimeError):
    """This mitmproxy (or asyncio) does not have what the takeover needs."""


def self_check() -> None:
    """Raises `Incompatible` with the versions that work."""
    problems = []
    if not version("mitmproxy").startswith(_SERIES):
        problems.append("another series than was tried")
    handler = inspect.getsource(server.ConnectionHandler)
    for needed in ("self.transports", "self.timeout_watchdog", "self.layer.handle_event", "_server_event_lock"):
        if needed not in handler:
            problems.append(f"ConnectionHandler lacks `{needed}`")
    io = {f.name for f in dataclasses.fields(server.ConnectionIO)}
    if not {"handler", "reader", "writer"} <= io:
        problems.append("ConnectionIO has other fields")
    if not hasattr(mode_servers.AsyncioServerInstance, "make_top_layer"):
        problems.append("AsyncioServerInstance has no make_top_layer")
    if not hasattr(mode_specs.ProxyMode, "parse"):
        problems.append("ProxyMode has no parse")
    if "self._buffer = " not in inspect.getsource(asyncio.StreamReader.__init__):
        problems.append("asyncio.StreamReader has no _buffer")
    if problems:
        raise Incompatible(
            f"mitmproxy {version('mitmproxy')} does not fit ({'; '.join(problems)}); versions that work: {WORKS_WITH}"
        )


def outlive_the_log() -> None:
    """mitmproxy ends its process where its log cannot be written; ours goes on: a full disk must not end it."""

    def emit(self: termlog.TermLogHandler, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # there is no other place to say it
            print(self.format(record), file=self.file)

    cast(Any, termlog.TermLogHandler).emit = emit


def handler_of(client_id: str) -> server.ConnectionHandler:
    """The handler that mitmproxy runs for a client."""
    proxyserver = cast(Any, ctx.master.addons).get("proxyserver")
    return cast(server.ConnectionHandler, proxyserver.connections[client_id])


def take_over(handler: server.ConnectionHandler, connection: Connection) -> Leg:
    """Makes a `Leg` the owner of this connection's transport. Bytes already read go to the leg first."""
    io = handler.transports[connection]
    reader, writer = cast(asyncio.StreamReader, io.reader), cast(asyncio.StreamWriter, io.writer)
    transport = cast(asyncio.Transport, writer.transport)
    original = cast(asyncio.Protocol, transport.get_protocol())

    def lost(exc: Exception | None) -> None:
        original.connection_lost(exc)

    leg = Leg(forward_loss=lost)
    buffered = cast(Any, reader)._buffer
    early = bytes(buffered)
    buffered.clear()
    transport.set_protocol(leg)
    leg.connection_made(transport)
    if early:
        leg.data_received(early)
    if reader.at_eof():
        leg.eof_received()
    else:
        transport.resume_reading()
    return leg


def disarm_timeout(handler: server.ConnectionHandler) -> None:
    """No idle timeout: a database session may sleep for days, and TCP keepalive finds dead peers."""
    handler.timeout_watchdog.can_timeout.clear()


def widen(handler: server.ConnectionHandler, connections: int) -> None:
    """How many connections to one server a client connection may have; mitmproxy's own bound is 5."""
    handler.max_conns = collections.defaultdict(lambda: asyncio.Semaphore(connections))
