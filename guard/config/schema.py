"""What a gateway configuration may say. The reference in docs/ is generated from these models and their descriptions.

Relative paths are relative to the configuration file. Durations are seconds, sizes are bytes. A secret has no field
here that could hold it: there are only references to where it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, Strict, ValidationInfo, model_validator

from guard.config.values import (
    absolute,
    check_address,
    check_key_id,
    check_name,
    check_network,
    check_scope_part,
    check_text,
    check_url,
    split_address,
)
from guard.config.wire import WIRE
from guard.documents.values import not_empty
from guard.enforce.patterns import check_glob
from protocols import contract

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
NotifyEvent = Literal["approval.requested", "approval.decided", "containment", "alert"]

# pydantic would turn "5432" and true into numbers; a document means what it says
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str, AfterValidator(check_name)]
Url = Annotated[str, AfterValidator(check_url)]
Address = Annotated[str, AfterValidator(check_address)]
FilePath = Annotated[Path, AfterValidator(absolute)]
Network = Annotated[str, AfterValidator(check_network)]
Glob = Annotated[str, AfterValidator(check_glob)]
ScopePart = Annotated[str, AfterValidator(check_scope_part)]


class Model(BaseModel):
    """Immutable, and closed: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "env": ("name",),
    "file": ("path",),
    "vault": ("address", "path", "key", "token"),
    "none": (),
}
_TAKES: Mapping[str, frozenset[str]] = {
    "env": frozenset({"name"}),
    "file": frozenset({"path"}),
    "vault": frozenset({"address", "path", "key", "token", "ca", "namespace", "username_key", "session_token_key"}),
    "none": frozenset(),
}


def _file_path(data: Any, info: ValidationInfo) -> Any:
    if isinstance(data, dict) and data.get("provider") == "file" and isinstance(data.get("path"), str):
        return {**data, "path": str(absolute(Path(data["path"]), info))}
    return data


class SecretRef(Model):
    """Where a secret is kept. The secret itself can never be written in a configuration."""

    provider: Literal["env", "file", "vault"] = Field(
        description="`env`: an environment variable of the gateway; `file`: a file that only the gateway's user can "
        "read; `vault`: HashiCorp Vault, key/value engine version 2"
    )
    name: Text | None = Field(default=None, description="`env`: the variable's name")
    path: Text | None = Field(
        default=None,
        description="`file`: the file. `vault`: the secret's path after `/v1/`, engine and `data/` included "
        "(`secret/data/shop`)",
    )
    address: Url | None = Field(default=None, description="`vault`: the server, `https://vault.example:8200`")
    key: Text | None = Field(default=None, description="`vault`: the key of the secret's value, e.g. `password`")
    token: SecretRef | None = Field(default=None, description="`vault`: where Vault's own token is kept")
    ca: FilePath | None = Field(default=None, description="`vault`: CA bundle (PEM); null: the system's")
    namespace: Text | None = Field(default=None, description="`vault`: namespace, where Vault has them")

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, str):
            raise ValueError("a secret is never written in this file: name where it is with `provider:`")
        return _file_path(data, info)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _check_provider(self, self.provider, shared=frozenset({"provider"}))
        return self


class Credential(Model):
    """With what the gateway logs in upstream. The client never sees it."""

    provider: Literal["env", "file", "vault", "none"] = Field(
        description="where the password is kept, as in a secret reference; `none`: the server asks for no password"
    )
    user: Text | None = Field(
        default=None,
        description="the database user, or the AWS access key id; null with `vault`: the same secret's `username_key`; "
        "null with `aws_sigv4` otherwise: the secret is a JSON document with all parts of the key",
    )
    name: Text | None = Field(default=None, description="`env`: the variable's name")
    path: Text | None = Field(default=None, description="`file`: the file; `vault`: the secret's path")
    address: Url | None = Field(default=None, description="`vault`: the server")
    key: Text | None = Field(default=None, description="`vault`: the key of the password in the secret")
    username_key: Text | None = Field(
        default=None, description="`vault`: the key of the user name in the secret; null: `username`"
    )
    session_token_key: Text | None = Field(
        default=None,
        description="`vault`, `aws_sigv4`: the key of the session token in the secret",
    )
    token: SecretRef | None = Field(default=None, description="`vault`: where Vault's own token is kept")
    ca: FilePath | None = Field(default=None, description="`vault`: CA bundle (PEM); null: the system's")
    namespace: Text | None = Field(default=None, description="`vault`: namespace, where Vault has them")

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, str):
            raise ValueError("a credential is never written in this file: name where it is with `provider:`")
        return _file_path(data, info)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _check_provider(self, self.provider, shared=frozenset({"provider", "user"}))
        return self


