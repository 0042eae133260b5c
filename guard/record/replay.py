"""A recorded session as timed events. What a protocol's bytes look like to a person is the caller's business."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from guard.record.errors import DamagedJournal
from guard.record.format import HEAD, HEAD_SIZE, PREFIX_SIZE, is_reduced, opened, record_size
from guard.record.reader import open_segment, segments
from guard.record.tombstones import Act, Tombstone, Tombstones


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """One record of a session. `ms`: milliseconds since the first one; `facts`: its JSON without `wire`; `wire`: the
    raw protocol messages as the client saw them (capped when recorded: then `facts["truncated"]` is true). `removed`:
    the act of retention that took the rest of it away.
    """

    seq: int
    at: float
    ms: float
    kind: str
    facts: Mapping[str, Any]
    wire: bytes
    removed: Act | None = None


def timed_events(
    folder: Path, places: Sequence[tuple[int, int]], tombstones: Tombstones | None = None
) -> Iterator[TimedEvent]:
    """Read records at (segment, offset), given in ascending order. Raises DamagedJournal.

    Each payload is checked against its digest; its place in the chain was checked when it was indexed. A segment that
    went since then is left out: the index drops its records in a moment, too.
    """
    marks = tombstones or Tombstones(folder)
    first: int | None = None
    remaining = list(places)
    while remaining:
        segment = remaining[0][0]
        here = [offset for number, offset in remaining if number == segment]
        remaining = remaining[len(here) :]
        try:
            with open_segment(folder, segment) as file:
                tombstone = marks.get(segment)
                for offset in here:
                    event = _read(file, segment, offset, first, tombstone)
                    first = round(event.at * 1e9) if first is None else first
                    yield event
        except DamagedJournal:
            if segment in segments(folder) or marks.dropped(segment) is None:
                raise


def _read(file: BinaryIO, segment: int, offset: int, first: int | None, tombstone: Tombstone | None) -> TimedEvent:
    file.seek(offset)
    prefix = file.read(PREFIX_SIZE)
    if len(prefix) < PREFIX_SIZE:
        raise DamagedJournal(segment, offset, "the record is missing")
    body = file.read(record_size(prefix, segment, offset))
    if len(body) < HEAD_SIZE:
        raise DamagedJournal(segment, offset, "the file ends inside a record")
    seq, at, _, kind_size, digest, _ = HEAD.unpack_from(body)
    kind, salted = body[HEAD_SIZE : HEAD_SIZE + kind_size], body[HEAD_SIZE + kind_size :]
    payload = opened(salted, digest, reduced=is_reduced(prefix))
    if payload is None:
        raise DamagedJournal(segment, offset, "the payload was changed", seq=seq)
    removed = None
    if is_reduced(prefix):
        removed = None if tombstone is None else tombstone.act_on(seq)
        if removed is None:
            raise DamagedJournal(segment, offset, "its payload was taken away, and no tombstone names it", seq=seq)
    facts, raw = _decode(payload, removed)
    ms = 0.0 if first is None else (at - first) / 1e6
    return TimedEvent(seq, at / 1e9, ms, kind.decode("ascii", "replace"), facts, raw, removed)


def _decode(payload: bytes, removed: Act | None) -> tuple[dict[str, Any], bytes]:
    if not payload and removed is not None:
        return {}, b""
    try:
        facts = orjson.loads(payload)
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
    return facts, raw
