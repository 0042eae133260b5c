"""MySQL and MariaDB servers for one run: whatever the machine has, as any user, root included.

A server lives in a private temporary folder that goes when it stops. Its superuser `root` has a random password, over
TCP and over the Unix socket in that folder. For each authentication plugin that the server has there is one more user.

MySQL itself may lie in a folder with a system of its own (`debootstrap`): its programs then run with that system's
loader and libraries, without chroot, so that sockets and data are where everything else of a run is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types

from scripts.support import sample
from scripts.support.process import StartError
from scripts.support.servers import PATH, DatabaseServer, UrlForm, kept_template, own
from scripts.support.tls import Authority

URL_FORM = UrlForm("mysql", "ssl-mode", "ssl-ca", "DISABLED", "VERIFY_IDENTITY")
SUPERUSER = "root"
FLAVOURS = ("mariadb", "mysql")
ROOT_VARIABLE = "SLUICEGATE_MYSQL_ROOT"
DEFAULT_ROOT = Path("/var/cache/sluicegate/mysql")
METHODS = {
    "mysql": ("caching_sha2_password", "sha256_password", "mysql_native_password"),
    "mariadb": ("mysql_native_password", "ed25519"),
}
_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin", "libexec", "")

# fast and forgetful: the machine may crash, the data may not matter. A killed server or gateway loses nothing by this
_FORGETFUL = {
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-doublewrite": "0",
    "innodb-buffer-pool-size": "64M",
    "innodb-flush-method": "nosync",
    "skip-log-bin": "",
}
_LOGGED = re.compile(r"(?:\S[^\t]*)?\t{1,2} *(\d+) ([A-Z][A-Za-z ]+)\t(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Installation:
    """One set of MySQL or MariaDB programs. `system` is the root of the system they belong to, where not this one."""

    server: Path
    flavour: str  # mysql | mariadb
    version: str
    system: Path | None = None
    tls: bool = True
    protocol: str = "mysql"

    @property
    def name(self) -> str:
        return "MariaDB" if self.flavour == "mariadb" else "MySQL"

    def argv(self, program: Path | str) -> list[str | Path]:
        """How to run one of its programs: through that system's own loader where it is another one."""
        if self.system is None:
            return [program]
        loader, libraries = _loader(self.system)
        return [loader, "--library-path", libraries, program]

    def program(self, *names: str) -> Path | None:
        """The first of these programs that it has; None: it has none of them."""
        for name in names:
            for folder in (self.server.parent, self.server.parent.parent / "bin"):
                if (folder / name).is_file():
                    return folder / name
        return None

    def client(self) -> list[str | Path]:
        """Its own command line client. Raises StartError where it came without."""
        names = ("mariadb", "mysql") if self.flavour == "mariadb" else ("mysql",)
        found = self.program(*names)
        if found is None:
            raise StartError(f"{self.name} {self.version} has no command line client here")
        return self.argv(found)

    def options(self) -> list[str]:
        """What its server needs to find its own files."""
        if self.system is None:
            return ["--no-defaults"]
        share = self.system / "usr" / "share" / "mysql"
        return [
            "--no-defaults",
            f"--basedir={self.system / 'usr'}",
            f"--lc-messages-dir={share}",
            f"--character-sets-dir={share / 'charsets'}",
            f"--plugin-dir={self.system / 'usr' / 'lib' / 'mysql' / 'plugin'}",
        ]


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of the server's general log, with its continuation lines: `command` is Query, Execute, Connect, ..."""

    thread: int
    command: str
    text: str


def find(where: str) -> Installation:
    """`mariadb`, `mysql`, a server program, a folder with one, or the root of a system that has one. StartError."""
    if where in FLAVOURS:
        found = _mariadb() if where == "mariadb" else _mysql()
        if found is None:
            raise StartError(f"no {where} server here: {how_to_get(where)}")
        return found
    path = Path(where)
    candidates = [path] if path.is_file() else [path / folder / name for folder in _FOLDERS for name in _SERVERS]
    for candidate in candidates:
        if candidate.is_file():
            return _describe(candidate, path if (path / "usr" / "sbin").is_dir() else None)
    raise StartError(f"no MySQL or MariaDB in `{where}`: it needs `mysqld` or `mariadbd`")


_SERVERS = ("mariadbd", "mysqld")


def available() -> Iterator[Installation]:
    """MariaDB, then MySQL, as far as the machine has them."""
    for found in (_mariadb(), _mysql()):
        if found is not None:
            yield found


def how_to_get(flavour: str) -> str:
    """For people: what to install."""
    if flavour == "mariadb":
        return "install Debian's `mariadb-server`, or run ./scripts/test as root on Debian, which does"
    return (
        f"put `mysqld` on the PATH, or name in {ROOT_VARIABLE} the folder of a system that has it"
        " (./scripts/test as root on Debian makes one with debootstrap)"
    )


