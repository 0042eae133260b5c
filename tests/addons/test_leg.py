"""`Leg` on real sockets: bytes in order, TLS in memory, back-pressure, and ends of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from addons import leg as leg_module
from addons.leg import Leg, server_end_point
from protocols.contract import PeerGone
from scripts.support.tls import Authority


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):  # mitmdump's, and that of `sluicegate serve`
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Leg, Leg]]:
    """Two legs, connected over loopback: (server side, client side)."""
    accepted: asyncio.Queue[Leg] = asyncio.Queue()

    class Accepting(Leg):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            accepted.put_nowait(self)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Accepting, "127.0.0.1", 0)
    client = Leg()
    await loop.create_connection(lambda: client, *server.sockets[0].getsockname())
    near = await accepted.get()
    try:
        yield near, client
    finally:
        for leg in (near, client):
            leg.transport.abort()
        server.close()
        await asyncio.sleep(0.01)  # transports close a turn later


@asynccontextmanager
async def against_socket() -> AsyncIterator[tuple[Leg, socket.socket]]:
    """A leg, and the bare socket of its peer."""
    listening = socket.create_server(("127.0.0.1", 0))
    leg = Leg()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: leg, *listening.getsockname())
    peer = listening.accept()[0]
    peer.setblocking(False)
    try:
        yield leg, peer
    finally:
        leg.transport.abort()
        peer.close()
        listening.close()
        await asyncio.sleep(0.01)  # the transport closes a turn later


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, client's)"""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    made = authority.server("leg")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    return server, ssl.create_default_context(cafile=authority.file)


