"""A recorded session played again at a terminal: as it happened, with its pauses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text

from protocols.kubernetes.terminal import Safe
from scripts import removed
from scripts.terminal import cell, clean, console, counted, decision, print_json, statement

Row = Mapping[str, Any]


class Player:
    """Plays pages of events with their recorded pauses, divided by `speed` and bounded by `max_pause` (seconds)."""

    def __init__(
        self, *, speed: float, max_pause: float, json: bool, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._speed = speed
        self._max_pause = max_pause
        self._json = json
        self._sleep = sleep
        self._at = 0.0
        self._screen = console()
        self._shown = Safe()  # what a stranger's program printed must not act on the terminal that replays it

    def play(self, page: Row) -> None:
        """Show one page; `at_ms` of its events counts from the start of the session."""
        for event in page["events"]:
            if self._json:
                print_json(event)
                continue
            at = float(event["at_ms"])
            pause = min((at - self._at) / 1000 / self._speed, self._max_pause)
            if pause > 0:
                self._sleep(pause)
            self._at = max(at, self._at)
            self._event(event, at)

    def _event(self, event: Row, at: float) -> None:
        clock = f"+{int(at // 60000):02d}:{at % 60000 / 1000:06.3f} "
        kind = str(event.get("kind"))
        if kind == "command":
            title = Text.assemble((clock, "dim"), decision(event.get("decision")), " by ", cell(event.get("rule")))
            self._screen.print(title)
            self._screen.print(Text(statement(str(event.get("text") or "")), style="cyan"))
            if event.get("params"):
                self._screen.print(Text.assemble("parameters: ", cell(", ".join(map(param, event["params"])))))
        elif kind == "response":
            for line in event.get("lines", ()):
                self._screen.print(Text(clean(line)), soft_wrap=True)
            if event.get("removed"):
                self._screen.print(f"... {removed.of_event(event['removed'])}", style="yellow", markup=False)
            elif event.get("truncated"):
                self._screen.print("... the record keeps no more of this response", style="yellow")
            self._screen.print(Text(f"{clock}{outcome(event)}", style="dim"))
        elif event.get("removed"):
            said = f" {removed.of_event(event['removed'])}"
            self._screen.print(Text.assemble((clock, "dim"), (clean(kind), "magenta"), (said, "yellow")))
        elif kind == "cast":
            self._screen.file.write(self._shown.feed(printed(str(event.get("cast") or ""))))
            self._screen.file.flush()
            if event.get("end"):
                self._screen.print(Text(f"\n{clock}{clean(str(event['end']))}", style="dim"))
        else:
            self._screen.print(Text.assemble((clock, "dim"), (clean(kind), "magenta"), " ", cell(event.get("text"))))


def printed(cast: str) -> str:
    """What asciicast lines put on the screen, in order."""
    found = []
    for line in cast.split("\n"):
        match json.loads(line) if line else None:
            case [int() | float(), "o", str(text)]:
                found.append(text)
    return "".join(found)


def param(value: Any) -> str:
    return "NULL" if value is None else repr(str(value))


def outcome(row: Row) -> str:
    told, rows = clean(row.get("tag") or row.get("status") or "no response"), row.get("rows")
    parts = [counted(rows, "row") if rows is not None and told == f"{rows} rows" else told]
    if row.get("sqlstate"):
        parts.append(f"sqlstate {clean(row['sqlstate'])}")
    if rows and str(rows) not in told.split():  # `SELECT 5` says it
        parts.append(counted(rows, "row"))
    if isinstance(row.get("us"), int | float):
        parts.append(f"{row['us'] / 1000:.1f} ms")
    if row.get("masked"):
        parts.append(f"masked: {clean(', '.join(map(str, row['masked'])))}")
    return ", ".join(parts)
