"""How the gateway logs in to its upstream: every method on real servers, TLS in every mode, and servers that lie."""

from __future__ import annotations

import base64
import contextlib
import copy
import datetime
import hashlib
import hmac
import http.server
import json
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from psycopg import sql

from scripts.support.gateway import ROOT, Gateway
from scripts.support.issuer import Issuer
from scripts.support.postgres import Installation, PostgresServer
from scripts.support.process import free_port
from scripts.support.tls import Authority
from tests.support import wire
from tests.support.bytewise import eventually
from tests.support.fake_upstream import FakeUpstream, Lie, Peer, auth, middle

pytestmark = pytest.mark.e2e

GENERIC = "the gateway could not log in to the upstream; its log says why"
METHODS = ("trust", "password", "md5", "scram-sha-256")
PASSWORDS = {
    "plain": "correct horse battery staple",
    "comma": "a=b,c=d,,=%20",
    "umlaut": "pässwörd-Ⅸ",  # NFKC makes IX of the numeral
    "spaces": "no\u00a0break\u00adhyphen",  # SASLprep: a space, and nothing
    "prohibited": "bell\u0007ü\ue000",  # SASLprep gives up: the raw bytes count
}
SECRET = PASSWORDS["plain"]
FIRST, SECOND = "first-password-of-app", "second-password-of-app"


class Front:
    """A gateway with one listener for each resource, no TLS towards clients."""

    def __init__(
        self,
        folder: Path,
        server: PostgresServer,
        issuer: Issuer,
        authority: Authority,
        resources: dict[str, dict[str, Any]],
        *,
        limits: dict[str, float] | None = None,
    ) -> None:
        self.resources = resources
        self.token = issuer.token("admin", ["platform", "security"])

        def adjust(document: dict[str, Any]) -> None:
            listener, resource = document["listeners"][0], document["resources"][0]
            environment = {"user": "postgres", "provider": "env", "name": "A_PASSWORD"}
            for name, changes in resources.items():
                document["listeners"].append(copy.deepcopy({**listener, "name": name, "resource": name}))
                own = {**resource, "name": name, "credential": environment, **changes}
                document["resources"].append(copy.deepcopy(own))  # shared parts would be written as YAML aliases
            document["limits"] = limits or {}

        self.gateway = Gateway(
            folder,
            server,
            [issuer],
            [ROOT / "policies" / "demo.yaml"],
            authority,
            tls="off",
            adjust=adjust,
            env={"A_PASSWORD": SECRET, **{f"PW_{k.upper()}": v for k, v in PASSWORDS.items()}},
        )

    def connect(self, name: str, *, database: str = "shop") -> psycopg.Connection[Any]:
        host, port = self.gateway.listeners[name]
        return psycopg.connect(
            host=host, port=port, user="admin", password=self.token, dbname=database, sslmode="disable"
        )

    def refusal(self, name: str) -> str:
        """The text of the FATAL with which a connection is refused; nothing secret is in it."""
        with pytest.raises(psycopg.OperationalError) as caught:
            self.connect(name).close()
        text = str(caught.value).split("FATAL:")[-1].strip()
        assert SECRET not in text
        assert self.token not in text
        return text

    def log(self) -> str:
        return self.gateway.log.read_text()

    def logs(self, words: str) -> None:
        """The gateway's log has these words, or will at once: the client is told first."""
        eventually(lambda: words in self.log())


class Vault:
    """The one request of Vault's key/value engine that the gateway makes."""

    def __init__(self) -> None:
        self.token = "vault-token-of-this-run"
        self.data: dict[str, str] = {}
        self.reads = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.reads += 1
                known = self.path == "/v1/secret/data/shop" and self.headers["X-Vault-Token"] == outer.token
                body = json.dumps({"data": {"data": outer.data, "metadata": {"version": 1}}} if known else {}).encode()
                self.send_response(200 if known else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    running = Vault()
    yield running
    running.server.shutdown()
    running.server.server_close()


def private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


# ---------------------------------------------------------------- real servers


def _role(connection: psycopg.Connection[Any], name: str, password: str, encryption: str) -> None:
    connection.execute(sql.SQL("SET password_encryption = {}").format(sql.Literal(encryption)))
    connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(sql.Identifier(name), sql.Literal(password))
    )


