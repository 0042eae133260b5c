"""The control API: what people and pipelines may ask of a running gateway, over a Unix socket.

Newline-delimited JSON. Each request carries the caller's own token; it is verified each time, the caller's roles are
checked against the method's, and the call is recorded before it is carried out. `wire` says shape, `roles` who may do
what, `server` when, `handlers` what; `client` is for the command line.

INVARIANT: no method without a required role in `roles.METHODS`; no call that is not recorded.
INVARIANT: importing this package imports none of its modules: the command line needs `client` within milliseconds, and
`handlers` bring a database with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guard.control.client import ControlClient
    from guard.control.evidence import Evidence
    from guard.control.handlers import Handlers, LiveSessions
    from guard.control.roles import METHODS, Roles
    from guard.control.server import ControlServer, Handler
    from guard.control.wire import ControlError, Unreachable

_HOMES = {
    "ControlClient": "client",
    "Evidence": "evidence",
    "Handlers": "handlers",
    "LiveSessions": "handlers",
    "METHODS": "roles",
    "Roles": "roles",
    "ControlServer": "server",
    "Handler": "server",
    "ControlError": "wire",
    "Unreachable": "wire",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


__all__ = [
    "METHODS",
    "ControlClient",
    "ControlError",
    "ControlServer",
    "Evidence",
    "Handler",
    "Handlers",
    "LiveSessions",
    "Roles",
    "Unreachable",
]
