"""The journal's signing key: `state_dir/keys/journal.key` (0600) and `journal.pub` beside it, both PEM (Ed25519)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from guard.record.errors import RecordError

PRIVATE, PUBLIC = "journal.key", "journal.pub"


def key_id(key: Ed25519PublicKey) -> str:
    """Sixteen hexadecimal digits that name a public key in checkpoints."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def load_or_make(folder: Path, *, may_make: bool) -> Ed25519PrivateKey:
    """The signing key. may_make: False once a journal exists, whose key must then be there.

    Raises RecordError: missing, unreadable, readable by others, no Ed25519 key.
    """
    path = folder / PRIVATE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            if not may_make:
                raise RecordError(
                    f"the journal's signing key `{path}` is missing; restore it, or move the journal folder aside "
                    "(keep it: it is evidence) to start a new one"
                )
            _write_new(path)
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise RecordError(f"the signing key `{path}` is readable by others (mode {mode:o}); chmod it to 600")
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise RecordError(f"cannot use the signing key `{path}`: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RecordError(f"`{path}` is no unencrypted PEM private key; restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RecordError(f"`{path}` is no Ed25519 key; restore it from a backup")
    _publish(folder / PUBLIC, key.public_key())
    return key


def load_public(path: Path) -> Ed25519PublicKey:
    """The public key for `verify`. Raises RecordError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot read the public key `{path}`: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RecordError(f"`{path}` is no PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise RecordError(f"`{path}` is no Ed25519 public key")
    return key


def _write_new(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(path, pem, 0o600)


def _publish(path: Path, key: Ed25519PublicKey) -> None:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        if not path.exists() or path.read_bytes() != pem:
            _write(path, pem, 0o644)
    except OSError as error:
        raise RecordError(f"cannot write the public key `{path}`: {error.strerror}") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all: a key cut short by a crash would lock the journal."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
