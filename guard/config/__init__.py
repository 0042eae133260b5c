"""The gateway's configuration: one strict YAML file, immutable once read.

`load` gives a `Config` or raises `ConfigError` with every problem; `check` gives the problems and the warnings. Both
read the policies that the file names, too: a gateway whose rules do not load must not start.

INVARIANT: no secret is ever in a `Config`: only references to where one is kept.
"""

from guard.config.loader import check, load
from guard.config.schema import (
    CatalogConfig,
    Config,
    Credential,
    IssuerConfig,
    LimitsConfig,
    ListenerConfig,
    ListenerTls,
    NotifyConfig,
    RecordConfig,
    ResourceConfig,
    RoleMembers,
    RolesConfig,
    SecretRef,
    UpstreamTls,
)
from guard.documents import ConfigError, Problem

__all__ = [
    "CatalogConfig",
    "Config",
    "ConfigError",
    "Credential",
    "IssuerConfig",
    "LimitsConfig",
    "ListenerConfig",
    "ListenerTls",
    "NotifyConfig",
    "Problem",
    "RecordConfig",
    "ResourceConfig",
    "RoleMembers",
    "RolesConfig",
    "SecretRef",
    "UpstreamTls",
    "check",
    "load",
]
