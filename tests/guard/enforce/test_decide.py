"""What a policy answers: precedence, coverage, holds, time, probes, and what happens when something is unclear."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from guard.enforce import DEFAULT_RULE, PolicySet, SessionPolicy
from protocols.contract import (
    Action,
    Analysis,
    Decision,
    Effect,
    HoldTerms,
    Principal,
    Resource,
    SessionFacts,
    Where,
)

ANN = Principal("ann", "https://idp", frozenset({"analysts"}), {"repo": "acme/shop", "roles": ("a", "b"), "mfa": True})
SHOP = Resource("shop", "postgres", {"env": "prod"}, "shop")
FACTS = SessionFacts("10.1.2.3", "psql")
NOON = datetime.datetime.fromisoformat("2026-03-02T12:00:00Z").timestamp()  # a Monday

READ = "  - {id: read, description: d, allow: [data.select, tx]}\n"


def command(*effects: str, where: str = "none", **more: Any) -> Analysis:
    return Analysis("test", frozenset(Effect(name) for name in effects), where=Where(where), **more)


def session(policies: PolicySet, principal: Principal = ANN, facts: SessionFacts = FACTS) -> SessionPolicy:
    return policies.for_session(principal, SHOP, facts)


def decide(policies: PolicySet, analysis: Analysis, now: float = NOON, facts: SessionFacts = FACTS) -> Decision:
    return session(policies, facts=facts).decide(analysis, now=now, facts=facts)


SELECT = command("data.select", reads=("public.t",))
DELETE = command("data.delete", "data.select", where="present", reads=("public.t",), writes=("public.t",))


def test_what_no_rule_matches_is_denied_and_says_what_to_do(load: Any) -> None:
    answer = decide(load(READ), DELETE)
    assert (answer.action, answer.rule) == (Action.DENY, DEFAULT_RULE)
    assert answer.why == (
        "no rule allows data.delete on public.t for ann on shop: ask the owners of the policy for a rule that does"
    )


def test_an_allow_names_the_rule_and_the_version(load: Any) -> None:
    policies = load(READ)
    answer = decide(policies, SELECT)
    assert (answer.action, answer.rule, answer.policy_version) == (Action.ALLOW, "b0/read", policies.version)
    assert answer.valid_until == float("inf")


def test_a_command_without_effects_is_denied_unless_it_is_empty(load: Any) -> None:
    policies = load('  - {id: a, description: d, allow: ["*", unknown]}\n')
    empty = Analysis("empty", frozenset())
    assert decide(policies, command()).action is Action.DENY
    assert decide(policies, replace(empty, reads=("public.t",))).action is Action.DENY
    assert decide(policies, empty).action is Action.ALLOW
    assert decide(load("  - {id: a, description: d, deny: [tx]}\n"), empty).action is Action.DENY


ALL = '  - {id: all, description: d, allow: ["*"]}\n'
VERBS = {
    "hold": "  - {id: h, description: d, hold: [data.delete]}\n",
    "deny": "  - {id: d, description: d, deny: [data.delete]}\n",
    "terminate": "  - {id: t, description: d, terminate: [data.delete]}\n",
}


@pytest.mark.parametrize("first", VERBS)
@pytest.mark.parametrize("second", VERBS)
def test_the_strictest_wins_whatever_the_order(load: Any, first: str, second: str) -> None:
    strictness = ["hold", "deny", "terminate"]
    expected = max(first, second, key=strictness.index)
    rules = VERBS[first] + (VERBS[second] if second != first else "") + ALL
    assert decide(load(rules), DELETE).action.label == expected
    assert decide(load(ALL, rules), DELETE).action.label == expected


def test_one_of_several_effects_is_enough_to_stop(load: Any) -> None:
    policies = load(ALL + "  - {id: d, description: d, deny: [ddl.*]}\n")
    assert decide(policies, command("data.select", "tx", "ddl.create", writes=("public.t",))).rule == "b0/d"


def test_the_denial_names_rule_effect_relation_and_message(load: Any) -> None:
    policies = load(ALL + "  - {id: d, description: d, deny: [data.delete], message: archive it instead}\n")
    answer = decide(policies, DELETE)
    assert answer.why == "rule `b0/d` denies data.delete on public.t: archive it instead"
    plain = decide(load(ALL + "  - {id: d, description: Rows stay., deny: [data.delete]}\n"), DELETE)
    assert (
        plain.why
        == "rule `b0/d` denies data.delete on public.t: Rows stay; ask the owners of the policy if you need it"
    )


class TestCoverage:
    def test_allows_cover_together(self, load: Any) -> None:
        rules = READ + "  - {id: del, description: d, allow: [data.delete]}\n"
        assert decide(load(rules), DELETE).action is Action.ALLOW
        assert (
            decide(load(READ, "  - {id: del, description: d, allow: [data.delete]}\n"), DELETE).action is Action.ALLOW
        )

    def test_an_effect_must_be_covered_on_each_of_its_relations(self, load: Any) -> None:
        policies = load("  - {id: a, description: d, allow: {effects: [data.select, tx], relations: [public.t]}}\n")
        assert decide(policies, SELECT).action is Action.ALLOW
        both = decide(policies, command("data.select", reads=("public.t", "public.u")))
        assert both.action is Action.DENY
        assert "data.select on public.u" in both.why
        assert decide(policies, command("data.select")).action is Action.ALLOW  # SELECT 1
        assert decide(policies, command("tx")).action is Action.ALLOW

    def test_reading_and_writing_are_covered_apart(self, load: Any) -> None:
        policies = load(
            "  - {id: r, description: d, allow: {effects: [data.select], relations: [public.src]}}\n"
            "  - {id: w, description: d, allow: {effects: [data.insert], relations: [public.dst]}}\n"
        )
        copy = command("data.insert", "data.select", reads=("public.src",), writes=("public.dst",))
        back = command("data.insert", "data.select", reads=("public.dst",), writes=("public.src",))
        assert decide(policies, copy).action is Action.ALLOW
        assert decide(policies, back).action is Action.DENY

    def test_a_filter_on_what_one_may_write_needs_no_other_right(self, load: Any) -> None:
        policies = load("  - {id: w, description: d, allow: {effects: [data.update], relations: [public.t]}}\n")
        assert (
            decide(policies, command("data.update", reads=("public.t",), writes=("public.t",))).action is Action.ALLOW
        )
        other = command("data.update", reads=("public.t", "public.secret"), writes=("public.t",))
        assert "data.select on public.secret" in decide(policies, other).why

    def test_a_relation_that_is_only_shown_needs_the_right_to_read(self, load: Any) -> None:
        assert decide(
            load("  - {id: s, description: d, allow: [show]}\n"), command("show", reads=("public.t",))
        ).action is (Action.DENY)
        both = load(READ + "  - {id: s, description: d, allow: [show]}\n")
        assert decide(both, command("show", reads=("public.t",))).action is Action.ALLOW

    def test_writing_what_is_no_relation_needs_an_allow_without_relations(self, load: Any) -> None:
        extension = command("ddl.create")
        limited = load('  - {id: a, description: d, allow: {effects: [ddl.*], relations: ["scratch.*"]}}\n')
        assert decide(limited, extension).action is Action.DENY
        assert decide(limited, command("ddl.create", writes=("scratch.t",))).action is Action.ALLOW
        assert decide(load("  - {id: a, description: d, allow: [ddl.*]}\n"), extension).action is Action.ALLOW

    def test_a_relation_written_by_no_known_effect_must_be_covered_too(self, load: Any) -> None:
        policies = load('  - {id: a, description: d, allow: {effects: [data.write], relations: ["public.a"]}}\n')
        assert decide(policies, command("data.write", writes=("public.a",))).action is Action.ALLOW
        assert decide(policies, command("data.write", writes=("public.b",))).action is Action.DENY

    def test_locks_and_maintenance_are_covered_on_every_relation(self, load: Any) -> None:
        policies = load(
            READ + "  - {id: a, description: d, allow: {effects: [admin.maint, admin.lock], relations: [public.t]}}\n"
        )
        assert decide(policies, command("admin.maint", reads=("public.t",))).action is Action.ALLOW
        assert decide(policies, command("admin.maint", reads=("public.u",))).action is Action.DENY
        assert decide(policies, command("admin.lock", writes=("public.u",))).action is Action.DENY

    def test_functions_are_covered_one_by_one(self, load: Any) -> None:
        policies = load(
            '  - {id: f, description: d, allow: {effects: [exec.call], functions: ["app.safe_*"]}}\n' + READ
        )
        assert decide(policies, command("exec.call", functions=("app.safe_a", "app.safe_b"))).action is Action.ALLOW
        answer = decide(policies, command("exec.call", functions=("app.safe_a", "app.drop_all")))
        assert answer.action is Action.DENY
        assert "app.drop_all" in answer.why
        assert decide(policies, command("exec.call")).action is Action.DENY  # which one? nobody says

    def test_letter_case_does_not_widen_a_grant(self, load: Any) -> None:
        policies = load("  - {id: a, description: d, allow: {effects: [data.select], relations: [public.t]}}\n")
        assert decide(policies, command("data.select", reads=("public.T",))).action is Action.DENY

    @pytest.mark.parametrize("who", ["{groups: [Analysts]}", "{subjects: [Ann]}", '{claims: {repo: ["Acme/*"]}}'])
    def test_a_hold_misses_nobody_who_is_spelt_otherwise_and_opens_nothing_to_them(self, load: Any, who: str) -> None:
        held = f"  - {{id: ask, description: d, who: {who}, hold: [data.delete]}}\n"
        allowed = load("  - {id: work, description: d, allow: [data.select, data.delete]}\n" + held)
        assert decide(allowed, DELETE).action is Action.HOLD
        assert decide(allowed, SELECT).action is Action.ALLOW
        answer = decide(load(READ + held), DELETE)
        assert (answer.action, answer.rule) == (Action.DENY, DEFAULT_RULE)
        assert "no rule allows data.delete on public.t" in answer.why
        told = session(load(READ + held)).explain(DELETE, NOON, FACTS)
        assert [one.outcome for one in told] == ["covers", "matches"]
        assert not session(load(held)).may_connect

    def test_a_hold_in_a_network_stops_who_has_no_address_and_opens_nothing_to_them(self, load: Any) -> None:
        held = '  - {id: ask, description: d, from: {networks: ["10.0.0.0/8"]}, hold: [data.delete]}\n'
        nowhere = SessionFacts("somewhere", "psql")
        allowed = load("  - {id: work, description: d, allow: [data.select, data.delete]}\n" + held)
        assert decide(allowed, DELETE, facts=nowhere).action is Action.HOLD
        assert decide(load(READ + held), DELETE).action is Action.HOLD
        assert decide(load(READ + held), DELETE, facts=nowhere).action is Action.DENY

    def test_where_limits_an_allow_for_updates_and_deletes_only(self, load: Any) -> None:
        policies = load("  - {id: a, description: d, allow: {effects: [data.select, data.delete], where: [present]}}\n")
        assert decide(policies, SELECT).action is Action.ALLOW
        assert decide(policies, DELETE).action is Action.ALLOW
        for weak in ("missing", "always_true"):
            every_row = command("data.delete", where=weak, writes=("public.t",))
            assert decide(policies, every_row).action is Action.DENY


class TestUnknown:
    UNKNOWN = command("unknown", "data.select", why="function public.f is not in the catalog")

    def test_a_star_does_not_grant_it(self, load: Any) -> None:
        answer = decide(load(ALL), self.UNKNOWN)
        assert (answer.action, answer.rule) == (Action.DENY, DEFAULT_RULE)
        assert "it cannot be proved what this command does (function public.f is not in the catalog)" in answer.why

    def test_its_own_name_does(self, load: Any) -> None:
        assert (
            decide(load(ALL + "  - {id: u, description: d, allow: [unknown]}\n"), self.UNKNOWN).action is Action.ALLOW
        )

    def test_a_star_stops_it(self, load: Any) -> None:
        rules = '  - {id: u, description: d, allow: ["*", unknown]}\n  - {id: n, description: d, deny: ["*"]}\n'
        assert decide(load(rules), command("unknown")).rule == "b0/n"

    def test_a_hold_of_everything_does_not_let_it_wait(self, load: Any) -> None:
        policies = load('  - {id: h, description: d, hold: ["*"]}\n')
        assert decide(policies, command("data.select")).action is Action.HOLD
        assert decide(policies, self.UNKNOWN).action is Action.DENY
        named = load('  - {id: h, description: d, hold: ["*", unknown]}\n')
        assert decide(named, self.UNKNOWN).action is Action.HOLD


class TestHold:
    RULES = READ + "  - {id: h, description: d, hold: [data.delete], approvers: {groups: [oncall], expires: 90s}}\n"

    def test_carries_its_terms_and_tells_the_client(self, load: Any) -> None:
        answer = decide(load(self.RULES), DELETE)
        assert (answer.action, answer.rule) == (Action.HOLD, "b0/h")
        assert answer.hold == HoldTerms(frozenset({"oncall"}), frozenset(), 1, 90.0)
        assert answer.why == (
            "rule `b0/h` holds data.delete on public.t until one approver out of group oncall agrees within 90 s: d"
        )

    def test_does_not_stand_for_what_it_does_not_name(self, load: Any) -> None:
        answer = decide(load(self.RULES), command("data.delete", "exec.call", writes=("public.t",), functions=("a.f",)))
        assert (answer.action, answer.rule) == (Action.DENY, DEFAULT_RULE)
        assert "exec.call on a.f" in answer.why

    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            ("{groups: [oncall], count: 2, expires: 1h}", HoldTerms(frozenset({"oncall"}), frozenset(), 2, 90.0)),
            ("{groups: [oncall, dba]}", HoldTerms(frozenset({"oncall"}), frozenset(), 1, 90.0)),
            ("{count: 3}", HoldTerms(frozenset({"oncall"}), frozenset(), 3, 90.0)),
            (
                "{groups: [oncall], issuers: ['https://idp']}",
                HoldTerms(frozenset({"oncall"}), frozenset(), 1, 90.0, frozenset({"https://idp"})),
            ),
        ],
    )
    def test_of_several_the_narrowest_terms_apply(self, load: Any, other: str, expected: HoldTerms) -> None:
        more = f"  - {{id: i, description: d, hold: [data.delete], approvers: {other}}}\n"
        assert decide(load(self.RULES + more), DELETE).hold == expected
        assert decide(load(more, self.RULES), DELETE).hold == expected

    def test_approvers_that_cannot_both_be_satisfied_deny(self, load: Any) -> None:
        more = "  - {id: i, description: d, hold: [data.delete], approvers: {groups: [dba]}}\n"
        answer = decide(load(self.RULES + more), DELETE)
        assert answer.action is Action.DENY
        assert "different approvers" in answer.why


class TestStops:
    @pytest.mark.parametrize(
        ("rule", "stopped", "passed"),
        [
            (
                "{relations: [public.secret]}",
                command("data.select", reads=("public.t", "public.secret")),
                SELECT,
            ),
            ("{relations: [PUBLIC.T]}", SELECT, command("data.select", reads=("public.u",))),
            (
                "{effects: [data.delete], relations: [public.t]}",
                DELETE,
                # reads t, deletes elsewhere
                command("data.delete", "data.select", reads=("public.t",), writes=("public.tmp",)),
            ),
            (
                "{effects: [exec.call], relations: [public.t]}",
                command("exec.call", "data.select", reads=("public.t",), functions=("a.f",)),
                command("exec.call", functions=("a.f",)),
            ),
            (
                # a writing effect on nothing that has a name could be about anything
                "{effects: [ddl.*], relations: [public.t]}",
                command("ddl.drop"),
                command("ddl.drop", writes=("public.u",)),
            ),
            (
                "{columns: [public.t.ssn]}",
                command("data.select", reads=("public.t",), columns=("public.t.*",)),
                command("data.select", reads=("public.t",), columns=("public.t.id",)),
            ),
            (
                # nothing is known about the columns (a view, a whole row): all of them
                "{columns: [public.t.ssn]}",
                SELECT,
                command("data.select", reads=("public.u",)),
            ),
            (
                "{functions: ['*.drop_*']}",
                command("exec.call", functions=("app.drop_all",)),
                command("exec.call", functions=("app.keep",)),
            ),
            (
                "{where: [missing, always_true]}",
                command("data.delete", where="always_true", writes=("public.t",)),
                DELETE,
            ),
            ("{effects: [probe]}", command("data.select", "probe"), SELECT),
        ],
    )
    def test_matches_any_of_what_it_names(self, load: Any, rule: str, stopped: Analysis, passed: Analysis) -> None:
        policies = load(ALL + f"  - {{id: d, description: d, deny: {rule}}}\n")
        assert decide(policies, stopped).rule == "b0/d"
        assert decide(policies, passed).action is Action.ALLOW

    def test_unless_is_break_glass(self, load: Any) -> None:
        policies = load(ALL + "  - {id: d, description: d, deny: [ddl.*], unless: {who: {groups: [rescue]}}}\n")
        drop = command("ddl.drop", writes=("public.t",))
        rescuer = Principal("bob", "https://idp", frozenset({"rescue"}))
        assert session(policies).decide(drop, now=NOON, facts=FACTS).action is Action.DENY
        assert session(policies, rescuer).decide(drop, now=NOON, facts=FACTS).action is Action.ALLOW

    def test_alerts_accumulate_and_decide_nothing(self, load: Any) -> None:
        policies = load(
            READ
            + "  - {id: a, description: d, alert: [data.*]}\n"
            + "  - {id: b, description: d, alert: {relations: [public.t]}}\n"
            + "  - {id: c, description: d, deny: [data.delete], and_alert: true}\n"
            + "  - {id: e, description: d, alert: [ddl.*]}\n"
        )
        assert decide(policies, SELECT).alerts == ("b0/a", "b0/b")
        assert decide(policies, SELECT).action is Action.ALLOW
        assert decide(policies, DELETE).alerts == ("b0/a", "b0/b", "b0/c")


class TestWho:
    @pytest.mark.parametrize(
        ("who", "answer"),
        [
            ("subjects: [ann]", True),
            ("subjects: ['a*', bob]", True),
            ("subjects: [an]", False),
            ("groups: ['anal*']", True),
            ("groups: [x]", False),
            ("issuers: ['https://idp']", True),
            ("issuers: ['https://other']", False),
            ("claims: {repo: ['acme/*']}", True),
            ("claims: {roles: [b]}", True),
            ("claims: {mfa: ['true']}", True),
            ("claims: {repo: [other]}", False),
            ("claims: {missing: ['*']}", False),
            ("subjects: [ann], groups: [x]", False),
        ],
    )
    def test_all_that_is_named_must_fit(self, load: Any, who: str, answer: bool) -> None:
        policies = load(f"  - {{id: a, description: d, who: {{{who}}}, allow: [tx]}}\n")
        assert (decide(policies, command("tx")).action is Action.ALLOW) is answer
        assert session(policies).may_connect is answer

    @pytest.mark.parametrize(
        ("resource", "answer"),
        [
            ("names: [shop]", True),
            ("names: [other]", False),
            ("labels: {env: 'pr*'}", True),
            ("labels: {team: '*'}", False),
            ("protocols: [postgres], databases: [shop]", True),
            ("databases: [postgres]", False),
        ],
    )
    def test_resources(self, load: Any, resource: str, answer: bool) -> None:
        policies = load(f"  - {{id: a, description: d, resource: {{{resource}}}, allow: [tx]}}\n")
        assert (decide(policies, command("tx")).action is Action.ALLOW) is answer

    @pytest.mark.parametrize(
        ("address", "inside"),
        [
            ("10.1.2.3", True),
            ("10.1.2.3:5555", True),
            ("::ffff:10.1.2.3", True),
            ("[::ffff:10.1.2.3]:99", True),
            ("10.2.0.1", False),
            ("::1", False),
            ("fe80::1%eth0", False),
        ],
    )
    def test_networks(self, load: Any, address: str, inside: bool) -> None:
        policies = load("  - {id: a, description: d, from: {networks: [10.1.0.0/16]}, allow: [tx]}\n")
        facts = SessionFacts(address)
        assert (decide(policies, command("tx"), facts=facts).action is Action.ALLOW) is inside

    def test_an_address_that_is_none_helps_nobody(self, load: Any) -> None:
        facts = SessionFacts("unix socket")
        allow = load("  - {id: a, description: d, from: {networks: [0.0.0.0/0]}, allow: [tx]}\n")
        deny = load(ALL + "  - {id: a, description: d, from: {networks: [10.0.0.0/8]}, deny: [tx]}\n")
        spare = load(ALL + "  - {id: a, description: d, deny: [tx], unless: {from: {networks: [0.0.0.0/0]}}}\n")
        for policies in (allow, deny, spare):
            assert decide(policies, command("tx"), facts=facts).action is Action.DENY


class TestTime:
    NIGHT = '  - {id: n, description: d, deny: [tx], when: {hours: ["20:00-06:00"]}}\n'

    def test_a_rule_sleeps_outside_its_hours_and_says_until_when(self, load: Any) -> None:
        policies = load(READ + self.NIGHT)
        day = session(policies)
        answer = day.decide(command("tx"), now=NOON, facts=FACTS)
        assert answer.action is Action.ALLOW
        assert NOON < answer.valid_until <= NOON + 900
        late = NOON + 8 * 3600
        before = day.decide(command("tx"), now=late - 1, facts=FACTS)
        assert (before.action, before.valid_until) == (Action.ALLOW, late)
        assert day.decide(command("tx"), now=late, facts=FACTS).action is Action.DENY
        assert day.decide(command("tx"), now=NOON, facts=FACTS).action is Action.ALLOW  # a clock may go back

    def test_an_exemption_may_depend_on_time(self, load: Any) -> None:
        policies = load(READ + '  - {id: n, description: d, deny: [tx], unless: {when: {hours: ["12:00-13:00"]}}}\n')
        assert decide(policies, command("tx"), NOON).action is Action.ALLOW
        assert decide(policies, command("tx"), NOON - 1).action is Action.DENY

    def test_an_allow_out_of_hours_denies_for_a_limited_time(self, load: Any) -> None:
        policies = load("  - {id: n, description: d, allow: [tx], when: {days: [tue]}}\n")
        answer = decide(policies, command("tx"))
        assert (answer.action, answer.rule) == (Action.DENY, DEFAULT_RULE)
        assert answer.valid_until < float("inf")

    def test_the_application_is_asked_each_time(self, load: Any) -> None:
        policies = load(READ + "  - {id: n, description: d, deny: [tx], from: {applications: ['pg_*']}}\n")
        live = session(policies)
        for application, action in (("psql", Action.ALLOW), ("pg_dump", Action.DENY), ("psql", Action.ALLOW)):
            facts = SessionFacts("10.0.0.1", application)
            assert live.decide(command("tx"), now=NOON, facts=facts).action is action


class TestMasks:
    MASK = (
        "  - {id: m, description: d, who: {groups: [analysts]}, "
        "mask: {columns: ['*.ssn'], strategy: partial, keep_last: 4}}\n"
    )

    def test_become_rules_for_the_masker(self, load: Any) -> None:
        (mask,) = session(load(READ + self.MASK)).masks
        assert (mask.rule, mask.columns, mask.strategy, mask.unknown_origin) == (
            "b0/m",
            ("*.ssn",),
            "partial",
            "withhold",
        )
        assert mask.options == {"keep_last": 4}

    def test_are_not_for_others(self, load: Any) -> None:
        assert session(load(READ + self.MASK), Principal("bob", "https://idp")).masks == ()

    @pytest.mark.parametrize("predicate", ["public.u.ssn", "public.U.SSN", "public.u.*"])
    def test_attack_26_a_filter_on_a_masked_column_is_a_probe(self, load: Any, predicate: str) -> None:
        ask = command("data.select", reads=("public.u",), predicates=("public.u.id", predicate))
        policies = load(READ + self.MASK)
        assert "probe" in decide(policies, ask).why
        allowed = load(READ + self.MASK + "  - {id: p, description: d, allow: [probe]}\n")
        assert decide(allowed, ask).action is Action.ALLOW
        plain = load(READ)
        assert decide(plain, ask).action is Action.ALLOW

    def test_another_column_is_none(self, load: Any) -> None:
        ask = command("data.select", reads=("public.u",), predicates=("public.u.id",))
        assert decide(load(READ + self.MASK), ask).action is Action.ALLOW


class TestMayConnect:
    def test_where_nothing_could_be_allowed_nobody_connects(self, load: Any) -> None:
        assert not session(load("  - {id: d, description: d, deny: [tx]}\n")).may_connect
        assert not session(load("  - {id: a, description: d, alert: [tx]}\n")).may_connect
        assert session(load("  - {id: h, description: d, hold: [tx]}\n")).may_connect
        assert session(load("  - {id: n, description: d, allow: [tx], when: {days: [sun]}}\n")).may_connect

    def test_a_rule_that_stops_everything_stops_the_connection(self, load: Any) -> None:
        assert not session(load(READ + '  - {id: d, description: d, deny: ["*"]}\n')).may_connect
        assert session(load(READ + '  - {id: d, description: d, deny: ["*"], when: {days: [sun]}}\n')).may_connect
        assert session(load(READ + "  - {id: d, description: d, deny: {relations: [a.b]}}\n")).may_connect


def test_an_exemption_ends_with_its_hour_for_a_session_that_lives_on(load: Any) -> None:
    hours = 'when: {hours: ["08:00-12:30"], timezone: UTC}'
    rules = READ + f"  - {{id: never, description: d, deny: [data.select], unless: {{{hours}}}}}\n"
    here = session(load(rules))
    answer = here.decide(SELECT, now=NOON, facts=FACTS)
    assert (answer.action, answer.valid_until <= NOON + 1800) == (Action.ALLOW, True)
    assert here.decide(SELECT, now=NOON + 1799, facts=FACTS).action is Action.ALLOW
    assert here.decide(SELECT, now=NOON + 1800, facts=FACTS).action is Action.DENY


def test_what_is_written_without_naming_columns_is_written_in_all_of_them(load: Any) -> None:
    rules = "  - {id: w, description: d, allow: [data.insert]}\n"
    rules += '  - {id: no, description: d, deny: {effects: [data.insert], columns: ["*.ssn"]}}\n'
    insert = command("data.insert", writes=("public.users",))
    assert decide(load(rules), insert).action is Action.DENY
    named = replace(insert, columns=("public.users.name",))
    assert decide(load(rules), named).action is Action.ALLOW


def test_a_filter_on_a_column_that_is_only_watched_is_no_probe(load: Any) -> None:
    for strategy, probes in (("watch", False), ("redact", True)):
        mask = f'  - {{id: m, description: d, mask: {{columns: ["*.ssn"], strategy: {strategy}}}}}\n'
        filtered = replace(SELECT, predicates=("public.t.ssn",))
        assert (Effect.PROBE in session(load(READ + mask)).effects(filtered)) is probes


def test_holds_for_other_people_of_one_group_are_refused(load: Any) -> None:
    rules = READ + "".join(
        f"  - {{id: h{n}, description: d, hold: [data.delete], approvers: {{groups: [oncall], subjects: [{who}]}}}}\n"
        for n, who in enumerate(("ann", "bob"))
    )
    answer = decide(load(rules), DELETE)
    assert (answer.action, "different approvers" in answer.why) == (Action.DENY, True)


@pytest.mark.parametrize("verb", ["deny", "terminate"])
def test_who_is_stopped_in_everything_may_not_connect(load: Any, verb: str) -> None:
    assert not session(load(READ + f'  - {{id: out, description: d, {verb}: ["*"]}}\n')).may_connect
    spared = f'  - {{id: out, description: d, {verb}: ["*"], unless: {{when: {{days: [sun]}}}}}}\n'
    assert session(load(READ + spared)).may_connect


def test_a_hold_that_names_no_effects_covers_nothing_that_is_unknown(load: Any) -> None:
    policies = load('  - {id: h, description: d, hold: {relations: ["public.*"]}}\n')
    assert decide(policies, SELECT).action is Action.HOLD
    assert decide(policies, command("unknown", "data.select", reads=("public.t",))).action is Action.DENY


def test_an_exemption_on_one_resource_spares_nobody_on_another(load: Any) -> None:
    for name, action in (("shop", Action.ALLOW), ("billing", Action.DENY)):
        rules = (
            READ + f"  - {{id: no, description: d, deny: [data.select], unless: {{resource: {{names: [{name}]}}}}}}\n"
        )
        assert decide(load(rules), SELECT).action is action
