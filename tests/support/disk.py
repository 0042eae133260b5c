"""A disk that is full, as far as a process can tell."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_for(pid: int, size: int = 1) -> Iterator[None]:
    """The kernel lets that process write no file beyond `size` bytes."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """For this process: write() is cut short at `size` bytes and then fails, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with full_for(os.getpid(), size):
            yield
    finally:
        signal.signal(signal.SIGXFSZ, handler)
