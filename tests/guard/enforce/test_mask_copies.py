"""The effect `mask.copy`: who needs it, who grants it, and what a person is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.enforce import PolicySet
from protocols.contract import Action, Analysis, Decision, Effect, Principal, Resource, SessionFacts, Store
from protocols.judge_lines import answer
from protocols.records import command_static

SSN, BODY = "public.users.ssn", "public.notes.body"
MASK = """
  - id: ssn
    description: nobody reads it
    mask: {columns: ["*.users.ssn"], strategy: redact}
    unless: {who: {groups: [privacy]}}
"""
WRITER = """
  - id: work
    description: rows are read and written
    allow: [data.select, data.insert, data.update, ddl.alter, probe]
"""
COPY = Analysis(
    "insert",
    frozenset({Effect.DATA_INSERT, Effect.DATA_SELECT}),
    reads=("public.users",),
    writes=("public.notes",),
    columns=(SSN, BODY),
    stores=(Store(BODY, (SSN,), True),),
)
PLAIN = Analysis(
    "insert", COPY.effects, reads=COPY.reads, writes=COPY.writes, stores=(Store(BODY, ("public.users.id",)),)
)


def decide(tmp_path: Path, rules: str, analysis: Analysis = COPY, groups: frozenset[str] = frozenset()) -> Decision:
    path = tmp_path / "bundle.yaml"
    path.write_text(f"version: 1\nname: b\ndescription: test\nrules:{rules}")
    session = PolicySet.load([path]).for_session(
        Principal("x", "i", groups), Resource("shop", "postgres"), SessionFacts()
    )
    decision = session.decide(analysis, now=0.0, facts=SessionFacts())
    traces = session.explain(analysis, 0.0, SessionFacts())
    deciding = [one.rule for one in traces if one.outcome == "decides"]
    assert (decision.rule in deciding) if decision.rule != "default" else not deciding
    return decision


def test_a_copy_of_what_is_masked_is_denied_unless_somebody_allows_it(tmp_path: Path) -> None:
    decision = decide(tmp_path, MASK + WRITER)
    assert (decision.action, decision.rule) == (Action.DENY, "default")
    assert "`public.users.ssn`, which is masked for you, would be stored in `public.notes.body`" in decision.why
    assert "`mask.copy`" in decision.why
    assert "leave it out" in decision.why


def test_its_records_say_so(tmp_path: Path) -> None:
    assert decide(tmp_path, MASK + WRITER).adds == {Effect.MASK_COPY}
    assert decide(tmp_path, MASK + WRITER, PLAIN).adds == frozenset()
    decision = decide(tmp_path, MASK + WRITER)
    assert b'"mask.copy"' in command_static(COPY, decision, "")
    assert "mask.copy" in answer(1, COPY, decision)["effects"]


def test_what_touches_no_mask_passes_and_so_does_who_sees_the_column(tmp_path: Path) -> None:
    assert decide(tmp_path, MASK + WRITER, PLAIN).action is Action.ALLOW
    assert decide(tmp_path, MASK + WRITER, groups=frozenset({"privacy"})).action is Action.ALLOW
    assert decide(tmp_path, WRITER).action is Action.ALLOW


@pytest.mark.parametrize(
    ("granted", "action"),
    [
        ("allow: [mask.copy]", Action.ALLOW),
        ("allow: ['mask.*']", Action.ALLOW),
        ("allow: ['*']", Action.ALLOW),
        ("allow: {effects: [mask.copy], relations: [public.notes]}", Action.ALLOW),
        ("allow: {effects: [mask.copy], relations: [public.archive]}", Action.DENY),
        ("hold: [mask.copy]", Action.HOLD),
        ("deny: [mask.copy]", Action.DENY),
        ("terminate: [mask.copy]", Action.TERMINATE),
        ("deny: {effects: [mask.copy], columns: ['*.ssn']}", Action.DENY),
    ],
)
def test_it_is_granted_and_stopped_like_any_effect(tmp_path: Path, granted: str, action: Action) -> None:
    rule = f"\n  - id: copies\n    description: copies of masked columns\n    {granted}\n"
    assert decide(tmp_path, MASK + WRITER + rule).action is action


def test_a_rule_about_another_column_or_relation_does_not_stop_it(tmp_path: Path) -> None:
    granted = "\n  - id: a\n    description: d\n    allow: [mask.copy]\n"
    for narrowed in ("columns: ['*.card']", "relations: [public.archive]"):
        rule = f"\n  - id: b\n    description: d\n    deny: {{effects: [mask.copy], {narrowed}}}\n"
        assert decide(tmp_path, MASK + WRITER + granted + rule).action is Action.ALLOW


def test_a_denial_says_what_would_become_clear(tmp_path: Path) -> None:
    rule = "\n  - id: no\n    description: masked columns stay where they are\n    deny: [mask.copy]\n"
    decision = decide(tmp_path, MASK + WRITER + rule)
    assert decision.rule == "b/no"
    assert "`public.users.ssn`" in decision.why
    renamed = Analysis("alter", frozenset({Effect.DDL_ALTER}), writes=("public.users",),
                       stores=(Store("public.users.x", (SSN,), True), Store("public.users.y", (SSN,))))  # fmt: skip
    assert "(and 1 more)" in decide(tmp_path, MASK + WRITER, renamed).why
    anywhere = Analysis("select", frozenset({Effect.DATA_SELECT}), stores=(Store("*", ("*",)),))
    assert (
        "what may be masked for you would be stored where no mask applies"
        in decide(tmp_path, MASK + WRITER, anywhere).why
    )
    dropped = Analysis("drop", frozenset({Effect.DDL_ALTER}), writes=("public.users",), stores=(Store("", (SSN,)),))
    assert decide(tmp_path, MASK + WRITER, dropped).action is Action.ALLOW  # the mask is one on any schema's table


def test_with_something_else_missing_the_usual_words_are_said(tmp_path: Path) -> None:
    deleting = Analysis("delete", COPY.effects | {Effect.DATA_DELETE}, COPY.reads, COPY.writes, stores=COPY.stores)
    why = decide(tmp_path, MASK + WRITER, deleting).why
    assert "data.delete" in why
    assert "mask.copy" in why


def test_an_alert_sees_it(tmp_path: Path) -> None:
    rule = "\n  - id: seen\n    description: d\n    alert: [mask.copy]\n"
    rule += "\n  - id: a\n    description: d\n    allow: [mask.copy]\n"
    assert decide(tmp_path, MASK + WRITER + rule).alerts == ("b/seen",)
    assert decide(tmp_path, MASK + WRITER + rule, PLAIN).alerts == ()
