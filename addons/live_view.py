"""Sessions as flows in mitmweb (and in `-w` files): readable, redacted, capped; made from the record.

The data path fires no mitmproxy hook per message. A timer takes what the sessions have put on record since the last
look, turns it into the messages of a TCPFlow and announces the flow once. What is shown is what the journal has: no
token, no credential and no masked value can be in it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING, Any, cast

import orjson
from mitmproxy import contentviews, ctx, hooks, tcp
from mitmproxy.connection import Client, Server
from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.proxy.layers.tcp import TcpEndHook, TcpStartHook

from protocols.registry import PROTOCOLS

if TYPE_CHECKING:
    from addons.live import LiveSession
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.view")

_EVERY = 0.25  # seconds
MAX_MESSAGES = 400  # kept per flow; older ones are dropped from view (the journal has them all)
MAX_SHOWN = 4096  # characters of one message
MAX_LINES = 40
MAX_FLOWS = 500  # ended sessions kept in view


class LiveView:
    """Owns the flows. Everything here may fail without touching a session: it only reads what was recorded."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flows: dict[str, tuple[LiveSession, tcp.TCPFlow]] = {}
        runtime.background(self._run(), "live view")

    def begin(self, live: LiveSession, client: Client) -> None:
        shown = Client(
            peername=client.peername,
            sockname=client.sockname,
            timestamp_start=client.timestamp_start,
            proxy_mode=client.proxy_mode,
        )
        config = next(r for r in self._runtime.config.resources if r.name == live.resource.name)
        flow = tcp.TCPFlow(shown, Server(address=(config.host, config.port)), live=True)
        flow.metadata.update(
            sluicegate=True,
            session=live.id,
            principal=live.principal.subject,
            issuer=live.principal.issuer,
            resource=live.resource.name,
            protocol=live.resource.protocol,
        )
        flow.comment = f"{live.principal.subject} on {live.resource.name} (session {live.id})"
        self._flows[live.id] = (live, flow)
        self._runtime.background(ctx.master.addons.trigger_event(TcpStartHook(flow)), "live view start")

    def end(self, live: LiveSession, reason: str) -> None:
        found = self._flows.pop(live.id, None)
        if found is None:
            return
        flow = found[1]
        self._take(live, flow)
        _add(flow, False, f"session ended: {reason}")
        flow.live = False
        self._runtime.background(ctx.master.addons.trigger_event(TcpEndHook(flow)), "live view end")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            changed = [flow for live, flow in list(self._flows.values()) if self._take(live, flow)]
            if changed:
                await ctx.master.addons.trigger_event(hooks.UpdateHook(changed))
            self._trim()

    def _take(self, live: LiveSession, flow: tcp.TCPFlow) -> bool:
        recent = live.recent
        if not recent:
            return False
        records, skipped = list(recent), len(recent) == recent.maxlen
        recent.clear()
        if skipped:
            _add(flow, True, "(more commands than are shown here; `sluicegate show` has them all)")
        for kind, body in records[-MAX_MESSAGES:]:
            record = orjson.loads(body)
            if kind == "command":
                _add(flow, True, command_text(record))
                flow.metadata["decision"] = record["decision"]
                flow.metadata["rule"] = record["rule"]
            elif kind == "response":
                _add(flow, False, response_text(record, live.resource.protocol))
        del flow.messages[:-MAX_MESSAGES]
        return True

    def _trim(self) -> None:
        """Old ended sessions leave the view, or it would grow without bound."""
        view = cast(Any, ctx.master.addons).get("view")
        if view is None:
            return
        ended = [f for f in view if isinstance(f, tcp.TCPFlow) and f.metadata.get("sluicegate") and not f.live]
        if len(ended) > MAX_FLOWS:
            view.remove(ended[: len(ended) - MAX_FLOWS])


def _add(flow: tcp.TCPFlow, from_client: bool, text: str) -> None:
    message: Any = tcp.TCPMessage  # untyped
    flow.messages.append(message(from_client, text[:MAX_SHOWN].encode("utf-8", "replace")))


def command_text(record: dict[str, Any]) -> str:
    """One command as people read it."""
    params = record.get("params")
    lines = [f"#{record['n']} {record['decision']} by {record['rule']}: {', '.join(record['effects'])}", record["text"]]
    if params:
        lines.append("with " + ", ".join("NULL" if p is None else repr(p) for p in params))
    if record["decision"] != "allow":
        lines.append(f"({record.get('why', '')})")
    return "\n".join(lines)


def response_text(record: dict[str, Any], protocol: str) -> str:
    """One response as people read it: as the client saw it, masks applied."""
    size = f"{record['rows']} rows, {record['bytes']} bytes, {record['us'] / 1000:.1f} ms"
    head = f"#{record['n']} {record['status']}: {size}"
    lines = PROTOCOLS[protocol].render(base64.b64decode(record["wire"]))
    shown = lines[:MAX_LINES]
    if len(lines) > len(shown):
        shown.append(f"... {len(lines) - len(shown)} more lines")
    return "\n".join([head, *shown])


class SessionView(Contentview):
    """The messages of a session's flow are text already; this makes mitmweb show them as such."""

    @property
    def name(self) -> str:
        return "sluicegate session"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return data.decode("utf-8", "replace")

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        flow = metadata.flow
        return 10 if flow is not None and flow.metadata.get("sluicegate") else -1


def register() -> None:
    """Once per process."""
    contentviews.add(SessionView())
