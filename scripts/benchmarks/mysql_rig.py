"""The servers of a MySQL benchmark, and the driver that puts load on them."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types

from scripts.benchmarks import mysql_driver
from scripts.benchmarks.load import BenchError, Login, Run
from scripts.benchmarks.rig import BULK_COLUMNS, ROWS, STRATEGIES, Rig
from scripts.support.gateway import ROOT
from scripts.support.mysql import Installation, MySQLServer

_GRACE = 20.0  # seconds that a run may take beyond ten times what was expected of it
_CHUNK = 10_000  # rows of one INSERT
_SMALL = (
    "CREATE TABLE bench_small (id int PRIMARY KEY, k int NOT NULL, c char(120) NOT NULL, pad char(60) NOT NULL,"
    " KEY by_k (k))"
)
_BULK = (
    "CREATE TABLE bench_plain (id int PRIMARY KEY, customer int, status int, name varchar(60), email varchar(80),"
    " city varchar(40), street varchar(60), phone varchar(30), item varchar(40), note varchar(120))"
)


class Child:
    """One process of `mysql_driver`, that runs one thing after another. It ends with its standard input."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "scripts.benchmarks.mysql_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )

    def ask(self, spec: dict[str, Any], limit: float) -> dict[str, Any]:
        """Raises BenchError for a run that fails or hangs; after a hang the process is gone."""
        into, out = self._process.stdin, self._process.stdout
        assert into is not None
        assert out is not None
        try:
            into.write(json.dumps(spec).encode() + b"\n")
            into.flush()
        except OSError as error:
            raise BenchError(f"the driver has ended: {error}") from error
        # an answer is one line, written at once: where its beginning is, its end is on the way
        if not select.select([out], [], [], max(0.0, limit))[0]:
            self.close()
            raise BenchError(f"the driver was not done after {limit:.0f} s")
        line = out.readline()
        if not line:
            raise BenchError("the driver has ended; what it said is above")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise BenchError(told["error"])
        return told

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it was to be told stays unsaid
                    pipe.close()


class MySQLDriver:
    """Runs `mysql_driver` in processes of its own; several clients that connect each time are as many processes."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def _child(self, number: int) -> Child:
        while len(self._children) <= number:
            self._children.append(Child())
        if not self._children[number].running:
            self._children[number].close()
            self._children[number] = Child()
        return self._children[number]

    def close(self) -> None:
        for child in self._children:
            child.close()
        self._children.clear()

    def run(
        self,
        login: Login,
        *,
        transactions: int,
        seconds: float,
        clients: int = 1,
        mode: str = "text",
        script: Path | None = None,
        reconnect: bool = False,
    ) -> Run:
        """See `rig.Driver`."""
        spec = {
            "login": {
                "host": login.host,
                "port": login.port,
                "user": login.user,
                "password": login.password,
                "database": login.database,
                "ca": str(login.ca) if login.ca else None,
            },
            "transactions": transactions,
            "clients": clients,
            "mode": mode,
            "script": script.read_text().strip().removesuffix(";") if script else None,
            "reconnect": reconnect,
        }
        limit = 10 * seconds + _GRACE
        # a login is work for the client as well
        children = [self._child(number) for number in range(clients if reconnect else 1)]
        with ThreadPoolExecutor(len(children)) as pool:
            told = list(pool.map(lambda child: child.ask(spec, limit), children))
        latencies = sorted(number for one in told for number in one["latencies"])
        if not latencies:
            raise BenchError("the driver reported no transactions")
        return Run(len(latencies) / max(one["seconds"] for one in told), latencies)


class MySQLRig(Rig):
    """MySQL or MariaDB: no pooler beside it that is as common as PgBouncer."""

    all_targets = ("direct", "haproxy", "mitmdump", "gateway")
    modes = ("text", "prepared")
    server: MySQLServer

    def _serve(self, installation: Installation) -> MySQLServer:
        return MySQLServer(
            installation,
            authority=self._authority,
            log_statements=False,
            settings={"max-connections": str(self._connections + 50), "innodb-buffer-pool-size": "256M"},
        )

    def _fill(self) -> None:
        self.driver = driver = MySQLDriver()
        self._stack.callback(driver.close)
        with closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(_SMALL)
            cursor.execute(_BULK)
            first = mysql_driver.SMALL_ROWS
            for start in range(0, first, _CHUNK):
                values = ",".join(
                    f"({first + n},{n % 5000},'{n:0120d}','{n:060d}')" for n in range(start, start + _CHUNK)
                )
                cursor.execute(f"INSERT INTO bench_small VALUES {values}")  # noqa: S608 - our own values
            for start in range(1, ROWS + 1, _CHUNK):
                values = ",".join(_bulk_row(n) for n in range(start, min(start + _CHUNK, ROWS + 1)))
                cursor.execute(f"INSERT INTO bench_plain VALUES {values}")  # noqa: S608 - our own values
            for name in STRATEGIES:
                cursor.execute(f"CREATE TABLE bench_{name} LIKE bench_plain")
                cursor.execute(f"INSERT INTO bench_{name} SELECT * FROM bench_plain")  # noqa: S608 - our own names
            names = ", ".join(f"bench_{name}" for name in ("small", "plain", *STRATEGIES))
            cursor.execute(f"ANALYZE TABLE {names}")

    def wire_bytes(self) -> tuple[int, int]:
        """A row: four bytes of header, and a length of one byte before each value."""
        values = " + ".join(f"sum(length({name}))" for name in BULK_COLUMNS)
        with closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT {values}, count(*) FROM bench_plain")  # noqa: S608 - our own names
            payload, count = cursor.fetchone()
        return int(payload) + int(count) * (4 + len(BULK_COLUMNS)), 0

    def connect(self, login: Login) -> Any:
        try:
            made = mysql_driver.connect(
                {
                    "host": login.host,
                    "port": login.port,
                    "user": login.user,
                    "password": login.password,
                    "database": login.database,
                    "ca": str(login.ca) if login.ca else None,
                }
            )
            with made.cursor() as cursor:
                cursor.execute(mysql_driver.SMALL.format(mysql_driver.SMALL_ROWS))
        except (pymysql.err.MySQLError, OSError) as error:
            raise BenchError(str(error)) from error
        return made

    def open_connections(self) -> int:
        with closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Threads_connected'")
            return int(cursor.fetchone()[1]) - 1


def _bulk_row(n: int) -> str:
    return (
        f"({n},{n * 7 % 5000},{n % 5},'Given Family {n % 1000}','given.family.{n}@example.com','City {n % 100}',"
        f"'{n % 300} Long Street, Second Floor','+351 555 {100000 + n}','item number {n % 800}','{'note ' * 10}{n}')"
    )
