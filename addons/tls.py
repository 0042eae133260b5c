"""TLS contexts: certificates for listeners (given, or minted by the gateway's own CA) and verification of upstreams."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from guard.config.schema import ListenerConfig, UpstreamTls
from protocols.registry import PROTOCOLS

_CA_DAYS = 3650
_LEAF_DAYS = 397
_RENEW_DAYS = 30


class TlsError(Exception):
    """Certificates or keys that cannot be used; the text names the files."""


def _write(path: Path, data: bytes, mode: int) -> None:
    """Written whole or not at all, with these permissions from its first moment."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(file, "wb") as f:
        f.write(data)
    partial.replace(path)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(ca: bool) -> x509.KeyUsage:
    # Python 3.13's clients refuse a CA without keyUsage
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class LocalCa:
    """The gateway's own CA in `folder`: `ca.crt` is for clients, `ca.key` never leaves. Made on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate_file = folder / "ca.crt"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_file = folder / "ca.key"
        if not self.certificate_file.exists():
            self._make(key_file)
        elif not key_file.exists():  # the key comes first: it was lost, and clients trust the certificate that is left
            raise TlsError(f"`{key_file}` is missing: restore it, or move {folder} away to make a new CA")
        if key_file.stat().st_mode & 0o077:
            raise TlsError(
                f"others can read the CA's key `{key_file}`, and be whoever they like to clients: chmod 600 it"
            )
        try:
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        except (ValueError, TypeError) as e:
            raise TlsError(f"the CA in {folder} cannot be read ({e}); move the folder away to make a new one") from e
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._certificate.public_key():
            raise TlsError(
                f"key and certificate of the CA in {folder} do not fit; move the folder away to make a new one"
            )
        self._key = key

    def _make(self, key_file: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        name = _name("sluicegate local CA")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=_CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(key_file, _pem_key(key), 0o600)
        _write(self.certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def mint(self, name: str, hosts: list[str]) -> tuple[Path, Path]:
        """Certificate and key for a listener; renewed when its names change or it runs out within a month."""
        # the prefix keeps a listener named `ca` from our own files
        chain, key_file = self.folder / f"listener-{name}.crt", self.folder / f"listener-{name}.key"
        if chain.exists() and key_file.exists() and self._fits(chain, key_file, hosts):
            return chain, key_file
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        alternatives: list[x509.GeneralName] = []
        for host in hosts:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                alternatives.append(x509.DNSName(host))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(hosts[0]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=_LEAF_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        _write(key_file, _pem_key(key), 0o600)
        _write(chain, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return chain, key_file

    def _fits(self, chain: Path, key_file: Path, hosts: list[str]) -> bool:
        """Ours, for these names, with this key, and not about to run out. Damaged files do not fit."""
        try:
            certificate = x509.load_pem_x509_certificate(chain.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            certificate.verify_directly_issued_by(self._certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        have = {str(n.value) for n in names}
        left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        return (
            key.public_key() == certificate.public_key()
            and have == set(hosts)
            and left > datetime.timedelta(days=_RENEW_DAYS)
        )


def listener_files(listener: ListenerConfig, ca: LocalCa) -> tuple[Path, Path]:
    """Certificate chain and key of a listener: its own, or minted."""
    if listener.tls.certificate is not None and listener.tls.key is not None:
        return listener.tls.certificate, listener.tls.key
    hosts = {"localhost", "127.0.0.1", "::1", socket.gethostname()}
    if listener.host not in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        hosts.add(listener.host)
    return ca.mint(listener.name, sorted(hosts, key=lambda h: (h != "localhost", h)))


def listener_context(listener: ListenerConfig, ca: LocalCa) -> ssl.SSLContext:
    """The server side, with the protocol's own ALPN where it has one. Raises `TlsError`."""
    chain, key = listener_files(listener, ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, f"listener `{listener.name}`", chain, key)
    if alpn := PROTOCOLS[listener.protocol].alpn:
        context.set_alpn_protocols(list(alpn))
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0  # sessions are long: tickets would only cost memory
    return context


def _load(context: ssl.SSLContext, whose: str, chain: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(chain, key, password=_no_password)
    except OSError as e:  # ssl.SSLError is one
        why = getattr(e, "reason", None) or e.strerror or e
        raise TlsError(f"{whose}: certificate `{chain}` and key `{key or chain}` cannot be used: {why}") from e


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    raise OSError("the key is encrypted; the gateway takes no passphrase")


def upstream_context(name: str, tls: UpstreamTls) -> ssl.SSLContext | None:
    """The client side; None where the resource `name` says `off`. Raises `TlsError`."""
    if tls.mode == "off":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.mode == "require":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.check_hostname = tls.mode == "verify-full"
        if tls.ca is not None:
            try:
                context.load_verify_locations(tls.ca)
            except OSError as e:
                why = getattr(e, "reason", None) or e.strerror or e
                raise TlsError(f"resource `{name}`: CA bundle `{tls.ca}` cannot be used: {why}") from e
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.certificate is not None:
        _load(context, f"resource `{name}`", tls.certificate, tls.key)
    return context
