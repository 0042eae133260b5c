"""Commands from text, files and pipes, analysed and judged without a gateway, by the code that the data path runs."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from addons import catalog_client
from protocols.contract import Action, Analysis, Decision
from protocols.postgres.catalog import Catalog
from protocols.postgres.judge import judge_line

MAX_LINE = 128 * 1024 * 1024  # bytes: the largest command that a gateway may inspect, written in hex, with room

type Decide = Callable[[Analysis], Decision]


class CatalogSource:
    """The catalog of a database, or none where no DSN is given.

    Fetched anew for each question: whoever changes the database and then asks must get an answer about what it is now.
    """

    def __init__(self, dsn: str | None) -> None:
        self._dsn = dsn

    def current(self) -> Catalog | None:
        """Raises OSError where the database cannot be asked."""
        if self._dsn is None:
            return None
        try:
            return asyncio.run(catalog_client.fetch_dsn(self._dsn))
        except OSError as error:
            raise OSError(f"--catalog: the database cannot be asked: {error}") from error


def analyse_text(protocol: str, text: str, catalog: Catalog | None = None) -> Analysis:
    """What one command does, in a fresh session. Raises ValueError for a protocol without analysis."""
    if protocol != "postgres":
        raise ValueError(f"commands of protocol `{protocol}` cannot be analysed")
    seen: list[Analysis] = []

    def decide(analysis: Analysis) -> Decision:
        seen.append(analysis)
        return Decision(Action.DENY, "none", "only analysed")

    answer = judge_line({"id": None, "input": text}, decide, catalog)
    if len(seen) != 1:
        raise ValueError(f"refused before any rule was asked: {answer['why']}")
    return seen[0]


def judge_stream(lines: BinaryIO, decide: Decide, catalog: CatalogSource) -> Iterator[dict[str, Any]]:
    """One answer for each line, as soon as the line is read. Never stops at a bad line: it is denied."""
    while line := lines.readline(MAX_LINE):
        if not line.endswith(b"\n") and len(line) == MAX_LINE:
            while (rest := lines.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield refusal(None, f"line longer than {MAX_LINE} bytes")
        elif line.strip():
            yield _judge(line, decide, catalog)


def _judge(line: bytes, decide: Decide, catalog: CatalogSource) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        return refusal(None, "not a line of JSON in UTF-8")
    if not isinstance(asked, dict):
        return refusal(None, "expected a JSON object with `id` and `input`")
    identity = asked.get("id")
    try:
        return judge_line(asked, decide, catalog.current())
    except OSError as error:
        return refusal(identity, str(error))
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
