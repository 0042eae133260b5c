"""`./scripts/bench http`: what the gateway costs in front of an HTTP server, beside other ways to it.

Targets: direct; haproxy (HTTP mode); mitmdump (no addon); gateway (token checked, rules, detectors, credential put in,
everything on record). Modes: keep-alive connections, a new one for each request, answers of 10 MB, and (gateway) the
same with e-mail fields that are masked as they pass. Ways: `reverse` (a registered API), and for mitmdump and gateway
`forward` (a proxy: absolute-form where plain, CONNECT and TLS opened where TLS). Last: the detectors alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Self

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from scripts.benchmarks import detect
from scripts.support.gateway import ROLES, ROOT
from scripts.support.issuer import Issuer
from scripts.support.process import Process, StartError, free_port, wait_until
from scripts.support.tls import Authority

TARGETS = ("direct", "haproxy", "mitmdump", "gateway")
MODES = ("keepalive", "new", "large", "masked")
WAYS = ("reverse", "forward")
_PATHS = {"large": "/large", "masked": "/people"}
_QUICK = 42.0  # seconds after which a quick run begins no further cell

POLICY = """
version: 1
name: bench
description: rules of every kind that a request meets
rules:
  - {id: read, description: reading, allow: {effects: [http.read], http: {hosts: [localhost], paths: ["/*"]}}}
  - {id: write, description: writing, allow: {effects: [http.write], http: {hosts: [localhost], methods: [POST]}}}
  - {id: admin, description: no administration, deny: {effects: [http.*], http: {paths: ["/admin*"]}}}
  - {id: header, description: no debugging, deny: {effects: [http.*], http: {headers: {x-debug: ["*"]}}}}
  - {id: query, description: no dumps, deny: {effects: [http.read], http: {query: {dump: ["*"]}}}}
  - {id: erase, description: a person decides, hold: {effects: [http.delete]}}
  - {id: leaks, description: nothing leaves, deny: {effects: [exfil.*]}}
  - {id: people, description: addresses, mask: {fields: ["[].email"], http: {paths: ["/people*"]}, strategy: redact}}
