"""The commands in the pages work: they are typed here, in the order of the page, against a lab.

Addresses that a page cannot know (`gateway.example:6432`, the database, the issuer) are replaced by the lab's. What the
comments before the blocks mean is described in `tests/support/markdown.py`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML

from scripts.support import mysql
from scripts.support.lab import Lab, psql
from scripts.support.process import Process, free_port, wait_until
from tests.support.markdown import ROOT, Block, page

pytestmark = pytest.mark.e2e

_BINARIES = Path(sys.executable).parent
_PSQL = psql(tls=True)
_NO_TLS = psql(tls=False) == _PSQL


class Desk:
    """A folder that looks like the checkout of somebody who follows a page."""

    def __init__(self, folder: Path, env: dict[str, str], replace: dict[str, str]) -> None:
        self.folder = folder
        self.env = env
        self.replace = replace
        for name in ("addons", "policies"):
            (folder / name).symlink_to(ROOT / name)
        programs = folder / ".programs"
        programs.mkdir()
        (programs / "psql").symlink_to(_PSQL)
        self.env["PATH"] = f"{programs}{os.pathsep}{_BINARIES}{os.pathsep}{os.environ['PATH']}"
        (folder / ".venv").symlink_to(_BINARIES.parent)

    def text(self, block: Block) -> str:
        text = block.text
        for old, new in self.replace.items():
            text = text.replace(old, new)
        return text

    def take(self, block: Block) -> None:
        """Do with a block what its directive says."""
        if block.file is not None:
            (self.folder / block.file).write_text(self.text(block), encoding="utf-8")
        elif block.run is not None:
            self._run(block)

    def _run(self, block: Block) -> None:
        text = self.text(block)
        if _NO_TLS and "psql" in text and "verify-full" in text:
            pytest.skip("the psql here speaks no TLS: install Debian's `postgresql-client`")
        if block.language == "python":
            argv = [sys.executable, "-W", "error", "-c", text]
        else:
            # what a block exports, the next one of the page has
            keep = shlex.quote(str(self.folder / ".exported"))
            head = f"set -aeuo pipefail; [ ! -f {keep} ] || . {keep}\n"
            argv = ["bash", "-c", f"{head}{text}\nexport -p > {keep}\n"]
        done = subprocess.run(
            argv, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode == int(block.option("exit") or 0), f"line {block.line}:\n{text}\n{said}"
        expected = block.option("says")
        assert expected is None or expected in said, f"line {block.line}: not `{expected}` but\n{said}"


def _environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "MYSQL", "SLUICEGATE"))}
    return {**kept, "COLUMNS": "120", **more}


@pytest.fixture(scope="module")
def shop() -> Iterator[Lab]:
    """A lab in which the identities of the pages have done something."""
    with Lab(tls="optional") as lab:
        yield lab


def _live_a_little(lab: Lab) -> None:
    deadline = time.monotonic() + 10.0
    while lab.gateway.ask("status", token=lab.tokens["admin"])["contained"]:  # a page has just released somebody
        assert time.monotonic() < deadline
    with psycopg.connect(lab.dsn("agent"), autocommit=True) as agent:
        agent.execute("SELECT count(*) FROM customers")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute("DROP TABLE orders")


@pytest.fixture
def desk(shop: Lab, tmp_path: Path) -> Desk:
    _live_a_little(shop)
    (tmp_path / "var").symlink_to(shop.gateway.state_dir)
    shutil.copy(shop.gateway.ca_file, tmp_path / "ca.crt")
    env = _environment(
        **shop.gateway.environment(shop.tokens["admin"]),
        TOKEN=shop.tokens["analyst"],
        DIRECT_DSN=shop.server.dsn(),
    )
    host, port = shop.gateway.host, str(shop.gateway.port)
    replace = {
        "gateway.example:6432": f"{host}:{port}",
        "host=gateway.example port=6432": f"host={host} port={port}",
        'host="gateway.example", port=6432': f'host="{host}", port={port}',
    }
    return Desk(tmp_path, env, replace)


@pytest.mark.parametrize(
    "name",
    [
        "docs/operator.md",
        "docs/policy-author.md",
        "docs/responder.md",
        "docs/client.md",
        "docs/approver.md",
        "docs/identity.md",
    ],
)
def test_the_blocks_of_a_page_work(name: str, desk: Desk, shop: Lab) -> None:
    for block in page(name).blocks:
        desk.take(block)
    with shop.server.connect() as connection:
        connection.execute("DROP FUNCTION IF EXISTS public.purge(int)")


@pytest.fixture(scope="module")
def mysql_shop(mysql_installation: mysql.Installation) -> Iterator[Lab]:
    with Lab(installation=mysql_installation) as lab:
        yield lab


def test_the_blocks_of_the_page_about_mysql_work(mysql_shop: Lab, tmp_path: Path) -> None:
    shutil.copy(mysql_shop.gateway.ca_file, tmp_path / "ca.crt")
    env = _environment(TOKEN=mysql_shop.tokens["analyst"], DIRECT_DSN=mysql_shop.server.dsn())
    host, port = mysql_shop.gateway.host, str(mysql_shop.gateway.port)
    replace = {
        "gateway.example:3306": f"{host}:{port}",
        "-h gateway.example -P 3306": f"-h {host} -P {port}",
        'host="gateway.example", port=3306': f'host="{host}", port={port}',
    }
    desk = Desk(tmp_path, env, replace)
    for block in page("docs/mysql.md").blocks:
        if "mariadb -h" in block.text and shutil.which("mariadb") is None:
            continue
        desk.take(block)


def test_every_page_with_blocks_to_run_is_run_here() -> None:
    done = {"README.md", "docs/operator.md", "docs/policy-author.md", "docs/responder.md", "docs/client.md"}
    done |= {"docs/mysql.md", "docs/http.md", "docs/kubernetes.md", "docs/identity.md"}
    asked = {path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if "<!-- run" in path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in asked} == done


# ---------------------------------------------------------------- the readme: a gateway of one's own


def _own(document: dict[str, Any], shop: Lab, port: int) -> None:
    """What a reader fills in: their database, their issuer; and a free port."""
    document["listeners"][0]["listen"] = f"127.0.0.1:{port}"
    resource, issuer = document["resources"][0], document["issuers"][0]
    resource |= {"host": shop.server.host, "port": shop.server.port, "tls": {"mode": "off"}}
    resource["credential"]["user"] = shop.server.user
    issuer |= {"issuer": shop.issuer.url, "ca": str(shop.issuer.ca_file), "audience": shop.issuer.audience}


@pytest.mark.slow
def test_the_readme_from_nothing_to_a_verified_record(shop: Lab, tmp_path: Path) -> None:
    port = free_port()
    token = shop.issuer.token("ann", ["security"], ttl=3600)
    replace = {"port=6432": f"port={port}", "SHOP_DB_PASSWORD=...": f"SHOP_DB_PASSWORD={shop.server.password}"}
    desk = Desk(tmp_path, _environment(TOKEN=token), replace)
    gateway: Process | None = None
    try:
        for block in page("README.md").blocks:
            if block.run is not None and "start" in block.run:
                gateway = _start(desk, block)
            else:
                desk.take(block)
            if block.file == "sluicegate.yaml":
                yaml, path = YAML(typ="safe"), tmp_path / block.file
                document = yaml.load(path)
                _own(document, shop, port)
                yaml.dump(document, path)
        assert gateway is not None
        assert gateway.running
    finally:
        if gateway is not None:
            gateway.stop()


def _start(desk: Desk, block: Block) -> Process:
    """Types all lines but the last; starts that one and waits until it answers."""
    *before, last = desk.text(block).strip().splitlines()
    desk.take(Block(block.language, "\n".join(before) + "\n", block.line, run=frozenset()))
    exported = re.findall(r'^declare -x (SHOP_DB_PASSWORD)="(.*)"$', (desk.folder / ".exported").read_text(), re.M)
    log = desk.folder / "gateway.log"
    program, *words = shlex.split(last)
    argv = [str(_BINARIES / program), "-n", *words, "--set", f"confdir={desk.folder / 'mitmproxy'}"]
    process = Process(
        argv, log=log, name="the readme's gateway", grace=10.0, cwd=desk.folder, env=desk.env | dict(exported)
    )
    ready = desk.folder / "var" / "ready.json"
    wait_until(ready.exists, 30.0, what="the readme's gateway", alive=lambda: process.running, log=log)
    return process