def _check_provider(model: BaseModel, provider: str, shared: frozenset[str]) -> None:
    for needed in _NEEDS[provider]:
        if getattr(model, needed) is None:
            raise ValueError(f"`{needed}` is required with `provider: {provider}`")
    given = {name for name in model.model_fields_set if getattr(model, name) is not None}
    for name in sorted(given - shared - _TAKES[provider]):
        raise ValueError(f"`{name}` means nothing with `provider: {provider}`")


class ListenerTls(Model):
    """TLS towards clients."""

    mode: Literal["required", "optional", "off"] = Field(
        default="required", description="`optional` lets a client choose plaintext; `off` offers no TLS"
    )
    certificate: FilePath | None = Field(
        default=None, description="certificate chain (PEM); null: minted by the gateway's own CA in `state_dir/ca`"
    )
    key: FilePath | None = Field(default=None, description="private key (PEM) of `certificate`")


class ListenerConfig(Model):
    """One port that clients connect to. A listener leads to exactly one resource."""

    name: Name = Field(description="unique name, used in records and logs")
    protocol: contract.ProtocolName = Field(description="the wire protocol that clients speak")
    listen: Address = Field(description="`address:port`, `[::1]:port` for IPv6; port 0 takes a free one")
    resource: Name = Field(description="the resource behind it")
    client_auth: Literal["password", "oauth"] = Field(
        default="password",
        description="how the client sends its token: as its password, or with SASL OAUTHBEARER (PostgreSQL)",
    )
    hold_wait: Annotated[Number, Field(gt=0, le=86400)] | None = Field(
        default=None,
        description="longest time that a client waits for an approval, for clients that give up sooner than people "
        "answer: the command is then refused with its ticket, and once that is approved the same command of the same "
        "identity passes once; null: as long as the hold lasts",
    )
    local_files: Flag = Field(
        default=False,
        description="mysql: offer clients LOAD DATA LOCAL; a statement still needs a rule that allows "
        "`data.copy_in`, and what the client sends goes on record",
    )
    tls: ListenerTls = Field(default=ListenerTls(), description="TLS towards clients")
    insecure_plaintext: Flag = Field(
        default=False,
        description="accept that tokens and data cross a network unencrypted; needed for `tls.mode` other than "
        "`required` on an address that is not loopback",
    )

    @model_validator(mode="after")
    def _can_authenticate(self) -> Self:
        if self.local_files and self.protocol != "mysql":
            raise ValueError("`local_files` is MySQL's: leave it out here")
        able = WIRE[self.protocol].client_auth
        if self.client_auth not in able:
            raise ValueError(
                f"`client_auth: {self.client_auth}` does not exist in {self.protocol}; it has: {', '.join(able)}"
            )
        return self

    @property
    def host(self) -> str:
        """The address part of `listen`."""
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return split_address(self.listen)[1]


class UpstreamTls(Model):
    """TLS towards the resource."""

    mode: Literal["off", "require", "verify-ca", "verify-full"] = Field(
        default="verify-full",
        description="`verify-full`: chain and host name; `verify-ca`: chain only; `require`: encrypted, unverified",
    )
    ca: FilePath | None = Field(default=None, description="CA bundle (PEM) to verify with; null: the system's")
    certificate: FilePath | None = Field(default=None, description="client certificate (PEM), where the server asks")
    key: FilePath | None = Field(default=None, description="private key (PEM) of `certificate`")
    server_name: Text | None = Field(default=None, description="name to verify and to send as SNI; null: `host`")


_OF_PROTOCOL: Any = None  # filled in before validation: the field itself is never null