def _access(server: PostgresServer, rules: list[str]) -> None:
    """Puts these rules before the server's own, in force for new connections."""
    path = server.data / "pg_hba.conf"
    path.write_text("\n".join(rules) + "\n" + path.read_text())
    _reload(server)


def _reload(server: PostgresServer) -> None:
    """Waits until the server has read its files again."""
    with server.connect() as connection:
        before = connection.execute("SELECT pg_conf_load_time()").fetchone()
        connection.execute("SELECT pg_reload_conf()")
    for _ in range(500):
        with server.connect() as connection:
            if connection.execute("SELECT pg_conf_load_time()").fetchone() != before:
                return
    pytest.fail("the server did not reload its configuration")


def _tls_of(server: PostgresServer) -> dict[str, Any]:
    return {"mode": "verify-full", "ca": str(server.authority.file)} if server.authority else {"mode": "off"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Path:
    """Where secrets lie."""
    folder: Path = tmp_path_factory.mktemp("secrets")
    return folder


@pytest.fixture(scope="module")
def methods(
    server: PostgresServer, issuer: Issuer, authority: Authority, vault: Vault, files: Path, tmp_path_factory: Any
) -> Iterator[Front]:
    """A role for each method and each password, and a resource for each of them and for each way to keep a secret."""
    kind = "hostssl" if server.authority else "host"
    resources: dict[str, dict[str, Any]] = {}
    rules = []
    with server.connect() as connection:
        for method in METHODS:
            for label, password in PASSWORDS.items():
                role = f"{method}-{label}"
                _role(connection, role, password, "md5" if method == "md5" else "scram-sha-256")
                rules.append(f'{kind} all "{role}" 127.0.0.1/32 {method}')
                resources[f"{method}-{label}"] = {
                    "tls": _tls_of(server),
                    "credential": {"user": role, "provider": "env", "name": f"PW_{label.upper()}"},
                }
        _role(connection, "wrong", "something else", "scram-sha-256")
        _role(connection, "app", FIRST, "scram-sha-256")
        connection.execute("CREATE ROLE nologin PASSWORD 'x'")
    for name, user in (("wrong", "wrong"), ("nologin", "nologin"), ("nobody", "nobody-here")):
        resources[name] = {
            "tls": _tls_of(server),
            "credential": {"user": user, "provider": "env", "name": "A_PASSWORD"},
        }
    resources["no-credential"] = {
        "tls": _tls_of(server),
        "credential": {"user": "scram-sha-256-plain", "provider": "none"},
    }
    resources["unset"] = {
        "tls": _tls_of(server),
        "credential": {"user": "postgres", "provider": "env", "name": "NOBODY_SET_THIS"},
    }
    resources["no-database"] = {**resources["scram-sha-256-plain"], "database": "not_there"}
    resources |= {name: {"tls": _tls_of(server), "credential": how} for name, how in _kept(vault, files).items()}
    rules.append("host all nologin 127.0.0.1/32 trust")
    _access(server, rules)
    front = Front(tmp_path_factory.mktemp("methods"), server, issuer, authority, resources)
    try:
        yield front
    finally:
        front.gateway.stop()
        with server.connect() as connection:
            for role in [f"{m}-{label}" for m in METHODS for label in PASSWORDS] + ["wrong", "nologin", "app"]:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _kept(vault: Vault, files: Path) -> dict[str, dict[str, Any]]:
    """The credential of `app` in files and in Vault; and some that cannot be had."""
    file = private(files / "password", FIRST + "\n")
    public = private(files / "public", FIRST)
    public.chmod(0o644)
    vault.data = {"username": "app", "password": FIRST}
    in_vault = {
        "provider": "vault",
        "address": vault.url,
        "path": "secret/data/shop",
        "key": "password",
        "token": {"provider": "file", "path": str(private(files / "vault-token", vault.token))},
    }
    return {
        "file": {"user": "app", "provider": "file", "path": str(file)},
        "public-file": {"user": "app", "provider": "file", "path": str(public)},
        "vault": in_vault,
        "vault-elsewhere": {**in_vault, "path": "secret/data/other"},
    }


@pytest.mark.parametrize("label", PASSWORDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_logs_in(methods: Front, method: str, label: str) -> None:
    with methods.connect(f"{method}-{label}") as connection:
        row = connection.execute("SELECT session_user::text").fetchone()
    assert row == (f"{method}-{label}",)


@pytest.mark.parametrize("method", METHODS[1:])
def test_the_server_saw_the_method_that_it_asks_for(methods: Front, server: PostgresServer, method: str) -> None:
    methods.connect(f"{method}-plain").close()
    if server.installation.major < 14:
        pytest.skip("the server says how a connection was authenticated since PostgreSQL 14")
    wanted = f'connection authenticated: identity="{method}-plain" method={method} '
    eventually(lambda: any(entry.text.startswith(wanted) for entry in server.logged()))


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("wrong", 'password authentication failed for user "wrong"'),
        ("nobody", 'password authentication failed for user "nobody-here"'),
        ("nologin", 'role "nologin" is not permitted to log in'),
    ],
)
def test_a_refused_login_is_explained_in_the_log_only(methods: Front, name: str, detail: str) -> None:
    assert methods.refusal(name) == GENERIC
    methods.logs(detail)


