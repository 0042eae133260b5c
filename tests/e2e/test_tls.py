"""From the first byte to the greeting: TLS in every way a client can ask for it, and the startup packet."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.gateway import LISTENER
from scripts.support.lab import Lab
from tests.support import bytewise as raw
from tests.support import wire
from tests.support.bytewise import V3_0, V3_2, Raw, connect, eventually

pytestmark = pytest.mark.e2e

AUTH_TIMEOUT = 3.0
CONNECTIONS = 40


def _listeners(document: dict[str, Any]) -> None:
    """One listener for each mode, and one whose certificate the gateway mints."""
    required = document["listeners"][0]
    for name, tls in (
        ("optional", {**required["tls"], "mode": "optional"}),
        ("off", {"mode": "off"}),
        ("minted", {"mode": "required"}),
    ):
        document["listeners"].append({**required, "name": name, "tls": tls})
    document["limits"] = {"auth_timeout": AUTH_TIMEOUT, "max_connections": CONNECTIONS}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(tls="required", adjust=_listeners) as running:
        yield running


@pytest.fixture
def required(lab: Lab) -> Iterator[Raw]:
    with connect(lab.gateway.listeners[LISTENER]) as client:
        yield client


@pytest.fixture
def optional(lab: Lab) -> Iterator[Raw]:
    with connect(lab.gateway.listeners["optional"]) as client:
        yield client


def address(lab: Lab, listener: str, **parameters: str) -> str:
    """The DSN of a listener, for the administrator."""
    host, port = lab.gateway.listeners[listener]
    ca = lab.gateway.state_dir / "ca" / "ca.crt" if listener == "minted" else lab.authority.file
    usual = {"sslmode": "verify-full", "sslrootcert": str(ca)}
    words = " ".join(f"{k}={v}" for k, v in {**usual, **parameters}.items())
    return f"host={host} port={port} user=admin dbname=shop password={lab.tokens['admin']} {words}"


def one(dsn: str) -> tuple[Any, ...] | None:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT 1").fetchone()


# ---------------------------------------------------------------- who may speak in the clear


@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("listener", [LISTENER, "optional", "minted"])
def test_libpq_gets_tls(lab: Lab, listener: str, sslmode: str) -> None:
    with psycopg.connect(address(lab, listener, sslmode=sslmode)) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_listener_that_requires_tls_says_so_to_who_speaks_in_the_clear(lab: Lab) -> None:
    with pytest.raises(psycopg.OperationalError, match="this listener requires TLS: set sslmode=verify-full"):
        one(address(lab, LISTENER, sslmode="disable"))


def test_no_token_is_asked_for_in_the_clear_where_tls_is_required(required: Raw) -> None:
    required.startup()
    assert required.error()["C"] == "28000"


def test_optional_leaves_the_choice_to_the_client(lab: Lab) -> None:
    with psycopg.connect(address(lab, "optional", sslmode="disable")) as connection:
        assert not connection.pgconn.ssl_in_use
    with psycopg.connect(address(lab, "optional", sslmode="prefer")) as connection:
        assert connection.pgconn.ssl_in_use


def test_off_answers_no(lab: Lab) -> None:
    with psycopg.connect(address(lab, "off", sslmode="prefer")) as connection:
        assert not connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
        one(address(lab, "off", sslmode="require"))


def test_the_minted_certificate_names_the_host_and_no_other(lab: Lab) -> None:
    assert one(address(lab, "minted")) == (1,)
    port = lab.gateway.listeners["minted"][1]
    assert one(address(lab, "minted").replace("host=127.0.0.1", "host=localhost")) == (1,)
    with pytest.raises(psycopg.OperationalError, match=r'does not match host name "elsewhere\.example"'):
        one(f"{address(lab, 'minted')} hostaddr=127.0.0.1 port={port} host=elsewhere.example")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        one(address(lab, "minted", sslrootcert=str(lab.authority.file)))


def test_a_restart_keeps_the_minted_authority(tmp_path: Path) -> None:
    def adjust(document: dict[str, Any]) -> None:
        document["listeners"][0]["tls"] = {"mode": "required"}

    with Lab(adjust=adjust, folder=tmp_path / "lab") as lab:
        folder = lab.gateway.state_dir / "ca"
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        lab.gateway.stop()
        lab.gateway.start()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert {path.name: path.stat().st_mode & 0o077 for path in folder.glob("*.key")} == {
            "ca.key": 0,
            f"listener-{LISTENER}.key": 0,
        }


# ---------------------------------------------------------------- how it is asked for


def test_direct_tls_with_libpq(lab: Lab) -> None:
    if psycopg.pq.version() < 170000:
        pytest.skip("sslnegotiation=direct needs libpq 17: install psycopg[binary] 3.2.4 or newer")
    assert one(address(lab, LISTENER, sslnegotiation="direct")) == (1,)


def test_direct_tls(lab: Lab, required: Raw) -> None:
    required.tls(raw.context(lab.authority.file), asked=False)
    assert isinstance(required.socket, ssl.SSLSocket)
    assert required.socket.selected_alpn_protocol() == "postgresql"
    required.log_in(lab.tokens["admin"])
    assert required.query("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_direct_tls_without_our_alpn_gets_no_further(lab: Lab, required: Raw, alpn: str | None) -> None:
    """Another protocol's client must not be talked into speaking to a database."""
    required.tls(raw.context(lab.authority.file, alpn=alpn), asked=False)
    required.startup()
    assert "ALPN" in required.error()["M"]


