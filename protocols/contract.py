"""The one vocabulary that protocols and the guard share.

`protocols/` turns bytes into these values and `guard/` judges, masks and records them; neither imports the other.
Policies, records, the command line and the documentation use exactly these words.

INVARIANT: no I/O, no clock, no policy in this module; every value is immutable.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

# what configurations and policies may name: `registry.PROTOCOLS` has each wire protocol; HTTP has layers of its own
ProtocolName = Literal["postgres", "mysql", "http", "kubernetes"]
HTTP_PROTOCOLS = ("http", "kubernetes")


class Effect(enum.StrEnum):
    """What a command does, in dotted words. A command has a *set* of effects; a policy must cover all of them.

    A policy may name a whole family with a trailing `.*` (`ddl.*`). `UNKNOWN` means that the protocol could not prove
    what the command does; nothing but a rule that names `unknown` covers it.
    """

    DATA_SELECT = "data.select"
    DATA_INSERT = "data.insert"
    DATA_UPDATE = "data.update"
    DATA_DELETE = "data.delete"
    DATA_MERGE = "data.merge"
    DATA_TRUNCATE = "data.truncate"
    DATA_COPY_IN = "data.copy_in"
    DATA_COPY_OUT = "data.copy_out"  # COPY ... TO STDOUT: rows for the client, like a select
    DATA_WRITE = "data.write"  # state that is no table row: sequences, large objects, transaction ids
    DDL_CREATE = "ddl.create"
    DDL_ALTER = "ddl.alter"
    DDL_DROP = "ddl.drop"
    PRIV_GRANT = "priv.grant"
    PRIV_REVOKE = "priv.revoke"
    PRIV_ROLE = "priv.role"  # create, alter or drop a role; its password
    PRIV_POLICY = "priv.policy"  # row level security, security labels
    PRIV_TRIGGERS = "priv.triggers"  # rules, triggers, session_replication_role
    FILE_READ = "file.read"
    FILE_WRITE = "file.write"
    EXEC_CALL = "exec.call"  # a user-defined function that is not known to be harmless
    EXEC_PROCEDURE = "exec.procedure"
    EXEC_DYNAMIC = "exec.dynamic"  # DO, functions that run SQL given as text
    EXEC_CAST = "exec.cast"  # a user-defined cast, operator or domain that runs code
    EXEC_EVENT = "exec.event"  # MySQL's scheduled events: code that runs later, by itself
    EXEC_LIBRARY = "exec.library"  # shared libraries, plugins, components
    EXEC_PROGRAM = "exec.program"
    SESSION_SET = "session.set"  # a setting on the harmless list
    SESSION_GUARD = "session.guard"  # lifts read-only, row security, timeouts that protect the server
    SESSION_ROLE = "session.role"  # SET ROLE, SET SESSION AUTHORIZATION and every disguise of them
    SESSION_NAME_RESOLUTION = "session.name_resolution"  # search_path
    SESSION_PARSE_STATE = "session.parse_state"  # client_encoding, standard_conforming_strings
    SESSION_OTHER = "session.other"  # any other setting
    TX = "tx"  # begin, commit, rollback, savepoint
    CURSOR = "cursor"  # declare, fetch, move, close: over a statement judged by its own effects
    PREPARE = "prepare"  # prepare, deallocate: the statement inside is judged by its own effects
    SHOW = "show"  # show, explain without analyze
    LISTEN = "listen"
    EXFIL_NOTIFY = "exfil.notify"
    EXFIL_REPLICATION = "exfil.replication"
    EXFIL_CREDENTIAL = "exfil.credential"  # something that goes out holds a key, token or password
    EXFIL_PERSONAL = "exfil.personal"  # something that goes out holds personal data
    EXFIL_MASKED = "exfil.masked"  # something that goes out holds a value that this identity gets masked elsewhere
    NET_EGRESS = "net.egress"
    ADMIN_CONFIG = "admin.config"
    ADMIN_DOS = "admin.dos"  # pg_sleep, advisory locks
    ADMIN_LOCK = "admin.lock"
    ADMIN_KILL = "admin.kill"
    ADMIN_MAINT = "admin.maint"  # vacuum, analyze, checkpoint, reindex, cluster
    SECRET_READ = "secret.read"  # password hashes, planner statistics, other sessions' text
    HTTP_READ = "http.read"  # GET, HEAD, OPTIONS
    HTTP_WRITE = "http.write"  # POST, PUT, PATCH and every method that is not known
    HTTP_DELETE = "http.delete"
    HTTP_UPGRADE = "http.upgrade"  # WebSocket
    HTTP_STREAM = "http.stream"  # a body too large to be judged whole: judged in pieces as it passes
    HTTP_OPAQUE = "http.opaque"  # TLS that is passed on unopened
    KUBE_READ = "kube.read"  # get, list, watch, logs
    KUBE_WRITE = "kube.write"  # create, update, patch
    KUBE_DELETE = "kube.delete"
    KUBE_EXEC = "kube.exec"  # exec, attach, cp
    KUBE_FORWARD = "kube.forward"
    KUBE_PROXY = "kube.proxy"  # nodes/proxy, pods/proxy, services/proxy
    KUBE_DEBUG = "kube.debug"  # ephemeral containers
    KUBE_TOKEN = "kube.token"  # service account tokens, certificates
    KUBE_IMPERSONATE = "kube.impersonate"
    PROBE = "probe"  # a predicate on a column that this identity sees masked
    MASK_COPY = "mask.copy"  # what this identity sees masked is stored, moved or renamed to where it would be clear
    UNKNOWN = "unknown"


class Action(enum.IntEnum):
    """What a rule does to a command. The larger is the stricter; the strictest match wins."""

    ALLOW = 0
    HOLD = 1
    DENY = 2
    TERMINATE = 3

    @property
    def label(self) -> str:
        """The word that policies, records and `--json` output use: `allow`, `hold`, `deny`, `terminate`."""
        return self.name.lower()


class Where(enum.StrEnum):
    """The filter of an UPDATE or DELETE; of several in one command the weakest is reported."""

    NONE = "none"  # the command has no UPDATE or DELETE
    PRESENT = "present"
    ALWAYS_TRUE = "always_true"
    MISSING = "missing"


class Cacheable(enum.StrEnum):
    """How far an analysis may be reused (findings: what read a constant may not be shared by shape)."""

    NO = "no"  # depends on prepared names, cursors, open DDL: analyse each time
    TEXT = "text"  # same bytes, same session meaning, same catalog
    SHAPE = "shape"  # same normalised text with typed literals, same session meaning, same catalog


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
    in_transaction: bool = False


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """Who may release a held command, how many of them, and for how long it waits (seconds)."""

    approver_groups: frozenset[str] = frozenset()
    approver_subjects: frozenset[str] = frozenset()
    count: int = 1
    expires_s: float = 600.0
    approver_issuers: frozenset[str] = frozenset()  # whose tokens vouch for them; empty: any configured issuer


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


@dataclass(frozen=True, slots=True)
class MaskRule:
    """One column mask that applies to this principal on this resource (compiled from a policy)."""

    rule: str
    columns: tuple[str, ...]  # glob patterns on `schema.table.column`
    names: tuple[str, ...]  # glob patterns on a result column's name, for columns without origin
    strategy: str  # redact | null | partial | hash | tokenise | date | watch
    options: Mapping[str, Any] = field(default_factory=dict)  # keep_first, keep_last, precision, ...
    unknown_origin: str = "withhold"  # withhold | pass: computed columns of a statement that reads a masked table
    fields: tuple[str, ...] = ()  # glob patterns on the path of a field in a document (`user.email`, `items[].id`)
    detectors: tuple[str, ...] = ()  # what is masked wherever it is found: `e-mail`, `card`, `credential`, ...
    facts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # fields and detectors: of which requests' answers


class Origin(enum.StrEnum):
    """How well the origin of an output column is known."""

    KNOWN = "known"  # exactly the columns listed
    CLEAR = "clear"  # provably no column's value (constants, count)
    COMPUTED = "computed"  # an expression: origin not known


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One output column as `guard.mask` sees it: its name and where its values come from."""

    name: str
    origin: Origin
    columns: tuple[str, ...] = ()  # `schema.table.column`; a child table's column also lists its parents'
    depends: tuple[str, ...] | None = None  # computed from these and no others; None: from anything that is read