def system_root() -> Path:
    """Where the system with MySQL in it is, or would be made."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)


def _mariadb() -> Installation | None:
    for name in ("mariadbd", "mysqld"):
        if (path := _which(name)) is not None and (found := _describe(path)).flavour == "mariadb":
            return found
    return None


def _mysql() -> Installation | None:
    # Debian's MariaDB calls itself mysqld as well
    if (path := _which("mysqld")) is not None and (found := _describe(path)).flavour == "mysql":
        return found
    root = system_root()
    server = root / "usr" / "sbin" / "mysqld"
    return _describe(server, root) if server.is_file() else None


def _which(name: str) -> Path | None:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}")
    return Path(found).resolve() if found else None


def _describe(server: Path, system: Path | None = None) -> Installation:
    told = Installation(server, "mysql", "", system)
    try:
        argv = [*told.argv(server), "--no-defaults", "--version"]
        said = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise StartError(f"cannot run `{server} --version`: {error}") from error
    version = re.search(r"Ver (\d+(?:\.\d+)+)", said)
    if version is None:
        raise StartError(f"`{server} --version` says `{said.strip()}`: no version")
    return Installation(server, "mariadb" if "MariaDB" in said else "mysql", version[1], system)


def _loader(system: Path) -> tuple[Path, str]:
    """That system's dynamic loader and the folders of its libraries. Raises StartError."""
    for libraries in sorted((system / "usr" / "lib").glob("*-linux-gnu*")):
        for loader in sorted(libraries.glob("ld-linux*.so.*")):
            return loader, str(libraries)
    raise StartError(f"no dynamic loader in `{system}`: is it the root of a Debian system?")


