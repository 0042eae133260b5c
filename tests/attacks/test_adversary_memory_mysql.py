"""What a session of MySQL remembers, and what a table does by itself: variables, names, defaults, insert ids."""

from __future__ import annotations

import pytest

from protocols.contract import Effect, Outcome
from protocols.mysql.catalog import Catalog, Column, Relation
from protocols.mysql.lineage import Lineage
from protocols.mysql.masking import chooses_id
from protocols.mysql.statements import analyse
from tests.support import mysql_wire as wire
from tests.support.mysql_adversary import VERSIONS, session
from tests.support.mysql_talk import SSN, Talk, anything

# ---------------------------------------------------------------- an approval is of what would run


def held(talk: Talk, sql: str) -> bytes:
    """The digest that an approval of this statement is bound to. It is not approved."""
    assert talk.client(wire.query(sql)) == b""
    assert talk.resume(Outcome.DENIED, "no") == b""
    talk.down()
    return talk.port.holds[-1].digest


CHANGES = ("SET @x = 2", "SET @y = 1", "PREPARE s FROM 'SELECT 2'", "DEALLOCATE PREPARE s")


@pytest.mark.parametrize("change", CHANGES)
def test_row_18_an_approval_does_not_outlive_a_change_of_what_it_names(change: str) -> None:
    """The approver sees `id = @x`; asked again, the session must hold what it held then."""
    talk = Talk()
    for text in ("SET @x = 1", "PREPARE s FROM 'SELECT 1'"):
        talk.ok(text)
    sql = "DELETE FROM orders WHERE id = @x"
    first = held(talk, sql)
    assert held(talk, sql) == first
    talk.ok("BEGIN")
    assert held(talk, sql) == first
    talk.ok(change)
    assert held(talk, sql) != first


def test_row_18_another_session_holds_other_values() -> None:
    digests = set()
    for name in ("s1", "s2"):
        talk = Talk()
        talk.session.session_id = name.encode()
        digests.add(held(talk, "DELETE FROM orders WHERE id = @x"))
    assert len(digests) == 2


def test_row_18_a_statement_that_needs_nothing_of_its_session_is_the_same_in_any() -> None:
    digests = set()
    for name in ("s1", "s2"):
        talk = Talk()
        talk.session.session_id = name.encode()
        talk.ok("SET @x = 1")
        digests.add(held(talk, "DELETE FROM orders WHERE id = 1"))
    assert len(digests) == 1


@pytest.mark.parametrize("setting", ["SET NAMES latin1", "SET sql_mode = 'ANSI_QUOTES'"])
def test_row_18_the_same_bytes_read_otherwise_are_another_statement(setting: str) -> None:
    plain, other = Talk(), Talk()
    other.ok(setting)
    assert held(plain, "DELETE FROM orders WHERE total = 1") != held(other, "DELETE FROM orders WHERE total = 1")


def test_row_18_a_parameter_does_not_stand_for_a_variable() -> None:
    talk = Talk()
    talk.prepare(1, "DELETE FROM orders WHERE id = @x AND total = ?", 1)
    digests = []
    for change in ("SET @x = 1", "SET @x = 2"):
        talk.ok(change)
        assert talk.client(wire.execute(1, 7)) == b""
        digests.append(talk.port.holds[-1].digest)
        assert talk.resume(Outcome.DENIED, "no") == b""
        talk.down()
    assert digests[0] != digests[1]


# ---------------------------------------------------------------- defaults that are made of other columns


def defaults(flavour: str = "mariadb") -> Catalog:
    columns = (
        Column("id", "int", preset="nextval(`shop`.`numbers`)"),
        Column("card", "varchar"),
        Column("shown", "varchar", preset="concat('card ',`card`)"),
        Column("odd", "varchar", preset="concat(`card`"),
        Column("plain", "varchar"),
    )
    body = "select default(`shop`.`people`.`shown`) AS `x` from `shop`.`people`"
    view = Relation("shop", "v", "view", (Column("x"),), definition=body)
    return Catalog(
        "v1",
        flavour,
        VERSIONS[flavour],
        relations=(Relation("shop", "people", "table", columns), view),
    )


@pytest.mark.parametrize(
    ("sql", "shows"),
    [
        ("SELECT DEFAULT(shown) FROM people", True),
        ("SELECT DEFAULT(people.shown) FROM people", True),
        ("SELECT concat(1, DEFAULT(`shown`)) FROM people", True),
        ("SELECT (SELECT DEFAULT(p.shown) LIMIT 1) FROM people p", True),
        ("SELECT x FROM v", True),
        ("SELECT shown FROM people", True),
        ("SELECT odd FROM people", True),
        ("SELECT id FROM people", False),
        ("SELECT DEFAULT(id) FROM people", False),
        ("SELECT plain FROM people", False),
    ],
)
def test_what_a_default_is_made_of_is_in_it(sql: str, shows: bool) -> None:
    catalog, state = defaults(), session("mariadb")
    statement = analyse(sql.encode(), state, catalog).statements[0]
    assert not statement.analysis.unknown, statement.analysis.why
    flow = Lineage(catalog, state).outputs(statement.tree)[0].flow
    assert ("shop.people.card" in flow.copied | flow.computed or flow.anything) is shows


# ---------------------------------------------------------------- insert ids


def test_a_view_may_choose_the_insert_id() -> None:
    talk = Talk(anything, masks=[SSN])
    catalog = talk.port.snapshot
    assert isinstance(catalog, Catalog)
    for definition, chooses in (
        ("select last_insert_id(`app`.`users`.`ssn`) AS `id` from `app`.`users`", True),
        ("select `app`.`users`.`ssn` AS `id` from `app`.`users`", False),
    ):
        view = Relation("app", "v", "view", (Column("id"),), definition=definition)
        names = Catalog("v2", catalog.flavour, catalog.server_version, relations=[*catalog.relations, view])
        verdict = talk.session.judge.verdict(b"SELECT id FROM v", analyse(b"SELECT id FROM v", talk.state, names))
        assert verdict.touches
        assert chooses_id(verdict, names) is chooses


# ---------------------------------------------------------------- read-only transactions


@pytest.mark.parametrize("text", ["SET SESSION TRANSACTION READ WRITE", "START TRANSACTION READ WRITE"])
def test_a_session_may_take_back_what_it_set_and_nothing_else(text: str) -> None:
    """JDBC's `setReadOnly(false)`. Where the server itself began the session read-only, it lifts that."""
    began_writable, began_read_only, reset = session(), session(), session()
    began_writable.writable = reset.writable = True
    reset.reset(frozenset(), "utf8mb4")  # the server may have another default by now
    for state, lifts in ((began_writable, False), (began_read_only, True), (reset, True)):
        effects = analyse(text.encode(), state, defaults("mysql")).analysis.effects
        assert (Effect.SESSION_GUARD in effects) is lifts
    found = analyse(b"SET GLOBAL TRANSACTION READ WRITE", began_writable, defaults("mysql"))
    assert found.analysis.effects >= {Effect.SESSION_GUARD, Effect.ADMIN_CONFIG}
