"""`./scripts/bench http`: every cell of both ways is measured, and nothing fails on the way."""

from __future__ import annotations

import json

import pytest

from scripts.benchmarks import http
from scripts.benchmarks.http import Cell, cells


def test_every_cell_is_there_once() -> None:
    for quick in (True, False):
        found = list(cells(quick))
        assert len(found) == len(set(found))
        for way in http.WAYS:
            assert {(cell.mode, cell.tls) for cell in found if cell.way == way} >= {
                ("keepalive", False), ("keepalive", True), ("new", False), ("new", True)
            }  # fmt: skip
        assert Cell("masked", 2, False) in found


def test_an_unknown_target_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        http.main(["--targets", "nginx"])
    assert "unknown target `nginx`" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.e2e
def test_a_quick_run_measures_the_gateway_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    status = http.main(["--quick", "--json", "--seconds", "0.2", "--targets", "gateway"])
    printed = capsys.readouterr()
    assert status == 0, printed.out + printed.err
    rows = [json.loads(line) for line in printed.out.splitlines()]
    measured = [row for row in rows if row["measure"] == "main"]
    skipped = [row for row in rows if row["measure"] == "skipped"]  # a machine that is busy
    assert len(measured) + len(skipped) == len(list(cells(True)))
    assert {row["way"] for row in measured} | {row["what"].split()[1] for row in skipped} == set(http.WAYS)
    for row in measured:
        assert row["target"] == "gateway"
        assert row["rps"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["mode"] in http.MODES
    assert {row["hits"] for row in rows if row["measure"] == "detector"} == {"clean", "5%", "dense"}
    assert [row["rss_mib"] > 0 for row in rows if row["measure"] == "memory"] == [True]
