"""The hook: masks answer as before, and what they mask is told."""

from __future__ import annotations

from guard.leak import Fingerprints, ObservedMasker
from guard.mask import Masker
from protocols.contract import MaskRule, Origin, ResultColumn, ResultShape, ValueKind

KEY = b"k" * 32
SHAPE = ResultShape((ResultColumn("ssn", Origin.KNOWN, ("public.users.ssn",)), ResultColumn("id", Origin.CLEAR)))
COMPUTED = ResultShape((ResultColumn("x", Origin.COMPUTED),), ("public.users",))


def observed(strategy: str) -> tuple[Masker, ObservedMasker, list[str]]:
    masker = Masker((MaskRule("r", ("public.users.ssn",), (), strategy),), KEY)
    told: list[str] = []
    return masker, ObservedMasker(masker, told.append), told


def test_every_strategy_answers_as_before_and_is_shown_the_value() -> None:
    for strategy in ("null", "redact", "hash", "tokenise", "partial", "date"):
        masker, watching, told = observed(strategy)
        plain, plan = masker.plan(SHAPE), watching.plan(SHAPE)
        assert plain is not None
        assert plan is not None
        before, mask = plain.columns[0], plan.columns[0]
        assert before is not None
        assert mask is not None
        assert plan.columns[1] is None
        assert (mask.rule, mask.strategy) == (before.rule, before.strategy)
        assert not mask.constant
        assert not mask.withhold
        for kind, value in ((ValueKind.TEXT, "078-05-1120"), (ValueKind.INTEGER, "78051120")):
            assert mask.apply(value, kind, 100) == before.apply(value, kind, 100)
        assert told == ["078-05-1120", "78051120"]


def test_withheld_columns_stay_withheld() -> None:
    _, watching, told = observed("tokenise")
    plan = watching.plan(COMPUTED)
    assert plan is not None
    mask = plan.columns[0]
    assert mask is not None
    assert mask.apply("078-05-1120") is None
    assert told == ["078-05-1120"]


def test_without_rules_nothing_is_wrapped() -> None:
    assert ObservedMasker(Masker((), KEY), print).plan(SHAPE) is None
    _, watching, _ = observed("null")
    assert watching.touches(("public.users",))
    assert not watching.touches(("public.orders",))


def test_what_was_masked_is_found_on_its_way_out() -> None:
    prints = Fingerprints(KEY)
    masker = Masker((MaskRule("r", ("public.users.ssn",), (), "redact"),), KEY)
    plan = ObservedMasker(masker, lambda value: prints.saw("ci", value, 0.0)).plan(SHAPE)
    assert plan is not None
    assert plan.columns[0] is not None
    assert plan.columns[0].apply("078-05-1120") == "[masked]"
    assert prints.find("ci", b"payload=078051120", 1.0).strong == 1
