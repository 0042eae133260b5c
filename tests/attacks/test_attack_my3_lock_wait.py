"""What a name means can change while a statement waits: a session may define it anew before the rows come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.support import mysql
from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support.mysql_adversary import Client, client

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DEVELOPERS = """\
  - id: developers
    description: they make what they need, under the masks of everybody
    who: {groups: [agents]}
    allow: [data.select, data.insert, data.update, data.delete, probe, tx, admin.dos, "ddl.*"]

"""
DONE = ([()], [[]])
SHOWN = ["email", "upper(email)"]


@pytest.fixture(scope="module")
def lab(mysql_installation: mysql.Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    text = DEFAULT_POLICY.read_text()
    start, end = text.index("  # ---- agent"), text.index("  # ---- HTTP")
    policy = tmp_path_factory.mktemp("lock") / "policy.yaml"
    policy.write_text(text[:start] + DEVELOPERS + text[end:])
    with Lab(installation=mysql_installation, policies=(policy,)) as made:
        yield made


@pytest.fixture
def three(lab: Lab) -> Iterator[tuple[Client, Client, Client]]:
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(client(lab, "agent")) for _ in range(3)]
        assert sessions[0].ask("CREATE OR REPLACE VIEW mine AS SELECT item AS x FROM orders") in DONE
        assert len(sessions[2].ask("SELECT x FROM mine LIMIT 2")[0]) == 2
        yield sessions[0], sessions[1], sessions[2]


@pytest.mark.parametrize("shown", SHOWN)
def test_another_session_asks_right_behind_the_definition(three: tuple[Client, Client, Client], shown: str) -> None:
    one, _, other = three
    for _ in range(5):
        assert one.ask("CREATE OR REPLACE VIEW mine AS SELECT item AS x FROM orders") in DONE
        assert len(other.ask("SELECT x FROM mine LIMIT 2")[0]) == 2
        assert one.ask(f"CREATE OR REPLACE VIEW mine AS SELECT {shown} AS x FROM customers") in DONE
        assert len(other.ask("SELECT x FROM mine")[0]) > 2
    assert other.leaks() == []


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("asked", ["SELECT x FROM mine", "SELECT lower(x) FROM mine", "SELECT x + 0 FROM mine"])
def test_what_waited_for_a_lock_is_masked_as_what_it_shows(
    three: tuple[Client, Client, Client], asked: str, shown: str
) -> None:
    one, two, other = three
    with ThreadPoolExecutor(2) as threads:
        assert one.ask("BEGIN")
        assert len(one.ask("SELECT x FROM mine LIMIT 1")[0]) == 1  # and keeps the next one waiting
        defined = threads.submit(two.ask, f"CREATE OR REPLACE VIEW mine AS SELECT {shown} AS x FROM customers")
        time.sleep(0.3)
        answered = threads.submit(other.ask, asked)
        time.sleep(0.3)
        assert not defined.done()
        assert one.ask("COMMIT") in DONE
        assert defined.result(20) in DONE
        answered.result(20)
    assert other.leaks() == []


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("CREATE TEMPORARY TABLE kept AS SELECT x FROM mine", "SELECT x FROM kept"),
        ("SET @kept = (SELECT min(x) FROM mine)", "SELECT @kept"),
        ("INSERT INTO notes SELECT x FROM mine", "SELECT x FROM notes"),
    ],
)
def test_what_is_kept_of_it(three: tuple[Client, Client, Client], kept: str, asked: str, shown: str) -> None:
    one, two, other = three
    assert one.ask("DROP TABLE IF EXISTS notes") in DONE
    assert one.ask("CREATE TABLE notes (x text)") in DONE
    with ThreadPoolExecutor(2) as threads:
        one.ask("BEGIN", "SELECT x FROM mine LIMIT 1")
        defined = threads.submit(two.ask, f"CREATE OR REPLACE VIEW mine AS SELECT {shown} AS x FROM customers")
        time.sleep(0.3)
        answered = threads.submit(other.ask, kept)
        time.sleep(0.3)
        assert one.ask("COMMIT") in DONE
        assert defined.result(20) in DONE
        answered.result(20)
    other.ask(asked)
    one.ask(asked)
    assert other.leaks() == one.leaks() == []


@pytest.mark.parametrize("shown", SHOWN[:1])
@pytest.mark.parametrize(
    "copy", ["INSERT INTO notes SELECT x FROM mine", "UPDATE notes SET x = (SELECT min(x) FROM mine)"]
)
def test_nothing_is_defined_anew_that_is_being_copied(
    three: tuple[Client, Client, Client], copy: str, shown: str
) -> None:
    one, two, other = three
    assert one.ask("DROP TABLE IF EXISTS notes") in DONE
    assert one.ask("CREATE TABLE notes (x text)") in DONE
    one.ask("INSERT INTO notes VALUES ('')")
    with ThreadPoolExecutor(1) as threads:
        copied = threads.submit(other.ask, f"SELECT SLEEP(1); {copy}")
        time.sleep(0.3)
        assert "1142" in str(two.ask(f"CREATE OR REPLACE VIEW mine AS SELECT {shown} AS x FROM customers"))
        copied.result(20)
    other.ask("SELECT x FROM notes")
    assert other.leaks() == []
    assert two.ask(f"CREATE OR REPLACE VIEW mine AS SELECT {shown} AS x FROM customers") in DONE
