"""Signed webhooks: people are told without anything waiting for them.

`send` puts an event into a bounded queue per receiver and returns. A task per queue delivers in order, tries again with
growing pauses, and records what it could not deliver: a silent hook would look like a quiet day. Requests for approval
have a queue of their own: whoever makes many of them must not keep an alert from arriving.

A receiver checks `Sluicegate-Signature: t=<unix seconds>,v1=<hex>`, where v1 is HMAC-SHA256 under the shared secret
over `t`, a dot, and the body as received. `Sluicegate-Delivery` names the delivery and is the same for every attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from guard import outbound
from guard.secrets import Secret, SecretError, SecretRef, resolve
from guard.secrets.store import Resolve

SIGNATURE_HEADER = "Sluicegate-Signature"
DELIVERY_HEADER = "Sluicegate-Delivery"
QUEUE_SIZE = 1000
RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)  # pauses between the attempts: six in all
_REQUESTS = frozenset({"approval.requested", "approval.decided"})  # what anybody can cause without end
_RETRIABLE = frozenset({408, 425, 429})
_ANSWER_BYTES = 64 * 1024  # read and thrown away

log = logging.getLogger("sluicegate.notify")


class NotifyConfig(Protocol):
    """One entry of `notify:` in the configuration."""

    @property
    def url(self) -> str: ...
    @property
    def ca(self) -> Path | None: ...
    @property
    def secret(self) -> SecretRef: ...
    @property
    def events(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class _Delivery:
    id: str
    event: str
    body: bytes


@dataclass(slots=True)
class _Hook:
    config: NotifyConfig
    events: frozenset[str]
    host: str  # all of the url that is ever logged: the path of a chat hook is its password
    queue: asyncio.Queue[_Delivery] = field(default_factory=lambda: asyncio.Queue(QUEUE_SIZE))
    dropped: int = 0


class Webhooks:
    """The notifier of a gateway. `record(kind, payload)` is the recorder's `event`."""

    def __init__(
        self,
        hooks: Sequence[NotifyConfig],
        record: Callable[[str, Mapping[str, Any]], object],
        *,
        gateway: str = "",
        resolve: Resolve = resolve,
        clock: Callable[[], float] = time.time,
        pauses: Sequence[float] = RETRY_S,
    ) -> None:
        self._hooks = [
            _Hook(config, events, outbound.check_url(config.url).host)
            for config in hooks
            for events in (frozenset(config.events) & _REQUESTS, frozenset(config.events) - _REQUESTS)
            if events
        ]
        self._record = record
        self._gateway = gateway
        self._resolve = resolve
        self._clock = clock
        self._pauses = tuple(pauses)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Deliver in the background from now on."""
        self._tasks = [asyncio.create_task(self._work(hook), name=f"webhook {hook.host}") for hook in self._hooks]

    async def stop(self, grace: float = 2.0) -> None:
        """Give what is queued `grace` seconds, then stop; what is left over is recorded as not delivered."""
        if self._tasks:
            waiting = asyncio.gather(*(hook.queue.join() for hook in self._hooks))
            try:
                await asyncio.wait_for(waiting, grace)
            except TimeoutError:
                log.warning("webhooks are not delivered in time for the stop")
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for hook in self._hooks:
            while not hook.queue.empty():
                self._failed(hook, hook.queue.get_nowait(), 0, "the gateway stopped")

    def send(self, event: str, data: Mapping[str, Any]) -> None:
        """Queue an event for every receiver that wants it. Never blocks, never raises."""
        try:
            wanting = [hook for hook in self._hooks if event in hook.events]
            if not wanting:
                return
            delivery = _delivery(event, data, self._gateway, self._clock())
        except Exception:
            log.exception("event %s cannot be sent", event)
            return
        for hook in wanting:
            try:
                hook.queue.put_nowait(delivery)
            except asyncio.QueueFull:
                # one record for the first of them: a full queue must not fill the journal as well
                if hook.dropped == 0:
                    self._failed(hook, delivery, 0, f"{QUEUE_SIZE} events wait already")
                hook.dropped += 1

    async def _work(self, hook: _Hook) -> None:
        while True:
            delivery = await hook.queue.get()
            try:
                await self._deliver(hook, delivery)
            except asyncio.CancelledError:
                self._failed(hook, delivery, 1, "the gateway stopped")
                raise
            except Exception as error:
                log.exception("webhook to %s", hook.host)
                self._failed(hook, delivery, 1, type(error).__name__)
            finally:
                hook.queue.task_done()
            if hook.dropped and hook.queue.empty():
                log.warning("webhook to %s: %d events were dropped while its queue was full", hook.host, hook.dropped)
                hook.dropped = 0

    async def _deliver(self, hook: _Hook, delivery: _Delivery) -> None:
        for attempt in range(1, len(self._pauses) + 2):
            why, again = await self._attempt(hook, delivery)
            if why is None:
                return
            if not again or attempt > len(self._pauses):
                self._failed(hook, delivery, attempt, why)
                return
            pause = self._pauses[attempt - 1] * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            await asyncio.sleep(pause)

    async def _attempt(self, hook: _Hook, delivery: _Delivery) -> tuple[str | None, bool]:
        """(None, ...) when it was delivered, else why not and whether to try again."""
        try:
            secret = await self._resolve(hook.config.secret)
            headers = {
                "Content-Type": "application/json",
                DELIVERY_HEADER: delivery.id,
                SIGNATURE_HEADER: sign(secret, delivery.body, int(self._clock())),
            }
            response = await outbound.request(
                "POST",
                hook.config.url,
                headers=headers,
                body=delivery.body,
                ca=hook.config.ca,
                max_bytes=_ANSWER_BYTES,
            )
        except (SecretError, outbound.OutboundError) as error:
            return str(error), True
        if 200 <= response.status < 300:
            return None, False
        return f"status {response.status}", response.status >= 500 or response.status in _RETRIABLE

    def _failed(self, hook: _Hook, delivery: _Delivery, attempts: int, why: str) -> None:
        log.error("webhook to %s: %s not delivered after %d attempts: %s", hook.host, delivery.event, attempts, why)
        facts = {"host": hook.host, "event": delivery.event, "delivery": delivery.id, "attempts": attempts, "why": why}
        try:
            self._record("notify.failed", facts)
        except Exception:
            # the journal fails: the recorder says so itself, and everything else is being denied already
            log.exception("a failed webhook cannot be recorded")


def _delivery(event: str, data: Mapping[str, Any], gateway: str, now: float) -> _Delivery:
    identity = secrets.token_hex(8)
    document = {"id": identity, "event": event, "at": now, "gateway": gateway, "data": dict(data)}
    return _Delivery(identity, event, orjson.dumps(document))


def sign(secret: Secret, body: bytes, at: int) -> str:
    """The value of the signature header for this body at this time (seconds since the epoch)."""
    mac = hmac.digest(secret.password.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={mac.hex()}"