class MySQLServer(DatabaseServer):
    """A running server with an empty `database`; `stop` ends it and removes its folder.

    `authority` switches TLS on, `tls_only` refuses everything else over TCP. `method` is the superuser's authentication
    plugin (None: the flavour's own default); `logins` has a user and password for every plugin. Raises StartError.
    """

    user = SUPERUSER
    form = URL_FORM
    prefix = "sgmy-"
    accounts = ("mysql", "nobody")
    signals = (signal.SIGKILL,)  # its own shutdown takes seconds, to keep what nobody will read
    start_seconds = 60.0

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        database: str = "shop",
        method: str | None = None,
        authority: Authority | None = None,
        tls_only: bool = False,
        log_statements: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if installation is None:
            installation = next(available(), None) or find("mariadb")
        methods = METHODS[installation.flavour]
        method = method or methods[0]
        if method not in methods:
            raise StartError(f"unknown authentication plugin `{method}`; {installation.name} has {', '.join(methods)}")
        if authority is None and tls_only:
            raise StartError("TLS needs an authority")
        super().__init__(database, authority)
        self._installation = installation
        self.method = method
        self.logins: dict[str, tuple[str, str]] = {}
        self._settings = {
            **_FORGETFUL,
            "bind-address": self.host,
            "skip-name-resolve": "",
            "max-connections": "300",
            "max-allowed-packet": "64M",
            "character-set-server": "utf8mb4",
            "default-time-zone": "+00:00",
            "general-log": "1" if log_statements else "0",
            **({"require-secure-transport": "1"} if tls_only else {}),
            **(_MYSQL_ONLY if installation.flavour == "mysql" else {}),
            **(settings or {}),
        }
        self._bring_up()

    @property
    def installation(self) -> Installation:
        return self._installation

    @property
    def general_log(self) -> Path:
        return self.folder / "general.log"

    @property
    def socket(self) -> Path:
        return self.folder / "server.sock"

    def _template(self) -> Path:
        name = f"{self.installation.flavour}-{self.installation.version}"
        return kept_template("mysql", name, functools.partial(_initialise, self.installation), self._owner)

    def _command(self) -> list[str | Path]:
        argv = [*self.installation.argv(self.installation.server), *self.installation.options()]
        argv += [f"--datadir={self.data}", f"--port={self.port}", f"--socket={self.socket}"]
        scratch = self.folder / "tmp"
        scratch.mkdir()
        own(scratch, self._owner)
        argv += [f"--tmpdir={scratch}"]  # servers that share one delete each other's files
        argv += [f"--pid-file={self.folder / 'server.pid'}", f"--general-log-file={self.general_log}"]
        argv += [f"--{name}={value}" if value else f"--{name}" for name, value in self._settings.items()]
        if self.authority is not None:
            certificate, key, ca = self._tls_files(self.authority, self.folder)
            argv += [f"--ssl-cert={certificate}", f"--ssl-key={key}", f"--ssl-ca={ca}"]
        return argv

    def _ready(self) -> bool:
        """It greets. Asked with a socket of our own: the driver leaves its own open when it cannot connect."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
                return len(probe.recv(5)) == 5
            except OSError:
                return False

    def _connect(self, password: str, database: str) -> pymysql.Connection[Any]:
        return pymysql.connect(
            unix_socket=str(self.socket),
            user=SUPERUSER,
            password=password,
            database=database or None,
            charset="utf8mb4",
            autocommit=True,
        )

    def _prepare(self) -> None:
        with contextlib.closing(self._connect("", "")) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{self.database}`")
            have = self._plugins(cursor)
            for plugin in have:
                password = secrets.token_urlsafe(18)
                self.logins[plugin] = (f"by_{plugin}", password)
                self._make_user(cursor, f"by_{plugin}", plugin, password)
            if self.method not in have:
                raise StartError(f"{self.process.name} here has no plugin `{self.method}`")
            self._make_user(cursor, SUPERUSER, self.method, self.password)
            # the one of the set-up last: until then it needs no password
            cursor.execute(
                "SELECT user, host FROM mysql.user WHERE user IN ('root', '') AND host NOT IN ('%', 'localhost')"
            )
            for user, host in cursor.fetchall():
                cursor.execute("DROP USER %s@%s", (user, host))
            cursor.execute("ALTER USER 'root'@'localhost' IDENTIFIED BY %s", (self.password,))

    def _plugins(self, cursor: Any) -> list[str]:
        """The authentication plugins that it has, loaded where they lie beside it."""
        have = []
        for plugin in METHODS[self.installation.flavour]:
            cursor.execute("SELECT 1 FROM information_schema.plugins WHERE plugin_name = %s", (plugin,))
            if cursor.fetchone() is None:
                library = "auth_ed25519" if plugin == "ed25519" else plugin
                try:
                    cursor.execute(f"INSTALL PLUGIN {plugin} SONAME '{library}.so'")
                except pymysql.err.MySQLError:
                    continue  # MySQL's own packages come without the old one
            have.append(plugin)
        return have

    def _make_user(self, cursor: Any, user: str, plugin: str, password: str) -> None:
        how = "WITH {} BY %s" if self.installation.flavour == "mysql" else "VIA {} USING PASSWORD(%s)"
        cursor.execute(f"CREATE USER %s@'%%' IDENTIFIED {how.format(plugin)}", (user, password))
        cursor.execute("GRANT ALL ON *.* TO %s@'%%' WITH GRANT OPTION", (user,))

    def connect(self, database: str | None = None) -> pymysql.Connection[Any]:
        """An autocommit connection as superuser over the private Unix socket."""
        return self._connect(self.password, database or self.database)

    def run_file(self, path: Path, database: str | None = None) -> None:
        """Run a script of the command line client as superuser, stopping at its first error: StartError."""
        argv = [*self.installation.client(), "--no-defaults", "-u", SUPERUSER, "-S", self.socket]
        with path.open("rb") as script:
            done = subprocess.run(
                [*argv, database or self.database],
                stdin=script,
                capture_output=True,
                env={"PATH": PATH, "LC_ALL": "C", "MYSQL_PWD": self.password},
            )
        if done.returncode != 0:
            raise StartError(f"`{path}` failed: {done.stderr.decode(errors='replace').strip()}")

    def load_sample(self) -> None:
        """The sample shop, in an empty database."""
        with contextlib.closing(self.connect()) as connection:
            sample.load_mysql(connection)

    def logged(self) -> list[Logged]:
        """The general log so far, parsed. Needs `log_statements`."""
        try:
            text = self.general_log.read_text(errors="replace")
        except FileNotFoundError:
            return []
        return list(_parse_log(text))

    def statements(self) -> list[str]:
        """The text of every statement that reached the server, in order; a prepared one at each execution."""
        return [entry.text for entry in self.logged() if entry.command in ("Query", "Execute")]


_MYSQL_ONLY = {"mysqlx": "0", "secure-file-priv": "NULL", "innodb-redo-log-capacity": "32M"}


def _initialise(installation: Installation, data: Path) -> list[str | Path]:
    if installation.flavour == "mysql":
        server = [*installation.argv(installation.server), *installation.options()]
        return [*server, "--initialize-insecure", f"--datadir={data}", "--innodb-redo-log-capacity=32M"]
    script = installation.program("mariadb-install-db", "mysql_install_db")
    if script is None and (base := _which("mariadb-install-db")) is not None:
        script = base
    if script is None:
        raise StartError(f"MariaDB {installation.version} has no `mariadb-install-db` here")
    return [
        script, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db",
        "--innodb-log-file-size=16M",
    ]  # fmt: skip


def _parse_log(text: str) -> Iterator[Logged]:
    current: Logged | None = None
    for line in text.split("\n"):
        match = _LOGGED.fullmatch(line)
        if match:
            if current is not None:
                yield current
            current = Logged(int(match[1]), match[2].strip(), match[3])
        elif current is not None:
            current = Logged(current.thread, current.command, f"{current.text}\n{line}")
    if current is not None:
        yield Logged(current.thread, current.command, current.text.removesuffix("\n"))
