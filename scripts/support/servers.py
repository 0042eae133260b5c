"""What the database servers of a lab have in common: how they start and end, addresses as URLs, a cache of files."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from scripts.support.process import Process, StartError, free_port, wait_until
from scripts.support.tls import Authority

type Owner = pwd.struct_passwd | None

PATH = f"{os.defpath}:/usr/sbin:/usr/local/sbin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C", "TZ": "UTC"}  # of every server
_ATTEMPTS = 3  # a free port can be taken by another process before the server binds it


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
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def tls(self) -> bool: ...


class DatabaseServer(ABC):
    """A running server with one `database` and a superuser of ours, in a private folder that goes when it stops.

    A subclass says what differs: its template of an empty data folder, its command line, when it is ready, and what is
    set up first. It calls `_bring_up` at the end of its constructor.
    """

    host = "127.0.0.1"
    user: str
    form: UrlForm
    prefix: str  # of its folder's name
    accounts: tuple[str, ...]  # who it may run as when we are root
    signals: tuple[int, ...]  # what ends it, tried in order
    start_seconds: float

    folder: Path
    log: Path
    port: int
    process: Process

    def __init__(self, database: str, authority: Authority | None) -> None:
        self.database = database
        self.authority = authority
        self.password = secrets.token_urlsafe(18)
        self._owner = server_user(*self.accounts)

    # ---- what a subclass says

    @property
    @abstractmethod
    def installation(self) -> Installed: ...

    @abstractmethod
    def _template(self) -> Path:
        """An initialised data folder to copy: `kept_template` makes it. Raises StartError."""

    @abstractmethod
    def _command(self) -> list[str | Path]:
        """The server's command line; may put files into `folder` and `data`, which are there by then."""

    @abstractmethod
    def _ready(self) -> bool: ...

    @abstractmethod
    def _prepare(self) -> None:
        """Set up what the superuser and the database need, once it answers."""

    @abstractmethod
    def connect(self, database: str | None = None) -> Any:
        """An autocommit connection as superuser that needs no network, of whatever driver the set-up uses."""

    @abstractmethod
    def run_file(self, path: Path, database: str | None = None) -> None:
        """Run a script of its command line client as superuser, stopping at its first error: StartError."""

    @abstractmethod
    def load_sample(self) -> None:
        """The sample shop, in an empty database."""

    @abstractmethod
    def statements(self) -> list[str]:
        """The text of every statement that reached the server, in order."""

    # ---- what is the same for all

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _bring_up(self) -> None:
        """Start it, and try again where another process took the port first. Raises StartError."""
        for attempt in range(_ATTEMPTS):
            try:
                self._start()
                break
            except StartError as error:
                if attempt + 1 == _ATTEMPTS or "address already in use" not in str(error).lower():
                    raise
        try:
            self._prepare()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=self.prefix))
        self.log = self.folder / "server.log"
        try:
            own(self.folder, self._owner)
            # with their owners: they are the server's own
            subprocess.run(["cp", "-a", self._template(), self.data], check=True, capture_output=True)
            self.port = free_port(self.host)
            self.process = Process(
                self._command(),
                log=self.log,
                name=f"{self.installation.name} {self.installation.version}",
                signals=self.signals,
                user=(self._owner.pw_uid, self._owner.pw_gid) if self._owner else None,
                remove=(self.folder,),
                cwd=Path("/"),
                env=ENVIRONMENT,
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        try:
            wait_until(
                self._ready,
                self.start_seconds,
                what=self.process.name,
                alive=lambda: self.process.running,
                log=self.log,
            )
        except BaseException:
            self.process.stop()
            raise

    def _tls_files(self, authority: Authority, folder: Path) -> tuple[Path, Path, Path]:
        """Certificate, key and CA in `folder`, the key for the server alone: it refuses one that others may read."""
        pair = authority.server(self.folder.name)
        found = []
        for source, mode in ((pair.certificate, 0o644), (pair.key, 0o600), (authority.file, 0o644)):
            target = folder / source.name
            shutil.copyfile(source, target)
            target.chmod(mode)
            own(target, self._owner)
            found.append(target)
        certificate, key, ca = found
        return certificate, key, ca

    def dsn(
        self, *, user: str | None = None, password: str | None = None, database: str | None = None, **parameters: str
    ) -> str:
        """A URL for TCP that its clients understand; TLS is verified where the server has it."""
        ca = self.authority.file if self.authority is not None else None
        who, secret = user or self.user, password or self.password
        return self.form.build(self.host, self.port, who, secret, database or self.database, ca, parameters)

    def stop(self) -> None:
        """Its end, and its folder is gone. May be called again."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def kept_template(kind: str, name: str, initialise: Callable[[Path], Sequence[str | Path]], owner: Owner) -> Path:
    """An initialised data folder, made once for each `name` by the command that `initialise` tells. StartError."""
    cache = private_cache(kind)
    target = cache / name
    if target.exists():
        return target
    partial = Path(tempfile.mkdtemp(dir=cache))
    try:
        own(partial, owner)
        made = subprocess.run(
            initialise(partial / "data"),
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env={**ENVIRONMENT, "HOME": str(partial)},
            **as_user(owner),
        )
        if made.returncode != 0:
            raise StartError(f"a data folder cannot be initialised: {made.stdout}{made.stderr}".strip())
        with contextlib.suppress(OSError):  # another process was faster
            (partial / "data").rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def server_user(*names: str) -> Owner:
    """Who a server runs as when we are root (they refuse root): the first of `names` that exists. None: ourselves."""
    if os.geteuid() != 0:
        return None
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StartError(f"as root, a user {' or '.join(f'`{name}`' for name in names)} is needed to run a server")


def as_user(owner: Owner) -> dict[str, Any]:
    """Arguments for `subprocess.run`."""
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def own(path: Path, owner: Owner) -> None:
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
