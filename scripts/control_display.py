"""What the control commands print. Every value came from a gateway, and most of it from whoever was recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.padding import Padding
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from scripts import removed
from scripts.player import outcome, param
from scripts.terminal import (
    cell,
    clean,
    console,
    counted,
    decision,
    duration,
    moment,
    one_line,
    statement,
)

Row = Mapping[str, Any]
_TIMES = ("_at", "_until")


def facts(value: Row) -> None:
    """Names and values, one a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # a digest that is cut off can be compared with nothing
    for name, found in value.items():
        shown = moment(found) if name.endswith(_TIMES) or name == "at" else _plain(found)
        table.add_row(cell(name, "bold"), cell(shown, "yellow" if name == "warning" else ""))
    console().print(table)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)


def sessions(rows: Sequence[Row]) -> None:
    """A table of sessions."""
    where = ["gateway"] if any("gateway" in row for row in rows) else []
    table = _table("session", "who", "resource", "client", "started", "ended", "commands", "denied", "token", *where)
    for row in rows:
        ended = Text("live", style="green") if row.get("live") else cell(moment(row.get("ended_at")))
        table.row(
            cell(row.get("session")),
            cell(row.get("subject")),
            cell(row.get("resource")),
            cell(row.get("client")),
            cell(moment(row.get("started_at"))),
            ended,
            cell(row.get("commands")),
            cell(row.get("denied"), "red" if row.get("denied") else ""),
            cell(row.get("token_id")),
            *(cell(row.get("gateway")) for _ in where),
        )
    _print(table, rows, "no sessions")


def session(value: Row) -> None:
    """One session: its facts, then each command with its outcome."""
    facts(value["session"])
    screen = console()
    for row in value["commands"]:
        screen.print()
        _command(row)
    if value.get("next") is not None:
        screen.print(f"\nthere are more: --after {value['next']}", style="yellow")
    removed.tell(value.get("removed") or ())


def _command(row: Row) -> None:
    screen = console()
    head = Text.assemble(
        (f"{row.get('n', '')}", "bold"),
        "  ",
        moment(row.get("at"), millis=True),
        "  ",
        decision(row.get("decision")),
        "  by ",
        cell(row.get("rule")),
    )
    if row.get("approval"):
        head.append_text(Text.assemble("  approval ", cell(row["approval"])))
    screen.print(head)
    screen.print(Text(statement(str(row.get("text") or "")), style="cyan"))
    if row.get("params"):
        screen.print(Text.assemble("parameters: ", cell(", ".join(map(param, row["params"])))))
    if row.get("cut"):
        what = " and ".join(row["cut"])
        screen.print(f"only the beginning of its {what} is shown: replay the session", style="yellow")
    screen.print(Text(outcome(row), style="dim"))
    if row.get("decision") != "allow" and row.get("why"):
        screen.print(cell(row["why"], "red"))


def commands(rows: Sequence[Row]) -> None:
    """A table of commands."""
    table = _table("at", "session", "n", "who", "resource", "decision", "rule", "rows", "statement")
    for row in rows:
        table.row(
            cell(moment(row.get("at"))),
            cell(row.get("session")),
            cell(row.get("n")),
            cell(row.get("subject")),
            cell(row.get("resource")),
            decision(row.get("decision")),
            cell(row.get("rule")),
            cell(row.get("rows")),
            Text(one_line(row.get("text")), style="cyan"),
        )
    _print(table, rows, "no commands match")


def refusals(rows: Sequence[Row]) -> None:
    """A table of those who did not get a session. What a client claimed to be is marked: nothing proves it."""
    table = _table("at", "client", "who", "listener", "resource", "why")
    for row in rows:
        claimed = clean(row.get("claimed_user"))
        who = cell(row["subject"]) if row.get("subject") else cell(f"claims {claimed}" if claimed else "-", "yellow")
        table.row(
            cell(moment(row.get("at"))),
            cell(row.get("client")),
            who,
            cell(row.get("listener")),
            cell(row.get("resource")),
            cell(row.get("why") or row.get("kind")),
        )
    _print(table, rows, "nobody was refused")


