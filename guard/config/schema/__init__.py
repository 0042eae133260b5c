"""What a gateway configuration may say. The reference in docs/ is generated from these models and their descriptions.

Relative paths are relative to the configuration file. Durations are seconds, sizes are bytes. A secret has no field
here that could hold it: there are only references to where it is. One module per section; they are imported from here.
"""

from guard.config.schema.gateway import Config, LimitsConfig, MetricsConfig, NotifyConfig
from guard.config.schema.identities import ControlConfig, IssuerConfig, RoleMembers, RolesConfig
from guard.config.schema.listeners import ListenerConfig, ListenerTls
from guard.config.schema.record import RecordConfig, RetentionConfig
from guard.config.schema.resources import CatalogConfig, HttpAuth, ResourceConfig, UpstreamTls
from guard.config.schema.secrets import Credential, SecretRef

__all__ = [
    "CatalogConfig",
    "Config",
    "ControlConfig",
    "Credential",
    "HttpAuth",
    "IssuerConfig",
    "LimitsConfig",
    "ListenerConfig",
    "ListenerTls",
    "MetricsConfig",
    "NotifyConfig",
    "RecordConfig",
    "ResourceConfig",
    "RetentionConfig",
    "RoleMembers",
    "RolesConfig",
    "SecretRef",
    "UpstreamTls",
]
