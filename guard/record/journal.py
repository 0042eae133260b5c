"""The recorder: the only writer of a gateway's journal, and the place where "record before forward" happens.

`command(head)` returns only after the command, and every response buffered before it, has been handed to the kernel in
one `write()`; a SIGKILL afterwards loses nothing. `buffer()` + `flush()` do the same for several commands of one chunk:
**`flush()` (or `command()`, `event()`) returning is the point from which bytes may be forwarded.** The caller then also
awaits `sync_barrier()`: with `durability: strict` it shares one fsync among all that wait, otherwise it returns at
once.

A write that fails (full disk, I/O error) is undone, raises `RecordError`, and puts the recorder into its failed state:
every later call raises at once until `recover()` has succeeded. The record of the call that raised, and commands that
were only buffered, are dropped (their callers deny); other buffered records are kept and written after the recovery.

The runtime calls `tick()` a few times a second: it writes what is buffered and signs a checkpoint when one is due.
When it raises, the runtime calls `recover()` until that answers True.

INVARIANT: one thread (the event loop's). Hashing and files are `JournalWriter`'s; fsync and the head are `Syncer`'s
thread's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from guard.record.durable import Syncer
from guard.record.errors import RecordError
from guard.record.format import MAX_PAYLOAD
from guard.record.reader import Cursor
from guard.record.writer import Item, JournalWriter

_MAX_PENDING = 8 * 1024 * 1024  # bytes of buffered responses before they are written without waiting for a command
_PREPARED = 64  # buffered records; more are not what one answer leaves
_INTERNAL = ("checkpoint", "journal.")  # kinds that only this package writes
_HEAD_INTERVAL = 1_000_000_000  # ns between two heads at least: each costs an fsync


class RecordConfig(Protocol):
    """What the recorder needs of the `record:` section of the configuration."""

    @property
    def segment_bytes(self) -> int: ...
    @property
    def segment_seconds(self) -> float: ...
    @property
    def durability(self) -> str: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def checkpoint_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """The defaults, for tools and tests."""

    segment_bytes: int = 64 * 1024 * 1024
    segment_seconds: float = 86_400.0
    durability: str = "write"  # write | strict
    checkpoint_every: int = 1000
    checkpoint_seconds: float = 10.0


class Recorder:
    """Opens `state_dir/journal` (made if missing, its torn tail repaired) and starts a new segment.

    Raises RecordError when another process writes it, when anything but its tail is damaged, or when it cannot be
    written.
    """

    def __init__(self, config: RecordConfig, state_dir: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.folder = state_dir / "journal"
        self.strict = config.durability == "strict"
        self._segment_bytes = config.segment_bytes
        self._segment_ns = int(config.segment_seconds * 1e9)
        self._roll_at = clock() + self._segment_ns  # what is in an unfinished segment can never be removed
        self._sign_every = config.checkpoint_every
        self._sign_after = int(config.checkpoint_seconds * 1e9)
        self._clock = clock
        self._failed: str | None = None
        self._failed_at = self._failures = 0
        self._pending: list[Item] = []
        self._pending_bytes = 0
        self._kinds: dict[str, bytes] = {}
        self._unsigned = 0  # records since the last checkpoint
        self._sign_at = self._head_at = 0  # ns: when the next checkpoint is due, and the next head allowed
        self._synced = 0  # of the writer's `appended` bytes, how many are known to be on the disk
        self._sync_task: asyncio.Task[None] | None = None
        self._syncer: Syncer | None = None
        # a thread of its own: whatever else waits for threads, records do not
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal-disk") if self.strict else None
        self._writer = JournalWriter(self.folder, state_dir / "keys", strict=self.strict)
        try:
            found = self._writer.open(clock())
            self._syncer = Syncer(self.folder)
            if found:
                self._append(b"journal.recovered", self._json("journal.recovered", found))
            opened = {"segment": self._writer.segment, "pid": os.getpid()}
            self._append(b"journal.opened", self._json("journal.opened", opened))
            self._checkpoint()
        except OSError as error:
            self._abandon()
            raise RecordError(f"cannot open the journal in `{self.folder}`: {error.strerror}") from error
        except BaseException:
            self._abandon()
            raise

    def command(self, head: bytes) -> int:
        """Record a command (a finished JSON object) and everything buffered. Returns its sequence number.

        When this returns the command may be forwarded; when it raises RecordError it must be denied.
        """
        return self._append(b"command", head)

    def buffer(self, kind: str, body: bytes) -> None:
        """Keep a record (finished JSON) in memory until the next command(), flush() or tick(); bounded.

        Raises RecordError in the failed state, and when the buffer was full and could not be written.
        """
        if self._failed is not None:
            raise RecordError(self._failed)
        size = len(body)
        if size > MAX_PAYLOAD:
            raise _too_large(body)
        self._pending.append((self._kinds.get(kind) or self._kind(kind), self._clock(), body))
        self._pending_bytes += size
        if self._pending_bytes > _MAX_PENDING:
            self._write()

    def prepare(self) -> None:
        """Hash what is buffered, so that the next flush() has less to do: for a moment when nobody waits."""
        if 0 < len(self._pending) <= _PREPARED and self._failed is None:
            self._writer.prepare(self._pending)

    def flush(self) -> int:
        """Write what is buffered. Returns the last sequence number. The record-before-forward point of a batch."""
        if self._pending or self._failed is not None:
            self._write()
        return self._writer.seq

    def event(self, kind: str, payload: Mapping[str, Any]) -> int:
        """Record an administrative act, denial, alert, ... at once. `payload` must be JSON-able (sets become lists)."""
        return self._append(self._kinds.get(kind) or self._kind(kind), self._json(kind, payload))

    def session_start(self, session_id: str, payload: Mapping[str, Any]) -> int:
        return self.event("session.start", {"s": session_id, **payload})

    def session_end(self, session_id: str, payload: Mapping[str, Any]) -> int:
        return self.event("session.end", {"s": session_id, **payload})

    def tick(self) -> None:
        """Write what is buffered and sign a checkpoint when one is due. For a timer. Raises RecordError."""
        if self._pending or self.failed is not None:
            self._write()
        elif self._unsigned and self._clock() >= self._sign_at:
            try:
                self._checkpoint()
            except OSError as error:
                raise self._fail(error) from error
        elif self._clock() >= self._roll_at:
            self._roll_old()

    def _roll_old(self) -> None:
        """A segment that has lasted long enough is finished."""
        try:
            self._roll(self._clock())
        except OSError as error:
            raise self._fail(error) from error

    def _roll(self, at: int) -> None:
        """Finish the segment, if there is anything in it, and begin the next."""
        if self._writer.has_records:
            old, head = self._writer.roll(at)
            self._signed(at, head, 0, old, publish=True)
            os.close(old)
        self._roll_at = at + self._segment_ns

    def position(self) -> Cursor:
        """Behind the last record that is in the file (buffered ones are not)."""
        return self._writer.position()

    def close(self) -> None:
        """Write what is buffered, finish the segment with a final checkpoint, sync. Raises RecordError if it cannot."""
        if self._writer.file < 0:
            return
        try:
            if self._pending or self.failed is not None:
                self._write()
            at = self._clock()
            head = self._writer.finish_segment(at)
            os.fsync(self._writer.file)
            self._signed(at, head, 0, self._writer.file, publish=True)
        except OSError as error:
            raise self._fail(error) from error
        finally:
            self._abandon()

    # writing

    def _append(self, kind: bytes, body: bytes) -> int:
        if len(body) > MAX_PAYLOAD:
            raise _too_large(body)
        item = (kind, self._clock(), body)
        self._pending.append(item)
        try:
            self._write()
        except RecordError:
            # Its caller denies or undoes: written later it would tell of something that did not happen.
            self._pending = [each for each in self._pending if each is not item]
            raise
        return self._writer.seq

    def _write(self) -> None:
        """Write everything pending, and before it a checkpoint when one is due. All of it or nothing."""
        if self._failed is not None:
            raise RecordError(self._failed)
        writer, items = self._writer, self._pending
        try:
            if self._syncer is not None and self._syncer.error is not None:
                raise self._syncer.error
            at = self._clock()
            if writer.offset >= self._segment_bytes or at >= self._roll_at:
                self._roll(at)
            if self._unsigned and (self._unsigned >= self._sign_every or at >= self._sign_at):
                head = writer.sign(at, final=False)
                writer.append([(b"checkpoint", at, head), *items])
                self._signed(at, head, len(items), writer.file, publish=False)
            else:
                writer.append(items)
                self._unsigned += len(items)
        except OSError as error:
            raise self._fail(error) from error
        self._pending, self._pending_bytes = [], 0

    def _checkpoint(self) -> None:
        at = self._clock()
        head = self._writer.sign(at, final=False)
        self._writer.append([(b"checkpoint", at, head)])
        self._signed(at, head, 0, self._writer.file, publish=False)

    def _signed(self, at: int, head: bytes, after: int, file: int, *, publish: bool) -> None:
        """A checkpoint is in `file`, and `after` records behind it. Heads that come too fast are left out."""
        self._unsigned = after
        self._sign_at = at + self._sign_after
        if self._syncer is not None and (publish or at >= self._head_at):
            self._head_at = at + _HEAD_INTERVAL
            self._syncer.submit(file, head)

    def _json(self, kind: str, payload: Mapping[str, Any]) -> bytes:
        try:
            return orjson.dumps({"t": kind, "at": self._clock(), **payload}, default=_plain)
        except TypeError as error:
            raise RecordError(f"a `{kind}` record cannot be written as json: {error}") from error

    def _kind(self, kind: str) -> bytes:
        if not (kind.isascii() and kind.isprintable() and 0 < len(kind) < 65):
            raise RecordError(f"`{kind!r}` is no kind of record")
        if kind.startswith(_INTERNAL):
            raise RecordError(f"records of kind `{kind}` are the journal's own")
        return self._kinds.setdefault(kind, kind.encode())

    # durability

    async def sync_barrier(self, within: float = 5.0) -> None:
        """With `durability: strict`, return when everything written so far is on the disk; callers share one fsync.

        Raises RecordError when the disk fails or does not answer within `within` seconds: deny. Otherwise a no-op.
        """
        if not self.strict:
            return
        target, failures = self._writer.appended, self._failures
        try:
            async with asyncio.timeout(within):
                while self._synced < target:
                    if self._sync_task is None:
                        self._sync_task = asyncio.get_running_loop().create_task(self._sync())
                    await asyncio.shield(self._sync_task)
                    # A failure is final for who waited, even if recover() succeeded meanwhile: after a failed fsync
                    # the next one may succeed although the data is lost.
                    if self._failures != failures:
                        raise RecordError(self._failed or "the journal's disk failed for a moment; try again")
        except TimeoutError:
            raise RecordError(f"the journal's disk did not answer within {within:g} s; check it") from None

    async def _sync(self) -> None:
        try:
            upto, file = self._writer.appended, os.dup(self._writer.file)
            try:
                await asyncio.get_running_loop().run_in_executor(self._disk, os.fdatasync, file)
            finally:
                os.close(file)
            self._synced = max(self._synced, upto)
        except OSError as error:
            self._fail(error)
        finally:
            self._sync_task = None

    # failure and recovery

    @property
    def failed(self) -> str | None:
        """Why nothing can be recorded at present; None while all is well."""
        if self._failed is None and self._syncer is not None and self._syncer.error is not None:
            self._fail(self._syncer.error)
        return self._failed

    def check(self) -> None:
        """Raises RecordError while nothing can be recorded."""
        if self._failed is not None or (self._syncer is not None and self._syncer.error is not None):
            raise RecordError(self.failed)

    def _fail(self, error: OSError) -> RecordError:
        what_to_do = f"free space on the disk of `{self.folder}`, or repair it"
        reason = f"the journal cannot be written ({error.strerror}); {what_to_do}"
        self._failures += 1
        if self._failed is None:
            self._failed, self._failed_at = reason, self._clock()
        self._pending = [item for item in self._pending if item[0] != b"command"]
        with suppress(OSError):  # so that a reader sees whole records only; recover() insists on it
            self._writer.cut_back()
        return RecordError(reason)

    def recover(self) -> bool:
        """Try to leave the failed state. True: recording works again, and the journal says why it had stopped."""
        if self._failed is None:
            return True
        if self._writer.file < 0:
            return False
        reason, since = self._failed, self._failed_at
        try:
            self._writer.cut_back()
            os.fsync(self._writer.file)
        except OSError:
            return False
        if self._syncer is not None and self._syncer.error is not None:
            self._syncer.close()
            self._syncer = Syncer(self.folder)
        self._failed = None
        try:
            self._append(b"journal.recovered", self._json("journal.recovered", {"why": reason, "since": since}))
        except RecordError:
            self._failed, self._failed_at = reason, since
            return False
        return True

    def _abandon(self) -> None:
        if self._disk is not None:
            self._disk.shutdown(wait=False)
        if self._syncer is not None:
            self._syncer.close()
        self._writer.close()
        if self._failed is None:
            self._failed = f"the journal in `{self.folder}` is closed"


def _too_large(body: bytes) -> RecordError:
    return RecordError(f"a record of {len(body)} bytes is larger than the journal takes ({MAX_PAYLOAD})")


def _plain(value: object) -> object:
    """What orjson does not know and the vocabulary uses."""
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not json")