def approvals(rows: Sequence[Row]) -> None:
    """A table of requests."""
    table = _table("id", "status", "who", "resource", "rule", "expires", "votes", "statement")
    for row in rows:
        needed = row["approvers"]["count"]
        given = sum(1 for vote in row["votes"] if vote["approve"])
        left = row["expires_at"] - time.time()
        expires = duration(left) if row["status"] == "pending" and left > 0 else moment(row["expires_at"])
        table.row(
            cell(row["id"], "bold"),
            cell(row["status"]),
            cell(row["subject"]),
            cell(row["resource"]),
            cell(row["rule"]),
            cell(expires),
            cell(f"{given}/{needed}"),
            Text(one_line(row["text"]), style="cyan"),
        )
    _print(table, rows, "nothing waits")


def approval(row: Row) -> None:
    """One request. The statement is shown exactly as it would run: nothing is laid out anew, nothing is left out."""
    screen = console()
    details = row["details"]
    who = [*row["approvers"]["groups"], *row["approvers"]["subjects"]]
    issuers = row["approvers"].get("issuers") or ()
    whose = f" ({', '.join(issuers)})" if issuers else ""
    facts(
        {
            "request": row["id"],
            "status": row["status"] + (f": {row['reason']}" if row["reason"] else ""),
            "who": f"{row['subject']} ({row['issuer']})",
            "session": row["session"],
            "resource": row["resource"],
            **({"database": details["database"]} if details.get("database") else {}),
            "rule": row["rule"],
            "effects": details.get("effects", []),
            "reads": details.get("reads", []),
            "writes": details.get("writes", []),
            "filter": details.get("where"),
            **({"not proved": details.get("why") or "yes"} if details.get("unknown") else {}),
            "digest": row["digest"],
            "requested_at": row["requested_at"],
            "expires_at": row["expires_at"],
            "approvers": f"{row['approvers']['count']} of {', '.join(who) or 'every approver'}{whose}",
        }
    )
    screen.print(Panel(Text(clean(row["text"], lines=True), style="cyan"), title="statement", title_align="left"))
    for number, value in enumerate(row.get("params", ()), 1):
        screen.print(Text(f"${number} = {clean(param(value))}"), soft_wrap=True)
    for vote in row["votes"]:
        word = "approved" if vote["approve"] else "refused"
        screen.print(
            Text(f"{word} by {clean(vote['subject'])} at {moment(vote['at'])}: {clean(vote['reason']) or '-'}")
        )
    if row.get("why_not"):
        screen.print(cell(f"you cannot decide on it, and see it redacted: {row['why_not']}", "yellow"))


def vote(row: Row) -> None:
    """What a vote led to."""
    needed, given = row["approvers"]["count"], sum(1 for each in row["votes"] if each["approve"])
    more = f": {given} of {needed} approvals" if row["status"] == "pending" else ""
    console().print(cell(f"{row['id']} is {row['status']}{more}"))


def contained(rows: Sequence[Row]) -> None:
    """A table of contained identities."""
    table = _table("who", "since", "by", "reason")
    for row in rows:
        since = moment(row["at"]) if row["stored"] else f"{moment(row['at'])}, not stored yet"
        table.row(cell(row["subject"], "bold"), cell(since), cell(row["by"]), cell(row["reason"]))
    _print(table, rows, "nobody is contained")


# -- the incident screen


