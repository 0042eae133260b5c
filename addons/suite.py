"""The addons of sluicegate, made once per process; nothing that happens to the script takes them away.

INVARIANT: until the configuration is in force, and whenever it is not, every flow of every kind is refused. mitmproxy
logs an exception of a hook and lets the traffic go on; therefore no refusal here depends on a hook that can fail, and
each hook that could is wrapped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mitmproxy import ctx, http, tcp, udp
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.dns import DNSFlow
from mitmproxy.net.free_port import get_free_port

from addons import listeners, live_view, log_text, takeover
from addons.fail_closed import closed
from addons.runtime import Runtime
from addons.tls import TlsError
from addons.web.addon import HttpAddon
from guard.config import ConfigError, load
from guard.config.schema import ListenerConfig
from guard.control.wire import ControlError
from guard.detect import DetectError
from guard.mask.keys import MaskKeyError
from guard.record.errors import RecordError
from guard.secrets import SecretError
from guard.state import StateError

log = logging.getLogger("sluicegate")

_ENV = "SLUICEGATE_CONFIG"
_DEFAULT = "sluicegate.yaml"
_REFUSED = "sluicegate serves no such traffic here"

HOW = """\
sluicegate lets nothing through: {why}

Write one, for instance:

    version: 1
    listeners:
      - {{name: shop-db, protocol: postgres, listen: "127.0.0.1:6432", resource: shop}}
    resources:
      - name: shop
        protocol: postgres
        host: db.internal
        database: shop
        credential: {{provider: env, user: app, name: SHOP_DB_PASSWORD}}
    issuers:
      - {{issuer: "https://idp.example", audience: sluicegate}}
    policies: [policies/read-only.yaml]

and name it: mitmdump -s addons/gateway.py --set sluicegate=FILE   (or {env}=FILE)
Check it first: sluicegate check FILE. Every field: docs/reference/config.md"""


def _specs(configured: Sequence[ListenerConfig]) -> list[str]:
    """mitmproxy's names for the listeners. It takes no two on one address: each port 0 becomes another free port."""
    taken = {x.port for x in configured}
    specs = []
    for x in configured:
        port = x.port
        while port in taken and not x.port:
            port = get_free_port()
        taken.add(port)
        specs.append(f"{x.protocol}:{x.name}@{x.host}:{port}")
    return specs


class NotConfigured(Exception):
    """There is no configuration; the text tells how to write one."""


# what goes wrong in a start for reasons outside of us; the text says all that there is to say
_EXPECTED = (
    OSError,
    RecordError,
    StateError,
    SecretError,
    MaskKeyError,
    ControlError,
    TlsError,
    DetectError,
    takeover.Incompatible,
)


def _options() -> Any:
    """mitmproxy's options, whose methods have no types."""
    return ctx.options


def _addons() -> Any:
    return ctx.master.addons


def _refuse_client(client: Client) -> None:
    client.error = _REFUSED


def _refuse_http(flow: http.HTTPFlow) -> None:
    flow.response = http.Response.make(403, _REFUSED.encode(), {"Content-Type": "text/plain"})


def _kill(flow: Any) -> None:
    if flow.killable:
        flow.kill()


def _leave() -> None:
    """Ends the process with 1, at once: taking mitmproxy's native threads down can crash on the way out."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class Closed:
    """Refuses every connection that is not one of our listeners', and every flow that comes about all the same."""

    @closed(_refuse_client)
    def client_connected(self, client: Client) -> None:
        mode = client.proxy_mode.type_name if client.proxy_mode is not None else ""
        if mode not in listeners.MODES:
            client.error = _REFUSED

    @closed(_refuse_http)
    def http_connect(self, flow: http.HTTPFlow) -> None:
        if not flow.metadata.get("sluicegate"):
            _refuse_http(flow)

    @closed(_refuse_http)
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if not flow.metadata.get("sluicegate"):
            _refuse_http(flow)

    @closed(_kill)
    def dns_request(self, flow: DNSFlow) -> None:
        _kill(flow)

    @closed(_kill)
    def udp_start(self, flow: udp.UDPFlow) -> None:
        _kill(flow)

    @closed(_kill)
    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        if not flow.metadata.get("sluicegate"):
            _kill(flow)