def test_direct_tls_where_tls_is_off(lab: Lab) -> None:
    with connect(lab.gateway.listeners["off"]) as client, pytest.raises((ssl.SSLError, ConnectionError)):
        client.tls(raw.context(lab.authority.file), asked=False)


def test_gss_encryption_is_refused_and_tls_still_possible(lab: Lab, required: Raw) -> None:
    required.send(raw.GSS_REQUEST)
    assert required.receive(1) == b"N"
    required.tls(raw.context(lab.authority.file))
    required.log_in(lab.tokens["admin"])


def test_gss_encryption_is_refused_and_plaintext_still_possible(lab: Lab, optional: Raw) -> None:
    optional.send(raw.GSS_REQUEST)
    assert optional.receive(1) == b"N"
    optional.log_in(lab.tokens["admin"])


@pytest.mark.parametrize("second", [raw.GSS_REQUEST, raw.SSL_REQUEST])
def test_an_encryption_request_inside_tls_ends_it(lab: Lab, required: Raw, second: bytes) -> None:
    required.tls(raw.context(lab.authority.file))
    required.send(second)
    assert required.error()["C"] == "08P01"


def test_the_same_encryption_request_twice_ends_it(lab: Lab) -> None:
    for listener, requested in (("off", raw.SSL_REQUEST), ("optional", raw.GSS_REQUEST)):
        with connect(lab.gateway.listeners[listener]) as client:
            client.send(requested)
            assert client.receive(1) == b"N"
            client.send(requested)
            assert client.error()["C"] == "08P01"


@pytest.mark.parametrize("requested", [raw.SSL_REQUEST, raw.GSS_REQUEST])
def test_attack_5_cleartext_stuffed_behind_an_encryption_request(lab: Lab, optional: Raw, requested: bytes) -> None:
    """CVE-2021-23222 and CVE-2021-3935: what a man in the middle put there must never count as the client's."""
    optional.send(requested, wire.startup(V3_0, user="admin", database="shop"))
    assert optional.error()["C"] == "08P01"


def test_attack_5_cleartext_between_the_request_and_the_handshake(lab: Lab, required: Raw) -> None:
    required.send(raw.SSL_REQUEST)
    assert required.receive(1) == b"S"
    required.send(wire.startup(V3_0, user="admin", database="shop"))
    assert b"Z" not in required.rest()[:1]


def test_an_encryption_request_with_a_body_ends_it(optional: Raw) -> None:
    optional.send(wire.request(80877103, b"more"))
    assert optional.error()["C"] == "08P01"


# ---------------------------------------------------------------- the handshake itself


