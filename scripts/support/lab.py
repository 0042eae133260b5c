"""`./scripts/lab`: a database, an issuer and a gateway, for any program that wants to talk to them."""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
from rich.console import Console

from scripts.support import mysql, postgres
from scripts.support.gateway import ROOT, Gateway
from scripts.support.issuer import Issuer
from scripts.support.process import StartError
from scripts.support.servers import DatabaseServer
from scripts.support.tls import Authority

GROUPS = {
    "admin": ("platform", "oncall", "security"),
    "analyst": ("analysts",),
    "agent": ("agents",),
}
DEFAULT_POLICY = ROOT / "policies" / "demo.yaml"
_TOKEN_SECONDS = 12 * 3600.0

type AnyInstallation = postgres.Installation | mysql.Installation

EPILOG = """
examples:
  ./scripts/lab                                     sample database, demo policy; ctrl-c ends it
  ./scripts/lab --json < /dev/null > lab.json &     for a program: ends on SIGTERM
  ./scripts/lab --policy policies/read-only.yaml --setup schema.sql --server /usr/lib/postgresql/15
  ./scripts/lab --protocol mysql --server mariadb

identities: admin (groups platform, oncall, security), analyst (analysts), agent (agents).
with --json one object is printed when everything answers; the lab then runs until its standard input closes or
SIGTERM. where standard input was closed or /dev/null from the start, only SIGTERM (or ctrl-c) ends it.
"""


class Lab:
    """The three servers, up and connected. `folder` holds everything they write and goes when the lab stops.

    `installation` decides the protocol. `setup` fills the database (a script of the server's own command line client,
    run as superuser); None loads the sample shop. Raises StartError.
    """

    def __init__(
        self,
        policies: Sequence[Path] = (DEFAULT_POLICY,),
        *,
        setup: Path | None = None,
        installation: AnyInstallation | None = None,
        tls: str = "required",
        launcher: str = "mitmdump",
        web: Mapping[str, str] | None = None,
        adjust: Callable[[dict[str, Any]], None] | None = None,
        folder: Path | None = None,
    ) -> None:
        installation = installation or postgres.embedded()
        for path in [*policies, *([setup] if setup else [])]:
            if not path.is_file():
                raise StartError(f"no such file: `{path}`")
        self.folder = folder or Path(tempfile.mkdtemp(prefix="sglab-"))
        self._parts: list[DatabaseServer | Issuer | Gateway] = []
        try:
            self.authority = Authority(self.folder / "tls")
            upstream_tls = self.authority if tls != "off" and installation.tls else None
            self.server = serve(installation, upstream_tls)
            self._parts.append(self.server)
            if setup is not None:
                self.server.run_file(setup)
            else:
                self.server.load_sample()
            self.issuer = Issuer(self.authority)
            self._parts.append(self.issuer)
            self.gateway = Gateway(
                self.folder, self.server, [self.issuer], policies, self.authority,
                tls=tls, launcher=launcher, web=web, adjust=adjust,
            )  # fmt: skip
            self._parts.append(self.gateway)
        except BaseException:
            self.stop()
            raise
        self.tokens = {name: self.issuer.token(name, groups, ttl=_TOKEN_SECONDS) for name, groups in GROUPS.items()}

    def dsn(self, identity: str, **parameters: str) -> str:
        """The gateway's address with an identity's token as the password."""
        return self.gateway.dsn(identity, self.tokens[identity], **parameters)

    def describe(self) -> dict[str, Any]:
        """Everything another program needs, as `--json` prints it. Holds secrets of this run: it is a lab."""
        gateway, server = self.gateway, self.server
        protocol = server.installation.protocol
        about = {
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "password": server.password,
            "dbname": server.database,
            "version": server.installation.version,
            "tls": server.authority is not None,
            "log": str(server.log),
            "pid": server.process.pid,
        }
        return {
            "protocol": protocol,
            "direct_dsn": server.dsn(),
            "gateway_dsn": gateway.dsn("analyst", None),
            "ca_file": str(self.authority.file),
            "tokens": self.tokens,
            "dsns": {name: self.dsn(name) for name in self.tokens},
            "env": gateway.environment(self.tokens["admin"]),
            "state_dir": str(gateway.state_dir),
            "config": str(gateway.config),
            "log": str(gateway.log),
            "pid": gateway.process.pid,
            **({"psql": str(psql(tls=gateway.tls != "off"))} if protocol == "postgres" else {}),
            protocol: about,
            "issuer": {"url": self.issuer.url, "ca_file": str(self.issuer.ca_file)},
        }

    def stop(self) -> None:
        """End everything, the gateway first. May be called again."""
        while self._parts:
            self._parts.pop().stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def serve(installation: AnyInstallation, authority: Authority | None, **options: Any) -> DatabaseServer:
    """Start a server of this installation. Raises StartError."""
    if isinstance(installation, mysql.Installation):
        return mysql.MySQLServer(installation, authority=authority, **options)
    return postgres.PostgresServer(installation, authority=authority, **options)


