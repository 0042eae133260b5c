"""Containment, revocation, the registry; what several processes see of them; what happens when the database is gone."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from guard.state import SessionEntry, StateError, StateStore, schema
from guard.state.registry import SessionEnd
from tests.support.disk import file_size_limit


def session(name: str, **facts: Any) -> SessionEntry:
    base: dict[str, Any] = {"id": name, "gateway": "g1", "subject": "ci", "issuer": "https://idp", "resource": "shop"}
    base |= {"protocol": "postgres", "client": "10.0.0.7:1", "application": "", "started_at": 1.0, "expires_at": 9.0}
    return SessionEntry(**base | facts)


def test_containment_lasts_until_released_and_is_journalled(store: StateStore, journal: Any, tmp_path: Path) -> None:
    store.contain("ci", "ann", "stolen token", 5.0)
    store.contain("ci", "bob", "again", 6.0)
    with StateStore(tmp_path / "state.db") as restarted:
        assert restarted.contained() == {"ci"}
        assert [(c["by"], c["reason"], c["at"]) for c in restarted.containments()] == [("ann", "stolen token", 5.0)]
    assert store.release("ci", "ann", 7.0)
    assert not store.release("ci", "ann", 8.0)
    assert store.contained() == frozenset()
    assert journal.kinds == ["containment"] * 3
    assert [facts["act"] for _, facts in journal.entries] == ["contain", "contain", "release"]


def test_revoked_tokens_stay_revoked(store: StateStore, journal: Any) -> None:
    store.revoke_token("t1", "ann", "leaked", 5.0)
    store.revoke_token("t1", "ann", "leaked", 6.0)
    store.revoke_token("t2", "ann", "leaked", 6.0)
    assert store.revoked_tokens() == {"t1", "t2"}
    assert journal.kinds == ["revocation"] * 3


@pytest.mark.parametrize("act", [lambda s: s.contain("", "a", "r", 1.0), lambda s: s.revoke_token("", "a", "r", 1.0)])
def test_nobody_and_nothing_cannot_be_contained(store: StateStore, act: Callable[[StateStore], None]) -> None:
    with pytest.raises(StateError, match="is empty"):
        act(store)


def test_containing_works_while_the_journal_does_not_but_releasing_does_not(store: StateStore, journal: Any) -> None:
    """A full disk must not keep an identity alive, and nothing may be loosened without a record."""
    journal.broken = RuntimeError("disk full")
    with pytest.raises(RuntimeError):
        store.contain("ci", "ann", "r", 1.0)
    with pytest.raises(RuntimeError):
        store.revoke_token("t1", "ann", "r", 1.0)
    assert (store.contained(), store.revoked_tokens()) == ({"ci"}, {"t1"})
    with pytest.raises(RuntimeError):
        store.release("ci", "ann", 2.0)
    assert store.contained() == {"ci"}


def test_changes_are_seen_once_and_the_registry_is_no_change(store: StateStore, tmp_path: Path) -> None:
    token, changed = store.changed_since(None)
    assert changed
    assert store.changed_since(token) == (token, False)
    with StateStore(tmp_path / "state.db") as other:
        other.sessions.write([session("s1")], [])
        token, changed = store.changed_since(token)
        assert not changed
        for act in (
            lambda: other.contain("ci", "ann", "r", 1.0),
            lambda: other.release("ci", "ann", 1.0),
            lambda: other.revoke_token("t", "ann", "r", 1.0),
        ):
            act()
            token, changed = store.changed_since(token)
            assert changed
            token, changed = store.changed_since(token)
            assert not changed
    store.contain("me", "ann", "r", 1.0)  # one's own changes count, too
    assert store.changed_since(token)[1]


CONTAIN = """
import sys
from pathlib import Path
from guard.state import StateStore
store = StateStore(Path(sys.argv[1]))
for n in range(int(sys.argv[3])):
    store.contain(f"{sys.argv[2]}-{n}", "ann", "r", 1.0)
