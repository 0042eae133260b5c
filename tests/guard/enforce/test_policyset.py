"""Loading bundles: everything that is wrong, with its place; and what makes two policies the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guard.documents import ConfigError
from guard.enforce import PolicySet
from protocols.contract import Principal, Resource, SessionFacts

GOOD = "  - {id: a, description: d, allow: [tx]}\n"


def problems(load: Any, *bundles: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*bundles)
    return [f"{Path(one.file).name}:{one.line}:{one.column}: {one.message}" for one in caught.value.problems]


@pytest.mark.parametrize(
    ("rule", "place", "words"),
    [
        ("allow: [data.selct]", "5:37", "did you mean `data.select`?"),
        ("allow: {effects: [data.selct]}", "5:47", "did you mean `data.select`?"),
        ("allow: [tx], deny: [tx]", "5:5", "exactly one of"),
        ("message: x", "5:5", "exactly one of"),
        ("alow: [tx]", "5:29", "unknown key `alow`; did you mean `allow`?"),
        ("allow: {effects: [tx], relation: [a.b]}", "5:52", "did you mean `relations`?"),
        ("allow: {relations: [a.b]}", "5:5", "names its `effects`"),
        ("allow: {effects: [data.select], columns: [a.b.c]}", "5:5", "cannot be limited to columns"),
        ("allow: {effects: [exec.call, tx], functions: [a.f]}", "5:5", "`functions` limits exec.* effects only"),
        ("allow: []", "5:36", "must not be empty"),
        ("deny: {}", "5:35", "empty: name at least one condition"),
        ("deny: null", "5:5", "exactly one of"),
        ("deny: tx", "5:35", "expected a mapping"),
        ("deny: [tx], who: {}", "5:46", "empty: name at least one condition"),
        ("deny: [tx], who: {groups: []}", "5:55", "must not be empty"),
        ("deny: [tx], who: {groups: [1]}", "5:56", "expected text"),
        ("deny: {relations: [orders]}", "5:48", "write `public.orders`"),
        ("deny: {columns: ['ssn']}", "5:46", "schema.table.column"),
        ("deny: {relations: ['a.[b']}", "5:48", "`[` without `]`"),
        ("deny: {relations: ['a.{b,c}']}", "5:48", "braces"),
        ("deny: {where: [absent]}", "5:44", "expected one of: missing, always_true, present"),
        ("deny: [tx], when: {days: [Mon]}", "5:55", "expected a day"),
        ("deny: [tx], when: {hours: ['8-18']}", "5:56", "expected hours"),
        ("deny: [tx], when: {hours: [08:00-18:00], timezone: Europe/Berln}", "5:80", "is no time zone"),
        ("deny: [tx], from: {networks: [10.0.0.1/8]}", "5:59", "host bits zero"),
        ("deny: [tx], approvers: {groups: [a]}", "5:5", "belongs to `hold` only"),
        ("hold: [tx], approvers: {count: 0}", "5:60", "greater than or equal to 1"),
        ("hold: [tx], approvers: {expires: 10}", "5:62", "expected text"),
        ("hold: [tx], approvers: {expires: 10d}", "5:62", "expected a duration"),
        ("allow: [tx], unless: {who: {groups: [a]}}", "5:5", "`unless` is for rules that stop"),
        ("allow: [tx], message: no", "5:5", "`allow` stops nothing"),
        ("mask: {columns: ['*.a'], strategy: blur}", "5:64", "expected one of: redact"),
        ("mask: {columns: ['*.a'], strategy: partial}", "5:35", "needs `keep_first`"),
        ("mask: {columns: ['*.a'], strategy: date}", "5:35", "needs `precision`"),
        ("mask: {columns: ['*.a'], keep_last: 4}", "5:35", "means nothing with `strategy: redact`"),
        ("mask: {strategy: 'null'}", "5:35", "name what is masked"),
        ("mask: ['*.a']", "5:35", "expected a mapping"),
        ("mask: {columns: ['*.a']}, when: {days: [mon]}", "5:5", "holds for a whole session"),
        ("mask: {columns: ['*.a']}, from: {applications: [x]}", "5:5", "chooses its application name"),
        ("allow: [tx], and_alert: yes", "5:53", "true or false"),
    ],
)
def test_a_rule_that_is_wrong_stops_the_load_with_its_place(load: Any, rule: str, place: str, words: str) -> None:
    found = problems(load, f"  - {{id: a, description: d, {rule}}}\n")
    assert len(found) == 1, found
    assert found[0].startswith(f"b0.yaml:{place}: "), found
    assert words in found[0]


def test_every_problem_of_every_bundle_in_one_run(load: Any) -> None:
    found = problems(
        load,
        "  - {id: A, description: '', allow: [tx]}\n  - {id: b, allow: [x]}\n",
        GOOD + GOOD,
    )
    assert [one.partition(": ")[0] for one in found] == [
        "b0.yaml:5:10",
        "b0.yaml:5:26",
        "b0.yaml:6:5",
        "b0.yaml:6:21",
        "b1.yaml:6:10",
    ]
    assert "rule `a` is given twice" in found[-1]


def test_bundles_need_different_names(tmp_path: Path) -> None:
    for file in ("one.yaml", "two.yaml"):
        (tmp_path / file).write_text(f"version: 1\nname: same\ndescription: d\nrules:\n{GOOD}")
    with pytest.raises(ConfigError, match=r"two.yaml:2:7: bundle name `same` is also used by one.yaml"):
        PolicySet.load([tmp_path / "one.yaml", tmp_path / "two.yaml"])


def test_no_bundle_is_a_problem_not_an_empty_policy() -> None:
    with pytest.raises(ConfigError, match="nothing would be allowed"):
        PolicySet.load([])


def test_attack_13_a_broken_rule_never_means_no_match(load: Any, tmp_path: Path) -> None:
    policies = load(GOOD)
    (tmp_path / "b0.yaml").write_text(
        "version: 1\nname: b0\ndescription: d\nrules:\n" + GOOD + "  - {id: x, deny: [dd.*]}\n"
    )
    with pytest.raises(ConfigError):
        PolicySet.load([tmp_path / "b0.yaml"])
    assert [rule.name for rule in policies.rules] == ["b0/a"]  # what was loaded stays as it was


def test_the_version_follows_the_meaning_not_the_spelling(load: Any) -> None:
    first = load(GOOD).version
    assert load("  # a comment\n  - id: a\n    description: d\n    allow: {effects: [tx]}\n").version == first
    assert load("  - {id: a, description: d, allow: [tx, show]}\n").version != first
    assert load("  - {id: a, description: d, deny: [tx]}\n").version != first


def test_sessions_with_the_same_rules_share_one_index(load: Any) -> None:
    policies = load(GOOD + "  - {id: b, description: d, who: {groups: [x]}, allow: [show]}\n")
    facts, resource = SessionFacts(), Resource("r", "postgres")
    sessions = [
        policies.for_session(Principal(f"s{number}", "i", frozenset({"x"} if number % 2 else ())), resource, facts)
        for number in range(10)
    ]
    assert len({id(session._index) for session in sessions}) == 2
    assert len(policies._indexes) == 2
