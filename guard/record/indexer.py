"""The indexer process: keeps the index close to the journal's end, compresses finished segments, carries out retention.

    python -m guard.record.indexer --state DIR

The gateway starts it as a child and starts it again when it ends; the cursor makes that harmless. It ends by itself
when the gateway is gone, on SIGTERM, and with an error text and exit code 1 when something is wrong that time does not
heal.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from guard.record.compress import compress_finished
from guard.record.errors import DamagedJournal, RecordError
from guard.record.index import EvidenceIndex
from guard.record.retention.rules import RetentionRules
from guard.record.retention.worker import Worker

_NICENESS = 10  # traffic first
_SHARE = 0.15  # of one core, while it is not far behind: the traffic needs the rest, and a question catches up itself
_FAR_BEHIND = 64 * 1024 * 1024  # bytes of journal: past that it works without pause, or questions would wait for long
_LONGEST_PAUSE = 5.0  # seconds
_PATIENCE = 20  # failures in a row (a locked index, a full disk) before giving up


def command(state_dir: Path) -> list[str]:
    """The argument vector that starts an indexer for this state folder."""
    return [sys.executable, "-m", "guard.record.indexer", "--state", str(state_dir)]


class _Pace:
    """Asked between two batches whether to stop; sleeps there, so that indexing takes its share and no more."""

    def __init__(self, index: EvidenceIndex, stop: threading.Event) -> None:
        self._index = index
        self._stop = stop
        self._used = time.process_time()

    def __call__(self) -> bool:
        used = time.process_time()
        busy, self._used = used - self._used, used
        if busy > 0.01 and self._index.behind() < _FAR_BEHIND:
            self._stop.wait(min(busy * (1 / _SHARE - 1), _LONGEST_PAUSE))
            self._used = time.process_time()
        return self._stop.is_set()


def run(
    state_dir: Path,
    stop: threading.Event,
    *,
    interval: float = 0.25,
    once: bool = False,
    parent: int = 0,
    rules: RetentionRules | None = None,
) -> int:
    """Work until `stop` is set or the parent process is gone (once: until the journal's end). Returns an exit code."""
    parent = parent or os.getppid()  # given, where it may be gone before this line is reached
    failures = compressed = 0
    try:
        index = EvidenceIndex(state_dir)
    except RecordError as error:
        print(f"indexer: {error}", file=sys.stderr)  # noqa: T201 - its parent reads this
        return 1
    pace = _Pace(index, stop)
    worker = Worker(state_dir, index, rules or RetentionRules())
    with index, closing(worker):
        while not stop.is_set() and os.getppid() == parent:
            try:
                index.catch_up(stop.is_set if once else pace)
                if (here := index.read_below()) != compressed:
                    compress_finished(index.folder, here)
                    compressed = here
                while worker.step() and not pace():
                    continue
                failures = 0
            except DamagedJournal as damage:
                print(f"indexer: the journal is damaged: {damage}", file=sys.stderr)  # noqa: T201 - as above
                return 1
            except RecordError as error:
                failures += 1
                if once or failures >= _PATIENCE:
                    print(f"indexer: {error}", file=sys.stderr)  # noqa: T201 - as above
                    return 1
            if once:
                break
            stop.wait(interval)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m guard.record.indexer", description="index a journal")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="the gateway's state_dir")
    parser.add_argument("--interval", type=float, default=0.25, metavar="SECONDS", help="pause between two looks")
    parser.add_argument("--once", action="store_true", help="index what is there and end")
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="end when this is not the parent any more")
    parser.add_argument("--retention", default="{}", metavar="JSON", help="what goes by itself, and when")
    parsed = parser.parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the gateway ends first, then this
    os.nice(_NICENESS)
    rules = RetentionRules.decode(parsed.retention)
    return run(parsed.state, stop, interval=parsed.interval, once=parsed.once, parent=parsed.parent, rules=rules)


if __name__ == "__main__":
    sys.exit(main())