class Gateway:
    """Loads the configuration when mitmproxy runs, starts the runtime, opens the listeners."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None
        self._starting: asyncio.Task[None] | None = None
        self.failed = asyncio.Event()

    def load(self, loader: Loader) -> None:
        if "sluicegate" not in ctx.options:
            loader.add_option("sluicegate", str, "", "sluicegate's configuration file (or $SLUICEGATE_CONFIG)")

    def config_path(self) -> Path:
        return Path(ctx.options.sluicegate or os.environ.get(_ENV, "") or _DEFAULT).expanduser()

    def running(self) -> None:
        """The listeners of mitmproxy's own command line go: only the configured ones remain."""
        if self._starting is not None:
            return  # a script reload calls this again
        _options().update(mode=[], connection_strategy="lazy")
        self._starting = asyncio.create_task(self._start(), name="sluicegate start")
        self._starting.add_done_callback(self._started)

    async def _start(self) -> None:
        path = self.config_path()
        if not path.exists():
            where = "it was not named, so this is the default" if path == Path(_DEFAULT) else "as named"
            raise NotConfigured(
                HOW.format(why=f"there is no configuration file `{path.absolute()}` ({where}).", env=_ENV)
            )
        watched = _addons().get("view") is not None or bool(ctx.options.save_stream_file)
        runtime = Runtime(load(path), watched=watched)
        await runtime.start()
        self.runtime = runtime
        await self._listen(runtime)

    async def _listen(self, runtime: Runtime) -> None:
        specs = _specs(runtime.config.listeners)
        _options().update(mode=specs, server=True)
        servers = _addons().get("proxyserver").servers
        for _ in range(200):
            up = {i.mode.data: i.listen_addrs[0] for i in servers if i.is_running and i.mode.full_spec in specs}
            if len(up) == len(specs):
                runtime.ready({k: f"{a[0]}:{a[1]}" for k, a in up.items()})
                return
            for instance in servers:
                if instance.mode.full_spec in specs and instance.last_exception is not None:
                    raise OSError(f"listener `{instance.mode.data}` did not open: {instance.last_exception}")
            await asyncio.sleep(0.05)
        raise OSError("a listener did not open; the log above says which port")

    def _started(self, task: asyncio.Task[None]) -> None:
        """A start that fails leaves nothing open, says why, and ends the process with 1."""
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if isinstance(error, NotConfigured):
            log.error("%s", error, extra=log_text.OURS)
        elif isinstance(error, ConfigError):
            log.error(
                "sluicegate lets nothing through, its configuration has problems:\n%s", error, extra=log_text.OURS
            )
        elif isinstance(error, _EXPECTED):
            log.error("sluicegate lets nothing through: %s", error)
        else:
            log.error("sluicegate lets nothing through: %s: %s", type(error).__name__, error, exc_info=error)
        self.failed.set()
        _options().update(mode=[])
        # mitmproxy does so for errors of its own start; ours may come after it has stopped looking
        asyncio.get_running_loop().call_soon(_leave)

    async def drain(self, grace: float) -> None:
        """No new connections; open transactions get `grace` seconds; then every session ends."""
        if self.runtime is not None:
            runtime, self.runtime = self.runtime, None
            _options().update(mode=[])
            await runtime.stop(grace)

    async def done(self) -> None:
        if self.runtime is not None:
            runtime, self.runtime = self.runtime, None
            await runtime.stop()


_suite: Sequence[Any] | None = None


class Script:
    """What `gateway.py` registers: brings the suite into mitmproxy's chain beside the script, where it stays.

    mitmproxy removes a script's addons before it loads the script again, and for good where that fails: with them the
    guard would go, while the listeners live on.
    """

    def load(self, _loader: Loader) -> None:
        for addon in suite():
            if addon not in _addons():
                _addons().add(addon)


def suite() -> list[Any]:
    """The same objects at every call."""
    global _suite
    takeover.self_check()
    if _suite is None:
        live_view.register()
        takeover.outlive_the_log()
        log_text.install()
        _suite = (Closed(), Gateway(), HttpAddon())
    return list(_suite)
