"""Who asks for what: identities, resources, commands as far as they were understood, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protocols.contract.effects import Action, Cacheable, Effect, Where


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified identity. Only `guard.identity` makes one."""

    subject: str
    issuer: str
    groups: frozenset[str] = frozenset()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    expires_at: float = 0.0  # seconds since the epoch: when the session must end
    token_id: str | None = None  # `jti`, or a digest of the token; never the token

    def __hash__(self) -> int:
        return hash((self.subject, self.issuer, self.groups, self.token_id, self.expires_at))


@dataclass(frozen=True, slots=True)
class Resource:
    """One protected target behind one listener."""

    name: str
    protocol: str  # "postgres", ...
    labels: Mapping[str, str] = field(default_factory=dict)
    database: str = ""

    def __hash__(self) -> int:
        return hash((self.name, self.protocol, self.database))


ANYWHERE = "*"  # of a `Store`: a place without columns (a file, a sequence, code that is called), or any at all


@dataclass(frozen=True, slots=True)
class Store:
    """A place that a command fills, moves or renames, and the columns that the value there may be made of.

    `target`: `schema.table.column`, `schema.table.*` where it may be any of a relation's, `ANYWHERE`, or "" for what is
    dropped. `sources`: columns likewise; `ANYWHERE` is whatever there is. Filters are no sources but `predicates`.
    `copied`: the value arrives as it was, so that the mask of the source hides it at the target, too. `name`: what a
    computed value would be called as a column of a result.
    """

    target: str
    sources: tuple[str, ...]
    copied: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a command does, as far as it could be proved. Relations are `schema.name`, columns `schema.name.column`
    (`schema.name.*` where the text takes all of them). What is not proved is in `effects` as UNKNOWN with a reason in
    `why`, and can only be allowed by a rule that grants `unknown`.
    """

    kind: str  # command tag for people: "select", "drop table", "begin; select"
    effects: frozenset[Effect]
    reads: tuple[str, ...] = ()  # every relation read, through views, rules, CTEs, prepared statements, cursors
    writes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()  # columns that the text names, where they could be resolved
    predicates: tuple[str, ...] = ()  # columns that a filter, join, grouping or ordering depends on
    functions: tuple[str, ...] = ()  # `schema.name` of every function called that is not a plain built-in
    where: Where = Where.NONE
    why: str = ""  # why unknown, in lower case, no secrets
    shape: str = ""  # normalised text, literals replaced
    cacheable: Cacheable = Cacheable.NO
    clear_columns: frozenset[int] = frozenset()  # 0-based output columns that provably carry no column's value
    # for each output column those that its value may be made of; it may depend on `predicates`, too. (): not known
    depends: tuple[tuple[str, ...], ...] = ()
    stores: tuple[Store, ...] = ()  # where values of columns go, beside the answer
    # names of relations, beside `writes`, that a definition gives another meaning; `ANYWHERE`: any name may have one
    redefines: tuple[str, ...] = ()
    resolves: bool = False  # a function, operator or type of the same name, made later, could be what it means
    # what else a rule may ask about, by dotted name (`http.method`, `kube.namespace`), each with all of its values
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def unknown(self) -> bool:
        return Effect.UNKNOWN in self.effects


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What a rule may ask about the session besides its principal and resource."""

    client_address: str = ""
    application: str = ""
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """Who may release a held command, how many of them, and for how long it waits (seconds)."""

    approver_groups: frozenset[str] = frozenset()
    approver_subjects: frozenset[str] = frozenset()
    count: int = 1
    expires_s: float = 600.0
    approver_issuers: frozenset[str] = frozenset()  # whose tokens vouch for them; empty: any configured issuer

    def covers(self, other: HoldTerms) -> bool:
        """Whether whoever satisfies these terms satisfies the others, too."""
        if other.approver_groups or other.approver_subjects:
            if not (self.approver_groups or self.approver_subjects):
                return False
            if not (
                self.approver_groups <= other.approver_groups and self.approver_subjects <= other.approver_subjects
            ):
                return False
        if other.approver_issuers and not (self.approver_issuers and self.approver_issuers <= other.approver_issuers):
            return False
        return self.count >= other.count


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one command. `rule` names the rule that decided (`default` where nothing matched: deny)."""

    action: Action
    rule: str
    why: str  # for the person: what was stopped and what to do next
    policy_version: str = ""
    hold: HoldTerms | None = None
    alerts: tuple[str, ...] = ()
    valid_until: float = float("inf")  # epoch seconds: a time-dependent rule limits how long this answer holds
    adds: frozenset[Effect] = frozenset()  # effects that the command has for this identity, by its masks
