"""Journals to test on: small, real, in a folder of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.record.journal import Recorder, RecordSettings


def command(session: str, n: int, text: str = "SELECT 1", **facts: Any) -> bytes:
    """A command record as the gateway writes it."""
    base = {"t": "command", "s": session, "n": n, "phase": "query", "kind": "select", "text": text}
    base |= {"effects": ["data.select"], "reads": ["public.orders"], "writes": [], "columns": []}
    base |= {"decision": "allow", "rule": "readers", "why": "", "approval": None, "params": []}
    return json.dumps(base | facts).encode()


def response(session: str, n: int, **facts: Any) -> bytes:
    base = {"t": "response", "s": session, "n": n, "status": "ok", "rows": 1, "bytes": 40, "us": 120, "tag": "SELECT 1"}
    return json.dumps(
        base | {"columns": [{"name": "id", "masked": None}], "wire": "", "truncated": False} | facts
    ).encode()


@pytest.fixture
def make() -> Iterator[Callable[..., Recorder]]:
    """Opens recorders; closes what a test left open."""
    opened: list[Recorder] = []

    def open_recorder(state: Path, clock: Callable[[], int] = time.time_ns, **settings: Any) -> Recorder:
        opened.append(Recorder(RecordSettings(**settings), state, clock))
        return opened[-1]

    yield open_recorder
    for recorder in opened:
        if recorder._writer.file >= 0 and recorder.failed is None:
            recorder.close()
        else:
            recorder._abandon()
