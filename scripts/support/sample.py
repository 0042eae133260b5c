"""The sample database of the demo and the lab: a small shop with things in it that must not leak.

About 1,000 rows, the same on every run: cards pass the Luhn check and national ids are well formed, so that detectors
by content have something to find; every one of them is made up (reserved issuer and area numbers).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any, LiteralString

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types

CUSTOMERS = 240
ORDERS = 720

_SCHEMA: LiteralString = """
CREATE TABLE customers (
    id integer PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    card text NOT NULL,
    national_id text NOT NULL,
    city text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'returned');
CREATE TABLE orders (
    id integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers (id),
    item text NOT NULL,
    total numeric(10, 2) NOT NULL CHECK (total >= 0),
    status order_status NOT NULL,
    placed_at timestamptz NOT NULL
);
CREATE INDEX orders_customer ON orders (customer_id);
CREATE TABLE credentials (
    service text PRIMARY KEY,
    username text NOT NULL,
    secret text NOT NULL,
    rotated_at date NOT NULL
);
CREATE VIEW customer_orders AS
    SELECT c.id, c.name, c.email, o.item, o.total, o.status, o.placed_at
    FROM customers AS c JOIN orders AS o ON o.customer_id = c.id;
CREATE VIEW revenue_by_city AS
    SELECT c.city, count(*) AS orders, sum(o.total) AS revenue
    FROM customers AS c JOIN orders AS o ON o.customer_id = c.id
    WHERE o.status <> 'returned' GROUP BY c.city;
