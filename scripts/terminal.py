"""Showing what clients and servers wrote on somebody's terminal, without letting them write to it.

Recorded text is hostile: it may hold escape sequences that move the cursor, change the title or hide what was run, and
characters that reverse the reading order. Everything that is shown goes through `clean`.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from guard.printable import clean as clean  # passed on: what shows something takes it from here

MAX_FORMATTED = 4096  # characters: sqlparse takes milliseconds per kilobyte, and grows faster than the text
KINDS_ARE_IN = "docs/reference/journal.md names the kinds"
COLOURS = {"allow": "green", "hold": "yellow", "deny": "red", "terminate": "bold red"}

_RELATIVE = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PLAIN_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """A console that is wide when nobody looks at it, so that pipes get no folded tables, or as wide as `COLUMNS`."""
    stream = sys.stderr if stderr else sys.stdout
    known = stream.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Console(stderr=stderr, highlight=False, width=None if known else _PLAIN_WIDTH)


def cell(value: object, style: str = "") -> Text:
    """A table cell; never read as markup."""
    return Text(clean(value), style=style)


def decision(word: object) -> Text:
    """A decision in its colour."""
    return cell(word, COLOURS.get(str(word), ""))


def one_line(text: object, width: int = 100) -> str:
    """A statement on one line, cut with a mark."""
    flat = clean(" ".join(str(text or "").split()))
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def statement(text: str) -> str:
    """A statement laid out for reading; one that is long or cannot be laid out is shown as it is."""
    if len(text) > MAX_FORMATTED or "\x00" in text:
        return clean(text, lines=True)
    import sqlparse  # here: most commands show no statement, and it is slow to load

    try:
        laid_out = sqlparse.format(text, reindent=True, keyword_case=None)
    except (sqlparse.exceptions.SQLParseError, RecursionError, ValueError):
        laid_out = text
    return clean(laid_out, lines=True)


def moment(seconds: object, *, millis: bool = False) -> str:
    """Seconds since the epoch as local time; `-` for none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return "-"
    try:
        local = datetime.datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, ValueError, OSError):
        return "-"
    return local.isoformat(sep=" ", timespec="milliseconds" if millis else "seconds")


def duration(seconds: float) -> str:
    """`1 h 02 m`, `3 m 04 s`, `5.6 s`."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} m"
    if seconds >= 60:
        return f"{int(seconds // 60)} m {int(seconds % 60):02d} s"
    return f"{seconds:.1f} s"


def counted(number: int, noun: str) -> str:
    """`1 row`, `240 rows`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def parse_when(text: str, now: float) -> float:
    """`2h`, `30m`, `7d` ago, or an ISO date and time (local where it names no zone). Raises ValueError."""
    relative = _RELATIVE.fullmatch(text)
    if relative:
        return now - int(relative[1]) * _UNITS[relative[2]]
    try:
        return datetime.datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"`{text}` is no time; write 2h, 30m, 7d or 2030-01-31T08:00") from None


def print_json(value: Any) -> None:
    """One line, escapes for everything outside ASCII: safe to look at, and still JSON."""
    print(json.dumps(value, separators=(",", ":")))
