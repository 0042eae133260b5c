"""`sluicegate events`: what is on record beside commands and their answers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from guard.control.client import ControlClient
from scripts import control_commands as control
from scripts import control_display as display
from scripts.terminal import KINDS_ARE_IN, cell, clean, moment

Row = Mapping[str, Any]

EXAMPLES = """\
  sluicegate events --kind "approval.*" --since 24h
  sluicegate events --subject ann@corp --since 7d --json"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command of this module."""
    text = "what else is on record, newest first: votes, containments, alerts, what administrators did"
    events = control.add_command(subparsers, "events", text, _events, EXAMPLES)
    events.add_argument("--kind", help="of this kind (containment), or of a family: `approval.*`, `admin.*`")
    events.add_argument("--subject", help="about this identity, or done by it")
    control.add_window(events)


def _events(args: argparse.Namespace, client: ControlClient) -> int:
    found = client.call("events", kind=args.kind, subject=args.subject, **control.window(args))
    empty = (
        f"nothing of the kind `{clean(args.kind)}` is on record; {KINDS_ARE_IN}"
        if args.kind
        else "nothing is on record"
    )
    return control.show_rows(args, found, lambda rows: _table(rows, empty))


def _table(rows: Sequence[Row], empty: str) -> None:
    table = display.Listing("at", "kind", "session", "what")
    for row in rows:
        said = Text(clean(row.get("text")), style="cyan")
        table.row(cell(moment(row.get("at"))), cell(row.get("kind"), "bold"), cell(row.get("session")), said)
    display.listing(table, rows, empty)
