"""Tests of policies: `NAME.tests.yaml` beside `NAME.yaml` says what the bundle must answer.

A command is given as text, which the caller's `analyse` turns into an Analysis, or directly as effects and relations.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from guard.documents import ConfigError, Document, Problem, read, validate
from guard.documents.values import not_empty
from guard.enforce.patterns import touches
from guard.enforce.policyset import PolicySet
from guard.enforce.schema import EffectPattern, Id, Model, Sentence
from guard.enforce.session import SessionPolicy
from protocols.contract import (
    HTTP_PROTOCOLS,
    Analysis,
    Effect,
    Principal,
    ProtocolName,
    Resource,
    SessionFacts,
    Store,
    Where,
)

type Analyse = Callable[[str, str], Analysis]  # (protocol, text) -> what it does; ValueError: not possible
# the same of a request over HTTP, of which only what the rules ask about is read: (policy, text, facts, now)
type AnalyseRequest = Callable[[SessionPolicy, str, SessionFacts, float], Analysis]
SUFFIX = ".tests.yaml"


def _instant(value: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("expected a time such as 2026-03-02T10:00:00+01:00") from None
    if moment.tzinfo is None:
        raise ValueError("a time here needs its offset: 2026-03-02T10:00:00+01:00, or Z for UTC")
    return value


class IdentityModel(Model):
    """An identity as a token would give it."""

    subject: str = Field(description="who it is")
    issuer: str = Field(default="https://issuer.test", description="who says so")
    groups: tuple[str, ...] = Field(default=(), description="its groups")
    claims: dict[str, str | bool | int | tuple[str, ...]] = Field(default={}, description="its attributes")

    def principal(self) -> Principal:
        """The value that rules see."""
        return Principal(self.subject, self.issuer, frozenset(self.groups), dict(self.claims))


class ResourceModel(Model):
    """A resource as a configuration would give it."""

    protocol: ProtocolName = Field(default="postgres", description="its protocol")
    labels: dict[str, str] = Field(default={}, description="its labels")
    database: str = Field(default="", description="the database asked for")


class StoreModel(Model):
    """Values that a command puts somewhere."""

    to: str = Field(
        description="the column that gets them, `schema.table.column`; `*` for a place without columns, such as a file"
    )
    of: tuple[str, ...] = Field(description="the columns that they are made of")
    copied: bool = Field(default=False, description="whether they arrive as they were, so that a mask still fits them")


class AnalysisModel(Model):
    """What a command does, where no text is given."""

    effects: Annotated[tuple[EffectPattern, ...], AfterValidator(not_empty)] = Field(description="effects, exactly")
    reads: tuple[str, ...] = Field(default=(), description="relations read")
    writes: tuple[str, ...] = Field(default=(), description="relations written")
    columns: tuple[str, ...] = Field(default=(), description="columns named")
    predicates: tuple[str, ...] = Field(default=(), description="columns that a filter depends on")
    functions: tuple[str, ...] = Field(default=(), description="functions called")
    stores: tuple[StoreModel, ...] = Field(default=(), description="where values of columns go, beside the answer")
    where: Literal["none", "present", "always_true", "missing"] = Field(default="none", description="the filter")
    facts: dict[str, tuple[str, ...]] = Field(
        default={},
        description="of an HTTP or Kubernetes request: what it is known by (host, path, namespace, ...) and all values",
    )

    @model_validator(mode="after")
    def _literal(self) -> Self:
        for pattern in self.effects:
            if "*" in pattern:
                raise ValueError("a command has single effects: write them out")
        return self

    def analysis(self) -> Analysis:
        """The value that rules see."""
        return Analysis(
            kind="given",
            effects=frozenset(Effect(name) for name in self.effects),
            reads=self.reads,
            writes=self.writes,
            columns=self.columns,
            predicates=self.predicates,
            functions=self.functions,
            stores=tuple(Store(one.to, one.of, one.copied) for one in self.stores),
            where=Where(self.where),
            facts=dict(self.facts),
        )


class Expected(Model):
    """What the policy must answer."""

    decision: Literal["allow", "hold", "deny", "terminate"] | None = Field(default=None, description="the decision")
    rule: str | None = Field(default=None, description="the rule that decides: `bundle/id`, or `default`")
    alerts: tuple[str, ...] | None = Field(default=None, description="exactly the rules that raise an alert")
    masked: tuple[str, ...] = Field(default=(), description="columns (`schema.table.column`) that must be masked")
    clear: tuple[str, ...] = Field(default=(), description="columns that must not be masked")


class Case(Model):
    """One question to the policy and its answer."""

    name: Sentence = Field(description="what it shows")
    identity: Id = Field(alias="as", description="a name out of `identities`")
    resource: Id | None = Field(default=None, description="a name out of `resources`; left out: a plain one")
    at: Annotated[str, AfterValidator(_instant)] = Field(default="2026-01-05T12:00:00Z", description="when")
    address: str = Field(default="127.0.0.1", description="the client's address")
    application: str = Field(default="", description="the client's application name")
    command: str | None = Field(
        default=None,
        description="the command's text; of an HTTP request `METHOD URL`, its headers, an empty line and its body; "
        "with `kubernetes` that, or `get pods web -n shop`, `exec web -n shop -- id`",
    )
    does: AnalysisModel | None = Field(default=None, description="what the command does, in place of its text")
    expect: Expected = Field(description="the answer; `expect: deny` is short for `expect: {decision: deny}`")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.command is not None and self.does is not None:
            raise ValueError("give the command's text or what it does, not both")
        asks = self.expect.decision is not None or self.expect.rule is not None or self.expect.alerts is not None
        if asks and self.command is None and self.does is None:
            raise ValueError("a decision needs a `command`, or `does` in its place")
        if not asks and not self.expect.masked and not self.expect.clear:
            raise ValueError("`expect` says nothing")
        return self


class TestFile(Model):
    """A file of tests."""

    __test__ = False  # pytest: this is no test class

    version: Literal[1] = Field(description="version of this format")
    policies: tuple[str, ...] = Field(
        default=(), description="bundles tested together, relative to this file; left out: the one beside it"
    )
    identities: Annotated[dict[Id, IdentityModel], AfterValidator(not_empty)] = Field(description="identities by name")
    resources: dict[Id, ResourceModel] = Field(default={}, description="resources by name")
    tests: Annotated[tuple[Case, ...], AfterValidator(not_empty)] = Field(description="the tests")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test's outcome; `problem` is empty where it passed."""

    file: str
    line: int
    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one file. `untested` are rules of its first bundle that no test made say anything."""

    results: tuple[CaseResult, ...]
    untested: tuple[str, ...]


def beside(policy: Path) -> Path:
    """Where the tests of a bundle are."""
    return policy.with_name(policy.name.removesuffix(".yaml") + SUFFIX)


def run_tests(path: Path, analyse: Analyse, analyse_request: AnalyseRequest | None = None) -> Report:
    """Run one tests file. Without `analyse_request` requests must be given as what they do.

    Raises ConfigError where the file, or a bundle that it names, cannot be read.
    """
    document = read(path)
    file = validate(_with_short_forms(document), TestFile)
    tested = [path.parent / name for name in file.policies] or [
        path.with_name(path.name.removesuffix(SUFFIX) + ".yaml")
    ]
    policies = PolicySet.load(tested)
    problems = [*_unknown_names(document, file)]
    if problems:
        raise ConfigError(problems)
    spoken: set[str] = set()
    results = []
    for number, case in enumerate(file.tests):
        mark = document.keys[("tests", number)]
        problem = _run(case, file, policies, analyse, analyse_request, spoken)
        results.append(CaseResult(str(path), mark.line, case.name, problem))
    own = policies.bundles[0].name
    untested = tuple(
        rule.name for rule in policies.rules if rule.name not in spoken and rule.name.startswith(f"{own}/")
    )
    return Report(tuple(results), untested)


def _run(
    case: Case,
    file: TestFile,
    policies: PolicySet,
    analyse: Analyse,
    analyse_request: AnalyseRequest | None,
    spoken: set[str],
) -> str:
    principal = file.identities[case.identity].principal()
    model = file.resources[case.resource] if case.resource else ResourceModel()
    resource = Resource(case.resource or "any", model.protocol, dict(model.labels), model.database)
    facts = SessionFacts(client_address=case.address, application=case.application)
    now = datetime.datetime.fromisoformat(case.at).timestamp()
    session = policies.for_session(principal, resource, facts)
    wrong = _wrong_masks(case.expect, session)
    spoken.update(mask.rule for mask in session.masks if case.expect.masked)
    if case.command is None and case.does is None:
        return "; ".join(wrong)
    try:
        if case.does:
            analysis = case.does.analysis()
        elif analyse_request is not None and model.protocol in HTTP_PROTOCOLS:
            analysis = analyse_request(session, case.command or "", facts, now)
        else:
            analysis = analyse(model.protocol, case.command or "")
    except ValueError as error:
        return f"the command cannot be analysed: {error}"
    decision = session.decide(analysis, now=now, facts=facts)
    spoken.update(one.rule for one in session.explain(analysis, now, facts) if one.outcome not in ("silent", "masks"))
    answers = {"decision": decision.action.label, "rule": decision.rule, "alerts": decision.alerts}
    for key, answer in answers.items():
        wanted = getattr(case.expect, key)
        if wanted is not None and wanted != answer:
            wrong.append(f"expected {key} {_show(wanted)}, got {_show(answer)} ({decision.why})")
    return "; ".join(wrong)


def _wrong_masks(expect: Expected, session: SessionPolicy) -> list[str]:
    patterns = [pattern for mask in session.masks for pattern in mask.columns]

    def masked(column: str) -> bool:
        return any(touches(pattern, column) for pattern in patterns)

    return [
        *(f"{column} is not masked" for column in expect.masked if not masked(column)),
        *(f"{column} is masked" for column in expect.clear if masked(column)),
    ]


def _unknown_names(document: Document, file: TestFile) -> list[Problem]:
    problems = []
    for number, case in enumerate(file.tests):
        if case.identity not in file.identities:
            problems.append(document.problem(("tests", number, "as"), f"no identity `{case.identity}` in `identities`"))
        if case.resource is not None and case.resource not in file.resources:
            place = ("tests", number, "resource")
            problems.append(document.problem(place, f"no resource `{case.resource}` in `resources`"))
    return problems


def _with_short_forms(document: Document) -> Document:
    """`expect: deny` means `expect: {decision: deny}`."""
    data = document.data
    tests = data.get("tests") if isinstance(data, dict) else None
    if not isinstance(tests, list):
        return document
    return Document(document.path, {**data, "tests": [_long(case) for case in tests]}, document.keys, document.values)


def _long(case: Any) -> Any:
    if isinstance(case, Mapping) and isinstance(case.get("expect"), str):
        return {**case, "expect": {"decision": case["expect"]}}
    return case


def _show(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"[{', '.join(value)}]"
