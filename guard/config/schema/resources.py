"""`resources`: the servers behind the listeners, and how the gateway logs in to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from guard.config.schema.secrets import Credential
from guard.config.schema.types import FilePath, Flag, Host, Model, Name, Network, Number, ScopePart, Text, Whole
from guard.config.values import check_key_id
from protocols import contract


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


_PORTS = ", ".join(f"{name} {facts.port}" for name, facts in contract.WIRE.items())
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
    host: Host | None = Field(
        default=None,
        description="host name or address of the server; http without it: a forward proxy, to wherever policies allow",
    )
    port: Annotated[Whole, Field(ge=1, le=65535)] = Field(
        default=_OF_PROTOCOL,
        validate_default=False,
        description=f"its port; null: the protocol's own ({_PORTS})",
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
        if not isinstance(data, dict) or data.get("port") is not None:
            return data
        facts = contract.WIRE.get(str(data.get("protocol")))
        return data if facts is None else {**data, "port": facts.port}

    @model_validator(mode="after")
    def _has_database(self) -> Self:
        if self.database is None and contract.WIRE[self.protocol].one_database:
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
        return contract.WIRE[self.protocol].one_database

    def opens(self, database: str) -> bool:
        """Whether a client may ask for this database at its login."""
        return self.database is None or database == self.database or database in self.databases

    def as_resource(self, database: str | None = None) -> contract.Resource:
        """The value that policies and records see; `database` is what the client asked for."""
        return contract.Resource(self.name, self.protocol, dict(self.labels), database or self.database or "")
