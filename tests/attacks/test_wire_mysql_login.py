"""Attacks on MySQL's handshake: what would make bytes opaque, skip TLS, or get past the token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocols.contract import ListenerTerms, Refused
from protocols.mysql import auth, handshake
from protocols.mysql.capabilities import OWN, SHARED, Capability
from protocols.mysql.connection import Greeting, Response, ssl_request
from protocols.mysql.errors import ProtocolError
from protocols.mysql.framing import packet
from tests.support.handshake import NONCE, Played, play
from tests.support.mysql_login import Memory

C = Capability
FILE = Path(__file__).parent / "cases" / "wire.jsonl"
CASES = {case["id"]: case for case in map(json.loads, FILE.read_text().splitlines())}
EVERYTHING = C(0xFFFFFFFF)
CLAIMED = OWN | C.SSL | C.LONG_PASSWORD | C.MULTI_RESULTS
TOKEN = b"header.payload.signature\0"
HASH = b"\x5a" * 32


def client(claimed: Capability = CLAIMED, **more: bytes) -> list[bytes]:
    body = Response(claimed, 1 << 24, 45, b"ada", HASH, b"shop", auth.CACHING_SHA2).encode()
    return [packet(1, ssl_request(claimed, 1 << 24, 45)), packet(2, more.get("body", body)), packet(4, TOKEN)]


def attack(parts: list[bytes], tls: str = "required", offered: Capability = EVERYTHING) -> Played:
    """Against an upstream that offers everything that MySQL has."""
    memory = Memory()
    memory.greeting = Greeting(b"9.7.4", 0, bytes(range(1, 21)), offered, 255, 2, auth.CACHING_SHA2)
    played = play(handshake.serve(ListenerTerms(tls), NONCE, memory), parts, [])
    assert played.upstream == b""
    return played


def offered_to_clients() -> Capability:
    played = attack([])
    return Greeting.decode(played.client[4 : 4 + int.from_bytes(played.client[:3], "little")]).capabilities


@pytest.mark.parametrize("flag", [C.COMPRESS, C.ZSTD])
def test_wm_022_row_06_compression_is_neither_offered_nor_taken(flag: Capability) -> None:
    assert "wm-022-capability-compress" in CASES
    assert flag not in offered_to_clients()
    played = attack(client(CLAIMED | flag))
    assert isinstance(played.error, Refused)
    assert "compress" in str(played.error) or "zstd" in str(played.error)
    assert "Authenticate" not in played.names


def test_wm_015_row_16_files_of_the_client_are_not_offered() -> None:
    assert "wm-015-local-infile" in CASES
    assert C.LOCAL_FILES not in offered_to_clients()


def test_nothing_is_offered_that_the_gateway_does_not_read() -> None:
    assert offered_to_clients() & ~(SHARED | OWN | C.SSL) == C(0)


def test_results_without_their_metadata_are_refused() -> None:
    """Columns that are not named cannot be masked."""
    assert C.OPTIONAL_RESULTSET_METADATA not in offered_to_clients()
    assert isinstance(attack(client(CLAIMED | C.OPTIONAL_RESULTSET_METADATA)).error, Refused)
    mariadb = (CLAIMED & ~C.LONG_PASSWORD) | C.MARIADB_CACHE_METADATA
    assert isinstance(attack(client(mariadb)).error, Refused)


def test_row_05_a_login_stuffed_behind_the_request_for_tls() -> None:
    """Whoever sits between could put a whole login of theirs there, which would then count as said inside TLS."""
    request, *rest = client()
    played = attack([request + b"".join(rest)])
    assert isinstance(played.error, ProtocolError)
    assert "StartTls" not in played.names
    assert "Authenticate" not in played.names


def test_tls_is_not_skipped_by_claiming_it() -> None:
    """A response with CLIENT_SSL set, but no TLS before it."""
    body = Response(CLAIMED, 1 << 24, 45, b"ada", HASH, b"shop", auth.CACHING_SHA2).encode()
    played = attack([packet(1, body), packet(3, TOKEN)])
    assert isinstance(played.error, Refused)
    assert "Authenticate" not in played.names


@pytest.mark.parametrize("plugin", [auth.CACHING_SHA2, auth.NATIVE, auth.CLEAR, auth.SHA256, b"", b"auth_socket"])
def test_no_plugin_gets_in_without_a_token(plugin: bytes) -> None:
    """A static hash, an empty answer, a plugin that asks for nothing: each ends without anything being verified."""
    for answer in (b"", b"\0", HASH):
        body = Response(CLAIMED, 1 << 24, 45, b"root", answer, b"", plugin).encode()
        played = attack(client(body=body)[:2])
        if "Authenticate" in played.names:
            assert plugin == auth.CLEAR  # there the answer is the token, and the verifier says what it is worth
        else:
            assert played.error is not None


def test_row_02_lengths_of_a_login_that_cannot_be() -> None:
    for head in (b"\xff\xff\xff\1", b"\x01\x00\x01\1", b"\xff\xff\x7f\1"):
        played = attack([head + b"x" * 40])
        assert isinstance(played.error, ProtocolError)
    fixed = ssl_request(CLAIMED, 1, 45)
    for body in (
        fixed + b"ada\0" + b"\xfe" + b"\xff" * 8,  # an answer of 2^64 bytes
        fixed + b"ada\0" + b"\xfb",  # of NULL bytes
        fixed + b"ada",  # a name without end
        fixed + b"ada\0\x01x" + b"shop\0" + auth.CACHING_SHA2 + b"\0\xfd\xff\xff\xff",  # attributes of 16 MiB
    ):
        played = attack(client(body=body)[:2])
        assert isinstance(played.error, ProtocolError), played.error
        assert "Authenticate" not in played.names


def test_row_02_a_login_that_never_ends_is_not_collected() -> None:
    request = client()[0]
    played = attack([request, b"\x00\xff\x00\x02", *[b"x" * 60_000] * 4])
    assert isinstance(played.error, ProtocolError)
    assert played.names.count("StartTls") == 1


def test_row_14_a_character_set_that_hides_quotes() -> None:
    """gbk: a backslash can be the second half of a character."""
    body = Response(CLAIMED, 1 << 24, 28, b"ada", HASH, b"shop", auth.CACHING_SHA2).encode()
    played = attack(client(body=body))
    assert isinstance(played.error, Refused)
    assert "utf8mb4" in str(played.error)