def test_a_missing_credential_is_explained_in_the_log_only(methods: Front) -> None:
    assert methods.refusal("unset") == "the gateway has no credential for this resource; its log says why"
    methods.logs("environment variable `NOBODY_SET_THIS` is not set")
    assert "none is configured" in methods.refusal("no-credential")


def test_a_database_that_is_not_there_is_named(methods: Front) -> None:
    with pytest.raises(psycopg.OperationalError, match='database "not_there" does not exist'):
        methods.connect("no-database", database="not_there")


def test_failed_logins_are_on_record(methods: Front) -> None:
    methods.refusal("wrong")
    events = journal(methods.gateway)
    failed = [event for event in events if event["t"] == "session.failed" and event["resource"] == "wrong"]
    assert failed
    assert failed[-1]["subject"] == "admin"


def test_credentials_from_files_and_vault_and_their_rotation(
    methods: Front, server: PostgresServer, vault: Vault, files: Path
) -> None:
    def user(name: str) -> str:
        with methods.connect(name) as connection:
            row = connection.execute("SELECT session_user::text").fetchone()
        assert row is not None
        return str(row[0])

    assert [user("file"), user("vault"), user("vault")] == ["app"] * 3
    for name, why in (("public-file", "chmod 600"), ("vault-elsewhere", "permission denied")):
        assert methods.refusal(name) == "the gateway has no credential for this resource; its log says why"
        methods.logs(why)
    with server.connect() as connection:
        connection.execute(sql.SQL("ALTER ROLE app PASSWORD {}").format(sql.Literal(SECOND)))
    private(files / "password", SECOND)
    vault.data["password"] = SECOND
    assert user("file") == "app"  # read for each connection
    assert methods.refusal("vault") == GENERIC  # remembered for half a minute, until the upstream refuses it
    assert user("vault") == "app"
    written = [path for path in methods.gateway.folder.rglob("*") if path.is_file()]
    assert methods.gateway.log in written
    for secret in (FIRST, SECOND, vault.token, methods.token, SECRET):
        assert [path for path in written if secret.encode() in path.read_bytes()] == []


