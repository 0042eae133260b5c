"""The figures as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

type Row = dict[str, Any]

# measure -> (title, [(heading, key)])
_OTHERS: dict[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "bulk": (
        "One large result, unmasked",
        (("target", "target"), ("via", "via"), ("tls", "tls"), ("MB/s", "mb_per_s"), ("of direct", "ratio_to_direct")),
    ),
    "masked_rows": (
        "One of ten columns masked",
        (
            ("target", "target"),
            ("strategy", "strategy"),
            ("rows/s", "rows_per_s"),
            ("of direct", "ratio_to_direct"),
            ("of unmasked", "ratio_to_unmasked"),
        ),
    ),
    "connects": (
        "Connections opened",
        (("target", "target"), ("tls", "tls"), ("per second", "connects_per_s"), ("of direct", "ratio_to_direct")),
    ),
    "idle": (
        "Idle connections",
        (
            ("target", "target"),
            ("tls", "tls"),
            ("connections", "connections"),
            ("KiB each", "kib_per_connection"),
            ("process MiB", "rss_mib"),
            ("CPU %", "cpu_percent"),
            ("helpers' CPU %", "helpers_cpu_percent"),
        ),
    ),
    "rules": (
        "Rules in the gateway's policy, one client",
        (
            ("rules", "rules"),
            ("statements", "statements"),
            ("p50 us", "p50_us"),
            ("added p50 us", "added_p50_us"),
            ("CPU us", "cpu_us"),
            ("of 10 rules", "cost_ratio_to_10_rules"),
        ),
    ),
}
_MAIN = (
    ("load", "load"),
    ("target", "target"),
    ("tps", "tps"),
    ("of direct", "tps_ratio_to_direct"),
    ("of pgbouncer", "tps_ratio_to_pgbouncer"),
    ("p50 us", "p50_us"),
    ("p99 us", "p99_us"),
    ("added p50", "added_p50_us"),
    ("added p99", "added_p99_us"),
    ("CPU us", "cpu_us"),
    ("helpers' CPU us", "helpers_cpu_us"),
)
_WIDTH = 140
_WORDS = ("load", "target", "via", "strategy", "statements", "tls")


def show(rows: Iterable[Row], *, stderr: bool = False) -> None:
    """One table per measure; the main cells in one, a section per kind of load."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH  # a file has none of its own
    known = list(rows)
    main = [row for row in known if "measure" not in row]
    if main:
        _main(main, console)
    for measure, (title, columns) in _OTHERS.items():
        wanted = [row for row in known if row.get("measure") == measure]
        if wanted:
            table = _table(title, columns)
            for row in wanted:
                table.add_row(*[_text(row.get(key)) for _, key in columns])
            console.print(table)


def _main(rows: Sequence[Row], console: Console) -> None:
    table = _table("Small statements: one row by its primary key", _MAIN)
    kind = None
    for row in rows:
        load = ""
        if kind != (kind := (row["mode"], row["clients"], row["tls"])):
            table.add_section()
            load = f"{row['mode']} x {row['clients']} {'TLS' if row['tls'] else 'plain'}"
        table.add_row(*[_text({**row, "load": load}.get(key)) for _, key in _MAIN])
    console.print(table)


def _table(title: str, columns: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading, key in columns:
        table.add_column(heading, justify="left" if key in _WORDS else "right", no_wrap=True)
    return table


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
