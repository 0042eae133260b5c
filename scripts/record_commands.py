"""`sluicegate verify` and `sluicegate journal dump`: evidence from files, without a gateway.

Both read only. `verify` needs no more than the journal folder and the public key; whoever checks evidence should take
the key from somewhere else than the machine that wrote it (`--public-key`).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from guard.record.errors import DamagedJournal, RecordError
from guard.record.format import Record
from guard.record.keys import PUBLIC, load_public
from guard.record.reader import beginning, follow, segments
from guard.record.tombstones import Act, Tombstones, listed
from guard.record.verify import Report, verify
from scripts.terminal import KINDS_ARE_IN, clean, console, counted, print_json

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_SHORT = 160  # characters of a record on one line
_MOST_RUNS = 20  # of retention, in what is shown to people


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = subparsers.add_parser(
        "verify",
        help="prove offline that nobody edited a journal",
        description="Check a journal folder: every record, its order, every signature. Names the first bad record.",
        epilog="exit codes: 0 proven, 1 not proven (the first bad record is named), 2 the files cannot be read",
    )
    check.add_argument("folder", type=Path, metavar="DIR", help="the journal folder, or the state_dir that holds it")
    key_help = "PEM; default: keys/journal.pub beside the journal"
    check.add_argument("--public-key", type=Path, metavar="FILE", help=key_help)
    check.add_argument("--head", type=Path, metavar="FILE", help="a copy of head.json that was kept elsewhere")
    check.add_argument("--json", action="store_true", help="one JSON object on stdout")
    check.set_defaults(run=run_verify)

    journal = subparsers.add_parser("journal", help="look into journal files")
    actions = journal.add_subparsers(dest="action", metavar="ACTION", required=True)
    dump = actions.add_parser(
        "dump",
        help="print every record",
        description="Print the records of a journal in order, each checked against the chain.",
        epilog="exit codes: 0 all printed, 1 damaged (what comes before is printed), 2 the files cannot be read",
    )
    dump.add_argument("folder", type=Path, metavar="DIR", help="the journal folder, or the state_dir that holds it")
    dump.add_argument("--session", metavar="ID", help="only this session")
    dump.add_argument("--kind", metavar="KIND", help="only this kind, such as command")
    dump.add_argument("--json", action="store_true", help="JSON lines, complete records")
    dump.set_defaults(run=run_dump)


def run_verify(arguments: argparse.Namespace) -> int:
    folder = _journal_folder(arguments.folder)
    public = arguments.public_key or folder.parent / "keys" / PUBLIC
    out = console()
    try:
        if not segments(folder) and not (folder / "head.json").exists():
            raise RecordError(f"there is no journal in `{folder}`")
        key = load_public(public)
        if arguments.head is not None and not arguments.head.is_file():
            raise RecordError(f"there is no head file `{arguments.head}`")
        with _progress(quiet=arguments.json) as advance:
            report = verify(folder, key, head=arguments.head, progress=advance)
    except RecordError as error:
        return _unreadable(error, as_json=arguments.json)
    if arguments.json:
        print(json.dumps({"ok": report.ok, **dataclasses.asdict(report)}))
    else:
        for line in _verdict(report, folder):
            out.print(line)
    return EXIT_OK if report.ok else EXIT_FAILED


def _verdict(report: Report, folder: Path) -> Iterator[Text]:
    if report.problem is None:
        yield Text(f"verified: {folder}", style="bold green")
        yield Text(
            f"  {counted(report.records, 'record')} in {counted(report.segments, 'segment')} follow from one another; "
            f"{counted(report.checkpoints, 'signed checkpoint')} up to record {report.signed_seq}"
        )
    else:
        problem = report.problem
        yield Text(f"NOT verified: {folder}", style="bold red")
        where = f"  first bad record: {problem['seq']} (segment {problem['segment']}, byte {problem['offset']})"
        yield Text(where, style="red")
        yield Text(f"  {clean(problem['why'])}", style="red")
        before = counted(report.records, "record")
        yield Text(f"  {before} before it {'is' if report.records == 1 else 'are'} intact")
    yield from _removed(report)
    for limit in report.limits:
        yield Text(f"  note: {clean(limit)}", style="dim")


def _removed(report: Report) -> Iterator[Text]:
    """What retention took away, grouped by run: each with its tombstones checked."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in report.removed:
        runs.setdefault(row["run"], []).append(row)
    for rows in list(runs.values())[-_MOST_RUNS:]:
        first, records = rows[0], sum(row["records"] for row in rows)
        what = f"{counted(records, 'record')} in {counted(len(rows), 'segment')}"
        day = datetime.fromtimestamp(first["at"], UTC).date()
        why = f"{clean(first['rule'])}; by {clean(first['by'])}: {clean(first['reason'])}"
        waits = " (not carried out yet)" if any(row["pending"] for row in rows) else ""
        did = {"thin": "content removed", "drop": "removed altogether"}.get(first["level"], "removed")
        yield Text(f"  {what}, {first['first_seq']} to {rows[-1]['last_seq']}: {did} by retention on {day}{waits}")
        yield Text(f"    under {why}", style="dim")
    if len(runs) > _MOST_RUNS:
        yield Text(f"  and {len(runs) - _MOST_RUNS} earlier runs of retention; --json has all of them")