"""

_MYSQL_SCHEMA = (
    """CREATE TABLE customers (
        id int PRIMARY KEY,
        name varchar(100) NOT NULL,
        email varchar(200) NOT NULL UNIQUE,
        card varchar(30) NOT NULL,
        national_id varchar(20) NOT NULL,
        city varchar(50) NOT NULL,
        created_at datetime NOT NULL
    )""",
    """CREATE TABLE orders (
        id int PRIMARY KEY,
        customer_id int NOT NULL,
        item varchar(100) NOT NULL,
        total decimal(10, 2) NOT NULL CHECK (total >= 0),
        status enum('new', 'paid', 'shipped', 'returned') NOT NULL,
        placed_at datetime NOT NULL,
        KEY orders_customer (customer_id),
        FOREIGN KEY (customer_id) REFERENCES customers (id)
    )""",
    """CREATE TABLE credentials (
        service varchar(50) PRIMARY KEY,
        username varchar(50) NOT NULL,
        secret varchar(100) NOT NULL,
        rotated_at date NOT NULL
    )""",
    """CREATE VIEW customer_orders AS
        SELECT c.id, c.name, c.email, o.item, o.total, o.status, o.placed_at
        FROM customers AS c JOIN orders AS o ON o.customer_id = c.id""",
    """CREATE VIEW revenue_by_city AS
        SELECT c.city, count(*) AS orders, sum(o.total) AS revenue
        FROM customers AS c JOIN orders AS o ON o.customer_id = c.id
        WHERE o.status <> 'returned' GROUP BY c.city""",
)

_FIRST = (
    "Ada", "Amir", "Bea", "Bruno", "Chidi", "Clara", "Dana", "Emil", "Farah", "Grace", "Hugo", "Ines", "Jonas", "Keiko",
    "Lena", "Marco", "Nadia", "Omar", "Priya", "Rosa", "Sven", "Tomas", "Uma", "Yara",
)  # fmt: skip
_LAST = (
    "Almeida", "Berg", "Costa", "Dietrich", "Eriksen", "Fontaine", "Garcia", "Haddad", "Ivanova", "Jensen", "Kim",
    "Lindqvist", "Moreau", "Nakamura", "Okafor", "Petrov", "Quinn", "Rossi", "Sato", "Tanaka", "Ueda", "Vargas",
    "Weber",
)  # fmt: skip
_CITIES = ("Berlin", "Lagos", "Lisbon", "Lyon", "Oslo", "Osaka", "Porto", "Pune", "Quito", "Tampa")
_ITEMS = ("desk lamp", "espresso cups", "hiking boots", "keyboard", "notebook", "rain jacket", "tea kettle", "umbrella")
_STATUSES = ("paid", "shipped", "shipped", "new", "returned")
_CREDENTIALS = (
    ("payments-api", "shop-prod", "pay_live_7Qm2xV9tR4kLw8Zc", "2026-01-14"),
    ("mail-relay", "shop@relay", "Tr0ubled-Waters-Relay-91", "2025-11-02"),
    ("warehouse-sftp", "dispatch", "c4rt0n+F0rkl1ft=mon3y", "2024-06-30"),
    ("backup-bucket", "nightly", "bkp_9f31c07ad2e84b5690", "2026-03-21"),
)
_EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def card_number(number: int) -> str:
    """A card number under an issuer prefix reserved for tests, with a valid Luhn digit: `4000 00..`."""
    digits = [int(digit) for digit in f"400000{number * 7919 % 10**9:09d}"]
    doubled = [digit if index % 2 else sum(divmod(digit * 2, 10)) for index, digit in enumerate(digits)]
    text = "".join(map(str, digits)) + str(-sum(doubled) % 10)
    return " ".join(text[start : start + 4] for start in range(0, 16, 4))


def national_id(number: int) -> str:
    """Shaped like a US social security number, in the area 900-999 that is never assigned."""
    return f"{900 + number * 13 % 100}-{10 + number * 7 % 90:02d}-{1000 + number * 37 % 9000:04d}"


def customers() -> Iterator[tuple[Any, ...]]:
    for number in range(1, CUSTOMERS + 1):
        first, last = _FIRST[number % len(_FIRST)], _LAST[number % len(_LAST)]
        yield (
            number,
            f"{first} {last}",
            f"{first}.{last}.{number}@example.com".lower(),
            card_number(number),
            national_id(number),
            _CITIES[number * 3 % len(_CITIES)],
            _EPOCH + datetime.timedelta(hours=number * 5),
        )


def orders() -> Iterator[tuple[Any, ...]]:
    for number in range(1, ORDERS + 1):
        yield (
            number,
            1 + number * 17 % CUSTOMERS,
            _ITEMS[number % len(_ITEMS)],
            f"{5 + number * 73 % 240}.{number * 29 % 100:02d}",
            _STATUSES[(number + number // 7) % len(_STATUSES)],
            _EPOCH + datetime.timedelta(days=60, minutes=number * 97),
        )


def credentials() -> Iterator[tuple[Any, ...]]:
    yield from _CREDENTIALS


def load(connection: psycopg.Connection[Any]) -> None:
    """Create the sample in an empty database, in one transaction."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_SCHEMA)
        _copy(cursor, "COPY customers FROM STDIN", customers())
        _copy(cursor, "COPY orders FROM STDIN", orders())
        _copy(cursor, "COPY credentials FROM STDIN", _CREDENTIALS)
    connection.execute("ANALYZE")


def load_mysql(connection: pymysql.Connection[Any]) -> None:
    """The same shop in an empty MySQL or MariaDB database."""
    with connection.cursor() as cursor:
        for statement in _MYSQL_SCHEMA:
            cursor.execute(statement)
        for table, rows in (("customers", customers()), ("orders", orders()), ("credentials", _CREDENTIALS)):
            kept = [
                tuple(v.replace(tzinfo=None) if isinstance(v, datetime.datetime) else v for v in row) for row in rows
            ]
            marks = ", ".join(["%s"] * len(kept[0]))
            cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", kept)  # noqa: S608 - our own names
        cursor.execute("ANALYZE TABLE customers, orders, credentials")


def _copy(cursor: psycopg.Cursor[Any], statement: LiteralString, rows: Iterable[tuple[Any, ...]]) -> None:
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
