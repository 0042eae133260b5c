"""Which rule applies to which column."""

from __future__ import annotations

from typing import Any

import pytest

from guard.mask import Masker, MaskRuleError
from protocols.contract import ANY_RELATION, MaskRule, Origin, ResultColumn, ResultShape

KEY = b"k" * 32


def rule(name: str, columns: tuple[str, ...] = (), names: tuple[str, ...] = (), **more: Any) -> MaskRule:
    return MaskRule(name, columns, names, more.pop("strategy", "redact"), more.pop("options", {}), **more)


def known(*columns: str) -> ResultColumn:
    return ResultColumn("x", Origin.KNOWN, columns)


def computed(name: str = "x", *columns: str) -> ResultColumn:
    return ResultColumn(name, Origin.COMPUTED, columns)


CLEAR = ResultColumn("ssn", Origin.CLEAR)


def decide(rules: list[MaskRule], *columns: ResultColumn, reads: tuple[str, ...] = ()) -> list[str | None]:
    plan = Masker(tuple(rules), KEY).plan(ResultShape(columns, reads))
    return [None] * len(columns) if plan is None else [c.strategy if c else None for c in plan.columns]


SSN = rule("ssn", ("public.users.ssn",))


def test_known_origins() -> None:
    columns = (known("public.users.id"), known("public.users.ssn"), known("public.orders.ssn"))
    assert decide([SSN], *columns, reads=("public.users", "public.orders")) == [None, "redact", None]


def test_nothing_to_do_is_no_plan() -> None:
    assert Masker((SSN,), KEY).plan(ResultShape((known("public.users.id"),), ("public.users",))) is None
    assert Masker((), KEY).plan(ResultShape((computed(),), (ANY_RELATION,))) is None


def test_a_childs_column_is_masked_by_its_parents_rule() -> None:
    assert decide([SSN], known("public.users_eu.ssn", "public.users.ssn")) == ["redact"]


def test_computed_columns_of_a_statement_that_reads_a_masked_table_are_withheld() -> None:
    assert decide([SSN], computed(), reads=("public.users",)) == ["withhold"]
    assert decide([SSN], computed(), reads=("public.orders",)) == [None]
    assert decide([SSN], CLEAR, reads=("public.users",)) == [None]


def test_a_computed_column_is_withheld_only_for_what_it_is_computed_from() -> None:
    def made_of(*columns: str, name: str = "x") -> ResultColumn:
        return ResultColumn(name, Origin.COMPUTED, depends=columns)

    reads = ("public.users",)
    columns = (made_of("public.users.name"), made_of("public.users.name", "public.users.ssn"), made_of(), computed())
    assert decide([SSN], *columns, reads=reads) == [None, "withhold", None, "withhold"]
    # a name still says what it says
    assert decide([rule("n", ("public.users.ssn",), ("ssn*",))], made_of(name="ssn_hash"), reads=reads) == ["redact"]


def test_computed_columns_are_withheld_when_anything_may_be_read() -> None:
    assert decide([SSN], computed(), reads=(ANY_RELATION,)) == ["withhold"]


def test_a_relation_whose_columns_are_known_counts_by_its_columns() -> None:
    anywhere = Masker((rule("anywhere", ("*.ssn",)),), KEY)
    orders = ("public.orders.id", "public.orders.total")
    assert anywhere.plan(ResultShape((computed(),), (), orders)) is None
    assert anywhere.plan(ResultShape((computed(),), (), (*orders, "public.users.ssn"))) is not None
    # of this one nobody knows what it holds
    assert anywhere.plan(ResultShape((computed(),), ("pg_temp.t",), orders)) is not None
    assert not anywhere.touches((), orders)
    assert anywhere.touches((), ("public.users.ssn",))
    assert anywhere.touches(("pg_temp.t",), orders)


def test_unknown_origin_pass_lets_computed_columns_through() -> None:
    lax = rule("lax", ("public.users.ssn",), unknown_origin="pass")
    assert decide([lax], computed(), reads=("public.users",)) == [None]
    strict = rule("strict", ("public.users.email",))
    assert decide([lax, strict], computed(), reads=("public.users",)) == ["withhold"]


def test_a_tainted_column_is_withheld_and_with_pass_masked_as_itself() -> None:
    partial = rule("p", ("public.users.ssn",), strategy="partial", options={"keep_last": 4})
    assert decide([partial], computed("ssn", "public.users.ssn"), reads=("public.users",)) == ["withhold"]
    lax = rule("p", ("public.users.ssn",), strategy="partial", unknown_origin="pass")
    assert decide([lax], computed("ssn", "public.users.ssn"), reads=("public.users",)) == ["partial"]


def test_names_apply_to_columns_without_origin_only() -> None:
    by_name = rule("n", names=("*SSN*",))
    assert decide([by_name], computed("my_ssn"), known("public.a.ssn"), CLEAR) == ["redact", None, None]


def test_the_strictest_rule_wins_whatever_the_order() -> None:
    rules = [
        rule("a", ("*.ssn",), strategy="partial", options={"keep_last": 4}),
        rule("b", ("public.*",), strategy="hash"),
        rule("c", ("public.users.*",), strategy="null"),
    ]
    for order in (rules, rules[::-1]):
        assert decide(order, known("public.users.ssn")) == ["null"]


def test_tokens_are_equal_within_a_column_and_through_its_children() -> None:
    masker = Masker((rule("t", ("public.users.ssn", "public.b.ssn"), strategy="tokenise"),), KEY)

    def token(*columns: str) -> str | None:
        plan = masker.plan(ResultShape((known(*columns),)))
        assert plan is not None
        mask = plan.columns[0]
        assert mask is not None
        return mask.apply("123-45-6789")

    assert token("public.users.ssn") == token("public.users_eu.ssn", "public.users.ssn")
    assert token("public.users.ssn") != token("public.b.ssn")


def test_flags_of_a_column_mask() -> None:
    plan = Masker((SSN, rule("n", ("*.a",), strategy="null"), rule("h", ("*.h",), strategy="hash")), KEY).plan(
        ResultShape((known("public.users.ssn"), known("x.y.a"), known("x.y.h"), known("x.y.z")))
    )
    assert plan is not None
    assert [(c.withhold, c.constant) if c else None for c in plan.columns] == [
        (False, True),
        (True, True),
        (False, False),
        None,
    ]
    assert [c.rule if c else None for c in plan.columns] == ["ssn", "n", "h", None]


def test_touches() -> None:
    masker = Masker((SSN, rule("n", names=("x",))), KEY)
    assert masker.touches(["public.orders", "public.users"])
    assert masker.touches([ANY_RELATION])
    assert not masker.touches(["public.orders"])
    assert not masker.touches([])
    assert not Masker((rule("n", names=("x",)),), KEY).touches([ANY_RELATION])


@pytest.mark.parametrize(
    "bad",
    [
        rule("r", ("users.ssn",)),
        rule("r", ("",)),
        rule("r"),
        rule("r", ("a.b.c",), strategy="rot13"),
        rule("r", ("a.b.c",), options={"keep_first": 2}),
    ],
)
def test_a_rule_that_cannot_work_stops_the_masker(bad: MaskRule) -> None:
    with pytest.raises(MaskRuleError, match="mask rule `r`"):
        Masker((bad,), KEY)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(MaskRuleError, match="shorter"):
        Masker((SSN,), b"short")


def test_a_mask_never_shows_its_key() -> None:
    plan = Masker((rule("t", ("a.b.c",), strategy="tokenise"),), b"SECRETSECRETSECRET").plan(
        ResultShape((known("a.b.c"),))
    )
    assert "SECRET" not in repr(plan)
