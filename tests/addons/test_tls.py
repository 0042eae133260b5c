"""The gateway's own CA, and the two sides' TLS contexts."""

from __future__ import annotations

import datetime
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from addons import tls
from addons.tls import LocalCa, TlsError, listener_context, upstream_context
from guard.config.schema import ListenerConfig, ListenerTls, UpstreamTls
from scripts.support.tls import Authority

HOSTS = ["localhost", "127.0.0.1", "::1"]


def listener(**tls_fields: object) -> ListenerConfig:
    return ListenerConfig(
        name="db", protocol="postgres", listen="127.0.0.1:0", resource="shop", tls=ListenerTls(**tls_fields)
    )


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> ssl.SSLObject:
    """Both sides in memory. Returns the client's; raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname=name)
    waiting = [theirs, ours]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    return theirs


# ---------------------------------------------------------------- the CA


def test_strict_clients_accept_what_it_mints(tmp_path: Path) -> None:
    ca = LocalCa(tmp_path / "ca")
    chain, _ = ca.mint("db", HOSTS)
    if shutil.which("openssl") is None:
        pytest.skip("no `openssl` program here: install Debian's `openssl`")
    strictly = ["-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
    checked = subprocess.run(
        ["openssl", "verify", *strictly, "-CAfile", str(ca.certificate_file), str(chain)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    client = ssl.create_default_context(cafile=ca.certificate_file)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in HOSTS:
        assert handshake(listener_context(listener(), ca), client, name).version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(listener_context(listener(), ca), client, "elsewhere.example")


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    ca = LocalCa(tmp_path / "ca")
    _, key = ca.mint("db", HOSTS)
    assert (tmp_path / "ca").stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in (key, tmp_path / "ca" / "ca.key")} == {0}


def test_it_is_made_once(tmp_path: Path) -> None:
    first = LocalCa(tmp_path / "ca").certificate_file.read_bytes()
    assert LocalCa(tmp_path / "ca").certificate_file.read_bytes() == first


def test_a_start_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    """The key is written before the certificate: a key alone signs nothing that anybody trusts."""
    ca = LocalCa(tmp_path / "ca")
    ca.certificate_file.unlink()
    (tmp_path / "ca" / "ca.key.new").write_bytes(b"half a k")
    LocalCa(tmp_path / "ca").mint("db", HOSTS)
    assert not (tmp_path / "ca" / "ca.key.new").exists()


def test_a_ca_whose_key_is_lost_is_not_replaced_by_another(tmp_path: Path) -> None:
    before = LocalCa(tmp_path / "ca").certificate_file.read_bytes()
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(TlsError, match=r"ca\.key` is missing: restore it"):
        LocalCa(tmp_path / "ca")
    assert (tmp_path / "ca" / "ca.crt").read_bytes() == before


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    LocalCa(tmp_path / "ca")
    (tmp_path / "ca" / "ca.key").chmod(0o640)
    with pytest.raises(TlsError, match="chmod 600"):
        LocalCa(tmp_path / "ca")


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_a_damaged_ca_is_not_replaced_behind_its_clients_backs(tmp_path: Path, name: str) -> None:
    LocalCa(tmp_path / "ca")
    (tmp_path / "ca" / name).write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(TlsError, match="move the folder away"):
        LocalCa(tmp_path / "ca")


def test_a_key_of_another_ca_is_refused(tmp_path: Path) -> None:
    LocalCa(tmp_path / "ca")
    LocalCa(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "ca.key", tmp_path / "ca" / "ca.key")
    with pytest.raises(TlsError, match="do not fit"):
        LocalCa(tmp_path / "ca")
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "ca" / "ca.key").write_bytes(other)
    with pytest.raises(TlsError, match="do not fit"):
        LocalCa(tmp_path / "ca")


def test_a_certificate_is_kept_while_it_fits(tmp_path: Path) -> None:
    ca = LocalCa(tmp_path / "ca")
    chain, key = ca.mint("db", HOSTS)
    before = chain.read_bytes(), key.read_bytes()
    assert LocalCa(tmp_path / "ca").mint("db", HOSTS) == (chain, key)
    assert (chain.read_bytes(), key.read_bytes()) == before


@pytest.mark.parametrize("spoiled", ["names", "chain", "key", "another key", "another ca", "time"])
def test_a_certificate_that_does_not_fit_is_minted_again(
    tmp_path: Path, spoiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ca"
    if spoiled == "time":
        monkeypatch.setattr(tls, "_LEAF_DAYS", 29)
    chain, key = LocalCa(folder).mint("db", HOSTS)
    monkeypatch.undo()
    before = chain.read_bytes()
    if spoiled == "chain":
        chain.write_bytes(before[:100])
    elif spoiled == "key":
        key.write_bytes(b"")
    elif spoiled == "another key":
        shutil.copy(LocalCa(folder).mint("second", HOSTS)[1], key)
    elif spoiled == "another ca":
        for name in ("ca.crt", "ca.key"):
            (folder / name).unlink()
    ca = LocalCa(folder)
    hosts = [*HOSTS, "db.internal"] if spoiled == "names" else HOSTS
    chain, _ = ca.mint("db", hosts)
    assert chain.read_bytes() != before
    client = ssl.create_default_context(cafile=ca.certificate_file)
    handshake(listener_context(listener(certificate=chain, key=key), ca), client, hosts[-1])


def test_a_listener_may_have_the_name_of_our_files(tmp_path: Path) -> None:
    ca = LocalCa(tmp_path / "ca")
    before = ca.certificate_file.read_bytes()
    ca.mint("ca", HOSTS)
    assert ca.certificate_file.read_bytes() == before
    LocalCa(tmp_path / "ca")


def test_minted_certificates_live_a_year(tmp_path: Path) -> None:
    chain, _ = LocalCa(tmp_path / "ca").mint("db", HOSTS)
    made = x509.load_pem_x509_certificate(chain.read_bytes())
    assert made.not_valid_after_utc - made.not_valid_before_utc < datetime.timedelta(days=398)  # what clients accept


# ---------------------------------------------------------------- contexts


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_only_todays_tls_and_our_protocol(tmp_path: Path) -> None:
    ca = LocalCa(tmp_path / "ca")
    server = listener_context(listener(), ca)
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2
    assert server.options & ssl.OP_NO_RENEGOTIATION
    assert server.options & ssl.OP_NO_COMPRESSION
    client = ssl.create_default_context(cafile=ca.certificate_file)
    assert handshake(server, client).selected_alpn_protocol() is None
    client.set_alpn_protocols(["http/1.1", "postgresql"])
    assert handshake(server, client).selected_alpn_protocol() == "postgresql"


def test_a_listeners_own_certificate(tmp_path: Path, authority: Authority) -> None:
    made = authority.server("own", hosts=("db.internal",))
    ca = LocalCa(tmp_path / "ca")
    context = listener_context(listener(certificate=made.certificate, key=made.key), ca)
    handshake(context, ssl.create_default_context(cafile=authority.file), "db.internal")


def test_files_that_cannot_be_used_are_named(tmp_path: Path, authority: Authority) -> None:
    one, other = authority.server("one"), authority.server("other")
    ca = LocalCa(tmp_path / "ca")
    encrypted = tmp_path / "encrypted.key"
    key = serialization.load_pem_private_key(one.key.read_bytes(), None)
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for certificate, key_file, why in (
        (one.certificate, other.key, "KEY_VALUES_MISMATCH"),
        (one.certificate, tmp_path / "not-there.key", "No such file"),
        (one.certificate, encrypted, "takes no passphrase"),
    ):
        with pytest.raises(TlsError) as caught:
            listener_context(listener(certificate=certificate, key=key_file), ca)
        for words in ("listener `db`", str(certificate), str(key_file), why):
            assert words in str(caught.value)
        with pytest.raises(TlsError, match="resource `shop`"):
            upstream_context("shop", UpstreamTls(mode="require", certificate=certificate, key=key_file))
    empty = tmp_path / "empty.pem"
    empty.touch()
    for bundle in (empty, tmp_path / "not-there.pem"):
        with pytest.raises(TlsError, match="CA bundle"):
            upstream_context("shop", UpstreamTls(ca=bundle))


def test_upstream_modes(authority: Authority, tmp_path: Path) -> None:
    made = authority.server("upstream", hosts=("db.internal",))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    stranger = Authority(tmp_path, "stranger").file
    assert upstream_context("shop", UpstreamTls(mode="off")) is None

    def opens(name: str, **fields: object) -> bool:
        client = upstream_context("shop", UpstreamTls(**fields))
        assert client is not None
        try:
            handshake(server, client, name)
        except ssl.SSLCertVerificationError:
            return False
        return True

    ours = authority.file
    assert opens("db.internal", mode="verify-full", ca=ours)
    assert not opens("elsewhere", mode="verify-full", ca=ours)
    assert not opens("db.internal", mode="verify-full", ca=stranger)
    assert not opens("db.internal", mode="verify-full")  # the system's authorities know nothing of ours
    assert opens("elsewhere", mode="verify-ca", ca=ours)
    assert not opens("elsewhere", mode="verify-ca", ca=stranger)
    assert opens("elsewhere", mode="require")
    assert upstream_context("shop", UpstreamTls()).verify_mode is ssl.CERT_REQUIRED  # type: ignore[union-attr]  # not off
