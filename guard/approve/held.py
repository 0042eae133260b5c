"""What a held command is while it waits, and how that ends.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from guard.record.errors import RecordError
from guard.state import ApprovalConflict

log = logging.getLogger("sluicegate.approve")


class ApprovalError(Exception):
    """A request or a vote that is not accepted. The text is for the person who asked."""


class Notifier(Protocol):
    """Tells people. INVARIANT: returns at once and never raises."""

    def send(self, event: str, data: Mapping[str, Any]) -> None: ...


class EventRecorder(Protocol):
    """The part of the recorder that is needed here."""

    def event(self, kind: str, payload: Mapping[str, Any]) -> int: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a wait ended. An approved one still has to be spent."""

    approved: bool
    by: tuple[str, ...]
    reason: str  # for the client; no secrets
    status: str  # approved, denied, expired, withdrawn


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A command that waits. `future` always gets an outcome, at the latest when the request expires and is polled."""

    id: str
    expires_at: float  # seconds since the epoch
    future: asyncio.Future[Ending]
    subject: str
    deferred: bool = False  # joined a request that had been deferred


@contextmanager
def conflicts() -> Iterator[None]:
    """What the store refuses, in words for the person; the journal's own error names files and goes to the log."""
    try:
        yield
    except ApprovalConflict as error:
        raise ApprovalError(str(error)) from error
    except RecordError as error:
        log.error("approvals cannot be recorded: %s", error)
        raise ApprovalError("the gateway cannot record this now, so nothing was changed; try again later") from error
