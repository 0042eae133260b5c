"""All bundles of a gateway: loaded together or not at all, and narrowed to one session."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guard.documents import ConfigError, Document, Problem, read, validate
from guard.enforce.index import RuleIndex
from guard.enforce.patterns import expand_effects
from guard.enforce.rules import Rule, compile_rule, named_resources
from guard.enforce.schema import VERBS, Bundle
from guard.enforce.session import Activity, SessionPolicy
from protocols.contract import Effect, Principal, Resource, SessionFacts

_INDEXES = 256  # different sets of applicable rules kept compiled


class PolicySet:
    """Immutable once loaded. A reload loads a new one; where that fails, this one stays in force."""

    def __init__(self, rules: Sequence[Rule], bundles: Sequence[Bundle], version: str) -> None:
        self.version = version
        self.bundles = tuple(bundles)
        self.rules = tuple(rules)
        self.holds = tuple(rule.name for rule in rules if rule.verb == "hold")
        self.remembers = any(_speaks_of(rule, Effect.EXFIL_MASKED) for rule in rules)
        """Whether a rule speaks of values that were masked: only then they are worth remembering."""
        self.named_resources = tuple((rule.name, name) for rule in rules for name in named_resources(rule))
        self._indexes: OrderedDict[tuple[int, ...], RuleIndex] = OrderedDict()

    @classmethod
    def load(cls, paths: Sequence[Path]) -> PolicySet:
        """Read bundles. Raises ConfigError with every problem of every file."""
        problems: list[Problem] = []
        loaded: list[tuple[Document, Bundle]] = []
        for path in paths:
            try:
                loaded.append(load_bundle(path))
            except ConfigError as error:
                problems += error.problems
        problems += _same_names(loaded)
        if not paths:
            problems.append(Problem("policies", 0, 0, "no policy bundle: nothing would be allowed; name at least one"))
        if problems:
            raise ConfigError(problems)
        bundles = [bundle for _, bundle in loaded]
        rules = [compile_rule(bundle.name, model) for bundle in bundles for model in bundle.rules]
        return cls(rules, bundles, _digest(bundles))

    def for_session(self, principal: Principal, resource: Resource, facts: SessionFacts) -> SessionPolicy:
        """The rules that concern this identity on this resource, compiled. The address in `facts` counts for good."""
        concerned = [(n, rule) for n, rule in enumerate(self.rules) if not rule.concerns(principal, resource, facts)]
        judging = [(n, rule) for n, rule in concerned if rule.mask is None]
        activities = []
        for bit, (_, rule) in enumerate(judging):
            exemption = rule.exemption(principal, resource, facts)
            if rule.condition or exemption is not None:
                activities.append(Activity(bit, rule.condition, exemption))
        return SessionPolicy(
            version=self.version,
            principal=principal,
            resource=resource,
            facts=facts,
            index=self._index(tuple(n for n, _ in judging)),
            activities=activities,
            only_stops=sum(1 << bit for bit, (_, rule) in enumerate(judging) if rule.only_stops(principal, facts)),
            masks=tuple(rule.mask for _, rule in concerned if rule.mask is not None),
            all_rules=self.rules,
        )

    def _index(self, key: tuple[int, ...]) -> RuleIndex:
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = RuleIndex([self.rules[n] for n in key])
            if len(self._indexes) > _INDEXES:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(key)
        return index


def load_bundle(path: Path) -> tuple[Document, Bundle]:
    """One bundle and its document. Raises ConfigError."""
    document = read(path)
    bundle = validate(_with_short_forms(document), Bundle)
    problems = []
    first: dict[str, int] = {}
    for index, rule in enumerate(bundle.rules):
        if rule.id in first:
            problems.append(
                document.problem(
                    ("rules", index, "id"), f"rule `{rule.id}` is given twice (also number {first[rule.id] + 1})"
                )
            )
        first.setdefault(rule.id, index)
    if problems:
        raise ConfigError(problems)
    return document, bundle


def _with_short_forms(document: Document) -> Document:
    """`allow: [tx]` means `allow: {effects: [tx]}`; the marks stay those of the file."""
    data = document.data
    rules = data.get("rules") if isinstance(data, dict) else None
    if not isinstance(rules, list):
        return document
    return Document(document.path, {**data, "rules": [_long(rule) for rule in rules]}, document.keys, document.values)


def _long(rule: Any) -> Any:
    if not isinstance(rule, dict):
        return rule
    return {
        key: {"effects": value} if key in VERBS and key != "mask" and isinstance(value, list) else value
        for key, value in rule.items()
    }


def _speaks_of(rule: Rule, effect: Effect) -> bool:
    """Whether the rule names this effect or its family; one about everything says nothing of it."""
    match = getattr(rule.model, rule.verb, None)
    named = [p for p in getattr(match, "effects", ()) if not p.startswith("*")]
    return any(effect in expand_effects(pattern) for pattern in named)


def _same_names(loaded: Sequence[tuple[Document, Bundle]]) -> list[Problem]:
    problems = []
    files: dict[str, Path] = {}
    for document, bundle in loaded:
        if bundle.name in files:
            problems.append(
                document.problem(("name",), f"bundle name `{bundle.name}` is also used by {files[bundle.name].name}")
            )
        files.setdefault(bundle.name, document.path)
    return problems


def _digest(bundles: Sequence[Bundle]) -> str:
    content = [bundle.model_dump(mode="json", by_alias=True, exclude_defaults=True) for bundle in bundles]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
