"""The benchmark: what it reads from its drivers, how it compares, and that a quick run has every cell."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guard.enforce import PolicySet
from scripts.benchmarks import mysql_driver, mysql_rig, rules, throughput
from scripts.benchmarks.__main__ import MEASURES, arguments, choose
from scripts.benchmarks.load import BenchError, Budget, Login, Pace, Run, call, parse, read_logs
from scripts.benchmarks.mysql_driver import Answer, packet, packets
from scripts.benchmarks.mysql_rig import MySQLDriver, MySQLRig
from scripts.benchmarks.rig import MASKS, TARGETS, PostgresRig, program
from scripts.benchmarks.throughput import Cell, Sample
from scripts.support.mysql import Installation

ROOT = Path(__file__).resolve().parents[2]
REPORT = """\
transaction type: <builtin: select only>
latency average = 0.057 ms
initial connection time = 10.784 ms
tps = 17531.663259 (without initial connection time)
"""
NOWHERE = Login("127.0.0.1", 1, "somebody", "secret-of-nobody", "shop")


def test_reads_what_pgbench_reports(tmp_path: Path) -> None:
    log = tmp_path / "log0.12"
    log.write_text("0 1 300 0 1790000000 17\n1 1 100 0 1790000000 90\n0 2 200 0 1790000000 99 extra\n")
    run = parse(REPORT, read_logs([log]))
    assert run == Run(17531.663259, [100, 200, 300])
    assert (run.percentile(50), run.percentile(99), run.percentile(0)) == (200, 300, 100)


@pytest.mark.parametrize(("report", "latencies"), [("", [1]), (REPORT, []), ("tps = nothing", [1])])
def test_a_report_that_says_nothing_is_an_error(report: str, latencies: list[int]) -> None:
    with pytest.raises(BenchError, match="reported no transactions"):
        parse(report, latencies)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["/bin/sh", "-c", "echo one >&2; echo two >&2; exit 3"], r"sh failed \(3\): one \| two"),
        (["/bin/sleep", "10"], "sleep was not done after 0 s"),
        (["/no/such/pgbench"], "cannot run pgbench: No such file"),
    ],
)
def test_a_client_that_fails_or_hangs_is_an_error(argv: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        call(argv, NOWHERE, 0.2)


def test_the_password_is_not_shown() -> None:
    assert "secret-of-nobody" not in repr(NOWHERE)


def test_the_pace_follows_each_target() -> None:
    pace = Pace()
    pace.learn("direct", "simple", 20_000.0)
    pace.learn("gateway", "bulk", 2.0, typical=False)
    assert pace.transactions("direct", "simple", 0.5, clients=10) == 1000
    assert pace.transactions("direct", "prepared", 0.5) == 10_000  # not seen yet: what the target did last
    assert pace.transactions("gateway", "bulk", 2.0, least=1) == 4
    assert pace.transactions("gateway", "bulk", 0.1, least=1) == 1


def test_runs_get_shorter_when_time_runs_out() -> None:
    assert Budget(2.0).each(1000) == 2.0
    assert Budget(0.5, total=1000.0).each(1) == 0.5
    assert 0.02 <= Budget(0.5, total=10.0).each(40) < 0.2
    assert Budget(0.5, total=-1.0).each(40) == 0.02


def test_ratios_and_differences_are_taken_within_a_round() -> None:
    """The machine was twice as fast in the second round: the ratios do not see it. A failed round counts for nobody."""
    cell = Cell("simple", 1, False)
    samples: throughput.Samples = {
        cell: {
            "direct": [Sample(100.0, 10, 50), Sample(200.0, 5, 25), Sample(1000.0, 1, 1)],
            "pgbouncer": [Sample(80.0, 14, 60), Sample(160.0, 7, 30), Sample(1.0, 1, 1)],
            "gateway": [Sample(50.0, 30, 90, 20.0, 3.0), Sample(100.0, 15, 35, 30.0, 5.0), None],
        }
    }
    found = {row["target"]: row for row in throughput.rows(samples)}
    assert found["gateway"] == {
        "target": "gateway", "mode": "simple", "clients": 1, "tls": False, "tps": 75.0, "p50_us": 22, "p99_us": 62,
        "tps_ratio_to_direct": 0.5, "added_p50_us": 15.0, "added_p99_us": 25.0, "tps_ratio_to_pgbouncer": 0.625,
        "cpu_us": 25.0, "helpers_cpu_us": 4.0, "rounds": 2,
    }  # fmt: skip
    assert found["direct"]["tps_ratio_to_direct"] == 1.0
    assert "added_p50_us" not in found["direct"]


def test_a_cell_that_was_never_measured_has_no_row() -> None:
    cell = Cell("simple", 1, False)
    assert list(throughput.rows({cell: {"direct": [None], "gateway": []}})) == []


@pytest.mark.parametrize("work", rules.WORK.values(), ids=rules.WORK)
@pytest.mark.parametrize("size", rules.SIZES)
def test_the_generated_policies_load(size: int, work: rules.Work, tmp_path: Path) -> None:
    text = rules.bundle(size, work.table)
    assert text.count(work.table) == 1
    assert text.count("- id: ") == size
    (tmp_path / "rules.yaml").write_text(text)
    (tmp_path / "bench.yaml").write_text(MASKS)
    assert PolicySet.load([tmp_path / "rules.yaml", tmp_path / "bench.yaml"]).version


@pytest.mark.parametrize(
    "argv",
    [
        ["oracle"],
        ["mysql", "--targets", "direct,pgbouncer"],
        ["postgres", "--targets", "direct,odyssey"],
        ["postgres", "--rounds", "0"],
        [],
    ],
)
def test_what_cannot_be_measured_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments(argv)
    assert caught.value.code == 2
    assert "usage: bench" in capsys.readouterr().err


def test_the_documentation_names_every_measure_and_key() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    words = [*MEASURES, "tps_ratio_to_direct", "masked_rows", "kib_per_connection", "cost_ratio_to_10_rules"]
    assert [word for word in words if f"`{word}`" not in text] == []


def run_bench(
    *words: str, folder: Path, protocol: str = "postgres"
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts.benchmarks", protocol, "--json", *words],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder() -> Iterator[Path]:
    """For everything that a run writes; not pytest's own, which the database's user cannot enter."""
    made = Path(tempfile.mkdtemp(prefix="sgtest-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("sluicegate-")]


@pytest.mark.e2e
@pytest.mark.slow
def test_a_quick_run_has_every_cell_and_leaves_nothing(folder: Path) -> None:
    done, rows = run_bench(
        "--quick", "--seconds", "0.02", "--only", "main", "--only", "idle", "--idle", "5", folder=folder
    )
    assert done.returncode == 0, done.stderr
    there = [name for name in TARGETS if name not in ("haproxy", "pgbouncer") or program(name)]
    main = [row for row in rows if "measure" not in row]
    expected = {(name, str(cell)) for name in there for cell in throughput.cells(PostgresRig.modes, choose(None).tls)}
    assert {(row["target"], str(Cell(row["mode"], row["clients"], row["tls"]))) for row in main} == expected
    assert len(main) == len(expected)
    for row in main:
        assert {"target", "mode", "clients", "tls", "tps", "p50_us", "p99_us", "tps_ratio_to_direct"} <= row.keys()
        assert row["tps"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]
    idle = {row["target"] for row in rows if row.get("measure") == "idle"}
    assert idle == ({"gateway"} if sys.platform == "linux" else set())
    assert "Small statements" in done.stderr
    assert left(folder) == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_quick_run_of_mysql_has_every_cell_and_leaves_nothing(folder: Path, mysql_installation: Installation) -> None:
    words = ("--quick", "--seconds", "0.02", "--only", "main", "--only", "masked", "--targets", "direct,gateway")
    done, rows = run_bench(*words, "--server", mysql_installation.flavour, folder=folder, protocol="mysql")
    assert done.returncode == 0, done.stderr
    main = [row for row in rows if "measure" not in row]
    cells = {str(cell) for cell in throughput.cells(MySQLRig.modes, True)}
    expected = {(name, cell) for name in ("direct", "gateway") for cell in cells}
    assert {(row["target"], str(Cell(row["mode"], row["clients"], row["tls"]))) for row in main} == expected
    masked = {(row["target"], row["strategy"]) for row in rows if row.get("measure") == "masked_rows"}
    assert masked == {("direct", "none"), ("gateway", "none"), ("gateway", "partial"), ("gateway", "tokenise")}
    assert left(folder) == []


# ---------------------------------------------------------------- the driver of MySQL


def answer(*payloads: bytes) -> bytes:
    return b"".join(len(one).to_bytes(3, "little") + bytes((number,)) + one for number, one in enumerate(payloads, 1))


END = b"\xfe\0\0\2\0"


@pytest.mark.parametrize(
    "sent",
    [answer(b"\0\0\0\2\0\0\0"), answer(b"\1", b"\3def", END, b"\1x", END), answer(b"\1", b"\3def", END, END)],
    ids=["ok", "rows", "no rows"],
)
def test_an_answer_is_walked_however_it_arrives(sent: bytes) -> None:
    for size in range(1, len(sent) + 1):
        walked = Answer()
        parts = [sent[at : at + size] for at in range(0, len(sent), size)]
        for _ in range(3):  # from the second time on it is counted
            walked.start()
            assert [walked.fed(part) for part in parts] == [False] * (len(parts) - 1) + [True]
            assert walked.size == len(sent)


def test_an_error_of_the_server_ends_the_run() -> None:
    error = answer(b"\xff\x7a\x04#42S02no such table")
    walked = Answer()
    with pytest.raises(BenchError, match="no such table"):
        walked.fed(error)
    walked = Answer()
    assert walked.fed(answer(b"\1", b"\3def", END, b"\1x", END))
    walked.start()
    with pytest.raises(BenchError, match="no such table"):
        walked.fed(error)


def test_an_answer_that_is_not_like_the_first_ends_the_run() -> None:
    good = answer(b"\1", b"\3def", END, b"\1x", END)
    for other in (good + b"\0", good[:-1] + b"\7"):
        walked = Answer()
        assert walked.fed(good)
        walked.start()
        with pytest.raises(BenchError, match="not like the first"):
            walked.fed(other)


def test_the_packets_that_are_sent_again_and_again() -> None:
    assert packet(b"\3SELECT 1") == b"\x09\0\0\0\3SELECT 1"
    source = mysql_driver.random.Random(1)
    assert len({len(one) for one in packets("text", None, 0, source)}) == 1
    assert len({len(one) for one in packets("prepared", None, 7, source)}) == 1
    assert packets("text", "SELECT 2", 0, source) == [packet(b"\3SELECT 2")]
    fresh = packets("text", rules.WORK["mysql"].new, 0, source, 500)
    assert len(set(fresh)) == 500, "each is a text that was not seen before"
    assert len({len(one) for one in fresh}) == 1


def test_a_driver_that_cannot_connect_is_an_error_and_can_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and says nothing
    with contextlib.closing(MySQLDriver()) as driver, silent:
        for _ in range(2):
            with pytest.raises(BenchError, match="Can't connect"):
                driver.run(NOWHERE, transactions=1, seconds=0.1)
        monkeypatch.setattr(mysql_rig, "_GRACE", -2.0)
        with pytest.raises(BenchError, match="was not done after"):
            driver.run(replace(NOWHERE, port=silent.getsockname()[1]), transactions=1, seconds=0.1)
        monkeypatch.undo()
        with pytest.raises(BenchError, match="Can't connect"):
            driver.run(NOWHERE, transactions=1, seconds=0.1, reconnect=True, clients=2)


@pytest.mark.e2e
def test_a_database_that_is_not_there_is_said(folder: Path) -> None:
    done, rows = run_bench("--postgres", "/nowhere", folder=folder)
    assert (done.returncode, rows) == (1, [])
    assert "no PostgreSQL in `/nowhere`" in done.stderr
    assert left(folder) == []
