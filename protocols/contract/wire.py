"""The protocols by name, and what a configuration must know of each: the guard itself imports none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# what configurations and policies may name: `registry.PROTOCOLS` has each wire protocol; HTTP has layers of its own
ProtocolName = Literal["postgres", "mysql", "http", "kubernetes"]
HTTP_PROTOCOLS = ("http", "kubernetes")


@dataclass(frozen=True, slots=True)
class WireFacts:
    port: int  # of a server, where none is configured
    client_auth: tuple[str, ...]  # how a client can send its token
    one_database: bool  # a connection sees one database only, and cannot do without; else it is where names begin
    local_files: bool = False  # its servers may ask a client for a file


WIRE: Mapping[str, WireFacts] = {
    "postgres": WireFacts(5432, ("password", "oauth"), one_database=True),
    "mysql": WireFacts(3306, ("password",), one_database=False, local_files=True),
    "http": WireFacts(443, ("password",), one_database=False),
    "kubernetes": WireFacts(6443, ("password",), one_database=False),
}
