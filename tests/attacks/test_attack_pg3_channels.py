"""Ways round a mask that need no result: what calls leave behind, errors of definitions, a catalog that is misread."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.contract import Analysis, Effect
from protocols.postgres.functions import extension_effects
from protocols.postgres.state import SessionState
from protocols.postgres.state_changes import MAX_SAVED
from protocols.postgres.statements import analyse
from protocols.postgres.statements.nodes import Node
from protocols.postgres.statements.queries import Queries
from protocols.postgres.statements.scope import Output, Scope
from scripts.support.lab import DEFAULT_POLICY, Lab
from tests.support.adversary import errors, leaks, session
from tests.support.bytewise import eventually
from tests.support.talk import catalog


def looked_at(text: str) -> Analysis:
    state = SessionState()
    state.startup({"user": "app", "database": "db", "client_encoding": "UTF8"})
    state.ready("I")
    return analyse(text.encode(), state, catalog()).analysis


@pytest.mark.parametrize(
    "text",
    [
        # which of forty open large objects is closed tells a character
        "SELECT lo_close(ascii(ssn) - 45) FROM users",
        "SELECT CASE WHEN ssn LIKE '9%' THEN lo_close(3) END FROM users",
        # whether there is a snapshot of the statistics can be asked
        "SELECT CASE WHEN ssn LIKE '9%' THEN pg_stat_clear_snapshot() END FROM users",
        # whether a lock is still held, too
        "SELECT CASE WHEN ssn LIKE '9%' THEN pg_advisory_unlock_all() END FROM users",
    ],
)
def test_what_a_call_closes_or_forgets_tells_nothing_of_a_row(text: str) -> None:
    assert looked_at(text).unknown


@pytest.mark.parametrize("text", ["SELECT lo_close(3)", "SELECT pg_stat_clear_snapshot()"])
def test_what_the_client_closes_itself_passes(text: str) -> None:
    assert not looked_at(text).unknown


@pytest.mark.parametrize(
    "text",
    [
        "SELECT array_sample(array_fill(1, ARRAY[1000]), ascii(ssn)) FROM users",
        "SELECT CASE WHEN ssn LIKE '9%' THEN random() END FROM users",
        "SELECT (SELECT count(random()) FROM generate_series(1, ascii(ssn))) FROM users",
        "SELECT array_shuffle(string_to_array(ssn, '-')) FROM users",
    ],
)
def test_how_often_a_random_number_is_drawn_is_a_probe(text: str) -> None:
    """After setseed() the next number says how many there were in between."""
    assert "public.users.ssn" in looked_at(text).predicates


@pytest.mark.parametrize("text", ["SELECT ssn FROM users ORDER BY random() LIMIT 5", "SELECT random(), ssn FROM users"])
def test_a_random_order_is_none(text: str) -> None:
    assert looked_at(text).predicates == ()


def test_a_function_that_is_labelled_immutable_and_sets_something() -> None:
    """`isn_weak(boolean)` of the extension isn changes how the session reads numbers."""
    assert extension_effects("isn", "isn_weak", False, "c") == {Effect.SESSION_OTHER}
    assert extension_effects("isn", "isn13", False, "c") == frozenset()


def test_savepoints_keep_a_bounded_picture_of_temporary_tables() -> None:
    state = SessionState()
    state.ready("I")

    def run(text: str) -> None:
        for one in analyse(text.encode(), state, catalog()).statements:
            state.applied(one)

    for start in range(0, 3000, 500):
        run(";".join(f"CREATE TEMP TABLE t{n} (a int)" for n in range(start, start + 500)))
    state.ready("I")
    run("BEGIN")
    for _ in range(5):
        run("SAVEPOINT s;SET LOCAL work_mem = '1MB';" * 200)
    kept = {id(one): len(one.temporaries) for _, one in state._saved}
    assert sum(kept.values()) <= MAX_SAVED + 3000
    assert state.names(catalog()).touched_all


# ---------------------------------------------------------------- on a real server

DEVELOPERS = """\
  - id: developers
    description: they make what they need, under the masks of everybody
    who: {groups: [agents]}
    allow: [data.select, data.insert, data.update, data.delete, data.copy_out, data.write, probe, "ddl.*"]

