"""From the first byte to the greeting, as transcripts."""

from __future__ import annotations

import itertools
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.contract import (
    Authenticate,
    Cancel,
    KeepKey,
    ListenerTerms,
    PeerGone,
    Permit,
    Refused,
    StartTls,
    TlsFacts,
    WireError,
)
from protocols.postgres import handshake
from protocols.postgres.framing import CANCEL_REQUEST, GSSENC_REQUEST, SSL_REQUEST
from tests.support import wire
from tests.support.examples import examples
from tests.support.handshake import NONCE, Played, admitted, play

SSL, GSS = wire.request(SSL_REQUEST), wire.request(GSSENC_REQUEST)
START = wire.startup(user="ada", database="shop", application_name="job")
TOKEN = wire.message("p", wire.text("header.body.signature"))
OK = wire.message("R", b"\0\0\0\0")
KEY = wire.message("K", struct.pack("!I", 99) + b"upstream")
GREETING = OK + wire.parameter("server_version", "18.0") + KEY + wire.ready()


def serve(*client: bytes, tls: str = "optional", oauth: bool = False, **more: object) -> Played:
    terms = ListenerTerms(tls, oauth, "https://idp/.well-known/openid-configuration", "openid")
    upstream = more.pop("upstream", [GREETING])
    return play(handshake.serve(terms, NONCE), client, upstream, **more)  # type: ignore[arg-type]  # as `play` has them


def fatal(played: Played, code: str) -> str:
    assert isinstance(played.error, (WireError, Refused)), played.error
    assert played.result is None
    assert "Connect" not in played.names
    (found,) = wire.errors(played.client[played.client.rfind(b"E\0") :])
    assert (found["S"], found["C"]) == ("FATAL", code)
    return found["M"]


def test_a_login_in_the_clear() -> None:
    played = serve(START, TOKEN)
    assert played.names == ["Authenticate", "Connect", "KeepKey", "Register"]
    assert played.asked[0] == Authenticate("header.body.signature", "ada", "shop", "job")
    assert played.asked[2] == KeepKey(99, b"upstream", 4)
    assert wire.kinds(played.client) == "RRSKZ"
    assert b"upstream" not in played.client  # the client gets a key of ours
    assert wire.message("K", struct.pack("!I", 4711) + b"kkkk") in played.client
    assert played.result.state.encoding == "UTF8"


def test_what_the_upstream_gets_is_ours() -> None:
    played = serve(START, TOKEN)
    sent = played.upstream
    assert b"user\0app\0" in sent
    assert b"ada" not in sent
    assert b"header.body.signature" not in sent
    assert b"application_name\0job\0" in sent
    assert b"client_encoding\0UTF8\0" in sent


def test_tls_first() -> None:
    played = serve(SSL, START, TOKEN, tls="required")
    assert played.client.startswith(b"S")
    assert played.names == ["StartTls", "Authenticate", "Connect", "KeepKey", "Register"]


def test_tls_to_the_upstream() -> None:
    played = serve(START, TOKEN, admission=admitted(tls=True), upstream=[b"S", GREETING])
    assert played.upstream.startswith(SSL)
    assert played.names[-3:] == ["StartTls", "KeepKey", "Register"]
    for answer in (b"N", b"E", b"SX"):
        played = serve(START, TOKEN, admission=admitted(tls=True), upstream=[answer, GREETING])
        assert isinstance(played.error, Refused)
        assert b"upstream-secret" not in played.upstream
        assert b"user" not in played.upstream


def test_direct_tls_needs_alpn() -> None:
    hello = b"\x16\3\1\2\0hello"
    played = serve(hello, START, TOKEN)
    assert played.asked[0] == StartTls(played.asked[0].side, "postgresql", hello)
    assert played.error is None
    for alpn in (None, "h2"):
        facts = TlsFacts("TLSv1.3", alpn, None)
        assert "postgresql" in fatal(serve(hello, START, TOKEN, facts=facts), "08P01")


def test_row_06_gss_encryption_is_refused_and_tls_still_possible() -> None:
    played = serve(GSS, SSL, START, TOKEN)
    assert played.client.startswith(b"NS")
    assert played.error is None