def journal(gateway: Gateway) -> list[dict[str, Any]]:
    """The records so far."""
    done = gateway.cli("journal", "dump", str(gateway.state_dir / "journal"), "--json")
    assert done.returncode == 0, done.stderr
    return [record.get("record", record) for line in done.stdout.splitlines() for record in [json.loads(line)]]


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def secured(tls_installation: Installation, authority: Authority) -> Iterator[PostgresServer]:
    """TLS only; roles with a client certificate and with SCRAM."""
    with PostgresServer(tls_installation, authority=authority, tls_only=True) as server:
        with server.connect() as connection:
            _role(connection, "bound", SECRET, "scram-sha-256")
            _role(connection, "certified", "unused", "scram-sha-256")
        _access(server, ["hostssl all certified 127.0.0.1/32 cert"])
        yield server


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: Any) -> Authority:
    """An authority that nobody here trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "a stranger")


@pytest.fixture(scope="module")
def tls(
    secured: PostgresServer, issuer: Issuer, authority: Authority, stranger: Authority, tmp_path_factory: Any
) -> Iterator[Front]:
    ca, other = str(authority.file), str(stranger.file)
    ours, theirs = authority.client("certified"), stranger.client("certified")
    wrong_name = authority.client("somebody-else")
    bound = {"user": "bound", "provider": "env", "name": "A_PASSWORD"}
    certified = {"user": "certified", "provider": "none"}

    def with_certificate(pair: Any) -> dict[str, str]:
        return {"mode": "verify-full", "ca": ca, "certificate": str(pair.certificate), "key": str(pair.key)}

    mitm = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = authority.server("man-in-the-middle")
    mitm.load_cert_chain(pair.certificate, pair.key)
    where = (secured.host, secured.port)
    offers = auth(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    stripped = auth(10, b"SCRAM-SHA-256\0\0")

    def strip(data: bytes) -> bytes:
        return data.replace(offers, stripped)

    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(FakeUpstream(middle(where, mitm)))
        stripping = stack.enter_context(FakeUpstream(middle(where, mitm, strip)))
        resources: dict[str, dict[str, Any]] = {
            "verify-full": {"tls": {"mode": "verify-full", "ca": ca}},
            "verify-ca": {"tls": {"mode": "verify-ca", "ca": ca, "server_name": "elsewhere.example"}},
            "require": {"tls": {"mode": "require"}},
            "named": {"tls": {"mode": "verify-full", "ca": ca, "server_name": "localhost"}},
            "wrong-name": {"tls": {"mode": "verify-full", "ca": ca, "server_name": "elsewhere.example"}},
            "wrong-ca": {"tls": {"mode": "verify-full", "ca": other}},
            "wrong-ca-unnamed": {"tls": {"mode": "verify-ca", "ca": other}},
            "system-ca": {"tls": {"mode": "verify-full"}},
            "plaintext": {"tls": {"mode": "off"}},
            "relayed": {"tls": {"mode": "verify-full", "ca": ca}, "port": relay.port},
            "stripped": {"tls": {"mode": "verify-full", "ca": ca}, "port": stripping.port},
        }
        for resource in resources.values():
            resource["credential"] = bound
        resources |= {
            "certificate": {"tls": with_certificate(ours), "credential": certified},
            "certificate-of-a-stranger": {"tls": with_certificate(theirs), "credential": certified},
            "certificate-of-another": {"tls": with_certificate(wrong_name), "credential": certified},
            "no-certificate": {"tls": {"mode": "verify-full", "ca": ca}, "credential": certified},
        }
        front = Front(tmp_path_factory.mktemp("tls-front"), secured, issuer, authority, resources)
        try:
            yield front
        finally:
            front.gateway.stop()


@pytest.mark.parametrize("name", ["verify-full", "verify-ca", "require", "named", "certificate"])
def test_tls_to_the_upstream(tls: Front, name: str) -> None:
    with tls.connect(name) as connection:
        row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        user = connection.execute("SELECT session_user::text").fetchone()
    assert row is not None
    assert row[0]
    assert row[1] in ("TLSv1.2", "TLSv1.3")
    assert user == (("certified" if name == "certificate" else "bound"),)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("wrong-name", "Hostname mismatch"),
        ("wrong-ca", "certificate verify failed"),
        ("wrong-ca-unnamed", "certificate verify failed"),
        ("system-ca", "certificate verify failed"),
    ],
)
def test_an_upstream_that_cannot_prove_itself_is_refused(tls: Front, name: str, detail: str) -> None:
    assert tls.refusal(name) == "TLS with the upstream failed; the gateway's log says why"
    tls.logs(detail)


def test_a_server_that_wants_tls_gets_no_password_in_the_clear(tls: Front, secured: PostgresServer) -> None:
    assert tls.refusal("plaintext") == GENERIC
    tls.logs("no pg_hba.conf entry")


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("certificate-of-another", 'certificate authentication failed for user "certified"'),
        ("no-certificate", "connection requires a valid client certificate"),
    ],
)
def test_a_client_certificate_must_be_the_right_one(tls: Front, name: str, detail: str) -> None:
    assert tls.refusal(name) == GENERIC
    tls.logs(detail)


def test_a_client_certificate_of_a_stranger_opens_nothing(tls: Front) -> None:
    assert tls.refusal("certificate-of-a-stranger")
    tls.logs("UNKNOWN_CA")


def test_channel_binding_finds_the_man_in_the_middle(tls: Front, secured: PostgresServer) -> None:
    """His certificate is one that we trust: only SCRAM-SHA-256-PLUS can tell. The server's own words are the proof."""
    assert tls.refusal("relayed") == GENERIC
    eventually(lambda: any("SCRAM channel binding check failed" in entry.text for entry in secured.logged()))


