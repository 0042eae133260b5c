"""Saying what retention has removed, wherever an answer would otherwise look complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from scripts.terminal import clean, console, counted, moment

Row = Mapping[str, Any]
_MOST = 10  # lines
_WHAT = {"thin": "the content of", "strip": "", "erase": "one subject's", "drop": ""}


def of_run(row: Row) -> str:
    """One run, of what and why, in a sentence."""
    what = f"{_WHAT.get(str(row['level']), '')} {counted(row['records'], 'record')}".strip()
    days = f"{moment(row['from_at'])[:10]} to {moment(row['to_at'])[:10]}"
    by = clean(row["by"])
    why = f"{clean(row['rule'])}; by {by}: {clean(row['reason'])}"
    return f"{what} of {days}: removed by retention on {moment(row['at'])[:10]} under {why}"


def of_event(removed: Row) -> str:
    """One record in a replay."""
    return f"removed by retention on {moment(removed['at'])[:10]} under {clean(removed['rule'])}"


def tell(rows: Sequence[Row]) -> None:
    """Nothing where nothing is missing."""
    screen = console()
    for row in rows[:_MOST]:
        screen.print(Text(of_run(row), style="yellow"), soft_wrap=True)
    if len(rows) > _MOST:
        screen.print(Text(f"... and {len(rows) - _MOST} runs more; see `sluicegate retention show`", style="yellow"))