"""

type Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured with each target."""

    mode: str
    clients: int
    tls: bool
    way: str = "reverse"


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a target."""

    port: int
    authority: str
    headers: tuple[str, ...] = ()
    proxy: str = ""  # the token for a forward proxy; anything where it asks for none
    ca: Path | None = None  # of what its TLS is opened with


class HttpRig:
    """The servers. `tls`: clients speak TLS to every target; upstream all speak plain, as behind a balancer."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sgbench-http-"))
        self.missing: dict[str, str] = {}
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._start(targets)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, targets: Sequence[str]) -> None:
        self.authority = Authority(self.folder / "tls")
        pair = self.authority.server("bench")
        self.pem = self.folder / "pair.pem"
        self.pem.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
        self.pem.chmod(0o600)
        python, module = sys.executable, ["-m", "scripts.benchmarks.http_load", "serve"]
        self.port, secure = free_port(), free_port()
        self._run("server", [python, *module, str(self.port)], self.port)
        tls = ["--certificate", str(pair.certificate), "--key", str(pair.key)]
        self._run("tls-server", [python, *module, str(secure), *tls], secure)
        self.secure = secure
        self.ways: dict[tuple[str, str, bool], Way] = {}
        for port, is_tls in ((self.port, False), (secure, True)):
            self.ways["direct", "reverse", is_tls] = Way(port, f"localhost:{port}")
        if "haproxy" in targets:
            self._haproxy()
        if "mitmdump" in targets:
            self._mitmdump()
        if "gateway" in targets:
            self._gateway(pair)

    def _run(self, name: str, argv: Sequence[str], *ports: int, env: dict[str, str] | None = None) -> Process:
        log = self.folder / f"{name}.log"
        process = Process(argv, log=log, name=name, cwd=ROOT, env={**os.environ, **(env or {})})
        self._stack.callback(process.stop)
        for port in ports:
            wait_until(partial(_listens, port), 30.0, what=name, alive=lambda: process.running, log=log)
        return process

    def _haproxy(self) -> None:
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            self.missing["haproxy"] = "it is not installed"
            return
        plain, secure = free_port(), free_port()
        config = self.folder / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 4000\n  nbthread 1\ndefaults\n  mode http\n  option http-keep-alive\n"
            "  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"frontend f\n  bind 127.0.0.1:{plain}\n  bind 127.0.0.1:{secure} ssl crt {self.pem}\n  default_backend b\n"
            f"backend b\n  server s 127.0.0.1:{self.port}\n"
        )
        self._run("haproxy", [program, "-f", str(config)], plain, secure)
        self.ways["haproxy", "reverse", False] = Way(plain, f"localhost:{plain}")
        self.ways["haproxy", "reverse", True] = Way(secure, f"localhost:{secure}")

    def _mitmdump(self) -> None:
        port, proxy = free_port(), free_port()
        program, folder = Path(sys.executable).parent / "mitmdump", self.folder / "mitm"
        common = [str(program), "-q", "--set", "stream_large_bodies=1m", "--listen-host", "127.0.0.1"]
        argv = [*common, "--mode", f"reverse:http://127.0.0.1:{self.port}@{port}", "--certs", f"*={self.pem}"]
        self._run("mitmdump", [*argv, "--set", f"confdir={folder}"], port)
        argv = [*common, "--mode", f"regular@{proxy}", "--set", f"confdir={folder}-proxy"]
        self._run("mitmproxy", [*argv, "--set", f"ssl_verify_upstream_trusted_ca={self.authority.file}"], proxy)
        for is_tls in (False, True):
            self.ways["mitmdump", "reverse", is_tls] = Way(port, f"localhost:{port}")
        self._forward("mitmdump", proxy, "any", Path(f"{folder}-proxy") / "mitmproxy-ca-cert.pem")

    def _forward(self, target: str, port: int, token: str, ca: Path) -> None:
        for is_tls, server in ((False, self.port), (True, self.secure)):
            self.ways[target, "forward", is_tls] = Way(port, f"localhost:{server}", (), token, ca)

    def _gateway(self, pair: Any) -> None:
        issuer = Issuer(self.authority)
        self._stack.callback(issuer.stop)
        port, proxy = free_port(), free_port()
        state = self.folder / "state"
        (self.folder / "policy.yaml").write_text(POLICY)
        document = {
            "version": 1,
            "state_dir": str(state),
            "listeners": [
                {"name": "api", "protocol": "http", "listen": f"127.0.0.1:{port}", "resource": "server"}
                | {"tls": {"mode": "optional", "certificate": str(pair.certificate), "key": str(pair.key)}},
                {"name": "proxy", "protocol": "http", "listen": f"127.0.0.1:{proxy}", "resource": "internet"}
                | {"tls": {"mode": "off"}},
            ],
            "resources": [
                {"name": "server", "protocol": "http", "host": "localhost", "port": self.port, "tls": {"mode": "off"}}
                | {"credential": {"provider": "env", "name": "BENCH_CREDENTIAL"}},
                {"name": "internet", "protocol": "http", "private_networks": ["127.0.0.0/8", "::1/128"]}
                | {"tls": {"mode": "verify-full", "ca": str(self.authority.file)}},
            ],
            "issuers": [{"issuer": issuer.url, "audience": issuer.audience, "ca": str(issuer.ca_file)}],
            "policies": [str(self.folder / "policy.yaml")],
            "roles": ROLES,
        }
        config = self.folder / "gateway.yaml"
        with config.open("w") as stream:
            YAML(typ="safe").dump(document, stream)
        program = Path(sys.executable).parent / "sluicegate"
        env = {"BENCH_CREDENTIAL": "a-credential-of-the-bench"}
        self.gateway = self._run("gateway", [str(program), "serve", str(config)], port, env=env)
        log = self.folder / "gateway.log"
        wait_until((state / "ready.json").exists, 30.0, what="the gateway", alive=lambda: self.gateway.running, log=log)
        token = issuer.token("bench", ["ci"], ttl=7200)
        for is_tls in (False, True):
            self.ways["gateway", "reverse", is_tls] = Way(
                port, f"localhost:{port}", (f"Authorization: Bearer {token}",)
            )
        self._forward("gateway", proxy, token, Path(json.loads((state / "ready.json").read_bytes())["proxy_ca_file"]))

    def load(self, target: str, cell: Cell, seconds: float) -> Row:
        """One run. Raises StartError."""
        way, mode, clients = self.ways[target, cell.way, cell.tls], cell.mode, cell.clients
        argv = [sys.executable, "-m", "scripts.benchmarks.http_load", "load", str(way.port)]
        argv += ["--authority", way.authority, "--clients", str(clients), "--seconds", str(seconds)]
        argv += ["--path", _PATHS.get(mode, "/"), *(["--new"] if mode == "new" else [])]
        argv += ["--ca", str(way.ca or self.authority.file) if cell.tls else "", "--proxy", way.proxy]
        for header in way.headers:
            argv += ["--header", header]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds * 10 + 60, cwd=ROOT)
        try:
            found: Row = json.loads(done.stdout)
        except ValueError:
            raise StartError(f"the driver failed: {done.stderr[-300:]}") from None
        if "error" in found:
            raise StartError(f"{target}: {found['error']}")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def memory(pid: int) -> int:
    """KiB that a process holds now; 0 where that cannot be known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def cells(quick: bool) -> Iterator[Cell]:
    for way in WAYS:
        for tls in (False, True):
            yield from (Cell("keepalive", clients, tls, way) for clients in ((16,) if quick else (1, 16, 64)))
            yield Cell("new", 8, tls, way)
    yield Cell("large", 2, False)
    yield Cell("masked", 2, False)
    if not quick:
        yield Cell("large", 2, True)
        yield Cell("large", 2, True, "forward")


def measure(rig: HttpRig, targets: Sequence[str], options: argparse.Namespace, began: float) -> Iterator[Row]:
    """One row per cell: the median of the rounds, in which the targets take turns. A row for what failed.

    `began` (monotonic): since when a quick run's time counts.
    """
    rounds, seconds = options.rounds or (1 if options.quick else 3), options.seconds or (0.7 if options.quick else 2.0)
    for cell in cells(options.quick):
        runs: dict[str, list[Row]] = {}
        for _ in range(rounds):
            for target in targets:
                if (target, cell.way, cell.tls) not in rig.ways or (cell.mode == "masked" and target != "gateway"):
                    continue
                about = {"target": target, "what": f"{cell.mode} {cell.way}"}
                if options.quick and time.monotonic() - began > _QUICK:
                    yield {"measure": "skipped", **about, "why": "no time left in a quick run"}
                    continue
                try:
                    runs.setdefault(target, []).append(rig.load(target, cell, seconds))
                except StartError as e:
                    yield {"measure": "failed", **about, "why": str(e)}
        yield from (_row(target, cell, found) for target, found in runs.items() if found)
    if "gateway" in targets:
        yield {"measure": "memory", "target": "gateway", "rss_mib": round(memory(rig.gateway.pid) / 1024, 1)}


def _row(target: str, cell: Cell, found: Sequence[Row]) -> Row:
    row: Row = {"measure": "main", "target": target, "mode": cell.mode, "way": cell.way}
    row |= {"clients": cell.clients, "tls": cell.tls}
    row["rps"] = round(median(run["requests"] / run["seconds"] for run in found), 1)
    row |= {name: round(median(run[name] for run in found)) for name in ("p50_us", "p99_us")}
    if cell.mode in ("large", "masked"):
        row["mb_per_s"] = round(median(run["mb"] / run["seconds"] for run in found), 1)
    return row


def content(quick: bool) -> Iterator[Row]:
    """The detector alone, by CPU time of one core: what masking through the gateway is to be compared with."""
    size = 1_000_000 if quick else 8_000_000
    for row in detect.scanning(size, 1 if quick else 3):
        yield {**row, "measure": "detector", "target": "none"}


def show(rows: Sequence[Row], *, stderr: bool) -> None:
    table = Table("way", "mode", "clients", "TLS", "target", "requests/s", "of mitmdump", "p50 us", "p99 us", "MB/s")
    main = [row for row in rows if row["measure"] == "main"]
    bare = {_place(row): row["rps"] for row in main if row["target"] == "mitmdump"}
    for row in main:
        base = bare.get(_place(row))
        share = f"{row['rps'] / base:.2f}" if base else ""
        words = [row["way"], row["mode"], row["clients"], "yes" if row["tls"] else "", row["target"], row["rps"], share]
        table.add_row(*map(str, [*words, row["p50_us"], row["p99_us"], row.get("mb_per_s", "")]))
    console = Console(stderr=stderr)
    console.print(table)
    alone = [f"{row['mb_per_s']:g} MB/s ({row['hits']})" for row in rows if row["measure"] == "detector"]
    masked = [f"{row['mb_per_s']:g} MB/s" for row in main if row["mode"] == "masked"]
    console.print(f"detector alone, per core: {', '.join(alone)}; masking through the gateway: {', '.join(masked)}")


def _place(row: Row) -> tuple[Any, ...]:
    return row["way"], row["mode"], row["clients"], row["tls"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench http", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--json", action="store_true", help="one JSON object per figure on standard output")
    parser.add_argument("--quick", action="store_true", help="end within a minute, with few and short runs")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"of {','.join(TARGETS)}")
    parser.add_argument("--rounds", type=int, default=0, help="turns of each cell (default 3, quick: 1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="of one run (default 2, quick: 0.7)")
    options = parser.parse_args(argv)
    targets = tuple(options.targets.split(","))
    if unknown := [name for name in targets if name not in TARGETS]:
        parser.error(f"unknown target `{unknown[0]}`; there are {', '.join(TARGETS)}")
    rows: list[Row] = []
    began = time.monotonic()
    try:
        with HttpRig(targets) as rig:
            for name, why in rig.missing.items():
                rows.append({"measure": "skipped", "target": name, "why": why})
            for row in measure(rig, targets, options, began):
                rows.append(row)
                if options.json:
                    print(json.dumps(row), flush=True)
        for row in content(options.quick):
            rows.append(row)
            if options.json:
                print(json.dumps(row), flush=True)
    except StartError as e:
        print(f"bench http: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    show(rows, stderr=options.json)
    return 1 if any(row["measure"] == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