ANY_RELATION = "*"  # among the relations of a ResultShape: the statement may read what its text does not show


@dataclass(frozen=True, slots=True)
class ResultShape:
    """The columns of one result, and what its statement reads: relations (or `ANY_RELATION`) of which it is not known
    what columns they have, and all columns of the others, `schema.table.column`.
    """

    columns: tuple[ResultColumn, ...]
    reads: tuple[str, ...] = ()
    read_columns: tuple[str, ...] = ()


# ---------------------------------------------------------------- handshakes: what a protocol asks its driver
#
# A handshake is a generator that yields one of these and is sent the answer (psycopg's way): the protocol says what it
# waits for, `addons` does the waiting. A failure is thrown into the generator at the place that asked.


@dataclass(frozen=True, slots=True)
class ListenerTerms:
    """What a listener says about its clients."""

    tls: str  # required | optional | off
    oauth: bool = False
    discovery: str = ""  # OAUTHBEARER: where the issuer's configuration is
    scope: str = ""
    local_files: bool = False  # MySQL: the server may ask the client for a file, where a policy lets the statement pass


class Side(enum.Enum):
    CLIENT = "client"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Receive:
    """More bytes from this side: answered with at least one byte; the end of the stream throws `PeerGone`."""

    side: Side


@dataclass(frozen=True, slots=True)
class Send:
    side: Side
    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """TLS on this side from the next byte on; answered with `TlsFacts`. `received` are TLS bytes already read."""

    side: Side
    alpn: str | None = None
    received: bytes = b""