class HttpAuth(Model):
    """How the gateway shows its credential to an HTTP upstream."""

    kind: Literal["bearer", "basic", "header", "aws_sigv4", "none"] = Field(
        default="bearer",
        description="`bearer`: `Authorization: Bearer`; `basic`: user and password; `header`: as it is, in `header`; "
        "`aws_sigv4`: as AWS Signature Version 4 of each request; `none`: only the client certificate of `tls`",
    )
    header: Name = Field(default="x-api-key", description="`header`: which one")
    region: ScopePart | None = Field(default=None, description="`aws_sigv4`: the region to sign for (`eu-central-1`)")
    service: ScopePart | None = Field(
        default=None, description="`aws_sigv4`: the service to sign for, by its signing name (`s3`, `execute-api`)"
    )
    impersonate: Flag = Field(
        default=False,
        description="kubernetes: act as the client's own subject and groups (`Impersonate-User`, `Impersonate-Group`)",
    )

    @model_validator(mode="after")
    def _scope(self) -> Self:
        for name in ("region", "service"):
            if self.kind == "aws_sigv4" and getattr(self, name) is None:
                raise ValueError(f"`{name}` is required with `kind: aws_sigv4`")
            if self.kind != "aws_sigv4" and getattr(self, name) is not None:
                raise ValueError(f"`{name}` means nothing with `kind: {self.kind}`")
        return self


class CatalogConfig(Model):
    """The gateway's own view of what exists in the database; statements are judged against it."""

    max_age: Annotated[Number, Field(gt=0, le=60)] = Field(
        default=1.0, description="oldest view a statement may be judged by: the window in which a change is not seen"
    )
    timeout: Annotated[Number, Field(gt=0, le=60)] = Field(
        default=5.0, description="longest wait for a look-up, its locks included; after it the statement is denied"
    )


