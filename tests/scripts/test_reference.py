"""The reference says what the schemas accept, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guard.config import check, load
from guard.enforce import PolicySet
from guard.enforce.testing import run_tests
from protocols.contract import Analysis, Effect
from scripts import reference, reference_texts

ROOT = Path(__file__).resolve().parents[2]


def example(text: str) -> str:
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().out


def test_check_fails_on_a_stale_page_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    assert reference.main(["--check"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    (tmp_path / "config.md").write_text("old")
    assert reference.main(["--check"]) == 1
    assert (tmp_path / "config.md").read_text() == "old"


def test_every_effect_and_every_key_is_described() -> None:
    pages = reference.pages()
    for effect in Effect:
        assert f"| `{effect.value}` |" in pages["policy.md"]
    for line in "".join(pages.values()).splitlines():
        if line.startswith("| `"):
            assert not line.endswith("|  |"), line


def test_the_configuration_example_loads(tmp_path: Path) -> None:
    (tmp_path / "read-only.yaml").write_bytes((ROOT / "policies" / "read-only.yaml").read_bytes())
    path = tmp_path / "gateway.yaml"
    path.write_text(example(reference_texts.CONFIG))
    assert check(path) == []
    assert load(path).resources[0].name == "shop"


def test_the_policy_example_loads_and_its_tests_pass(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text(example(reference_texts.POLICY))
    (tmp_path / "orders.tests.yaml").write_text(example(reference_texts.TESTS))
    assert PolicySet.load([tmp_path / "orders.yaml"]).rules
    report = run_tests(
        tmp_path / "orders.tests.yaml", lambda protocol, text: Analysis("select", frozenset({Effect.DATA_SELECT}))
    )
    assert [result.problem for result in report.results] == [""] * 3
