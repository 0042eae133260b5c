"""Runs a protocol's handshake generator: does the waiting that it asks for (see `protocols.contract`)."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from addons.leg import Leg
from protocols.contract import PeerGone, Receive, Refused, Send, Side, StartTls

log = logging.getLogger("sluicegate.wire")

Ask = Callable[[Any], Awaitable[Any]]


async def drive[T](
    handshake: Generator[Any, Any, T],
    leg: Callable[[Side], Leg],
    tls: Callable[[StartTls], tuple[ssl.SSLContext, bool, str | None]],
    ask: Ask,
) -> T:
    """Returns what the generator returns; raises what it raises.

    `leg` gives the leg of a side, `tls` the context, whether we are the server, and the name to verify; everything else
    goes to `ask`. What these raise is thrown into the generator where it asked.
    """
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            asked = handshake.throw(failure) if failure is not None else handshake.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        answer, failure = None, None
        try:
            if isinstance(asked, Receive):
                answer = await leg(asked.side).receive()
            elif isinstance(asked, Send):
                leg(asked.side).send(asked.data)
            elif isinstance(asked, StartTls):
                context, server_side, hostname = tls(asked)
                answer = await leg(asked.side).start_tls(
                    context, server_side=server_side, hostname=hostname, received=asked.received
                )
            else:
                answer = await ask(asked)
        except ssl.SSLError as e:
            if asked.side is Side.CLIENT:
                failure = PeerGone(f"TLS with the client failed: {e.reason or e}")
            else:
                failure = Refused("TLS with the upstream failed; the gateway's log says why", "08001")
                failure.__cause__ = e
        except (PeerGone, Refused) as e:
            failure = e
            if isinstance(e, PeerGone) and asked.__class__ in (Receive, StartTls) and asked.side is Side.UPSTREAM:
                failure = Refused("the upstream closed the connection during login", "08001")
                failure.__cause__ = e


def last_words(handshake: Generator[Any, Any, Any], why: Refused) -> bytes:
    """Ends a handshake that waits: what the protocol tells its client then. Only it knows what fits at this place."""
    out: list[bytes] = []
    try:
        asked = handshake.throw(why)
        while isinstance(asked, Send):
            if asked.side is Side.CLIENT:
                out.append(asked.data)
            asked = handshake.send(None)
        handshake.close()
    except (StopIteration, Refused):
        pass  # it has said what it had to say
    except Exception:
        log.exception("a handshake could not say why it ends")
    return b"".join(out)
