"""Every bound of a MySQL session, with its default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. Client bytes that arrive during a wait are bounded by the relay, which stops reading."""

    inspect_max: int = 16 * 1024 * 1024  # longest command, long data of one statement, or masked row that is held whole
    response_max: int = 65536  # of one response, what goes on record
    names_max: int = 16384  # prepared statements of one session (the servers' own default: 16382)
    texts_max: int = 64 * 1024 * 1024  # of all its prepared statements together
    columns_max: int = 4096  # of one result (the servers' own limit)
