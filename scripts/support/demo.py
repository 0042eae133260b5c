"""`./scripts/demo`: the whole path on a real database in half a minute. Exits 1 when an act did not go as told."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from scripts.support import demo_mysql, mysql
from scripts.support.demo_keep import invite
from scripts.support.lab import Lab, psql, until_told
from scripts.support.process import StartError, free_port
from scripts.support.sink import Sink

APPROVER = "dana"
_DATABASES = (psycopg.Error, pymysql.err.MySQLError)
_WAIT_SECONDS = 20.0
_NARROW = ("-P", "border=0")  # the widest table then fits into a terminal of 80 columns

EPILOG = """
examples:
  ./scripts/demo                 tell the story and clean up
  ./scripts/demo --keep          leave everything running, with mitmweb and the commands to try
  ./scripts/demo --json          one object with every act, its command, its output and whether it went as told

one act is MariaDB or MySQL behind the same gateway. no package index has such a server, so it needs one on the machine
(Debian: `mariadb-server`) and is left out, and named, where there is none.
"""


class Unexpected(Exception):
    """An act did not go as told."""


@dataclass(slots=True)
class Act:
    """One thing shown: what was typed, what came back, and the checks that held."""

    title: str
    told: str
    commands: list[dict[str, str]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ok: bool = False


class Demo:
    """The acts, over one lab. `console` is where the story is told."""

    def __init__(self, lab: Lab, console: Console, neighbour: demo_mysql.Neighbour | None) -> None:
        self.lab = lab
        self.neighbour = neighbour
        self.console = console
        self.acts: list[Act] = []
        # a psql built without TLS talks plaintext over loopback, which the demo's listener accepts
        self.psql = psql(tls=True)
        self.plain = {} if psql(tls=True) != psql(tls=False) else {"sslmode": "disable"}
        ready = json.loads((lab.gateway.state_dir / "ready.json").read_bytes())
        self.proxy = int(str(ready["listeners"]["proxy"]).rpartition(":")[2])
        self.approver_token = lab.issuer.token(APPROVER, ["oncall"], ttl=3600)
        self.act: Act

    def play(self) -> bool:
        """Every act in turn; stops at the first that does not go as told. Whether all did."""
        for act in (
            self.masked,
            self.refused,
            self.held,
            *([self.another] if self.neighbour is not None else []),
            self.kept_in,
            self.replayed,
            self.answered,
            self.contained,
            self.proved,
        ):
            try:
                act()
            except (*_DATABASES, Unexpected, StartError, subprocess.TimeoutExpired) as error:
                self.console.print(f"[bold red]not as told:[/] {escape(str(error))}")
                return False
        return True

    # ---- the acts ----------------------------------------------------------------------------------------------

    def masked(self) -> None:
        statement = "SELECT name, email, card, national_id FROM customers ORDER BY id LIMIT 3"
        credentials = "SELECT service, secret AS s FROM credentials ORDER BY service LIMIT 2"
        with self.telling(
            "who sees what",
            "An analyst's psql, with a signed token where the password was. Nothing else about the client changed.",
        ):
            self.show("what the database holds", self.direct(statement))
            code, out = self.run_psql("analyst", statement, credentials)
            self.check(code == 0, "psql ends well")
            with self.lab.server.connect() as connection:
                sensitive = connection.execute("SELECT email, card, national_id FROM customers ORDER BY id LIMIT 3")
                clear = [value for row in sensitive for value in row]
                clear += [row[0] for row in connection.execute("SELECT secret FROM credentials")]
            self.check(not any(value in out for value in clear), "no e-mail, card, national id or secret came through")
            self.check("Amir Berg" in out, "the names did")

    def refused(self) -> None:
        with self.telling(
            "a command that never arrives",
            "An AI agent tries to drop a table. It gets PostgreSQL's own kind of error, and its session lives on.",
        ):
            _, out = self.run_psql("agent", "DROP TABLE orders", "SELECT count(*) AS orders_still_here FROM orders")
            self.check("permission denied" in out.lower() or "demo/agents-never-reshape" in out, "the rule is named")
            self.check("720" in out, "the same session reads on")
            self.check(
                not any("DROP TABLE" in statement for statement in self.lab.server.statements()),
                "the server never saw the statement (its own log says so)",
            )

    def held(self) -> None:
        statement = "DELETE FROM orders WHERE status = 'returned'"
        with self.telling(
            "a command that waits for a person",
            "The agent's DELETE is held. In a second terminal the on-call engineer reads exactly what would run.",
        ):
            client = subprocess.Popen(
                [self.psql, "-X", "-c", statement, self.dsn("agent")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment(),
            )
            try:
                waiting = self.wait_for(self.pending, "the held command to be listed")
                self.check(not self.saw(statement), "nothing has reached the server")
                self.sluicegate("approvals", "list", token=self.approver_token, who=APPROVER)
                self.sluicegate("approvals", "show", waiting, token=self.approver_token, who=APPROVER)
                done = self.sluicegate(
                    "approvals", "approve", waiting, "--reason", "ticket OPS-7: returned orders are archived",
                    token=self.approver_token, who=APPROVER,
                )  # fmt: skip
                self.check(done.returncode == 0, "approved")
                out, _ = client.communicate(timeout=_WAIT_SECONDS)
            finally:
                if client.poll() is None:
                    client.kill()
                    client.communicate()
            self.note(f"psql -c {shlex.quote(statement)}", out, who="agent")
            self.check("DELETE " in out, "the DELETE ran after the approval")
            self.check(self.saw(statement), "the server saw it once approved")

    def another(self) -> None:
        """The same policy, identities and record, on a server that speaks another protocol."""
        assert self.neighbour is not None
        server = self.neighbour.server
        name = server.installation.name
        with self.telling(
            f"the same rules on {name}",
            f"The shop once more, on {name} {server.installation.version}: the same tokens, the same policy. "
            "The client is PyMySQL.",
        ):
            masked = self.ask_mysql("analyst", "SELECT id, name, email, card FROM customers ORDER BY id LIMIT 2")
            self.check("Amir Berg" in masked, "the names are there")
            self.check("@example.com" not in masked, "no e-mail came through")
            refused = self.ask_mysql("agent", "DROP TABLE orders", "SELECT count(*) AS orders_still_here FROM orders")
            self.check("ERROR 1142" in refused, "the DROP is MySQL's own kind of error")
            self.check("720" in refused, "the same session reads on")
            self.check(
                not any("DROP TABLE" in statement for statement in server.statements()), "the server never saw it"
            )

    def ask_mysql(self, identity: str, *statements: str) -> str:
        with demo_mysql.connected(self.lab.gateway, identity, self.lab.tokens[identity]) as cursor:
            seen = [demo_mysql.told(cursor, statement) for statement in statements]
        self.note(f"pymysql: {'; '.join(statements)}", "\n".join(seen), who=identity)
        return "\n".join(seen)

    def kept_in(self) -> None:
        with self.telling(
            "what was masked here does not leave there",
            "The analyst's job posts a customer's real e-mail address through the HTTP proxy. The same identity got "
            "that value masked from the database a moment ago: the upload is refused, and somebody hears of it.",
        ):
            with self.lab.server.connect() as connection:
                row = connection.execute("SELECT email FROM customers ORDER BY id LIMIT 1").fetchone()
            assert row is not None
            with Sink() as outside:
                where = f"http://127.0.0.1:{outside.port}/collect"
                self.check(self.post(where, "job=nightly") == "200", "an upload without it passes")
                self.check(self.post(where, f"contact={row[0]}") == "403", "the one with it is refused")
                self.check(row[0] not in outside.received, "and no byte of it has left")

    def post(self, where: str, body: str) -> str:
        """The status that curl reports, through the proxy listener."""
        address = f"http://analyst:{self.lab.tokens['analyst']}@127.0.0.1:{self.proxy}"
        argv = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "--max-time", "20", "--noproxy", ""]
        done = subprocess.run([*argv, "--proxy", address, "-d", body, where], capture_output=True, text=True)
        self.note(f"HTTP_PROXY=... curl -d {shlex.quote(body)} {where}", done.stdout + done.stderr, who="analyst")
        return done.stdout

    def replayed(self) -> None:
        with self.telling("the recording", "Every command and every answer, as the client saw them."):
            sessions = self.lab.gateway.ask("sessions", token=self.lab.tokens["admin"])
            mine = [entry for entry in sessions if entry["subject"] == "agent" and entry["resource"] == "shop"]
            self.check(len(mine) >= 2, "both sessions of the agent are there")
            refused = [entry for entry in mine if entry["denied"]]
            self.check(len(refused) == 1, "one of them has a denial")
            done = self.sluicegate("replay", refused[0]["session"], "--instant", token=self.lab.tokens["admin"])
            self.check("DROP TABLE orders" in done.stdout, "the replay shows the statement that was refused")
            analyst = next(entry for entry in sessions if (entry["subject"], entry["resource"]) == ("analyst", "shop"))
            quiet = self.lab.gateway.cli(
                "replay", analyst["session"], "--instant", token=self.lab.tokens["admin"]
            ).stdout
            with self.lab.server.connect() as connection:
                secrets_held = [row[0] for row in connection.execute("SELECT secret FROM credentials")]
            self.check(not any(value in quiet for value in secrets_held), "what was masked is not in the recording")

    def answered(self) -> None:
        with self.telling(
            "an incident", "Who issued the command, what data was accessed, did it comply: one question."
        ):
            done = self.sluicegate("incident", "agent", token=self.lab.tokens["admin"])
            self.check(done.returncode == 0, "answered")
            self.check("public.orders" in done.stdout, "the relations are named")

    def contained(self) -> None:
        with self.telling(
            "containment", "The agent is cut off everywhere: its live session ends, and it cannot come back."
        ):
            with psycopg.connect(self.dsn("agent", libpq=False), autocommit=True) as live:
                live.execute("SELECT 1")
                self.sluicegate("contain", "agent", "--reason", "compromised token", token=self.lab.tokens["admin"])
                started = time.monotonic()
                ended = self.wait_for(lambda: self.ended(live), "the live session to end")
            self.check("57P01" in ended, f"its session ended {time.monotonic() - started:.1f} s later: {ended}")
            code, _ = self.run_psql("agent", "SELECT 1")
            self.check(code == 2, "and a new one is refused")

    def proved(self) -> None:
        with self.telling("the evidence", "Offline, with nothing but the files and a public key."):
            done = self.sluicegate("verify", str(self.lab.gateway.state_dir / "journal"), token="")
            self.check(done.returncode == 0, "nobody edited the record")

    # ---- telling -----------------------------------------------------------------------------------------------

    @contextmanager
    def telling(self, title: str, told: str) -> Iterator[None]:
        self.act = Act(title, told)
        self.acts.append(self.act)
        self.console.rule(f"[bold cyan]{len(self.acts)}. {title}", align="left")
        self.console.print(told)
        started = time.monotonic()
        try:
            yield
            self.act.ok = True
        finally:
            self.act.seconds = round(time.monotonic() - started, 2)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Unexpected(f"{self.act.title}: `{what}` does not hold")
        self.act.checks.append(what)
        self.console.print(f"  [green]✓[/] {escape(what)}")

    def note(self, command: str, output: str, *, who: str) -> None:
        self.act.commands.append({"who": who, "command": command, "output": output})
        self.show(f"{who}$ {command}", output)

    def show(self, title: str, output: str) -> None:
        body = Text(output.rstrip() or "(no output)", overflow="fold")
        if len(title) > self.console.width - 6:  # a frame would cut it off
            self.console.print(title, markup=False, highlight=False)
            title = ""
        self.console.print(Panel(body, title=escape(title) or None, title_align="left", border_style="dim"))

    # ---- doing -------------------------------------------------------------------------------------------------

    def dsn(self, identity: str, *, libpq: bool = True) -> str:
        return self.lab.dsn(identity, **(self.plain if libpq else {}))

    def environment(self) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**keep, "PGCONNECT_TIMEOUT": "20"}

    def run_psql(self, identity: str, *statements: str) -> tuple[int, str]:
        words = [word for statement in statements for word in ("-c", statement)]
        done = subprocess.run(
            [self.psql, "-X", *_NARROW, *words, self.dsn(identity)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_WAIT_SECONDS,
            env=self.environment(),
        )
        self.note(shlex.join(["psql", *words]), done.stdout, who=identity)
        return done.returncode, done.stdout

    def direct(self, statement: str) -> str:
        program = psql(tls=self.lab.server.authority is not None)
        argv: list[str | Path] = [program, "-X", *_NARROW, "-c", statement, self.lab.server.dsn()]
        return subprocess.run(argv, capture_output=True, text=True, timeout=_WAIT_SECONDS).stdout

    def sluicegate(self, *words: str, token: str, who: str = "admin") -> subprocess.CompletedProcess[str]:
        width = str(max(60, self.console.width - 4))  # what fits into our frame
        done = self.lab.gateway.cli(*words, token=token, env={"COLUMNS": width})
        self.note(shlex.join(["sluicegate", *words]), done.stdout + done.stderr, who=who)
        if done.returncode != 0:
            raise Unexpected(f"`sluicegate {shlex.join(words)}` failed ({done.returncode}): {done.stderr.strip()}")
        return done

    def pending(self) -> str:
        for entry in self.lab.gateway.ask("approvals", "list", token=self.approver_token):
            if entry["status"] == "pending":
                return str(entry["id"])
        return ""

    def saw(self, statement: str) -> bool:
        return any(statement in seen for seen in self.lab.server.statements())

    @staticmethod
    def ended(connection: psycopg.Connection[Any]) -> str:
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            return f"{error.sqlstate or 'no sqlstate'} {error.diag.message_primary or error}"
        return ""

    @staticmethod
    def wait_for(ready: Callable[[], str], what: str) -> str:
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            if found := ready():
                return found
            time.sleep(0.05)
        raise Unexpected(f"waited {_WAIT_SECONDS:g} s for {what}")


def _adjust(config: dict[str, Any], neighbour: demo_mysql.Neighbour | None) -> None:
    """A forward proxy beside the database; and checkpoints so often that the last act can prove nearly everything."""
    config["record"] = {"checkpoint_seconds": 1}
    config["listeners"].append(
        {"name": "proxy", "protocol": "http", "listen": "127.0.0.1:0", "resource": "outside", "tls": {"mode": "off"}}
    )
    config["resources"].append({"name": "outside", "protocol": "http", "private_networks": ["127.0.0.0/8"]})
    if neighbour is not None:
        neighbour.adjust(config)


def _neighbour(stack: ExitStack) -> demo_mysql.Neighbour | None:
    """MariaDB or MySQL, where the machine has one."""
    installation = next(mysql.available(), None)
    return None if installation is None else stack.enter_context(demo_mysql.Neighbour(installation))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="A database, an issuer and a gateway; then real psql sessions that are masked, refused, held, "
        "recorded and contained.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running afterwards, with mitmweb")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the story")
    options = parser.parse_args(argv)
    console = Console(file=open(os.devnull, "w") if options.json else sys.stdout)  # noqa: SIM115  # lives as long as we do
    started = time.monotonic()
    web: Mapping[str, str] = {}
    if options.keep:
        web = {"port": str(free_port()), "password": secrets.token_urlsafe(12)}
    console.print("[dim]starting PostgreSQL, an OIDC issuer and the gateway ...")
    try:
        launcher = "mitmweb" if options.keep else "mitmdump"
        with ExitStack() as stack:
            neighbour = _neighbour(stack)
            lab = stack.enter_context(
                Lab(tls="optional", launcher=launcher, web=web, adjust=lambda config: _adjust(config, neighbour))
            )
            console.print(f"[dim]ready after {time.monotonic() - started:.1f} s: {lab.server.installation.version}")
            demo = Demo(lab, console, neighbour)
            went_well = demo.play()
            if neighbour is None:
                console.print(f"[dim]left out, MySQL: {mysql.how_to_get('mariadb')}")
            if options.json:
                acts = [asdict(act) for act in demo.acts]
                seconds = round(time.monotonic() - started, 2)
                left_out = [] if neighbour is not None else [f"MySQL: {mysql.how_to_get('mariadb')}"]
                told = {"ok": went_well, "seconds": seconds, "acts": acts, "left_out": left_out}
                print(json.dumps(told), flush=True)
            if not went_well:
                console.print(Panel(Text(lab.gateway.log_tail()), title="the gateway's log", border_style="red"))
            if options.keep:
                invite(lab, f"http://127.0.0.1:{web['port']}/?token={web['password']}", console)
                until_told(lab)
            elif went_well:
                console.rule(f"[bold green]all as told, in {time.monotonic() - started:.1f} s", align="left")
                console.print("try it yourself: ./scripts/demo --keep")
            return 0 if went_well else 1
    except (*_DATABASES, StartError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
