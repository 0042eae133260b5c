"""Sessions as flows in mitmweb (and in `-w` files): readable, redacted, capped; made from the record.

The data path fires no mitmproxy hook per message. A timer takes what the sessions have put on record since the last
look, turns it into the messages of a TCPFlow and announces the flow once. What is shown is what the journal has: no
token, no credential and no masked value can be in it.

A flow's client is `SUBJECT@ADDRESS`, its server `RESOURCE@HOST`: mitmweb's list then says who is where, and its filters
find them (`~src analyst`, `~dst shop`, `~marker ⛔`).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import textwrap
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import orjson
from mitmproxy import contentviews, ctx, flow, hooks, tcp
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.proxy.layers.tcp import TcpEndHook, TcpStartHook

from protocols.registry import PROTOCOLS

if TYPE_CHECKING:
    from addons.live import LiveSession
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.view")

_EVERY = 0.25  # seconds between looks
_BUDGET = 0.02  # seconds of the event loop that one look may take
_PER_LOOK = 50  # records of one session that one look shows: nobody reads faster
MAX_MESSAGES = 400  # kept per flow; older ones are dropped from view (the journal has them all)
MAX_SHOWN = 4096  # characters of one message
MAX_LINES = 40  # of one result
MAX_FLOWS = 500  # ended sessions kept in view
WIDTH = 88  # characters after which prose and statements are wrapped
_WIRE = 16384  # bytes of a result that are looked at

HELD, DENIED, ENDED = ":hourglass_flowing_sand:", ":no_entry:", ":stop_sign:"
_WORDS = {"allow": "allowed", "deny": "DENIED", "hold": "HELD", "terminate": "SESSION ENDED"}


class Recent:
    """What a session has put on record since the last look: bounded in number and in bytes, the oldest go first."""

    MAX_RECORDS = 64
    MAX_BYTES = 262144

    def __init__(self) -> None:
        self._records: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._records) + self._dropped

    def append(self, kind: str, body: bytes) -> None:
        self._records.append((kind, body))
        self._size += len(body)
        while len(self._records) > self.MAX_RECORDS or self._size > self.MAX_BYTES:
            self._size -= len(self._records.popleft()[1])
            self._dropped += 1

    def take(self, most: int) -> tuple[Sequence[tuple[str, bytes]], int]:
        """The newest `most` records, and how many there were besides. It is empty afterwards."""
        records = list(self._records)[-most:]
        left_out = len(self) - len(records)
        self._records.clear()
        self._size = self._dropped = 0
        return records, left_out


class LiveView:
    """Owns the flows. Everything here may fail without touching a session: it only reads what was recorded."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flows: dict[str, tuple[LiveSession, tcp.TCPFlow]] = {}
        self._ended: deque[tcp.TCPFlow] = deque()
        runtime.background(self._run(), "live view")

    def begin(self, live: LiveSession, client: Client) -> None:
        """A session begins. Never raises: a picture is not worth a session."""
        try:
            shown = self._flow(live, client)
        except Exception:
            log.exception("session %s is not shown", live.id)
            return
        self._flows[live.id] = (live, shown)
        self._runtime.background(ctx.master.addons.trigger_event(TcpStartHook(shown)), "live view start")

    def _flow(self, live: LiveSession, client: Client) -> tcp.TCPFlow:
        who, host, port = live.principal.subject, *client.peername[:2]
        # without our proxy mode: mitmproxy alone could not read a file that has it
        shown = Client(
            peername=(f"{who}@{host}", port),
            sockname=client.sockname,
            timestamp_start=client.timestamp_start,
            state=ConnectionState.OPEN,
            tls=client.tls,
            tls_version=client.tls_version,
            cipher=client.cipher,
            alpn=client.alpn,
            timestamp_tls_setup=client.timestamp_tls_setup,
        )
        config = next(r for r in self._runtime.config.resources if r.name == live.resource.name)
        server = Server(address=(f"{config.name}@{config.host}", config.port), timestamp_start=time.time())
        # not `live`: mitmweb would offer to kill it, and could not. `sluicegate contain` does
        made = tcp.TCPFlow(shown, server, live=False)
        made.metadata.update(
            sluicegate=True,
            session=live.id,
            principal=who,
            issuer=live.principal.issuer,
            resource=live.resource.name,
            protocol=live.resource.protocol,
        )
        made.comment = _about(live)
        return made

    def end(self, live: LiveSession, reason: str) -> None:
        """A session has ended. Never raises."""
        found = self._flows.pop(live.id, None)
        if found is None:
            return
        shown = found[1]
        self._take(live, shown)
        _add(shown, False, "\n".join(_wrapped(f"session ended: {reason}")), time.time())
        shown.client_conn.timestamp_end = shown.server_conn.timestamp_end = time.time()
        shown.client_conn.state = shown.server_conn.state = ConnectionState.CLOSED
        if live.end_reason:
            shown.marked = ENDED
            shown.error = flow.Error(f"ended by the gateway: {live.end_reason}")
        self._ended.append(shown)
        self._runtime.background(ctx.master.addons.trigger_event(TcpEndHook(shown)), "live view end")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            changed = self._look()
            if changed:
                await ctx.master.addons.trigger_event(hooks.UpdateHook(changed))
            self._trim()

    def _look(self) -> list[flow.Flow]:
        """The flows that have something new. Where time runs out, the next look begins with those left over."""
        changed: list[flow.Flow] = []
        until = time.monotonic() + _BUDGET
        for key in list(self._flows):
            live, shown = self._flows.pop(key)
            self._flows[key] = (live, shown)  # to the end of the row
            if self._take(live, shown):
                changed.append(shown)
            if time.monotonic() > until:
                break
        return changed

    def _take(self, live: LiveSession, shown: tcp.TCPFlow) -> bool:
        if not live.recent:
            return False
        records, left_out = live.recent.take(_PER_LOOK)
        if left_out:
            text = f"({left_out} more than are shown here: `sluicegate show {live.id}` has them all)"
            _add(shown, True, text, time.time())
        for kind, body in records:
            try:
                _show(shown, kind, orjson.loads(body), live.resource.protocol)
            except Exception:  # a record that cannot be shown is on record all the same
                log.exception("a record of session %s is not shown", live.id)
        del shown.messages[:-MAX_MESSAGES]
        return True

    def _trim(self) -> None:
        """Old ended sessions leave the view, or it would grow without bound."""
        view = cast(Any, ctx.master.addons).get("view")
        while len(self._ended) > MAX_FLOWS:
            old = self._ended.popleft()
            if view is not None:
                view.remove([old])


