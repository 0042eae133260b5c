"""What a policy bundle may say. The reference in docs/ is generated from these models and their descriptions.

A rule reads aloud: its verb (`allow`, `deny`, ...) with what the command does, then who, on which resource, when, from
where.
Within one part all conditions must hold; within one list any item is enough. A part left out matches everything.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

from guard.documents.values import not_empty
from guard.enforce.patterns import check_column, check_glob, check_relation, expand_effects
from guard.enforce.requests import HttpMatch, KubernetesMatch
from guard.enforce.schedule import parse_days, parse_hours, parse_zone

VERBS = ("allow", "deny", "hold", "terminate", "alert", "mask")
MAX_RULES = 10_000
MASK_OPTIONS = {
    "keep_first": ("partial",),
    "keep_last": ("partial",),
    "text": ("redact",),
    "domain": ("hash", "tokenise"),
    "length": ("hash",),
    "precision": ("date",),
}
_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h)\Z")


def _id(value: str) -> str:
    if not _ID.match(value):
        raise ValueError("expected lower case letters, digits, `-`, `_` and `.`, at most 64")
    return value


def _sentence(value: str) -> str:
    text = " ".join(value.split())
    if not text or not text.isprintable() or len(text) > 1000:
        raise ValueError("expected a sentence of at most 1000 printable characters")
    return text


def _effect(value: str) -> str:
    expand_effects(value)
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("expected a network such as 10.1.0.0/16 or 2001:db8::/32, host bits zero") from None
    return value


def _day(value: str) -> str:
    parse_days(value)
    return value


def _hours(value: str) -> str:
    parse_hours(value)
    return value


def _zone(value: str) -> str:
    parse_zone(value)
    return value


def _duration(value: str) -> str:
    if not _DURATION.match(value):
        raise ValueError("expected a duration such as 90s, 10m or 2h")
    return value


def seconds(duration: str) -> float:
    """`90s`, `10m`, `2h` -> seconds."""
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


Id = Annotated[str, AfterValidator(_id)]
Sentence = Annotated[str, AfterValidator(_sentence)]
EffectPattern = Annotated[str, AfterValidator(_effect)]
Glob = Annotated[str, AfterValidator(check_glob)]


def check_field(path: str) -> str:
    """`items[].card`: what is in an array has `[]` in its path, which is no set of characters."""
    check_glob(path.replace("[]", ""))
    return path


FieldPath = Annotated[str, AfterValidator(check_field)]
RelationGlob = Annotated[str, AfterValidator(check_relation)]
ColumnGlob = Annotated[str, AfterValidator(check_column)]
Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]


class Model(BaseModel):
    """Immutable, and closed: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(Model):
    """A part of a rule; an empty one is a mistake: it would match everything and look as if it matched something."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("empty: name at least one condition, or leave this part out")
        return self


class Who(Part):
    """Which identities."""

    subjects: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="subject is any of these patterns"
    )
    groups: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="is in any group that fits"
    )
    issuers: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="the token's issuer is any of these"
    )
    claims: Annotated[dict[str, tuple[Glob, ...]], AfterValidator(not_empty)] = Field(
        default={},
        description="attribute -> patterns: for every attribute named, its value (or one item of it) fits one pattern; "
        "an identity without the attribute does not match",
    )


class On(Part):
    """Which resources."""

    names: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(default=(), description="the resource's name")
    labels: Annotated[dict[str, Glob], AfterValidator(not_empty)] = Field(
        default={}, description="every label named has a value that fits"
    )
    protocols: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(default=(), description="`postgres`, ...")
    databases: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="the database that the client asked for"
    )


class When(Part):
    """At which times."""

    days: Annotated[tuple[Annotated[str, AfterValidator(_day)], ...], AfterValidator(not_empty)] = Field(
        default=(), description="`mon` ... `sun`, or ranges: `mon-fri`"
    )
    hours: Annotated[tuple[Annotated[str, AfterValidator(_hours)], ...], AfterValidator(not_empty)] = Field(
        default=(), description='`"08:00-18:00"`; the end is excluded; `"22:00-06:00"` goes over midnight'
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(default="UTC", description="IANA name: `Europe/Berlin`")


class From(Part):
    """From where. An application's name is what the client says: good for routine, not for security."""

    networks: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], AfterValidator(not_empty)] = Field(
        default=(), description="the client's address is in any of these networks"
    )
    applications: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="the application name that the client gave"
    )


class Unless(Part):
    """When the rule steps aside: all that is named here must hold. This is how break-glass is written."""

    who: Who | None = Field(default=None, description="identities that the rule spares")
    resource: On | None = Field(default=None, description="resources that the rule spares")
    when: When | None = Field(default=None, description="times at which the rule is off")
    origin: From | None = Field(default=None, alias="from", description="places that the rule spares")


