"""The gateway's side: announces runs in the journal, records their results, and says in time that space runs out.

Everything here is quick (a few small files a second) except `measure`, which `run` calls in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from guard.record.errors import RecordError
from guard.record.retention.plan import usage
from guard.record.retention.rules import RetentionRules
from guard.record.retention.runs import DONE, INTENDED, Plan
from guard.record.retention.worker import FOLDER, WANTED

GATEWAY = "sluicegate"  # who announces what the configuration asks for
_MOST_BYTES = 1024 * 1024  # of one file
_LOOK = 1.0  # seconds
_MEASURE = 60.0  # seconds

log = logging.getLogger("sluicegate.retention")


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes: of the journal, and of its disk."""

    journal: int
    free: int
    total: int


class RetentionDesk:
    """record: the recorder's `event`; tell: sends a webhook. Both are called on the event loop."""

    def __init__(
        self,
        rules: RetentionRules,
        state_dir: Path,
        record: Callable[[str, Mapping[str, Any]], int],
        tell: Callable[[str, Mapping[str, Any]], None] | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.rules = rules
        self.space: Space | None = None
        self.warning: str | None = None
        self._folder = state_dir / FOLDER
        self._journal = state_dir / "journal"
        self._record = record
        self._tell = tell
        self._clock = clock
        self._silenced = ""  # the last failure that was logged

    def arguments(self) -> list[str]:
        """What the indexer must be started with."""
        return ["--retention", self.rules.encode()] if self.rules.any else []

    async def run(self) -> None:
        """Until cancelled."""
        measured = -_MEASURE
        while True:
            if time.monotonic() - measured >= _MEASURE:
                measured = time.monotonic()
                try:
                    self.judge(await asyncio.to_thread(self.measure))
                except RecordError as error:
                    self._say(str(error))
            self.poll()
            await asyncio.sleep(_LOOK)

    def record(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Put a hold, or its release, on record. Raises RecordError: then it is not in force."""
        self._record(kind, facts)

    # runs

    def begin(self, plan: Plan, *, by: str, reason: str, issuer: str = "") -> str:
        """Announce a run. Returns its id. Raises RecordError: then nothing goes."""
        run = secrets.token_hex(8)
        facts = {"run": run, **plan.facts(), "by": by, "issuer": issuer, "reason": reason}
        self._record(INTENDED, facts)
        return run

    def poll(self) -> None:
        """Take what the indexer has left. What cannot be recorded now is taken the next time."""
        try:
            self._take_wanted()
            for path in sorted(self._folder.glob("done-*.json")):
                self._take_result(path)
            self._silenced = ""
        except (RecordError, OSError) as error:
            self._say(f"retention waits: {error}")

    def _take_wanted(self) -> None:
        path = self._folder / WANTED
        document = _read(path)
        if document is None:
            return
        for facts in document if isinstance(document, list) else []:
            try:
                plan = Plan.of(facts)
            except (ValueError, KeyError, TypeError):
                log.error("`%s` holds what is no plan; it is left out", path)
                continue
            # what the files say is not believed: only what the configuration asks for is announced
            if not self.rules.say(plan.level, plan.rule, plan.before, self._clock()):
                log.error("`%s` asks for what the configuration does not (%s); it is left out", path, plan.rule)
                continue
            if plan.rule == self.rules.by_size and self.warning is None:
                self._warn(f"the journal has outgrown {plan.rule}; the oldest records go")
            self.begin(plan, by=GATEWAY, reason="record.retention of the configuration")
        path.unlink(missing_ok=True)

    def _take_result(self, path: Path) -> None:
        document = _read(path)
        if isinstance(document, dict) and isinstance(document.get("run"), str):
            self._record(DONE, {name: value for name, value in document.items() if name in _RESULT})
            if failed := document.get("failed"):
                log.error("retention run %s left %d segments: %s", document["run"], len(failed), failed[0])
        else:
            log.error("`%s` holds no result; it is removed", path)
        path.unlink(missing_ok=True)

    # space

    def measure(self) -> Space:
        """Raises RecordError. Slow where there are many segments."""
        try:
            disk = os.statvfs(self._journal)
        except OSError as error:
            raise RecordError(f"cannot measure the disk of `{self._journal}`: {error.strerror}") from error
        return Space(usage(self._journal), disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)

    def judge(self, space: Space) -> None:
        """Warn when the disk, or what the journal may take of it, is nearly full; once, until it is not any more."""
        self.space = space
        share, limit = self.rules.warn_percent / 100, self.rules.max_bytes
        if space.total and space.free < space.total * (1 - share):
            left = f"{space.free / 1e9:.1f} of {space.total / 1e9:.1f} GB are free"
            self._warn(f"the journal's disk is nearly full ({left}); when it is full nothing passes")
        elif limit is not None and space.journal > limit * share:
            what = f"{space.journal / 1e9:.2f} of {limit / 1e9:.2f} GB"
            self._warn(f"the journal has nearly reached `max_bytes` ({what}); then its oldest records go")
        else:
            self.warning = None

    def _warn(self, why: str) -> None:
        first = self.warning is None
        self.warning = why
        if not first:
            return
        log.warning("%s", why)
        alert = {"alert": "retention", "subject": "", "resource": "", "why": why}
        if self._tell is not None:
            self._tell("alert", alert)
        try:
            self._record("alert", alert)
        except RecordError as error:
            log.warning("the warning is not on record: %s", error)  # the disk is full: it has been told and logged

    def _say(self, what: str) -> None:
        if what != self._silenced:
            self._silenced = what
            log.error("%s", what)


_RESULT = frozenset(
    {"run", "level", "rule", "segments", "reduced", "dropped", "records", "bytes", "kept", "later", "failed"}
)


def _read(path: Path) -> Any:
    """None where there is nothing. Garbage is an empty list. Raises OSError."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            log.error("`%s` is too large; it is left out", path)
            return []
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError:
        log.error("`%s` is garbled; it is left out", path)
        return []