"""
SETUP = (
    "CREATE DOMAIN ident AS text",
    "ALTER TABLE customers ALTER national_id TYPE ident",
    "CREATE VIEW contacts AS SELECT id, email AS contact FROM customers",
    "CREATE MATERIALIZED VIEW contacts_then AS SELECT contact FROM contacts",
)
ATTACKS = {
    "a check on a domain": ("ALTER DOMAIN ident ADD CHECK (VALUE::int > 0)",),
    "a view under a materialised one": (
        "CREATE OR REPLACE VIEW contacts AS SELECT id, item AS contact FROM orders",
        "SELECT contact FROM contacts_then",
        "SELECT upper(contact) FROM contacts_then",
    ),
    "a quote in a name": (
        'CREATE TABLE odd ("a""b" int)',
        "INSERT INTO odd VALUES (1)",
        "CREATE VIEW turned AS SELECT s.e AS x, s.i AS y FROM odd AS one,"
        " (SELECT o.item AS i, c.email AS e FROM odd AS two, orders o, customers c WHERE c.id = o.customer_id) AS s",
        "SELECT x FROM turned",
        "SELECT upper(x) FROM turned",
    ),
}


@pytest.mark.slow
@pytest.mark.e2e
def test_no_definition_gives_a_masked_value_away(tmp_path: Path) -> None:
    text = DEFAULT_POLICY.read_text()
    start, end = text.index("  # ---- agent"), text.index("  # ---- HTTP")
    policy = tmp_path / "policy.yaml"
    policy.write_text((text[:start] + DEVELOPERS + text[end:]).replace('["*.', '["public.'))
    with Lab(tls="off", policies=(policy,)) as lab:
        with lab.server.connect() as direct:
            for statement in SETUP:
                direct.execute(statement.encode())
        with session(lab, "admin") as admin:
            eventually(lambda: not errors(admin.ask("SELECT count(*) FROM contacts_then")))
        for way, statements in ATTACKS.items():
            with session(lab, "agent") as s:
                for sql in statements:
                    assert not leaks(s.ask(sql)), (way, sql)


# ---------------------------------------------------------------- turns within turns


def _recursions(depth: int) -> str:
    query = "SELECT ssn AS a FROM users"
    for level in range(depth):
        query = (
            f"WITH RECURSIVE x{level}(a,b,c,d,e,f) AS (SELECT 1,2,3,4,5,ssn FROM users UNION ALL"
            f" SELECT b,c,d,e,f,(SELECT max(z.a) FROM ({query}) z) FROM x{level}) SELECT a FROM x{level}"
        )
    return query


def test_recursive_queries_inside_each_other_are_not_walked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short text of them kept the gateway for seconds: each level walked all that is inside nine times."""
    walked = 0
    branch = Queries._branch

    def counted(self: Queries, body: Node, around: Scope | None) -> Output:
        nonlocal walked
        walked += 1
        return branch(self, body, around)

    monkeypatch.setattr(Queries, "_branch", counted)
    for depth in (4, 12):
        walked = 0
        found = looked_at(_recursions(depth))
        assert not found.unknown
        assert all("public.users.ssn" in columns for columns in found.depends)
        assert walked < 100 * depth


def test_what_a_recursion_carries_from_column_to_column_is_still_followed() -> None:
    found = looked_at(
        "WITH RECURSIVE r(a, b, c) AS (SELECT 'x', 'y', ssn FROM users UNION ALL SELECT b, c, a FROM r) SELECT a FROM r"
    )
    assert found.depends == (("public.users.ssn",),)


def test_a_filter_inside_is_a_probe_of_all_that_may_come_there() -> None:
    inner = "WITH RECURSIVE i(p, q) AS (SELECT 'x', o.a UNION ALL SELECT q, p FROM i WHERE p = 'z') SELECT p FROM i"
    text = (
        "WITH RECURSIVE o(a, b, c) AS (SELECT 'x', 'y', ssn FROM users"
        f" UNION ALL SELECT b, c, ({inner} LIMIT 1) FROM o) SELECT 1 FROM o"
    )
    assert "public.users.ssn" in looked_at(text).predicates
