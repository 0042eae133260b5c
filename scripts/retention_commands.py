"""`sluicegate retention`: what of the record goes, when, what is held, and what has gone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from guard.control.client import ControlClient
from guard.control.wire import ControlError
from scripts import control_display as display
from scripts import removed
from scripts.control_connection import HELP, UsageError, add_options, talking
from scripts.terminal import cell, clean, console, counted, moment, print_json

Row = Mapping[str, Any]
Subparsers = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns

_WAIT = 600.0  # seconds
_LEVELS = {
    "thin": "content goes, the story stays",
    "strip": "what identities did goes",
    "erase": "one subject's records go",
    "drop": "everything goes, a tombstone stays",
}


def register(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command of this module."""
    text = "what of the record goes, when, and what is held"
    retention = subparsers.add_parser(
        "retention", help=text, description=text, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = retention.add_subparsers(dest="action", metavar="ACTION", required=True)

    _add(actions, "show", "rules, space, holds, and what was removed", _show)

    run = _add(actions, "run", "show what the rules ask for now; with --apply, do it", _run)
    run.add_argument("--apply", action="store_true", help="do it; without this nothing is removed")
    run.add_argument("--reason", help="why now, for the record")
    _add_wait(run)

    erase = _add(actions, "erase", "show which records of one subject could go; with --apply, remove them", _erase)
    erase.add_argument("subject", metavar="SUBJECT")
    erase.add_argument("--apply", action="store_true", help="do it; without this nothing is removed")
    erase.add_argument("--reason", help="on whose request, for the record; required with --apply")
    _add_wait(erase)

    hold = _add(actions, "hold", "keep everything of one identity or one session, whatever a rule says", _hold)
    whose = hold.add_mutually_exclusive_group(required=True)
    whose.add_argument("--subject", help="of this identity; or --session")
    whose.add_argument("--session", help="of this session; or --subject")
    hold.add_argument("--reason", required=True, help="why, for the record")

    release = _add(actions, "release", "lift a hold", _release)
    release.add_argument("hold", metavar="HOLD", help="as `sluicegate retention show` names it")
    release.add_argument("--reason", required=True, help="why, for the record")


def _add(actions: Subparsers[argparse.ArgumentParser], name: str, text: str, work: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=text,
        description=text,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.set_defaults(run=talking(work))
    return parser


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="with --apply: return when it is done")


# -- what is done


def _show(args: argparse.Namespace, client: ControlClient) -> int:
    found = client.call("retention.show")
    found["removed"] = client.call("retention.removed")
    if args.json:
        print_json(found)
        return 0
    _overview(found)
    return 0


def _run(args: argparse.Namespace, client: ControlClient) -> int:
    if args.apply:
        return _started(args, client, client.call("retention.run", reason=args.reason))
    return _planned(args, client.call("retention.plan"))


def _erase(args: argparse.Namespace, client: ControlClient) -> int:
    if not args.apply:
        return _planned(args, client.call("retention.plan", subject=args.subject))
    if not args.reason:
        raise UsageError("--apply takes --reason: on whose request the records go")
    return _started(args, client, client.call("retention.erase", subject=args.subject, reason=args.reason))


def _hold(args: argparse.Namespace, client: ControlClient) -> int:
    done = client.call("retention.hold", subject=args.subject, session=args.session, reason=args.reason)
    code = _facts(args, done)
    if args.subject is not None and _never_seen(client, args.subject):
        said = "no session of this identity is on record: it keeps nothing yet (subjects are compared letter by letter)"
        console(stderr=True).print(said, style="yellow", markup=False)
    return code


def _never_seen(client: ControlClient, subject: str) -> bool:
    """The hold is there already: what cannot be looked up is no reason to fail."""
    try:
        return not client.call("sessions.list", subject=subject, limit=1)
    except ControlError:
        return False


def _release(args: argparse.Namespace, client: ControlClient) -> int:
    return _facts(args, client.call("retention.release", hold=args.hold, reason=args.reason))


def _facts(args: argparse.Namespace, value: Row) -> int:
    print_json(value) if args.json else display.facts(value)
    return 0


def _planned(args: argparse.Namespace, found: Row) -> int:
    if args.json:
        print_json({**found, "applied": False})
        return 0
    _plans(found["plans"], "would go")
    if found["holds"]:
        screen = console()
        screen.print(Text(f"{counted(found['holds'], 'hold')} in force: what is held stays", style="yellow"))
    _young(found)
    if found["plans"]:
        console().print("nothing was removed; --apply does it", style="bold")
    return 0


def _started(args: argparse.Namespace, client: ControlClient, found: Row) -> int:
    runs = _waited(client, found["runs"]) if args.wait else []
    failed = any(run["failed"] for run in runs)
    if args.json:
        print_json({**found, "applied": True, "results": runs})
        return 1 if failed else 0
    _plans(found["plans"], "go")
    _young(found)
    if runs:
        _runs(runs)
    elif found["runs"]:
        console().print("announced in the journal; `sluicegate retention show` says how far it is")
    return 1 if failed else 0


def _waited(client: ControlClient, wanted: Sequence[str]) -> list[Row]:
    deadline = time.monotonic() + _WAIT
    while True:
        runs = [run for run in client.call("retention.show")["runs"] if run["run"] in wanted]
        if all(run["state"] == "done" for run in runs):
            return runs
        if time.monotonic() > deadline:
            raise ControlError(
                "unavailable", "it is announced, and not done yet; `sluicegate retention show` says more"
            )
        time.sleep(0.5)


# -- what is shown


def _overview(found: Row) -> None:
    screen = console()
    rules = {name: f"{value:g}" for name, value in found["rules"].items() if value is not None and name != "max_bytes"}
    if found["rules"].get("max_bytes") is not None:
        rules["max_bytes"] = _size(found["rules"]["max_bytes"])
    space = f"{_size(found['disk_free'])} of {_size(found['disk_total'])} are free"
    display.facts({**rules, "journal": _size(found["journal_bytes"]), "disk": space})
    if found["warning"]:
        screen.print(Text(clean(found["warning"]), style="bold yellow"))
    screen.print("\nholds", style="bold")
    table = display.Listing("hold", "who", "since", "by", "reason")
    for row in found["holds"]:
        whom = row["subject"] or f"session {row['session']}"
        table.row(cell(row["hold"], "bold"), cell(whom), cell(moment(row["at"])), cell(row["by"]), cell(row["reason"]))
    display.listing(table, found["holds"], "nothing is held")
    screen.print("\nruns, newest first", style="bold")
    _runs(found["runs"])
    if found["removed"]:
        screen.print("\nwhat is missing of the record", style="bold")
        removed.tell(found["removed"])


def _runs(rows: Sequence[Row]) -> None:
    table = display.Listing("at", "state", "rule", "by", "segments", "records", "bytes", "kept", "reason")
    for row in rows:
        rule = f"{row['rule']} {row['subject']}" if row["subject"] else row["rule"]
        failed = row["failed"] or []
        state = Text(f"{len(failed)} failed", style="red") if failed else cell(row["state"])
        shown = [cell("-" if row[name] is None else row[name]) for name in ("records", "bytes", "kept")]
        table.row(
            cell(moment(row["at"])),
            state,
            cell(rule),
            cell(row["by"]),
            cell(row["segments"]),
            *shown,
            cell(row["reason"]),
        )
    display.listing(table, rows, "none")
    for row in rows:
        for failed in row["failed"] or []:
            console().print(Text(f"segment {failed['segment']}: {clean(failed['why'])}", style="red"))


def _plans(rows: Sequence[Row], verb: str) -> None:
    table = display.Listing("rule", "what " + verb, "segments", "records", "on disk", "from", "to")
    for row in rows:
        table.row(
            cell(row["rule"]),
            cell(_LEVELS.get(row["level"], row["level"])),
            cell(row["segments"]),
            cell(f"of {row['records']}"),
            cell(_size(row["bytes"])),
            cell(moment(row["from_at"])),
            cell(moment(row["to_at"])),
        )
    display.listing(table, rows, "nothing is due")


def _young(found: Row) -> None:
    if left := found.get("too_young"):
        text = f"{counted(left, 'record')} are younger than `keep_days`, or still being written: ask again later"
        console().print(Text(text, style="yellow"))


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
