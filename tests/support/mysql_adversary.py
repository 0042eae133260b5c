"""What attackers of the MySQL gateway work with: a catalog with something to hide, and sessions on a lab."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pymysql  # type: ignore[import-untyped]  # it ships no types

from protocols.contract import Analysis
from protocols.mysql.catalog import Catalog, Column, Relation
from protocols.mysql.lineage import Lineage, Untraceable
from protocols.mysql.state import SessionState
from protocols.mysql.statements import analyse
from scripts.support import sample
from scripts.support.lab import Lab

SECRETS = tuple(str(value) for row in sample.customers() for value in row[2:5])
DIGITS = tuple(str(row[3]).replace(" ", "") for row in sample.customers())
ONE = "FROM customers WHERE id = 1"

# what both readers once took for different names: the first column is a card to some server
NAMES_THAT_ARE_WORDS = tuple(
    f"SELECT {shown} FROM (SELECT concat(card) AS {name}, 1 AS id {ONE}) x"
    for name, shown in (
        ("text", "text 'y'"), ("json", "json 'y'"), ("unknown", "unknown 'y'"), ("year", "year 'y'"),
        ("signed", "signed 'y'"), ("any", "any id"), ("some", "some id"), ("current_role", "concat(current_role)"),
        ("current_role", "current_role id"), ("sql_cache", "sql_cache id"), ("sql_cache", "distinct sql_cache id"),
        ("_gb18030", "_gb18030 'y'"),
    )
)  # fmt: skip


def table(schema: str, name: str, *columns: str) -> Relation:
    return Relation(schema, name, "table", tuple(Column(c, "varchar") for c in columns))


VERSIONS = {"mysql": (9, 7, 0), "mariadb": (10, 11, 0)}


def world(folding: int = 0, flavour: str = "mysql") -> Catalog:
    """Two schemas; `shop.customers.card` is what everybody is after."""
    return Catalog(
        "v1",
        flavour,
        VERSIONS[flavour],
        relations=(
            table("shop", "customers", "id", "card", "national_id"),
            table("shop", "orders", "id", "total"),
            table("work", "notes", "id", "total"),
        ),
        lower_case_table_names=folding,
    )


def session(flavour: str = "mysql", **more: Any) -> SessionState:
    state = SessionState(flavour=flavour, version=VERSIONS[flavour], database="shop", multi_statements=True, **more)
    state.started()
    return state


def judged(text: str, state: SessionState | None = None) -> Analysis:
    state = state or session()
    return analyse(text.encode(), state, world(flavour=state.flavour)).analysis


def applied(state: SessionState, *texts: str) -> SessionState:
    for text in texts:
        for statement in analyse(text.encode(), state, world()).statements:
            state.applied(statement)
    return state


def shows_card(text: str, state: SessionState | None = None) -> bool:
    """Whether the first column may hold a card, by the lineage that masks go by."""
    state = state or session()
    catalog = world(flavour=state.flavour)
    statement = analyse(text.encode(), state, catalog).statements[0]
    if statement.tree is None:
        return True
    try:
        flow = Lineage(catalog, state).outputs(statement.tree)[0].flow
    except Untraceable:
        return True
    return flow.anything or "shop.customers.card" in flow.copied | flow.computed


class Client:
    """What one session saw, whatever it was."""

    def __init__(self, lab: Lab, who: str = "analyst", **more: Any) -> None:
        gateway = lab.gateway
        self.connection = pymysql.connect(
            host=gateway.host,
            port=gateway.port,
            user=who,
            password=lab.tokens[who],
            database="shop",
            ssl_ca=str(gateway.ca_file),
            autocommit=True,
            client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS,
            **more,
        )
        self.seen: list[Any] = []

    def ask(self, *texts: str) -> list[Any]:
        start = len(self.seen)
        for text in texts:
            with self.connection.cursor() as cursor:
                try:
                    cursor.execute(text)
                    self.seen.append(cursor.fetchall())
                    while cursor.nextset():
                        self.seen.append(cursor.fetchall())
                except pymysql.err.MySQLError as error:
                    self.seen.append(error.args)
        return self.seen[start:]

    def send(self, *messages: bytes, answers: int) -> bytes:
        """Raw commands at once, and as many packets back."""
        sock = self.connection._sock
        sock.sendall(b"".join(messages))
        found = b""
        while len(wire_packets(found)) < answers:
            data = sock.recv(1 << 16)
            assert data, found
            found += data
        return found

    def leaks(self) -> list[str]:
        said = str(self.seen).upper()
        return [s for s in SECRETS if s.upper() in said] + [d for d in DIGITS if d in said]


def wire_packets(data: bytes) -> list[bytes]:
    """The whole packets in `data`."""
    found, pos = [], 0
    while pos + 4 <= len(data) and (end := pos + 4 + int.from_bytes(data[pos : pos + 3], "little")) <= len(data):
        found.append(data[pos:end])
        pos = end
    return found


@contextlib.contextmanager
def client(lab: Lab, who: str = "analyst", **more: Any) -> Iterator[Client]:
    made = Client(lab, who, **more)
    try:
        yield made
    finally:
        with contextlib.suppress(pymysql.err.Error):
            made.connection.close()
