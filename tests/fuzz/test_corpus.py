"""Every input of the corpus, and some made of it: what was once found stays found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, main, mutated, seeds
from tests.fuzz.targets import TARGETS

INPUTS = [path for path in sorted(CORPUS.rglob("*")) if path.is_file()]


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(len(seeds(name)) >= 3 for name in TARGETS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_some_mutations(name: str) -> None:
    pick, known = random.Random(1), seeds(name)
    for _ in range(300):
        TARGETS[name](mutated(pick, known))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["framer", "--seconds", "0.1", "--plain", "--seed", "1"]) == 0
    assert "nothing found" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["no-such-target"])


def test_what_is_found_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.fuzz.__main__.CORPUS", tmp_path)
    (tmp_path / "framer").mkdir()
    monkeypatch.setitem(TARGETS, "framer", lambda data: 1 // 0)
    assert main(["framer", "--seconds", "1", "--plain"]) == 1
    assert len(list((tmp_path / "framer").glob("crash-*"))) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