@pytest.mark.parametrize("first", [SSL, GSS])
def test_row_05_cleartext_stuffed_behind_an_encryption_request(first: bytes) -> None:
    played = serve(first + START, TOKEN)
    fatal(played, "08P01")
    assert played.asked == []


@pytest.mark.parametrize("second", [SSL, GSS])
def test_an_encryption_request_inside_tls(second: bytes) -> None:
    fatal(serve(SSL, second, START), "08P01")


def test_where_tls_is_required_no_token_is_asked_for_in_the_clear() -> None:
    played = serve(START, TOKEN, tls="required")
    fatal(played, "28000")
    assert wire.kinds(played.client) == "E"


def test_where_tls_is_off_it_is_not_offered() -> None:
    assert serve(SSL, START, TOKEN, tls="off").client.startswith(b"N")
    fatal(serve(b"\x16\3\1\2\0hello", tls="off"), "08P01")


@pytest.mark.parametrize(("minor", "kinds"), [(0, "RRSKZ"), (2, "RRSKZ"), (3, "vRRSKZ"), (9999, "vRRSKZ")])
def test_protocol_versions(minor: int, kinds: str) -> None:
    played = serve(wire.startup((3 << 16) | minor, user="ada"), TOKEN)
    assert wire.kinds(played.client) == kinds
    kept = next(asked for asked in played.asked if isinstance(asked, KeepKey))
    assert kept.length == (32 if minor >= 2 else 4)


@pytest.mark.parametrize("code", [2 << 16, 4 << 16, 0, 1234 << 16 | 5681])
def test_other_protocols_are_refused(code: int) -> None:
    assert fatal(serve(wire.startup(code, user="ada"), TOKEN), "0A000")


def test_row_06_protocol_extensions_are_not_offered() -> None:
    played = serve(wire.startup(3 << 16, user="ada", **{"_pq_.compression": "zstd"}), TOKEN)
    assert wire.kinds(played.client)[0] == "v"
    assert b"_pq_.compression\0" in played.client
    assert b"_pq_" not in played.upstream


@pytest.mark.parametrize(
    "parameters",
    [
        {"options": "-crole=r_admin"},
        {"options": "--session_preload_libraries=x"},
        {"role": "r_admin"},
        {"replication": "true"},
        {"replication": "database"},
        {"session_authorization": "postgres"},
        {"client_encoding": "SJIS"},
    ],
    ids=str,
)
def test_row_14_startup_parameters_that_change_meaning_are_refused(parameters: dict[str, str]) -> None:
    """wp-020, wp-021, wp-022 and their like."""
    played = serve(wire.startup(3 << 16, user="ada", **parameters), TOKEN)
    assert next(iter(parameters)) in fatal(played, "42501")
    assert played.asked == []


def test_row_14_what_set_would_do_waits_for_leave_and_goes_up_only_with_it() -> None:
    start = wire.startup(3 << 16, user="ada", search_path="evil", options="-c statement_timeout=5000")
    played = serve(start, TOKEN)
    assert played.error is None
    assert played.names == ["Authenticate", "Permit", "Permit", "Connect", "KeepKey", "Register"]
    assert b"search_path\0evil\0" in played.upstream
    assert b"statement_timeout\x005000\0" in played.upstream
    assert played.result.state._setting("search_path") == ("evil", True)
    for number in (0, 1):
        asked: list[Permit] = []

        def permit(one: Permit, asked: list[Permit] = asked, number: int = number) -> Exception | None:
            asked.append(one)
            return Refused("startup setting refused by rule `r`", "42501") if len(asked) > number else None

        played = serve(start, TOKEN, permit=permit)
        assert "rule `r`" in fatal(played, "42501")
        assert played.upstream == b"", "nothing was connected"


def test_no_user() -> None:
    fatal(serve(wire.startup(3 << 16, database="shop"), TOKEN), "28000")


def test_a_refused_token_is_told_and_nothing_is_connected() -> None:
    played = serve(START, TOKEN, admission=Refused("authentication failed: expired", "28P01"))
    assert fatal(played, "28P01") == "authentication failed: expired"
    assert played.upstream == b""


