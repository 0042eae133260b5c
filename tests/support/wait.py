"""Waiting for something that another process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(done: Callable[[], object], timeout: float = 20.0, every: float = 0.05) -> None:
    """Returns once `done()` holds, asked every so many seconds; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(every)