@dataclass(frozen=True, slots=True)
class TlsFacts:
    version: str
    alpn: str | None
    server_end_point: bytes | None  # RFC 5929 `tls-server-end-point` of the upstream's certificate


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Verify this token and open the resource to its principal; answered with `Admission`, or throws `Refused`."""

    token: str
    claimed_user: str
    database: str
    application: str
    attributes: tuple[tuple[str, str], ...] = ()  # what else the client says of itself: evidence, never a proof


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the upstream connection (TCP only), once; throws `Refused` when that is not possible.

    It may come before `Authenticate`, where a client must be told what only the upstream knows; such connections of
    clients that nobody knows yet are few at a time, and more of them wait.
    """


@dataclass(frozen=True, slots=True)
class Credential:
    """What the gateway itself logs in with upstream. `repr` never shows the password."""

    username: str
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Admission:
    """An identity that was let in: how to log in upstream for it."""

    principal: Principal
    resource: Resource
    credential: Credential
    database: str
    upstream_tls: bool


@dataclass(frozen=True, slots=True)
class ReserveId:
    """The client is told its connection's id before it logs in; answered with that id, which `KeepKey` then keeps."""


@dataclass(frozen=True, slots=True)
class KeepKey:
    """The upstream's cancel key, to be kept; answered with `(pid, secret)`: the key that the client gets instead."""

    pid: int
    secret: bytes
    length: int  # bytes of secret that the client can take


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel request: this connection carries nothing else. Answered with None."""

    pid: int
    secret: bytes


class WireError(Exception):
    """Bytes that a protocol does not allow. The connection that sent them ends; the process goes on."""


class PeerGone(Exception):
    """The peer closed its side in the middle of a handshake."""


class Refused(Exception):
    """The gateway refuses. The text is for the client: lower case, no secrets; `code` is a SQLSTATE, which each
    protocol says in its own way."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class TlsNotOffered(Refused):
    """The upstream does not speak TLS."""