def incident(report: Row) -> None:
    """One screen: who, what, did it comply; then what to do next."""
    screen = console()
    subject, summary, found = str(report["subject"]), report["summary"], report["sessions"]
    live = sum(bool(row["live"]) for row in found)
    state = {True: "contained", None: "containment unknown"}.get(report["contained"]) or (
        counted(live, "live session") if live else "not connected"
    )
    screen.print(Text.assemble(("incident  ", "bold"), cell(subject, "bold cyan"), "  ", cell(state, "yellow")))
    if not found:
        screen.print("no session of this identity is recorded in that time; subjects are compared letter by letter")
        _turned_away(report)
        _missing(report)
        return
    screen.print("\nwho issued the commands", style="bold")
    seen = {name: _distinct(found, name) for name in ("issuer", "groups", "client", "application", "resource")}
    facts({**seen, "first_at": summary["first_at"], "last_at": summary["last_at"]})
    screen.print("\nwhat data was accessed", style="bold")
    table = _table("relation", "access", "ran", "refused", "held")
    for row in summary["relations"]:
        refused, held = (
            row.get("stopped"),
            row.get("held"),
        )  # of a gateway that is older than this command line, nothing
        ran = row["commands"] - (refused or 0) - (held or 0)
        stopped = (cell(refused, "red" if refused else ""), cell(held, "yellow" if held else ""))
        table.row(cell(row["relation"]), cell(row["access"]), cell(ran), *stopped)
    _print(table, summary["relations"], "no relation")
    facts({"rows": summary["rows"], "bytes": summary["bytes"], "masked": summary["masked"] or "nothing"})
    screen.print("\ndid it comply", style="bold")
    table = _table("decision", "rule", "commands")
    for row in summary["rules"]:
        table.row(decision(row["decision"]), cell(row["rule"]), cell(row["commands"]))
    _print(table, summary["rules"], "no commands")
    if report["not_allowed"]:
        screen.print("\nwhat was stopped or held, newest first", style="bold")
        commands(report["not_allowed"])
    _turned_away(report)
    _missing(report)
    screen.print("\nsessions, newest first", style="bold")
    sessions(found)
    if report.get("elsewhere"):
        screen.print("\nconnected to other gateways now", style="bold")
        sessions(report["elsewhere"])
    if not report["contained"]:
        screen.print(Text(f"\ncut it off: sluicegate contain {clean(subject)} --reason ...", style="bold"))


def _missing(report: Row) -> None:
    if gone := report.get("removed"):
        console().print("\nwhat is not in this answer any more", style="bold")
        removed.tell(gone)


def _turned_away(report: Row) -> None:
    if refused := report.get("refused"):
        console().print("\nlogins that were refused, newest first", style="bold")
        refusals(refused)


def _distinct(rows: Sequence[Row], name: str) -> list[str]:
    values = (row.get(name) for row in rows)
    return sorted({str(each) for value in values if value for each in (value if isinstance(value, list) else [value])})


# -- shared


class Listing(Table):
    """A table, or where the terminal is too narrow for it a paragraph for each row: an id that is broken over two
    lines can be neither read nor copied. The last column takes what is left."""

    LEAST = 30  # characters of the last column

    def __init__(self, *columns: str) -> None:
        super().__init__(box=None, pad_edge=False, header_style="bold")
        self.cells: list[tuple[Text, ...]] = []
        for column in columns:
            self.add_column(column, overflow="fold")

    def row(self, *cells: Text) -> None:
        self.add_row(*cells)
        self.cells.append(cells)

    def fits(self, width: int) -> bool:
        widths = [max(len(str(column.header)), *(row[n].cell_len for row in self.cells)) for n, column in self._named()]
        return sum(widths[:-1]) + 2 * (len(widths) - 1) + min(widths[-1], self.LEAST) <= width

    def paragraphs(self, width: int) -> Iterator[Text]:
        for row in self.cells:
            for n, column in self._named():
                name, last = str(column.header), n == len(row) - 1
                value = row[n] if row[n].plain else Text("-")
                if n == 0:
                    line = value.copy()
                    line.stylize("bold")
                    continue
                if last and name in _LONG:
                    yield line
                    line = Text("    ").append_text(value)
                    continue
                said = value if name in _PLAIN else Text.assemble((f"{name} ", "dim"), value)
                if line.cell_len + 2 + said.cell_len > width:  # a value is never broken over two lines
                    yield line
                    line = Text("    ").append_text(said)
                else:
                    line.append("  ").append_text(said)
            yield line

    def _named(self) -> list[tuple[int, Column]]:
        return list(enumerate(self.columns))


_LONG = frozenset({"statement", "why", "reason"})  # on a line of their own
_PLAIN = frozenset({"session", "who", "status", "decision"})  # that say what they are


def listing(table: Listing, rows: Sequence[Any], empty: str) -> None:
    """A table, or what to say where it has no rows."""
    _print(table, rows, empty)


def _table(*columns: str) -> Listing:
    return Listing(*columns)


def _print(table: Listing, rows: Sequence[Any], empty: str) -> None:
    screen = console()
    if not rows:
        screen.print(Text(empty, style="dim"))
    elif table.fits(screen.width):
        screen.print(table)
    else:
        for line in table.paragraphs(screen.width):
            fits = line.cell_len <= screen.width
            screen.print(
                line if fits or not line.plain.startswith(" ") else Padding(line[4:], (0, 0, 0, 4)), soft_wrap=fits
            )