def test_channel_binding_cannot_be_talked_away(tls: Front, secured: PostgresServer) -> None:
    """Where the offer was stripped of -PLUS we say that we could have bound, and the server knows of no such offer."""
    assert tls.refusal("stripped")
    words = [entry.text for entry in secured.logged()]
    assert any(
        "thinks the server does not" in text or "SCRAM channel binding negotiation error" in text for text in words
    )


def _self_signed(kind: str) -> tuple[bytes, bytes]:
    """Certificate and key (PEM) for loopback, signed in one of many ways."""
    key: Any
    if kind.startswith("rsa"):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    elif kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key(ec.SECP384R1())
    digest = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}.get(kind[-3:], hashes.SHA256)()
    options: dict[str, Any] = {}
    if "pss" in kind:
        options["rsa_padding"] = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, None if kind == "ed25519" else digest, **options)
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "kind", ["ecdsa-sha256", "ecdsa-sha384", "ecdsa-sha512", "rsa-sha256", "rsa-sha512", "rsa-pss-sha384", "ed25519"]
)
def test_channel_binding_with_every_kind_of_certificate(tls: Front, secured: PostgresServer, kind: str) -> None:
    """RFC 5929 takes the hash of the certificate's own signature; where it has none there is nothing to bind to."""
    files = {part: secured.data / f"{secured.folder.name}.{part}" for part in ("pem", "key")}
    before = {part: path.read_bytes() for part, path in files.items()}
    certificate, key = _self_signed(kind)
    try:
        files["pem"].write_bytes(certificate)
        files["key"].write_bytes(key)
        _reload(secured)
        with tls.connect("require") as connection:
            assert connection.execute("SELECT session_user::text").fetchone() == ("bound",)
    finally:
        for part, path in files.items():
            path.write_bytes(before[part])
        _reload(secured)


# ---------------------------------------------------------------- servers that lie


def scram(
    peer: Peer, *, rounds: int = 4096, nonce: str = "", signature: bytes | None = None, skip: bool = False
) -> None:
    """The server's side of SCRAM-SHA-256, up to where it lies."""
    peer.startup()
    peer.send(auth(10, b"SCRAM-SHA-256\0\0"))
    _, body = peer.message()
    bare = body.split(b"\0", 1)[1][4:].split(b",,", 1)[1].decode()
    salt = b"0123456789abcdef"
    theirs = bare.partition("r=")[2]
    first = f"r={nonce or theirs + 'server'},s={base64.b64encode(salt).decode()},i={rounds}"
    peer.send(auth(11, first.encode()))
    _, final = peer.message()
    if skip:
        peer.send(auth(0))
        return
    without_proof = final.decode().rpartition(",p=")[0]
    salted = hashlib.pbkdf2_hmac("sha256", SECRET.encode(), salt, rounds)
    key = hmac.digest(salted, b"Server Key", "sha256")
    right = hmac.digest(key, f"{bare},{first},{without_proof}".encode(), "sha256")
    peer.send(auth(12, b"v=" + base64.b64encode(right if signature is None else signature)))


