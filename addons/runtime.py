"""The process around the sessions: builds every part of the guard from the configuration, starts and stops them.

INVARIANT: what fails here closes: a part that cannot be built stops the start.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from mitmproxy.connection import Client

from addons import controlled, takeover, tls
from addons.analysts import Analysts
from addons.busy_poll import BusyPoll
from addons.gate import Gate
from addons.index_process import IndexProcess
from addons.leg import Leg
from addons.live import LiveSession
from addons.live_view import LiveView
from addons.metrics.figures import Ended, Figures
from addons.metrics.server import MetricsServer
from addons.refusals import KINDS, Refusals
from addons.registrar import Registrar
from addons.regular_look import RegularLook
from addons.relay import Outbox
from addons.strangers import Strangers
from addons.upstreams import Upstreams
from addons.web.gate import HttpGate
from addons.web.runtime import HttpRuntime
from guard.approve import ApprovalBook, Webhooks
from guard.config import Config
from guard.config.schema import ListenerConfig, ResourceConfig
from guard.control.evidence import Evidence
from guard.control.handlers import Handlers
from guard.control.roles import Roles
from guard.control.server import ControlServer
from guard.enforce import PolicySet
from guard.identity import Verifier
from guard.leak import Fingerprints
from guard.mask import keys as mask_keys
from guard.record.errors import RecordError
from guard.record.journal import Recorder
from guard.record.retention.desk import RetentionDesk
from guard.record.retention.rules import RetentionRules
from guard.state import LoopJournal, StateAccess, StateStore
from guard.state.blocklist import Blocklist
from guard.state.housekeeping import forget_regularly, lost
from protocols.contract import HTTP_PROTOCOLS
from protocols.registry import PROTOCOLS, render

log = logging.getLogger("sluicegate")

_SWITCH = 0.0005  # seconds
_STATE_GRACE = 3.0  # seconds at the stop for what is still to be written to the state store

_current: Runtime | None = None


def current() -> Runtime | None:
    """The runtime, while it serves."""
    runtime = _current
    return None if runtime is None or runtime.draining else runtime


class Runtime:
    """Everything that outlives a connection. `start` builds it all or raises."""

    def __init__(self, config: Config, *, watched: bool = False) -> None:
        self.config = config
        self.name = config.path.stem
        self.watched = watched
        self.stopped = ""
        self.draining = False
        self.connections = 0
        self.strangers = Strangers(config.limits.max_connections)
        self.sessions: dict[str, LiveSession] = {}
        # by the id that its client was told; without a session while that is still to come, and for good without a
        # secret where the protocol has none: nobody can present it then
        self.cancel_keys: dict[int, tuple[LiveSession | None, bytes]] = {}
        self.started_at = time.time()
        self.metrics_address = ""
        self.upstreams = Upstreams(self)
        self.refusals = Refusals(self._note)
        self._registrar: Registrar | None = None
        self._registering: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.look = RegularLook(self)
        self.ended = Ended()
        self._metrics: MetricsServer | None = None
        self._indexer = IndexProcess(self)

    # ------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Raises ConfigError, RecordError, StateError, SecretError, OSError, ...: then nothing is served."""
        global _current
        takeover.self_check()
        config = self.config
        state = config.state_dir
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.policies = PolicySet.load(config.policies)
        forgotten = lost(state / "state.db", recorded=any(state.glob("journal/*.seg*")))
        self.recorder = Recorder(config.record, state)
        self.analysts = Analysts()
        self.busy_poll = BusyPoll(config.limits.busy_poll)
        barrier = self.recorder.sync_barrier if self.recorder.strict else None
        self.outbox = Outbox(self.recorder.flush, barrier, self.recorder.prepare)
        self.store = StateStore(state / "state.db", journal=LoopJournal(self.recorder.event))
        self.state = StateAccess(self.store)
        self.blocklist = Blocklist(self.state)
        self.mask_key = mask_keys.load_or_create(state / "keys" / "mask.key")
        self.blocklist.load()
        self.store.sessions.end_all(self.name, time.time(), "the gateway was restarted")
        self.webhooks = Webhooks(config.notify, self.recorder.event, gateway=self.name)
        rules = RetentionRules.of(config.record.retention)
        self.retention = RetentionDesk(rules, state, self.recorder.event, self.webhooks.send)
        self.roles = Roles(config.roles)
        self.approvals = ApprovalBook(
            self.state,
            self.recorder,
            self.webhooks,
            gateway=self.name,
            max_hold=config.limits.hold_timeout,
            is_approver=lambda principal: self.roles.has(principal, "approver"),
            kept_out=self.blocklist.keeps_out,
        )
        self.approvals.start()
        self.verifier = Verifier(config.issuers, blocked=self.blocklist.why)
        self.ca = tls.LocalCa(state / "ca")
        wire = [x for x in config.listeners if x.protocol in PROTOCOLS]
        self.listener_tls = {x.name: tls.listener_context(x, self.ca) for x in wire if x.tls.mode != "off"}
        self.upstream_tls = {
            r.name: tls.upstream_context(r.name, r.tls) for r in config.resources if r.protocol in PROTOCOLS
        }
        self.fingerprints = self._remembered()
        self.http = HttpRuntime(self)
        self.view = LiveView(self) if self.watched else None
        self.evidence = Evidence(state, render, self.recorder.flush)
        self.handlers = Handlers(
            roles=self.roles,
            state=self.state,
            blocklist=self.blocklist,
            book=self.approvals,
            live=controlled.LiveSessions(self),
            evidence=self.evidence,
            status=lambda: controlled.status(self),
            reload=lambda: controlled.reload(self),
            notifier=self.webhooks,
            retention=self.retention,
        )
        self.control = ControlServer(
            config.control_path,
            self.verifier,
            self.roles,
            self.handlers.table(),
            self.recorder,
            group=config.control.group,
            refused=self.refusals.add,
        )
        await self.verifier.start()
        await self.webhooks.start()
        await self.control.start()
        if config.metrics is not None:
            self._metrics = MetricsServer(*config.metrics.address, Figures(self).text)
            self.metrics_address = await self._metrics.start()
        self.recorder.event(
            "gateway.start", {"pid": os.getpid(), "policy": self.policies.version, "gateway": self.name}
        )
        if forgotten:
            log.warning("%s", forgotten)
            alert = {"alert": "state lost", "subject": "", "resource": "", "why": forgotten}
            self.recorder.event("alert", alert)
            self.webhooks.send("alert", alert)
        self.look.start()
        self.background(self._indexer.run(), "indexer")
        self.background(self.retention.run(), "retention")
        self.background(forget_regularly(self.state), "the session registry's housekeeping")
        _current = self

    def _remembered(self) -> Fingerprints | None:
        """Values that identities get masked are only worth remembering where something could leave over HTTP."""
        http = any(x.protocol in HTTP_PROTOCOLS for x in self.config.listeners)
        return Fingerprints(self.mask_key) if http else None

    def ready(self, addresses: Mapping[str, Any]) -> None:
        """The listeners are up: says so on the log and in `state_dir/ready.json`."""
        own = [*addresses.values(), *([self.metrics_address] if self.metrics_address else [])]
        self.http.own_ports |= {int(str(address).rpartition(":")[2]) for address in own}
        ready = {
            "pid": os.getpid(),
            "listeners": addresses,
            "control": str(self.control.path),
            "metrics": self.metrics_address,
            "ca_file": str(self.ca.certificate_file),
            "proxy_ca_file": self.http.proxy_ca_file,
            "policy": self.policies.version,
        }
        # what is there now lives as long as the process: the collector need not look at it again
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        # how long a thread at work lets this loop wait, and the other way round, at each handing over
        sys.setswitchinterval(_SWITCH)
        path = self.config.state_dir / "ready.json"
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(ready))
        partial.replace(path)
        log.warning("sluicegate ready: %s", ", ".join(f"{k} at {v}" for k, v in addresses.items()))

    async def stop(self, grace: float = 0.0) -> None:
        """Stops admitting, ends idle sessions, gives the others `grace` seconds, closes the record."""
        global _current
        self.draining = True
        deadline = time.monotonic() + grace
        while self.sessions and time.monotonic() < deadline:
            for live in [s for s in self.sessions.values() if not s.at_work]:
                live.terminate("the gateway shuts down")
            await asyncio.sleep(0.05)
        for live in list(self.sessions.values()):
            live.terminate("the gateway shuts down")
        await asyncio.sleep(0)
        await Leg.all_hung_up()
        _current = None
        self.look.stop()
        self.analysts.close()
        await self.control.stop()
        if self._metrics is not None:
            await self._metrics.stop()
        self.evidence.close()
        await self.verifier.stop()
        await self.webhooks.stop()
        self.upstreams.close()
        self._indexer.stop()
        for task in list(self._tasks):
            task.cancel()
        (self.config.state_dir / "ready.json").unlink(missing_ok=True)
        if self._registering:
            await asyncio.wait(list(self._registering), timeout=_STATE_GRACE)
        self.registrar.close()
        await self.state.close(_STATE_GRACE)
        self.refusals.flush(everything=True)
        self.recorder.event("gateway.stop", {"pid": os.getpid(), "gateway": self.name})
        self.recorder.close()
        self.store.close()

    # ------------------------------------------------------------ what connections need

    def gate(self, protocol: str, listener: str, peer: str) -> Gate | None:
        """The gate of one new connection; None: this is no listener of ours."""
        found = self._listener(protocol, listener)
        return None if found is None else Gate(self, PROTOCOLS[protocol], *found, peer)

    def http_gate(self, protocol: str, listener: str, client: Client) -> HttpGate | None:
        """See `gate`."""
        found = self._listener(protocol, listener)
        return None if found is None else self.http.gate(*found, client)

    def _listener(self, protocol: str, name: str) -> tuple[ListenerConfig, ResourceConfig] | None:
        config = self.config
        found = next((x for x in config.listeners if x.name == name and x.protocol == protocol), None)
        return None if found is None else (found, config.resource(found.resource))

    def note(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Records what happened outside a session; a failure is logged: nothing was let through."""
        if kind in KINDS:
            self.refusals.add(kind, payload)
        else:
            self._note(kind, payload)

    def _note(self, kind: str, payload: Mapping[str, Any]) -> None:
        try:
            self.recorder.event(kind, payload)
        except RecordError as e:
            log.error("not recorded (%s): %s", kind, e)

    def background[T](self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that nobody need wait for; its failure is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._background_done)
        return task

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())

    def watch(self, live: LiveSession, client: Client) -> None:
        if self.view is not None:
            self.view.begin(live, client)

    def session_ended(self, live: LiveSession, reason: str) -> None:
        """On record, in the registry, and in what people look at."""
        self.ended.add(live)
        payload = {"commands": live.commands, "reason": reason}
        try:
            self.recorder.session_end(live.id, payload)
        except RecordError as e:
            log.error("the end of session %s is not recorded: %s", live.id, e)
        self.deregister(live.id, reason)
        if self.view is not None:
            self.view.end(live, reason)

    @property
    def registrar(self) -> Registrar:
        if self._registrar is None:
            self._registrar = Registrar(self.store.sessions)
        return self._registrar

    def deregister(self, session_id: str, reason: str) -> None:
        """Notes a session's end in the registry, in a thread: a locked store must not keep the others waiting."""
        work = self.registrar.end(session_id, time.time(), reason)
        self._registering.add(work)

        def done(work: asyncio.Future[None]) -> None:
            self._registering.discard(work)
            if not work.cancelled() and (e := work.exception()) is not None:
                log.error("the end of session %s is not in the registry: %s", session_id, e)

        work.add_done_callback(done)
