from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BASE = """\
version: 1
listeners:
  - name: shop-db
    protocol: postgres
    listen: "127.0.0.1:6432"
    resource: shop
resources:
  - name: shop
    protocol: postgres
    host: db.internal
    database: shop
    labels: {env: prod}
    credential: {user: app, provider: env, name: SHOP_DB_PASSWORD}
issuers:
  - {issuer: "https://idp.example", audience: sluicegate}
policies: [policy.yaml]
"""
POLICY = """\
version: 1
name: small
description: enough to load
rules:
  - {id: read, description: reads, allow: [data.select]}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration made of the base with `old` replaced by `new`, and its policy; returns its path."""

    def _write(old: str = "", new: str = "", *, policy: str = POLICY, text: str | None = None) -> Path:
        assert old in BASE
        (tmp_path / "policy.yaml").write_text(policy)
        path = tmp_path / "gateway.yaml"
        path.write_text(BASE.replace(old, new) if text is None else text)
        return path

    return _write


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"), datetime.datetime.now(datetime.UTC))


def make_certificate(folder: Path, now: datetime.datetime) -> tuple[Path, Path]:
    """One that is good for a day, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "key.pem").chmod(0o600)
    return folder / "cert.pem", folder / "key.pem"