class Match(Part):
    """What a command does. A list of effects may stand in its place: `allow: [data.select, tx]`."""

    effects: Annotated[tuple[EffectPattern, ...], AfterValidator(not_empty)] = Field(
        default=(),
        description="effects, families (`ddl.*`) or `*`. In an `allow`, `*` does not cover `unknown`: name it",
    )
    relations: Annotated[tuple[RelationGlob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="`schema.name` patterns of what the effects apply to"
    )
    columns: Annotated[tuple[ColumnGlob, ...], AfterValidator(not_empty)] = Field(
        default=(),
        description="`schema.table.column` patterns of columns that the text names; not in an `allow`",
    )
    functions: Annotated[tuple[RelationGlob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="`schema.name` patterns of functions that are called"
    )
    where: Annotated[tuple[Literal["missing", "always_true", "present"], ...], AfterValidator(not_empty)] = Field(
        default=(), description="the filter of an UPDATE or DELETE; commands without one are not affected"
    )
    http: HttpMatch | None = Field(default=None, description="what an HTTP request is about")
    kubernetes: KubernetesMatch | None = Field(default=None, description="what a Kubernetes request is about")

    def facts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Conditions on the analysis's facts: (dotted name, patterns)."""
        parts = [part.facts() for part in (self.http, self.kubernetes) if part is not None]
        return tuple(fact for part in parts for fact in part)


class Mask(Model):
    """Which columns are masked, and how. Masks hold for a whole session."""

    columns: Annotated[tuple[ColumnGlob, ...], AfterValidator(not_empty)] = Field(
        default=(), description="`schema.table.column` patterns"
    )
    names: tuple[Glob, ...] = Field(
        default=(), description="patterns on the result column's name, for columns without known origin"
    )
    fields: Annotated[tuple[FieldPath, ...], AfterValidator(not_empty)] = Field(
        default=(),
        description="HTTP: patterns on a field's path in JSON, form and CSV: `user.email`, `items[].card`, `*.ssn`",
    )
    detect: Annotated[tuple[Glob, ...], AfterValidator(not_empty)] = Field(
        default=(),
        description="HTTP: what is masked wherever it is found in an answer: `credential`, `personal`, or one detector",
    )
    http: HttpMatch | None = Field(
        default=None, description="with `fields` and `detect`: the answers to these requests; left out: to all"
    )
    strategy: Literal["redact", "null", "partial", "hash", "tokenise", "date", "watch"] = Field(
        default="redact",
        description="`redact`: a fixed text; `null`; `partial`: keeps the ends; `hash`: keyed; `tokenise`: keyed, "
        "same value same token, format kept; `date`: truncated; `watch`: shown as it is, and remembered: an "
        "HTTP request of the same identity that holds the value has the effect `exfil.masked`",
    )
    keep_first: Annotated[Whole, Field(ge=0, le=1000)] | None = Field(
        default=None, description="`partial`: characters kept at the start"
    )
    keep_last: Annotated[Whole, Field(ge=0, le=1000)] | None = Field(
        default=None, description="`partial`: characters kept at the end"
    )
    text: Annotated[str, AfterValidator(_sentence)] | None = Field(
        default=None, description="`redact`: what stands in the value's place; left out: `[masked]`"
    )
    domain: Id | None = Field(
        default=None,
        description="`hash`, `tokenise`: columns of one domain give equal values equal tokens; left out: each column "
        "is its own",
    )
    length: Annotated[Whole, Field(ge=8, le=64)] | None = Field(
        default=None, description="`hash`: hexadecimal digits kept"
    )
    precision: Literal["year", "month", "day"] | None = Field(default=None, description="`date`: what is kept")
    unknown_origin: Literal["withhold", "pass"] = Field(
        default="withhold",
        description="what happens to computed columns of unknown sources in a statement that reads a masked table",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not (self.columns or self.names or self.fields or self.detect):
            raise ValueError("name what is masked: `columns`, `names`, `fields` or `detect`")
        if self.http is not None and not (self.fields or self.detect):
            raise ValueError("`http` narrows `fields` and `detect`; there are none")
        for option, strategies in MASK_OPTIONS.items():
            if getattr(self, option) is not None and self.strategy not in strategies:
                raise ValueError(
                    f"`{option}` means nothing with `strategy: {self.strategy}`, only with {' or '.join(strategies)}"
                )
        if self.strategy == "partial" and self.keep_first is None and self.keep_last is None:
            raise ValueError("`partial` needs `keep_first`, `keep_last` or both")
        if self.strategy == "date" and self.precision is None:
            raise ValueError("`date` needs `precision`: year, month or day")
        return self

    def options(self) -> dict[str, Any]:
        """The strategy's options that are given."""
        return {name: getattr(self, name) for name in MASK_OPTIONS if getattr(self, name) is not None}


class Approvers(Model):
    """Who may release a held command, of those with the role `approver`. Neither groups nor subjects: all of them."""

    groups: tuple[str, ...] = Field(default=(), description="members of any of these groups (exact names)")
    subjects: tuple[str, ...] = Field(default=(), description="exactly these subjects")
    issuers: tuple[str, ...] = Field(default=(), description="of exactly these issuers only; left out: of any")
    count: Annotated[Whole, Field(ge=1, le=10)] = Field(default=1, description="how many different people must approve")
    expires: Annotated[str, AfterValidator(_duration)] = Field(
        default="10m", description="how long the command waits (`90s`, `10m`, `2h`); then it is denied"
    )


class RuleModel(Model):
    """One rule: exactly one verb, and whom, what, when and where it is about."""

    id: Id = Field(description="unique in the bundle; records and errors name the rule `bundle/id`")
    description: Sentence = Field(description="one sentence for people: what and why")
    allow: Match | None = Field(
        default=None, description="let pass. All allows together must cover everything that a command does"
    )
    deny: Match | None = Field(default=None, description="refuse, with an ordinary error; the connection lives")
    hold: Match | None = Field(default=None, description="wait for approval; approved, it counts as allowed")
    terminate: Match | None = Field(default=None, description="refuse, and end the session")
    alert: Match | None = Field(default=None, description="raise an alert; decides nothing")
    mask: Mask | None = Field(default=None, description="mask columns of results")
    who: Who | None = Field(default=None, description="identities; left out: everybody")
    resource: On | None = Field(default=None, description="resources; left out: all")
    when: When | None = Field(default=None, description="times; left out: always. Not with `mask`")
    origin: From | None = Field(default=None, alias="from", description="where the client is; left out: anywhere")
    unless: Unless | None = Field(default=None, description="when the rule steps aside. Not with `allow`")
    approvers: Approvers | None = Field(default=None, description="with `hold`: who releases it")
    message: Sentence | None = Field(default=None, description="what the client is told: what to do instead")
    and_alert: Flag = Field(default=False, description="raise an alert, too, whenever this rule matches")

    @property
    def verb(self) -> str:
        """The one verb that is given."""
        return next(verb for verb in VERBS if getattr(self, verb) is not None)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        given = [verb for verb in VERBS if getattr(self, verb) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"a rule has exactly one of {', '.join(VERBS)}; this one has {found}")
        verb = given[0]
        if self.approvers is not None and verb != "hold":
            raise ValueError("`approvers` belongs to `hold` only")
        if self.unless is not None and verb == "allow":
            raise ValueError("`unless` is for rules that stop, alert or mask; narrow an `allow` by what it matches")
        if self.message is not None and verb in ("allow", "alert", "mask"):
            raise ValueError(f"`message` is told when a command is stopped; `{verb}` stops nothing")
        if self.allow is not None:
            _check_allow(self.allow)
        if verb == "mask":
            self._check_mask()
        return self

    def _check_mask(self) -> None:
        origins = [self.origin, self.unless.origin if self.unless else None]
        if self.when is not None or (self.unless is not None and self.unless.when is not None):
            raise ValueError("a mask holds for a whole session: `when` cannot be used with `mask`")
        if any(origin is not None and origin.applications for origin in origins):
            raise ValueError("a client chooses its application name: it cannot decide about a mask")
        if self.and_alert:
            raise ValueError("`and_alert` is for rules that match commands; write an `alert` rule")


def _check_allow(allow: Match) -> None:
    if not allow.effects:
        raise ValueError('an `allow` names its `effects`; write ["*"] for all but `unknown`')
    if allow.columns:
        raise ValueError(
            "an `allow` cannot be limited to columns: a text reads more than it names; use `mask` or `deny`"
        )
    if allow.http is not None and allow.http.about_answers:
        raise ValueError("`statuses` and `response_types` are known too late for an `allow`: write a `deny`")
    if allow.functions and not all(pattern.startswith("exec.") for pattern in allow.effects):
        raise ValueError("`functions` limits exec.* effects only: put the other effects into a rule of their own")


class Bundle(Model):
    """A policy bundle: one file."""

    version: Literal[1] = Field(description="version of this format")
    name: Id = Field(description="unique among the bundles of a gateway")
    description: Sentence = Field(description="for people: who should use it, and what it does")
    rules: tuple[RuleModel, ...] = Field(max_length=MAX_RULES, description="in any order")
