"""The servers of one benchmark: a database, and every way to it that this machine has.

`Rig` is what every protocol has; `PostgresRig` is PostgreSQL's, and `mysql_rig.py` has the other.
"""

from __future__ import annotations

import copy
import os
import pwd
import shutil
import socket
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import psycopg

from scripts.benchmarks.load import BenchError, Login, Pgbench, Run
from scripts.support.gateway import LISTENER, ROOT, Gateway
from scripts.support.issuer import Issuer
from scripts.support.postgres import Installation, PostgresServer
from scripts.support.process import Process, StartError, free_port, wait_until
from scripts.support.servers import DatabaseServer
from scripts.support.tls import Authority, Certificate

TARGETS = ("direct", "haproxy", "pgbouncer", "mitmdump", "gateway")
PLAIN_LISTENER = "bench-plain"
DEMO_POLICY = ROOT / "policies" / "demo.yaml"
STRATEGIES = ("partial", "tokenise")  # of the masks that are measured: one ordinary, one that computes
ROWS = 40_000  # of each bulk table
# who the gateway's clients are: an analyst has masks in force, so that each result is looked at; an administrator none
IDENTITIES = {"analyst": ("analysts",), "admin": ("platform",)}
_TOKEN_SECONDS = 6 * 3600.0
_START_SECONDS = 30.0

# ten columns of integers and text: cheap for the server to print, so that what carries the rows is what is measured
BULK_COLUMNS = ("id", "customer", "status", "name", "email", "city", "street", "phone", "item", "note")
_BULK = """
CREATE TABLE bench_plain AS SELECT
    n AS id, n * 7 %% 5000 AS customer, n %% 5 AS status, 'Given Family ' || n %% 1000 AS name,
    'given.family.' || n || '@example.com' AS email, 'City ' || n %% 100 AS city,
    n %% 300 || ' Long Street, Second Floor' AS street, '+351 555 ' || 100000 + n AS phone,
    'item number ' || n %% 800 AS item, repeat('note ', 10) || n AS note
FROM generate_series(1, %d) AS n
"""
_TABLES = [_BULK % ROWS, *[f"CREATE TABLE bench_{name} AS TABLE bench_plain" for name in STRATEGIES], "VACUUM ANALYZE"]
SMALL = "SELECT abalance FROM pgbench_accounts WHERE aid = 1"

