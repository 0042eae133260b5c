"""What the database servers of a lab have in common: addresses as URLs, the user they run as, a cache of files."""

from __future__ import annotations

import os
import pwd
import tempfile
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scripts.support.process import Process, StartError
from scripts.support.tls import Authority


@dataclass(frozen=True, slots=True)
class UrlForm:
    """How the clients of one kind of database write an address: the scheme, and the parameters that say TLS."""

    scheme: str
    mode: str  # the parameter's name
    ca: str  # the parameter's name
    off: str
    verified: str

    def build(
        self,
        host: str,
        port: int,
        user: str,
        password: str | None,
        database: str,
        ca: Path | None,
        parameters: Mapping[str, str],
    ) -> str:
        """Every part quoted; no password part when `password` is None. TLS is verified with `ca`, off without."""
        tls = {self.mode: self.off} if ca is None else {self.mode: self.verified, self.ca: str(ca)}
        quote = urllib.parse.quote
        credentials = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        query = urllib.parse.urlencode({**tls, **parameters}, quote_via=quote)
        return f"{self.scheme}://{credentials}@{host}:{port}/{quote(database, safe='')}?{query}"


class Installed(Protocol):
    """One set of server binaries. `protocol` is what the server speaks, by the registry's name."""

    @property
    def protocol(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def tls(self) -> bool: ...


class DatabaseServer(Protocol):
    """A running server with one `database` and a superuser of ours; `stop` ends it and removes its folder."""

    host: str
    port: int
    user: str
    password: str
    database: str
    authority: Authority | None
    process: Process
    log: Path
    form: UrlForm

    @property
    def installation(self) -> Installed: ...

    def dsn(
        self, *, user: str | None = None, password: str | None = None, database: str | None = None, **parameters: str
    ) -> str: ...

    def connect(self, database: str | None = None) -> Any:
        """An autocommit connection as superuser that needs no network, of whatever driver the set-up uses."""

    def run_file(self, path: Path, database: str | None = None) -> None: ...

    def load_sample(self) -> None: ...

    def statements(self) -> list[str]: ...

    def stop(self) -> None: ...


def server_user(*names: str) -> pwd.struct_passwd | None:
    """Who a server runs as when we are root (they refuse root): the first of `names` that exists. None: ourselves."""
    if os.geteuid() != 0:
        return None
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StartError(f"as root, a user {' or '.join(f'`{name}`' for name in names)} is needed to run a server")


def as_user(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments for `subprocess.run`."""
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def own(path: Path, owner: pwd.struct_passwd | None) -> None:
    if owner is not None:
        os.chown(path, owner.pw_uid, owner.pw_gid)


def private_cache(kind: str) -> Path:
    """A folder that everybody may read and only we may write, kept between runs. Raises StartError."""
    cache = Path(tempfile.gettempdir()) / f"sluicegate-{kind}-{os.geteuid()}"
    cache.mkdir(mode=0o755, exist_ok=True)
    status = cache.lstat()
    if cache.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StartError(f"`{cache}` is not ours alone: remove it")
    return cache
