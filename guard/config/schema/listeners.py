"""`listeners`: the ports that clients connect to."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from guard.config.schema.types import Address, FilePath, Flag, Model, Name, Number
from guard.config.values import split_address
from protocols import contract


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
        facts = contract.WIRE[self.protocol]
        if self.local_files and not facts.local_files:
            raise ValueError(f"`local_files` does not exist in {self.protocol}: leave it out here")
        if self.client_auth not in facts.client_auth:
            able = ", ".join(facts.client_auth)
            raise ValueError(f"`client_auth: {self.client_auth}` does not exist in {self.protocol}; it has: {able}")
        return self

    @property
    def host(self) -> str:
        """The address part of `listen`."""
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return split_address(self.listen)[1]
