"""The corpus of the benchmark: nearly everything is found, nearly nothing else. And the page names every detector."""

from __future__ import annotations

import re
from pathlib import Path

from guard.detect import KINDS
from scripts.benchmarks import detect

ROOT = Path(__file__).parents[3]


def test_recall_and_false_findings() -> None:
    rows = list(detect.accuracy(each=40, alikes=1500))
    assert {row["detector"]: row["recall"] for row in rows if row["measure"] == "recall" and row["recall"] < 0.97} == {}
    assert len(rows) == 21
    assert rows[-1]["share"] < 0.005
    assert set(rows[-1]["by"]) <= {"card"}


def test_the_figures_can_be_measured_again() -> None:
    rows = list(detect.speed(size=40_000, rounds=1))
    assert all(row["mb_per_s"] > 0 for row in rows)
    assert {row["what"] for row in rows} >= {"scan", "stream", "mask text", "mask json", "mask csv", "leak"}
    detect.show([*rows, *detect.accuracy(each=1, alikes=10)])


def test_the_page_names_every_detector() -> None:
    text = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert set(KINDS) <= set(re.findall(r"`([\w-]+)`", text))