async def secured(server: Leg, client: Leg, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    await asyncio.gather(
        server.start_tls(contexts[0], server_side=True, hostname=None),
        client.start_tls(contexts[1], server_side=False, hostname="localhost"),
    )


class Sink:
    """Where an attached leg's bytes go."""

    def __init__(self, leg: Leg) -> None:
        self.data = bytearray()
        self.gone = asyncio.Event()
        self.writable: list[bool] = []
        leg.attach(self.data.extend, self.gone.set, self.writable.append)

    async def has(self, size: int) -> bytes:
        while len(self.data) < size:
            await asyncio.sleep(0.001)
        return bytes(self.data)


# ---------------------------------------------------------------- plain


def test_bytes_before_the_relay_are_pulled_and_those_after_are_pushed() -> None:
    async def test() -> None:
        async with pair() as (server, client):
            client.send(b"one")
            assert await server.receive() == b"one"
            sink = Sink(server)
            client.send(b"two")
            assert await sink.has(3) == b"two"

    run(test)


def test_what_came_early_is_delivered_before_what_comes_later() -> None:
    """Also where the event loop reads sockets before it runs what was scheduled, as uvloop may."""

    async def test() -> None:
        async with pair() as (server, _client):
            server.data_received(b"early ")
            sink = Sink(server)
            server.data_received(b"later ")
            assert await sink.has(12) == b"early later "
            server.data_received(b"last")
            assert bytes(sink.data) == b"early later last"

    run(test)


def test_a_peer_that_sends_ahead_is_stopped_by_the_kernel() -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            loop = asyncio.get_running_loop()
            sent = 0
            piece = bytes(65536)
            with contextlib.suppress(TimeoutError):
                while sent < 1 << 30:
                    await asyncio.wait_for(loop.sock_sendall(peer, piece), 0.5)
                    sent += len(piece)
            assert sent < 1 << 30
            held = sum(map(len, leg._early))
            assert held < leg_module._HANDSHAKE_BUFFER + 2 * (1 << 18)  # what asyncio reads at once
            assert sent > held  # the rest is in the kernel's buffers
            sink = Sink(leg)
            assert len(await sink.has(sent)) >= sent

    run(test)


def test_a_paused_leg_reads_on_only_when_every_reason_is_gone() -> None:
    async def test() -> None:
        async with pair() as (server, client):
            sink = Sink(server)
            server.pause("a")
            server.pause("b")
            client.send(b"x")
            server.resume("a")
            server.resume("never paused for this")
            await asyncio.sleep(0.05)
            assert not sink.data
            server.resume("b")
            assert await sink.has(1) == b"x"

    run(test)


# ---------------------------------------------------------------- TLS


@pytest.mark.parametrize("size", [1, 16384, 16385, 3_000_000])
def test_tls_carries_any_size_both_ways(contexts: tuple[ssl.SSLContext, ssl.SSLContext], size: int) -> None:
    async def test() -> None:
        async with pair() as (server, client):
            await secured(server, client, contexts)
            assert not server.securing
            data = bytes(range(256)) * (size // 256 + 1)
            for one, other in ((server, client), (client, server)):
                got = bytearray()
                one.send(data)
                while len(got) < len(data):
                    got += await other.receive()
                assert got == data

    run(test)


def test_application_bytes_in_the_last_handshake_segment_are_not_lost(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async def test() -> None:
        for relayed in (False, True):
            async with against_socket() as (leg, peer):
                loop = asyncio.get_running_loop()
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls = contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
                handshake = asyncio.create_task(leg.start_tls(contexts[0], server_side=True, hostname=None))
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        await loop.sock_sendall(peer, outgoing.read())
                        incoming.write(await loop.sock_recv(peer, 65536))
                tls.write(b"at once")
                await loop.sock_sendall(peer, outgoing.read())
                await handshake
                got = await Sink(leg).has(7) if relayed else await leg.receive()
                assert got == b"at once"

    run(test)


def test_bytes_already_read_belong_to_the_handshake(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """sslnegotiation=direct: the ClientHello has been read before anybody knew that it is one."""

    async def test() -> None:
        async with pair() as (server, client):
            connecting = asyncio.create_task(client.start_tls(contexts[1], server_side=False, hostname="localhost"))
            hello = await server.receive()
            facts = await server.start_tls(contexts[0], server_side=True, hostname=None, received=hello)
            assert facts.version == "TLSv1.3"
            assert facts.server_end_point is None  # of the peer's certificate, and clients have none
            assert (await connecting).server_end_point is not None

    run(test)


def test_a_handshake_that_fails_says_so_and_nothing_is_sent_in_the_clear(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            peer.send(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ssl.SSLError):
                await leg.start_tls(contexts[0], server_side=True, hostname=None)
            assert leg.securing
        async with pair() as (server, client):
            starting = asyncio.create_task(server.start_tls(contexts[0], server_side=True, hostname=None))
            with pytest.raises(ssl.SSLCertVerificationError):
                await client.start_tls(contexts[1], server_side=False, hostname="elsewhere.example")
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await starting
        async with pair() as (server, client):
            starting = asyncio.create_task(server.start_tls(contexts[0], server_side=True, hostname=None))
            await asyncio.sleep(0)
            client.close()
            with pytest.raises(PeerGone):
                await starting

    run(test)


@pytest.mark.parametrize("relayed", [False, True])
def test_bytes_that_are_no_tls_end_it(contexts: tuple[ssl.SSLContext, ssl.SSLContext], relayed: bool) -> None:
    async def test() -> None:
        async with pair() as (server, client):
            await secured(server, client, contexts)
            sink = Sink(server) if relayed else None
            client.transport.write(b"no record of TLS at all")
            if sink is not None:
                await sink.gone.wait()
                assert not sink.data
            else:
                with pytest.raises(PeerGone, match="TLS ended"):
                    await server.receive()

    run(test)


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("linger", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_last_words_arrive_and_then_the_end(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], tls: bool, linger: bool
) -> None:
    async def test() -> None:
        async with pair() as (server, client):
            if tls:
                await secured(server, client, contexts)
            sink = Sink(client)
            server.send(b"x" * 1_000_000)
            server.close(linger=linger)
            server.close()  # again: nothing happens
            server.send(b"too late")
            await sink.gone.wait()
            assert bytes(sink.data) == b"x" * 1_000_000
            with pytest.raises(PeerGone):
                await client.receive()

    run(test)


def test_what_came_before_the_end_is_received_first() -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            peer.send(b"last words")
            peer.close()
            while not leg.gone:
                await asyncio.sleep(0.001)
            assert await leg.receive() == b"last words"
            with pytest.raises(PeerGone):
                await leg.receive()
            sink = Sink(leg)
            await sink.gone.wait()

    run(test)


def test_the_loss_is_told_once_and_goes_back_to_mitmproxy() -> None:
    async def test() -> None:
        losses: list[Exception | None] = []
        leg = Leg(forward_loss=losses.append)
        listening = socket.create_server(("127.0.0.1", 0))
        await asyncio.get_running_loop().create_connection(lambda: leg, *listening.getsockname())
        peer = listening.accept()[0]
        ends: list[str] = []
        leg.attach(lambda _: None, lambda: ends.append("gone"), lambda _: None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        while not losses:
            await asyncio.sleep(0.001)
        assert ends == ["gone"]
        assert isinstance(losses[0], ConnectionResetError)
        leg.send(b"into nothing")
        leg.close()
        listening.close()

    run(test)


def test_a_peer_that_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            lost = asyncio.Event()
            leg._forward_loss = lambda _: lost.set()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            leg.send(bytes(50_000_000))
            leg.close()
            await lost.wait()

    monkeypatch.setattr(leg_module, "_CLOSE_GRACE", 0.1)
    run(test)


def read_to_the_end(peer: socket.socket) -> bytes:
    """What a client that waits for its socket reads; where the socket reports an error it gives up, as psycopg does."""
    found = b""
    events = select.poll()
    events.register(peer, select.POLLIN)
    while True:
        (_, seen), *_ = events.poll(10_000)
        if seen & select.POLLERR:
            raise ConnectionResetError
        if not (data := peer.recv(65536)):
            return found
        found += data


@pytest.mark.parametrize("after", [False, True], ids=["unread", "sent later"])
def test_last_words_survive_bytes_that_nobody_reads(after: bool) -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            Sink(leg)
            leg.pause("wait")
            if not after:
                peer.send(b"q" * 100_000)
            leg.send(b"last words")
            leg.close(linger=True)
            if after:
                await asyncio.sleep(0.01)
                peer.send(b"q" * 1000)
            await asyncio.sleep(0.01)
            assert leg.lingering
            assert read_to_the_end(peer) == b"last words"
            peer.close()
            while not leg.transport.is_closing():
                await asyncio.sleep(0.001)
            assert not leg.lingering

    run(test)


@pytest.mark.parametrize("reads", [True, False])
def test_a_process_ends_when_the_last_words_are_read_or_after_a_while(
    monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    async def test() -> None:
        await Leg.all_hung_up()  # nobody lingers
        async with against_socket() as (leg, peer):
            Sink(leg)
            leg.send(b"last words")
            leg.close(linger=True)
            waiting = asyncio.ensure_future(Leg.all_hung_up())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            if reads:
                assert read_to_the_end(peer) == b"last words"
                peer.close()
            await waiting
            assert not leg.lingering

    monkeypatch.setattr(leg_module, "_LINGER_SECONDS", 15.0 if reads else 0.02)
    run(test)


def test_the_same_inside_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def test() -> None:
        async with pair() as (server, client):
            await secured(server, client, contexts)
            server_side, sink = Sink(server), Sink(client)
            losses: list[Exception | None] = []
            client._forward_loss = losses.append
            server.pause("wait")
            client.send(b"q" * 100_000)
            await asyncio.sleep(0.01)
            server.send(b"last words")
            server.close(linger=True)
            await sink.gone.wait()
            assert bytes(sink.data) == b"last words"
            assert not server_side.data  # thrown away
            client.send(b"q" * 1000)
            await asyncio.sleep(0.01)
            client.close()
            while not losses:
                await asyncio.sleep(0.001)
            assert losses == [None]  # no reset

    run(test)


def test_who_sends_on_and_on_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with pair() as (server, client):
            Sink(server)
            lost = asyncio.Event()
            server._forward_loss = lambda _: lost.set()
            client.attach(lambda _: None, lambda: None, lambda _: None)
            server.close(linger=True)
            assert server.lingering
            client.send(bytes(3_000_000))
            await lost.wait()
            assert not server.lingering

    monkeypatch.setattr(leg_module, "_LINGER_BYTES", 1_000_000)
    monkeypatch.setattr(leg_module, "_LINGER_SECONDS", 15.0)
    run(test)


def test_who_never_hangs_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with against_socket() as (leg, _):
            lost = asyncio.Event()
            leg._forward_loss = lambda _: lost.set()
            leg.close(linger=True)
            assert leg.lingering
            await lost.wait()
            assert not leg.lingering

    monkeypatch.setattr(leg_module, "_LINGER_SECONDS", 0.05)
    run(test)


def test_so_many_linger_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with against_socket() as (first, _), against_socket() as (second, peer):
            first.close(linger=True)
            assert first.lingering
            second.send(b"last words")
            second.close(linger=True)
            assert not second.lingering
            await asyncio.sleep(0.01)
            assert read_to_the_end(peer) == b"last words"
            first.transport.abort()
            await asyncio.sleep(0.01)
            assert Leg._lingering_now == 0

    monkeypatch.setattr(leg_module, "_LINGER_MOST", 1)
    run(test)


def test_a_peer_that_reset_meanwhile_ends_it() -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            lost = asyncio.Event()
            leg._forward_loss = lambda _: lost.set()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            leg.close(linger=True)
            await lost.wait()
            assert not leg.lingering
            assert Leg._lingering_now == 0

    run(test)


def test_a_peer_that_leaves_is_noticed_while_reading_is_paused() -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            sink = Sink(leg)
            leg.pause("held")
            assert not leg.peer_left()
            peer.send(b"more")
            assert not leg.peer_left()
            peer.close()
            while not leg.peer_left():
                await asyncio.sleep(0.001)
            assert not sink.gone.is_set()  # asyncio has not seen it: that is why we look

    run(test)


def test_a_peer_that_does_not_read_is_reported() -> None:
    async def test() -> None:
        async with against_socket() as (leg, peer):
            sink = Sink(leg)
            leg.send(bytes(20_000_000))
            assert sink.writable == [False]
            loop = asyncio.get_running_loop()
            while len(sink.writable) < 2:
                await loop.sock_recv(peer, 1 << 20)
            assert sink.writable == [False, True]
            assert leg.writable

    run(test)


# ---------------------------------------------------------------- channel binding


def _certificate(kind: str) -> bytes:
    """DER, signed in one of many ways."""
    key: Any
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048) if kind.startswith("rsa") else None
    key = key or (
        ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )
    digest = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}.get(kind[-3:], hashes.SHA256)()
    options: dict[str, Any] = {}
    if "pss" in kind:
        options["rsa_padding"] = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(datetime.now(UTC)).not_valid_after(datetime.now(UTC) + timedelta(1))
    )
    made = builder.sign(key, None if kind == "ed25519" else digest, **options)
    return made.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("ecdsa-256", "sha256"),
        ("ecdsa-384", "sha384"),
        ("ecdsa-512", "sha512"),
        ("rsa-256", "sha256"),
        ("rsa-512", "sha512"),
        ("rsa-pss-384", "sha384"),
    ],
)
def test_the_binding_is_the_certificates_hash_under_its_own_signatures_hash(kind: str, digest: str) -> None:
    der = _certificate(kind)
    assert server_end_point(der) == hashlib.new(digest, der).digest()


# self-signed with SHA-1, which today's libraries sign no more; made with OpenSSL 3.0
SHA1_PEM = Path(__file__).with_name("sha1.pem")


def test_a_sha1_signature_is_bound_with_sha256() -> None:
    der = ssl.PEM_cert_to_DER_cert(SHA1_PEM.read_text())
    assert server_end_point(der) == hashlib.sha256(der).digest()


def test_a_signature_without_a_hash_binds_to_nothing() -> None:
    assert server_end_point(_certificate("ed25519")) is None
    assert server_end_point(b"no certificate") is None