def find(protocol: str, where: str | None) -> AnyInstallation:
    """The named installation of a protocol's server, or the one that is used when none is named. Raises StartError."""
    if protocol == "postgres":
        return postgres.find(where or "embedded")
    if where is not None:
        return mysql.find(where)
    return next(mysql.available(), None) or mysql.find("mariadb")


def psql(*, tls: bool) -> Path:
    """A psql that speaks TLS where that is wanted: the machine's own; the wheel's is built without."""
    found = shutil.which("psql") if tls else None
    return Path(found) if found else postgres.embedded().program("psql")


def until_told(lab: Lab) -> int:
    """Wait for the end of standard input, a signal, or the death of a server (exit status 1)."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    watched = [reader]
    if _is_lifeline():
        watched.append(0)
    while True:
        readable, _, _ = select.select(watched, [], [], 1.0)
        if reader in readable:
            return 0
        if 0 in readable and not os.read(0, 4096):
            return 0
        for part, name in ((lab.gateway, "the gateway"), (lab.server, "the database"), (lab.issuer, "the issuer")):
            if not part.process.running:
                print(f"lab: {name} ended by itself; the gateway's log ends:", file=sys.stderr)
                print(lab.gateway.log_tail(), file=sys.stderr)
                return 1


def _is_lifeline() -> bool:
    """Whether the end of standard input means anything: not when it was closed or `/dev/null` from the start."""
    try:
        status = os.fstat(0)
    except OSError:
        return False
    null = os.stat(os.devnull)
    return (status.st_dev, status.st_ino) != (null.st_dev, null.st_ino)


def _show(lab: Lab) -> None:
    told = lab.describe()
    console = Console()
    rows = {
        "direct": told["direct_dsn"],
        **{name: _typed(lab, name) for name in ("analyst", "agent", "admin")},
        "command line": " ".join(f"{name}={value}" for name, value in told["env"].items()),
        "configuration": told["config"],
        "log": told["log"],
    }
    for name, value in rows.items():
        console.print(f"[bold]{name}[/bold]", highlight=False)
        console.print(f"  {value}", soft_wrap=True, highlight=False, markup=False)
    console.print("ctrl-c ends it")


def _typed(lab: Lab, identity: str) -> str:
    """What a person types to be this identity."""
    gateway = lab.gateway
    if lab.server.installation.protocol == "postgres":
        return f"{psql(tls=gateway.tls != 'off')} '{lab.dsn(identity)}'"
    # an option that MySQL's own client and MariaDB's both know
    tls = f" --ssl-ca={lab.authority.file}" if gateway.tls != "off" else ""
    address = f"-h {gateway.host} -P {gateway.port} -u {identity}{tls} {lab.server.database}"
    return f"MYSQL_PWD='{lab.tokens[identity]}' mysql {address}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lab",
        description="Bring up a database, an OIDC issuer and a gateway, and keep them running.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--policy", action="append", type=Path, metavar="FILE", help="bundle; may be repeated; default: the demo's"
    )
    parser.add_argument("--protocol", choices=("postgres", "mysql"), default="postgres", help="default: postgres")
    parser.add_argument("--setup", type=Path, metavar="FILE.sql", help="script for the database; default: sample")
    parser.add_argument(
        "--server",
        "--postgres",
        dest="server",
        metavar="PATH",
        help="an installation's folder; or `embedded` (PostgreSQL), `mariadb`, `mysql`",
    )
    parser.add_argument("--tls", choices=("on", "off"), default="on", help="to the gateway, and to a server that can")
    parser.add_argument("--serve", action="store_true", help="start with `sluicegate serve` instead of mitmdump")
    parser.add_argument("--json", action="store_true", help="print one JSON object when ready")
    options = parser.parse_args(argv)
    # a termination before we are ready must still take the servers down: as an exception it unwinds through `Lab`
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        lab = Lab(
            options.policy or (DEFAULT_POLICY,),
            setup=options.setup,
            installation=find(options.protocol, options.server),
            tls="required" if options.tls == "on" else "off",
            launcher="serve" if options.serve else "mitmdump",
        )
    except (StartError, psycopg.Error, pymysql.err.MySQLError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    with lab:
        if options.json:
            print(json.dumps(lab.describe()), flush=True)
        else:
            _show(lab)
        return until_told(lab)


if __name__ == "__main__":
    sys.exit(main())
