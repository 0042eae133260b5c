"""The capability flags of both servers, and which of them the gateway lets a connection have.

The low 32 bits are MySQL's, the next 32 MariaDB's extended ones, which a server of MariaDB announces by leaving
LONG_PASSWORD unset ("Protocol::Handshake", MariaDB's "Connection: capabilities").

INVARIANT: both legs of a session speak the same variant, so that a packet of one leg means the same on the other.
"""

from __future__ import annotations

import enum


class Capability(enum.IntFlag):
    LONG_PASSWORD = 1  # MariaDB calls it CLIENT_MYSQL: unset, the peer is a MariaDB that has extended capabilities
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    NO_SCHEMA = 1 << 4
    COMPRESS = 1 << 5
    ODBC = 1 << 6
    LOCAL_FILES = 1 << 7
    IGNORE_SPACE = 1 << 8
    PROTOCOL_41 = 1 << 9
    INTERACTIVE = 1 << 10
    SSL = 1 << 11
    IGNORE_SIGPIPE = 1 << 12
    TRANSACTIONS = 1 << 13
    RESERVED = 1 << 14
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PS_MULTI_RESULTS = 1 << 18
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    PLUGIN_AUTH_LENENC = 1 << 21
    CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22
    SESSION_TRACK = 1 << 23
    DEPRECATE_EOF = 1 << 24
    OPTIONAL_RESULTSET_METADATA = 1 << 25
    ZSTD = 1 << 26
    QUERY_ATTRIBUTES = 1 << 27
    MULTI_FACTOR = 1 << 28
    EXTENSION = 1 << 29
    SSL_VERIFY_SERVER_CERT = 1 << 30
    REMEMBER_OPTIONS = 1 << 31
    MARIADB_PROGRESS = 1 << 32
    MARIADB_COM_MULTI = 1 << 33
    MARIADB_BULK = 1 << 34
    MARIADB_EXTENDED_METADATA = 1 << 35
    MARIADB_CACHE_METADATA = 1 << 36
    MARIADB_BULK_UNIT_RESULTS = 1 << 37


C = Capability

# What a connection cannot do without.
REQUIRED = C.PROTOCOL_41 | C.SECURE_CONNECTION | C.PLUGIN_AUTH

# What may be offered where the upstream offers it, and then holds on both legs alike.
SHARED = (
    C.LONG_PASSWORD
    | C.FOUND_ROWS
    | C.LONG_FLAG
    | C.IGNORE_SPACE
    | C.INTERACTIVE
    | C.TRANSACTIONS
    | C.MULTI_STATEMENTS
    | C.MULTI_RESULTS
    | C.PS_MULTI_RESULTS
    | C.SESSION_TRACK
    | C.DEPRECATE_EOF
)

# What the gateway speaks on each leg by itself, whatever the other says.
OWN = REQUIRED | C.CONNECT_WITH_DB | C.CONNECT_ATTRS | C.PLUGIN_AUTH_LENENC | C.RESERVED

# What changes how a client reads: one that claims one of these without an offer would misread the session, and is
# refused. Other claims without an offer mean nothing and are dropped, as the servers do: what both legs speak is agreed
# alone (MySQL's own client library claims QUERY_ATTRIBUTES and MULTI_FACTOR always, and uses neither without an offer).
SHAPING = (
    C.COMPRESS
    | C.ZSTD
    | C.SESSION_TRACK
    | C.DEPRECATE_EOF
    | C.OPTIONAL_RESULTSET_METADATA
    | C.EXTENSION
    | C.MARIADB_PROGRESS
    | C.MARIADB_COM_MULTI
    | C.MARIADB_BULK
    | C.MARIADB_EXTENDED_METADATA
    | C.MARIADB_CACHE_METADATA
    | C.MARIADB_BULK_UNIT_RESULTS
)


def offered(upstream: Capability, *, tls: bool, local_files: bool = False) -> Capability:
    """What the greeting offers a client, given what the upstream's greeting offers the gateway.

    `local_files`: LOAD DATA LOCAL, in which the server asks the client for a file.
    """
    shared = upstream & (SHARED | C.LOCAL_FILES if local_files else SHARED)
    return shared | OWN | (C.SSL if tls else C(0))


def agreed(offer: Capability, claimed: Capability) -> Capability:
    """What holds on the client's leg: what was offered and taken."""
    return offer & claimed


def unoffered(offer: Capability, claimed: Capability) -> Capability:
    """Claims that cannot be let pass: they change the shape of packets and were not offered."""
    return claimed & ~offer & SHAPING


def names(flags: Capability) -> str:
    """Flags as a list for people, in lower case."""
    return ", ".join((f.name or "unknown").lower() for f in Capability if f in flags)
