"""Which stores would show in the clear what is masked where it came from."""

from __future__ import annotations

from typing import Any

import pytest

from guard.mask.copies import Copies
from protocols.contract import ANYWHERE, MaskRule, Store

SSN, NOTE, OWN = "public.users.ssn", "public.notes.body", "public.users.id"


def rule(*columns: str, strategy: str = "tokenise", name: str = "r", **more: Any) -> MaskRule:
    names = more.pop("names", ())
    origin = more.pop("unknown_origin", "withhold")
    return MaskRule(name, columns, names, strategy, more, origin)


def exposed(rules: list[MaskRule], *stores: Store) -> list[str]:
    """The masked sources of those that are exposed."""
    return [source for store in Copies(rules).exposed(stores) for source in store.sources]


@pytest.mark.parametrize(
    ("store", "found"),
    [
        (Store(NOTE, (SSN,), True), [SSN]),
        (Store(NOTE, (SSN,)), [SSN]),
        (Store(NOTE, (OWN, SSN)), [SSN]),
        (Store(NOTE, (OWN,)), []),
        (Store(NOTE, ("public.users.*",)), ["public.users.*"]),
        (Store(NOTE, ("public.other.*",)), []),
        (Store(NOTE, ("public.*",)), ["public.*"]),
        (Store(NOTE, (ANYWHERE,)), [ANYWHERE]),
        (Store(ANYWHERE, (SSN,)), [SSN]),
        (Store(ANYWHERE, (OWN,)), []),
        (Store(SSN, (OWN,)), []),
        (Store(SSN, (SSN,), True), []),
        # a part of a value could be chosen so that its token, its ends or whether it is NULL tell the rest
        (Store(SSN, (SSN,)), [SSN]),
        (Store(SSN, (ANYWHERE,)), [ANYWHERE]),
        (Store("public.users.*", (SSN,), True), [SSN]),
        (Store("PUBLIC.USERS.SSN", ("Public.Users.Ssn",), True), []),  # letter case never unmasks
    ],
)
def test_what_is_exposed(store: Store, found: list[str]) -> None:
    assert exposed([rule(SSN)], store) == found


@pytest.mark.parametrize(
    ("source", "target", "copied", "computed"),
    [
        # the strategy of the source's rule, of the target's, and whether a copy and a computed value are exposed
        ("null", "null", False, False),
        ("redact", "null", False, False),
        ("tokenise", "null", False, False),
        ("tokenise", "redact", False, True),
        ("partial", "redact", False, True),
        ("null", "redact", True, True),  # it would show where there is no value
        ("redact", "tokenise", True, True),
        ("tokenise", "partial", True, True),
        ("partial", "tokenise", True, True),
        ("partial", "watch", True, True),
        ("watch", "null", False, False),
        ("watch", "partial", False, False),
    ],
)
def test_another_rule_at_the_target(source: str, target: str, copied: bool, computed: bool) -> None:
    rules = [rule(SSN, strategy=source), rule(NOTE, strategy=target, name="other")]
    assert bool(exposed(rules, Store(NOTE, (SSN,), True))) is copied
    assert bool(exposed(rules, Store(NOTE, (SSN,)))) is computed


def test_one_rule_on_both_is_enough_for_a_copy_whatever_its_strategy() -> None:
    for strategy in ("null", "redact", "hash", "tokenise", "partial", "date"):
        rules = [rule("*.ssn", strategy=strategy)]
        assert exposed(rules, Store("archive.users.ssn", (SSN,), True)) == []
        assert bool(exposed(rules, Store("archive.users.ssn", (SSN,)))) is (strategy != "null")


def test_the_strictest_rule_of_each_side_counts() -> None:
    both, weak = rule("*.ssn", strategy="tokenise"), rule("*.ssn", strategy="partial", name="weak")
    assert exposed([both, weak], Store("a.b.ssn", (SSN,), True)) == []
    only_source = rule(SSN, strategy="redact", name="strict")
    assert exposed([both, only_source], Store("a.b.ssn", (SSN,), True)) == [SSN]


def test_computed_values_count_as_a_result_would_show_them() -> None:
    passing = rule(SSN, unknown_origin="pass")
    assert exposed([passing], Store(NOTE, (SSN,))) == []  # it is shown to whoever selects it
    assert exposed([passing], Store(NOTE, (SSN,), True)) == [SSN]
    named = rule("public.other.x", names=("*email*",))
    assert exposed([named], Store(NOTE, (OWN,), False, "his_email")) == [OWN]
    assert exposed([named], Store(NOTE, (OWN,), False, "his_name")) == []
    assert exposed([named], Store(NOTE, (), False, "his_email")) == []
    assert exposed([named], Store("public.other.x", (OWN,), False, "his_email")) == [OWN]


def test_what_is_dropped_counts_where_a_mask_names_its_table() -> None:
    assert exposed([rule(SSN)], Store("", (OWN, SSN))) == [SSN]
    assert exposed([rule("*.ssn")], Store("", (SSN,))) == []
    assert exposed([rule("public.users.*")], Store("", (OWN,))) == [OWN]
    assert exposed([rule(SSN)], Store("", ("public.*",))) == ["public.*"]
    assert exposed([rule(SSN)], Store("", ("other.*",))) == []


def test_without_rules_about_columns_nothing_is() -> None:
    fields = MaskRule("r", (), (), "redact", {}, "withhold", ("user.email",))
    assert exposed([], Store(NOTE, (ANYWHERE,))) == []
    assert exposed([fields], Store(NOTE, (ANYWHERE,))) == []
    assert exposed([rule(SSN, strategy="watch")], Store(NOTE, (SSN,))) == []
