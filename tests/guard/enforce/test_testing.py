"""Tests of policies are strict too, and a wrong answer is told in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guard.documents import ConfigError
from guard.enforce.testing import beside, run_tests
from protocols.contract import Analysis, Effect

RULES = """\
  - {id: read, description: d, allow: [data.select]}
  - {id: stop, description: d, deny: [ddl.*], and_alert: true}
  - {id: sleepy, description: d, deny: [data.select], when: {days: [sun]}}
  - {id: mask, description: d, mask: {columns: ["*.ssn"]}}
"""
HEAD = "version: 1\nidentities:\n  a: {subject: ann}\ntests:\n"


def analyse(protocol: str, text: str) -> Analysis:
    if text == "?":
        raise ValueError("a question mark")
    return Analysis("given", frozenset({Effect(text)}))


@pytest.fixture
def run(load: Any, tmp_path: Path) -> Any:
    def _run(tests: str, head: str = HEAD) -> Any:
        load(RULES)
        path = beside(tmp_path / "b0.yaml")
        path.write_text(head + tests)
        return run_tests(path, analyse)

    return _run


def test_right_answers_pass_and_untested_rules_are_named(run: Any) -> None:
    report = run(
        "  - {name: one, as: a, command: data.select, expect: {decision: allow, rule: b0/read}}\n"
        "  - {name: two, as: a, command: ddl.drop, expect: {decision: deny, alerts: [b0/stop]}}\n"
        "  - {name: three, as: a, expect: {masked: [public.t.ssn], clear: [public.t.id]}}\n"
    )
    assert [(one.line, one.name, one.problem) for one in report.results] == [
        (5, "one", ""),
        (6, "two", ""),
        (7, "three", ""),
    ]
    assert report.untested == ("b0/sleepy",)


def test_time_matters(run: Any) -> None:
    case = "  - {{name: x, as: a, at: '2026-03-0{}T10:00:00Z', command: data.select, expect: {}}}\n"
    report = run(case.format(1, "deny") + case.format(2, "allow"))
    assert [one.problem for one in report.results] == ["", ""]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("command: data.select, expect: deny", "expected decision `deny`, got `allow` (allowed by `b0/read`)"),
        ("command: data.select, expect: {rule: b0/stop}", "expected rule `b0/stop`, got `b0/read`"),
        ("command: ddl.drop, expect: {alerts: []}", "expected alerts [], got [b0/stop]"),
        ("command: '?', expect: deny", "cannot be analysed: a question mark"),
        ("expect: {masked: [a.b.c]}", "a.b.c is not masked"),
        ("expect: {clear: [a.b.ssn]}", "a.b.ssn is masked"),
    ],
)
def test_wrong_answers_fail_and_say_why(run: Any, case: str, words: str) -> None:
    (result,) = run(f"  - {{name: x, as: a, {case}}}\n").results
    assert words in result.problem


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("as: b, command: tx, expect: deny", "no identity `b`"),
        ("as: a, resource: r, command: tx, expect: deny", "no resource `r`"),
        ("as: a, command: tx, expect: refuse", "expected one of: allow"),
        ("as: a, command: tx, expect: {}", "says nothing"),
        ("as: a, expect: deny", "a decision needs a `command`"),
        ("as: a, command: tx, does: {effects: [tx]}, expect: deny", "not both"),
        ("as: a, does: {effects: ['data.*']}, expect: deny", "single effects"),
        ("as: a, does: {effects: [data.selct]}, expect: deny", "did you mean"),
        ("as: a, at: '2026-03-02T10:00:00', command: tx, expect: deny", "needs its offset"),
        ("as: a, at: noon, command: tx, expect: deny", "expected a time"),
        ("as: a, comand: tx, expect: deny", "did you mean `command`"),
    ],
)
def test_a_test_that_tests_nothing_is_a_problem(run: Any, case: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(f"  - {{name: x, {case}}}\n")
    assert words in str(caught.value)
    assert ":5:" in str(caught.value)


def test_no_tests_are_a_problem(run: Any) -> None:
    with pytest.raises(ConfigError, match="must not be empty"):
        run("  []\n")
