"""Where secrets are kept. No field can hold one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from guard.config.schema.types import FilePath, Model, Text, Url, Variable
from guard.config.values import absolute

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
    name: Variable | None = Field(default=None, description="`env`: the variable's name")
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
    name: Variable | None = Field(default=None, description="`env`: the variable's name")
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
