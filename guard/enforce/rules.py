"""A rule in the form that matching needs, and the question whether it concerns a session at all.

What cannot change during a session (identity, resource, address) is asked once, when the session begins. What can
(time, the application's name) stays in the rule.

INVARIANT: a condition that cannot be evaluated makes an allow not match, a stopping rule match, and spares nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from guard.enforce.patterns import expand_effects, is_literal, matches
from guard.enforce.schedule import Schedule, parse_days, parse_hours, parse_zone
from guard.enforce.schema import From, Match, On, RuleModel, When, Who, seconds
from protocols.contract import Effect, HoldTerms, MaskRule, Principal, Resource, SessionFacts, Where

GRANTS = frozenset({"allow", "hold"})
_EVERYTHING = frozenset(Effect)


@dataclass(frozen=True, slots=True)
class Condition:
    """What may change while a session lives. Empty: always true."""

    schedule: Schedule | None = None
    applications: tuple[str, ...] = ()

    def holds(self, now: float, facts: SessionFacts) -> bool:
        """Whether it is true now."""
        return (self.schedule is None or self.schedule.active(now)) and (
            not self.applications or _any(self.applications, facts.application)
        )

    def unchanged_until(self, now: float) -> float:
        """Until when time alone cannot change the answer."""
        return float("inf") if self.schedule is None else self.schedule.unchanged_until(now)

    def __bool__(self) -> bool:
        return self.schedule is not None or bool(self.applications)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule of one bundle. `name` is `bundle/id`."""

    name: str
    verb: str
    description: str
    message: str
    model: RuleModel
    stops: frozenset[Effect]  # effects that a stop or an alert matches; everything where the rule names none
    grants: frozenset[Effect]  # effects that an allow or a hold covers: `unknown` only where it is named
    relations: tuple[str, ...]
    columns: tuple[str, ...]
    functions: tuple[str, ...]
    where: frozenset[Where]
    condition: Condition
    alert: bool
    hold: HoldTerms | None = None
    mask: MaskRule | None = None
    facts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # patterns on the analysis's facts; all must hold

    def concerns(self, principal: Principal, resource: Resource, facts: SessionFacts) -> str:
        """Why the rule has nothing to do with this session; empty where it has."""
        model = self.model
        if model.who is not None and not who_matches(model.who, principal, exactly=self.verb == "allow"):
            return "about other identities"
        if model.resource is not None and not resource_matches(model.resource, resource):
            return "about other resources"
        if model.origin is not None and not address_matches(model.origin, facts, unclear=self.verb != "allow"):
            return "about other networks"
        if self._spares_always(principal, resource, facts):
            return "this session is exempt (`unless`)"
        return ""

    def only_stops(self, principal: Principal, facts: SessionFacts) -> bool:
        """Whether a hold that concerns this session is there to stop alone: as a stop it reaches whoever is spelt in
        another way, or has no address; what it names is then for other rules to allow."""
        who, origin = self.model.who, self.model.origin
        return self.verb == "hold" and (
            (who is not None and not who_matches(who, principal))
            or (origin is not None and not address_matches(origin, facts, unclear=False))
        )

    def exemption(self, principal: Principal, resource: Resource, facts: SessionFacts) -> Condition | None:
        """The changing part of `unless`, where its fixed part is true for this session; else None."""
        unless = self.model.unless
        if unless is None:
            return None
        if unless.who is not None and not who_matches(unless.who, principal):
            return None
        if unless.resource is not None and not resource_matches(unless.resource, resource):
            return None
        if unless.origin is not None and not address_matches(unless.origin, facts, unclear=False):
            return None
        return _condition(unless.when, unless.origin)

    def _spares_always(self, principal: Principal, resource: Resource, facts: SessionFacts) -> bool:
        exemption = self.exemption(principal, resource, facts)
        return exemption is not None and not exemption


