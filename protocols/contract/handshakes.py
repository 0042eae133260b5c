"""What a handshake asks its driver.

A handshake is a generator that yields one of these and is sent the answer (psycopg's way): the protocol says what it
waits for, `addons` does the waiting. A failure is thrown into the generator at the place that asked.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from protocols.contract.commands import Analysis, Principal, Resource


@dataclass(frozen=True, slots=True)
class ListenerTerms:
    """What a listener says about its clients."""

    tls: str  # required | optional | off
    oauth: bool = False
    discovery: str = ""  # OAUTHBEARER: where the issuer's configuration is
    scope: str = ""
    local_files: bool = False  # MySQL: the server may ask the client for a file, where a policy lets the statement pass


class Side(enum.Enum):
    CLIENT = "client"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Receive:
    """More bytes from this side: answered with at least one byte; the end of the stream throws `PeerGone`."""

    side: Side


@dataclass(frozen=True, slots=True)
class Send:
    side: Side
    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """TLS on this side from the next byte on; answered with `TlsFacts`. `received` are TLS bytes already read."""

    side: Side
    alpn: str | None = None
    received: bytes = b""


@dataclass(frozen=True, slots=True)
class TlsFacts:
    version: str
    alpn: str | None
    server_end_point: bytes | None  # RFC 5929 `tls-server-end-point` of the upstream's certificate


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Verify this token and open the resource to its principal; answered with `Admission`, or throws `Refused`."""

    token: str
    claimed_user: str
    database: str
    application: str
    attributes: tuple[tuple[str, str], ...] = ()  # what else the client says of itself: evidence, never a proof


@dataclass(frozen=True, slots=True)
class Permit:
    """May the identity that was let in do this, as part of its login? Answered with None, or throws `Refused`.

    `text` is the statement that would do it, for the record.
    """

    analysis: Analysis
    text: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the upstream connection (TCP only), once; throws `Refused` when that is not possible.

    It may come before `Authenticate`, where a client must be told what only the upstream knows; such connections of
    clients that nobody knows yet are few at a time, and more of them wait.
    """


@dataclass(frozen=True, slots=True)
class Credential:
    """What the gateway itself logs in with upstream. `repr` never shows the password."""

    username: str
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Admission:
    """An identity that was let in: how to log in upstream for it."""

    principal: Principal
    resource: Resource
    credential: Credential
    database: str
    upstream_tls: bool


@dataclass(frozen=True, slots=True)
class ReserveId:
    """The client is told its connection's id before it logs in; answered with that id, which `KeepKey` then keeps."""


@dataclass(frozen=True, slots=True)
class KeepKey:
    """The upstream's cancel key, to be kept; answered with `(pid, secret)`: the key that the client gets instead."""

    pid: int
    secret: bytes
    length: int  # bytes of secret that the client can take


@dataclass(frozen=True, slots=True)
class Register:
    """Both sides have agreed: enter the session in the registry, before the client is told that it is in.

    Answered with None, or throws `Refused`. Every handshake that ends with a handover has asked for it.
    """


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel request: this connection carries nothing else. Answered with None."""

    pid: int
    secret: bytes


class WireError(Exception):
    """Bytes that a protocol does not allow. The connection that sent them ends; the process goes on."""


class PeerGone(Exception):
    """The peer closed its side in the middle of a handshake."""


class Refused(Exception):
    """The gateway refuses. The text is for the client: lower case, no secrets; `code` is a SQLSTATE, which each
    protocol says in its own way."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class TlsNotOffered(Refused):
    """The upstream does not speak TLS."""


class CredentialRefused(Refused):
    """The upstream does not take the gateway's credential: it may have been rotated, and is to be read again."""
