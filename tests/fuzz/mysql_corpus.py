"""Judges a server's own test files, and checks on a live server that nothing judged harmless changes anything.

    .venv/bin/python -m tests.fuzz.mysql_corpus DIRECTORY --port 3306 [--files 200] [--show 40]

DIRECTORY, or SLUICEGATE_MYSQL_CORPUS, is where the files are. Debian has them as `mysql-testsuite` (unstable) and
`mariadb-test-data`: `apt-get download PACKAGE`, `dpkg-deb -x PACKAGE*.deb SOMEWHERE`; they are below `mysql-test/`. The
password is that of `--password` or MYSQL_PWD.

Each `*.test` file is played in order, in a database of its own, as one session: every statement is judged under the
reference policy for readers, then executed. Around each statement that was let through, the session's counters must
show no write and no command but reading ones (`Com_*` also counts what runs inside functions). Harmless statements that
were stopped are counted by the reason given. The server must be a throw-away one: the files create and drop at will.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types

from protocols.contract import Effect
from protocols.mysql.catalog import Catalog, build
from protocols.mysql.catalog_queries import catalog_queries
from protocols.mysql.settings import charset_of, modes_of, words
from protocols.mysql.state import SessionState
from protocols.mysql.statements import CommandAnalysis, analyse

HARMLESS = frozenset(
    {
        Effect.DATA_SELECT,
        Effect.SHOW,
        Effect.TX,
        Effect.CURSOR,
        Effect.PREPARE,
        Effect.SESSION_SET,
        Effect.DATA_COPY_OUT,
    }
)
# what would stop or block the server under test, or take too long
_SKIPPED = re.compile(
    r"shutdown|\brestart\b|\bkill\b|install|sleep|get_lock|benchmark|\bslave|\breplica|master|read lock"
    r"|set\s+(@@)?global|set password|drop user|\buser\b.*identified|flush|purge|reset|backup|wsrep|\bxa\b"
    r"|set\s+default\s+role|debug|database\s+(if exists\s+)?`?(test|mysql|sys)\b|\buse\s+`?(mysql|sys|test)\b"
    r"|\b(drop|alter|rename|truncate|delete|insert|update|replace|create|repair|optimize)\b.*\bmysql`?\s*\.",
    re.IGNORECASE | re.DOTALL,
)
_READING = words(
    """
    select set_option begin commit rollback savepoint release_savepoint rollback_to_savepoint prepare_sql execute_sql
    dealloc_sql stmt_prepare stmt_execute stmt_close stmt_reset ha_open ha_read ha_close help explain_other analyze
    empty_query stmt_fetch unlock_tables change_db xa_recover do admin_commands stmt_reprepare execute_immediate
    """
)
_PLANS = re.compile(r"\s*(?:explain|desc|describe)\b(?!\s+analyze)", re.IGNORECASE)
_COMMANDS = re.compile(
    r"(?:let|eval|if|while|inc|dec|echo|source|connect|connection|disconnect|sleep|real_sleep|error|sorted_result|die|skip|exit"
    r"|disable_\w+|enable_\w+|replace_\w+|send|reap|send_eval|query\w*|exec|system|remove_file\w*|write_file|append_file"
    r"|cat_file|diff_files|copy_file|perl|vertical_results|horizontal_results|result_format|character_set|require|wait_for\w*"
    r"|save_master_pos|sync\w*|ping|shutdown_server|dirty_close|mkdir|rmdir|list_files\w*|chmod|move_file|file_exists"
    r"|change_user|reset_connection|lowercase_result|output|start_timer|end_timer|evalp|assert|optimizer_trace)\b",
    re.IGNORECASE,
)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def statements(text: str) -> Iterator[str]:
    """The SQL of a test file, without the test tool's own commands and what needs its variables."""
    delimiter = ";"
    kept: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if not kept:
            if not stripped or stripped.startswith(("#", "--", "}", "{")):
                match = re.match(r"--\s*delimiter\s+(\S+)", stripped, re.IGNORECASE)
                if match:
                    delimiter = match.group(1)
                continue
            match = re.match(r"delimiter\s+(\S+)", stripped, re.IGNORECASE)
            if match:
                given = match.group(1)
                delimiter = given.removesuffix(delimiter) or given
                continue
        kept.append(line)
        if stripped.endswith(delimiter):
            statement = "\n".join(kept).strip()[: -len(delimiter)].strip()
            kept = []
            if statement and not _COMMANDS.match(statement) and "$" not in statement:
                yield statement