def run_dump(arguments: argparse.Namespace) -> int:
    folder = _journal_folder(arguments.folder)
    out = console()
    shown = 0
    try:
        known = segments(folder)
        if not known:
            raise RecordError(f"there is no journal in `{folder}`")
        tombstones = _tombstones(folder)
        for record, _ in follow(folder, beginning(folder, tombstones), tombstones):
            if arguments.kind and record.kind != arguments.kind:
                continue
            facts = _facts(record)
            act = _act_on(record, tombstones)
            if arguments.session and facts.get("s") != arguments.session:
                continue
            shown += 1
            if arguments.json:
                print_json(_whole(record, facts, act))
            else:
                out.print(_line(record, facts, act), no_wrap=True, overflow="ellipsis", crop=True)
        sys.stdout.flush()
        if not shown:
            hint = f"; {KINDS_ARE_IN}" if arguments.kind else ""
            print(f"sluicegate: no record matches; without --session and --kind all are printed{hint}", file=sys.stderr)
    except DamagedJournal as damage:
        print(f"sluicegate: the journal is damaged: {damage}", file=sys.stderr)
        return EXIT_FAILED
    except RecordError as error:
        return _unreadable(error, as_json=False)
    except BrokenPipeError:  # `| head`: what is left over has nowhere to go, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _tombstones(folder: Path) -> Tombstones:
    """With the key beside the journal, where it is there: a copy of the folder alone can be read, and is not proven."""
    public = folder.parent / "keys" / PUBLIC
    if public.is_file():
        return Tombstones(folder, load_public(public))
    if listed(folder):
        print("sluicegate: no public key beside the journal: its tombstones are not checked", file=sys.stderr)
    return Tombstones(folder)


def _act_on(record: Record, tombstones: Tombstones) -> Act | None:
    """What retention did to this record."""
    tombstone = tombstones.get(record.segment) if record.reduced else None
    return None if tombstone is None else tombstone.act_on(record.seq)


def _facts(record: Record) -> dict[str, Any]:
    if record.reduced and not record.payload:
        return {}
    try:
        facts = orjson.loads(record.payload)
    except orjson.JSONDecodeError:
        facts = None
    if isinstance(facts, dict):
        return facts
    return {"unreadable": base64.b64encode(record.payload).decode()}


def _whole(record: Record, facts: dict[str, Any], act: Act | None) -> dict[str, Any]:
    place = {"seq": record.seq, "segment": record.segment, "offset": record.offset, "chain": record.chain.hex()}
    return {**place, "kind": record.kind, "recorded_at": record.at, "record": facts, **_removed_by(act)}


def _removed_by(act: Act | None) -> dict[str, Any]:
    return {} if act is None else {"removed": {"at": act.at, "rule": act.rule, "reason": act.reason, "by": act.by}}


def _line(record: Record, facts: dict[str, Any], act: Act | None) -> Text:
    at = datetime.fromtimestamp(record.at / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    session = clean(facts.get("s"))
    shown = {name: value for name, value in facts.items() if name not in ("t", "at", "s", "wire")}
    if act is not None and not facts:
        day = datetime.fromtimestamp(act.at / 1e9, UTC).date()
        what = f"(removed by retention on {day} under {act.rule})"
    elif record.kind == "command":
        what = f"#{facts.get('n')} {facts.get('decision')} by {facts.get('rule')}: {facts.get('text')}"
    elif record.kind == "response":
        what = f"#{facts.get('n')} {facts.get('status')} {facts.get('tag') or facts.get('sqlstate') or ''}"
        rows = facts.get("rows")
        what += f" {counted(rows, 'row') if isinstance(rows, int) else rows}, {facts.get('us')} us"
    else:
        what = orjson.dumps(shown).decode()
    line = Text(f"{record.seq:>8} ", style="dim")
    line.append(f"{at} ")
    line.append(f"{clean(session):<16} ", style="dim")
    line.append(f"{clean(record.kind):<18} ", style="bold")
    line.append(clean(what[: _SHORT * 4])[:_SHORT])
    return line


def _journal_folder(given: Path) -> Path:
    """A state_dir is as good as the journal in it."""
    inner = given / "journal"
    return inner if inner.is_dir() else given


def _unreadable(error: RecordError, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"ok": False, "error": str(error)}))
    print(f"sluicegate: {error}", file=sys.stderr)
    return EXIT_USAGE


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    """A bar on stderr while somebody watches it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[records]} records"))
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", total=None, records=0)
        yield lambda segment, of, records: bar.update(task, completed=segment - 1, total=of, records=records)
