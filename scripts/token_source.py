"""Where a client's token comes from, and when it must be fetched again. The token is never printed by an error."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "SLUICEGATE_TOKEN"
_EARLY = 30.0  # seconds before its end at which a token is fetched again
_TIMEOUT = 60.0  # seconds for a command: a person may have to answer a browser
_UNKNOWN = 60.0  # seconds after which a token is fetched again that does not say when it ends
_LONGEST = 65_536


class TokenError(Exception):
    """There is no token; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A token, and when it ends (seconds since the epoch; None: it does not say)."""

    token: str
    ends: float | None


class TokenSource:
    """A file, a command, or else the environment. `get` answers with a token that lives for a while yet."""

    def __init__(
        self,
        *,
        file: Path | None = None,
        command: str = "",
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._command = shlex.split(command)
        self._environment = environment
        self._clock = clock
        self._last: Fetched | None = None
        self._at = 0.0

    def get(self) -> Fetched:
        """Blocks while a command runs. Raises TokenError."""
        now = self._clock()
        last = self._last
        if last is not None and now < (self._at + _UNKNOWN if last.ends is None else last.ends - _EARLY):
            return last
        token = self._read().strip()
        if not token or not token.isascii() or not token.isprintable() or len(token) > _LONGEST:
            raise TokenError(f"{self.name} gives no token")
        found = Fetched(token, expiry(token))
        if found.ends is not None and found.ends <= now:
            raise TokenError(f"the token of {self.name} has expired; get a new one there")
        self._last, self._at = found, now
        return found

    @property
    def name(self) -> str:
        if self._command:
            return f"the command `{self._command[0]}`"
        return f"the file `{self._file}`" if self._file is not None else f"the variable {ENVIRONMENT}"

    def _read(self) -> str:
        if self._command:
            return self._run()
        if self._file is not None:
            try:
                return self._file.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as e:
                raise TokenError(f"{self.name} cannot be read: {getattr(e, 'strerror', None) or 'no text'}") from None
        found = self._environment.get(ENVIRONMENT, "")
        if not found:
            raise TokenError(f"set {ENVIRONMENT}, or name a file (`--file`) or a command (`--command`)")
        return found

    def _run(self) -> str:
        try:
            done = subprocess.run(self._command, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT, check=False)
        except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as e:
            raise TokenError(f"{self.name} does not run: {getattr(e, 'strerror', None) or 'no answer'}") from None
        if done.returncode != 0:
            raise TokenError(f"{self.name} failed with {done.returncode}")
        return done.stdout


def expiry(token: str) -> float | None:
    """`exp` of a JWT, unverified; None where it has none that can be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        ends = claims["exp"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(ends, int | float) or isinstance(ends, bool):
        return None
    return float(ends) if 0 < ends < 1 << 40 else None
