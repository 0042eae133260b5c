"""Every bound of a PostgreSQL session, with its default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. Client bytes that arrive during a wait are bounded by the relay, which stops reading."""

    inspect_max: int = 16 * 1024 * 1024  # longest statement, Bind or masked row that is held whole
    response_max: int = 65536  # of one response, what goes on record
    queue_max: int = 16384  # answers awaited at once; more is a client that never reads
    names_max: int = 16384  # prepared statements and portals of one session
    texts_max: int = 64 * 1024 * 1024  # of all its prepared statements together
