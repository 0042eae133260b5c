"""A whole configuration, with what is bounded and who is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr

from guard.config.schema.identities import ControlConfig, IssuerConfig, RolesConfig
from guard.config.schema.listeners import ListenerConfig
from guard.config.schema.record import RecordConfig
from guard.config.schema.resources import ResourceConfig
from guard.config.schema.secrets import SecretRef
from guard.config.schema.types import Address, FilePath, Flag, Model, Number, Url, Whole
from guard.config.values import split_address
from guard.documents.values import not_empty

NotifyEvent = Literal["approval.requested", "approval.decided", "containment", "alert"]


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


class MetricsConfig(Model):
    """A port where Prometheus reads figures of this gateway at `/metrics`. Without this section there is none."""

    listen: Address = Field(
        description="`address:port`, `[::1]:port` for IPv6; port 0 takes a free one. Whoever can reach it can read "
        "names of resources, listeners and issuers, and how much is going on; nothing of people"
    )
    insecure_plaintext: Flag = Field(
        default=False, description="accept that; needed on an address that is not loopback"
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return split_address(self.listen)


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
    metrics: MetricsConfig | None = Field(default=None, description="figures for Prometheus; null: none")

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