print("done", flush=True)
sys.stdin.read()
"""


def test_two_processes_write_at_once_and_see_one_another(store: StateStore, tmp_path: Path) -> None:
    token, _ = store.changed_since(None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTAIN, str(tmp_path / "state.db"), name, "20"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in ("a", "b")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
        assert store.changed_since(token)[1]
        assert store.contained() == {f"{name}-{n}" for name in "ab" for n in range(20)}
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len(store.contained()) == 40  # and a SIGKILL takes nothing back


# the registry


def test_sessions_start_end_and_are_listed(store: StateStore) -> None:
    store.sessions.write([session("s1")], [])
    store.sessions.write([session("s2", subject="ann", resource="crm", started_at=2.0)], [])
    assert [each.id for each in store.sessions.list()] == ["s2", "s1"]
    assert [each.id for each in store.sessions.list(limit=1)] == ["s2"]
    store.sessions.write([], [SessionEnd("s1", 5.0, "client left")])
    store.sessions.write([], [SessionEnd("s1", 6.0, "again"), SessionEnd("nobody", 1.0, "")])
    assert [each.id for each in store.sessions.list()] == ["s2"]
    ended = store.sessions.get("s1")
    assert ended is not None
    assert (ended.ended_at, ended.end_reason) == (5.0, "client left")
    assert [each.id for each in store.sessions.list(live=False)] == ["s2", "s1"]
    with pytest.raises(StateError):
        store.sessions.write([session("s2")], [])


def test_what_a_dead_gateway_left_is_ended_and_forgotten(store: StateStore) -> None:
    store.sessions.write([session("s1")], [])
    store.sessions.write([session("s2", gateway="g2")], [])
    assert store.sessions.end_all("g1", 5.0, "the gateway was restarted") == 1
    assert [each.id for each in store.sessions.list()] == ["s2"]
    assert store.sessions.forget_ended(before=6.0) == 1
    assert [each.id for each in store.sessions.list(live=False)] == ["s2"]


# what can go wrong: always a StateError, never an answer


EVERY_CALL: list[Callable[[StateStore], object]] = [
    lambda s: s.contain("ci", "ann", "r", 1.0),
    lambda s: s.release("ci", "ann", 1.0),
    lambda s: s.revoke_token("t", "ann", "r", 1.0),
    lambda s: s.sessions.write([session("s9")], []),
    lambda s: s.sessions.write([], [SessionEnd("s9", 1.0, "")]),
    lambda s: s.approvals.expire(at=1.0),
]
READS: list[Callable[[StateStore], object]] = [
    lambda s: s.contained(),
    lambda s: s.revoked_tokens(),
    lambda s: s.sessions.list(),
    lambda s: s.approvals.get("a"),
    lambda s: s.approvals.list(),
]


def test_a_database_that_somebody_locks_is_an_error_after_the_timeout(store: StateStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for call in (EVERY_CALL[0], EVERY_CALL[3]):
        with pytest.raises(StateError, match="locked by another process"):
            call(store)
    for read in READS:  # readers go on
        assert not read(store)
    other.close()
    store.contain("ci", "ann", "r", 1.0)


def test_a_full_disk_is_an_error_that_changes_nothing_and_passes(store: StateStore, tmp_path: Path) -> None:
    store.contain("ci", "ann", "r", 1.0)
    with file_size_limit((tmp_path / "state.db-wal").stat().st_size):
        for call in EVERY_CALL[1:5:2]:  # a release, and the start of a session: what everybody waits for
            with pytest.raises(StateError, match="check space and permissions"):
                call(store)
        assert store.contained() == {"ci"}
        assert store.sessions.list() == []
    store.sessions.write([session("s1")], [])
    assert store.release("ci", "ann", 2.0)


def test_a_database_that_is_overwritten_is_an_error(store: StateStore, tmp_path: Path) -> None:
    store.contain("ci", "ann", "r", 1.0)
    with sqlite3.connect(tmp_path / "state.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    for name in ("state.db-wal", "state.db-shm"):
        (tmp_path / name).write_bytes(b"\xff" * 70_000)
    (tmp_path / "state.db").write_bytes(b"\xff" * 70_000)
    for call in [*EVERY_CALL, *READS]:
        with pytest.raises(StateError):
            call(store)
    with pytest.raises(StateError):
        store.changed_since(None)


def test_dropped_tables_are_an_error(store: StateStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    for table in ("containment", "revocations", "votes", "approvals", "sessions", "changes"):
        other.execute(f"DROP TABLE {table}")
    other.close()
    for call in [*EVERY_CALL, *READS]:
        with pytest.raises(StateError):
            call(store)
    with pytest.raises(StateError):
        store.changed_since(None)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no database at all" * 500, "damaged"),
        ("CREATE TABLE other(a)", "another program"),
        ("PRAGMA application_id=5", "another program"),
        (f"PRAGMA user_version=99; PRAGMA application_id={schema.APPLICATION_ID}", "schema version 99"),
    ],
)
def test_what_is_no_state_database_of_this_release_does_not_open(
    tmp_path: Path, content: bytes | str, why: str
) -> None:
    path = tmp_path / "state.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        other = sqlite3.connect(path)
        other.executescript(content)
        other.close()
    with pytest.raises(StateError, match=why):
        StateStore(path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot open"):
        StateStore(tmp_path / "file" / "state.db")


def test_the_database_is_private(store: StateStore, tmp_path: Path) -> None:
    store.contain("ci", "ann", "r", 1.0)
    for path in tmp_path.glob("state.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


def _contain_many(store: StateStore) -> None:
    for n in range(200):
        store.contain(f"ci-{n}", "ann", "x" * 1000, 1.0)


def test_a_full_disk_is_an_error_and_heals(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with StateStore(small / "state.db") as store:
            ballast = os.open(small / "ballast", os.O_WRONLY | os.O_CREAT)
            with suppress(OSError):
                while True:
                    os.write(ballast, bytes(1024))
            with pytest.raises(StateError, match="cannot be written"):
                _contain_many(store)
            os.close(ballast)
            (small / "ballast").unlink()
            store.contain("late", "ann", "r", 1.0)
            assert "late" in store.contained()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_database_of_the_first_version_is_taken_along(tmp_path: Path) -> None:
    """Before requests could be deferred: what was open then is not deferred."""
    path = tmp_path / "state.db"
    with StateStore(path) as store:
        store.contain("mallory", "rita", "leak", 1.0)
    with sqlite3.connect(path) as direct:
        direct.execute("DROP INDEX approvals_deferred")
        direct.execute("ALTER TABLE approvals DROP COLUMN deferred")
        direct.execute("ALTER TABLE approvals DROP COLUMN meaning")
        direct.execute(
            "INSERT INTO approvals (id, session_id, gateway, subject, issuer, resource, text, digest, params, rule,"
            " terms, details, status, requested_at, expires_at, reason)"
            " VALUES ('a1', 's', 'g', 'ada', 'i', 'shop', 'DROP', x'01', '[]', 'r',"
            """ '{"groups": [], "subjects": [], "count": 1, "expires_s": 9}', '{}', 'pending', 1, 99, '')"""
        )
        direct.execute("PRAGMA user_version=1")
    direct.close()
    for _ in range(2):
        with StateStore(path) as store:
            assert store.contained() == {"mallory"}
            found = store.approvals.get("a1")
            assert found is not None
            assert (found.deferred, found.meaning) == (False, b"")
            assert store.approvals.deferred("ada", "i", at=5.0) == []
    with sqlite3.connect(path) as direct:
        (columns,) = direct.execute("SELECT sql FROM sqlite_master WHERE name = 'approvals'").fetchone()
        assert direct.execute("PRAGMA user_version").fetchone() == (2,)
    direct.close()
    assert "deferred" in columns