def test_old_tls_is_refused(lab: Lab, required: Raw) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python names TLS 1.1 only to warn of it
        old = raw.context(lab.authority.file, version=ssl.TLSVersion.TLSv1_1, ciphers="ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        required.tls(old)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_of_today(lab: Lab, required: Raw, version: ssl.TLSVersion) -> None:
    required.tls(raw.context(lab.authority.file, version=version))
    required.log_in(lab.tokens["admin"])
    big = "x" * 300_000  # many records in both directions
    assert required.query(f"SELECT '{big}'") == [[big.encode()]]


class Dripping:
    """A client whose TLS bytes we carry ourselves."""

    def __init__(self, client: Raw, using: ssl.SSLContext) -> None:
        self.client = client
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = using.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")

    def handshake(self, piece: int) -> None:
        """Sends what TLS wants sent in pieces of so many bytes, each a segment of its own."""
        self.client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(piece)
                self._read()
                continue
            break

    def _flush(self, piece: int) -> None:
        data = self.outgoing.read()
        for start in range(0, len(data), piece):
            self.client.send(data[start : start + piece])
            time.sleep(0.002)

    def _read(self) -> None:
        data = self.client.socket.recv(65536)
        if not data:
            raise EOFError
        self.incoming.write(data)

    def last_words(self, data: bytes) -> bytes:
        """The end of the handshake and `data` in one segment."""
        self.tls.write(data)
        self.client.send(self.outgoing.read())
        return self.receive()

    def receive(self) -> bytes:
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self._read()


@pytest.mark.parametrize("direct", [False, True], ids=["asked", "direct"])
@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_client_hello_in_many_segments(lab: Lab, required: Raw, piece: int, direct: bool) -> None:
    if not direct:
        for byte in raw.SSL_REQUEST:
            required.send(bytes([byte]))
        assert required.receive(1) == b"S"
    dripping = Dripping(required, raw.context(lab.authority.file))
    dripping.handshake(piece)
    answer = dripping.last_words(wire.startup(V3_0, user="admin", database="shop"))
    assert answer == wire.message("R", struct.pack("!I", 3))


def test_ssl_request_and_client_hello_in_one_segment_end_it(lab: Lab, required: Raw) -> None:
    """The hello came before anybody had said that TLS begins: no client does so, and it is bytes behind a request."""
    dripping = Dripping(required, raw.context(lab.authority.file))
    with contextlib.suppress(ssl.SSLWantReadError):
        dripping.tls.do_handshake()
    required.send(raw.SSL_REQUEST, dripping.outgoing.read())
    assert required.error()["C"] == "08P01"


def test_what_is_no_tls_after_the_request_ends_it(lab: Lab, required: Raw) -> None:
    required.send(raw.SSL_REQUEST)
    assert required.receive(1) == b"S"
    required.send(b"GET / HTTP/1.1\r\n\r\n")
    required.rest()
    eventually(lambda: "TLS with the client failed" in lab.gateway.log.read_text())


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-x\r\n", bytes(64), b"\xff" * 64])
def test_another_protocol_gets_an_error_and_no_more(lab: Lab, required: Raw, first: bytes) -> None:
    required.send(first)
    assert required.error()["C"] == "08P01"


def test_renegotiation_is_refused_and_the_session_lives(lab: Lab) -> None:
    """A client of TLS 1.2 that starts over inside its session could swap what it was bound to (CVE-2009-3555)."""
    host, port = lab.gateway.listeners[LISTENER]
    ca = str(lab.authority.file)
    if shutil.which("openssl") is None:
        pytest.skip("no `openssl` program here: install Debian's `openssl`")
    asked = subprocess.run(
        ["openssl", "s_client", "-connect", f"{host}:{port}", "-starttls", "postgres", "-tls1_2", "-CAfile", ca],
        input=b"R\n",
        capture_output=True,
        timeout=20,
    )
    assert b"RENEGOTIATING" in asked.stderr
    assert b"no renegotiation" in asked.stderr
    assert one(address(lab, LISTENER)) == (1,)


def test_close_notify_ends_the_session(lab: Lab, required: Raw) -> None:
    required.tls(raw.context(lab.authority.file))
    required.log_in(lab.tokens["admin"], application_name="polite")
    assert isinstance(required.socket, ssl.SSLSocket)
    plain = required.socket.unwrap()  # ours is sent, and the gateway's comes back
    assert plain.recv(1) == b""
    plain.close()
    eventually(lambda: not live(lab, "polite"))


def test_a_client_that_is_cut_off_ends_its_session(lab: Lab, required: Raw) -> None:
    required.tls(raw.context(lab.authority.file))
    required.log_in(lab.tokens["admin"], application_name="cut-off")
    assert live(lab, "cut-off")
    required.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    required.close()  # a reset
    eventually(lambda: not live(lab, "cut-off"))


def test_a_client_that_ends_its_half_ends_its_session(lab: Lab, optional: Raw) -> None:
    optional.log_in(lab.tokens["admin"], application_name="half-open")
    optional.socket.shutdown(socket.SHUT_WR)
    assert optional.rest() == b""
    eventually(lambda: not live(lab, "half-open"))


def live(lab: Lab, application: str) -> bool:
    """Whether the upstream has a session of this application."""
    with lab.server.connect() as connection:
        found = connection.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = %s", [application])
        return found.fetchone() is not None


# ---------------------------------------------------------------- who dawdles


def test_a_silent_client_is_cut_after_the_login_timeout(required: Raw) -> None:
    began = time.monotonic()
    answer = required.rest()
    assert time.monotonic() - began > AUTH_TIMEOUT / 2
    assert [error["C"] for error in wire.errors(answer)] in ([], ["57014"])


def test_a_client_that_never_ends_its_handshake_is_cut(lab: Lab, required: Raw) -> None:
    required.send(raw.SSL_REQUEST)
    assert required.receive(1) == b"S"
    required.send(b"\x16\x03\x01")
    assert required.rest() == b""  # nothing in the clear where TLS has begun


def test_a_client_that_never_sends_its_token_is_told(lab: Lab, required: Raw) -> None:
    required.tls(raw.context(lab.authority.file))
    required.startup()
    required.message()
    assert required.error()["C"] == "57014"


def test_a_client_that_drips_does_not_prolong_its_time(required: Raw) -> None:
    packet = wire.startup(V3_0, user="admin", database="shop", application_name="x" * 200)
    began = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in packet:
            required.send(bytes([byte]))
            if time.monotonic() - began > AUTH_TIMEOUT * 4:
                pytest.fail("still there")
            time.sleep(0.05)


def test_those_who_never_log_in_are_bounded(lab: Lab) -> None:
    """Who opens connections and says nothing costs the gateway no more than so many, and not for long."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(lab.gateway.listeners["optional"])) for _ in range(CONNECTIONS)]
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            one(address(lab, "optional", sslmode="disable"))
        assert one_error(silent[0].rest()) == "57014"
    eventually(lambda: one(address(lab, "optional")) == (1,))


def one_error(answer: bytes) -> str:
    [error] = wire.errors(answer)
    return error["C"]


# ---------------------------------------------------------------- the startup packet


@pytest.mark.parametrize(
    ("code", "options", "negotiated", "key_length"),
    [
        (V3_0, {}, b"", 4),
        (V3_2, {}, b"", 32),
        ((3 << 16) | 9999, {}, struct.pack("!II", V3_2, 0), 32),
        (V3_0, {"_pq_.test": "1"}, struct.pack("!II", V3_0, 1) + b"_pq_.test\0", 4),
        (
            (3 << 16) | 9999,
            {"_pq_.a": "1", "_pq_.b": ""},
            struct.pack("!II", V3_2, 2) + b"_pq_.a\0_pq_.b\0",
            32,
        ),
    ],
    ids=["3.0", "3.2", "3.9999", "3.0 and an option", "3.9999 and options"],
)
def test_the_version_is_negotiated(
    lab: Lab, optional: Raw, code: int, options: dict[str, str], negotiated: bytes, key_length: int
) -> None:
    optional.startup(code=code, **options)
    if negotiated:
        assert optional.message() == ("v", negotiated)
    optional.password(lab.tokens["admin"])
    greeting = optional.greeting()
    assert len(greeting.key[1]) == key_length
    assert optional.query("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize("code", [2 << 16, 4 << 16, 0, 1234 << 16])
def test_other_protocol_versions_are_refused(optional: Raw, code: int) -> None:
    optional.startup(code=code)
    assert optional.error()["C"] in ("0A000", "08P01")


def test_harmless_parameters_reach_the_server(lab: Lab, optional: Raw) -> None:
    greeting = optional.log_in(
        lab.tokens["admin"], application_name="raw client", DateStyle="German, DMY", options="-c extra_float_digits=1"
    )
    assert greeting.parameters["application_name"] == "raw client"
    assert greeting.parameters["DateStyle"] == "German, DMY"
    assert optional.query("SHOW extra_float_digits") == [[b"1"]]


@pytest.mark.parametrize(
    "parameters",
    [
        {"replication": "true"},
        {"replication": "database"},
        {"options": "-c role=admin"},
        {"options": "-crole=admin"},
        {"options": "--role=admin"},
        {"options": "-c session_authorization=postgres"},
        {"options": "-c geqo=off -c session_preload_libraries=x"},
        {"role": "admin"},
        {"session_replication_role": "replica"},
        {"local_preload_libraries": "x"},
        {"application_name": "x" * 5000},
    ],
    ids=lambda p: " ".join(f"{k}={v[:30]}" for k, v in p.items()),
)
def test_attack_14_a_parameter_that_changes_meaning_is_refused(optional: Raw, parameters: dict[str, str]) -> None:
    optional.startup(**parameters)
    error = optional.error()
    assert error["C"] == "42501"
    name = next(iter(parameters))
    assert f"`{name}" in error["M"]
    assert "remove" in error["M"]


def _packet(body: bytes, length: int | None = None) -> bytes:
    return struct.pack("!I", len(body) + 4 if length is None else length) + body


@pytest.mark.parametrize(
    "packet",
    [
        _packet(struct.pack("!I", V3_0) + b"user\0admin\0user\0other\0\0"),
        _packet(struct.pack("!I", V3_0) + b"user\0admin\0\0more"),
        _packet(struct.pack("!I", V3_0) + b"user\0admin\0"),
        _packet(struct.pack("!I", V3_0) + b"user\0admin"),
        _packet(struct.pack("!I", V3_0) + b"user\0\xff\xfe\0\0"),
        _packet(struct.pack("!I", V3_0)),
        _packet(b"", 7),
        _packet(b"", 0),
        _packet(b"", 0x7FFFFFFF),
        _packet(b"", 0xFFFFFFFF),
        _packet(b"", 10_001),
    ],
    ids=[
        "a name twice",
        "bytes after the end",
        "no end",
        "no end of a string",
        "not utf-8",
        "nothing",
        "length 7",
        "length 0",
        "length 2 GiB",
        "length -1",
        "length over the cap",
    ],
)
def test_attack_2_a_malformed_startup_packet_ends_it(optional: Raw, packet: bytes) -> None:
    optional.send(packet)
    assert optional.error()["C"] == "08P01"


def test_no_user_is_refused(optional: Raw) -> None:
    optional.send(wire.startup(V3_0, database="shop"))
    assert optional.error()["C"] == "28000"


def test_an_unknown_database_is_named_only_to_who_was_let_in(lab: Lab) -> None:
    for token, code in ((lab.tokens["admin"], "3D000"), ("not-a-token", "28P01")):
        with connect(lab.gateway.listeners["optional"]) as client:
            client.startup(database="payroll")
            client.password(token)
            error = client.error()
            assert error["C"] == code
            assert ("payroll" in error["M"]) == (code == "3D000")


def test_a_database_left_out_is_the_listeners_own(lab: Lab, optional: Raw) -> None:
    optional.send(wire.startup(V3_0, user="admin"))
    optional.password(lab.tokens["admin"])
    optional.greeting()
    assert optional.query("SELECT current_database()") == [[b"shop"]]


@pytest.mark.parametrize("body", [b"", b"no end", b"a\0b\0", b"\0\0"])
def test_a_malformed_password_message_ends_it(optional: Raw, body: bytes) -> None:
    optional.startup()
    optional.message()
    optional.send(wire.message("p", body))
    assert optional.error()["C"] == "08P01"


@pytest.mark.parametrize(
    "message", [wire.query("SELECT 1"), struct.pack("!cI", b"p", 3), struct.pack("!cI", b"p", 1 << 30)]
)
def test_anything_but_a_password_message_ends_it(optional: Raw, message: bytes) -> None:
    optional.startup()
    optional.message()
    optional.send(message)
    assert optional.error()["C"] == "08P01"


def test_commands_sent_ahead_of_the_login_wait_for_it(lab: Lab, optional: Raw) -> None:
    """Allowed by the protocol, done by no usual client: nothing is lost, nothing runs before its time."""
    token = wire.message("p", wire.text(lab.tokens["admin"]))
    optional.send(wire.startup(V3_0, user="admin", database="shop"), token, wire.query("SELECT 41 + 1"))
    assert optional.message() == ("R", struct.pack("!I", 3))
    optional.greeting()
    answer = b"".join(wire.message(kind, body) for kind, body in optional.until("Z"))
    assert wire.rows(answer) == [[b"42"]]


def test_a_flood_before_the_login_ends_it(lab: Lab, optional: Raw) -> None:
    optional.startup()
    optional.message()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        optional.send(struct.pack("!cI", b"p", 60_000), b"x" * 200_000)
    answer = optional.rest()
    assert answer == b"" or [error["C"] for error in wire.errors(answer)] == ["08P01"]
