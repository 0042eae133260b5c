"""What is fuzzed of MySQL before a session: packets, and both sides of a login. See `targets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from protocols.contract import ListenerTerms, PeerGone, Refused, Side, WireError
from protocols.mysql import auth, handshake, login
from protocols.mysql.capabilities import SHARED, Capability
from protocols.mysql.connection import AuthSwitch, Greeting, Response
from protocols.mysql.errors import ProtocolError
from protocols.mysql.exchange import Exchange
from protocols.mysql.framing import Framer, packet, payload
from protocols.mysql.messages import ColumnDefinition, Eof, Err, Ok, PrepareOk, StmtFetch, StmtId, StmtSendLongData
from protocols.mysql.parameters import StmtExecute
from protocols.mysql.rows import binary_row, text_row
from tests.support.handshake import NONCE, admitted, play
from tests.support.mysql_rows import encode_binary_row, encode_text_row

PASSWORD = b"upstream-secret"
_EXPECTED = (WireError, Refused, PeerGone)
_TRACKED, _PLAIN = Capability.SESSION_TRACK, Capability(0)


def pieces(data: bytes) -> Iterator[bytes]:
    """A byte says how long the next piece is."""
    at = 0
    while at < len(data):
        size = data[at]
        yield data[at + 1 : at + 1 + size]
        at += 1 + size


def framer(data: bytes) -> None:
    """No byte is lost or invented, however the stream is cut; what is not whole is kept, or passed over as large."""
    used = Framer(64, restart=bool(data[:1] and data[0] & 1))
    fed = out = 0
    try:
        for part in pieces(data[1:]):
            fed += len(part)
            if used.large:
                taken = used.skip(part)
                out, part = out + taken, part[taken:]
                if used.large:
                    continue
            buf, found, end = used.feed(part)
            for _, start, stop in found:
                out += stop - start
                if not used.large:
                    assert packet(buf[start + 3], payload(buf, start, stop)) == buf[start:stop]
            assert all(stop <= end for _, _, stop in found)
            if not used.large:
                assert out + used.buffered == fed
    except ProtocolError:
        return


def _execute(body: bytes) -> None:
    count = body[0] % 8 if body else 0
    made = StmtExecute.decode(body[1:], count)
    assert len(made.texts()) == count


def _binary(body: bytes) -> None:
    types = body[1 : 1 + (body[0] % 8 if body else 0)]
    row = binary_row(body[1 + len(types) :], types)
    assert binary_row(encode_binary_row(row, types), types) == row


def _text(body: bytes) -> None:
    columns = body[0] % 8 if body else 0
    row = text_row(body[1:], columns)
    assert text_row(encode_text_row(row), columns) == row


def _ok(capabilities: Capability) -> Callable[[bytes], None]:
    def check(body: bytes) -> None:
        ok = Ok.decode(body, capabilities)
        assert Ok.decode(ok.encode(capabilities), capabilities) == ok
        list(ok.tracked())

    return check


def _round(decode: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    def check(body: bytes) -> None:
        made = decode(body)
        assert decode(made.encode()) == made

    return check


_DECODERS: list[Callable[[bytes], None]] = [
    *map(
        _round, (Greeting.decode, Response.decode, AuthSwitch.decode, ColumnDefinition.decode, Eof.decode, Err.decode)
    ),
    *map(_round, (PrepareOk.decode, StmtFetch.decode, StmtId.decode, StmtSendLongData.decode)),
    _ok(_TRACKED),
    _ok(_PLAIN),
    _execute,
    _binary,
    _text,
]


def messages(data: bytes) -> None:
    """Any payload is refused with an error of ours, or read to its end, and what was read is written the same way."""
    try:
        _DECODERS[data[0] % len(_DECODERS) if data else 0](data[1:])
    except ProtocolError:
        return


class _Memory:
    def __init__(self, greeting: Greeting | None) -> None:
        self.greeting = greeting


_OFFERED = SHARED | Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION | Capability.PLUGIN_AUTH | Capability.SSL
_GREETING = Greeting(b"9.7.4", 0, bytes(range(1, 21)), _OFFERED, 45, 2, auth.CACHING_SHA2)


def client(data: bytes) -> None:
    """A client of any kind: an ERR packet or a session; where TLS is required nothing is verified without it."""
    mode = ["required", "optional", "off"][data[0] % 3] if data else "required"
    parts = [part for part in pieces(data[1:]) if part]
    played = play(handshake.serve(ListenerTerms(mode), NONCE, _Memory(_GREETING)), parts, [])
    assert isinstance(played.error, _EXPECTED), played.error  # no upstream answers: no session can come of it
    if "Connect" in played.names:
        assert "Authenticate" in played.names[: played.names.index("Connect")]
    if mode == "required" and "Authenticate" in played.names:
        assert "StartTls" in played.names


def upstream(data: bytes) -> None:
    """An upstream of any kind, without TLS: an error of ours or a login, and never the password in clear."""

    def log_in() -> Any:
        exchange = Exchange(Side.UPSTREAM)
        greeting = yield from login.read_greeting(exchange)
        ready = yield from login.log_in(exchange, greeting, admitted().credential, SHARED, tls=False, database="shop")
        return (yield from login.query(exchange, ready.capabilities, "SELECT 1"))

    played = play(log_in(), [], [part for part in pieces(data) if part])
    assert played.error is None or isinstance(played.error, (*_EXPECTED, login.QueryFailed)), played.error
    assert PASSWORD not in played.upstream
