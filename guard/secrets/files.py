"""Secrets in files that only the gateway's user can read."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

from guard.secrets.secret import Secret, SecretError

if TYPE_CHECKING:
    from guard.secrets.store import Resolve, SecretRef

MAX_BYTES = 64 * 1024


async def read(ref: SecretRef, _resolve: Resolve) -> Secret:
    """The content of `ref.path` without its last line end."""
    return Secret(await asyncio.to_thread(read_private, ref.path or ""))


def read_private(path: str) -> str:
    """Read a small private text file; raises SecretError, above all when others could have read or written it.

    Permissions are checked on the open file: a check before opening could be about another file. A symbolic link is
    followed (that is how orchestrators mount secrets); what counts is the file at its end.
    """
    try:
        # not blocking: a pipe in the file's place would hang the open
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise SecretError(f"cannot read secret file `{path}`: {getattr(error, 'strerror', 'bad path')}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SecretError(f"secret file `{path}` is no regular file")
        if found.st_uid not in (0, os.geteuid()):
            raise SecretError(f"secret file `{path}` belongs to another user; give it to the gateway's user")
        if found.st_mode & 0o077:
            raise SecretError(f"secret file `{path}` is open to other users; run `chmod 600` on it")
        data = os.read(descriptor, MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(f"cannot read secret file `{path}`: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise SecretError(f"secret file `{path}` is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretError(f"secret file `{path}` is not utf-8 text") from None
    if not text:
        raise SecretError(f"secret file `{path}` is empty")
    return text
