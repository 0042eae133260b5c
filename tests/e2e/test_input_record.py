"""What is loaded by COPY and LOAD DATA LOCAL is on record, but for what the identity sees masked."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest

from scripts.support import mysql
from scripts.support.lab import DEFAULT_POLICY, AnyInstallation, Lab
from scripts.support.postgres import Installation
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

ROW = (990_001, "Zoe Load", "zoe@load.example", "5105 1051 0510 5100", "078-05-1120", "Oslo")
COLUMNS = "id, name, email, card, national_id, city"
SECRETS = [str(value).encode() for value in ROW[2:5]]


@contextlib.contextmanager
def lab_of(installation: AnyInstallation, folder: Path) -> Iterator[Lab]:
    """The demo, whose agents may load files."""
    policy = folder / "demo.yaml"
    text = DEFAULT_POLICY.read_text()
    policy.write_text(
        text.replace("allow: [data.select, data.copy_out,", "allow: [data.select, data.copy_out, data.copy_in, tx,")
    )

    def offered(document: dict[str, Any]) -> None:
        if installation.protocol == "mysql":
            document["listeners"][0]["local_files"] = True

    with Lab([policy], installation=installation, adjust=offered) as lab:
        yield lab


def loaded(lab: Lab, text: str) -> dict[str, Any]:
    (command,) = await_records(lab.gateway.state_dir, lambda r: r.get("t") == "command" and r.get("text") == text)
    assert command["decision"] == "allow"
    (answer,) = await_records(
        lab.gateway.state_dir, lambda r: r.get("t") == "response" and (r["s"], r["n"]) == (command["s"], command["n"])
    )
    return answer


def test_copy_from_stdin(installation: Installation, tmp_path: Path) -> None:
    with lab_of(installation, tmp_path) as lab:
        with lab.server.connect() as direct:
            direct.execute("ALTER TABLE customers ALTER created_at SET DEFAULT now()")
        for number, options in enumerate(("", "(FORMAT csv, HEADER)", "(FORMAT binary)")):
            text = f"COPY customers ({COLUMNS}) FROM STDIN {options}"
            row = (ROW[0] + number, ROW[1], f"{number}{ROW[2]}", *ROW[3:])
            with psycopg.connect(lab.dsn("agent"), autocommit=True) as agent, agent.cursor() as cursor:
                with cursor.copy(text.encode()) as copy:
                    if "csv" in options:
                        copy.write(f"{COLUMNS.replace(' ', '')}\n" + ",".join(f'"{value}"' for value in row) + "\n")
                    else:
                        copy.set_types(["int4", *["text"] * 5])
                        copy.write_row(row)
                assert cursor.rowcount == 1
            with lab.server.connect() as direct:
                assert direct.execute(f"SELECT {COLUMNS} FROM customers WHERE id = {row[0]}").fetchall() == [row]
            answer = loaded(lab, text)
            kept = base64.b64decode(answer["input"])
            assert b"Zoe Load" in kept
            assert b"Oslo" in kept
            assert kept.count(b"[redacted]") == 3
            assert not any(secret in kept for secret in SECRETS)
            assert [c["name"] for c in answer["input_columns"] if c["masked"]] == ["email", "card", "national_id"]


def test_load_data_local(mysql_installation: mysql.Installation, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",".join(f'"{value}"' for value in ROW) + "\n")
    with lab_of(mysql_installation, tmp_path) as lab:
        with lab.server.connect() as direct, direct.cursor() as cursor:
            cursor.execute("SET GLOBAL local_infile = 1")
        agent = pymysql.connect(
            host=lab.gateway.host,
            port=lab.gateway.port,
            user="me",
            password=lab.tokens["agent"],
            database="shop",
            ssl_ca=str(lab.authority.file),
            local_infile=True,
            autocommit=True,
        )
        form = "FIELDS TERMINATED BY ',' ENCLOSED BY '\"'"
        text = f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE customers {form} ({COLUMNS})"
        with agent, agent.cursor() as cursor:
            assert cursor.execute(text) == 1
        with lab.server.connect() as direct, direct.cursor() as cursor:
            cursor.execute(f"SELECT {COLUMNS} FROM customers WHERE id = {ROW[0]}")
            assert cursor.fetchall() == (ROW,)
        answer = loaded(lab, text)
        assert base64.b64decode(answer["input"]) == b'"990001","Zoe Load",[redacted],[redacted],[redacted],"Oslo"\n'