def _about(live: LiveSession) -> str:
    """A flow's comment: everything there is to know of a session but what it did."""
    principal, resource = live.principal, live.resource
    groups = ", ".join(sorted(principal.groups)) or "none"
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(principal.expires_at))
    return "\n".join(
        (
            f"{principal.subject} (groups: {groups}) on {resource.name}, database {resource.database}",
            f"identity of {principal.issuer}, until {until}",
            f"client {live.facts.client_address}, application `{live.facts.application}`, listener {live.listener}",
            f"session {live.id}: `sluicegate show {live.id}`, `sluicegate replay {live.id}`",
        )
    )


def _show(shown: tcp.TCPFlow, kind: str, record: dict[str, Any], protocol: str) -> None:
    at = record["at"] / 1e9
    if kind == "command":
        shown.metadata["decision"], shown.metadata["rule"] = record["decision"], record["rule"]
        if record["decision"] == "hold":
            shown.marked = HELD
        elif record["decision"] != "allow":
            shown.marked = DENIED
        _add(shown, True, command_text(record), at)
    elif kind == "response":
        if shown.marked == HELD:
            shown.marked = DENIED if record["status"] == "error" else ""
        _add(shown, False, response_text(record, protocol), at)


def _add(shown: tcp.TCPFlow, from_client: bool, text: str, at: float) -> None:
    if len(text) > MAX_SHOWN:
        text = text[:MAX_SHOWN] + "\n(cut here)"
    message: Any = tcp.TCPMessage  # untyped
    shown.messages.append(message(from_client, text.encode("utf-8", "replace"), at))


def command_text(record: dict[str, Any]) -> str:
    """One command as people read it."""
    decision = record["decision"]
    lines = [
        f"#{record['n']} {_WORDS.get(decision, decision)} by {record['rule']}: {', '.join(record['effects'])}",
        *_wrapped(record["text"][:MAX_SHOWN]),
    ]
    if record.get("params"):
        given = ("NULL" if p is None else repr(p) for p in record["params"])
        lines += _wrapped(("with " + ", ".join(f"${i} = {p}" for i, p in enumerate(given, 1)))[:MAX_SHOWN])
    if decision in ("hold", "terminate"):
        lines += _wrapped(f"-- {record.get('why', '')}")  # of a denial the answer tells
    return "\n".join(lines)


def response_text(record: dict[str, Any], protocol: str) -> str:
    """One response as people read it: as the client saw it, masks applied."""
    rows = f"{record['rows']} row{'' if record['rows'] == 1 else 's'}, {record['bytes']} bytes, "
    size = "" if record["status"] == "error" else rows
    lines = [f"#{record['n']} {record['status']}: {size}{record['us'] / 1000:.1f} ms"]
    masked = [f"{c['name']} ({c['masked']})" for c in record.get("columns", ()) if c["masked"]]
    if masked:
        lines += _wrapped(f"masked: {', '.join(masked)}")
    wire = base64.b64decode(record["wire"][: _WIRE // 3 * 4])
    found = PROTOCOLS[protocol].render(wire, MAX_LINES)
    lines += _wrapped("\n".join(found)) if record["status"] == "error" else found
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    """Lines that a person need not scroll; a continued one is indented."""
    lines = text.splitlines()
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="    ") or [""]]


class SessionView(Contentview):
    """The messages of a session's flow are text already; this makes mitmweb show them as such."""

    @property
    def name(self) -> str:
        return "sluicegate session"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return data.decode("utf-8", "replace")

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        shown = metadata.flow
        return 10 if shown is not None and shown.metadata.get("sluicegate") else -1


def register() -> None:
    """Once per process."""
    contentviews.add(SessionView())
