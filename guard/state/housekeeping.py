"""Keeps the session registry small, and notices a store that was lost. Evidence is in the journal, and stays there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from guard.state.access import StateAccess
from guard.state.database import StateError

KEEP_S = 30 * 86400.0  # seconds that an ended session stays in the registry
EVERY_S = 86400.0
AGAIN_S = 600.0  # after a failure
BATCH = 500  # rows in one transaction, so that a login never waits long for one
_PAUSE_S = 0.1  # between two of them

log = logging.getLogger("sluicegate.state")


def lost(path: Path, *, recorded: bool) -> str:
    """Why people must look at a store that is about to be made; empty: no need. `recorded`: there is a journal."""
    try:
        found = path.stat().st_size > 0
    except OSError:
        found = False
    if found or not recorded:
        return ""
    return (
        f"`{path.name}` was lost: who was contained, and which tokens were revoked, is not known any more; "
        "restore it, or contain them again (`sluicegate events --kind containment`)"
    )


async def forget_once(state: StateAccess, before: float, sleep: Callable[[float], Awaitable[object]]) -> int:
    """Drops all sessions that ended before that time; returns how many. Raises StateError: some may be gone."""
    forgotten = 0
    while True:
        some = await state.change(lambda store: store.sessions.forget_ended(before, BATCH))
        forgotten += some
        if some < BATCH:
            return forgotten
        await sleep(_PAUSE_S)


async def forget_regularly(
    state: StateAccess,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Daily, first some minutes after the start, until it is cancelled; off the event loop."""
    pause = AGAIN_S
    while True:
        await sleep(pause)
        try:
            forgotten = await forget_once(state, clock() - KEEP_S, sleep)
        except StateError as error:
            log.warning("sessions that ended long ago stay in the registry for now: %s", error)
            pause = AGAIN_S
        else:
            log.info("%d sessions that ended long ago left the registry", forgotten)
            pause = EVERY_S


__all__ = ["KEEP_S", "forget_once", "forget_regularly", "lost"]
