"""The process around the sessions: builds every part of the guard from the configuration, and keeps them going.

INVARIANT: what fails here closes. A part that cannot be built stops the start; a store or recorder that stops answering
stops the traffic (`stopped` says why) until it answers again.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from mitmproxy.connection import Client

from addons import takeover, tls
from addons.busy_poll import BusyPoll
from addons.catalog_client import CatalogClient, new_login
from addons.catalogs import CatalogKeeper
from addons.gate import Gate
from addons.http_gate import HttpGate
from addons.http_runtime import HttpRuntime
from addons.live import LiveSession
from addons.live_view import LiveView
from addons.refusals import KINDS, Refusals
from addons.registrar import Registrar
from addons.relay import Outbox
from addons.strangers import Strangers
from guard.approve import ApprovalBook, Webhooks
from guard.config import Config, load
from guard.config.schema import ResourceConfig
from guard.control import ControlServer, Handlers, Roles
from guard.control.evidence import Evidence
from guard.enforce import PolicySet
from guard.identity import Verifier
from guard.leak import Fingerprints
from guard.mask import keys as mask_keys
from guard.record.errors import RecordError
from guard.record.journal import Recorder
from guard.record.retention.desk import RetentionDesk
from guard.record.retention.rules import RetentionRules
from guard.secrets import Secrets
from guard.state import LoopJournal, StateAccess, StateError, StateStore
from guard.state.blocklist import Blocklist
from guard.state.housekeeping import forget_regularly
from protocols.contract import HTTP_PROTOCOLS, Credential, CredentialRefused, UpstreamLogin
from protocols.registry import PROTOCOLS, WireProtocol

log = logging.getLogger("sluicegate")

_ROOT = Path(__file__).resolve().parent.parent
_SWITCH = 0.0005  # seconds
_TICK = 0.2  # seconds between looks at approvals, containment and deadlines
_EARLY_UPSTREAMS = 8
_STATE_GRACE = 3.0  # seconds at the stop for what is still to be written to the state store
_LOST_AFTER = 5.0  # seconds without the state store after which nothing passes

_current: Runtime | None = None


def current() -> Runtime | None:
    """The runtime, while it serves."""
    runtime = _current
    return None if runtime is None or runtime.draining else runtime


def gate(protocol: str, listener: str, peer: str) -> Gate | None:
    """The gate of one new connection; None while the gateway is not serving."""
    runtime = _current
    if runtime is None or runtime.draining:
        return None
    return runtime.gate(protocol, listener, peer)


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
        self.secrets = Secrets()
        self.stale_credentials: set[str] = set()  # resources whose upstream did not take theirs
        self.started_at = time.time()
        self._keepers: dict[tuple[str, str], CatalogKeeper] = {}
        self._caches: dict[str, Any] = {}
        self._refusals = Refusals(self._note)
        self._registrar: Registrar | None = None
        self._registering: set[asyncio.Future[None]] = set()
        self._early_upstreams: dict[str, asyncio.Semaphore] = {}
        self._looking: asyncio.Task[None] | None = None
        self._store_error = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._indexer: asyncio.subprocess.Process | None = None

    # ------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Raises ConfigError, RecordError, StateError, SecretError, OSError, ...: then nothing is served."""
        global _current
        takeover.self_check()
        config = self.config
        state = config.state_dir
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.policies = PolicySet.load(config.policies)
        self.recorder = Recorder(config.record, state)
        self.busy_poll = BusyPoll(config.limits.busy_poll)
        self.outbox = Outbox(self.recorder.flush, self.recorder.sync_barrier if self.recorder.strict else None)
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
        self.evidence = Evidence(state, lambda protocol, wire: PROTOCOLS[protocol].render(wire), self.recorder.flush)
        self.handlers = Handlers(
            roles=self.roles,
            state=self.state,
            blocklist=self.blocklist,
            book=self.approvals,
            live=LiveSessions(self),
            evidence=self.evidence,
            status=self.status,
            reload=self.reload,
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
        )
        await self.verifier.start()
        await self.webhooks.start()
        await self.control.start()
        self.recorder.event(
            "gateway.start", {"pid": os.getpid(), "policy": self.policies.version, "gateway": self.name}
        )
        self._ticker = asyncio.create_task(self._tick(), name="sluicegate ticker")
        self._ticker.add_done_callback(self._ticker_ended)
        self.background(self._run_indexer(), "indexer")
        self.background(self.retention.run(), "retention")
        self.background(forget_regularly(self.state), "the session registry's housekeeping")
        _current = self

    def _remembered(self) -> Fingerprints | None:
        """Values that identities get masked are only worth remembering where something could leave over HTTP."""
        http = any(x.protocol in HTTP_PROTOCOLS for x in self.config.listeners)
        return Fingerprints(self.mask_key) if http else None

    def ready(self, addresses: Mapping[str, Any]) -> None:
        """The listeners are up: says so on the log and in `state_dir/ready.json`."""
        self.http.own_ports |= {int(str(address).rpartition(":")[2]) for address in addresses.values()}
        ready = {
            "pid": os.getpid(),
            "listeners": addresses,
            "control": str(self.control.path),
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
        _current = None
        for look in (self._ticker, self._looking):
            if look is not None:
                look.cancel()
        await self.control.stop()
        self.evidence.close()
        await self.verifier.stop()
        await self.webhooks.stop()
        for keeper in self._keepers.values():
            keeper.close()
        if self._indexer is not None and self._indexer.returncode is None:
            self._indexer.terminate()
        for task in list(self._tasks):
            task.cancel()
        (self.config.state_dir / "ready.json").unlink(missing_ok=True)
        if self._registering:
            await asyncio.wait(list(self._registering), timeout=_STATE_GRACE)
        self.registrar.close()
        await self.state.close(_STATE_GRACE)
        self._refusals.flush(everything=True)
        self.recorder.event("gateway.stop", {"pid": os.getpid(), "gateway": self.name})
        self.recorder.close()
        self.store.close()

    async def _run_indexer(self) -> None:
        """The index is made by a child process: it shares neither our loop nor our GIL."""
        pause = 1.0
        while not self.draining:
            self._indexer = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "guard.record.indexer",
                "--state",
                str(self.config.state_dir),
                "--parent",
                str(os.getpid()),
                *self.retention.arguments(),
                cwd=_ROOT,
                stdin=asyncio.subprocess.PIPE,  # it ends when we do, however we end
            )
            code = await self._indexer.wait()
            if self.draining:
                return
            log.error("the indexer ended with %s; starting it again in %g s", code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 60.0)

    # ------------------------------------------------------------ what connections need

    def http_gate(self, protocol: str, listener: str, client: Client) -> HttpGate | None:
        found = next((x for x in self.config.listeners if x.name == listener and x.protocol == protocol), None)
        return None if found is None else self.http.gate(found, self.config.resource(found.resource), client)

    def gate(self, protocol: str, listener: str, peer: str) -> Gate | None:
        found = next((x for x in self.config.listeners if x.name == listener and x.protocol == protocol), None)
        if found is None:
            return None
        resource = next(r for r in self.config.resources if r.name == found.resource)
        return Gate(self, PROTOCOLS[protocol], found, resource, peer)

    async def login(self, config: ResourceConfig, database: str, bound: float) -> UpstreamLogin:
        """How a connection of the gateway's own logs in at this moment. Raises `SecretError`."""
        credential = await self.credential(config)
        return new_login(credential, database, self.upstream_tls[config.name] is not None, bound)

    async def credential(self, config: ResourceConfig) -> Credential:
        """What the gateway logs in with; read anew where the upstream has refused it. Raises `SecretError`."""
        secret = await self.secrets.resolve(config.credential, fresh=config.name in self.stale_credentials)
        self.stale_credentials.discard(config.name)
        self.http.outbound.learn(config.name, secret.password)
        return Credential(config.credential.user or secret.username or "", secret.password)

    def keeper(self, config: ResourceConfig, database: str) -> CatalogKeeper:
        # where a connection sees one database only, each has a catalog of its own
        world = database if config.one_database else config.database or ""
        key = (config.name, world)
        keeper = self._keepers.get(key)
        if keeper is None:

            async def connect() -> CatalogClient:
                login = await self.login(config, world, config.catalog.timeout)
                source = PROTOCOLS[config.protocol].catalog_source()
                client = CatalogClient(source, self.upstream_tls[config.name], config.tls.server_name or config.server)
                try:
                    await client.connect(config.server, config.port, login)
                except CredentialRefused:
                    self.stale_credentials.add(config.name)
                    raise
                return client

            name = f"{config.name}/{world}" if world else config.name
            keeper = self._keepers[key] = CatalogKeeper(name, connect, config.catalog.max_age)
        return keeper

    def cache(self, protocol: WireProtocol, resource: str) -> Any:
        if resource not in self._caches:
            self._caches[resource] = protocol.cache()
        return self._caches[resource]

    def early_upstreams(self, resource: str) -> asyncio.Semaphore:
        """Upstream connections of clients that nobody knows yet, at a time: more wait, or a crowd of strangers could
        take all that the server has, or have it lock us out for logins that were never finished."""
        return self._early_upstreams.setdefault(resource, asyncio.Semaphore(_EARLY_UPSTREAMS))

    def note(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Records what happened outside a session; a failure is logged: nothing was let through."""
        if kind in KINDS:
            self._refusals.add(kind, payload)
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
        self.note_end(live, reason)
        if self.view is not None:
            self.view.end(live, reason)

    def note_end(self, live: LiveSession, reason: str) -> None:
        payload = {"commands": live.commands, "reason": reason}
        try:
            self.recorder.session_end(live.id, payload)
        except RecordError as e:
            log.error("the end of session %s is not recorded: %s", live.id, e)
        self.deregister(live.id, reason)

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

    # ------------------------------------------------------------ the regular look

    async def _look_at_store(self) -> None:
        """What others changed. It may wait for the disk, and then the rest of the look does not."""
        try:
            await self.blocklist.look()
            await self.approvals.poll()
        except StateError as e:
            if str(e) != self._store_error:
                log.error("the state store: %s", e)
            self._store_error = str(e)
        else:
            self._store_error = ""

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is not None:
            self._ticker_ended(task)

    def look(self) -> None:
        """Containment, revocation, approvals, deadlines, checkpoints: one round."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_at_store(), name="look at the state store")
            self._looking.add_done_callback(self._looked)
        self.approvals.tick()
        store = ""
        if time.monotonic() - self.blocklist.seen > _LOST_AFTER:
            store = f"the gateway's state store does not answer: {self._store_error or 'its disk hangs'}"
        try:
            self.recorder.tick()
            record = ""
        except RecordError as e:
            record = "the gateway cannot record; nothing passes until it can"
            if self.recorder.recover():
                record = ""
            elif not self.stopped:
                log.error("recording stopped: %s", e)
        stopped = store or record
        if stopped != self.stopped:
            self.stopped = stopped
            log.error("stopped: %s", stopped) if stopped else log.warning("serving again")
            for live in list(self.sessions.values()):
                live.forget_decisions()
        self._refusals.flush()
        now = time.time()
        for live in list(self.sessions.values()):
            live.check(now)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self.look()

    def _ticker_ended(self, task: asyncio.Task[None]) -> None:
        """Without the regular look containment would not reach anybody: nothing may pass."""
        if task.cancelled():
            return
        log.critical("the regular look failed; everything stops", exc_info=task.exception())
        self.stopped = "internal error in the gateway; nothing passes until it is restarted"
        self.draining = True
        for live in list(self.sessions.values()):
            live.terminate("internal error in the gateway")

    # ------------------------------------------------------------ for the control API

    async def reload(self) -> dict[str, Any]:
        """Loads the policies anew; where that fails the old ones stay, and the error says why."""
        policies = await asyncio.to_thread(lambda: PolicySet.load(load(self.config.path).policies))
        old, self.policies = self.policies.version, policies
        self.recorder.event("policy.loaded", {"version": policies.version, "before": old})
        for live in list(self.sessions.values()):
            live.new_policy(policies.for_session(live.principal, live.resource, live.facts))
        return {"version": policies.version, "before": old, "changed": old != policies.version}

    def status(self) -> dict[str, Any]:
        return {
            "gateway": self.name,
            "pid": os.getpid(),
            "started_at": self.started_at,
            "connections": self.connections,
            "policy": self.policies.version,
            "stopped": self.stopped or None,
            "space": self.retention.warning,
            "contained": sorted(self.blocklist.contained),
            "catalogs": {k.name: k.error or "fresh" for k in self._keepers.values()},
            "issuers": self.verifier.status(),
        }


class LiveSessions:
    """What the control API may see of, and do to, the sessions of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> Sequence[Mapping[str, Any]]:
        return [live.summary() for live in self._runtime.sessions.values()]

    def terminate(self, session_id: str, reason: str) -> bool:
        live = self._runtime.sessions.get(session_id)
        if live is None:
            return False
        live.terminate(reason)
        return True

    def contain(self, subject: str) -> int:
        ended = 0
        for live in list(self._runtime.sessions.values()):
            if live.principal.subject == subject:
                live.terminate(f"`{subject}` is contained: every access is cut until a responder releases it")
                ended += 1
        return ended