class CredentialRefused(Refused):
    """The upstream does not take the gateway's credential: it may have been rotated, and is to be read again."""


# ---------------------------------------------------------------- connections of the gateway's own
#
# Their methods are generators that yield `Send`, `Receive` and `StartTls` for `Side.UPSTREAM`, like a handshake.


@dataclass(frozen=True, slots=True)
class UpstreamLogin:
    """How a connection of the gateway's own logs in. `timeout` (seconds) bounds each look-up, on the server as well."""

    credential: Credential
    database: str
    tls: bool
    nonce: bytes = field(repr=False)
    timeout: float = 5.0


class CatalogError(Exception):
    """The catalog could not be read: statements that need it are unknown. The text is for the gateway's log."""


class CatalogSource(Protocol):
    """One connection that reads the names on a resource, and nothing else. Any failure ends it."""

    def log_in(self, login: UpstreamLogin) -> Generator[Any, Any, None]:
        """From the first byte until it takes questions; raises `Refused` or `WireError`."""

    def version(self) -> Generator[Any, Any, str]:
        """Changes whenever a name may mean something else. Raises `CatalogError` or `WireError`."""

    def load(self) -> Generator[Any, Any, Callable[[], CatalogSnapshot]]:
        """Reads everything; what it returns builds the snapshot, in a thread. Raises `CatalogError` or `WireError`."""


# ---------------------------------------------------------------- sessions: the port that a session speaks to


class RecordFailed(Exception):
    """Evidence could not be written: nothing more may pass."""


class HoldRefused(Exception):
    """The approvers cannot be asked: the command is denied with this text."""


class CatalogSnapshot(Protocol):
    """An immutable picture of the names on a resource. `version` changes with any of them."""

    @property
    def version(self) -> str: ...


class ValueKind(enum.StrEnum):
    """What the text given to a `ColumnMask` is. A protocol turns its wire formats into these, and back.

    text: any characters. integer: decimal, with sign. number: decimal with sign and point, no exponent. uuid: hex in
    groups of 8-4-4-4-12. date: `YYYY-MM-DD`. timestamp: `YYYY-MM-DD HH:MM:SS[.ffffff]`, in UTC where it has a zone.
    bytes: hex digits. json: a JSON document. address: an IPv4 or IPv6 address. opaque: only NULL fits.
    """

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    UUID = "uuid"
    DATE = "date"
    TIMESTAMP = "timestamp"
    BYTES = "bytes"
    JSON = "json"
    ADDRESS = "address"
    OPAQUE = "opaque"


class ColumnMask(Protocol):
    """How one column is masked. `withhold`: always NULL. `constant`: the answer never depends on the value."""

    @property
    def rule(self) -> str: ...

    @property
    def strategy(self) -> str: ...

    @property
    def withhold(self) -> bool: ...

    @property
    def constant(self) -> bool: ...

    def apply(self, text: str, kind: ValueKind = ValueKind.TEXT, limit: int | None = None) -> str | None:
        """The masked text, valid for `kind`; None is NULL. Never raises for a text of that kind.

        `limit` is what the type can hold: characters of a text, the largest integer, whole digits of a number.
        """


class MaskPlan(Protocol):
    @property
    def columns(self) -> Sequence[ColumnMask | None]: ...


class ResultMasker(Protocol):
    def plan(self, shape: ResultShape) -> MaskPlan | None: ...

    def touches(self, reads: Iterable[str], read_columns: Iterable[str] = ()) -> bool:
        """Whether a rule could apply to a statement that reads these (as in `ResultShape`)."""


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """A command that waits for people. `digest` is SHA-256 over the exact bytes and parameters that would run."""

    number: int
    text: str
    digest: bytes
    analysis: Analysis
    decision: Decision
    params: tuple[str | None, ...]


@dataclass(slots=True, eq=False)
class HoldTicket:
    """A request for approval, on its way to the approvers: its id and its end (epoch seconds) are there once
    `Session.asked` is called."""

    id: str = ""
    expires_at: float = 0.0