class Player:
    """One server, and what was counted."""

    def __init__(self, host: str, port: int, user: str, password: str) -> None:
        self.to = {"host": host, "port": port, "user": user, "password": password, "charset": "utf8mb4"}
        self.total = self.ran = self.passed = self.harmless = 0
        self.reasons: Counter[str] = Counter()
        self.examples: list[tuple[str, str]] = []
        self.changed: list[tuple[str, str]] = []
        self.helper = self._connect()
        self.flavour = "mariadb" if "mariadb" in self.helper.get_server_info().lower() else "mysql"
        self.version = tuple(
            int(n) for n in re.findall(r"\d+", self.helper.get_server_info().removeprefix("5.5.5-"))[:3]
        )

    def _connect(self, **more: Any) -> Any:
        return pymysql.connect(**self.to, autocommit=True, read_timeout=20, **more)

    def catalog(self, newest: bool = False) -> Catalog | None:
        rows = {}
        with self.helper.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = ''")
            for name, question in catalog_queries(self.flavour).items():
                try:
                    cursor.execute(question.sql)
                except pymysql.err.MySQLError:
                    if not question.optional:
                        return None
                    continue
                rows[name] = [
                    tuple(
                        None if v is None else v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)
                        for v in row
                    )
                    for row in cursor.fetchall()
                ]
        return build(rows)

    def counters(self, cursor: Any) -> dict[str, int]:
        cursor.execute(
            "SHOW SESSION STATUS WHERE Variable_name LIKE 'Com\\_%' OR Variable_name IN ('Handler_write',"
            "'Handler_update','Handler_delete')"
        )
        # bytes, where a file set character_set_results to binary
        return {_text(name).lower(): int(value) for name, value in cursor.fetchall()}

    def play(self, path: Path) -> None:
        with self.helper.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS corpus_run")
            cursor.execute("CREATE DATABASE corpus_run")
        connection = self._connect(database="corpus_run")
        cursor = connection.cursor()
        limit = "max_statement_time = 2" if self.flavour == "mariadb" else "max_execution_time = 2000"
        cursor.execute(f"SET SESSION {limit}, lock_wait_timeout = 1")
        cursor.execute("SELECT @@sql_mode, @@character_set_client")
        mode, charset = cursor.fetchone()
        state = SessionState(
            flavour=self.flavour, version=self.version, database="corpus_run",
            sql_mode=modes_of(mode), charset=charset_of(charset),
        )  # fmt: skip
        state.started()
        names = self.catalog()
        for sql in statements(path.read_text("utf-8", "replace")):
            if _SKIPPED.search(sql) or "\ufffd" in sql:
                continue
            self.total += 1
            command = analyse(sql.encode(), state, names)
            effects = command.analysis.effects
            passed = effects <= HARMLESS
            before = self.counters(cursor)
            try:
                cursor.execute(sql)
                while cursor.nextset():
                    pass
                worked = True
            except (pymysql.err.OperationalError, pymysql.err.InterfaceError) as error:
                if error.args and error.args[0] in (0, 2006, 2013):
                    return  # the server ended this session
                worked = False
            except Exception:
                worked = False
            after = self.counters(cursor)
            writes = self._wrote(before, after)
            plans = _PLANS.match(sql) is not None  # some versions count the statement that is only planned
            if passed and worked and writes and (plans or "com_" not in writes) and not self._alters(cursor, sql):
                writes = ""  # or a window or a DISTINCT wrote to a table of the server's own
            self._count(sql, command, passed, worked, writes)
            for statement in command.statements:
                if worked:
                    state.applied(statement)
                else:
                    state.failed(statement)
            if re.search(r"com_(create|alter|drop|rename|call|execute|install)", writes) is not None:
                names = self.catalog() or names
            state.catalog_read()
            if state.opaque or state.charset is None or state.sql_mode is None or not state.database_known:
                # what a gateway could not follow, this harness may ask: each statement is to be measured by itself
                cursor.execute("SELECT @@sql_mode, @@character_set_client, DATABASE()")
                mode, charset, database = cursor.fetchone()
                state.sql_mode, state.charset = modes_of(_text(mode)), charset_of(_text(charset))
                state.changed_database(_text(database)) if database else state.tracked_schema("")
        connection.close()

    def _wrote(self, before: dict[str, int], after: dict[str, int]) -> str:
        changed = []
        for name, value in after.items():
            if value == before.get(name, 0):
                continue
            plain = name.removeprefix("com_")
            if plain.startswith("show_") or plain in _READING:
                continue
            changed.append(f"{name}+{value - before.get(name, 0)}")
        return " ".join(changed)

    def _alters(self, cursor: Any, sql: str) -> bool:
        """Runs a statement again, and says whether the rows of any table are others than before."""
        before = self._checksums()
        try:
            cursor.execute(sql)
            while cursor.nextset():
                pass
        except pymysql.err.MySQLError:
            return True
        return self._checksums() != before

    def _checksums(self) -> Any:
        with self.helper.cursor() as cursor:
            cursor.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'corpus_run'"
                " AND table_type = 'BASE TABLE'"
            )
            names = [name for (name,) in cursor.fetchall()]
            if names:
                cursor.execute("CHECKSUM TABLE " + ", ".join(f"corpus_run.`{name}`" for name in names))
            return names and cursor.fetchall()

    def _count(self, sql: str, command: CommandAnalysis, passed: bool, worked: bool, writes: str) -> None:
        self.ran += worked
        if passed:
            self.passed += 1
            if writes and worked:
                self.changed.append((sql, writes))
        reading = re.match(
            r"\s*\(*\s*(select|show|explain|desc|with|values|table|set\s+names|use)\b", sql, re.IGNORECASE
        )
        if worked and not writes and reading:
            self.harmless += 1
            if Effect.UNKNOWN in command.analysis.effects:
                why = re.sub(r"`[^`]*`", "`..`", command.analysis.why)[:100]
                self.reasons[why] += 1
                self.examples.append((why, sql))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpus = os.environ.get("SLUICEGATE_MYSQL_CORPUS")
    parser.add_argument("directory", type=Path, nargs="?" if corpus else None, default=Path(corpus or ""))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3306)
    parser.add_argument("--user", default="root")
    parser.add_argument("--password", default=os.environ.get("MYSQL_PWD", ""))
    parser.add_argument("--files", type=int, default=200, help="how many files, drawn at random but the same each time")
    parser.add_argument("--show", type=int, default=30, help="examples of what was wrongly unknown")
    args = parser.parse_args()
    player = Player(args.host, args.port, args.user, args.password)
    paths = sorted(args.directory.rglob("*.test"))
    random.Random(7).shuffle(paths)
    for path in paths[: args.files]:
        try:
            player.play(path)
        except (pymysql.err.MySQLError, OSError) as error:
            print(f"{path.name}: left at {error.args[:1]}", file=sys.stderr)
            player.helper = player._connect()
    print(f"files {min(args.files, len(paths))} of {len(paths)}")
    print(f"statements judged {player.total}, accepted by the server {player.ran}, let through {player.passed}")
    unknown = sum(player.reasons.values())
    share = 100 * unknown / max(1, player.harmless)
    print(f"reading statements that ran {player.harmless}, of these unknown {unknown} ({share:.1f}%)")
    for why, count in player.reasons.most_common(40):
        print(f"  {count:6} {why}")
    for why, sql in player.examples[:: max(1, len(player.examples) // max(1, args.show))][: args.show]:
        print(f"  -- {why}\n     {sql[:300]!r}")
    print(f"let through and seen to change something: {len(player.changed)}")
    for sql, writes in player.changed[:50]:
        print(f"  !! {writes}: {sql[:300]!r}")
    return 1 if player.changed else 0


if __name__ == "__main__":
    sys.exit(main())
