"""Containment ends every live session within a second (attack row 30), on each protocol; measured from the journal."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support.lab import Lab
from tests.e2e.conftest import BothMySQL
from tests.support.containment import WITHIN_NS, best_of_rounds
from tests.support.http_lab import HttpLab
from tests.support.kube_lab import KubeLab
from tests.support.raw import through
from tests.support.talkative import printed, running
from tests.support.wire import query

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
IDLE = 4


def containing(cli: Callable[..., subprocess.CompletedProcess[str]], token: str) -> Callable[[str], None]:
    def contain(subject: str) -> None:
        done = cli("contain", subject, "--reason", "timed", token=token)
        assert done.returncode == 0, done.stderr

    return contain


def test_row_30_postgresql_sessions_end_within_a_second(lab: Lab) -> None:
    @contextlib.contextmanager
    def connect(subject: str) -> Iterator[None]:
        token = lab.issuer.token(subject, ["platform"])
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE):
                stack.enter_context(contextlib.closing(psycopg.connect(lab.gateway.dsn("admin", token))))
            busy = stack.enter_context(through(lab, subject, token=token))
            busy.send(query("SELECT pg_sleep(60)"))
            yield

    contain = containing(lab.gateway.cli, lab.tokens["admin"])
    assert best_of_rounds(lab.gateway.state_dir, "pg", IDLE + 1, connect, contain) < WITHIN_NS


def test_row_30_mysql_sessions_end_within_a_second(mysql_lab: Lab, both_mysql: BothMySQL) -> None:
    @contextlib.contextmanager
    def connect(subject: str) -> Iterator[None]:
        address = both_mysql.through("admin", "shop")
        token = mysql_lab.issuer.token(subject, ["platform"])

        def one() -> Any:
            return pymysql.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=token,
                database="shop",
                ssl_ca=str(address.ca),
            )

        clients = [one() for _ in range(IDLE + 1)]
        try:
            # sent, and not waited for
            clients[0]._execute_command(pymysql.constants.COMMAND.COM_QUERY, b"SELECT SLEEP(60)")
            yield
        finally:
            for client in clients:
                client._force_close()

    contain = containing(mysql_lab.gateway.cli, mysql_lab.tokens["admin"])
    assert best_of_rounds(mysql_lab.gateway.state_dir, "mysql", IDLE + 1, connect, contain) < WITHIN_NS


def test_row_30_http_sessions_end_within_a_second() -> None:
    with HttpLab() as lab:

        @contextlib.contextmanager
        def connect(subject: str) -> Iterator[None]:
            argv = ["curl", "-sN", "--limit-rate", "1M", "-o", os.devnull, "--cacert", str(lab.proxy_ca), "--noproxy"]
            words = ["", "--proxy", lab.proxy(lab.token(subject)), lab.secure.url("/size/50000000")]
            with contextlib.ExitStack() as stack:
                downloads = [stack.enter_context(running(subprocess.Popen([*argv, *words]))) for _ in range(IDLE)]
                yield
                # cut, not only noted: what is in curl's own buffers it still reads
                assert all(download.wait(60) != 0 for download in downloads)

        contain = containing(lab.cli, lab.token("sam", "security"))
        assert best_of_rounds(lab.state, "http", IDLE, connect, contain) < WITHIN_NS


def test_row_30_kubernetes_sessions_end_within_a_second() -> None:
    with KubeLab() as lab:

        @contextlib.contextmanager
        def connect(subject: str) -> Iterator[None]:
            kubectl = lab.kubectl(subject, "operators")
            with contextlib.ExitStack() as stack:
                shell = stack.enter_context(
                    running(kubectl.start("exec", "-i", lab.pod(), "--", "cat", stdin=subprocess.PIPE))
                )
                assert shell.stdin is not None
                shell.stdin.write(b"hello\n")
                shell.stdin.flush()
                printed(shell, b"hello\n")
                stack.enter_context(running(kubectl.start("get", "configmaps", "-w", "-o", "name")))
                yield
                assert shell.wait(20) != 0

        contain = containing(lab.cli, lab.token("ops", "security"))
        assert best_of_rounds(lab.state, "kube", 2, connect, contain) < WITHIN_NS
