"""One side of a relayed connection: a transport, optional TLS (in memory), and who gets its bytes.

A leg is first read by `receive()` (handshake), then hands its bytes to a callback (`attach`, relay). It knows nothing
of mitmproxy: the metadata connections use it on plain asyncio transports.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from protocols.contract import PeerGone, TlsFacts

_READ = 16384  # bytes: one TLS record, more is never returned at once; much more would be mapped anew for each read
_HANDSHAKE_BUFFER = 1 << 17  # bytes that a peer may send ahead of what the handshake asks for
_CLOSE_GRACE = 5.0  # seconds for the last bytes to leave before the transport is cut
_LINGER_SECONDS = 2.0  # for a peer to read the last words and hang up
_LINGER_BYTES = 1 << 24  # what a peer still sends meanwhile: more than the kernel's buffers hold on the way
_LINGER_MOST = 1024  # legs at a time: a flood of refused connections must not keep their sockets


class Leg(asyncio.Protocol):
    """`on_data(bytes)` gets plaintext; `on_gone()` is called once when the peer is gone."""

    _lingering_now = 0  # legs of this process
    _none_lingers: asyncio.Event | None = None  # made by who waits for that

    def __init__(self, forward_loss: Callable[[Exception | None], None] | None = None) -> None:
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.tls: ssl.SSLObject | None = None
        self._alert = ""  # why TLS ended, where it did not end politely
        self.securing = False  # in a TLS handshake, or one failed: nothing may be sent in the clear
        self.gone = False
        self.writable = True
        self.on_data: Callable[[bytes], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._early: list[bytes] = []
        self._early_size = 0
        self._handing_over = False  # what came early is not delivered yet: what comes now queues behind it
        self._waiter: asyncio.Future[None] | None = None
        self._forward_loss = forward_loss
        self._paused: set[str] = set()
        self._closing = False
        self.lingering = False  # our half is closed, and what the peer still sends is thrown away
        self._thrown_away = 0

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._throw_away(len(data))
            return
        if self.on_data is None or self._handing_over:
            self._early.append(data)
            self._early_size += len(data)
            if self._early_size > _HANDSHAKE_BUFFER:
                self.pause("early")
            self._wake()
            return
        if self.tls is None:
            self.on_data(data)
            return
        plain, closed = self._decrypt(data)
        if plain:
            self.on_data(plain)
        if closed:
            self._peer_gone()

    def eof_received(self) -> bool:
        self._peer_gone()
        if self.lingering:
            self._hang_up()
        return True  # the transport stays open for our last words; `close` ends it

    def connection_lost(self, exc: Exception | None) -> None:
        self._linger_over()
        self._peer_gone()
        if self._forward_loss is not None:
            self._forward_loss(exc)

    def pause_writing(self) -> None:
        self.writable = False
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        if self.on_writable is not None:
            self.on_writable(True)

    def _peer_gone(self) -> None:
        if self.gone:
            return
        self.gone = True
        self._wake()
        if self.on_gone is not None:
            self.on_gone()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ------------------------------------------------------------ handshake: pull

    async def receive(self) -> bytes:
        """At least one byte of plaintext. Raises `PeerGone`."""
        while True:
            raw = await self._raw()
            if self.tls is None:
                return raw
            plain, closed = self._decrypt(raw)
            if plain:
                return plain
            if closed:
                raise PeerGone(self._alert)

    async def _raw(self) -> bytes:
        while not self._early:
            if self.gone:
                raise PeerGone
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = b"".join(self._early)
        self._early.clear()
        self._early_size = 0
        self.resume("early")
        return data

    async def start_tls(
        self, context: ssl.SSLContext, *, server_side: bool, hostname: str | None, received: bytes = b""
    ) -> TlsFacts:
        """Runs the TLS handshake. Raises `ssl.SSLError` or `PeerGone`."""
        self.securing = True
        tls = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=hostname)
        self._in.write(received)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush_tls()
                self._in.write(await self._raw())
                continue
            except ssl.SSLError:
                self._flush_tls()  # the alert that tells the peer why
                raise
            break
        self._flush_tls()
        self.tls, self.securing = tls, False
        if self._in.pending:
            # application bytes that came with the last handshake record
            self._early.insert(0, b"")
        peer = None if server_side else tls.getpeercert(binary_form=True)
        return TlsFacts(
            tls.version() or "", tls.selected_alpn_protocol(), None if peer is None else server_end_point(peer)
        )

    # ------------------------------------------------------------ relay: push

    def attach(
        self, on_data: Callable[[bytes], None], on_gone: Callable[[], None], on_writable: Callable[[bool], None]
    ) -> None:
        """From now on bytes go to `on_data`, what came early first."""
        loop = asyncio.get_running_loop()
        self.on_data, self.on_gone, self.on_writable = on_data, on_gone, on_writable
        if self._early or (self.tls is not None and self._in.pending):
            self._handing_over = True
            loop.call_soon(self._hand_over)
        if self.gone:
            loop.call_soon(on_gone)

    def _hand_over(self) -> None:
        early, self._early, self._early_size = b"".join(self._early), [], 0
        self._handing_over = False
        self.resume("early")
        self.data_received(early)

    def send(self, data: bytes) -> None:
        if self._closing or self.transport.is_closing():
            return
        if self.tls is None:
            self.transport.write(data)
            return
        self.tls.write(data)
        self.transport.write(self._out.read())

    def _flush_tls(self) -> None:
        if self._out.pending and not self.transport.is_closing():
            self.transport.write(self._out.read())

    def _decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """-> (plaintext, the peer has ended TLS).

        Reads until nothing is left in OpenSSL and in what came before it: pending() alone knows no later records.
        """
        assert self.tls is not None
        if data:
            self._in.write(data)
        parts: list[bytes] = []
        closed = False
        try:
            while True:
                part = self.tls.read(_READ)
                if not part:
                    closed = True
                    break
                parts.append(part)
                if not self._in.pending and not self.tls.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as e:
            closed = True  # an alert, or bytes that are no TLS: either way nothing more is to be had
            self._alert = f"TLS ended: {e.reason or e}"
        if self._out.pending:
            self._flush_tls()
        return (parts[0] if len(parts) == 1 else b"".join(parts)), closed

    def pause(self, why: str) -> None:
        """Stops reading from the socket for this reason; the kernel then pushes back on the peer."""
        if not self._paused and not self._closing and not self.transport.is_closing():
            self.transport.pause_reading()
        self._paused.add(why)

    def resume(self, why: str) -> None:
        if why in self._paused:
            self._paused.discard(why)
            if not self._paused and not self._closing and not self.transport.is_closing():
                self.transport.resume_reading()

    def peer_left(self) -> bool:
        """Whether the peer has hung up, also while reading is paused (asyncio then sees neither EOF nor loss)."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.gone:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def close(self, *, linger: bool = False) -> None:
        """Sends what is buffered, then ends the connection; cuts it where the peer does not take the last bytes.

        `linger`: our half ends first, and what the peer still sends is read and thrown away until it hangs up, for a
        while and up to a bound. A socket that is closed with bytes unread, or that gets more of them, answers with a
        reset, and a reset can take the last words from a peer that has not read them yet (RFC 9112 section 9.6).
        """
        if self._closing:
            return
        self._closing = True
        if self.transport.is_closing():
            return
        if self.tls is not None:
            with contextlib.suppress(ssl.SSLError):  # the peer's half of the closure is not waited for
                self.tls.unwrap()
            self._flush_tls()
        loop = asyncio.get_running_loop()
        loop.call_later(_CLOSE_GRACE, self._cut)
        if not linger or self.gone or Leg._lingering_now >= _LINGER_MOST:
            self.transport.close()
            return
        try:
            self.transport.write_eof()
        except OSError:  # it has just gone, and nobody has told us yet
            self.transport.close()
            return
        self.lingering = True
        Leg._lingering_now += 1
        if self._paused:
            self.transport.resume_reading()
        loop.call_later(_LINGER_SECONDS, self._hang_up)

    @classmethod
    async def all_hung_up(cls) -> None:
        """For the end of the process: returns when no leg lingers, or none would linger longer."""
        if cls._lingering_now:
            cls._none_lingers = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    await cls._none_lingers.wait()

    def _throw_away(self, size: int) -> None:
        self._thrown_away += size
        if self._thrown_away > _LINGER_BYTES:
            self._hang_up()

    def _hang_up(self) -> None:
        self._linger_over()
        self.transport.close()

    def _linger_over(self) -> None:
        if self.lingering:
            self.lingering = False
            Leg._lingering_now -= 1
            if not Leg._lingering_now and Leg._none_lingers is not None:
                Leg._none_lingers.set()

    def _cut(self) -> None:
        self.transport.abort()


def server_end_point(der: bytes) -> bytes | None:
    """RFC 5929 section 4.1: the certificate's hash under its own signature's hash; MD5 and SHA-1 become SHA-256.

    None where the signature has no hash of its own (Ed25519): the binding is undefined there, and servers that offer
    it all the same cannot compute theirs.
    """
    try:
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    return hashlib.new("sha256" if algorithm.name in ("md5", "sha1") else algorithm.name, der).digest()
