"""What a configuration must know of each wire protocol: the guard imports none; a test compares with the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WireFacts:
    port: int  # of a server, where none is configured
    client_auth: tuple[str, ...]  # how a client can send its token
    one_database: bool  # a connection sees one database only, and cannot do without; else it is where names begin


WIRE: Mapping[str, WireFacts] = {
    "postgres": WireFacts(5432, ("password", "oauth"), one_database=True),
    "mysql": WireFacts(3306, ("password",), one_database=False),
    "http": WireFacts(443, ("password",), one_database=False),
    "kubernetes": WireFacts(6443, ("password",), one_database=False),
}
