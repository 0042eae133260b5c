"""Random texts against live servers: what is let through must never run what is hidden in it.

    .venv/bin/python -m tests.fuzz.mysql_lexing --port 3306 [--count 20000] [--seed 1]

Pieces of quotes, comments, hints, executable comments and escapes are shuffled around a second statement that leaves a
trace (an INSERT, or a user variable). Each text is judged in a session with random modes; those let through are sent to
the server in a session with the same modes, and must leave no trace. Says how many were let through, and how many of
those the server accepted: a fuzz that lets nothing through proves nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types
from pymysql.constants import CLIENT

from protocols.contract import Effect
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse
from tests.support.mysql_statements import HARMLESS, load

TRACES = ("; INSERT INTO trap VALUES (1)", " INTO @trap", "; SET @trap = 1", "; TRUNCATE keep")
PIECES = [
    "'",
    '"',
    "`",
    "\\",
    "\\'",
    "''",
    "/*",
    "*/",
    "/*!",
    "/*!50000 ",
    "/*!99999 ",
    "/*!100100 ",
    "/*M!100100 ",
    "/*M! ",
    "/*+ ",
    "/*+ QB_NAME(`",
    "`) */",
    "--",
    "-- ",
    "--\n",
    "--\t",
    "#",
    "\n",
    "\r",
    " ",
    "\t",
    "\x0b",
    "\0",
    "\xa0",
    "é",
    ";",
    "1",
    "1,",
    "+",
    "+1",
    "a",
    " AS a",
    "SELECT ",
    "SELECT 1",
    ",2",
    "N'",
    "x'",
    "_utf8'",
    "_binary'",
    "(",
    ")",
    "(1)",
    "$$",
    "$a$",
    "{d '",
    "}",
    "||",
    "@x",
    "@`",
    "@'",
    "0x41",
    "b'0'",
    "?",
    ".5",
    "1e1",
    "FROM keep",
    " UNION ",
    "/**/",
    "/*a*/",
    "'a'",
    '"a"',
    "`a`",
    "/*! 1*/",
    "/*!99999 1*/",
    "BEGIN",
    "DO 1",
    "*",
    ":",
    ":=",
    "\x1a",
    "\x08",
]
MODES = ("ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "PIPES_AS_CONCAT", "IGNORE_SPACE")
CHARSETS = ("utf8mb4", "latin1", "binary", "ascii", "gbk", "sjis")


def text(chance: random.Random) -> str:
    trace = chance.choice(TRACES)
    around = [chance.choice(PIECES) for _ in range(chance.randrange(1, 9))]
    around.insert(chance.randrange(len(around) + 1), trace)
    if chance.random() < 0.5:
        around.insert(chance.randrange(len(around) + 1), chance.choice(["'", "*/", "\n", '"', "`", "-- "]))
    return (
        "SELECT "
        + chance.choice(["1", "'a'", "'", '"', "/*", "/*!99999", "/*+", "1 -- ", "1 #", "`"])
        + "".join(around)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3306)
    parser.add_argument("--user", default="root")
    parser.add_argument("--password", default="")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    to: dict[str, Any] = {"host": args.host, "port": args.port, "user": args.user, "password": args.password}
    connection = pymysql.connect(**to, autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS, use_unicode=False, conv={})
    connection.encoding = "latin-1"  # every byte of an answer means something
    flavour = "mariadb" if "mariadb" in connection.get_server_info().lower() else "mysql"
    cursor = connection.cursor()
    for sql in ("DROP DATABASE IF EXISTS lexing", "CREATE DATABASE lexing", "USE lexing", "CREATE TABLE trap (a INT)",
                "CREATE TABLE keep (a INT)", "INSERT INTO keep VALUES (1)"):  # fmt: skip
        cursor.execute(sql)
    names = load(connection, flavour)
    chance = random.Random(args.seed)
    passed = accepted = 0
    caught: list[tuple[str, frozenset[str], str]] = []
    for _ in range(args.count):
        modes = frozenset(m for m in MODES if chance.random() < 0.25)
        charset = chance.choice(CHARSETS)
        raw = text(chance).encode("latin-1" if charset != "utf8mb4" else "utf-8", "replace")
        state = SessionState(
            flavour=flavour, version=names.server_version, database="lexing", sql_mode=modes, charset=charset
        )
        effects = analyse(raw, state, names).analysis.effects
        if not effects <= HARMLESS or Effect.UNKNOWN in effects:
            continue
        if b"@trap" in raw and effects != {Effect.DATA_SELECT}:
            continue  # the trace was seen, and is a harmless one
        passed += 1
        cursor.execute(f"SET NAMES {charset}; SET sql_mode = '{','.join(sorted(modes))}'; SET @trap = NULL")
        while cursor.nextset():
            pass
        accepted += _sent(connection, raw)
        cursor.execute("SET NAMES utf8mb4")
        cursor.execute("SELECT @trap IS NULL, (SELECT COUNT(*) FROM trap), (SELECT COUNT(*) FROM keep)")
        if cursor.fetchone() != (b"1", b"0", b"1"):
            caught.append((repr(raw), modes, charset))
            cursor.execute("DELETE FROM trap")
            cursor.execute("REPLACE INTO keep VALUES (1)")
    print(f"{flavour}: {args.count} texts, {passed} let through, of these {accepted} accepted by the server")
    print(f"let through and left a trace: {len(caught)}")
    for one in caught[:40]:
        print("  !!", *one)
    return 1 if caught else 0


def _sent(connection: Any, raw: bytes) -> bool:
    """Whether the server took all of it; reads every answer."""
    try:
        connection._execute_command(3, raw)
        connection._read_query_result(unbuffered=False)
        while connection._result is not None and connection._result.has_next:
            connection._read_query_result(unbuffered=False)
    except pymysql.err.MySQLError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
