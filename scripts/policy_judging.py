"""Commands from text, files and pipes, analysed and judged without a gateway, by the code that the data path runs."""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from addons.catalog_client import CatalogError, fetch_dsn
from protocols.contract import Action, Analysis, Decision
from protocols.postgres.catalog import Catalog
from protocols.postgres.judge import JudgeError, judge_line

MAX_LINE = 128 * 1024 * 1024  # bytes: the largest command that a gateway may inspect, written in hex, with room
_READ_AHEAD = 64  # lines

type Decide = Callable[[Analysis], Decision]


class CatalogSource:
    """The catalog of a database, or none where no DSN is given."""

    def __init__(self, dsn: str | None) -> None:
        self._dsn = dsn
        self._begun = float("-inf")
        self._catalog: Catalog | None = None

    @property
    def given(self) -> bool:
        """Whether there is a database to ask."""
        return self._dsn is not None

    def since(self, asked_at: float) -> Catalog | None:
        """A snapshot that was begun at `asked_at` (monotonic) or later: whoever changes the database and then asks gets
        an answer about what it is now. Raises CatalogError where the database cannot be asked."""
        if self._dsn is not None and self._begun < asked_at:
            begun = time.monotonic()
            self._catalog = asyncio.run(fetch_dsn(self._dsn))
            self._begun = begun
        return self._catalog


def analyse_text(protocol: str, text: str, catalog: Catalog | None = None) -> Analysis:
    """What one command does, in a fresh session. Raises ValueError where no rule would even be asked."""
    if protocol != "postgres":
        raise ValueError(f"commands of protocol `{protocol}` cannot be analysed")
    seen: list[Analysis] = []

    def decide(analysis: Analysis) -> Decision:
        seen.append(analysis)
        return Decision(Action.DENY, "none", "only analysed")

    try:
        answer = judge_line({"id": None, "input": text}, decide, catalog)
    except JudgeError as error:
        raise ValueError(str(error)) from error
    if len(seen) != 1:
        raise ValueError(f"refused before any rule was asked: {answer['why']}")
    return seen[0]


def judge_stream(lines: BinaryIO, decide: Decide, catalog: CatalogSource) -> Iterator[dict[str, Any]]:
    """One answer for each line, as soon as the line is read. Never stops at a bad line: it is denied."""
    for line, asked_at in _ahead(lines) if catalog.given else _timed(lines):
        if len(line) > MAX_LINE:
            yield refusal(None, f"line longer than {MAX_LINE} bytes")
        elif line.strip():
            yield _judge(line, decide, catalog, asked_at)


def _timed(lines: BinaryIO) -> Iterator[tuple[bytes, float]]:
    """Lines, and when they were there. Of a line that is too long only its beginning is kept."""
    while line := lines.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = lines.readline(MAX_LINE)
        yield line, time.monotonic()


def _ahead(lines: BinaryIO) -> Iterator[tuple[bytes, float]]:
    """The same, read by a thread: lines that are there already when a snapshot is begun need no other one."""
    waiting: queue.Queue[tuple[bytes, float] | None] = queue.Queue(_READ_AHEAD)

    def read() -> None:
        try:
            for one in _timed(lines):
                waiting.put(one)
        finally:
            waiting.put(None)

    threading.Thread(target=read, name="lines", daemon=True).start()
    while (one := waiting.get()) is not None:
        yield one


def _judge(line: bytes, decide: Decide, catalog: CatalogSource, asked_at: float) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        return refusal(None, "not a line of JSON in UTF-8")
    if not isinstance(asked, dict):
        return refusal(None, "expected a JSON object with `id` and `input`")
    identity = asked.get("id")
    try:
        return judge_line(asked, decide, catalog.since(asked_at))
    except JudgeError as error:
        return refusal(identity, str(error))
    except (CatalogError, OSError) as error:
        return refusal(identity, f"the database cannot be asked: {error}")
    except Exception as error:  # whatever one line provokes, it must not end the run; it is shown, and denied
        traceback.print_exception(error, file=sys.stderr)
        return refusal(identity, f"cannot be judged: {type(error).__name__}")


def refusal(identity: Any, why: str) -> dict[str, Any]:
    """The answer to what could not be judged, in the form of all answers."""
    return {
        "id": identity,
        "decision": "deny",
        "rule": "default",
        "effects": [],
        "reads": [],
        "writes": [],
        "unknown": True,
        "why": why,
    }