def compile_rule(bundle: str, model: RuleModel) -> Rule:
    """A validated rule in its matching form."""
    verb = model.verb
    match: Match = getattr(model, verb) if verb != "mask" else Match.model_construct()
    named = frozenset(effect for pattern in match.effects for effect in expand_effects(pattern))
    return Rule(
        name=f"{bundle}/{model.id}",
        verb=verb,
        description=model.description,
        message=model.message or "",
        model=model,
        stops=_EVERYTHING if not match.effects or "*" in match.effects else named,
        grants=named if match.effects else _EVERYTHING - {Effect.UNKNOWN},
        relations=match.relations,
        columns=match.columns,
        functions=match.functions,
        where=frozenset(Where(word) for word in match.where),
        condition=_condition(model.when, model.origin),
        alert=verb == "alert" or model.and_alert,
        hold=_terms(model) if verb == "hold" else None,
        mask=_mask(f"{bundle}/{model.id}", model) if verb == "mask" else None,
        facts=match.facts() if verb != "mask" else (),
    )


def named_resources(rule: Rule) -> Iterable[str]:
    """Resource names that the rule spells out, so that a misspelled one can be pointed at."""
    parts = [rule.model.resource, rule.model.unless.resource if rule.model.unless else None]
    return [name for part in parts if part is not None for name in part.names if is_literal(name)]


def who_matches(who: Who, principal: Principal, *, exactly: bool = True) -> bool:
    """Whether the identity fits all that is named. `exactly`: letter case counts, as it must where a rule grants or
    spares; a rule that stops or masks must not miss somebody who is spelt in another way."""
    fits = _any if exactly else _any_spelling
    return (
        (not who.subjects or fits(who.subjects, principal.subject))
        and (not who.groups or any(fits(who.groups, group) for group in principal.groups))
        and (not who.issuers or _any(who.issuers, principal.issuer))
        and all(_claim(principal.attributes, name, patterns, fits) for name, patterns in who.claims.items())
    )


def resource_matches(on: On, resource: Resource) -> bool:
    """Whether the resource fits all that is named."""
    return (
        (not on.names or _any(on.names, resource.name))
        and all(
            name in resource.labels and matches(pattern, resource.labels[name]) for name, pattern in on.labels.items()
        )
        and (not on.protocols or _any(on.protocols, resource.protocol))
        and (not on.databases or _any(on.databases, resource.database))
    )


def address_matches(origin: From, facts: SessionFacts, *, unclear: bool) -> bool:
    """Whether the client's address is in one of the networks; `unclear` is the answer for what is no address."""
    if not origin.networks:
        return True
    address = parse_address(facts.client_address)
    if address is None:
        return unclear
    networks = [ipaddress.ip_network(text) for text in origin.networks]
    return any(address in network for network in networks if network.version == address.version)


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """`10.0.0.1`, `10.0.0.1:5432`, `[::1]:5432`, `::ffff:10.0.0.1`, `fe80::1%eth0` -> an address, or None."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    # a dual-stack listener reports IPv4 clients in this form: a rule on their network must still see them
    return getattr(address, "ipv4_mapped", None) or address


def _any(patterns: Iterable[str], text: str) -> bool:
    return any(matches(pattern, text) for pattern in patterns)


def _any_spelling(patterns: Iterable[str], text: str) -> bool:
    return _any((pattern.casefold() for pattern in patterns), text.casefold())


def _claim(
    attributes: Mapping[str, Any], name: str, patterns: tuple[str, ...], fits: Callable[[Iterable[str], str], bool]
) -> bool:
    value = attributes.get(name)
    items = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return any(fits(patterns, _text(item)) for item in items if item is not None)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _condition(when: When | None, origin: From | None) -> Condition:
    schedule = None
    if when is not None and (when.days or when.hours):
        days = frozenset(day for text in when.days for day in parse_days(text))
        schedule = Schedule(days, tuple(parse_hours(text) for text in when.hours), parse_zone(when.timezone))
    return Condition(schedule, origin.applications if origin is not None else ())


def _terms(model: RuleModel) -> HoldTerms:
    approvers = model.approvers
    if approvers is None:
        return HoldTerms()
    return HoldTerms(
        frozenset(approvers.groups),
        frozenset(approvers.subjects),
        approvers.count,
        seconds(approvers.expires),
        frozenset(approvers.issuers),
    )


def _mask(name: str, model: RuleModel) -> MaskRule:
    assert model.mask is not None
    mask = model.mask
    facts = mask.http.facts() if mask.http is not None else ()
    return MaskRule(
        name,
        mask.columns,
        mask.names,
        mask.strategy,
        mask.options(),
        mask.unknown_origin,
        mask.fields,
        mask.detect,
        facts,
    )
