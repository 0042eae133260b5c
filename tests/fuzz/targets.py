"""What is fuzzed: functions of bytes that raise where something is wrong, and only there.

Each says in its asserts what must hold for any input. `TARGETS` names them; `tests/fuzz/corpus/NAME` are their seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from protocols.contract import ListenerTerms, Outcome, PeerGone, Refused, WireError
from protocols.postgres import handshake as handshakes
from protocols.postgres import login as logins
from protocols.postgres.errors import ProtocolError
from protocols.postgres.framing import BACKEND, FRONTEND, Framer
from protocols.postgres.render import render
from protocols.postgres.scram import SCRAM, ScramClient
from protocols.postgres.state import SessionState
from protocols.postgres.statements import analyse, shape_key
from tests.fuzz import mysql_wire
from tests.support import wire
from tests.support.handshake import NONCE, admitted, play
from tests.support.talk import SSN, Talk, catalog

SECRET = b"078-05-1120"
DENIED = b"DROP TABLE"


def pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(operation, payload): a byte says which and how long, in turn."""
    at = 0
    while at + 2 <= len(data):
        operation, size = data[at], data[at + 1]
        yield operation, data[at + 2 : at + 2 + size]
        at += 2 + size


def framer(data: bytes) -> None:
    """Whole messages come out whole, however the bytes are cut; what is not whole is kept."""
    used, out = Framer(FRONTEND if data[:1] < b"\x80" else BACKEND, {ord("d"): 64}, 256), b""
    fed = 0
    try:
        for _, part in pieces(data):
            if used.large:
                taken = min(used.large, len(part))
                used.large -= taken
                out, part, fed = out + part[:taken], part[taken:], fed + taken
                if not part:
                    continue
            fed += len(part)
            buf, found, end = used.feed(part)
            for _, start, stop in found:
                out += buf[start : min(stop, end)]
            assert len(out) + used.buffered == fed
    except ProtocolError:
        return


def texts(sent: bytes) -> Iterator[bytes]:
    """The statements in a stream of client messages."""
    at = 0
    while at + 5 <= len(sent):
        end = at + 1 + int.from_bytes(sent[at + 1 : at + 5])
        if sent[at : at + 1] in b"QP":
            yield sent[at + 5 : end].split(b"\0")[0 if sent[at : at + 1] == b"Q" else 1]
        at = end


def session(data: bytes) -> None:
    """A whole session between two liars: it raises nothing, leaks nothing, and sends nothing that was denied."""
    masked = bool(data[:1] and data[0] & 1)
    talk = Talk(masks=[SSN] if masked else [], inspect_max=4096)
    sent = b""
    for operation, part in pieces(data[1:]):
        kind = operation % 8
        if kind < 3:
            talk.session.client(part)
        elif kind < 6:
            talk.session.server(part.replace(SECRET, b"") if not masked else part)
            talk.session.catch_up()
        elif kind == 6:
            talk.session.resume([Outcome.APPROVED, Outcome.DENIED, None][operation % 3])
        else:
            talk.port.epoch = object()
        sent += talk.up()
        talk.down()
    assert not any(text.lstrip().upper().startswith(DENIED) for text in texts(sent))
    if talk.ended:
        assert talk.client(wire.query("SELECT 1")) == b""
        assert talk.server(wire.ready()) == b""


@functools.cache
def _state() -> SessionState:
    state = SessionState()
    state.startup({"user": "app", "client_encoding": "UTF8"})
    return state


def statements(data: bytes) -> None:
    """Any text gets an analysis; what does not parse is unknown; a shape never makes two texts one that differ."""
    found = analyse(data, _state(), catalog())
    assert found.analysis.effects or found.analysis.kind == "empty"
    shape = shape_key(data)
    if shape is not None:
        again = analyse(data, _state(), catalog())
        assert again.analysis == found.analysis
    if b"\0" in data:
        assert found.analysis.unknown


def scram(data: bytes) -> None:
    """A challenge and a final message of any form: an error of ours, or (with luck) an exchange that is refused."""
    client = ScramClient("secret", NONCE, b"binding" if data[:1] > b"\x7f" else None, [SCRAM])
    client.first()
    first, _, final = data[1:].partition(b"\n")
    try:
        client.final(first.replace(b"NONCE", client.first().rpartition(b"r=")[2]))
        client.verify(final)
    except ProtocolError:
        return
    raise AssertionError("a server proved a password that it does not know")


_EXPECTED = (WireError, Refused, PeerGone)


def handshake(data: bytes) -> None:
    """A client of any kind: words or a session; nothing is connected before a token was taken."""
    modes = ["optional", "required", "off"]
    mode = modes[data[0] % 3] if data else "required"
    terms = ListenerTerms(mode, data[:1] > b"\x7f", "https://idp/d", "openid")
    greeting = wire.message("R", b"\0\0\0\0") + wire.ready()
    played = play(handshakes.serve(terms, NONCE), [p for _, p in pieces(data[1:]) if p], [greeting])
    assert played.error is None or isinstance(played.error, _EXPECTED), played.error
    if "Connect" in played.names:
        assert "Authenticate" in played.names[: played.names.index("Connect")]
    if terms.tls == "required" and "Authenticate" in played.names:
        assert "StartTls" in played.names


def login(data: bytes) -> None:
    """An upstream of any kind: an error of ours or a login; the password goes only to who asks for one."""
    parts = [p for _, p in pieces(data) if p]
    played = play(logins.log_in(admitted().credential, {"user": "app"}, None, NONCE), [], parts)
    assert played.error is None or isinstance(played.error, _EXPECTED), played.error
    if b"upstream-secret" in played.upstream:
        assert b"\0\0\0\3" in b"".join(parts)


def rendering(data: bytes) -> None:
    """Recorded bytes of any form become lines."""
    assert all(isinstance(line, str) for line in render(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "framer": framer,
    "session": session,
    "statements": statements,
    "scram": scram,
    "handshake": handshake,
    "login": login,
    "rendering": rendering,
    "mysql_framer": mysql_wire.framer,
    "mysql_messages": mysql_wire.messages,
    "mysql_client": mysql_wire.client,
    "mysql_upstream": mysql_wire.upstream,
}
