"""Every bundle that is shipped passes its own tests, has a test for each rule, and works alone and together."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from guard.enforce import PolicySet
from guard.enforce.testing import SUFFIX, run_tests
from guard.mask import Masker
from protocols.contract import Principal, Resource, SessionFacts
from scripts.policy_offline import analyse_request, analyse_text

FOLDER = Path(__file__).resolve().parents[2] / "policies"
BUNDLES = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.endswith(SUFFIX))


def test_the_bundles_that_people_are_told_about_exist() -> None:
    assert [path.stem for path in BUNDLES] == [
        "break-glass",
        "ci-egress",
        "demo",
        "guarded-writer",
        "kubernetes-read-only",
        "pii-masking",
        "read-only",
    ]


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_a_bundle_passes_its_tests_and_every_rule_of_it_is_asked(path: Path) -> None:
    report = run_tests(path.with_name(path.stem + SUFFIX), analyse_text, analyse_request)
    assert [result for result in report.results if result.problem] == []
    assert report.untested == ()


def test_bundles_can_be_combined() -> None:
    for pair in combinations(BUNDLES, 2):
        PolicySet.load(pair)


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_the_masks_of_a_bundle_are_ones_that_the_masker_takes(path: Path) -> None:
    policies = PolicySet.load([path])
    for groups in (frozenset[str](), frozenset({"analysts"}), frozenset({"platform"})):
        session = policies.for_session(Principal("x", "i", groups), Resource("shop", "postgres"), SessionFacts())
        Masker(session.masks, b"k" * 32)
