"""`./scripts/test` must never call a failure a success."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.support import checks
from scripts.support.checks import Stage
from tests.conftest import FAST_E2E, SLOW_FILES


def stage(name: str, code: str) -> Stage:
    return Stage(name, (sys.executable, "-c", code))


def test_a_stage_is_one_line_and_shows_its_output_only_when_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.run_stage(stage("good", "print('chatter')"))
    assert not checks.run_stage(stage("bad", "import sys; print('the reason'); sys.exit(3)"))
    assert not checks.run_stage(Stage("missing", ("/no-such-program",)))
    out = capsys.readouterr().out
    assert "chatter" not in out
    assert "the reason" in out
    assert "/no-such-program" in out
    assert [line.split()[:2] for line in out.splitlines() if " s" in line][:2] == [["good", "ok"], ["bad", "FAILED"]]


def test_a_failed_stage_fails_the_run_even_when_the_tests_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def fake_pytest(argv: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        ran.append(argv)
        assert (env["SLUICEGATE_TEST_POSTGRES"], env["SLUICEGATE_TEST_MYSQL"]) == ("embedded", "first")
        return subprocess.CompletedProcess(argv, 0)

    prepared: list[bool] = []
    monkeypatch.setattr(checks.machine, "prepare", lambda _root, *, install_missing: prepared.append(install_missing))
    monkeypatch.setattr(checks, "run_stage", lambda one: one.name not in ("mypy", "docs"))
    monkeypatch.setattr(checks.subprocess, "run", fake_pytest)
    monkeypatch.delenv("CI", raising=False)
    assert checks.main(["--fast", "tests/guard", "-x"]) == 1
    fast = ["-m", "not slow", "--hypothesis-profile", "fast"]
    assert ran[0][1:] == ["-m", "pytest", *fast, "tests/guard", "-x"]
    assert prepared == [False]  # nobody waits for packages in the fast lane
    out = capsys.readouterr().out
    assert "FAILED before the tests: docs;" in out
    assert "FAILED beside the tests, see above: mypy" in out, "what runs for long is not waited for, and still counts"


@pytest.mark.parametrize("broken", ["mypy", "import-linter", ""])
def test_each_stage_counts_without_the_tests(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "run_stage", lambda one: one.name != broken)
    chosen = [word for stage in checks.STAGES for word in ("--stage", stage.name)]
    assert checks.main(chosen) == (1 if broken else 0)


def test_one_stage_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(checks, "run_stage", lambda one: asked.append(one.name) is None)
    assert checks.main(["--stage", "import-linter"]) == 0
    assert asked == ["import-linter"]


def test_the_fast_lane_keeps_files_that_exist() -> None:
    tests = checks.ROOT / "tests"
    folders = {name: tests / name for name in ("e2e", "attacks", "docs", "usability")}
    folders["support"] = tests / "scripts" / "support"
    for folder, names in ({"e2e": FAST_E2E} | SLOW_FILES).items():
        assert [name for name in names if not (folders[folder] / name).is_file()] == []


@pytest.mark.parametrize(("failed", "runs"), [(0, 1), (1, 2), (10, 2), (11, 1)])
def test_in_ci_a_few_failures_get_a_second_look_and_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, failed: int, runs: int
) -> None:
    ran: list[list[str]] = []

    def fake_pytest(argv: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        ran.append(argv)
        return subprocess.CompletedProcess(argv, 1 if len(ran) == 1 else 0)

    remembered = tmp_path / ".pytest_cache/v/cache/lastfailed"
    if failed:
        remembered.parent.mkdir(parents=True)
        remembered.write_text(json.dumps({f"tests/test_x.py::test_{n}": True for n in range(failed)}))
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr(checks.subprocess, "run", fake_pytest)
    monkeypatch.setenv("CI", "true")
    assert checks.run_tests(False, ()) == (0 if runs == 2 else 1)
    assert len(ran) == runs
    assert ("tests/test_x.py::test_0" in capsys.readouterr().out) is (runs == 2)
    monkeypatch.delenv("CI")
    ran.clear()
    assert checks.run_tests(False, ()) == 1
    assert len(ran) == 1