class ResourceConfig(Model):
    """One protected server."""

    name: Name = Field(description="unique name; policies match it")
    protocol: contract.ProtocolName = Field(description="the wire protocol that the server speaks")
    host: Text | None = Field(
        default=None,
        description="host name or address of the server; http without it: a forward proxy, to wherever policies allow",
    )
    port: Annotated[Whole, Field(ge=1, le=65535)] = Field(
        default=_OF_PROTOCOL,
        validate_default=False,
        description="its port; null: the protocol's own (postgres 5432, mysql 3306, http 443, kubernetes 6443)",
    )
    database: Text | None = Field(
        default=None,
        description="the database that clients get when they ask for no other; with mysql it may be null: clients then "
        "begin in none, or in the one that they ask for",
    )
    databases: tuple[Text, ...] = Field(
        default=(),
        description="further databases that a client may ask for at its login; what it may do in which is for policies",
    )
    labels: dict[Name, Text] = Field(default_factory=dict, description="facts for policies to match, `env: prod`")
    tls: UpstreamTls = Field(default=UpstreamTls(), description="TLS towards the server")
    credential: Credential = Field(
        default=Credential.model_construct(provider="none"),
        description="what the gateway logs in with; required for a database",
    )
    http_auth: HttpAuth = Field(default=HttpAuth(), description="http, kubernetes: how the credential is shown")
    private_networks: tuple[Network, ...] = Field(
        default=(),
        description="forward proxy: networks that are not public and may be reached all the same (`10.1.0.0/16`)",
    )
    catalog: CatalogConfig = Field(default=CatalogConfig(), description="how fresh the view of the database must be")

    @model_validator(mode="before")
    @classmethod
    def _own_port(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("port") is None and (facts := WIRE.get(str(data.get("protocol")))):
            return {**data, "port": facts.port}
        return data

    @model_validator(mode="after")
    def _has_database(self) -> Self:
        if self.database is None and WIRE[self.protocol].one_database:
            raise ValueError(f"`database` is required with `protocol: {self.protocol}`")
        if self.database is None and self.databases:
            raise ValueError("`databases` are further ones: name the first in `database`")
        return self

    @model_validator(mode="after")
    def _fits_protocol(self) -> Self:
        http = self.protocol in contract.HTTP_PROTOCOLS
        if self.host is None and self.protocol != "http":
            raise ValueError("`host` is required: only `protocol: http` can be a forward proxy")
        if not http and "credential" not in self.model_fields_set:
            raise ValueError("`credential` is required: what the gateway logs in with")
        if not http and self.credential.user is None and self.credential.provider != "vault":
            raise ValueError("`credential.user` is required here: the database user that the gateway logs in as")
        if self.host is None and self.credential.provider != "none":
            raise ValueError("a forward proxy has no credential of its own: leave `credential` out")
        if self.http_auth.kind == "basic" and self.credential.user is None and self.credential.provider != "vault":
            raise ValueError("`http_auth: basic` needs `credential.user`")
        return self

    @model_validator(mode="after")
    def _signs(self) -> Self:
        credential = self.credential
        if self.http_auth.kind != "aws_sigv4":
            if credential.session_token_key is not None:
                raise ValueError("`credential.session_token_key` is for `http_auth: {kind: aws_sigv4}`")
            return self
        if self.protocol != "http" or self.host is None:
            raise ValueError("`http_auth: aws_sigv4` is for `protocol: http` with a `host`")
        if credential.provider == "none":
            raise ValueError("`http_auth: aws_sigv4` needs a `credential`: the secret access key")
        if credential.user is not None:
            check_key_id(credential.user)
            if credential.session_token_key is not None:
                raise ValueError("a session token belongs to one access key id: keep both in vault, without `user`")
        return self

    @property
    def server(self) -> str:
        """The server's host; only a forward proxy has none."""
        if self.host is None:
            raise ValueError(f"resource `{self.name}` is a forward proxy: it has no server of its own")
        return self.host

    @property
    def one_database(self) -> bool:
        """Whether a connection sees no other database than the one that it has logged in to."""
        return WIRE[self.protocol].one_database

    def opens(self, database: str) -> bool:
        """Whether a client may ask for this database at its login."""
        return self.database is None or database == self.database or database in self.databases

    def as_resource(self, database: str | None = None) -> contract.Resource:
        """The value that policies and records see; `database` is what the client asked for."""
        return contract.Resource(self.name, self.protocol, dict(self.labels), database or self.database or "")


class IssuerConfig(Model):
    """One OpenID Connect issuer whose signed tokens open sessions."""

    issuer: Url = Field(description="exactly the `iss` of its tokens; https, or http on loopback")
    audience: Text = Field(description="what `aud` of a token must be or contain")
    preset: Literal["github-actions", "gitlab-ci", "kubernetes", "keycloak", "okta"] | None = Field(
        default=None, description="claim names of a well-known issuer; the fields below override it"
    )
    jwks_uri: Url | None = Field(default=None, description="where its keys are; null: what its discovery says")
    ca: FilePath | None = Field(default=None, description="CA bundle (PEM) for fetching them; null: the system's")
    algorithms: Annotated[tuple[Algorithm, ...], AfterValidator(not_empty)] = Field(
        default=("RS256", "ES256"), description="signatures accepted; only asymmetric ones exist here"
    )
    subject_claim: Text = Field(default="sub", description="claim that names who it is")
    groups_claim: Text = Field(default="groups", description="claim with the list of groups")
    attributes: dict[Name, Text] = Field(
        default_factory=dict, description="attribute name -> claim; policies match attributes with `claims`"
    )
    require: dict[Text, Annotated[tuple[Glob, ...], AfterValidator(not_empty)]] = Field(
        default_factory=dict,
        description="claim -> patterns: of every claim named, the value (or one item of it) must fit one pattern, or "
        "the token is refused; a claim inside another is written with dots. Issuers that anybody can get a token of "
        "need it",
    )
    group_prefix: Text | None = Field(
        default=None,
        description="stands before each of its groups, in policies and roles too: `gitlab:` makes `gitlab:oncall` of "
        "`oncall`, so that no other issuer's groups are meant",
    )
    azp: Text | None = Field(default=None, description="what `azp` (authorised party) must be; null: not checked")
    leeway: Annotated[Number, Field(ge=0, le=30)] = Field(default=30, description="clock skew accepted")
    session_end: Literal["token", "duration"] = Field(
        default="token",
        description="`token`: a session ends when its token does; `duration`: after `session_max` from its start, for "
        "issuers whose tokens live minutes (CI)",
    )
    session_max: Annotated[Number, Field(gt=0, le=604800)] = Field(
        default=28800, description="longest session with `session_end: duration`"
    )
    client_id: Text | None = Field(default=None, description="client id that OAUTHBEARER discovery tells clients")
    scope: Text = Field(default="openid", description="scope that OAUTHBEARER discovery tells clients")


class RoleMembers(Model):
    """Who has a role. Nobody has it when both lists are empty."""

    groups: tuple[Text, ...] = Field(default=(), description="members of any of these groups")
    subjects: tuple[Text, ...] = Field(default=(), description="exactly these subjects")
    issuers: tuple[Text, ...] = Field(
        default=(),
        description="of exactly these issuers only; left out: of any. Required where more than one issuer could name "
        "such a group or subject",
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.issuers and not (self.groups or self.subjects):
            raise ValueError("`issuers` narrows `groups` and `subjects`; there are none")
        return self


class RolesConfig(Model):
    """Who may do what through the control socket."""

    approver: RoleMembers = Field(default=RoleMembers(), description="approve and refuse held commands")
    responder: RoleMembers = Field(
        default=RoleMembers(), description="contain, revoke, terminate, hold records; read sessions, replay, search"
    )
    auditor: RoleMembers = Field(default=RoleMembers(), description="read sessions, replay, search, export")
    operator: RoleMembers = Field(
        default=RoleMembers(), description="reload policies, run retention, read the gateway's status"
    )


class ControlConfig(Model):
    """The control socket. Without this section it is in `state_dir`, for the gateway's own user only."""

    path: FilePath | None = Field(
        default=None,
        description="where the socket is; null: `control.sock` in `state_dir`. With `group` in a folder of its own "
        "outside `state_dir`, which the gateway makes",
    )
    group: Text | None = Field(
        default=None,
        description="a group of the machine whose members may connect (the folder gets 0750, the socket 0660); the "
        "gateway's user must be a member. Who acts is still said by each caller's own token",
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.group is not None and self.path is None:
            raise ValueError("`group` needs a `path` outside `state_dir`, such as /run/sluicegate/control/control.sock")
        return self


Days = Annotated[float, Strict(), Field(ge=1, le=36500)]


class RetentionConfig(Model):
    """How long records stay. Without a rule here nothing ever goes by itself. Ages are days, counted from the newest
    record of a segment; what is under a hold stays, whatever a rule says."""

    content_days: Days | None = Field(
        default=None,
        description="what clients sent and saw goes (bytes of answers, COPY input, terminals, messages, bodies); who, "
        "what, when, decisions, counts and outcomes stay",
    )
    commands_days: Days | None = Field(
        default=None,
        description="what identities did goes (sessions, commands, answers, approvals, alerts, refusals); what the "
        "gateway and its administrators did stays",
    )
    segments_days: Days | None = Field(
        default=None, description="everything goes: a signed tombstone stays in place of a whole segment"
    )
    max_bytes: Annotated[Whole, Field(ge=1 << 20)] | None = Field(
        default=None,
        description="largest size of the journal on the disk; beyond it the oldest segments go, none younger than "
        "`keep_days`",
    )
    keep_days: Days = Field(
        default=7.0, description="nothing younger ever goes, by no rule and on nobody's word: no flood, no erasure"
    )
    warn_percent: Annotated[Number, Field(ge=1, le=100)] = Field(
        default=90.0, description="alert when the disk, or `max_bytes`, is so full"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        given = [
            (name, days)
            for name in ("content_days", "commands_days", "segments_days")
            if (days := getattr(self, name)) is not None
        ]
        for (one, fewer), (other, more) in itertools.pairwise(given):
            if fewer > more:
                raise ValueError(f"`{one}` is longer than `{other}`, which takes the same away, and more")
        for name, days in given:
            if days < self.keep_days:
                raise ValueError(f"`{name}` is shorter than `keep_days` ({self.keep_days:g}): make that shorter, too")
        return self


class RecordConfig(Model):
    """The journal."""

    max_response_bytes: Annotated[Whole, Field(ge=0, le=1 << 30)] = Field(
        default=65536, description="how much of one response is kept, as the client saw it"
    )
    segment_bytes: Annotated[Whole, Field(ge=65536, le=1 << 34)] = Field(
        default=67108864, description="size at which a new journal segment begins"
    )
    segment_seconds: Annotated[Number, Field(ge=60, le=31536000)] = Field(
        default=86400, description="age at which a new one begins; retention takes from finished segments only"
    )
    durability: Literal["write", "strict"] = Field(
        default="write",
        description="`write`: survives a killed gateway; `strict`: also a killed machine (fsync before forwarding)",
    )
    checkpoint_every: Annotated[Whole, Field(ge=1, le=1000000)] = Field(
        default=1000, description="signed checkpoint after so many records"
    )
    checkpoint_seconds: Annotated[Number, Field(gt=0, le=3600)] = Field(
        default=10, description="signed checkpoint at least so often while there are new records"
    )
    retention: RetentionConfig = Field(default=RetentionConfig(), description="how long records stay")

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        most = self.retention.max_bytes
        if most is not None and most < 2 * self.segment_bytes:
            raise ValueError("`retention.max_bytes` must have room for two segments: see `segment_bytes`")
        return self


class LimitsConfig(Model):
    """What is bounded, and by how much."""

    max_connections: Annotated[Whole, Field(ge=1, le=1000000)] = Field(
        default=2000, description="client connections at a time; further ones get the protocol's own error"
    )
    inspect_max_bytes: Annotated[Whole, Field(ge=1024, le=1 << 30)] = Field(
        default=16777216, description="largest command that is judged; a larger one is denied"
    )
    inspect_body_bytes: Annotated[Whole, Field(ge=1024, le=1 << 32)] = Field(
        default=67108864,
        description="largest HTTP body that is judged whole; a larger one needs a rule that allows `http.stream`",
    )
    hold_buffer_bytes: Annotated[Whole, Field(ge=1024, le=1 << 24)] = Field(
        default=65536, description="what a held client may still send before its socket is not read any more"
    )
    auth_timeout: Annotated[Number, Field(gt=0, le=600)] = Field(
        default=30, description="longest time from connection to the end of the login"
    )
    hold_timeout: Annotated[Number, Field(gt=0, le=86400)] = Field(
        default=600, description="longest hold; a rule may ask for less, never for more"
    )
    busy_poll: Annotated[Number, Field(ge=0, le=0.01)] = Field(
        default=0.0001,
        description="how long the event loop stays awake after bytes of a database session, at the price of CPU time; "
        "0: not at all",
    )


class NotifyConfig(Model):
    """A webhook that is told what happened. Deliveries are signed and retried."""

    url: Url = Field(description="where to send; https, or http on loopback")
    ca: FilePath | None = Field(default=None, description="CA bundle (PEM) to verify it with; null: the system's")
    secret: SecretRef = Field(description="key of the HMAC-SHA256 signature")
    events: Annotated[tuple[NotifyEvent, ...], AfterValidator(not_empty)] = Field(
        default=("approval.requested", "alert"), description="what to send"
    )


class Config(Model):
    """A whole gateway configuration."""

    version: Literal[1] = Field(description="version of this format")
    state_dir: FilePath = Field(
        default=Path("var"), description="journal, state, index, control socket and the gateway's own CA"
    )
    listeners: Annotated[tuple[ListenerConfig, ...], AfterValidator(not_empty)] = Field(
        description="ports that clients connect to"
    )
    resources: Annotated[tuple[ResourceConfig, ...], AfterValidator(not_empty)] = Field(
        description="servers behind them"
    )
    issuers: Annotated[tuple[IssuerConfig, ...], AfterValidator(not_empty)] = Field(
        description="whose tokens are accepted"
    )
    policies: Annotated[tuple[FilePath, ...], AfterValidator(not_empty)] = Field(
        description="policy bundles; the strictest rule of all of them decides"
    )
    roles: RolesConfig = Field(default=RolesConfig(), description="who may do what through the control socket")
    control: ControlConfig = Field(default=ControlConfig(), description="where that socket is, and who may connect")
    record: RecordConfig = Field(default=RecordConfig(), description="the journal")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="bounds")
    notify: tuple[NotifyConfig, ...] = Field(default=(), description="webhooks")

    _path: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any, /) -> None:
        """Remember where the document came from, when a loader says so."""
        if isinstance(context, dict) and "path" in context:
            self._path = context["path"]

    @property
    def control_path(self) -> Path:
        """Where the control socket is."""
        return self.control.path or self.state_dir / "control.sock"

    @property
    def path(self) -> Path:
        """The file that this configuration was read from."""
        return self._path

    def resource(self, name: str) -> ResourceConfig:
        """The resource of that name; raises KeyError."""
        for resource in self.resources:
            if resource.name == name:
                return resource
        raise KeyError(name)