class Outcome(enum.Enum):
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"  # nobody could be asked: the request is too much, or cannot be kept
    DEFERRED = "deferred"  # the client must not wait longer: refused now; once approved, the same command passes once


class SessionPort(Protocol):
    """What a session asks of the process around it. Every call is immediate; `RecordFailed` ends the session."""

    masker: ResultMasker | None

    def catalog(self) -> CatalogSnapshot | None:
        """The snapshot, or None while it is older than its maximum age: the session then waits."""

    def catalog_changed(self) -> None:
        """The session itself changed names: the next snapshot must be newer than now."""

    def decide(self, analysis: Analysis) -> Decision: ...

    def policy_epoch(self) -> object:
        """Changes identity whenever an earlier decision may no longer stand."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""

    def redact(self, text: str) -> str:
        """A statement without its secrets, for the record."""

    def redact_params(self, text: str, values: Sequence[str | None]) -> tuple[str | None, ...]:
        """The parameters of a statement without those that are secrets, for the record."""

    def record(self, kind: str, body: bytes) -> None:
        """Takes one finished JSON object. The relay has it in the journal before it sends `up`."""

    def may_record(self) -> None:
        """Raises `RecordFailed` while nothing can be recorded: an answer must not reach the client then."""

    def hold(self, request: HoldRequest) -> HoldTicket:
        """Asks the approvers; raises `HoldRefused`. The request is stored behind this call: then `Session.asked` is
        called, or `Session.resume` with `Outcome.REFUSED`. The outcome comes through `Session.resume`, too."""

    def withdraw(self, ticket: HoldTicket, why: str) -> None: ...

    def alert(self, names: Sequence[str], number: int) -> None: ...

    def cancel_other(self, pid: int, *, end: bool) -> bool:
        """Cancels what runs in the session that was told this id, or ends that session (`end`).

        Only sessions of the same principal on the same resource can be named; False: there is none.
        """


class Wait(enum.Enum):
    """Why a session reads no further from its client."""

    CATALOG = "catalog"
    HOLD = "hold"
    SERVER = "server"  # an earlier message of the pipeline changes what the next one means: its answer comes first


class Session(Protocol):
    """A sans-io session after authentication: bytes in, bytes in `up` and `down`.

    The relay drains `up` (to the upstream) and `down` (to the client) after each call; `up` only once everything that
    was recorded is in the journal, and where that fails it calls `unrecorded` and sends nothing. While `waiting` is
    set the session keeps client bytes (`backlog` of them) and the relay stops reading. `ended` closes both sides.
    """

    up: list[bytes]
    down: list[bytes]
    waiting: Wait | None
    ended: bool

    refused: int  # commands stopped so far

    @property
    def backlog(self) -> int: ...

    @property
    def late(self) -> Sequence[object]:
        """Not empty: `catch_up` is due."""

    @property
    def busy(self) -> bool:
        """In a transaction, or with answers to come."""

    def client(self, data: bytes) -> None: ...

    def server(self, data: bytes) -> None: ...

    def catch_up(self) -> None:
        """Puts on record what the client has been sent: the relay calls it once `down` is on its way."""

    def resume(self, outcome: Outcome | None, why: str = "") -> None:
        """Ends the wait: an `Outcome` for a hold; None when the catalog is fresh (or could not be had)."""

    def asked(self) -> None:
        """The approvers have been asked for what is held: its ticket is complete, and the client may be told."""

    def notice(self, text: str) -> None:
        """A message to the person, at the next place where the protocol allows one."""

    def terminate(self, why: str) -> None:
        """The polite end: the protocol's own last words, then `ended`."""

    def unrecorded(self) -> None:
        """The journal failed: what is in `up` must not be sent, and the session ends."""

    def cancelled(self) -> bool:
        """The client asks to cancel: True when it was the session's own wait, False: pass it upstream."""

    def lost(self, side: Side) -> None:
        """A side is gone: what still waits for an answer is recorded as lost."""