_OPTIONS = {"partial": "keep_last: 4", "tokenise": "domain: bench"}
MASKS = (
    "version: 1\nname: bench\ndescription: one of ten columns masked in each of the bulk tables\nrules:\n"
    + "".join(
        f"  - id: mask-{name}\n    description: the e-mail of one bulk table\n"
        f"    mask: {{columns: ['*.bench_{name}.email'], strategy: {name}, {_OPTIONS[name]}}}\n"
        f"    unless: {{who: {{groups: [platform]}}}}\n"
        for name in STRATEGIES
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """One way to the database. `logins` and `pids` by whether the client speaks TLS; no pid: no process of its own."""

    name: str
    logins: Mapping[bool, Login]
    pids: Mapping[bool, int] = field(default_factory=dict)


def program(name: str) -> str | None:
    """A server program of this machine, in the places where they are kept."""
    return shutil.which(
        name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    )


class Driver(Protocol):
    """What puts load on a target."""

    def run(
        self,
        login: Login,
        *,
        transactions: int,
        seconds: float,
        clients: int = 1,
        mode: str = ...,
        script: Path | None = None,
        reconnect: bool = False,
    ) -> Run:
        """`transactions` per client, expected to take `seconds`; `script` in place of the small SELECT. BenchError."""


class Rig(ABC):
    """Database, issuer and the targets of `wanted` that are installed; `missing` says why the others are not there.

    `connections`: how many of them at once the database must be able to bear. Raises StartError.
    """

    all_targets: ClassVar[tuple[str, ...]]
    modes: ClassVar[tuple[str, ...]]  # of the small statements
    server: DatabaseServer
    driver: Driver
    psql: Path | None = None  # what copies; None: there is no COPY

    def __init__(
        self, installation: Any, wanted: Sequence[str], *, identity: str = "analyst", connections: int = 100
    ) -> None:
        self.identity = identity
        self.missing: dict[str, str] = {}
        self.targets: dict[str, Target] = {}
        self._stack = ExitStack()
        try:
            self.folder = self._folder("sgbench-", 0o700)
            self.tls: bool = installation.tls
            self._authority = Authority(self.folder / "tls")
            self._connections = connections + 50
            self.server = self._serve(installation)
            self._stack.callback(self.server.stop)
            self._start(wanted)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, wanted: Sequence[str]) -> None:
        starts: dict[str, Callable[[], Target]] = {
            "direct": self._direct,
            "haproxy": self._haproxy,
            "pgbouncer": self._pgbouncer,
            "mitmdump": self._mitmdump,
            "gateway": self._gateway,
        }
        for name in self.all_targets:
            if name in ("haproxy", "pgbouncer") and name in wanted and program(name) is None:
                self.missing[name] = f"{name} is not installed"
            elif name in wanted:
                self.targets[name] = starts[name]()
        self._fill()

    @abstractmethod
    def _serve(self, installation: Any) -> DatabaseServer:
        """Start the database, for `_connections` and 50 more."""

    @abstractmethod
    def _fill(self) -> None:
        """Make the tables, and the driver."""

    @abstractmethod
    def wire_bytes(self) -> tuple[int, int]:
        """What one result of the plain bulk table is: bytes of row messages for a SELECT; of text for a COPY."""

    @abstractmethod
    def connect(self, login: Login) -> Any:
        """A connection that has run one small statement; it has `close`. Raises BenchError."""

    @abstractmethod
    def open_connections(self) -> int:
        """How many clients the database has."""

    def _pgbouncer(self) -> Target:
        raise NotImplementedError("no such target here")

    def _folder(self, prefix: str, mode: int) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        folder.chmod(mode)
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _login(self, port: int, *, tls: bool) -> Login:
        server = self.server
        ca = self._authority.file if tls else None
        return Login(server.host, port, server.user, server.password, server.database, ca)

    def _logins(self, port: int) -> dict[bool, Login]:
        return {tls: self._login(port, tls=tls) for tls in (False, True) if self.tls or not tls}

    # ------------------------------------------------------------ the ways to the database

    def _direct(self) -> Target:
        return Target("direct", self._logins(self.server.port))

    def _haproxy(self) -> Target:
        """TCP mode, one thread. It cannot end a database's kind of TLS: that passes through."""
        port = free_port()
        config = self.folder / "haproxy.cfg"
        config.write_text(
            "global\n    nbthread 1\n    maxconn 4000\n"
            "defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n"
            f"listen database\n    bind 127.0.0.1:{port}\n    server one 127.0.0.1:{self.server.port}\n"
        )
        process = self._run("haproxy", [str(program("haproxy")), "-db", "-f", config], port)
        return Target("haproxy", self._logins(port), dict.fromkeys(self._logins(port), process.pid))

    def _mitmdump(self) -> Target:
        """As it comes, without an addon. TLS passes through to the database."""
        port = free_port()
        argv: list[str | Path] = [Path(sys.executable).parent / "mitmdump", "-q", "--listen-host", "127.0.0.1"]
        argv += ["--listen-port", str(port), "--mode", f"reverse:tcp://127.0.0.1:{self.server.port}"]
        argv += ["--set", f"confdir={self.folder / 'mitmproxy'}"]
        process = self._run("mitmdump", argv, port)
        return Target("mitmdump", self._logins(port), dict.fromkeys(self._logins(port), process.pid))

    def _gateway(self) -> Target:
        masks = self.folder / "bench.yaml"
        masks.write_text(MASKS)
        return self.gateway("gateway", [DEMO_POLICY, masks])[1]

    def gateway(self, name: str, policies: Sequence[Path]) -> tuple[Gateway, Target]:
        """Start `sluicegate serve` with these policies, in front of the same database; stopped with the rig."""
        issuer = self._issuer()
        running = self._stack.enter_context(
            Gateway(
                self.folder / name,
                self.server,
                [issuer],
                policies,
                self._authority,
                tls="required" if self.tls else "off",
                launcher="serve",
                adjust=self._both_kinds,
            )
        )
        token = issuer.token(self.identity, IDENTITIES[self.identity], ttl=_TOKEN_SECONDS)

        def login(tls: bool) -> Login:
            listener = LISTENER if tls or not self.tls else PLAIN_LISTENER
            ca = self._authority.file if tls else None
            return Login(running.host, running.listeners[listener][1], self.identity, token, self.server.database, ca)

        logins = {tls: login(tls) for tls in self._logins(0)}
        return running, Target(name, logins, dict.fromkeys(logins, running.process.pid))

    def _issuer(self) -> Issuer:
        if not hasattr(self, "_only_issuer"):
            self._only_issuer = self._stack.enter_context(Issuer(self._authority))
        return self._only_issuer

    def _both_kinds(self, document: dict[str, Any]) -> None:
        """TLS on both legs on one listener, none on either leg on the other."""
        document["limits"] = {"max_connections": self._connections}
        if not self.tls:
            return
        listener, resource = copy.deepcopy(document["listeners"][0]), copy.deepcopy(document["resources"][0])
        resource |= {"name": "shop-plain", "tls": {"mode": "off"}}
        listener |= {"name": PLAIN_LISTENER, "resource": "shop-plain", "tls": {"mode": "off"}}
        listener["listen"] = f"127.0.0.1:{free_port()}"  # mitmproxy takes port 0 once only
        document["listeners"].append(listener)
        document["resources"].append(resource)

    def _run(self, name: str, argv: Sequence[str | Path], port: int, *, user: tuple[int, int] | None = None) -> Process:
        """Start a proxy and wait until it accepts."""
        log = self.folder / f"{name}-{port}.log"
        process = Process(argv, log=log, name=name, user=user, cwd=Path("/"))
        self._stack.callback(process.stop)
        wait_until(lambda: _accepts(port), _START_SECONDS, what=name, alive=lambda: process.running, log=log)
        return process

    def close(self) -> None:
        """Stop everything, the gateway first, and remove what they wrote."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class PostgresRig(Rig):
    """PostgreSQL: pgbench as the driver, PgBouncer as one more neighbour."""

    all_targets = TARGETS
    modes = ("simple", "prepared")
    server: PostgresServer

    def _serve(self, installation: Installation) -> PostgresServer:
        return PostgresServer(
            installation,
            authority=self._authority if self.tls else None,
            log_statements=False,
            settings={"max_connections": str(self._connections + 50)},
        )

    def _fill(self) -> None:
        installation = self.server.installation
        self.psql = installation.program("psql")
        self.driver = pgbench = Pgbench(installation.program("pgbench"), self._folder("sgbench-log-", 0o700))
        pgbench.initialise(self._login(self.server.port, tls=False))
        with self.server.connect() as connection:
            for statement in _TABLES:
                connection.execute(statement.encode())

    def wire_bytes(self) -> tuple[int, int]:
        """DataRow: header, column count, a length before each value. COPY: a separator behind each value."""
        values = " + ".join(f"sum(octet_length({name}::text))" for name in BULK_COLUMNS)
        with self.server.connect() as connection:
            sizes = f"SELECT {values}, count(*) FROM bench_plain"  # noqa: S608 - our own names
            payload, count = connection.execute(sizes.encode()).fetchone() or (0, 0)
        return int(payload + count * (7 + 4 * len(BULK_COLUMNS))), int(payload + count * len(BULK_COLUMNS))

    def connect(self, login: Login) -> psycopg.Connection[Any]:
        try:
            made = psycopg.connect(
                host=login.host,
                port=login.port,
                user=login.user,
                password=login.password,
                dbname=login.database,
                sslmode="verify-full" if login.ca else "disable",
                sslrootcert=str(login.ca) if login.ca else None,
                connect_timeout=30,
                autocommit=True,
            )
            made.execute(SMALL.encode())
        except psycopg.Error as error:
            raise BenchError(str(error)) from error
        return made

    def open_connections(self) -> int:
        with closing(self.server.connect()) as connection:
            row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            (count,) = row.fetchone() or (0,)
        return int(count) - 1

    def _pgbouncer(self) -> Target:
        """Session pooling. One process without TLS on either side, one with TLS on both."""
        ports, pids = {}, {}
        for tls in self._logins(0):
            ports[tls], pids[tls] = self._one_pgbouncer(tls)
        return Target("pgbouncer", {tls: self._login(port, tls=tls) for tls, port in ports.items()}, pids)

    def _one_pgbouncer(self, tls: bool) -> tuple[int, int]:
        server, port = self.server, free_port()
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # it refuses to run as root
        folder = self._folder("sgbench-pool-", 0o700)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users",
            "pool_mode": "session",
            "max_client_conn": self._connections,
            "default_pool_size": self._connections,
            "log_connections": 0,
            "log_disconnections": 0,
            "ignore_startup_parameters": "extra_float_digits",
            "server_tls_sslmode": "disable",
        }
        if tls:
            pair = self._authority.server("pgbouncer")
            kept = Certificate(folder / "server.pem", folder / "server.key")
            shutil.copyfile(pair.certificate, kept.certificate)
            shutil.copyfile(pair.key, kept.key)
            shutil.copyfile(self._authority.file, folder / "ca.pem")
            settings |= {
                "client_tls_sslmode": "require",
                "client_tls_cert_file": kept.certificate,
                "client_tls_key_file": kept.key,
                "server_tls_sslmode": "verify-full",
                "server_tls_ca_file": folder / "ca.pem",
            }
        (folder / "users").write_text(f'"{server.user}" "{server.password}"\n')
        lines = [f"{key} = {value}" for key, value in settings.items()]
        database = f"{server.database} = host=127.0.0.1 port={server.port}"
        config = folder / "pgbouncer.ini"
        config.write_text("\n".join(["[databases]", database, "[pgbouncer]", *lines, ""]))
        if owner is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        user = (owner.pw_uid, owner.pw_gid) if owner else None
        return port, self._run("pgbouncer", [str(program("pgbouncer")), config], port, user=user).pid


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


__all__ = ["BULK_COLUMNS", "IDENTITIES", "ROWS", "STRATEGIES", "TARGETS", "PostgresRig", "Rig", "StartError", "Target"]
