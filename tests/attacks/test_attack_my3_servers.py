"""What two readers of one text made different things of, sent to real servers through the demo policy.

`test_attack_my3_readers.py` says of each what it is about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from scripts.support import mysql
from scripts.support.lab import Lab
from tests.support import mysql_wire as wire
from tests.support.mysql_adversary import ONE, client

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CARD = f"FROM (SELECT concat(card) AS `{{0}}`, 1 AS `{{1}}` {ONE}) x"
LOCALE = f"(SELECT if(card LIKE '4%', 'de_DE', 'fr_FR') {ONE})"
CHANNELS = (
    "SELECT 1 z, national nchar " + CARD.format("national", "nchar"),
    "SELECT (SELECT ascii FROM LATERAL (SELECT 1 z, nchar ascii) l) " + CARD.format("nchar", "ascii"),
    'SELECT n"x" ' + CARD.format("n", "m"),
    "VALUES (1, 2) UNION SELECT 1, row x " + CARD.format("row", "x"),
    "SELECT (SELECT concat(date.card) FROM customers FOR SYSTEM_TIME AS OF NOW() date WHERE date.id = 1) "
    "FROM (SELECT 1 AS card, 1 AS id) date",
)


@pytest.fixture(scope="module")
def lab(mysql_installation: mysql.Installation) -> Iterator[Lab]:
    with Lab(installation=mysql_installation) as running:
        yield running


def test_no_masked_value_comes_out_under_another_name(lab: Lab, mysql_installation: mysql.Installation) -> None:
    if mysql_installation.flavour == "mariadb":
        with contextlib.closing(lab.server.connect("shop")) as direct, direct.cursor() as cursor:
            cursor.execute("ALTER TABLE customers ADD SYSTEM VERSIONING")
    with client(lab) as c:
        c.ask(*CHANNELS)
        assert c.leaks() == []
        # the session goes on, and reads what it may
        assert c.ask("SELECT id, card FROM customers WHERE id = 1")[0][0][0] == 1


def test_no_argument_is_read_that_nobody_has_looked_at(lab: Lab) -> None:
    with client(lab) as c:
        said = str(c.ask(f"SELECT DATE_FORMAT('2020-01-01', '%M', {LOCALE}), 'card', 'customers', 'id'"))
        assert "Januar" not in said
        assert "janvier" not in said
        c.ask(f"SET @a = {LOCALE}", "PREPARE s FROM \"SELECT DATE_FORMAT('2020-01-01', '%M', ?) AS x\"")
        assert "Januar" not in str(c.ask("EXECUTE s USING @a"))


def test_a_text_of_two_hundred_bytes_does_not_stop_the_gateway(lab: Lab) -> None:
    """Each BINARY doubled the time twice over: fourteen of them took the event loop 40 seconds, forty for ever."""
    nested = b"SELECT " + b"BINARY(" * 40 + b"1" + b")" * 40
    with client(lab) as c, client(lab) as other:
        c.connection._sock.sendall(wire.query(nested))
        assert other.ask("SELECT 1") == [((1,),)]
        for text in ("SELECT " + "DATE(" * 40 + "1" + ")" * 40, "SELECT " + "UNION(" * 40 + "1" + ")" * 40):
            other.ask(text)
        assert other.ask("SELECT 2") == [((2,),)]
