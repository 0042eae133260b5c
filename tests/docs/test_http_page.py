"""The lines of docs/http.md, typed into a shell as they stand there, against a gateway and a server with packages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from guard.config import check
from tests.support.http_lab import HttpLab
from tests.support.http_site import LOCAL_POLICY, packages
from tests.support.markdown import ROOT, Block, page

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = page("docs/http.md")
_NEEDS = {"npm": "npm ", "git": "git ", "jq": "jq "}


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(policy=LOCAL_POLICY) as running:
        yield running


@pytest.fixture(scope="module")
def site(lab: HttpLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with packages(lab.authority, tmp_path_factory.mktemp("site")) as url:
        yield url


class Desk:
    """A folder with what a reader has, and a shell in it that keeps what was exported."""

    def __init__(self, lab: HttpLab, site: str, folder: Path) -> None:
        self.folder = folder
        shutil.copy(lab.proxy_ca, folder / "proxy-ca.pem")
        shutil.copy(lab.authority.file, folder / "gateway-ca.pem")
        (folder / "policies").symlink_to(ROOT / "policies")
        (folder / "token").write_text(lab.token("page"))
        programs = folder / ".programs"
        programs.mkdir()
        (programs / "pip").write_text(f'#!/bin/sh\nexec "{_pip()}" "$@"\n')
        (programs / "pip").chmod(0o755)
        other = ("_proxy", "_ca_bundle", "ssl_cert", "pip_", "node_", "npm_config", "sluicegate")
        self.env = {k: v for k, v in os.environ.items() if not any(word in k.lower() for word in other)}
        path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env |= {"PATH": path, "HOME": str(folder), "NO_PROXY": "", "TOKEN": lab.token("page"), "COLUMNS": "200"}
        self.env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "GIT_CONFIG_NOSYSTEM": "1"}
        port, api = lab.ports["proxy"], lab.ports["api"]
        self._replace = [
            ("https://gateway:8080", f"https://localhost:{port}"),
            ("gateway:8080", f"localhost:{port}"),
            ("https://billing.example:8443", f"https://localhost:{api}"),
            ("/run/oidc/token", str(folder / "token")),
        ]
        self._site = site

    def text(self, text: str) -> str:
        for old, new in self._replace:
            text = text.replace(old, new)
        return re.sub(r"https://(api|pypi|git|npm)\.example", self._site, text)

    def type(self, text: str, **env: str) -> tuple[int, str]:
        """Exit status and everything that was printed; what the lines left running is ended."""
        keep, said = self.folder / ".exported", self.folder / ".said"
        head = f"set -euo pipefail; [ ! -f {keep} ] || . {keep}\n"
        with said.open("w") as out:
            shell = subprocess.Popen(
                ["bash", "-c", f"{head}{self.text(text)}\nexport -p > {keep}\n"],
                cwd=self.folder,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            try:
                status = shell.wait(60)
            finally:
                with contextlib.suppress(ProcessLookupError):  # nothing was left
                    os.killpg(shell.pid, signal.SIGTERM)
        return status, said.read_text()


def _pip() -> Path:
    own = Path(sys.executable).with_name("pip")
    return own if own.exists() else Path(shutil.which("pip") or "/nowhere/pip")


@pytest.fixture(scope="module")
def desk(lab: HttpLab, site: str, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(lab, site, tmp_path_factory.mktemp("desk"))
    status, said = made.type(SHELL[0].text)  # the variable that the following blocks need
    assert status == 0, said
    return made


SHELL = [block for block in PAGE.blocks if block.run is not None and "job" not in block.run]
JOBS = [block for block in PAGE.blocks if block.run is not None and "job" in block.run]


def _able(block: Block) -> str:
    """Why a block cannot be run here; empty: it can."""
    for program, words in _NEEDS.items():
        if words in block.text and shutil.which(program) is None:
            return f"there is no {program}"
    if "pip " in block.text and not _pip().exists():
        return "there is no pip"
    if "NODE_USE_ENV_PROXY" in block.text:
        if shutil.which("node") is None:
            return "there is no node"
        version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
        if int(version.lstrip("v").partition(".")[0]) < 24:
            return "this Node is older than 24"
    return ""


@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"line-{block.line}")
def test_a_block_of_the_page(desk: Desk, block: Block) -> None:
    if why := _able(block):
        pytest.skip(why)
    status, said = desk.type(block.text)
    assert status == 0, said
    assert (block.option("says") or "") in said


class Ids:
    """What GitHub gives jobs: an address that answers with a token for the audience that is asked for."""

    def __init__(self, lab: HttpLab) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers["Authorization"] == "Bearer asks" and self.path.endswith("&audience=sluicegate")
                body = json.dumps({"value": lab.token("repo:shop/app") if allowed else None}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        pair = lab.authority.server("ids", hosts=("localhost",))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}/?api-version=2.0"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(10)


def _document(block: Block) -> Any:
    return YAML(typ="safe").load(block.text)


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq")
def test_the_lines_for_github_actions(lab: HttpLab, site: str, tmp_path: Path) -> None:
    [steps] = [found for block in JOBS if isinstance(found := _document(block), list)]
    desk, variables = Desk(lab, site, tmp_path), tmp_path / "github-env"
    ids = Ids(lab)
    try:
        status, said = desk.type(
            steps[0]["run"],
            GITHUB_ENV=str(variables),
            ACTIONS_ID_TOKEN_REQUEST_TOKEN="asks",
            ACTIONS_ID_TOKEN_REQUEST_URL=ids.url,
            CURL_CA_BUNDLE=str(lab.authority.file),  # GitHub's own address has a certificate that everybody knows
        )
    finally:
        ids.stop()
    assert status == 0, said
    later = dict(line.split("=", 1) for line in variables.read_text().splitlines())
    assert f"::add-mask::{later['HTTPS_PROXY'].partition('ci:')[2].partition('@')[0]}" in said
    (tmp_path / ".exported").unlink()  # the next step has its own shell
    for step in steps[1:]:
        status, said = desk.type(step["run"], **later)
        assert (status, "hello" in said) == (0, True), said


def test_the_lines_for_gitlab(lab: HttpLab, site: str, tmp_path: Path) -> None:
    [job] = [found["job"] for block in JOBS if isinstance(found := _document(block), dict)]
    assert job["id_tokens"]["GATEWAY_TOKEN"] == {"aud": lab.issuer.audience}
    desk = Desk(lab, site, tmp_path)
    lines = "\n".join([*job["before_script"], *job["script"]])
    status, said = desk.type(lines, GATEWAY_TOKEN=lab.token("project_path:shop/app"), **job["variables"])
    assert (status, "hello" in said) == (0, True), said


def test_the_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    [block] = [block for block in PAGE.blocks if block.file == "gateway.yaml"]
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    (tmp_path / "gateway.yaml").write_text(block.text)
    assert [str(problem) for problem in check(tmp_path / "gateway.yaml") if not problem.warning] == []


def test_every_shell_block_is_run_or_is_javas() -> None:
    left = [block for block in PAGE.blocks if block.language == "sh" and block.run is None]
    assert ["java " in block.text for block in left] == [True]
