"""The key of hashes and tokens: `state_dir/keys/mask.key`, 32 random bytes, readable by its owner only.

Who holds it can invert tokens and test guesses against hashes; who loses it gets other tokens for the same values.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

KEY_BYTES = 32


class MaskKeyError(Exception):
    """The key file cannot be used. The text names the file and what to do."""


def load_or_create(path: Path, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """The key in `path`; made with mode 0600 (its folder 0700) when there is none. Raises MaskKeyError."""
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            _create(path, random(KEY_BYTES))
            return _read(path)
    except OSError as e:
        raise MaskKeyError(f"mask key `{path}` cannot be read or written: {e.strerror}") from e


def _create(path: Path, key: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process that died here under the same number
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            # a link never replaces: of two gateways that start at once the first one's key is the key of both
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077:
            raise MaskKeyError(f"mask key `{path}` must be a regular file that only its owner can read: chmod 600 it")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise MaskKeyError(f"mask key `{path}` does not hold {KEY_BYTES} bytes: restore it, or remove it for a new key")
    return key
