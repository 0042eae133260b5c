"""A recorded session as timed events. What a protocol's bytes look like to a person is the caller's business."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from guard.record.errors import DamagedJournal
from guard.record.format import HEAD, HEAD_SIZE, PREFIX_SIZE, SALT_SIZE, record_size
from guard.record.reader import open_segment


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """One record of a session. `ms`: milliseconds since the first one; `facts`: its JSON without `wire`; `wire`: the
    raw protocol messages as the client saw them (capped when recorded: then `facts["truncated"]` is true).
    """

    seq: int
    at: float
    ms: float
    kind: str
    facts: Mapping[str, Any]
    wire: bytes


def timed_events(folder: Path, places: Sequence[tuple[int, int]]) -> Iterator[TimedEvent]:
    """Read records at (segment, offset), given in ascending order. Raises DamagedJournal.

    Each payload is checked against its digest; its place in the chain was checked when it was indexed.
    """
    first: int | None = None
    remaining = list(places)
    while remaining:
        segment = remaining[0][0]
        here = [offset for number, offset in remaining if number == segment]
        remaining = remaining[len(here) :]
        with open_segment(folder, segment) as file:
            for offset in here:
                file.seek(offset)
                prefix = file.read(PREFIX_SIZE)
                if len(prefix) < PREFIX_SIZE:
                    raise DamagedJournal(segment, offset, "the record is missing")
                body = file.read(record_size(prefix, segment, offset))
                event = _decode(body, segment, offset, first)
                first = round(event.at * 1e9) if first is None else first
                yield event


def _decode(body: bytes, segment: int, offset: int, first: int | None) -> TimedEvent:
    if len(body) < HEAD_SIZE:
        raise DamagedJournal(segment, offset, "the file ends inside a record")
    seq, at, _, kind_size, digest, _ = HEAD.unpack_from(body)
    kind, salted = body[HEAD_SIZE : HEAD_SIZE + kind_size], body[HEAD_SIZE + kind_size :]
    if hashlib.sha256(salted).digest() != digest:
        raise DamagedJournal(segment, offset, "the payload was changed", seq=seq)
    try:
        facts = orjson.loads(salted[SALT_SIZE:])
    except orjson.JSONDecodeError:
        facts = None
    if not isinstance(facts, dict):
        facts = {"unreadable": True}
    wire = facts.pop("wire", None)
    try:
        raw = base64.b64decode(wire, validate=True) if isinstance(wire, str) else b""
    except binascii.Error:
        raw = b""
        facts["unreadable"] = True
    ms = 0.0 if first is None else (at - first) / 1e6
    return TimedEvent(seq, at / 1e9, ms, kind.decode("ascii", "replace"), facts, raw)