@pytest.mark.parametrize(
    "message",
    [
        wire.message("p", b""),
        wire.message("p", b"no end"),
        wire.message("p", b"two\0strings\0"),
        wire.query("SELECT 1"),
        b"p\0\0\0\3",
        b"p\xff\xff\xff\xff",
        b"p" + struct.pack("!I", 70_000),
    ],
)
def test_what_is_no_password_message(message: bytes) -> None:
    fatal(serve(START, message), "08P01")


def test_commands_behind_the_password_are_kept_for_the_session() -> None:
    played = serve(START + TOKEN + wire.query("SELECT 1"))
    assert played.result.client == wire.query("SELECT 1")


@pytest.mark.parametrize("lie", [OK + wire.message("Z", b"X"), OK + wire.row(b"1"), wire.ready()])
def test_an_upstream_that_lies_is_not_the_client_s_fault(lie: bytes) -> None:
    played = serve(START, TOKEN, upstream=[lie])
    assert isinstance(played.error, Refused)
    (found,) = wire.errors(played.client[played.client.rfind(b"E\0") :])
    assert found["C"] == "08001"
    assert "upstream" in found["M"]


def test_a_flood_before_the_login_ends_it() -> None:
    played = serve(START, *[b"p\0\0\xff\xff" + b"x" * 60_000] * 50)
    assert played.error is not None


def test_cancel_requests() -> None:
    for secret in (b"1234", b"s" * 32, b"s" * 256):
        played = serve(wire.request(CANCEL_REQUEST, struct.pack("!I", 7) + secret), tls="required")
        assert played.asked == [Cancel(7, secret)]
        assert (played.client, played.result, played.error) == (b"", None, None)
    for body in (b"", b"\0\0\0\7", struct.pack("!I", 7) + b"s" * 257):
        fatal(serve(wire.request(CANCEL_REQUEST, body)), "08P01")
    fatal(serve(wire.request(CANCEL_REQUEST, b"\0\0\0\7key!") + b"more"), "08P01")


def bearer(text: bytes) -> bytes:
    return wire.message("p", b"OAUTHBEARER\0" + struct.pack("!I", len(text)) + text)


def test_oauthbearer() -> None:
    played = serve(START, bearer(b"n,,\1auth=Bearer a.b.c\1\1"), oauth=True)
    assert played.asked[0].token == "a.b.c"
    assert played.error is None
    played = serve(START, bearer(b"n,,\1auth=\1\1"), wire.message("p", b"\1"), oauth=True)
    answer = json.loads(wire.split(played.client)[1][1][4:])
    assert answer["openid-configuration"] == "https://idp/.well-known/openid-configuration"
    fatal(played, "28000")


@pytest.mark.parametrize(
    "message",
    [
        wire.message("p", b"SCRAM-SHA-256\0\0\0\0\0"),
        wire.message("p", b"OAUTHBEARER\0\0\0\0\x09x"),
        bearer(b""),
        bearer(b"p=tls-unique,,\1auth=Bearer a\1\1"),
        bearer(b"n,,\1auth=Basic a\1\1"),
        bearer(b"n,,\1auth=Bearer a"),
        bearer(b"n,,\1auth\1\1"),
    ],
)
def test_malformed_oauthbearer(message: bytes) -> None:
    fatal(serve(START, message, oauth=True), "08P01")


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(st.sampled_from([SSL, GSS, START, TOKEN, b"\x16\3\1", b"\0"]) | st.binary(max_size=40), max_size=5))
def test_arbitrary_openings_end_in_words_or_in_a_session(parts: list[bytes]) -> None:
    played = serve(*(p for p in parts if p))
    assert played.error is None or isinstance(played.error, (WireError, Refused, PeerGone))
    assert "Connect" not in played.names or b"".join(parts).count(TOKEN) >= 1


@given(st.lists(st.integers(0, 100), max_size=8))
def test_any_pieces_are_the_same_login(places: list[int]) -> None:
    data = START + TOKEN + wire.query("SELECT 1")
    at = sorted({p % (len(data) + 1) for p in places} | {0, len(data)})
    played = serve(*(data[a:b] for a, b in itertools.pairwise(at) if a != b))
    whole = serve(data)
    assert played.client == whole.client
    assert played.asked == whole.asked