WELCOME = wire.parameter("server_version", "17.0") + wire.message("K", struct.pack("!II", 7, 7)) + wire.ready()


def says(*parts: bytes) -> Lie:
    def lie(peer: Peer) -> None:
        peer.startup()
        peer.send(*parts)

    return lie


def starts(answer: bytes) -> Lie:
    """What it answers to the SSLRequest."""

    def lie(peer: Peer) -> None:
        peer.packet()
        peer.send(answer)

    return lie


def _flood(peer: Peer) -> None:
    peer.startup()
    peer.send(auth(0))
    notice = wire.notice("x" * 60_000)
    for _ in range(2000):
        peer.send(notice)


def _twice(peer: Peer) -> None:
    peer.startup()
    peer.send(auth(3))
    peer.message()
    peer.send(auth(0), auth(3))


def _closes(peer: Peer) -> None:
    peer.startup()
    raise EOFError


LIES: dict[str, Lie] = {
    "a wrong SCRAM signature": lambda peer: (scram(peer, signature=bytes(32)), peer.send(auth(0), WELCOME))[0],
    "no SCRAM signature": lambda peer: (scram(peer, skip=True), peer.send(WELCOME))[0],
    "an empty SCRAM signature": lambda peer: (scram(peer, signature=b""), peer.send(auth(0), WELCOME))[0],
    "a nonce of its own": lambda peer: scram(peer, nonce="something-else"),
    "no SCRAM rounds": lambda peer: scram(peer, rounds=0),
    "rounds for a week": lambda peer: scram(peer, rounds=2_000_000_000),
    "SCRAM's end before its beginning": says(auth(12, b"v=AAAA"), auth(0), WELCOME),
    "an unknown mechanism": says(auth(10, b"PLAIN\0\0")),
    "a challenge that is none": says(auth(10, b"SCRAM-SHA-256\0\0"), auth(11, b"\xff\xfe")),
    "authentication twice": _twice,
    "ok twice": says(auth(0), auth(0), WELCOME),
    "a parameter before authentication": says(wire.parameter("a", "b"), auth(0), WELCOME),
    "ready before authentication": says(wire.ready(), auth(0), WELCOME),
    "rows before authentication": says(wire.columns(wire.field("a")), auth(0), WELCOME),
    "rows in the greeting": says(auth(0), wire.row(b"x"), WELCOME),
    "a copy in the greeting": says(auth(0), wire.copy_in(0), WELCOME),
    "Kerberos": says(auth(2)),
    "GSSAPI": says(auth(7)),
    "SSPI": says(auth(9)),
    "an authentication of tomorrow": says(auth(99)),
    "a salt too short": says(auth(5, b"ab")),
    "a code cut short": says(wire.message("R", b"\0")),
    "an unknown message": says(b"?" + struct.pack("!I", 4)),
    "a negative length": says(b"R" + struct.pack("!i", -1)),
    "a length of nothing": says(b"R" + struct.pack("!i", 0)),
    "a length of 2 GiB": says(b"R" + struct.pack("!I", 0x7FFFFFFF)),
    "a message of 1 MiB": says(b"S" + struct.pack("!I", 1 << 20) + bytes(1000)),
    "an error that is none": says(wire.message("E", b"SFATAL")),
    "a parameter that is no text": says(
        auth(0), wire.message("S", b"\xff\xfe\0\xff\0"), wire.message("S", b"a"), WELCOME
    ),
    "a version too late": says(auth(0), wire.message("v", struct.pack("!II", 3 << 16, 0)), WELCOME),
    "greetings without end": _flood,
    "an end in the middle": _closes,
}
TLS_LIES: dict[str, Lie] = {
    "no TLS": starts(b"N"),
    "an error instead of TLS": starts(wire.error("0A000", "unsupported frontend protocol", "FATAL")),
    "bytes behind the S": starts(b"S" + auth(0) + WELCOME),
    "no TLS after the S": lambda peer: (starts(b"S")(peer), peer.receive(1), peer.send(auth(0), WELCOME))[0],
    "a closed connection": lambda peer: peer.socket.close(),
}
SILENT = "nothing at all"


def slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())


@pytest.fixture(scope="module")
def liars(
    issuer: Issuer, authority: Authority, tmp_path_factory: Any
) -> Iterator[tuple[Front, dict[str, FakeUpstream]]]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        fakes = {
            slug(name): stack.enter_context(FakeUpstream(lie))
            for name, lie in {**LIES, **TLS_LIES, SILENT: lambda peer: peer.startup()}.items()
        }
        off, full = {"mode": "off"}, {"mode": "verify-full", "ca": str(authority.file)}
        resources = {
            name: {"port": fake.port, "tls": full if name in map(slug, TLS_LIES) else off}
            for name, fake in fakes.items()
        }
        fakes["told"] = stack.enter_context(
            FakeUpstream(says(wire.error("53300", "sorry, too many clients already", "FATAL")))
        )
        fakes["untold"] = stack.enter_context(
            FakeUpstream(says(wire.error("28000", "no entry for host 10.1.2.3, user app", "FATAL")))
        )
        fakes["honest"] = stack.enter_context(FakeUpstream(lambda peer: (scram(peer), peer.send(auth(0), WELCOME))[0]))
        resources |= {name: {"port": fakes[name].port, "tls": off} for name in ("told", "untold", "honest")}
        resources["down"] = {"port": free_port(), "tls": off}
        resources["unresolvable"] = {"host": "no-such-host.invalid", "tls": off}
        front = Front(
            tmp_path_factory.mktemp("liars"), server, issuer, authority, resources, limits={"auth_timeout": 5.0}
        )
        try:
            yield front, fakes
        finally:
            front.gateway.stop()


@pytest.mark.parametrize("name", [*LIES, *TLS_LIES])
def test_an_upstream_that_lies_gets_nothing_and_gives_nothing(
    liars: tuple[Front, dict[str, FakeUpstream]], name: str
) -> None:
    front, fakes = liars
    text = front.refusal(slug(name))
    assert "its log says why" in text or "the upstream" in text
    assert front.token.encode() not in fakes[slug(name)].said
    assert front.gateway.process.running
    assert "Traceback" not in front.log()


def test_the_same_server_without_a_lie_lets_us_in(liars: tuple[Front, dict[str, FakeUpstream]]) -> None:
    front, fakes = liars
    with front.connect("honest") as connection:
        assert connection.info.parameter_status("server_version") == "17.0"
    assert front.token.encode() not in fakes["honest"].said
    assert SECRET.encode() not in fakes["honest"].said


def test_a_silent_upstream_is_given_up(liars: tuple[Front, dict[str, FakeUpstream]]) -> None:
    assert liars[0].refusal(slug(SILENT)) == "the login took too long"


def test_an_upstream_that_is_down_is_named_in_the_log_only(liars: tuple[Front, dict[str, FakeUpstream]]) -> None:
    for name in ("down", "unresolvable"):
        assert liars[0].refusal(name).startswith("the gateway cannot reach the upstream")
    liars[0].logs("upstream of down")


def test_a_full_upstream_says_so_and_other_errors_stay_here(liars: tuple[Front, dict[str, FakeUpstream]]) -> None:
    front = liars[0]
    assert front.refusal("told") == "sorry, too many clients already"
    assert front.refusal("untold") == GENERIC
    front.logs("10.1.2.3")
